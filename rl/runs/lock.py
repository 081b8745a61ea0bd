"""The lock of a run's folder: held while a process works on the run."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, process


class LockedError(Exception):
    """Another live process works on the run; says which."""


class RunLock:
    """Held while a process works on a run's folder; freed when it ends, however it ends.

    POSIX frees it too when this process closes any other handle of the same file: open `.lock` nowhere else.
    """

    def __init__(self, run: Path) -> None:
        """LockedError if another live process holds it. The file's content is left alone, see `announce`."""
        self._path = run / ".lock"
        self._new = not self._path.exists()
        self._file = open(self._path, "a+")  # noqa: SIM115  it stays open as long as the lock is held
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise LockedError(f"{run} is being worked on by {holder}") from None

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Keep it, unless the block failed."""
        if kind is not None:
            self.release()

    def announce(self) -> None:
        """Write which process holds it, for the message that others get."""
        self._new = False
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        self._file.flush()

    def release(self) -> None:
        """Give it up; what was never announced leaves no trace."""
        if self._new:
            os.unlink(self._path)
        self._file.close()


def is_locked(run: Path) -> bool:
    """Whether another live process works on the run. Not to be asked of a run that this process has locked.

    It is asked, not tried: a run that begins at this moment is not refused.
    """
    try:
        with open(run / ".lock", "rb") as file:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            return bool(struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))[0] != fcntl.F_UNLCK)
    except FileNotFoundError:
        return False
