"""Hindsight experience replay: learning from transitions as if what was reached later had been the goal."""

from __future__ import annotations

from typing import Any

import numpy as np

from rl.learning.replay import Batch, Transitions, UniformReplay
from rl.learning.rollout import Rollout

UNKNOWN = np.iinfo(np.int64).max  # the last row of an episode that has not ended


class HindsightReplay(UniformReplay):
    """Uniform replay with other goals in hindsight (Andrychowicz et al. 2017, algorithm 1, with `future`).

    Of goals + 1 transitions of a batch `goals`, on average, get as their goal what their episode achieved in
    one of the observations after them, all equally likely. Their reward is computed for it, and where the env
    has `compute_terminated` also whether they terminate. The memory itself holds what was lived.
    """

    def __init__(self, told: Transitions, *, capacity: int, on_resume: str, goals: int = 4) -> None:
        """ValueError for an env without goals, n-step returns and stacked frames."""
        if told.n_step != 1:
            raise ValueError(
                f"algo.n_step={told.n_step} sums the rewards of several steps, and rl.replay.HindsightReplay"
                " computes them for single ones; type algo.n_step=1"
            )
        if told.frame_stack != 1:
            raise ValueError(
                "rl.replay.HindsightReplay takes no stacked frames; remove the wrapper that stacks them, or"
                " type algo.replay._target_=rl.replay.UniformReplay"
            )
        super().__init__(told, capacity=capacity, on_resume=on_resume)
        # what computes rewards [B] of achieved and desired goals [B, ...], and maybe what terminates
        self.functions = {} if told.goal_functions is None else told.goal_functions()
        self.share = goals / (goals + 1)
        # [R, N], the last row of the transition's episode
        self._last = np.zeros((0, self.num_envs), np.int64)
        self._forget_episodes()

    def _forget_episodes(self) -> None:
        self._last[:] = UNKNOWN
        self._begin = [self.oldest] * self.num_envs  # the first row of every env's episode
        self._closed = self.oldest * self.num_envs  # `_last` knows of all ends before this transition

    @property
    def bytes(self) -> int:
        """With the ends of episodes."""
        return super().bytes + self.rows * self.num_envs * self._last.itemsize

    def allocate(self, limit: int) -> None:
        """Take the memory. ValueError if that is more than `limit` bytes."""
        super().allocate(limit)
        self._last = np.full((self.rows, self.num_envs), UNKNOWN)

    def add(self, rollout: Rollout) -> None:
        """Take in a rollout, and find the episodes that end in it."""
        begin = self.end
        super().add(rollout)
        self._last[np.arange(begin, self.end) % self.rows] = UNKNOWN
        self._close_episodes()

    def _close_episodes(self) -> None:
        """Note the last row of the episodes that have ended."""
        numbers, _ = self.ends.between(self._closed, self.end * self.num_envs)
        for number in numbers.tolist():
            row, n = divmod(number, self.num_envs)
            rows = np.arange(max(self._begin[n], self.oldest), row + 1) % self.rows
            self._last[rows, n] = row
            self._begin[n] = row + 1
        self._closed = self.end * self.num_envs

    def sample(self, size: int, rng: np.random.Generator, frames: int) -> Batch:
        """`size` transitions, with replacement, many of them with another goal."""
        batch = super().sample(size, rng, frames)
        slots = self.rows * self.num_envs
        row, n = np.divmod(batch.number, self.num_envs)
        last = np.minimum(self._last.reshape(-1).take(batch.number % slots), self.end - 1)
        chosen = np.flatnonzero((rng.random(size) < self.share) & (last >= row))
        future = rng.integers(row[chosen], last[chosen] + 1) * self.num_envs + n[chosen]
        goal = self._successors(future, future % slots)["achieved_goal"]
        batch.obs["desired_goal"][chosen] = batch.next_obs["desired_goal"][chosen] = goal
        achieved = batch.next_obs["achieved_goal"][chosen]
        batch.reward[chosen] = self.functions["compute_reward"](achieved, goal)
        if "compute_terminated" in self.functions:
            terminated = self.functions["compute_terminated"](achieved, goal)
            batch.discount[chosen] = np.where(terminated, np.float32(0), self._discounts[1])
        return batch

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Be where `state` was, once its chunks are loaded too; or empty, with `refill`."""
        super().load_state_dict(state)
        self._forget_episodes()
