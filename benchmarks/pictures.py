"""`python -m benchmarks.pictures [place=DIR]`: the pictures of README.md, from runs that this command makes.

Trains PPO on LunarLander with three seeds. Each run is killed once with SIGKILL while it trains, and the same
command line resumes it. `rl.report` draws the learning curve, in which triangles mark the resumes, and
`enjoy.py` records the best weights of the best seed. The curve and a smaller GIF of the video go to
docs/pictures/. With place=DIR the runs stay in that folder, and a second call starts from what is there.
Needs the extras `report` and `box2d`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from benchmarks.kills import newest_frames
from benchmarks.record import ROOT
from rl.config import EnjoyConfig
from rl.config.compose import compose
from rl.enjoy import enjoy
from rl.report.__main__ import report
from rl.runs.find import read_result

PICTURES = ROOT / "docs" / "pictures"
EXPERIMENT = "ppo_lunar_lander"
KILLED_AT = {1: 80_000, 2: 140_000, 3: 200_000}  # seed -> frames that its newest checkpoint has at the kill
EVERY = ["ckpt.every=20k", "eval.every=20k", "eval.episodes=20"]
WIDTH = 300  # pixels of the GIF
EVERY_NTH = 2  # frame of the video that the GIF shows
COLOURS = 32
LARGEST = 600_000  # bytes of a GIF that a page can carry


def train(folder: Path, seed: int, killed_at: int) -> None:
    """A run that is killed once and resumed to its end. CalledProcessError if it fails."""
    command = [sys.executable, "train.py", f"experiment={EXPERIMENT}", f"seed={seed}", *EVERY]
    command += ["progress=false", f"hydra.run.dir={folder}"]
    if newest_frames(folder) < 0:
        with subprocess.Popen(command, cwd=ROOT) as process:
            while process.poll() is None and newest_frames(folder) < killed_at:
                time.sleep(0.1)
            process.kill()
    subprocess.run(command, cwd=ROOT, check=True)


def best_score(folder: Path) -> float:
    """The mean return of a finished run's best weights."""
    result = read_result(folder)
    assert result is not None, f"{folder} is not finished"
    return float(result["best"]["total_reward"])


def shrink(video: Path, to: Path) -> None:
    """A smaller GIF of a GIF: fewer frames, pixels and colours; the last frame is shown for a second."""
    with Image.open(video) as source:
        pause = source.info["duration"] * EVERY_NTH
        height = source.height * WIDTH // source.width
        frames = []
        for index in range(0, source.n_frames, EVERY_NTH):  # type: ignore[attr-defined]
            source.seek(index)
            frames.append(source.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS))
    palette = frames[len(frames) // 2].quantize(COLOURS, dither=Image.Dither.NONE)
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    durations = [pause] * len(others) + [1000]
    first.save(to, save_all=True, append_images=others, duration=durations, loop=0, optimize=True)
    if to.stat().st_size > LARGEST:
        raise SystemExit(f"{to} has {to.stat().st_size} bytes, more than {LARGEST}")


def make(place: Path) -> None:
    """Train in `place`, and write both pictures."""
    runs = {seed: place / f"seed-{seed}" for seed in KILLED_AT}
    for seed, folder in runs.items():
        train(folder, seed, KILLED_AT[seed])
    PICTURES.mkdir(exist_ok=True)
    page = report([*map(str, runs.values()), f"out={place / 'report'}"])
    (chart,) = page.parent.glob("*evaluation-over-frames.png")
    shutil.copyfile(chart, PICTURES / "learning-curve.png")
    best = max(runs.values(), key=best_score)
    overrides = [f"run={best}", "render=video", "video.format=gif", "episodes=1"]
    video = enjoy(compose(overrides, EnjoyConfig, "enjoy").config).video
    assert video is not None
    shrink(video, PICTURES / "agent.gif")


def main() -> None:
    """Make the pictures in a temporary folder, or in place=DIR."""
    places = [word.removeprefix("place=") for word in sys.argv[1:] if word.startswith("place=")]
    if places:
        make(Path(places[0]).resolve())
    else:
        with tempfile.TemporaryDirectory() as place:
            make(Path(place))


if __name__ == "__main__":
    main()
