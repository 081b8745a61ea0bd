"""Trackers show the rows of the CSV files, each once and in order, however often the run is killed; and
training does not notice.

Each test runs where its library is installed, and reads back what was logged with the library itself."""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import json
import os
import re
import signal
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from short_runs import TINY, differences, go, in_child, record, rows, typed

from benchmarks.sweep_kills import children
from rl.config import ConfigError, RunConfig
from rl.config.compose import compose
from rl.config.overrides import Overrides
from rl.trackers.follow import RowReader, Superseded, follow, make, session_id
from rl.trackers.mlflow import MLflow
from rl.trackers.tensorboard import TensorBoard
from rl.trackers.tracker import ID, TABLES, Row, RunInfo
from rl.trackers.wandb import Wandb

pytestmark = pytest.mark.usefixtures("few_scores")
NAMES = ("tensorboard", "wandb", "mlflow")
Points = list[tuple[str, int, float]]  # tag, frames, value, in the order in which they were logged


@pytest.fixture(autouse=True)
def nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


# ----------------------------------------------------------------------------------------------- reading back


def in_tensorboard(run: Path) -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    found.Reload()
    return [(tag, event.step, event.value) for tag in found.Tags()["scalars"] for event in found.Scalars(tag)]


def in_mlflow(run: Path) -> Points:
    return mlflow_points(f"sqlite:///{run.parent / 'outputs/mlflow.db'}", (run / ID).read_text())


def mlflow_points(uri: str, run_id: str) -> Points:
    """Of all MLflow runs with a run's tag that are not deleted."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    numbers = [experiment.experiment_id for experiment in client.search_experiments()]
    return [
        (tag, point.step, point.value)
        for found in client.search_runs(numbers, f"tags.`{MLflow.TAG}` = '{run_id}'")
        for tag in found.data.metrics
        for point in client.get_metric_history(found.info.run_id, tag)
    ]


def in_wandb(run: Path) -> Points:
    """Of all offline folders of the run, as syncing them would send it."""
    points: Points = []
    for path in sorted((run / "wandb").glob("offline-run-*/*.wandb")):
        for message in wandb_messages(path):
            if message.WhichOneof("record_type") != "history":
                continue
            cells = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in message.history.item
            }
            points += [
                (name, int(cells["_step"]), float(value))
                for name, value in cells.items()
                if not name.startswith("_")
            ]
    return points


def wandb_messages(path: Path) -> Iterator[Any]:
    """What is in a .wandb file: W&B's messages in a log of LevelDB's format, after seven bytes of its own."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        # a record does not reach into the next block; one that is longer comes in parts
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        parts, at = parts + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # whole, or the last part
            message = Record()
            message.ParseFromString(parts)
            yield message
            parts = b""


READERS = {"tensorboard": in_tensorboard, "wandb": in_wandb, "mlflow": in_mlflow}


def in_files(run: Path) -> Points:
    cells = [(table, row) for table, name in TABLES.items() for row in rows(run / name)]
    points = [
        (f"{table}/{name}", int(row["frames"]), value)
        for table, row in cells
        for name, value in row.items()
        if value
    ]
    return [(tag, frames, float(value)) for tag, frames, value in points if not tag.endswith("/frames")]


def assert_shown(name: str, run: Path) -> None:
    """The tracker has the points of the files, each once, and those of a tag in the order of their frames."""
    rounded = struct.Struct("f") if name == "tensorboard" else struct.Struct("d")
    shown, expected = READERS[name](run), in_files(run)
    assert Counter((tag, frames) for tag, frames, _ in shown) == Counter(
        (tag, frames) for tag, frames, _ in expected
    )
    assert Counter(shown) == Counter(
        (tag, frames, rounded.unpack(rounded.pack(value))[0]) for tag, frames, value in expected
    )
    for tag in {tag for tag, _, _ in shown}:
        steps = [frames for other, frames, _ in shown if other == tag]
        assert steps == sorted(steps), tag


def repeated(points: Points) -> set[str]:
    """The tags that have a step twice, or out of order."""
    found = set()
    for tag in {tag for tag, _, _ in points}:
        steps = [frames for other, frames, _ in points if other == tag]
        found |= {tag} if steps != sorted(set(steps)) else set()
    return found


# ----------------------------------------------------------------------------------- killed, and gone on with

# 10 iterations of 64 frames; checkpoints at 256 and 512, rows at every 64, evaluations at every 192
LINE = [*TINY, "ckpt.every=256", "callbacks=[{_target_: test_trackers.at_448}]"]


def at_448(run: Any) -> None:
    """A callback: dies, as a file in the working directory says; its trackers too if that says `all`."""
    if run.clock.frames != 448 or not Path("die").exists():
        return
    (name, who), _ = Path("die").read_text().split(), Path("die").unlink()
    wait_for(lambda: begun_to_show(name, run.folder))
    if who == "all":
        for pid in children(os.getpid()):
            os.kill(pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def begun_to_show(name: str, run: Path) -> bool:
    files = {"tensorboard": "tensorboard/*", "wandb": "wandb/*/*.wandb", "mlflow": "../outputs/mlflow.db"}
    return bool(list(run.glob(files[name])))


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_trackers(run: Path) -> None:
    with (run / "history.jsonl").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def dies(run: Path, name: str, who: str) -> None:
    Path("die").write_text(f"{name} {who}")
    assert in_child(functools.partial(go, run, *LINE, f"logger={name}")) == -signal.SIGKILL


@pytest.mark.parametrize("who", ["training", "all"])
@pytest.mark.parametrize("name", NAMES)
def test_trackers_show_a_killed_run_like_an_uninterrupted_one(
    name: str, who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name)
    run = tmp_path / "run"
    dies(run, name, who)
    if who == "training":  # then the trackers end as they would have anyway
        wait_for_trackers(run)
        assert max(frames for _, frames, _ in READERS[name](run)) == 448
    assert in_child(functools.partial(go, run, *LINE, f"logger={name}"), tmp_path / "output") == 0
    assert "training goes on" not in (tmp_path / "output").read_text()
    wait_for_trackers(run)
    assert_shown(name, run)
    assert go(tmp_path / "straight", *LINE) == 0
    assert [leaf for leaf in differences(record(tmp_path / "straight"), record(run)) if leaf != "files"] == []
    kind = type(make({name: compose([f"logger={name}"], RunConfig).config.logger[name]})[name])
    monkeypatch.setattr(kind, "_delete_old", lambda self, old: None)
    time.sleep(1)  # W&B names a folder by the second
    assert in_child(functools.partial(show, run)) == 0
    assert repeated(READERS[name](run))  # the comparison sees what it is there for


def show(run: Path) -> int:
    """Show a run that is not being trained; how often the trackers complain."""
    said: list[str] = []
    follow(run, session_id(run), time.time(), lambda: True, said.append)
    return len(said)


# ----------------------------------------------------------------------------------------- switching, servers


def test_a_tracker_switched_on_later_shows_earlier_rows(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    assert go(run, *LINE, "logger=tensorboard", "frames=320") == 0
    assert go(run, *LINE, "logger=null", "frames=448") == 0
    assert_shown_until(320, run)
    assert go(run, *LINE, "logger=tensorboard") == 0
    wait_for_trackers(run)
    assert_shown("tensorboard", run)
    policies = [
        change["policy"]
        for line in (run / "history.jsonl").read_text().splitlines()
        for change in json.loads(line)["changes"]
    ]
    assert set(policies) == {"free", "horizon"}


def assert_shown_until(frames: int, run: Path) -> None:
    wait_for_trackers(run)
    assert max(at for _, at, _ in in_tensorboard(run)) == frames


def rows_of(*frames: int) -> list[Row]:
    return [Row("train", n, n / 100, {"train/episodes": float(n), "train/loss": 1 / n}) for n in frames]


def test_an_mlflow_run_that_no_longer_holds_is_replaced(tmp_path: Path) -> None:
    """Through MLflow's client alone; what people wrote about the old run stays."""
    pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"

    def session(at: int, *frames: int, lr: float = 1.0, started_at: float = 0.0) -> str:
        tracker = MLflow(uri, "x")
        config = {"outputs": str(tmp_path), "algo": {"lr": lr}}
        tracker.open(RunInfo(tmp_path, "id", started_at, {"seed": "0"}, config, resumed_at=at))
        tracker.add(rows_of(*frames))
        tracker.client.set_tag(tracker.run_id, "mlflow.note.content", "mine")
        tracker.close(finished=False)
        run = tracker.client.get_run(tracker.run_id)
        assert (run.data.params["algo.lr"], run.data.tags["mlflow.note.content"]) == (str(lr), "mine")
        steps = [step for tag, step, _ in mlflow_points(uri, "id") if tag == "train/loss"]
        assert steps == list(frames)
        return str(tracker.run_id)

    first = session(0, 64, 128, 192)
    assert session(192, 64, 128, 192, 256, started_at=1.0) == first
    assert session(192, 64, 128, 192, 256, 320, started_at=1.0) == first  # it failed, and starts over
    cut = session(128, 64, 128, 200, started_at=2.0)
    assert cut != first
    assert session(200, 64, 128, 200, started_at=3.0, lr=2.0) not in (first, cut)


def test_wandb_online_goes_on_after_its_last_step() -> None:
    pytest.importorskip("wandb")
    logged: list[int] = []
    tracker = Wandb("project", None, "offline")
    tracker.session = SimpleNamespace(log=lambda values, step: logged.append(step))
    tracker._first = 129
    tracker.add(rows_of(64, 128, 192))
    assert logged == [192]


# -------------------------------------------------------------------------------------------- what goes wrong


def test_a_failing_tracker_warns_once_and_training_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").touch()
    (run / "tensorboard").touch()  # where a folder is to be
    assert in_child(functools.partial(go, run, *LINE, "logger=tensorboard"), tmp_path / "output") == 0
    wait_for_trackers(run)
    assert (tmp_path / "output").read_text().count("tensorboard: ") == 1
    (run / "tensorboard").unlink()
    assert go(tmp_path / "straight", *LINE) == 0
    assert [leaf for leaf in differences(record(tmp_path / "straight"), record(run)) if leaf != "files"] == []
    assert show(run) == 0
    assert_shown("tensorboard", run)


def test_a_tracker_that_recovers_shows_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    run, said, add = tmp_path / "run", [], TensorBoard.add
    assert go(run, *LINE) == 0

    def fails_once(self: TensorBoard, rows: list[Row]) -> None:
        monkeypatch.setattr(TensorBoard, "add", add)
        add(self, rows[:3])
        raise OSError("no space")

    (run / "config.yaml").write_text(
        (run / "config.yaml")
        .read_text()
        .replace("logger: {}", "logger: {tensorboard: {_target_: rl.trackers.TensorBoard}}")
    )
    monkeypatch.setattr(TensorBoard, "add", fails_once)
    monkeypatch.setattr("rl.trackers.follow.RETRY_S", 0)
    ends = iter([False, True])
    follow(run, session_id(run), 0.0, lambda: next(ends), said.append)
    assert said == ["tensorboard: no space; training goes on, and its rows will be shown once that is over"]
    assert_shown("tensorboard", run)


def test_rows_are_complete_ordered_and_of_one_session(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text("{}\n")
    train, evaluation = tmp_path / "metrics.csv", tmp_path / "eval.csv"
    train.write_text("frames,wall_s,loss\n64,0.5,\n128,1.0,0.25\n192,1.")
    evaluation.write_text("frames,wall_s\n64,0.75\n")
    found = RowReader(tmp_path, 3)
    first = Row("train", 64, 0.5, {"train/wall_s": 0.5}), Row("eval", 64, 0.75, {"eval/wall_s": 0.75})
    assert found.new() == [*first, Row("train", 128, 1.0, {"train/wall_s": 1.0, "train/loss": 0.25})]
    with train.open("a") as file:
        file.write("5,3.0\n")
    assert found.new() == [Row("train", 192, 1.5, {"train/wall_s": 1.5, "train/loss": 3.0})]
    assert found.new() == []
    (tmp_path / "history.jsonl").write_text("{}\n{}\n")
    with pytest.raises(Superseded):
        found.new()


# ------------------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_package_is_named_with_what_installs_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=re.escape(f'pip install -c constraints.txt -e ".[{name}]"')):
        make(compose([f"logger={name}"], RunConfig).config.logger)


def test_an_unusable_tracker_is_refused_before_a_folder_exists() -> None:
    if importlib.util.find_spec("mlflow") is not None:
        pytest.skip("MLflow is installed")
    for words in ([], ["-m", "seed=1,2"]):
        done = typed(*words, *LINE, "logger=mlflow")
        assert (done.returncode, list(Path().iterdir())) == (2, [])
        assert "pip install" in done.stderr


def test_logger_takes_none_one_or_several() -> None:
    assert compose([], RunConfig).values["logger"] == compose(["logger=[]"], RunConfig).values["logger"] == {}
    assert compose(["logger=null"], RunConfig).values["logger"] == {}
    assert list(compose(["logger=wandb"], RunConfig).values["logger"]) == ["wandb"]
    both = compose(["logger=[tensorboard,mlflow]", "logger.mlflow.experiment=mine"], RunConfig)
    assert list(both.values["logger"]) == ["tensorboard", "mlflow"]
    assert both.config.logger["mlflow"].experiment == "mine"
    for wrong, says in (
        ("logger=[tensorboard,wand]", "did you mean wandb"),
        ("logger=tensorbord", "did you mean tensorboard"),
    ):
        with pytest.raises(ConfigError, match=says):
            compose([wrong], RunConfig)
    with pytest.raises(ConfigError, match="did you mean logger.wandb.mode"):
        compose(["logger=wandb", "logger.wandb.mood=offline"], RunConfig)
    with pytest.raises(ConfigError, match="expected one of null, online, offline"):
        compose(["logger=wandb", "logger.wandb.mode=of"], RunConfig)


def test_dropping_a_tracker_drops_its_options() -> None:
    line = ["logger=[wandb,mlflow]", "logger.wandb.mode=offline", "logger.mlflow.experiment=mine"]
    assert Overrides(line).merge(["logger=mlflow"]).texts == [
        "logger.mlflow.experiment=mine",
        "logger=mlflow",
    ]
    assert Overrides(line).merge(["logger=null"]).texts == ["logger=null"]
