"""What a user sees of a running sweep."""

from __future__ import annotations

import sys
import time
from typing import Any

from rl.config.counts import format_count
from rl.config.text import aligned, duration, progress_text, score_text
from rl.runs.find import read_scores
from rl.runs.manifest import list_manifests
from rl.runs.tables import last_row
from rl.sweeps.record import Job, Sweep

_SHOW_S, _SAY_S = 1.0, 10.0  # between reads of the jobs' rows, and between plain lines of one job


class Display:
    """A line for each running job: redrawn on a terminal, else now and then. None if jobs write theirs."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.live: Any = None
        self._shown_at = 0.0
        self._said: dict[str, tuple[float, str]] = {}

    def __enter__(self) -> Display:
        if sys.stdout.isatty() and not self.sweep.launcher.shown:
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(), auto_refresh=False, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def say(self, job: Job) -> None:
        """A job has begun or ended."""
        text = f"{line_of(self.sweep, job)} ({overview(self.sweep)})"
        if self.live:
            self.live.console.print(text, soft_wrap=True, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def update(self) -> None:
        """Show how far the running jobs are."""
        now = time.monotonic()
        if self.sweep.launcher.shown or now - self._shown_at < _SHOW_S:
            return
        self._shown_at = now
        width = self.live.console.width if self.live else None
        lines = {
            job.name: line_of(self.sweep, job, width) for job in self.sweep.jobs if job.state == "running"
        }
        if self.live:
            from rich.text import Text

            text = "\n".join([overview(self.sweep), *lines.values()])
            self.live.update(Text(text, overflow="ellipsis", no_wrap=True), refresh=True)
            return
        for name, text in lines.items():
            at, before = self._said.get(name, (now, text))
            if name not in self._said or (text != before and now - at >= _SAY_S):
                self._said[name] = now, text
                if text != before:
                    print(text, flush=True)


def line_of(sweep: Sweep, job: Job, width: int | None = None) -> str:
    """A job in one line: state, frames, eta, total_reward_ma. In a narrow `width` its name is cut."""
    row = last_row(sweep.folder_of(job) / "metrics.csv")
    if job.state != "running" or row is None:
        return f"{job.name}: {job.state}" + (f" ({job.note})" if job.note else "")
    average = float(row["total_reward_ma"]) if row["total_reward_ma"] else None
    frames, left_s = int(row["frames"]), seconds_of(sweep, job)[1]
    text = progress_text(frames, job.frames, float(row["fps"]), average, left_s or 0, width=width)
    name = f"{job.name}: running, "
    return (name if width is None else name[: max(width - len(text), 0)]) + text


def seconds_of(sweep: Sweep, job: Job) -> tuple[float | None, float | None]:
    """How long a whole job takes and how much of that is left, at its speed so far, evaluations included."""
    row = last_row(sweep.folder_of(job) / "metrics.csv")
    if row is None or not int(row["frames"]):
        return None, None
    frames, whole_s = int(row["frames"]), float(row["wall_s"]) / int(row["frames"]) * job.frames
    left = 0.0 if job.state in ("finished", "failed") else max(1 - frames / job.frames, 0.0)
    return whole_s, whole_s * left


def overview(sweep: Sweep) -> str:
    """How many jobs are done, and when the sweep will be: running jobs go on as now, others take as long."""
    done = sum(job.state not in ("waiting", "running") for job in sweep.jobs)
    total = max(sweep.total, len(sweep.jobs))
    text = f"{done} of {total} done"
    known = [seconds_of(sweep, job) for job in sweep.jobs if job.state != "waiting"]
    whole = [whole_s for whole_s, _ in known if whole_s is not None]
    if done == total or not whole:
        return text
    running = sum(job.state == "running" for job in sweep.jobs)
    mean_s, waiting = sum(whole) / len(whole), total - done - running
    left_s = [mean_s if job_s is None else job_s for _, job_s in known]
    return f"{text}, eta {duration(max([*left_s, (sum(left_s) + waiting * mean_s) / max(running, 1)]))}"


def table(sweep: Sweep) -> str:
    """Every job: its state, how far it is, and the scores of its last and best weights, see `read_scores`."""
    rows = [("job", "state", "frames", "last", "best", "")]
    for job in sweep.jobs:
        whole, _ = list_manifests(sweep.folder_of(job) / "ckpt", replay=False)
        frames = f"{format_count(whole[0].frames) if whole else '-'} of {format_count(job.frames)}"
        scores = read_scores(sweep.folder_of(job), whole[0] if whole else None)
        last, best = score_text(scores.get("last")), score_text(scores.get("best"))
        rows.append((job.name, job.state, frames, last, best, job.note))
    return "\n".join(aligned(rows))
