"""Reading a configuration: plain values become typed ones, or an error names every key that cannot be."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from typing import Any

from rl.config.counts import FORMS as COUNT_FORMS
from rl.config.counts import parse_count
from rl.config.keys import ConfigError, Count, Key, Target, fields, options_of
from rl.config.schedule import Schedule
from rl.config.schema import TARGETS, RunConfig, schema_of


def fill_in(values: dict[str, Any], defaults: dict[str, Any], schema: Any = RunConfig) -> dict[str, Any]:
    """`values`, and from `defaults` what a schema names and they lack: the configuration of a run made before
    a key was.
    """
    schema = schema_of(values.get("_target_", "")) or schema
    filled = dict(values)
    for name, (kind, key) in (
        fields(schema) if isinstance(schema, type) and dataclasses.is_dataclass(schema) else {}
    ).items():
        if name not in values and name in defaults:
            filled[name] = defaults[name]
        elif (
            isinstance(values.get(name), dict)
            and isinstance(defaults.get(name), dict)
            and (key is None or kind is Target)
        ):
            same = values[name].get("_target_") == defaults[name].get("_target_")
            filled[name] = fill_in(values[name], defaults[name], kind) if same else values[name]
    return filled


def read_config(values: dict[str, Any], schema: type = RunConfig) -> Any:
    """A typed configuration from plain values. ConfigError names every key that cannot be, one line each."""
    errors: list[str] = []
    config = _read(schema, None, values, "", errors)
    if errors:
        raise ConfigError("\n".join(errors))
    return config


def _read(kind: Any, key: Key | None, value: Any, path: str, errors: list[str]) -> Any:
    """`value` as the type `kind`; what is wrong with it is added to `errors`."""
    if path == "algo" or kind is Target:
        return _read_target(value, path, errors)
    if dataclasses.is_dataclass(kind):
        return _read_section(typing.cast(type, kind), value, path, errors)
    options = options_of(kind)
    if value is None and types.NoneType in options:
        return None
    kind = options[0]
    if typing.get_origin(kind) is list and isinstance(value, list):
        item = typing.get_args(kind)[0]
        return [_read(item, key, part, f"{path}[{index}]", errors) for index, part in enumerate(value)]
    if typing.get_origin(kind) is dict and typing.get_args(kind)[1] is Target and isinstance(value, dict):
        return {name: _read_target(part, f"{path}.{name}", errors) for name, part in value.items()}
    try:
        parsed = _convert(kind, value)
        if key is not None and not _possible(key, parsed):
            raise ValueError
        return parsed
    except ValueError as error:
        reason = str(error) if kind is Schedule and str(error) else f"expected {_allowed(kind, key)}"
        near = difflib.get_close_matches(str(value), [str(c) for c in key.choices or ()], 1) if key else []
        errors.append(
            f"{path}={typed(value)}: {reason}" + (f"; did you mean {path}={near[0]}?" if near else "")
        )
        return None


def _read_section(schema: type, value: Any, path: str, errors: list[str]) -> Any:
    if not isinstance(value, dict):
        errors.append(f"{path}={typed(value)}: expected the keys {', '.join(fields(schema))}")
        return None
    known = fields(schema)
    prefix = f"{path}." if path else ""
    for name in value:
        if name not in known:
            errors.append(
                f"{prefix}{name}: no such key{did_you_mean(prefix + name, [prefix + k for k in known])}"
            )
    read = {}
    optional = {
        f.name
        for f in dataclasses.fields(schema)
        if f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
    }
    for name, (kind, key) in known.items():
        if name in value:
            read[name] = _read(kind, key, value[name], f"{prefix}{name}", errors)
        elif name not in optional:
            errors.append(f"{prefix}{name}: missing")
            read[name] = None
    return schema(**read)


def _read_target(value: Any, path: str, errors: list[str]) -> Any:
    if not isinstance(value, dict) or not isinstance(value.get("_target_"), str):
        errors.append(f"{path}={typed(value)}: expected a _target_ and its arguments")
        return None
    schema = schema_of(value["_target_"])
    if schema is None and value["_target_"].startswith("rl."):
        errors.append(
            f"{path}._target_={value['_target_']}: no such"
            f" part{did_you_mean(value['_target_'], list(TARGETS))}"
        )
    return Target(value) if schema is None else _read_section(schema, value, path, errors)


def _convert(kind: Any, value: Any) -> Any:
    """`value` as a plain type; ValueError if it is not one."""
    if kind is Count:
        return parse_count(value)
    if kind is Schedule:
        return Schedule(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and number and math.isfinite(value):
        return float(value)
    if kind is int and isinstance(value, int) and number:
        return value
    if kind in (bool, str) and isinstance(value, kind):
        return value
    if kind is str and number:  # env.id=3 is a string that YAML took for a number
        return str(value)
    if typing.get_origin(kind) is dict and isinstance(value, dict):
        return value
    raise ValueError


def _possible(key: Key, value: Any) -> bool:
    if key.choices is not None:
        return value in key.choices
    if isinstance(value, Schedule):
        return key.low is None or value.lowest >= key.low
    if key.low is not None and value < key.low:
        return False
    if key.above is not None and value <= key.above:
        return False
    return key.high is None or value <= key.high


def _allowed(kind: Any, key: Key | None) -> str:
    """In words, what a key takes."""
    if key is not None and key.choices is not None:
        return "one of " + ", ".join("null" if choice is None else str(choice) for choice in key.choices)
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a word",
        Count: COUNT_FORMS,
        Schedule: "a number",
    }
    words = names.get(
        kind,
        "a list in brackets, of numbers or words" if typing.get_origin(kind) is list else "keys and values",
    )
    if key is not None and typing.get_origin(kind) is not list:
        bounds = [
            f"{phrase} {f'{bound:_}' if isinstance(bound, int) else f'{bound:g}'}"
            if abs(bound) < 1e15
            else ""
            for phrase, bound in (
                ("from", key.low),
                ("above", key.above),
                ("to" if key.low is not None else "at most", key.high),
            )
            if bound is not None
        ]
        words = " ".join([words, *filter(None, bounds)])
    return f"{words}, or a schedule of such numbers" if kind is Schedule else words


def typed(value: Any) -> str:
    """A value as one types it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(typed, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{typed(part)}" for name, part in value.items()) + "}"
    return str(value)


# what a key is called elsewhere -> its last part here
_ELSEWHERE = {
    **dict.fromkeys(("learning_rate", "policy_lr", "optimizer_lr"), "lr"),
    **dict.fromkeys(("total_timesteps", "timesteps", "steps", "total_steps", "max_frame"), "frames"),
    **dict.fromkeys(("n_envs", "envs", "num_env"), "num_envs"),
    **dict.fromkeys(("n_steps", "num_steps", "horizon", "time_horizon"), "rollout_length"),
    **dict.fromkeys(("discount", "discount_factor"), "gamma"),
    **dict.fromkeys(("ent_coef", "entropy"), "entropy_coef"),
    **dict.fromkeys(("buffer_size", "memory_size"), "capacity"),
    **dict.fromkeys(("note", "notes", "tag", "comment", "run_name"), "note"),
}


def did_you_mean(name: str, known: list[str], meant: dict[str, str] = _ELSEWHERE) -> str:
    """The nearest known name as the end of a message, or all of its section."""
    section, _, leaf = name.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == section}
    other = meant.get(leaf, leaf)
    if meant is _ELSEWHERE and other == "note" and "tags" in known:
        return "; did you mean tags.note?"
    near = (
        [siblings[found] for found in difflib.get_close_matches(other, list(siblings), 1, 0.6)]
        or [k for k in known if k.rpartition(".")[2] == other]
        or difflib.get_close_matches(name, known, 1, 0.8)
    )
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are {', '.join(sorted(siblings.values()) or sorted(known))}"
