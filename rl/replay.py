"""Replay memories, as configurations name them."""

from rl.learning.replay import PrioritizedReplay, UniformReplay

__all__ = ["PrioritizedReplay", "UniformReplay"]
