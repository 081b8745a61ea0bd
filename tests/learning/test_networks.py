from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from rl.config.schema import parts as schema
from rl.learning.distributions import distribution_for
from rl.learning.gradient_step import flatten_parameters
from rl.learning.networks.cnn import channels_last, select
from rl.learning.networks.ensemble import Ensemble, ensemble, frozen
from rl.learning.networks.layers import ACTIVATIONS
from rl.learning.networks.mlp import MLP, DuelingMLP
from rl.learning.networks.noisy import NoisyDuelingMLP, NoisyMLP, noise_for
from rl.learning.networks.normed import BatchRenormMLP, LayerNormMLP, batch_renorm
from rl.learning.networks.numpy_forward import numpy_forward
from rl.learning.networks.policy import ActorCritic, Policy
from rl.learning.networks.recurrent import GRU
from rl.learning.networks.simba import SimBa

SPACES: list[gym.Space] = [gym.spaces.Discrete(3), gym.spaces.Box(-1, 1, (2,))]


def make_policy(space: gym.Space, activation: str = "tanh", init: str = "orthogonal") -> Policy:
    torch.manual_seed(0)
    network = functools.partial(MLP, hidden=[16, 8], activation=activation, init=init)
    return Policy(network, (4,), distribution_for(space), out_gain=1.0)


@pytest.mark.parametrize("space", SPACES, ids=["discrete", "box"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_numpy_policy_equals_torch_and_follows_updates(space: gym.Space, activation: str) -> None:
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


def test_acting_leaves_observations_unchanged() -> None:
    obs = np.ones((2, 4), np.float32)
    make_policy(SPACES[0], "relu").numpy_forward()(obs)
    assert (obs == 1).all()


def test_bytes_are_cast_to_floats() -> None:
    policy = make_policy(SPACES[0])
    obs = np.random.default_rng(0).integers(0, 256, (5, 4), np.uint8)
    expected = policy(torch.as_tensor(obs).float()).detach().numpy()
    assert policy(torch.as_tensor(obs)).detach().numpy() == pytest.approx(expected, abs=1e-5)
    assert policy.numpy_forward()(obs) == pytest.approx(expected, abs=1e-5)


def test_flat_parameters_keep_their_names_and_values() -> None:
    policy, twin = make_policy(SPACES[1]), make_policy(SPACES[1])
    flat = flatten_parameters(policy)
    assert list(policy.state_dict()) == list(twin.state_dict())
    assert all(
        torch.equal(a, b)
        for a, b in zip(policy.state_dict().values(), twin.state_dict().values(), strict=True)
    )
    assert flat.numel() == sum(p.numel() for p in twin.parameters())


@pytest.mark.parametrize("fused", [True, False])
def test_flat_step_equals_a_step_per_parameter(fused: bool) -> None:
    def loss(policy: Policy) -> torch.Tensor:
        return policy(torch.linspace(-1, 1, 12).reshape(3, 4)).square().sum()

    policy, twin = make_policy(SPACES[1]), make_policy(SPACES[1])
    flat = flatten_parameters(policy)
    optimizers: list[Any] = [
        torch.optim.Adam([flat], lr=1e-2, fused=fused),
        torch.optim.Adam(twin.parameters(), lr=1e-2, fused=fused),
    ]
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


def test_orthogonal_weights_have_gains_and_zero_biases() -> None:
    torch.manual_seed(0)
    network = MLP((8,), 8, hidden=[8], activation="tanh", init="orthogonal", out_gain=0.01)
    first, last = network.layers[0], network.layers[1]
    torch.testing.assert_close(first.weight @ first.weight.T, 2 * torch.eye(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(last.weight @ last.weight.T, 1e-4 * torch.eye(8), atol=1e-8, rtol=0)
    assert not first.bias.any()
    assert not last.bias.any()


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_layer_norm_comes_before_the_activation(activation: str) -> None:
    torch.manual_seed(0)
    network = LayerNormMLP((2, 2), 3, hidden=[16, 8], activation=activation, init="default")
    for norm in network.norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    first, second, last = network.layers
    activate = {"tanh": nn.Tanh(), "relu": nn.ReLU()}[activation]
    plain = nn.Sequential(
        nn.Flatten(), first, network.norms[0], activate, second, network.norms[1], activate, last
    )
    obs = 3 + torch.randn(7, 2, 2)
    torch.testing.assert_close(network(obs), plain(obs))
    flatten_parameters(network)
    assert network.numpy_forward()(obs.numpy()) == pytest.approx(
        plain(obs).detach().numpy(), rel=1e-4, abs=1e-5
    )


@pytest.mark.parametrize("quantiles", [None, 5])
def test_simba_is_residual_blocks_after_layer_norm(quantiles: int | None) -> None:
    """Against torch's own modules, in NumPy too; three as one module, and the first two of it."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"hidden": [8, 8], "activation": "relu", "init": "orthogonal"}
    members = [SimBa((2, 2), 3, **options, quantiles=quantiles) for _ in range(3)]
    obs = 3 + torch.randn(7, 2, 2)
    expected = []
    for network in members:
        for norm in network.norms:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        assert [tuple(layer.weight.shape) for layer in network.layers][:3] == [(8, 4), (32, 8), (8, 32)]
        x = network.layers[0](obs.flatten(1))
        for block in range(2):
            up, down = network.layers[2 * block + 1], network.layers[2 * block + 2]
            x = x + nn.Sequential(network.norms[block], up, nn.ReLU(), down)(x)
        y = network.layers[-1](network.norms[-1](x))
        expected.append(y if quantiles is None else y.view(7, 3, 5))
        torch.testing.assert_close(network(obs), expected[-1])
        found = network.numpy_forward()(obs.numpy())
        assert found == pytest.approx(expected[-1].detach().numpy(), rel=1e-4, abs=1e-5)
    if quantiles is None:
        together: Any = SimBa.ensemble(members)
        torch.testing.assert_close(together(obs), torch.stack(expected))
        torch.testing.assert_close(together(obs, first=2), torch.stack(expected[:2]))


def test_blocks_of_simba_are_equally_wide() -> None:
    with pytest.raises(ValueError, match=r"hidden=\[8, 16\], all equally wide"):
        SimBa((4,), 3, hidden=[8, 16], activation="relu", init="default")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_in_numpy_equal_torch(activation: str) -> None:
    network = MLP((3,), 2, hidden=[16, 8], activation=activation, init="default")
    obs = 8 * torch.randn(64, 3)
    modules = {"gelu": nn.GELU("tanh"), "elu": nn.ELU(), "silu": nn.SiLU(), "leaky_relu": nn.LeakyReLU()}
    activate = modules.get(activation) or {"tanh": nn.Tanh(), "relu": nn.ReLU()}[activation]
    first, second, last = network.layers
    plain = nn.Sequential(first, activate, second, activate, last)(obs)
    torch.testing.assert_close(network(obs), plain)
    np.testing.assert_allclose(numpy_forward(network)(obs.numpy()), plain.detach(), rtol=1e-5, atol=2e-6)
    gradients = [
        torch.autograd.grad(y.square().sum(), list(network.parameters())) for y in (network(obs), plain)
    ]
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected)


def test_the_schema_offers_every_activation() -> None:
    assert tuple(ACTIVATIONS) == schema.ACTIVATIONS


# --------------------------------------------------------------------- weights that move


def flatten(network: nn.Module) -> None:
    flat = flatten_parameters(network)
    with torch.no_grad():
        flat.add_(1)


def cast(network: nn.Module) -> None:
    network.to(torch.float64).to(torch.float32)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)


def assign(network: nn.Module) -> None:
    network.load_state_dict({k: v.clone() + 1 for k, v in network.state_dict().items()}, assign=True)


def swap_data(network: nn.Module) -> None:
    for parameter in network.parameters():
        parameter.data = parameter.data + 1


PLAIN: dict[str, Any] = {"hidden": [8], "activation": "tanh", "init": "default"}
KINDS: dict[str, Callable[[], tuple[nn.Module, int]]] = {  # networks, and the size of their second input
    "MLP": lambda: (MLP((4,), 3, **PLAIN), 0),
    "NoisyDuelingMLP": lambda: ((network := NoisyDuelingMLP((4,), 3, **PLAIN)), network.noise_size),
    "LayerNormMLP": lambda: (LayerNormMLP((4,), 3, **PLAIN), 0),
    "SimBa": lambda: (SimBa((4,), 3, **PLAIN), 0),
    "BatchRenormMLP": lambda: (BatchRenormMLP((4,), 3, warm_up=0, **PLAIN), 0),
    "GRU": lambda: (GRU(functools.partial(MLP, **PLAIN), (4,), 5), 5),
    "Policy": lambda: (make_policy(SPACES[1]), 0),
}


@pytest.mark.parametrize("move", [flatten, cast, assign, swap_data])
@pytest.mark.parametrize("kind", KINDS)
def test_numpy_forward_follows_weights_that_move(kind: str, move: Callable[[nn.Module], None]) -> None:
    network, extra = KINDS[kind]()
    inputs = [torch.randn(5, size) for size in (4, extra) if size]
    arrays = [x.numpy() for x in inputs]
    forward = numpy_forward(network)
    before = forward(*arrays)
    move(network)
    expected = network(*inputs).detach().numpy()
    assert np.abs(expected - before).max() > 1e-3
    np.testing.assert_allclose(forward(*arrays), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("move", [flatten, cast, assign, swap_data])
def test_without_its_check_numpy_forward_would_be_stale(move: Callable[[nn.Module], None]) -> None:
    """The negative control: the same function with a check that never finds that the weights have moved."""
    network, obs = MLP((4,), 3, **PLAIN), torch.randn(5, 4)
    forward = numpy_forward(network)
    before = forward(obs.numpy())
    cells = dict(zip(forward.__code__.co_freevars, forward.__closure__ or (), strict=True))
    cells["remake"].cell_contents = lambda: None
    move(network)
    assert np.array_equal(forward(obs.numpy()), before)
    assert not np.allclose(network(obs).detach().numpy(), before, atol=1e-3)


@pytest.mark.parametrize("shared", [False, True])
def test_actor_critic_in_numpy_follows_weights_that_move(shared: bool) -> None:
    network = ActorCritic(functools.partial(MLP, **PLAIN), (4,), distribution_for(SPACES[1]), shared=shared)
    obs = torch.randn(5, 4)
    policy, value = network.numpy_policy(), network.numpy_value()
    both = network.numpy_forward() if shared else lambda x: (policy(x), value(x))
    for move in (flatten, cast, assign, swap_data):
        move(network)
        expected = [output.detach().numpy() for output in network(obs)]
        for found in ((policy(obs.numpy()), value(obs.numpy())), both(obs.numpy())):
            for ours, theirs in zip(found, expected, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copied_network_has_weights_of_its_own(kind: str) -> None:
    network, extra = KINDS[kind]()
    inputs = [torch.randn(5, size) for size in (4, extra) if size]
    copies = [copy.deepcopy(network), pickle.loads(pickle.dumps(network))]
    expected = network(*inputs)
    swap_data(network)
    for copied in copies:
        assert torch.equal(copied(*inputs), expected)
        arrays = [x.numpy() for x in inputs]
        np.testing.assert_allclose(numpy_forward(copied)(*arrays), expected.detach(), rtol=1e-4, atol=1e-5)


class Doubled(MLP):
    def forward(self, obs: torch.Tensor, *noise: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(obs, *noise)


@pytest.mark.parametrize("make", [lambda: Doubled((4,), 3, **PLAIN), lambda: nn.Linear(4, 3)])
def test_networks_without_layers_of_their_own_act_by_torch(make: Callable[[], nn.Module]) -> None:
    network, obs = make(), torch.randn(5, 4)
    forward = numpy_forward(network)
    for move in (flatten, cast, assign, swap_data):
        assert np.array_equal(forward(obs.numpy()), network(obs).detach().numpy())
        move(network)


def test_weights_off_the_cpu_are_left_to_torch() -> None:
    network = MLP((4,), 3, **PLAIN)
    forward = numpy_forward(network)
    forward(np.zeros((2, 4), np.float32))
    network.to("meta")
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):  # as any tensor of that device
        forward(np.zeros((2, 4), np.float32))


# --------------------------------------------------------------------- ensembles


@pytest.mark.parametrize("kind", [MLP, DuelingMLP], ids=["batched", "one by one"])
def test_an_ensemble_equals_its_members(kind: type[MLP]) -> None:
    network = functools.partial(kind, hidden=[16, 8], activation="relu", init="default")
    obs = torch.randn(7, 4)
    torch.manual_seed(0)
    both = ensemble(network, 2, (4,), 3)
    torch.manual_seed(0)
    apart = [network((4,), 3) for _ in range(2)]
    # which inherits from MLP, but not how it is evaluated
    assert isinstance(both, Ensemble) == (kind is DuelingMLP)
    torch.testing.assert_close(both(obs), torch.stack([one(obs) for one in apart]))
    torch.testing.assert_close(both(obs, first=1), apart[0](obs).unsqueeze(0))
    assert not torch.allclose(both(obs)[0], both(obs)[1])

    (both(obs)[0].square().sum() + 2 * both(obs)[1].square().sum()).backward()
    (apart[0](obs).square().sum() + 2 * apart[1](obs).square().sum()).backward()
    norms = [
        float(torch.cat([p.grad.flatten() for p in module.parameters()]).norm())
        for module in (both, nn.ModuleList(apart))
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_gradient_passes_through_a_frozen_network() -> None:
    network = ensemble(functools.partial(MLP, hidden=[8], activation="relu", init="default"), 2, (4,), 1)
    obs = torch.randn(7, 4, requires_grad=True)
    frozen(network)(obs).sum().backward()
    passed, obs.grad = obs.grad, None
    assert all(p.grad is None for p in network.parameters())
    network(obs).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    torch.testing.assert_close(passed, obs.grad)


# --------------------------------------------------------------------- noise and quantiles


def make_noisy(kind: type[MLP] = NoisyMLP, quantiles: int | None = None) -> Any:
    torch.manual_seed(0)
    network = kind((4,), 3, hidden=[8, 6], activation="relu", init="default", quantiles=quantiles)
    for sigma in network.sigmas:
        nn.init.normal_(sigma.weight)
        nn.init.normal_(sigma.bias)
    return network


def test_a_noisy_network_is_one_with_perturbed_weights() -> None:
    network, obs = make_noisy(), torch.randn(5, 4)
    noise = torch.randn(5, network.noise_size)
    for row in range(5):
        e, x = noise[row].split([4, 8, 8, 6, 6, 3]), obs[row]
        for layer, (mean, sigma) in enumerate(zip(network.layers, network.sigmas, strict=True)):
            weight = mean.weight + sigma.weight * torch.outer(e[2 * layer + 1], e[2 * layer])
            x = weight @ (x.relu() if layer else x) + mean.bias + sigma.bias * e[2 * layer + 1]
        torch.testing.assert_close(network(obs, noise)[row], x)
    torch.testing.assert_close(network(obs, noise[:1]), network(obs, noise[:1].expand(5, -1)))
    torch.testing.assert_close(network(obs), MLP.forward(network, obs))
    torch.testing.assert_close(network(obs), network(obs, torch.zeros(1, network.noise_size)))


def test_initial_weights_of_a_noisy_network() -> None:
    network = NoisyMLP((4,), 3, hidden=[16], activation="relu", init="default")
    for mean, sigma, inputs in zip(network.layers, network.sigmas, (4, 16), strict=True):
        for parameter in mean.parameters():
            assert 0.7 < parameter.detach().abs().max() * inputs**0.5 <= 1
        for parameter in sigma.parameters():
            assert torch.equal(parameter.detach(), torch.full_like(parameter, 0.5 / inputs**0.5))


def test_noise_is_the_signed_root_of_normal_noise() -> None:
    network = make_noisy()
    (noise,) = noise_for(network)(3, np.random.default_rng(0))
    assert (noise.shape, noise.dtype) == ((3, network.noise_size), np.float32)
    np.testing.assert_allclose(
        noise * np.abs(noise), np.random.default_rng(0).standard_normal(noise.shape, np.float32), rtol=1e-5
    )
    assert noise_for(make_policy(SPACES[0]).network)(3, np.random.default_rng(0)) == ()


@pytest.mark.parametrize("quantiles", [None, 5])
@pytest.mark.parametrize("kind", [MLP, DuelingMLP, NoisyMLP, NoisyDuelingMLP])
def test_action_values_in_numpy_equal_torch(kind: type[MLP], quantiles: int | None) -> None:
    plain = functools.partial(
        kind, (4,), 3, hidden=[8], activation="tanh", init="default", quantiles=quantiles
    )
    network = make_noisy(kind, quantiles) if issubclass(kind, NoisyMLP) else plain()
    obs = np.random.default_rng(0).standard_normal((7, 4), np.float32)
    flat, forward = flatten_parameters(network), network.numpy_forward()
    for rows in (0, 1, 7):
        noise = noise_for(network)(rows, np.random.default_rng(rows)) if rows else ()
        expected = network(*map(torch.as_tensor, (obs, *noise)))
        assert expected.shape == ((7, 3) if quantiles is None else (7, 3, quantiles))
        np.testing.assert_allclose(forward(obs, *noise), expected.detach(), rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            flat.mul_(1.1)


def test_dueling_heads_of_quantiles() -> None:
    network = DuelingMLP((4,), 3, hidden=[8], activation="relu", init="default", quantiles=5)
    obs = torch.randn(7, 4)
    value, *advantages = MLP.forward(network, obs).unbind(1)  # [B, 5] each
    assert len(advantages) == 3
    torch.testing.assert_close(network(obs).mean(1), value)
    torch.testing.assert_close(network(obs)[:, 1] - network(obs)[:, 0], advantages[1] - advantages[0])


# --------------------------------------------------------------------- batch renormalisation


def test_batch_renorm_by_hand() -> None:
    x = torch.tensor([[1.0], [3.0], [5.0], [7.0]])  # mean 4, variance 5

    def renormed(running_mean: float, running_var: float, r_max: float, d_max: float) -> list[float]:
        numbers = (torch.tensor([[float(number)]]) for number in (running_mean, running_var, r_max, d_max))
        y, mean, var = batch_renorm(x, *numbers, torch.tensor(1.0), torch.tensor(0.0), eps=0.0)
        assert (float(mean), float(var)) == (4.0, 5.0)
        return y.flatten().tolist()

    root = 5**0.5
    plain = [-3 / root, -1 / root, 1 / root, 3 / root]
    assert renormed(0, 1, 1, 0) == pytest.approx(plain)  # batch normalisation
    assert renormed(3, 4, 10, 10) == pytest.approx([-1, 0, 1, 2])  # within bounds: (x - 3) / 2
    # r is 2 of sqrt 5, d is 0.5 of 4
    assert renormed(0, 1, 2, 0.5) == pytest.approx([2 * z + 0.5 for z in plain])
    # r is 1 / 2 of 1 / 4, d is -0.5 of -0.56
    assert renormed(9, 80, 2, 0.5) == pytest.approx([0.5 * z - 0.5 for z in plain])


def test_r_and_d_are_constants_to_the_gradient() -> None:
    x = torch.randn(6, 1, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 1, dtype=torch.float64)
    running = [torch.tensor([[n]], dtype=torch.float64) for n in (0.3, 2.0)]
    wide, none = (torch.tensor(bounds, dtype=torch.float64) for bounds in ((9.0, 9.0), (1.0, 0.0)))
    affine = torch.tensor(3.0), torch.tensor(1.0)
    renormed, _, _ = batch_renorm(x, *running, *wide, *affine, eps=0.0)
    normed, _, _ = batch_renorm(x, *running, *none, *affine, eps=0.0)
    gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (renormed, normed)]
    torch.testing.assert_close(gradients[0], gradients[1] * x.detach().std(correction=0) / 2**0.5)
    std = x.detach().std(correction=0)
    torch.testing.assert_close(normed, 3 * (x - x.mean()) / std + 1)


def make_renormed(members: int = 2, warm_up: int = 2) -> BatchRenormMLP:
    torch.manual_seed(0)
    return BatchRenormMLP(
        (3,), 2, hidden=[8, 4], activation="relu", init="default", warm_up=warm_up, members=members
    )


def test_running_moments_follow_the_batches() -> None:
    network, obs = make_renormed(), torch.randn(64, 3) * 2 + 1
    _, moments = network.by_batch(obs)
    # learning alone moves nothing
    assert torch.equal(network.moments[0], torch.zeros_like(network.moments[0]))
    network.follow(moments)
    torch.testing.assert_close(network.moments[0, :, 0, :3], 0.01 * obs.mean(0).expand(2, -1))
    torch.testing.assert_close(
        network.moments[1, :, 0, :3], (0.99 + 0.01 * obs.var(0, correction=0)).expand(2, -1)
    )
    assert network.batches.tolist() == [1]
    assert {"moments", "batches"} <= network.state_dict().keys()


def test_batch_and_running_moments_agree_in_the_end() -> None:
    network, obs = make_renormed(warm_up=10**6), torch.randn(64, 3) * 2 + 1
    far = (network(obs) - network.by_batch(obs)[0]).abs().max()
    for _ in range(2000):
        network.follow(network.by_batch(obs)[1])
    torch.testing.assert_close(network(obs), network.by_batch(obs)[0], rtol=1e-4, atol=1e-4)
    assert far > 0.05


def test_batches_are_renormalised_after_the_warm_up() -> None:
    network, obs = make_renormed(warm_up=2), torch.randn(64, 3) * 1.2
    first, moments = network.by_batch(obs)
    network.follow(moments)
    # batch normalisation does not look at the running moments
    torch.testing.assert_close(network.by_batch(obs)[0], first)
    network.follow(moments)
    network.moments.copy_(moments.view_as(network.moments) * 1.2)
    # within the bounds r and d make up for all
    torch.testing.assert_close(network.by_batch(obs)[0], network(obs), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(network.by_batch(obs)[0], first, rtol=1e-3)


def test_batch_renorm_in_numpy_equals_torch() -> None:
    network, obs = make_renormed(members=1), torch.randn(64, 3)
    flatten_parameters(network)
    forward = network.numpy_forward()
    for _ in range(2):
        assert forward(obs.numpy()) == pytest.approx(network(obs).detach().numpy(), abs=1e-5)
        network.follow(network.by_batch(obs)[1] + 1)
        with torch.no_grad():
            for p in network.parameters():
                p.add_(0.1)


@pytest.mark.parametrize("shape", [(3,), (2, 5), (4, 6, 5)])
def test_selected_observations_are_channels_last(shape: tuple[int, ...]) -> None:
    obs, index = torch.randint(0, 256, (8, *shape), dtype=torch.uint8), torch.tensor([5, 0, 5])
    selected = select(channels_last(obs), index)
    assert torch.equal(selected, obs[index])
    assert channels_last(selected) is selected
