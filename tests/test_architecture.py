"""The house: folders of rl/ import only downwards, and no files import each other in a circle."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import BEGIN, END, READ, Entered, section, trace

ROOT = Path(__file__).resolve().parent.parent

# from the top to the bottom: a folder imports from itself and from those after it
FLOORS = (
    "commands",
    "report",
    "training",
    "sweeps",
    "trackers",
    "runs",
    "algos",
    "envs",
    "learning",
    "config",
    "leaves",
)
LEAVES = ("rl", "rl.children", "rl.clock", "rl.group", "rl.imports", "rl.state", "rl.serialize", "rl.spaces")


def modules(root: Path) -> dict[str, Path]:
    """Every module of rl/ by its name."""
    names = {
        path: ".".join(path.relative_to(root).with_suffix("").parts) for path in (root / "rl").rglob("*.py")
    }
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of rl/ that a file imports: at its top, in functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "rl":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "rl")


def floor(module: str) -> int:
    """The number of a module's floor, 0 at the top."""
    folder = module.split(".")[1] if "." in module else ""
    return FLOORS.index("leaves" if module in LEAVES else folder if folder in FLOORS else "commands")


def upward(root: Path) -> list[str]:
    known = modules(root)
    return [
        f"{name} imports {other}"
        for name, path in known.items()
        for other in imports(path, known)
        if floor(other) < floor(name)
    ]


def circle(root: Path) -> list[str]:
    known = modules(root)
    try:
        graphlib.TopologicalSorter(
            {name: set(imports(path, known)) for name, path in known.items()}
        ).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_folders_import_only_downwards() -> None:
    assert upward(ROOT) == []


def test_algorithms_never_import_each_other() -> None:
    known = modules(ROOT)
    algorithms = {name for name in known if name.startswith("rl.algos.")} - {
        "rl.algos.agent",
        "rl.algos.context",
    }
    assert not [name for name in algorithms if algorithms & set(imports(known[name], known))]


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circle(ROOT) == []


@pytest.mark.parametrize(
    "text",
    [
        "from rl.algos import agent\n",
        "def f():\n    from rl.algos.agent import Agent\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import rl.algos.agent\n",
    ],
)
def test_a_hidden_import_is_seen(tmp_path: Path, text: str) -> None:
    (tmp_path / "rl" / "algos").mkdir(parents=True)
    (tmp_path / "rl" / "algos" / "agent.py").write_text("import rl.clock\n")
    (tmp_path / "rl" / "clock.py").write_text(text)
    assert upward(tmp_path) == ["rl.clock imports rl.algos.agent"]
    assert set(circle(tmp_path)) == {"rl.clock", "rl.algos.agent"}


@pytest.fixture(scope="module")
def entered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Entered]:
    return {path: trace(path, tmp_path_factory.mktemp(path)) for path in READ}


@pytest.mark.parametrize(("path", "files", "lines"), [("iteration", 5, 600), ("resume", 9, 900)])
def test_a_path_through_the_code_is_short(
    entered: dict[str, Entered], path: str, files: int, lines: int
) -> None:
    read = [entered[path][file] for file in READ[path]]  # a KeyError if one of them is not entered
    assert len(read) <= files
    assert sum(sum(functions.values()) for functions in read) <= lines


def test_the_page_lists_what_the_paths_enter(entered: dict[str, Entered]) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    listed = page[page.index(BEGIN) : page.index(END) + len(END)]
    assert listed == section(entered), "run python tests/paths.py, and put what it prints into the page"
