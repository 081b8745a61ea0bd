"""Uniformly random actions: the baseline that every algorithm has to beat."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from rl.algos.agent import Actions, Agent, AgentContext, Array, Recurrent, Rollout
from rl.config.schema.algos import RandomConfig


class Random(Agent):
    """Draws actions uniformly from a Discrete space, or between the bounds of a Box, and never learns."""

    Config, masks = RandomConfig, True

    def __init__(self, context: AgentContext, cfg: RandomConfig) -> None:
        self.rollout_length = cfg.rollout_length
        space = context.action_space
        if isinstance(space, gym.spaces.Discrete):
            self.bounds: tuple[Any, Any] = space.start, space.start + space.n
        elif isinstance(space, gym.spaces.Box) and space.is_bounded():
            self.bounds = space.low, space.high
        else:
            raise ValueError(
                f"no uniform draw from the action space {space}: a Discrete space and a bounded Box have one"
            )
        self.action_shape, self.action_dtype = space.shape or (), space.dtype
        self.parts = {}

    def act(self, obs: Array, state: Recurrent, rng: np.random.Generator, explore: bool = True) -> Actions:
        """Random actions, with or without `explore`."""
        draw = rng.integers if np.issubdtype(self.action_dtype, np.integer) else rng.uniform
        return draw(*self.bounds, size=(len(obs), *self.action_shape)).astype(self.action_dtype), state

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Nothing."""
        return {}
