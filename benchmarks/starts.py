"""`python -m benchmarks.starts [rounds=5] [CASE...]`: starts of runs, sweeps and listings, in seconds.

The sides of a case take turns, and a ratio is the median of those of the rounds: a machine drifts. CPU
seconds stand beside the others. Each case is written to benchmarks/results/starts_<case>.csv.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT, record
from rl.runs.manifest import Manifest
from rl.sweeps.forkserver import Forkserver

TORCH = "import torch"
TORCH_STEP = (
    "import torch; n = torch.nn.Linear(4, 2); o = torch.optim.Adam(n.parameters(), lr=1e-3);"
    "n(torch.zeros(1, 4)).sum().backward(); o.step()"
)
LEAVE = "callbacks=[{_target_: benchmarks.speed_callbacks.leave}]"
FIRST = ["algo.rollout_length=8", LEAVE]
JUDGE = """
import sys, time, resource
from rl.sweeps.plan import plan_sweep
from rl.training.build import check_once
plan_sweep(sys.argv[1:], check=check_once())
"""
Side = Callable[[], tuple[float, float]]  # it was done: wall seconds and CPU seconds


def environment() -> dict[str, str]:
    """Ours, with the package in reach and callbacks that end a process after its first training step."""
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {**os.environ, **threads, "PYTHONPATH": str(ROOT), "ENCORE_BENCHMARK_LEAVE": "1"}


def run(*words: str) -> tuple[float, float]:
    """Python with these arguments, to its end."""
    started_at = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, words
    return time.perf_counter() - started_at, used.ru_utime + used.ru_stime


def take_turns(case: str, sides: dict[str, Side], rounds: int) -> list[dict[str, Any]]:
    """Every side once a round; medians, and the ratio to the first side round by round."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            seconds[name].append(side())
    first = next(iter(seconds.values()))
    return [
        {
            "case": case,
            "side": name,
            "seconds": round(statistics.median(wall for wall, _ in found), 3),
            "cpu_s": round(statistics.median(cpu for _, cpu in found), 3),
            "ratio_to_first": round(
                statistics.median(own / base for (own, _), (base, _) in zip(found, first, strict=True)), 3
            ),
            "cpu_ratio_to_first": round(
                statistics.median(own / base for (_, own), (_, base) in zip(found, first, strict=True)), 3
            ),
            "rounds": rounds,
        }
        for name, found in seconds.items()
    ]


def start(rounds: int, folder: Path) -> list[dict[str, Any]]:
    """A fresh start and a resume, up to the first training step, against torch alone."""
    old = folder / "old"
    run("train.py", FIRST[0], "frames=1k", f"hydra.run.dir={old}", "eval.every=null")

    def resumed() -> tuple[float, float]:
        copy = folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(old, copy, symlinks=True)
        return run("train.py", f"resume={copy}", "frames=2k", LEAVE)

    ppo = ["algo=ppo", "algo.minibatch_size=32"]
    sides: dict[str, Side] = {
        "import torch, and one step of torch.optim.Adam": lambda: run("-c", TORCH_STEP),
        "import torch": lambda: run("-c", TORCH),
        "fresh start to the first training step": lambda: run("train.py", *FIRST, f"outputs={folder}"),
        "the same with PPO": lambda: run("train.py", *FIRST, *ppo, f"outputs={folder}"),
        "resume to the first training step": resumed,
    }
    return take_turns("start", sides, rounds)


def job(rounds: int, folder: Path) -> list[dict[str, Any]]:
    """A second or later job of a sweep on this machine, up to its first training step."""
    server = Forkserver(environment(), subprocess.DEVNULL)
    number = iter(range(10**6))
    words = [*FIRST, "progress=false"]

    def forked() -> tuple[float, float]:
        started_at, used = time.perf_counter(), _cpu_of(server.pid)
        made = server.start([*words, f"hydra.run.dir={folder / str(next(number))}"], shown=False)
        assert made is not None
        while (code := made.poll()) is None:
            time.sleep(0.002)
        assert code == 0, made.errors
        return time.perf_counter() - started_at, _cpu_of(server.pid) - used

    sides: dict[str, Side] = {
        "a Python of its own": lambda: run(
            "-m", "rl.train", *words, f"hydra.run.dir={folder / str(next(number))}"
        ),
        "forked from a warm process": forked,
    }
    try:
        return take_turns("job", sides, rounds)
    finally:
        server.close()


def _cpu_of(pid: int) -> float:
    """The CPU seconds of a process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def sweep(rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Judging a sweep, imports included; nothing is written."""
    line = ["algo=ppo", "algo.lr=1e-3,1e-4", f"outputs={folder}"]
    sides: dict[str, Side] = {
        f"{jobs} jobs judged": lambda jobs=jobs: run("-c", JUDGE, *line, f"seed=range({jobs // 2})")  # type: ignore[misc]
        for jobs in (10, 1000)
    }
    return take_turns("sweep", sides, rounds)


def runs(rounds: int, folder: Path) -> list[dict[str, Any]]:
    """The listing of 1000 runs, and `latest` among 10 and 10,000, up to the first training step."""
    old = folder / "old"
    words = ["frames=8k", "ckpt.every=1k", "eval.every=2k", "algo.rollout_length=64", "seed=1"]
    run("train.py", *words, f"hydra.run.dir={old}")
    places = {number: folder / str(number) for number in (10, 1000, 10_000)}
    for number, place in places.items():
        copies(old, place, number)
    latest: dict[str, Side] = {
        f"resume=latest among {number:,} runs": lambda number=number: run(  # type: ignore[misc]
            "train.py", "resume=latest", "frames=10M", f"outputs={places[number]}", LEAVE
        )
        for number in (10, 10_000)
    }
    listing: dict[str, Side] = {
        "rl.runs, 1,000 runs": lambda: run("-m", "rl.runs", f"outputs={places[1000]}")
    }
    return [*take_turns("latest", latest, rounds), *take_turns("listing", listing, rounds)]


def copies(old: Path, place: Path, number: int) -> None:
    """So many runs: each saved a second after the one before."""
    for n in range(number):
        copy = place / "reinforce_cartpole" / f"{n:06d}"
        shutil.copytree(old, copy, symlinks=True)
        for path in (copy / "ckpt").glob("ckpt-*.json"):
            manifest = Manifest.read(path)
            path.write_bytes(dataclasses.replace(manifest, saved_at=manifest.saved_at + n).to_bytes())


def imports(rounds: int, folder: Path) -> list[dict[str, Any]]:
    """What a fresh start imports, package by package, and what that costs (-X importtime)."""
    costs: dict[str, list[float]] = {}
    modules: dict[str, int] = {}
    for _ in range(rounds):
        one: dict[str, list[float]] = {}
        for name, milliseconds in _imported("train.py", *FIRST, f"outputs={folder}"):
            package = name.partition(".")[0]
            kind = (
                "the standard library" if package.strip("_") in _STANDARD or package in _STANDARD else package
            )
            one.setdefault(kind, []).append(milliseconds)
        for kind, found in one.items():
            costs.setdefault(kind, []).append(sum(found))
            modules[kind] = len(found)
    medians = {kind: statistics.median(found) for kind, found in costs.items()}
    whole = sum(medians.values())
    small = [kind for kind, cost in medians.items() if cost < whole / 200]
    rows = [(kind, modules[kind], medians[kind]) for kind in sorted(medians, key=lambda k: -medians[k])]
    rows = [row for row in rows if row[0] not in small]
    rows.append(("the others", sum(modules[k] for k in small), sum(medians[k] for k in small)))
    return [
        {"package": kind, "modules": count, "ms": round(cost, 1), "share": round(cost / whole, 3)}
        for kind, count, cost in rows
    ]


_STANDARD = sys.stdlib_module_names


def _imported(*words: str) -> list[tuple[str, float]]:
    """The modules that a start imports, each with its own milliseconds."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words],
        cwd=ROOT, env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = [line[12:].split("|") for line in done.stderr.splitlines() if line.startswith("import time:")]
    return [(name.strip(), int(own) / 1000) for own, _, name in lines if own.strip().isdigit()]


CASES: dict[str, Callable[[int, Path], list[dict[str, Any]]]] = {
    "start": start,
    "job": job,
    "sweep": sweep,
    "runs": runs,
    "imports": imports,
}


def main(words: Sequence[str]) -> None:
    """Measure the cases named on the command line, or all."""
    rounds = int(dict(word.split("=", 1) for word in words if "=" in word).get("rounds", 5))
    for name in [word for word in words if "=" not in word] or CASES:
        with tempfile.TemporaryDirectory(prefix="starts-") as folder:
            rows = CASES[name](rounds, Path(folder))
        for row in rows:
            print("  ", *row.values())
        record(f"starts_{name}", rows)


if __name__ == "__main__":
    main(sys.argv[1:])
