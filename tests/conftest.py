from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import rl.config.compose
import rl.runs.plan
import rl.training.run
from rl.config.compose import Composed

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
    """Read and compose equal command lines once: 0.2 s each, for tests that plan hundreds of times."""
    compose: Callable[..., Composed] = rl.runs.plan.compose
    known: dict[tuple[str, ...], Composed] = {}

    def remembered(overrides: list[str], schema: type, config_dir: str | None = None) -> Composed:
        key = tuple(override for override in overrides if not override.startswith("hydra.run.dir="))
        if key not in known:
            known[key] = compose(overrides, schema, config_dir=config_dir)
        run_dir = rl.config.compose.value_of(overrides, "hydra.run.dir")
        return dataclasses.replace(known[key], run_dir=run_dir) if run_dir else known[key]

    parse = functools.lru_cache(None)(lambda line: _parse([line]))
    monkeypatch.setattr(rl.runs.plan, "compose", remembered)
    monkeypatch.setattr(
        rl.config.compose,
        "parse",
        lambda overrides: [override for line in overrides for override in parse(line)],
    )


_parse = rl.config.compose.parse
