"""What is tried out with an environment before a run trains in it: whether it keeps to the interface, and
whether it can be replayed.
"""

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
from rl.state import GlobalRandom, derive_seed

_WELL_TESTED = ("gymnasium", "ale_py", "rl")  # packages
# of each episode in the trial: what a world keeps (BipedalWalkerHardcore's) may show after ten resets alone
_STEPS = (50, *[5] * 11)
_SECONDS = 0.4  # and no further step after this time; playing them again takes as long
_REPLAYABLE = "an env can be played again if it draws from self.np_random alone and carries nothing from one episode into the next"
# of the first observation and of each step: observation, reward, whether the episode ended
Record = list[tuple[bytes, bytes, bool]]


def interface_warnings(env: gym.Env, seed: int) -> list[str]:
    """What Gymnasium's checker says of an env and its wrappers in a first step or two; nothing if all of them
    are well tested.

    ValueError for what breaks the interface. The global generators are left as they were.
    """
    if all(type(layer).__module__.partition(".")[0] in _WELL_TESTED for layer in layers(env)):
        return []
    with GlobalRandom().apart(seed), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            _try_interface(env, seed)
        except (AssertionError, TypeError, ValueError, gym.error.Error) as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise ValueError(
                "; ".join([f"{error} ({where.filename}, line {where.lineno})", *_said(caught)])
            ) from error
    return _said(caught)


def _try_interface(env: gym.Env, seed: int) -> None:
    checked: gym.Env = PassiveEnvChecker(env)
    space = _own_space(env, seed)
    checked.reset(seed=seed)
    for _ in range(2):  # the second step shows whether observations share memory
        _, _, terminated, truncated, _ = checked.step(space.sample())
        if terminated or truncated:
            break


def _said(caught: list[warnings.WarningMessage]) -> list[str]:
    """The messages, each once, without colours."""
    return list(
        dict.fromkeys(re.sub(r"\x1b\[[0-9;]*m|WARN: ", "", str(warning.message)) for warning in caught)
    )


def replay_problem(make_env: EnvFactory, seed: int, *, own_process: bool, seconds: float = _SECONDS) -> str:
    """What would keep an episode from being played again exactly, as a resume does; '' if a trial shows
    nothing.

    One env plays a few episodes by random actions. Another, with another past, plays the same in reverse
    order: in it each must come out the same. An env that plays in the run's process finds other global random
    numbers there; one of its `own_process` is given the same. The global generators are left as they were.
    """
    with GlobalRandom().apart(seed), contextlib.ExitStack() as opened:

        def new_env() -> Episodes:
            return opened.enter_context(contextlib.closing(Episodes(make_env(), seed, 0)))

        env = new_env()
        played: list[tuple[list[Any], Record, bytes | None]] = []
        until = time.monotonic() + seconds
        while not played or len(played) < len(_STEPS) and time.monotonic() < until:
            played.append(_play(env, len(played), derive_seed(seed, len(played)), until=until))
        # of a slow env one episode alone: again on the same, which is used now
        other = new_env() if len(played) > 1 else env
        for number, (actions, record, carried) in reversed(list(enumerate(played))):
            other.carry(carried)
            _, again, _ = _play(
                other, number, derive_seed(seed, number, *([] if own_process else ["again"])), actions=actions
            )
            problem = _difference(record, again)
            if problem:
                return f"an episode played again {problem}; {_REPLAYABLE}"
    return ""


def _play(
    env: Episodes, number: int, global_seed: int, *, actions: list[Any] | None = None, until: float = math.inf
) -> tuple[list[Any], Record, bytes | None]:
    """Play an episode by these actions, or by random ones: the actions, what came of them, what the env knew
    before.
    """
    GlobalRandom().seed(global_seed)
    space = _own_space(env, global_seed)
    record: Record = [(_bits(env.begin_episode(0, number)), b"", False)]
    given: list[Any] = []
    for t in range(_STEPS[number] if actions is None else len(actions)):
        given.append(space.sample() if actions is None else actions[t])
        obs, reward, terminated, truncated, _ = env.step(given[t])
        record.append((_bits(obs), _bits(float(reward)), bool(terminated or truncated)))
        if terminated or truncated or time.monotonic() > until:
            break
    return given, record, env.carried


def _difference(record: Record, again: Record) -> str:
    """How a record differs from another of the same episode. The step that ends one is never replayed, so
    only its end counts.
    """
    for t, (one, other) in enumerate(zip(record, again, strict=False)):
        if one[2] != other[2]:
            return f"{'does not end' if one[2] else 'ends'} at step {t}"
        if one != other and not one[2]:
            what = "another observation" if one[0] != other[0] else "another reward"
            return f"has {what} {f'at step {t}' if t else 'at its beginning'}"
    return ""


def _bits(value: Any) -> bytes:
    return np.asarray(value).tobytes()


def _own_space(env: gym.Env, seed: int) -> gym.Space:
    """A copy of an env's action space: envs may share theirs."""
    space = copy.deepcopy(env.action_space)
    space.seed(seed)
    return space
