"""The algorithms learn what can be learned in seconds, and value what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_envs  # noqa: F401  registers them
import torch
from short_runs import begun, iterate

from rl.algos.agent import Rollout
from rl.algos.reinforce import Reinforce
from rl.training.evaluate import play

IDENTITY = [
    "env=gym",
    "env.id=tiny_envs:Identity-v0",
    "env.num_envs=8",
    "algo.rollout_length=40",
    "algo.network.hidden=[16]",
    "algo.gamma=0.5",
]


@pytest.mark.parametrize("baseline", [False, True])
def test_the_action_that_equals_the_observation_is_learned(baseline: bool, tmp_path: Path) -> None:
    run = begun(tmp_path / "run", *IDENTITY, f"algo.baseline={baseline}", "algo.lr=1e-2")
    iterate(run, 60)
    assert play(run.agent, run.parts.make_env, 20, 0).mean == 10.0
    assert play(run.agent, run.parts.make_env, 20, 0, explore=True).mean > 9.5


@pytest.mark.parametrize("baseline", [False, True])
def test_a_continuous_action_that_equals_the_observation_is_learned(baseline: bool, tmp_path: Path) -> None:
    line = [
        *IDENTITY,
        "+env.kwargs.continuous=true",
        f"algo.baseline={baseline}",
        "algo.lr=1e-2",
        "algo.entropy_coef=0",
    ]
    run = begun(tmp_path / "run", *line)
    before = play(run.agent, run.parts.make_env, 20, 0).mean
    iterate(run, 150)
    assert before < -8
    assert play(run.agent, run.parts.make_env, 20, 0).mean > -2


def test_bytes_as_observations_are_learned_from(tmp_path: Path) -> None:
    run = begun(
        tmp_path / "run",
        *IDENTITY,
        "env.id=tiny_envs:Bytes-v0",
        "algo.lr=1e-2",
        "algo.network.activation=relu",
    )
    iterate(run, 60)
    assert play(run.agent, run.parts.make_env, 20, 0).mean > 9


@pytest.mark.parametrize("lying", [False, True], ids=["truncated", "reported as terminated"])
def test_the_value_of_an_endless_env_is_what_it_is_worth_unless_time_limits_count_as_ends(
    lying: bool, tmp_path: Path
) -> None:
    line = [
        "env=gym",
        "env.id=tiny_envs:Endless-v0",
        "env.num_envs=4",
        "algo.rollout_length=40",
        "algo.network.hidden=[16]",
    ]
    run = begun(
        tmp_path / "run",
        *line,
        "algo.baseline=true",
        "algo.gamma=0.9",
        "algo.lr=3e-2",
        f"+env.kwargs.lying={lying}",
    )
    iterate(run, 300)
    assert isinstance(run.agent, Reinforce)
    assert run.agent.value is not None
    value = run.agent.value(torch.ones(1, 1)).item()
    worth = 1 / (1 - 0.9)
    if lying:
        assert value < 0.7 * worth
    else:
        assert value == pytest.approx(worth, rel=0.03)


def rollout_of(run_length: int, reward: list[float], terminated: list[int], truncated: list[int]) -> Rollout:
    """One env's rollout whose observations are the steps' numbers."""
    obs = np.arange(run_length + 1, dtype=np.float32)[:, None, None]
    action = np.zeros((run_length, 1), np.int64)
    ends = [
        (t, 0, np.array([100.0 + t], np.float32)) for t in range(run_length) if terminated[t] or truncated[t]
    ]
    to_rows = lambda values, kind: np.array(values, kind)[:, None]  # noqa: E731
    rows = (to_rows(reward, np.float32), to_rows(terminated, bool), to_rows(truncated, bool))
    return Rollout(obs, action, *rows, final_obs=ends)


def agent_for(tmp_path: Path, *overrides: str) -> Reinforce:
    line = [
        "env=gym",
        "env.id=tiny_envs:Endless-v0",
        "algo.rollout_length=4",
        "algo.gamma=0.5",
        "algo.network.hidden=[8]",
    ]
    agent = begun(tmp_path / "run", *line, *overrides).agent
    assert isinstance(agent, Reinforce)
    return agent


def test_without_a_baseline_steps_whose_return_is_not_known_have_no_weight(tmp_path: Path) -> None:
    agent = agent_for(tmp_path)
    returns, weight = agent._returns(rollout_of(4, [1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]))
    assert weight[:, 0].tolist() == [1, 1, 0, 0]
    assert returns[:2, 0].tolist() == [1.5, 1.0]
    returns, weight = agent._returns(rollout_of(4, [1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]))
    assert weight[:, 0].tolist() == [1, 1, 0, 0]  # up to a time limit the return is taken as it is
    assert returns[:2, 0].tolist() == [1.5, 1.0]


def test_with_a_baseline_its_value_stands_for_what_follows(tmp_path: Path) -> None:
    agent = agent_for(tmp_path, "algo.baseline=true")
    assert agent.value is not None
    agent.value.forward = lambda obs: obs  # type: ignore[method-assign]  # the value of a state is its number
    returns, weight = agent._returns(rollout_of(4, [1, 1, 1, 1], [0, 0, 1, 0], [1, 0, 0, 0]))
    assert weight.all()
    # truncated, -, terminated, goes on
    assert returns[:, 0].tolist() == [1 + 0.5 * 100, 1.5, 1.0, 1 + 0.5 * 4]
