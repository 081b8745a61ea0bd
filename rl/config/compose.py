"""The command line through Hydra: overrides in, plain values out, and one clear message when they make no
sense.

Nothing here touches a run's folder or imports torch; composing takes 50 ms.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from rl.config import ConfigError, did_you_mean, read_config

GROUPS = ("algo", "env", "logger", "launcher", "experiment", "debug", "local")
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
    overrides: Sequence[str], schema: type, config_name: str = "config", config_dir: str | None = None
) -> Composed:
    """Today's conf/ under these overrides. ConfigError names what is wrong, what is allowed and the nearest
    name.
    """
    search = (
        [f"hydra.searchpath=[{quote('file://' + str(Path(config_dir).absolute()))}]"] if config_dir else []
    )
    parsed = parse(overrides)
    check_single(parsed)
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            _check_groups(parsed, config_dir)
            composed = hydra.compose(config_name, [*search, *for_hydra(overrides)], return_hydra_config=True)
        except ConfigError:
            raise
        except (
            Exception
        ) as error:  # Hydra and the loaders under it have a dozen kinds for a file that cannot be read
            raise ConfigError(_explain(error, parsed, search, config_name)) from error
        try:
            choices = OmegaConf.to_container(composed.hydra.runtime.choices)
            places = str(composed.hydra.run.dir), str(composed.hydra.sweep.dir)
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
    typed = {str(name): value for name, value in values.items()}
    return Composed(typed, {g: choices.get(g) for g in GROUPS}, read_config(typed, schema), *places)


def parse(overrides: Sequence[str]) -> list[Override]:
    """Hydra's reading of overrides. ConfigError for one that is none."""
    parser = OverridesParser.create()
    result = []
    for text in overrides:
        try:
            result += parser.parse_overrides([text])
        except HydraException as error:
            raise ConfigError(
                f"{text}: not an override; write key=value ({str(error).splitlines()[0]})"
            ) from error
        if not result[-1].key_or_group:
            raise ConfigError(f"{text}: not an override; write key=value")
    return result


def check_single(overrides: Iterable[Override]) -> None:
    """ConfigError for a key with several values: that is a sweep."""
    for override in overrides:
        if override.is_sweep_override():
            raise ConfigError(
                f"{override.input_line}: several values; type -m for one run with each, or brackets for a list"
            )


_PLACES = re.compile(
    r"(resume|fork|run|out|outputs|hydra\.run\.dir|hydra\.sweep\.dir)=([^'\"$].*[=,()\[\]{}: ].*)"
)


def quote_places(overrides: Iterable[str]) -> list[str]:
    """The overrides as typed, but folders quoted: the names of a sweep's jobs have signs that mean something
    to Hydra.
    """
    return [
        f"{found[1]}={quote(found[2])}" if (found := _PLACES.fullmatch(text)) else text for text in overrides
    ]


def for_hydra(overrides: Iterable[str]) -> list[str]:
    """The same overrides, such that a schedule replaces what is there: Hydra puts neither keys where a list
    is nor the other way round, but either where null is."""
    result = []
    for override in parse(list(overrides)):
        line, value = override.input_line or "", override.value()
        schedule = (
            isinstance(value, dict)
            and "kind" in value
            or isinstance(value, list)
            and value
            and isinstance(value[0], list)
        )
        plain = not (
            override.is_add()
            or override.is_force_add()
            or override.is_delete()
            or override.is_sweep_override()
        )
        if (
            override.key_or_group.startswith(("env.kwargs.", "space.", "launcher.parameters."))
            and not override.is_delete()
        ):
            line = "++" + line.lstrip("+")  # open sections: a name needs no + to be new
        if override.key_or_group == "logger" and value is None:  # Hydra takes no null for a group
            line = "logger=[]"
        result += [f"{override.key_or_group}=null", line] if schedule and plain else [line]
    return result


def merge(*lines: Iterable[str]) -> list[str]:
    """One command line from several: of overrides for the same key the last one counts."""
    merged: dict[str, str] = {}
    for line in lines:
        for override in parse(list(line)):
            name = f"{override.key_or_group}@{override.package or ''}"
            if override.is_delete():
                name += "~"
            if override.key_or_group not in GROUPS:  # a whole section set anew
                for deeper in [old for old in merged if old.startswith(f"{override.key_or_group}.")]:
                    del merged[deeper]
            if override.key_or_group == "logger":  # its trackers keep their options, the others are gone
                for deeper in [
                    old
                    for old in merged
                    if old.startswith("logger.") and old.split(".")[1] not in trackers(override.value())
                ]:
                    del merged[deeper]
            merged.pop(name, None)
            merged[name] = override.input_line or ""
    return list(merged.values())


def drop(overrides: Iterable[str], *names: str) -> list[str]:
    """The overrides but for these keys; a name that ends in a dot stands for all below it."""
    below = tuple(name for name in names if name.endswith("."))
    kept = [
        o
        for o in parse(list(overrides))
        if o.key_or_group not in names and not o.key_or_group.startswith(below)
    ]
    return [override.input_line or "" for override in kept]


def hydra_only(overrides: Iterable[str]) -> list[str]:
    """The overrides of Hydra's own keys."""
    return [
        override.input_line or ""
        for override in parse(list(overrides))
        if override.key_or_group.startswith("hydra.")
    ]


def value_of(overrides: Iterable[str], name: str) -> Any:
    """The value that the last override of a key gives it, or None."""
    values = [override.value() for override in parse(list(overrides)) if override.key_or_group == name]
    return None if not values or values[-1] is None else str(values[-1])


def options(group: str, config_dir: str | None = None) -> dict[str, str]:
    """The choices of a config group, each with the first comment line of its file."""
    found: dict[str, str] = {}
    for root in filter(None, [str(CONF), config_dir]):
        for path in sorted((Path(root) / group).glob("*.yaml")):
            comments = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
            found[path.stem] = next((line for line in comments if not line.startswith("@package")), "")
    return found


def _check_groups(overrides: Sequence[Override], config_dir: str | None) -> None:
    for override in overrides:
        group, given = override.key_or_group, override.value()
        if group not in GROUPS or override.is_delete() or override.is_sweep_override():
            continue
        available = options(group, config_dir)
        for part in trackers(given) if group == "logger" else [given]:
            name = "null" if part is None else str(part)
            if name not in available:
                raise ConfigError(f"{group}={name}: no such {group}{did_you_mean(name, list(available))}")


def trackers(given: Any) -> list[Any]:
    """The trackers that a value of `logger` names: none, one or several."""
    return [] if given is None else given if isinstance(given, list) else [given]


def _explain(error: Exception, overrides: Sequence[Override], search: list[str], config_name: str) -> str:
    """The one message for a composition that failed: mostly, a key that does not exist."""
    chosen = [
        o.input_line or ""
        for o in overrides
        if o.key_or_group in GROUPS or o.key_or_group.startswith("hydra")
    ]
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


def quote(text: str) -> str:
    """A value as an override writes it, whatever characters it has."""
    escaped = re.sub(
        r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text
    )  # other backslashes stand for themselves
    return f"'{escaped}'"


def to_yaml(values: dict[str, Any]) -> str:
    """Plain values as YAML, in the order they have."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def from_yaml(path: Path) -> dict[str, Any]:
    """What `to_yaml` wrote."""
    values = OmegaConf.to_container(OmegaConf.load(path))  # reads 1e-3 as a number, as Hydra does
    assert isinstance(values, dict)
    return {str(name): value for name, value in values.items()}
