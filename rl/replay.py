"""Replay memories, as configurations name them."""

from rl.learning.hindsight import HindsightReplay
from rl.learning.prioritized import PrioritizedReplay
from rl.learning.replay import UniformReplay

__all__ = ["HindsightReplay", "PrioritizedReplay", "UniformReplay"]
