from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from rl.learning.distributions import (
    ActionBox,
    Categorical,
    DiagonalGaussian,
    SquashedGaussian,
    distribution_for,
)


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
    assert (
        distribution.mode(params).tolist()
        == distribution.sample(params, np.random.default_rng(0)).tolist()
        == [6]
    )
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


# ------------------------------------------------------------------------------------------------ squashed
# Gaussians

BOX = gym.spaces.Box(np.array([-2, 0], np.float32), np.array([2, 10], np.float32))


def test_squashed_gaussian_agrees_with_torch() -> None:
    draw = torch.Generator().manual_seed(0)
    params, noise = 0.5 * torch.randn(100, 4, generator=draw), torch.randn(100, 2, generator=draw)
    action, log_prob = SquashedGaussian(BOX).sample_with_log_prob(params, noise)
    normal = Normal(params[:, :2].double(), params[:, 2:].exp().double())
    theirs = TransformedDistribution(normal, TanhTransform(cache_size=1))
    u = normal.loc + normal.scale * noise
    torch.testing.assert_close(action.double(), u.tanh(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        log_prob.double(), theirs.log_prob(theirs.transforms[0](u)).sum(-1), rtol=1e-4, atol=1e-4
    )


def test_squashed_log_prob_is_exact_where_the_tanh_rounds_to_1() -> None:
    u = torch.tensor([[-40.0], [-12.0], [-9.0], [0.0], [9.0], [12.0], [40.0]])
    params = torch.cat([u, torch.zeros_like(u)], -1).requires_grad_()
    action, log_prob = SquashedGaussian(gym.spaces.Box(-1, 1, (1,))).sample_with_log_prob(
        params, torch.zeros_like(u)
    )
    assert action[-1] == 1.0
    # log(1 - tanh(u)^2), in numbers that can hold it
    slope = -2 * torch.log(torch.cosh(u.double())).squeeze(-1)
    torch.testing.assert_close(log_prob.double(), -slope - 0.5 * np.log(2 * np.pi))
    log_prob.sum().backward()
    assert params.grad is not None
    # the naive formula has 0 / 0 here
    torch.testing.assert_close(params.grad[:, 0], 2 * u.squeeze(-1).tanh())


def test_squashed_samples_and_modes_are_within_the_bounds() -> None:
    ours, rng = SquashedGaussian(BOX), np.random.default_rng(0)
    params = np.broadcast_to(np.array([0.5, -1.0, np.log(0.3), 5.0], np.float32), (100_000, 4))
    sample = ours.sample(params, rng)
    assert (sample.dtype, sample.shape) == (np.float32, (100_000, 2))
    assert np.all((sample >= BOX.low) & (sample <= BOX.high))
    u = np.arctanh(sample[:, 0].astype(np.float64) / 2)
    assert (u.mean(), u.std()) == pytest.approx((0.5, 0.3), abs=0.01)
    spread = np.arctanh((sample[:, 1].astype(np.float64) / 5 - 1).clip(-0.999, 0.999))
    # log_std is held at 2 and the rest is as it should be
    assert np.mean(spread < -1) == pytest.approx(0.5, abs=0.01)
    assert ours.mode(params[:1])[0] == pytest.approx([2 * np.tanh(0.5), 5 + 5 * np.tanh(-1.0)])


def test_actions_are_stretched_and_shrunk_back() -> None:
    box = ActionBox(BOX)
    assert box.stretch(np.array([[-1, -1], [1, 1], [0, 0.5]], np.float32)).tolist() == [
        [-2, 0],
        [2, 10],
        [0, 7.5],
    ]
    action = box.uniform(50_000, np.random.default_rng(0))
    assert action.dtype == np.float32
    assert np.all((action >= BOX.low) & (action <= BOX.high))
    assert action.mean(0) == pytest.approx([0, 5], abs=0.05)
    assert box.stretch(box.shrink(action)) == pytest.approx(action, abs=1e-5)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (gym.spaces.Discrete(2), "algo=sac_discrete, dqn or ppo"),
        (gym.spaces.Box(-np.inf, np.inf, (1,)), "a bounded action space.*algo=ppo"),
        (gym.spaces.Box(0, 4, (1,), np.int64), "a continuous action space"),
    ],
)
def test_action_spaces_that_cannot_be_squashed_are_refused(space: gym.Space, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SquashedGaussian(space)
