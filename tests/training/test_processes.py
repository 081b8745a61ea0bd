"""A run on several processes: the mathematics of one, and exact resumes, whatever happens to a process."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from short_runs import TINY, command, differences, environment, forked, go, record, rows

from rl.config import ConfigError, RunConfig
from rl.config.compose import compose, options
from rl.group import ALONE, Group, SharedDraws
from rl.learning.exploration import epsilon_greedy
from rl.learning.masks import MASKED as MASKED_VALUE
from rl.runs import history
from rl.runs.outcome import FAILED
from rl.runs.plan import make_plan
from rl.training import shared_sums
from rl.training.build import build
from rl.training.evaluate import play
from rl.training.launch import PLACE, check_processes
from rl.training.processes import ProcessGroup, join
from rl.training.run import Run
from rl.training.session import perform
from rl.training.shared_sums import Meeting

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
ITERATIONS, LOST = 4, 1
SMALL = ["env.num_envs=4", "algo.network.hidden=[8]", "progress=false"]
CONTINUOUS = ("sac", "td3", "ddpg", "crossq", "tqc")
ON_POLICY = ["algo.rollout_length=16"]
OFF_POLICY = ["algo.rollout_length=8", "algo.learning_starts=40", "algo.batch_size=16"]
NORMALIZED = ["algo.normalize_obs=true", "algo.normalize_reward=true"]
MINIBATCH = ["algo.minibatch_size=32", "algo.rollout_length=16"]
MASKED = ["env=gym", "env.id=tiny_envs:Masking-v0", "env.wrappers=[{_target_: rl.wrappers.ActionMask}]"]
EXPLORING = ("dqn", "ddqn_per", "qr_dqn", "sarsa", "pqn")


def small(algo: str) -> list[str]:
    """A run of this algorithm for a few iterations, within which episodes end and everything is updated."""
    line = [f"algo={algo}", *SMALL, f"env={'pendulum' if algo in CONTINUOUS else 'cartpole'}"]
    if algo == "crossq":
        line += ["algo.critic_network.hidden=[8]"]
    if algo == "random":
        return [one for one in line if "network" not in one]
    if algo in ("ppo", "recurrent_ppo", "pqn"):
        line += MINIBATCH + (["algo.sequence_length=8"] if algo == "recurrent_ppo" else [])
        return line + (NORMALIZED if algo == "recurrent_ppo" else [])
    return line + (ON_POLICY if algo in ("a2c", "reinforce", "sarsa") else OFF_POLICY)


def masked(algo: str) -> list[str]:
    """The same where actions are masked, in some steps in the envs of one process alone."""
    return [*(one for one in small(algo) if not one.startswith("env=")), *MASKED]


def reports(line: list[str], group: Group = ALONE) -> list[dict[str, Any]]:
    """What a few iterations report, with the episodes that ended, and the scores of an evaluation."""
    parts = build(compose(line, RunConfig).config, group)
    parts.collector.start()
    found: list[dict[str, Any]] = []
    for _ in range(ITERATIONS):
        report = parts.agent.learn(parts.collector.collect(parts.agent))
        ended = list(zip(parts.collector.ended_returns, parts.collector.ended_lengths, strict=True))
        found.append({**report, "ended": ended})
    scores = play(parts.agent, parts.make_env, 3, 0, group=group)
    parts.collector.envs.close()
    draws = line[0] == "algo=random"  # in an evaluation too, each process for itself
    return [*found, {"scores": [] if draws else [*scores.returns, *scores.lengths]}]


def in_group(rank: int, place: Path, size: int = 2) -> ProcessGroup:
    store, config = dist.FileStore(str(place / "store"), size), compose(["algo=ppo"], RunConfig).config
    return ProcessGroup(store, rank, size, config, None)


def together(action: Callable[[int], Any], place: Path, size: int = 2) -> list[int]:
    """Do it in forks of this process, each with its number; their exit codes."""
    place.mkdir(parents=True, exist_ok=True)
    children = [forked(functools.partial(action, rank), place / f"{rank}.log") for rank in range(size)]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[dict[str, Any]]]]:
    """Of every algorithm, what two processes report; and of PPO, what they would without an exchange."""
    place = tmp_path_factory.mktemp("shared")

    def child(rank: int) -> None:
        group = in_group(rank, place)
        found = {algo: reports(small(algo), group) for algo in options("algo")}
        found |= {f"{algo} with masks": reports(masked(algo), group) for algo in EXPLORING}
        group.average = lambda grads, report: (grads, report)  # type: ignore[method-assign]
        found["without"] = reports(small("ppo"), group)
        (place / f"found-{rank}").write_bytes(pickle.dumps(found))

    assert together(child, place) == [0, 0], (place / "0.log").read_text()
    both = [pickle.loads((place / f"found-{rank}").read_bytes()) for rank in range(2)]
    return {algo: [found[algo] for found in both] for algo in both[0]}


def far_apart(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> list[str]:
    """The reported values that differ by more than 1e-4 of them."""
    assert [row.keys() for row in one] == [row.keys() for row in other]
    return [
        f"{name} of iteration {n}"
        for n, (mine, theirs) in enumerate(zip(one, other, strict=True))
        for name in mine
        if not np.allclose(np.shape(mine[name]), np.shape(theirs[name]))
        or not np.allclose(mine[name], theirs[name], rtol=1e-4, atol=1e-6)
    ]


@pytest.mark.parametrize("algo", options("algo"))
def test_two_processes_report_what_one_does(algo: str, shared: dict[str, Any]) -> None:
    alone = reports(small(algo))
    assert any(row.get("ended") for row in alone) or algo in CONTINUOUS
    assert [far_apart(alone, found) for found in shared[algo]] == [[], []]


@pytest.mark.parametrize("algo", EXPLORING)
def test_two_processes_explore_under_masks_as_one(algo: str, shared: dict[str, Any]) -> None:
    alone = reports(masked(algo))
    assert any(row.get("ended") for row in alone)
    assert [far_apart(alone, found) for found in shared[f"{algo} with masks"]] == [[], []]


def test_without_the_exchange_of_gradients_reports_differ(shared: dict[str, Any]) -> None:
    assert far_apart(reports(small("ppo")), shared["without"][0])


# ------------------------------------------------------------------------------------------ in a run's folder

LINE = [*TINY, "env.num_envs=4", "algo.rollout_length=16", "processes=2", "progress=false"]
MEMORY = [*LINE, "algo=ddqn_per", "algo.replay.capacity=200", "algo.learning_starts=40", "algo.batch_size=8"]
PPO = [*LINE, "algo=ppo", "algo.minibatch_size=32", "algo.normalize_obs=true"]


def train(
    folder: Path, line: list[str], before: Callable[[Run, int], None] = lambda run, n: None
) -> list[int]:
    """Train in forks; `before` is called with the run and the number of the iteration, in every process."""
    plan = make_plan([*line, f"hydra.run.dir={folder}"])
    plan.take_folder()
    place = folder.with_name(f"{folder.name}-{time.monotonic_ns()}")

    def child(rank: int) -> int:
        group = in_group(rank, place, plan.config.processes)
        begin = Run.begin

        def beginning(run: Run, typed: str) -> None:
            begin(run, typed)
            collect, numbers = run.collector.collect, iter(range(10**6))

            def watched(agent: Any) -> Any:
                before(run, next(numbers))
                return collect(agent)

            run.collector.collect = watched  # type: ignore[method-assign]

        Run.begin = beginning  # type: ignore[method-assign]
        try:
            perform(dataclasses.replace(plan, lock=None), build(plan.config, group), "the test's command")
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    try:
        return together(child, place, plan.config.processes)
    finally:
        assert plan.lock is not None
        plan.lock.release()
        train.said = [(place / f"{rank}.log").read_text() for rank in range(2)]  # type: ignore[attr-defined]


def kill(rank: int, at: int) -> Callable[[Run, int], None]:
    def before(run: Run, number: int) -> None:
        if (run.group.rank, number) == (rank, at):
            os.kill(os.getpid(), signal.SIGKILL)

    return before


@pytest.mark.usefixtures("few_scores")
@pytest.mark.parametrize("line", [PPO, MEMORY], ids=["ppo", "ddqn_per"])
def test_a_run_whose_process_is_killed_resumes_exactly(line: list[str], tmp_path: Path) -> None:
    """With a negative control: the generators of the second process are not those of the first."""
    assert train(tmp_path / "straight", line) == [0, 0]
    expected = record(tmp_path / "straight")
    assert train(tmp_path / "run", line, kill(1, 3)) == [LOST, -signal.SIGKILL]
    assert "process 1 of 2 has ended" in train.said[0]  # type: ignore[attr-defined]
    assert train(tmp_path / "run", line, kill(0, 4)) == [-signal.SIGKILL, LOST]
    assert "process 0 of 2 has ended" in train.said[1]  # type: ignore[attr-defined]
    assert train(tmp_path / "run", line) == [0, 0]
    assert differences(expected, record(tmp_path / "run")) == []
    assert train(tmp_path / "other", [*line, "seed=1"]) == [0, 0]
    assert differences(expected, record(tmp_path / "other"))


def test_a_signal_to_one_process_has_all_save_and_leave(tmp_path: Path) -> None:
    def ask(run: Run, number: int) -> None:
        if run.group.rank == 1 and number == 2:
            os.kill(os.getpid(), signal.SIGUSR1)

    assert train(tmp_path / "run", [*PPO, "eval.every=null", "ckpt.every=null"], ask) == [75, 75]
    frames = [path.name for path in (tmp_path / "run" / "ckpt").glob("*.json")]
    assert sorted(frames) == ["ckpt-0.json", "ckpt-192.json"]


def test_a_flipped_bit_stops_the_run_before_a_commit(tmp_path: Path) -> None:
    def flip(run: Run, number: int) -> None:
        if run.group.rank == 1 and number == 1:
            weights = next(run.agent.networks.parameters()).detach().view(torch.int32).view(-1)  # type: ignore
            weights[0] ^= 1

    assert train(tmp_path / "run", [*PPO, "eval.every=null", "ckpt.every=256"], flip) == [1, 1]
    assert "agent.networks" in train.said[0]  # type: ignore[attr-defined]
    assert "of process 1 is not that of process 0" in train.said[0]  # type: ignore[attr-defined]
    assert [path.name for path in (tmp_path / "run" / "ckpt").glob("*.json")] == ["ckpt-0.json"]


@pytest.mark.usefixtures("few_scores")
def test_another_number_of_processes_goes_on_and_is_recorded(tmp_path: Path) -> None:
    assert train(tmp_path / "run", [*PPO, "frames=256"]) == [0, 0]
    assert go(tmp_path / "run", "frames=512", "processes=1") == 0
    assert history.read(tmp_path / "run")[-1]["exactness"] == "not exact from frame 256: processes 2 -> 1"
    assert train(tmp_path / "run", ["frames=640", "processes=2"]) == [0, 0]
    past = history.read(tmp_path / "run")
    assert past[-1]["exactness"] == "not exact from frame 512: processes 1 -> 2"
    assert [session["world"]["processes"] for session in past] == [2, 1, 2]
    assert len(rows(tmp_path / "run" / "metrics.csv")) == 10


# --------------------------------------------------------------------------------------- by the command line


@contextlib.contextmanager
def typed(*line: str) -> Iterator[subprocess.Popen[str]]:
    """The real command line, left running until it has committed something after frame 0."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(command(*line), stdout=pipe, stderr=pipe, text=True, env=environment())
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ranks_of(parent: int) -> list[int]:
    """The processes of a run, in the order in which they were started."""
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def gone(pids: list[int]) -> bool:
    until = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_what_happens_to_a_process_ends_them_all(tmp_path: Path) -> None:
    """A signal that asks to stop; a process that is stopped for good, or killed; their parent, killed."""
    new = [*PPO, "frames=10M", "hydra.run.dir=run", "processes_limit_s=2", "eval.every=null"]
    cases: list[tuple[Any, int, str]] = [
        (lambda parent, ranks: os.kill(parent, signal.SIGINT), 130, r"stopped by SIGINT .* saved"),
        (
            lambda parent, ranks: os.kill(ranks[1], signal.SIGSTOP),
            1,
            r"process 1 of 2 has not answered for 2 s .*go on with: python .*train.py resume=run",
        ),
        (
            lambda parent, ranks: os.kill(ranks[1], signal.SIGKILL),
            1,
            r"process 1 of 2 was killed by SIGKILL .*go on with: python .*train.py resume=run",
        ),
        (lambda parent, ranks: os.kill(parent, signal.SIGKILL), -9, ""),
    ]
    for number, (act, code, message) in enumerate(cases):
        with typed(*(["resume=run"] if number else new)) as process:
            before = len(history.read(Path("run")))
            until = time.monotonic() + 60
            committed = 0.0
            while not committed and time.monotonic() < until:
                assert process.poll() is None, process.communicate()
                time.sleep(0.05)
                if len(history.read(Path("run"))) > before:
                    committed = time.monotonic()
            ranks = ranks_of(process.pid)
            assert len(ranks) == 2
            act(process.pid, ranks)
            acted_at = time.monotonic()
            said = "".join(process.communicate(timeout=30))
            assert process.returncode == code, said
            assert time.monotonic() - acted_at < 15
            assert re.search(message, said), said
            assert gone(ranks)
    assert Path("run/processes/process-1.log").exists()


def test_a_cluster_may_start_the_processes(tmp_path: Path) -> None:
    """As torchrun does: all get the same command line, their number, and where to meet."""
    line = [*PPO, "frames=128", "outputs=out", "eval.every=null"]
    line.remove("processes=2")
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": "2"}
    place["LOCAL_WORLD_SIZE"] = "2"

    def start(rank: int) -> subprocess.Popen[str]:
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        pipe = subprocess.PIPE
        variables = {**environment(), **place, **own}
        return subprocess.Popen(command(*line), stdout=pipe, stderr=pipe, text=True, env=variables)

    processes = [start(rank) for rank in range(2)]
    said = ["".join(process.communicate(timeout=120)) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    (folder,) = (path.parent for path in Path("out").glob("*/*/result.json"))
    assert history.read(folder)[0]["world"]["processes"] == 2
    assert "the run is in" in said[0]
    assert said[1] == ""


def _free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


# --------------------------------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["processes=3"], r"processes=3 do not share env.num_envs=8 evenly; type env.num_envs=6 or env.num"),
        (
            ["processes=3", "env.num_envs=6", "algo.minibatch_size=64"],
            r"do not share algo.minibatch_size=64 evenly; type .*=63 or .*=66",
        ),
        (["algo=dqn", "processes=2", "algo.batch_size=33"], r"algo.batch_size=32 or"),
        (["processes=3"], r"processes=[24] is the nearest that does"),
    ],
)
def test_what_cannot_be_shared_evenly_is_refused(line: list[str], message: str) -> None:
    start = ["env=cartpole", "env.num_envs=8", *([] if "algo=dqn" in line else ["algo=ppo"])]
    config = compose([*start, *line], RunConfig)
    with pytest.raises(ConfigError, match=message):
        check_processes(config.config)


def test_a_generator_of_some_envs_draws_for_all() -> None:
    alone, halves = np.random.default_rng(0), [np.random.default_rng(0) for _ in range(2)]
    shares = [SharedDraws(rng, slice(2 * n, 2 * n + 2), 4) for n, rng in enumerate(halves)]
    for name, before in (("random", ()), ("standard_normal", ()), ("gumbel", (0, 1)), ("integers", (9,))):
        whole = getattr(alone, name)(*before, size=(4, 3))
        parts = [getattr(share, name)(*before, size=(2, 3)) for share in shares]
        assert np.array_equal(whole, np.concatenate(parts))
    assert np.array_equal(
        alone.standard_normal((4, 1), np.float32),
        np.concatenate([share.standard_normal((2, 1), np.float32) for share in shares]),
    )
    with pytest.raises(ValueError, match="must draw for all envs at once: random"):
        shares[0].random()
    with pytest.raises(AttributeError, match="has no shuffle"):
        shares[0].shuffle([1])


def test_envs_that_do_not_explore_keep_generators_in_step() -> None:
    """Epsilon-greedy draws actions only if some env explores; it may be another process's."""
    alone, halves = np.random.default_rng(1), [np.random.default_rng(1) for _ in range(2)]
    shares: list[Any] = [SharedDraws(rng, slice(2 * n, 2 * n + 2), 4) for n, rng in enumerate(halves)]
    values = np.random.default_rng(2).random((50, 4, 3))
    for value in values:
        whole = epsilon_greedy(value, 0.2, alone)
        parts = [epsilon_greedy(value[share.part], 0.2, share) for share in shares]
        assert np.array_equal(whole, np.concatenate(parts))


def test_a_full_disk_before_they_meet_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any) -> None:
        raise dist.DistStoreError("No space left on device")

    (tmp_path / "plan").write_bytes(pickle.dumps((None, "", sys.argv[0])))
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", PLACE: str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, "FileStore", fails)
    with pytest.raises(SystemExit) as stop:
        join(lambda size: None, "")  # type: ignore[arg-type, return-value]
    assert stop.value.code == FAILED
    assert capsys.readouterr().err == f"{tmp_path / 'store'}: No space left on device\n"


def test_masks_in_one_process_count_in_all(tmp_path: Path) -> None:
    """Actions are drawn in another way once one env masks any. With a negative control: not so without."""
    value = np.random.default_rng(2).random((50, 4, 3))
    value[::2, 3, 1] = MASKED_VALUE  # in every second step one action of the second process
    alone = np.random.default_rng(1)
    whole = np.stack([epsilon_greedy(one, 0.5, alone) for one in value])

    def child(rank: int) -> None:
        group = in_group(rank, tmp_path)
        for name, told in (("told", group), ("untold", None)):
            share: Any = SharedDraws(np.random.default_rng(1), group.part(4), 4, told)
            np.save(
                tmp_path / f"{name}-{rank}", [epsilon_greedy(one[share.part], 0.5, share) for one in value]
            )

    assert together(child, tmp_path) == [0, 0]
    found = {
        name: np.concatenate([np.load(tmp_path / f"{name}-{rank}.npy") for rank in range(2)], 1)
        for name in ("told", "untold")
    }
    assert np.array_equal(found["told"], whole)
    assert not np.array_equal(found["untold"], whole)


def gradient(rank: int, number: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng([rank, number]).standard_normal(1000).astype(np.float32)


@pytest.mark.parametrize("way", ["shared memory", "another processor", "no room", "another machine"])
def test_sums_have_the_same_bits_whichever_way_they_go(way: str, tmp_path: Path) -> None:
    """Of ten gradients one after the other, of which each process is late for some."""

    def child(rank: int) -> None:
        if way == "no room":
            shared_sums._reserve = lambda size: None
        shared_sums._STORES_IN_ORDER = way != "another processor"
        if way == "another machine" and rank == 1:
            shared_sums.is_alive = lambda pid: False
        group = in_group(rank, tmp_path)
        means = []
        for number in range(10):
            time.sleep(0.02 * ((number + rank) % 3))
            ((mean,), report) = group.average(
                [torch.from_numpy(gradient(rank, number))], {"loss": torch.tensor(float(rank))}
            )
            means.append(mean.clone().numpy())
            assert report["loss"] == 0.5
        assert (group._sums[1001] is None) == (way in ("no room", "another machine"))
        np.save(tmp_path / str(rank), means)

    before = set(Path("/dev/shm").glob("encore-sums-*"))
    assert together(child, tmp_path) == [0, 0]
    expected = [(gradient(0, number) + gradient(1, number)) / 2 for number in range(10)]
    for rank in range(2):
        assert np.array_equal(np.load(tmp_path / f"{rank}.npy"), expected)
    assert set(Path("/dev/shm").glob("encore-sums-*")) <= before


def test_processes_that_do_not_meet_add_up_something_else(tmp_path: Path) -> None:
    """The negative control."""

    def child(rank: int) -> None:
        group = in_group(rank, tmp_path)
        group.average([torch.zeros(1000)], {})
        group._sums[1000].meet = lambda: None
        time.sleep(0.5 * rank)
        ((mean,), _) = group.average([torch.from_numpy(gradient(rank, 0))], {})
        np.save(tmp_path / str(rank), mean.numpy())

    assert together(child, tmp_path) == [0, 0]
    assert not np.array_equal(np.load(tmp_path / "0.npy"), np.load(tmp_path / "1.npy"))


def test_who_waits_for_a_process_that_has_ended_or_does_not_come_is_told() -> None:
    def here(calls: list[int], pids: list[int], patience_s: float) -> Meeting:
        return Meeting(0, np.array(calls), [os.getpid(), *pids], patience_s)

    here([0, 1], [os.getppid()], 60.0)()  # the other one has come
    with pytest.raises(RuntimeError, match="waited 0.05 s"):
        here([0, 0], [os.getppid()], 0.05)()
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(RuntimeError, match="has ended"):
        here([0, 0], [ended.pid], 60.0)()


def test_one_process_has_no_group() -> None:
    code = "import sys, rl.train, rl.training.build; print('rl.training.processes' in sys.modules)"
    said = subprocess.run(
        [os.sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    assert said.stdout == "False\n"
