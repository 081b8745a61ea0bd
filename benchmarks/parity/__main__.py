"""`python -m benchmarks.parity NAME [task ...] [place=FOLDER]` measures a framework and records
benchmarks/results/parity_NAME.csv; `python -m benchmarks.parity table` writes docs/parity.md's table.

`place` holds the virtual environments, made where they are missing, and the runs; build/parity by
default.
"""

from __future__ import annotations

import csv
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.parity.adapter import TASKS
from benchmarks.parity.measure import measure
from benchmarks.record import RESULTS, ROOT, record

HERE = Path(__file__).parent
COLUMNS = (
    *("framework", "task", "frames", "ckpt_every", "resumes", "killed_at", "resumed_from", "ends_at"),
    *("frames_again", "updates", "updates_lost", "transitions_lost", "same_folder", "rows_missing"),
    *("rows_doubled", "control_difference", "resumed_difference", "return_before", "return_after"),
    *("return_control", "edited_lr", "edited_gamma", "damaged", "first_frame_s"),
    *("saves", "resumes_with", "measured", "note"),
)


def environment(name: str, place: Path) -> Path:
    """The Python of a framework's virtual environment, which is made if it is missing."""
    requirements = HERE / f"requirements-{name}.txt"
    if not requirements.exists():
        return Path(sys.executable)  # Encore's own
    folder = place / f"venv-{name}"
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([folder / "bin/pip", "install", "-q", "-r", requirements], check=True)
        (folder / "installed").touch()
    return folder / "bin/python"


def main() -> None:
    """Measure one framework, or write the tables."""
    words = [word for word in sys.argv[1:] if not word.startswith("place=")]
    if words == ["table"]:
        sys.argv[1:] = []
        table.main()
        return
    places = [word.removeprefix("place=") for word in sys.argv[1:] if word.startswith("place=")]
    place = Path(places[-1] if places else ROOT / "build/parity").absolute()
    name, *tasks = words
    adapter = importlib.import_module(f"benchmarks.parity.adapters.{name}")
    python = environment(name, place)
    for task in tasks or TASKS:
        if task in adapter.TASKS:
            row = measure(adapter, python, task, place / "runs" / name / task)
        else:
            row = {"framework": name, "task": task, "resumes": "not offered"}
        keep(name, row | {"saves": adapter.SAVES, "resumes_with": adapter.RESUMES})


def keep(name: str, row: dict[str, Any]) -> None:
    """Record a row at once; the rows of the framework's other tasks stay."""
    path = RESULTS / f"parity_{name}.csv"
    kept = [old for old in table.read(path) if old["task"] != row["task"]] if path.exists() else []
    record(path.stem, [{column: row.get(column, "") for column in COLUMNS}])
    kept += table.read(path)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, kept[-1], lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(kept, key=lambda one: list(TASKS).index(one["task"])))


if __name__ == "__main__":
    main()
