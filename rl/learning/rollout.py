"""The rollout: what the environments gave while an agent acted, and what it learns from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# [N, S], zero where an episode begins; None while nothing is recurrent
Recurrent = NDArray[np.float32] | None


@dataclass
class Rollout:
    """T steps of N envs. The next rollout uses the arrays again: copy what must outlive `learn`."""

    obs: NDArray[Any]  # [T + 1, N, *obs_shape]; the last row is where the next rollout begins
    action: NDArray[Any]  # [T, N, *action_shape], before any clipping to the environment's bounds
    reward: NDArray[np.float32]  # [T, N]
    terminated: NDArray[np.bool_]  # [T, N]; worth 0 afterwards: the episode's end, or a lost life
    truncated: NDArray[np.bool_]  # [T, N]; the value of next_obs stands for the rest
    state: Recurrent = None  # [N, S] at the start
    # [T, N, ...] by name: what `act` returned of each step besides actions and states
    extras: dict[str, NDArray[Any]] = field(default_factory=dict)
    # (t, n, obs) where an env was reset
    final_obs: list[tuple[int, int, NDArray[Any]]] = field(default_factory=list)
    # envs that begin an episode at t = 0 because a resume could not restore the one before
    begun: list[int] = field(default_factory=list)

    @property
    def done(self) -> NDArray[np.bool_]:
        """[T, N]: terminated or truncated."""
        return self.terminated | self.truncated

    @property
    def ends(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """`terminated` and `done`, as `gae` takes them."""
        return self.terminated, self.done

    @property
    def reset(self) -> NDArray[np.bool_]:
        """[T, N]: where an episode ended, and not only a life."""
        result = np.zeros(self.reward.shape, np.bool_)
        for t, n, _ in self.final_obs:
            result[t, n] = True
        return result

    @property
    def next_obs(self) -> NDArray[Any]:
        """[T, N, *obs_shape]: the true successors, never an observation after a reset."""
        result = self.obs[1:].copy()
        for t, n, obs in self.final_obs:
            result[t, n] = obs
        return result

    def values(
        self,
        value_function: Callable[[NDArray[Any]], NDArray[np.float32]],
        known: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """V(s_t) and V(s'_t) of all steps, both [T, N], from a function of observations [B, *obs_shape].

        Every observation is evaluated once, and where an episode was truncated its last one too; those of
        V(s_t) that are `known` [T, N] are not.
        """
        if known is None:
            value = value_function(self.obs.reshape(-1, *self.obs.shape[2:])).reshape(self.obs.shape[:2])
        else:
            value = np.concatenate([known, value_function(self.obs[-1])[None]])
        return value[:-1], self.next_values(value, lambda obs, t, n: value_function(obs))

    def next_values(
        self, value: NDArray[Any], of_last: Callable[[NDArray[Any], list[int], list[int]], NDArray[Any]]
    ) -> NDArray[Any]:
        """V(s'_t) [T, N] from V(s_t) [T + 1, N]; it has no meaning where the episode terminated.

        `of_last(obs, t, n)` is asked for the values [K] of the last observations of truncated episodes.
        """
        next_value = value[1:].copy()
        cut = [(t, n, obs) for t, n, obs in self.final_obs if not self.terminated[t, n]]
        if cut:
            t, n, obs = (list(column) for column in zip(*cut, strict=True))
            next_value[t, n] = of_last(np.stack(obs).astype(self.obs.dtype), t, n)
        return next_value


def flat_tensors(device: str, *steps: NDArray[Any]) -> list[Tensor]:
    """Arrays [T, N, ...] as tensors [T * N, ...]."""
    return [torch.from_numpy(a.reshape(-1, *a.shape[2:])).to(device) for a in steps]
