"""Recurrent networks: a state [B, S] passes from step to step, and is zero where an episode begins."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl.learning.distributions import Distribution
from rl.learning.networks.layers import linear
from rl.learning.networks.masked import hide, hide_in_numpy
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


class Memory(nn.Module):
    """Gates whose inputs are x [B, gates * H], the outputs of an encoder, and U h with a bias, of the first H
    numbers h of a state [B, S]: what a policy sees of it.
    """

    gates: int
    states = 1  # S / H

    def __init__(self, network: NetworkFactory, obs_shape: Sequence[int], size: int) -> None:
        super().__init__()
        self.size, self.state_size = size, self.states * size
        self.encoder = network(obs_shape, self.gates * size)
        self.recurrent = nn.Linear(size, self.gates * size)
        for gate in self.recurrent.weight.chunk(self.gates):
            nn.init.orthogonal_(gate.detach())
        nn.init.zeros_(self.recurrent.bias)

    def forward(self, obs: Tensor, state: Tensor) -> Tensor:
        """One step: [B, *obs_shape] and the state before [B, S] -> the state after [B, S]."""
        return self._step(self.encoder(obs), state)

    def sequence(self, obs: Tensor, state: Tensor, begins: Tensor) -> Tensor:
        """[T, B, *obs_shape] and the state before [B, S] -> the states after every step [T, B, S].

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
        """The state after, from the encoder's outputs and the state before."""
        raise NotImplementedError

    numpy_forward = numpy_forward


class GRU(Memory):
    """Gated recurrent unit (Cho et al. 2014):

    r, z = sigmoid(x_rz + U_rz h), n = tanh(x_n + r * U_n h), h' = (1 - z) * n + z * h.
    """

    gates = 3

    def _step(self, x: Tensor, state: Tensor) -> Tensor:
        x_rz, x_n = x.tensor_split((2 * self.size,), -1)
        h_rz, h_n = linear(state, self.recurrent).tensor_split((2 * self.size,), -1)
        r, z = torch.sigmoid(x_rz + h_rz).chunk(2, -1)
        return torch.lerp(torch.tanh(torch.addcmul(x_n, r, h_n)), state, z)

    def by_numpy(self) -> NumpyFunction:
        """`forward` over the memory where the weights are now."""
        encoder, (weight, bias) = by_numpy(self.encoder), linear_memory(self.recurrent)
        size, both_gates = self.size, 2 * self.size

        def forward(obs: Array, state: Array | None) -> Array:
            assert state is not None
            x, h = encoder(obs, None), np.dot(state, weight) + bias
            gates = _sigmoid(x[:, :both_gates] + h[:, :both_gates])
            n: Array = np.tanh(x[:, both_gates:] + gates[:, :size] * h[:, both_gates:])
            n += gates[:, size:] * (state - n)
            return n

        return forward


class LSTM(Memory):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; Gers et al. 2000); a state [B, 2 H] is h and c:

    i, f, o = sigmoid(x_ifo + U_ifo h), g = tanh(x_g + U_g h), c' = f * c + i * g, h' = o * tanh(c').
    The forget gates' biases are 1 at first (Jozefowicz et al. 2015).
    """

    gates, states = 4, 2

    def __init__(self, network: NetworkFactory, obs_shape: Sequence[int], size: int) -> None:
        super().__init__(network, obs_shape, size)
        nn.init.ones_(self.recurrent.bias.detach()[size : 2 * size])

    def _step(self, x: Tensor, state: Tensor) -> Tensor:
        h, c = state.tensor_split(2, -1)
        ifo, g = (x + linear(h, self.recurrent)).tensor_split((3 * self.size,), -1)
        i, f, o = torch.sigmoid(ifo).chunk(3, -1)
        c = torch.addcmul(f * c, i, torch.tanh(g))
        return torch.cat([o * torch.tanh(c), c], -1)

    def by_numpy(self) -> NumpyFunction:
        """`forward` over the memory where the weights are now."""
        encoder, (weight, bias) = by_numpy(self.encoder), linear_memory(self.recurrent)
        size, three_gates = self.size, 3 * self.size

        def forward(obs: Array, state: Array | None) -> Array:
            assert state is not None
            x = encoder(obs, None) + np.dot(state[:, :size], weight) + bias
            gates, after = _sigmoid(x[:, :three_gates]), np.empty_like(state)
            c = after[:, size:]
            np.multiply(gates[:, size : 2 * size], state[:, size:], out=c)
            c += gates[:, :size] * np.tanh(x[:, three_gates:])
            np.multiply(gates[:, 2 * size :], np.tanh(c), out=after[:, :size])
            return after

        return forward


def _sigmoid(x: Array) -> Array:
    """In place: sigmoid(x) = (tanh(x / 2) + 1) / 2, which never overflows."""
    x *= 0.5
    np.tanh(x, out=x)
    x += 1
    x *= 0.5
    return x


class RecurrentActorCritic(nn.Module):
    """A policy and a value function that are both linear in what is seen of one memory's state."""

    def __init__(
        self,
        network: NetworkFactory,
        obs_shape: Sequence[int],
        distribution: Distribution,
        *,
        size: int,
        memory: Callable[..., Memory] = GRU,
    ) -> None:
        super().__init__()
        self.memory = memory(network, obs_shape, size)
        self.mask_size = getattr(network, "mask_size", 0)  # the last columns of its inputs
        linear = functools.partial(MLP, hidden=[], activation="tanh", init="orthogonal")
        self.heads = ActorCritic(linear, (size,), distribution, shared=True)

    def forward(self, obs: Tensor, state: Tensor, begins: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As Memory.sequence's -> params [T * B, num_params], values [T * B], states after [T, B, S]."""
        states = self.memory.sequence(obs, state, begins)
        params, value = self.heads(self._seen(states.flatten(0, 1)))
        return self.hide(params, obs.flatten(0, 1)), value, states

    def hide(self, params: Tensor, obs: Tensor) -> Tensor:
        """The params [B, num_params] without what the inputs [B, ...] mask."""
        return hide(params, obs[:, -self.mask_size :]) if self.mask_size else params

    def _seen(self, state: Any) -> Any:
        return state[:, : self.memory.size]

    def numpy_policy(self) -> Callable[[Array, Array], Array]:
        """The policy's params [N, num_params] of states [N, S] and the inputs before, from and to NumPy."""
        policy, size = self.heads.numpy_policy(), self.mask_size

        def params(state: Array, obs: Array) -> Array:
            outputs = policy(self._seen(state))
            return hide_in_numpy(outputs, obs[:, -size:]) if size else outputs

        return params

    def numpy_value(self) -> Callable[[Array], Array]:
        """The values [N] of states [N, S], from and to NumPy."""
        value = self.heads.numpy_value()
        return lambda state: value(self._seen(state))
