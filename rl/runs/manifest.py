"""Manifests: what a checkpoint consists of, and whether it is whole. Reading them does not import torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl.runs import files

_MANIFEST = re.compile(r"ckpt-(\d+)\.json")
_HEAD = re.compile(rb'\{"frames": \d+, "saved_at": (\d+(?:\.\d+)?), ')  # how a manifest begins
_OURS = re.compile(r"ckpt-(best-)?\d+\.(pt|json)|chunk-\d+\.bin")
REPLAY = "replay"  # the folder of the chunks, beside ckpt/
SET_ASIDE = ".set-aside"


class DamagedError(Exception):
    """A checkpoint, or all checkpoints of a run, cannot be used; says why."""


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
    # name -> {size, sha256, end} of every chunk it needs, oldest first
    replay: dict[str, dict[str, Any]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)  # sha256 of each CSV file's bytes
    config: dict[str, Any] | str | None = None  # what the run has, see history.pack; None: made before it was

    def to_bytes(self) -> bytes:
        """JSON that carries its own hash."""
        content = vars(self) | {"best": self.best and vars(self.best)}
        return json.dumps(content | {"sha256": _hash_json(content)}).encode()

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """DamagedError if it is not whole."""
        with _reading(path):
            return cls.parse(path.read_bytes(), path.name)

    @classmethod
    def parse(cls, data: bytes, name: str) -> Manifest:
        """What `to_bytes` gave. DamagedError, which says the name, if it is not whole."""
        try:
            content = json.loads(data)
            claimed = content.pop("sha256")
            if claimed != _hash_json(content):
                raise ValueError("its hash does not match")
            best, replay = content.pop("best"), dict(content.pop("replay"))
            return cls(**content, best=best and Best(**best), replay=replay)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(f"{name}: {error}") from error

    def needs(self, folder: Path, *, replay: bool = True) -> dict[Path, dict[str, Any]]:
        """Every file that it names, with its description; `folder` is the ckpt/ that it lies in."""
        chunks = (
            {folder.parent / REPLAY / name: description for name, description in self.replay.items()}
            if replay
            else {}
        )
        return {folder / name: description for name, description in self.files.items()} | chunks


def _hash_json(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def describe(*data: files.Buffer) -> dict[str, Any]:
    """The size and the sha256 of a file's bytes."""
    digest = hashlib.sha256()
    for part in data:
        digest.update(part)
    return {"size": sum(map(len, data)), "sha256": digest.hexdigest()}


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """DamagedError if a file cannot be read; an exhausted system stays the OSError that it is: it would have
    whole checkpoints set aside.
    """
    try:
        yield
    except OSError as error:
        if files.is_exhausted(error):
            raise
        raise DamagedError(f"{path.name}: {error.strerror}") from error


def read_verified(folder: Path, manifest: Manifest, name: str) -> bytes:
    """A file that the manifest names. DamagedError if it is not as it was written."""
    with _reading(folder / name):
        data = (folder / name).read_bytes()
    if describe(data) != manifest.files[name]:
        raise DamagedError(f"{name}: its content is not what was written")
    return data


def verify(path: Path, description: dict[str, Any]) -> None:
    """DamagedError if a file is not as it was written. It is read piece by piece: a chunk may be large."""
    with _reading(path), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != description["sha256"]:
        raise DamagedError(f"{path.name}: its content is not what was written")


def list_manifests(folder: Path, *, replay: bool = True) -> tuple[list[Manifest], dict[int, str]]:
    """The manifests in `folder` that are whole and whose files have their sizes, newest first; and of the
    others, by their frames, what is wrong. Without `replay` the chunks of the replay memory do not count."""
    whole, problems = [], {}
    for frames, name in _names(folder):
        try:
            whole.append(_read_whole(folder, name, replay=replay))
        except DamagedError as error:
            problems[frames] = str(error)
    return sorted(whole, key=lambda m: m.frames, reverse=True), problems


def newest_whole(folder: Path) -> Manifest | None:
    """The first of `list_manifests(folder, replay=False)`, the others unread; None without."""
    for _, name in sorted(_names(folder), reverse=True):
        with contextlib.suppress(DamagedError):  # the one before counts
            return _read_whole(folder, name, replay=False)
    return None


def saved_by(folder: Path) -> float | None:
    """When the newest whole checkpoint in `folder` was saved at the latest; None if no manifest is there.

    Only the first bytes of manifests are read, so it may be too late if one is damaged, but never too early:
    what a whole manifest says is among it. One whose first bytes cannot be read counts as inf.
    """
    times = []
    for _, name in _names(folder):
        with contextlib.suppress(FileNotFoundError):  # it was deleted in the meantime
            found = _HEAD.match(files.read_head(f"{folder}/{name}", 100))
            times.append(float(found[1]) if found else math.inf)
    return max(times, default=None)


def _names(folder: Path) -> list[tuple[int, str]]:
    """The manifests in a folder, whole or not: frames and name."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [(int(named[1]), named[0]) for named in map(_MANIFEST.fullmatch, names) if named]


def _read_whole(folder: Path, name: str, *, replay: bool) -> Manifest:
    """A manifest whose files are there with their sizes. DamagedError if it is not whole."""
    manifest = Manifest.read(folder / name)
    for path, description in manifest.needs(folder, replay=replay).items():
        if not path.is_file() or path.stat().st_size != description["size"]:
            raise DamagedError(f"{name}: {path.name} is missing or has another size")
    return manifest


def newest_manifest(
    folder: Path, tables: Path | None = None, *, replay: bool = True
) -> tuple[Manifest | None, list[str]]:
    """The newest checkpoint all of whose files are verified, and what is wrong with newer ones; None if there
    is none.

    With `tables`, the rows that it counts on must be in the CSV files there. Without `replay` the chunks of
    the replay memory do not count.
    """
    whole, problems = list_manifests(folder, replay=replay)
    for manifest in whole:
        try:
            for path, description in manifest.needs(folder, replay=replay).items():
                verify(path, description)
            for name, size in manifest.offsets.items() if tables else ():
                there = (tables / name).stat().st_size if tables and (tables / name).is_file() else 0
                if there < size:
                    raise DamagedError(
                        f"ckpt-{manifest.frames}.json: {name} has {there} bytes, and should "
                        f"have {size} or more"
                    )
            return manifest, [
                problem for frames, problem in sorted(problems.items()) if frames > manifest.frames
            ]
        except DamagedError as error:
            problems[manifest.frames] = str(error)
    return None, [problem for _, problem in sorted(problems.items())]


def changed_tables(manifest: Manifest, run: Path) -> list[Path]:
    """The CSV files whose rows up to a checkpoint are not what was written."""
    paths = {run / name: digest for name, digest in manifest.hashes.items()}
    return [
        path
        for path, digest in paths.items()
        if describe(path.read_bytes()[: manifest.offsets[path.name]])["sha256"] != digest
    ]


def was_committed(run: Path) -> bool:
    """Whether a checkpoint was ever committed in a run's folder, be it damaged or gone by now."""
    names = [*files.listdir(run / "ckpt"), *files.listdir(run / "ckpt" / SET_ASIDE)]
    later = any(_OURS.fullmatch(name) and name not in ("ckpt-0.pt", "ckpt-0.json") for name in names)
    rows = [
        path
        for path in (run / "metrics.csv", run / "eval.csv")
        if path.is_file() and path.read_bytes().count(b"\n") > 1
    ]
    return later or "ckpt-0.json" in names or bool(rows) or (run / "result.json").exists()
