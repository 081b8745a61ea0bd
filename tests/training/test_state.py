"""Nothing that changes in training is forgotten, and every part of a checkpoint matters."""

from __future__ import annotations

import hashlib
import io
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from audit import forgotten
from short_runs import TINY, begun, differences, go, iterate, record

from rl.envs.vector import closing
from rl.group import Group
from rl.runs.manifest import Manifest
from rl.serialize import load, serialize
from rl.state import EpisodeSeeds, GlobalRandom, Streams, check_parts, derive_seed
from rl.training.run import Run
from rl.training.shared_collector import SharedCollector

pytestmark = pytest.mark.usefixtures("few_scores")
# two iterations: the ring has wrapped
SMALL_MEMORY = ["algo.replay.capacity=100", "algo.learning_starts=40", "algo.batch_size=8"]
SMALL_CNN = ["algo.network._target_=rl.pixels.NatureCNN", "+algo.network.channels=[2,4,4]"]
TRAITS = {
    "reinforce": [],
    "reinforce with a baseline": ["algo.baseline=true"],
    "reinforce, continuous": ["env=pendulum", "algo.baseline=true"],
    "ppo": ["algo=ppo", "algo.minibatch_size=32", "algo.normalize_obs=true", "algo.normalize_reward=true"],
    "ppo, continuous": ["algo=ppo", "algo.minibatch_size=32", "env=pendulum", "algo.shared_network=true"],
    "recurrent ppo": [
        "algo=recurrent_ppo",
        "algo.minibatch_size=32",
        "algo.normalize_obs=true",
        "algo.normalize_reward=true",
    ],
    "a2c": ["algo=a2c", "algo.normalize_obs=true", "algo.normalize_reward=true"],
    "sarsa": ["algo=sarsa", "algo.normalize_obs=true"],
    "pqn": ["algo=pqn", "algo.minibatch_size=16", "algo.normalize_obs=true"],
    "dqn": ["algo=dqn", *SMALL_MEMORY],
    "dqn, all of it": [
        "algo=ddqn_per",
        *SMALL_MEMORY,
        "algo.target_every=null",
        "algo.target_tau=0.01",
        "algo.normalize_obs=true",
    ],
    "qr-dqn": ["algo=qr_dqn", *SMALL_MEMORY],
    "rainbow": ["algo=rainbow", *SMALL_MEMORY],
    "sac": ["algo=sac", "env=pendulum", *SMALL_MEMORY, "algo.normalize_obs=true"],
    "discrete sac": ["algo=sac_discrete", *SMALL_MEMORY],
    "td3": ["algo=td3", "env=pendulum", *SMALL_MEMORY, "algo.policy_delay=3"],
    "ddpg": ["algo=ddpg", "env=pendulum", *SMALL_MEMORY, "algo.normalize_obs=true"],
    "crossq": [
        "algo=crossq",
        "env=pendulum",
        *SMALL_MEMORY,
        "algo.critic_network.hidden=[8]",
        "algo.critic_network.warm_up=30",
    ],
    "tqc": [
        "algo=tqc",
        "env=pendulum",
        *SMALL_MEMORY,
        "algo.critic_network.hidden=[8]",
        "algo.normalize_obs=true",
    ],
    "sac with SimBa": ["algo=sac", "env=pendulum", *SMALL_MEMORY, "algo.network._target_=rl.networks.SimBa"],
    "random": ["algo=random"],
    "async": ["env.vectorization=async"],
    "a wrapper with a state": ["env.wrappers=[{_target_: tiny_envs.Centred}]"],
    "atari": [
        *(
            "algo=ppo",
            "algo.minibatch_size=32",
            "algo.shared_network=true",
            "env=breakout",
            "env.deepmind=true",
        ),
        *SMALL_CNN,
    ],
    "an env of one's own": ["env=gym", "env.id=tiny_envs:Identity-v0"],
}


def line_for(trait: str) -> list[str]:
    line = [*TINY, *TRAITS[trait]]
    return [override for override in line if not (trait == "random" and override.startswith("algo.network"))]


@pytest.mark.parametrize("trait", TRAITS)
def test_what_changes_in_training_is_in_the_checkpoint(trait: str, tmp_path: Path) -> None:
    made: list[Run] = []

    def make() -> Run:
        made.append(begun(tmp_path / f"run{len(made)}", *line_for(trait)))
        return made[-1]

    assert forgotten(make, iterate, lambda run: run.stateful) == []
    for run in made:
        run.collector.envs.close()


class Counter:
    """A callback with two counts, of which it saves one."""

    def __init__(self) -> None:
        self.saved, self.unsaved, self.draw = 0, {"deep": [0]}, np.random.default_rng(0)

    def __call__(self, run: Run) -> None:
        self.saved += 1
        self.unsaved["deep"][0] += 1
        self.draw.random()

    def state_dict(self) -> dict[str, Any]:
        return {"saved": self.saved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.saved = state["saved"]


def test_the_audit_names_what_is_forgotten(tmp_path: Path) -> None:
    made = []

    def make() -> Run:
        made.append(begun(tmp_path / f"run{len(made)}", *TINY, "callbacks=[{_target_: test_state.Counter}]"))
        return made[-1]

    def step(run: Run) -> None:
        iterate(run)
        run.parts.callbacks[0](run)

    names = forgotten(make, step, lambda run: run.stateful)
    assert names == [".parts.callbacks[0].unsaved['deep'][0]", ".parts.callbacks[0].draw"]


@pytest.mark.parametrize(
    "part", ["agent.policy", "agent.optimizer", "collector", "clock", "streams", "metrics"]
)
def test_the_audit_names_every_part_that_is_left_out(part: str, tmp_path: Path) -> None:
    made = []

    def make() -> Run:
        made.append(begun(tmp_path / f"run{len(made)}", *TINY))
        return made[-1]

    assert forgotten(make, iterate, lambda run: {name: p for name, p in run.stateful.items() if name != part})


# ------------------------------------------------------------------------------------- continuations compared


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the state in a run's newest checkpoint, and leave it whole."""
    manifest = max((Manifest.read(path) for path in (folder / "ckpt").glob("*.json")), key=lambda m: m.frames)
    state = load((folder / "ckpt" / manifest.data).read_bytes(), "cpu")
    change(state)
    data = serialize(state)
    (folder / "ckpt" / manifest.data).write_bytes(data)
    manifest.files[manifest.data] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "ckpt" / f"ckpt-{manifest.frames}.json").write_bytes(manifest.to_bytes())


LUCKY = [
    "env=gym",
    "env.id=tiny_envs:LuckyEnd-v0",
    "callbacks=[{_target_: test_state.Counter}]",
    "algo.baseline=true",
]
PARTS = [
    "clock",
    "streams",
    "agent.policy",
    "agent.optimizer",
    "agent.value",
    "collector",
    "callback.0",
    "global_random",
    "metrics",
]
HALF, WHOLE = [*TINY, *LUCKY, "frames=320"], [*TINY, *LUCKY]


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """A run stopped half way, the record of the same run to the end, and its state at the start."""
    folder = tmp_path_factory.mktemp("halves")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rl.training.run.SCORE_EPISODES", 4)
        start = {name: part.state_dict() for name, part in begun(folder / "start", *WHOLE).stateful.items()}
        assert go(folder / "straight", *WHOLE) == 0
        assert go(folder / "half", *HALF) == 0
    return folder / "half", record(folder / "straight"), start


def test_a_rewritten_checkpoint_continues_as_it_was(halves: Any, tmp_path: Path) -> None:
    half, expected, start = halves
    shutil.copytree(half, tmp_path / "run", symlinks=True)
    rewrite(tmp_path / "run", lambda state: None)
    assert go(tmp_path / "run", *WHOLE) == 0
    assert differences(expected, record(tmp_path / "run")) == []
    assert set(start) == set(PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_without_any_one_part_the_continuation_differs(part: str, halves: Any, tmp_path: Path) -> None:
    half, expected, start = halves
    shutil.copytree(half, tmp_path / "run", symlinks=True)
    fresh = {**start[part], "frames": 320} if part == "clock" else start[part]  # the rest of the clock
    rewrite(tmp_path / "run", lambda state: state.update({part: fresh}))
    assert go(tmp_path / "run", *WHOLE) == 0
    differing = differences(expected, record(tmp_path / "run"))
    assert any("ckpt-640.pt" in name or "metrics.csv" in name for name in differing)


def test_a_checkpoint_that_lacks_a_part_is_refused(halves: Any, tmp_path: Path) -> None:
    half, _, _ = halves
    shutil.copytree(half, tmp_path / "run", symlinks=True)
    rewrite(tmp_path / "run", lambda state: state.pop("streams"))
    assert go(tmp_path / "run", *WHOLE) == 1


# -------------------------------------------------------------------------------------------------- the parts


def test_streams_are_independent_and_come_back() -> None:
    one, other = Streams(3), Streams(3)
    assert len({float(getattr(one, name).random()) for name in Streams.NAMES}) == len(Streams.NAMES)
    saved = torch.load(as_file(one.state_dict()), weights_only=True)
    other.load_state_dict(saved)
    assert all(getattr(one, name).random() == getattr(other, name).random() for name in Streams.NAMES)


def test_the_global_generators_come_back() -> None:
    states = GlobalRandom()
    states.seed(5)
    np.random.standard_normal()  # leaves one in store
    saved = torch.load(as_file(states.state_dict()), weights_only=True)

    def draw() -> list[float]:
        return [random.random(), np.random.standard_normal(), np.random.random(), float(torch.rand(()))]

    first = draw()
    draw()
    states.load_state_dict(saved)
    assert draw() == first


def test_setting_the_global_generators_apart_leaves_nothing_behind() -> None:
    before = len(torch.cuda._queued_calls)
    for seed in range(10):
        with GlobalRandom().apart(seed):
            torch.rand(())
    assert len(torch.cuda._queued_calls) == before


def as_file(state: Any) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def test_seeds_differ_by_every_step_of_their_path() -> None:
    paths: list[tuple[Any, ...]] = [
        (0, "env"),
        (1, "env"),
        (0, "eval"),
        (0, "env", 0),
        (0, "env", 1),
        (0, 0, "env"),
        (2**63 - 1, "env"),
    ]
    assert len({derive_seed(*path) for path in paths}) == len(paths)
    assert derive_seed(0, "env", 1) == derive_seed(0, "env", 1)


@pytest.mark.parametrize(("scheme", "alike"), [(2, 0), (1, 5)])  # hashed, about 5 pairs are expected
def test_no_two_episodes_have_the_same_seed(scheme: int, alike: int) -> None:
    seeds = {EpisodeSeeds(0, env, scheme)(episode) for env in range(8) for episode in range(25_000)}
    assert max(seeds) < 2**32
    assert 0 <= 200_000 - len(seeds) <= 2 * alike
    assert bool(alike) == (len(seeds) < 200_000)


def test_episode_seeds_differ_by_seed_env_and_episode() -> None:
    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1024, 0), (0, 5000, 3)]
    seeds = {EpisodeSeeds(seed, env, 2)(episode) for seed, env, episode in places}
    assert len(seeds) == len(places)
    bits = [bin(EpisodeSeeds(0, 0, 2)(n) ^ EpisodeSeeds(0, 0, 2)(n + 1)).count("1") for n in range(1000)]
    assert 15 < sum(bits) / len(bits) < 17  # neighbours differ in half of 32 bits


def test_a_part_without_state_dict_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="policy"):
        check_parts({"policy": object()})


def test_equal_states_give_equal_bytes() -> None:
    """Strings of a state that was loaded are objects of their own, which pickle writes out each time."""

    def state(name: str) -> dict[str, Any]:
        return {"metrics": {"lr": 1.0}, "optimizer": [{name: 2.0}, ("lr", torch.zeros(2))]}

    def saved(state: dict[str, Any]) -> bytes:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return buffer.getvalue()

    loaded = "".join(["l", "r"])
    assert serialize(state("lr")) == serialize(state(loaded))
    assert saved(state("lr")) != saved(state(loaded))


@pytest.mark.parametrize("vectorization", ["sync", "async", "native"])
@pytest.mark.parametrize("shared", [False, True])
def test_a_step_before_a_lost_episode_keeps_its_successor(
    vectorization: str, shared: bool, tmp_path: Path
) -> None:
    """The resume begins another episode, which is not what the step led to."""
    envs = ["env=gym", "env.id=tiny_envs:Dice-v0", "env.num_envs=3", f"env.vectorization={vectorization}"]
    run = begun(tmp_path / "run", "algo=sac", *envs, *SMALL_MEMORY, "algo.network.hidden=[8]")
    if shared:
        own = run.collector
        run.collector = SharedCollector(own, Group(), 3, own.streams, run.clock, masks=False)
    replay = run.agent.replay
    assert replay is not None
    iterate(run, 20)
    while run.collector.rollout.done[-1].any():
        iterate(run)
    state, row = run.collector.state_dict(), replay.end - 1
    state["returns"][1] += 1
    after = run.collector.rollout.obs[-1].copy()
    with closing(run.collector.envs):
        run.collector.load_state_dict(state)
        (problem,) = run.collector.not_exact
        assert problem.startswith("env 1, ")
        assert (run.collector.rollout.obs[-1] != after).reshape(3).tolist() == [False, True, False]
        iterate(run)
        assert list(replay.cuts) == [row * 3 + 1]
        iterate(run)
    assert run.collector.rollout.begun == []
    batch = replay._gather(row * 3 + np.arange(3), np.ones(3, np.float32))
    np.testing.assert_array_equal(batch.next_obs, after)
