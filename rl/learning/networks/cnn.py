"""Networks for images [B, channels, height, width], bytes or float32.

Bytes stay bytes until here: they are divided by 255 by way of the first convolution's weights, which are
fewer. Images are laid out channels last: on a CPU forward and backward together take two thirds of the time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from rl.learning.networks.layers import ACTIVATIONS
from rl.learning.networks.mlp import MLP, DuelingMLP
from rl.learning.networks.noisy import NoisyDuelingMLP


def channels_last(obs: Tensor) -> Tensor:
    """Images [B, C, H, W] laid out as networks for them want it, and other observations as they are."""
    return obs.contiguous(memory_format=torch.channels_last) if obs.ndim == 4 else obs


def select(obs: Tensor, index: Tensor) -> Tensor:
    """Observations `index` [M] of [B, ...] in the layout of `channels_last`: `index_select` makes another, in
    9 ms for 0.6.
    """
    return (
        obs.movedim(1, -1).index_select(0, index).movedim(-1, 1)
        if obs.ndim == 4
        else obs.index_select(0, index)
    )


class Convolutions(nn.Module):
    """What its subclasses share: convolutions that they make and apply, and an MLP from there to the outputs.

    `orthogonal` weights have gain sqrt(2) and zero biases, `out_gain` in the last layer (see MLP).
    """

    default_channels: Sequence[int]
    smallest: int  # images must be as high and as wide
    head_class: type[MLP] = MLP

    def __init__(
        self,
        obs_shape: Sequence[int],
        num_outputs: int,
        *,
        hidden: Sequence[int],
        activation: str,
        init: str,
        channels: Sequence[int] | None = None,
        out_gain: float | Sequence[float] | None = None,
        quantiles: int | None = None,
    ) -> None:
        """ValueError if observations are no images, or too small, or the number of `channels` is not that of
        the layers.
        """
        super().__init__()
        channels = channels or self.default_channels
        if len(channels) != len(self.default_channels):
            raise ValueError(
                f"algo.network.channels={list(channels)}: {type(self).__name__} has {len(self.default_channels)} of them"
            )
        if len(obs_shape) != 3 or min(obs_shape[1:]) < self.smallest:
            raise ValueError(
                f"algo.network={type(self).__name__} needs images [channels, height, width] of at least {self.smallest} x {self.smallest},"
                f" and observations are {list(obs_shape)}; try algo.network._target_=rl.networks.MLP"
            )
        self.activate, _ = ACTIVATIONS[activation]
        layers = self.make(obs_shape[0], channels)
        self.convolutions = nn.ModuleList(layers)
        if init == "orthogonal":
            for layer in layers:
                nn.init.orthogonal_(layer.weight, math.sqrt(2))
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        with torch.no_grad():
            features = self.features(torch.zeros(1, *obs_shape, dtype=torch.uint8)).numel()
        gain = {} if out_gain is None else {"out_gain": out_gain}
        self.head = self.head_class(
            (features,),
            num_outputs,
            hidden=hidden,
            activation=activation,
            init=init,
            quantiles=quantiles,
            **gain,
        )
        self.noise_size = getattr(self.head, "noise_size", 0)

    def make(self, in_channels: int, channels: Sequence[int]) -> list[nn.Conv2d]:
        """All convolutions, in the order in which they are applied."""
        raise NotImplementedError

    def features(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> the activations of the last convolution [B, C', H', W']."""
        raise NotImplementedError

    def forward(self, images: Tensor, *noise: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, num_outputs] or [B, num_outputs, quantiles]; noise is for a noisy head."""
        return self.head(self.features(images), *noise)

    def first(self, images: Tensor) -> Tensor:
        """The first convolution, of bytes as parts of 255 or of numbers as they are."""
        layer = self.convolutions[0]
        assert isinstance(layer, nn.Conv2d)
        weight = layer.weight / 255 if images.dtype == torch.uint8 else layer.weight
        # in two steps, which take 7 ms where one takes 13
        x = images.float().contiguous(memory_format=torch.channels_last)
        return conv2d(x, weight, layer.bias, layer.stride, layer.padding)


class NatureCNN(Convolutions):
    """Three convolutions (Mnih et al. 2015, Methods): 8 x 8 with stride 4, 4 x 4 with stride 2, 3 x 3; there
    with 512 hidden units.
    """

    default_channels, smallest = (32, 64, 64), 36

    def make(self, in_channels: int, channels: Sequence[int]) -> list[nn.Conv2d]:
        """The three."""
        one, two, three = channels
        return [nn.Conv2d(in_channels, one, 8, 4), nn.Conv2d(one, two, 4, 2), nn.Conv2d(two, three, 3, 1)]

    def features(self, images: Tensor) -> Tensor:
        """[B, C, 84, 84] -> [B, 64, 7, 7]; other sizes likewise."""
        x = self.activate(self.first(images))  # in place: gradients need the outputs alone
        for layer in self.convolutions[1:]:
            x = self.activate(layer(x))
        return x


class DuelingNatureCNN(NatureCNN):
    """Action values from V(s) and A(s, a) (Wang et al. 2016, eq. 9), which share all but the last layer."""

    head_class = DuelingMLP


class NoisyDuelingNatureCNN(NatureCNN):
    """The same with noise on all but the convolutions, as Rainbow has it (Hessel et al. 2018)."""

    head_class = NoisyDuelingMLP


class ImpalaResNet(Convolutions):
    """The residual network of IMPALA (Espeholt et al. 2018, figure 3, right), without its LSTM; there with
    256 hidden units.

    Three sections, each of a 3 x 3 convolution, a 3 x 3 max-pooling with stride 2 and two residual blocks of
    two 3 x 3 convolutions.
    """

    default_channels, smallest = (16, 32, 32), 8

    def make(self, in_channels: int, channels: Sequence[int]) -> list[nn.Conv2d]:
        """Five for each section."""
        before = [in_channels, *channels[:-1]]
        return [
            nn.Conv2d(size, to, 3, padding=1)
            for previous, to in zip(before, channels, strict=True)
            for size in (previous, to, to, to, to)
        ]

    def features(self, images: Tensor) -> Tensor:
        """[B, C, 84, 84] -> [B, 32, 11, 11]; other sizes likewise."""
        x = images
        for begin in range(0, len(self.convolutions), 5):
            enter, *blocks = self.convolutions[begin : begin + 5]
            x = nn.functional.max_pool2d(enter(x) if begin else self.first(x), 3, 2, 1)
            for one, two in (blocks[:2], blocks[2:]):
                x = x + two(self.activate(one(self.activate(x.clone()))))
        return self.activate(x)
