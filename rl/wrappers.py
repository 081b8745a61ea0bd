"""Wrappers that entries of conf/env/ name."""

from __future__ import annotations

from typing import Any

import gymnasium as gym


class FreshWorld(gym.Wrapper):
    """A Box2D env whose every episode takes place in a new world.

    BipedalWalker keeps one world for all its episodes. What is left in it of those before decides in which order
    contacts are solved, so that an episode cannot be played again.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in a world that has seen none."""
        env: Any = self.unwrapped
        env._destroy()
        env.world = type(env.world)(gravity=env.world.gravity)
        return self.env.reset(seed=seed, options=options)
