"""Observations of every space: packed into one array, seen by networks, and back after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from short_runs import begun, differences, iterate, leaves
from tiny_envs import Anything

from rl.config import ConfigError
from rl.config.compose import options
from rl.envs.make import make_factory
from rl.envs.vector import make_vector
from rl.learning.features import Features
from rl.learning.rollout import Rollout
from rl.serialize import from_tensors, load, serialize, to_tensors
from rl.spaces import as_rows, leaf_paths, obs_dtype, observed, packer
from rl.training.run import Run

Box, Discrete = gym.spaces.Box, gym.spaces.Discrete
RICH = {
    "camera": ["Box", 0, 255, [36, 40, 3], "uint8"],
    "hand": {"angle": ["Box", -1, 1, [2], "float32"], "grip": ["MultiBinary", 3]},
    "cards": [["Discrete", 5], ["MultiDiscrete", [2, 3]]],
    "action_mask": ["MultiBinary", 3],
}
PLAIN = [["Discrete", 6], ["MultiDiscrete", [2, 3]], ["MultiBinary", 3], ["Box", 0, 9, [2], "int64"]]
SMALL = {
    **dict.fromkeys(("a2c", "reinforce", "sarsa"), ["algo.rollout_length=8"]),
    **dict.fromkeys(("ppo", "pqn"), ["algo.rollout_length=8", "algo.minibatch_size=8", "algo.epochs=2"]),
    "recurrent_ppo": [
        *("algo.rollout_length=8", "algo.minibatch_size=8", "algo.epochs=2"),
        "algo.sequence_length=4",
        "algo.state_size=8",
    ],
    "random": ["algo.rollout_length=8"],
}
OFF_POLICY = [
    *("algo.rollout_length=8", "algo.batch_size=4", "algo.learning_starts=8", "algo.replay.capacity=64"),
    "algo.updates_per_frame=0.25",
]
CONTINUOUS = {"crossq", "ddpg", "sac", "td3"}


def words(space: Any) -> str:
    """A space as an override has it."""
    if isinstance(space, dict):
        return "{" + ",".join(f"{name}:{words(part)}" for name, part in space.items()) + "}"
    return "[" + ",".join(map(words, space)) + "]" if isinstance(space, list) else str(space)


def line(algo: str, space: Any, *more: str) -> list[str]:
    hidden = [] if algo == "random" else ["algo.network.hidden=[8]"]
    hidden += ["algo.critic_network.hidden=[8]"] if algo == "crossq" else []
    env = ["env=gym", "env.id=tiny_envs:Anything-v0", "env.num_envs=2", f"+env.kwargs.space={words(space)}"]
    env += ["+env.kwargs.continuous=true"] if algo in CONTINUOUS else []
    return [f"algo={algo}", *env, *hidden, *SMALL.get(algo, OFF_POLICY), "frames=1M", *more]


def state(run: Run) -> dict[str, Any]:
    """All that changes, the replay memory's rows too."""
    found = {name: load(serialize(part.state_dict()), "cpu") for name, part in run.stateful.items()}
    del found["clock"]
    memory = run.agent.replay
    rings = {} if memory is None else {name: ring.tobytes() for name, ring in memory._rings.items()}
    return leaves({**found, "rings": rings}, "")


def resumed_differences(folder: Path, overrides: list[str]) -> list[str]:
    """Where 4 iterations and 2 with 2 more after a resume differ."""
    straight = begun(folder / "straight", *overrides)
    iterate(straight, 4)
    iterate(run := begun(folder / "resumed", *overrides), 2)
    run.save()
    iterate(again := begun(folder / "resumed", *overrides), 2)
    assert again.collector.not_exact == []
    found = differences(state(straight), state(again))
    for one in (straight, run, again):
        one.collector.envs.close()
    return found


@pytest.mark.parametrize("algo", options("algo"))
def test_every_algorithm_comes_back_with_nested_observations(algo: str, tmp_path: Path) -> None:
    assert resumed_differences(tmp_path, line(algo, RICH)) == []
