"""What `logger=` adds: TensorBoard, W&B and MLflow show the rows of metrics.csv and eval.csv.

The two files stay the truth. A process of its own follows them, and nothing that a tracker does reaches
training: not its time, its errors or the random numbers that it draws. Every session begins by making each
tracker agree with the files, which a resume has just cut back to the checkpoint. What lies on this machine is
written anew from their rows, so that no row of a killed session is left in it. A server cannot be cut back:
it is asked for its last step and gets the rows after that. Those up to there are the same if the resume was
exact; else it keeps, from the checkpoint to the kill, what was sent first.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rl.config.instantiate import make_part
from rl.runs.find import RESULT
from rl.runs.history import HISTORY
from rl.runs.outcome import STOPPING
from rl.runs.tables import Tail
from rl.trackers.tracker import RETRY_S, TABLES, Followed, Row, Tracker

log = logging.getLogger("encore")
_LOOK_S = 1.0  # between looks at the files


def make(logger: dict[str, Any]) -> dict[str, Tracker]:
    """The trackers of a configuration by their names. ConfigError if one cannot be had here."""
    return {name: make_part(f"logger.{name}", part, Tracker) for name, part in logger.items()}


class Following:
    """A context in which a run's rows are followed, if there is a tracker to show them."""

    def __init__(
        self, folder: Path, logger: dict[str, Any], started_at: float, patience_s: Callable[[], float]
    ) -> None:
        """`patience_s`: how long to wait at the end for the trackers; after that they finish on their own."""
        self.folder, self.logger, self.started_at, self.patience_s = folder, logger, started_at, patience_s
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Following:
        if self.logger:
            try:
                self._start()
            except OSError as error:
                log.warning("no tracker could be started: %s", error)
        return self

    def _start(self) -> None:
        root = str(Path(__file__).resolve().parent.parent.parent)
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "rl.trackers.follow",
                str(self.folder),
                str(session_of(self.folder)),
                str(self.started_at),
            ],
            # nothing is ever written: that it closes says that training has ended, however it did
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
            },
            start_new_session=True,
        )
        self._telling = threading.Thread(target=self._tell, args=(self.process,), daemon=True)
        self._telling.start()

    def _tell(self, process: subprocess.Popen[str]) -> None:
        """Pass on what the process has to say."""
        assert process.stdout is not None
        for line in process.stdout:
            log.warning(line.rstrip("\n"))
        if process.wait():
            log.warning("the trackers have ended with %d; training goes on without them", process.returncode)

    def __exit__(self, *_: object) -> None:
        if self.process is None:
            return
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._telling.join(self.patience_s())
        if self._telling.is_alive():
            log.info("%s: still being written, by process %d", ", ".join(self.logger), self.process.pid)


class Overtaken(Exception):
    """Another session of the run has begun, and its own process shows its rows."""


class Rows:
    """The rows of a run's files as they come."""

    def __init__(self, folder: Path, session: int) -> None:
        self.folder, self.session = folder, session
        self._tails = {table: Tail(folder / name) for table, name in TABLES.items()}

    def new(self) -> list[Row]:
        """Those that have come since the last call, in the order in which they were written: a row that is
        still to be read was written after all of these. Overtaken if the files may be another session's."""
        found: list[Row] = []
        while more := [row for table in TABLES for row in self._new(table)]:
            found += more
        if session_of(self.folder) != self.session:
            raise Overtaken
        return sorted(found, key=lambda row: row.frames)

    def _new(self, table: str) -> Iterator[Row]:
        for row in self._tails[table].new_rows():
            cells = {name: cell for name, cell in row.items() if cell}
            frames = int(cells.pop("frames"))
            yield Row(
                table,
                frames,
                float(cells["wall_s"]),
                {f"{table}/{name}": float(cell) for name, cell in cells.items()},
            )


def session_of(folder: Path) -> int:
    """A number that another session of the run changes: before that, it has cut the files; after, it adds to
    them.
    """
    return (folder / HISTORY).stat().st_size


class Feed:
    """One tracker and how far it has come. After a failure it begins anew, a minute later."""

    def __init__(
        self, name: str, tracker: Tracker, run: Followed, session: int, say: Callable[[str], object]
    ) -> None:
        self.name, self.tracker, self.run, self.session, self.say = name, tracker, run, session, say
        self.rows: Rows | None = None  # None: it is not open
        self._retry_at, self._failed = 0.0, False

    def show(self, *, now: bool) -> None:
        """Show what is new, `now` even if it failed a moment ago. Overtaken if that is not ours to show."""
        if now or time.monotonic() >= self._retry_at:
            self._try(self._show)

    def _show(self) -> None:
        if self.rows is None:
            self.tracker.open(self.run)
            self.rows = Rows(self.run.folder, self.session)
        self.tracker.add(self.rows.new())

    def close(self) -> None:
        """End the tracker's session."""
        if self.rows is not None:
            self._try(lambda: self.tracker.close((self.run.folder / RESULT).exists()))

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Overtaken:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, it is not worth a run
            self.rows, self._retry_at = None, time.monotonic() + RETRY_S
            if not self._failed:
                reason = (str(error) or type(error).__name__).splitlines()[0]
                self.say(
                    f"{self.name}: {reason}; training goes on, and its rows will be shown once that is over"
                )
            self._failed = True


def follow(
    folder: Path, session: int, started_at: float, ended: Callable[[], bool], say: Callable[[str], object]
) -> None:
    """Show the rows of a run's session until training has ended. One process at a time does this for a run."""
    with (folder / HISTORY).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # that of a killed session may still be at work
        run = Followed.read(folder, started_at)
        feeds = [
            Feed(name, tracker, run, session, say) for name, tracker in make(run.config["logger"]).items()
        ]
        with contextlib.suppress(Overtaken):
            last = False
            while not last:
                last = ended()
                for feed in feeds:
                    feed.show(now=last)
        for feed in feeds:
            feed.close()


def main() -> None:
    """`python -m rl.trackers.follow <run's folder> <session> <started_at>`, until its standard input closes."""
    os.nice(10)
    for number in STOPPING:  # they are meant for training, whose end ends us too
        signal.signal(number, signal.SIG_IGN)
    parent, messages = os.getppid(), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the packages print is not for the log

    def say(text: str) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            print(text, file=messages, flush=True)

    def ended() -> bool:
        return bool(select.select([0], [], [], _LOOK_S)[0]) or os.getppid() != parent

    try:
        follow(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), ended, say)
    except Exception as error:  # noqa: BLE001  it has nobody else to tell
        say(f"trackers: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
