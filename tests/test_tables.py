"""The tables in README.md and docs/ are those of the result files and of the algorithms themselves."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from benchmarks.table import ALGORITHMS
from rl.config import ConfigError, RunConfig
from rl.config.compose import compose
from rl.training.build import build_player

ROOT = Path(__file__).parent.parent
SPACES = {
    "discrete": gym.spaces.Discrete(3),
    "continuous": gym.spaces.Box(-1, 1, (2,), np.float32),
    "multi-discrete": gym.spaces.MultiDiscrete([3, 2]),
}


class ActsIn(gym.Env):
    """Is told its action space; every episode has one step."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, action: str, render_mode: str | None = None) -> None:
        self.action_space = SPACES[action]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(2, np.float32), 0.0, True, False, {}


gym.register("ActsIn-v0", ActsIn)


def test_tables_are_what_the_results_say():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.table", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_algorithm_has_a_line():
    assert {path.stem for path in (ROOT / "conf" / "algo").glob("*.yaml")} - {"random"} == set(ALGORITHMS)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_takes_the_action_spaces_of_its_line(name):
    taken, refusals, memory = [], [], set()
    for space in SPACES:
        overrides = [f"algo={name}", "env=gym", "env.id=ActsIn-v0", f"+env.kwargs.action={space}"]
        try:
            agent = build_player(compose(overrides, RunConfig).config)
        except ConfigError as refusal:
            refusals.append(str(refusal))
            continue
        taken.append(space)
        memory.add(agent.initial_state(1) is not None)
    assert tuple(taken) == ALGORITHMS[name].actions
    assert all("action space" in refusal for refusal in refusals), refusals
    assert memory == {ALGORITHMS[name].memory}
