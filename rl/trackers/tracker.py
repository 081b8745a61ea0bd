"""The interface of a tracker, and the data that it gets."""

from __future__ import annotations

import contextlib
import importlib.util
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rl.config import ConfigError, install_line
from rl.config.compose import from_yaml
from rl.runs import files, history
from rl.runs.history import CONFIG

RETRY_S = 60.0  # wait after a tracker failed
ID = "tracker_id"  # the file in a run's folder with the run's id for servers
TABLES = {"train": "metrics.csv", "eval": "eval.csv"}  # prefix of the column names -> file


@dataclass(frozen=True)
class Row:
    """One row of a file; `values` are its other non-empty cells, named like `train/loss`."""

    table: str
    frames: int
    wall_s: float
    values: dict[str, float]


@dataclass(frozen=True)
class RunInfo:
    """What trackers are told about a run besides its rows."""

    folder: Path
    id: str
    started_at: float  # plus `wall_s` of a row: its time, as if this session had trained from the start
    tags: dict[str, str]  # its own; algo, env, seed; the sweep's name if the run is a job of one
    config: dict[str, Any]
    resumed_at: int = 0  # the frames at which this session began

    @classmethod
    def read(cls, folder: Path, started_at: float) -> RunInfo:
        """Read a run's folder."""
        with contextlib.suppress(FileExistsError):
            files.write_new(folder / ID, secrets.token_hex(8).encode())
        config, past = from_yaml(folder / CONFIG), history.read(folder)
        choices = past[0]["choices"]
        tags = {name: str(value) for name, value in config.get("tags", {}).items()}
        tags |= {name: str(choices[name]) for name in ("algo", "env", "seed")}
        if (folder.parent / "sweep.json").exists():
            tags["sweep"] = folder.parent.name
        run_id = (folder / ID).read_text()
        return cls(folder, run_id, started_at, tags, config, resumed_at=past[-1]["frames"])

    @property
    def name(self) -> str:
        """The name shown to people."""
        return "/".join(self.folder.absolute().parts[-2:])

    @property
    def flat_config(self) -> dict[str, Any]:
        """The configuration with dotted keys; lists and null as text."""
        return dict(_flat(self.config))


def _flat(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value if isinstance(value, bool | int | float | str) else str(value)


class Tracker(Protocol):
    """Shows rows. Its constructor raises ConfigError for options that cannot work."""

    def open(self, run: RunInfo) -> None:
        """Begin a session; rows will be added from the first on."""

    def add(self, rows: Sequence[Row]) -> None:
        """Show rows, whose frames never decrease; skip those that a server already has."""

    def close(self, finished: bool) -> None:
        """End the session."""


def require(package: str) -> None:
    """ConfigError, with what to type, if a package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"logger={package}: {package} is not installed; type: {install_line(package)}")
