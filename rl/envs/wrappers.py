"""Wrappers that files of conf/ use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from numpy.typing import NDArray


class FreshWorld(gym.Wrapper):
    """Makes a new Box2D world for every episode.

    BipedalWalker keeps one world for all its episodes. What earlier episodes left in it affects the order in
    which contacts are solved, so an episode cannot be played again exactly.
    """

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in a new world."""
        env: Any = self.unwrapped
        env._destroy()
        env.world = type(env.world)(gravity=env.world.gravity)
        return self.env.reset(seed=seed, options=options)


class Keep(gym.ObservationWrapper):
    """Keeps only the components `indices` of flat observations; to infer the rest takes memory."""

    def __init__(self, env: gym.Env, indices: Sequence[int]) -> None:
        super().__init__(env)
        space: Any = env.observation_space
        self.indices = list(indices)
        flat = isinstance(space, gym.spaces.Box) and len(space.shape) == 1
        if not (flat and all(0 <= i < space.shape[0] for i in indices)):
            wrong = f"indices={self.indices} are not components of flat observations in {space}"
            raise ValueError(f"rl.wrappers.Keep: {wrong}")
        low, high = space.low[self.indices], space.high[self.indices]
        self.observation_space = gym.spaces.Box(low, high, dtype=space.dtype.type)

    def observation(self, observation: NDArray[Any]) -> NDArray[Any]:
        """The components in the order of `indices`."""
        return observation[self.indices]
