"""Networks whose inputs end with an action mask (see `rl.learning.masks`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl.learning.masks import MASKED
from rl.learning.networks.numpy_forward import (
    Array,
    NetworkFactory,
    NumpyFunction,
    by_numpy,
    numpy_forward,
)


@dataclass(frozen=True)
class IgnoringMask:
    """A factory of networks that ignore the last `mask_size` columns of their inputs."""

    factory: NetworkFactory
    mask_size: int

    def __call__(self, obs_shape: Sequence[int], num_outputs: int, **options: Any) -> WithoutMask:
        """The network, for inputs [B, F + mask_size] in place of [B, *obs_shape]."""
        return WithoutMask(self.factory(obs_shape, num_outputs, **options), obs_shape, self.mask_size)


class WithoutMask(nn.Module):
    """A network that is given its inputs but for the last columns."""

    def __init__(self, network: nn.Module, obs_shape: Sequence[int], mask_size: int) -> None:
        super().__init__()
        self.network, self.obs_shape = network, tuple(obs_shape)
        self.size = math.prod(obs_shape)
        self.mask_size, self.noise_size = mask_size, getattr(network, "noise_size", 0)

    def forward(self, inputs: Tensor, *noise: Tensor) -> Tensor:
        """What the network gives."""
        outputs: Tensor = self.network(inputs[:, : self.size].unflatten(1, self.obs_shape), *noise)
        return outputs

    def by_numpy(self) -> NumpyFunction:
        """`forward` over the memory where the weights are now."""
        network, size, shape = by_numpy(self.network), self.size, self.obs_shape
        return lambda inputs, noise: network(inputs[:, :size].reshape(len(inputs), *shape), noise)

    numpy_forward = numpy_forward


class Masked(WithoutMask):
    """The same; of its outputs [B, A] or [B, A, quantiles] those of masked actions are MASKED."""

    def forward(self, inputs: Tensor, *noise: Tensor) -> Tensor:
        """What the network gives for allowed actions."""
        return hide(super().forward(inputs, *noise), inputs[:, self.size :])

    def by_numpy(self) -> NumpyFunction:
        """`forward` over the memory where the weights are now."""
        network, size = super().by_numpy(), self.size
        return lambda inputs, noise: hide_in_numpy(network(inputs, noise), inputs[:, size:])

    numpy_forward = numpy_forward


def per_action(
    network: NetworkFactory, obs_shape: Sequence[int], num_actions: int, **options: Any
) -> nn.Module:
    """A network with an output, or several, for every action: MASKED for those that its inputs mask."""
    if not isinstance(network, IgnoringMask):
        return network(obs_shape, num_actions, **options)
    return Masked(network.factory(obs_shape, num_actions, **options), obs_shape, network.mask_size)


def hide(outputs: Tensor, mask: Tensor) -> Tensor:
    """Outputs [B, A, ...] with MASKED where the mask [B, A] is 0: no gradient passes there."""
    allowed = mask != 0
    return torch.where(allowed.view(*allowed.shape, *[1] * (outputs.ndim - 2)), outputs, MASKED)


def hide_in_numpy(outputs: Array, mask: Array) -> Array:
    """The same for outputs [B, A, ...]."""
    allowed = mask != 0
    return np.where(allowed.reshape(*allowed.shape, *[1] * (outputs.ndim - 2)), outputs, np.float32(MASKED))
