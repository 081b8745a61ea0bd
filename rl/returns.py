"""Returns of rollouts: pure functions over arrays [T, N]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def returns_to_go(
    reward: NDArray[np.floating], done: NDArray[np.bool_], successor_value: NDArray[np.floating], gamma: float
) -> NDArray[np.float64]:
    """G_t = r_t + gamma * G_{t+1} within an episode; where it ends or the rollout stops, successor_value_t stands for G_{t+1}.

    (Sutton & Barto 2018, eq. 3.9.) All arrays are [T, N]; successor_value is read only where `done` and in the last
    row: 0 for a terminated episode, V(next_obs) for a truncated one or one that goes on, 0 where no value is known.
    """
    stops = done.copy()
    stops[-1] = True
    result = reward + gamma * np.where(stops, successor_value, 0.0).astype(np.float64)  # [T, N]; what follows is added below
    discount = np.where(stops, 0.0, gamma)
    for t in reversed(range(len(reward) - 1)):
        result[t] += discount[t] * result[t + 1]
    return result


def ends_within(done: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether the episode of each step [T, N] ends at or after it within the rollout."""
    return np.logical_or.accumulate(done[::-1])[::-1]
