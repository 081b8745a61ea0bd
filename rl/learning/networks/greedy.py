"""Policies as they play, in torch alone: what `rl.export` writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

TensorFunction = Callable[[Any], Tensor]  # of a tensor, or of tensors by name


class Greedy(nn.Module):
    """Observations [B, *obs_shape] -> the actions [B, ...] that a policy thinks best, by its network.

    Those of a Dict or Tuple are tensors by the names of their leaves.
    """

    def __init__(self, normalize: TensorFunction, network: nn.Module, best: TensorFunction) -> None:
        """`best` turns the network's outputs into actions."""
        super().__init__()
        self.normalize, self.network, self.best = normalize, network, best

    def forward(self, obs: Any) -> Tensor:
        """As the environment takes them, but not clipped to its bounds."""
        return self.best(self.network(self.normalize(obs)))


class RecurrentGreedy(nn.Module):
    """Observations and states [B, S] -> actions, and the states after them."""

    def __init__(self, normalize: TensorFunction, networks: Any, best: TensorFunction) -> None:
        """`networks` are a RecurrentActorCritic."""
        super().__init__()
        self.normalize, self.memory, self.network = normalize, networks.memory, networks.heads.policy
        self.hide, self.best = networks.hide, best

    def forward(self, obs: Any, state: Tensor) -> tuple[Tensor, Tensor]:
        """As Greedy's; a state is zero where an episode begins."""
        inputs = self.normalize(obs)
        state = self.memory(inputs, state)
        params = self.network(state[:, : self.memory.size])
        return self.best(self.hide(params, inputs)), state


class Clipped(nn.Module):
    """A policy whose actions [B, ...] are clipped to the bounds of their space."""

    def __init__(self, policy: nn.Module, low: NDArray[np.floating], high: NDArray[np.floating]) -> None:
        super().__init__()
        self.policy = policy
        self.low, self.high = (torch.as_tensor(bound, dtype=torch.float32) for bound in (low, high))

    def forward(self, *inputs: Any) -> Tensor | tuple[Tensor, Tensor]:
        """The policy's own inputs and outputs."""
        outputs = self.policy(*inputs)
        if isinstance(outputs, Tensor):
            return outputs.clamp(self.low, self.high)
        action, state = outputs
        return action.clamp(self.low, self.high), state
