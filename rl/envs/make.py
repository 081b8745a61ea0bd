"""Making an environment from its configuration, and checking that it can be trained on."""

from __future__ import annotations

import contextlib
import pickle
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import (
    FrameStackObservation,
    NormalizeObservation,
    NormalizeReward,
    OrderEnforcing,
    TimeLimit,
)

from rl.envs.episodes import layers
from rl.serialize import load, serialize
from rl.state import Stateful

EnvFactory = Callable[..., gym.Env]  # takes render_mode=...; makes the env with its configured wrappers
_WITHOUT_STATE_DICT = (NormalizeObservation, NormalizeReward)  # learn across episodes and cannot be saved


def make_factory(
    env_id: str, kwargs: dict[str, Any], wrappers: Sequence[Callable[[gym.Env], gym.Env]]
) -> EnvFactory:
    """A function that makes one env. `wrappers` are applied in order, innermost first."""

    def make(render_mode: str | None = None) -> gym.Env:
        # an env that cannot render may not accept the keyword
        rendering: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
        if "mujoco" in str(getattr(gym.registry.get(env_id), "entry_point", "")):
            _quiet_mujoco()
        env = gym.make(env_id, disable_env_checker=True, **rendering, **kwargs)
        warnings.filterwarnings("ignore", ".*Using the latest versioned environment")  # once is enough
        for wrapper in wrappers:
            env = wrapper(env)
        return env

    return make


def _quiet_mujoco() -> None:
    """Have MuJoCo warn as Python does, not by MUJOCO_LOG.TXT, and not of Gymnasium's own model files."""

    def warn(message: str) -> None:
        if "deprecated" not in message:
            warnings.warn(f"MuJoCo: {message}", stacklevel=2)

    with contextlib.suppress(ImportError):  # gymnasium.make says what is missing
        import mujoco

        mujoco.set_mju_user_warning(warn)


def check_env(env: gym.Env) -> None:
    """ValueError, with what to do, for an env that cannot be trained on or resumed exactly."""
    space = env.observation_space
    if not isinstance(space, gym.spaces.Box):
        raise ValueError(
            f"the observation space {space} is not a Box; add a wrapper that makes it one:"
            " env.wrappers=[{_target_: gymnasium.wrappers.FlattenObservation}]"
        )
    for layer in layers(env):
        name = type(layer).__name__
        if isinstance(layer, Stateful):
            try:
                load(serialize(layer.state_dict()), "cpu")
            except (pickle.PickleError, AttributeError, TypeError) as error:
                allowed = "tensors, numbers, strings, lists, tuples and dicts"
                raise ValueError(
                    f"the state_dict of {name} must be made of {allowed}, or a checkpoint cannot hold it"
                ) from error
        elif isinstance(layer, _WITHOUT_STATE_DICT):
            raise ValueError(
                f"the wrapper {name} learns across episodes, and what it learned would be lost on a resume;"
                " use one with state_dict and load_state_dict, or algo.normalize_obs, algo.normalize_reward"
                " where there are such"
            )


def frame_stack(env: gym.Env) -> tuple[int, bool]:
    """How many frames an observation stacks, and whether an episode's stack is padded with zeros.

    (1, False) unless stacking is the outermost wrapper and padding is by zeros or by the first frame, which
    `rl.replay` can undo. An env that stacks frames itself has attributes `frame_stack` and `zero_padded`.
    """
    while isinstance(env, OrderEnforcing | TimeLimit):
        env = env.env
    if isinstance(env, FrameStackObservation) and env.padding_type in ("reset", "zero"):
        return env.stack_size, env.padding_type == "zero"
    if isinstance(env, gym.Wrapper):
        return 1, False
    return getattr(env, "frame_stack", 1), getattr(env, "zero_padded", False)


def float32_or_uint8(space: gym.Space) -> np.dtype[Any]:
    """The dtype in which observations are stored: uint8 stays uint8, all else is float32."""
    return np.dtype(np.uint8) if space.dtype == np.uint8 else np.dtype(np.float32)
