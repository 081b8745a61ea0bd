"""Comparing a run's configuration with today's: each key that differs is judged by its policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from rl.config.counts import format_count, parse_count
from rl.config.keys import FREE, FROZEN, HORIZON, NUMERICS, ONE_WAY, SCHEDULE, Count, Key, fields, options_of
from rl.config.read import typed
from rl.config.schedule import Schedule
from rl.config.schema import RunConfig, schema_of


@dataclass(frozen=True)
class Leaf:
    """One key of a configuration: its plain value, its comparable meaning and its policy."""

    value: Any
    meaning: Any
    policy: str
    choices: tuple[Any, ...]
    classified: bool  # whether a schema names it, or the open section that it is in
    open: bool  # whether it is in an open section, whose names no schema knows


def leaves(
    values: dict[str, Any], schema: type | None = RunConfig, path: str = "", section: Key | None = None
) -> dict[str, Leaf]:
    """Every leaf of a configuration by its dotted name. What is in an open section has that section's policy;
    what nobody classified is frozen."""
    known = fields(schema) if schema else {}
    result: dict[str, Leaf] = {}
    for name, value in values.items():
        kind, key = known.get(name, (None, section))
        full = f"{path}{name}"
        if isinstance(value, dict) and Schedule not in options_of(kind):  # an empty one has no leaves
            inner = schema_of(value["_target_"]) if "_target_" in value else kind
            result |= leaves(value, inner if dataclasses.is_dataclass(inner) else None, f"{full}.", key)  # type: ignore[arg-type]
        else:
            policy, choices = (key.policy, key.choices or ()) if key else (FROZEN, ())
            result[full] = Leaf(
                value,
                _meaning(kind, value),
                policy,
                choices,
                key is not None,
                name not in known and key is not None,
            )
    return result


def _meaning(kind: Any, value: Any) -> Any:
    """What a value stands for: 20M is 20000000, a schedule is its function."""
    if value is None:
        return None
    if Count in options_of(kind):
        return parse_count(value)
    if Schedule in options_of(kind):
        return Schedule(value)
    return value


@dataclass(frozen=True)
class Change:
    """A key that differs between a run and what is asked of it now; `refused` says why it cannot be, if it
    cannot.
    """

    key: str
    was: Any
    now: Any
    policy: str
    note: str
    refused: bool

    @property
    def keep(self) -> str:
        """The override that keeps the run's value."""
        return f"{self.key}={typed(self.was)}"

    def from_now_on(self, frames: int) -> str | None:
        """The override of a schedule that keeps the past and has the new values after `frames`, if it can be
        written.
        """
        if self.policy != SCHEDULE or self.was == MISSING or self.now in (None, MISSING) or self.was is None:
            return None
        knots = Schedule(self.was).followed_by(Schedule(self.now), frames + 1)
        return f"{self.key}={typed(knots)}" if knots else None


MISSING = "(absent)"


def compare(
    old: dict[str, Any],
    new: dict[str, Any],
    frames: int,
    named: Collection[str] = (),
    defaults: Callable[[], dict[str, Any]] = dict,
) -> list[Change]:
    """The keys in which a run's configuration and today's differ, at a clock of `frames`, each judged by its
    policy.

    A key of a schema that only one side knows counts as having always been at its default. New today, it must
    be at the default that `defaults()` holds; gone today, nobody must have typed it (`named`: the keys that
    the whole command line names). In an open section, such as env.kwargs, there are no defaults.
    """
    before, after = leaves(old), leaves(new)
    changes = []
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key), after.get(key)
        if key.partition(".")[0] in COMMANDS or (
            was and now and _same(was.meaning, now.meaning, frames=None)
        ):
            continue
        if was is None and now is not None:
            default = leaves(defaults()).get(key)
            at_default = (
                not now.open and default is not None and _same(default.meaning, now.meaning, frames=None)
            )
        else:
            at_default = (
                was is not None
                and not was.open
                and not any(key == name or key.startswith(f"{name}.") for name in named)
            )
        changes.append(_judge(key, was, now, frames, at_default))
    return changes


COMMANDS = ("resume", "base", "fork", "launcher", "mirror_takeover")  # what to do, not how to train


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two sets of leaves have the same names and meanings."""
    return one.keys() == other.keys() and all(_same(one[key], other[key], frames=None) for key in one)


def bucket(values: dict[str, Any]) -> frozenset[Any]:
    """Equal for sets of leaves that are the `same`, and mostly different for others: for a search."""
    return frozenset((name, *_hashable(value)) for name, value in values.items())


def _hashable(value: Any) -> tuple[Any, ...]:
    if isinstance(value, Schedule):
        return "schedule", value(0)
    if isinstance(value, list | dict):
        return type(value).__name__, len(value)
    return "number" if _number(value) is not None else type(value).__name__, value


def _same(one: Any, other: Any, frames: int | None) -> bool:
    if isinstance(one, Schedule) and isinstance(other, Schedule):
        far = max(one.frames[-1], other.frames[-1]) if frames is None else frames
        return one.first_difference(other, far) is None
    return (
        type(one) is type(other)
        and one == other
        or _number(one) is not None
        and _number(one) == _number(other)
    )


def _number(value: Any) -> int | float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _judge(key: str, was: Leaf | None, now: Leaf | None, frames: int, at_default: bool) -> Change:
    policy = (now or was).policy  # type: ignore[union-attr]
    refused, note = True, "it defines the run: with another value it would be another run"
    if policy == FREE:
        refused, note = False, "does not change what is learned"
    elif was is None or now is None:
        refused = not at_default
        note = "the run was made without this key" if was is None else "this key is gone today"
        note += "; it is at its default" if at_default else "; it defines the run"
    elif policy == NUMERICS:
        refused, note = False, "results may differ by rounding from here on"
    elif policy == HORIZON:
        refused = now.meaning < frames
        note = (
            f"the run has already seen {format_count(frames)} frames" if refused else "trains to another end"
        )
    elif policy == ONE_WAY:
        refused = now.choices.index(now.value) < now.choices.index(was.value)
        note = f"what {now.value} needs was not kept" if refused else "not exact from here on"
    elif policy == SCHEDULE and isinstance(was.meaning, Schedule) and isinstance(now.meaning, Schedule):
        where = was.meaning.first_difference(now.meaning, frames)
        refused = where is not None
        if where is None:
            note = f"the same up to frame {format_count(frames)}"
        else:
            before, today = was.meaning(where), now.meaning(where)
            note = f"the past would differ: at frame {format_count(where)} it was {before:g}, now {today:g}"
    return Change(key, was.value if was else MISSING, now.value if now else MISSING, policy, note, refused)
