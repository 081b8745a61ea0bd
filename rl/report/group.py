"""Grouping of runs: those that differ only in their seed are one result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rl.config import leaves, same, typed
from rl.report.runs import Run

# keys that do not distinguish results; launcher, logger and tags do not either
IGNORED = ("seed", "outputs", "resume", "base", "progress")
# Okabe and Ito's colours, which colour-blind people can distinguish; report.html has more for dark mode
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b38000", "#2b91cf", "#6b6b6b")
DASHES = ((), (6, 2), (2, 1.5), (7, 2, 1.5, 2))


@dataclass
class Result:
    """The runs of one configuration, over seeds."""

    runs: list[Run]
    label: str = ""
    colour: int = 0
    dashes: tuple[float, ...] = ()

    @property
    def env(self) -> dict[str, Any]:
        """The configuration of its environment."""
        return dict(self.runs[0].values["env"])

    def with_curve(self, name: str) -> list[Run]:
        """The runs that have this curve."""
        return [run for run in self.runs if name in run.curves]


@dataclass
class Section:
    """The results of one environment."""

    env: str
    results: list[Result]
    differences: list[tuple[str, list[str]]]  # key -> its value in every result


def _compared(run: Run) -> dict[str, Any]:
    return {
        name: leaf
        for name, leaf in leaves(run.values).items()
        if name not in IGNORED and not name.startswith(("launcher.", "logger", "tags"))
    }


def group(runs: Sequence[Run]) -> list[Section]:
    """Group runs into results, and results into environments."""
    found: list[tuple[dict[str, Any], Result]] = []
    for run in runs:
        values = _compared(run)
        known = next((result for keys, result in found if _same(keys, values)), None)
        if known:
            known.runs.append(run)
        else:
            found.append((values, Result([run])))
    sections: dict[str, list[tuple[dict[str, Any], Result]]] = {}
    for keys, result in found:
        sections.setdefault(str(result.env["id"]), []).append((keys, result))
    return [_section(env, pairs) for env, pairs in sections.items()]


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return same({k: leaf.meaning for k, leaf in a.items()}, {k: leaf.meaning for k, leaf in b.items()})


def _section(env: str, pairs: list[tuple[dict[str, Any], Result]]) -> Section:
    """One environment's results, labelled by algorithm and by the keys that differ within an algorithm."""
    results = [result for _, result in pairs]
    taken: dict[str, int] = {}
    for number, (_, result) in enumerate(pairs):
        alike = [keys for keys, other in pairs if other.runs[0].algo == result.runs[0].algo]
        own = pairs[number][0]
        parts = [f"{key.removeprefix('algo.')}={_shown(own, key)}" for key in _differing(alike) if key in own]
        label = " ".join([result.runs[0].algo, *parts[:3]]) + (" …" if len(parts) > 3 else "")
        label = label if len(label) <= 48 else f"{label[:47]}…"
        taken[label] = taken.get(label, 0) + 1
        result.label = label if taken[label] == 1 else f"{label} ({taken[label]})"
        result.colour, result.dashes = number % len(COLOURS), DASHES[number % len(DASHES)]
    all_keys = [keys for keys, _ in pairs]
    differences = [(key, [_shown(keys, key) for keys in all_keys]) for key in _differing(all_keys)]
    return Section(env, results, differences)


def _differing(configurations: list[dict[str, Any]]) -> list[str]:
    """The keys whose values are not all equal."""
    names = dict.fromkeys(name for keys in configurations for name in keys)
    first = configurations[0]

    def differs(name: str, keys: dict[str, Any]) -> bool:
        if name not in keys or name not in first:
            return (name in keys) != (name in first)
        return not _same({name: first[name]}, {name: keys[name]})

    return [name for name in names if any(differs(name, keys) for keys in configurations)]


def _shown(keys: dict[str, Any], key: str) -> str:
    return typed(keys[key].value) if key in keys else "–"
