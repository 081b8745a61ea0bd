"""Progress of training: a progress line on a terminal, else a log line per log interval."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rl.clock import Clock
from rl.config import RunConfig
from rl.config.counts import format_count
from rl.config.text import progress_text

if TYPE_CHECKING:
    from rl.training.metrics import Metrics


log = logging.getLogger("encore")
_REDRAW_S = 0.2


class Progress:
    """A context in which training reports its progress."""

    def __init__(self, config: RunConfig) -> None:
        self.frames, self.eval_every, self.solved = config.frames, config.eval.every, config.env.solved
        self.evaluations, self.evaluations_s = 0, 0.0  # of this session, and the seconds they took
        self.line: Any = None
        self._drawn_at = 0.0
        self._begin = time.monotonic(), 0
        if config.progress and sys.stdout.isatty():
            self.line = _Line()

    def __enter__(self) -> Progress:
        if self.line:
            self.line.open()
        return self

    def __exit__(self, *_: object) -> None:
        if self.line:
            self.line.close()

    def update(self, clock: Clock, metrics: Metrics) -> None:
        """Redraw the progress line a few times a second."""
        now = time.monotonic()
        if self.line is None or now - self._drawn_at < _REDRAW_S:
            return
        self._drawn_at = now
        frames, seconds = clock.frames - self._begin[1], now - self._begin[0]
        eta_s = self.eta_s(clock.frames)
        fps = frames / max(seconds, 1e-9)
        self.line.draw(clock.frames, self.frames, fps, metrics.total_reward_ma, eta_s, self.solved)

    def start_session(self, frames: int) -> None:
        """Training begins at this frame."""
        self._begin = time.monotonic(), frames

    def eta_s(self, frames: int) -> float:
        """The seconds that are left: of training at its speed so far, and of the evaluations to come."""
        started_at, first = self._begin
        training_s = time.monotonic() - started_at - self.evaluations_s
        left = (self.frames - frames) * training_s / max(frames - first, 1)
        if not self.evaluations or not self.eval_every:
            return left
        to_come = self.frames // self.eval_every - frames // self.eval_every
        return left + to_come * self.evaluations_s / self.evaluations

    def row(self, row: dict[str, Any]) -> None:
        """Report a row of metrics.csv."""
        if self.line is None:
            frames, eta_s = row["frames"], self.eta_s(row["frames"])
            log.info(
                progress_text(frames, self.frames, row["fps"], row["total_reward_ma"], eta_s, self.solved)
            )

    def evaluation(self, evaluate: Callable[[], dict[str, Any]]) -> None:
        """Evaluate, and report the row of eval.csv."""
        started_at = time.monotonic()
        row = evaluate()
        self.evaluations += 1
        self.evaluations_s += time.monotonic() - started_at
        frames, mean, average = format_count(row["frames"]), row["total_reward"], row["total_reward_ma"]
        solved = f", solved ({self.solved:g})" if self.solved is not None and mean >= self.solved else ""
        log.info("evaluation at %s: mean return %.1f, total_reward_ma %.1f%s", frames, mean, average, solved)


class _LogAboveLine(logging.Handler):
    """Prints log lines above the progress line, neither wrapped nor coloured."""

    def __init__(self, console: Any) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(self.format(record), soft_wrap=True, markup=False, highlight=False)


class _Line:
    """rich's progress line, with the log printed above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self.console = Console()
        self.columns = (TextColumn("{task.fields[text]}"), BarColumn(bar_width=24))
        self.bar = Bar(*self.columns, console=self.console, auto_refresh=False, transient=True)
        self.task = self.bar.add_task("train", text="starting")
        self.handler = _LogAboveLine(self.console)
        self.replaced: list[logging.Handler] = []

    def open(self) -> None:
        root = logging.getLogger()
        self.replaced = [h for h in root.handlers if type(h) is logging.StreamHandler]
        for handler in self.replaced:
            root.removeHandler(handler)
        root.addHandler(self.handler)
        self.bar.start()

    def close(self) -> None:
        self.bar.stop()
        root = logging.getLogger()
        root.removeHandler(self.handler)
        for handler in self.replaced:
            root.addHandler(handler)

    def draw(
        self, frames: int, of: int, fps: float, average: float | None, eta_s: float, solved: float | None
    ) -> None:
        width = self.console.width
        text = progress_text(frames, of, fps, average, eta_s, solved, width)
        self.bar.columns = self.columns if len(text) + 25 <= width else self.columns[:1]
        self.bar.update(self.task, completed=frames, total=of, text=text)
        self.bar.refresh()
