"""`--help`: the choices of every config group and the meaning of every key, each with a line."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from hydra.core.override_parser.types import Override

from rl.config import (
    FREE,
    FROZEN,
    HORIZON,
    NUMERICS,
    ONE_WAY,
    SCHEDULE,
    TARGETS,
    ConfigError,
    EnjoyConfig,
    ExportConfig,
    Key,
    ReportConfig,
    RunConfig,
    SearchConfig,
    fields,
    install_line,
    typed,
)
from rl.config.compose import Composed, compose, options
from rl.config.invocation import as_typed
from rl.config.overrides import GROUPS, Overrides
from rl.config.schema import schema_of
from rl.config.text import aligned

_INTRODUCTION = {
    "train.py": """Train an agent, or go on with a run.

  python train.py                                  REINFORCE on CartPole-v1, the defaults
  python train.py algo=ppo env=pendulum frames=1M seed=3
  python train.py experiment=ppo_lunar_lander      a tuned pair of algorithm and environment
  python train.py resume=latest                    the run that was active last
  python train.py resume=<run folder> frames=20M   train it on
  python train.py -m algo=ppo,a2c seed=1,2,3       a sweep; with launcher=processes side by side
  python train.py -m resume=latest                 finish the sweep that was active last

  python train.py --help algo=ppo env=pong         the keys of these, with their values

TAB completion: eval "$(python train.py -sc install=bash)"     Hydra's own flags: --hydra-help""",
    "enjoy.py": """Watch a trained agent.

  python enjoy.py                                  the best weights of the run that was active last
  python enjoy.py run=<run folder> ckpt=last episodes=10 render=video""",
    "rl.search": """Search for good values of a run's keys, or go on with a search.
Needs: pip install -c constraints.txt -e ".[search]"

  python -m rl.search experiment=ppo_cartpole frames=50k n_trials=30
  python -m rl.search algo=dqn '~space.algo.gamma' 'space.algo.batch_size={choices: [32, 64]}'
  python -m rl.search resume=latest                finish it, with the same space
  python -m rl.search resume=latest n_trials=60 save_as=ppo_cartpole_found

All other overrides are train.py's: they are every trial's command line.""",
    "rl.report": """Write a page about runs, with their curves as PNG files.
Needs: pip install -c constraints.txt -e ".[report]"

  python -m rl.report latest                       the run or the sweep that was active last
  python -m rl.report latest watch=true            the same as a page that is renewed while it trains
  python -m rl.report outputs/sweeps/<time>        all runs of a sweep, seeds of a configuration as one result
  python -m rl.report outputs/a outputs/b center=mean out=report""",
    "rl.export": """Write a run's policy as one file that needs no Encore to be played.
Needs for format=onnx: pip install -c constraints.txt -e ".[onnx]"

  python -m rl.export                              the best weights of the run that was active last
  python -m rl.export run=<run folder> ckpt=last format=torch out=policy.pt2""",
}


POLICIES = {
    FREE: "may change: it does not touch what is learned",
    NUMERICS: "may change: results may differ by rounding from there on, and the log says so",
    HORIZON: "may change, but not to fewer frames than the run has seen",
    SCHEDULE: "may change in the future: on the frames that the run has seen, old and new must be equal",
    ONE_WAY: "may change from an earlier of its choices to a later one, not back",
    FROZEN: "may not change: it would be another run; `fork=` starts that one from the weights of this one",
}


# what one looks for -> the keys, a section's with a dot at the end
_SECTIONS = {
    "the run": ("frames", "stop_at", "seed", "tags", "outputs"),
    "go on with a run, or start from one": ("resume", "base", "fork", "mirror_takeover"),
    "scores, checkpoints and logs": ("eval.", "ckpt.", "mirror", "log_every", "progress", "logger"),
    "the machine": (
        "device",
        "threads",
        "processes",
        "processes_limit_s",
        "compile",
        "deterministic",
        "matmul_precision",
    ),
    "the environment": ("env.",),
    "the algorithm": ("algo.",),
    "sweeps": ("launcher",),
}


def show_help(script: str, overrides: Iterable[str | Override] = (), config_dir: str | None = None) -> str:
    """The text of `--help`: with overrides, what belongs to them. ConfigError if they cannot be."""
    install = re.compile(r'pip install -c constraints\.txt -e "\.\[(\w+)\]"')
    lines = [as_typed(install.sub(lambda extra: install_line(extra[1]), _INTRODUCTION[script]))]
    if script != "train.py":
        schema, name = {
            "enjoy.py": (EnjoyConfig, "enjoy"),
            "rl.search": (SearchConfig, "search"),
            "rl.report": (ReportConfig, "report"),
            "rl.export": (ExportConfig, "export"),
        }[script]
        values = compose(overrides, schema, name, config_dir=config_dir).values
        rows = {
            key: (_short(value), meaning.help)
            for key, value, meaning in _described(values, schema)
            if meaning is not None
        }
        return "\n".join([*lines, "", "keys, with their defaults (counts: 20M, 500k, 1e6):", *_table(rows)])
    for group in GROUPS:
        choices = options(group, config_dir)
        if choices:
            lines += ["", f"{group}=", *(f"  {line}" for line in aligned(list(choices.items())))]
    composed = _compose(Overrides(overrides), config_dir)
    lines += ["", "What a resumed run may do to a key:"]
    lines += [f"  {line}" for line in aligned([(f"[{name}]", said) for name, said in POLICIES.items()])]
    lines += ["", "Keys, with their values here (counts: 20M, 500k, 1e6):"]
    rows = {
        key: (_short(value), f"{meaning.help} [{meaning.policy}]" if meaning else "[frozen]")
        for key, value, meaning in _described(composed.values, RunConfig)
    }
    for title, names in _SECTIONS.items():
        found = {key: rows.pop(key) for key in list(rows) if _within(key, names)}
        choice = {"the environment": "env", "the algorithm": "algo"}.get(title)
        chosen = f": {choice}={composed.choices[choice]}; --help {choice}=... shows others" if choice else ""
        lines += ["", f"{title}{chosen}", *_table(found)]
    return "\n".join([*lines, "", "more", *_table(rows)])


def _compose(overrides: Overrides, config_dir: str | None) -> Composed:
    """The configuration to explain; a value that has to be typed is shown as `...`."""
    try:
        return compose(overrides, RunConfig, config_dir=config_dir)
    except ConfigError as error:
        missing = re.match(r"(\S+): missing; type", str(error))
        if missing is None:
            raise
        return compose([*overrides, f"{missing[1]}='...'"], RunConfig, config_dir=config_dir)


def _within(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name.removesuffix('.')}.") for name in names)


def _described(values: dict[str, Any], schema: Any, path: str = "") -> Iterator[tuple[str, Any, Key | None]]:
    """Every key with its value and what it means; None for one of a class that has no schema."""
    schema = schema_of(values.get("_target_", "")) or schema
    known = fields(schema) if dataclasses.is_dataclass(schema) and isinstance(schema, type) else {}
    for name, value in values.items():
        kind, key = known.get(name, (None, None))
        part = isinstance(value, dict) and ("_target_" in value or dataclasses.is_dataclass(kind))
        parts = isinstance(value, dict) and value and all(isinstance(v, dict) for v in value.values())
        if part or parts and name == "logger":
            if key is not None:
                yield path + name, value.get("_target_", list(value)), key
            yield from _described(value, kind, f"{path}{name}.")
        elif name != "_target_" or not path:
            yield path + name, value, key


def _short(value: Any) -> str:
    text = typed(value)
    return text if len(text) <= 32 else f"{text[:31]}…"


def _table(rows: dict[str, tuple[str, str]]) -> list[str]:
    return [f"  {line}" for line in aligned([(name, *cells) for name, cells in rows.items()])] if rows else []


def _leaves(schema: type, path: str = "") -> dict[str, Key]:
    result = {}
    for name, (kind, key) in fields(schema).items():
        if key is not None:
            result[path + name] = key
        elif dataclasses.is_dataclass(kind):
            result |= _leaves(typing.cast(type, kind), f"{path}{name}.")
    return result


def what_may_change() -> str:
    """docs/what-may-change.md: every key by what a resume may do to it."""
    sections = {"": RunConfig, **{f"{target}: ": part for target, part in TARGETS.items()}}
    lines = ["# What a resumed run may change", ""]
    lines += [
        "Made by `python -m rl.config.help` from the policies in `rl/config/schema.py`."
        " Keys that are not listed are frozen.",
        "",
    ]
    for policy, meaning in POLICIES.items():
        lines += [f"## {policy}", "", f"A key like this {meaning}.", ""]
        lines += ["| key | what it is |", "| --- | --- |"]
        for prefix, schema in sections.items():
            for name, key in _leaves(schema).items():
                if key.policy == policy:
                    lines.append(f"| {prefix}`{name}` | {key.help} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(what_may_change(), end="")
