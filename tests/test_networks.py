from __future__ import annotations

import functools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from rl.distributions import distribution_for
from rl.networks import MLP, Policy, clip_gradient, flatten_parameters

SPACES: list[gym.Space] = [gym.spaces.Discrete(3), gym.spaces.Box(-1, 1, (2,))]


def make_policy(space: gym.Space, activation: str = "tanh", init: str = "orthogonal") -> Policy:
    torch.manual_seed(0)
    network = functools.partial(MLP, hidden=[16, 8], activation=activation, init=init)
    return Policy(network, (4,), distribution_for(space), out_gain=1.0)


@pytest.mark.parametrize("space", SPACES, ids=["discrete", "box"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_acting_in_numpy_is_acting_in_torch(space: gym.Space, activation: str) -> None:
    policy = make_policy(space, activation, "default")
    obs = np.random.default_rng(0).standard_normal((7, 4), np.float32)
    forward = policy.numpy_forward()
    assert forward(obs) == pytest.approx(policy(torch.as_tensor(obs)).detach().numpy(), abs=1e-5)
    optimizer = torch.optim.Adam([flat := flatten_parameters(policy)], lr=0.1)
    forward = policy.numpy_forward()
    assert flat.grad is not None
    before = forward(obs)
    for _ in range(3):  # the NumPy side follows updates in place
        flat.grad.zero_()
        policy(torch.as_tensor(obs)).square().sum().backward()
        optimizer.step()
    assert np.abs(forward(obs) - before).max() > 0.1
    assert forward(obs) == pytest.approx(policy(torch.as_tensor(obs)).detach().numpy(), abs=1e-5)
    policy.load_state_dict(make_policy(space, activation, "default").state_dict())  # and a load
    assert np.array_equal(forward(obs), before)


def test_acting_does_not_change_what_it_is_given() -> None:
    obs = np.ones((2, 4), np.float32)
    make_policy(SPACES[0], "relu").numpy_forward()(obs)
    assert (obs == 1).all()


def test_bytes_are_taken_as_numbers() -> None:
    policy = make_policy(SPACES[0])
    obs = np.random.default_rng(0).integers(0, 256, (5, 4), np.uint8)
    expected = policy(torch.as_tensor(obs).float()).detach().numpy()
    assert policy(torch.as_tensor(obs)).detach().numpy() == pytest.approx(expected, abs=1e-5)
    assert policy.numpy_forward()(obs) == pytest.approx(expected, abs=1e-5)


def test_flat_parameters_keep_their_names_and_values() -> None:
    policy, twin = make_policy(SPACES[1]), make_policy(SPACES[1])
    flat = flatten_parameters(policy)
    assert list(policy.state_dict()) == list(twin.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(policy.state_dict().values(), twin.state_dict().values(), strict=True))
    assert flat.numel() == sum(p.numel() for p in twin.parameters())


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_on_the_flat_vector_is_a_step_on_each_parameter(fused: bool) -> None:
    def loss(policy: Policy) -> torch.Tensor:
        return policy(torch.linspace(-1, 1, 12).reshape(3, 4)).square().sum()

    policy, twin = make_policy(SPACES[1]), make_policy(SPACES[1])
    flat = flatten_parameters(policy)
    optimizers: list[Any] = [torch.optim.Adam([flat], lr=1e-2, fused=fused), torch.optim.Adam(twin.parameters(), lr=1e-2, fused=fused)]
    for _ in range(5):
        assert flat.grad is not None
        flat.grad.zero_()
        loss(policy).backward()
        optimizers[0].step()
        optimizers[1].zero_grad()
        loss(twin).backward()
        optimizers[1].step()
    for a, b in zip(policy.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_a_gradient_is_clipped_to_its_norm_and_a_small_one_left_alone() -> None:
    flat = torch.nn.Parameter(torch.zeros(2))
    flat.grad = torch.tensor([3.0, 4.0])
    assert float(clip_gradient(flat, None)) == 5.0
    assert float(clip_gradient(flat, 10.0)) == 5.0
    assert flat.grad.tolist() == [3.0, 4.0]
    assert float(clip_gradient(flat, 1.0)) == 5.0
    assert flat.grad.tolist() == pytest.approx([0.6, 0.8])


def test_orthogonal_weights_have_their_gains_and_biases_of_zero() -> None:
    torch.manual_seed(0)
    network = MLP((8,), 8, hidden=[8], activation="tanh", init="orthogonal", out_gain=0.01)
    first, last = network.layers[0], network.layers[1]
    torch.testing.assert_close(first.weight @ first.weight.T, 2 * torch.eye(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(last.weight @ last.weight.T, 1e-4 * torch.eye(8), atol=1e-8, rtol=0)
    assert not first.bias.any()
    assert not last.bias.any()
