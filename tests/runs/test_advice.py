"""Every command that a refusal prints works where it is pasted."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from short_runs import ROOT, TINY, environment, go

from rl.config.invocation import Flags, command, set_flags
from rl.config.overrides import Overrides
from rl.config.schedule import Schedule
from rl.runs.outcome import Finished, Refused
from rl.runs.plan import make_plan
from rl.runs.weights import load_weights
from rl.training.build import build

RUN = Path("R")


@pytest.fixture(autouse=True)
def no_flags_left() -> Iterator[None]:
    yield
    set_flags(Flags())


def attempt(*overrides: str) -> None:
    """All that could refuse a command line."""
    plan = None
    try:
        plan = make_plan(overrides)
        parts = build(plan.config)
        if plan.weights:
            load_weights(parts.agent, plan.weights, "cpu")
        parts.collector.envs.close()
    except Finished:
        pass
    finally:
        if plan is not None and plan.lock is not None:
            plan.lock.release()


def advice(*overrides: str) -> dict[str, list[str]]:
    """What a refused command line offers: the purpose -> the overrides of the command."""
    with pytest.raises(Refused) as refused:
        attempt(*overrides)
    found = re.findall(r"^to (.*):\n  (.*)$", str(refused.value), re.MULTILINE)
    start = command("train") + " "
    assert all(line.startswith(start) for _, line in found)
    return {purpose: shlex.split(line.removeprefix(start)) for purpose, line in found}


@pytest.mark.parametrize(
    "line",
    [
        "algo.gamma=0.5",
        "algo.gamma=0.5 seed=3 log_every=5",
        "algo.lr=0.5",
        "algo.lr=0.5 algo.gamma=0.5",
        "algo.lr=[[0,1e-3],[1k,2e-3]]",
        "algo.entropy_coef=0.5",
        "algo.entropy_coef=[[0,0.01],[100,0.3]] algo.lr=1e-4",
        "algo.lr={kind:cosine,from:1e-3,to:0,frames:10k}",
        "algo.network.hidden=[16]",
        "algo=ppo",
        "algo=ppo seed=3",
        "algo=ppo algo.clip_range=0.1",
        "algo=ppo log_every=5",
        "env=acrobot",
        "env=acrobot algo.gamma=0.5",
        "env.num_envs=4",
        "frames=100",
        "ckpt.best_by=total_reward",
    ],
)
def test_every_printed_command_is_accepted(line: str) -> None:
    assert go(RUN, *TINY, "frames=256", "seed=7") == 0
    offered = advice(f"resume={RUN}", *line.split())
    assert len(offered) >= 2
    for overrides in offered.values():
        attempt(*overrides)


@pytest.mark.parametrize("line", ["algo.gamma=0.5", "algo.lr=0.5"])
def test_without_best_weights_the_last_are_forked(line: str) -> None:
    assert go(RUN, *TINY, "frames=128", "eval.every=null") == 0
    for overrides in advice(f"resume={RUN}", line).values():
        attempt(*overrides)


def test_a_refused_schedule_comes_with_knots_that_keep_the_past() -> None:
    assert go(RUN, *TINY, "frames=128", "algo.lr=2e-3") == 0
    offered = advice(f"resume={RUN}", "frames=256", "algo.lr=1e-3")["change it from here on"]
    assert offered == ["resume=R", "frames=256", "algo.lr=[[0,0.002],[129,0.002],[129,0.001]]"]
    assert go(RUN, *Overrides(offered).drop("resume").texts) == 0
    schedule = Schedule([[0, 0.002], [129, 0.002], [129, 0.001]])
    assert (schedule(128), schedule(129)) == (0.002, 0.001)


@pytest.mark.parametrize("at", [0, 1, 7, 10, 13, 20, 31])
def test_knots_that_follow_others_keep_both_exactly(at: int) -> None:
    old, new = Schedule([[0, 1e-3], [7, 0.3], [20, 0]]), Schedule([[0, 5], [10, 0.1], [13, 0.1], [30, 2]])
    knots = old.followed_by(new, at)
    assert knots is not None
    joined = Schedule(knots)
    assert [joined.exact(frame) for frame in range(at)] == [old.exact(frame) for frame in range(at)]
    assert [joined.exact(f) for f in range(at, 40)] == [new.exact(f) for f in range(at, 40)]
    assert Schedule({"kind": "cosine", "from": 1, "to": 0, "frames": 9}).followed_by(new, at) is None


def test_commands_work_from_another_directory_with_their_config_dir() -> None:
    Path("own/experiment").mkdir(parents=True)
    Path("own/experiment/mine.yaml").write_text("# @package _global_\nseed: 5\n")
    script = os.path.relpath(ROOT / "train.py")

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        start = [sys.executable, *words]
        return subprocess.run(start, capture_output=True, text=True, env=environment(), check=False)

    line = ["--config-dir=own", "experiment=mine", *TINY, "frames=64", "hydra.run.dir=R"]
    done = call(script, *line)
    (offered,) = re.findall(r"train it on:  python (.*)", done.stdout)
    assert offered.split()[1:] == ["--config-dir=own", "resume=R", "frames=128"]
    done = call(*shlex.split(offered))
    assert done.returncode == 0, done.stderr
    (offered,) = re.findall(r"watch it:     python (.*)", done.stdout)
    assert call(*shlex.split(offered), "render=none").returncode == 0
    done = call("-m", "rl.train", "--config-dir=own", "resume=R")
    assert "python -m rl.train --config-dir=own resume=R frames=256" in done.stdout
    assert done.returncode == 0
