"""What a training's parts cost: `python -m benchmarks.costs [case ...] [repeats=5]`; without a case, all.

The sides of a case alternate within one process, on one thread, and medians are compared. Speed against other
libraries is measured by benchmarks.speed.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import ROOT, record
from rl.config import RunConfig
from rl.config.compose import compose
from rl.config.overrides import Overrides
from rl.runs.manifest import Manifest
from rl.runs.plan import Plan
from rl.training.build import Parts, build
from rl.training.metrics import Metrics
from rl.training.run import Run

WARM_UP_S, TIMED_S = 1.0, 4.0
Side = Callable[[], float]  # measures once; the bigger the better


def frames_per_second(
    step: Callable[[], int], timed_s: float = TIMED_S, warm_up_s: float = WARM_UP_S
) -> float:
    """Frames per second of repeated calls of `step`, each giving the frames it took, after a warm-up."""
    until = time.perf_counter() + warm_up_s
    while time.perf_counter() < until:
        step()
    frames, started_at = 0, time.perf_counter()
    while (now := time.perf_counter()) < started_at + timed_s:
        frames += step()
    return frames / (now - started_at)


def make_parts(*overrides: str) -> Parts:
    """A run's parts, ready for its first iteration."""
    parts = build(compose(overrides, RunConfig).config)
    parts.collector.start()
    return parts


def training(parts: Parts) -> Callable[[], int]:
    """One iteration: collect and learn."""

    def step() -> int:
        rollout = parts.collector.collect(parts.agent)
        parts.agent.learn(rollout)
        return rollout.reward.size

    return step


def random_actions(parts: Parts) -> Callable[[], int]:
    """The same vector env alone, with actions drawn beforehand."""
    envs, count = parts.collector.envs, 2000
    actions = [envs.action_space.sample() for _ in range(count)]

    def step() -> int:
        for action in actions:
            envs.step(action)
        return count * envs.num_envs

    return step


def alternate(sides: dict[str, Side], repeats: int) -> dict[str, list[float]]:
    """Measure the sides in turn, `repeats` times each."""
    values: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            values[name].append(side())
            print(f"  {name}: {values[name][-1]:.4g}", flush=True)
    return values


def rows_of(case: str, unit: str, values: dict[str, list[float]]) -> list[dict[str, Any]]:
    """One row for each side: the median, all values, and the ratio of its median to the first side's."""
    first = statistics.median(next(iter(values.values())))
    return [
        {
            "case": case,
            "side": side,
            "median": f"{statistics.median(measured):.6g}",
            "unit": unit,
            "ratio_to_first": f"{statistics.median(measured) / first:.4g}",
            "values": " ".join(f"{value:.6g}" for value in measured),
        }
        for side, measured in values.items()
    ]


def training_with_metrics(*overrides: str, frames: int = 4096) -> Callable[[], int]:
    """About `frames` of iterations as the loop makes them, rows of metrics.csv included; without evaluation
    and checkpoints.
    """
    parts = make_parts(*overrides)
    cfg, clock, agent, collector = parts.config, parts.clock, parts.agent, parts.collector
    metrics = Metrics(Path(tempfile.mkdtemp()) / "metrics.csv", agent.columns)
    metrics.table.start()
    batch = max(1, frames // (agent.rollout_length * cfg.env.num_envs))

    def step() -> int:
        before = clock.frames
        for _ in range(batch):
            rollout = collector.collect(agent)
            metrics.add_episodes(collector.ended_returns, collector.ended_lengths)
            metrics.add(agent.learn(rollout))
            if clock.due(cfg.log_every):
                metrics.write(clock)
        return clock.frames - before

    return step


def reinforce_cartpole(repeats: int) -> list[dict[str, Any]]:
    """Training against the same vector env with random actions alone."""
    alone = make_parts()
    train = training_with_metrics()
    sides = {
        "random actions": lambda: frames_per_second(random_actions(alone)),
        "training": lambda: frames_per_second(train),
    }
    return rows_of("reinforce_cartpole", "frames/s", alternate(sides, repeats))


def tape(repeats: int) -> list[dict[str, Any]]:
    """Seconds of one iteration, and what of them the tape takes."""
    parts = make_parts()
    step, record_actions = training(parts), parts.collector.tape.record
    spent: list[float] = []

    def timed(*arguments: Any) -> None:
        started_at = time.perf_counter()
        record_actions(*arguments)
        spent.append(time.perf_counter() - started_at)

    parts.collector.tape.record = timed  # type: ignore[method-assign, assignment]
    frames = parts.collector.rollout.reward.size
    sides = {
        "one iteration": lambda: frames / frames_per_second(step),
        "recording its actions": lambda: statistics.median(spent),
    }
    return rows_of("tape", "s", alternate(sides, repeats))


def run_of(folder: Path, overrides: Sequence[str]) -> Run:
    """A run in a folder, at frame 0 or where its newest checkpoint is."""
    composed = compose(overrides, RunConfig)
    parts = build(composed.config)
    manifests = sorted(
        (Manifest.read(path) for path in folder.glob("ckpt/ckpt-*.json")), key=lambda m: m.frames
    )
    run = Run(Plan(folder, composed, Overrides(), manifest=manifests[-1] if manifests else None), parts)
    if not manifests:
        run.begin("benchmark")
    return run


def checkpoints(repeats: int) -> list[dict[str, Any]]:
    """Seconds of training between two checkpoints at the default interval, against the seconds that a
    checkpoint takes.
    """
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        run = run_of(Path(folder), [])
        interval = run.parts.config.ckpt.every
        assert interval is not None
        step = training(run.parts)

        def save() -> float:
            step()  # a checkpoint of new frames
            started_at = time.perf_counter()
            run.save()
            return time.perf_counter() - started_at

        sides = {
            "training for one interval": lambda: interval / frames_per_second(step),
            "one checkpoint": lambda: statistics.median(save() for _ in range(5)),
        }
        return rows_of("checkpoints", "s", alternate(sides, repeats))


CASES: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "reinforce_cartpole": reinforce_cartpole,
    "tape": tape,
    "checkpoints": checkpoints,
}


def main() -> None:
    """Measure the cases named on the command line."""
    words = sys.argv[1:]
    repeats = next((int(w.partition("=")[2]) for w in words if w.startswith("repeats=")), 5)
    names = [w for w in words if "=" not in w] or list(CASES)
    unknown = set(names) - set(CASES)
    if unknown:
        raise SystemExit(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    np.random.seed(0)
    for name in names:
        print(name, flush=True)
        rows = CASES[name](repeats)
        for row in rows:
            print(f"  {row['side']}: {row['median']} {row['unit']}, {row['ratio_to_first']} of the first")
        record(f"costs_{name}", rows)


if __name__ == "__main__":
    main()
