"""Replay memories, as configurations name them."""

from rl.learning.hindsight import HindsightReplay
from rl.learning.replay import PrioritizedReplay, UniformReplay

__all__ = ["HindsightReplay", "PrioritizedReplay", "UniformReplay"]
