"""The process behind `mirror=`: it uploads what is new in a run's folder, and never outlives its parent.

Training does not wait for it and cannot fail by it. It looks at the folder once a second; an upload that
fails is tried again; one that ended by a kill is started again by a thread of the parent.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from rl.config.counts import format_count
from rl.runs import files
from rl.runs.bucket import Bucket, explain
from rl.runs.find import RESULT
from rl.runs.history import CONFIG, HISTORY
from rl.runs.manifest import DamagedError, Manifest, describe
from rl.runs.mirror import BEAT, BEAT_S, EXTRAS, MANIFEST, SUMS, Beat, Claim, read_beat
from rl.runs.outcome import STOPPING

log = logging.getLogger("encore")
POLL_S = 1.0  # between two looks at the folder
LAG_S = 60.0  # after which a checkpoint that is not up yet is worth a warning
LONGEST_RETRY_S = 60.0
_PRUNED = re.compile(r"ckpt/ckpt-(best-)?\d+\.(pt|json)|replay/chunk-\d+\.bin")
TAKEN = 3  # the exit code of an uploader whose run was taken over


class TakenOver(Exception):
    """Another machine has taken the run over; carries its heartbeat."""

    def __init__(self, beat: Beat) -> None:
        super().__init__(beat.machine)
        self.beat = beat


class Uploader:
    """What of a folder is in the bucket, and what is still to be sent there."""

    def __init__(
        self,
        folder: Path,
        mine: Claim,
        bucket: Bucket,
        on_up: Callable[[str], object] = lambda name: None,
        *,
        pid: int,
    ) -> None:
        """`on_up` is told the name of every manifest and every file beside them that is up. `pid` is that of
        the process that trains: a heartbeat is its.
        """
        self.folder, self.mine, self.bucket, self.on_up, self.pid = folder, mine, bucket, on_up, pid
        self.there: set[str] = set()  # names in the bucket
        self.sent: dict[str, str] = {}  # the sha256 of every data file that is whole in the bucket
        self.up: dict[int, Manifest] = {}  # by their frames, the manifests in the bucket
        self._tables: dict[str, int] = {}  # bytes of each CSV file that this session has uploaded
        self._extras: dict[str, tuple[int, int]] = {}  # size and time of change of each file beside them
        self._sums: dict[str, dict[str, object]] = {}
        self._damaged: set[int] = set()  # older checkpoints of the folder that are not whole
        self._known = False  # whether the bucket was looked at
        self._began_at = max(self.local(), default=-1)  # frames

    def local(self) -> list[int]:
        """The frames of the checkpoints in the folder, newest first."""
        names = (MANIFEST.fullmatch(f"ckpt/{name}") for name in files.listdir(self.folder / "ckpt"))
        return sorted((int(found[1]) for found in names if found), reverse=True)

    @property
    def behind(self) -> int | None:
        """The frames of the newest checkpoint if it is not up yet; else None."""
        newest = next(iter(self.local()), None)
        return newest if newest is not None and newest not in self.up else None

    def check_owner(self) -> None:
        """TakenOver if the run is no longer this session's."""
        beat = read_beat(self.bucket)
        if beat is not None and beat.session != self.mine.sessions[-1]:
            raise TakenOver(beat)

    def beat(self, *, ended: bool = False) -> None:
        """Say that this machine is at work, or that it has ended. TakenOver if it no longer may."""
        self.check_owner()
        self.bucket.write(BEAT, self.mine.beat(self.pid, ended=ended).to_bytes())

    def round(self, *, last: bool = False) -> None:
        """Upload what is new, the newest checkpoint first; at the end of a session every file."""
        if not self._known:
            self._look()
        while missing := self._missing():
            self._upload(missing[0])
        if last or self._changed((HISTORY, CONFIG, RESULT, "sweep.json")):
            self.check_owner()
            self._send_extras()
        self._prune()

    def _missing(self) -> list[int]:
        """The frames of the checkpoints that are not up, newest first."""
        return [frames for frames in self.local() if frames not in self.up and frames not in self._damaged]

    def _look(self) -> None:
        """Find out what is in the bucket. A file counts as whole if a manifest there describes it."""
        sizes = self.bucket.sizes()
        self.there, found = set(sizes), {}
        for name in sizes:
            if not (named := MANIFEST.fullmatch(name)):
                continue
            with contextlib.suppress(DamagedError, FileNotFoundError):
                manifest = Manifest.parse(self.bucket.read(name), name)
                for path, description in manifest.needs(Path("ckpt")).items():
                    if sizes.get(path.as_posix()) == description["size"]:
                        self.sent[path.as_posix()] = description["sha256"]
                found[int(named[1])] = manifest
        for frames, manifest in found.items():
            if self._same_here(frames, manifest):
                self.up[frames] = manifest
                self.on_up(f"ckpt-{frames}.json")
        self._known = True

    def _same_here(self, frames: int, manifest: Manifest) -> bool:
        """Whether a manifest of the bucket is the folder's, and all that it names is there."""
        try:
            here = Manifest.read(self.folder / "ckpt" / f"ckpt-{frames}.json")
        except DamagedError:
            return False
        needs = here.needs(Path("ckpt")).items()
        return here == manifest and all(self.sent.get(p.as_posix()) == d["sha256"] for p, d in needs)

    def _upload(self, frames: int) -> None:
        """One checkpoint: data, tables, the files beside them, and the manifest last."""
        path = self.folder / "ckpt" / f"ckpt-{frames}.json"
        with contextlib.ExitStack() as stack:
            try:  # opened at once: training may delete them while they are sent
                manifest = Manifest.read(path)
                opened: dict[str, tuple[BinaryIO, dict[str, object]]] = {}
                for need, description in manifest.needs(Path("ckpt")).items():
                    name = need.as_posix().removeprefix("./")
                    if self.sent.get(name) != description["sha256"]:
                        opened[name] = stack.enter_context((self.folder / name).open("rb")), description
            except (FileNotFoundError, DamagedError):
                if frames == max(self.local(), default=None):
                    raise
                self._damaged.add(frames)  # or pruned: newer ones have taken its place
                return
            for name, (file, description) in opened.items():
                self.sent.pop(name, None)
                self.there.add(name)
                self.bucket.send(name, file, int(str(description["size"])))
                self.sent[name] = str(description["sha256"])
        for name, size in manifest.offsets.items():
            if self._tables.get(name, -1) < size:  # a newer one that is up may need more
                size = max([size, *(up.offsets.get(name, 0) for up in self.up.values())])
                with (self.folder / name).open("rb") as file:
                    self.bucket.write(name, file.read(size))
                self._tables[name] = size
        self._send_extras()
        self.check_owner()
        name = f"ckpt/{path.name}"
        self.there.add(name)
        self.bucket.write(name, manifest.to_bytes())
        self.up[frames] = manifest
        self.on_up(path.name)

    def _stat(self, name: str) -> tuple[int, int]:
        try:
            status = (self.folder / name).stat()
        except FileNotFoundError:
            return -1, 0
        return status.st_size, status.st_mtime_ns

    def _changed(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if self._extras.get(name, (-1, 0)) != self._stat(name)]

    def _send_extras(self) -> None:
        """The files beside the checkpoints that have changed, and their hashes."""
        changed = self._changed(EXTRAS)
        for name in changed:
            status = self._stat(name)
            if status[0] < 0:
                self.bucket.remove(name)
                self._sums.pop(name, None)
            else:
                data = (self.folder / name).read_bytes()
                self.bucket.write(name, data)
                self._sums[name] = describe(data)
            self._extras[name] = status
        if RESULT in self.there and self._stat(RESULT)[0] < 0:  # of the session before: the run goes on
            self.bucket.remove(RESULT)
            self.there.discard(RESULT)
        if changed:
            self.bucket.write(SUMS, json.dumps(self._sums).encode())
        for name in changed:
            self.on_up(name)

    def _prune(self) -> None:
        """Delete what no kept manifest names. What a damaged or an abandoned newer one left goes once a
        checkpoint of this session is up."""
        here = self.local()
        committed = [frames for frames in sorted(self.up, reverse=True) if frames <= max(here, default=-1)]
        if (
            not committed
            or committed[0] not in here
            or (committed[0] == self._began_at and self._abandoned())
        ):
            return
        kept = committed[: max(len(here), 1)]
        needed = {f"ckpt/ckpt-{frames}.json" for frames in kept}
        for frames in kept:
            needed |= {path.as_posix() for path in self.up[frames].needs(Path("ckpt"))}
        old = {name for name in self.there if _PRUNED.fullmatch(name) and name not in needed}
        for name in sorted(old, key=lambda name: (not name.endswith(".json"), name)):  # manifests first
            self.bucket.remove(name)
            self.there.discard(name)
            self.sent.pop(name, None)
        self.up = {frames: self.up[frames] for frames in kept}

    def _abandoned(self) -> bool:
        """Whether the bucket has a manifest that is newer than all in the folder."""
        newest = max(self.local(), default=-1)
        return any(int(found[1]) > newest for name in self.there if (found := MANIFEST.fullmatch(name)))


class Session:
    """The uploader's process: its threads, and what it says to its parent, line by line.

    `up NAME`: a file is up; `say LEVEL TEXT`: for the log.
    """

    def __init__(self, folder: Path, tell: Callable[[str], object]) -> None:
        claim = Claim.read(folder)
        assert claim is not None
        self.tell, self.claim = tell, claim
        self.uploader = Uploader(
            folder, claim, Bucket(claim.url), lambda name: tell(f"up {name}"), pid=os.getppid()
        )
        self.ending = threading.Event()
        self._error = ""  # of the last try, if it failed
        self._beating, self._taken = threading.Lock(), False

    def run(self) -> int:
        """Upload until the parent has ended; the exit code."""
        threading.Thread(target=self._watch_lag, daemon=True).start()
        threading.Thread(target=self._keep_beating, daemon=True).start()
        retry_s = POLL_S
        while True:
            last = self.ending.is_set()
            try:
                if self._taken:
                    self.uploader.check_owner()
                self.uploader.round(last=last)
                if last:
                    self._beating.acquire()  # for good: no heartbeat after the last
                    self.uploader.beat(ended=True)
                    return 0
                self._error, retry_s = "", POLL_S
                self.ending.wait(POLL_S)
            except TakenOver as taken:
                self.tell(
                    f"say warning mirror: {taken.beat.machine} has taken {self.claim.url} over; this run "
                    "goes on here and is no longer uploaded"
                )
                return TAKEN
            except Exception as error:  # noqa: BLE001  whatever a file system raises, it is tried again
                self._error = explain(error)
                if last:
                    time.sleep(min(retry_s, 5.0))
                else:
                    self.ending.wait(retry_s)
                retry_s = min(2 * retry_s, LONGEST_RETRY_S)

    def _keep_beating(self) -> None:
        while True:
            time.sleep(BEAT_S)
            with self._beating:
                try:
                    self.uploader.beat()
                except TakenOver:
                    self._taken = True
                except Exception as error:  # noqa: BLE001  as for an upload
                    self._error = explain(error)

    def _watch_lag(self) -> None:
        """Say once that uploads lag, and once that they have caught up."""
        lagging, since, newest, parent = False, time.monotonic(), -1, os.getppid()
        while True:
            if os.getppid() != parent:  # killed, while a child of its own keeps our stdin open
                os._exit(0)
            behind, newest_up = self.uploader.behind, max(list(self.uploader.up), default=-1)
            if behind is None:
                if lagging:
                    self.tell("say info mirror: up to date again")
                lagging, since = False, time.monotonic()
            elif newest_up != newest:  # slow, but it gets there
                newest, since = newest_up, time.monotonic()
            elif not lagging and time.monotonic() - since > LAG_S:
                why = f" ({self._error})" if self._error else ""
                self.tell(
                    f"say warning mirror: the checkpoint at frame {format_count(behind)} is not in "
                    f"{self.claim.url} yet{why}; training goes on, and it is tried again and again"
                )
                lagging = True
            time.sleep(POLL_S)


def main() -> None:
    """`python -m rl.runs.upload <folder>`: ends after the word `end`, or at once when its stdin closes."""
    os.nice(10)
    for number in STOPPING:  # these signals are meant for training; this process ends after it
        signal.signal(number, signal.SIG_IGN)
    messages = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # keeps the output of packages out of the log
    lock = threading.Lock()

    def tell(text: str) -> None:
        with lock, contextlib.suppress(OSError):  # the parent has ended
            print(" ".join(text.splitlines()), file=messages, flush=True)

    session = Session(Path(sys.argv[1]), tell)

    def watch_parent() -> None:
        for line in sys.stdin:
            if line == "end\n":
                session.ending.set()
        os._exit(0)

    threading.Thread(target=watch_parent, daemon=True).start()
    code = session.run()
    messages.flush()
    os._exit(code)  # threads of a file system may still wait for a server


if __name__ == "__main__":
    main()
