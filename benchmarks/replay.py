"""`python -m benchmarks.replay`: the cost of a full replay memory: checkpoint time and peak memory of a load.

The memories: 1M CartPole transitions with a checkpoint every 10k frames, uniform and prioritised; and 100k
Atari transitions (four stacked frames of 84 x 84 bytes), beside the time to train on Pong for as many frames.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.costs import frames_per_second, run_of, training
from benchmarks.record import record
from rl.algos.agent import Rollout
from rl.config import RunConfig
from rl.config.compose import compose
from rl.learning.replay import UniformReplay
from rl.training.build import build
from rl.training.run import Run

INTERVAL = 10_000  # frames between checkpoints
CARTPOLE = [
    "algo=dqn",
    "env=cartpole",
    "env.num_envs=4",
    "algo.replay.capacity=1M",
    f"algo.rollout_length={INTERVAL // 4}",
]
PONG = ["algo=dqn", "env=pong", "env.num_envs=4", "algo.rollout_length=4"]
PONG += ["algo.replay.capacity=100k", "algo.batch_size=32"]
PONG += ["algo.learning_starts=2k", "algo.network._target_=rl.pixels.NatureCNN", "algo.network.hidden=[512]"]
CASES = {
    "1M CartPole transitions": CARTPOLE,
    "1M CartPole transitions, prioritised": [*CARTPOLE, "algo.replay._target_=rl.replay.PrioritizedReplay"],
    "100k Atari transitions": PONG,
}


def fill(run: Run, steps: int) -> None:
    """Add random transitions of all envs for this many steps; an episode ends every 200 steps."""
    memory, rng = run.agent.replay, np.random.default_rng(run.clock.frames)
    assert memory is not None
    like = run.collector.rollout
    for begin in range(0, steps, 250):
        length = min(250, steps - begin)
        shape = (length, memory.num_envs)
        raw = rng.integers(0, 255, (length + 1, *like.obs.shape[1:]), np.uint8)
        done = np.zeros(shape, np.bool_)
        done[-1] = True
        finals = [(length - 1, n, raw[-1, n].astype(like.obs.dtype)) for n in range(memory.num_envs)]
        numbers = np.zeros(shape, np.int64), np.ones(shape, np.float32), done, np.zeros(shape, np.bool_)
        memory.add(Rollout(raw.astype(like.obs.dtype), *numbers, final_obs=finals))
        run.clock.tick(length * memory.num_envs, memory.num_envs)


def measure(name: str, overrides: Sequence[str], repeats: int) -> dict[str, Any]:
    """One case's figures."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as place:
        run = run_of(Path(place), overrides)
        memory = run.agent.replay
        assert isinstance(memory, UniformReplay)
        per_save = INTERVAL // memory.num_envs
        while memory.end < memory.capacity:
            fill(run, per_save)
            run.save()
        seconds = []
        for _ in range(repeats):
            fill(run, per_save)
            started_at = time.perf_counter()
            run.save()
            seconds.append(time.perf_counter() - started_at)
        fsync_s = statistics.median(one_fsync(Path(place) / "file") for _ in range(20))
        command = [sys.executable, "-m", "benchmarks.replay", "load", place, *overrides]
        peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        on_disk = sum(path.stat().st_size for path in (Path(place) / "replay").iterdir())
    parts = build(compose(overrides, RunConfig).config)
    parts.collector.start()
    interval_s = INTERVAL / frames_per_second(training(parts), 20.0, 15.0)
    save_s = statistics.median(seconds)
    return {
        "case": name,
        "checkpoint_ms": f"{1000 * save_s:.1f}",
        "one_fsync_ms": f"{1000 * fsync_s:.2f}",
        "each_ms": " ".join(f"{1000 * s:.1f}" for s in seconds),
        "training_s_for_the_interval": f"{interval_s:.2f}",
        "share_of_training": f"{save_s / interval_s:.4f}",
        "memory_mb": f"{memory.bytes / 1e6:.1f}",
        "peak_of_load": f"{peak:.3f}",
        "on_disk_mb": f"{on_disk / 1e6:.1f}",
    }


def one_fsync(path: Path) -> float:
    """Seconds that this disk takes to make a small file durable: a checkpoint does it four times, one with a
    chunk six times.
    """
    with path.open("wb") as file:
        file.write(b"x" * 4096)
        file.flush()
        started_at = time.perf_counter()
        os.fsync(file.fileno())
        return time.perf_counter() - started_at


def load(folder: Path, overrides: Sequence[str]) -> None:
    """Print what loading a run's checkpoint adds to the peak of this process's memory, in parts of the
    memory's size.
    """
    run = run_of(folder, overrides)
    assert run.plan.manifest is not None
    assert run.agent.replay is not None
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew from here
    before = peak_kb()
    run.load(run.plan.manifest)
    print((peak_kb() - before) * 1024 / run.agent.replay.bytes)


def peak_kb() -> int:
    """The highest resident memory of this process since it was last reset."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1])


def main() -> None:
    """Measure all cases, or load one for another process."""
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["load"]:
        load(Path(sys.argv[2]), sys.argv[3:])
        return
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    rows = [measure(name, overrides, repeats=9) for name, overrides in CASES.items()]
    for row in rows:
        print(row, flush=True)
    record("replay", rows)


if __name__ == "__main__":
    main()
