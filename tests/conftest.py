from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch

import rl.config.overrides
import rl.runs.plan
import rl.training.run
from rl.config.compose import Composed
from rl.config.overrides import Overrides

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run folders go under the working directory: every test has its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def few_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Score a finished run by 4 episodes in place of 100: the slow part of a run of half a second."""
    monkeypatch.setattr(rl.training.run, "SCORE_EPISODES", 4)


@pytest.fixture
def composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse and compose equal command lines once: 0.2 s each, for tests that plan hundreds of times."""
    compose: Callable[..., Composed] = rl.runs.plan.compose
    known: dict[tuple[str, ...], Composed] = {}

    def cached(overrides: Iterable[str], schema: type, config_dir: str | None = None) -> Composed:
        line = Overrides(overrides)
        key = tuple(line.drop("hydra.run.dir").texts)
        if key not in known:
            known[key] = compose(line, schema, config_dir=config_dir)
        run_dir = line.get("hydra.run.dir")
        return dataclasses.replace(known[key], run_dir=run_dir) if run_dir else known[key]

    monkeypatch.setattr(rl.runs.plan, "compose", cached)
    monkeypatch.setattr(rl.config.overrides, "_parse", functools.lru_cache(None)(rl.config.overrides._parse))
