"""Wrappers that files of conf/ use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rl.envs.make import frame_stack
from rl.spaces import MASK

_NAME = "rl.wrappers.ActionMask"


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


class ActionMask(gym.Wrapper):
    """Makes the mask of actions that an environment gives the key `action_mask` of its observations.

    It is what the method `action_masks()` of the environment returns or, where there is none, the info's
    `action_mask`: not 0 for actions that can be taken, one number for each action of a Discrete space, or for
    each value of each choice of a MultiDiscrete one, side by side (or as a tuple, an array for each choice).
    Observations that are no Dict become its key `obs`.
    """

    def __init__(self, env: gym.Env) -> None:
        """ValueError for another action space, or where the observations have a mask already."""
        super().__init__(env)
        actions, space = env.action_space, env.observation_space
        if isinstance(actions, gym.spaces.Discrete):
            size = int(actions.n)
        elif isinstance(actions, gym.spaces.MultiDiscrete):
            size = int(actions.nvec.sum())
        else:
            raise ValueError(
                f"{_NAME}: the action space is {actions}; Discrete and MultiDiscrete can be masked"
            )
        self._keyed = isinstance(space, gym.spaces.Dict)
        spaces = dict(space.spaces) if isinstance(space, gym.spaces.Dict) else {"obs": space}
        if MASK in spaces:
            raise ValueError(f"{_NAME}: the observations have the key {MASK} without it; remove the wrapper")
        self.observation_space = gym.spaces.Dict({**spaces, MASK: gym.spaces.MultiBinary(size)})
        self._ask: Any = (
            env.get_wrapper_attr("action_masks") if env.has_wrapper_attr("action_masks") else None
        )
        self.frame_stack, self.zero_padded = frame_stack(env)  # the mask is no stack
        self.stacked_keys = list(spaces) if self.frame_stack > 1 else None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._add(obs, info), info

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """Step; after the end of an episode the mask may be missing."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._add(obs, info, ended=terminated), reward, terminated, truncated, info

    def _add(self, obs: Any, info: dict[str, Any], ended: bool = False) -> dict[str, Any]:
        mask = info.get(MASK) if self._ask is None else self._ask()
        shape = self.observation_space[MASK].shape  # type: ignore[index]
        if mask is None and ended:
            mask = np.zeros(shape, np.int8)
        if mask is None:
            raise ValueError(f"{_NAME}: the environment has no method action_masks, and its info no {MASK}")
        mask = (
            np.concatenate([np.ravel(part) for part in mask]) if isinstance(mask, tuple) else np.ravel(mask)
        )
        if mask.shape != shape:
            raise ValueError(f"{_NAME}: a mask of {len(mask)} numbers for {shape[0]} actions")
        return {**(obs if self._keyed else {"obs": obs}), MASK: (mask != 0).astype(np.int8)}


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
