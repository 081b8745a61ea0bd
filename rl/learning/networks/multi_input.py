"""Networks for observations of several kinds: images by convolutions, all else as it is, then one trunk.

They are given one float32 vector (see `rl.learning.features`), in which images come first.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rl.learning.networks.cnn import Convolutions, NatureCNN
from rl.learning.networks.mlp import MLP
from rl.learning.networks.numpy_forward import NetworkFactory


class VectorShape(tuple[int, ...]):
    """The shape (F,) of vectors, which knows the shapes [channels, height, width] of the images that they
    begin with.
    """

    images: tuple[tuple[int, int, int], ...]

    def __new__(cls, size: int, images: Sequence[tuple[int, int, int]] = ()) -> VectorShape:
        """A vector of `size` numbers, those of the images included."""
        shape = super().__new__(cls, (size,))
        shape.images = tuple(images)
        return shape


def with_actions(obs_shape: Sequence[int], num_actions: int) -> VectorShape:
    """The shape of what a critic is given: an observation, flat, and then an action of so many numbers."""
    return VectorShape(math.prod(obs_shape) + num_actions, getattr(obs_shape, "images", ()))


class MultiInput(nn.Module):
    """Convolutions for each image of a vector; what they give and the rest of the vector go to the trunk.

    An image that is smaller than the convolutions' smallest goes to the trunk pixel by pixel. The idea is
    that of Stable-Baselines3's MultiInputPolicy.
    """

    def __init__(
        self,
        obs_shape: Sequence[int],
        num_outputs: int,
        *,
        trunk: NetworkFactory = MLP,
        cnn: type[Convolutions] = NatureCNN,
        channels: Sequence[int] | None = None,
        activation: str,
        init: str,
        **options: Any,
    ) -> None:
        """`options` are the trunk's; `channels` those of the convolutions, of which `cnn` has defaults."""
        super().__init__()
        self.images: tuple[tuple[int, int, int], ...] = getattr(obs_shape, "images", ())
        self.sizes = [math.prod(image) for image in self.images]
        self.rest = math.prod(obs_shape) - sum(self.sizes)
        parts: list[nn.Module] = []
        features = self.rest
        for image, size in zip(self.images, self.sizes, strict=True):
            if min(image[1:]) < cnn.smallest:
                parts.append(nn.Identity())
                features += size
            else:
                given: dict[str, Any] = {"channels": channels, "activation": activation, "init": init}
                convolutions = cnn(image, None, hidden=(), **given)
                parts.append(convolutions)
                features += convolutions.num_features
        self.convolutions = nn.ModuleList(parts)
        self.trunk = trunk((features,), num_outputs, activation=activation, init=init, **options)
        self.noise_size = getattr(self.trunk, "noise_size", 0)

    def forward(self, obs: Tensor, *noise: Tensor) -> Tensor:
        """[B, F] -> what the trunk gives; `noise` is a noisy trunk's."""
        *pixels, rest = obs.split([*self.sizes, self.rest], 1)
        shown = [
            part(one if isinstance(part, nn.Identity) else one.unflatten(1, image))
            for part, image, one in zip(self.convolutions, self.images, pixels, strict=True)
        ]
        outputs: Tensor = self.trunk(torch.cat([*shown, rest], 1), *noise)
        return outputs


def multi_input(factory: NetworkFactory) -> NetworkFactory:
    """The factory of MultiInputs with a network's layers: an MLP is the trunk, a CNN's convolutions are used.

    One that can itself take vectors with images in them, or learns by whole batches, is left as it is.
    """
    kind: Any = getattr(factory, "func", factory)
    keywords = dict(getattr(factory, "keywords", {}))
    if kind is MultiInput or hasattr(kind, "by_batch"):
        return factory
    if isinstance(kind, type) and issubclass(kind, Convolutions):
        return functools.partial(MultiInput, trunk=kind.head_class, cnn=kind, **keywords)
    return functools.partial(MultiInput, trunk=kind, **keywords)
