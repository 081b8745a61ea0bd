"""How a command ends: its exit codes, the exceptions behind them, and the signals that ask it to stop."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from rl.config import ConfigError
from rl.config.invocation import command
from rl.runs import files
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
            f"{folder} is finished: {why}.\nto train it on:  {command('train', f'resume={folder}', more)}"
        )
        self.folder = folder


def with_exit_codes(action: Callable[[], object]) -> None:
    """Do it; what it raises becomes a message and an exit code: 2 if refused, 0 if nothing is left to do."""
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
        if not files.is_ours(error):
            raise
        print(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "), file=sys.stderr)
        raise SystemExit(FAILED) from None


class Stop:
    """A context that notes signals which ask to stop, in place of what they would do. True once one came."""

    def __init__(self, *, second_leaves: bool = True) -> None:
        """`second_leaves`: whether a second TERM or INT ends the process at once."""
        self.requested: list[int] = []  # the signals, as they came
        self.second_leaves = second_leaves
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        self._before = {number: signal.signal(number, self._handle) for number in STOPPING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return bool(self.requested)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        final = {signal.SIGTERM, signal.SIGINT}
        if self.second_leaves and number in final and final & set(self.requested):
            os._exit(INTERRUPTED if number == signal.SIGINT else 128 + number)
        self.requested.append(number)

    @property
    def asked(self) -> bool:
        """Whether this process was asked, though others that train with it may not know yet."""
        return bool(self)

    def settle(self) -> None:
        """At the end: have all processes that train together know."""

    def pass_on(self) -> None:
        """Call the handlers that were there before ours: a launcher's requeues the job."""
        for number in self.requested:
            handler = self._before[number]
            if callable(handler) and handler is not signal.default_int_handler:
                handler(number, None)

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, else 75."""
        return INTERRUPTED if signal.SIGINT in self.requested else TO_BE_CONTINUED
