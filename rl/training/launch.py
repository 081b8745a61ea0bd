"""`processes=N`: the command that was typed starts N processes, watches them, and ends as they do.

The parent judges the command line, holds the run's lock and trains nothing; it does not import torch. Each
process has the plan from it. They share a `Board` with it: a request to stop, and who waits for the others.
"""

from __future__ import annotations

import mmap
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rl.children import die_with, environment
from rl.config import ConfigError, RunConfig
from rl.config.invocation import command
from rl.runs import files
from rl.runs.outcome import FAILED, INTERRUPTED, REFUSED, TO_BE_CONTINUED, Stop
from rl.runs.plan import Plan

PLACE = "ENCORE_PROCESSES"  # the environment variable that names what a parent shares with its processes
LOST_THE_OTHERS = 77  # the exit code of a process that ends because another did; the parent tells why
LOGS = "processes"  # the folder in a run's for the output of all processes but the first
_GRACE_S = 5.0  # after one has failed, for the others to end by themselves
_LOOK_S = 0.05
_ENDED_WELL = (0, TO_BE_CONTINUED, INTERRUPTED)


class Board:
    """Numbers that all processes on a machine see: a signal that asks all to stop, and for each process when
    it began to wait for the others, 0 while it works.
    """

    def __init__(self, path: Path, size: int) -> None:
        """Make the file if it is not there."""
        if not path.exists():
            path.write_bytes(bytes(8 * (1 + size)))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 8 * (1 + size))

    def _get(self, slot: int) -> float:
        return float(struct.unpack_from("d", self._memory, 8 * slot)[0])

    @property
    def requested(self) -> int:
        """The signal that asks all to stop; 0: none."""
        return int(self._get(0))

    def request(self, number: int) -> None:
        """Ask all to stop, for this signal."""
        struct.pack_into("d", self._memory, 0, float(number))

    def waits(self, rank: int, waiting: bool) -> None:
        """Note whether a process waits for the others from now on."""
        struct.pack_into("d", self._memory, 8 * (1 + rank), time.monotonic() if waiting else 0.0)

    def waited_s(self, rank: int) -> float:
        """For how long a process has waited."""
        since = self._get(1 + rank)
        return time.monotonic() - since if since else 0.0


def check_processes(config: RunConfig) -> list[str]:
    """A warning if there are more processes than cores here.

    ConfigError, with the nearest numbers that would do, if the environments or a minibatch cannot be shared
    out evenly.
    """
    algo, size = config.algo, config.processes
    whole = {"env.num_envs": (config.env.num_envs, 1)}
    sequence = getattr(algo, "sequence_length", None) or 1
    for name, unit in (("minibatch_size", sequence), ("batch_size", 1)):
        if isinstance(count := getattr(algo, name, None), int):
            whole[f"algo.{name}"] = count, unit
    wrong = {name: (count, unit) for name, (count, unit) in whole.items() if count // unit % size}
    if wrong:
        lines = []
        for name, (count, unit) in wrong.items():
            below = count // (unit * size) * unit * size
            near = " or ".join(f"{name}={n}" for n in (below, below + unit * size) if n)
            of = f" sequences of {unit}" if unit > 1 else ""
            lines.append(f"processes={size} do not share {name}={count}{of} evenly; type {near}")
        counts = [count // unit for count, unit in whole.values()]
        fits = [n for n in range(1, min(counts) + 1) if not any(count % n for count in counts)]
        nearest = min(fits, key=lambda n: abs(n - size))
        raise ConfigError(
            "\n".join([*lines, f"with these numbers processes={nearest} is the nearest that does"])
        )
    here, cores = size, len(os.sched_getaffinity(0))
    if "LOCAL_WORLD_SIZE" in os.environ:  # a cluster may have given this process only cores of its own
        here, cores = int(os.environ["LOCAL_WORLD_SIZE"]), os.cpu_count() or 1
    if here * config.threads <= cores:
        return []
    each = f"{here} processes with threads={config.threads} each"
    return [f"{each}: there are {cores} cores here; more processes are slower"]


@dataclass
class _Failure:
    """Why the group went down."""

    rank: int
    why: str


def launch(plan: Plan, typed: str, arguments: Sequence[str]) -> int:
    """Train a planned run, whose folder is taken, in `processes` processes; the exit code."""
    size = plan.config.processes
    with tempfile.TemporaryDirectory(prefix="encore-") as place, Stop(second_leaves=False) as stop:
        board = Board(Path(place, "board"), size)
        Path(place, "plan").write_bytes(pickle.dumps((replace(plan, lock=None), typed, sys.argv[0])))
        logs = plan.folder / LOGS
        logs.mkdir(exist_ok=True)
        processes = [_start(rank, size, Path(place), logs, arguments) for rank in range(size)]
        try:
            code, failure = _watch(processes, board, stop, plan.config.processes_limit_s)
        finally:
            for process in processes:
                process.kill()
                process.wait()
    if failure:
        _tell(plan, failure, size)
    if (
        code == REFUSED
        and plan.manifest is None
        and {p.name for p in plan.folder.iterdir()} <= {".lock", LOGS}
    ):
        shutil.rmtree(plan.folder)  # nothing came of it
    return code


def _start(
    rank: int, size: int, place: Path, logs: Path, arguments: Sequence[str]
) -> subprocess.Popen[bytes]:
    """One process of the group, which does not outlive this one, out of reach of the terminal's Ctrl-C."""
    about = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, PLACE: place}
    output: Any = None if rank == 0 else (logs / f"process-{rank}.log").open("ab")
    process = subprocess.Popen(
        [sys.executable, "-m", "rl.train", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env={**environment(), **{name: str(value) for name, value in about.items()}},
        start_new_session=True,
        preexec_fn=die_with(os.getpid()),
    )
    if output is not None:
        output.close()
    return process


def _watch(
    processes: Sequence[subprocess.Popen[bytes]], board: Board, stop: Stop, limit_s: float
) -> tuple[int, _Failure | None]:
    """Wait until all have ended; the exit code, and why if one took the others down."""
    failed_at = 0.0
    final = {signal.SIGTERM, signal.SIGINT}
    while True:
        codes = [process.poll() for process in processes]
        if stop.requested and not board.requested:
            board.request(stop.requested[0])
        if len([number for number in stop.requested if number in final]) > 1:  # leave at once
            return INTERRUPTED if signal.SIGINT in stop.requested else 128 + signal.SIGTERM, None
        bad = [code for code in codes if code is not None and code not in _ENDED_WELL]
        now = time.monotonic()
        failed_at = failed_at or (now if bad else 0.0)
        if None not in codes or (failed_at and now > failed_at + _GRACE_S):
            return _verdict(codes)
        waits = {rank: board.waited_s(rank) for rank, code in enumerate(codes) if code is None}
        if max(waits.values()) > limit_s:
            stopped = [rank for rank in waits if _is_stopped(processes[rank].pid)]
            silent = stopped or [rank for rank, seconds in waits.items() if not seconds]
            why = f"has not answered for {limit_s:g} s (processes_limit_s)"
            return FAILED, _Failure((silent or [max(waits, key=waits.__getitem__)])[0], why)
        time.sleep(_LOOK_S)


def _is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal, as SIGSTOP does."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"


def _verdict(codes: Sequence[int | None]) -> tuple[int, _Failure | None]:
    """The exit code of all, and which process was the first to fail, unless that is the one that says so."""
    ended = {rank: code for rank, code in enumerate(codes) if code is not None}
    for rank, code in ended.items():
        if code < 0:
            hint = " (the kernel does so when memory runs out)" if code == -signal.SIGKILL else ""
            return FAILED, _Failure(rank, f"was killed by {signal.Signals(-code).name}{hint}")
    wrong = {rank: c for rank, c in ended.items() if c not in (*_ENDED_WELL, LOST_THE_OTHERS)}
    if 0 in wrong:
        return wrong[0], None
    for rank, code in wrong.items():
        return code if code in (FAILED, REFUSED) else FAILED, _Failure(rank, "failed")
    for rank, code in ended.items():
        if code == LOST_THE_OTHERS:
            return FAILED, _Failure(rank, "lost its connection to the others")
    return ended[0], None


def _tell(plan: Plan, failure: _Failure, size: int) -> None:
    """Say why the group went down, on the terminal and in the log."""
    log = plan.folder / LOGS / f"process-{failure.rank}.log"
    where = f" ({log})" if failure.rank and log.stat().st_size else ""
    resume = command("train", f"resume={plan.folder}")
    text = (
        f"stopped: process {failure.rank} of {size} {failure.why}{where}; the last checkpoint stands, go on"
        f" with: {resume}"
    )
    print(text, file=sys.stderr)
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    files.append(plan.folder / "train.log", f"[{stamp}][ERROR] {text}\n".encode())
