"""Fully connected networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl.learning.networks.layers import ACTIVATIONS, FLOAT32, linear
from rl.learning.networks.numpy_forward import Array, NumpyFunction, linear_memory, numpy_forward


class MLP(nn.Module):
    """Fully connected layers from flat observations [B, *obs_shape] to [B, num_outputs]; with `quantiles` to
    [B, num_outputs, quantiles].

    `orthogonal` weights have gain sqrt(2), `out_gain` in the last layer (one number, or one for each output),
    and zero biases (Andrychowicz et al. 2021).
    """

    num_values = 0  # outputs besides num_outputs, before them: a DuelingMLP has V(s)

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
        sizes = [math.prod(obs_shape), *hidden, (self.num_values + num_outputs) * (quantiles or 1)]
        self._linears = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        self.layers = nn.ModuleList(self._linears)
        if init == "orthogonal":
            *_, last = self._linears
            for layer in self._linears:
                nn.init.orthogonal_(layer.weight, 1.0 if layer is last else math.sqrt(2))
                nn.init.zeros_(layer.bias)
            with torch.no_grad():
                last.weight.mul_(torch.tensor(out_gain).view(-1, 1))
        self._add_modules()

    def _add_modules(self) -> None:
        """What a subclass has besides the linear layers."""

    def forward(self, obs: Tensor, *noise: Tensor) -> Tensor:
        """[B, *obs_shape] -> [B, num_outputs] or [B, num_outputs, quantiles]; `noise` is a NoisyMLP's."""
        x, activate = obs.flatten(1).float(), ACTIVATIONS[self.activation][0]
        for number, layer in enumerate(self._linears):
            x = activate(x) if number else x
            x = self._change(number, linear(x, layer), x, *noise)
        return x if self.quantiles is None else x.unflatten(-1, (-1, self.quantiles))

    def _change(self, number: int, y: Tensor, x: Tensor, *noise: Tensor) -> Tensor:
        """What a subclass makes of the outputs y of a linear layer, whose inputs are x."""
        return y

    def by_numpy(self) -> NumpyFunction:
        """`forward` over the memory where the weights are now."""
        quantiles, activate = self.quantiles, ACTIVATIONS[self.activation][1]
        dot, add = np.dot, np.add  # dot has less to decide than @; to look up np.dot takes 30 ns
        layers = [
            (*linear_memory(layer), self._change_by_numpy(number), layer is not self._linears[-1])
            for number, layer in enumerate(self._linears)
        ]

        def forward(obs: Array, noise: Array | None) -> Array:
            x = obs if obs.ndim == 2 else obs.reshape(len(obs), -1)
            if x.dtype is not FLOAT32:
                x = x.astype(np.float32)
            for weight, bias, change, inner in layers:
                y = dot(x, weight)
                add(y, bias, y)
                if change is not None:
                    change(y, x, noise)
                if inner:
                    activate(y, y)
                x = y
            return x if quantiles is None else x.reshape(len(x), -1, quantiles)

        return forward

    def _change_by_numpy(self, number: int) -> Callable[[Array, Array, Array | None], None] | None:
        """`_change`, of y in place; None if there is none."""
        return None

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
            torch.stack([layer.weight.detach().T for layer in column]) for column in columns
        )  # [E, in, out]
        self.biases = nn.ParameterList(
            torch.stack([layer.bias.detach().unsqueeze(0) for layer in column]) for column in columns
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

    num_values = 1

    def forward(self, obs: Tensor, *noise: Tensor) -> Tensor:
        """[B, *obs_shape] -> [B, num_outputs] or [B, num_outputs, quantiles]."""
        value, advantage = super().forward(obs, *noise).tensor_split((1,), 1)
        return value + advantage - advantage.mean(1, keepdim=True)

    def by_numpy(self) -> NumpyFunction:
        """`forward` over the memory where the weights are now."""
        heads = super().by_numpy()

        def forward(obs: Array, noise: Array | None) -> Any:
            outputs = heads(obs, noise)
            value, advantage = outputs[:, :1], outputs[:, 1:]
            return value + advantage - advantage.mean(1, keepdims=True)

        return forward
