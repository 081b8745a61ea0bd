from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal

from rl.distributions import Categorical, DiagonalGaussian, distribution_for


def test_categorical_agrees_with_torch() -> None:
    params = torch.randn(100, 5, generator=torch.Generator().manual_seed(0)) * 3
    action = torch.arange(100) % 5
    ours, theirs = Categorical(5), TorchCategorical(logits=params)
    torch.testing.assert_close(ours.log_prob(params, action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(params), theirs.entropy())


def test_gaussian_agrees_with_torch() -> None:
    draw = torch.Generator().manual_seed(0)
    params, action = torch.randn(100, 6, generator=draw), torch.randn(100, 3, generator=draw)
    ours, theirs = DiagonalGaussian((3,)), Independent(Normal(params[:, :3], params[:, 3:].exp()), 1)
    torch.testing.assert_close(ours.log_prob(params, action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(params), theirs.entropy())


def test_categorical_samples_by_its_probabilities() -> None:
    probability = np.array([0.5, 0.3, 0.15, 0.05])
    params = np.broadcast_to(np.log(probability), (200_000, 4)) + 7.0  # unnormalised
    sample = Categorical(4).sample(params, np.random.default_rng(0))
    assert np.bincount(sample, minlength=4) / len(sample) == pytest.approx(probability, abs=0.005)


def test_gaussian_samples_by_its_moments() -> None:
    params = np.broadcast_to(np.array([1.0, -2.0, np.log(0.5), np.log(3.0)], np.float32), (200_000, 4))
    sample = DiagonalGaussian((2,)).sample(params, np.random.default_rng(0))
    assert sample.dtype == np.float32
    assert sample.mean(0) == pytest.approx([1.0, -2.0], abs=0.03)
    assert sample.std(0) == pytest.approx([0.5, 3.0], rel=0.01)


def test_the_mode_is_the_likeliest_action() -> None:
    assert Categorical(3).mode(np.array([[0.0, 5.0, 1.0], [2.0, 1.0, 0.0]])).tolist() == [1, 0]
    assert DiagonalGaussian((1,)).mode(np.array([[4.0, 0.3]])).tolist() == [[4.0]]


def test_actions_count_from_the_start_of_their_space() -> None:
    distribution = distribution_for(gym.spaces.Discrete(3, start=5))
    params = np.array([[0.0, 50.0, 0.0]])
    assert distribution.mode(params).tolist() == distribution.sample(params, np.random.default_rng(0)).tolist() == [6]
    assert float(distribution.log_prob(torch.tensor(params), torch.tensor([6])).exp()) == pytest.approx(1.0)


def test_actions_have_the_shape_of_their_space() -> None:
    distribution = distribution_for(gym.spaces.Box(-1, 1, (2, 3)))
    params = np.zeros((4, distribution.num_params), np.float32)
    action = distribution.sample(params, np.random.default_rng(0))
    assert action.shape == (4, 2, 3)
    assert distribution.log_prob(torch.tensor(params), torch.tensor(action)).shape == (4,)


@pytest.mark.parametrize("space", [gym.spaces.MultiBinary(3), gym.spaces.Box(0, 255, (3,), np.uint8)])
def test_a_space_without_a_distribution_is_refused_by_name(space: gym.Space) -> None:
    with pytest.raises(ValueError, match=type(space).__name__):
        distribution_for(space)
