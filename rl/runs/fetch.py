"""Fetching a run from its mirror: verified, to a folder under outputs."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rl.config import ConfigError, RunConfig
from rl.config.counts import format_count
from rl.config.overrides import Overrides
from rl.runs.bucket import Bucket, refusing
from rl.runs.find import is_run, new_folder
from rl.runs.history import HISTORY
from rl.runs.lock import RunLock, is_locked
from rl.runs.manifest import DamagedError, Manifest, describe, list_manifests, verify
from rl.runs.mirror import BEAT, EXTRAS, MANIFEST, SUMS, Beat, Claim, at_work, place_of, read_beat
from rl.runs.outcome import Refused


def read_takeover(overrides: Overrides) -> tuple[Overrides, bool]:
    """`mirror_takeover=`, which is for one session and no run keeps, and the rest of a command line."""
    given = [override for override in overrides if override.key_or_group == "mirror_takeover"]
    for override in given:
        if not isinstance(override.value(), bool):
            raise ConfigError(f"{override.input_line}: type true or false")
    return overrides.drop("mirror_takeover"), bool(given and given[-1].value())


def fetch_named(config: RunConfig, folder: Path, *, takeover: bool) -> list[str]:
    """What `fetch` says, if the run of a folder that is not here is in its mirror: the same command line goes
    on with it on another machine. Nothing if it is not."""
    if config.mirror is None:
        return []
    url, _ = place_of(config.mirror, folder, Path(config.outputs))
    with refusing(url):
        there = any(MANIFEST.fullmatch(name) for name in Bucket(url).sizes())
    return fetch(url, Path(config.outputs), takeover=takeover, into=folder)[1] if there else []


def name_at(url: str, beat: Beat | None) -> str:
    """Where the run at a URL lies below outputs."""
    return beat.name if beat else "/".join(url.split("/")[-2:])


def root_of(url: str, name: str) -> str:
    """The value of `mirror` that has a run at this URL."""
    return url.removesuffix(f"/{name}") if url.endswith(f"/{name}") else url.rpartition("/")[0]


def fetch(
    url: str,
    outputs: Path,
    *,
    takeover: bool = False,
    into: Path | None = None,
    reading: bool = False,
    key: str = "resume",
) -> tuple[Path, list[str], str]:
    """The folder under `outputs`, or `into`, with the run at a URL: fetched and verified, or there already.

    It comes with warnings about what was damaged, and with the value of `mirror` that has the run there.
    Refused if no whole checkpoint is there, or if another machine is at work on it; not if it is only for
    `reading`.
    """
    url = url.rstrip("/")
    bucket = Bucket(url)
    with refusing(url):
        beat, sizes = read_beat(bucket), bucket.sizes()
    if not sizes.keys() & {HISTORY, BEAT} and not any(map(MANIFEST.fullmatch, sizes)):
        with refusing(url):
            bucket.check()
        raise Refused(f"{key}={url}: no run is there; python -m rl.runs <the mirror's URL> lists what is")
    if beat and beat.alive and not (takeover or reading):
        raise Refused(at_work(url, beat))
    name = name_at(url, beat)
    root, target = root_of(url, name), into or outputs / name
    manifests = _manifests(bucket, sizes)
    here = Claim.read(target) if is_run(target) else None
    if here is not None and beat is not None and here.run_id == beat.run_id:
        whole, _ = list_manifests(target / "ckpt")
        newest = next((m for m in manifests.values() if isinstance(m, Manifest)), None)
        if whole and (newest is None or whole[0].saved_at >= newest.saved_at):
            if not reading and beat.session not in here.sessions:
                replace(here, sessions=[*here.sessions, beat.session]).write(target)
            return target, [f"{target} has all that {url} has: going on with it"], root
        if into is not None:
            raise Refused(f"{into}: {url} is ahead of it; type resume={url}, which gets a folder of its own")
    run_id = beat.run_id if beat else uuid.uuid4().hex
    own = Claim(root, url, name, run_id, [beat.session] if beat and not reading else [])
    with _scratch(into.parent if into else outputs) as place:  # on the disk where the run will be
        warnings = _download(bucket, manifests, sizes, place, key)
        own.write(place)
        if is_run(target) or not target.is_dir() or any(target.iterdir()):
            target = new_folder(target)
        os.replace(place, target)
    return target, warnings, root


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A folder for a run that is not yet whole, out of sight of who looks for runs."""
    rooms = parent / ".fetch"
    for room in rooms.iterdir() if rooms.is_dir() else ():
        if not is_locked(room):  # left by a kill
            shutil.rmtree(room, ignore_errors=True)
    room = rooms / uuid.uuid4().hex
    (room / "run" / "ckpt").mkdir(parents=True)
    lock = RunLock(room)
    try:
        yield room / "run"
    finally:
        lock.release()
        shutil.rmtree(room, ignore_errors=True)
        if not any(rooms.iterdir()):
            rooms.rmdir()


def _manifests(bucket: Bucket, sizes: dict[str, int]) -> dict[int, Manifest | str]:
    """By their frames, newest first: each manifest, or what is wrong with it."""
    found: dict[int, Manifest | str] = {}
    with refusing(bucket.url):
        for name in sizes:
            if named := MANIFEST.fullmatch(name):
                try:
                    found[int(named[1])] = Manifest.parse(bucket.read(name), Path(name).name)
                except (DamagedError, FileNotFoundError) as error:
                    found[int(named[1])] = str(error)
    return dict(sorted(found.items(), reverse=True))


def _download(
    bucket: Bucket, manifests: dict[int, Manifest | str], sizes: dict[str, int], place: Path, key: str
) -> list[str]:
    """Everything that whole checkpoints name, and the files beside them; warnings about what is damaged."""
    problems: list[str] = []
    whole: list[Manifest] = []
    with refusing(bucket.url):
        sums = _read_sums(bucket)
        for name in (*EXTRAS, "metrics.csv", "eval.csv"):
            if name in sizes:
                bucket.fetch(name, place / name)
                problems += _check_extra(place / name, sums.get(name))
        for frames, manifest in manifests.items():
            try:
                if isinstance(manifest, str):
                    raise DamagedError(manifest)
                _download_one(bucket, manifest, place)
                whole.append(manifest)
            except DamagedError as error:
                problems.append(f"{bucket.url}: at frame {format_count(frames)}: {error}")
    if not whole:
        said = "\n".join([f"{key}={bucket.url}: no whole checkpoint is there", *problems])
        raise Refused(f"{said}\nto start a new run, leave {key}= away")
    warnings = [f"DAMAGED IN THE BUCKET: {problem}" for problem in problems]
    if whole[0].frames != next(iter(manifests)):
        at = format_count(whole[0].frames)
        warnings.append(f"going on from the one before instead, at frame {at}")
    return [f"fetched from {bucket.url}", *warnings]


def _download_one(bucket: Bucket, manifest: Manifest, place: Path) -> None:
    """A manifest's files, verified, and then itself. DamagedError if one is not as it was written."""
    for path, description in manifest.needs(place / "ckpt").items():
        if not path.exists():
            try:
                bucket.fetch(path.relative_to(place).as_posix(), path)
            except FileNotFoundError:
                raise DamagedError(f"{path.name} is missing") from None
            try:
                verify(path, description)
            except DamagedError:
                path.unlink(missing_ok=True)
                raise
    for name, size in manifest.offsets.items():
        there = (place / name).stat().st_size if (place / name).exists() else 0
        if there < size:
            raise DamagedError(f"{name} has {there} bytes, and should have {size} or more")
    (place / "ckpt" / f"ckpt-{manifest.frames}.json").write_bytes(manifest.to_bytes())


def _read_sums(bucket: Bucket) -> dict[str, dict[str, Any]]:
    try:
        return dict(json.loads(bucket.read(SUMS)))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def _check_extra(path: Path, description: dict[str, Any] | None) -> list[str]:
    """What is wrong with a file that no manifest names; one that only grows may have grown since."""
    if description is None or path.name == "train.log":
        return []
    data = path.read_bytes()
    if path.name == HISTORY:
        data = data[: description["size"]]
    return [] if describe(data) == description else [f"{path.name}: its content is not what was uploaded"]
