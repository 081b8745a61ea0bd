"""Environments: made from their config entry, seeded episode by episode, stepped N together."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorWrapper
from numpy.typing import NDArray

from rl.envs.episodes import Episodes
from rl.envs.make import EnvFactory
from rl.state import derive_seed


class SyncEnvs(SyncVectorEnv):
    """Gymnasium's, with a step that does only what the collector needs: 8 CartPoles take 60 % of the time.

    Observations must be in a Box. Of the infos there are `final_obs` and `_final_obs` alone, on a step with
    an end, and `life_lost` on a step on which an env says so.
    """

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
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
                    infos |= {
                        "final_obs": np.full(self.num_envs, None, object),
                        "_final_obs": np.zeros(self.num_envs, np.bool_),
                    }
                # some envs reset in the same memory
                infos["final_obs"][n], infos["_final_obs"][n] = np.array(obs), True
                obs, _ = env.reset()
            batch[n] = obs
        return batch, reward, terminated, truncated, infos


class NativeEnvs(VectorWrapper):
    """A vector env of another maker, which resets those of its envs that a mask names, with a seed each.

    It does for all what `Episodes` does for one: the n-th episode of env i is seeded from (seed, i, n), and
    tapes are played.
    """

    def __init__(self, env: gym.vector.VectorEnv, seed: int) -> None:
        """ValueError if it cannot begin an episode on the step on which the one before ends, or not by a
        seed.
        """
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
        seeds = [
            derive_seed(self.seed, n, int(self.episode[n])) if mask[n] else None for n in range(self.num_envs)
        ]
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

    def play_tape(
        self, episodes: Sequence[int], tapes: Sequence[NDArray[Any]], carried: Sequence[None]
    ) -> list[tuple[Any, float, str]]:
        """Be where every env's tape leads in its episode: observation, return so far, what went wrong or '',
        of each.

        All envs step together, so those with shorter tapes begin later; until then they do what the one with
        the longest does.
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


def make_native(env_id: str, kwargs: dict[str, Any], num_envs: int, seed: int) -> NativeEnvs:
    """The vector env that the maker of this entry offers. ValueError or gymnasium's own error if it offers
    none that can be used.
    """
    return NativeEnvs(gym.make_vec(env_id, num_envs, vectorization_mode="vector_entry_point", **kwargs), seed)


def make_vector(factory: EnvFactory, num_envs: int, vectorization: str, seed: int) -> VectorEnv:
    """N envs whose every step gives N real transitions: an ended episode's env is reset in the same step.

    `final_obs` in the infos holds the true successors of ended episodes, `_final_obs` says of which envs.
    `life_lost`, if it is there, says in which envs what is learned from ends, though the episode goes on.
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


@contextlib.contextmanager
def closing(env: Any) -> Any:
    """Close an env when done with it; after an error, without waiting for its workers."""
    try:
        yield env
    except BaseException:
        env.close(**({"terminate": True} if isinstance(env, AsyncVectorEnv) else {}))
        raise
    env.close()
