"""TAB completion of run folders, which Hydra does not know of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rl.runs.find import run_folders

_KEYS = ("resume", "fork", "run")


def completed(request: Sequence[str]) -> bool:
    """Print the folders that may follow `resume=`, `fork=` or `run=`; False if another word is completed."""
    if not any(word.startswith("query=") for word in request):
        return False
    line = os.environ.get("COMP_LINE", "")
    words = line[: int(os.environ.get("COMP_POINT") or len(line))].split(" ")
    key, equals, begun = words[-1].partition("=")
    if not equals or key not in _KEYS:
        return False
    outputs = Path(next((w.removeprefix("outputs=") for w in words if w.startswith("outputs=")), "outputs"))
    sweeps = {path.parent for path in outputs.glob("sweeps/*/sweep.json")}
    found = sweeps if {"-m", "--multirun"} & set(words) else run_folders(outputs)
    names = ["latest", *map(str, sorted(found, reverse=True))]
    print(" ".join(f"{key}={name}" for name in names if name.startswith(begun)))
    return True
