"""Jobs that are forked from a warm process are as those of new Pythons, in bits and in how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from short_runs import TINY, differences, environment, record

import rl.clock
from benchmarks.sweep_kills import alive, children
from rl.runs import history
from rl.sweeps.forkserver import Forked, Forkserver, Unusable
from rl.sweeps.launchers import Processes
from rl.training.run import Run

LINE = [*TINY, "frames=256"]


def look_around(run: Run) -> None:
    """A callback: what a job's process is like."""
    numbers = [number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]
    seen = {
        "argv": sys.argv[0],
        "main": sys.modules["__main__"].__spec__.name,
        "environ": {n: value for n, value in os.environ.items() if n != "PYTEST_CURRENT_TEST"},
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads(), threading.active_count()],
        "torch": torch.get_rng_state().tolist(),
        "signals": {int(number): repr(signal.getsignal(number)).partition(" at ")[0] for number in numbers},
        "mask": list(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "directory": os.getcwd(),
        "session": os.getsid(0) == os.getpid(),
        "files": sorted(set(os.listdir("/proc/self/fd")) & {"0", "1", "2"}),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "float": np.geterr() | {"torch": str(torch.get_default_dtype())},
        "ours": sorted(name for name in sys.modules if name.startswith("rl.")),
    }
    (run.folder / "seen.json").write_text(json.dumps(seen))


def crash(run: Run) -> None:
    """A callback: ends its process without a word."""
    del run
    os.kill(os.getpid(), signal.SIGSEGV)


def wait_for(happened: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def code_of(job: Any) -> int:
    wait_for(lambda: job.poll() is not None)
    code: int = job.poll()
    return code


@pytest.fixture(scope="module")
def server() -> Iterator[Forkserver]:
    made = Forkserver(environment(), subprocess.DEVNULL)
    yield made
    made.close()


def start(server: Forkserver, run: Path, *words: str) -> Forked:
    job = server.start([*words, f"hydra.run.dir={run}"], shown=False)
    assert job is not None
    return job


def first_session(run: Path) -> dict[str, Any]:
    """Its line of history but for the time and the folder."""
    session = history.read(run)[0]
    del session["time"]
    session["command"] = session["command"].replace(run.name, "")
    return session


@pytest.mark.parametrize("words", [["seed=1"], ["seed=2", "threads=2", "algo=sac", "env=pendulum"]])
def test_a_fork_trains_as_a_new_python(server: Forkserver, tmp_path: Path, words: list[str]) -> None:
    runs = tmp_path / "run-one", tmp_path / "run-two"
    small = ["algo.learning_starts=64", "algo.batch_size=8"] if "algo=sac" in words else []
    line = [*LINE, *words, *small, "callbacks=[{_target_: test_forkserver.look_around}]"]
    if small:
        line = [word for word in line if "rollout_length" not in word]
    fork = start(server, runs[0], *line)
    alone = subprocess.run(
        [sys.executable, "-m", "rl.train", *line, f"hydra.run.dir={runs[1]}"],
        env=environment(),
        cwd=f"/proc/{fork.pid}/cwd",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        start_new_session=True,
        check=False,
    )
    assert (code_of(fork), alone.returncode) == (0, 0), fork.errors + alone.stderr.decode()
    seen = [json.loads((run / "seen.json").read_text()) for run in runs]
    assert seen[0] == seen[1]
    assert first_session(runs[0]) == first_session(runs[1])
    assert differences(record(runs[0]), record(runs[1])) == []
    assert code_of(start(server, tmp_path / "run-six", *line, "seed=6")) == 0
    assert differences(record(runs[0]), record(tmp_path / "run-six")) != []  # the negative control
    assert fork.errors == alone.stderr.decode() == ""


def test_exit_codes_and_errors_are_the_jobs_own(server: Forkserver, tmp_path: Path) -> None:
    refused = start(server, tmp_path / "a", "algo=nope")
    crashed = start(server, tmp_path / "b", *LINE, "callbacks=[{_target_: test_forkserver.crash}]")
    failed = start(server, tmp_path / "c", *LINE, "callbacks=[{_target_: test_forkserver.nothing}]")
    stopped = start(server, tmp_path / "d", *LINE, "frames=10M")
    wait_for(lambda: (tmp_path / "d" / "history.jsonl").exists())
    stopped.send_signal(signal.SIGTERM)
    assert [code_of(job) for job in (refused, crashed, failed, stopped)] == [2, -signal.SIGSEGV, 2, 75]
    assert refused.errors.startswith("algo=nope: no such algo")
    assert "Traceback" not in failed.errors
    refused.send_signal(signal.SIGTERM)  # it has ended: nobody gets it
    assert code_of(start(server, tmp_path / "e", *LINE)) == 0  # a crash does not hurt the server


def test_an_edit_of_our_code_is_noticed(server: Forkserver, tmp_path: Path) -> None:
    path = rl.clock.__file__
    before = os.stat(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    try:
        assert server.start([*LINE, f"hydra.run.dir={tmp_path / 'a'}"], shown=False) is None
    finally:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert code_of(start(server, tmp_path / "a", "algo=nope")) == 2


def test_a_killed_server_takes_its_jobs_and_is_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    launcher = Processes(2)
    job = launcher.start([*LINE, "frames=10M", f"hydra.run.dir={tmp_path / 'a'}"], tmp_path, 1)
    assert isinstance(job, Forked)
    wait_for(lambda: (tmp_path / "a" / "history.jsonl").exists())
    server = launcher._jobs._server
    assert server is not None
    os.kill(server.pid, signal.SIGKILL)
    assert code_of(job) == -signal.SIGKILL
    wait_for(lambda: not alive(job.pid))
    job.send_signal(signal.SIGTERM)
    again = launcher.start([*LINE, f"hydra.run.dir={tmp_path / 'b'}"], tmp_path, 1)
    assert isinstance(again, Forked)
    assert code_of(again) == 0


PARENT = """
import subprocess, sys, time
from rl.sweeps.launchers import Processes
job = Processes(1).start(sys.argv[1:], None, 1)
print(job.pid, flush=True)
time.sleep(600)
"""


def test_nothing_outlives_a_killed_parent(tmp_path: Path) -> None:
    words = [*LINE, "frames=10M", f"hydra.run.dir={tmp_path / 'a'}"]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *words], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    job = int(parent.stdout.readline())
    wait_for(lambda: (tmp_path / "a" / "history.jsonl").exists())
    family = children(parent.pid)
    assert job in family
    assert len(family) == 2  # the server and the job
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(map(alive, family)), seconds=10)


def test_without_a_fork_jobs_are_new_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A module that starts a thread when it is imported."""
    (tmp_path / "sitecustomize.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    )
    threaded = environment() | {"PYTHONPATH": f"{tmp_path}:{environment()['PYTHONPATH']}"}
    with pytest.raises(Unusable, match="imports have started 1 threads"):
        Forkserver(threaded, subprocess.DEVNULL)
    monkeypatch.setenv("PYTHONPATH", threaded["PYTHONPATH"])
    job = Processes(1).start(["algo=nope"], tmp_path, 1)
    assert not isinstance(job, Forked)
    assert code_of(job) == 2
    assert job.errors.startswith("algo=nope: no such algo")
    assert "every job starts a Python of its own: imports have started 1 threads" in capfd.readouterr().err
