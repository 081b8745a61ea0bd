"""MLflow."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rl.trackers.tracker import TABLES, Row, RunInfo, require

_NOTE = "mlflow.note.content"  # the description that people write in MLflow's own pages


class MLflow:
    """An MLflow run, identified by a tag, in a store of files or on a server.

    MLflow can neither take a metric back nor change a parameter. So a session goes on with the MLflow run if
    all that is in it still holds. Otherwise it deletes that run, which `mlflow gc` removes and
    `mlflow runs restore` brings back, and logs a new one from the first row on.
    """

    TAG, SESSION = "encore.run", "encore.session"

    def __init__(self, uri: str | None, experiment: str) -> None:
        require("mlflow")
        self.uri, self.experiment = uri or os.environ.get("MLFLOW_TRACKING_URI"), experiment

    def open(self, run: RunInfo) -> None:
        """Find the run and its last steps, or create it."""
        from mlflow import MlflowClient

        self.run = run
        uri = self.uri or f"sqlite:///{Path(run.config['outputs'], 'mlflow.db')}"
        if not uri.startswith("sqlite:///"):
            self.client = MlflowClient(uri)
            self._find_or_create()
            return
        database = Path(uri.removeprefix("sqlite:///"))
        with _lock(database.with_name(f".{database.name}.lock")):  # one job of a sweep creates the store
            self._make_store(database)
            self.client = MlflowClient(f"sqlite:///{database.absolute()}")
            self._find_or_create()

    def _make_store(self, database: Path) -> None:
        """Create the store under a temporary name: MLflow cannot use one that a kill left half made."""
        from mlflow import MlflowClient

        if not database.exists():
            temporary = database.with_name(f".{database.name}.tmp")
            temporary.unlink(missing_ok=True)
            MlflowClient(f"sqlite:///{temporary.absolute()}").search_experiments()
            os.replace(temporary, database)

    def _find_or_create(self) -> None:
        experiment = self.client.get_experiment_by_name(self.experiment)
        number = experiment.experiment_id if experiment else self.client.create_experiment(self.experiment)
        found = self.client.search_runs([number], f"tags.`{self.TAG}` = '{self.run.id}'")
        # at most one, unless a session was killed while it replaced it
        kept = found[0] if len(found) == 1 and self._still_holds(found[0]) else None
        if kept:
            self.run_id = kept.info.run_id
            self.client.update_run(self.run_id, status="RUNNING")
            self.client.set_tag(self.run_id, self.SESSION, self._session)
            return
        tags = {self.TAG: self.run.id, self.SESSION: self._session, **self.run.tags}
        for old in found:
            tags |= {name: text for name, text in old.data.tags.items() if _is_own(name) and name not in tags}
        self._delete_old(found)
        self._last = dict.fromkeys(TABLES, -1)
        self.run_id = self.client.create_run(number, run_name=self.run.name, tags=tags).info.run_id
        params = self._params
        for begin in range(0, len(params), 100):  # MLflow's limit per call
            self.client.log_batch(self.run_id, params=params[begin : begin + 100])

    def _still_holds(self, found: Any) -> bool:
        """Whether its parameters are today's, and no step is newer than the checkpoint of this session."""
        self._last = {table: self._last_step(found, f"{table}/episodes") for table in TABLES}
        of_this_session = found.data.tags.get(self.SESSION) == self._session  # which failed and starts over
        until = float("inf") if of_this_session else self.run.resumed_at
        params = {param.key: param.value for param in self._params}
        return found.data.params == params and max(self._last.values()) <= until

    def _last_step(self, found: Any, metric: str) -> int:
        points = self.client.get_metric_history(found.info.run_id, metric)
        return max((point.step for point in points), default=-1)

    def _delete_old(self, old: Sequence[Any]) -> None:
        for found in old:
            self.client.delete_run(found.info.run_id)

    @property
    def _session(self) -> str:
        return repr(self.run.started_at)

    @property
    def _params(self) -> list[Any]:
        from mlflow.entities import Param

        return [Param(name, str(value)[:500]) for name, value in self.run.flat_config.items()]

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


def _is_own(tag: str) -> bool:
    """Whether a tag is one that people gave the run in MLflow."""
    return tag == _NOTE or not tag.startswith("mlflow.")


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
