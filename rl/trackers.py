"""What `logger=` adds: TensorBoard, W&B and MLflow show the rows of metrics.csv and eval.csv.

The two files stay the truth. A process of its own follows them, and nothing that a tracker does reaches training: not its
time, its errors or the random numbers that it draws. Every session begins by making each tracker agree with the files, which
a resume has just cut back to the checkpoint. What lies on this machine is written anew from their rows, so that no row of
a killed session is left in it. A server cannot be cut back: it is asked for its last step and gets the rows after that.
Those up to there are the same if the resume was exact; else it keeps, from the checkpoint to the kill, what was sent first.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import importlib.util
import logging
import os
import secrets
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rl import files, history
from rl.compose import from_yaml
from rl.config import ConfigError, install_line
from rl.history import CONFIG, HISTORY
from rl.resume import RESULT, STOPPING

log = logging.getLogger("encore")

ID = "tracker_id"  # the file in a run's folder with the name that servers know the run by
TABLES = {"train": "metrics.csv", "eval": "eval.csv"}  # what comes before the names of a file's columns
_LOOK_S, _RETRY_S = 1.0, 60.0  # between looks at the files, and before a tracker that failed is tried again


@dataclass(frozen=True)
class Row:
    """One row of a file: all its cells that are not empty, but for the frames, as `train/loss` or `eval/total_reward`."""

    table: str
    frames: int
    wall_s: float
    values: dict[str, float]


@dataclass(frozen=True)
class Followed:
    """What a tracker says of a run besides its rows."""

    folder: Path
    id: str
    started_at: float  # plus `wall_s` of a row: when it was written, had this session trained all along
    tags: dict[str, str]  # algo, env, seed, and the sweep that it is a job of
    config: dict[str, Any]

    @classmethod
    def read(cls, folder: Path, started_at: float) -> Followed:
        """What the run's folder says."""
        with contextlib.suppress(FileExistsError):
            files.write_new(folder / ID, secrets.token_hex(8).encode())
        choices = history.read(folder)[0]["choices"]
        tags = {name: str(choices[name]) for name in ("algo", "env", "seed")}
        if (folder.parent / "sweep.json").exists():
            tags["sweep"] = folder.parent.name
        return cls(folder, (folder / ID).read_text(), started_at, tags, from_yaml(folder / CONFIG))

    @property
    def name(self) -> str:
        """What people see."""
        return "/".join(self.folder.absolute().parts[-2:])

    @property
    def flat_config(self) -> dict[str, Any]:
        """The configuration by dotted names; lists and null as text."""
        return dict(_flat(self.config))


def _flat(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value if isinstance(value, bool | int | float | str) else str(value)


# ------------------------------------------------------------------------------------------------------- the trackers


class Tracker(Protocol):
    """Something that shows rows. Its constructor refuses what cannot be, by ConfigError."""

    def open(self, run: Followed) -> None:
        """Begin a session, in which all rows are added from the first on."""

    def add(self, rows: Sequence[Row]) -> None:
        """Show rows, whose frames never fall, but for those that a server has."""

    def close(self, finished: bool) -> None:
        """End the session."""


class TensorBoard:
    """An event file in the run's `tensorboard/`, made anew by every session. It is told to a TensorBoard that is already
    looking, by the mark of a restart at step 0, before which nothing counts."""

    SUFFIX = ".encore"

    def __init__(self) -> None:
        _require("tensorboard")

    def open(self, run: Followed) -> None:
        """A new event file with the configuration in it, in place of ours from before."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.run, folder = run, run.folder / "tensorboard"
        old = list(folder.glob(f"events.out.tfevents.*{self.SUFFIX}"))
        self.writer = EventFileWriter(str(folder), filename_suffix=self.SUFFIX)
        self._forget(old)
        self.writer.add_event(Event(wall_time=run.started_at, summary=self._hyper_parameters(run)))

    def _forget(self, old: list[Path]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        for path in old:
            path.unlink()
        self.writer.add_event(Event(wall_time=self.run.started_at, step=0, session_log=SessionLog(status=SessionLog.START)))

    def _hyper_parameters(self, run: Followed) -> Any:
        """What the page HPARAMS shows; the package's own function for it needs TensorFlow."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import metadata, plugin_data_pb2

        info = plugin_data_pb2.SessionStartInfo(start_time_secs=run.started_at)
        for name, value in (run.tags | run.flat_config).items():
            cell = info.hparams[name]
            if isinstance(value, bool):
                cell.bool_value = value
            elif isinstance(value, str):
                cell.string_value = value
            else:
                cell.number_value = value
        about = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_start_info=info))
        return Summary(value=[Summary.Value(tag=metadata.SESSION_START_INFO_TAG, metadata=about, tensor=metadata.NULL_TENSOR)])

    def add(self, rows: Sequence[Row]) -> None:
        """One event for each row."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        for row in rows:
            summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in row.values.items()])
            self.writer.add_event(Event(wall_time=self.run.started_at + row.wall_s, step=row.frames, summary=summary))
        self.writer.flush()

    def close(self, finished: bool) -> None:
        """Close the file."""
        self.writer.close()


class Wandb:
    """A run of Weights & Biases, of the same id in every session. Offline it is one folder in the run's `wandb/`, made anew
    by every session; a folder that was synced before is synced again over it. Online, rows go on after the last step."""

    def __init__(self, project: str, entity: str | None, mode: str | None) -> None:
        """ConfigError if it is to be online and nobody is logged in."""
        _require("wandb")
        self.project, self.entity, self.mode = project, entity, mode or os.environ.get("WANDB_MODE")
        if self.mode == "online" and not self._logged_in():
            raise ConfigError("W&B is to be online, and nobody is logged in: type wandb login, or logger.wandb.mode=offline")

    def _logged_in(self) -> bool:
        import wandb

        return bool(wandb.api.api_key)

    def open(self, run: Followed) -> None:
        """Begin a run, or go on with it."""
        import wandb

        mode = self.mode or ("online" if self._logged_in() else "offline")
        self._forget((run.folder / "wandb").glob(f"offline-run-*-{run.id}"))
        self.session = wandb.init(
            project=self.project,
            entity=self.entity,
            id=run.id,
            resume="allow" if mode == "online" else None,
            mode=mode,
            dir=run.folder,
            name=run.name,
            group=run.tags.get("sweep"),
            tags=[f"{name}={value}"[:64] for name, value in run.tags.items()],
            config=run.config,
            allow_val_change=True,
            settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True),
        )
        self._first = self.session.starting_step

    def _forget(self, old: Iterable[Path]) -> None:
        for folder in old:
            shutil.rmtree(folder)

    def add(self, rows: Sequence[Row]) -> None:
        """Log rows; those of equal frames become one step."""
        for row in rows:
            if row.frames >= self._first:
                self.session.log(row.values, step=row.frames)

    def close(self, finished: bool) -> None:
        """Wait until all is written or sent."""
        import wandb

        self.session.finish(exit_code=0 if finished else 1)
        wandb.teardown()  # offline, its file may be whole only after this


class MLflow:
    """A run of MLflow, found again by a tag. In an SQLite store its metrics and parameters are written anew by every
    session. To a server go the rows after the last; there, parameters stay as they were at the start."""

    TAG = "encore.run"

    def __init__(self, uri: str | None, experiment: str) -> None:
        _require("mlflow")
        self.uri, self.experiment = uri or os.environ.get("MLFLOW_TRACKING_URI"), experiment

    def open(self, run: Followed) -> None:
        """Make the run, or find it and what it has."""
        local = self.uri is None or self.uri.startswith("sqlite:///")
        database = Path(run.config["outputs"], "mlflow.db") if self.uri is None else Path(self.uri.removeprefix("sqlite:///"))
        self.run, self._last = run, dict.fromkeys(TABLES, -1)
        if local:
            with _alone(database.with_name(f".{database.name}.lock")):  # of the jobs of a sweep, one makes the store
                self._make_store(database)
                self._find_or_create(f"sqlite:///{database.absolute()}")
            self._forget(database)
            self._log_parameters()
        elif self._find_or_create(str(self.uri)):
            self._log_parameters()
        else:
            self._last = {table: self._last_step(f"{table}/episodes") for table in TABLES}

    def _make_store(self, database: Path) -> None:
        """The store is there only when it is whole: MLflow cannot use one whose tables a kill left half made."""
        from mlflow import MlflowClient

        if not database.exists():
            temporary = database.with_name(f".{database.name}.tmp")
            temporary.unlink(missing_ok=True)
            MlflowClient(f"sqlite:///{temporary.absolute()}").search_experiments()
            os.replace(temporary, database)

    def _find_or_create(self, uri: str) -> bool:
        """Whether the run is new to the store."""
        from mlflow import MlflowClient

        self.client, run = MlflowClient(uri), self.run
        experiment = self.client.get_experiment_by_name(self.experiment)
        number = experiment.experiment_id if experiment else self.client.create_experiment(self.experiment)
        found = self.client.search_runs([number], f"tags.`{self.TAG}` = '{run.id}'")
        if found:
            self.run_id = found[0].info.run_id
            self.client.update_run(self.run_id, status="RUNNING")
        else:
            self.run_id = self.client.create_run(number, run_name=run.name, tags={self.TAG: run.id, **run.tags}).info.run_id
        return not found

    def _forget(self, database: Path) -> None:
        with contextlib.closing(sqlite3.connect(database, timeout=_RETRY_S)) as connection, connection:
            for table in ("metrics", "latest_metrics", "params"):
                connection.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (self.run_id,))

    def _last_step(self, metric: str) -> int:
        return max((point.step for point in self.client.get_metric_history(self.run_id, metric)), default=-1)

    def _log_parameters(self) -> None:
        from mlflow.entities import Param

        params = [Param(name, str(value)[:500]) for name, value in self.run.flat_config.items()]
        for begin in range(0, len(params), 100):  # the most in one call
            self.client.log_batch(self.run_id, params=params[begin : begin + 100])

    def add(self, rows: Sequence[Row]) -> None:
        """Log rows, each as a whole: a kill leaves none half there."""
        from mlflow.entities import Metric

        batch: list[Metric] = []
        for row in rows:
            if row.frames <= self._last[row.table]:
                continue
            if len(batch) + len(row.values) > 1000:  # the most in one call
                self.client.log_batch(self.run_id, metrics=batch)
                batch = []
            at = int(1000 * (self.run.started_at + row.wall_s))
            batch += [Metric(name, value, at, row.frames) for name, value in row.values.items()]
        if batch:
            self.client.log_batch(self.run_id, metrics=batch)

    def close(self, finished: bool) -> None:
        """Say how it ended."""
        self.client.set_terminated(self.run_id, "FINISHED" if finished else "KILLED")


KNOWN: dict[str, Callable[..., Tracker]] = {f"rl.trackers.{kind.__name__}": kind for kind in (TensorBoard, Wandb, MLflow)}


def make(logger: dict[str, Any]) -> dict[str, Tracker]:
    """The trackers of a configuration by their names. ConfigError if one cannot be had here."""
    made = {}
    for name, part in logger.items():
        arguments = dict(part if isinstance(part, dict) else vars(part))
        target = arguments.pop("_target_")
        if target not in KNOWN:
            raise ConfigError(f"logger.{name}._target_={target}: there are {', '.join(KNOWN)}")
        made[name] = KNOWN[target](**arguments)
    return made


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"logger={package}: {package} is not installed; type: {install_line(package)}")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process is in such a context."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ------------------------------------------------------------------------------------------------ beside the training


class Following:
    """A context in which a run's rows are followed, if there is a tracker to show them."""

    def __init__(self, folder: Path, logger: dict[str, Any], started_at: float, patience_s: Callable[[], float]) -> None:
        """`patience_s`: how long to wait at the end for the trackers; after that they finish on their own."""
        self.folder, self.logger, self.started_at, self.patience_s = folder, logger, started_at, patience_s
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Following:
        if self.logger:
            try:
                self._start()
            except OSError as error:
                log.warning("no tracker could be started: %s", error)
        return self

    def _start(self) -> None:
        root = str(Path(__file__).resolve().parent.parent)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rl.trackers", str(self.folder), str(session_of(self.folder)), str(self.started_at)],
            stdin=subprocess.PIPE,  # nothing is ever written: that it closes says that training has ended, however it did
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))},
            start_new_session=True,
        )
        self._telling = threading.Thread(target=self._tell, args=(self.process,), daemon=True)
        self._telling.start()

    def _tell(self, process: subprocess.Popen[str]) -> None:
        """Pass on what the process has to say."""
        assert process.stdout is not None
        for line in process.stdout:
            log.warning(line.rstrip("\n"))
        if process.wait():
            log.warning("the trackers have ended with %d; training goes on without them", process.returncode)

    def __exit__(self, *_: object) -> None:
        if self.process is None:
            return
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._telling.join(self.patience_s())
        if self._telling.is_alive():
            log.info("%s: still being written, by process %d", ", ".join(self.logger), self.process.pid)


# ----------------------------------------------------------------------------------------------- in the other process


class Overtaken(Exception):
    """Another session of the run has begun, and its own process shows its rows."""


class Rows:
    """The rows of a run's files as they come."""

    def __init__(self, folder: Path, session: int) -> None:
        self.folder, self.session = folder, session
        self._columns: dict[str, list[str]] = {}
        self._read = dict.fromkeys(TABLES, 0)  # bytes

    def new(self) -> list[Row]:
        """Those that have come since the last call, in the order in which they were written: a row that is still to be
        read was written after all of these. Overtaken if the files may be another session's."""
        found: list[Row] = []
        while more := [row for table in TABLES for row in self._new(table)]:
            found += more
        if session_of(self.folder) != self.session:
            raise Overtaken
        return sorted(found, key=lambda row: row.frames)

    def _new(self, table: str) -> Iterator[Row]:
        with (self.folder / TABLES[table]).open("rb") as file:
            file.seek(self._read[table])
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read[table] += len(whole)
        lines = list(csv.reader(whole.decode().splitlines()))
        if table not in self._columns and lines:
            self._columns[table] = lines.pop(0)
        for line in lines:
            cells = {name: cell for name, cell in zip(self._columns[table], line, strict=False) if cell}
            frames = int(cells.pop("frames"))
            yield Row(table, frames, float(cells["wall_s"]), {f"{table}/{name}": float(cell) for name, cell in cells.items()})


def session_of(folder: Path) -> int:
    """A number that another session of the run changes: before that, it has cut the files; after, it adds to them."""
    return (folder / HISTORY).stat().st_size


class Feed:
    """One tracker and how far it has come. After a failure it begins anew, a minute later."""

    def __init__(self, name: str, tracker: Tracker, run: Followed, session: int, say: Callable[[str], object]) -> None:
        self.name, self.tracker, self.run, self.session, self.say = name, tracker, run, session, say
        self.rows: Rows | None = None  # None: it is not open
        self._retry_at, self._failed = 0.0, False

    def show(self, *, now: bool) -> None:
        """Show what is new, `now` even if it failed a moment ago. Overtaken if that is not ours to show."""
        if now or time.monotonic() >= self._retry_at:
            self._try(self._show)

    def _show(self) -> None:
        if self.rows is None:
            self.tracker.open(self.run)
            self.rows = Rows(self.run.folder, self.session)
        self.tracker.add(self.rows.new())

    def close(self) -> None:
        """End the tracker's session."""
        if self.rows is not None:
            self._try(lambda: self.tracker.close((self.run.folder / RESULT).exists()))

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Overtaken:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, it is not worth a run
            self.rows, self._retry_at = None, time.monotonic() + _RETRY_S
            if not self._failed:
                reason = (str(error) or type(error).__name__).splitlines()[0]
                self.say(f"{self.name}: {reason}; training goes on, and its rows will be shown once that is over")
            self._failed = True


def follow(folder: Path, session: int, started_at: float, ended: Callable[[], bool], say: Callable[[str], object]) -> None:
    """Show the rows of a run's session until training has ended. One process at a time does this for a run."""
    with (folder / HISTORY).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # that of a killed session may still be at work
        run = Followed.read(folder, started_at)
        feeds = [Feed(name, tracker, run, session, say) for name, tracker in make(run.config["logger"]).items()]
        with contextlib.suppress(Overtaken):
            last = False
            while not last:
                last = ended()
                for feed in feeds:
                    feed.show(now=last)
        for feed in feeds:
            feed.close()


def main() -> None:
    """`python -m rl.trackers <run's folder> <session> <started_at>`, until its standard input closes."""
    os.nice(10)
    for number in STOPPING:  # they are meant for training, whose end ends us too
        signal.signal(number, signal.SIG_IGN)
    parent, messages = os.getppid(), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the packages print is not for the log

    def say(text: str) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            print(text, file=messages, flush=True)

    def ended() -> bool:
        return bool(select.select([0], [], [], _LOOK_S)[0]) or os.getppid() != parent

    try:
        follow(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), ended, say)
    except Exception as error:  # noqa: BLE001  it has nobody else to tell
        say(f"trackers: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
