"""Evaluation: it keeps no state, so its frequency cannot affect training."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from rl.algos.agent import Agent
from rl.config.text import counted
from rl.envs.episodes import Episodes
from rl.envs.make import EnvFactory
from rl.group import ALONE, Group
from rl.spaces import obs_dtype
from rl.state import GlobalRandom, derive_seed

WIDTH = 10  # envs played side by side
OnStep = Callable[[gym.Env, float, int], None]  # env, return and length of its episode so far


class Interrupted(Exception):
    """A stop was requested during evaluation."""


@dataclass(frozen=True)
class Scores:
    """Returns and lengths of episodes, in order; of one that was cut, those up to there."""

    returns: list[float]
    lengths: list[int]
    cut: int  # episodes that reached `max_steps`

    @property
    def mean(self) -> float:
        """Mean return."""
        return statistics.fmean(self.returns)

    def summary(self) -> dict[str, float | int]:
        """The columns of eval.csv that describe the episodes."""
        return {
            "episodes": len(self.returns),
            "total_reward": self.mean,
            "total_reward_std": statistics.pstdev(self.returns),
            "total_reward_min": min(self.returns),
            "total_reward_max": max(self.returns),
            "episode_length": statistics.fmean(self.lengths),
        }

    @property
    def note(self) -> str:
        """How many episodes were cut; '' for none."""
        return (
            f"{self.cut} of {counted(len(self.returns), 'episode')} cut at {max(self.lengths)} steps"
            if self.cut
            else ""
        )


def play(
    agent: Agent,
    make_env: EnvFactory,
    episodes: int,
    seed: int,
    *,
    group: Group = ALONE,
    explore: bool = False,
    width: int = WIDTH,
    max_steps: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    on_step: OnStep = lambda env, total, length: None,
    on_episode: Callable[[float, int], None] = lambda total, length: None,
) -> Scores:
    """Play `episodes` episodes on new envs, the n-th seeded from (seed, n).

    Env i plays episodes i, i + width, ...: a fixed quota, since taking the first to finish would favour short
    episodes. One that is not over after `max_steps` ends there, with the return so far. Of several processes
    each plays its share, and all get the scores of all. The global random generators are restored afterwards.
    Interrupted if `stop()` becomes true, in any process.
    """
    numbers = range(group.rank, episodes, group.size)
    rng = np.random.default_rng(derive_seed(seed, group.rank) if group.rank else seed)
    results: dict[int, tuple[float, int, bool]] = {}
    interrupted = False
    with GlobalRandom().apart(seed):
        envs = [Episodes(make_env(), seed, 0) for _ in range(min(width, len(numbers)))]
        try:
            _play(agent, envs, numbers, rng, explore, max_steps, results, stop, on_step, on_episode)
        except Interrupted:
            interrupted = True
        finally:
            for env in envs:
                env.close()
    for other_interrupted, share in group.gather((interrupted, results)):
        interrupted = interrupted or other_interrupted
        results.update(share)
    if interrupted:
        raise Interrupted
    returns, lengths, cut = zip(*(results[n] for n in range(episodes)), strict=True)
    return Scores(list(returns), list(lengths), sum(cut))


def _play(
    agent: Agent,
    envs: list[Episodes],
    numbers: Sequence[int],
    rng: np.random.Generator,
    explore: bool,
    max_steps: int | None,
    results: dict[int, tuple[float, int, bool]],
    stop: Callable[[], bool],
    on_step: OnStep,
    on_episode: Callable[[float, int], None],
) -> None:
    if not envs:
        return
    dtype = obs_dtype(envs[0].observation_space)
    at = list(range(len(envs)))  # which of `numbers` each env plays
    obs: list[Any] = [env.begin_episode(0, number) for env, number in zip(envs, numbers, strict=False)]
    total, length = [0.0] * len(envs), [0] * len(envs)
    state = agent.initial_state(len(envs))
    active = at.copy()
    for env in envs:
        on_step(env, 0.0, 0)
    while active:
        if stop():
            raise Interrupted
        rows = np.stack([obs[i] for i in active]).astype(dtype, copy=False)
        actions, after, *_ = agent.act(rows, None if state is None else state[active], rng, explore)
        if state is not None and after is not None:
            state[active] = after
        for i, action in zip(list(active), actions, strict=True):
            obs[i], reward, terminated, truncated, _ = envs[i].step(action)
            total[i] += float(reward)
            length[i] += 1
            on_step(envs[i], total[i], length[i])
            over = bool(terminated or truncated)
            if over or length[i] == max_steps:
                results[numbers[at[i]]] = total[i], length[i], not over
                on_episode(total[i], length[i])
                at[i] += len(envs)
                total[i], length[i] = 0.0, 0
                if at[i] >= len(numbers):
                    active.remove(i)
                    continue
                obs[i] = envs[i].begin_episode(0, numbers[at[i]])
                if state is not None:
                    state[i] = 0.0
                on_step(envs[i], 0.0, 0)
