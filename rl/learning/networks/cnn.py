"""Convolutional networks for images [B, channels, height, width], bytes or float32.

Bytes are divided by 255 here: the weights of the first convolution are, which are fewer. The memory layout is
channels-last: on a CPU, forward and backward take two thirds of the time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from rl.learning.networks.layers import ACTIVATIONS
from rl.learning.networks.mlp import MLP, DuelingMLP
from rl.learning.networks.noisy import NoisyDuelingMLP


def channels_last(obs: Tensor) -> Tensor:
    """Images [B, C, H, W] in the channels-last layout; other observations unchanged."""
    return obs.contiguous(memory_format=torch.channels_last) if obs.ndim == 4 else obs


def select(obs: Tensor, index: Tensor) -> Tensor:
    """Observations `index` [M] of [B, ...], channels-last; 15 times as fast as `index_select` on images."""
    if obs.ndim != 4:
        return obs.index_select(0, index)
    return obs.movedim(1, -1).index_select(0, index).movedim(-1, 1)


class Convolutions(nn.Module):
    """The base class: convolutions that a subclass makes and applies, and an MLP on their features.

    `orthogonal` weights have gain sqrt(2) and zero biases, `out_gain` in the last layer (see MLP).
    """

    default_channels: Sequence[int]
    smallest: int  # least height and width of an image
    head_class: type[MLP] = MLP

    def __init__(
        self,
        obs_shape: Sequence[int],
        num_outputs: int | None,
        *,
        hidden: Sequence[int],
        activation: str,
        init: str,
        channels: Sequence[int] | None = None,
        out_gain: float | Sequence[float] = 1.0,
        quantiles: int | None = None,
    ) -> None:
        """ValueError for observations that are not large enough images, or a wrong number of `channels`.

        Without `num_outputs` there is no MLP: the features are the outputs.
        """
        super().__init__()
        channels = channels or self.default_channels
        name, count, smallest = type(self).__name__, len(self.default_channels), self.smallest
        if len(channels) != count:
            raise ValueError(f"algo.network.channels={list(channels)}: {name} has {count} of them")
        if len(obs_shape) != 3 or min(obs_shape[1:]) < smallest:
            raise ValueError(
                f"algo.network={name} needs images [channels, height, width] of at least"
                f" {smallest} x {smallest}, and observations are {list(obs_shape)};"
                " try algo.network._target_=rl.networks.MLP"
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
            self.num_features = self.features(torch.zeros(1, *obs_shape, dtype=torch.uint8)).numel()
        options: dict[str, Any] = {"hidden": hidden, "activation": activation, "init": init}
        options |= {"out_gain": out_gain, "quantiles": quantiles}
        self.head: nn.Module = nn.Flatten()
        if num_outputs is not None:
            self.head = self.head_class((self.num_features,), num_outputs, **options)
        self.noise_size = getattr(self.head, "noise_size", 0)

    def make(self, in_channels: int, channels: Sequence[int]) -> list[nn.Conv2d]:
        """All convolutions, in the order in which they are applied."""
        raise NotImplementedError

    def features(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> the activations of the last convolution [B, C', H', W']."""
        raise NotImplementedError

    def forward(self, images: Tensor, *noise: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, num_outputs] or [B, num_outputs, quantiles]; `noise` is a noisy head's."""
        outputs: Tensor = self.head(self.features(images), *noise)
        return outputs

    def first(self, images: Tensor) -> Tensor:
        """The first convolution, of bytes divided by 255 or of other numbers."""
        layer = self.convolutions[0]
        assert isinstance(layer, nn.Conv2d)
        weight = layer.weight / 255 if images.dtype == torch.uint8 else layer.weight
        # two steps take 7 ms, one takes 13
        x = images.float().contiguous(memory_format=torch.channels_last)
        return conv2d(x, weight, layer.bias, layer.stride, layer.padding)


class NatureCNN(Convolutions):
    """Three convolutions (Mnih et al. 2015, Methods), in the paper with 512 hidden units."""

    default_channels, smallest = (32, 64, 64), 36

    def make(self, in_channels: int, channels: Sequence[int]) -> list[nn.Conv2d]:
        """8 x 8 with stride 4, 4 x 4 with stride 2, 3 x 3."""
        one, two, three = channels
        return [nn.Conv2d(in_channels, one, 8, 4), nn.Conv2d(one, two, 4, 2), nn.Conv2d(two, three, 3, 1)]

    def features(self, images: Tensor) -> Tensor:
        """[B, C, 84, 84] -> [B, 64, 7, 7]; other sizes likewise."""
        x = self.activate(self.first(images))
        for layer in self.convolutions[1:]:
            x = self.activate(layer(x))
        return x


class DuelingNatureCNN(NatureCNN):
    """Action values from V(s) and A(s, a) (Wang et al. 2016, eq. 9), which share all but the last layer."""

    head_class = DuelingMLP


class NoisyDuelingNatureCNN(NatureCNN):
    """A DuelingNatureCNN with noise on all but the convolutions, as in Rainbow (Hessel et al. 2018)."""

    head_class = NoisyDuelingMLP


class ImpalaResNet(Convolutions):
    """The residual network of IMPALA (Espeholt et al. 2018, figure 3, right), without its LSTM.

    In the paper it has 256 hidden units. Each of three sections has a 3 x 3 convolution, a 3 x 3 max-pooling
    with stride 2 and two residual blocks of two 3 x 3 convolutions.
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
