"""`python -m benchmarks.mirror_speed [rounds=5]`: what a mirror in a slow bucket costs training.

Every request to the bucket takes 2 s. Runs with and without a mirror take turns; counted are frames for each
CPU second of the training process, threads included, from frame 20k to 150k. The uploader is another process.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import s3_server
from benchmarks.record import ROOT, record

FIRST, LAST, LATENCY_S = 20_000, 150_000, 2.0
SETTINGS = ["algo=a2c", "frames=1M", "ckpt.every=10k", "ckpt.minutes=null", "eval.every=null"]
SETTINGS += ["log_every=10k", "progress=false", "callbacks=[{_target_: benchmarks.mirror_speed.note}]"]
_began: list[tuple[int, float]] = []


def note(run: Any) -> None:
    """A callback: writes frames per CPU second to a file once the run has got far enough."""
    frames = run.clock.frames
    if frames >= FIRST and not _began:
        _began.append((frames, time.process_time()))
    if frames >= LAST and not Path("measured").exists():
        speed = (frames - _began[0][0]) / (time.process_time() - _began[0][1])
        Path("measured.tmp").write_text(json.dumps(speed))
        Path("measured.tmp").rename("measured")


def measure(folder: Path, *words: str) -> float:
    """Frames per CPU second of one run."""
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *SETTINGS, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None and not (folder / "measured").exists():
        time.sleep(0.1)
    process.kill()
    process.wait()
    return float(json.loads((folder / "measured").read_text()))


def main() -> None:
    """Measure in turns, and write the medians."""
    rounds = int(dict(word.split("=", 1) for word in sys.argv[1:]).get("rounds", 5))
    port = s3_server.free_port()
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", **s3_server.environment(port))
    server = s3_server.start(port, LATENCY_S)
    ways = {"no mirror": [], "mirror, 2 s a request": [f"mirror=s3://{s3_server.BUCKET}/speed"]}
    found: dict[str, list[float]] = {name: [] for name in ways}
    try:
        with tempfile.TemporaryDirectory(prefix="mirror-speed-") as place:
            for number in range(rounds):
                names = list(ways) if number % 2 == 0 else list(reversed(ways))
                for name in names:
                    found[name].append(measure(Path(place) / f"{number}-{len(ways[name])}", *ways[name]))
                    print(f"{name}: {found[name][-1]:.0f} frames per CPU second", flush=True)
    finally:
        server.kill()
        server.wait()
    pairs = zip(*found.values(), strict=True)
    ratio = statistics.median(mirrored / alone for alone, mirrored in pairs)
    rows = [
        {
            "case": name,
            "frames_per_cpu_s": round(statistics.median(speeds)),
            "median_ratio_of_rounds": round(ratio, 4) if ways[name] else 1,
            "rounds": " ".join(f"{speed:.0f}" for speed in speeds),
        }
        for name, speeds in found.items()
    ]
    record("mirror_speed", rows)


if __name__ == "__main__":
    main()
