"""`python -m benchmarks.hours [only=TEXT]`: what trainings without scores would take.

Each trains, compiled, until `SECONDS` of CPU time have passed since its first updates. What frames cost from
there does not depend on the load of the machine, or on the time to start and compile. The rows, with the
hours of one core that a seed would take, are written to results/hours.csv, with `only` those alone whose
names contain it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, ROOT, record
from rl.config import RunConfig
from rl.config.compose import compose

SECONDS, WARM_UP = 4.0, 20  # of CPU time; updates before it
OTHERS = {  # trainings that no experiment is for, or not in so many frames
    "crossq_ant_100k, 2048 wide": "experiment=crossq_ant_100k algo.critic_network.hidden=[2048,2048]",
    "tqc_ant_100k": "algo=tqc env=ant frames=100k",
    "ppo_pong, 3M frames": "experiment=ppo_pong frames=3M",
}


class Meter:
    """A callback: frames, updates and CPU time since the first updates to a file, and the process ends."""

    def __init__(self, path: str) -> None:
        self.path, self.begin = path, (0, 0, 0.0)

    def __call__(self, run: Any) -> None:
        """After an iteration."""
        now = (run.clock.frames, run.clock.updates, time.process_time())
        if run.clock.updates < WARM_UP:
            return
        if not self.begin[0]:
            self.begin = now
        elif now[2] - self.begin[2] >= SECONDS:
            Path(self.path).write_text(" ".join(str(a - b) for a, b in zip(now, self.begin, strict=True)))
            os._exit(0)


def cases() -> dict[str, list[str]]:
    """The experiments that have no result file, and OTHERS."""
    names = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
    missing = [name for name in names if not (RESULTS / f"scores_{name}.csv").exists()]
    missing.sort(key=lambda name: name.startswith("ppo"))  # the dear ones first
    return {**{name: [f"experiment={name}"] for name in missing}, **{n: o.split() for n, o in OTHERS.items()}}


def measure(name: str, overrides: list[str]) -> dict[str, Any]:
    """A row."""
    config = compose(overrides, RunConfig).config
    with tempfile.TemporaryDirectory(prefix="hours-") as place:
        path = Path(place) / "cost"
        quick = [] if not hasattr(config.algo, "learning_starts") else ["algo.learning_starts=1000"]
        meter = f"callbacks=[{{_target_: benchmarks.hours.Meter, path: {path}}}]"
        options = [
            f"hydra.run.dir={place}/run",
            "progress=false",
            "compile=true",
            "eval.every=1000M",
            meter,
            *quick,
        ]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "train.py", *overrides, *options]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        frames, updates, seconds = map(float, path.read_text().split())
    row = {
        "training": name,
        "frames": config.frames,
        "updates_per_frame": f"{updates / frames:.3g}",
        "frames_per_cpu_second": f"{frames / seconds:.1f}",
        "updates_per_cpu_second": f"{updates / seconds:.1f}",
        "hours_a_seed": f"{config.frames * seconds / frames / 3600:.2f}",
        "overrides": " ".join(overrides),
    }
    print(row, flush=True)
    return row


def main() -> None:
    """Measure them all."""
    only = dict(word.split("=", 1) for word in sys.argv[1:]).get("only", "")
    rows: list[dict[str, Any]] = []
    for name, overrides in cases().items():
        if only in name:
            rows.append(measure(name, overrides))
            record("hours", rows)  # what is measured stays if it is stopped


if __name__ == "__main__":
    main()
