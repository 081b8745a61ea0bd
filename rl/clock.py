"""The clock: how far a run has come. Schedules and intervals depend on nothing else."""

from __future__ import annotations

import time
from typing import Any


class Clock:
    """Counts frames (env transitions over all envs), ended episodes, gradient updates and wall seconds.

    Wall seconds add up over all sessions of a run. The manifest holds them and `state_dict` does not, so that
    two checkpoints of the same training are equal.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.episodes = 0
        self.updates = 0
        self.wall_before_s = 0.0  # of earlier sessions
        self._frames_before = 0  # at the start of this iteration
        self._started_at = time.monotonic()

    @property
    def wall_s(self) -> float:
        """Seconds of all sessions of the run so far."""
        return self.wall_before_s + time.monotonic() - self._started_at

    def tick(self, frames: int, episodes: int) -> None:
        """Count one iteration's frames and ended episodes."""
        self._frames_before = self.frames
        self.frames += frames
        self.episodes += episodes

    def due(self, every: int | None) -> bool:
        """Whether a multiple of `every` frames was reached or passed in this iteration; None is never due."""
        return every is not None and self.frames // every != self._frames_before // every

    def state_dict(self) -> dict[str, Any]:
        """The three counters."""
        return {"frames": self.frames, "episodes": self.episodes, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set the counters; nothing is due until the next tick."""
        self.frames = self._frames_before = state["frames"]
        self.episodes = state["episodes"]
        self.updates = state["updates"]
