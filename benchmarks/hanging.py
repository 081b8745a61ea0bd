"""A tracker that hangs, for the campaign of faults."""

from __future__ import annotations

import os
import time
from typing import Any

HANGS = "ENCORE_BENCHMARK_HANGS"  # set in the sessions in which it hangs: later ones keep the tracker


class HangingTracker:
    """It never comes back from the start of a session."""

    def open(self, run: Any) -> None:
        """Wait for ever, if this session is to."""
        del run
        while os.environ.get(HANGS):
            time.sleep(60)

    def add(self, rows: Any) -> None:
        """Nothing."""

    def close(self, finished: bool) -> None:
        """Nothing."""
