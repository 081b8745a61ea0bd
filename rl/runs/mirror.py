"""The mirror of a run in a bucket (`mirror=`): whose it is, and how a machine that has nothing fetches it.

In the bucket a run has the files that its folder has, below `<mirror>/<the folder's path under outputs>`,
and two more: `heartbeat.json`, which the machine that works on the run rewrites while it does, and
`sums.json`, with the hashes of files that no manifest names. A manifest is uploaded after all that it names.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rl.children import is_alive
from rl.config import RunConfig
from rl.config.invocation import command
from rl.runs import files
from rl.runs.bucket import Bucket, is_url, refusing
from rl.runs.find import RESULT
from rl.runs.history import CONFIG, HISTORY
from rl.runs.manifest import DamagedError, list_manifests
from rl.runs.outcome import Refused

CLAIM, BEAT, SUMS = "mirror.json", "heartbeat.json", "sums.json"
EXTRAS = (HISTORY, CONFIG, "train.log", RESULT, "sweep.json")  # of a folder, what no manifest names
BEAT_S = 20.0  # between two heartbeats
ALIVE_S = 180.0  # how long after its last heartbeat a machine counts as at work
MANIFEST = re.compile(r"ckpt/ckpt-(\d+)\.json")


@dataclass(frozen=True)
class Beat:
    """The heartbeat of the machine that works on a run, or did so last."""

    run_id: str
    session: str
    name: str  # the run's folder, relative to outputs
    host: str
    pid: int
    time: float  # seconds since the epoch
    ended: bool = False
    processes: str = ""  # where the process's number holds, see `our_processes`

    @property
    def alive(self) -> bool:
        """Whether it was heard of within a few minutes, and has not died here."""
        return not self.ended and time.time() - self.time < ALIVE_S and not self._died_here

    @property
    def _died_here(self) -> bool:
        return bool(self.processes) and self.processes == our_processes() and not is_alive(self.pid)

    @property
    def machine(self) -> str:
        """Who it is, for a message."""
        return f"process {self.pid} on {self.host}"

    def to_bytes(self) -> bytes:
        """As it lies in the bucket."""
        return json.dumps(vars(self)).encode()


def our_processes() -> str:
    """What tells this start of this machine, or of a container on it, from others; '' if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def read_beat(bucket: Bucket) -> Beat | None:
    """The heartbeat in a run's place; None if there is none, or none that can be read."""
    try:
        return Beat(**json.loads(bucket.read(BEAT)))
    except (FileNotFoundError, ValueError, TypeError):
        return None


@dataclass(frozen=True)
class Claim:
    """What a folder knows of its mirror: its file mirror.json."""

    root: str  # the value of `mirror`
    url: str  # of the run
    name: str  # the run's folder, relative to outputs
    run_id: str
    sessions: list[str]  # the last of this folder, newest last

    @classmethod
    def read(cls, folder: Path) -> Claim | None:
        """None if the folder has no mirror. DamagedError if the file cannot be read."""
        try:
            return cls(**json.loads((folder / CLAIM).read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise DamagedError(f"{folder / CLAIM}: {error}") from error

    def write(self, folder: Path) -> None:
        """Keep it in the folder."""
        files.write_atomic(folder / CLAIM, json.dumps(vars(self), indent=1).encode())

    def beat(self, pid: int, *, ended: bool = False) -> Beat:
        """The heartbeat of this folder's last session, whose process has this number."""
        host, now = os.uname().nodename, time.time()
        return Beat(self.run_id, self.sessions[-1], self.name, host, pid, now, ended, our_processes())


def name_of(folder: Path, outputs: Path) -> str:
    """Where a folder lies below a mirror: as below outputs or the working directory, else by its name."""
    for base in (outputs.absolute(), Path.cwd()):
        if folder.absolute().is_relative_to(base) and folder.absolute() != base:
            return folder.absolute().relative_to(base).as_posix()
    return folder.name


def place_of(root: str, folder: Path, outputs: Path) -> tuple[str, str]:
    """The URL that a folder's mirror has, and its name; in a mirrored sweep below the sweep's."""
    sweep = Claim.read(folder.parent)
    if sweep is not None and sweep.root == root:
        return f"{sweep.url}/{folder.name}", f"{sweep.name}/{folder.name}"
    name = name_of(folder, outputs)
    return f"{root.rstrip('/')}/{name}", name


def claims(plan: Any) -> dict[str, bool]:
    """What `claim` is told of a `Plan`."""
    return {"existing": plan.lock is not None, "named": not plan.unnamed, "takeover": plan.takeover}


def claim(config: RunConfig, folder: Path, *, existing: bool, named: bool, takeover: bool) -> Claim | None:
    """Take a folder's place in the mirror for the session that begins; None without `mirror=`.

    Refused if another machine is at work on it, or was since, or if nothing can be written there.
    """
    root, outputs = config.mirror, Path(config.outputs)
    if root is None:
        return None
    if not is_url(root):
        raise Refused(f"mirror={root}: not a URL; type s3://bucket/folder, or file://{Path(root).absolute()}")
    known = Claim.read(folder) if existing else None
    if known is None or known.root != root:
        url, name = place_of(root, folder, outputs)
        return _claim_new(root, url, name, folder, existing=existing, named=named, takeover=takeover)
    bucket, sessions = Bucket(known.url), known.sessions
    with refusing(known.url):
        beat = read_beat(bucket)
        if beat is not None:
            _check_owner(known, beat, takeover=takeover or config.mirror_takeover)
            if beat.session in sessions:  # those after it wrote no heartbeat: it is still the one to know
                sessions = sessions[sessions.index(beat.session) :]
    mine = replace(known, sessions=[*sessions, uuid.uuid4().hex])
    mine.write(folder)
    with refusing(known.url):
        bucket.write(BEAT, mine.beat(os.getpid()).to_bytes())
    return mine


def _check_owner(known: Claim, beat: Beat, *, takeover: bool) -> None:
    """Refused if the run in the bucket is not the one that this folder left there."""
    if beat.run_id != known.run_id:
        raise Refused(f"{known.url}: another run is there; type another mirror=..., or mirror=null")
    if beat.session in known.sessions or takeover:
        return
    if beat.alive:
        raise Refused(at_work(known.url, beat))
    raise Refused(
        f"{known.url}: the run went on elsewhere ({beat.machine}); to go on with that:\n"
        f"  {command('train', f'resume={known.url}')}\n"
        "or type mirror_takeover=true to have what is in this folder replace it"
    )


def at_work(url: str, beat: Beat) -> str:
    """The refusal of a run that another machine is at work on."""
    ago = max(time.time() - beat.time, 0)
    return (
        f"{url}: {beat.machine} is at work on it, heard of {ago:.0f} s ago; it counts as gone after "
        f"{ALIVE_S:.0f} s. If you know that it is gone, type mirror_takeover=true"
    )


def _claim_new(
    root: str, url: str, name: str, folder: Path, *, existing: bool, named: bool, takeover: bool
) -> Claim:
    """A place where nothing is: one that nobody named may get another name."""
    for number in range(1, 10_000):
        end = "" if number == 1 else f"-{number}"
        mine = Claim(root, f"{url}{end}", f"{name}{end}", uuid.uuid4().hex, [uuid.uuid4().hex])
        with refusing(mine.url):
            try:
                Bucket(mine.url).create(BEAT, mine.beat(os.getpid()).to_bytes())
            except FileExistsError:
                if not named:
                    continue
                if _is_free(Bucket(mine.url), takeover=takeover):
                    Bucket(mine.url).write(BEAT, mine.beat(os.getpid()).to_bytes())
                    break
                go_on = command("train", f"resume={mine.url}")
                raise Refused(
                    f"{mine.url}: another run is there; to go on with that:\n  {go_on}\n"
                    "or type another hydra.run.dir=... or mirror=..."
                ) from None
        break
    else:
        raise Refused(f"no free name for a run at {url}")
    if existing:
        mine.write(folder)
    return mine


def _is_free(bucket: Bucket, *, takeover: bool) -> bool:
    """Whether a session that claimed a place is gone, and never uploaded a checkpoint."""
    beat = read_beat(bucket)
    if beat is not None and beat.alive and not takeover:
        return False
    return not any(map(MANIFEST.fullmatch, bucket.sizes()))


def not_uploaded(config: RunConfig, folder: Path) -> str:
    """What to say of a finished run of which a checkpoint or the result is not in its mirror; else ''."""
    mine = Claim.read(folder)
    if mine is None or mine.root != config.mirror:
        return ""
    with refusing(mine.url):
        there = Bucket(mine.url).sizes()
    whole, _ = list_manifests(folder / "ckpt")
    names = [*(f"ckpt/ckpt-{manifest.frames}.json" for manifest in whole), RESULT]
    missing = ", ".join(name for name in names if name not in there)
    return f"finished, but {missing} never reached {mine.url}: uploaded now" if missing else ""


@contextlib.contextmanager
def released_on_error(mine: Claim | None) -> Iterator[None]:
    """Give a claim up again if the session does not come to begin."""
    try:
        yield
    except BaseException:
        if mine is not None:
            with contextlib.suppress(Exception):  # the first error is the one to report
                Bucket(mine.url).write(BEAT, mine.beat(os.getpid(), ended=True).to_bytes())
        raise
