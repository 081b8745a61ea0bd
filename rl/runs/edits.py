"""What somebody has changed in a run's config.yaml: edits like those on a command line."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from rl.config import ConfigError, leaves, typed
from rl.config.compare import COMMANDS
from rl.config.compose import to_yaml
from rl.config.overrides import Overrides, quote
from rl.runs.history import CONFIG, parse, read_file
from rl.runs.manifest import DamagedError


def edits_of_file(folder: Path, config: dict[str, Any]) -> tuple[Overrides, list[str]]:
    """What somebody has changed in config.yaml since it was written from `config`: overrides and warnings.

    A key that is gone stays as the run has it, and so does all of a file that cannot be read.
    """
    written = to_yaml(config)
    path = folder / CONFIG
    try:
        if path.is_file() and path.read_bytes() == written.encode():
            return Overrides(), []
        now = read_file(folder)
    except DamagedError as error:
        return Overrides(), [f"DAMAGED: {error}; it is written again, as the run has it"]
    known = {name: leaf.value for name, leaf in leaves(parse(written)).items()}
    found = dict(_leaves_as(known, now))
    lost = [k for k in known if k not in found and not any(k.startswith(f"{name}.") for name in found)]
    edited = {k: v for k, v in found.items() if k not in known or repr(v) != repr(known[k])}
    commands = [k for k in edited if k.partition(".")[0] in COMMANDS]
    edited = {k: v for k, v in edited.items() if k not in commands}
    said = {
        "without effect: it says what to do, not how to train": commands,
        "missing; it stays as the run has it": [k for k in lost if k.partition(".")[0] not in COMMANDS],
        "edited; that counts as if it had been typed": list(edited),
    }
    warnings = [f"{path}: {', '.join(keys)}: {what}" for what, keys in said.items() if keys]
    return Overrides(_as_override(key, value) for key, value in edited.items()), warnings


def _leaves_as(known: Collection[str], values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of values that may be wrong in any way: what is a leaf in `known` is one here."""
    for name, value in values.items():
        full = f"{path}{name}"
        if isinstance(value, dict) and full not in known:
            yield from _leaves_as(known, value, f"{full}.")
        else:
            yield full, value


def _as_override(key: str, value: Any) -> Override:
    """An override that gives the key exactly this value."""
    with contextlib.suppress(ConfigError):  # such as a lone bracket
        (override,) = Overrides([f"{key}={typed(value)}"])
        if repr(override.value()) == repr(value):
            return override
    (override,) = Overrides([f"{key}={typed(_quoted(value))}"])
    return override


def _quoted(value: Any) -> Any:
    """The same value with every text in quotes."""
    if isinstance(value, dict):
        return {name: _quoted(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_quoted(part) for part in value]
    return quote(value) if isinstance(value, str) else value
