"""Checkpoints on disk: written so that a kill at any moment leaves a whole one, read so that damage is found.

A checkpoint is a data file `ckpt-<frames>.pt` and a manifest `ckpt-<frames>.json`, which is renamed into place last:
that commits it. The manifest names every file that the checkpoint needs, with its hash. Nothing committed is ever
overwritten, and a file is deleted only after a commit whose kept manifests no longer name it.

Reading manifests does not import torch, so that finding a run stays fast.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import logging
import os
import re
import shutil
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl import files

if TYPE_CHECKING:  # it imports torch
    from rl.replay import UniformReplay

log = logging.getLogger(__name__)

_MANIFEST = re.compile(r"ckpt-(\d+)\.json")
_OURS = re.compile(r"ckpt-(best-)?\d+\.(pt|json)|chunk-\d+\.bin")
REPLAY = "replay"  # the folder of the chunks, beside ckpt/
SET_ASIDE = ".set-aside"
LINK = "ckpt-best"
_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, process


class DamagedError(Exception):
    """A checkpoint, or all checkpoints of a run, cannot be used; says why."""


class LockedError(Exception):
    """Another live process works on the run; says which."""


@dataclass(frozen=True)
class Best:
    """The best evaluation so far, and the file with the weights that made it."""

    file: str
    frames: int
    score: float


@dataclass(frozen=True)
class Manifest:
    """What one checkpoint consists of."""

    frames: int
    saved_at: float  # seconds since the epoch; never less than the checkpoint's before
    wall_s: float  # of all sessions up to here
    data: str  # the file with the state
    files: dict[str, dict[str, Any]]  # name -> {size, sha256} of every file it needs in ckpt/
    offsets: dict[str, int]  # bytes of each CSV file
    best: Best | None
    replay: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> {size, sha256, end} of every chunk it needs, oldest first
    hashes: dict[str, str] = field(default_factory=dict)  # sha256 of each CSV file's bytes

    def to_bytes(self) -> bytes:
        """JSON that carries its own hash."""
        content = vars(self) | {"best": self.best and vars(self.best)}
        return json.dumps(content | {"sha256": _hash_json(content)}).encode()

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """DamagedError if it is not whole."""
        try:
            content = json.loads(path.read_bytes())
            claimed = content.pop("sha256")
            if claimed != _hash_json(content):
                raise ValueError("its hash does not match")
            best, replay = content.pop("best"), dict(content.pop("replay"))
            return cls(**content, best=best and Best(**best), replay=replay)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(f"{path.name}: {error}") from error

    def needs(self, folder: Path, *, replay: bool = True) -> dict[Path, dict[str, Any]]:
        """Every file that it names, with its description; `folder` is the ckpt/ that it lies in."""
        chunks = {folder.parent / REPLAY / name: description for name, description in self.replay.items()} if replay else {}
        return {folder / name: description for name, description in self.files.items()} | chunks


def _hash_json(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _describe(*data: files.Buffer) -> dict[str, Any]:
    digest = hashlib.sha256()
    for part in data:
        digest.update(part)
    return {"size": sum(map(len, data)), "sha256": digest.hexdigest()}


# ------------------------------------------------------------------------------------------------------- reading


def read_verified(folder: Path, manifest: Manifest, name: str) -> bytes:
    """A file that the manifest names. DamagedError if it is not as it was written."""
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise DamagedError(f"{name}: {error.strerror}") from error
    if _describe(data) != manifest.files[name]:
        raise DamagedError(f"{name}: its content is not what was written")
    return data


def _verify(path: Path, description: dict[str, Any]) -> None:
    """DamagedError if a file is not as it was written. It is read piece by piece: a chunk may be large."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DamagedError(f"{path.name}: {error.strerror}") from error
    if digest != description["sha256"]:
        raise DamagedError(f"{path.name}: its content is not what was written")


def manifests(folder: Path, *, replay: bool = True) -> tuple[list[Manifest], dict[int, str]]:
    """The manifests in `folder` that are whole and whose files have their sizes, newest first; and of the others, by their
    frames, what is wrong. Without `replay` the chunks of the replay memory do not count."""
    whole, problems = [], {}
    names = os.listdir(folder) if folder.is_dir() else []
    for name in names:
        named = _MANIFEST.fullmatch(name)
        if not named:
            continue
        try:
            manifest = Manifest.read(folder / name)
            for path, description in manifest.needs(folder, replay=replay).items():
                if not path.is_file() or path.stat().st_size != description["size"]:
                    raise DamagedError(f"{name}: {path.name} is missing or has another size")
            whole.append(manifest)
        except DamagedError as error:
            problems[int(named[1])] = str(error)
    return sorted(whole, key=lambda m: m.frames, reverse=True), problems


def newest(folder: Path, tables: Path | None = None, *, replay: bool = True) -> tuple[Manifest | None, list[str]]:
    """The newest checkpoint all of whose files are verified, and what is wrong with newer ones; None if there is none.

    With `tables`, the rows that it counts on must be in the CSV files there. Without `replay` the chunks of the replay
    memory do not count.
    """
    whole, problems = manifests(folder, replay=replay)
    for manifest in whole:
        try:
            for path, description in manifest.needs(folder, replay=replay).items():
                _verify(path, description)
            for name, size in manifest.offsets.items() if tables else ():
                there = (tables / name).stat().st_size if tables and (tables / name).is_file() else 0
                if there < size:
                    raise DamagedError(f"ckpt-{manifest.frames}.json: {name} has {there} bytes, and should have {size} or more")
            return manifest, [problem for frames, problem in sorted(problems.items()) if frames > manifest.frames]
        except DamagedError as error:
            problems[manifest.frames] = str(error)
    return None, [problem for _, problem in sorted(problems.items())]


def changed_tables(manifest: Manifest, run: Path) -> list[Path]:
    """The CSV files whose rows up to a checkpoint are not what was written."""
    paths = {run / name: digest for name, digest in manifest.hashes.items()}
    return [path for path, digest in paths.items() if _describe(path.read_bytes()[: manifest.offsets[path.name]])["sha256"] != digest]


def was_committed(run: Path) -> bool:
    """Whether a checkpoint was ever committed in a run's folder, be it damaged or gone by now."""
    names = [*_listdir(run / "ckpt"), *_listdir(run / "ckpt" / SET_ASIDE)]
    later = any(_OURS.fullmatch(name) and name not in ("ckpt-0.pt", "ckpt-0.json") for name in names)
    rows = [path for path in (run / "metrics.csv", run / "eval.csv") if path.is_file() and path.read_bytes().count(b"\n") > 1]
    return later or "ckpt-0.json" in names or bool(rows) or (run / "result.json").exists()


def _listdir(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def load(data: bytes, device: str) -> dict[str, Any]:
    """The state in a data file; no pickle code is run."""
    import torch

    return torch.load(io.BytesIO(data), map_location=device, weights_only=True)


# ------------------------------------------------------------------------------------------------------- writing


class Checkpoints:
    """The checkpoints of one run, while it trains."""

    def __init__(self, run: Path, keep: int) -> None:
        self.run, self.folder, self.replay, self.keep = run, run / "ckpt", run / REPLAY, keep
        self.folder.mkdir(parents=True, exist_ok=True)
        self.kept: list[Manifest] = []  # newest first
        self.best: Best | None = None  # as of now, maybe not committed yet
        self._best_description: dict[str, Any] = {}

    def resume_from(self, manifest: Manifest) -> None:
        """Go on after this checkpoint: whatever is newer or damaged is moved away, to be deleted after the next commit."""
        whole, _ = manifests(self.folder)
        self.kept = [manifest, *(m for m in whole if m.frames < manifest.frames)]
        self.best = manifest.best
        if self.best:
            self._best_description = manifest.files[self.best.file]
        self._set_aside()
        self._link_best()

    def start_over(self) -> None:
        """Move away what an earlier start left before it committed anything."""
        self._set_aside()

    def _set_aside(self) -> None:
        aside = self.folder / SET_ASIDE
        for path in self._strangers():
            aside.mkdir(exist_ok=True)
            os.replace(path, aside / path.name)
        files.sync_folder(self.folder)

    def _strangers(self) -> list[Path]:
        """Checkpoint files and chunks that no kept manifest needs."""
        needed = {name for m in self.kept for name in (*m.files, *m.replay, f"ckpt-{m.frames}.json")}
        there = [(folder, name) for folder in (self.folder, self.replay) for name in _listdir(folder)]
        return sorted(folder / name for folder, name in there if _OURS.fullmatch(name) and name not in needed)

    @property
    def saved_frames(self) -> int | None:
        """The frames of the newest checkpoint."""
        return self.kept[0].frames if self.kept else None

    def save_best(self, state: dict[str, Any], frames: int, score: float) -> None:
        """Write the weights of the best evaluation so far; the next `save` commits them."""
        data = serialize(state)
        name = f"ckpt-best-{frames}.pt"
        files.write_new(self.folder / name, data)
        if self.best and not any(self.best.file in m.files for m in self.kept):
            os.unlink(self.folder / self.best.file)  # was never committed, and is no longer the best
        self.best, self._best_description = Best(name, frames, score), _describe(data)

    def save(self, state: dict[str, Any], *, frames: int, wall_s: float, tables: list[Path], memory: UniformReplay | None = None) -> None:
        """Commit a checkpoint, then delete what is no longer needed. OSError if the disk refuses; the last one stands."""
        rows = {table.name: _describe(table.read_bytes()) for table in tables}
        offsets = {name: described["size"] for name, described in rows.items()}
        for table in tables:  # what the last manifest counts on is safe already
            if not self.kept or offsets[table.name] != self.kept[0].offsets.get(table.name):
                files.sync(table)
        chunks = {} if memory is None else self._write_chunk(memory, frames)
        data = serialize(state)
        name = f"ckpt-{frames}.pt"
        files.write_new(self.folder / name, data)
        described = {name: _describe(data)}
        if self.best:
            described[self.best.file] = self._best_description
        manifest = Manifest(
            frames=frames,
            saved_at=max(time.time(), self.kept[0].saved_at if self.kept else 0.0),
            wall_s=wall_s,
            data=name,
            files=described,
            offsets=offsets,
            best=self.best,
            replay=chunks,
            hashes={name: described["sha256"] for name, described in rows.items()},
        )
        files.write_atomic(self.folder / f"ckpt-{frames}.json", manifest.to_bytes())
        self.kept = [manifest, *self.kept]
        self.prune()

    def _write_chunk(self, memory: UniformReplay, frames: int) -> dict[str, Any]:
        """Write what came into a replay memory since the last checkpoint; all chunks that hold what it needs."""
        before = self.kept[0].replay if self.kept else {}
        chunks = {name: description for name, description in before.items() if description["end"] > memory.oldest}
        chunk = memory.take_chunk()
        if chunk is None:
            return chunks
        if not self.replay.exists():
            self.replay.mkdir()
            files.sync_folder(self.run)
        name = f"chunk-{frames}.bin"
        files.write_new(self.replay / name, *chunk.buffers)
        files.sync_folder(self.replay)
        return {**chunks, name: {**_describe(*chunk.buffers), "end": chunk.end}}

    def prune(self) -> None:
        """Delete all that the newest `keep` checkpoints do not need. After a commit alone; a run that ends looks again for
        what a kill in here left.
        """
        self.kept = self.kept[: self.keep]
        self._link_best()
        for path in self._strangers():  # a manifest's name sorts before its data file's
            os.unlink(path)
        for temporary in self.folder.glob(".ckpt-*.tmp"):
            os.unlink(temporary)
        if (self.folder / SET_ASIDE).exists():
            shutil.rmtree(self.folder / SET_ASIDE)

    def _link_best(self) -> None:
        link = self.folder / LINK
        committed = self.kept[0].best if self.kept else None
        if committed and (not link.is_symlink() or os.readlink(link) != committed.file):
            files.point_link(link, committed.file)
        elif not committed and link.is_symlink():
            os.unlink(link)

    def load_best(self, device: str) -> dict[str, Any] | None:
        """The state of the best weights, or None. DamagedError if its file is not as it was written."""
        if self.best is None:
            return None
        data = (self.folder / self.best.file).read_bytes()
        if _describe(data) != self._best_description:
            raise DamagedError(f"{self.best.file}: its content is not what was written")
        return load(data, device)


def serialize(state: Any) -> bytes:
    """Bytes of a state, the same for equal states; through memory, so that a full disk is a plain OSError later."""
    import torch

    buffer = io.BytesIO()
    torch.save(_own(state), buffer)
    return buffer.getvalue()


def _own(value: Any) -> Any:
    """A copy in which no tensor is a view: a view would save the whole memory behind it."""
    if isinstance(value, dict):
        return {key: _own(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_own(part) for part in value)
    return value.detach().clone() if hasattr(value, "detach") else value


# --------------------------------------------------------------------------------------------------------- lock


class RunLock:
    """Held while a process works on a run's folder; freed when it ends, however it ends.

    POSIX frees it too when this process closes any other handle of the same file: open `.lock` nowhere else.
    """

    def __init__(self, run: Path) -> None:
        """LockedError if another live process holds it. The file's content is left as it is, see `announce`."""
        self._path = run / ".lock"
        self._new = not self._path.exists()
        self._file = open(self._path, "a+")  # noqa: SIM115  it stays open as long as the lock is held
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise LockedError(f"{run} is being worked on by {holder}") from None

    def announce(self) -> None:
        """Write who holds it, for the message that others get."""
        self._new = False
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        self._file.flush()

    def release(self) -> None:
        """Give it up; what was never announced leaves no trace."""
        if self._new:
            os.unlink(self._path)
        self._file.close()


def is_locked(run: Path) -> bool:
    """Whether another live process works on the run. Not to be asked of a run that this process has locked.

    It is asked, not tried: a run that begins at this moment is not refused.
    """
    try:
        with open(run / ".lock", "rb") as file:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            return bool(struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))[0] != fcntl.F_UNLCK)
    except FileNotFoundError:
        return False
