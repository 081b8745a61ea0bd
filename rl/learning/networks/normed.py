"""Networks with normalisation inside: layer normalisation and batch renormalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rl.learning.networks.mlp import ACTIVATIONS, MLP, MLPEnsemble
from rl.learning.networks.numpy_forward import Array


class LayerNormMLP(MLP):
    """An MLP with layer normalisation (Ba et al. 2016) before the activation of every hidden layer, as in
    PQN's paper.
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
        super().__init__(
            obs_shape,
            num_outputs,
            hidden=hidden,
            activation=activation,
            init=init,
            out_gain=out_gain,
            quantiles=quantiles,
        )
        self._norms = [nn.LayerNorm(size) for size in hidden]
        self.norms = nn.ModuleList(self._norms)

    def forward(self, obs: Tensor) -> Tensor:
        """[B, *obs_shape] -> [B, num_outputs] or [B, num_outputs, quantiles]."""
        x = obs.flatten(1).float()
        *inner, last = self._linears
        for linear, norm in zip(inner, self._norms, strict=True):
            x = self.activate(norm(linear(x)))
        x = last(x)
        return x if self.quantiles is None else x.unflatten(-1, (-1, self.quantiles))

    def numpy_forward(self) -> Callable[[Array], Array]:
        """`forward` in NumPy on the same memory."""
        modules = zip(self._linears, self._norms, strict=False)
        layers = [
            [p.detach().numpy() for p in (linear.weight.T, linear.bias, norm.weight, norm.bias)]
            for linear, norm in modules
        ]
        # a product takes 1 us, `mean` 5
        averages = [np.full(len(bias), 1 / len(bias), np.float32) for _, bias, *_ in layers]
        *_, last = self._linears
        last_weight, last_bias = last.weight.detach().numpy().T, last.bias.detach().numpy()
        relu, quantiles, eps = self.activation == "relu", self.quantiles, np.float32(1e-5)

        def forward(obs: Array) -> Array:
            x = obs.reshape(len(obs), -1).astype(np.float32, copy=False)
            for (weight, bias, scale, shift), average in zip(layers, averages, strict=True):
                x = np.dot(x, weight)
                x += bias
                x -= np.dot(x, average)[:, np.newaxis]
                x /= np.sqrt(np.dot(x * x, average) + eps)[:, np.newaxis]
                x *= scale
                x += shift
                x = np.maximum(x, 0, out=x) if relu else np.tanh(x, out=x)
            x = np.dot(x, last_weight) + last_bias
            return x if quantiles is None else x.reshape(len(x), -1, quantiles)

        return forward


class BatchRenormMLP(nn.Module):
    """MLPs with batch renormalisation before every layer (Ioffe 2017; Bhatt et al. 2024), `members` of them
    together.

    Where they learn, `by_batch` normalises by the batch; its moments come back for `follow`, which lets the
    running ones follow them. Everywhere else the running moments count. In the first `warm_up` batches it is
    plain batch normalisation; then r and d make up for what a batch's moments differ from the running ones,
    within bounds.
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
        self.activation, self.activate, self.warm_up = activation, ACTIVATIONS[activation], warm_up
        plain = MLPEnsemble(
            [
                MLP(obs_shape, num_outputs, hidden=hidden, activation=activation, init=init)
                for _ in range(members)
            ]
        )
        self.weights, self.biases = plain.weights, plain.biases
        self.sizes = [weight.shape[1] for weight in self.weights]
        self.scales = nn.ParameterList(torch.ones(members, 1, size) for size in self.sizes)
        self.shifts = nn.ParameterList(torch.zeros(members, 1, size) for size in self.sizes)
        moments = torch.stack(
            [torch.zeros(members, 1, sum(self.sizes)), torch.ones(members, 1, sum(self.sizes))]
        )
        # [2, E, 1, features of all layers]: running means and variances
        self.register_buffer("moments", moments)
        self.register_buffer("batches", torch.zeros(1, dtype=torch.int64))
        self.moments: Tensor
        self.batches: Tensor

    def forward(self, obs: Tensor) -> Tensor:
        """[B, *obs_shape] -> [E, B, num_outputs], by the running moments."""
        x = obs.flatten(1).float().expand(len(self.weights[0]), -1, -1)
        for layer, (mean, var) in enumerate(zip(*self._split(self.moments), strict=True)):
            x = self._layer(layer, (x - mean) * (var + self.eps).rsqrt())
        return x

    def by_batch(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """The same by the batch's moments, and these."""
        x = obs.flatten(1).float().expand(len(self.weights[0]), -1, -1)
        warm = self.batches >= self.warm_up
        r_max, d_max = torch.where(warm, self.r_max, 1.0), torch.where(warm, self.d_max, 0.0)
        means, variances = [], []
        for layer, (running_mean, running_var) in enumerate(zip(*self._split(self.moments), strict=True)):
            x, mean, var = batch_renorm(x, running_mean, running_var, r_max, d_max, self.eps)
            means.append(mean)
            variances.append(var)
            x = self._layer(layer, x)
        return x, torch.stack([torch.cat(means, -1), torch.cat(variances, -1)]).detach().flatten()

    def _split(self, moments: Tensor) -> list[tuple[Tensor, ...]]:
        return [part.split(self.sizes, -1) for part in moments]

    def _layer(self, layer: int, x: Tensor) -> Tensor:
        x = torch.baddbmm(
            self.biases[layer], x * self.scales[layer] + self.shifts[layer], self.weights[layer]
        )
        return self.activate(x) if layer < len(self.sizes) - 1 else x

    @torch.no_grad()
    def follow(self, moments: Tensor) -> None:
        """Let the running moments follow those of a batch."""
        self.moments.lerp_(moments.view_as(self.moments), self.momentum)
        self.batches += 1

    def numpy_forward(self) -> Callable[[Array], Array]:
        """`forward` of a single network from and to NumPy: [B, *obs_shape] -> [1, B, num_outputs]."""
        names = ("weights", "biases", "scales", "shifts")
        layers = list(
            zip(*([p.detach().cpu().numpy()[0] for p in getattr(self, name)] for name in names), strict=True)
        )
        ends = np.cumsum(self.sizes)[:-1]
        moments = self.moments.numpy()[:, 0, 0]

        def forward(obs: Array) -> Array:
            x = obs.reshape(len(obs), -1).astype(np.float32)
            scale = 1 / np.sqrt(moments[1] + np.float32(self.eps))
            for number, ((weight, bias, stretch, shift), mean, factor) in enumerate(
                zip(layers, np.split(moments[0], ends), np.split(scale, ends), strict=True)
            ):
                x = ((x - mean) * factor * stretch + shift) @ weight + bias
                if number < len(layers) - 1:
                    x = np.maximum(x, 0) if self.activation == "relu" else np.tanh(x)
            return x[np.newaxis]

        return forward


def batch_renorm(
    x: Tensor, running_mean: Tensor, running_var: Tensor, r_max: Tensor, d_max: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch renormalisation of [..., B, F] over B (Ioffe 2017, algorithm 1, without scale and shift), the
    batch's mean and variance.

    (x - mean) / std * r + d, where r = std / running std within [1 / r_max, r_max] and d = (mean - running
    mean) / running std within +-d_max are constants to the gradient.
    """
    mean, var = x.mean(-2, keepdim=True), x.var(-2, correction=0, keepdim=True)
    std, running_std = (var + eps).sqrt(), (running_var + eps).sqrt()
    r = torch.minimum(torch.maximum(std.detach() / running_std, 1 / r_max), r_max)
    d = torch.minimum(torch.maximum((mean.detach() - running_mean) / running_std, -d_max), d_max)
    return (x - mean) / std * r + d, mean, var
