"""`python -m benchmarks.mirror_speed [rounds=60] [turn_s=1.5]`: what a slow bucket costs training.

Every request to the bucket takes 2 s. A run with a mirror and one without take short turns, as in
`benchmarks.speed`; each makes a checkpoint every 20k frames, about one a second. Counted are frames for each
CPU second of the training process, threads included; the uploader is another process.
"""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import sys
import tempfile
from pathlib import Path

import fsspec

from benchmarks import s3_server
from benchmarks.record import ROOT, record
from benchmarks.speed import WARM_UP_S, Side, Turn

LATENCY_S = 2.0
SETTINGS = ["algo=a2c", "threads=1", "frames=1_000_000_000", "log_every=10k", "progress=false"]
SETTINGS += [
    "ckpt.every=20k",
    "ckpt.minutes=null",
    "eval.every=null",
    "callbacks=[{_target_: turns.callback}]",
]


def measure(ways: dict[str, list[str]], rounds: int, turn_s: float) -> dict[str, list[Turn]]:
    """All turns of all ways, after one to warm up; the first changes from round to round."""
    with tempfile.TemporaryDirectory(prefix="mirror-speed-") as place, contextlib.ExitStack() as alive:
        sides = {}
        for number, (name, words) in enumerate(ways.items()):
            command = [sys.executable, "train.py", *SETTINGS, f"hydra.run.dir={place}/run-{number}", *words]
            sides[name] = Side(command, ROOT, 1, Path(place) / f"{number}.log")
            alive.callback(sides[name].close)
            sides[name].turn(WARM_UP_S)
        turns: dict[str, list[Turn]] = {name: [] for name in ways}
        for number in range(rounds):
            for name in list(ways)[:: 1 if number % 2 == 0 else -1]:
                turns[name].append(sides[name].turn(turn_s))
            print(*(f"{name}: {those[-1].per_cpu_second:.0f}" for name, those in turns.items()), flush=True)
    return turns


def main() -> None:
    """Measure in turns, and write the medians."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    port = s3_server.free_port()
    os.environ.update(s3_server.environment(port))
    server = s3_server.start(port, LATENCY_S)
    ways = {"no mirror": [], "mirror, 2 s a request": [f"mirror=s3://{s3_server.BUCKET}/speed"]}
    try:
        turns = measure(ways, int(words.get("rounds", 60)), float(words.get("turn_s", 1.5)))
        found = fsspec.filesystem("s3").find(f"{s3_server.BUCKET}/speed")
        uploaded = [int(frames) for frames in re.findall(r"ckpt-(\d+)\.json", str(found))]
    finally:
        server.kill()
        server.wait()
    rows = []
    for name, those in turns.items():
        pairs = zip(those, turns["no mirror"], strict=True)
        ratios = [a.per_cpu_second / b.per_cpu_second for a, b in pairs]
        row = {
            "case": name,
            "frames_per_cpu_s": round(statistics.median(turn.per_cpu_second for turn in those)),
            "median_ratio_of_rounds": round(statistics.median(ratios), 4),
            "newest_frames_in_bucket": max(uploaded) if ways[name] else "",
            "rounds": " ".join(f"{ratio:.3f}" for ratio in ratios),
        }
        print(row)
        rows.append(row)
    record("mirror_speed", rows)


if __name__ == "__main__":
    main()
