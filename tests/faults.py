"""Kills and disk errors at the n-th call that changes a run's folder; for forked children: it patches os."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

CALLS = ("open", "write", "fsync", "replace", "unlink", "symlink", "ftruncate", "mkdir", "rmdir")
NEEDS_SPACE = ("open", "write", "half a write", "fsync", "symlink", "mkdir")
DIED = 77  # the exit code of a child that was made to die

# called with the event's name, its number and the call's first argument
Event = Callable[[str, int, Any], None]


def die_at(number: int) -> None:
    """Exit this process before its `number`-th call; half a write counts as a call."""

    def event(name: str, n: int, target: Any) -> None:
        if n == number:
            os._exit(DIED)

    _before_every_change(event)


def fail_at(number: int, code: int, *, lasting: bool) -> None:
    """Fail the `number`-th call with an error; if `lasting`, later calls that need space too."""

    def event(name: str, n: int, target: Any) -> None:
        if n == number or lasting and n > number and name in NEEDS_SPACE:
            paths = [str(target)] if isinstance(target, str | Path) else []
            raise OSError(code, os.strerror(code), *paths)

    _before_every_change(event)


def keep_moments(folder: Path, moments: Path) -> None:
    """Copy `folder` to `moments`/<n> at every call, as a kill would leave it; equal copies are kept once."""
    seen: set[str] = set()

    def event(name: str, n: int, target: Any) -> None:
        state = _digest(folder)
        if state not in seen:
            seen.add(state)
            shutil.copytree(folder, moments / str(n), symlinks=True)

    _before_every_change(event)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            content = os.readlink(path).encode()
        else:
            content = path.read_bytes() if path.is_file() else b"folder"
        digest.update(f"{path.relative_to(folder)}:{len(content)}:".encode() + content)
    return digest.hexdigest()


def _before_every_change(event: Event) -> None:
    number, inside = -1, False

    def happen(name: str, target: Any) -> None:
        nonlocal number, inside
        if not inside:  # calls made by an event are not events
            number, inside = number + 1, True
            try:
                event(name, number, target)
            finally:
                inside = False

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR):
                return real(*args, **kwargs)
            happen(name, args[0])
            if name != "write":
                return real(*args, **kwargs)
            descriptor, data = args[0], bytes(args[1])
            begun = real(descriptor, data[: len(data) // 2])
            happen("half a write", descriptor)
            return begun + real(descriptor, data[begun:])

        return call

    for name in CALLS:
        setattr(os, name, watched(name, getattr(os, name)))
