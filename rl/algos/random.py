"""Uniformly random actions: the baseline that every algorithm has to beat."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl.agent import Agent, Recurrent, Rollout, Setting


class Random(Agent):
    """Draws actions uniformly from a Discrete space, or between the bounds of a Box, and never learns."""

    def __init__(self, setting: Setting, *, rollout_length: int) -> None:
        self.rollout_length = rollout_length
        self.space = setting.action_space
        self.action_shape, self.action_dtype = self.space.shape or (), self.space.dtype.type
        self.parts = {}
        self.bounds = (self.space.low, self.space.high) if hasattr(self.space, "low") else (self.space.start, self.space.start + self.space.n)

    def act(
        self, obs: NDArray[Any], state: Recurrent, rng: np.random.Generator, explore: bool = True
    ) -> tuple[NDArray[Any], Recurrent]:
        """Random actions, with or without `explore`."""
        draw = rng.integers if np.issubdtype(self.action_dtype, np.integer) else rng.uniform
        return draw(*self.bounds, size=(len(obs), *self.action_shape)).astype(self.action_dtype), state

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Nothing."""
        return {}
