"""One environment whose every episode has its own seed, so that the episode can be played again."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rl.learning.action_forms import ActionForm
from rl.serialize import load, serialize
from rl.spaces import MASK, Packed, packer
from rl.state import EpisodeSeeds, Stateful


class Episodes(gym.Wrapper):
    """The outermost wrapper: seeds the n-th episode from (seed, env index, n), whatever happened before it.

    So repeating an episode's actions restores it. Box actions are clipped here: unclipped ones are recorded.
    Actions of a Dict or Tuple come as vectors (`rl.learning.action_forms`), its observations leave packed
    (`rl.spaces`).
    """

    def __init__(self, env: gym.Env, seed: int, index: int, first: int = 0) -> None:
        """`index`: among the envs that are stepped with it; `first`: the number of the first of them."""
        super().__init__(env)
        self.index, self.episode, self.seeds = index, -1, EpisodeSeeds(seed, first + index)
        form = ActionForm(env.action_space)
        boxed = isinstance(env.action_space, gym.spaces.Box)
        self._form: Any = None if form.trivial else form.clip if boxed else form
        spaces = env.observation_space
        self._masked = isinstance(spaces, gym.spaces.Dict) and MASK in spaces.spaces
        self._stateful = [layer for layer in layers(env) if isinstance(layer, Stateful)]
        self.carried: bytes | None = None  # their state at the start of the episode
        self._pack = packer(env.observation_space)
        if self._pack is not None:
            self.observation_space = Packed(env.observation_space)
        elif self._form is None and multiprocessing.parent_process() is None:
            self.step = env.step  # type: ignore[method-assign]  # one call fewer per step; SyncEnvs copies

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the env with the action in its space's form, clipped to the bounds of a Box.

        In a worker, an episode's last observation is copied, since some envs overwrite it on reset.
        ValueError if an action mask allows nothing before the end.
        """
        action = action if self._form is None else self._form(action)
        obs, reward, terminated, truncated, info = self.env.step(action)
        if self._masked and not terminated:
            self._check_mask(obs)
        if self._pack is not None:
            obs = self._pack(obs)
        elif terminated or truncated:
            obs = np.array(obs)
        return obs, reward, terminated, truncated, info

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin the next episode with its own seed (`seed` is ignored)."""
        self.episode += 1
        episode_seed = self.seeds(self.episode)
        if multiprocessing.parent_process() is not None:  # no checkpoint holds a worker's global generators
            random.seed(episode_seed)
            np.random.seed(episode_seed)
        if self._stateful:
            self.carried = serialize([layer.state_dict() for layer in self._stateful])
        obs, info = self.env.reset(seed=episode_seed, options=options)
        if self._masked:
            self._check_mask(obs)
        return obs if self._pack is None else self._pack(obs), info

    def _check_mask(self, obs: Any) -> None:
        if not np.any(obs[MASK]):
            raise ValueError(f"the environment's {MASK} allows no action though its episode has not ended")

    def use_seeds(self, schemes: Sequence[int]) -> None:
        """Seed episodes by `schemes[index]` (`rl.state.EpisodeSeeds`)."""
        self.seeds.scheme = schemes[self.index]

    def load_carried(self, carried: bytes | None) -> None:
        """Restore the state that the wrappers had at the start of an episode."""
        states: Any = [] if carried is None else load(carried, "cpu")
        for layer, state in zip(self._stateful, states, strict=True):
            layer.load_state_dict(state)

    def begin_episode(self, index: int, episode: int) -> Any:
        """Begin an episode and return its first observation; None if `index` is another env's."""
        if index != self.index:
            return None
        self.episode = episode - 1
        return self.reset()[0]

    def play_tape(
        self, episodes: Sequence[int], tapes: Sequence[NDArray[Any]], carried: Sequence[bytes | None]
    ) -> tuple[Any, float, str]:
        """Replay `tapes[index]` in episode `episodes[index]`: observation, return so far, problem or ''.

        The wrappers start from `carried[index]` and learn again what they learned in the episode.
        """
        self.load_carried(carried[self.index])
        obs = self.begin_episode(self.index, episodes[self.index])
        total = 0.0
        for played, action in enumerate(tapes[self.index], 1):
            obs, reward, terminated, truncated, _ = self.step(action)
            total += float(reward)
            if terminated or truncated:
                return obs, total, f"its episode ended at step {played}"
        return obs, total, ""


def layers(env: gym.Env) -> Iterator[gym.Env]:
    """An env's wrappers, outermost first, then the env itself."""
    yield env
    while isinstance(env, gym.Wrapper):
        env = env.env
        yield env
