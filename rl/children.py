"""Processes: those that ours start, and whether one lives."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

_ROOT = Path(__file__).resolve().parent.parent
_PR_SET_PDEATHSIG = 1


def environment() -> dict[str, str]:
    """Ours, with the package within reach, installed or not."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def die_with(parent: int) -> Callable[[], None]:
    """What a child does first: ask the kernel to be killed when its parent is gone, however that ends.

    Nothing where the kernel cannot be asked: only Linux can.
    """
    libc = ctypes.CDLL(None, use_errno=True)  # loaded before the fork: little may be done after it
    prctl = getattr(libc, "prctl", None)

    def ask() -> None:
        if prctl is None:
            return
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before we asked
            os._exit(128 + signal.SIGKILL)

    return ask


def start_beside(module: str, *arguments: str) -> subprocess.Popen[str]:
    """`python -m module`, at work beside a training: its stdout is for its messages, and its stdin closes
    when training ends, even by a kill.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
        start_new_session=True,
    )


def is_alive(pid: int) -> bool:
    """Whether there is such a process here; one that has ended counts until its parent has heard of it."""
    try:
        os.kill(pid, 0)
    except OSError as error:  # but for ESRCH it is there: another user's
        return not isinstance(error, ProcessLookupError)
    return True


def read_errors(file: IO[bytes] | None) -> str:
    """What a child wrote to this file, its stderr; '' if that was shown."""
    if file is None:
        return ""
    file.seek(0)
    return file.read().decode(errors="replace")
