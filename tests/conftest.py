from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import rl.resume
import rl.train

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run folders go under the working directory: every test has its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def few_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Score a finished run by 4 episodes in place of 100: the slow part of a run of half a second."""
    monkeypatch.setattr(rl.train, "SCORE_EPISODES", 4)


@pytest.fixture
def composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose equal command lines once: 0.1 s each, for tests that plan hundreds of times."""
    compose: Callable[..., Any] = rl.resume.compose
    known: dict[tuple[str, ...], Any] = {}

    def remembered(overrides: list[str], schema: type, config_dir: str | None = None) -> Any:
        key = tuple(overrides)
        if key not in known:
            known[key] = compose(overrides, schema, config_dir=config_dir)
        return known[key]

    monkeypatch.setattr(rl.resume, "compose", remembered)
