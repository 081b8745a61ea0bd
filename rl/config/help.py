"""`--help`: the choices of every config group and the meaning of every key, each with a line."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterable

from hydra.core.override_parser.types import Override

from rl.config import (
    FREE,
    FROZEN,
    HORIZON,
    NUMERICS,
    ONE_WAY,
    SCHEDULE,
    TARGETS,
    EnjoyConfig,
    ExportConfig,
    Key,
    ReportConfig,
    RunConfig,
    SearchConfig,
    fields,
    install_line,
)
from rl.config.compose import options
from rl.config.invocation import as_typed
from rl.config.overrides import GROUPS
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

  python -m rl.report latest                       the run that was active last
  python -m rl.report outputs/sweeps/<time>        all runs of a sweep, seeds of a configuration as one result
  python -m rl.report outputs/a outputs/b center=mean out=report""",
    "rl.export": """Write a run's policy as one file that needs no Encore to be played.
Needs for format=onnx: pip install -c constraints.txt -e ".[onnx]"

  python -m rl.export                              the best weights of the run that was active last
  python -m rl.export run=<run folder> ckpt=last format=torch out=policy.pt2""",
}


def show_help(script: str, overrides: Iterable[str | Override] = (), config_dir: str | None = None) -> str:
    """The text of `--help`."""
    install = re.compile(r'pip install -c constraints\.txt -e "\.\[(\w+)\]"')
    lines = [as_typed(install.sub(lambda extra: install_line(extra[1]), _INTRODUCTION[script]))]
    if script == "train.py":
        for group in GROUPS:
            choices = options(group, config_dir)
            if choices:
                lines += ["", f"{group}=", *_table(choices)]
    schema = {
        "train.py": RunConfig,
        "enjoy.py": EnjoyConfig,
        "rl.search": SearchConfig,
        "rl.report": ReportConfig,
        "rl.export": ExportConfig,
    }[script]
    lines += ["", "keys (counts may be written 20M, 500k, 1e6):", *_table(_keys(schema))]
    if script == "train.py":
        for target, part in TARGETS.items():
            lines += ["", f"keys of {target}:", *_table(_keys(part))]
    return "\n".join(lines)


def _keys(schema: type) -> dict[str, str]:
    """Dotted name -> what it means, and what a resume may do to it."""
    of_a_run = schema is RunConfig or schema in TARGETS.values()
    return {
        name: f"{key.help} [{key.policy}]" if of_a_run else key.help for name, key in _leaves(schema).items()
    }


def _leaves(schema: type, path: str = "") -> dict[str, Key]:
    result = {}
    for name, (kind, key) in fields(schema).items():
        if key is not None:
            result[path + name] = key
        elif dataclasses.is_dataclass(kind):
            result |= _leaves(typing.cast(type, kind), f"{path}{name}.")
    return result


def _table(rows: dict[str, str]) -> list[str]:
    return [f"  {line}" for line in aligned(list(rows.items()))]


_POLICIES = {
    FREE: "may change: it does not touch what is learned",
    NUMERICS: "may change: results may differ in the last bits from there on, and the log says so",
    HORIZON: "may change, but not to fewer frames than the run has seen",
    SCHEDULE: "may change in the future: on the frames that the run has seen, old and new must be equal",
    ONE_WAY: "may change from an earlier of its choices to a later one, not back",
    FROZEN: "may not change: it would be another run; `fork=` starts that one from the weights of this one",
}


def what_may_change() -> str:
    """docs/what-may-change.md: every key by what a resume may do to it."""
    sections = {"": RunConfig, **{f"{target}: ": part for target, part in TARGETS.items()}}
    lines = ["# What a resumed run may change", ""]
    lines += [
        "Made by `python -m rl.config.help` from the policies in `rl/config/schema.py`."
        " Keys that are not listed are frozen.",
        "",
    ]
    for policy, meaning in _POLICIES.items():
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
