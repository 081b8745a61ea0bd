"""What a run has is in its checkpoint; an edited config.yaml is judged like a command line."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from faults import DIED, die_at
from short_runs import TINY, contents, differences, go, in_child, record

from rl.config import ConfigError, leaves, typed
from rl.config.compare import COMMANDS
from rl.config.compose import to_yaml
from rl.config.counts import parse_count
from rl.runs import files, history
from rl.runs.__main__ import describe
from rl.runs.edits import edits_of_file
from rl.runs.manifest import DamagedError, Manifest, _hash_json
from rl.runs.outcome import Refused
from rl.runs.plan import Plan, make_plan

pytestmark = pytest.mark.usefixtures("few_scores", "composed_once")
LINE = [*TINY, "frames=128", "algo.lr=0.002", "algo.gamma=0.99"]
MEMORY = [
    *("algo=ddqn_per", "algo.rollout_length=4", "algo.network.hidden=[4]", "env=gym", "env.id=CartPole-v1"),
    *("env.kwargs.sutton_barto_reward=true", "env.num_envs=2", "frames=64", "eval.every=32"),
    *("eval.episodes=2", "algo.learning_starts=16", "algo.batch_size=4", "ckpt.every=32"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs, made once; tests work on copies."""
    place = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rl.training.run.SCORE_EPISODES", 4)
        assert go(place / "run", *LINE) == 0
        assert go(place / "memory", *MEMORY) == 0
    return place


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "run", tmp_path / "run", symlinks=True))


def edit(run: Path, key: str, value: Any) -> None:
    values = yaml.safe_load((run / "config.yaml").read_text())
    section = values
    *path, last = key.split(".")
    for step in path:
        section = section[step]
    section[last] = value
    (run / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def plan(run: Path, *typed_now: str) -> Plan:
    made = make_plan([f"resume={run}", *typed_now])
    assert made.lock is not None
    made.lock.release()
    return made


def judged(run: Path, *typed_now: str) -> Any:
    """What is said of a resume: the table of a refusal, an error, or the accepted changes and what it has."""
    try:
        planned = plan(run, *typed_now)
    except Refused as refusal:
        return "refused", str(refusal).split("\n\n")[1].splitlines()[:-1] or str(refusal)
    except ConfigError as error:
        return "error", str(error)
    return "accepted", planned.changes, planned.composed.values


def made_before(run: Path) -> None:
    """The run as it was made before its checkpoints held the configuration."""
    for path in (run / "ckpt").glob("ckpt-*.json"):
        content = json.loads(path.read_text())
        del content["sha256"], content["config"]
        path.write_text(json.dumps(content | {"sha256": _hash_json(content)}))
    lines = history.read(run)
    for line in lines:
        del line["config"]
    (run / "history.jsonl").write_text("".join(map(files.to_line, lines)))


def others(value: Any) -> list[Any]:
    """Other values for a key: some possible, some not."""
    if isinstance(value, bool):
        return [not value, 3]
    if isinstance(value, int):
        return [value + 1, -7]
    if isinstance(value, float):
        return [value / 2, [[0, value], ["1M", value / 2]]]
    if isinstance(value, list):
        return [[7], "x y"]
    try:
        return [f"{2 * parse_count(value)}", "many"]
    except ValueError:
        return ["refill", "null", "Pendulum-v1", 3] if isinstance(value, str) else [1, "latest"]


def test_every_edited_key_is_judged_as_if_typed(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made / "memory", tmp_path / "run", symlinks=True))
    (run / "result.json").unlink()
    written = (run / "config.yaml").read_bytes()
    verdicts: dict[str, int] = {}
    for key, leaf in leaves(yaml.safe_load(written)).items():
        for value in [] if key.partition(".")[0] in COMMANDS else others(leaf.value):
            if leaf.choices and value == "refill" and "refill" not in leaf.choices:
                value = leaf.choices[-1]
            edit(run, key, value)
            as_edit = judged(run)
            (run / "config.yaml").write_bytes(written)
            quoted = (
                f"'{value}'"
                if value in ("null", "x y") or isinstance(value, str) and value.isdigit()
                else typed(value)
            )
            assert (key, value, as_edit) == (key, value, judged(run, f"{key}={quoted}"))
            verdicts[as_edit[0]] = verdicts.get(as_edit[0], 0) + 1
    assert min(verdicts[verdict] for verdict in ("refused", "error", "accepted")) >= 10, verdicts


def test_a_refused_edit_has_was_and_now_the_right_way_round(run: Path) -> None:
    edit(run, "algo.lr", 0.5)
    edit(run, "algo.gamma", 0.5)
    before = contents(run)
    with pytest.raises(Refused) as refusal:
        plan(run, "frames=256")
    said = str(refusal.value)
    rows = [line.split()[:3] for line in said.splitlines()]
    assert ["algo.lr", "0.002", "0.5"] in rows
    assert ["algo.gamma", "0.99", "0.5"] in rows
    assert f"edited in {run / 'config.yaml'}: algo.gamma, algo.lr" in said
    assert f"resume={run} frames=256 algo.gamma=0.99 algo.lr=0.002\n" in said
    assert "base=run" not in said
    with pytest.raises(Refused):
        plan(run, "frames=256", "base=run")
    assert contents(run) == before
    assert go(run, "frames=256", "algo.gamma=0.99", "algo.lr=0.002") == 0  # the advice that was given
    assert history.read_file(run)["algo"]["lr"] == 0.002


def test_an_accepted_edit_takes_effect_and_lasts(run: Path, tmp_path: Path) -> None:
    knots = [[0, 0.002], [128, 0.002], [256, 0.0]]
    edit(run, "frames", 256)
    edit(run, "algo.lr", knots)
    assert go(run) == 0
    changes = json.loads((run / "history.jsonl").read_text().splitlines()[-1])["changes"]
    assert [(c["key"], c["now"]) for c in changes] == [("algo.lr", knots), ("frames", 256)]
    assert go(tmp_path / "straight", *LINE, "frames=256", f"algo.lr={typed(knots)}") == 0
    assert differences(record(tmp_path / "straight"), record(run)) == []
    assert plan(run, "frames=512").changes[0].was == 256  # and nothing else has changed


def test_a_typed_value_counts_more_than_an_edit(run: Path) -> None:
    edit(run, "frames", 512)
    assert plan(run, "frames=192").config.frames == 192


@pytest.mark.parametrize("content", [None, b"", b"{]\n", b"\xff\n", b"seed: ${\n", b"[1]\n", b"# nothing\n"])
def test_a_lost_config_file_is_written_again_and_said(content: bytes | None, run: Path) -> None:
    written = (run / "config.yaml").read_text()
    (run / "config.yaml").unlink() if content is None else (run / "config.yaml").write_bytes(content)
    assert describe(run)["asked"] == 128
    assert history.saved_config(run)["algo"]["lr"] == 0.002
    (said,) = [text for text in plan(run, "frames=192").warnings if "config.yaml" in text]
    assert "it is written again" in said
    assert go(run, "frames=192") == 0
    assert (run / "config.yaml").read_text() == written.replace("frames: 128", "frames: 192")


def test_keys_that_are_gone_from_the_file_stay(run: Path) -> None:
    lines = (run / "config.yaml").read_text().splitlines(keepends=True)
    (run / "config.yaml").write_text("".join(lines[: len(lines) // 2]))
    planned = plan(run, "frames=192")
    assert [change.key for change in planned.changes] == ["frames"]
    assert any("missing; it stays as the run has it" in text for text in planned.warnings)


def test_commands_in_the_file_are_without_effect(run: Path) -> None:
    edit(run, "fork", "latest")
    edit(run, "launcher", {"_target_": "rl.launchers.Processes", "n_jobs": 2})
    planned = plan(run, "frames=192")
    assert planned.composed.values["fork"] is None
    assert any("fork" in text and "without effect" in text for text in planned.warnings)


def test_folder_files_are_not_believed_over_the_checkpoint(run: Path) -> None:
    (run / ".hydra").mkdir()
    (run / ".hydra" / "overrides.yaml").write_text("- algo.lr=0.5\n")
    (run / ".hydra" / "config.yaml").write_text("algo: {lr: 0.5}\n")
    assert [change.key for change in plan(run, "frames=192").changes] == ["frames"]
    lines = history.read(run)
    lines[-1]["config"]["algo"]["lr"] = 0.5
    (run / "history.jsonl").write_text("".join(map(files.to_line, lines)))
    (run / "config.yaml").write_text(to_yaml(lines[-1]["config"]))
    assert plan(run, "frames=192").composed.values["algo"]["lr"] == 0.002
    with pytest.raises(Refused, match=r"algo\.lr +0\.002 +0\.5"):
        plan(run, "frames=192", "base=run")


def test_a_changed_configuration_in_a_manifest_is_damage(run: Path) -> None:
    path = run / "ckpt" / "ckpt-128.json"
    path.write_text(path.read_text().replace('"lr": 0.002', '"lr": 0.005'))
    with pytest.raises(DamagedError, match="its hash does not match"):
        Manifest.read(path)
    assert "its hash does not match" in plan(run, "frames=192").warnings[0]  # and the one before is used


def test_a_run_made_before_is_judged_by_its_config_file(run: Path, tmp_path: Path) -> None:
    made_before(run)
    assert [change.key for change in plan(run, "frames=192").changes] == ["frames"]
    with pytest.raises(Refused, match=r"algo\.lr +0\.002 +0\.5"):
        plan(run, "algo.lr=0.5")
    assert go(run, "frames=256") == 0
    assert go(tmp_path / "straight", *LINE, "frames=256") == 0
    assert differences(record(tmp_path / "straight"), record(run)) == []
    edit(run, "algo.lr", 0.5)  # its new checkpoints hold the configuration
    with pytest.raises(Refused, match=r"algo\.lr +0\.002 +0\.5"):
        plan(run, "frames=512")


@pytest.mark.parametrize("content", [b"", None, b"{]\n", b"\xff\n", b"frames: [1]\n", b"seed: ${\n"])
def test_a_run_made_before_needs_its_config_file(content: bytes | None, run: Path) -> None:
    made_before(run)
    (run / "config.yaml").unlink() if content is None else (run / "config.yaml").write_bytes(content)
    with pytest.raises(DamagedError, match=r"config\.yaml"):
        plan(run, "frames=256")


def resumed(folder: Path, number: int) -> int:
    die_at(number)
    return go(folder, "frames=192", "stop_at=400")


@pytest.mark.parametrize("prepare", [lambda run: None, made_before])
def test_a_kill_neither_loses_nor_doubles_accepted_changes(
    prepare: Callable[[Path], None], run: Path, tmp_path: Path
) -> None:
    prepare(run)
    told = []
    for number in range(10_000):
        folder = Path(shutil.copytree(run, tmp_path / str(number), symlinks=True))
        status = in_child(functools.partial(resumed, folder, number))
        if status != DIED:
            break
        written = len(history.read(folder)) > len(history.read(run))
        begun = written or (folder / "config.yaml").read_bytes() != (run / "config.yaml").read_bytes()
        assert in_child(functools.partial(go, folder)) == 0
        changes = [c["key"] for line in history.read(folder) for c in line["changes"]]
        assert (number, changes) == (number, ["frames", "stop_at"] if begun else [])
        assert history.read_file(folder)["frames"] == (192 if begun else 128)
        told.append(begun)
        if written and len(told) > 3 and all(told[-4:]):
            break
    assert True in told
    assert False in told


def test_an_edit_back_in_the_middle_counts(run: Path) -> None:
    """A session has accepted frames=192 and committed nothing; then somebody edits it to what it was."""
    planned = plan(run, "frames=192")
    planned.write_history(frames=128, command="", not_exact=[])
    assert plan(run).config.frames == 192
    assert plan(run).changes == []
    edit(run, "frames", 128)
    (run / "result.json").unlink()
    assert [(c.was, c.now) for c in plan(run).changes] == [(192, 128)]


def test_numbers_as_keys_survive_in_checkpoints() -> None:
    values = {"env": {"kwargs": {"rewards": {0: 1.5, 10: [{2: 3}]}}}}
    assert history.unpack(json.loads(json.dumps(history.pack(values)))) == values
    assert history.pack({"a": [1.5, None, "1e-3"]}) == {"a": [1.5, None, "1e-3"]}


def test_a_text_that_looks_like_a_number_is_no_edit(tmp_path: Path) -> None:
    values = {"env": {"kwargs": {"name": "1e-3"}}, "seed": 1}
    (tmp_path / "config.yaml").write_text(to_yaml(values) + "# a comment\n")
    overrides, warnings = edits_of_file(tmp_path, values)
    assert (overrides.texts, warnings) == ([], [])
