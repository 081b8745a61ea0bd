"""Envs with a world or a memory of their own: killed and resumed, they go on as if nothing had happened."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from faults import DIED
from short_runs import TINY, differences, frames_of, go, in_child, record
from test_kills import killed
from test_state import rewrite

from rl.envs.make import make_factory
from rl.envs.wrappers import FreshWorld
from rl.serialize import serialize

pytestmark = pytest.mark.usefixtures("few_scores", "composed_once")
# 5 iterations of 40 frames; checkpoints in the middle of episodes, which are cut short for the evaluations
LINE = [*TINY, "frames=200", "algo.rollout_length=20", "ckpt.every=40", "eval.every=80", "eval.episodes=2"]
WORLDS = {
    "lunar_lander": ["env=lunar_lander", "+env.kwargs.max_episode_steps=90"],
    "bipedal_walker": ["env=bipedal_walker", "algo.baseline=true", "+env.kwargs.max_episode_steps=50"],
    "halfcheetah": ["env=halfcheetah", "algo.baseline=true", "+env.kwargs.max_episode_steps=70"],
    "fetch_reach": ["env=fetch_reach", "algo.baseline=true"],
    "cartpole": ["env=cartpole"],
    "cartpole, async": ["env=cartpole", "env.vectorization=async"],
    "car_racing": [  # a step takes 10 ms
        *("env=car_racing", "+env.kwargs.max_episode_steps=9"),
        *("algo.rollout_length=3", "frames=24", "ckpt.every=6", "eval.every=12"),
    ],
}
CENTRED = ["env=cartpole", "env.wrappers=[{_target_: tiny_envs.Centred}]"]


@pytest.mark.parametrize("world", WORLDS)
def test_a_killed_run_ends_as_if_it_never_was(world: str, tmp_path: Path) -> None:
    same_after_a_kill(tmp_path, [*LINE, *WORLDS[world], "env.num_envs=2"])


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_what_a_wrapper_learns_across_episodes_comes_back(vectorization: str, tmp_path: Path) -> None:
    same_after_a_kill(tmp_path, [*LINE, *CENTRED, f"env.vectorization={vectorization}"])


def same_after_a_kill(folder: Path, line: list[str]) -> None:
    assert go(folder / "straight", *line) == 0
    assert in_child(functools.partial(killed, folder / "run", 60, *line)) == DIED
    assert frames_of(folder / "run")[-1] > 0
    assert go(folder / "run", *line) == 0
    assert differences(record(folder / "straight"), record(folder / "run")) == []
    assert [event["exactness"] for event in history(folder / "run")] == ["exact", "exact"]


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_an_env_without_its_wrappers_state_is_not_restored(tmp_path: Path) -> None:
    assert go(tmp_path / "run", *LINE, *CENTRED, "frames=120") == 0
    shutil.copytree(tmp_path / "run", tmp_path / "other", symlinks=True)
    line = [*LINE, *CENTRED]
    assert go(tmp_path / "run", *line) == 0

    knows_nothing = serialize([{"count": 0, "total": [0.0] * 4}])
    rewrite(tmp_path / "other", lambda state: state["collector"].update(carried=[knows_nothing] * 2))
    assert go(tmp_path / "other", *line) == 0
    assert "not exact from frame 120: env 0" in history(tmp_path / "other")[-1]["exactness"]
    assert differences(record(tmp_path / "run"), record(tmp_path / "other"))


# ---------------------------------------------------------------------------------------- a world per episode


def episode(env: gym.Env, number: int) -> list[Any]:
    """What comes of 30 random steps in the episode of that seed."""
    rng = np.random.default_rng(number)
    seen: list[Any] = [env.reset(seed=number)[0].tolist()]
    for _ in range(30):
        obs, *rest, _ = env.step(rng.uniform(-1, 1, 4).astype(np.float32))
        seen.append((obs.tolist(), *rest))
        if rest[1] or rest[2]:
            break
    return seen


@pytest.mark.parametrize("env_id", ["BipedalWalker-v3", "BipedalWalkerHardcore-v3"])
def test_fresh_world_makes_bipedal_walker_reproducible(env_id: str) -> None:
    def exact(wrappers: list[Any]) -> int:
        make = make_factory(env_id, {}, wrappers)
        used = make()
        return sum(episode(used, number) == episode(make(), number) for number in range(40))

    assert exact([FreshWorld]) == 40
    assert exact([]) < 35
