"""Environment wrappers, as configurations name them."""

from rl.envs.wrappers import ActionMask, FreshWorld, Keep, MiniGrid

__all__ = ["ActionMask", "FreshWorld", "Keep", "MiniGrid"]
