"""Observations of every space: packed into one array, seen by networks, and back after a kill."""

from __future__ import annotations

import functools
import operator
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from short_runs import begun, differences, iterate, leaves
from tiny_envs import Anything

import rl.export
from rl.api import load_policy
from rl.clock import Clock
from rl.config import ConfigError, ExportConfig, RunConfig
from rl.config.compose import compose, options
from rl.envs.make import make_factory
from rl.envs.vector import make_vector
from rl.envs.wrappers import MiniGrid
from rl.export import export
from rl.learning.features import Features
from rl.serialize import load, serialize
from rl.spaces import as_rows, check_obs_space, observed, packer
from rl.state import Streams
from rl.training.build import build_agent
from rl.training.evaluate import play
from rl.training.run import Run

pytestmark = pytest.mark.usefixtures("few_scores", "composed_once")
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
CONTINUOUS = {"crossq", "ddpg", "sac", "td3", "tqc"}


def words(space: Any) -> str:
    """A space as an override has it."""
    if isinstance(space, dict):
        return "{" + ",".join(f"{name}:{words(part)}" for name, part in space.items()) + "}"
    return "[" + ",".join(map(words, space)) + "]" if isinstance(space, list) else str(space)


def line(algo: str, space: Any, *more: str) -> list[str]:
    if algo in CONTINUOUS and isinstance(space, dict):  # they take no masks
        space = {name: part for name, part in space.items() if name != "action_mask"}
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


# ------------------------------------------------------------------------------------ every space, and a kill

NAMES = st.sampled_from(["a", "b", "c_1"])
LEAVES = st.one_of(
    st.tuples(st.just("Discrete"), st.integers(1, 4), st.none(), st.integers(-2, 3)).map(
        lambda drawn: [drawn[0], drawn[1], "null", drawn[3]]
    ),
    st.lists(st.integers(1, 4), min_size=1, max_size=3).map(lambda counts: ["MultiDiscrete", counts]),
    st.integers(1, 4).map(lambda size: ["MultiBinary", size]),
    st.tuples(
        st.sampled_from(["float32", "float64", "int16", "int64", "uint8"]),
        st.lists(st.integers(1, 3), max_size=2),
    ).map(lambda drawn: ["Box", 0, 9, drawn[1], drawn[0]]),
    st.just(["Box", 0, 255, [8, 9, 1], "uint8"]),
)
SPACES = st.recursive(
    LEAVES,
    lambda parts: st.one_of(
        st.dictionaries(NAMES, parts, min_size=1, max_size=3), st.lists(parts, min_size=1, max_size=2)
    ),
    max_leaves=5,
)


@settings(max_examples=4, deadline=None, derandomize=True, database=None)
@given(space=SPACES, normalize=st.booleans())
@pytest.mark.parametrize("algo", ["ppo", "dqn", "sac"])
def test_any_space_comes_back(algo: str, space: Any, normalize: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        overrides = line(algo, space, f"algo.normalize_obs={normalize}")
        assert resumed_differences(Path(folder), overrides) == []


@pytest.mark.parametrize("part", ["collector", "agent.replay", "agent.obs_normalizer"])
def test_a_field_that_a_checkpoint_lacks_is_seen(part: str, tmp_path: Path) -> None:
    field, overrides = "hand.angle", line("dqn", RICH, "algo.normalize_obs=true")
    iterate(run := begun(tmp_path / "run", *overrides), 2)
    before = run.stateful[part].state_dict()
    where = {"collector": ["obs"], "agent.replay": ["frames"], "agent.obs_normalizer": []}[part]
    held = functools.reduce(operator.getitem, where, before)
    del held[field]
    with pytest.raises(KeyError, match=field):
        begun(tmp_path / "new", *overrides).stateful[part].load_state_dict(before)


def test_statistics_that_are_lost_show_in_the_continuation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the tests above would show nothing."""
    load_all = Features.load_state_dict

    def forgetful(self: Features, state: dict[str, Any]) -> None:
        load_all(self, {**state, "hand.angle": self.normalizers["hand.angle"].state_dict()})

    monkeypatch.setattr(Features, "load_state_dict", forgetful)
    found = resumed_differences(tmp_path, line("dqn", RICH, "algo.normalize_obs=true"))
    assert any("hand.angle" in name for name in found)
    assert any("q_network" in name for name in found)


def test_a_field_that_comes_back_changed_is_seen(tmp_path: Path) -> None:
    overrides = line("dqn", RICH)
    iterate(run := begun(tmp_path / "run", *overrides), 2)
    state = run.collector.state_dict()
    state["obs"]["cards.0"][1] += 1
    run.collector.load_state_dict(state)
    (problem,) = run.collector.not_exact
    assert problem.startswith("env 1, ")
    assert "its observation differs" in problem


@pytest.mark.parametrize("space", [RICH, ["Discrete", 4], ["MultiBinary", 3]], ids=["rich", "int", "bits"])
def test_async_and_sync_envs_give_the_same_bits(space: Any) -> None:
    seen = []
    for vectorization in ("sync", "async"):
        envs = make_vector(make_factory("tiny_envs:Anything-v0", {"space": space}, []), 2, vectorization, 3)
        rows = [envs.reset()[0].tobytes()]
        for _ in range(12):
            obs, reward, *_, infos = envs.step(np.array([0, 2]))
            finals = [np.asarray(one).tobytes() for one in infos.get("final_obs", []) if one is not None]
            rows += [obs.tobytes(), reward.tobytes(), *finals]
        envs.close()
        seen.append(rows)
    assert seen[0] == seen[1]
    assert len(seen[0]) > 25  # there were ends


# ------------------------------------------------------------------------------------ what networks are given


def test_integers_are_one_hot_and_all_else_is_flat() -> None:
    space = gym.spaces.Dict(
        {
            "bits": gym.spaces.MultiBinary(2),
            "card": Discrete(3, start=5),
            "pair": gym.spaces.MultiDiscrete([2, 3], start=[0, 1]),
            "place": Box(-1, 1, (2, 1), np.float64),
        }
    )
    features = Features(observed(space), normalize=False)
    obs = {"bits": [1, 0], "card": 6, "pair": [1, 3], "place": [[0.25], [-1]]}
    row, _ = as_rows(space, obs)
    expected = [[1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0.25, -1]]
    assert features(row).tolist() == expected
    assert features.shape == (12,)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(row[name])) for name in row.dtype.names}
    assert features.in_torch(tensors).tolist() == expected


def test_an_image_comes_first_with_its_channels_first() -> None:
    image = np.arange(8 * 9 * 3, dtype=np.uint8).reshape(8, 9, 3)
    space = gym.spaces.Dict({"a": Discrete(2), "z": Box(0, 255, (8, 9, 3), np.uint8)})
    features = Features(observed(space), normalize=False)
    row, _ = as_rows(space, {"a": 1, "z": image})
    assert features.shape.images == ((3, 8, 9),)
    pixels = features(row)[0, :-2].reshape(3, 8, 9)
    assert np.array_equal(pixels, image.transpose(2, 0, 1) / np.float32(255))
    stacked = gym.spaces.Dict({"z": Box(0, 255, (4, 8, 9, 3), np.uint8), "a": Discrete(2)})
    assert Features(observed(stacked), normalize=False).shape.images == ((12, 8, 9),)


def test_only_float_boxes_are_normalised_each_by_its_own_statistics() -> None:
    space = gym.spaces.Dict({"x": Box(-9, 9, (1,)), "y": Box(0, 9, (1,), np.int64), "z": Box(-9, 9, (1,))})
    features = Features(observed(space), normalize=True)
    pack = packer(space)
    assert pack is not None
    rows = pack({"x": [[0.0], [2.0]], "y": [[3], [4]], "z": [[5.0], [5.0]]}, (2,))
    features.update(rows)
    assert np.allclose(features(rows), [[-1, 3, 0], [1, 4, 0]], atol=1e-6)
    assert set(features.state_dict()) == {"x", "z"}


def test_a_box_with_a_mask_is_to_networks_that_box_alone(tmp_path: Path) -> None:
    box = ["Box", -1, 1, [3], "float32"]
    run = begun(tmp_path / "run", *line("dqn", {"obs": box, "action_mask": ["MultiBinary", 3]}))
    iterate(run, 2)
    network = run.agent.parts["q_network"].network  # type: ignore[attr-defined]
    assert network.layers[0].in_features == 3
    obs = run.collector.rollout.obs
    assert obs["action_mask"].shape == (9, 2, 3)
    inputs = run.agent.obs_normalizer(obs[0, :1])  # type: ignore[attr-defined]
    assert torch.from_numpy(inputs[:, :3]).tolist() == obs["obs"][0, :1].tolist()
    assert inputs[:, 3:].tolist() == obs["action_mask"][0, :1].tolist()


def test_a_value_that_is_not_in_its_space_is_named() -> None:
    features = Features(observed(Discrete(3, start=1)), normalize=False)
    for value in (0, 4):
        with pytest.raises(ValueError, match=r"is not in Discrete\(3, start=1\)"):
            features(np.array([1, value]))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("{a:[Text,5]}", "key a is Text"),
        ("{a:[[Sequence,3]]}", "Sequence|int"),
        ("{action_mask:[MultiBinary,3]}", "nothing to observe"),
        ("[Discrete,2000000]", "2,000,000 numbers"),
    ],
)
def test_what_no_array_can_hold_is_refused_at_build(space: str, message: str, tmp_path: Path) -> None:
    overrides = [text for text in line("ppo", RICH) if "kwargs.space" not in text]
    with pytest.raises(ConfigError, match=message):
        begun(tmp_path / "run", *overrides, f"+env.kwargs.space={space}")
    assert not (tmp_path / "run").exists()


def test_two_leaves_of_one_name_are_refused() -> None:
    space = gym.spaces.Dict({"a.b": Discrete(2), "a": gym.spaces.Dict({"b": Discrete(2)})})
    with pytest.raises(ValueError, match=r"two keys named a\.b"):
        check_obs_space(space)


# --------------------------------------------------------------------------------------------- stacked frames


@pytest.mark.parametrize("padding", ["reset", "zero"])
def test_a_replay_memory_keeps_single_frames_of_dicts(padding: str, tmp_path: Path) -> None:
    stack = f"{{_target_: gymnasium.wrappers.FrameStackObservation, stack_size: 3, padding_type: {padding}}}"
    space = {"image": ["Box", 0, 255, [8, 8], "uint8"], "speed": ["Box", 0, 1, [2], "float32"]}
    overrides = line("dqn", space, f"env.wrappers=[{stack}]")
    run = begun(tmp_path / "run", *overrides)
    memory = run.agent.replay
    assert memory is not None
    rollouts = []
    for _ in range(3):
        rollout = run.collector.collect(run.agent)
        rollouts.append((rollout.obs[:-1].copy(), rollout.next_obs.copy()))
        run.agent.learn(rollout)
    assert memory.layout["frames"][1]["image"].shape == (8, 8)  # one frame, not three
    obs, next_obs = (np.concatenate(parts).reshape(-1) for parts in zip(*rollouts, strict=True))
    batch = memory.sample(64, np.random.default_rng(0), run.clock.frames)
    assert batch.obs.tobytes() == obs[batch.number].tobytes()
    assert batch.next_obs.tobytes() == next_obs[batch.number].tobytes()
    assert resumed_differences(tmp_path, overrides) == []


# ------------------------------------------------------------------------------------------ playing and files


@pytest.mark.parametrize(("algo", "space"), [("ppo", RICH), ("recurrent_ppo", PLAIN), ("dqn", PLAIN[0])])
def test_a_policy_takes_what_its_env_gives(
    algo: str, space: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rl.export, "OBSERVATIONS", 40)
    run = begun(tmp_path / "run", *line(algo, space))
    iterate(run, 2)
    run.save()
    policy = load_policy(tmp_path / "run", "last")
    observation = policy.obs_space.sample()
    alone = policy(observation)
    policy.reset()
    rows, single = as_rows(policy.obs_space, observation)
    assert single
    assert policy(rows).tolist() == [alone.tolist()]
    assert len(play(run.agent, run.parts.make_env, 3, 0).returns) == 3
    for kind in ("torch", "onnx"):  # the export compares its actions with the policy's
        export(ExportConfig(run=str(tmp_path / "run"), ckpt="last", format=kind, out=None, outputs=""))


def test_a_batch_of_dicts_has_one_size(tmp_path: Path) -> None:
    space = gym.spaces.Dict({"a": Discrete(3), "b": Box(0, 1, (2,))})
    rows, single = as_rows(space, {"a": [0, 1], "b": np.zeros((2, 2))})
    assert (rows.shape, single) == ((2,), False)
    with pytest.raises(ValueError, match=r"of b of shape \(3,\)"):
        as_rows(space, {"a": 0, "b": np.zeros(3)})
    with pytest.raises(ValueError, match="batch sizes"):
        as_rows(space, {"a": [0, 1], "b": np.zeros(2)})


def test_minigrids_missions_are_numbers() -> None:
    env = MiniGrid(gym.make("minigrid:MiniGrid-Fetch-5x5-N2-v0", disable_env_checker=True))
    obs, _ = env.reset(seed=0)
    assert obs in env.observation_space
    names = {number: word for word, number in env.words.items()} | {0: ""}
    said = " ".join(names[number] for number in obs["mission"].tolist()).strip()
    assert said == env.unwrapped.mission  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="does not fit"):
        env.observation({**obs, "mission": "fly"})


# --- the table of the page

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "spaces.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->"
OBSERVED = {
    "Box": ["Box", -1, 1, [3], "float32"],
    "Discrete": ["Discrete", 4],
    "MultiDiscrete": ["MultiDiscrete", [2, 3]],
    "MultiBinary": ["MultiBinary", 3],
    "Dict, Tuple": {"a": [["Discrete", 4]], "b": ["Box", 0, 255, [36, 36, 3], "uint8"]},
}


def accepted(algo: str, space: Any, actions: str) -> bool:
    """Whether an algorithm can be built for a space of observations and one of actions."""
    config = compose(line(algo, space), RunConfig).config
    env = Anything(space)
    env.action_space = {
        "Discrete": Discrete(3),
        "MultiDiscrete": gym.spaces.MultiDiscrete([2, 3]),
        "MultiBinary": gym.spaces.MultiBinary(2),
        "Box": Box(-1, 1, (2,)),
        "Dict, Tuple": gym.spaces.Dict(a=Discrete(2), b=gym.spaces.Tuple([Box(-1, 1, (2,))])),
    }[actions]
    try:
        build_agent(config, env, Clock(), Streams(0))
    except ConfigError:
        return False
    return True


def table() -> str:
    """Every algorithm, what it observes, and how it acts."""
    actions = ["Discrete", "MultiDiscrete", "MultiBinary", "Box", "Dict, Tuple"]
    masked = {"obs": ["Box", -1, 1, [3], "float32"], "action_mask": ["MultiBinary", 3]}
    rows = [["algo", *(f"observes {name}" for name in OBSERVED), *(f"acts in {name}" for name in actions)]]
    rows[0].append("takes action masks")
    rows.append(["---"] * len(rows[0]))
    for algo in options("algo"):
        act = [name for name in actions if accepted(algo, OBSERVED["Discrete"], name)]
        seen = [accepted(algo, space, act[0]) for space in OBSERVED.values()]
        yes = [*seen, *(name in act for name in actions), accepted(algo, masked, "Discrete")]
        rows.append([f"`{algo}`", *("yes" if one else "-" for one in yes)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def test_the_pages_table_is_what_algorithms_accept() -> None:
    page = PAGE.read_text()
    assert page[page.index(BEGIN) + len(BEGIN) : page.index(END)] == table()


if __name__ == "__main__":
    page = PAGE.read_text()
    PAGE.write_text(page[: page.index(BEGIN) + len(BEGIN)] + table() + page[page.index(END) :])
