"""`train.py -m`: many runs from one command line.

Every job is validated before any starts, runs in its own process and folder, and continues from its own
checkpoint when the sweep is resumed. It is found again by the values of the keys that ever took several.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from rl.config.counts import format_count
from rl.config.invocation import command
from rl.runs import files
from rl.runs.mirror import Claim, claim
from rl.runs.mirror_process import MirrorProcess
from rl.runs.outcome import FAILED, FINISHED, INTERRUPTED, TO_BE_CONTINUED, Stop
from rl.sweeps.display import Display, table
from rl.sweeps.launchers import Running
from rl.sweeps.record import Job, Sweep

_POLL_S = 0.1


def run_sweep(sweep: Sweep, typed: str) -> int:
    """Run all jobs that are not finished; the sweep's exit code."""
    waiting, stop = [job for job in sweep.jobs if job.state == "waiting"], Stop()
    if waiting:
        mine = _claim_mirror(sweep)
        sweep.take_folder(typed)
        slots = min(sweep.launcher.slots(max(job.threads for job in waiting)), len(waiting))
        jobs = f"{len(waiting)} of {len(sweep.jobs)} jobs to run, {slots} at a time"
        print(f"{sweep.folder}: {jobs}", flush=True)
        with MirrorProcess(sweep.folder, mine, patience_s=lambda: 30):
            stop = run_jobs(sweep, lambda: waiting.pop(0) if waiting else None, slots)
    if sweep.lock is not None:
        sweep.lock.release()
    print(table(sweep), flush=True)
    states, resume = {job.state for job in sweep.jobs}, f"resume={sweep.folder}"
    print("report:     ", command("report", str(sweep.folder)))
    if states == {"finished"}:
        frames = format_count(2 * max(job.frames for job in sweep.jobs))
        print("train it on: ", command("train", "-m", resume, f"frames={frames}"))
    else:
        print("go on with: ", command("train", "-m", resume))
    return exit_code(stop, states)


def _claim_mirror(sweep: Sweep) -> Claim | None:
    """Take the place of the sweep's record in its mirror, if it has one."""
    if sweep.config is None:
        return None
    existing, named = sweep.lock is not None, not sweep.unnamed
    return claim(sweep.config, sweep.folder, existing=existing, named=named, takeover=sweep.takeover)


def exit_code(stop: Stop, states: set[str]) -> int:
    """The exit code of a sweep, from the signals that came and the final states of its jobs."""
    if stop:
        return stop.exit_code
    return FAILED if "failed" in states else TO_BE_CONTINUED if "stopped" in states else FINISHED


def run_jobs(
    sweep: Sweep,
    next_job: Callable[[], Job | None],
    slots: int,
    on_poll: Callable[[Job, Running], object] = lambda job, process: None,
    on_end: Callable[[Job], object] = lambda job: None,
) -> Stop:
    """Keep as many jobs running as there are slots, until `next_job` gives none or a signal comes.

    `on_poll` is called again and again for every running job, `on_end` once for every job that has ended.
    Signals are passed on to the jobs; those that came are returned.
    """
    running: list[tuple[Job, Running]] = []
    with Stop(second_leaves=False) as stop, Display(sweep) as display:
        passed_on = 0
        while True:
            while len(running) < slots and not stop and (job := next_job()):
                job.state = "running"
                display.say(job)
                running.append((job, sweep.start(job)))
            if not running:
                return stop
            for number in stop.requested[passed_on:]:
                for _, process in running:
                    process.send_signal(number)
                passed_on += 1
            for job, process in list(running):
                code = process.poll()
                if code is not None:
                    running.remove((job, process))
                    _end(sweep, job, code, process.errors, stopped=bool(stop))
                    on_end(job)
                    display.say(job)
                else:
                    on_poll(job, process)
            display.update()
            time.sleep(_POLL_S)


def _end(sweep: Sweep, job: Job, code: int, errors: str, *, stopped: bool) -> None:
    """Set the final state of a job; what it wrote to stderr goes into its own log if it failed."""
    if code == FINISHED:
        job.state = "finished"
    elif code in (TO_BE_CONTINUED, INTERRUPTED) or (stopped and code < 0):  # before it could handle a signal
        job.state = "stopped"
    else:
        job.state = "failed"
        log = sweep.folder_of(job) / "train.log"
        if errors and log.parent.is_dir():
            files.append(log, errors.encode())
        said = (log.read_text(errors="replace") if log.exists() else errors).strip().split("\n")
        job.note = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}: {said[-1]}"
