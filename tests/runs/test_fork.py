"""A fork starts with all that the old run had learned, and with nothing else of it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from short_runs import differences, go, in_child, leaves

from rl.config import RunConfig
from rl.config import leaves as leaves_of
from rl.config.compose import compose, options
from rl.runs.manifest import Manifest, describe
from rl.serialize import load, serialize

pytestmark = pytest.mark.usefixtures("few_scores")
CONTINUOUS = ("sac", "td3", "ddpg", "crossq", "tqc")
SMALL = {
    "rollout_length": "16",
    "hidden": "[8]",
    "learning_starts": "32",
    "batch_size": "8",
    "minibatch_size": "32",
    "capacity": "500",
    "normalize_obs": "true",
    "normalize_reward": "true",
    "target_every": "48",
}


def line(algo: str) -> list[str]:
    """A run of 128 frames, evaluated at 64 and 128; with every normaliser that the algorithm has."""
    values = [f"algo={algo}", f"env={'pendulum' if algo in CONTINUOUS else 'cartpole'}"]
    keys = leaves_of(compose(values, RunConfig).values)
    for name, value in SMALL.items():
        values += [f"{key}={value}" for key in keys if key.startswith("algo.") and key.endswith(f".{name}")]
    values += ["env.num_envs=2", "frames=128", "eval.every=64", "eval.episodes=1", "log_every=64"]
    return [*values, "ckpt.every=64", "ckpt.keep=9"]


def of_parts(state: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of what an agent learned: all but optimizers, memory, and returns of episodes that ended."""
    learned = {
        name.removeprefix(prefix): part
        for name, part in state.items()
        if name.startswith(prefix) and "optimizer" not in name and "replay" not in name
    }
    return {
        name: value
        for name, value in leaves(learned, "").items()
        if not name.startswith("/reward_normalizer/returns")
    }


def fork(folder: Path, source: str) -> dict[str, Any]:
    assert go(folder, f"fork={source}", "frames=16") == 0
    return of_parts(load((folder / "ckpt" / "ckpt-0.pt").read_bytes(), "cpu"), "agent.")


@pytest.mark.parametrize("algo", options("algo"))
def test_a_fork_starts_with_all_that_was_learned(algo: str, tmp_path: Path) -> None:
    assert go(tmp_path / "run", *line(algo)) == 0
    ckpt = tmp_path / "run" / "ckpt"
    best = Manifest.read(ckpt / "ckpt-128.json").best
    assert best is not None
    for which, file in (("last", "ckpt-128.pt"), ("64", "ckpt-64.pt"), ("best", f"ckpt-{best.frames}.pt")):
        old = of_parts(load((ckpt / file).read_bytes(), "cpu"), "agent.")
        assert differences(old, fork(tmp_path / which, f"{tmp_path / 'run'}@{which}")) == []
    assert differences(of_parts(load((ckpt / best.file).read_bytes(), "cpu")), old) == []
    if algo != "random":  # the control: weights of another moment differ, and those of a new run
        assert go(tmp_path / "new", *line(algo), "frames=16") == 0
        new = of_parts(load((tmp_path / "new" / "ckpt" / "ckpt-0.pt").read_bytes(), "cpu"), "agent.")
        changed = {name.split("/")[1] for name in differences(old, new)}
        assert changed >= {name.split("/")[1].split(" ")[0] for name in old if "/" in name} - {"temperature"}


def test_a_best_file_of_the_policy_alone_is_taken_and_said(tmp_path: Path) -> None:
    assert go(tmp_path / "run", *line("sac")) == 0
    manifest = Manifest.read(tmp_path / "run" / "ckpt" / "ckpt-128.json")
    assert manifest.best is not None
    path = tmp_path / "run" / "ckpt" / manifest.best.file
    state = load(path.read_bytes(), "cpu")
    data = serialize({name: state[name] for name in ("actor", "obs_normalizer") if name in state})
    path.write_bytes(data)
    older = {**vars(manifest), "files": {**manifest.files, manifest.best.file: describe(data)}}
    (tmp_path / "run" / "ckpt" / "ckpt-128.json").write_bytes(Manifest(**older).to_bytes())
    out = tmp_path / "output"
    assert (
        in_child(functools.partial(go, tmp_path / "fork", f"fork={tmp_path / 'run'}", "frames=16"), out) == 0
    )
    assert "lack critics, temperature, target_critics: new here" in out.read_text()
    new = load((tmp_path / "fork" / "ckpt" / "ckpt-0.pt").read_bytes(), "cpu")["agent.actor"]
    assert all(torch.equal(state["actor"][name], new[name]) for name in new)


def test_a_fork_may_have_another_number_of_envs(tmp_path: Path) -> None:
    assert go(tmp_path / "run", *line("ppo")) == 0
    assert go(tmp_path / "fork", f"fork={tmp_path / 'run'}", "env.num_envs=4", "frames=64") == 0
