"""The resume-parity benchmark measures what it says: on a framework of a few lines, with a defect each."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.parity import measure
from benchmarks.parity.adapter import TASKS, Probe
from benchmarks.parity.measure import (
    Session,
    difference,
    flip_a_bit,
    noticed_damage,
    noticed_edit,
    rows_after,
)

WEIGHTS = {"w": np.linspace(-1, 1, 64, dtype=np.float32), "b": np.zeros(3, np.float32)}


def session(code: int = 0, frames: int = 10, output: str = "", lr: float = 1.0) -> Session:
    report = None if code else {"lr": lr, "gamma": 0.99}
    return Session(code, frames, 1.0, [], output, report, {})


def test_equal_weights_differ_by_zero():
    assert difference(WEIGHTS, {name: value.copy() for name, value in WEIGHTS.items()}) == 0


@pytest.mark.parametrize("bit", range(32))
def test_every_flipped_bit_of_a_weight_is_a_difference(bit: int):
    other = {name: value.copy() for name, value in WEIGHTS.items()}
    other["w"].view(np.uint32)[17] ^= np.uint32(1 << bit)
    assert difference(WEIGHTS, other) > 0


def test_the_sign_of_a_zero_is_a_difference():
    assert difference(WEIGHTS, WEIGHTS | {"b": -WEIGHTS["b"]}) > 0


@pytest.mark.parametrize("other", [{}, {"w": WEIGHTS["w"]}, WEIGHTS | {"b": np.zeros(4, np.float32)}])
def test_other_names_or_shapes_are_infinitely_far(other: dict[str, Any]):
    assert difference(WEIGHTS, other) == float("inf")


def test_nan_in_one_run_is_infinitely_far():
    assert difference(WEIGHTS, WEIGHTS | {"b": np.full(3, np.nan, np.float32)}) == float("inf")


def test_the_flipped_bit_lies_in_the_saved_weights(tmp_path: Path):
    path = tmp_path / "weights.pt"
    torch.save({"w": torch.linspace(-1, 1, 64), "steps": 3}, path)
    flip_a_bit(path)
    damaged = torch.load(path, weights_only=True)
    assert damaged["steps"] == 3
    assert int((damaged["w"] != torch.linspace(-1, 1, 64)).sum()) == 1


def test_the_weights_inside_another_zip_are_found(tmp_path: Path):
    import zipfile

    inner, path = tmp_path / "policy.pth", tmp_path / "model.zip"
    torch.save({"w": torch.ones(64)}, inner)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "{}")
        archive.write(inner, "policy.pth")
    flip_a_bit(path)
    with zipfile.ZipFile(path) as archive, pytest.raises(zipfile.BadZipFile):
        archive.read("policy.pth")


def test_rows_lost_and_rows_twice_are_counted():
    control = [(frames, 0.5) for frames in range(1, 7)]
    at_kill, new = control[:4], [(4, 0.1), (5, 0.2), (6, 0.3)]
    assert rows_after(control, at_kill, control, 3) == (0, 0)
    assert rows_after(control, at_kill, control[:3] + new, 3) == (0, 0)
    assert rows_after(control, at_kill, new, 3) == (3, 0)  # the file was wiped
    assert rows_after(control, at_kill, at_kill + new, 3) == (0, 1)  # 4 was trained again
    assert rows_after(control, at_kill, at_kill + [(4, 0.5), (5, 0.5), (6, 0.5)], 3) == (0, 1)
    assert rows_after(control, at_kill, at_kill + [(1, 0.1), (2, 0.2)], 3) == (0, 3)  # counts from 0 again


def test_what_became_of_an_edit_is_told_apart():
    plain, new = session(), measure.EDITS["lr"]
    assert noticed_edit("lr", session(code=2, output="lr: the past would differ"), plain).startswith(
        "refused"
    )
    assert noticed_edit("lr", session(lr=new), plain) == "applied in silence"
    assert noticed_edit("lr", session(lr=1.0), plain) == "ignored in silence"
    assert noticed_edit("lr", session(output="warning: lr is ignored"), plain) == "ignored, says so"


def test_what_became_of_damage_is_told_apart():
    plain = session(frames=10)
    assert noticed_damage(session(code=1), plain).startswith("stops")
    assert noticed_damage(session(frames=10), plain) == "not noticed"
    told = "ckpt-8 is damaged: using the one before"
    assert noticed_damage(session(frames=14, output=told), plain) == "previous checkpoint, says so"


def test_the_probe_survives_its_process(tmp_path: Path):
    probe = Probe(tmp_path / "probe")
    probe.add(3)
    probe.add_episode(7.5)
    assert Probe(tmp_path / "probe").read()[0] == 3
    assert (tmp_path / "probe.episodes").read_text() == "3,7.5\n"


FRAMEWORK = '''
"""A framework that adds one to its weights at every frame, and saves them every {every} of them."""
import json, sys, time
from pathlib import Path
import numpy as np
from benchmarks.parity.adapter import Job, Report, main, numbered, probe
SAVES = RESUMES = "by hand"
TASKS = {{"ppo_cartpole": ""}}
def newest(folder):
    return numbered(folder.glob("*.npy"), lambda path: int(path.stem))
def rows(folder):
    return [(int(line), 0.0) for line in (folder / "rows").read_text().split()]
def train(job):
    folder = Path(job.folder)
    folder.mkdir(exist_ok=True)
    frames, path = newest(folder) if job.resume else (0, None)
    weights = np.load(path) if path else np.zeros(64, np.float32)
    if job.resume and "{defect}" == "bit":
        weights.view(np.uint32)[3] ^= np.uint32(1)
    for frames in range(frames + 1, job.spec.frames + 1):
        probe().add(1)
        weights += np.float32(1e-3)
        if frames % {every} == 0:
            with (folder / "rows").open("a") as file:
                file.write(f"{{frames}}\\n")
            np.save(folder / f"{{frames}}.npy", weights)
        if frames % 64 == 0:
            probe().add_episode(1.0)
            time.sleep(0.001)
    return Report({{"w": weights}}, frames, job.value("lr"), job.value("gamma"))
if __name__ == "__main__":
    main(train)
'''


@pytest.mark.parametrize("defect", ["none", "bit"])
def test_a_flipped_bit_at_the_resume_is_measured(
    defect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The negative control of the whole measure: a resume that changes one bit of one weight is not exact."""
    code = FRAMEWORK.format(defect=defect, every=TASKS["ppo_cartpole"].every)
    (tmp_path / "tiny_framework.py").write_text(code)
    adapter = types.ModuleType("tiny_framework")
    exec(code, vars(adapter))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    row = measure.measure(adapter, Path(sys.executable), "ppo_cartpole", tmp_path / "runs")
    assert row["resumes"] == "yes"
    assert row["killed_at"] >= row["resumed_from"] > 0
    assert float(row["control_difference"]) == 0
    assert (float(row["resumed_difference"]) > 0) == (defect == "bit")
    assert row["damaged"] == "not noticed"
    assert (row["edited_lr"], row["rows_missing"], row["same_folder"]) == ("applied in silence", 0, "yes")
