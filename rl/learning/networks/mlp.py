"""Fully connected networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rl.learning.networks.layers import (
    ACTIVATIONS,
    Activation,
    DuelingHead,
    Flatten,
    Linear,
    Quantiles,
    TorchLayer,
)
from rl.learning.networks.numpy_forward import Layer, numpy_forward


class MLP(nn.Module):
    """Fully connected layers from flat observations [B, *obs_shape] to [B, num_outputs]; with `quantiles` to
    [B, num_outputs, quantiles].

    `orthogonal` weights have gain sqrt(2), `out_gain` in the last layer (one number, or one for each output),
    and zero biases (Andrychowicz et al. 2021).
    """

    def __init__(
        self,
        obs_shape: Sequence[int],
        num_outputs: int,
        *,
        hidden: Sequence[int],
        activation: str,
        init: str,
        out_gain: float | Sequence[float] = 1.0,
        quantiles: int | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.quantiles = activation, quantiles
        sizes = [math.prod(obs_shape), *hidden, num_outputs * (quantiles or 1)]
        linears = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        self.layers = nn.ModuleList(linears)
        if init == "orthogonal":
            *_, last = linears
            for linear in linears:
                nn.init.orthogonal_(linear.weight, 1.0 if linear is last else math.sqrt(2))
                nn.init.zeros_(linear.bias)
            with torch.no_grad():
                last.weight.mul_(torch.tensor(out_gain).view(-1, 1))
        first, *others = self._make_layers(linears)
        self._forward_layers: list[TorchLayer] = [Flatten(), *first]
        for group in others:
            self._forward_layers += [Activation(activation), *group]
        if quantiles is not None:
            self._forward_layers.append(Quantiles(quantiles))

    def _make_layers(self, linears: Sequence[nn.Linear]) -> list[list[TorchLayer]]:
        """Groups of layers with an activation between each two; a subclass adds its modules here."""
        return [[Linear(linear)] for linear in linears]

    def forward(self, obs: Tensor, *noise: Tensor) -> Tensor:
        """[B, *obs_shape] -> [B, num_outputs] or [B, num_outputs, quantiles]; `noise` is a NoisyMLP's."""
        x = obs
        for layer in self._forward_layers:
            x = layer.torch(x, *noise)
        return x

    def numpy_layers(self) -> list[Layer]:
        """`forward` as a list of layers."""
        return [*self._forward_layers]

    numpy_forward = numpy_forward

    @staticmethod
    def ensemble(members: Sequence[MLP]) -> nn.Module:
        """MLPs as one module (see rl.learning.networks.ensemble)."""
        return MLPEnsemble(members)


class MLPEnsemble(nn.Module):
    """MLPs evaluated layer by layer, with one batched product for all of them."""

    def __init__(self, members: Sequence[MLP]) -> None:
        super().__init__()
        self.activate, _ = ACTIVATIONS[members[0].activation]
        columns = list(zip(*(member.layers for member in members), strict=True))
        self.weights = nn.ParameterList(
            torch.stack([linear.weight.detach().T for linear in column]) for column in columns
        )  # [E, in, out]
        self.biases = nn.ParameterList(
            torch.stack([linear.bias.detach().unsqueeze(0) for linear in column]) for column in columns
        )  # [E, 1, out]

    def forward(self, obs: Tensor, first: int | None = None) -> Tensor:
        """[B, *obs_shape] -> [E, B, num_outputs]; of all networks, or of the `first` few."""
        weights, biases = list(self.weights), list(self.biases)
        if first is not None:  # or the gradient of a slice takes two more passes over it
            weights, biases = ([parameter[:first] for parameter in group] for group in (weights, biases))
        x = obs.flatten(1).float().expand(len(weights[0]), -1, -1)
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            x = self.activate(torch.bmm(x, weight).add_(bias))
        if weights[-1].shape[-1] == 1:  # MKL takes 164 us for this product, the sum 45
            return (x * weights[-1].mT).sum(-1, keepdim=True) + biases[-1]
        return torch.bmm(x, weights[-1]).add_(biases[-1])


class DuelingMLP(MLP):
    """Action values from two heads, V(s) and A(s, a) (Wang et al. 2016, eq. 9): Q = V + A - mean of A."""

    def __init__(
        self,
        obs_shape: Sequence[int],
        num_outputs: int,
        *,
        hidden: Sequence[int],
        activation: str,
        init: str,
        quantiles: int | None = None,
    ) -> None:
        super().__init__(
            obs_shape, 1 + num_outputs, hidden=hidden, activation=activation, init=init, quantiles=quantiles
        )

    def forward(self, obs: Tensor, *noise: Tensor) -> Tensor:
        """[B, *obs_shape] -> [B, num_outputs] or [B, num_outputs, quantiles]."""
        return DuelingHead().torch(super().forward(obs, *noise))

    def numpy_layers(self) -> list[Layer]:
        """`forward` as a list of layers."""
        return [*super().numpy_layers(), DuelingHead()]
