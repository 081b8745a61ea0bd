"""SimBa (Lee et al. 2025, arXiv 2410.09754): residual blocks with layer normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from rl.learning.networks.layers import ACTIVATIONS, linear
from rl.learning.networks.mlp import MLP, MLPEnsemble
from rl.learning.networks.normed import norm_by_numpy
from rl.learning.networks.numpy_forward import Array, NumpyFunction, linear_memory, numpy_forward

EXPANSION = 4  # units inside a block for each of its width


class SimBa(MLP):
    """A linear layer, a residual block for each number in `hidden`, layer normalisation and a linear layer
    (section 4), from [B, *obs_shape] to [B, num_outputs] or [B, num_outputs, quantiles].

    A block adds W2 activate(W1 norm(x)) to x, with four times as many units inside. The paper normalises
    observations by running statistics too: the algorithm's key normalize_obs. `orthogonal` weights are the
    paper's: orthogonal in the first and the last layer, by He et al. (2015) in the blocks, and zero biases.
    """

    def __init__(
        self,
        obs_shape: Sequence[int],
        num_outputs: int,
        *,
        hidden: Sequence[int],
        activation: str,
        init: str,
        **options: Any,
    ) -> None:
        """ValueError without blocks, or if they are not equally wide."""
        if len(set(hidden)) != 1:
            raise ValueError(
                f"SimBa has one block for each number in hidden={list(hidden)}, all equally wide: try [256]"
            )
        width = hidden[0]
        sizes = [width, *(EXPANSION * width, width) * len(hidden)]
        super().__init__(obs_shape, num_outputs, hidden=sizes, activation=activation, init=init, **options)
        if init == "orthogonal":
            first, *inner, _ = self._linears
            nn.init.orthogonal_(first.weight)
            for layer in inner:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def _add_modules(self) -> None:
        width = self._linears[-1].in_features
        self._norms = [nn.LayerNorm(width) for _ in self._linears[::2]]  # of each block, and at the end
        self.norms = nn.ModuleList(self._norms)

    def forward(self, obs: Tensor, *noise: Tensor) -> Tensor:
        """[B, *obs_shape] -> [B, num_outputs] or [B, num_outputs, quantiles]."""
        activate, _ = ACTIVATIONS[self.activation]
        first, *inner, last = self._linears
        *norms, norm = self._norms
        x = linear(obs.flatten(1).float(), first)
        for before, one, two in zip(norms, inner[::2], inner[1::2], strict=True):
            x = x + linear(activate(linear(before(x), one)), two)
        x = linear(norm(x), last)
        return x if self.quantiles is None else x.unflatten(-1, (-1, self.quantiles))

    def by_numpy(self) -> NumpyFunction:
        """`forward` over the memory where the weights are now."""
        quantiles, (_, activate) = self.quantiles, ACTIVATIONS[self.activation]
        (weight, bias), *inner, (last_weight, last_bias) = map(linear_memory, self._linears)
        *norms, norm = map(norm_by_numpy, self._norms)
        blocks = [(n, *one, *two) for n, one, two in zip(norms, inner[::2], inner[1::2], strict=True)]

        def forward(obs: Array, noise: Array | None) -> Array:
            x = np.dot(obs.reshape(len(obs), -1).astype(np.float32, copy=False), weight) + bias
            for before, up, up_bias, down, down_bias in blocks:
                y = x.copy()
                before(y)
                y = np.dot(y, up) + up_bias
                activate(y, y)
                x += np.dot(y, down)
                x += down_bias
            norm(x)
            x = np.dot(x, last_weight) + last_bias
            return x if quantiles is None else x.reshape(len(x), -1, quantiles)

        return forward

    numpy_forward = numpy_forward

    @staticmethod
    def ensemble(members: Sequence[MLP]) -> nn.Module:
        """SimBas as one module (see rl.learning.networks.ensemble)."""
        return SimBaEnsemble(members)


class SimBaEnsemble(nn.Module):
    """SimBas evaluated layer by layer, with one batched product for all of them."""

    def __init__(self, members: Sequence[Any]) -> None:
        super().__init__()
        self.activate, _ = ACTIVATIONS[members[0].activation]
        layers = MLPEnsemble(members)
        self.weights, self.biases = layers.weights, layers.biases  # [E, in, out], [E, 1, out]
        columns = list(zip(*(member.norms for member in members), strict=True))
        self.scales, self.shifts = (
            nn.ParameterList(
                torch.stack([getattr(norm, name).detach().unsqueeze(0) for norm in column])
                for column in columns
            )
            for name in ("weight", "bias")
        )  # [E, 1, width]

    def forward(self, obs: Tensor, first: int | None = None) -> Tensor:
        """[B, *obs_shape] -> [E, B, num_outputs]; of all networks, or of the `first` few."""
        groups = (self.weights, self.biases, self.scales, self.shifts)
        weights, biases, scales, shifts = (
            list(group) if first is None else [parameter[:first] for parameter in group] for group in groups
        )

        def normalised(x: Tensor, number: int) -> Tensor:
            return torch.addcmul(shifts[number], layer_norm(x, x.shape[-1:]), scales[number])

        x = obs.flatten(1).float().expand(len(weights[0]), -1, -1)
        x = torch.baddbmm(biases[0], x, weights[0])
        for block in range(len(scales) - 1):
            one, two = 2 * block + 1, 2 * block + 2
            y = self.activate(torch.baddbmm(biases[one], normalised(x, block), weights[one]))
            x = x + torch.baddbmm(biases[two], y, weights[two])
        return torch.baddbmm(biases[-1], normalised(x, -1), weights[-1])
