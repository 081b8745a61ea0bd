"""The worked examples in docs/ do what the pages say: their files are taken from there, trained with, killed
and resumed.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from short_runs import ROOT, TINY, begun, differences, go, iterate, record

from rl.config import ConfigError, RunConfig
from rl.config.compose import compose

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
_FILE = re.compile(r"^`([\w/]+\.(?:py|yaml|sbatch))`:.*?\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
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
def test_the_algorithm_that_is_added_comes_back(
    take: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = take("add-an-algorithm.md")
    assert check_commands(page) == 2
    assert run_tests("tests/test_my_algos.py") == 2

    line = [*TINY, "algo=average_baseline"]
    longer = ["frames=1280", "algo.lr=[[0,2e-3],[640,2e-3],[2k,0]]"]
    assert go(Path("run"), *line, *longer, config_dir="my_conf") == 0  # a knot in the future
    assert go(Path("run"), *line, *longer, "algo.gamma=0.5", config_dir="my_conf") == 2

    import my_algos  # type: ignore[import-not-found]

    class Forgetful(my_algos.AverageBaseline):  # type: ignore[misc]
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            del self.parts["average"]

    monkeypatch.setattr(my_algos, "AverageBaseline", Forgetful)
    run = begun(Path("forgetful"), *line, config_dir="my_conf")
    iterate(run, 6)
    run.save()
    assert go(Path("forgetful"), *line, config_dir="my_conf") == 0
    found = differences(record(Path("straight")), record(Path("forgetful")))
    assert "metrics.csv:9:average_return" in found  # or the example would show nothing


@pytest.mark.usefixtures("few_scores", "composed_once")
def test_the_environment_that_is_added_comes_back(
    take: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
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
    # or the example would show nothing
    assert differences(record(Path("straight")), record(Path("forgetful")))


@pytest.mark.usefixtures("few_scores")
def test_the_masked_corridor_trains_and_comes_back(take: Callable[[str], str]) -> None:
    take("spaces.md")
    mask = "env.wrappers=[{_target_: rl.wrappers.ActionMask}]"
    line = [*TINY, "env=gym", "env.id=my_maze:Corridor-v0"]
    assert go(Path("straight"), *line, mask) == 0
    assert go(Path("run"), *line, mask, "frames=320") == 0
    assert go(Path("run"), *line, mask) == 0
    assert differences(record(Path("straight")), record(Path("run"))) == []
    with pytest.raises((AssertionError, ConfigError), match="this move is masked"):
        iterate(begun(Path("without"), *line), 4)


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (2, False), (75, True)])
def test_the_job_script_requeues_what_was_stopped_and_saved(
    code: int, requeued: bool, take: Callable[[str], str], tmp_path: Path
) -> None:
    take("on-a-cluster.md")
    commands = {
        "srun": '"$@"',
        "python": f'echo "$@" > typed; exit {code}',
        "scontrol": 'echo "$@" > requeued',
    }
    for name, does in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    assert subprocess.run(["bash", "run.sbatch"], env=environment, check=False).returncode == code
    assert (Path("requeued").read_text() == "requeue 7\n") if requeued else not Path("requeued").exists()
    script, *overrides = Path("typed").read_text().split()
    assert script == "train.py"
    compose(overrides, RunConfig)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_command_line_of_a_page_is_one(path: Path) -> None:
    lines = re.findall(r"(?:^ {4}|`)python train\.py ([^`\n#]+?) *(?:`|$|#)", path.read_text(), re.MULTILINE)
    for line in lines:
        words = [word for word in shlex.split(line) if not word.startswith("-") and "..." not in word]
        compose([re.sub(r"^(\w+)=([\w.]+),[\w.,]+$", r"\1=\2", word) for word in words], RunConfig)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text) + re.findall(r'src="([^"]+)"', text):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_every_page_is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)", (ROOT / "README.md").read_text()))
    assert linked == {str(path.relative_to(ROOT)) for path in PAGES[1:]}


def heading_anchors(page: str) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_to_headings_lead_to_one(path: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^):#]*)#([^)]+)\)", path.read_text()):
        page = path.parent / target if target else path
        assert anchor in heading_anchors(page.read_text()), f"{target}#{anchor}"


def test_the_readme_fits_a_page() -> None:
    text = (ROOT / "README.md").read_text()
    assert len([word for word in text.split() if word.strip("|-")]) <= 900  # the rules of tables are no words
    code = (
        re.findall(r"^ {4}.*$", text, re.MULTILINE)
        + "".join(body for _, body in _BLOCK.findall(text)).splitlines()
    )
    assert not [line for line in code if len(line) > 90]
    assert not [line for line in code if re.search(r"<\w", line)]  # a shell would take it for a redirection


_NOT_PROSE = re.compile(
    r"<!-- table .*?<!-- end -->|```.*?```|`[^`\n]*`|^ {4}[^\n]*$|\]\([^)]*\)", re.DOTALL | re.MULTILINE
)
_MEASURED = re.compile(r"\d[\d.,]*\s?(?:x|×|%|ms|us|s|seconds?|minutes|hours|times|frames/s|[kMG]B)\b|\d%")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_what_was_measured_stands_in_rendered_tables_alone(path: Path) -> None:
    text = _NOT_PROSE.sub("", path.read_text())
    found = set(_MEASURED.findall(text)) - {"95 %"}  # an interval's level
    assert not found, f"{found}: put it into a result file and a table"
