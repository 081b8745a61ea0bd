"""Result files: CSV rows with the command, versions, machine and commit that produced them."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent
_PACKAGES = ("torch", "numpy", "gymnasium", "hydra-core", "stable-baselines3")


def started(*arguments: str) -> subprocess.Popen[bytes]:
    """Start train.py in its own session, as a terminal would: Linux shares cores fairly between sessions."""
    command = [sys.executable, "train.py", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)


def record(name: str, rows: Sequence[Mapping[str, Any]], folder: Path = RESULTS) -> Path:
    """Write <name>.csv in benchmarks/results/ or another folder; every row says how it was produced. Rows
    that say it already, since they are kept from an earlier file, keep their words.
    """
    given = (argument for argument in sys.argv[1:] if not argument.startswith("place="))
    # the folder of another checkout means nothing elsewhere: its rows name its commit
    arguments = ["against=DIR" if argument.startswith("against=") else argument for argument in given]
    origin = {"command": " ".join([f"python -m {module_name()}", *arguments]), **surroundings()}
    path = folder / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        columns = dict.fromkeys([*rows[0], *origin])
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**origin, **row} for row in rows)
    print(f"wrote {path.relative_to(ROOT)}")
    return path


def module_name() -> str:
    """The module that was started with `python -m`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem


def surroundings() -> dict[str, str]:
    """Date, commit, versions and processor."""
    versions = []
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return {
        "date": time.strftime("%Y-%m-%d"),
        "git_sha": _git("rev-parse", "--short", "HEAD")
        + ("+changes" if _git("status", "--porcelain", "--", "rl", "conf") else ""),
        "versions": f"python {platform.python_version()}; " + "; ".join(versions),
        "machine": f"{_processor()}, {os.cpu_count()} cores",
    }


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
