"""Environments: made from their config entry, seeded episode by episode, stepped N together."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorWrapper
from gymnasium.wrappers import FrameStackObservation, NormalizeObservation, NormalizeReward, OrderEnforcing, TimeLimit
from numpy.typing import NDArray

from rl.checkpoint import load, serialize
from rl.state import Stateful, derive_seed

EnvFactory = Callable[..., gym.Env]  # called with render_mode=...; gives the env with its configured wrappers
_FORGETFUL = (NormalizeObservation, NormalizeReward)  # learn across episodes and cannot be saved


class Episodes(gym.Wrapper):
    """The outermost wrapper: the n-th episode is seeded from (seed, env index, n), whatever happened in those before.

    So an env in the middle of an episode is brought back by playing the episode's actions again. Actions in a Box are
    clipped to its bounds here, so that what is recorded is what the agent gave.
    """

    def __init__(self, env: gym.Env, seed: int, index: int) -> None:
        super().__init__(env)
        self.seed, self.index, self.episode = seed, index, -1
        space = env.action_space
        self._bounds = (space.low, space.high) if isinstance(space, gym.spaces.Box) else None
        self._stateful = [layer for layer in layers(env) if isinstance(layer, Stateful)]
        self.carried: bytes | None = None  # what they knew as the episode began
        if self._bounds is None and multiprocessing.parent_process() is None:
            self.step = env.step  # type: ignore[method-assign]  # one call less on every step; SyncEnvs copies

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """The env's step, with the action clipped to the bounds of its Box.

        In a worker, an episode's last observation is copied: some envs write the next episode's first one over it.
        """
        obs, reward, terminated, truncated, info = self.env.step(np.clip(action, *self._bounds) if self._bounds else action)
        return np.array(obs) if terminated or truncated else obs, reward, terminated, truncated, info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin the next episode, with the seed that belongs to it (`seed` is not used)."""
        self.episode += 1
        episode_seed = derive_seed(self.seed, self.index, self.episode)
        if multiprocessing.parent_process() is not None:  # a worker's global generators are in no checkpoint
            random.seed(episode_seed)
            np.random.seed(episode_seed)
        if self._stateful:
            self.carried = serialize([layer.state_dict() for layer in self._stateful])
        return self.env.reset(seed=episode_seed, options=options)

    def carry(self, carried: bytes | None) -> None:
        """Know what another env of the kind knew as its episode began."""
        states: Any = [] if carried is None else load(carried, "cpu")
        for layer, state in zip(self._stateful, states, strict=True):
            layer.load_state_dict(state)

    def begin_episode(self, index: int, episode: int) -> Any:
        """Begin this episode, if this is the env of that index; its first observation."""
        if index != self.index:
            return None
        self.episode = episode - 1
        return self.reset()[0]

    def play_tape(self, episodes: Sequence[int], tapes: Sequence[NDArray[Any]], carried: Sequence[bytes | None]) -> tuple[Any, float, str]:
        """Be where `tapes[index]` leads in episode `episodes[index]`: observation, return so far, what went wrong or ''.

        What its layers learn in the episode they learn again, from `carried[index]` on.
        """
        self.carry(carried[self.index])
        obs = self.begin_episode(self.index, episodes[self.index])
        total = 0.0
        for played, action in enumerate(tapes[self.index], 1):
            obs, reward, terminated, truncated, _ = self.step(action)
            total += float(reward)
            if terminated or truncated:
                return obs, total, f"its episode ended at step {played}"
        return obs, total, ""


def make_factory(env_id: str, kwargs: dict[str, Any], wrappers: Sequence[Callable[[gym.Env], gym.Env]]) -> EnvFactory:
    """What makes one env of the entry. `wrappers` are applied in order, innermost first."""

    def make(render_mode: str | None = None) -> gym.Env:
        rendering: dict[str, Any] = (
            {} if render_mode is None else {"render_mode": render_mode}
        )  # an env that cannot render may not take the key
        env = gym.make(env_id, disable_env_checker=True, **rendering, **kwargs)
        for wrapper in wrappers:
            env = wrapper(env)
        return env

    return make


def check_env(env: gym.Env) -> None:
    """ValueError, with what to do, for an env that cannot be trained on or not be resumed exactly."""
    space = env.observation_space
    if not isinstance(space, gym.spaces.Box):
        raise ValueError(
            f"the observation space {space} is not a Box; add a wrapper that makes it one:"
            " env.wrappers=[{_target_: gymnasium.wrappers.FlattenObservation}]"
        )
    for layer in layers(env):
        name = type(layer).__name__
        if isinstance(layer, Stateful):
            try:
                load(serialize(layer.state_dict()), "cpu")
            except (pickle.PickleError, AttributeError, TypeError) as error:
                allowed = "tensors, numbers, strings, lists, tuples and dicts"
                raise ValueError(f"the state_dict of {name} must be made of {allowed}, or a checkpoint cannot hold it") from error
        elif isinstance(layer, _FORGETFUL):
            raise ValueError(
                f"the wrapper {name} learns across episodes, and what it learned would be lost on a resume;"
                " use one with state_dict and load_state_dict, or algo.normalize_obs, algo.normalize_reward where there are such"
            )


def layers(env: gym.Env) -> Iterator[gym.Env]:
    """An env's wrappers, outermost first, and the env in them."""
    yield env
    while isinstance(env, gym.Wrapper):
        env = env.env
        yield env


def frame_stack(env: gym.Env) -> tuple[int, bool]:
    """How many frames an observation is made of, if they are stacked last of all and so that `rl.replay` can undo it; else 1.
    And whether those before an episode's first are zeros, or that one again.

    An env that stacks frames itself says so by `frame_stack` and `zero_padded`.
    """
    while isinstance(env, OrderEnforcing | TimeLimit):
        env = env.env
    if isinstance(env, FrameStackObservation) and env.padding_type in ("reset", "zero"):
        return env.stack_size, env.padding_type == "zero"
    return (1, False) if isinstance(env, gym.Wrapper) else (getattr(env, "frame_stack", 1), getattr(env, "zero_padded", False))


class SyncEnvs(SyncVectorEnv):
    """Gymnasium's, with a step that does only what the collector needs: 8 CartPoles take 60 % of the time.

    Observations must be in a Box. Of the infos there are `final_obs` and `_final_obs` alone, on a step with an end, and
    `life_lost` on a step on which an env says so.
    """

    def step(self, actions: Any) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Step every env; one whose episode ends is reset. The observations are overwritten by the next step."""
        batch, reward = self._observations, np.empty(self.num_envs)
        terminated, truncated = np.zeros(self.num_envs, np.bool_), np.zeros(self.num_envs, np.bool_)
        infos: dict[str, Any] = {}
        for n, env in enumerate(self.envs):
            obs, reward[n], ends, cut, info = env.step(actions[n])
            if info and info.get("life_lost"):
                infos.setdefault("life_lost", np.zeros(self.num_envs, np.bool_))[n] = True
            if ends or cut:
                terminated[n], truncated[n] = ends, cut
                if "final_obs" not in infos:
                    infos |= {"final_obs": np.full(self.num_envs, None, object), "_final_obs": np.zeros(self.num_envs, np.bool_)}
                infos["final_obs"][n], infos["_final_obs"][n] = np.array(obs), True  # some envs reset in the same memory
                obs, _ = env.reset()
            batch[n] = obs
        return batch, reward, terminated, truncated, infos


class NativeEnvs(VectorWrapper):
    """A vector env of another maker, which resets those of its envs that a mask names, with a seed each.

    It does for all what `Episodes` does for one: the n-th episode of env i is seeded from (seed, i, n), and tapes are played.
    """

    def __init__(self, env: gym.vector.VectorEnv, seed: int) -> None:
        """ValueError if it cannot begin an episode on the step on which the one before ends, or not by a seed."""
        super().__init__(env)
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.DISABLED:
            raise ValueError(
                "its vector env "
                + {
                    AutoresetMode.NEXT_STEP: "can only reset on the step after an episode's end, which then is no real transition",
                    AutoresetMode.SAME_STEP: "resets its envs with seeds of its own, so no episode could be played again on a resume",
                }.get(mode, "does not say how it resets")  # type: ignore[arg-type]
                + "; type env.vectorization=sync"
            )
        self.seed, self.episode = seed, np.full(self.num_envs, -1)
        space = self.single_action_space
        self._bounds = (space.low, space.high) if isinstance(space, gym.spaces.Box) else None

    def _begin(self, mask: NDArray[np.bool_], episodes: NDArray[np.int64]) -> Any:
        """Begin these episodes [N] of the envs in `mask`; the observations of all."""
        self.episode[mask] = episodes[mask]
        seeds = [derive_seed(self.seed, n, int(self.episode[n])) if mask[n] else None for n in range(self.num_envs)]
        return self.env.reset(seed=seeds, options={"reset_mask": mask.copy()})[0]  # type: ignore[arg-type]

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin every env's next episode, with the seed that belongs to it (`seed` is not used)."""
        return self._begin(np.ones(self.num_envs, np.bool_), self.episode + 1), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step every env; one whose episode ends is reset."""
        obs, reward, terminated, truncated, infos = self._step(actions)
        done = terminated | truncated
        if done.any():
            infos |= {"final_obs": np.array(obs), "_final_obs": done}
            obs = self._begin(done, self.episode + 1)
        return obs, reward, terminated, truncated, infos

    def _step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return self.env.step(np.clip(actions, *self._bounds) if self._bounds else actions)

    def call(self, name: str, *arguments: Any) -> Any:
        """Gymnasium's way to a method of every env: here they are one."""
        return getattr(self, name)(*arguments)

    def begin_episode(self, index: int, episode: int) -> Any:
        """Begin this episode of the env of that index; the observations of all."""
        return self._begin(np.arange(self.num_envs) == index, np.full(self.num_envs, episode))

    def play_tape(self, episodes: Sequence[int], tapes: Sequence[NDArray[Any]], carried: Sequence[None]) -> list[tuple[Any, float, str]]:
        """Be where every env's tape leads in its episode: observation, return so far, what went wrong or '', of each.

        All envs step together, so those with shorter tapes begin later; until then they do what the one with the longest does.
        """
        longest = max(tapes, key=len)
        begins = np.array([len(longest) - len(tape) for tape in tapes])
        totals, problems = np.zeros(self.num_envs), [""] * self.num_envs
        obs = self._begin(np.ones(self.num_envs, np.bool_), np.array(episodes))
        for t, action in enumerate(longest):
            playing = begins <= t
            actions = np.stack([tape[t - begin] if begin <= t else action for tape, begin in zip(tapes, begins, strict=True)])
            obs, reward, terminated, truncated, _ = self._step(actions)
            totals[playing] += reward[playing]
            done = terminated | truncated
            for n in np.flatnonzero(done & playing):
                problems[n] = problems[n] or f"its episode ended at step {t + 1 - begins[n]}"
            again = (begins == t + 1) | done
            if again.any():
                obs = self._begin(again, np.array(episodes))
        return [(obs[n], float(totals[n]), problems[n]) for n in range(self.num_envs)]


VectorEnv = SyncVectorEnv | AsyncVectorEnv | NativeEnvs


def make_native(env_id: str, kwargs: dict[str, Any], num_envs: int, seed: int) -> NativeEnvs:
    """The vector env that the maker of this entry offers. ValueError or gymnasium's own error if it offers none that can be used."""
    return NativeEnvs(gym.make_vec(env_id, num_envs, vectorization_mode="vector_entry_point", **kwargs), seed)


def make_vector(factory: EnvFactory, num_envs: int, vectorization: str, seed: int) -> VectorEnv:
    """N envs whose every step gives N real transitions: an ended episode's env is reset in the same step.

    `final_obs` in the infos holds the true successors of ended episodes, `_final_obs` says of which envs. `life_lost`, if it
    is there, says in which envs what is learned from ends, though the episode goes on.
    """

    def maker(index: int) -> Callable[[], gym.Env]:
        def make() -> gym.Env:
            if multiprocessing.parent_process() is not None:
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
                    signal.signal(number, signal.SIG_IGN)  # the parent saves first, then closes its workers
            return Episodes(factory(), seed, index)

        return make

    makers = [maker(index) for index in range(num_envs)]
    if vectorization == "async":
        return AsyncVectorEnv(makers, shared_memory=True, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
    return SyncEnvs(makers, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)


def float32_or_uint8(space: gym.Space) -> np.dtype[Any]:
    """How observations are stored: bytes stay bytes, all else is float32."""
    return np.dtype(np.uint8) if space.dtype == np.uint8 else np.dtype(np.float32)


@contextlib.contextmanager
def closing(env: Any) -> Any:
    """Close an env when done with it; after an error, without waiting for its workers."""
    try:
        yield env
    except BaseException:
        env.close(**({"terminate": True} if isinstance(env, AsyncVectorEnv) else {}))
        raise
    env.close()
