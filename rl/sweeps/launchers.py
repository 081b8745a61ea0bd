"""How a sweep runs its jobs: each a process that trains in its own folder, as if typed by hand."""

from __future__ import annotations

import importlib
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rl.children import die_with, environment, read_errors
from rl.config import ConfigError, install_line
from rl.runs.outcome import EXIT_CODES
from rl.sweeps.forkserver import Forkserver, Unusable


class Running(Protocol):
    """A job that was started."""

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""

    def send_signal(self, number: int) -> None:
        """Have it save and leave (a second time: leave at once)."""

    @property
    def errors(self) -> str:
        """What it wrote to stderr, if that was not shown."""


class Launcher(Protocol):
    """What starts jobs."""

    shown: bool  # whether the jobs themselves write to the terminal

    def slots(self, threads: int) -> int:
        """How many jobs of so many threads run at a time."""

    def start(self, arguments: Sequence[str], folder: Path, threads: int) -> Running:
        """Start `train.py` with these arguments; `folder` is the sweep's."""


class Basic:
    """One job after the other, each shown as it runs."""

    shown = True

    def __init__(self) -> None:
        self._jobs = _LocalJobs(output=None)

    def slots(self, threads: int) -> int:
        """One."""
        return 1

    def start(self, arguments: Sequence[str], folder: Path, threads: int) -> Running:
        """A process that writes to our terminal."""
        return self._jobs.start(arguments)


class Processes:
    """Jobs side by side on this machine."""

    shown = False

    def __init__(self, n_jobs: int | None) -> None:
        self.n_jobs, self._jobs = n_jobs, _LocalJobs(output=subprocess.DEVNULL)

    def slots(self, threads: int) -> int:
        """`n_jobs`, or as many as this process's cores have room for."""
        return self.n_jobs or room_for(threads)

    def start(self, arguments: Sequence[str], folder: Path, threads: int) -> Running:
        """A process whose output goes to its own log."""
        return self._jobs.start(arguments)


class _LocalJobs:
    """Jobs on this machine: forks of a process that has loaded torch, else new processes."""

    def __init__(self, *, output: int | None) -> None:
        self._output = output
        self._server: Forkserver | None = None
        self._warm = True

    def start(self, arguments: Sequence[str]) -> Running:
        """A job that writes to our terminal, or to its log alone."""
        job = None
        try:
            while self._warm and job is None:
                if self._server is None or self._server.lost:
                    self._server = Forkserver(environment(), self._output)
                job = self._server.start(arguments, shown=self._output is None)
                if job is None:  # its code is old by now
                    self._server = None
        except Unusable as error:
            self._warm = False
            print(f"every job starts a Python of its own: {error}", file=sys.stderr)
        return job or Process(arguments, output=self._output)


class Process:
    """`train.py` in a process that does not outlive this one, out of reach of the terminal's Ctrl-C."""

    def __init__(self, arguments: Sequence[str], *, output: int | None) -> None:
        """`output`: where it goes, as `subprocess` has it; None is our terminal, for errors too."""
        self._errors = None if output is None else tempfile.TemporaryFile()  # noqa: SIM115  open while it runs
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rl.train", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=self._errors,
            text=True,
            errors="replace",
            env=environment(),
            start_new_session=True,
            preexec_fn=die_with(os.getpid()),
        )
        self.poll, self.wait, self.kill = self._process.poll, self._process.wait, self._process.kill
        self.send_signal, self.lines = self._process.send_signal, self._process.stdout or ()

    @property
    def errors(self) -> str:
        """What it wrote to stderr, if that was not shown."""
        return read_errors(self._errors)


class Slurm:
    """Jobs on a SLURM cluster, by submitit. They are the cluster's: they go on if this process is killed."""

    shown = False

    def __init__(
        self,
        cluster: str | None,
        n_jobs: int | None,
        timeout_min: int,
        signal_delay_s: int,
        requeues: int,
        parameters: dict[str, Any],
        tasks: int | None = None,
        nodes: int = 1,
    ) -> None:
        """ConfigError without submitit, for a parameter it does not know, if nodes cannot share the tasks."""
        self.tasks, self.nodes = tasks or 1, nodes
        if self.tasks % nodes:
            near = max(2, nodes * round(self.tasks / nodes))
            raise ConfigError(
                f"launcher.nodes={nodes} do not share launcher.tasks={self.tasks} evenly; type"
                f" launcher.tasks={near}"
            )
        try:
            from submitit import AutoExecutor
        except ImportError as error:
            raise ConfigError(f"{error}: {install_line('slurm')}") from error
        self.n_jobs, self.requeues = n_jobs, requeues
        self.cluster = cluster or AutoExecutor.which()
        self.parameters = {"timeout_min": timeout_min, "slurm_signal_delay_s": signal_delay_s, **parameters}
        try:
            self._executor(Path(tempfile.gettempdir()), 1)
        except (NameError, ValueError, RuntimeError) as error:
            raise ConfigError(f"launcher: {error}") from error

    def _executor(self, folder: Path, threads: int) -> Any:
        from submitit import AutoExecutor

        names = ("slurm_max_num_timeout", "local_max_num_timeout")
        limits = {name: self.requeues for name in names if name.startswith(self.cluster)}
        executor = AutoExecutor(folder / "submitit", cluster=self.cluster, **limits)
        each = {"cpus_per_task": max(1, threads // self.tasks)}
        if self.tasks > 1:
            each |= {"nodes": self.nodes, "tasks_per_node": self.tasks // self.nodes}
        executor.update_parameters(name="encore", **each, **self.parameters)
        return executor

    def slots(self, threads: int) -> int:
        """`n_jobs`, or all."""
        return self.n_jobs or (room_for(threads) if self.cluster == "local" else sys.maxsize)

    def start(self, arguments: Sequence[str], folder: Path, threads: int) -> Running:
        """Submit a job."""
        os.environ["PYTHONPATH"] = environment()["PYTHONPATH"]  # submitit hands the environment on
        return _Submitted(self._executor(folder, threads).submit(_Training(list(arguments))))


class _Training:
    """`train.py` within a job of submitit, whose signal handlers it calls after it has saved."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments

    def __call__(self) -> int:
        _meet_other_tasks()
        sys.argv[:] = ["train.py", *self.arguments]
        try:
            runpy.run_module("rl.train", run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            code = int(stop.code or 0)
            if code not in EXIT_CODES:  # submitit's own, to be requeued
                raise
            return code
        return 0

    def checkpoint(self) -> Any:
        """What submitit is to run when the job is requeued: the same line goes on in the same folder."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _meet_other_tasks() -> None:
    """Of several tasks of a job: tell `rl.train` where they meet, as torchrun does."""
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    job = JobEnvironment()
    if job.num_tasks > 1:
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    if job.num_nodes == 1:
        os.environ["MASTER_ADDR"] = "127.0.0.1"


class _Submitted:
    """A job that was submitted; its first task speaks for all."""

    def __init__(self, job: Any) -> None:
        self.job = job

    def poll(self) -> int | None:
        """Its exit code, 1 if it was lost; None while it waits or runs."""
        from submitit.core.utils import FailedJobError, UncompletedJobError

        if not self.job.done():
            return None
        try:
            return int(self.job.task(0).result())
        except (FailedJobError, UncompletedJobError):
            return 1

    def send_signal(self, number: int) -> None:
        """Have it save and leave."""
        if isinstance(self.job, importlib.import_module("submitit").LocalJob):
            os.kill(int(self.job.job_id), signal.SIGTERM)
        else:
            subprocess.run(["scancel", "--signal=TERM", self.job.job_id], check=True)

    @property
    def errors(self) -> str:
        """What it wrote to stderr."""
        return str(self.job.stderr() or "")


class Ray:
    """Jobs on a Ray cluster, each a process beside its actor."""

    shown = False

    def __init__(self, address: str | None, n_jobs: int | None) -> None:
        """ConfigError if Ray is missing or the cluster cannot be reached."""
        try:
            import ray
        except ImportError as error:
            raise ConfigError(f"{error}: {install_line('ray')}") from error
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # or it writes a token to the home folder
        try:
            dashboard = False if address is None else None
            ray.init(address=address or "local", include_dashboard=dashboard, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise ConfigError(f"launcher.address={address}: {error}") from error
        self.n_jobs = n_jobs

    def slots(self, threads: int) -> int:
        """`n_jobs`, or as many as the cluster's cores have room for."""
        import ray

        return self.n_jobs or max(1, int(ray.cluster_resources()["CPU"]) // threads)

    def start(self, arguments: Sequence[str], folder: Path, threads: int) -> Running:
        """An actor that starts the process and watches it."""
        import ray

        runtime = {"env_vars": {"PYTHONPATH": environment()["PYTHONPATH"]}}
        watcher = ray.remote(_Watcher).options(num_cpus=threads, runtime_env=runtime)
        return _Actor(watcher.remote(list(arguments), os.getcwd()))


class _Watcher:
    """What runs on the cluster: a process that does not outlive the actor."""

    def __init__(self, arguments: list[str], directory: str) -> None:
        os.chdir(directory)
        self.process = Process(arguments, output=subprocess.DEVNULL)

    def poll(self) -> tuple[int | None, str]:
        """Its exit code and what it wrote to stderr, once it has ended."""
        code = self.process.poll()
        return code, "" if code is None else self.process.errors

    def send_signal(self, number: int) -> None:
        """Pass a signal on."""
        self.process.send_signal(number)


class _Actor:
    """A job on the cluster."""

    def __init__(self, actor: Any) -> None:
        self.actor, self.errors = actor, ""
        self._answer = actor.poll.remote()

    def poll(self) -> int | None:
        """Its exit code, 1 if it was lost; None while it waits or runs."""
        import ray

        if not ray.wait([self._answer], timeout=0)[0]:
            return None
        try:
            code, self.errors = ray.get(self._answer)
        except ray.exceptions.RayActorError as error:
            self.errors = str(error)
            return 1
        self._answer = self.actor.poll.remote() if code is None else None
        return code

    def send_signal(self, number: int) -> None:
        """Have it save and leave."""
        self.actor.send_signal.remote(number)


def room_for(threads: int) -> int:
    """How many jobs of so many threads this process's cores have room for."""
    return max(1, len(os.sched_getaffinity(0)) // threads)
