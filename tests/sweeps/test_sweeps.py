"""`python train.py -m`: jobs are found again by their values, validated before any starts, and resume bit for
bit.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from short_runs import TINY, command, contents, differences, environment, go, in_child, record, typed

from rl.config import ConfigError
from rl.config.overrides import Overrides
from rl.runs.lock import is_locked
from rl.runs.outcome import Refused, Stop
from rl.sweeps import plan
from rl.sweeps.launchers import Processes
from rl.sweeps.plan import _match, find_sweep
from rl.sweeps.record import Record, Sweep
from rl.sweeps.sweep import _end, exit_code, run_sweep
from rl.training.build import check_parts_of
from rl.training.run import Run

SWEEP = Path("sweep")
plan_sweep = functools.partial(plan.plan_sweep, check=check_parts_of)
LINE = [*TINY, "frames=256", f"hydra.sweep.dir={SWEEP}"]


class Forks:
    """A launcher for tests: a job is a fork of this process that is waited for."""

    shown = False

    def __init__(self) -> None:
        self.started: list[Sequence[str]] = []

    def slots(self, threads: int) -> int:
        return 1

    def start(self, words: Sequence[str], folder: Path, threads: int) -> Done:
        self.started.append(words)
        output = Path("output")
        words = words[2:] if words[0] == "--config-dir" else words
        line = Overrides(words)
        run_dir = Path(str(line.get("hydra.run.dir")))
        code = in_child(lambda: go(run_dir, *line.drop("hydra.run.dir").texts), output)
        return Done(code, output.read_text())


class Done:
    def __init__(self, code: int, errors: str) -> None:
        self.code, self.errors = code, errors

    def poll(self) -> int:
        return self.code

    def send_signal(self, number: int) -> None:
        raise AssertionError


def run(*words: str) -> tuple[int, Forks, Sweep]:
    """What `python train.py -m ...` does, with jobs in forks of this process."""
    planned = plan_sweep(words)
    forks = Forks()
    planned.launcher = forks
    return run_sweep(planned, " ".join(words)), forks, planned


def break_down(run: Run) -> None:
    """A callback: fails while there is a file of that name, for one seed."""
    if run.config.seed == 2 and run.clock.frames >= 192 and Path("broken").exists():
        raise RuntimeError("seed 2 does not like this")


@pytest.mark.usefixtures("few_scores")
def test_a_failed_job_logs_why_and_the_others_continue(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("broken").touch()
    code, _, _ = run(*LINE, "seed=1,2,3", "callbacks=[{_target_: test_sweeps.break_down}]")
    assert code == 1
    lines = capsys.readouterr().out.splitlines()
    (failed,) = [line for line in lines if line.startswith("seed=2 ")]
    assert "failed    128 of 256" in failed
    assert failed.endswith("exit code 1: RuntimeError: seed 2 does not like this")
    assert [line.split()[:2] for line in lines if line.startswith(("seed=1 ", "seed=3 "))] == [
        ["seed=1", "finished"],
        ["seed=3", "finished"],
    ]
    assert "Traceback" in (SWEEP / "seed=2" / "train.log").read_text()
    Path("broken").unlink()
    before = contents(SWEEP / "seed=1")
    code, forks, _ = run("resume=sweep")
    assert code == 0
    assert len(forks.started) == 1
    assert contents(SWEEP / "seed=1") == before
    out = capsys.readouterr().out
    assert "skipped" in out
    for seed in (1, 2, 3):
        assert (
            go(
                Path(f"alone-{seed}"),
                *TINY,
                "frames=256",
                f"seed={seed}",
                "callbacks=[{_target_: test_sweeps.break_down}]",
            )
            == 0
        )
        assert differences(record(Path(f"alone-{seed}")), record(SWEEP / f"seed={seed}")) == []
    assert differences(record(Path("alone-1")), record(SWEEP / "seed=2")) != []


def test_a_job_ended_by_a_signal_failed_unless_stopped() -> None:
    planned = plan_sweep([*LINE, "seed=1,2,3"])
    for job, code, stopped in zip(
        planned.jobs, (-signal.SIGSEGV, -signal.SIGTERM, 75), (False, True, False), strict=True
    ):
        _end(planned, job, code, "", stopped=stopped)
    assert [(job.state, job.note) for job in planned.jobs] == [
        ("failed", "killed by SIGSEGV"),
        ("stopped", ""),
        ("stopped", ""),
    ]
    stop = Stop()
    assert exit_code(stop, {job.state for job in planned.jobs}) == 1
    assert exit_code(stop, {"finished", "stopped"}) == 75
    for number, code in ((signal.SIGTERM, 75), (signal.SIGINT, 130)):
        stop.requested = [number]
        assert exit_code(stop, {"failed"}) == code


@pytest.mark.usefixtures("few_scores")
def test_the_list_may_grow_and_be_reordered_or_respelled() -> None:
    assert run(*LINE, "seed=1,2", "algo.lr=1e-3")[0] == 0
    histories = {name: (SWEEP / name / "history.jsonl").read_bytes() for name in ("seed=1", "seed=2")}
    code, forks, planned = run("resume=sweep", "algo.lr=0.0005,0.0010", "seed=2,1")
    assert code == 0
    assert [(job.name, job.note) for job in planned.jobs] == [
        ("seed=2,algo.lr=0.0005", ""),
        ("seed=1,algo.lr=0.0005", ""),
        ("seed=2", "skipped"),
        ("seed=1", "skipped"),
    ]
    assert len(forks.started) == 2
    assert histories == {name: (SWEEP / name / "history.jsonl").read_bytes() for name in histories}

    code, forks, planned = run("resume=sweep", "frames=320")  # no list: all jobs there ever were
    assert code == 0
    assert len(planned.jobs) == len(forks.started) == 4
    for job in planned.jobs:
        events = [json.loads(line) for line in (SWEEP / job.name / "history.jsonl").read_text().splitlines()]
        assert [change["key"] for change in events[-1]["changes"]] == ["frames"]
        assert events[-1]["frames"] == 256

    narrowed = plan_sweep(["resume=sweep", "seed=2"])
    assert len(narrowed.jobs) == 2
    assert all(job.state == "finished" for job in narrowed.jobs)


def test_a_resumed_sweep_includes_jobs_that_never_started() -> None:
    planned = plan_sweep([*LINE, "algo=a2c,reinforce", "seed=1,2"])
    planned.take_folder("the test's command")
    assert planned.lock is not None
    planned.lock.release()
    again = plan_sweep(["resume=sweep"])
    assert [(job.name, job.overrides.texts) for job in again.jobs] == [
        (job.name, job.overrides.texts) for job in planned.jobs
    ]
    assert [job.name for job in again.jobs] == [
        f"algo={algo},seed={seed}" for algo in ("a2c", "reinforce") for seed in (1, 2)
    ]


def test_one_refused_job_stops_all_and_nothing_changes() -> None:
    assert run(*LINE, "seed=1,2", "frames=64")[0] == 0
    assert go(SWEEP / "seed=2", "frames=128") == 0
    before = contents(Path())
    with pytest.raises(
        Refused, match=r"(?s)seed=2 is at frame 128.*no job of the sweep was started"
    ) as caught:
        plan_sweep(["resume=sweep", "frames=96"])
    assert "hydra.run.dir" not in str(caught.value)
    with pytest.raises(Refused, match="frozen"):
        plan_sweep(["resume=sweep", "seed=1,2,3", "algo.gamma=0.5"])
    assert contents(Path()) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["seed=1,1"], "seed=1: the list has it twice"),
        (["algo.lr=1e-3,0.001"], "algo.lr=0.001: the list has it twice"),
        (["hydra.run.dir=x"], "hydra.run.dir=x: type hydra.sweep.dir="),
        (["launcher=basic,processes"], "one value for all jobs"),
        (["launcher=process"], "did you mean processes?"),
        (["launcher=processes", "launcher.n_jobs=0"], "launcher.n_jobs=0: expected a whole number from 1"),
        (["seed=interval(1,2)"], "write the values"),
        (["launcher._target_=my.Launcher"], "launcher._target_=my.Launcher: No module named 'my'"),
        (["launcher._target_=test_sweeps.Done"], "launcher: Done.__init__() missing 2 required"),
        (["launcher._target_=pathlib.Path"], "not a Launcher; it lacks shown, slots, start"),
        (["resume=latest", "hydra.sweep.dir=x"], "type it without hydra.sweep.dir="),
        (["seed=1,2", "base=run"], "base=run goes with resume="),
    ],
)
def test_an_impossible_sweep_is_refused(words: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_sweep(words)
    assert says in str(caught.value)
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.usefixtures("few_scores")
def test_a_launcher_of_ones_own_runs_the_jobs() -> None:
    planned = plan_sweep([*LINE, "seed=1,2", "launcher._target_=test_sweeps.Forks"])
    assert run_sweep(planned, "the test's command") == 0
    assert len(planned.launcher.started) == 2  # type: ignore[attr-defined]
    assert {job.state for job in planned.jobs} == {"finished"}


def test_a_missing_sweep_is_refused_with_the_searched_folder() -> None:
    with pytest.raises(Refused, match=r"no sweep is under .*outputs; name its folder"):
        plan_sweep(["resume=latest"])
    with pytest.raises(Refused, match="no sweep is there"):
        plan_sweep(["resume=outputs"])
    SWEEP.mkdir()
    (SWEEP / "thesis.txt").touch()
    with pytest.raises(Refused, match="holds other things than a sweep"):
        plan_sweep([*LINE, "seed=1,2"])


def test_latest_is_the_sweep_that_was_active_last() -> None:
    for name, saved_at in (("a", 3.0), ("b", 2.0)):
        folder = Path("outputs/sweeps") / name
        folder.mkdir(parents=True)
        (folder / "sweep.json").write_text(json.dumps(vars(Record([], [], {"0": []}, saved_at))))
    assert find_sweep(Record, "latest", Overrides()) == Path("outputs/sweeps/a")
    assert go(Path("outputs/sweeps/b/0"), *TINY, "frames=64") == 0
    assert find_sweep(Record, "latest", Overrides()) == Path("outputs/sweeps/b")


def test_a_long_or_awkward_value_still_gives_a_folder() -> None:
    nets = [f"[{','.join(['8'] * n)}]" for n in (120, 121)]
    planned = _match(
        None,
        {},
        [Overrides([f"algo.network.hidden={net}", "outputs=x/y"]) for net in nets],
        ["algo.network.hidden", "outputs"],
        None,
    )
    names = list(planned)
    assert len(set(names)) == 2
    assert all("/" not in name and len(name.encode()) < 255 for name in names)


def test_jobs_fill_the_cores_that_their_threads_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert [Processes(None).slots(threads) for threads in (1, 3, 16)] == [8, 2, 1]
    assert Processes(3).slots(1) == 3


def test_a_killed_parallel_sweep_leaves_nothing_and_resumes_bit_for_bit() -> None:
    line = [
        *TINY,
        "frames=8192",
        "eval.every=4000",
        "ckpt.every=1024",
        "callbacks=[{_target_: short_runs.hold}]",
    ]
    longer = [*line, "frames=10240"]
    Path("hold").touch()
    words = [*line, "seed=1,2,3", "launcher=processes", "launcher.n_jobs=2"]
    parent = subprocess.Popen(
        command("-m", *words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment(), text=True
    )
    outputs = Path("outputs/sweeps")
    while len(list(outputs.glob("*/seed=*/ckpt/ckpt-3072.json"))) < 2:
        assert parent.poll() is None, parent.communicate()[0]
        time.sleep(0.01)
    (folder,) = outputs.iterdir()
    busy = [folder / "seed=1", folder / "seed=2"]
    assert all(map(is_locked, busy))
    second = typed("-m", "resume=latest")
    assert (second.returncode, second.stdout) == (2, "")
    assert f"{folder} is being worked on by process {parent.pid} on " in second.stderr
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 5
    while any(map(is_locked, busy)):
        assert time.monotonic() < deadline, "a job outlives its sweep"
        time.sleep(0.01)
    Path("hold").unlink()
    done = typed("-m", "resume=latest", "frames=10240")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["seed=1", "seed=2", "seed=3"]
    for seed in (1, 2, 3):
        alone = Path(f"alone-{seed}")
        assert go(alone, *longer, f"seed={seed}") == 0
        assert differences(record(alone), record(folder / f"seed={seed}")) == []
    assert differences(record(Path("alone-1")), record(folder / "seed=2")) != []
