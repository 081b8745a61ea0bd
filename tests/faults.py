"""Deaths and disk errors at the n-th call that changes a run's folder. For forked children: nothing is put back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CALLS = ("open", "write", "fsync", "replace", "unlink", "symlink", "ftruncate", "mkdir", "rmdir")
NEEDS_SPACE = ("open", "write", "half a write", "fsync", "symlink", "mkdir")
DIED = 77  # the exit code of a child that was made to die


def die_at(number: int) -> None:
    """This process dies at its event `number`, before that call is made; or, as an event of its own, half way in a write."""

    def strike(event: str, n: int, begin: Callable[[], Any], args: tuple[Any, ...]) -> None:
        if n == number:
            begin()
            os._exit(DIED)

    _install(strike)


def fail_at(number: int, code: int, *, lasting: bool) -> None:
    """The event `number` fails with an error, and with `lasting` so does all later that needs space."""

    def strike(event: str, n: int, begin: Callable[[], Any], args: tuple[Any, ...]) -> None:
        if n == number or lasting and n > number and event in NEEDS_SPACE:
            begin()
            raise OSError(code, os.strerror(code), *(str(path) for path in args[:1] if isinstance(path, str | Path)))

    _install(strike)


def _install(strike: Callable[..., None]) -> None:
    count = iter(range(10**9))
    for name in CALLS:
        setattr(os, name, _watched(name, getattr(os, name), strike, count))


def _watched(name: str, real: Callable[..., Any], strike: Callable[..., None], count: Iterator[int]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if name != "open" or args[1] & (os.O_WRONLY | os.O_RDWR):
            strike(name, next(count), lambda: None, args)
        if name == "write":
            strike("half a write", next(count), lambda: real(args[0], bytes(args[1])[: len(args[1]) // 2]), args)
        return real(*args, **kwargs)

    return call
