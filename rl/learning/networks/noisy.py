"""Noisy networks: weights with learned noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor, nn

from rl.learning.networks.mlp import MLP, DuelingMLP
from rl.learning.networks.numpy_forward import Array


class NoisyMLP(MLP):
    """An MLP whose weights are noisy, by learned amounts (Fortunato et al. 2018, section 3, factorised).

    y = (mu + sigma * f(e') f(e)^T) x + mu_b + sigma_b * f(e') with f(e) = sign(e) sqrt|e| (eq. 9 to 11). All
    f(e) come with the observations, [B, noise_size] or for all of them [1, noise_size] (see `noise_for`);
    without them the means alone count.
    """

    sigma_0 = 0.5  # of all sigma at the start, times the square root of the layer's inputs

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
        self._sigmas = [nn.Linear(mean.in_features, mean.out_features) for mean in self._linears]
        self.sigmas = nn.ModuleList(self._sigmas)
        for sigma in self._sigmas:
            for parameter in sigma.parameters():
                nn.init.constant_(parameter, self.sigma_0 / math.sqrt(sigma.in_features))
        self.noise_sizes = [size for mean in self._linears for size in (mean.in_features, mean.out_features)]
        self.noise_size = sum(self.noise_sizes)

    def forward(self, obs: Tensor, *noise: Tensor) -> Tensor:
        """[B, *obs_shape] -> [B, num_outputs] or [B, num_outputs, quantiles]."""
        if not noise:
            return super().forward(obs)
        x, parts = obs.flatten(1).float(), noise[0].split(self.noise_sizes, -1)
        for layer, (mean, sigma, e_in, e_out) in enumerate(
            zip(self._linears, self._sigmas, parts[::2], parts[1::2], strict=True)
        ):
            x = self.activate(x) if layer else x
            perturbation = nn.functional.linear(x * e_in, sigma.weight, sigma.bias) * e_out
            x = nn.functional.linear(x, mean.weight, mean.bias) + perturbation
        return x if self.quantiles is None else x.unflatten(-1, (-1, self.quantiles))

    def numpy_forward(self) -> Callable[..., Array]:
        """`forward` in NumPy on the same memory."""
        by_means, relu, quantiles = super().numpy_forward(), self.activation == "relu", self.quantiles
        means, sigmas = (
            [(linear.weight.detach().numpy().T, linear.bias.detach().numpy()) for linear in linears]
            for linears in (self._linears, self._sigmas)
        )
        ends = np.cumsum(self.noise_sizes)[:-1]

        def forward(obs: Array, *noise: Array) -> Array:
            if not noise:
                return by_means(obs)
            x, parts = obs.reshape(len(obs), -1).astype(np.float32), np.split(noise[0], ends, -1)
            for layer, ((weight, bias), (sigma, sigma_bias), e_in, e_out) in enumerate(
                zip(means, sigmas, parts[::2], parts[1::2], strict=True)
            ):
                if layer:
                    x = np.maximum(x, 0) if relu else np.tanh(x)
                x = x @ weight + bias + ((x * e_in) @ sigma + sigma_bias) * e_out
            return x if quantiles is None else x.reshape(len(x), -1, quantiles)

        return forward


class NoisyDuelingMLP(DuelingMLP, NoisyMLP):
    """Both: the heads of a DuelingMLP are a NoisyMLP's."""


def noise_for(network: nn.Module) -> Callable[[int, np.random.Generator], Sequence[Array]]:
    """What draws the noise that a network takes after its observations: [rows, noise_size] for a noisy one,
    for others none.
    """
    size = getattr(network, "noise_size", 0)

    def draw(rows: int, rng: np.random.Generator) -> Sequence[Array]:
        noise = rng.standard_normal((rows, size), np.float32)
        return (np.copysign(np.sqrt(np.abs(noise)), noise),)

    return draw if size else lambda rows, rng: ()
