"""Run a framework's adapter, kill it, resume it, and hold it against runs that were left alone."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import time
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.parity.adapter import TASKS, Job, Probe
from benchmarks.record import ROOT

Row = tuple[int, float]  # frames, and a value that tells rows apart
EDITS = {"lr": 5e-4, "gamma": 0.9}
LIMIT_S = 1200  # for one session
_SAID = re.compile(r"warn|differ|ignor|chang|edit|overrid|refus", re.IGNORECASE)
_NAMES = re.compile(r"\blr\b|learning.?rate|gamma", re.IGNORECASE)
_DAMAGED = re.compile(r"damag|corrupt|checksum|\bcrc|\bhash|sha256", re.IGNORECASE)


@dataclass
class Session:
    """What one process did."""

    code: int
    frames: int
    first_frame_s: float  # from the process's start; 0 if there was none
    episodes: list[tuple[int, float]]  # frames of the session, return
    output: str
    report: dict[str, Any] | None  # None if it was killed or failed
    weights: dict[str, np.ndarray]

    @property
    def error(self) -> str:
        """The last line of the output, without where this machine keeps its files."""
        line = (self.output.strip().splitlines() or ["no output"])[-1]
        return re.sub(r"/[\w./-]*/", "", line)[:150]


def run(python: Path, module: str, job: Job, files: Path, kill_at: float = float("inf")) -> Session:
    """One session of an adapter; killed a moment after it has stepped `kill_at` frames."""
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir(parents=True)
    probe = Probe(files / "probe")
    quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [str(python), "-m", module, json.dumps(dataclasses.asdict(job))]
    started_at = time.time()
    with (files / "output").open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **quiet, "PARITY_PROBE": str(files / "probe")},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while process.poll() is None and probe.read()[0] < kill_at:
            if time.time() > started_at + LIMIT_S:
                break
            time.sleep(0.001)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    frames, first_at = probe.read()
    said, weights = files / "probe.json", {}
    if said.exists():
        with np.load(files / "probe.npz") as arrays:
            weights = dict(arrays)
    with (files / "probe.episodes").open(newline="") as file:
        episodes = [(int(at), float(total)) for at, total in csv.reader(file)]
    return Session(
        code=code,
        frames=frames,
        first_frame_s=first_at and first_at - started_at,
        episodes=episodes,
        output=(files / "output").read_text(errors="replace"),
        report=json.loads(said.read_text()) if said.exists() else None,
        weights=weights,
    )


def difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The largest absolute difference of weights: 0 only if every bit is the same; infinite if the names or
    shapes differ, or one has NaN where the other has not the same bits.
    """
    if one.keys() != other.keys() or any(one[name].shape != other[name].shape for name in one):
        return float("inf")
    largest = 0.0
    for name in one:
        if one[name].tobytes() == other[name].tobytes():
            continue
        gap = np.abs(one[name].astype(np.float64) - other[name].astype(np.float64)).max(initial=0.0)
        largest = max(largest, float(gap) if gap > 0 else float(np.finfo(np.float64).tiny))
        if np.isnan(gap):
            return float("inf")
    return largest


def flip_a_bit(path: Path) -> None:
    """Flip one bit in the middle of a checkpoint's first weights: in a file that torch.save wrote, alone or
    inside another zip file; in the middle of any other file.
    """
    data = bytearray(path.read_bytes())
    begin, size = _first_weights(bytes(data)) or (0, len(data))
    data[begin + size // 8 * 4 + 2] ^= 0x40
    path.write_bytes(data)


def _first_weights(data: bytes) -> tuple[int, int] | None:
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return None
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                continue
            name, extra = (int.from_bytes(data[entry.header_offset + n :][:2], "little") for n in (26, 28))
            begin = entry.header_offset + 30 + name + extra
            if entry.filename.endswith("/data/0"):
                return begin, entry.file_size
            if entry.filename == "policy.pth":
                inner = _first_weights(data[begin : begin + entry.file_size])
                if inner:
                    return begin + inner[0], inner[1]
    return None


def rows_after(control: list[Row], at_kill: list[Row], resumed: list[Row], frames: int) -> tuple[int, int]:
    """How many rows of metrics are missing after a resume at `frames`, and how many are too many: new ones up
    to there, and the dead session's of frames that were trained again. Up to the checkpoint the killed run is
    the uninterrupted one.
    """
    if resumed == control:
        return 0, 0
    count = [Counter(row for row, _ in rows if row <= frames) for rows in (control, at_kill, resumed)]
    missing = count[0].keys() - count[2].keys()
    stale = Counter(row for row in at_kill if row[0] > frames) & Counter(resumed)
    return len(missing), (count[2] - count[1]).total() + stale.total()


def noticed_edit(key: str, edited: Session, plain: Session) -> str:
    """What became of a hyper-parameter that was edited at the resume."""
    if edited.report is None:
        return f"refused: {edited.error}"
    new = set(edited.output.splitlines()) - set(plain.output.splitlines())
    said = any(_SAID.search(line) and _NAMES.search(line) for line in new)
    taken = abs(edited.report[key] - EDITS[key]) < 1e-9
    return ("applied" if taken else "ignored") + (", says so" if said else " in silence")


def noticed_damage(damaged: Session, plain: Session) -> str:
    """What became of a flipped bit in the newest checkpoint's weights."""
    if damaged.report is None:
        return f"stops: {damaged.error}"
    if _DAMAGED.search(damaged.output) and damaged.frames > plain.frames:
        return "previous checkpoint, says so"
    return "noticed" if _DAMAGED.search(damaged.output) else "not noticed"


def moment(task: str) -> int:
    """The frame at which a task's runs are killed: at random in the second half of the time between two
    checkpoints, past the middle of the run; the same for all frameworks.
    """
    rng, spec = random.Random(task), TASKS[task]
    count = spec.frames // spec.every
    return round((rng.randint(count // 2, count - 2) + rng.uniform(0.5, 0.95)) * spec.every)


def measure(adapter: ModuleType, python: Path, task: str, place: Path) -> dict[str, Any]:
    """One row: a framework on a task."""
    name, spec = adapter.__name__.rpartition(".")[2], TASKS[task]
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    killed = place / "killed"

    def session(label: str, folder: str, kill_at: float = float("inf"), **keys: Any) -> Session:
        done = run(
            python, adapter.__name__, Job(task, str(place / folder), **keys), place / f"of-{label}", kill_at
        )
        print(f"  {name} {task} {label}: exit {done.code}, {done.frames} frames", flush=True)
        return done

    def restored(label: str, **keys: Any) -> Session:
        """A resume of the killed run as it lay there, in its own folder: paths in checkpoints hold."""
        shutil.rmtree(killed)
        shutil.copytree(place / "at-kill", killed, symlinks=True)
        if label == "damaged":
            flip_a_bit(getattr(adapter, "weights_file", Path)(adapter.newest(killed)[1]))
        return session(label, "killed", resume=True, **keys)

    control, again = session("control", "control"), session("control-again", "again")
    row: dict[str, Any] = {"framework": name, "task": task, "frames": spec.frames, "ckpt_every": spec.every}
    if control.report is None or again.report is None:
        return row | {"resumes": "did not run", "note": control.error}
    first = session("killed", "killed", moment(task))
    found = adapter.newest(killed)
    if found is None:
        return row | {"resumes": "no", "note": "no checkpoint at the kill"}
    frames, at_kill = found[0], adapter.rows(killed)
    shutil.copytree(killed, place / "at-kill", symlinks=True)
    resumed = session("resumed", "killed", resume=True)
    row |= {"killed_at": first.frames, "resumed_from": frames}
    if resumed.report is None:
        return row | {"resumes": "no", "note": resumed.error}
    last = adapter.newest(killed)
    missing, doubled = rows_after(adapter.rows(place / "control"), at_kill, adapter.rows(killed), frames)
    memory = None if control.report["memory"] is None else control.report["memory"] - resumed.report["memory"]
    row |= {
        "resumes": "yes",
        "ends_at": frames + resumed.frames,
        "frames_again": first.frames - frames,
        "updates": control.report["updates"],
        "updates_lost": control.report["updates"] - resumed.report["updates"],
        "transitions_lost": "" if memory is None else memory,
        "same_folder": "yes" if last and last[1].parent == found[1].parent else "no",
        "rows_missing": missing,
        "rows_doubled": doubled,
        "control_difference": f"{difference(control.weights, again.weights):.3g}",
        "resumed_difference": f"{difference(control.weights, resumed.weights):.3g}",
        "return_before": mean([total for _, total in first.episodes][-spec.window :]),
        "return_after": mean([total for _, total in resumed.episodes][: spec.window]),
        "return_control": mean([total for at, total in control.episodes if at > frames][: spec.window]),
        "first_frame_s": f"{resumed.first_frame_s:.1f}",
    }
    for key, value in EDITS.items():
        row[f"edited_{key}"] = noticed_edit(key, restored(f"edited-{key}", edits={key: value}), resumed)
    row["damaged"] = noticed_damage(restored("damaged"), resumed)
    shutil.rmtree(place)
    return row | {"note": adapter.TASKS[task], "measured": control.report["versions"]}


def mean(returns: list[float]) -> str:
    """The mean of some episodes' returns, '' without any."""
    return f"{statistics.fmean(returns):.1f}" if returns else ""
