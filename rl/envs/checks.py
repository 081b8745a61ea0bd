"""Checks of an environment before training: Gymnasium's API, and whether episodes are reproducible."""

from __future__ import annotations

import contextlib
import copy
import math
import re
import time
import traceback
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import PassiveEnvChecker

from rl.envs.episodes import Episodes, layers
from rl.envs.make import EnvFactory
from rl.learning.masks import sample_allowed
from rl.state import GlobalRandom, derive_seed

_TESTED_PACKAGES = ("gymnasium", "ale_py", "minigrid", "rl")
# steps of each trial episode; state left over in BipedalWalkerHardcore's world may show only after ten resets
_STEPS = (50, *[5] * 11)
_SECONDS = 0.4  # time limit of the trial; the second playing takes as long again
_REQUIREMENT = (
    "an env can be played again if it draws from self.np_random alone"
    " and carries nothing from one episode into the next"
)
# observation, reward, done: of the first observation and of each step
Record = list[tuple[bytes, bytes, bool]]


def interface_warnings(env: gym.Env, seed: int) -> list[str]:
    """Warnings of Gymnasium's checker; it is skipped if the env and its wrappers are of tested packages.

    ValueError if the env violates the API. The global random generators are restored.
    """
    if all(type(layer).__module__.partition(".")[0] in _TESTED_PACKAGES for layer in layers(env)):
        return []
    with GlobalRandom().apart(seed), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            _try_steps(env, seed)
        except (AssertionError, TypeError, ValueError, gym.error.Error) as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            message = f"{error} ({where.filename}, line {where.lineno})"
            raise ValueError("; ".join([message, *_messages(caught)])) from error
    return _messages(caught)


def _try_steps(env: gym.Env, seed: int) -> None:
    checked: gym.Env = PassiveEnvChecker(env)
    space = _copy_action_space(env, seed)
    obs, _ = checked.reset(seed=seed)
    for _ in range(2):  # the second step shows whether observations share memory
        obs, _, terminated, truncated, _ = checked.step(sample_allowed(space, obs))
        if terminated or truncated:
            break


def _messages(caught: list[warnings.WarningMessage]) -> list[str]:
    """The warnings without duplicates and colour codes."""
    texts = (re.sub(r"\x1b\[[0-9;]*m|WARN: ", "", str(warning.message)) for warning in caught)
    return list(dict.fromkeys(texts))


def reproducibility_problem(
    make_env: EnvFactory, seed: int, *, own_process: bool, seconds: float = _SECONDS
) -> str:
    """Why episodes cannot be played again exactly, as a resume does; '' if a short trial finds nothing.

    One env plays a few episodes with random actions. A second env plays the same episodes in reverse order,
    and each must give the same result. The global random generators are seeded differently the second time,
    unless the env has its `own_process`, where they are seeded per episode. They are restored afterwards.
    """
    with GlobalRandom().apart(seed), contextlib.ExitStack() as opened:

        def new_env() -> Episodes:
            return opened.enter_context(contextlib.closing(Episodes(make_env(), seed, 0)))

        env = new_env()
        played: list[tuple[list[Any], Record, bytes | None]] = []
        until = time.monotonic() + seconds
        while not played or len(played) < len(_STEPS) and time.monotonic() < until:
            played.append(_play(env, len(played), derive_seed(seed, len(played)), until=until))
        # a slow env has played only one episode: repeat it on the same env, which is no longer fresh
        other = new_env() if len(played) > 1 else env
        for number, (actions, record, carried) in reversed(list(enumerate(played))):
            other.load_carried(carried)
            global_seed = derive_seed(seed, number, *([] if own_process else ["again"]))
            _, again, _ = _play(other, number, global_seed, actions=actions)
            problem = _difference(record, again)
            if problem:
                return f"an episode played again {problem}; {_REQUIREMENT}"
    return ""


def _play(
    env: Episodes, number: int, global_seed: int, *, actions: list[Any] | None = None, until: float = math.inf
) -> tuple[list[Any], Record, bytes | None]:
    """Play an episode with given or random actions: the actions, the record, the carried state before."""
    GlobalRandom().seed(global_seed)
    space = _copy_action_space(env, global_seed)
    obs = env.begin_episode(0, number)
    record: Record = [(_bits(obs), b"", False)]
    given: list[Any] = []
    for t in range(_STEPS[number] if actions is None else len(actions)):
        given.append(sample_allowed(space, obs) if actions is None else actions[t])
        obs, reward, terminated, truncated, _ = env.step(given[t])
        record.append((_bits(obs), _bits(float(reward)), bool(terminated or truncated)))
        if terminated or truncated or time.monotonic() > until:
            break
    return given, record, env.carried


def _difference(record: Record, again: Record) -> str:
    """How two records of the same episode differ, or ''.

    A resume never replays the step that ends an episode, so there only `done` is compared.
    """
    for t, (first, second) in enumerate(zip(record, again, strict=False)):
        if first[2] != second[2]:
            return f"{'does not end' if first[2] else 'ends'} at step {t}"
        if first != second and not first[2]:
            what = "another observation" if first[0] != second[0] else "another reward"
            return f"has {what} {f'at step {t}' if t else 'at its beginning'}"
    return ""


def _bits(value: Any) -> bytes:
    return np.asarray(value).tobytes()


def _copy_action_space(env: gym.Env, seed: int) -> gym.Space:
    """A seeded copy of the action space, which several envs may share."""
    space = copy.deepcopy(env.action_space)
    space.seed(seed)
    return space
