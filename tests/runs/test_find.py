"""`latest` among many runs: only the first bytes of most manifests are read, and it is right all the same."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from rl.config.overrides import Overrides
from rl.runs import find
from rl.runs.find import find_run, last_of, latest_run, run_folders
from rl.runs.manifest import Manifest, list_manifests, newest_whole, saved_by
from rl.runs.outcome import Refused

OUTPUTS = Path("outputs")


def save(run: Path, frames: int, saved_at: float, state: bytes = b"state") -> Path:
    """A checkpoint as `Checkpoints.save` leaves it."""
    folder = run / "ckpt"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"ckpt-{frames}.pt").write_bytes(state)
    files = {f"ckpt-{frames}.pt": {"size": len(state), "sha256": ""}}
    manifest = Manifest(frames, saved_at, 1.0, f"ckpt-{frames}.pt", files, {}, None)
    path = folder / f"ckpt-{frames}.json"
    path.write_bytes(manifest.to_bytes())
    return path


def newest_by_reading_all(outputs: Path) -> Path | None:
    """What `latest` means, by its definition."""
    whole = {run: list_manifests(run / "ckpt", replay=False)[0] for run in run_folders(outputs)}
    saved = [(manifests[0].saved_at, str(run), run) for run, manifests in whole.items() if manifests]
    return max(saved)[2] if saved else None


def flip_a_byte(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    place = draw.randrange(min(len(data), draw.choice((60, len(data)))))
    data[place] = draw.choice(b'0129.,"} ')
    path.write_bytes(data)


DAMAGE: list[Callable[[Path, random.Random], None]] = [
    flip_a_byte,
    lambda path, draw: path.with_suffix(".pt").unlink(),
    lambda path, draw: path.with_suffix(".pt").write_bytes(b""),
    lambda path, draw: path.write_bytes(path.read_bytes()[: draw.randrange(80)]),
    lambda path, draw: path.unlink(),
    lambda path, draw: os.utime(path, (0, draw.randrange(10**9))),
]


def damaged_runs(outputs: Path, draw: random.Random) -> None:
    for number in range(draw.randrange(1, 8)):
        place = draw.choice(("spec/{}", "sweeps/s/{}", "{}"))
        run, saved_at = outputs / place.format(number), draw.randrange(50) / 4
        for frames in sorted(draw.sample(range(2000), draw.randrange(4))):
            saved_at += draw.choice((0, 0.25, 1, 20))
            path = save(run, frames, saved_at)
            if draw.random() < 0.5:
                draw.choice(DAMAGE)(path, draw)


def wrong_answers(number: int) -> int:
    """How often `latest` is not the newest run, in so many folders of damaged runs."""
    wrong = 0
    for seed in range(number):
        outputs = Path(f"outputs-{seed}")
        damaged_runs(outputs, random.Random(seed))
        truth = newest_by_reading_all(outputs)
        try:
            wrong += latest_run(outputs) != truth
        except Refused:
            wrong += truth is not None
    return wrong


def test_latest_is_the_newest_whatever_is_damaged() -> None:
    assert wrong_answers(300) == 0


def test_a_bound_that_is_too_low_gives_wrong_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the test above."""
    monkeypatch.setattr(find, "saved_by", lambda ckpt: (bound := saved_by(ckpt)) and min(bound, 5.0))
    assert wrong_answers(50) > 0


def test_only_runs_that_may_be_the_last_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        save(OUTPUTS / f"{number}", 64, number)
    (OUTPUTS / "29" / "ckpt" / "ckpt-64.pt").unlink()
    read = []
    monkeypatch.setattr(
        find, "newest_whole", lambda ckpt: read.append(ckpt.parent.name) or newest_whole(ckpt)
    )
    assert latest_run(OUTPUTS) == OUTPUTS / "28"
    assert read == ["29", "28"]


def test_a_manifest_of_another_order_is_read_whole() -> None:
    path = save(OUTPUTS / "a", 64, 9.0)
    save(OUTPUTS / "b", 64, 8.0)
    path.write_bytes(
        path.read_bytes().replace(b'{"frames": 64, ', b"{").replace(b'"wall_s"', b'"frames": 64, "wall_s"')
    )
    assert latest_run(OUTPUTS) == OUTPUTS / "a"
    assert saved_by(OUTPUTS / "a" / "ckpt") == float("inf")


def test_newest_whole_is_the_first_of_the_list() -> None:
    draw = random.Random(1)
    for seed in range(40):
        damaged_runs(OUTPUTS / str(seed), draw)
    found = [(newest_whole(p), list_manifests(p, replay=False)[0][:1]) for p in OUTPUTS.rglob("ckpt")]
    assert all(([newest] if newest else []) == first for newest, first in found)
    assert {bool(first) for _, first in found} == {True, False}


def test_of_equal_times_the_name_decides() -> None:
    for name in ("b", "c", "a"):
        save(OUTPUTS / name, 64, 3.0)
    assert latest_run(OUTPUTS) == OUTPUTS / "c"
    assert last_of({Path("x"): 3.0, Path("y"): 2.0}, lambda folder: None) is None


def test_run_folders_are_those_of_the_patterns() -> None:
    for place in (
        "a/ckpt",
        "a/b/ckpt",
        "a/b/c/ckpt",
        "sweeps/s/j/.hydra",
        "sweeps/s/j/k/ckpt",
        "d/e",
        "sweeps/x/ckpt",
    ):
        (OUTPUTS / place).mkdir(parents=True)
    (OUTPUTS / "file").touch()
    (OUTPUTS / "link").symlink_to("a", target_is_directory=True)
    marks = [f"{place}/{mark}" for place in ("*", "*/*", "sweeps/*/*") for mark in ("ckpt", ".hydra")]
    assert run_folders(OUTPUTS) == sorted({path.parent for mark in marks for path in OUTPUTS.glob(mark)})
    assert run_folders(Path("nowhere")) == []


def test_a_newer_run_without_a_checkpoint_is_named() -> None:
    save(OUTPUTS / "old", 64, 3.0)
    (OUTPUTS / "new" / "ckpt").mkdir(parents=True)
    for name, time in (("old", "2020-01-01T00:00:00+0000"), ("new", "2020-01-01T00:00:01+0000")):
        (OUTPUTS / name / "history.jsonl").write_text(f'{{"time": "{time}", "event": "start"\n')
    folder, warnings = find_run("latest", Overrides())
    assert folder == OUTPUTS / "old"
    assert warnings == [f"{OUTPUTS / 'new'} is newer, but has no whole checkpoint: it was not considered"]
