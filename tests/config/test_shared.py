"""Command lines composed together, as a sweep's jobs are, against each composed alone."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from rl.config import ConfigError, RunConfig
from rl.config.compose import Composed, compose, shared_compositions

# one after the other in one context, so that what a line leaves behind would show in the next
SMALL = "{_target_:rl.networks.MLP,hidden:[4],activation:relu,init:default}"
LINES = [
    "algo=ppo env=cartpole algo.lr=1e-3 seed=3",
    "algo=ppo env=cartpole seed=4",
    "algo=ppo env=cartpole env.frames=30k",  # frames=${env.frames}
    "algo=ppo env=cartpole frames=10_000 env.frames=30k",
    "algo=ppo env=cartpole algo.lr=[[0,1e-3],[1k,0]] algo.network.hidden=[8,8]",
    "algo=ppo env=cartpole algo.lr={kind:cosine,from:1e-3,to:0,frames:1k}",
    "algo=ppo env=cartpole algo.lr={kind:cosine,from:1e-3,to:0,frames:1k} algo.gamma=0.9",
    "algo=ppo env=cartpole algo.gamma=0.9 algo.gamma=0.8 outputs=elsewhere",
    f"algo=ppo env=cartpole algo.network=null algo.network={SMALL}",
    "algo=ppo env=gym env.id=CartPole-v1 env.kwargs.x_threshold=2",
    "algo=ppo env=gym env.id=CartPole-v1 seed=1",
    "env=pendulum algo=sac frames='${env.frames}' algo.alpha=0.1",
    "env=pong hydra.run.dir='${outputs}/there_${seed}' seed=5",
    "env=pong hydra.run.dir=a/b=c,d seed=6",
    "experiment=ppo_pong algo.clip_range=0.2 env.num_envs=2",
    "experiment=ppo_pong",
    "tags.note=one ~ckpt.minutes",
    "logger=[tensorboard] stop_at=null",
    "seed=7",
]


def plain(composed: Composed) -> dict[str, Any]:
    values = dataclasses.asdict(composed) | {"config": repr(composed.config)}
    return {name: re.sub(r"\d{4}-\d\d-\d\d_[\d-]+", "TIME", repr(value)) for name, value in values.items()}


def outcome(line: str, config_dir: str | None = None) -> Any:
    try:
        return plain(compose(line.split(), RunConfig, config_dir=config_dir))
    except ConfigError as error:
        return str(error)


def test_shared_compositions_equal_those_made_alone() -> None:
    alone = {line: outcome(line) for line in LINES}
    with shared_compositions():
        for line in [*LINES, *LINES[4::-1]]:
            assert outcome(line) == alone[line], line
    assert sum(isinstance(found, dict) for found in alone.values()) >= len(LINES) - 1
    assert len({repr(found) for found in alone.values()}) == len(LINES)


REFUSED = ["algo.nope=1", "seed=1.5", "env=gym", "algo.lr.x=1", "frames=0", "+seed=1"]


def test_refusals_are_the_same() -> None:
    alone = {words: outcome(words) for words in REFUSED}
    with shared_compositions():
        for words in REFUSED:
            assert isinstance(alone[words], str)
            assert outcome(words) == alone[words]
            assert outcome(f"algo.gamma=0.5 {words}") == alone[words]


def test_a_folder_made_of_the_overrides_is_not_shared(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    text = "# @package _global_\nhydra:\n  run:\n    dir: x/${hydra.job.override_dirname}\n"
    (tmp_path / "local" / "default.yaml").write_text(text)
    lines = ["seed=1", "seed=2"]
    alone = [outcome(line, str(tmp_path)) for line in lines]
    assert "seed=1" in alone[0]["run_dir"]
    assert "seed=2" in alone[1]["run_dir"]
    with shared_compositions():
        assert [outcome(line, str(tmp_path)) for line in lines] == alone


def test_a_base_is_composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import hydra

    calls = []
    real = hydra.compose
    monkeypatch.setattr(hydra, "compose", lambda *a, **k: calls.append(a) or real(*a, **k))
    with shared_compositions():
        for seed, lr in itertools.product(range(3), ("1e-3", "1e-4")):
            assert compose(["algo=ppo", f"seed={seed}", f"algo.lr={lr}"], RunConfig).config.seed == seed
    assert len(calls) == 1
