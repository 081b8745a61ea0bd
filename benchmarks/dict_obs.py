"""CartPole's observation as a Dict of parts of different kinds, for the campaign of faults."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class AsDict(gym.ObservationWrapper):  # type: ignore[type-arg]
    """Positions and velocities as Boxes, and the side of the track as a Discrete."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        box = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = gym.spaces.Dict(position=box, velocity=box, side=gym.spaces.Discrete(2))

    def observation(self, observation: Any) -> dict[str, Any]:
        """The four numbers, taken apart."""
        return {
            "position": observation[[0, 2]],
            "velocity": observation[[1, 3]],
            "side": int(observation[0] > 0),
        }
