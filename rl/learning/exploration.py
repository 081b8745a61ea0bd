"""How agents with action values explore."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl.config.schedule import Schedule
from rl.group import SharedDraws
from rl.learning.masks import LOWEST, random_allowed

Array = NDArray[Any]


def epsilon_greedy(value: Array, epsilon: float, rng: np.random.Generator) -> Array:
    """Actions [N] for values [N, A]: the best, by chance `epsilon` any (Sutton & Barto 2018, section 2.2).

    One whose value is MASKED is never chosen.
    """
    action, random = value.argmax(-1), rng.random(len(value)) < epsilon
    shared: Any = rng if type(rng) is SharedDraws else None  # what is drawn is for other processes' envs too
    if not np.count_nonzero(random) and not (shared and (shared.last < epsilon).any()):
        return action
    masked = bool(value.min() < LOWEST)
    if shared.anywhere(masked) if shared else masked:
        return np.where(random, random_allowed(value > LOWEST, rng), action)
    return np.where(random, rng.integers(value.shape[-1], size=len(value)), action)


def boltzmann(value: Array, temperature: float, rng: np.random.Generator) -> Array:
    """Actions [N] for values [N, A], with P(a) ~ exp(value / temperature) (Sutton & Barto 2018, eq. 2.11)."""
    return (value + temperature * rng.gumbel(size=value.shape)).argmax(-1)


class Exploration:
    """How an agent with action values explores: epsilon-greedy or Boltzmann, by a schedule."""

    def __init__(self, epsilon: Schedule | None, temperature: Schedule | None) -> None:
        """ValueError unless exactly one is given."""
        if (epsilon is None) == (temperature is None):
            raise ValueError(
                "explore by algo.epsilon or by algo.temperature: give one, and set the other to null"
            )
        self.schedule: Any = temperature if epsilon is None else epsilon
        self.choose = boltzmann if epsilon is None else epsilon_greedy

    def __call__(self, frames: int) -> float:
        """The chance of a random action, or the temperature, at a clock of `frames`."""
        return float(self.schedule(frames))

    def sample(self, value: Array, frames: int, rng: np.random.Generator) -> Array:
        """Actions [N] for action values [N, A]."""
        return self.choose(value, self.schedule(frames), rng)
