"""Several networks as one module, and networks whose weights are constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from rl.learning.networks.numpy_forward import NetworkFactory


class Ensemble(nn.Module):
    """Networks of one class, each with its own weights: [B, ...] -> [E, B, num_outputs]."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, obs: Tensor, first: int | None = None) -> Tensor:
        """The outputs of all networks, or of the `first` few."""
        return torch.stack([member(obs) for member in self.members[:first]])


def ensemble(network: NetworkFactory, count: int, obs_shape: Sequence[int], num_outputs: int) -> nn.Module:
    """`count` networks as one module: made by `ensemble` of their class, if not inherited, or an Ensemble."""
    members = [network(obs_shape, num_outputs) for _ in range(count)]
    return vars(type(members[0])).get("ensemble", Ensemble)(members)


def frozen(module: nn.Module) -> Callable[..., Tensor]:
    """A module whose weights are constants: gradients pass through it to its inputs alone."""
    constants = {name: parameter.detach() for name, parameter in module.named_parameters()}
    return lambda *inputs, **options: functional_call(module, constants, inputs, options)
