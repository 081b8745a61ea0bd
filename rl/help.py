"""`--help`: the choices of every config group and the meaning of every key, each with a line."""

from __future__ import annotations

from rl.compose import GROUPS, options
from rl.config import TARGETS, EnjoyConfig, RunConfig, fields

_INTRODUCTION = {
    "train.py": """Train an agent, or go on with a run.

  python train.py                                  REINFORCE on CartPole-v1, the defaults
  python train.py algo=reinforce env=pendulum frames=1M seed=3
  python train.py resume=latest                    the run that was active last
  python train.py resume=<run folder> frames=20M   train it on

TAB completion: eval "$(python train.py -sc install=bash)"     Hydra's own flags: --hydra-help""",
    "enjoy.py": """Watch a trained agent.

  python enjoy.py                                  the best weights of the run that was active last
  python enjoy.py run=<run folder> ckpt=last episodes=10 render=video""",
}


def show_help(script: str, config_dir: str | None = None) -> str:
    """The text of `--help`."""
    lines = [_INTRODUCTION[script]]
    if script == "train.py":
        for group in GROUPS:
            choices = options(group, config_dir)
            if choices:
                lines += ["", f"{group}=", *_table(choices)]
    schema = RunConfig if script == "train.py" else EnjoyConfig
    lines += ["", "keys (counts may be written 20M, 500k, 1e6):", *_table(_keys(schema))]
    if script == "train.py":
        for target, part in TARGETS.items():
            lines += ["", f"keys of {target}:", *_table(_keys(part))]
    return "\n".join(lines)


def _keys(schema: type, path: str = "") -> dict[str, str]:
    """Dotted name -> what it means and what a resume may do to it."""
    result = {}
    for name, (kind, key) in fields(schema).items():
        if key is not None:
            result[path + name] = key.help if schema is EnjoyConfig else f"{key.help} [{key.policy}]"
        elif hasattr(kind, "__dataclass_fields__"):
            result |= _keys(kind, f"{path}{name}.")
    return result


def _table(rows: dict[str, str]) -> list[str]:
    width = max(map(len, rows))
    return [f"  {name.ljust(width)}  {text}" for name, text in rows.items()]
