"""Networks with normalisation inside: layer normalisation and batch renormalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl.learning.networks.layers import ACTIVATIONS
from rl.learning.networks.mlp import MLP, MLPEnsemble
from rl.learning.networks.numpy_forward import Array, NumpyFunction, memory, numpy_forward


def norm_by_numpy(norm: nn.LayerNorm) -> Callable[[Array], None]:
    """A layer normalisation of [B, width], in place, over the memory where its weights are now."""
    scale, shift, eps = memory(norm.weight), memory(norm.bias), norm.eps
    average = np.full(len(scale), 1 / len(scale), np.float32)

    def normalise(y: Array) -> None:
        y -= np.dot(y, average)[:, None]  # a product takes 1 us, `mean` 5
        y /= np.sqrt(np.dot(y * y, average) + eps)[:, None]
        y *= scale
        y += shift

    return normalise


class LayerNormMLP(MLP):
    """An MLP with layer normalisation (Ba et al. 2016) before each activation, as in PQN's paper."""

    def _add_modules(self) -> None:
        self._norms = [nn.LayerNorm(linear.out_features) for linear in self._linears[:-1]]
        self.norms = nn.ModuleList(self._norms)

    def _change(self, number: int, y: Tensor, x: Tensor, *noise: Tensor) -> Tensor:
        return self._norms[number](y) if number < len(self._norms) else y

    def _change_by_numpy(self, number: int) -> Callable[[Array, Array, Array | None], None] | None:
        if number == len(self._norms):
            return None
        normalise = norm_by_numpy(self._norms[number])
        return lambda y, x, noise: normalise(y)


class BatchRenormMLP(nn.Module):
    """`members` MLPs with batch renormalisation before every layer (Ioffe 2017; Bhatt et al. 2024).

    To learn, `by_batch` normalises by the moments of the batch and returns them; `follow` updates the running
    moments with them. `forward` normalises by the running moments. The first `warm_up` batches have plain
    batch normalisation; later r and d correct for the difference to the running moments, within bounds.
    """

    eps, momentum, r_max, d_max = 1e-3, 0.01, 3.0, 5.0

    def __init__(
        self,
        obs_shape: Sequence[int],
        num_outputs: int,
        *,
        hidden: Sequence[int],
        activation: str,
        init: str,
        warm_up: int,
        members: int = 1,
    ) -> None:
        super().__init__()
        self.activation, self.warm_up = activation, warm_up
        self.activate, _ = ACTIVATIONS[activation]
        options: dict[str, Any] = {"hidden": hidden, "activation": activation, "init": init}
        plain = MLPEnsemble([MLP(obs_shape, num_outputs, **options) for _ in range(members)])
        self.weights, self.biases = plain.weights, plain.biases
        self.sizes = [weight.shape[1] for weight in self.weights]
        self.scales = nn.ParameterList(torch.ones(members, 1, size) for size in self.sizes)
        self.shifts = nn.ParameterList(torch.zeros(members, 1, size) for size in self.sizes)
        moments = torch.zeros(2, members, 1, sum(self.sizes))
        moments[1] = 1
        # [2, E, 1, features of all layers]: running means and variances
        self.register_buffer("moments", moments)
        self.register_buffer("batches", torch.zeros(1, dtype=torch.int64))
        self.moments: Tensor
        self.batches: Tensor

    def forward(self, obs: Tensor) -> Tensor:
        """[B, *obs_shape] -> [E, B, num_outputs], by the running moments."""
        x = obs.flatten(1).float().expand(len(self.weights[0]), -1, -1)
        for layer, (mean, var) in enumerate(zip(*self._split(self.moments), strict=True)):
            factor = self.scales[layer] * (var + self.eps).rsqrt()
            x = self._linear(layer, x * factor + (self.shifts[layer] - mean * factor))
        return x

    def by_batch(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, by the moments of the batch; and these moments, as one vector for `follow`."""
        x = obs.flatten(1).float().expand(len(self.weights[0]), -1, -1)
        warm = self.batches >= self.warm_up
        r_max, d_max = torch.where(warm, self.r_max, 1.0), torch.where(warm, self.d_max, 0.0)
        means, variances = [], []
        for layer, (running_mean, running_var) in enumerate(zip(*self._split(self.moments), strict=True)):
            affine = self.scales[layer], self.shifts[layer]
            x, mean, var = batch_renorm(x, running_mean, running_var, r_max, d_max, *affine, self.eps)
            means.append(mean)
            variances.append(var)
            x = self._linear(layer, x)
        return x, torch.stack([torch.cat(means, -1), torch.cat(variances, -1)]).detach().flatten()

    def _split(self, moments: Tensor) -> list[tuple[Tensor, ...]]:
        return [part.split(self.sizes, -1) for part in moments]

    def _linear(self, layer: int, x: Tensor) -> Tensor:
        x = torch.baddbmm(self.biases[layer], x, self.weights[layer])
        return self.activate(x) if layer < len(self.sizes) - 1 else x

    @torch.no_grad()
    def follow(self, moments: Tensor) -> None:
        """Update the running moments with those of a batch."""
        self.moments.lerp_(moments.view_as(self.moments), self.momentum)
        self.batches += 1

    def by_numpy(self) -> NumpyFunction:
        """`forward` of a single network over the memory where the weights are now: -> [1, B, num_outputs]."""
        parts = self.weights, self.biases, self.scales, self.shifts, *self._split(self.moments)
        layers = [[memory(tensor)[0] for tensor in layer] for layer in zip(*parts, strict=True)]
        eps, (_, activate) = self.eps, ACTIVATIONS[self.activation]

        def forward(obs: Array, extra: Array | None) -> Array:
            x = obs.reshape(len(obs), -1).astype(np.float32, copy=False)
            for number, (weight, bias, scale, shift, mean, var) in enumerate(layers):
                if number:
                    activate(x, x)
                x = (x - mean) * (1 / np.sqrt(var + eps)) * scale + shift
                x = np.dot(x, weight) + bias
            return x[None]

        return forward

    numpy_forward = numpy_forward


def batch_renorm(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    r_max: Tensor,
    d_max: Tensor,
    scale: Tensor,
    shift: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch renormalisation of [..., B, F] over B (Ioffe 2017, algorithm 1).

    ((x - mean) / std * r + d) * scale + shift, where r = std / running std within [1 / r_max, r_max] and
    d = (mean - running mean) / running std within +-d_max are constants to the gradient. Returns it, the mean
    and the variance. It is computed as x times one number for each feature, plus another.
    """
    mean, var = x.mean(-2, keepdim=True), x.var(-2, correction=0, keepdim=True)
    std, running_std = (var + eps).sqrt(), (running_var + eps).sqrt()
    r = torch.minimum(torch.maximum(std.detach() / running_std, 1 / r_max), r_max)
    d = torch.minimum(torch.maximum((mean.detach() - running_mean) / running_std, -d_max), d_max)
    factor = scale * (r / std)
    return x * factor + (d * scale + shift - mean * factor), mean, var
