"""`train.py -m`: many runs from one line. Every job is judged before any starts, runs in its own process and
folder, and goes on from its own checkpoint when the sweep is resumed.

A sweep's folder holds `sweep.json`: the line, the keys that ever took several values, and every job by its
folder's name. A job is found again by the values of those keys, so that the list may be longer or in another
order.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import time
from collections.abc import Callable, Iterator

from rl.config.counts import format_count
from rl.runs import files
from rl.runs.outcome import FAILED, FINISHED, INTERRUPTED, STOPPING, TO_BE_CONTINUED
from rl.sweeps.display import Display, table
from rl.sweeps.launchers import Running
from rl.sweeps.record import Job, Sweep

_LOOK_S = 0.1  # between looks at the processes


def run_sweep(sweep: Sweep, command: str) -> int:
    """Run all jobs that are not finished; the sweep's exit code."""
    waiting = [job for job in sweep.jobs if job.state == "waiting"]
    if waiting:
        sweep.take_folder(command)
        places = min(sweep.launcher.places(max(job.threads for job in waiting)), len(waiting))
        print(
            f"{sweep.folder}: {len(waiting)} of {len(sweep.jobs)} jobs to run, {places} at a time", flush=True
        )
    stop = run_jobs(sweep, lambda: waiting.pop(0) if waiting else None, places) if waiting else []
    if sweep.lock is not None:
        sweep.lock.release()
    print(table(sweep), flush=True)
    states, there = {job.state for job in sweep.jobs}, f"resume={sweep.folder}"
    if states == {"finished"}:
        frames = format_count(2 * max(job.frames for job in sweep.jobs))
        print("train it on: ", shlex.join(["python", "train.py", "-m", there, f"frames={frames}"]))
    else:
        print("go on with: ", shlex.join(["python", "train.py", "-m", there]))
    return exit_code(stop, states)


def exit_code(stop: list[int], states: set[str]) -> int:
    """What the signals that came, and what became of the jobs, amount to."""
    if stop:
        return INTERRUPTED if signal.SIGINT in stop else TO_BE_CONTINUED
    return FAILED if "failed" in states else TO_BE_CONTINUED if "stopped" in states else FINISHED


def run_jobs(
    sweep: Sweep,
    take: Callable[[], Job | None],
    places: int,
    look: Callable[[Job, Running], object] = lambda job, process: None,
    ended: Callable[[Job], object] = lambda job: None,
) -> list[int]:
    """Keep so many jobs running, each one that `take` gives until it gives none, or until a signal comes; the
    signals that did. `look` sees every running job now and then, `ended` every one that did."""
    running: list[tuple[Job, Running]] = []
    with _signals() as signals, Display(sweep) as display:
        passed_on = 0
        while True:
            while len(running) < places and not signals and (job := take()):
                job.state = "running"
                display.say(job)
                running.append((job, sweep.start(job)))
            if not running:
                return signals
            for number in signals[passed_on:]:
                for _, process in running:
                    process.send_signal(number)
                passed_on += 1
            for job, process in list(running):
                code = process.poll()
                if code is not None:
                    running.remove((job, process))
                    _end(sweep, job, code, process.errors, stopped=bool(signals))
                    ended(job)
                    display.say(job)
                else:
                    look(job, process)
            display.update()
            time.sleep(_LOOK_S)


def _end(sweep: Sweep, job: Job, code: int, errors: str, *, stopped: bool) -> None:
    """Say what became of a job; what it wrote to stderr goes into its own log if it failed."""
    if code == FINISHED:
        job.state = "finished"
    elif code in (TO_BE_CONTINUED, INTERRUPTED) or (
        stopped and code < 0
    ):  # a signal before it could handle any
        job.state = "stopped"
    else:
        job.state = "failed"
        log = sweep.folder_of(job) / "train.log"
        if errors and log.parent.is_dir():
            files.append(log, errors.encode())
        said = (log.read_text(errors="replace") if log.exists() else errors).strip().split("\n")
        job.note = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}: {said[-1]}"


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that ask to stop, as they come. What to do then is not done in their handler."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in STOPPING}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
