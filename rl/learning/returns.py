"""Returns of rollouts: pure functions over arrays [T, N]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def returns_to_go(
    reward: NDArray[np.floating], done: NDArray[np.bool_], successor_value: NDArray[np.floating], gamma: float
) -> NDArray[np.float64]:
    """G_t = r_t + gamma * G_{t+1} [T, N] within an episode (Sutton & Barto 2018, eq. 3.9).

    Where `done` and in the last row, successor_value_t [T, N] stands for G_{t+1}: 0 for a terminated episode,
    V(next_obs) for a truncated one or one that goes on, 0 where no value is known.
    """
    stops = done.copy()
    stops[-1] = True
    result = reward + gamma * np.where(stops, successor_value, 0.0).astype(np.float64)
    discount = np.where(stops, 0.0, gamma)
    for t in reversed(range(len(reward) - 1)):
        result[t] += discount[t] * result[t + 1]
    return result


def gae(
    reward: NDArray[np.floating],
    value: NDArray[np.floating],
    next_value: NDArray[np.floating],
    terminated: NDArray[np.bool_],
    done: NDArray[np.bool_],
    gamma: float,
    gae_lambda: float,
) -> NDArray[np.float64]:
    """Generalised advantage estimates A_t [T, N], t = 0 ... T - 1 (Schulman et al. 2016, eq. 11 and 16):

    delta_t = r_t + gamma * V(s'_t) - V(s_t),    A_t = delta_t + gamma * lambda * A_{t+1}.

    V(s'_t) counts as 0 where the episode is `terminated`; A_{t+1} where it is `done` (terminated or
    truncated) and after the last row. `next_value` [T, N] is the value of the true successors: where an
    episode is truncated, of its last observation, not of the one after the reset. With lambda = 1, A_t +
    V(s_t) is the return to the rollout's end, bootstrapped there: the n-step return of A3C (Mnih et al.
    2016). With lambda = 0 it is the one-step target.
    """
    delta = reward + gamma * np.where(terminated, 0.0, next_value).astype(np.float64) - value
    carry = np.where(done, 0.0, gamma * gae_lambda)
    for t in range(len(delta) - 2, -1, -1):
        delta[t] += carry[t] * delta[t + 1]
    return delta


def ends_within(done: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether the episode of each step [T, N] ends at or after it within the rollout."""
    return np.logical_or.accumulate(done[::-1])[::-1]


def explained_variance(advantage: NDArray[np.floating], target: NDArray[np.floating]) -> dict[str, float]:
    """The share of the targets' variance that the values explain, as a report; {} if they do not vary."""
    left, spread = _spread(advantage), _spread(target)
    return {"explained_variance": 1.0 - left / spread} if spread > 0 else {}


def _spread(values: NDArray[np.floating]) -> float:
    """Their variance times their number, in half the time of `var`."""
    centered = values.ravel() - values.mean()
    return float(centered @ centered)
