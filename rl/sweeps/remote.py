"""A sweep in a mirror: its record, and a run's place for each job, fetched to a machine that has neither."""

from __future__ import annotations

import uuid
from pathlib import Path

from rl.runs import files
from rl.runs.bucket import Bucket, refusing
from rl.runs.fetch import fetch, name_at, root_of
from rl.runs.find import new_folder
from rl.runs.mirror import MANIFEST, Claim, at_work, read_beat
from rl.runs.outcome import Refused
from rl.sweeps.record import Record


def holds_sweep(url: str) -> bool:
    """Whether a sweep's record is at a URL. Refused if that cannot be asked."""
    with refusing(url):
        return Record.FILE in Bucket(url).sizes()


def fetch_sweep(
    url: str, outputs: Path, *, takeover: bool, into: Path | None = None
) -> tuple[Path, str, list[str]]:
    """The folder with the sweep at a URL and all its jobs, the value of `mirror` that has it there, and
    warnings. Refused if there is none, or if another machine is at work on it.

    The record comes last: without it the folder is no sweep, and a fetch that was killed is taken up again.
    """
    url = url.rstrip("/")
    bucket = Bucket(url)
    with refusing(url):
        beat, sizes = read_beat(bucket), bucket.sizes()
        if Record.FILE not in sizes:
            raise Refused(f"resume={url}: no sweep is there; a single run's is typed without -m")
        data = bucket.read(Record.FILE)
    if beat and beat.alive and not takeover:
        raise Refused(at_work(url, beat))
    name = name_at(url, beat)
    root, target = root_of(url, name), into or outputs / name
    run_id = beat.run_id if beat else uuid.uuid4().hex
    known = Claim.read(target)
    if known is None or known.run_id != run_id:
        if target.exists() and any(target.iterdir()):
            target = new_folder(target)
        target.mkdir(parents=True, exist_ok=True)
        Claim(root, url, name, run_id, [beat.session] if beat else []).write(target)
    warnings = []
    uploaded = {path.partition("/")[0] for path in sizes if MANIFEST.fullmatch(path.partition("/")[2])}
    for job in sorted(uploaded):
        warnings += fetch(f"{url}/{job}", outputs, takeover=takeover, into=target / job)[1]
    if not (target / Record.FILE).is_file():
        files.write_atomic(target / Record.FILE, data)
        Record.read(target)  # DamagedError if it is not one
    return target, root, warnings
