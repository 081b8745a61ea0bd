"""Sweeps through submitit, on this machine as on a cluster, and on a local Ray cluster: jobs are requeued,
killed and come back.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from short_runs import TINY, command, differences, environment, go, record, rows, typed

from benchmarks.sweep_kills import children
from rl.runs.lock import is_locked

LINE = [*TINY, "frames=8192", "eval.every=4000", "ckpt.every=1024", "callbacks=[{_target_: short_runs.hold}]"]
SWEEP = Path("sweep")


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def trained(jobs: int) -> Callable[[], bool]:
    return lambda: len(list(SWEEP.glob("*/ckpt/ckpt-3072.json"))) >= jobs


def holder(run: Path) -> int:
    """The process that trains in a folder."""
    return int((run / ".lock").read_text().split()[1])


@pytest.mark.parametrize("launcher", ["slurm", "ray"])
def test_a_killed_cluster_sweep_resumes_bit_for_bit(launcher: str) -> None:
    pytest.importorskip("submitit" if launcher == "slurm" else "ray")
    Path("hold").touch()
    words = ["-m", *LINE, "seed=1,2", f"hydra.sweep.dir={SWEEP}", f"launcher={launcher}", "launcher.n_jobs=2"]
    words += ["launcher.cluster=local"] if launcher == "slurm" else []
    pipe = subprocess.PIPE
    parent = subprocess.Popen(
        command(*words), stdout=pipe, stderr=subprocess.STDOUT, env=environment(), text=True
    )
    wait_for(trained(2), parent)
    # what SLURM sends before the time limit: the job saves and is requeued, and goes on
    if launcher == "slurm":
        run = SWEEP / "seed=1"
        before = holder(run)
        os.kill(before, signal.SIGUSR2)
        Path("hold").unlink()  # the iteration in which it waits has to end
        wait_for(lambda: (run / "history.jsonl").read_text().count("\n") == 2, parent)
        assert holder(run) != before
        output = parent.communicate()[0]
        assert parent.returncode == 0, output
    else:
        for pid in [*children(parent.pid), parent.pid]:
            kill(pid)
        parent.wait()
        Path("hold").unlink()
        deadline = time.monotonic() + 30
        while any(is_locked(path) for path in SWEEP.glob("seed=*")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        done = typed("-m", f"resume={SWEEP}")
        assert done.returncode == 0, done.stdout + done.stderr
    for seed in (1, 2):
        assert go(Path(f"alone-{seed}"), *LINE, f"seed={seed}") == 0
        assert differences(record(Path(f"alone-{seed}")), record(SWEEP / f"seed={seed}")) == []
    assert len(rows(SWEEP / "seed=1" / "metrics.csv")) == 128


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # it went with another
        return
