"""`python -m rl.runs [outputs=DIR | URL] [--json]`: every run, how far it is, and which one `resume=latest`
would take.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rl.config.counts import format_count, parse_count
from rl.config.invocation import as_typed, command
from rl.config.overrides import Overrides
from rl.config.text import aligned, score_text
from rl.runs import history
from rl.runs.bucket import is_url
from rl.runs.find import RESULT, latest_run, outputs_folder, read_scores, run_folders
from rl.runs.listing import outlines
from rl.runs.lock import is_locked
from rl.runs.manifest import DamagedError, list_manifests, was_committed
from rl.runs.outcome import REFUSED, Refused, with_exit_codes


def describe(folder: Path) -> dict[str, Any]:
    """What is known of one run, as plain values."""
    past: list[dict[str, Any]] = []
    unreadable = False
    try:
        past = history.read(folder)
        config = history.find_config(folder, past) or {}
    except DamagedError:
        config, unreadable = {}, True
    choices = past[0]["choices"] if past else {}
    whole, problems = list_manifests(folder / "ckpt", replay=False)
    newest = whole[0] if whole else None
    scores = read_scores(folder, newest)
    return {
        "run": str(folder),
        "spec": f"{choices.get('algo', '?')}_{choices.get('env', '?')}",
        "seed": choices.get("seed"),
        "frames": newest.frames if newest else None,
        "asked": parse_count(config["frames"]) if config else None,
        "last": scores.get("last"),
        "best": scores.get("best"),
        "state": _state(folder, bool(whole), unreadable or bool(problems)),
        "saved_at": newest.saved_at if newest else None,
    }


def _state(folder: Path, whole: bool, damaged: bool) -> str:
    if is_locked(folder):
        return "running"
    if damaged or (not whole and was_committed(folder)):
        return "damaged"
    if not whole:
        return "never committed"
    return "finished" if (folder / RESULT).exists() else "stopped"


def table(runs: list[dict[str, Any]], latest: str | None) -> str:
    """The runs as aligned text; `resume=latest` would take the one marked with an arrow."""
    head = ["", "run", "seed", "frames", "last", "best", "state", "age"]
    rows = [head]
    for run in runs:
        frames = "-" if run["frames"] is None else "?"
        if run["frames"] is not None and run["asked"]:
            frames = f"{format_count(run['frames'])} of {format_count(run['asked'])}"
        mark = "->" if run["run"] == latest else ""
        scores = (score_text(run["last"]), score_text(run["best"]))
        rows.append(
            [mark, run["run"], _text(run["seed"]), frames, *scores, run["state"], _age(run["saved_at"])]
        )
    return "\n".join(aligned(rows))


def _text(value: Any) -> str:
    return "-" if value is None else str(value)


def _age(saved_at: float | None) -> str:
    if saved_at is None:
        return "-"
    seconds = max(time.time() - saved_at, 0)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


_HELP = """List every run: its state, how far it is, its scores, and which one resume=latest would take.

  python -m rl.runs                      all runs under outputs/, jobs of sweeps included
  python -m rl.runs outputs=DIR          those under another folder
  python -m rl.runs s3://bucket/folder   those in a mirror
  python -m rl.runs --json               for programs: a list of objects"""


def main() -> None:
    """Print the table, or with --json a list of objects."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(as_typed(_HELP))
        return
    arguments = [argument for argument in sys.argv[1:] if argument != "--json"]
    unknown = [
        argument for argument in arguments if not (argument.startswith("outputs=") or is_url(argument))
    ]
    if unknown or len(arguments) > 1:
        what = f"{unknown[0]}: not known" if unknown else f"{' '.join(arguments)}: one place at a time"
        print(f"{what}; type {command('runs')} [outputs=DIR | URL] [--json]", file=sys.stderr)
        raise SystemExit(REFUSED)
    place = arguments[0].removeprefix("outputs=") if arguments else ""
    if is_url(place):
        with_exit_codes(lambda: _show(place, _mirrored(place), None))
        return
    outputs = outputs_folder(Overrides(arguments))
    runs = [describe(folder) for folder in run_folders(outputs)]
    latest = None
    with contextlib.suppress(Refused):  # there is none to mark
        latest = str(latest_run(outputs))
    _show(str(outputs.absolute()), runs, latest)


def _mirrored(url: str) -> list[dict[str, Any]]:
    """What is known of each run in a mirror."""
    with tempfile.TemporaryDirectory(prefix="encore-") as scratch:
        found = []
        for run_url, folder, beat in outlines(url, Path(scratch)):
            alive = {"state": "running"} if beat and beat.alive else {}
            found.append(describe(folder) | {"run": run_url} | alive)
        return found


def _show(place: str, runs: list[dict[str, Any]], latest: str | None) -> None:
    if "--json" in sys.argv:
        print(json.dumps([run | {"latest": run["run"] == latest} for run in runs], indent=1))
    else:
        print(table(runs, latest) if runs else f"no runs under {place}")


if __name__ == "__main__":
    main()
