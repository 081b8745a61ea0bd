"""What a user sees of a running sweep."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from rl.config.counts import format_count
from rl.config.text import aligned, progress_text
from rl.runs.find import read_result
from rl.runs.manifest import DamagedError, list_manifests
from rl.runs.tables import last_row
from rl.sweeps.record import Job, Sweep

_SHOW_S, _SAY_S = 1.0, 10.0  # between reads of the jobs' rows, and between plain lines of one job


class Display:
    """One line for each running job, redrawn on a terminal; elsewhere a plain line now and then. Nothing if
    jobs write themselves.
    """

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
        text = line_of(self.sweep, job)
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
        lines = {job.name: line_of(self.sweep, job) for job in self.sweep.jobs if job.state == "running"}
        if self.live:
            from rich.text import Text

            self.live.update(Text("\n".join(lines.values()), overflow="ellipsis", no_wrap=True), refresh=True)
            return
        for name, text in lines.items():
            at, before = self._said.get(name, (now, text))
            if name not in self._said or (text != before and now - at >= _SAY_S):
                self._said[name] = now, text
                if text != before:
                    print(text, flush=True)


def line_of(sweep: Sweep, job: Job) -> str:
    """A job in one line: state, frames, eta, total_reward_ma."""
    row = last_row(sweep.folder_of(job) / "metrics.csv")
    if job.state != "running" or row is None:
        return f"{job.name}: {job.state}" + (f" ({job.note})" if job.note else "")
    average = float(row["total_reward_ma"]) if row["total_reward_ma"] else None
    return f"{job.name}: running, {progress_text(int(row['frames']), job.frames, float(row['fps']), average)}"


def table(sweep: Sweep) -> str:
    """Every job: its state, how far it is, and the score of its last and best weights on fresh episodes."""
    rows = [("job", "state", "frames", "last", "best", "")]
    for job in sweep.jobs:
        result = _result(sweep.folder_of(job)) if job.state == "finished" else {}
        whole, _ = list_manifests(sweep.folder_of(job) / "ckpt", replay=False)
        frames = f"{format_count(whole[0].frames) if whole else '-'} of {format_count(job.frames)}"
        scores = (
            f"{result[name]['total_reward']:.1f}" if name in result else "-" for name in ("last", "best")
        )
        rows.append((job.name, job.state, frames, *scores, job.note))  # type: ignore[arg-type]
    return "\n".join(aligned(rows))


def _result(folder: Path) -> dict[str, Any]:
    try:
        return read_result(folder) or {}
    except DamagedError:  # a resume of the run alone says so, and makes it again
        return {}
