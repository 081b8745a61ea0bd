"""The last observations of episodes, as a replay memory keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Ends:
    """The last observations of episodes, by the numbers of the transitions that they follow, oldest first."""

    def __init__(self, shape: Sequence[int], dtype: Any) -> None:
        self.numbers, self.obs = np.zeros(16, np.int64), np.zeros((16, *shape), dtype)
        self.first = self.stop = 0  # those in between are there

    def append(self, number: int, obs: Array) -> None:
        """Add one, with a number above all others."""
        if self.stop == len(self.numbers):
            count = self.stop - self.first
            room = max(16, 2 * count)
            for name in ("numbers", "obs"):
                old = getattr(self, name)
                new = np.zeros((room, *old.shape[1:]), old.dtype)
                new[:count] = old[self.first : self.stop]
                setattr(self, name, new)
            self.first, self.stop = 0, count
        self.numbers[self.stop], self.obs[self.stop] = number, obs
        self.stop += 1

    def replace_from(self, number: int, obs: dict[int, Array]) -> None:
        """In place of those from `number` on these, by their numbers."""
        self.stop = int(self._position(number))
        for k in sorted(obs):
            self.append(k, obs[k])

    def _position(self, numbers: Any) -> Any:
        return self.first + self.numbers[self.first : self.stop].searchsorted(numbers)

    def forget_before(self, number: int) -> None:
        """Drop those with smaller numbers."""
        self.first = int(self._position(number))

    def find(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Array]:
        """Which of these numbers [M] are there, and the observations of those."""
        position = self._position(numbers)
        found = self.numbers.take(position, mode="clip") == numbers
        found &= position < self.stop
        return found, self.obs.take(position[found], 0)

    def between(self, begin: int, end: int) -> tuple[NDArray[np.int64], Array]:
        """Those numbered `begin` ... `end` - 1."""
        part = slice(int(self._position(begin)), int(self._position(end)))
        return self.numbers[part], self.obs[part]
