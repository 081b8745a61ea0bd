"""`python -m benchmarks.memory [case ...]`: the peak of the memory of a training, beside Stable-Baselines3's.

Each side trains alone, as in benchmarks.speed, until it has seen so many frames; then the largest resident
size of its process so far is read. A replay memory of a million transitions is filled before the first
update.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT, record
from benchmarks.speed import CASES, Side, encore, other

_FULL = {"buffer_size": 1_000_000, "learning_starts": 1_000_000}
# frames, the case of benchmarks.speed, further overrides, further arguments
MEASURED: dict[str, tuple[int, str, str, dict[str, Any]]] = {
    "PPO CartPole": (100_000, "ppo_cartpole", "", {}),
    "DQN CartPole, 1M transitions": (
        1_010_000,
        "dqn_cartpole",
        "algo.replay.capacity=1M algo.learning_starts=1M",
        _FULL,
    ),
    "PPO Pong": (10_000, "ppo_pong", "", {}),
}


def peak_mib(command: list[str], frames: int, log: Path) -> float:
    """Of a side that trains for so many frames."""
    side = Side(command, ROOT, 1, log)
    try:
        seen = 0
        while seen < frames:
            seen += side.turn(1.0).frames
        status = Path(f"/proc/{side.pid}/status").read_text().split("\n")
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    finally:
        side.close()


def main() -> None:
    """Measure the trainings named on the command line, or all."""
    rows = []
    for name in sys.argv[1:] or MEASURED:
        frames, case, overrides, arguments = MEASURED[name]
        with tempfile.TemporaryDirectory() as place:
            ours = encore(f"{CASES[case].overrides} {overrides}", Path(place) / "run")
            theirs = other(1, {"library": "stable_baselines3", **CASES[case].peer, **arguments})
            for side, command in (("Stable-Baselines3", theirs), ("Encore", ours)):
                mib = peak_mib(command, frames, Path(place) / "log")
                rows.append({"training": name, "frames": frames, "side": side, "peak_mib": f"{mib:.0f}"})
                print("  ", *rows[-1].values(), flush=True)
    record("memory", rows)


if __name__ == "__main__":
    main()
