"""Action distributions: sampled in NumPy where the agent acts, evaluated in torch where it learns.

`params` are what a policy network puts out: [..., num_params]. Random numbers come from the generator passed in.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


class Distribution(Protocol):
    """What a policy over one action space can do."""

    num_params: int
    num_means: int  # how many of the params depend on the observation
    action_shape: tuple[int, ...]
    action_dtype: Any

    def sample(self, params: Array, rng: np.random.Generator) -> Array:
        """Actions [N, ...] drawn from params [N, num_params]."""

    def mode(self, params: Array) -> Array:
        """The most likely actions [N, ...]."""

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Log-probability (density) [B] of actions [B, ...]."""

    def entropy(self, params: Tensor) -> Tensor:
        """Entropy in nats [B]."""


class Categorical:
    """One of `num_actions` actions; params are unnormalised log-probabilities."""

    action_shape: tuple[int, ...] = ()
    action_dtype = np.int64

    def __init__(self, num_actions: int, start: int = 0) -> None:
        self.num_params = self.num_means = num_actions
        self.start = start  # Discrete spaces may count from another number than 0

    def sample(self, params: Array, rng: np.random.Generator) -> Array:
        """By the Gumbel-max trick: argmax of params + Gumbel noise."""
        return (params + rng.gumbel(size=params.shape)).argmax(-1) + self.start

    def mode(self, params: Array) -> Array:
        """The most likely actions [N]."""
        return params.argmax(-1) + self.start

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Log-probability [B]."""
        return params.log_softmax(-1).gather(-1, action.unsqueeze(-1) - self.start).squeeze(-1)

    def entropy(self, params: Tensor) -> Tensor:
        """Entropy in nats [B]."""
        log_prob = params.log_softmax(-1)
        return -(log_prob.exp() * log_prob).sum(-1)


class DiagonalGaussian:
    """Independent normals; params are the means [A] and then the log standard deviations [A].

    The density is that of the unclipped action; the environment's wrapper clips to its bounds.
    """

    action_dtype = np.float32

    def __init__(self, action_shape: tuple[int, ...]) -> None:
        self.action_shape = action_shape
        self.num_means = math.prod(action_shape)
        self.num_params = 2 * self.num_means

    def sample(self, params: Array, rng: np.random.Generator) -> Array:
        """Mean + standard deviation * normal noise, [N, *action_shape]."""
        mean, log_std = params[:, : self.num_means], params[:, self.num_means :]
        noise = rng.standard_normal(mean.shape, np.float32)
        return (mean + np.exp(log_std) * noise).reshape(-1, *self.action_shape)

    def mode(self, params: Array) -> Array:
        """The means, [N, *action_shape]."""
        return params[:, : self.num_means].reshape(-1, *self.action_shape)

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Log-density [B], summed over the action's dimensions."""
        mean, log_std = params.chunk(2, -1)
        standard = (action.flatten(1) - mean) * torch.exp(-log_std)
        return (-0.5 * standard**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, params: Tensor) -> Tensor:
        """Differential entropy in nats [B]."""
        return (params[..., self.num_means :] + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


def distribution_for(space: gym.Space) -> Distribution:
    """The distribution over an action space. ValueError if there is none for it."""
    if isinstance(space, gym.spaces.Discrete):
        return Categorical(int(space.n), int(space.start))
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return DiagonalGaussian(space.shape)
    raise ValueError(f"no policy for the action space {space}: Discrete and floating-point Box spaces have one")
