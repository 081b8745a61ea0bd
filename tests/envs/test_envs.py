from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny_envs  # noqa: F401  registers them
from gymnasium.wrappers import FlattenObservation, NormalizeObservation
from short_runs import TINY, begun, differences, go, iterate, leaves, rows

from rl.config import ConfigError, RunConfig
from rl.config.compose import compose, options
from rl.envs.episodes import Episodes
from rl.envs.make import check_env, make_factory
from rl.envs.vector import make_vector
from rl.state import EpisodeSeeds


def test_env_defaults_is_shared_and_not_a_choice() -> None:
    assert "env_defaults" not in options("env")
    with pytest.raises(ConfigError, match="env=env_defaults: no such env"):
        compose(["env=env_defaults"], RunConfig)
    with pytest.raises(ConfigError, match=r"env\.id: missing"):
        compose(["env=gym"], RunConfig)
    env = compose(["env=lunar_lander"], RunConfig).values["env"]
    assert (env["kwargs"], env["wrappers"], env["vectorization"]) == ({}, [], "sync")
    assert (env["num_envs"], env["tape_max"]) == (8, "100k")


def first_obs(env: gym.Env) -> list[float]:
    return [float(x) for x in env.reset()[0]]


def test_each_episode_has_its_own_seed_whatever_happened_before() -> None:
    one, other = (Episodes(gym.make("CartPole-v1"), 7, 0) for _ in range(2))
    episodes = []
    for _ in range(3):
        episodes.append(first_obs(one))
        for _ in range(3):
            one.step(0)
    assert [first_obs(other) for _ in range(3)] == episodes
    assert len({tuple(episode) for episode in episodes}) == 3
    assert other.begin_episode(0, 1).tolist() == episodes[1]
    assert other.begin_episode(1, 1) is None  # meant for another env
    assert first_obs(Episodes(gym.make("CartPole-v1"), 7, 1)) != episodes[0]
    assert first_obs(Episodes(gym.make("CartPole-v1"), 8, 0)) != episodes[0]


def test_actions_are_clipped_to_the_bounds_of_their_box() -> None:
    env, twin = (Episodes(gym.make("Pendulum-v1"), 0, 0) for _ in range(2))
    for e in (env, twin):
        e.reset()
    assert env.step(np.array([100.0]))[0].tolist() == twin.step(np.array([2.0]))[0].tolist()


class Chooses(gym.Env):
    """Is told its action space, and refuses what is not in it."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, space: gym.Space, render_mode: str | None = None) -> None:
        self.action_space = space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        return np.zeros(2, np.float32), 0.0, False, False, {}


@pytest.mark.parametrize("space", [gym.spaces.Discrete(3, start=-1), gym.spaces.Discrete(3, dtype=np.int32)])
def test_quick_membership_is_that_of_the_space(space: gym.spaces.Discrete) -> None:
    gym.register("Chooses-v0", Chooses, max_episode_steps=10)
    try:
        env = make_factory("Chooses-v0", {"space": copy.deepcopy(space)}, [])()
    finally:
        del gym.registry["Chooses-v0"]
    quick: Any = pickle.loads(pickle.dumps(env.action_space))
    numbers = range(-3, 5)
    others = [1.0, "1", None, np.array([1]), np.array(1), np.float32(1), True, np.int32(1), np.uint8(1)]
    for x in [*numbers, *map(np.int64, numbers), *others]:
        assert quick.contains(x) == env.action_space.contains(x) == space.contains(x), (x, type(x))
    env.reset()
    for step in range(10):
        assert env.step(np.asarray([1], space.dtype)[0])[3] == (step == 9)
    with pytest.raises(AssertionError):
        env.step(np.int64(3))


def test_a_wrapper_without_state_dict_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="NormalizeObservation"):
        check_env(FlattenObservation(NormalizeObservation(gym.make("CartPole-v1"))))


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["env.id=NoSuchEnv-v0"], "NoSuchEnv"),
        (["env.id=no_such_module:Env-v0"], "no_such_module"),
        (["env.id=tiny_envs:Anything-v0", "+env.kwargs.space=[Text,5]"], "Text"),
        (["env.id=CartPole-v1", "+env.kwargs.nonsense=3"], "nonsense"),
        (
            ["env.id=CartPole-v1", "env.wrappers=[{_target_: gymnasium.wrappers.NormalizeReward}]"],
            "NormalizeReward",
        ),
        (
            ["env.id=CartPole-v1", "env.wrappers=[{_target_: gymnasium.wrappers.NoSuchWrapper}]"],
            "NoSuchWrapper",
        ),
    ],
)
def test_an_unusable_env_is_refused_at_build(overrides: list[str], names: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=names):
        begun(tmp_path / "run", *TINY, "env=gym", *overrides)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("truncate", [False, True])
def test_every_step_is_a_real_transition_with_its_true_successor(vectorization: str, truncate: bool) -> None:
    factory = make_factory("tiny_envs:Counting-v0", {"length": 3, "truncate": truncate}, [])
    envs = make_vector(factory, 2, vectorization, seed=0)
    envs.reset()
    seen = []
    for _ in range(7):
        obs, reward, terminated, truncated, infos = envs.step(np.array([0, 1]))
        final = infos["final_obs"][1].tolist() if "final_obs" in infos else None
        seen.append((obs[1].tolist(), float(reward[1]), bool(terminated[1]), bool(truncated[1]), final))
    envs.close()
    end = (not truncate, truncate)
    assert seen == [
        ([0, 1], 1.0, False, False, None),
        ([0, 2], 2.0, False, False, None),
        ([1, 0], 3.0, *end, [0, 3]),
        ([1, 1], 1.0, False, False, None),
        ([1, 2], 2.0, False, False, None),
        ([2, 0], 3.0, *end, [1, 3]),
        ([2, 1], 1.0, False, False, None),
    ]


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_rollouts_successors_are_never_observations_after_a_reset(
    in_place: bool, vectorization: str, tmp_path: Path
) -> None:
    env = [
        f"env.vectorization={vectorization}",
        "env=gym",
        "env.id=tiny_envs:Counting-v0",
        "+env.kwargs.length=3",
        f"+env.kwargs.in_place={in_place}",
    ]
    run = begun(tmp_path / "run", *TINY, *env, "algo.rollout_length=7")
    for _ in range(2):
        rollout = run.collector.collect(run.agent)
        step = (np.arange(7) + (run.clock.frames // 2 - 7)) % 3
        assert rollout.obs[:-1, 0, 1].tolist() == step.tolist()
        assert rollout.next_obs[:, 0, 1].tolist() == (step + 1).tolist()
        assert rollout.next_obs[:, 0, 0].tolist() == rollout.obs[:-1, 0, 0].tolist()
        assert rollout.terminated[:, 0].tolist() == (step == 2).tolist()


def test_the_clock_counts_frames_and_episodes_of_all_envs(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", *TINY, "env=gym", "env.id=tiny_envs:Counting-v0", "algo.rollout_length=7")
    iterate(run, 3)
    assert (run.clock.frames, run.clock.episodes, run.clock.updates) == (42, 8, 3)
    assert run.metrics.returns == [15.0] * 8
    assert run.metrics.lengths == [5] * 8


# --------------------------------------------------------------------------------------------------- the tape

ENVS = ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "LunarLander-v3"]


def continuation(run: Any, iterations: int) -> dict[str, Any]:
    """Everything that comes out of the next iterations."""
    found = {}
    for number in range(iterations):
        rollout = run.collector.collect(run.agent)
        arrays = {
            "obs": rollout.obs,
            "action": rollout.action,
            "reward": rollout.reward,
            "done": rollout.done,
        }
        found |= {f"{number}/{name}": array.tobytes() for name, array in arrays.items()}
        found[f"{number}/ended"] = (run.collector.ended_returns, run.collector.ended_lengths)
    return found | leaves(run.collector.state_dict()["returns"], "returns")


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("env_id", ENVS)
def test_envs_are_restored_exactly_within_their_episodes(
    env_id: str, vectorization: str, tmp_path: Path
) -> None:
    line = [
        "algo=random",
        "env=gym",
        f"env.id={env_id}",
        "env.num_envs=3",
        f"env.vectorization={vectorization}",
    ]
    one = begun(tmp_path / "one", *line, "algo.rollout_length=50")
    iterate(one, 5)
    saved = copy.deepcopy({name: part.state_dict() for name, part in one.stateful.items()})
    other = begun(tmp_path / "other", *line, "algo.rollout_length=50")
    iterate(other, 2)  # used envs too
    other._load(saved)
    assert other.collector.not_exact == []
    assert differences(continuation(one, 4), continuation(other, 4)) == []
    one.collector.envs.close()
    other.collector.envs.close()


@pytest.mark.parametrize("vectorization", ["sync", "async", "native"])
def test_a_run_keeps_the_seeds_that_it_began_with(
    vectorization: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["algo=random", "env=gym", "env.id=tiny_envs:Dice-v0", "env.num_envs=3", "algo.rollout_length=50"]
    line.append(f"env.vectorization={vectorization}")
    monkeypatch.setattr(EpisodeSeeds, "NEWEST", 1)
    one = begun(tmp_path / "one", *line)
    monkeypatch.undo()
    newer, other = begun(tmp_path / "newer", *line), begun(tmp_path / "other", *line)
    assert newer.collector.rollout.obs[-1].tolist() != one.collector.rollout.obs[-1].tolist()
    iterate(one, 3)
    saved = copy.deepcopy({name: part.state_dict() for name, part in one.stateful.items()})
    for run, state in ((other, saved), (newer, copy.deepcopy(saved))):
        if run is other:
            del state["collector"]["seed_schemes"]  # as runs of before did not say it
        run._load(state)
        assert run.collector.not_exact == []
    expected = continuation(one, 4)
    assert differences(expected, continuation(other, 4)) == []
    assert differences(expected, continuation(newer, 4)) == []
    for run in (one, other, newer):
        run.collector.envs.close()


def test_a_loaded_tape_records_and_restores_exactly(tmp_path: Path) -> None:
    line = [*TINY, "env=pendulum", "env.num_envs=3"]
    one, other = begun(tmp_path / "one", *line), begun(tmp_path / "other", *line)
    iterate(one, 2)
    for _ in range(8):  # through ends and beginnings of episodes
        other._load(copy.deepcopy({name: part.state_dict() for name, part in one.stateful.items()}))
        assert (
            differences(leaves(one.collector.state_dict(), ""), leaves(other.collector.state_dict(), ""))
            == []
        )
        iterate(one)
        iterate(other)
    assert differences(continuation(one, 2), continuation(other, 2)) == []


def test_actions_before_an_episode_are_forgotten(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", *TINY)
    iterate(run, 30)
    tape = run.collector.tape
    assert sum(len(block) for block in tape.blocks) <= tape.end - min(tape.episode_begin) + 32


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_irreproducible_env_is_reported_and_begins_a_new_episode(
    vectorization: str, tmp_path: Path
) -> None:
    line = [
        *TINY,
        "env=gym",
        "env.id=tiny_envs:Forgetful-v0",
        f"env.vectorization={vectorization}",
        "+env.kwargs.length=7",
    ]
    go(tmp_path / "run", *line, "frames=128")
    assert go(tmp_path / "run", *line) == 0
    events = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [event["exactness"].partition(":")[0] for event in events] == [
        "exact, but a resume will not be",
        "not exact from frame 128",
    ]
    assert "env 0" in events[1]["exactness"]
    assert "env 1" in events[1]["exactness"]
    episodes = [int(row["episodes"]) for row in rows(tmp_path / "run" / "metrics.csv")]
    assert episodes[:3] == [8, 18, 26]  # 64 steps in episodes of 7 are 9; the tenth began anew at frame 128
