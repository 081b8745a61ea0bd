"""Vector environments: N envs stepped together, each episode with its own seed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorWrapper
from gymnasium.vector.async_vector_env import AsyncState
from numpy.typing import NDArray

from rl.children import die_with
from rl.envs.episodes import Episodes
from rl.envs.make import EnvFactory
from rl.spaces import packer
from rl.state import EpisodeSeeds


class SyncEnvs(SyncVectorEnv):
    """SyncVectorEnv with a step that does only what the collector needs: 8 CartPoles take 60 % of the time.

    The infos hold only `final_obs` and `_final_obs`, if an episode ended, and
    `life_lost`, if an env reported it.
    """

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Step every env and reset those whose episode ends. The next step overwrites the observations."""
        batch, reward = self._observations, np.empty(self.num_envs)
        terminated, truncated = np.zeros(self.num_envs, np.bool_), np.zeros(self.num_envs, np.bool_)
        infos: dict[str, Any] = {}
        for n, env in enumerate(self.envs):
            obs, reward[n], ended, cut, info = env.step(actions[n])
            if info and info.get("life_lost"):
                infos.setdefault("life_lost", np.zeros(self.num_envs, np.bool_))[n] = True
            if ended or cut:
                terminated[n], truncated[n] = ended, cut
                if "final_obs" not in infos:
                    infos["final_obs"] = np.full(self.num_envs, None, object)
                    infos["_final_obs"] = np.zeros(self.num_envs, np.bool_)
                infos["final_obs"][n] = np.array(obs)[()]  # a copy: some envs overwrite it on reset
                infos["_final_obs"][n] = True
                obs, _ = env.reset()
            batch[n] = obs
        return batch, reward, terminated, truncated, infos


class NativeEnvs(VectorWrapper):
    """An environment's own vector env, which must reset the envs of a mask, each with its own seed.

    It does for N envs what `Episodes` does for one: the n-th episode of env i is seeded from (seed, i, n),
    and tapes are replayed.
    """

    def __init__(self, env: gym.vector.VectorEnv, seed: int, first: int = 0) -> None:
        """`first`: the number of the first env among all envs of a run.

        ValueError unless the caller can reset single envs with a seed (`AutoresetMode.DISABLED`)."""
        super().__init__(env)
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.DISABLED:
            reason = "does not say how it resets"
            if mode is AutoresetMode.NEXT_STEP:
                reason = "can only reset on the step after an episode's end, which then is no real transition"
            elif mode is AutoresetMode.SAME_STEP:
                reason = "resets its envs with seeds of its own: no episode could be played again on a resume"
            raise ValueError(f"its vector env {reason}; type env.vectorization=sync")
        if packer(self.single_observation_space) is not None:
            raise ValueError(
                f"its vector env gives {self.single_observation_space}, and a Dict or Tuple must come from"
                " single envs; type env.vectorization=sync"
            )
        self.seeds = [EpisodeSeeds(seed, first + n) for n in range(self.num_envs)]
        self.episode = np.full(self.num_envs, -1)
        space = self.single_action_space
        if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
            raise ValueError(f"its vector env takes {space}; type env.vectorization=sync")
        self._bounds = (space.low, space.high) if isinstance(space, gym.spaces.Box) else None

    def _begin(self, mask: NDArray[np.bool_], episodes: NDArray[np.int64]) -> Any:
        """Begin these episodes [N] of the envs in `mask`; return the observations of all envs."""
        self.episode[mask] = episodes[mask]
        seeds = [seed(int(self.episode[n])) if mask[n] else None for n, seed in enumerate(self.seeds)]
        return self.env.reset(seed=seeds, options={"reset_mask": mask.copy()})[0]  # type: ignore[arg-type]

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin every env's next episode with its own seed (`seed` is ignored)."""
        return self._begin(np.ones(self.num_envs, np.bool_), self.episode + 1), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step every env and reset those whose episode ends."""
        obs, reward, terminated, truncated, infos = self._step(actions)
        done = terminated | truncated
        if done.any():
            infos |= {"final_obs": np.array(obs), "_final_obs": done}
            obs = self._begin(done, self.episode + 1)
        return obs, reward, terminated, truncated, infos

    def _step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return self.env.step(np.clip(actions, *self._bounds) if self._bounds else actions)

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a method of this object, which stands for all envs."""
        return getattr(self, name)(*arguments)

    def use_seeds(self, schemes: Sequence[int]) -> None:
        """Seed each env's episodes by a scheme of `rl.state.EpisodeSeeds`."""
        for seeds, scheme in zip(self.seeds, schemes, strict=True):
            seeds.scheme = scheme

    def begin_episode(self, index: int, episode: int) -> Any:
        """Begin this episode of env `index`; return the observations of all envs."""
        return self._begin(np.arange(self.num_envs) == index, np.full(self.num_envs, episode))

    def play_tape(
        self, episodes: Sequence[int], tapes: Sequence[NDArray[Any]], carried: Sequence[None]
    ) -> list[tuple[Any, float, str]]:
        """Replay every env's tape; for each env its observation, return so far, and problem or ''.

        All envs step together, so an env with a shorter tape starts later; until then it gets the actions of
        the longest tape.
        """
        longest = max(tapes, key=len)
        begins = np.array([len(longest) - len(tape) for tape in tapes])
        totals, problems = np.zeros(self.num_envs), [""] * self.num_envs
        obs = self._begin(np.ones(self.num_envs, np.bool_), np.array(episodes))
        for t, action in enumerate(longest):
            playing = begins <= t
            actions = np.stack(
                [tape[t - begin] if begin <= t else action for tape, begin in zip(tapes, begins, strict=True)]
            )
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


def make_native(env_id: str, kwargs: dict[str, Any], num_envs: int, seed: int, first: int = 0) -> NativeEnvs:
    """The environment's own vector env. ValueError, or gymnasium's error, if it has none that can be used."""
    envs = gym.make_vec(env_id, num_envs, vectorization_mode="vector_entry_point", **kwargs)
    return NativeEnvs(envs, seed, first)


def make_vector(
    factory: EnvFactory, num_envs: int, vectorization: str, seed: int, first: int = 0
) -> VectorEnv:
    """N envs whose every step gives N real transitions: an env is reset in the step that ends its episode.

    The infos: `final_obs` holds the last observations of ended episodes and `_final_obs` marks their envs.
    `life_lost`, if present, marks the envs where learning sees an end though the episode goes on. `first` is
    the number of the first env among all of the run.
    """

    def maker(index: int) -> Callable[[], gym.Env]:
        def make() -> gym.Env:
            if multiprocessing.parent_process() is not None:
                die_with(os.getppid())()  # else it would tell of a closed pipe when its parent is killed
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
                    signal.signal(number, signal.SIG_IGN)  # the parent saves, then closes its workers
            return Episodes(factory(), seed, index, first)

        return make

    makers = [maker(index) for index in range(num_envs)]
    if vectorization == "async":
        envs = AsyncVectorEnv(makers, shared_memory=True, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
        if isinstance(envs.single_action_space, gym.spaces.Dict | gym.spaces.Tuple):
            envs.action_space = gym.spaces.Box(-np.inf, np.inf, (num_envs, 1))  # rows are sent as they are
        return envs
    return SyncEnvs(makers, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)


class WorkerDiedError(Exception):
    """The process of an async env has ended; the message says which and how."""


@contextlib.contextmanager
def closing(env: Any) -> Any:
    """Close an env on exit; after an error, do not wait for its workers. WorkerDiedError if one is gone."""
    try:
        yield env
    except BaseException as error:
        died = _died(env) if isinstance(error, OSError | EOFError) else ""
        _end(env)
        if died:
            raise WorkerDiedError(died) from error
        raise
    try:
        env.close()
    except (OSError, EOFError):
        if not _died(env):  # else it died when nothing was left to do
            raise
        _end(env)


def _end(env: Any) -> None:
    """Close an env without a word to its workers."""
    if not isinstance(env, AsyncVectorEnv):
        env.close()
        return
    for process in env.processes:  # they ignore SIGTERM, and would tell of a closed pipe
        process.kill()
    env._state = AsyncState.DEFAULT  # gymnasium would wait for the step that was going on
    env.close(terminate=True)


def _died(env: Any) -> str:
    """Which worker's process has ended, and how; '' if none has."""
    for n, process in enumerate(getattr(env, "processes", ())):
        process.join(0.2)  # its pipe closes a moment before the process is gone
        code = process.exitcode
        if code is not None and code < 0:
            why = " (out of memory?)" if -code == signal.SIGKILL else ""
            return f"the process of env {n} was killed by {signal.Signals(-code).name}{why}"
        if code is not None:
            return f"the process of env {n} ended with exit code {code}"
    return ""
