"""Making an environment from its configuration, and checking that it can be trained on."""

from __future__ import annotations

import contextlib
import functools
import pickle
import types
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
from rl.spaces import check_obs_space, leaves
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
        if env_id.startswith("gymnasium_robotics:"):
            _quiet_mujoco()
            _let_robotics_take_mujoco_4()
        env = gym.make(env_id, disable_env_checker=True, **rendering, **kwargs)
        warnings.filterwarnings("ignore", ".*Using the latest versioned environment")  # once is enough
        env = _quickened(env)
        for wrapper in wrappers:
            env = wrapper(env)
        return env

    return make


def _quickened(env: gym.Env) -> gym.Env:
    """The same env with less done at each step: a CartPole's takes two thirds of the time.

    `OrderEnforcing` goes: it would find that an env was not reset before its first step.
    """
    space: Any = env.unwrapped.action_space
    if type(env.unwrapped.action_space) is gym.spaces.Discrete and space.dtype == np.int64:
        space.contains = functools.partial(_contains, int(space.start), int(space.start + space.n))
    if isinstance(env, TimeLimit) and type(env.env) is OrderEnforcing:
        env.env = env.env.env
    return env


def _contains(low: int, high: int, x: Any) -> bool:
    """Whether x is in the Discrete of `low` ... `high` - 1; many envs ask at each step."""
    if type(x) is np.int64:
        return bool(low <= x < high)
    return gym.spaces.Discrete(high - low, start=low).contains(x)


def _quiet_mujoco() -> None:
    """Have MuJoCo warn as Python does, not by MUJOCO_LOG.TXT, and not of Gymnasium's own model files."""

    def warn(message: str) -> None:
        if "deprecated" not in message:
            warnings.warn(f"MuJoCo: {message}", stacklevel=2)

    with contextlib.suppress(ImportError):  # gymnasium.make says what is missing
        import mujoco

        mujoco.set_mju_user_warning(warn)


def _let_robotics_take_mujoco_4() -> None:
    """Have gymnasium-robotics compare the types of joints as numbers.

    Version 1.4.2 asks whether a NumPy integer is `in` a tuple of enum members; of MuJoCo 4 it never is.
    """
    with contextlib.suppress(ImportError):  # gymnasium.make says what is missing
        import mujoco
        from gymnasium_robotics.utils import mujoco_utils

        joints = {name: int(member) for name, member in mujoco.mjtJoint.__members__.items()}
        names = vars(mujoco) | {"mjtJoint": types.SimpleNamespace(**joints)}
        mujoco_utils.mujoco = types.SimpleNamespace(**names)


def check_env(env: gym.Env) -> None:
    """ValueError, with what to do, for an env that cannot be trained on or resumed exactly."""
    check_obs_space(env.observation_space)
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
    `rl.replay` can undo. An env that stacks frames itself has attributes `frame_stack` and `zero_padded`; one
    with Dict observations, of whose leaves only some are stacks, names those in `stacked_keys`, and so does
    a wrapper around stacked frames.
    """
    while isinstance(env, OrderEnforcing | TimeLimit):
        env = env.env
    if isinstance(env, FrameStackObservation) and env.padding_type in ("reset", "zero"):
        padded = env.padding_type == "zero"
        return (
            (1, False)
            if padded and not _zero_is_zero(env.env.observation_space)
            else (env.stack_size, padded)
        )
    if isinstance(env, gym.Wrapper) and not hasattr(env, "stacked_keys"):
        return 1, False
    return getattr(env, "frame_stack", 1), getattr(env, "zero_padded", False)


def stacked_keys(env: gym.Env) -> Sequence[str] | None:
    """The leaves of Dict observations that are stacks of frames; None where all are."""
    while isinstance(env, OrderEnforcing | TimeLimit):
        env = env.env
    return getattr(env, "stacked_keys", None)


def _zero_is_zero(space: gym.Space) -> bool:
    """Whether what gymnasium calls the zero of a space is 0 everywhere; a Discrete from 1 on has none."""
    return all(
        np.all(leaf.low <= 0) and np.all(leaf.high >= 0)
        if isinstance(leaf, gym.spaces.Box)
        else not np.any(getattr(leaf, "start", 0))
        for leaf in leaves(space).values()
    )
