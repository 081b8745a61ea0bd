#!/usr/bin/env python3
"""SLURM's commands, told apart by their names, for jobs on this machine: each node is an address of it.

`scontrol requeue` starts a job anew once its tasks have ended, and `scancel` sends a signal to all of them.
The folder in FAKE_SLURM holds what is known of the jobs.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

FOLDER = Path(os.environ["FAKE_SLURM"])
NODES = "127.0.0.[1-%d]"


def sbatch(script: str) -> int:
    """Start a job whose processes outlive this one."""
    text, job = Path(script).read_text(), str(len(list(FOLDER.glob("*.sh"))) + 1)
    copy = FOLDER / f"{job}.sh"
    copy.write_text(text)
    nodes, each = (int(re.findall(rf"--{name}=(\d+)", text)[0]) for name in ("nodes", "ntasks-per-node"))
    about = {"SLURM_JOB_ID": job, "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_NTASKS": str(nodes * each)}
    about |= {"SLURM_JOB_NODELIST": NODES % nodes}
    again, ended = FOLDER / f"{job}.again", FOLDER / f"{job}.ended"
    loop = f"while rm -f {again}; bash {copy}; [ -e {again} ]; do :; done; touch {ended}"
    null = subprocess.DEVNULL
    subprocess.Popen(
        ["bash", "-c", loop],
        env={**os.environ, **about},
        stdin=null,
        stdout=null,
        stderr=null,
        start_new_session=True,
    )
    print(f"Submitted batch job {job}")
    return 0


def srun(*arguments: str) -> int:
    """Start the tasks of this job, and wait for them."""
    options = [word for word in arguments if word.startswith("--")]
    rest = list(arguments)
    files = {name: rest.pop(rest.index(name) + 1) for name in options if name in ("--output", "--error")}
    command = [word for word in rest if word not in options]
    job, count = os.environ["SLURM_JOB_ID"], int(os.environ["SLURM_NTASKS"])
    each = count // int(os.environ["SLURM_JOB_NUM_NODES"])
    tasks = []
    for rank in range(count):
        own = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank % each, "SLURM_NODEID": rank // each}
        paths = [Path(files[name].replace("%j", job).replace("%t", str(rank))) for name in files]
        output, error = (path.open("a") for path in paths)
        variables = {**os.environ, **{name: str(value) for name, value in own.items()}}
        tasks.append(subprocess.Popen(command, env=variables, stdout=output, stderr=error))
    (FOLDER / f"{job}.tasks").write_text(" ".join(str(task.pid) for task in tasks))
    return max(task.wait() for task in tasks)


def scontrol(_: str, job: str) -> int:
    """`scontrol requeue JOB`."""
    (FOLDER / f"{job}.again").touch()
    return 0


def scancel(option: str, job: str) -> int:
    """`scancel --signal=NAME JOB`."""
    for pid in (FOLDER / f"{job}.tasks").read_text().split():
        os.kill(int(pid), getattr(signal, f"SIG{option.partition('=')[2]}"))
    return 0


def sacct(*_: str) -> int:
    """The state of all jobs."""
    print("JobID|State|NodeList")
    for path in FOLDER.glob("*.sh"):
        print(f"{path.stem}|{'COMPLETED' if path.with_suffix('.ended').exists() else 'RUNNING'}|node")
    return 0


if __name__ == "__main__":
    sys.exit(globals()[Path(sys.argv[0]).name](*sys.argv[1:]))
