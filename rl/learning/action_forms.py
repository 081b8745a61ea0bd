"""Actions of a Dict or Tuple space: vectors where agents give and store them, the space's own form where
environments take them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from numpy.typing import NDArray

Array = NDArray[Any]
LARGEST = 2**24  # up to here float32 holds every integer


def action_leaves(space: gym.Space) -> Iterator[gym.Space]:
    """The spaces in a Dict or Tuple that are neither, in its order; another space itself."""
    if not isinstance(space, Dict | Tuple):
        yield space
        return
    for part in space.spaces.values() if isinstance(space, Dict) else space.spaces:
        yield from action_leaves(part)


class ActionForm:
    """Makes actions of agents what an environment takes.

    In a Box they are clipped to its bounds; of a Dict or Tuple they are vectors [..., D] (see
    `rl.learning.distributions.IndependentHeads`) and become a dict or tuple whose leaves are [..., *shape].
    """

    def __init__(self, space: gym.Space) -> None:
        """ValueError if a leaf of a Dict or Tuple has integers that float32 cannot hold."""
        self.space = space
        self.vector = isinstance(space, Dict | Tuple)  # whether agents give vectors
        for leaf in action_leaves(space) if self.vector else ():
            if isinstance(leaf, Discrete) and max(abs(int(leaf.start)), int(leaf.start + leaf.n)) > LARGEST:
                raise ValueError(
                    f"the action space's {leaf} has values above 2^24; renumber them by a wrapper"
                )

    @property
    def trivial(self) -> bool:
        """Whether actions stay as they are."""
        return not (self.vector or isinstance(self.space, Box))

    def __call__(self, action: Any) -> Any:
        """One action or [..., D]; what has a Dict's or Tuple's own form stays as it is."""
        if isinstance(self.space, Box):
            return np.clip(action, self.space.low, self.space.high)
        return self._build(self.space, action, 0)[0] if isinstance(action, np.ndarray) else action

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
        if isinstance(space, Box):
            numbers = np.clip(numbers, space.low, space.high)
        numbers = np.asarray(numbers, space.dtype)
        return (numbers[()] if isinstance(space, Discrete) else numbers), stop


def to_vector(space: gym.Space, action: Any) -> NDArray[np.float32]:
    """One action of a Dict or Tuple space as a vector [D]."""
    if isinstance(space, Dict | Tuple):
        pairs = [
            (part, action[key])
            for key, part in (space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces))
        ]
        return np.concatenate([to_vector(part, own) for part, own in pairs])
    return np.asarray(action, np.float32).reshape(-1)
