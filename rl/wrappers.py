"""Environment wrappers, as configurations name them."""

from rl.envs.wrappers import FreshWorld, Keep, MiniGrid

__all__ = ["FreshWorld", "Keep", "MiniGrid"]
