"""rl.export: a policy in a file of its own plays as the run's does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from short_runs import TINY, begun, iterate
from test_state import SMALL_CNN, TRAITS, line_for

from rl import api
from rl.config import ExportConfig
from rl.config.compose import compose, options
from rl.export import SUFFIXES, export
from rl.training.evaluate import play

pytestmark = pytest.mark.usefixtures("few_scores", "composed_once")


class TwoChoices(gym.Env):
    """Two choices at a time, counted from 1 and from 0."""

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (3,), np.float64)
        self.action_space = gym.spaces.MultiDiscrete([2, 3], start=[1, 0])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 3), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        return self.np_random.uniform(-1, 1, 3), 1.0, bool(self.np_random.random() < 0.1), False, {}


gym.register("TwoChoices-v0", TwoChoices)
RUNS = {
    **{trait: line_for(trait) for trait in TRAITS if trait not in ("random", "async")},
    "recurrent, continuous": [*TINY, *TRAITS["recurrent ppo"], "env=pendulum"],
    "two choices": [*TINY, "env=gym", "env.id=test_export:TwoChoices-v0"],
    "rainbow on images": [*TINY, *TRAITS["rainbow"], "env=breakout", *SMALL_CNN]
    + ["algo.network._target_=rl.pixels.NoisyDuelingNatureCNN"],
}


def trained(name: str) -> Path:
    """Three iterations and a checkpoint; no evaluation, which with games would take minutes."""
    run = begun(Path("run"), *RUNS[name])
    iterate(run, 3)
    run.save()
    run.collector.envs.close()
    return Path("run")


def exported(folder: Path, *overrides: str) -> Path:
    return export(compose([f"run={folder}", *overrides], ExportConfig, "export").config)


def caller(path: Path) -> Callable[..., list[NDArray[Any]]]:
    """The file's function, by what plays it anywhere: obs and state -> action and state."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path.read_bytes())
        names = [node.name for node in session.get_inputs()]
        return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))
    module = torch.export.load(path).module()

    def call(*inputs: NDArray[Any]) -> list[NDArray[Any]]:
        outputs = module(*map(torch.from_numpy, inputs))
        return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else [outputs])]

    return call


class Player:
    """An exported policy as an agent that can be evaluated."""

    def __init__(self, path: Path, policy: api.Policy) -> None:
        self.call, self.initial_state = caller(path), policy.agent.initial_state

    def act(self, obs: Any, state: Any, rng: Any, explore: bool) -> tuple[Any, Any]:
        action, *after = self.call(obs, *([] if state is None else [state]))
        return action, (after[0] if after else None)


def drawn(policy: api.Policy, count: int) -> NDArray[Any]:
    """Observations that need not occur in the environment."""
    rng, shape = np.random.default_rng(1), (count, *(policy.obs_space.shape or ()))
    if policy.obs_space.dtype == np.uint8:
        return rng.integers(256, size=shape, dtype=np.uint8)
    return rng.standard_normal(shape, np.float32) * 3


def test_every_algorithm_has_a_run_here() -> None:
    algos = {override.removeprefix("algo=") for line in RUNS.values() for override in line}
    assert set(options("algo")) - {"random", "reinforce"} <= algos


@pytest.mark.parametrize("name", RUNS)
def test_an_exported_policy_acts_and_scores_as_the_run(name: str) -> None:
    folder, games = trained(name), 0 if "breakout" in " ".join(RUNS[name]) else 3
    count = 1000 if games else 100
    policy = api.load_policy(folder, "last")
    discrete = not isinstance(policy.action_space, gym.spaces.Box)
    obs = drawn(policy, count)
    expected = policy(obs)
    returns = api.enjoy(folder, ckpt="last", episodes=games).returns if games else []
    for how in SUFFIXES:
        path = exported(folder, "ckpt=last", f"format={how}")
        player = Player(path, policy)
        action, _ = player.act(obs, policy.agent.initial_state(count), None, False)
        assert action.shape == expected.shape
        assert np.abs(action - expected).max() <= (0 if discrete else 1e-5)
        if games:
            played: Any = play(player, policy.make_env, games, 0)  # type: ignore[arg-type]
            assert played.returns == (returns if discrete else pytest.approx(returns, rel=1e-4))
