"""A side of a speed comparison trains only while it is its turn.

This file imports nothing of Encore, so that every version of it, and every other library, can use it: the
pipes to the benchmark are named by two environment variables.
"""

from __future__ import annotations

import os
import time
from typing import Any


class Turns:
    """Call it with the count of frames wherever training may stop: between two iterations."""

    def __init__(self) -> None:
        reading, writing = (int(number) for number in os.environ["ENCORE_BENCHMARK_TURNS"].split())
        self._orders, self._answers = os.fdopen(reading), os.fdopen(writing, "w")
        self._until = 0.0
        self._began: tuple[int, float, float] | None = None

    def __call__(self, frames: int) -> None:
        """Go on while the turn lasts; then say what it brought, and wait for the next."""
        now = time.perf_counter()
        if now < self._until:
            return
        if self._began is not None:
            before, started_at, cpu = self._began
            answer = f"{frames - before} {now - started_at} {time.process_time() - cpu}"
            print(answer, file=self._answers, flush=True)
        order = self._orders.readline()
        if not order:
            os._exit(0)  # the benchmark is done, or gone
        now = time.perf_counter()
        self._until = now + float(order)
        self._began = (frames, now, time.process_time())


_turns: Turns | None = None


def callback(run: Any) -> None:
    """For `callbacks` of train.py: `_target_: turns.callback`."""
    global _turns  # noqa: PLW0603  the process is the side's
    _turns = _turns or Turns()
    _turns(run.clock.frames)
