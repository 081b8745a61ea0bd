"""Noisy networks: weights with learned noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor, nn

from rl.learning.networks.layers import linear
from rl.learning.networks.mlp import MLP, DuelingMLP
from rl.learning.networks.numpy_forward import Array, linear_memory


class NoisyMLP(MLP):
    """An MLP whose weights are noisy, by learned amounts (Fortunato et al. 2018, section 3, factorised).

    y = (mu + sigma * f(e') f(e)^T) x + mu_b + sigma_b * f(e') with f(e) = sign(e) sqrt|e| (eq. 9 to 11).
    All f(e) are the second input: [B, noise_size], or [1, noise_size] for the whole batch (see `noise_for`).
    Without it the weights are the means.
    """

    sigma_0 = 0.5  # initial sigma, times the square root of the layer's inputs

    def _add_modules(self) -> None:
        self._sigmas = [nn.Linear(mean.in_features, mean.out_features) for mean in self._linears]
        self.sigmas = nn.ModuleList(self._sigmas)
        self._columns = []  # of the noise: for each layer's inputs and outputs
        self.noise_size = 0
        for sigma in self._sigmas:
            for parameter in sigma.parameters():
                nn.init.constant_(parameter, self.sigma_0 / math.sqrt(sigma.in_features))
            begin, middle = self.noise_size, self.noise_size + sigma.in_features
            self.noise_size = middle + sigma.out_features
            self._columns.append((slice(begin, middle), slice(middle, self.noise_size)))

    def _change(self, number: int, y: Tensor, x: Tensor, *noise: Tensor) -> Tensor:
        if not noise:
            return y
        (e,), sigma, (inputs, outputs) = noise, self._sigmas[number], self._columns[number]
        return y + linear(x * e[:, inputs], sigma) * e[:, outputs]

    def _change_by_numpy(self, number: int) -> Callable[[Array, Array, Array | None], None]:
        (weight, bias), (inputs, outputs) = linear_memory(self._sigmas[number]), self._columns[number]

        def perturb(y: Array, x: Array, noise: Array | None) -> None:
            if noise is not None:
                y += (np.dot(x * noise[:, inputs], weight) + bias) * noise[:, outputs]

        return perturb


class NoisyDuelingMLP(DuelingMLP, NoisyMLP):
    """A NoisyMLP with the heads of a DuelingMLP."""


def noise_for(network: nn.Module) -> Callable[[int, np.random.Generator], Sequence[Array]]:
    """The function that draws a network's noise, f(e) [rows, noise_size]; nothing for one without noise."""
    size = getattr(network, "noise_size", 0)

    def draw(rows: int, rng: np.random.Generator) -> Sequence[Array]:
        noise = rng.standard_normal((rows, size), np.float32)
        return (np.copysign(np.sqrt(np.abs(noise)), noise),)

    return draw if size else lambda rows, rng: ()
