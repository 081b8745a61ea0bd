"""Masked actions: probabilities, entropies, gradients, values and choices, by hand numbers."""

from __future__ import annotations

import functools
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from rl.learning.distributions import Categorical, MultiCategorical
from rl.learning.exploration import boltzmann, epsilon_greedy
from rl.learning.gradient_step import flatten_parameters
from rl.learning.masks import (
    MASKED,
    WithMask,
    mask_size,
    mean_allowed,
    random_actions,
    random_allowed,
)
from rl.learning.networks.masked import IgnoringMask, Masked, hide, hide_in_numpy, per_action
from rl.learning.networks.mlp import MLP, DuelingMLP
from rl.learning.networks.noisy import NoisyMLP, noise_for
from rl.learning.networks.policy import ActorCritic, Policy
from rl.learning.normalize import ObsNormalizer
from rl.spaces import MASK

LOGITS = [[math.log(1.0), math.log(2.0), math.log(3.0), 7.0], [0.5, 1.5, 2.5, 3.5]]
ALLOWED = [[1, 1, 1, 0], [0, 0, 1, 0]]


def test_masked_log_probs_and_entropies_are_hand_numbers() -> None:
    """1 : 2 : 3 among three allowed actions, and the only allowed one."""
    params, head = hide(torch.tensor(LOGITS), torch.tensor(ALLOWED)), Categorical(4)
    log_prob, entropy = head.log_prob_and_entropy(params, torch.tensor([1, 2]))
    assert log_prob.tolist() == pytest.approx([math.log(2 / 6), 0.0], abs=1e-6)
    expected = -sum(p * math.log(p) for p in (1 / 6, 2 / 6, 3 / 6))
    assert entropy.tolist() == pytest.approx([expected, 0.0], abs=1e-6)
    assert head.log_prob(params, torch.tensor([1, 2])).tolist() == log_prob.tolist()
    assert head.entropy(params).tolist() == entropy.tolist()
    assert head.mode_in_torch(params).tolist() == head.mode(params.numpy()).tolist() == [2, 2]


def test_masked_choices_are_independent_hand_numbers() -> None:
    """Of two choices, 3 and 2 values: the first has 1 : 2 : masked, the second one allowed value."""
    head = MultiCategorical(np.array([3, 2]), np.array([0, 0]))
    logits = torch.tensor([[0.0, math.log(2.0), 9.0, 5.0, 1.0]])
    params = hide(logits, torch.tensor([[1, 1, 0, 0, 1]]))
    log_prob, entropy = head.log_prob_and_entropy(params, torch.tensor([[1, 1]]))
    assert float(log_prob) == pytest.approx(math.log(2 / 3))
    assert float(entropy) == pytest.approx(math.log(3) - 2 / 3 * math.log(2))
    assert head.mode(params.numpy()).tolist() == head.mode_in_torch(params).tolist() == [[1, 1]]
    sample = head.sample(np.repeat(params.numpy(), 1000, 0), np.random.default_rng(0))
    assert set(map(tuple, sample.tolist())) == {(0, 1), (1, 1)}


def test_no_gradient_reaches_a_masked_logit() -> None:
    logits = torch.tensor(LOGITS, requires_grad=True)
    log_prob, entropy = Categorical(4).log_prob_and_entropy(
        hide(logits, torch.tensor(ALLOWED)), torch.tensor([1, 2])
    )
    (log_prob - 0.7 * entropy).sum().backward()
    gradient = logits.grad
    assert gradient is not None
    assert gradient[0, 3] == 0
    assert gradient[1].tolist() == [0, 0, 0, 0]  # nothing to choose
    assert (gradient[0, :3] != 0).all()
    assert torch.isfinite(gradient).all()


def test_without_a_mask_the_gradient_does_reach_it() -> None:
    """The negative control."""
    logits = torch.tensor(LOGITS, requires_grad=True)
    Categorical(4).log_prob(hide(logits, torch.ones(2, 4)), torch.tensor([1, 2])).sum().backward()
    assert logits.grad is not None
    assert (logits.grad != 0).all()


def test_an_end_where_nothing_is_allowed_gives_finite_numbers() -> None:
    params = hide(torch.tensor(LOGITS, requires_grad=True), torch.zeros(2, 4))
    log_prob, entropy = Categorical(4).log_prob_and_entropy(params, torch.tensor([1, 2]))
    assert torch.isfinite(torch.stack([log_prob, entropy])).all()
    target = 0.5 + 0.0 * float(params.max(-1).values[0])  # a target's discount is 0 there
    assert target == 0.5


# ----- choosing


def test_samples_follow_the_probabilities_of_allowed_actions() -> None:
    params = hide_in_numpy(np.array(LOGITS, np.float32)[:1], np.array(ALLOWED)[:1])
    sample = Categorical(4).sample(np.repeat(params, 60_000, 0), np.random.default_rng(0))
    assert np.bincount(sample, minlength=4) / 60_000 == pytest.approx([1 / 6, 2 / 6, 3 / 6, 0], abs=0.01)
    assert not (sample == 3).any()


def test_exploration_never_takes_a_masked_action() -> None:
    """Uniform over allowed actions with epsilon 1, and by their values with a temperature."""
    rng, value = np.random.default_rng(0), np.array([[0.0, 1.0, MASKED, 0.5]], np.float32).repeat(30_000, 0)
    share = np.bincount(epsilon_greedy(value, 1.0, rng), minlength=4) / 30_000
    assert share == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3], abs=0.01)
    assert share[2] == 0
    assert (epsilon_greedy(value, 0.0, rng) == 1).all()
    chosen = boltzmann(value, 100.0, rng)
    assert np.bincount(chosen, minlength=4)[2] == 0
    assert np.bincount(chosen, minlength=4)[0] == pytest.approx(10_000, rel=0.05)


def test_a_mean_of_masked_quantiles_is_masked_too() -> None:
    """The mean of 50 equal numbers need not be that number."""
    value = np.full((1000, 3, 50), MASKED, np.float32).mean(-1)
    value[:, 1] = 2.0
    assert (epsilon_greedy(value, 1.0, np.random.default_rng(0)) == 1).all()
    assert float(mean_allowed(torch.from_numpy(value))) == 2.0


def test_exploration_without_masks_draws_as_before() -> None:
    value = np.random.default_rng(1).normal(size=(64, 5)).astype(np.float32)
    random = np.random.default_rng(0)
    chance, any_action = random.random(64) < 0.5, random.integers(5, size=64)
    expected = np.where(chance, any_action, value.argmax(-1))
    assert (epsilon_greedy(value, 0.5, np.random.default_rng(0)) == expected).all()


def packed(obs: np.ndarray, mask: np.ndarray) -> np.ndarray:
    dtype = np.dtype([("obs", np.float32, obs.shape[1:]), (MASK, np.int8, mask.shape[1:])])
    rows = np.empty(len(obs), dtype)
    rows["obs"], rows[MASK] = obs, mask
    return rows


def test_random_actions_are_all_allowed_ones_equally() -> None:
    mask = np.array([[0, 1, 0, 1, 1]], np.int8).repeat(30_000, 0)
    action = random_actions(packed(np.zeros((30_000, 1)), mask), 5, np.random.default_rng(0))
    assert np.bincount(action, minlength=5) / 30_000 == pytest.approx([0, 1 / 3, 0, 1 / 3, 1 / 3], abs=0.01)
    assert np.bincount(action, minlength=5)[[0, 2]].tolist() == [0, 0]
    plain = random_actions(np.zeros((10, 1)), 5, np.random.default_rng(0))
    assert plain.tolist() == np.random.default_rng(0).integers(5, size=10).tolist()
    every = random_allowed(np.eye(6, dtype=np.bool_), np.random.default_rng(0))
    assert every.tolist() == list(range(6))


# ----- networks

SMALL: dict[str, Any] = {"hidden": [5], "activation": "tanh", "init": "default"}
MASKS = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 1], [0, 1, 0]], dtype=torch.float32)


def inputs_and_masks() -> tuple[torch.Tensor, torch.Tensor]:
    obs = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    return obs, torch.cat([obs, MASKS], 1)


@pytest.mark.parametrize("quantiles", [None, 4])
@pytest.mark.parametrize("kind", [MLP, DuelingMLP, NoisyMLP])
def test_masked_values_are_hidden_and_the_others_as_without(kind: type[MLP], quantiles: int | None) -> None:
    """In torch and by the NumPy twin, with noise where there is some; the mask changes no other value."""
    torch.manual_seed(0)
    factory = IgnoringMask(functools.partial(kind, **SMALL), 3)
    network, (obs, inputs) = per_action(factory, (2,), 3, quantiles=quantiles), inputs_and_masks()
    assert isinstance(network, Masked)
    flatten_parameters(network)
    noise = noise_for(network)(4, np.random.default_rng(0))
    outputs = network(inputs, *map(torch.from_numpy, noise))
    plain = network.network(obs, *map(torch.from_numpy, noise))
    allowed = MASKS.bool()
    assert torch.equal(outputs[allowed], plain[allowed])
    assert (outputs[~allowed] == np.float32(MASKED)).all()
    np.testing.assert_allclose(network.numpy_forward()(inputs.numpy(), *noise), outputs.detach(), rtol=1e-5)
    outputs[allowed].sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def test_networks_without_masks_are_the_factorys_own() -> None:
    assert type(per_action(functools.partial(MLP, **SMALL), (2,), 3)) is MLP


def test_images_before_a_mask_have_their_shape_again() -> None:
    seen: list[torch.Tensor] = []

    class Looking(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return images.flatten(1)[:, :3].float()

    network = Masked(Looking(), (2, 3, 3), 3)
    images = torch.arange(36, dtype=torch.uint8).view(2, 2, 3, 3)
    outputs = network(torch.cat([images.flatten(1), torch.tensor([[1, 0, 1]] * 2, dtype=torch.uint8)], 1))
    assert torch.equal(seen[0], images)
    assert outputs[:, 1].tolist() == [np.float32(MASKED)] * 2


@pytest.mark.parametrize("shared", [False, True])
def test_policies_hide_params_and_values_ignore_masks(shared: bool) -> None:
    torch.manual_seed(0)
    factory = IgnoringMask(functools.partial(MLP, **SMALL), 3)
    networks, (_, inputs) = ActorCritic(factory, (2,), Categorical(3), shared=shared), inputs_and_masks()
    params, value = networks(inputs)
    others = inputs.clone()
    others[:, 2:] = 1
    free, same = networks(others)
    assert torch.equal(value, same)
    assert torch.equal(params, torch.where(MASKS.bool(), free, MASKED))
    np.testing.assert_allclose(networks.numpy_policy()(inputs.numpy()), params.detach(), rtol=1e-5)
    np.testing.assert_allclose(networks.numpy_value()(inputs.numpy()), value.detach(), rtol=1e-5)
    if shared:
        both = networks.numpy_forward()(inputs.numpy())
        np.testing.assert_allclose(both[0], params.detach(), rtol=1e-5)
        np.testing.assert_allclose(both[1], value.detach(), rtol=1e-5)


def test_the_weights_behind_a_masked_logit_get_no_gradient() -> None:
    torch.manual_seed(0)
    policy = Policy(IgnoringMask(functools.partial(MLP, **SMALL), 3), (2,), Categorical(3))
    obs, _ = inputs_and_masks()
    inputs = torch.cat([obs, torch.tensor([[1.0, 0.0, 1.0]] * 4)], 1)
    log_prob, entropy = Categorical(3).log_prob_and_entropy(policy(inputs), torch.tensor([0, 2, 2, 0]))
    (log_prob + entropy).sum().backward()
    last = policy.network.network.layers[-1]
    assert last.bias.grad[1] == 0
    assert (last.weight.grad[1] == 0).all()
    assert (last.bias.grad[[0, 2]] != 0).all()


# ----- observations


class Plain:
    """What makes inputs of the key `obs`, normalised."""

    def __init__(self) -> None:
        self.normalizer = ObsNormalizer((2,))
        self.parts = self.normalizer.parts

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        return self.normalizer(obs["obs"])

    def update(self, obs: np.ndarray) -> None:
        self.normalizer.update(obs["obs"])


def test_the_mask_comes_last_and_is_not_normalised() -> None:
    obs, mask = np.random.default_rng(0).normal(5, 3, (6, 2)), np.array([[1, 0, 2]] * 6, np.int8)
    inputs = WithMask(Plain(), 3)
    rows = packed(obs, mask).reshape(2, 3)
    inputs.update(rows)
    given = inputs(rows)
    assert given.shape == (2, 3, 5)
    assert given.dtype == np.float32
    assert (given[..., 2:] == [1, 0, 1]).all()
    assert np.abs(given[..., :2].mean((0, 1))).max() < 1e-5
    assert inputs.parts.keys() == {"obs_normalizer"}


@pytest.mark.parametrize(
    ("actions", "size", "message"),
    [
        (gym.spaces.Discrete(4), 3, r"has 3 numbers, and Discrete\(4\) needs 4"),
        (gym.spaces.MultiDiscrete([2, 3]), 6, "needs 5"),
        (gym.spaces.Box(-1, 1, (3,)), 3, "Discrete and MultiDiscrete spaces can be masked"),
        (gym.spaces.MultiBinary(3), 3, "Discrete and MultiDiscrete spaces can be masked"),
    ],
)
def test_a_mask_that_does_not_fit_the_actions_is_refused(actions: gym.Space, size: int, message: str) -> None:
    space = gym.spaces.Dict(obs=gym.spaces.Box(-1, 1, (2,)), action_mask=gym.spaces.MultiBinary(size))
    with pytest.raises(ValueError, match=message):
        mask_size(space, actions)
    assert mask_size(gym.spaces.Dict(obs=space["obs"]), actions) == 0
