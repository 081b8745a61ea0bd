"""Action masks: which actions an environment allows in a state.

A mask travels in observations, as the key `action_mask` of a Dict. It becomes the last columns of what
networks are given (`rl.learning.networks.masked`): they ignore it, and their outputs for masked actions, be
they logits or values, are MASKED. So these have probability 0, are never the best, and pass no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl.spaces import MASK

Array = NDArray[Any]
# of masked actions: far below all else, and finite, so that 0 times it is 0
MASKED = -1e30
LOWEST = MASKED / 2  # what is below is MASKED, or a mean of such numbers


def mask_size(obs_space: gym.Space, action_space: gym.Space) -> int:
    """How many actions the observations' mask is of; 0 if they have none.

    For a Discrete space it has a number for each action, for a MultiDiscrete one for each value of each
    choice, side by side. ValueError if the mask has not as many, or the action space is another.
    """
    if not (isinstance(obs_space, gym.spaces.Dict) and MASK in obs_space.spaces):
        return 0
    shape = obs_space[MASK].shape or ()
    if isinstance(action_space, gym.spaces.Discrete):
        wanted = int(action_space.n)
    elif isinstance(action_space, gym.spaces.MultiDiscrete):
        wanted = int(action_space.nvec.sum())
    else:
        raise ValueError(
            f"its observations have an {MASK}, and the action space is {action_space}; Discrete and"
            f" MultiDiscrete spaces can be masked. Remove the key {MASK} by a wrapper in env.wrappers"
        )
    if math.prod(shape) != wanted:
        raise ValueError(
            f"its {MASK} has {math.prod(shape)} numbers, and {action_space} needs {wanted}, one for each"
            " action"
        )
    return wanted


class WithMask:
    """What makes observations inputs of networks, and adds the mask as their last columns: [..., F + A]."""

    def __init__(self, inner: Any, size: int) -> None:
        """`inner` makes the inputs without the mask, and may normalise them."""
        self.inner, self.size, self.parts = inner, size, inner.parts

    def __call__(self, obs: Array) -> Array:
        """Of observations [...]; images become flat too."""
        inputs = self.inner(obs)
        mask = obs[MASK].reshape(*obs.shape, self.size) != 0
        return np.concatenate([inputs.reshape(*obs.shape, -1), mask.astype(inputs.dtype)], -1)

    def in_torch(self, obs: Mapping[str, Tensor]) -> Tensor:
        """The same, from tensors [B, ...] by name."""
        inputs = self.inner.in_torch(obs).flatten(1)
        return torch.cat([inputs, (obs[MASK].flatten(1) != 0).to(inputs.dtype)], 1)

    def update(self, obs: Array) -> None:
        """Add observations to the statistics, if there are any."""
        self.inner.update(obs)


def random_actions(obs: Array, num_actions: int, rng: np.random.Generator) -> Array:
    """Actions [N], counted from 0, of those that the observations' masks allow; of all if they have none."""
    if obs.dtype.names is None or MASK not in obs.dtype.names:
        return rng.integers(num_actions, size=len(obs))
    return random_allowed(obs[MASK].reshape(len(obs), -1) != 0, rng)


def random_allowed(allowed: NDArray[np.bool_], rng: np.random.Generator) -> Array:
    """Of each row [N, A] one that is allowed, all equally likely."""
    number = (rng.random(len(allowed)) * allowed.sum(-1)).astype(
        np.int64
    )  # how many allowed ones stand before
    return (allowed.cumsum(-1) > number[:, None]).argmax(-1)


def sample_allowed(space: Any, obs: Any) -> Any:
    """`space.sample()`, but of what the mask of an observation allows, if it has one."""
    if isinstance(obs, np.ndarray | np.void):
        known = MASK in (obs.dtype.names or ())
    else:
        known = isinstance(obs, Mapping) and MASK in obs
    if not known:
        return space.sample()
    allowed = np.asarray(obs[MASK]).reshape(1, -1) != 0
    if isinstance(space, gym.spaces.Discrete):
        return space.start + random_allowed(allowed, space.np_random)[0]
    parts = np.split(allowed, np.cumsum(space.nvec.ravel())[:-1], -1)
    chosen = np.concatenate([random_allowed(part, space.np_random) for part in parts])
    return (space.start + chosen.reshape(space.shape)).astype(space.dtype)


def mean_allowed(value: Tensor) -> Tensor:
    """The mean [] of values that are not MASKED."""
    allowed = value > LOWEST
    return torch.where(allowed, value, 0).sum() / allowed.sum().clamp(min=1)
