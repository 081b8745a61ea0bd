"""Environment wrappers, as configurations name them."""

from rl.envs.wrappers import ActionMask, FreshWorld, Keep

__all__ = ["ActionMask", "FreshWorld", "Keep"]
