"""The documentation as a site, and its notebook."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the site as CI does: a warning is an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the site is made from."""
    root = tmp_path / "checkout"
    root.mkdir()
    for name in ("docs", "rl"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("mkdocs.yml", "README.md"):
        shutil.copy(ROOT / name, root)
    return root


def test_site_builds_without_a_warning(checkout: Path, tmp_path: Path) -> None:
    """Links and anchors hold, each page is in the navigation, and the reference has its functions."""
    built = build(checkout, tmp_path / "site")
    assert built.returncode == 0, built.stderr
    assert "load_policy" in (tmp_path / "site" / "reference" / "api" / "index.html").read_text()
    (checkout / "docs" / "report.md").write_text("[nowhere](no-such-page.md)")
    assert "no-such-page.md" in build(checkout, tmp_path / "other").stderr


def test_notebook_runs(tmp_path: Path) -> None:
    """Each cell runs; the run is interrupted, resumed, plotted and played."""
    notebook: Any = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    os.environ.setdefault("IPYTHONDIR", str(tmp_path / "ipython"))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = {kind for output in outputs for kind in output.get("data", {})}
    assert {"image/png", "image/gif"} <= shown
    assert any("go on with resume(" in output.get("text", "") for output in outputs)
    finished = next(
        o for cell in notebook.cells if "api.resume" in cell.source for o in cell.outputs if "data" in o
    )
    assert finished["data"]["text/plain"] == "True"
