"""Signals, locks, and which run a command line means."""

from __future__ import annotations

import fcntl
import functools
import json
import logging
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from short_runs import TINY, begun, contents, differences, frames_of, go, in_child, iterate, record, rows

import rl.runs.checkpoints
from rl.config import ConfigError
from rl.config.overrides import Overrides
from rl.runs import files, history
from rl.runs.find import find_run, latest_run
from rl.runs.lock import LockedError, RunLock, is_locked
from rl.runs.manifest import Manifest, describe
from rl.runs.outcome import Finished, Refused
from rl.runs.plan import make_plan
from rl.serialize import load, serialize
from rl.training.run import Run

pytestmark = pytest.mark.usefixtures("few_scores", "composed_once")
RUN = Path("outputs/reinforce_cartpole/a")

# ---------------------------------------------------------------------------------------------------- signals


class Signalling:
    """A callback that sends this process signals once the clock shows `frames`."""

    def __init__(self, frames: int, numbers: list[int]) -> None:
        self.frames, self.numbers = frames, numbers

    def __call__(self, run: Run) -> None:
        if run.clock.frames == self.frames:
            for number in self.numbers:
                os.kill(os.getpid(), number)


def signalled(*numbers: int) -> str:
    listed = ",".join(str(int(number)) for number in numbers)
    return f"callbacks=[{{_target_: test_resume.Signalling, frames: 192, numbers: [{listed}]}}]"


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGUSR1, 75), (signal.SIGUSR2, 75)],
    ids=lambda x: str(int(x)),
)
def test_a_signal_finishes_the_iteration_saves_and_calls_earlier_handlers(
    number: signal.Signals, code: int
) -> None:
    saved: list[list[int]] = []
    before = signal.signal(number, lambda *_: saved.append(frames_of(RUN)))
    try:
        line = [*TINY, signalled(number)]
        assert go(RUN, *line) == code
        assert saved == [[128, 192]]  # ours had saved when the other was called
        assert not (RUN / "result.json").exists()
        assert go(RUN, *line) == 0
        assert go(Path("straight"), *TINY) == 0
        assert differences(record(Path("straight")), record(RUN)) == []
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(
    ("numbers", "code", "frames"),
    [
        ([signal.SIGINT, signal.SIGINT], 130, [0, 128]),
        ([signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM], 128 + signal.SIGTERM, [0, 128]),
        ([signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM], 75, [128, 192]),  # the first TERM still saves
    ],
    ids=["INT INT", "USR1 TERM TERM", "USR1 USR2 TERM"],
)
def test_a_second_int_or_term_leaves_at_once(numbers: list[int], code: int, frames: list[int]) -> None:
    assert in_child(functools.partial(go, RUN, *TINY, signalled(*numbers))) == code
    assert frames_of(RUN) == frames


def test_a_run_stopped_while_scoring_is_scored_next_session() -> None:
    last = f"callbacks=[{{_target_: test_resume.Signalling, frames: 640, numbers: [{int(signal.SIGTERM)}]}}]"
    assert in_child(functools.partial(go, RUN, *TINY, last)) == 75
    assert frames_of(RUN) == [512, 640]
    assert not (RUN / "result.json").exists()
    assert go(RUN, *TINY, last) == 0
    assert go(Path("straight"), *TINY) == 0
    assert differences(record(Path("straight")), record(RUN)) == []


# ------------------------------------------------------------------------------------------- the run's folder


class Witness:
    """A callback that notes whether result.json is there while a run trains."""

    seen: list[bool] = []  # noqa: RUF012  read by the test

    def __call__(self, run: Run) -> None:
        self.seen.append((run.folder / "result.json").exists())


def test_the_result_is_removed_on_resume_and_written_again() -> None:
    line = [*TINY, "callbacks=[{_target_: test_resume.Witness}]"]
    Witness.seen.clear()
    assert go(RUN, *line) == 0
    assert json.loads((RUN / "result.json").read_text())["frames"] == 640
    with pytest.raises(Finished, match="640 frames of 640"):
        make_plan([f"resume={RUN}"])
    assert go(RUN, *line, "frames=1280") == 0
    assert json.loads((RUN / "result.json").read_text())["frames"] == 1280
    assert Witness.seen == [False] * 20


def test_an_extended_run_equals_a_straight_one() -> None:
    assert go(RUN, *TINY, "frames=600") == 0  # ends at 640: iterations are never shortened
    assert go(RUN, *TINY, "frames=1.2k") == 0
    assert go(Path("straight"), *TINY, "frames=1.2k") == 0
    assert differences(record(Path("straight")), record(RUN)) == []
    assert [int(row["frames"]) for row in rows(RUN / "metrics.csv")] == list(range(64, 1217, 64))


def test_a_run_ends_early_once_it_reaches_its_score() -> None:
    line = ["env=gym", "env.id=tiny_envs:Counting-v0", "stop_at=15"]  # every episode is worth 15
    assert go(RUN, *TINY, "frames=6400", *line) == 0
    result = json.loads((RUN / "result.json").read_text())
    assert (result["frames"], result["stopped_at"]) == (512, 15.0)  # the first 100 episodes
    with pytest.raises(Finished, match="it reached stop_at=15"):
        make_plan([f"resume={RUN}"])
    assert go(RUN, *TINY, *line, "stop_at=null", "frames=640") == 0


def test_a_checkpoint_is_due_after_minutes_too() -> None:
    assert go(RUN, *TINY, "ckpt.every=null", "ckpt.minutes=1e-9", "ckpt.keep=4") == 0
    assert frames_of(RUN) == [448, 512, 576, 640]


@pytest.mark.parametrize("keep", [1, 3])
def test_the_last_checkpoints_and_the_best_are_kept(keep: int) -> None:
    assert go(RUN, *TINY, f"ckpt.keep={keep}") == 0
    assert frames_of(RUN) == [0, 128, 256, 384, 512, 640][-keep:]
    named = {
        name for path in (RUN / "ckpt").glob("*.json") for name in (path.name, *Manifest.read(path).files)
    }
    assert set(os.listdir(RUN / "ckpt")) == named | {"ckpt-best"}
    newest = Manifest.read(RUN / "ckpt" / "ckpt-640.json")
    assert newest.best is not None
    assert os.readlink(RUN / "ckpt" / "ckpt-best") == newest.best.file
    assert newest.best.score == max(float(row["total_reward_ma"]) for row in rows(RUN / "eval.csv"))


def test_the_time_of_saving_never_decreases(monkeypatch: pytest.MonkeyPatch) -> None:
    assert go(RUN, *TINY, "frames=256") == 0
    before = Manifest.read(RUN / "ckpt" / "ckpt-256.json").saved_at
    monkeypatch.setattr(rl.runs.checkpoints.time, "time", lambda: 1000.0)  # the clock was moved back
    assert go(RUN, *TINY) == 0
    assert Manifest.read(RUN / "ckpt" / "ckpt-640.json").saved_at == before


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "algo.gamma=0.5",
        "frames=64",
        "algo.lr=1",
        "env=pendulum",
        "algo=random",
        "env.num_envs=3",
        "nonsense=1",
    ],
)
def test_a_refused_resume_leaves_every_byte(override: str) -> None:
    assert go(RUN, *TINY, "frames=256") == 0
    before, changed_at = contents(Path("outputs")), os.stat(RUN / "ckpt").st_mtime_ns
    with pytest.raises((Refused, ConfigError)):
        make_plan([f"resume={RUN}", override])
    assert contents(Path("outputs")) == before
    assert os.stat(RUN / "ckpt").st_mtime_ns == changed_at


# locks


def holds(folder: Path, ready: Path) -> int:
    lock = RunLock(folder)
    lock.announce()
    ready.touch()
    while not (folder / "enough").exists():
        time.sleep(0.01)
    lock.release()
    return 0


def test_a_locked_run_is_refused_and_not_replaced_by_another() -> None:
    assert go(Path("outputs/reinforce_cartpole/older"), *TINY, "frames=256") == 0
    assert go(RUN, *TINY, "frames=256") == 0
    child = os.fork()
    if child == 0:
        os._exit(in_child(functools.partial(holds, RUN, Path("ready"))))
    while not Path("ready").exists():
        time.sleep(0.01)
    before = contents(RUN)
    try:
        for line in ([f"resume={RUN}"], ["resume=latest"], [*TINY, f"hydra.run.dir={RUN}"]):
            with pytest.raises(LockedError, match=f"{RUN} is being worked on by process"):
                make_plan(line)
        assert is_locked(RUN)
        assert contents(RUN) == before
    finally:
        (RUN / "enough").touch()
        os.waitpid(child, 0)
    assert not is_locked(RUN)


def test_a_folder_trained_in_meanwhile_is_not_started_over() -> None:
    ours = make_plan([*TINY, f"hydra.run.dir={RUN}"])
    assert go(RUN, *TINY) == 0
    before = contents(RUN)
    with pytest.raises(Refused, match="another process has just trained here"):
        ours.take_folder()
    assert contents(RUN) == before


def test_runs_started_in_one_second_get_folders_of_their_own() -> None:
    plans = [make_plan(TINY) for _ in range(3)]
    for each in plans:
        each.folder = plans[0].folder
        each.take_folder()
    name = plans[0].folder.name
    assert [each.folder.name for each in plans] == [name, f"{name}-2", f"{name}-3"]
    assert plans[0].folder.parent == Path("outputs/reinforce_cartpole")


# latest


@pytest.fixture
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Copies of one run under other names, said to be saved at given times."""
    template = tmp_path_factory.mktemp("template") / "run"
    assert go(template, *TINY, "frames=64", "eval.every=null") == 0

    def make(name: str, saved_at: float | None, **choices: Any) -> Path:
        folder = Path("outputs") / name
        shutil.copytree(template, folder, symlinks=True)
        for path in (folder / "ckpt").glob("*.json"):
            manifest = Manifest.read(path)
            if saved_at is None:
                path.unlink()
            else:
                path.write_bytes(Manifest(**{**vars(manifest), "saved_at": saved_at}).to_bytes())
        (event,) = history.read(folder)
        event["choices"] |= choices
        (folder / "history.jsonl").write_text(files.to_line(event))
        return folder

    return make


def test_latest_is_the_run_that_saved_last(
    make_run: Any,
) -> None:
    make_run("reinforce_cartpole/2026-01-03", 100.0)
    last = make_run("reinforce_cartpole/2026-01-01", 300.0)
    make_run("reinforce_cartpole/2026-01-02", 200.0)
    for path in Path("outputs/reinforce_cartpole/2026-01-03").rglob("*"):
        os.utime(path, (2e9, 2e9), follow_symlinks=False)
    assert latest_run(Path("outputs")) == last
    later = make_run("reinforce_cartpole/2026-01-01-2", 300.0)  # of equal times the later name
    assert latest_run(Path("outputs")) == later
    job = make_run("sweeps/2026-01-01/seed=3", 400.0)
    assert latest_run(Path("outputs")) == job


def test_latest_does_not_confuse_similar_names(make_run: Any) -> None:
    cartpole = make_run("reinforce_cartpole/a", 100.0)
    swing = make_run("reinforce_cartpole_swingup/a", 200.0, env="cartpole_swingup")
    seeded = make_run("reinforce_cartpole/b", 50.0, seed=13)
    assert latest_run(Path("outputs"), ["env=cartpole"]) == cartpole
    assert latest_run(Path("outputs"), ["env=cartpole_swingup"]) == swing
    assert latest_run(Path("outputs"), ["seed=13"]) == seeded
    with pytest.raises(Refused, match="no run with seed=1 has a checkpoint under"):
        latest_run(Path("outputs"), ["seed=1"])


def test_latest_warns_of_a_newer_run_without_checkpoint(make_run: Any) -> None:
    committed = make_run("reinforce_cartpole/2026-01-01", 100.0)
    newer = make_run("reinforce_cartpole/2026-01-02", None)
    for name in ("metrics.csv", "eval.csv", "result.json", "ckpt/ckpt-64.pt"):
        (newer / name).unlink()
    found = make_plan(["resume=latest", "frames=128"])
    assert found.folder == committed
    assert any(str(newer) in warning for warning in found.warnings)
    assert found.lock is not None
    found.lock.release()


def test_latest_names_a_newer_run_without_a_whole_checkpoint(make_run: Any) -> None:
    make_run("reinforce_cartpole/2026-01-01", 100.0)
    damaged = make_run("reinforce_cartpole/2026-01-02", None)
    found = make_plan(["resume=latest", "frames=128"])
    assert any(str(damaged) in warning for warning in found.warnings)
    assert found.lock is not None
    found.lock.release()


def test_another_machine_or_version_is_said(make_run: Any, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run("reinforce_cartpole/a", 100.0)
    (event,) = history.read(run)
    event["world"]["torch"] = "1.0"
    (run / "history.jsonl").write_text(files.to_line(event))
    with caplog.at_level(logging.WARNING):
        assert go(run, *TINY, "frames=128") == 0
    assert "torch was 1.0 and is" in caplog.text


def test_what_a_kill_left_of_the_history_is_dropped() -> None:
    assert go(RUN, *TINY, "frames=256") == 0
    with (RUN / "history.jsonl").open("a") as file:
        file.write('{"event": "resu')
    assert go(RUN, *TINY) == 0
    assert [event["event"] for event in history.read(RUN)] == ["start", "resume"]


def test_latest_names_newer_runs_by_their_start(make_run: Any) -> None:
    def started(folder: Path, day: str) -> Path:
        (event,) = history.read(folder)
        (folder / "history.jsonl").write_text(files.to_line(event | {"time": f"{day}T12:00:00+0000"}))
        return folder

    last = started(make_run("reinforce_cartpole/2026-01-02", 300.0), "2026-01-02")
    started(make_run("sweeps/2020-01-01/seed=1", None), "2020-01-01")  # its name sorts after the other
    started(make_run("reinforce_cartpole/2026-01-01", None), "2026-01-01")
    newer = started(make_run("a2c_cartpole/2019-01-01", None), "2026-01-03")
    killed = make_run("a2c_cartpole/1999-01-01", None)  # before its first line
    (killed / "history.jsonl").unlink()
    found, warnings = find_run("latest", Overrides())
    assert found == last
    assert sorted(text.partition(" is newer")[0] for text in warnings) == [str(killed), str(newer)]


# the lock


def test_a_lock_that_was_removed_meanwhile_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process gives the run up between our opening of its lock and our taking of it."""
    first, lockf = RunLock(tmp_path), fcntl.lockf

    def given_up_before(*arguments: Any) -> None:
        monkeypatch.setattr(fcntl, "lockf", lockf)
        first.release()
        lockf(*arguments)

    monkeypatch.setattr(fcntl, "lockf", given_up_before)
    lock = RunLock(tmp_path)
    assert (tmp_path / ".lock").exists()
    assert in_child(lambda: is_locked(tmp_path)) == 1
    lock.release()
    assert not (tmp_path / ".lock").exists()


def test_a_lock_is_held_until_its_file_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, unlink, held = RunLock(tmp_path), os.unlink, []

    def watched(path: Any, **options: Any) -> None:
        held.append(in_child(lambda: is_locked(tmp_path)))
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", watched)
    lock.release()
    assert held == [1]
    assert in_child(lambda: is_locked(tmp_path)) == 0


# what is read and written


def test_a_session_that_cannot_load_leaves_every_file(tmp_path: Path) -> None:
    assert go(tmp_path / "run", *TINY, "frames=128") == 0
    ckpt = tmp_path / "run" / "ckpt"
    manifest = Manifest.read(ckpt / "ckpt-128.json")
    data = serialize(load((ckpt / "ckpt-128.pt").read_bytes(), "cpu") | {"agent.other": {}})
    (ckpt / "ckpt-128.pt").write_bytes(data)  # as another version has saved it
    described = manifest.files | {"ckpt-128.pt": describe(data)}
    (ckpt / "ckpt-128.json").write_bytes(Manifest(**{**vars(manifest), "files": described}).to_bytes())
    with (tmp_path / "run" / "metrics.csv").open("a") as file:
        file.write("192,1,2\n")
    (ckpt / "ckpt-192.pt").write_bytes(b"newer")
    before = contents(tmp_path / "run")
    assert in_child(lambda: go(tmp_path / "run", "frames=256")) == 1
    assert contents(tmp_path / "run") | {".lock": b""} == before | {".lock": b""}


def test_a_checkpoint_reads_only_new_rows(tmp_path: Path) -> None:
    """The hash of a table goes on from where it was: what was written, whatever the file says since."""
    run = begun(tmp_path / "run", *TINY)
    table, whole = tmp_path / "run" / "metrics.csv", b""
    for _ in range(3):
        iterate(run)
        size = len(whole)
        run.metrics.write(run.clock)
        whole += table.read_bytes()[size:]
        table.write_bytes(b"x" * size + whole[size:])  # what was counted on before is not read again
        run.save()
        assert run.checkpoints.kept[0].hashes["metrics.csv"] == describe(whole)["sha256"]
        assert run.checkpoints.kept[0].offsets["metrics.csv"] == len(whole)


def test_another_cpu_or_version_is_told() -> None:
    now = history.versions()
    assert now["cpu"]
    assert history.other_world([{"world": now}]) == []
    assert history.other_world([{"world": {n: v for n, v in now.items() if n != "cpu"}}]) == []  # made before
    (warning,) = history.other_world([{"world": now | {"cpu": "X86_V2", "torch": "1.0"}}])
    assert warning.startswith(
        f"cpu was X86_V2 and is {now['cpu']}, torch was 1.0 and is {now['torch']}: results may"
    )
