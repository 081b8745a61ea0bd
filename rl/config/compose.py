"""Composing conf/ under a command line: plain values out, or one clear message that says what is wrong.

Nothing here touches a run's folder or imports torch; composing takes 50 ms.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from rl.config import ConfigError, did_you_mean, read_config
from rl.config.overrides import GROUPS, Overrides, quote, trackers

_ROOT = Path(__file__).resolve().parent.parent
CONF = _ROOT.parent / "conf" if (_ROOT.parent / "conf" / "config.yaml").is_file() else _ROOT / "conf"


@dataclass(frozen=True)
class Composed:
    """A configuration: plain values, the group choices behind them, and the same values typed."""

    values: dict[str, Any]
    choices: dict[str, str | None]
    config: Any
    run_dir: str  # where Hydra would put a new run
    sweep_dir: str  # and a new sweep


def compose(
    given: Iterable[str | Override],
    schema: type,
    config_name: str = "config",
    config_dir: str | None = None,
) -> Composed:
    """Today's conf/ under these overrides.

    ConfigError names what is wrong, what is allowed and the nearest name.
    """
    overrides = Overrides(given)
    overrides.check_single()
    search = (
        [f"hydra.searchpath=[{quote('file://' + str(Path(config_dir).absolute()))}]"] if config_dir else []
    )
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        _check_groups(overrides, config_dir)
        try:
            composed = hydra.compose(config_name, [*search, *overrides.for_hydra()], return_hydra_config=True)
        except Exception as error:  # Hydra and its loaders have a dozen kinds for a file that cannot be read
            raise ConfigError(_explain(error, overrides, search, config_name)) from error
        try:
            choices = OmegaConf.to_container(composed.hydra.runtime.choices)
            folders = str(composed.hydra.run.dir), str(composed.hydra.sweep.dir)
            OmegaConf.set_readonly(composed, False)
            OmegaConf.set_struct(composed, False)
            del composed["hydra"]
            values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            key = error.full_key or "the configuration"
            missing = isinstance(error, MissingMandatoryValue)
            raise ConfigError(
                f"{key}: missing; type {key}=..." if missing else f"{key}: {str(error).splitlines()[0]}"
            ) from error
    assert isinstance(values, dict)
    assert isinstance(choices, dict)
    plain = {str(name): value for name, value in values.items()}
    return Composed(plain, {g: choices.get(g) for g in GROUPS}, read_config(plain, schema), *folders)


def options(group: str, config_dir: str | None = None) -> dict[str, str]:
    """The choices of a config group, each with the first comment line of its file."""
    found: dict[str, str] = {}
    for root in filter(None, [str(CONF), config_dir]):
        for path in sorted((Path(root) / group).glob("*.yaml")):
            comments = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
            found[path.stem] = next((line for line in comments if not line.startswith("@package")), "")
    return found


def _check_groups(overrides: Overrides, config_dir: str | None) -> None:
    for override in overrides:
        group, given = override.key_or_group, override.value()
        if group not in GROUPS or override.is_delete() or override.is_sweep_override():
            continue
        available = options(group, config_dir)
        for part in trackers(given) if group == "logger" else [given]:
            name = "null" if part is None else str(part)
            if name not in available:
                raise ConfigError(f"{group}={name}: no such {group}{did_you_mean(name, list(available))}")


def _explain(error: Exception, overrides: Overrides, search: list[str], config_name: str) -> str:
    """The one message for a composition that failed: mostly, a key that does not exist."""
    chosen = overrides.groups.texts
    with contextlib.suppress(Exception):
        base = hydra.compose(config_name, [*search, *chosen])
        known = _names(OmegaConf.to_container(base, resolve=False))
        for override in overrides:
            name = override.key_or_group
            if not override.is_add() and (override.input_line or "") not in chosen and name not in known:
                return f"{name}: no such key{did_you_mean(name, known)}"
    if not isinstance(error, HydraException):
        return f"{' '.join(chosen) or 'conf/'}: {type(error).__name__}: {' '.join(str(error).split())}"
    return " ".join(str(part).splitlines()[0] for part in (error, error.__cause__) if str(part or ""))


def _names(values: Any, path: str = "") -> list[str]:
    """Dotted names of every section and leaf."""
    result = []
    for name, value in values.items() if isinstance(values, dict) else ():
        result += [f"{path}{name}", *_names(value, f"{path}{name}.")]
    return result


def to_yaml(values: dict[str, Any]) -> str:
    """Plain values as YAML, in the order they have."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def from_yaml(path: Path) -> dict[str, Any]:
    """What `to_yaml` wrote."""
    values = OmegaConf.to_container(OmegaConf.load(path))  # reads 1e-3 as a number, as Hydra does
    assert isinstance(values, dict)
    return {str(name): value for name, value in values.items()}
