"""history.jsonl: a line for every start and resume of a run, with the world it happened in; and the run's
configuration.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rl.config import ConfigError, RunConfig, fill_in
from rl.config.compose import compose, to_yaml
from rl.runs import files
from rl.runs.code import commit
from rl.runs.manifest import DamagedError, list_manifests

_PACKAGES = ("torch", "numpy", "gymnasium", "hydra-core")
CONFIG, HISTORY = "config.yaml", "history.jsonl"


def read(folder: Path) -> list[dict[str, Any]]:
    """The starts and resumes of a run, oldest first; a last line that a kill left unfinished does not count.

    DamagedError for any other line that cannot be read.
    """
    path = folder / HISTORY
    if not path.exists():
        return []
    try:
        events = [files.parse_line(line) for line in path.read_bytes().decode().split("\n")[:-1]]
        for name, kind in (("frames", int), ("overrides", list), ("choices", dict), ("world", dict)):
            if not all(isinstance(event[name], kind) for event in events):
                raise ValueError(f"{name} is not what was written")
        return events
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path}: {error}") from error


def first_overrides(folder: Path) -> list[str] | None:
    """The command line as Hydra wrote it, for a run killed before its first line of history; None without."""
    path = folder / ".hydra" / "overrides.yaml"
    if not path.is_file() or not path.stat().st_size:
        return None
    return [str(override) for override in OmegaConf.load(path)]


def saved_config(folder: Path) -> dict[str, Any]:
    """The configuration that the run has; keys that are newer than the run are at their defaults.
    DamagedError if it cannot be read."""
    past = read(folder)
    values = find_config(folder, past)
    if values is None:
        raise DamagedError(f"{folder / CONFIG}: there is none")
    return fill_in(values, defaults(past[0]["choices"])) if past else values


def find_config(folder: Path, past: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The configuration that the run has, with the keys of its day; None if none was written yet.

    config.yaml is for people: it counts only for a run made before checkpoints held the configuration.
    DamagedError if it then cannot be read.
    """
    values = recorded_config(folder, past)
    return read_file(folder) if values is None and (folder / CONFIG).exists() else values


def recorded_config(folder: Path, past: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The configuration of the run's last session, else of its newest checkpoint; None if neither has it."""
    packed = past[-1].get("config") if past else None
    manifests = [] if packed else list_manifests(folder / "ckpt", replay=False)[0]
    return unpack(packed or next((m.config for m in manifests), None))


def read_file(folder: Path) -> dict[str, Any]:
    """config.yaml as it is. DamagedError if it cannot be read."""
    try:
        return parse((folder / CONFIG).read_text())
    except (OSError, AssertionError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise DamagedError(f"{folder / CONFIG}: {' '.join(str(error).split())}") from error


def parse(text: str) -> dict[str, Any]:
    """The configuration in a YAML text. ValueError or an error of its parser if there is none."""
    values = OmegaConf.to_container(OmegaConf.create(text))
    if not isinstance(values, dict) or not values:
        raise ValueError("it is empty")
    return {str(name): value for name, value in values.items()}


def pack(values: dict[str, Any]) -> dict[str, Any] | str:
    """A configuration for a JSON file: as it is, or as YAML where JSON would change it (numbers as keys)."""
    return values if json.loads(json.dumps(values)) == values else to_yaml(values)


def unpack(packed: dict[str, Any] | str | None) -> dict[str, Any] | None:
    """What `pack` was given; None for None."""
    return parse(packed) if isinstance(packed, str) else packed


def defaults(choices: dict[str, Any]) -> dict[str, Any]:
    """What conf/ says today of a run's algorithm and environment, without experiments; {} if it knows them no
    more.
    """
    try:
        return compose([f"algo={choices['algo']}", f"env={choices['env']}", "++env.id=x"], RunConfig).values
    except ConfigError:
        return {}


def write(folder: Path, session: dict[str, Any], values: dict[str, Any], *, line_first: bool = False) -> None:
    """Add a start or resume, and make `values` the run's configuration.

    A kill between the two leaves accepted changes as edits of config.yaml, which the next session finds.
    Where config.yaml alone says what the run has (`line_first`), the line with them comes first.
    """
    if not line_first:
        files.write_atomic(folder / CONFIG, to_yaml(values).encode())
    path = folder / HISTORY
    session = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **session, "config": pack(values)}
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        files.cut(path, path.read_bytes().rfind(b"\n") + 1)
    files.append(path, files.to_line(session).encode())
    files.sync(path)
    if line_first:
        files.write_atomic(folder / CONFIG, to_yaml(values).encode())


def exactness(frames: int, not_exact: list[str], not_reproducible: str = "") -> str:
    """How exact a session is, as text.

    `not_exact`: what could not be brought back; `not_reproducible`: what a later resume will not bring back.
    """
    text = f"not exact from frame {frames}: {'; '.join(not_exact)}" if not_exact else "exact"
    return f"{text}, but a resume will not be: {not_reproducible}" if not_reproducible else text


def world(config: RunConfig) -> dict[str, Any]:
    """What bit-exactness depends on besides the run itself."""
    settings = {n: getattr(config, n) for n in ("device", "threads", "processes", "deterministic")}
    return {**versions(), **commit(), "host": platform.node(), **settings}


def versions() -> dict[str, str]:
    """The machine's type, its CPU's vector instructions, and the versions of what computes."""
    import numpy as np  # here, for to list runs must be fast

    instructions = np.show_config(mode="dicts")["SIMD Extensions"]
    return {
        "machine": platform.machine(),
        "cpu": " ".join([*instructions.get("baseline", ()), *instructions.get("found", ())]),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def other_processes(config: dict[str, Any] | str | None, now: int) -> list[str]:
    """What is not exact if a checkpoint's configuration has another number of processes than `now`."""
    was = (unpack(config) or {}).get("processes", 1)
    return [f"processes {was} -> {now}"] if was != now else []


def other_world(history: list[dict[str, Any]]) -> list[str]:
    """A warning if the machine's type or versions are not what they were in the session before."""
    before, now = history[-1]["world"] if history else {}, versions()
    changed = [name for name in now if before.get(name, now[name]) != now[name]]
    what = ", ".join(f"{name} was {before[name]} and is {now[name]}" for name in changed)
    return [f"{what}: results may differ by rounding from here on"] if what else []
