"""The prioritised replay memory, and the tree from which it draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rl.config.schedule import Schedule
from rl.learning.replay import Batch, Transitions, UniformReplay
from rl.learning.rollout import Rollout


class PrioritizedReplay(UniformReplay):
    """Proportional prioritisation (Schaul et al. 2016, algorithm 1).

    A transition is drawn with P(i) ~ p_i^alpha (eq. 1), p_i = |TD error| + epsilon, one from each of B equal
    shares of the total; a new one has the highest priority so far. Its weight is (count * P(i))^-beta / the
    batch's highest.
    """

    def __init__(
        self,
        told: Transitions,
        *,
        capacity: int,
        on_resume: str,
        alpha: float,
        beta: Schedule,
        epsilon: float,
    ) -> None:
        super().__init__(told, capacity=capacity, on_resume=on_resume)
        self.alpha, self.beta, self.epsilon = alpha, beta, epsilon
        self.max_priority = 1.0
        self.tree = SumTree(1)

    @property
    def bytes(self) -> int:
        """With the tree."""
        return super().bytes + SumTree.bytes(self.rows * self.num_envs)

    def allocate(self, limit: int) -> None:
        """Take the memory. ValueError if that is more than `limit` bytes."""
        super().allocate(limit)
        self.tree = SumTree(self.rows * self.num_envs)

    def add(self, rollout: Rollout) -> None:
        """Take in a rollout; what it makes whole gets the highest priority."""
        low, high = self._low, self._high
        super().add(rollout)
        self._set(self._numbers(low, min(self._low, high)), 0.0)
        self._set(self._numbers(max(high, self._low), self._high), self.max_priority**self.alpha)

    def _numbers(self, low: int, high: int) -> NDArray[np.int64]:
        return np.arange(low * self.num_envs, high * self.num_envs)

    def _set(self, number: NDArray[np.int64], leaf: Any) -> None:
        """What transitions [B] count in the tree, in 32 bits: so a checkpoint has it."""
        if len(number):
            self.tree.set(number % (self.rows * self.num_envs), np.float32(leaf))

    def sample(self, size: int, rng: np.random.Generator, frames: int) -> Batch:
        """`size` transitions by their priorities, at a clock of `frames`."""
        low, count = self._low * self.num_envs, (self._high - self._low) * self.num_envs
        share = (np.arange(size) + rng.random(size)) / size
        slot, priority = self.tree.find(share * self.tree.total)
        weight = (count * priority / self.tree.total) ** -self.beta(frames)
        number = low + (slot - low) % (self.rows * self.num_envs)
        return self._gather(number, (weight / weight.max()).astype(np.float32))

    def update_priorities(self, number: NDArray[np.int64], td_error: torch.Tensor) -> None:
        """Transitions [B] have these TD errors [B] now."""
        priority = np.abs(td_error.detach().cpu().numpy().astype(np.float64)) + self.epsilon
        self.max_priority = max(self.max_priority, float(priority.max()))
        self._set(number, priority**self.alpha)

    def state_dict(self) -> dict[str, Any]:
        """With all priorities: they change everywhere."""
        state = {**super().state_dict(), "max_priority": self.max_priority}
        if not self.refill:
            leaves = self.tree.leaves[: self.rows * self.num_envs]
            state["leaves"] = torch.from_numpy(leaves.astype(np.float32))
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set them."""
        super().load_state_dict(state)
        self.max_priority = state["max_priority"]
        self.tree = SumTree(self.rows * self.num_envs)
        if not self.refill:
            self.tree.set_all(state["leaves"].numpy())


class SumTree:
    """Numbers from 0 on, their sum, and which of them a part of the sum falls on, each in O(log n).

    A node is always the sum of its children as they are: no sum drifts, and a rebuilt tree has the same bits.
    """

    def __init__(self, size: int) -> None:
        self.nodes = np.zeros(self.bytes(size) // 8)  # the root is 1, the children of i are 2 i and 2 i + 1
        self.depth = len(self.nodes).bit_length() - 2

    @staticmethod
    def bytes(size: int) -> int:
        """What a tree of `size` numbers takes."""
        return 16 << (size - 1).bit_length()

    @property
    def total(self) -> float:
        """The sum of all."""
        return float(self.nodes[1])

    @property
    def leaves(self) -> NDArray[np.float64]:
        """All numbers, and zeros up to a power of two."""
        return self.nodes[1 << self.depth :]

    def set_all(self, values: NDArray[Any]) -> None:
        """Set all numbers, level by level: no more memory than the tree's."""
        self.leaves[: len(values)] = values
        for level in reversed(range(self.depth)):
            children = self.nodes[2 << level : 4 << level]
            np.add(children[::2], children[1::2], out=self.nodes[1 << level : 2 << level])

    def set(self, index: NDArray[np.int64], value: Any) -> None:
        """Set the numbers at [B]; of one that is named twice the last value counts."""
        nodes, node = self.nodes, index + (1 << self.depth)
        nodes[node] = value
        for _ in range(self.depth):
            node >>= 1
            left = node << 1
            nodes[node] = nodes[left] + nodes[left + 1]

    def find(self, mass: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Where the running sum passes `mass` [B], from 0 to below the total: index [B], numbers above 0."""
        nodes, node, mass = self.nodes, np.ones(len(mass), np.int64), mass.copy()
        for _ in range(self.depth):
            node <<= 1
            left = nodes[node]
            right = (mass >= left) & (nodes[node + 1] > 0)  # rounding never leads where nothing is
            mass -= left * right
            node += right
        return node - (1 << self.depth), nodes[node]
