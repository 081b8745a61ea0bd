"""`python -m benchmarks.mirror_kills [kills=20] [seeds=4] [overrides ...]`: runs that lose their machine.

For each seed one run is left alone, without a mirror. Another is mirrored to an S3 API: at random moments it
is killed (-9) and its folder deleted, and it goes on from the bucket in a new folder. In every third session
its uploader is killed (-9) before. At last it runs to its end and is compared with the first: checkpoints,
rows, the result. What a kill costs is what was trained since the last upload.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import s3_server
from benchmarks.compare import differences
from benchmarks.kills import newest_frames
from benchmarks.record import ROOT, record
from benchmarks.sweep_kills import children
from rl.runs.bucket import Bucket
from rl.runs.history import read
from rl.runs.mirror import MANIFEST

SETTINGS = ["frames=600k", "ckpt.every=10k", "ckpt.minutes=null", "log_every=10k"]
SETTINGS += ["eval.every=50k", "eval.episodes=5", "progress=false"]


def start(machine: Path, *words: str) -> subprocess.Popen[bytes]:
    """Train with a folder as the whole disk of a machine."""
    machine.mkdir()
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words],
        cwd=machine,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def uploaded(bucket: Bucket) -> int:
    """The frames of the newest checkpoint in the bucket, -1 if there is none."""
    return max((int(found[1]) for name in bucket.sizes() if (found := MANIFEST.fullmatch(name))), default=-1)


def finish(process: subprocess.Popen[bytes]) -> None:
    """RuntimeError if a run does not get to its end."""
    errors = process.communicate()[1].decode()
    if process.returncode != 0:
        raise RuntimeError(f"exit {process.returncode}: {errors}")


def lose_machine(
    machine: Path, words: list[str], bucket: Bucket, rng: random.Random, *, uploader_too: bool
) -> dict[str, int] | None:
    """Kill a session at a random moment after an upload, and delete its folder; None if it ended before."""
    before = uploaded(bucket)
    process = start(machine, *words)
    killed = 0
    while process.poll() is None and uploaded(bucket) <= max(before, 0):
        own = children(process.pid)
        if uploader_too and not killed and own and newest_frames(machine / "outputs" / "run") > before:
            os.kill(own[0], signal.SIGKILL)
            killed = 1
        time.sleep(0.05)
    time.sleep(rng.uniform(0, 1.5))
    if process.poll() is not None:
        finish(process)
        return None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(0.2)  # its uploader sees that it is gone
    there, here = uploaded(bucket), newest_frames(machine / "outputs" / "run")
    resumed_at = read(machine / "outputs" / "run")[-1]["frames"]
    shutil.rmtree(machine)
    return {
        "before": before,
        "resumed_at": resumed_at,
        "there": there,
        "lost": here - there,
        "killed": killed,
    }


def campaign(seed: int, first: int, kills: int, overrides: list[str], place: Path) -> dict[str, object]:
    """One seed's two runs, one of which loses its machine `kills` times."""
    rng, words = random.Random(seed), [*SETTINGS, f"seed={seed}", *overrides]
    finish(start(place / f"alone-{seed}", *words, "hydra.run.dir=outputs/run"))
    url = f"s3://{s3_server.BUCKET}/seed-{seed}"
    bucket = Bucket(f"{url}/run")
    session = [*words, "hydra.run.dir=outputs/run", f"mirror={url}"]
    lost: list[dict[str, int]] = []
    machines = 0
    while len(lost) < kills:
        machines += 1
        uploader_too = (first + len(lost)) % 3 == 2
        made = lose_machine(
            place / f"machine-{seed}-{machines}", session, bucket, rng, uploader_too=uploader_too
        )
        if made is None:
            raise RuntimeError("it ended before it was killed: take more frames or fewer kills for a seed")
        if made["resumed_at"] < made["before"]:
            raise RuntimeError(f"it went on at {made['resumed_at']}; {made['before']} had been uploaded")
        lost.append(made)
        print(f"seed {seed}: {made}", flush=True)
        session = [f"resume={url}/run", "mirror_takeover=true"]
    last = place / f"machine-{seed}-last"
    finish(start(last, *session))
    found = differences(place / f"alone-{seed}" / "outputs" / "run", last / "outputs" / "run")
    print(f"seed {seed}: {kills} machines lost, differences: {found or 'none'}", flush=True)
    return {
        "seed": seed,
        "machines_lost": kills,
        "uploaders_killed": sum(one["killed"] for one in lost),
        "frames_trained_again": sum(one["lost"] for one in lost),
        "differences": len(found),
    }


def main() -> None:
    """Run the campaign, one seed after the other."""
    words = dict(word.split("=", 1) for word in sys.argv[1:] if word.startswith(("kills=", "seeds=")))
    overrides = [word for word in sys.argv[1:] if not word.startswith(("kills=", "seeds="))]
    kills, seeds = int(words.get("kills", 20)), int(words.get("seeds", 4))
    port = s3_server.free_port()
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", **s3_server.environment(port))
    server = s3_server.start(port)
    bounds = [kills * n // seeds for n in range(seeds + 1)]
    try:
        with tempfile.TemporaryDirectory(prefix="mirror-kills-") as place:
            rows = [
                campaign(n + 1, bounds[n], bounds[n + 1] - bounds[n], overrides, Path(place))
                for n in range(seeds)
            ]
            runs = [Path(place) / name / "outputs" / "run" for name in ("alone-1", f"machine-{seeds}-last")]
            control = len(differences(*runs)) if seeds > 1 else 0
            rows = [{**row, "differences_of_two_seeds": control} for row in rows]
    finally:
        server.kill()
        server.wait()
    record(
        "mirror_kills" + "".join(f"_{word.replace('=', '-').replace('.', '-')}" for word in overrides), rows
    )
    if any(row["differences"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
