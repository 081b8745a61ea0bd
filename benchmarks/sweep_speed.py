"""`python -m benchmarks.sweep_speed [repeats=5]`: two jobs of a sweep against two runs by hand.

Frames per second of training, the sum of both runs, from their metrics.csv; the two ways take turns to go
first.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.record import record, started
from rl.runs.tables import last_row

SETTINGS = ["algo=a2c", "frames=100k", "eval.every=null", "ckpt.every=50k", "log_every=10k", "progress=false"]


def by_hand(folder: Path) -> None:
    """Two runs, started at once."""
    runs = [started(f"hydra.run.dir='{folder}/seed={seed}'", *SETTINGS, f"seed={seed}") for seed in (1, 2)]
    assert [run.wait() for run in runs] == [0, 0]


def in_a_sweep(folder: Path) -> None:
    """The same two runs as jobs of a sweep."""
    launcher = ["launcher=processes", "launcher.n_jobs=2"]
    sweep = started("-m", f"hydra.sweep.dir={folder}", *SETTINGS, "seed=1,2", *launcher)
    assert sweep.wait() == 0


def frames_per_second(folder: Path) -> float:
    """The sum over both runs."""
    rows = [last_row(folder / f"seed={seed}" / "metrics.csv") or {} for seed in (1, 2)]
    return sum(int(row["frames"]) / float(row["wall_s"]) for row in rows)


def main() -> None:
    """Measure, and write the medians."""
    repeats = int(dict(word.split("=", 1) for word in sys.argv[1:]).get("repeats", 5))
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    measured: dict[str, list[float]] = {"two runs by hand": [], "two jobs of a sweep": []}
    with tempfile.TemporaryDirectory(prefix="side-by-side-") as place:
        for repeat in range(repeats):
            ways = list(zip(measured.items(), (by_hand, in_a_sweep), strict=True))
            for (name, found), way in ways if repeat % 2 == 0 else reversed(ways):
                folder = Path(place) / f"{repeat} {name}".replace(" ", "-")
                way(folder)
                found.append(frames_per_second(folder))
                print(f"{name}: {found[-1]:.0f} frames/s", flush=True)
    medians = {name: statistics.median(found) for name, found in measured.items()}
    first = medians["two runs by hand"]
    rows = [
        {
            "case": name,
            "frames_per_s": round(median),
            "ratio": round(median / first, 3),
            "repeats": " ".join(f"{f:.0f}" for f in measured[name]),
        }
        for name, median in medians.items()
    ]
    record("sweep_speed", rows)


if __name__ == "__main__":
    main()
