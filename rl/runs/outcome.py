"""How a command can end: its exit codes, and the exceptions behind them."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from rl.config import ConfigError
from rl.runs.lock import LockedError
from rl.runs.manifest import DamagedError

EXIT_CODES = FINISHED, FAILED, REFUSED, TO_BE_CONTINUED, INTERRUPTED = 0, 1, 2, 75, 130
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)  # what has a run save and leave


class Refused(Exception):
    """The command line cannot be done; the message says why and what to type."""


class Finished(Exception):
    """There is nothing left to do in a run's folder; the message says what to type for more."""

    def __init__(self, folder: Path, why: str, more: str) -> None:
        super().__init__(
            f"{folder} is finished: {why}.\nto train it on:  python train.py {shlex.join([f'resume={folder}', more])}"
        )
        self.folder = folder


def refuse_or(action: Callable[[], object]) -> None:
    """Do it, or say on stderr why not, and leave with exit code 2 (0 if there is nothing left to do)."""
    try:
        action()
    except Finished as message:
        print(message)
        raise SystemExit(FINISHED) from None
    except (ConfigError, Refused, LockedError, DamagedError) as message:
        print(message, file=sys.stderr)
        raise SystemExit(REFUSED) from None
    except KeyboardInterrupt:  # before a run had begun to handle signals: there is nothing to save
        raise SystemExit(INTERRUPTED) from None
    except OSError as error:
        print(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "), file=sys.stderr)
        raise SystemExit(FAILED) from None
