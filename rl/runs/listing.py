"""The runs in a mirror, as far as it takes to list them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rl.runs.bucket import Bucket, refusing
from rl.runs.find import RESULT
from rl.runs.history import CONFIG, HISTORY
from rl.runs.mirror import BEAT, MANIFEST, Beat, read_beat

_READ = (HISTORY, CONFIG, RESULT, "eval.csv", BEAT)


def outlines(url: str, scratch: Path) -> Iterator[tuple[str, Path, Beat | None]]:
    """Every run below a URL: its own URL, a folder with its small files, and its heartbeat.

    The large files are there too, with their sizes and without their contents. Refused if the place cannot
    be read.
    """
    bucket = Bucket(url)
    with refusing(url):
        sizes = bucket.sizes()
        bucket.check()
    runs = sorted({run for name in sizes if (run := _run_of(name)) is not None})

    def outline(name: str) -> None:
        path = scratch / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.rpartition("/")[2] in _READ or name.endswith(".json"):
            bucket.fetch(name, path)
        else:
            path.touch()
            os.truncate(path, sizes[name])

    needed = [name for name in sizes if "/ckpt/" in f"/{name}" or name.rpartition("/")[2] in _READ]
    with refusing(url), ThreadPoolExecutor(16) as pool:
        list(pool.map(outline, needed))
    for run in runs:
        place = f"{bucket.url}/{run}" if run else bucket.url
        with refusing(place):
            yield place, scratch / "run" / run, read_beat(Bucket(place))


def _run_of(name: str) -> str | None:
    """The run that a file belongs to, if it shows that there is one."""
    folder, _, file = name.rpartition("/")
    if file == HISTORY:
        return folder
    parts = name.split("/")
    return "/".join(parts[:-2]) if MANIFEST.fullmatch("/".join(parts[-2:])) else None
