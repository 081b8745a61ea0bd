"""Normalisation by running statistics: part of what is trained, so saved with the weights.

The statistics are in float64. They change in `update` alone, which an algorithm calls once in `learn`;
evaluation and enjoy never call it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_TINY = 1e-8  # added to variances: something that never varies is not divided by 0


class Moments:
    """Mean and (population) variance of everything seen, by the parallel algorithm (Chan et al. 1979).

    0 and 1 before anything was.
    """

    def __init__(self, shape: Sequence[int] = ()) -> None:
        self.count = 0
        self.mean, self.var = np.zeros(shape, np.float64), np.ones(shape, np.float64)

    def update(self, batch: NDArray[Any]) -> None:
        """Add a batch [B, *shape]."""
        batch = batch.astype(np.float64, copy=False)
        number, mean = len(batch), batch.mean(0)
        total = self.count + number
        delta = mean - self.mean
        squares = self.count * self.var + number * batch.var(0) + delta**2 * (self.count * number / total)
        self.mean = np.asarray(self.mean + delta * (number / total))
        self.var, self.count = np.asarray(squares / total), total

    def state_dict(self) -> dict[str, Any]:
        """Count, mean and variance."""
        mean, var = torch.from_numpy(self.mean.copy()), torch.from_numpy(self.var.copy())
        return {"count": self.count, "mean": mean, "var": var}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set them."""
        self.count = state["count"]
        self.mean, self.var = state["mean"].cpu().numpy().copy(), state["var"].cpu().numpy().copy()


class NullNormalizer:
    """Leaves everything as it is, and has nothing to save."""

    parts: Mapping[str, Any] = {}

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """`values` themselves."""
        return values

    def in_torch(self, values: Tensor) -> Tensor:
        """`values` themselves."""
        return values

    def update(self, *batch: NDArray[Any]) -> None:
        """Nothing is learned."""


def obs_normalizer(shape: Sequence[int], enabled: bool) -> ObsNormalizer | NullNormalizer:
    """A normaliser of observations [..., *shape], or one that does nothing."""
    return ObsNormalizer(shape) if enabled else NullNormalizer()


def reward_normalizer(num_envs: int, gamma: float, enabled: bool) -> RewardNormalizer | NullNormalizer:
    """A normaliser of rewards [T, N], or one that does nothing."""
    return RewardNormalizer(num_envs, gamma) if enabled else NullNormalizer()


class ObsNormalizer:
    """(obs - mean) / standard deviation of each component, clipped to +-`clip`."""

    def __init__(self, shape: Sequence[int], *, clip: float = 10.0) -> None:
        self.moments, self.clip = Moments(shape), np.float32(clip)
        self._cache()

    def __call__(self, obs: NDArray[Any]) -> NDArray[np.float32]:
        """Normalised float32 observations [..., *shape]."""
        result: NDArray[np.float32] = (obs - self._mean) * self._scale
        np.minimum(result, self.clip, out=result)
        return np.maximum(result, -self.clip, out=result)

    def in_torch(self, obs: Tensor) -> Tensor:
        """The same, from and to tensors [B, *shape]."""
        mean, scale = (torch.as_tensor(array, device=obs.device) for array in (self._mean, self._scale))
        return ((obs - mean) * scale).clamp(-float(self.clip), float(self.clip))

    def update(self, obs: NDArray[Any]) -> None:
        """Add observations [T, N, *shape] to the statistics."""
        self.moments.update(obs.reshape(-1, *self.moments.mean.shape))
        self._cache()

    @property
    def parts(self) -> dict[str, ObsNormalizer]:
        """Itself, by its name in checkpoints."""
        return {"obs_normalizer": self}

    def _cache(self) -> None:
        self._mean = self.moments.mean.astype(np.float32)
        self._scale = (1 / np.sqrt(self.moments.var + _TINY)).astype(np.float32)

    def state_dict(self) -> dict[str, Any]:
        """The statistics."""
        return self.moments.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set them."""
        self.moments.load_state_dict(state)
        self._cache()


class RewardNormalizer:
    """Rewards divided by the standard deviation of the discounted return, clipped to +-`clip`.

    The return G = gamma * G + r goes on over rollouts in each env, and begins anew with each episode
    (Engstrom et al. 2020, section 3, who found it in OpenAI's PPO).
    """

    def __init__(self, num_envs: int, gamma: float, *, clip: float = 10.0) -> None:
        self.moments, self.gamma, self.clip = Moments(), gamma, clip
        self.num_envs = num_envs
        self.begin_episodes()

    def begin_episodes(self) -> None:
        """Every env begins a new episode."""
        self.returns = np.zeros(self.num_envs, np.float64)

    def __call__(self, reward: NDArray[np.floating]) -> NDArray[np.float32]:
        """Normalised rewards."""
        scale = 1 / math.sqrt(float(self.moments.var) + _TINY)
        return np.clip(reward * scale, -self.clip, self.clip).astype(np.float32)

    def update(self, reward: NDArray[np.floating], done: NDArray[np.bool_]) -> None:
        """Add the rewards [T, N] of a rollout to the statistics; `done` [T, N] ends an episode."""
        returns = np.empty(reward.shape, np.float64)
        ahead = self.returns
        for t in range(len(reward)):
            returns[t] = ahead = self.gamma * ahead + reward[t]
            ahead = np.where(done[t], 0.0, ahead)
        self.returns = ahead
        self.moments.update(returns.reshape(-1))

    @property
    def parts(self) -> dict[str, RewardNormalizer]:
        """Itself, by its name in checkpoints."""
        return {"reward_normalizer": self}

    def state_dict(self) -> dict[str, Any]:
        """The statistics, and each env's return so far."""
        return {"returns": torch.from_numpy(self.returns.copy()), **self.moments.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set them."""
        self.moments.load_state_dict(state)
        self.returns = state["returns"].cpu().numpy().copy()
