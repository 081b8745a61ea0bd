"""Networks for images."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from rl.learning.distributions import distribution_for
from rl.learning.gradient_step import flatten_parameters
from rl.learning.networks.cnn import Convolutions, DuelingNatureCNN, ImpalaResNet, NatureCNN
from rl.learning.networks.mlp import MLP
from rl.learning.networks.numpy_forward import numpy_forward
from rl.learning.networks.policy import ActorCritic, Policy

ALL = [NatureCNN, DuelingNatureCNN, ImpalaResNet]
ATARI = (4, 84, 84)


def small(kind: type[Convolutions], obs_shape: Any = ATARI, outputs: int = 3, **options: Any) -> Convolutions:
    torch.manual_seed(0)
    return kind(
        obs_shape,
        outputs,
        **{"hidden": [8], "activation": "relu", "init": "orthogonal", "channels": [2, 4, 6], **options},
    )


def images(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def nature(network: Convolutions) -> nn.Sequential:
    """The same, layer by layer as in the paper, on images from 0 to 1."""
    relu = nn.ReLU()
    one, two, three = network.convolutions
    hidden, last = network.head.layers
    return nn.Sequential(one, relu, two, relu, three, relu, nn.Flatten(), hidden, relu, last)


def test_nature_cnn_is_that_of_its_paper() -> None:
    network = NatureCNN(ATARI, 6, hidden=[512], activation="relu", init="default")
    shapes = [tuple(p.shape) for p in network.parameters() if p.dim() > 1]
    assert shapes == [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 3136), (6, 512)]
    obs = images(5, *ATARI)
    torch.testing.assert_close(network(obs), nature(network)(obs.float() / 255))


def test_impala_resnet_is_that_of_its_paper() -> None:
    network = ImpalaResNet(ATARI, 6, hidden=[256], activation="relu", init="default")
    assert [layer.out_channels for layer in network.convolutions] == [16] * 5 + [32] * 10  # type: ignore[union-attr]
    assert network.features(images(2, *ATARI)).shape == (2, 32, 11, 11)
    assert network.head.layers[0].in_features == 3872
    layers = list(network.convolutions)
    x = images(2, *ATARI).float() / 255
    for enter, *blocks in (layers[:5], layers[5:10], layers[10:]):
        x = nn.functional.max_pool2d(enter(x), 3, 2, 1)
        for first, second in (blocks[:2], blocks[2:]):
            x = x + second(first(x.relu()).relu())
    torch.testing.assert_close(network(images(2, *ATARI)), network.head(x.relu()))


@pytest.mark.parametrize("kind", ALL)
def test_bytes_are_divided_by_255_and_floats_are_not(kind: type[Convolutions]) -> None:
    network, obs = small(kind), images(3, *ATARI)
    assert network(obs).shape == (3, 3)
    torch.testing.assert_close(network(obs), network(obs.float() / 255))
    assert not torch.allclose(network(obs), network(obs.float()), rtol=0.1)


@pytest.mark.parametrize("kind", ALL)
def test_outputs_do_not_depend_on_the_memory_layout(kind: type[Convolutions]) -> None:
    network, obs = small(kind), images(3, *ATARI)
    torch.testing.assert_close(network(obs), network(obs.contiguous(memory_format=torch.channels_last)))
    assert network.first(obs).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", ALL)
def test_gradients_reach_every_weight_and_observations_stay(kind: type[Convolutions]) -> None:
    network, obs = small(kind), images(3, *ATARI)
    before = obs.clone()
    network(obs).square().sum().backward()
    assert torch.equal(obs, before)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("kind", ALL)
def test_acting_follows_flattening_and_updates(kind: type[Convolutions]) -> None:
    network, obs = small(kind), images(2, *ATARI)
    act = numpy_forward(network)
    flat = flatten_parameters(network)
    before = act(obs.numpy())
    assert np.array_equal(before, network(obs).detach().numpy())
    with torch.no_grad():
        flat.mul_(1.1)
    assert np.array_equal(act(obs.numpy()), network(obs).detach().numpy())
    assert not np.array_equal(act(obs.numpy()), before)


def test_orthogonal_weights_and_gain_of_the_last_layer() -> None:
    network = small(NatureCNN, out_gain=[0.01, 0.01, 1.0])
    weight = network.convolutions[2].weight.flatten(1)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(6), atol=1e-5, rtol=0)
    assert all(not p.any() for name, p in network.named_parameters() if name.endswith("bias"))
    torch.testing.assert_close(network.head.layers[-1].weight.norm(dim=1), torch.tensor([0.01, 0.01, 1.0]))


def test_a_shared_network_gives_policy_and_value() -> None:
    network = functools.partial(small, NatureCNN)
    torch.manual_seed(0)
    both = ActorCritic(
        lambda shape, outputs, **gain: network(shape, outputs, **gain),
        ATARI,
        distribution_for(gym.spaces.Discrete(6)),
        shared=True,
    )
    params, value = both(images(5, *ATARI))
    assert (params.shape, value.shape) == ((5, 6), (5,))
    assert np.array_equal(both.numpy_value()(images(5, *ATARI).numpy()), value.detach().numpy())
    assert isinstance(both.policy, Policy)


def test_dueling_values_differ_by_the_advantages() -> None:
    network, obs = small(DuelingNatureCNN), images(5, *ATARI)
    value, *advantages = MLP.forward(network.head, network.features(obs)).unbind(1)
    torch.testing.assert_close(network(obs).mean(1), value)
    torch.testing.assert_close(network(obs)[:, 1] - network(obs)[:, 0], advantages[1] - advantages[0])


@pytest.mark.parametrize(
    ("kind", "obs_shape", "options", "message"),
    [
        (NatureCNN, (4,), {}, "needs images"),
        (NatureCNN, (4, 35, 84), {}, "at least 36 x 36"),
        (ImpalaResNet, ATARI, {"channels": [16]}, "has 3 of them"),
    ],
)
def test_unfit_observations_and_channels_are_refused(
    kind: type[Convolutions], obs_shape: Any, options: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small(kind, obs_shape, **options)


@pytest.mark.parametrize("kind", ALL)
def test_the_smallest_allowed_images_work(kind: type[Convolutions]) -> None:
    assert small(kind, (3, kind.smallest, kind.smallest))(
        images(2, 3, kind.smallest, kind.smallest)
    ).shape == (2, 3)
