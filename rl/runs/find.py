"""Finding runs: which folders are runs, and which one `latest` means."""

from __future__ import annotations

import bisect
import contextlib
import json
import os
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from rl.config.invocation import command
from rl.config.overrides import Overrides
from rl.runs import files, history
from rl.runs.history import HISTORY
from rl.runs.manifest import DamagedError, Manifest, newest_whole, saved_by
from rl.runs.outcome import Refused
from rl.runs.tables import last_row

RESULT, REFILL = "result.json", "refill"
_TIME = "%Y-%m-%dT%H:%M:%S%z"
_MARKS = ("ckpt", HISTORY, ".hydra", ".lock")  # of which a run's folder has one from the start


def new_folder(wanted: Path) -> Path:
    """The folder of a new run or sweep, made here: of two started in the same second each gets its own."""
    for number in range(1, 10_000):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise Refused(f"no free name for a run at {wanted}")


def find_run(resumed: str, overrides: Overrides) -> tuple[Path, list[str]]:
    """The folder that `resume=` means, and warnings about the choice."""
    if resumed == "latest":
        outputs = outputs_folder(overrides)
        times = {folder: saved_by(folder / "ckpt") for folder in run_folders(outputs)}
        folder = _latest(times, outputs, overrides)
        own = started_at(folder), folder.name  # the time in seconds: the name decides within one
        later = [f for f, saved_at in times.items() if saved_at is None or saved_at >= own[0]]
        uncommitted = [f for f in later if (started_at(f), f.name) > own and not newest_whole(f / "ckpt")]
        return folder, [
            f"{f} is newer, but has no whole checkpoint: it was not considered" for f in uncommitted
        ]
    folder = Path(resumed)
    if not is_run(folder):
        raise Refused(
            f"resume={resumed}: no run is there; type resume=latest, or a run's folder under outputs/"
        )
    return folder, []


def outputs_folder(overrides: Overrides) -> Path:
    """The root of the run folders that a command line means."""
    return Path(overrides.get("outputs") or "outputs")


def latest_run(outputs: Path, overrides: Iterable[str | Override] = ()) -> Path:
    """The run under `outputs` that saved last, of those that the choices on the command line allow. Refused
    if there is none.
    """
    return _latest({folder: saved_by(folder / "ckpt") for folder in run_folders(outputs)}, outputs, overrides)


def _latest(times: dict[Path, float | None], outputs: Path, overrides: Iterable[str | Override]) -> Path:
    """`times`: what `saved_by` says of every run under `outputs`."""
    chosen = Overrides(overrides)
    wanted = {
        name: value
        for name in ("algo", "env", "experiment", "seed")
        if (value := chosen.get(name)) is not None
    }

    def saved_at(folder: Path) -> float | None:
        newest = newest_whole(folder / "ckpt")
        return newest.saved_at if newest and _matches(folder, wanted) else None

    found = last_of({folder: time for folder, time in times.items() if time is not None}, saved_at)
    if found is None:
        asked = " with " + " ".join(f"{k}={v}" for k, v in wanted.items()) if wanted else ""
        raise Refused(
            f"no run{asked} has a checkpoint under {outputs.absolute()}; name a run's "
            f"folder, or train one: {command('train')}"
        )
    return found


def last_of(bounds: dict[Path, float], saved_at: Callable[[Path], float | None]) -> Path | None:
    """The folder with the greatest `saved_at`, or None; of equal ones the name decides.

    It is asked only of those that may be the last: no folder's is above its bound.
    """
    waiting = sorted((bound, str(folder), folder) for folder, bound in bounds.items())
    while waiting:
        bound, name, folder = waiting.pop()
        time = saved_at(folder)
        if time == bound:
            return folder
        if time is not None:
            bisect.insort(waiting, (time, name, folder))
    return None


def started_at(folder: Path) -> float:
    """When a run was started, in seconds since the epoch: as its history says, else by its folder's files."""
    with contextlib.suppress(OSError, ValueError):
        head = files.read_head(f"{folder}/{HISTORY}", 100).decode(errors="replace")  # the time comes first
        return datetime.strptime(
            head.split('"')[3] if head.startswith('{"time": "') else "", _TIME
        ).timestamp()
    return next((folder / mark).stat().st_mtime for mark in (".hydra", ".") if (folder / mark).exists())


def is_run(folder: Path) -> bool:
    """Whether a run was started in a folder."""
    return any((folder / mark).exists() for mark in _MARKS)


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result of a finished run; None before. DamagedError if it cannot be read."""
    if not (folder / RESULT).exists():
        return None
    try:
        result: dict[str, Any] = json.loads((folder / RESULT).read_bytes())
        numbers = [
            result["stopped_at"],
            *(result[name]["total_reward"] for name in ("last", "best") if name in result),
        ]
        if any(number is not None and not isinstance(number, int | float) for number in numbers):
            raise ValueError("a score in it is not a number")
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{folder / RESULT}: {error}") from error
    return result


def read_scores(folder: Path, newest: Manifest | None) -> dict[str, float]:
    """What `last` and `best` mean wherever they are shown; a score that there is not yet is missing.

    Of a finished run the mean return of those weights on the fresh episodes of result.json; before, that of
    the newest evaluation, and the score by which the best weights were chosen.
    """
    with contextlib.suppress(DamagedError):  # a resume says so, and makes it again
        if (result := read_result(folder)) is not None:
            return {name: result[name]["total_reward"] for name in ("last", "best") if name in result}
    row = last_row(folder / "eval.csv")
    last = {"last": float(row["total_reward"])} if row else {}
    return last | ({"best": newest.best.score} if newest and newest.best else {})


def run_folders(outputs: Path) -> list[Path]:
    """Every run's folder under `outputs`, jobs of sweeps included."""
    first = _folders_in(str(outputs))
    second = [folder for parent in first for folder in _folders_in(parent)]
    jobs = [folder for sweep in _folders_in(f"{outputs}/sweeps") for folder in _folders_in(sweep)]
    marks = ("ckpt", ".hydra")
    found = [f for f in {*first, *second, *jobs} if any(os.path.exists(f"{f}/{mark}") for mark in marks)]
    return [Path(folder) for folder in sorted(found, key=lambda folder: folder.split("/"))]


def _folders_in(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _matches(folder: Path, wanted: dict[str, str]) -> bool:
    if not wanted:
        return True
    try:
        past = history.read(folder)
    except DamagedError:  # nobody knows what it is
        return False
    choices = past[0]["choices"] if past else {}
    return all(str(choices.get(name)) == value for name, value in wanted.items())
