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
from short_runs import TINY, command, differences, environment, go, record, rows, started, typed

from benchmarks.sweep_kills import children
from rl.runs import history
from rl.runs.lock import is_locked

LINE = [*TINY, "frames=8192", "eval.every=4000", "ckpt.every=1024", "callbacks=[{_target_: short_runs.hold}]"]
SWEEP, FAKE = Path("sweep"), Path(__file__).with_name("fake_slurm.py")


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


def test_tasks_of_a_slurm_job_train_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On two nodes; told of the time limit they save together, and the requeued job has the same bits."""
    pytest.importorskip("submitit")
    for name in ("sbatch", "srun", "scontrol", "scancel", "sacct"):
        (tmp_path / name).symlink_to(FAKE)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path))
    Path("hold").touch()
    line = [*LINE, "algo=ppo", "env.num_envs=2", "algo.minibatch_size=16"]
    cluster = ["launcher=slurm", "launcher.cluster=slurm", "launcher.tasks=2", "launcher.nodes=2"]
    parent = started("-m", *line, *cluster, f"hydra.sweep.dir={SWEEP}")
    run = SWEEP / "0"
    wait_for(trained(1), parent)
    subprocess.run(["scancel", "--signal=USR2", "1"], check=True)
    Path("hold").unlink()
    output = parent.communicate(timeout=240)[0]
    assert parent.returncode == 0, output
    job = (tmp_path / "1.sh").read_text()
    asked = ("nodes=2", "ntasks-per-node=1", "cpus-per-task=1")
    assert [one for one in asked if f"#SBATCH --{one}\n" not in job] == []
    past = history.read(run)
    assert [one["world"]["processes"] for one in past] == [2, 2]
    assert typed(*line, "processes=2", "hydra.run.dir=alone").returncode == 0
    assert typed(*line, "hydra.run.dir=one-process").returncode == 0
    tasks, processes, one = (record(path) for path in (run, Path("alone"), Path("one-process")))
    assert set(processes.pop("files")) - set(tasks.pop("files")) == {"processes"}  # the others' output
    assert differences(processes, tasks) == []
    del one["files"]
    assert differences(one, tasks)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["launcher.tasks=3"], "processes=3 do not share env.num_envs=4 evenly"),
        (["launcher.tasks=4", "launcher.nodes=3"], "nodes=3 do not share launcher.tasks=4 evenly"),
        (["launcher.tasks=4", "processes=2"], "launcher.tasks=4 and processes=2: each task is a process"),
    ],
)
def test_tasks_that_cannot_share_a_run_are_refused(words: list[str], message: str) -> None:
    done = typed("-m", "algo=a2c", "env=cartpole", "env.num_envs=4", "launcher=slurm", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert not Path("outputs").exists()
