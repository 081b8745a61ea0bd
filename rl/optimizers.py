"""Optimizers, as configurations name them."""

from rl.learning.optimizers import Adam, RMSprop

__all__ = ["Adam", "RMSprop"]
