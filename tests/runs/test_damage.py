"""Checkpoints that rot, files that vanish, disks that are full or broken."""

from __future__ import annotations

import errno
import functools
import itertools
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from faults import fail_at
from short_runs import contents, differences, frames_of, go, in_child, record, typed
from test_kills import LINE as SHORTER

from rl.config.invocation import command
from rl.runs import history
from rl.runs.manifest import DamagedError, newest_manifest
from rl.runs.outcome import Refused
from rl.runs.plan import make_plan

pytestmark = pytest.mark.usefixtures("few_scores", "composed_once")
LINE, LONGER = [*SHORTER, "frames=224"], [*SHORTER, "frames=288"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = [truncate, flip_a_bit, empty, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["ckpt/ckpt-224.pt", "ckpt/ckpt-224.json"])
def test_a_damaged_checkpoint_falls_back_loudly_and_exactly(
    damage: Callable[[Path], None], file: str, tmp_path: Path
) -> None:
    assert go(tmp_path / "straight", *LONGER) == 0
    assert go(tmp_path / "run", *LINE) == 0
    assert frames_of(tmp_path / "run") == [192, 224]
    damage(tmp_path / "run" / file)
    output = tmp_path / "output"
    assert in_child(functools.partial(go, tmp_path / "run", *LONGER), output) == 0
    assert "going on at frame 192" in output.read_text()
    # without its manifest it never was a checkpoint
    if (damage, file) != (Path.unlink, "ckpt/ckpt-224.json"):
        assert "DAMAGED CHECKPOINT: ckpt-224" in output.read_text()
        assert "going on from the one before" in output.read_text()
    assert differences(record(tmp_path / "straight"), record(tmp_path / "run")) == []


def test_a_checkpoint_whose_rows_are_gone_is_damaged(tmp_path: Path) -> None:
    assert go(tmp_path / "straight", *LONGER) == 0
    assert go(tmp_path / "run", *LINE) == 0
    truncate(tmp_path / "run" / "metrics.csv")  # its last row is of frame 224
    assert in_child(functools.partial(go, tmp_path / "run", *LONGER), tmp_path / "output") == 0
    assert "DAMAGED CHECKPOINT: ckpt-224.json: metrics.csv has" in (tmp_path / "output").read_text()
    assert differences(record(tmp_path / "straight"), record(tmp_path / "run")) == []


@pytest.mark.parametrize("file", ["metrics.csv", "eval.csv"])
def test_a_run_without_its_rows_is_refused(file: str, tmp_path: Path) -> None:
    assert go(tmp_path / "run", *LINE) == 0
    (tmp_path / "run" / file).unlink()
    before = contents(tmp_path / "run")
    with pytest.raises(Refused, match=rf"ckpt-224\.json: {file} has 0 bytes"):
        make_plan([*LONGER, f"hydra.run.dir={tmp_path / 'run'}"])
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("pattern", ["ckpt-*.pt", "ckpt-*.json", "ckpt-best-*.pt"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_without_a_whole_checkpoint_is_refused(
    damage: Callable[[Path], None], pattern: str, tmp_path: Path
) -> None:
    assert go(tmp_path / "run", *LINE) == 0
    for path in (tmp_path / "run" / "ckpt").glob(pattern):
        damage(path)
    before = contents(tmp_path / "run")
    with pytest.raises(Refused, match="no checkpoint is whole"):
        make_plan([*LONGER, f"hydra.run.dir={tmp_path / 'run'}"])
    with pytest.raises(Refused, match="no checkpoint is whole"):
        make_plan([f"resume={tmp_path / 'run'}"])
    assert contents(tmp_path / "run") == before


def test_a_run_whose_checkpoints_were_deleted_is_refused(tmp_path: Path) -> None:
    assert go(tmp_path / "run", *LINE) == 0
    shutil.rmtree(tmp_path / "run" / "ckpt")
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(Refused, match="no checkpoint is whole"):
        make_plan([*LINE, f"hydra.run.dir={tmp_path / 'run'}"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("history.jsonl", content) for content in (b"{]\n", b"\xff\n", b"{}\n", b"3\n")),
    ],
)
def test_unreadable_run_files_are_named_in_the_refusal(
    name: str, content: bytes | None, tmp_path: Path
) -> None:
    assert go(tmp_path / "run", *LINE) == 0
    (tmp_path / "run" / name).unlink()
    if content is not None:
        (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(DamagedError, match=name):
        make_plan([*LONGER, f"hydra.run.dir={tmp_path / 'run'}"])


def test_a_bit_flipped_in_the_history_is_seen_or_changes_nothing(tmp_path: Path) -> None:
    assert go(tmp_path / "run", *LINE) == 0
    path, events = tmp_path / "run" / "history.jsonl", history.read(tmp_path / "run")
    line = path.read_bytes()
    seen = 0
    for number, bit in itertools.product(range(len(line) - 1), range(8)):
        flipped = bytearray(line)
        flipped[number] ^= 1 << bit
        path.write_bytes(flipped)
        try:
            found = history.read(tmp_path / "run")
        except DamagedError as error:
            assert "history.jsonl: " in str(error)  # noqa: PT017
            seen += 1
        else:  # it struck the name of the hash
            assert [{name: event[name] for name in events[0]} for event in found] == events
    assert seen > 8 * (len(line) - 20)
    path.write_text(json.dumps(events[0]) + "\n")  # negative control: no hash, as older lines have none
    path.write_text(path.read_text().replace('"frames": 0', '"frames": 1'))
    assert history.read(tmp_path / "run")[0]["frames"] == 1


@pytest.mark.parametrize("content", [b"", b'{"frames": 2', b"{}", b"[]", b"\xff"])
def test_a_damaged_result_is_made_again_loudly(content: bytes, tmp_path: Path) -> None:
    assert go(tmp_path / "run", *LINE) == 0
    expected = record(tmp_path / "run")
    (tmp_path / "run" / "result.json").write_bytes(content)
    assert in_child(functools.partial(go, tmp_path / "run", *LINE), tmp_path / "output") == 0
    assert f"DAMAGED: {tmp_path / 'run' / 'result.json'}" in (tmp_path / "output").read_text()
    assert differences(expected, record(tmp_path / "run")) == []


@pytest.mark.parametrize("name", ["metrics.csv", "eval.csv"])
def test_a_changed_cell_is_reported_and_the_rest_exact(name: str, tmp_path: Path) -> None:
    assert go(tmp_path / "run", *LONGER) == 0
    expected = record(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    assert go(tmp_path / "run", *LINE) == 0
    path = tmp_path / "run" / name
    header, first, *rest = path.read_text().split("\n")
    frames, *cells = first.split(",")
    path.write_text("\n".join([header, ",".join([str(int(frames) + 1), *cells]), *rest]))
    assert in_child(functools.partial(go, tmp_path / "run", *LONGER), tmp_path / "output") == 0
    assert f"DAMAGED: {path}: its rows are not what was written" in (tmp_path / "output").read_text()
    assert differences(expected, record(tmp_path / "run")) == [f"{name}:0:frames"]


def test_a_run_without_history_needs_its_whole_command_line(tmp_path: Path) -> None:
    assert go(tmp_path / "run", *LINE) == 0
    (tmp_path / "run" / "history.jsonl").unlink()
    with pytest.raises(Refused, match="algo.rollout_length"):
        make_plan([f"resume={tmp_path / 'run'}"])
    assert go(tmp_path / "run", *LONGER) == 0


def test_loading_and_resuming_run_no_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("pickle was asked to load")

    assert go(tmp_path / "run", *LINE) == 0
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    assert go(tmp_path / "run", *LONGER) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["frames"] == 288


# --------------------------------------------------------------------------------------------------- the disk

SHORT = [*LINE, "frames=64", "ckpt.every=32", "eval.every=32", "ckpt.keep=1"]  # 2 iterations


def failing(folder: Path, number: int, code: int, lasting: bool) -> int:
    fail_at(number, code, lasting=lasting)
    return go(folder, *SHORT)


def test_a_failing_disk_stops_the_run_with_reason_and_command(tmp_path: Path) -> None:
    assert go(tmp_path / "straight", *SHORT) == 0
    expected = record(tmp_path / "straight")
    resumed = set()
    for number in range(10_000):
        folder, output = tmp_path / str(number), tmp_path / "output"
        code, lasting = ((errno.ENOSPC, True), (errno.EIO, False))[number % 2]  # full for good, or fails once
        status = in_child(functools.partial(failing, folder, number, code, lasting), output)
        if status == 0:
            break
        said = output.read_text()
        assert (number, status) == (number, 1), said
        assert os.strerror(code) in said
        assert str(folder) in said
        assert "Traceback" not in said
        if not folder.exists():
            continue
        assert f"stopped: {folder}" in said, said
        assert f"go on with: {command('train', f'resume={folder}')}" in said
        left = [str(path) for path in folder.rglob("*.tmp")]
        # the one whose removal failed
        assert (number, left) == (number, []) or code == errno.EIO and len(left) == 1
        state = (
            tuple(sorted(path.name for path in folder.rglob("*"))),
            tuple((folder / n).stat().st_size for n in os.listdir(folder)),
        )
        if state not in resumed:
            resumed.add(state)
            assert in_child(functools.partial(go, folder, *SHORT)) == 0
            assert (number, differences(expected, record(folder))) == (number, [])
        shutil.rmtree(folder)
    assert number > 50


def test_an_error_of_an_env_is_reported_verbatim(tmp_path: Path) -> None:
    line = [*SHORT, "env=gym", "env.id=tiny_envs:Broken-v0", "+env.kwargs.at=20"]
    assert in_child(functools.partial(go, tmp_path / "run", *line), tmp_path / "output") == 1
    assert "the simulator is gone" in (tmp_path / "output").read_text()


# -------------------------------------------------------------------------------------- errors of users' code


def unplugged(*_: Any) -> None:
    """A callback, and what an environment may do: its own file is not there."""
    Path("nowhere/robot").read_bytes()


class Unplugged(gym.Wrapper):
    """An environment whose device goes away in its 30th step."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.steps = 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps > 30:
            unplugged()
        return super().step(action)


class NeverThere(gym.Wrapper):
    """An environment that cannot be made."""

    def __init__(self, env: gym.Env) -> None:
        unplugged()


@pytest.mark.parametrize(
    "where",
    [
        "callbacks=[{_target_: test_damage.unplugged}]",
        "env.wrappers=[{_target_: test_damage.Unplugged}]",
        "env.wrappers=[{_target_: test_damage.NeverThere}]",
    ],
)
def test_an_oserror_of_users_code_has_its_traceback(where: str, tmp_path: Path) -> None:
    done = typed(*LINE, where, "hydra.run.dir=run")
    assert done.returncode == 1
    assert done.stdout.count("Traceback") + done.stderr.count("Traceback") >= 1
    if "NeverThere" not in where:  # that one is raised before there is a folder
        said = Path("run/train.log").read_text()
        assert "unplugged" in said
        assert "nowhere/robot" in said
        assert "stopped:" not in said


@pytest.mark.parametrize(
    ("code", "damage"), [(errno.EIO, True), (errno.EMFILE, False), (errno.ENOMEM, False)]
)
def test_an_exhausted_system_is_no_damage(
    code: int, damage: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that could not be read for want of handles or memory is not set aside for an older one."""
    assert go(tmp_path, *LINE) == 0

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    for owner, name in ((Path, "read_bytes"), (Path, "open")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, fail)
            if damage:
                assert newest_manifest(tmp_path / "ckpt")[0] is None
            else:
                with pytest.raises(OSError, match=os.strerror(code)):
                    newest_manifest(tmp_path / "ckpt")
