"""Replay memories, as configurations name them."""

from rl.learning.prioritized import PrioritizedReplay
from rl.learning.replay import UniformReplay

__all__ = ["PrioritizedReplay", "UniformReplay"]
