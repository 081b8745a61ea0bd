"""How this process was called: which files Hydra's flags name, and the commands that we print for the user to
type.
"""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Flags:
    """Hydra's flags for the configuration files: `--config-name`, `--config-path` and `--config-dir`."""

    name: str | None = None
    path: str | None = None  # absolute
    dir: str | None = None  # as typed: relative to the working directory

    @property
    def words(self) -> list[str]:
        """The flags as they are typed."""
        given = {"--config-name": self.name, "--config-path": self.path, "--config-dir": self.dir}
        return [f"{flag}={value}" for flag, value in given.items() if value is not None]


_flags = Flags()


def set_flags(flags: Flags) -> None:
    """Set the flags of this process; the entry points do so, once."""
    global _flags
    _flags = flags


def flags() -> Flags:
    """The flags of this process."""
    return _flags


def command(script: str, *arguments: str) -> str:
    """A command that works where this one was typed; `script` is train, enjoy, runs, report or another."""
    shim, here, typed = _ROOT / f"{script}.py", Path(f"{script}.py"), Path(sys.argv[0])
    if sys.argv[0].startswith("encore "):
        start = ["encore", script]
    elif shim.is_file() and (here.resolve() == shim or typed.resolve().parent == _ROOT):
        names = [str(shim), os.path.relpath(shim), *([str(here)] if here.resolve() == shim else [])]
        start = ["python", min(names, key=len)]
    else:
        start = ["python", "-m", f"rl.{script}"]
    return shlex.join([*start, *(_flags.words if script == "train" else []), *arguments])


def as_typed(text: str) -> str:
    """A text that names commands as in a checkout, with those that work where this one was typed."""
    if not sys.argv[0].startswith("encore "):
        return text
    for checkout, ours in (("python train.py", "encore train"), ("python enjoy.py", "encore enjoy")):
        text = text.replace(checkout, ours)
    return text.replace("python -m rl.", "encore ")
