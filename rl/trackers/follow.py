"""The process behind `logger=`: it sends the rows of metrics.csv and eval.csv to TensorBoard, W&B and MLflow.

The process reads the two files, so a tracker cannot affect training: not by its time, its errors or the
random numbers it draws. Every session first makes each tracker agree with the files, which a resume has just
truncated to the checkpoint. Local data is rewritten from the rows. A server's data cannot be truncated: it
gets the rows after its last step; the earlier ones are the same if the resume was exact.
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

from rl.children import start_beside
from rl.config.instantiate import make_part
from rl.runs.find import RESULT
from rl.runs.history import HISTORY
from rl.runs.outcome import STOPPING
from rl.runs.tables import Tail
from rl.trackers.tracker import RETRY_S, TABLES, Row, RunInfo, Tracker

log = logging.getLogger("encore")
_POLL_S = 1.0  # between reads of the files
_LAST_ROWS_S = 300.0  # for a tracker to take the last rows, once training has ended
_GIVE_WAY_S = 30.0  # for a tracker to return, once another session has begun


def make(logger: dict[str, Any]) -> dict[str, Tracker]:
    """The trackers of a configuration by name. ConfigError if one is unknown or cannot be used here."""
    return {name: make_part(f"logger.{name}", part, Tracker) for name, part in logger.items()}


class TrackerProcess:
    """A context with a process that sends a run's rows to its trackers, if it has any."""

    def __init__(
        self, folder: Path, logger: dict[str, Any], started_at: float, patience_s: Callable[[], float]
    ) -> None:
        """`patience_s`: seconds to wait for the trackers at the end; then they finish on their own."""
        self.folder, self.logger, self.started_at, self.patience_s = folder, logger, started_at, patience_s
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> TrackerProcess:
        if self.logger:
            try:
                self._start()
            except OSError as error:
                log.warning("no tracker could be started: %s", error)
        return self

    def _start(self) -> None:
        arguments = [str(self.folder), str(session_id(self.folder)), str(self.started_at)]
        self.process = start_beside("rl.trackers.follow", *arguments)
        self._relay = threading.Thread(target=self._log_messages, args=(self.process,), daemon=True)
        self._relay.start()

    def _log_messages(self, process: subprocess.Popen[str]) -> None:
        """Log the messages of the process."""
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
        self._relay.join(self.patience_s())
        if self._relay.is_alive():
            log.info("%s: still being written, by process %d", ", ".join(self.logger), self.process.pid)


class Superseded(Exception):
    """Another session of the run has begun, with its own tracker process."""


class RowReader:
    """Reads the new rows of a run's files."""

    def __init__(self, folder: Path, session: int) -> None:
        self.folder, self.session = folder, session
        self._tails = {table: Tail(folder / name) for table, name in TABLES.items()}

    def new(self) -> list[Row]:
        """The rows since the last call, in the order of writing. Superseded if another session has begun.

        It reads until nothing is new, so a row read by a later call was written after all of these.
        """
        found: list[Row] = []
        while more := [row for table in TABLES for row in self._read_table(table)]:
            found += more
        if session_id(self.folder) != self.session:
            raise Superseded
        return sorted(found, key=lambda row: row.frames)

    def _read_table(self, table: str) -> Iterator[Row]:
        for row in self._tails[table].new_rows():
            cells = {name: cell for name, cell in row.items() if cell}
            frames = int(cells.pop("frames"))
            values = {f"{table}/{name}": float(cell) for name, cell in cells.items()}
            yield Row(table, frames, float(cells["wall_s"]), values)


def session_id(folder: Path) -> int:
    """A number that changes with each session: after the session truncates the files, before it adds rows."""
    return (folder / HISTORY).stat().st_size


class TrackerFeed:
    """Sends new rows to one tracker. After a failure it starts over, a minute later."""

    def __init__(
        self, name: str, tracker: Tracker, run: RunInfo, session: int, say: Callable[[str], object]
    ) -> None:
        self.name, self.tracker, self.run, self.session, self.say = name, tracker, run, session, say
        self.rows: RowReader | None = None  # None: the tracker is not open
        self._retry_at, self._failed = 0.0, False

    def send(self, *, now: bool) -> None:
        """Send new rows; `now`: without waiting after a failure. Superseded if another session has begun."""
        if now or time.monotonic() >= self._retry_at:
            self._try(self._send)

    def _send(self) -> None:
        if self.rows is None:
            self.tracker.open(self.run)
            self.rows = RowReader(self.run.folder, self.session)
        self.tracker.add(self.rows.new())

    def close(self) -> None:
        """End the tracker's session."""
        if self.rows is not None:
            self._try(lambda: self.tracker.close((self.run.folder / RESULT).exists()))

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Superseded:
            raise
        except Exception as error:  # noqa: BLE001  no tracker error may stop training
            self.rows, self._retry_at = None, time.monotonic() + RETRY_S
            if not self._failed:
                reason = (str(error) or type(error).__name__).splitlines()[0]
                goes_on = "training goes on, and its rows will be shown once that is over"
                self.say(f"{self.name}: {reason}; {goes_on}")
            self._failed = True


def follow(
    folder: Path, session: int, started_at: float, ended: Callable[[], bool], say: Callable[[str], object]
) -> None:
    """Send the rows of a run's session to its trackers until training has ended."""
    with (folder / HISTORY).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # one process per run: a killed session's may still be at work
        run = RunInfo.read(folder, started_at)
        trackers = make(run.config["logger"])
        feeds = [TrackerFeed(name, tracker, run, session, say) for name, tracker in trackers.items()]
        with contextlib.suppress(Superseded):
            last = False
            while not last:
                last = ended()
                for feed in feeds:
                    feed.send(now=last)
        for feed in feeds:
            feed.close()


def _end_what_hangs(folder: Path, session: int, parent: int) -> None:
    """End this process if a tracker does not return: it may not outlive training or block a later session."""
    ended_at: float | None = None
    while True:
        time.sleep(_POLL_S)
        superseded = session_id(folder) != session if (folder / HISTORY).exists() else True
        if ended_at is None and (superseded or os.getppid() != parent):
            ended_at = time.monotonic()
        patience_s = _GIVE_WAY_S if superseded else _LAST_ROWS_S
        if ended_at is not None and time.monotonic() > ended_at + patience_s:
            os._exit(1)


def main() -> None:
    """`python -m rl.trackers.follow <run's folder> <session> <started_at>`; ends when its stdin closes."""
    os.nice(10)
    for number in STOPPING:  # these signals are meant for training; this process ends after it
        signal.signal(number, signal.SIG_IGN)
    parent, messages = os.getppid(), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # keeps the output of packages out of the log

    def say(text: str) -> None:
        with contextlib.suppress(OSError):  # training has ended
            print(text, file=messages, flush=True)

    def ended() -> bool:
        return bool(select.select([0], [], [], _POLL_S)[0]) or os.getppid() != parent

    folder, session = Path(sys.argv[1]), int(sys.argv[2])
    threading.Thread(target=_end_what_hangs, args=(folder, session, parent), daemon=True).start()
    try:
        follow(folder, session, float(sys.argv[3]), ended, say)
    except Exception as error:  # noqa: BLE001  report any failure to training's log
        say(f"trackers: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
