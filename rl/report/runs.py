"""The runs of a report, as read from their folders."""

from __future__ import annotations

import contextlib
import functools
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.config import leaves, typed
from rl.config.invocation import command
from rl.runs import history
from rl.runs.__main__ import describe
from rl.runs.find import is_run, latest_run, read_result, run_folders
from rl.runs.manifest import DamagedError
from rl.runs.outcome import Refused
from rl.runs.tables import complete_text
from rl.sweeps.record import Record

if TYPE_CHECKING:
    import pandas as pd


GENERATOR = "rl.report"
MEDIA = {".mp4": "video/mp4", ".gif": "image/gif"}
BASELINES = Path(__file__).with_name("random_baselines.csv")
# name of a curve of returns -> table and column; the other columns of metrics.csv are curves of their own
CURVES = {"evaluation": ("eval.csv", "total_reward"), "training": ("metrics.csv", "total_reward_ma")}
_WHOLE = ("sweep.json", "search.json")  # in the folder of a sweep, of a search
_NO_CURVE = ("frames", "wall_s", "episodes", "updates", "total_reward", "total_reward_ma")


@dataclass(frozen=True)
class Edit:
    """What a resume, or a fork at the start, changed of a run; at least one of the three is there."""

    frames: int
    time: str
    keys: list[str]  # `lr: 0.1 → 0.2`
    code: list[str]  # files that changed since the session before
    fork: str = ""  # what it was started from


@dataclass
class Run:
    """A run as read from its folder."""

    folder: Path
    state: str
    seed: Any = None
    asked: int | None = None  # frames
    frames: int | None = None  # of its newest checkpoint
    scores: dict[str, float] = field(default_factory=dict)  # of its last and best weights, see `read_scores`
    algo: str = "?"
    values: dict[str, Any] = field(default_factory=dict)  # the configuration
    history: list[dict[str, Any]] = field(default_factory=list)
    metrics: pd.DataFrame | None = None
    # columns frames, wall_s and score, or the metric's value as score; only curves that have rows
    curves: dict[str, pd.DataFrame] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)  # empty until the run is finished
    problem: str = ""  # why it cannot be part of a result

    @property
    def resumes(self) -> list[dict[str, Any]]:
        """The events of history that are resumes."""
        return [line for line in self.history if line["event"] == "resume"]

    @property
    def edits(self) -> list[Edit]:
        """What was edited, and when."""
        found = []
        for line in self.history:
            changed = line.get("code_changed") or []  # by this session and by those before
            code = [file for one in changed if one["frames"] == line["frames"] for file in one["files"]]
            fork = line.get("fork")
            origin = f"{fork['run']} ({fork['weights']} weights)" if fork and line["event"] == "start" else ""
            keys = [
                f"{change['key']}: {typed(change['was'])} → {typed(change['now'])}"
                for change in line["changes"]
            ]
            if keys or code or origin:
                found.append(Edit(line["frames"], line["time"], keys, code, origin))
        return found

    @property
    def metric_names(self) -> list[str]:
        """The curves that are not of returns, in the order of the columns of metrics.csv."""
        return [name for name in self.curves if name not in CURVES]

    @property
    def videos(self) -> list[Path]:
        """Videos recorded by enjoy.py."""
        return sorted(path for path in self.folder.glob("video/*") if path.suffix in MEDIA)


def latest(outputs: Path) -> Path:
    """The run that saved last, or the sweep or search that it belongs to. Refused if there is none."""
    run = latest_run(outputs)
    return run.parent if any((run.parent / name).is_file() for name in _WHOLE) else run


def find_runs(name: str, outputs: Path) -> list[Path]:
    """The runs that an argument names: `latest`, a run's or a sweep's folder. Refused if there are none."""
    hint = f"type latest, a run's folder or a sweep's; {command('runs')} lists the runs"
    folder = latest(outputs) if name == "latest" else Path(name)
    if not folder.is_dir():
        raise Refused(f"{name}: no such folder; {hint}")
    found = dict.fromkeys(run_folders(folder))
    with contextlib.suppress(DamagedError):  # not a sweep
        found |= dict.fromkeys(folder / job for job in Record.read(folder).jobs)
    if not found and is_run(folder):
        return [folder]
    if not found:
        raise Refused(f"{name}: no run is in this folder; {hint}")
    return list(found)


def read_run(folder: Path) -> Run:
    """Read a run in any state; `problem` says if it cannot be read."""
    if not folder.exists():
        return Run(folder, "waiting", problem="its sweep has not begun it")
    run = Run(folder, "damaged")
    try:
        run.history = history.read(folder)
        values = history.find_config(folder, run.history)
        if run.history and values:
            run.algo, run.values = str(run.history[0]["choices"]["algo"]), values
            leaves(run.values)
            run.metrics = _read_table(folder / "metrics.csv", ["frames", "wall_s", "fps", "total_reward_ma"])
            evaluations = _read_table(folder / "eval.csv", ["frames", "wall_s", "total_reward"])
            own = {name: name for name in run.metrics.columns if name not in _NO_CURVE}
            for name, column in ({n: column for n, (_, column) in CURVES.items()} | own).items():
                table = evaluations if name == "evaluation" else run.metrics
                curve = table[["frames", "wall_s", column]].rename(columns={column: "score"}).dropna()
                run.curves |= {name: curve} if len(curve) else {}
            run.result = read_result(folder) or {}
        else:
            run.problem = "it was killed before its configuration was written down"
        described = describe(folder)
        run.state, run.seed, run.asked = described["state"], described["seed"], described["asked"]
        run.frames = described["frames"]
        run.scores = {n: described[n] for n in ("last", "best") if described[n] is not None}
    except (DamagedError, ValueError, KeyError, TypeError, AssertionError) as error:
        run.problem = f"it cannot be read: {str(error).splitlines()[0]}"
    return run


def _read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """The complete lines of a table that may be growing. DamagedError if it cannot be read."""
    import pandas as pd

    whole = (complete_text(path) if path.exists() else "") or ",".join(columns)
    try:
        table = pd.read_csv(io.StringIO(whole), dtype=float)
        if missing := [name for name in columns if name not in table]:
            raise ValueError(f"it has no column {', '.join(missing)}")
    except ValueError as error:
        raise DamagedError(f"{path.name}: {error}") from error
    return table.replace([float("inf"), float("-inf")], float("nan"))


@functools.cache
def _baselines() -> dict[tuple[str, ...], float]:
    """The mean return of random actions, by an environment's id, kwargs and wrappers."""
    import pandas as pd

    return {
        tuple(map(str, row[:3])): float(row[3])
        for row in pd.read_csv(BASELINES)[["id", "kwargs", "wrappers", "total_reward"]].to_numpy()
    }


def random_score(env: dict[str, Any]) -> float | None:
    """The mean return of random actions in an environment, if it was recorded."""
    return _baselines().get((env["id"], json.dumps(env["kwargs"]), json.dumps(env["wrappers"])))
