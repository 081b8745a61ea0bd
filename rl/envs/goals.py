"""Environments with goals: what computes the rewards for other goals than the one that was pursued.

They observe a Dict with the keys observation, achieved_goal and desired_goal, and have the methods of
gymnasium-robotics' GoalEnv: `compute_reward`, and `compute_terminated` if they like.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rl.learning.masks import sample_allowed
from rl.spaces import obs_dtype
from rl.state import GlobalRandom

Array = NDArray[Any]
GoalFunction = Callable[[Array, Array], Array]  # of achieved and desired goals [B, ...]: [B]
KEYS = ("observation", "achieved_goal", "desired_goal")
METHODS = ("compute_reward", "compute_terminated")
TRIAL_STEPS = 8
OTHERWISE = "type algo.replay._target_=rl.replay.UniformReplay"


def goal_functions(env: gym.Env, *, clip_rewards: bool) -> dict[str, GoalFunction]:
    """The env's METHODS, for many pairs of goals at once and an empty info; it plays a few steps.

    ValueError if the env has no goals, or its rewards are not what `compute_reward` gives.
    """
    _check(env)
    methods = {name: env.get_wrapper_attr(name) for name in METHODS if env.has_wrapper_attr(name)}
    with GlobalRandom().apart(0):
        achieved, desired, rewards = _play(env)
    given = np.sign(rewards) if clip_rewards else np.array(rewards)
    try:
        computed = [
            float(methods["compute_reward"](*pair, {})) for pair in zip(achieved, desired, strict=True)
        ]
    except Exception as error:
        raise ValueError(
            f"the environment's compute_reward fails when it is given an empty info ({error!r}), and"
            f" rl.replay.HindsightReplay keeps no infos; {OTHERWISE}"
        ) from error
    if not np.allclose(given, computed, rtol=1e-4, atol=1e-6):
        raise ValueError(
            f"the environment's rewards are {given.tolist()} where compute_reward gives {computed}, so"
            " rl.replay.HindsightReplay cannot compute those of other goals; remove what changes them"
            f" (a wrapper, env.clip_rewards), or {OTHERWISE}"
        )
    dtype = obs_dtype(env.observation_space)["achieved_goal"].base
    several = np.array([*achieved, *achieved], dtype), np.array([*desired, *achieved], dtype)
    return {name: batched(method, *several) for name, method in methods.items()}


def _check(env: gym.Env) -> None:
    spaces = env.observation_space.spaces if isinstance(env.observation_space, gym.spaces.Dict) else {}
    kinds = {(goal.shape, goal.dtype) for name, goal in spaces.items() if name in KEYS[1:]}
    if (
        not set(spaces) >= set(KEYS)
        or len(kinds) > 1
        or isinstance(spaces["achieved_goal"], gym.spaces.Dict | gym.spaces.Tuple)
        or not env.has_wrapper_attr("compute_reward")
    ):
        raise ValueError(
            "rl.replay.HindsightReplay needs observations that are a Dict of observation, achieved_goal and"
            " desired_goal, both goals of one shape, and an environment with a method"
            " compute_reward(achieved_goal, desired_goal, info), such as env=point_maze; for"
            f" {env.observation_space} {OTHERWISE}"
        )


def _play(env: gym.Env) -> tuple[list[Any], list[Any], list[float]]:
    """What random steps achieved, for what, and their rewards."""
    space = copy.deepcopy(env.action_space)
    space.seed(0)
    obs, _ = env.reset(seed=0)
    achieved, desired, rewards = [], [], []
    for _ in range(TRIAL_STEPS):
        obs, reward, terminated, truncated, _ = env.step(sample_allowed(space, obs))
        achieved.append(np.array(obs["achieved_goal"]))
        desired.append(np.array(obs["desired_goal"]))
        rewards.append(float(reward))
        if terminated or truncated:
            break
    return achieved, desired, rewards


def batched(method: Callable[..., Any], achieved: Array, desired: Array) -> GoalFunction:
    """A method of two goals as a function of arrays of them: called once, if for these [B, ...] that works."""

    def one_by_one(achieved: Array, desired: Array) -> Array:
        return np.array([method(*pair, {}) for pair in zip(achieved, desired, strict=True)])

    def at_once(achieved: Array, desired: Array) -> Array:
        return np.asarray(method(achieved, desired, {}))

    expected = one_by_one(achieved, desired)
    try:
        result = at_once(achieved, desired)
    except Exception:  # noqa: BLE001  whatever a method for single goals makes of arrays
        return one_by_one
    same = result.shape == expected.shape and np.allclose(result, expected, rtol=1e-4, atol=1e-6)
    return at_once if same else one_by_one
