"""Progress of training: a progress line on a terminal, else a log line per log interval."""

from __future__ import annotations

import logging
import sys
import time
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
        self.frames = config.frames
        self.line: Any = None
        self._drawn_at = 0.0
        self._begin: tuple[float, int] | None = None
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
        if self._begin is None:
            self._begin = now, clock.frames
            return
        if self.line is None or now - self._drawn_at < _REDRAW_S:
            return
        self._drawn_at = now
        fps = (clock.frames - self._begin[1]) / max(now - self._begin[0], 1e-9)
        self.line.draw(clock.frames, self.frames, fps, metrics.total_reward_ma)

    def row(self, row: dict[str, Any]) -> None:
        """Report a row of metrics.csv."""
        if self.line is None:
            log.info(progress_text(row["frames"], self.frames, row["fps"], row["total_reward_ma"]))

    def evaluation(self, row: dict[str, Any]) -> None:
        """Report a row of eval.csv."""
        frames, mean, average = format_count(row["frames"]), row["total_reward"], row["total_reward_ma"]
        log.info("evaluation at %s: mean return %.1f, total_reward_ma %.1f", frames, mean, average)


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

        console = Console()
        columns = (TextColumn("{task.fields[text]}"), BarColumn(bar_width=24))
        self.bar = Bar(*columns, console=console, auto_refresh=False, transient=True)
        self.task = self.bar.add_task("train", text="starting")
        self.handler = _LogAboveLine(console)
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

    def draw(self, frames: int, of: int, fps: float, average: float | None) -> None:
        self.bar.update(self.task, completed=frames, total=of, text=progress_text(frames, of, fps, average))
        self.bar.refresh()
