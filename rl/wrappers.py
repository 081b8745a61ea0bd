"""Environment wrappers, as configurations name them."""

from rl.envs.wrappers import FreshWorld, Keep

__all__ = ["FreshWorld", "Keep"]
