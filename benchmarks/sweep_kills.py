"""`python -m benchmarks.sweep_kills [kills=3] [launcher=processes ...]`: kill a sweep of six jobs, resume it,
and compare.

One sweep is left alone; another is killed (-9, all its processes or the parent alone) at random moments while
jobs train, resumed each time by `-m resume=`, and at last extended. Each of its jobs is held against the
other sweep's: every checkpoint, every row, the result.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.compare import differences
from benchmarks.kills import newest_frames
from benchmarks.record import record, started

JOBS = ["algo=reinforce,a2c", "seed=1,2,3"]
SETTINGS = [
    "frames=160k",
    "ckpt.every=8k",
    "log_every=4k",
    "eval.every=20k",
    "eval.episodes=10",
    "progress=false",
]
LONGER = "frames=200k"


def finish(*words: str) -> None:
    """Run a sweep to its end. RuntimeError if it does not get there."""
    process = started("-m", *words)
    if process.wait() != 0:
        raise RuntimeError(f"{' '.join(words)}: exit {process.returncode}")


def children(parent: int) -> list[int]:
    """The processes that a process started, and theirs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[1]) == parent:
            child = int(path.parent.name)
            found += [child, *children(child)]
    return found


def alive(pid: int) -> bool:
    """Whether a process still runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def progress_of(folder: Path) -> int:
    """Frames in the newest checkpoints of all jobs."""
    return sum(max(newest_frames(path.parent), 0) for path in folder.glob("*/ckpt"))


def kill(folder: Path, words: list[str], rng: random.Random, *, only_parent: bool) -> dict[str, object]:
    """Kill a session after it has trained, the parent alone or all its processes; what was killed, and what
    outlived it.
    """
    before = progress_of(folder)
    process = started("-m", *words)
    goal = before + rng.randint(1, 250_000)
    while process.poll() is None and progress_of(folder) < goal:
        time.sleep(0.01)
    if process.poll() is not None:
        raise RuntimeError("the sweep ended before it was killed")
    victims = children(process.pid)
    for pid in [process.pid, *([] if only_parent else victims)]:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    time.sleep(1)
    left = [pid for pid in victims if alive(pid)]
    return {
        "frames_before": before,
        "frames_at_kill": progress_of(folder),
        "only_the_parent": only_parent,
        "jobs_running": len(victims),
        "left_running": len(left),
    }


def main() -> None:
    """Run the campaign."""
    words = [word for word in sys.argv[1:] if not word.startswith("kills=")]
    kills = int(dict(word.split("=", 1) for word in sys.argv[1:]).get("kills", 3))
    launcher = words or ["launcher=processes", "launcher.n_jobs=2"]
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    rng = random.Random(8)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="sweeps-") as place:
        alone, killed = Path(place) / "alone", Path(place) / "killed"
        finish(f"hydra.sweep.dir={alone}", *JOBS, *SETTINGS, *launcher)
        session = [f"hydra.sweep.dir={killed}", *JOBS, *SETTINGS, *launcher]
        for number in range(kills):
            rows.append(
                {
                    "session": number + 1,
                    "ended": "killed",
                    **kill(killed, session, rng, only_parent=number % 2 == 1 and not words),
                }
            )
            print(rows[-1], flush=True)
            session = [f"resume={killed}"]
        for ended, more in (("finished", []), ("extended", [LONGER])):
            before = progress_of(killed)
            finish(f"resume={killed}", *more)
            if more:
                finish(f"resume={alone}", *more)
            names = sorted(path.parent.name for path in alone.glob("*/ckpt"))
            found = [f"{name}: {what}" for name in names for what in differences(alone / name, killed / name)]
            control = len(differences(alone / names[0], killed / names[1]))
            text = f"{ended}: {len(names)} jobs, differences: {found or 'none'}; between two seeds: {control}"
            print(text, flush=True)
            rows.append(
                {
                    "session": len(rows) + 1,
                    "ended": ended,
                    "frames_before": before,
                    "jobs": len(names),
                    "differences": len(found),
                    "differences_of_two_seeds": control,
                }
            )
    columns = list(dict.fromkeys(name for row in rows for name in row))
    record(
        "_".join(["sweep_kills", *(word.removeprefix("launcher=") for word in words[:1])]),
        [{name: row.get(name, "") for name in columns} for row in rows],
    )
    if any(row.get("differences") or row.get("left_running") for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
