"""`python -m benchmarks.scores experiment=NAME [seeds=1-5] [jobs=2] [place=DIR] [name=NAME] [overrides ...]`

Every seed is one `python train.py`. The score is that of result.json: the LAST weights on 100 new greedy
episodes. The best weights' score and the training mean over the last 100 rows of metrics.csv are given too.
The rows of all seeds are written to results/scores_<name>.csv, their learning curves to
results/curves_<name>.csv; `name` is the experiment unless a variant is told apart by another one. With
`place` the runs are kept, and the same command continues them if it was interrupted.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT, record


def train(seed: int, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Train one seed to its end and read its scores."""
    options = [*overrides, f"seed={seed}", f"hydra.run.dir={folder}", "progress=false"]
    command = [sys.executable, "train.py", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    result = json.loads((folder / "result.json").read_text())
    tail = [float(row["total_reward"]) for row in read(folder / "metrics.csv")[-100:] if row["total_reward"]]
    row = {
        "seed": seed,
        "frames": result["frames"],
        "training_mean_last_100_rows": f"{statistics.fmean(tail):.2f}",
    }
    for name in ("last", "best"):
        if name in result:
            score = result[name]
            row |= {
                f"{name}_mean": f"{score['total_reward']:.2f}",
                f"{name}_min": f"{score['total_reward_min']:.2f}",
            }
    print(row, flush=True)
    return row | {"minutes": f"{result['wall_s'] / 60:.1f}"}


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def main() -> None:
    """Train all seeds, and record their scores and curves."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    experiment = words["experiment"]
    first, _, last = words.pop("seeds", "1-5").partition("-")
    jobs = int(words.pop("jobs", "2"))
    kept = words.pop("place", None)
    name = words.pop("name", experiment)
    overrides = [f"{key}={value}" for key, value in words.items()]
    seeds = range(int(first), int(last or first) + 1)
    with tempfile.TemporaryDirectory(prefix="scores-") as place, ThreadPoolExecutor(jobs) as pool:
        folders = {seed: Path(kept or place).absolute() / str(seed) for seed in seeds}
        try:
            rows = list(pool.map(lambda seed: train(seed, folders[seed], overrides), seeds))
        except BaseException:  # a seed was stopped: do not start the waiting ones
            pool.shutdown(cancel_futures=True)
            raise
        curves = [
            {"seed": seed, "table": table, "frames": row["frames"], "total_reward": row["total_reward"]}
            for seed in seeds
            for table in ("metrics", "eval")
            for row in read(folders[seed] / f"{table}.csv")
        ]
    mean = statistics.fmean(float(row["last_mean"]) for row in rows)
    print(f"{name}: mean over {len(rows)} seeds {mean:.2f}")
    record(f"scores_{name}", rows)
    record(f"curves_{name}", curves)


if __name__ == "__main__":
    main()
