"""What a tracker is, and what it is told."""

from __future__ import annotations

import contextlib
import importlib.util
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rl.config import ConfigError, install_line
from rl.config.compose import from_yaml
from rl.runs import files, history
from rl.runs.history import CONFIG

RETRY_S = 60.0  # before a tracker that failed is tried again
ID = "tracker_id"  # the file in a run's folder with the name that servers know the run by
TABLES = {"train": "metrics.csv", "eval": "eval.csv"}  # what comes before the names of a file's columns


@dataclass(frozen=True)
class Row:
    """One row of a file: all its cells that are not empty, but for the frames, as `train/loss` or
    `eval/total_reward`.
    """

    table: str
    frames: int
    wall_s: float
    values: dict[str, float]


@dataclass(frozen=True)
class Followed:
    """What a tracker says of a run besides its rows."""

    folder: Path
    id: str
    started_at: float  # plus `wall_s` of a row: when it was written, had this session trained all along
    tags: dict[str, str]  # algo, env, seed, and the sweep that it is a job of
    config: dict[str, Any]

    @classmethod
    def read(cls, folder: Path, started_at: float) -> Followed:
        """What the run's folder says."""
        with contextlib.suppress(FileExistsError):
            files.write_new(folder / ID, secrets.token_hex(8).encode())
        choices = history.read(folder)[0]["choices"]
        tags = {name: str(choices[name]) for name in ("algo", "env", "seed")}
        if (folder.parent / "sweep.json").exists():
            tags["sweep"] = folder.parent.name
        return cls(folder, (folder / ID).read_text(), started_at, tags, from_yaml(folder / CONFIG))

    @property
    def name(self) -> str:
        """What people see."""
        return "/".join(self.folder.absolute().parts[-2:])

    @property
    def flat_config(self) -> dict[str, Any]:
        """The configuration by dotted names; lists and null as text."""
        return dict(_flat(self.config))


def _flat(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value if isinstance(value, bool | int | float | str) else str(value)


class Tracker(Protocol):
    """Something that shows rows. Its constructor refuses what cannot be, by ConfigError."""

    def open(self, run: Followed) -> None:
        """Begin a session, in which all rows are added from the first on."""

    def add(self, rows: Sequence[Row]) -> None:
        """Show rows, whose frames never fall, but for those that a server has."""

    def close(self, finished: bool) -> None:
        """End the session."""


def require(package: str) -> None:
    """ConfigError, with what to type, if a package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"logger={package}: {package} is not installed; type: {install_line(package)}")
