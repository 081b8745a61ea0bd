"""Recurrent networks: a state [B, H] passes from step to step, and is zero where an episode begins."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rl.learning.distributions import Distribution
from rl.learning.networks.mlp import MLP
from rl.learning.networks.numpy_forward import (
    Array,
    NetworkFactory,
    NumpyFunction,
    by_numpy,
    linear_memory,
    numpy_forward,
)
from rl.learning.networks.policy import ActorCritic


class GRU(nn.Module):
    """Gated recurrent unit (Cho et al. 2014) whose gates' inputs x [B, 3 H] are the outputs of an encoder:

    r, z = sigmoid(x_rz + U_rz h), n = tanh(x_n + r * U_n h), h' = (1 - z) * n + z * h. U has a bias.
    """

    def __init__(self, network: NetworkFactory, obs_shape: Sequence[int], size: int) -> None:
        super().__init__()
        self.size = size
        self.encoder = network(obs_shape, 3 * size)
        self.recurrent = nn.Linear(size, 3 * size)
        for gate in self.recurrent.weight.chunk(3):
            nn.init.orthogonal_(gate.detach())
        nn.init.zeros_(self.recurrent.bias)

    def forward(self, obs: Tensor, state: Tensor) -> Tensor:
        """One step: [B, *obs_shape] and the state before [B, H] -> the state after [B, H]."""
        return self._step(self.encoder(obs), state)

    def sequence(self, obs: Tensor, state: Tensor, begins: Tensor) -> Tensor:
        """[T, B, *obs_shape] and the state before [B, H] -> the states after every step [T, B, H].

        Where an episode `begins` [T, B] the state before is zero. All observations are encoded at once.
        """
        inputs = self.encoder(obs.flatten(0, 1)).unflatten(0, obs.shape[:2])
        keep = begins.logical_not().to(state.dtype).unsqueeze(-1)
        states = []
        for x, kept in zip(inputs.unbind(), keep.unbind(), strict=True):
            state = self._step(x, state * kept)
            states.append(state)
        return torch.stack(states)

    def _step(self, x: Tensor, state: Tensor) -> Tensor:
        x_rz, x_n = x.tensor_split((2 * self.size,), -1)
        h_rz, h_n = self.recurrent(state).tensor_split((2 * self.size,), -1)
        r, z = torch.sigmoid(x_rz + h_rz).chunk(2, -1)
        return torch.lerp(torch.tanh(torch.addcmul(x_n, r, h_n)), state, z)

    def by_numpy(self) -> NumpyFunction:
        """`forward` over the memory where the weights are now."""
        encoder, (weight, bias) = by_numpy(self.encoder), linear_memory(self.recurrent)
        size, both_gates = self.size, 2 * self.size

        def forward(obs: Array, state: Array | None) -> Array:
            assert state is not None
            x, h = encoder(obs, None), np.dot(state, weight) + bias
            # sigmoid(a) = (tanh(a / 2) + 1) / 2: never overflows
            gates = np.tanh((x[:, :both_gates] + h[:, :both_gates]) * 0.5)
            gates += 1
            gates *= 0.5
            n: Array = np.tanh(x[:, both_gates:] + gates[:, :size] * h[:, both_gates:])
            n += gates[:, size:] * (state - n)
            return n

        return forward

    numpy_forward = numpy_forward


class RecurrentActorCritic(nn.Module):
    """A policy and a value function that are both linear in the state of one GRU."""

    def __init__(
        self, network: NetworkFactory, obs_shape: Sequence[int], distribution: Distribution, *, size: int
    ) -> None:
        super().__init__()
        self.memory = GRU(network, obs_shape, size)
        linear = functools.partial(MLP, hidden=[], activation="tanh", init="orthogonal")
        self.heads = ActorCritic(linear, (size,), distribution, shared=True)

    def forward(self, obs: Tensor, state: Tensor, begins: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs as GRU.sequence's -> params [T * B, num_params], values [T * B], states after [T, B, H]."""
        states = self.memory.sequence(obs, state, begins)
        return *self.heads(states.flatten(0, 1)), states
