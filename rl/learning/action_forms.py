"""Actions of a Dict or Tuple space: vectors where agents give and store them, the space's own form where
environments take them.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from numpy.typing import NDArray

from rl.spaces import leaf_paths

Array = NDArray[Any]
LARGEST = 2**24  # up to here float32 holds every integer


class ActionForm:
    """Makes actions of agents what an environment takes.

    In a Box they are clipped to its bounds; of a Dict or Tuple they are vectors [..., D] (see
    `rl.learning.distributions.IndependentHeads`) and become a dict or tuple whose leaves are [..., *shape].
    """

    def __init__(self, space: gym.Space) -> None:
        """ValueError if a leaf of a Dict or Tuple has integers that float32 cannot hold."""
        self.space = space
        self.bounds: tuple[Array, Array] | None = None  # of what an agent gives
        if isinstance(space, Box):
            self.bounds = space.low, space.high
        elif isinstance(space, Dict | Tuple):
            low, high = zip(*(_bounds(leaf) for _, leaf in leaf_paths(space)), strict=True)
            self.bounds = np.concatenate(low), np.concatenate(high)
        self.trivial = self.bounds is None  # actions stay as they are

    def clip(self, action: Any) -> Any:
        """An agent's action, or [..., *shape], within the bounds."""
        return action if self.bounds is None else action.clip(*self.bounds)  # half of np.clip's time

    def __call__(self, action: Any) -> Any:
        """An agent's action, or [..., D]; what has a Dict's or Tuple's own form already stays as it is."""
        if not isinstance(self.space, Dict | Tuple):
            return self.clip(action)
        return self._build(self.space, self.clip(action), 0)[0] if isinstance(action, np.ndarray) else action

    def _build(self, space: Any, vector: Array, column: int) -> tuple[Any, int]:
        """The action of a part of the space, from the numbers at `column` on; and where the next begin."""
        if isinstance(space, Dict | Tuple):
            keyed, parts = isinstance(space, Dict), []
            for part in space.spaces.values() if isinstance(space, Dict) else space.spaces:
                action, column = self._build(part, vector, column)
                parts.append(action)
            return (dict(zip(space.spaces, parts, strict=True)) if keyed else tuple(parts)), column
        stop = column + math.prod(space.shape or ())
        numbers = vector[..., column:stop].reshape((*vector.shape[:-1], *(space.shape or ())))
        numbers = np.asarray(numbers, space.dtype)
        return (numbers[()] if isinstance(space, Discrete) else numbers), stop


def _bounds(leaf: Any) -> tuple[Array, Array]:
    """Least and greatest numbers of a leaf, flat [D]. ValueError if float32 cannot hold its integers."""
    if isinstance(leaf, Box):
        low, high = leaf.low, leaf.high
    elif isinstance(leaf, Discrete | MultiDiscrete):
        count = leaf.n if isinstance(leaf, Discrete) else leaf.nvec
        low, high = leaf.start, leaf.start + count - 1
    elif isinstance(leaf, gym.spaces.MultiBinary):
        low, high = np.zeros(leaf.shape), np.ones(leaf.shape)
    else:
        raise ValueError(f"actions of {leaf} are not supported")
    if not isinstance(leaf, Box) and max(np.abs(low).max(), np.abs(high).max()) > LARGEST:
        raise ValueError(f"the action space's {leaf} has values above 2^24; renumber them by a wrapper")
    return np.asarray(low, np.float32).reshape(-1), np.asarray(high, np.float32).reshape(-1)


def to_vector(space: gym.Space, action: Any) -> NDArray[np.float32]:
    """One action of a Dict or Tuple space as a vector [D]."""
    parts = []
    for path, _ in leaf_paths(space):
        value = action
        for key in path:
            value = value[key]
        parts.append(np.asarray(value, np.float32).reshape(-1))
    return np.concatenate(parts)
