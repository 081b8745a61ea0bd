"""How a sweep runs its jobs. Each is a process of its own that trains in its own folder, as if it had been typed by hand."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

_ROOT = Path(__file__).resolve().parent.parent
_PR_SET_PDEATHSIG = 1


class Running(Protocol):
    """A job that was started."""

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""

    def send_signal(self, number: int) -> None:
        """Have it save and leave (a second time: leave at once)."""

    @property
    def errors(self) -> str:
        """What it wrote to stderr, if that was not shown."""


class Launcher(Protocol):
    """What starts jobs."""

    shown: bool  # whether the jobs themselves write to the terminal

    def places(self, threads: int) -> int:
        """How many jobs of so many threads run at a time."""

    def start(self, words: Sequence[str]) -> Running:
        """Start `train.py` with these words."""


class Basic:
    """One job after the other, each shown as it runs."""

    shown = True

    def places(self, threads: int) -> int:
        """One."""
        return 1

    def start(self, words: Sequence[str]) -> Running:
        """A process that writes to our terminal."""
        return Process(words, shown=True)


class Processes:
    """Jobs side by side on this machine."""

    shown = False

    def __init__(self, n_jobs: int | None) -> None:
        self.n_jobs = n_jobs

    def places(self, threads: int) -> int:
        """`n_jobs`, or as many as this process's cores have room for."""
        return self.n_jobs or max(1, len(os.sched_getaffinity(0)) // threads)

    def start(self, words: Sequence[str]) -> Running:
        """A process whose output goes to its own log."""
        return Process(words, shown=False)


class Process:
    """`train.py` in a process that does not outlive this one, out of reach of the terminal's Ctrl-C."""

    def __init__(self, words: Sequence[str], *, shown: bool) -> None:
        self._errors = None if shown else tempfile.TemporaryFile()  # noqa: SIM115  it stays open as long as the job runs
        output = None if shown else subprocess.DEVNULL
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rl.train", *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=self._errors,
            env=_environment(),
            start_new_session=True,
            preexec_fn=_die_with(os.getpid()),
        )
        self.poll, self.send_signal = self._process.poll, self._process.send_signal

    @property
    def errors(self) -> str:
        """What it wrote to stderr, if that was not shown."""
        if self._errors is None:
            return ""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")


KNOWN: dict[str, Callable[..., Launcher]] = {f"rl.launchers.{launcher.__name__}": launcher for launcher in (Basic, Processes)}


def _environment() -> dict[str, str]:
    """Ours, with the package within reach, installed or not."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))}


def _die_with(parent: int) -> Callable[[], None]:
    """What a child does first: ask the kernel to be killed when its parent is gone, however that ends."""
    libc = ctypes.CDLL(None, use_errno=True)  # loaded before the fork: little may be done after it

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before we asked
            os._exit(128 + signal.SIGKILL)

    return ask
