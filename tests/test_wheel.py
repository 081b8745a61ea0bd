"""The wheel outside the checkout: the command `encore`."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from short_runs import ROOT

Encore = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def encore(tmp_path_factory: pytest.TempPathFactory) -> Encore:
    """The command of a new environment that has the wheel, and for the rest the packages of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # a copy: building leaves files beside the sources
    names = ("rl", "conf", "encore.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
    (folder / "source").mkdir()
    subprocess.run(["cp", "-r", *(str(ROOT / name) for name in names), str(folder / "source")], check=True)
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(folder / "source")]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("encore_rl-*.whl")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = str(folder / "venv" / "bin" / "python")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", str(wheel)], check=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*words: str, script: str = "encore") -> subprocess.CompletedProcess[str]:
        start = [str(folder / "venv" / "bin" / "encore")] if script == "encore" else [python, "-m", script]
        return subprocess.run(
            [*start, *words], capture_output=True, text=True, env=environment, check=False, timeout=300
        )

    return run


def test_the_wheel_trains_enjoys_lists_and_exports(encore: Encore) -> None:
    trained = encore("train", "debug=default")
    assert trained.returncode == 0, trained.stderr
    assert "encore enjoy" in trained.stdout + trained.stderr
    assert "train.py" not in trained.stdout
    for words in (["enjoy"], ["-m"]):
        script = "encore" if words == ["enjoy"] else "rl.enjoy"
        played = encore(*(words if script == "encore" else []), "render=none", "episodes=2", script=script)
        assert played.returncode == 0, played.stderr
        assert "over 2 episodes" in played.stdout
    listed = encore("runs")
    assert (listed.returncode, "reinforce_cartpole" in listed.stdout) == (0, True)
    written = encore("export", "format=torch", "out=policy.pt2")
    assert written.returncode == 0, written.stderr
    assert Path("policy.pt2").is_file()


def test_encore_names_its_commands(encore: Encore) -> None:
    assert encore("--help").returncode == 0
    for name in ("train", "enjoy", "report", "search", "export"):
        text = encore(name, "--help").stdout
        assert "(counts: 20M, 500k, 1e6)" in text
        assert f"encore {name}" in text
        assert "python " not in text.replace("python_", "")
        assert "constraints.txt" not in text
    unknown = encore("trian")
    assert (unknown.returncode, "encore trian: no such command" in unknown.stderr) == (2, True)


def test_another_package_named_rl_is_named(encore: Encore) -> None:
    Path("rl").mkdir()
    Path("rl", "__init__.py").touch()
    refused = encore("train")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "another package named rl hides Encore's" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
