"""Wrappers that files of conf/ use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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


class MiniGrid(gym.ObservationWrapper):
    """MiniGrid's observations without text: a Dict of `image`, `direction` and `mission`.

    The three numbers of a cell are an object, a colour and a state, not amounts: MultiDiscrete [H, W, 3]. The
    mission is a word's number at each of its `max_words` places, 0 where it has ended: MultiDiscrete.
    """

    CELL = (11, 6, 4)  # objects, colours, states (an agent's is its direction)

    def __init__(
        self,
        env: gym.Env,
        *,
        symbols: bool = True,
        words: Sequence[str] | None = None,
        max_words: int | None = None,
    ) -> None:
        """`symbols=False`: the image is pixels, and stays as it is. `words` and `max_words` of missions are
        by default read from the env's own. ValueError for an env that does not tell them.
        """
        super().__init__(env)
        space: Any = env.observation_space
        if not (isinstance(space, gym.spaces.Dict) and {"image", "direction", "mission"} <= set(space)):
            raise ValueError(f"rl.wrappers.MiniGrid: {space} is no Dict of image, direction and mission")
        if words is None or max_words is None:
            missions = [self.split(mission) for mission in _missions(space["mission"])]
            words = words or sorted({word for mission in missions for word in mission})
            max_words = max_words or max(map(len, missions))
        self.words = {word: number for number, word in enumerate(words, 1)}
        self.max_words = max_words
        image: Any = space["image"]
        height, width, _ = image.shape
        cells = np.tile(np.array(self.CELL), (height, width, 1))
        self.observation_space = gym.spaces.Dict(
            {
                "image": gym.spaces.MultiDiscrete(cells, dtype=np.uint8) if symbols else image,
                "direction": space["direction"],
                "mission": gym.spaces.MultiDiscrete([len(self.words) + 1] * max_words),
            }
        )

    @staticmethod
    def split(mission: str) -> list[str]:
        """The words of a mission; a comma is one."""
        return re.findall(r"\w+|,", mission.lower())

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """With the mission in numbers. ValueError if it has other words than it may, or more."""
        words = self.split(observation["mission"])
        unknown = [word for word in words if word not in self.words]
        if unknown or len(words) > self.max_words:
            raise ValueError(
                f"rl.wrappers.MiniGrid: the mission '{observation['mission']}' does not fit the"
                f" {len(self.words)} words and max_words={self.max_words}: give the wrapper both, as"
                " {_target_: rl.wrappers.MiniGrid, words: [go, to, ...], max_words: 20}"
            )
        mission = np.zeros(self.max_words, np.int64)
        mission[: len(words)] = [self.words[word] for word in words]
        return {"image": observation["image"], "direction": observation["direction"], "mission": mission}


def _missions(space: Any) -> Iterator[str]:
    """Missions in which every word occurs, the longest among them. ValueError for a space without a list."""
    if not hasattr(space, "ordered_placeholders"):
        raise ValueError(
            f"rl.wrappers.MiniGrid: {type(space).__name__} does not list its missions: give the wrapper"
            " words=[...] and max_words=..."
        )
    places: list[list[str]] = space.ordered_placeholders or []
    for n in range(max(map(len, places), default=1)):
        yield space.mission_func(*(choices[n % len(choices)] for choices in places))
    yield space.mission_func(*(max(choices, key=lambda text: len(text.split())) for choices in places))
