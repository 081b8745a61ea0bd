"""Uniformly random actions: the baseline that every algorithm has to beat."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from rl.algos.agent import Actions, Agent, AgentContext, Array, Recurrent, Rollout
from rl.config.schema.algos import RandomConfig
from rl.learning.distributions import distribution_for
from rl.learning.networks.masked import hide_in_numpy
from rl.spaces import MASK, leaf_paths


class Random(Agent):
    """Draws actions uniformly, of a Box between its bounds, and of those that a mask allows; never learns."""

    Config, masks = RandomConfig, True

    def __init__(self, context: AgentContext, cfg: RandomConfig) -> None:
        self.rollout_length, space = cfg.rollout_length, context.action_space
        self.leaves = [leaf for _, leaf in leaf_paths(space)]
        self.ranges = [self._range(leaf) for leaf in self.leaves]
        self.vector = isinstance(space, Dict | Tuple)
        self.action_shape, self.action_dtype = space.shape or (), space.dtype
        if self.vector:
            head = distribution_for(space)
            self.action_shape, self.action_dtype = head.action_shape, head.action_dtype
        self.masked = distribution_for(space) if context.mask_size else None
        self.parts = {}

    @staticmethod
    def _range(leaf: Any) -> tuple[Any, Any]:
        """The lowest value, and the highest of a Box; of whole numbers the one after."""
        if isinstance(leaf, Discrete):
            return leaf.start, leaf.start + leaf.n
        if isinstance(leaf, MultiDiscrete):
            return leaf.start, leaf.start + leaf.nvec
        if isinstance(leaf, MultiBinary):
            return 0, 2
        if isinstance(leaf, Box) and leaf.is_bounded():
            return leaf.low, leaf.high
        raise ValueError(
            f"no uniform draw from the action space {leaf}: Discrete, MultiDiscrete, MultiBinary and bounded"
            " Box spaces have one, and Dict and Tuple of them"
        )

    def act(self, obs: Array, state: Recurrent, rng: np.random.Generator, explore: bool = True) -> Actions:
        """Random actions, with or without `explore`."""
        if self.masked is not None:
            mask = obs[MASK].reshape(len(obs), -1)
            return self.masked.sample(hide_in_numpy(np.zeros(mask.shape, np.float32), mask), rng), state
        drawn = []
        for leaf, bounds in zip(self.leaves, self.ranges, strict=True):
            draw = rng.integers if np.issubdtype(leaf.dtype, np.integer) else rng.uniform
            drawn.append(draw(*bounds, size=(len(obs), *(leaf.shape or ()))).astype(leaf.dtype))
        if not self.vector:
            return drawn[0], state
        return np.concatenate([part.reshape(len(obs), -1) for part in drawn], 1).astype(np.float32), state

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Nothing."""
        return {}
