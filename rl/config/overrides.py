"""A command line as overrides: parsed once, then asked, filtered and merged without parsing again."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from rl.config.keys import ConfigError

GROUPS = ("algo", "env", "logger", "launcher", "experiment", "debug", "local")
# keys whose values are folders: a folder of a sweep's job has characters that mean something to Hydra
_FOLDER = re.compile(
    r"(resume|fork|mirror|run|out|outputs|hydra\.run\.dir|hydra\.sweep\.dir)=([^'\"$].*[=,()\[\]{}: ].*)"
)
# a name needs no + to be new there: YAML may name a few of a part's keys, and its class knows them all
_OPEN_SECTIONS = (
    *("env.kwargs.", "space.", "launcher.parameters.", "tags."),
    *("algo.network.", "algo.optimizer.", "algo.replay."),
)


class Overrides:
    """An immutable sequence of Hydra's overrides."""

    def __init__(self, given: Iterable[str | Override] = ()) -> None:
        """Strings are parsed, overrides are taken as they are. ConfigError for a string that is neither."""
        self._all = tuple(_parse(item) if isinstance(item, str) else item for item in given)

    def __iter__(self) -> Iterator[Override]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def __repr__(self) -> str:
        return f"Overrides({self.texts})"

    @property
    def texts(self) -> list[str]:
        """The overrides as typed, folders quoted."""
        return [override.input_line or "" for override in self]

    @property
    def keys(self) -> list[str]:
        """The keys and groups that are overridden, in order."""
        return [override.key_or_group for override in self]

    @property
    def groups(self) -> Overrides:
        """The choices of config groups, Hydra's own included."""
        return self.where(lambda o: o.key_or_group in GROUPS or o.key_or_group.startswith("hydra"))

    @property
    def hydra(self) -> Overrides:
        """The overrides of Hydra's own keys."""
        return self.where(lambda override: override.key_or_group.startswith("hydra."))

    @property
    def swept(self) -> Overrides:
        """The overrides with several values."""
        return self.where(Override.is_sweep_override)

    def get(self, name: str) -> str | None:
        """The value that the last override of a key gives it; None without one."""
        values = [override.value() for override in self if override.key_or_group == name]
        return None if not values or values[-1] is None else str(values[-1])

    def where(self, accepts: Callable[[Override], bool]) -> Overrides:
        """The overrides that are accepted."""
        return Overrides(override for override in self if accepts(override))

    def drop(self, *names: str) -> Overrides:
        """The overrides without these keys; a name that ends in a dot stands for all below it."""
        below = tuple(name for name in names if name.endswith("."))
        return self.where(lambda o: o.key_or_group not in names and not o.key_or_group.startswith(below))

    def merge(self, newer: Iterable[str | Override]) -> Overrides:
        """Both as one command line: of overrides for the same key the last one counts."""
        merged: dict[str, Override] = {}
        for override in Overrides([*self, *newer]):
            key = override.key_or_group
            name = f"{key}@{override.package or ''}" + ("~" if override.is_delete() else "")
            replaced = {name}
            if key not in GROUPS:  # a whole section set anew
                replaced |= {old for old in merged if old.startswith(f"{key}.")}
            if key == "logger":  # the trackers that are chosen keep their options
                kept = trackers(override.value())
                replaced |= {
                    old for old in merged if old.startswith("logger.") and old.split(".")[1] not in kept
                }
            merged = {old: value for old, value in merged.items() if old not in replaced}
            merged[name] = override
        return Overrides(merged.values())

    def check_single(self) -> None:
        """ConfigError for a key with several values: that is a sweep."""
        for text in self.swept.texts:
            raise ConfigError(
                f"{text}: several values; type -m for one run with each, or brackets for a list"
            )

    def for_hydra(self) -> list[str]:
        """The same overrides as Hydra takes them.

        A schedule replaces what is there: Hydra puts neither keys where a list is nor the other way round,
        but either where null is.
        """
        return [text for override in self for text in _for_hydra(override)]


@functools.lru_cache(maxsize=10_000)  # a sweep has most texts in all its jobs
def _parse(text: str) -> Override:
    folder = _FOLDER.fullmatch(text)
    quoted = f"{folder[1]}={quote(folder[2])}" if folder else text
    message = f"{text}: not an override; write key=value"
    try:
        parsed: Override = OverridesParser.create().parse_overrides([quoted])[0]
    except HydraException as error:
        hint = (
            """, with quotes around a value of several words or signs: "key='a b'\"""" if "=" in text else ""
        )
        raise ConfigError(message + hint) from error
    if not parsed.key_or_group:
        raise ConfigError(message)
    return parsed


def _for_hydra(override: Override) -> list[str]:
    text, key, value = override.input_line or "", override.key_or_group, override.value()
    if key == "logger" and value is None:  # Hydra takes no null for a group
        return ["logger=[]"]
    plus = "++" if key.startswith(_OPEN_SECTIONS) and not override.is_delete() else ""
    text = plus + text.lstrip("+") if plus else text
    added = override.is_add() or override.is_force_add()
    plain = not (added or override.is_delete() or override.is_sweep_override())
    knots = isinstance(value, list) and value and isinstance(value[0], list)
    if plain and (knots or (isinstance(value, dict) and "kind" in value)):
        return [f"{plus}{key}=null", text]
    return [text]


def trackers(given: Any) -> list[Any]:
    """The trackers that a value of `logger` names: none, one or several."""
    return [] if given is None else given if isinstance(given, list) else [given]


def quote(text: str) -> str:
    """A value as an override writes it, whatever characters it has."""
    escaped = re.sub(
        r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text
    )  # other backslashes stand for themselves
    return f"'{escaped}'"
