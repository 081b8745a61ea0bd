"""The worked examples in docs/ do what the pages say: their files are taken from there, trained with, killed and resumed."""

from __future__ import annotations

import dataclasses
import inspect
import re
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import ROOT, TINY, begun, differences, go, iterate, record

import rl.config.schema
from rl.compose import compose
from rl.config import RunConfig, fields

DOCS = ROOT / "docs"
_FILE = re.compile(r"^`([\w/]+\.(?:py|yaml))`:.*?\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_TRAIN = re.compile(r"^\$ python train.py (.*)$", re.MULTILINE)


@pytest.fixture
def take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a page's files into the working directory, where Python finds them; the page."""

    def write(name: str) -> str:
        page = (DOCS / name).read_text()
        for path, content in _FILE.findall(page):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(content)
        monkeypatch.syspath_prepend(tmp_path)
        return page

    before = set(sys.modules)
    yield write
    for module in set(sys.modules) - before:
        if module.startswith("my_"):
            del sys.modules[module]


def run_tests(path: str) -> int:
    """Call the tests of a file; how many there are."""
    tests = [function for name, function in runpy.run_path(path).items() if name.startswith("test_")]
    for test in tests:
        test()
    return len(tests)


def check_commands(page: str) -> int:
    """Compose what the page types; how many lines that were."""
    lines = _TRAIN.findall(page)
    for line in lines:
        _, config_dir, *overrides = shlex.split(line, comments=True)
        if not overrides[0].startswith("resume="):
            compose(overrides, RunConfig, config_dir=config_dir)
    return len(lines)


@pytest.mark.usefixtures("few_scores", "composed_once")
def test_the_algorithm_that_is_added_comes_back(take: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    page = take("add-an-algorithm.md")
    assert check_commands(page) == 2
    assert run_tests("tests/test_my_algos.py") == 2

    import my_algos  # type: ignore[import-not-found]

    class Forgetful(my_algos.AverageBaseline):  # type: ignore[misc]
        def __init__(self, *setting: Any, **keys: Any) -> None:
            super().__init__(*setting, **keys)
            del self.parts["average"]

    monkeypatch.setattr(my_algos, "AverageBaseline", Forgetful)
    line = [*TINY, "algo=average_baseline"]
    run = begun(Path("forgetful"), *line, config_dir="my_conf")
    iterate(run, 6)
    run.save()
    assert go(Path("forgetful"), *line, config_dir="my_conf") == 0
    found = differences(record(Path("straight")), record(Path("forgetful")))
    assert "metrics.csv:9:average_return" in found  # or the example would show nothing

    monkeypatch.undo()
    schema = next(code for kind, code in _BLOCK.findall(page) if kind == "python" and code.startswith("@dataclass"))
    names = dict(vars(rl.config.schema))
    exec(schema, names)  # as if it stood there
    assert dataclasses.is_dataclass(names["AverageBaselineConfig"])
    keywords = set(inspect.signature(my_algos.AverageBaseline).parameters) - {"setting"}
    assert set(fields(names["AverageBaselineConfig"])) - {"_target_"} == keywords


@pytest.mark.usefixtures("few_scores", "composed_once")
def test_the_environment_that_is_added_comes_back(take: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    page = take("add-an-env.md")
    assert check_commands(page) == 2
    assert run_tests("tests/test_my_envs.py") == 1

    import my_envs  # type: ignore[import-not-found]

    monkeypatch.setattr(my_envs.Scaled, "load_state_dict", lambda self, state: None)
    line = [*TINY, "env=drift"]
    run = begun(Path("forgetful"), *line, config_dir="my_conf")
    iterate(run, 6)
    run.save()
    assert go(Path("forgetful"), *line, config_dir="my_conf") == 0
    assert differences(record(Path("straight")), record(Path("forgetful")))  # or the example would show nothing
