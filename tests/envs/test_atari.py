"""Atari games, and vector envs of other makers: the same transitions as one env at a time, and an exact way
back into a game.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import pytest
import tiny_envs  # noqa: F401  registers them
from ale_py import roms
from faults import DIED, die_at
from gymnasium.wrappers import FlattenObservation, FrameStackObservation, TransformReward
from short_runs import NUM_ENVS, begun, differences, frames_of, go, in_child, iterate, leaves, record
from test_envs import continuation

import rl.training.run
from rl.config import ConfigError
from rl.envs.atari import Atari, AtariVector
from rl.envs.episodes import Episodes
from rl.envs.make import frame_stack, make_factory
from rl.envs.vector import NativeEnvs, make_native
from rl.envs.video import Video
from rl.training.collector import Collector
from rl.training.evaluate import play

SMALL = [
    "algo.network._target_=rl.pixels.NatureCNN",
    "algo.network.hidden=[8]",
    "+algo.network.channels=[2,4,4]",
]


def state_of(run: Any) -> dict[str, Any]:
    return copy.deepcopy({name: part.state_dict() for name, part in run.stateful.items()})


# -------------------------------------------------------------------------------- vector envs of other makers

DICE = ["algo=random", "env=gym", "env.id=tiny_envs:Dice-v0", "env.num_envs=3", "algo.rollout_length=20"]


@pytest.mark.parametrize("other", ["sync", "async"])
def test_native_vector_env_equals_single_envs(other: str, tmp_path: Path) -> None:
    runs = [begun(tmp_path / how, *DICE, f"env.vectorization={how}") for how in ("native", other)]
    for _ in range(5):
        one, two = (run.collector.collect(run.agent) for run in runs)
        for name in ("obs", "action", "reward", "terminated", "truncated", "next_obs"):
            assert np.array_equal(getattr(one, name), getattr(two, name)), name
        assert one.done.any()
        assert [end[:2] for end in one.final_obs] == [end[:2] for end in two.final_obs]
    assert (
        differences(leaves(runs[0].collector.state_dict(), ""), leaves(runs[1].collector.state_dict(), ""))
        == []
    )
    for run in runs:
        run.collector.envs.close()


def test_native_vector_env_is_restored_from_tapes_of_any_length(tmp_path: Path) -> None:
    one, other = (
        begun(tmp_path / name, *DICE, "env.vectorization=native", "algo.rollout_length=3")
        for name in ("one", "other")
    )
    lengths = set()
    for _ in range(25):
        other._load(state_of(one))
        assert other.collector.not_exact == []
        lengths.add(tuple(len(tape) for tape in one.collector.state_dict()["actions"]))
        assert (
            differences(leaves(one.collector.state_dict(), ""), leaves(other.collector.state_dict(), ""))
            == []
        )
        iterate(one)
        iterate(other, 2)
    assert any(0 in tapes for tapes in lengths)
    assert len(lengths) > 20


def test_native_vector_env_clips_actions_to_their_box() -> None:
    envs = make_native("tiny_envs:Dice-v0", {}, 2, seed=0)
    envs.reset()
    assert envs.step(np.array([[5.0], [-5.0]]))[1].tolist() == [1.0, -1.0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["env=cartpole"], "CartPole-v1: its vector env can only reset on the step after an episode's end"),
        (["env=gym", "env.id=tiny_envs:DiceOfTheirOwn-v0"], "seeds of its own"),
        (["env=pendulum"], "doesn't have a vector entry point"),
        (
            ["env=pong", "env.wrappers=[{_target_: gymnasium.wrappers.FlattenObservation}]"],
            "takes no env.wrappers",
        ),
        (["env=atari", "env.game=pnog"], "Did you mean: `pong`"),
    ],
)
def test_an_unusable_native_vector_env_is_refused_with_the_reason(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        begun(tmp_path / "run", "algo=random", *overrides, "env.vectorization=native")


def test_clipped_rewards_do_not_change_reported_returns(tmp_path: Path) -> None:
    env = ["env=gym", "env.id=tiny_envs:Counting-v0", "+env.clip_rewards=true"]
    run = begun(tmp_path / "run", "algo=random", *env, "algo.rollout_length=10")
    assert np.array_equal(run.collector.collect(run.agent).reward, np.ones((10, 4)))
    assert run.collector.ended_returns == [15.0] * 8


# ------------------------------------------------------------------------------------------------------ games


def game_run(folder: Path, how: str, *overrides: str) -> Any:
    line = [
        "algo=random",
        "env=breakout",
        f"env.vectorization={how}",
        "env.num_envs=2",
        "algo.rollout_length=50",
    ]
    return begun(folder, *line, *overrides)


@pytest.mark.parametrize(
    ("deepmind", "others"), [("false", ["native", "sync", "async"]), ("true", ["native", "sync"])]
)
def test_a_game_is_restored_exactly_with_every_vectorization(
    deepmind: str, others: list[str], tmp_path: Path
) -> None:
    run = game_run(tmp_path / "run", "native", f"env.deepmind={deepmind}")
    iterate(run, 5)
    assert run.clock.episodes  # so there are later episodes, with seeds of their own
    state, expected = state_of(run), continuation(run, 2)
    for how in others:
        other = game_run(tmp_path / how, how, f"env.deepmind={deepmind}")
        other._load(copy.deepcopy(state))
        assert other.collector.not_exact == []
        assert differences(expected, continuation(other, 2)) == []
        other.collector.envs.close()


def played(seed: int, deepmind: bool, actions: list[int]) -> tuple[list[Any], list[float], list[bool]]:
    """A game by ale-py's plain interface: screens, points and lost lives of each step, as the rules say."""
    ale = ale_py.ALEInterface()
    ale.setInt("random_seed", seed)
    ale.setFloat("repeat_action_probability", 0.0 if deepmind else 0.25)
    ale.loadROM(roms.get_rom_path("breakout"))
    screens, points, lost = [], [], []
    legal = ale.getMinimalActionSet()
    for action in actions:
        lives = ale.lives()
        points.append(float(sum(ale.act(legal[action]) for _ in range(4))))
        screens.append(ale.getScreenRGB())
        lost.append(ale.lives() < lives)
    return screens, points, lost


def test_a_step_is_four_frames_and_rendering_shows_the_screen() -> None:
    actions = [1, *np.random.default_rng(0).integers(4, size=120).tolist()]
    env = Atari("breakout", render_mode="rgb_array")
    obs, _ = env.reset(seed=5)
    assert not obs[:3].any()
    assert obs[3].any()
    screens, points, _ = played(5, False, actions)
    for action, screen, won in zip(actions, screens, points, strict=True):
        before = obs
        obs, reward, terminated, _, info = env.step(action)
        assert np.array_equal(env.render(), screen)
        assert reward == won
        assert np.array_equal(obs[:3], before[1:])
        assert not terminated
        assert info == {}
    assert sum(points) > 0


def test_rules_of_2015_report_lost_lives_and_begin_with_noops() -> None:
    vector = AtariVector("breakout", 4, deepmind=True)
    _, infos = vector.reset(seed=range(4))
    assert len(set(infos["frame_number"].tolist())) > 1
    assert infos["frame_number"].max() <= 31
    lives, lost = infos["lives"], 0
    for _ in range(60):
        _, _, terminated, _, infos = vector.step(np.full(4, 1))
        assert np.array_equal(infos["life_lost"], (infos["lives"] < lives) & ~terminated)
        lives, lost = infos["lives"], lost + infos["life_lost"].sum()
    assert lost >= 4


@pytest.mark.parametrize("how", ["native", "sync"])
def test_lost_lives_terminate_learning_but_not_returns(how: str, tmp_path: Path) -> None:
    run = game_run(tmp_path / "run", how, "env=qbert", "env.deepmind=true")
    vector, told = run.collector.envs.step, []
    run.collector.envs.step = lambda actions: told.append(vector(actions)) or copy.deepcopy(told[-1])
    games, lost = [], 0
    while len(games) < 2:
        rollout = run.collector.collect(run.agent)
        lost += int(rollout.terminated.sum()) - len(rollout.final_obs)
        assert set(np.unique(rollout.reward)) <= {-1.0, 0.0, 1.0}
        assert all(rollout.terminated[t, n] for t, n, _ in rollout.final_obs)
        for t, n in np.argwhere(rollout.terminated):  # a lost life has its true successor: the frames go on
            assert np.array_equal(rollout.next_obs[t, n, :3], rollout.obs[t, n, 1:])
        games += list(zip(run.collector.ended_returns, run.collector.ended_lengths, strict=True))
    assert lost >= 6  # of the three lives of the two games, before the last
    ends = [(t, n) for t, (*_, terminated, _, _) in enumerate(told) for n in np.flatnonzero(terminated)]
    begin, expected = [0, 0], []
    for t, n in ends:
        expected.append((float(sum(step[1][n] for step in told[begin[n] : t + 1])), t + 1 - begin[n]))
        begin[n] = t + 1
    assert games == expected
    assert max(total for total, _ in games) >= 25


def test_evaluation_plays_whole_games_for_their_points(tmp_path: Path) -> None:
    run = game_run(tmp_path / "run", "native", "env=qbert", "env.deepmind=true")
    scores = play(run.agent, run.parts.make_env, 1, seed=0, explore=True)
    assert scores.mean >= 25
    assert scores.lengths[0] > 100


def test_the_last_steps_successor_is_true_and_stacks_are_cleared() -> None:
    native = NativeEnvs(AtariVector("breakout", 2), seed=3)
    native.reset()
    single = Episodes(Atari("breakout"), 3, 1)
    single.reset()
    actions = np.random.default_rng(0).integers(4, size=(1000, 2))
    for t in range(1000):
        obs, _, terminated, _, infos = native.step(actions[t])
        expected, _, over, _, _ = single.step(actions[t, 1])
        if over:
            break
        assert np.array_equal(obs[1], expected)
    assert terminated[1]
    assert np.array_equal(infos["final_obs"][1], expected)
    assert np.array_equal(obs[1], single.reset()[0])
    assert not obs[1, :3].any()
    assert obs[1, 3].any()


def test_frame_stack_is_known_unless_a_wrapper_changes_it() -> None:
    make = make_factory("rl.atari:Atari/pong-v5", {}, [])
    assert frame_stack(make()) == (4, True)
    assert frame_stack(FlattenObservation(make())) == (1, False)
    assert frame_stack(TransformReward(make(), abs)) == (1, False)
    assert frame_stack(FrameStackObservation(gym.make("CartPole-v1"), 3)) == (3, False)
    assert frame_stack(FrameStackObservation(gym.make("CartPole-v1"), 3, padding_type="zero")) == (3, True)
    assert frame_stack(gym.make("CartPole-v1")) == (1, False)


def test_a_memory_of_single_frames_gives_back_every_stack(tmp_path: Path) -> None:
    line = ["algo=dqn", "algo.learning_starts=4k", "algo.replay.capacity=4k", "algo.epsilon=1", *SMALL]
    run = game_run(tmp_path / "run", "native", *line, "env.deepmind=true")
    memory, lived = run.agent.replay, []
    while run.clock.episodes < 2:
        rollout = run.collector.collect(run.agent)
        memory.add(rollout)
        lived += [
            copy.deepcopy((rollout.obs[t], rollout.next_obs[t], rollout.terminated[t]))
            for t in range(len(rollout.reward))
        ]
    numbers = np.arange(2 * memory._low, 2 * memory._high)
    batch = memory._gather(numbers, np.ones(len(numbers), np.float32))
    assert len(numbers) == 2 * len(lived)
    for name, part in (("obs", 0), ("next_obs", 1)):
        assert np.array_equal(
            getattr(batch, name).reshape(-1, 2, 4, 84, 84), np.stack([step[part] for step in lived])
        ), name
    assert np.array_equal(batch.discount.reshape(-1, 2) == 0, np.stack([step[2] for step in lived]))
    assert np.stack([step[2] for step in lived]).sum() > len(
        memory.ends.numbers[memory.ends.first : memory.ends.stop]
    )  # lost lives too


def test_a_video_of_a_game(tmp_path: Path) -> None:
    import av

    env = make_factory("rl.atari:Atari/pong-v5", {}, [])(render_mode="rgb_array")
    env.reset(seed=0)
    with Video(tmp_path / "game.mp4") as video:
        for _ in range(5):
            env.step(0)
            video.add_frame_of(env)
    with av.open(str(tmp_path / "game.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (160, 210, 15)
        assert len(list(container.decode(video=0))) == 5


# ------------------------------------------------------------------------------------------------------ kills

PONG = [
    "env=pong",
    f"env.num_envs={NUM_ENVS}",
    "frames=192",
    "log_every=32",
    "eval.every=null",
    "ckpt.every=64",
    "ckpt.minutes=null",
]
ALGOS = {
    "ppo": [
        "algo=ppo",
        "algo.rollout_length=16",
        "algo.minibatch_size=16",
        "algo.epochs=2",
        "algo.shared_network=true",
        *SMALL,
    ],
    "dqn": [
        *(
            "algo=ddqn_per",
            "algo.learning_starts=40",
            "algo.replay.capacity=100",
            "algo.batch_size=8",
            *SMALL,
        ),
        "algo.network._target_=rl.pixels.DuelingNatureCNN",
    ],
    "rainbow": [
        *(
            "algo=rainbow",
            "algo.learning_starts=40",
            "algo.replay.capacity=100",
            "algo.batch_size=8",
            "algo.quantiles=5",
            *SMALL,
        ),
        "algo.network._target_=rl.pixels.NoisyDuelingNatureCNN",
    ],
}


@pytest.fixture(autouse=True)
def no_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a finished run unscored: even one game takes a second."""
    monkeypatch.setattr(rl.training.run.Run, "score", lambda run, stop: {"stopped_at": None})


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The record of an undisturbed run of each algorithm, native."""

    @functools.cache
    def recorded(algo: str) -> Any:
        folder = tmp_path_factory.mktemp("straight") / algo
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rl.training.run.Run, "score", lambda run, stop: {"stopped_at": None})
            assert go(folder, *PONG, *ALGOS[algo], "env.vectorization=native") == 0
        return record(folder)

    return recorded


def killed(folder: Path, number: int, *overrides: str) -> int:
    die_at(number)
    return go(folder, *overrides)


@pytest.mark.parametrize("how", ["native", "sync"])
@pytest.mark.parametrize("algo", ALGOS)
def test_a_killed_atari_run_resumes_exactly(algo: str, how: str, tmp_path: Path, straight: Any) -> None:
    line = [*PONG, *ALGOS[algo], f"env.vectorization={how}"]
    assert in_child(functools.partial(killed, tmp_path / "run", 85, *line)) == DIED
    assert frames_of(tmp_path / "run")[-1] in (64, 128)
    assert in_child(functools.partial(go, tmp_path / "run", *line)) == 0
    assert differences(straight(algo), record(tmp_path / "run")) == []


_load = Collector.load_state_dict


def _begin_episodes_of_other_seeds(collector: Collector, state: dict[str, Any]) -> None:
    _load(collector, {**state, "episode": [number + 1 for number in state["episode"]]})


def test_without_the_episodes_seeds_a_killed_game_ends_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: Any
) -> None:
    line = [*PONG, *ALGOS["ppo"]]
    expected = straight("ppo")
    assert in_child(functools.partial(killed, tmp_path / "run", 85, *line)) == DIED
    monkeypatch.setattr(Collector, "load_state_dict", _begin_episodes_of_other_seeds)
    assert in_child(functools.partial(go, tmp_path / "run", *line)) == 0
    assert differences(expected, record(tmp_path / "run"))
