"""Signals: a request to stop is noted, the iteration is finished and saved first."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any

from rl.runs.outcome import INTERRUPTED, STOPPING, TO_BE_CONTINUED


class Stop:
    """The request to stop that a signal makes: the iteration is finished and saved first."""

    def __init__(self) -> None:
        self.requested: list[int] = []
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
        if number in final and final & set(self.requested):
            os._exit(INTERRUPTED if number == signal.SIGINT else 128 + number)
        self.requested.append(number)

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
