"""MLflow."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from rl.trackers.tracker import RETRY_S, TABLES, Followed, Row, require


class MLflow:
    """A run of MLflow, found again by a tag. In an SQLite store its metrics and parameters are written anew
    by every session. To a server go the rows after the last; there, parameters stay as they were at the
    start."""

    TAG = "encore.run"

    def __init__(self, uri: str | None, experiment: str) -> None:
        require("mlflow")
        self.uri, self.experiment = uri or os.environ.get("MLFLOW_TRACKING_URI"), experiment

    def open(self, run: Followed) -> None:
        """Make the run, or find it and what it has."""
        local = self.uri is None or self.uri.startswith("sqlite:///")
        database = (
            Path(run.config["outputs"], "mlflow.db")
            if self.uri is None
            else Path(self.uri.removeprefix("sqlite:///"))
        )
        self.run, self._last = run, dict.fromkeys(TABLES, -1)
        if local:
            # of the jobs of a sweep, one makes the store
            with _alone(database.with_name(f".{database.name}.lock")):
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
            self.run_id = self.client.create_run(
                number, run_name=run.name, tags={self.TAG: run.id, **run.tags}
            ).info.run_id
        return not found

    def _forget(self, database: Path) -> None:
        with contextlib.closing(sqlite3.connect(database, timeout=RETRY_S)) as connection, connection:
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


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process is in such a context."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
