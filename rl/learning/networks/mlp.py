"""Networks, and the policy that acts through them.

Acting on a CPU is bound by dispatch, not by arithmetic: for a batch of 4, torch takes 60 to 90 us and NumPy
over the same memory 20 us. So a network may offer `numpy_forward`, and the policy acts with it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rl.learning.networks.numpy_forward import Array

ACTIVATIONS = {"tanh": torch.tanh_, "relu": torch.relu_}


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
        self.activate = ACTIVATIONS[activation]
        self._linears = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        self.layers = nn.ModuleList(self._linears)
        if init == "orthogonal":
            *_, last = self._linears
            for linear in self._linears:
                nn.init.orthogonal_(linear.weight, 1.0 if linear is last else math.sqrt(2))
                nn.init.zeros_(linear.bias)
            with torch.no_grad():
                last.weight.mul_(torch.tensor(out_gain).view(-1, 1))

    def forward(self, obs: Tensor) -> Tensor:
        """[B, *obs_shape] -> [B, num_outputs] or [B, num_outputs, quantiles]."""
        x = obs.flatten(1).float()  # observations may be bytes
        *inner, last = self._linears
        for linear in inner:  # in place: the activations' gradients need their outputs alone
            x = self.activate(nn.functional.linear(x, linear.weight, linear.bias))
        x = nn.functional.linear(x, last.weight, last.bias)
        return x if self.quantiles is None else x.unflatten(-1, (-1, self.quantiles))

    @staticmethod
    def together(members: Sequence[MLP]) -> nn.Module:
        """Several of them as one module; see `ensemble`."""
        return MLPEnsemble(members)

    def numpy_forward(self) -> Callable[..., Array]:
        """`forward` in NumPy on the same memory: it sees every update made in place. Valid until the weights
        move.
        """
        layers = [
            (linear.weight.detach().numpy().T, linear.bias.detach().numpy()) for linear in self._linears
        ]
        *inner, (last_weight, last_bias) = layers
        relu, quantiles = self.activation == "relu", self.quantiles
        dot, tanh, maximum, float32, zero = (
            np.dot,
            np.tanh,
            np.maximum,
            np.dtype(np.float32),
            np.zeros((), np.float32),
        )

        def forward(obs: Array) -> Array:
            x = obs if obs.ndim == 2 else obs.reshape(len(obs), -1)
            if x.dtype is not float32:
                x = x.astype(np.float32)
            for weight, bias in inner:  # dot has less to decide than @, and its result is ours to change
                x = dot(x, weight)
                x += bias
                if relu:
                    maximum(x, zero, out=x)
                else:
                    tanh(x, x)
            x = dot(x, last_weight)
            x += last_bias
            return x if quantiles is None else x.reshape(len(x), -1, quantiles)

        return forward


class MLPEnsemble(nn.Module):
    """MLPs evaluated together, layer by layer: one batched product where each network had its own."""

    def __init__(self, members: Sequence[MLP]) -> None:
        super().__init__()
        self.activate = members[0].activate
        layers = [member._linears for member in members]
        columns = list(zip(*layers, strict=True))
        self.weights = nn.ParameterList(
            torch.stack([one.weight.detach().T for one in column]) for column in columns
        )  # [E, in, out]
        self.biases = nn.ParameterList(
            torch.stack([one.bias.detach().unsqueeze(0) for one in column]) for column in columns
        )  # [E, 1, out]

    def forward(self, obs: Tensor, first: int | None = None) -> Tensor:
        """[B, *obs_shape] -> [E, B, num_outputs]; of all networks, or of the `first` so many."""
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
    """Action values from one network with two heads, V(s) and A(s, a) (Wang et al. 2016, eq. 9): Q = V + A -
    mean of A.
    """

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
        value, advantage = super().forward(obs, *noise).tensor_split((1,), 1)
        return value + advantage - advantage.mean(1, keepdim=True)

    def numpy_forward(self) -> Callable[..., Array]:
        """`forward` in NumPy on the same memory."""
        heads = super().numpy_forward()

        def forward(obs: Array, *noise: Array) -> Array:
            both = heads(obs, *noise)
            value, advantage = both[:, :1], both[:, 1:]
            return value + advantage - advantage.mean(1, keepdims=True)

        return forward
