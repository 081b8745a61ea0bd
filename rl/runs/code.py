"""The code under a run: what it was in each session, told by fingerprints that comments do not change."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rl.config.instantiate import locate

_ROOT = Path(__file__).resolve().parent.parent.parent
_INSTALLED = ("builtins", "abc", "torch", "gymnasium", "numpy", "rl")


def fingerprints(config: dict[str, Any]) -> dict[str, str]:
    """A hash for every file of code that the run uses: the modules of rl/ that are loaded, and what the
    `_target_` entries of its configuration name.
    """
    sections = [section for name, section in config.items() if name != "launcher"]
    modules = {module for target in _targets(sections) for module in _modules(target)}
    modules |= {name for name in sys.modules if name.partition(".")[0] == "rl"}
    sources = {name: _source(name) for name in modules}
    known = _read_cache()
    raw = {name: hashlib.sha256(source).hexdigest()[:16] for name, source in sources.items() if source}
    new = {raw[name]: syntax_hash(sources[name] or b"") for name in raw if raw[name] not in known}
    if new:
        _write_cache({**known, **new})
    return {_file(name): new.get(key) or known[key] for name, key in sorted(raw.items())}


@functools.lru_cache(maxsize=512)
def syntax_hash(source: bytes) -> str:
    """A hash of a file's syntax tree without comments and docstrings; of its bytes if it is not Python's."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return hashlib.sha256(source).hexdigest()[:16]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def changes(past: Sequence[dict[str, Any]], frames: int, now: dict[str, str]) -> list[dict[str, Any]]:
    """Where the run's code changed: the frame from which other files were used, and these files.

    `past`: the sessions so far; the run goes on at `frames` with the code `now`. What a session trained and
    a later one went back behind does not count.
    """
    trained: list[dict[str, Any]] = []
    for session in past:
        trained = [one for one in trained if one["frames"] < session["frames"]] + [session]
    trained = [one for one in trained if one["frames"] < frames and one.get("code_changed") is not None]
    if not trained:
        return []
    last = trained[-1]
    before = next(one["code"] for one in reversed(past[: past.index(last) + 1]) if one.get("code"))
    files = [name for name in before if now.get(name, before[name]) != before[name]]
    files += [name for name in before if name not in now and not (_ROOT / name).exists()]
    return [*last["code_changed"], *([{"frames": frames, "files": sorted(files)}] if files else [])]


def last_recorded(past: Sequence[dict[str, Any]]) -> dict[str, str] | None:
    """The fingerprints that history holds last; a session with the same ones does not repeat them."""
    return next((session["code"] for session in reversed(past) if session.get("code")), None)


def commit() -> dict[str, Any]:
    """Encore's git commit, and whether its files were as committed; both None without git."""
    # it locks nothing: a lock that a killed one leaves would stop the user's own git
    command = "git --no-optional-locks status --porcelain=v2 --branch --no-ahead-behind --untracked-files=no"
    with contextlib.suppress(OSError):  # a machine without git
        done = subprocess.run(command.split(), cwd=_ROOT, capture_output=True, text=True, check=False)
        head, *rest = done.stdout.splitlines() or [""]
        sha = head.removeprefix("# branch.oid ")
        if done.returncode == 0 and sha not in (head, "(initial)"):
            return {"git": sha, "clean": all(line.startswith("#") for line in rest)}
    return {"git": None, "clean": None}


def _targets(section: Any) -> Iterator[str]:
    parts = section.values() if isinstance(section, dict) else section if isinstance(section, list) else ()
    if isinstance(section, dict) and isinstance(section.get("_target_"), str):
        yield section["_target_"]
    for part in parts:
        yield from _targets(part)


def _modules(target: str) -> list[str]:
    """The modules that define what a `_target_` names, and a user's classes that it is derived from."""
    found = locate(target)
    bases = [getattr(base, "__module__", "") for base in getattr(found, "__mro__", ())[1:]]
    own = getattr(found, "__module__", None) or target.rpartition(".")[0]
    return [own, *(name for name in bases if name.partition(".")[0] not in _INSTALLED)]


def _source(module: str) -> bytes | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    with contextlib.suppress(OSError):  # in an archive
        return Path(file).read_bytes() if file and file.endswith(".py") else None
    return None


def _file(module: str) -> str:
    path = module.replace(".", "/")
    return f"{path}/__init__.py" if hasattr(sys.modules[module], "__path__") else f"{path}.py"


def _cache() -> Path:
    return Path(importlib.util.cache_from_source(__file__)).with_name("fingerprints.json")


def _read_cache() -> dict[str, str]:
    """Hashes of syntax trees by the hashes of their bytes: to parse every file would take 0.3 s."""
    try:
        known = json.loads(_cache().read_bytes())
        return known if isinstance(known, dict) else {}
    except (OSError, ValueError):  # it is only made again
        return {}


def _write_cache(known: dict[str, str]) -> None:
    temporary = _cache().with_suffix(f".{os.getpid()}.tmp")
    with contextlib.suppress(OSError):  # a folder that cannot be written
        temporary.parent.mkdir(exist_ok=True, parents=True)
        temporary.write_text(json.dumps(dict(list(known.items())[-2000:])))
        temporary.replace(_cache())
