"""Noisy networks: weights with learned noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from rl.learning.networks.layers import NoisyLinear, TorchLayer
from rl.learning.networks.mlp import MLP, DuelingMLP
from rl.learning.networks.numpy_forward import Array


class NoisyMLP(MLP):
    """An MLP whose weights are noisy, by learned amounts (Fortunato et al. 2018, section 3, factorised).

    y = (mu + sigma * f(e') f(e)^T) x + mu_b + sigma_b * f(e') with f(e) = sign(e) sqrt|e| (eq. 9 to 11).
    All f(e) are the second input: [B, noise_size], or [1, noise_size] for the whole batch (see `noise_for`).
    Without it the weights are the means.
    """

    sigma_0 = 0.5  # initial sigma, times the square root of the layer's inputs

    def _make_layers(self, linears: Sequence[nn.Linear]) -> list[list[TorchLayer]]:
        sigmas = [nn.Linear(mean.in_features, mean.out_features) for mean in linears]
        self.sigmas = nn.ModuleList(sigmas)
        self.noise_size = 0
        layers: list[list[TorchLayer]] = []
        for mean, sigma in zip(linears, sigmas, strict=True):
            for parameter in sigma.parameters():
                nn.init.constant_(parameter, self.sigma_0 / math.sqrt(sigma.in_features))
            layers.append([NoisyLinear(mean, sigma, self.noise_size)])
            self.noise_size += mean.in_features + mean.out_features
        return layers


class NoisyDuelingMLP(DuelingMLP, NoisyMLP):
    """A NoisyMLP with the heads of a DuelingMLP."""


def noise_for(network: nn.Module) -> Callable[[int, np.random.Generator], Sequence[Array]]:
    """The function that draws a network's noise, f(e) [rows, noise_size]; nothing for one without noise."""
    size = getattr(network, "noise_size", 0)

    def draw(rows: int, rng: np.random.Generator) -> Sequence[Array]:
        noise = rng.standard_normal((rows, size), np.float32)
        return (np.copysign(np.sqrt(np.abs(noise)), noise),)

    return draw if size else lambda rows, rng: ()
