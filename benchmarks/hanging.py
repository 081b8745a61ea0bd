"""A tracker that hangs, for the campaign of faults."""

from __future__ import annotations

import time
from typing import Any


class HangingTracker:
    """It never comes back from the start of a session."""

    def open(self, run: Any) -> None:
        """Wait for ever."""
        del run
        while True:
            time.sleep(60)

    def add(self, rows: Any) -> None:
        """Never called."""

    def close(self, finished: bool) -> None:
        """Never called."""
