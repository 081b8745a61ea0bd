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
    result = np.empty(reward.shape, np.float64)
    ahead = successor_value[-1].astype(np.float64)
    for t in reversed(range(len(reward))):
        ahead = reward[t] + gamma * np.where(done[t], successor_value[t], ahead)
        result[t] = ahead
    return result


def ends_within(done: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether the episode of each step [T, N] ends at or after it within the rollout."""
    return np.logical_or.accumulate(done[::-1])[::-1]
