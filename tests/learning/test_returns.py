from __future__ import annotations

import numpy as np

from rl.learning.returns import ends_within, returns_to_go


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


def test_returns_by_hand_numbers() -> None:
    reward, done = column(1, 2, 3), column(0, 0, 1).astype(bool)
    assert returns_to_go(reward, done, column(0, 0, 0), 0.5)[:, 0].tolist() == [2.75, 3.5, 3.0]


def test_an_end_keeps_later_rewards_out() -> None:
    reward, done = column(1, 2, 4, 8), column(0, 1, 0, 1).astype(bool)
    assert returns_to_go(reward, done, column(0, 0, 0, 0), 0.5)[:, 0].tolist() == [2.0, 2.0, 8.0, 8.0]


def test_the_successors_value_stands_for_the_rest_where_given() -> None:
    reward, done = column(1, 2, 4), column(0, 1, 0).astype(bool)
    value = column(99, 10, 20)  # read at the end of the episode and in the last row alone
    assert returns_to_go(reward, done, value, 0.5)[:, 0].tolist() == [4.5, 7.0, 14.0]


def test_each_env_has_its_own_episodes() -> None:
    reward = np.array([[1, 10], [1, 10]], np.float32)
    done = np.array([[True, False], [True, False]])
    assert returns_to_go(reward, done, np.zeros((2, 2), np.float32), 1.0).tolist() == [[1, 20], [1, 10]]


def test_a_step_counts_once_its_episode_ends_within_the_rollout() -> None:
    done = np.array([[0, 0, 1], [1, 0, 0], [0, 0, 0]], bool)
    assert ends_within(done).tolist() == [[True, False, True], [True, False, False], [False, False, False]]
