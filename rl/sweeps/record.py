"""A sweep, its jobs, and the record of it in its folder."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

from rl.config import RunConfig
from rl.config.invocation import flags
from rl.config.overrides import Overrides, quote
from rl.runs import files
from rl.runs.find import new_folder
from rl.runs.lock import RunLock
from rl.runs.manifest import DamagedError
from rl.sweeps.launchers import Launcher, Running


class PersistedRecord:
    """The record of a sweep or search, kept in its folder as `FILE`."""

    FILE: ClassVar[str]
    saved_at: float
    commands: list[str]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """DamagedError if it cannot be read."""
        try:
            return cls(**json.loads((folder / cls.FILE).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise DamagedError(f"{folder / cls.FILE}: {error}") from error

    def write(self, folder: Path, command: str) -> None:
        """Write it, with the command of the session that begins."""
        self.saved_at = time.time()
        self.commands.append(command)
        files.write_atomic(folder / self.FILE, json.dumps(vars(self), indent=1).encode())


@dataclass
class Record(PersistedRecord):
    """The record of a sweep."""

    FILE = "sweep.json"
    overrides: list[str] = field(default_factory=list)  # the whole command line, several values and all
    keys: list[str] = field(default_factory=list)  # the keys that ever took several values
    jobs: dict[str, list[str]] = field(default_factory=dict)  # the folder's name of each job -> its overrides
    saved_at: float = 0.0
    commands: list[str] = field(default_factory=list)  # as typed, one for each session


@dataclass
class Job:
    """One run of a sweep."""

    name: str
    overrides: Overrides  # all of them, as the record keeps them
    passed: Overrides  # what its process gets, without the folder
    frames: int = 0  # until where it trains
    threads: int = 1
    state: str = "waiting"  # then running; at last finished, stopped or failed
    note: str = ""


@dataclass
class Sweep:
    """A validated sweep, or a search."""

    folder: Path
    record: PersistedRecord
    jobs: list[Job]
    launcher: Launcher
    config_dir: str | None
    lock: RunLock | None  # None: the folder is still to be made
    unnamed: bool  # it gets a folder of its own
    total: int = 0  # jobs in all, where some are still to be made
    config: RunConfig | None = None  # of its first job; a search has none, and mirrors none
    takeover: bool = False  # whether its jobs may go on though another machine is at work on their mirrors

    def take_folder(self, command: str) -> None:
        """Make the folder of a new sweep, lock it, and write the record."""
        if self.unnamed:
            self.folder = new_folder(self.folder)
        if self.lock is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = RunLock(self.folder)
        self.lock.announce()
        self.record.write(self.folder, command)

    def folder_of(self, job: Job) -> Path:
        """Where a job trains."""
        return self.folder / job.name

    def start(self, job: Job) -> Running:
        """Start a job's process."""
        files_of = dataclasses.replace(flags(), dir=self.config_dir).words
        own = [*job.passed.texts, *(["mirror_takeover=true"] if self.takeover else [])]
        run_dir = f"hydra.run.dir={quote(str(self.folder_of(job)))}"
        return self.launcher.start([*files_of, *own, run_dir], self.folder, job.threads)
