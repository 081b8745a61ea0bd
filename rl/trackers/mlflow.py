"""MLflow."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from rl.trackers.tracker import RETRY_S, TABLES, Row, RunInfo, require


class MLflow:
    """An MLflow run, identified by a tag.

    In an SQLite store, every session rewrites its metrics and parameters. A server gets only the rows after
    its last step, and keeps the parameters of the first session.
    """

    TAG = "encore.run"

    def __init__(self, uri: str | None, experiment: str) -> None:
        require("mlflow")
        self.uri, self.experiment = uri or os.environ.get("MLFLOW_TRACKING_URI"), experiment

    def open(self, run: RunInfo) -> None:
        """Create the run, or find it and its last steps."""
        uri = self.uri or f"sqlite:///{Path(run.config['outputs'], 'mlflow.db')}"
        self.run, self._last = run, dict.fromkeys(TABLES, -1)
        if uri.startswith("sqlite:///"):
            database = Path(uri.removeprefix("sqlite:///"))
            with _lock(database.with_name(f".{database.name}.lock")):  # one job of a sweep creates the store
                self._make_store(database)
                self._find_or_create(f"sqlite:///{database.absolute()}")
            self._delete_old(database)
            self._log_parameters()
        elif self._find_or_create(uri):
            self._log_parameters()
        else:
            self._last = {table: self._last_step(f"{table}/episodes") for table in TABLES}

    def _make_store(self, database: Path) -> None:
        """Create the store under a temporary name: MLflow cannot use one that a kill left half made."""
        from mlflow import MlflowClient

        if not database.exists():
            temporary = database.with_name(f".{database.name}.tmp")
            temporary.unlink(missing_ok=True)
            MlflowClient(f"sqlite:///{temporary.absolute()}").search_experiments()
            os.replace(temporary, database)

    def _find_or_create(self, uri: str) -> bool:
        """Find or create the run; True if it was created."""
        from mlflow import MlflowClient

        self.client, run = MlflowClient(uri), self.run
        experiment = self.client.get_experiment_by_name(self.experiment)
        number = experiment.experiment_id if experiment else self.client.create_experiment(self.experiment)
        found = self.client.search_runs([number], f"tags.`{self.TAG}` = '{run.id}'")
        if found:
            self.run_id = found[0].info.run_id
            self.client.update_run(self.run_id, status="RUNNING")
        else:
            tags = {self.TAG: run.id, **run.tags}
            self.run_id = self.client.create_run(number, run_name=run.name, tags=tags).info.run_id
        return not found

    def _delete_old(self, database: Path) -> None:
        with contextlib.closing(sqlite3.connect(database, timeout=RETRY_S)) as connection, connection:
            for table in ("metrics", "latest_metrics", "params"):
                connection.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (self.run_id,))

    def _last_step(self, metric: str) -> int:
        return max((point.step for point in self.client.get_metric_history(self.run_id, metric)), default=-1)

    def _log_parameters(self) -> None:
        from mlflow.entities import Param

        params = [Param(name, str(value)[:500]) for name, value in self.run.flat_config.items()]
        for begin in range(0, len(params), 100):  # MLflow's limit per call
            self.client.log_batch(self.run_id, params=params[begin : begin + 100])

    def add(self, rows: Sequence[Row]) -> None:
        """Log rows, each within one call, so that a kill leaves no partial row."""
        from mlflow.entities import Metric

        batch: list[Metric] = []
        for row in rows:
            if row.frames <= self._last[row.table]:
                continue
            if len(batch) + len(row.values) > 1000:  # MLflow's limit per call
                self.client.log_batch(self.run_id, metrics=batch)
                batch = []
            at = int(1000 * (self.run.started_at + row.wall_s))
            batch += [Metric(name, value, at, row.frames) for name, value in row.values.items()]
        if batch:
            self.client.log_batch(self.run_id, metrics=batch)

    def close(self, finished: bool) -> None:
        """Set the final status."""
        self.client.set_terminated(self.run_id, "FINISHED" if finished else "KILLED")


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
