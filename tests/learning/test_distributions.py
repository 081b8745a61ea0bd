from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from rl.learning.action_forms import ActionForm, to_vector
from rl.learning.distributions import (
    ActionBox,
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    IndependentHeads,
    SquashedGaussian,
    distribution_for,
)


def action_spaces() -> st.SearchStrategy[gym.Space]:
    """Nested Dicts and Tuples of all leaf kinds."""
    sizes = st.lists(st.integers(1, 3), max_size=2).map(tuple)
    bound = st.floats(-5, 5, width=32)
    leaf = st.one_of(
        st.builds(gym.spaces.Discrete, st.integers(1, 4), start=st.integers(-3, 3)),
        st.builds(gym.spaces.MultiDiscrete, st.lists(st.integers(1, 4), min_size=1, max_size=3)),
        st.builds(gym.spaces.MultiBinary, st.integers(1, 4)),
        st.builds(
            lambda low, size, shape: gym.spaces.Box(low, low + size, shape, np.float32),
            *(bound, st.floats(1, 5, width=32), sizes),
        ),
    )
    nested = st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3).map(gym.spaces.Dict),
            st.lists(inner, min_size=1, max_size=3).map(gym.spaces.Tuple),
        ),
        max_leaves=5,
    )
    return nested.filter(lambda space: isinstance(space, gym.spaces.Dict | gym.spaces.Tuple))


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


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Box(0, 255, (3,), np.uint8),
        gym.spaces.Text(3),
        gym.spaces.Dict(a=gym.spaces.Discrete(2), b=gym.spaces.Text(3)),
    ],
)
def test_a_space_without_a_distribution_is_refused_by_name(space: gym.Space) -> None:
    with pytest.raises(ValueError, match=f"no policy for the action space .*{type(space).__name__}|Text"):
        distribution_for(space)


# ------------------------------------------------------------------------------------ bits, and several heads

HYBRID = gym.spaces.Dict(
    {
        "which": gym.spaces.Discrete(3, start=5),
        "how": gym.spaces.Tuple(
            [
                gym.spaces.Box(-1, 1, (2, 2), np.float32),
                gym.spaces.MultiBinary((1, 2)),
                gym.spaces.MultiDiscrete([2, 3]),
            ]
        ),
        "power": gym.spaces.Box(0, 10, (), np.float64),
    }
)


def test_bits_agree_with_torch_and_with_hand_numbers() -> None:
    params = 3 * torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    action = (torch.arange(400).view(100, 2, 2) % 3 == 0).to(torch.int8)
    ours, theirs = Bernoulli((2, 2)), torch.distributions.Bernoulli(logits=params)
    log_prob, entropy = ours.log_prob_and_entropy(params, action)
    torch.testing.assert_close(log_prob, theirs.log_prob(action.flatten(1).float()).sum(-1))
    torch.testing.assert_close(entropy, theirs.entropy().sum(-1))
    one = torch.tensor([[np.log(3.0), 0.0]])  # odds 3 and 1: probabilities 3/4 and 1/2
    assert float(Bernoulli((2,)).log_prob(one, torch.tensor([[1, 0]]))) == pytest.approx(np.log(3 / 8))
    assert float(Bernoulli((2,)).entropy(one)) == pytest.approx(
        -np.log(0.75) * 0.75 - np.log(0.25) / 4 + np.log(2)
    )


def test_bits_are_sampled_by_their_odds() -> None:
    params = np.broadcast_to(np.log(np.array([3.0, 1.0, 1 / 9])), (100_000, 3))
    distribution = Bernoulli((3,))
    sample = distribution.sample(params, np.random.default_rng(0))
    assert sample.dtype == np.int8
    assert sample.mean(0) == pytest.approx([0.75, 0.5, 0.1], abs=0.005)
    assert distribution.mode(params)[0].tolist() == [1, 0, 0]
    assert distribution.mode_in_torch(torch.tensor(params[:1].copy())).tolist() == [[1, 0, 0]]


def test_heads_add_up_and_each_sees_its_own_params() -> None:
    """Order of the leaves: how (box, bits, choices), power, which; the log stds of both boxes come last."""
    distribution, draw = distribution_for(HYBRID), torch.Generator().manual_seed(0)
    assert isinstance(distribution, IndependentHeads)
    assert (distribution.num_means, distribution.num_params) == (4 + 2 + 5 + 1 + 3, 15 + 5)
    params = torch.randn(50, 20, generator=draw)
    action = torch.from_numpy(distribution.sample(params.numpy(), np.random.default_rng(0)))
    assert (action.shape, action.dtype) == ((50, 10), torch.float32)
    box, bits, choices, power, which = (
        (DiagonalGaussian((2, 2)), torch.cat([params[:, :4], params[:, 15:19]], 1), action[:, :4]),
        (Bernoulli((1, 2)), params[:, 4:6], action[:, 4:6]),
        (distribution_for(gym.spaces.MultiDiscrete([2, 3])), params[:, 6:11], action[:, 6:8].long()),
        (DiagonalGaussian(()), torch.cat([params[:, 11:12], params[:, 19:]], 1), action[:, 8:9]),
        (Categorical(3, 5), params[:, 12:15], action[:, 9].long()),
    )
    parts = [box, bits, choices, power, which]
    log_prob, entropy = distribution.log_prob_and_entropy(params, action)
    torch.testing.assert_close(log_prob, sum(head.log_prob(own, taken) for head, own, taken in parts))
    torch.testing.assert_close(entropy, sum(head.entropy(own) for head, own, _ in parts))
    torch.testing.assert_close(distribution.log_prob(params, action), log_prob)
    torch.testing.assert_close(distribution.entropy(params), entropy)
    modes = distribution.mode(params.numpy())
    torch.testing.assert_close(distribution.mode_in_torch(params), torch.from_numpy(modes))
    assert modes[:, 9].tolist() == which[0].mode(which[1].numpy()).tolist()


@given(space=action_spaces(), seed=st.integers(0, 2**31 - 1))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_actions_come_in_their_spaces_form_and_back(space: gym.Space, seed: int) -> None:
    """What a policy draws is in the space once it has its form; the vector of a sample gives the sample."""
    distribution, form, rng = distribution_for(space), ActionForm(space), np.random.default_rng(seed)
    params = rng.standard_normal((4, distribution.num_params)).astype(np.float32)
    for action in distribution.sample(params, rng):
        given = form(action)
        assert space.contains(given), (given, space)
        assert form(given) is given
        np.testing.assert_array_equal(
            to_vector(space, given), to_vector(space, form(to_vector(space, given)))
        )
    space.seed(seed)
    sample = space.sample()
    again = form(to_vector(space, sample))
    np.testing.assert_array_equal(to_vector(space, again), to_vector(space, sample))
    assert space.contains(again)


def test_a_batch_of_vectors_becomes_one_of_leaves() -> None:
    form = ActionForm(HYBRID)
    batch = distribution_for(HYBRID).mode(np.ones((7, 20), np.float32))
    action = form(batch)
    assert action["how"][0].shape == (7, 2, 2)
    assert action["which"].tolist() == [5] * 7
    assert action["which"].dtype == np.int64
    assert action["power"].shape == (7,)


def test_integers_that_float32_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match=r"values above 2\^24"):
        ActionForm(gym.spaces.Tuple([gym.spaces.Discrete(3, start=2**24)]))


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
