"""`python -m benchmarks.iteration [case ...]`: where the time of an iteration goes, in CPU milliseconds.

A clock is put around the parts of a training: the environments' steps, acting, the rest of collecting, the
gradient steps, and the rest of learning. The cases are those of benchmarks.speed; one thread.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.costs import make_parts
from benchmarks.record import record
from benchmarks.speed import CASES
from rl.learning.gradient_step import GradientStep
from rl.training.torch_setup import keep_freed_memory

NAMES = ("ppo_cartpole", "ppo_halfcheetah", "ppo_pong", "dqn_cartpole", "sac_pendulum")
WARM_UP_S, TIMED_S = 8.0, 8.0


class Clock:
    """Counts the CPU seconds that functions take."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            result = function(*args, **kwargs)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - began
            return result

        return timed


def measure(overrides: str) -> dict[str, float]:
    """The CPU milliseconds of each part of an iteration."""
    parts, clock = make_parts(*overrides.split()), Clock()
    collector: Any = parts.collector
    agent: Any = parts.agent
    step = GradientStep.__call__
    collector.envs.step = clock.around("step", collector.envs.step)
    agent.act = clock.around("act", agent.act)
    collect, learn = clock.around("collect", collector.collect), clock.around("learn", agent.learn)
    GradientStep.__call__ = clock.around("gradient", step)  # type: ignore[method-assign]
    try:
        for seconds in (WARM_UP_S, TIMED_S):
            clock.seconds.clear()
            iterations, until = 0, time.process_time() + seconds
            while time.process_time() < until:
                learn(collect(agent))
                iterations += 1
    finally:
        GradientStep.__call__ = step  # type: ignore[method-assign]
    took = {name: 1000 * seconds / iterations for name, seconds in clock.seconds.items()}
    return {
        "steps of the environments": took["step"],
        "acting": took["act"],
        "the rest of collecting": took["collect"] - took["step"] - took["act"],
        "gradient steps": took["gradient"],
        "the rest of learning": took["learn"] - took["gradient"],
    }


def main() -> None:
    """Measure the cases named on the command line, or all."""
    keep_freed_memory()  # as train.py does
    rows = []
    for name in sys.argv[1:] or NAMES:
        plain = measure(CASES[name].overrides)
        compiled = measure(f"{CASES[name].overrides} compile=true")
        for part in plain:
            shares = [100 * found[part] / sum(found.values()) for found in (plain, compiled)]
            row = {"case": name, "part": part, "ms": f"{plain[part]:.3g}", "percent": f"{shares[0]:.0f}"}
            row |= {"compiled_ms": f"{compiled[part]:.3g}", "compiled_percent": f"{shares[1]:.0f}"}
            print("  ", *row.values(), flush=True)
            rows.append(row)
    record("iteration", rows)


if __name__ == "__main__":
    main()
