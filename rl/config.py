"""Configuration: every key with its type, its meaning and its resume policy; reading, flattening and comparing it.

Nothing here imports torch: a mistyped option is refused in a fraction of a second.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Any, NewType

from rl.counts import FORMS as COUNT_FORMS
from rl.counts import format_count, parse_count
from rl.schedule import Schedule

# What a resumed run may do to a key (design: "The config of a resumed run").
FREE = "free"  # cannot change what is learned
NUMERICS = "numerics"  # may change the last bits
HORIZON = "horizon"  # how long to train: not below the clock
SCHEDULE = "schedule"  # a function of the clock: its past must stay
FROZEN = "frozen"  # defines the run

Count = NewType("Count", int)  # written 20M, 500k, ...


class Target(dict[str, Any]):
    """A part chosen in YAML: `_target_` names its class, the other keys are the class's keyword arguments."""


@dataclass(frozen=True)
class Key:
    """What a key means, what a resume may do to it, and which values are possible."""

    help: str
    policy: str = FROZEN
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] | None = None
    above: float | None = None


class ConfigError(ValueError):
    """A value or a name that cannot be; says what was given and what is allowed."""


# ---------------------------------------------------------------------------------------------------- the schema


@dataclass
class EnvConfig:
    """Config group `env`."""

    id: Annotated[str, Key("Gymnasium id, or my_package:MyEnv-v0")]
    kwargs: Annotated[dict[str, Any], Key("keyword arguments for gymnasium.make")]
    wrappers: Annotated[list[Target], Key("gymnasium wrappers, innermost first, each a _target_ with its arguments")]
    frames: Annotated[Count, Key("the default of `frames`", FREE, low=1)]
    num_envs: Annotated[int, Key("environments stepped together", low=1, high=100_000)]
    vectorization: Annotated[
        str, Key("sync: in this process; async: one process each, for slow environments", NUMERICS, choices=("sync", "async"))
    ]
    solved: Annotated[float | None, Key("the return that its authors call solved", FREE)]
    tape_max: Annotated[Count, Key("warn of an episode longer than this many steps: resuming replays it", FREE, low=1)]


@dataclass
class EvalConfig:
    """Root key `eval`."""

    every: Annotated[Count | None, Key("frames between evaluations; null: never", FREE, low=1)]
    episodes: Annotated[int, Key("episodes of one evaluation", FREE, low=1, high=1_000_000)]


@dataclass
class CkptConfig:
    """Root key `ckpt`."""

    every: Annotated[Count | None, Key("frames between checkpoints; null: by minutes alone", FREE, low=1)]
    minutes: Annotated[float | None, Key("a checkpoint also after this many minutes; null: by frames alone", FREE, above=0)]
    keep: Annotated[int, Key("checkpoints that stay on disk, besides the best", FREE, low=1, high=1_000_000)]
    best_by: Annotated[
        str,
        Key("the eval.csv column whose highest value is the best", choices=("total_reward_ma", "total_reward", "total_reward_min")),
    ]


@dataclass
class RunConfig:
    """The whole configuration of a run."""

    algo: Any
    env: EnvConfig
    frames: Annotated[Count, Key("train until the clock shows this many frames, over all envs", HORIZON, low=1)]
    seed: Annotated[int, Key("everything random derives from it", low=0, high=2**63 - 1)]
    device: Annotated[str, Key("where networks live", NUMERICS, choices=("cpu", "cuda"))]
    threads: Annotated[int, Key("CPU threads for torch", NUMERICS, low=1, high=1024)]
    compile: Annotated[bool, Key("compile the update with torch.compile; pays on long runs", NUMERICS)]
    deterministic: Annotated[bool, Key("only deterministic kernels: exact resume on GPU too", NUMERICS)]
    log_every: Annotated[Count, Key("frames between rows of metrics.csv", FREE, low=1)]
    eval: EvalConfig
    ckpt: CkptConfig
    stop_at: Annotated[float | None, Key("end early once the mean return of the last 100 training episodes reaches this", FREE)]
    progress: Annotated[bool, Key("a progress line on a terminal", FREE)]
    callbacks: Annotated[list[Target], Key("called with the run at every iteration boundary; each a _target_ with its arguments")]
    outputs: Annotated[str, Key("root of the run folders", FREE)]
    resume: Annotated[str | None, Key("latest, or a run's folder: go on with that run", FREE)]
    fork: Annotated[
        str | None,
        Key("latest or a run's folder, and @best, @last or @<frames>: a new run that starts from its weights and configuration", FREE),
    ]
    base: Annotated[str | None, Key("run: resume from the run's own config.yaml, not from today's conf/", FREE, choices=(None, "run"))]


@dataclass
class ReinforceConfig:
    """`algo=reinforce`: the keyword arguments of rl.algos.reinforce.Reinforce."""

    _target_: Annotated[str, Key("the algorithm's class")]
    gamma: Annotated[float, Key("discount of later rewards", low=0, high=1)]
    rollout_length: Annotated[int, Key("steps of every env between updates", low=1, high=10_000_000)]
    lr: Annotated[Schedule, Key("learning rate", SCHEDULE, low=0)]
    entropy_coef: Annotated[Schedule, Key("weight of the entropy bonus", SCHEDULE, low=0)]
    center_returns: Annotated[bool, Key("subtract the mean of the rollout's returns (of its advantages, with a baseline)")]
    standardize_returns: Annotated[bool, Key("divide by their standard deviation")]
    max_grad_norm: Annotated[float | None, Key("clip the gradient's norm to this; null: no clipping", above=0)]
    baseline: Annotated[bool, Key("learn V(s) and subtract it from the returns")]
    value_coef: Annotated[float, Key("weight of the baseline's squared error", low=0)]
    network: Annotated[Target, Key("policy network (and the baseline's): _target_ and its arguments")]
    optimizer: Annotated[Target, Key("torch optimizer: _target_ and its arguments, but for lr")]


@dataclass
class A2CConfig:
    """`algo=a2c`: the keyword arguments of rl.algos.a2c.A2C."""

    _target_: Annotated[str, Key("the algorithm's class")]
    gamma: Annotated[float, Key("discount of later rewards", low=0, high=1)]
    gae_lambda: Annotated[float, Key("generalised advantage estimation; 1: n-step returns to the rollout's end", low=0, high=1)]
    rollout_length: Annotated[int, Key("steps of every env between updates", low=1, high=10_000_000)]
    lr: Annotated[Schedule, Key("learning rate", SCHEDULE, low=0)]
    value_lr: Annotated[Schedule | None, Key("the value network's own learning rate; null: as lr", SCHEDULE, low=0)]
    entropy_coef: Annotated[Schedule, Key("weight of the entropy bonus", SCHEDULE, low=0)]
    value_coef: Annotated[float, Key("weight of the value function's squared error", low=0)]
    max_grad_norm: Annotated[float | None, Key("clip the gradient's norm to this; null: no clipping", above=0)]
    normalize_advantage: Annotated[bool, Key("advantages of a rollout to mean 0 and standard deviation 1")]
    normalize_obs: Annotated[bool, Key("observations by their running mean and standard deviation")]
    normalize_reward: Annotated[bool, Key("rewards by the running standard deviation of discounted returns")]
    shared_network: Annotated[bool, Key("one network for policy and value; false: one each")]
    network: Annotated[Target, Key("policy and value networks: _target_ and its arguments")]
    optimizer: Annotated[Target, Key("optimizer: _target_ and its arguments, but for lr")]


@dataclass
class PPOConfig:
    """`algo=ppo`: the keyword arguments of rl.algos.ppo.PPO."""

    _target_: Annotated[str, Key("the algorithm's class")]
    gamma: Annotated[float, Key("discount of later rewards", low=0, high=1)]
    gae_lambda: Annotated[float, Key("generalised advantage estimation; 1: returns to the rollout's end", low=0, high=1)]
    rollout_length: Annotated[int, Key("steps of every env between updates", low=1, high=10_000_000)]
    minibatch_size: Annotated[int, Key("steps in one gradient step; divides rollout_length * num_envs", low=1, high=1_000_000_000)]
    epochs: Annotated[int, Key("passes over each rollout", low=1, high=10_000)]
    lr: Annotated[Schedule, Key("learning rate", SCHEDULE, low=0)]
    value_lr: Annotated[Schedule | None, Key("the value network's own learning rate; null: as lr", SCHEDULE, low=0)]
    clip_range: Annotated[Schedule, Key("how far an action's probability ratio may leave 1 and still pay", SCHEDULE, low=0)]
    value_clip_range: Annotated[Schedule | None, Key("the same for values, in their units; null: not clipped", SCHEDULE, low=0)]
    target_kl: Annotated[float | None, Key("no further epoch after one whose mean approx_kl is above this; null: all epochs", above=0)]
    entropy_coef: Annotated[Schedule, Key("weight of the entropy bonus", SCHEDULE, low=0)]
    value_coef: Annotated[float, Key("weight of the value function's squared error", low=0)]
    max_grad_norm: Annotated[float | None, Key("clip the gradient's norm to this; null: no clipping", above=0)]
    normalize_advantage: Annotated[bool, Key("advantages of a minibatch to mean 0 and standard deviation 1")]
    normalize_obs: Annotated[bool, Key("observations by their running mean and standard deviation")]
    normalize_reward: Annotated[bool, Key("rewards by the running standard deviation of discounted returns")]
    shared_network: Annotated[bool, Key("one network for policy and value; false: one each")]
    network: Annotated[Target, Key("policy and value networks: _target_ and its arguments")]
    optimizer: Annotated[Target, Key("optimizer: _target_ and its arguments, but for lr")]


@dataclass
class RandomConfig:
    """`algo=random`: the keyword arguments of rl.algos.random.Random."""

    _target_: Annotated[str, Key("the algorithm's class")]
    rollout_length: Annotated[int, Key("steps of every env in an iteration", low=1, high=10_000_000)]


@dataclass
class MlpConfig:
    """The keyword arguments of rl.networks.MLP."""

    _target_: Annotated[str, Key("the network's class")]
    hidden: Annotated[list[int], Key("units of the hidden layers", low=1, high=1_000_000)]
    activation: Annotated[str, Key("between the layers", choices=("tanh", "relu"))]
    init: Annotated[str, Key("weights at the start", choices=("orthogonal", "default"))]


@dataclass
class AdamConfig:
    """The keyword arguments of rl.optimizers.Adam."""

    _target_: Annotated[str, Key("the optimizer's class")]
    betas: Annotated[list[float], Key("decay of the gradient's mean and of its square's", low=0, high=1)] = dataclasses.field(
        default_factory=lambda: [0.9, 0.999]
    )
    eps: Annotated[float, Key("added to the denominator", above=0)] = 1e-8
    weight_decay: Annotated[float, Key("decoupled from the gradient: AdamW", low=0)] = 0.0


@dataclass
class RMSpropConfig:
    """The keyword arguments of rl.optimizers.RMSprop."""

    _target_: Annotated[str, Key("the optimizer's class")]
    alpha: Annotated[float, Key("decay of the mean square of the gradient", low=0, high=1)] = 0.99
    eps: Annotated[float, Key("added to the denominator", above=0)] = 1e-8


@dataclass
class EnjoyConfig:
    """The configuration of enjoy.py."""

    run: Annotated[str, Key("latest, or a run's folder")]
    ckpt: Annotated[str, Key("best, last, or the frames of a kept checkpoint (120k)")]
    episodes: Annotated[int, Key("episodes to play", low=1, high=1_000_000)]
    seed: Annotated[int, Key("seed of the first episode", low=0, high=2**63 - 1)]
    deterministic: Annotated[bool, Key("the policy's most likely action; false: sampled")]
    render: Annotated[
        str | None,
        Key(
            "human: a window; video: an MP4 in the run's video/; none: only scores; null: a window where there is a display, else video",
            choices=(None, "human", "video", "none"),
        ),
    ]
    device: Annotated[str, Key("where networks live", choices=("cpu", "cuda"))]
    outputs: Annotated[str, Key("root of the run folders")]


# Classes whose arguments are known. Of any other class all keys are taken as they are, and are frozen.
TARGETS: dict[str, type] = {
    "rl.algos.reinforce.Reinforce": ReinforceConfig,
    "rl.algos.a2c.A2C": A2CConfig,
    "rl.algos.ppo.PPO": PPOConfig,
    "rl.algos.random.Random": RandomConfig,
    "rl.networks.MLP": MlpConfig,
    "rl.optimizers.Adam": AdamConfig,
    "rl.optimizers.RMSprop": RMSpropConfig,
}

# ---------------------------------------------------------------------------------------------- reading the values


def fill_in(values: dict[str, Any], defaults: dict[str, Any], schema: Any = RunConfig) -> dict[str, Any]:
    """`values`, and from `defaults` what a schema names and they lack: the configuration of a run made before a key was."""
    schema = TARGETS.get(values.get("_target_", ""), schema)
    filled = dict(values)
    for name, (kind, key) in (fields(schema) if isinstance(schema, type) and dataclasses.is_dataclass(schema) else {}).items():
        if name not in values and name in defaults:
            filled[name] = defaults[name]
        elif isinstance(values.get(name), dict) and isinstance(defaults.get(name), dict) and (key is None or kind is Target):
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


def fields(schema: type) -> dict[str, tuple[Any, Key | None]]:
    """Name -> (type, its Key, or None for a nested section) of a schema's keys."""
    result: dict[str, tuple[Any, Key | None]] = {}
    for name, hint in typing.get_type_hints(schema, include_extras=True).items():
        if typing.get_origin(hint) is Annotated:
            result[name] = (hint.__origin__, hint.__metadata__[0])
        else:
            result[name] = (hint, None)
    return result


def _read(kind: Any, key: Key | None, value: Any, path: str, errors: list[str]) -> Any:
    """`value` as the type `kind`; what is wrong with it is added to `errors`."""
    if path == "algo" or kind is Target:
        return _read_target(value, path, errors)
    if dataclasses.is_dataclass(kind):
        return _read_section(typing.cast(type, kind), value, path, errors)
    options = _options(kind)
    if value is None and types.NoneType in options:
        return None
    kind = options[0]
    if typing.get_origin(kind) is list and isinstance(value, list):
        item = typing.get_args(kind)[0]
        return [_read(item, key, part, f"{path}[{index}]", errors) for index, part in enumerate(value)]
    try:
        parsed = _convert(kind, value)
        if key is not None and not _possible(key, parsed):
            raise ValueError
        return parsed
    except ValueError as error:
        reason = str(error) if kind is Schedule and str(error) else f"expected {_allowed(kind, key)}"
        near = difflib.get_close_matches(str(value), [str(c) for c in key.choices or ()], 1) if key else []
        errors.append(f"{path}={_typed(value)}: {reason}" + (f"; did you mean {path}={near[0]}?" if near else ""))
        return None


def _read_section(schema: type, value: Any, path: str, errors: list[str]) -> Any:
    if not isinstance(value, dict):
        errors.append(f"{path}={_typed(value)}: expected the keys {', '.join(fields(schema))}")
        return None
    known = fields(schema)
    prefix = f"{path}." if path else ""
    for name in value:
        if name not in known:
            errors.append(f"{prefix}{name}: no such key{did_you_mean(f'{prefix}{name}', [f'{prefix}{k}' for k in known])}")
    read = {}
    optional = {
        f.name for f in dataclasses.fields(schema) if f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
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
        errors.append(f"{path}={_typed(value)}: expected a _target_ and its arguments")
        return None
    schema = TARGETS.get(value["_target_"])
    if schema is None and value["_target_"].startswith("rl."):
        errors.append(f"{path}._target_={value['_target_']}: no such part{did_you_mean(value['_target_'], list(TARGETS))}")
    return Target(value) if schema is None else _read_section(schema, value, path, errors)


def _options(kind: Any) -> tuple[Any, ...]:
    """The alternatives of `X | None`; a plain type is its only one."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if union else (kind,)


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
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", Count: COUNT_FORMS}
    words = names.get(kind, "a list in brackets, of numbers or words" if typing.get_origin(kind) is list else "keys and values")
    if key is not None and typing.get_origin(kind) is not list:
        bounds = [
            f"{phrase} {bound:g}" if abs(bound) < 1e15 else ""
            for phrase, bound in (("from", key.low), ("above", key.above), ("to" if key.low is not None else "at most", key.high))
            if bound is not None
        ]
        words = " ".join([words, *filter(None, bounds)])
    return words


def _typed(value: Any) -> str:
    """A value as one types it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_typed, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{_typed(part)}" for name, part in value.items()) + "}"
    return str(value)


def did_you_mean(name: str, known: list[str]) -> str:
    """The nearest known name as the end of a message, or all of them."""
    near = difflib.get_close_matches(name, known, 1, 0.6) or [k for k in known if k.rsplit(".", 1)[-1] == name]
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(known))}"


# ------------------------------------------------------------------------------------------------- comparing two


@dataclass(frozen=True)
class Leaf:
    """One key of a configuration: its plain value, its comparable meaning and its policy."""

    value: Any
    meaning: Any
    policy: str
    classified: bool  # whether a schema names it, or the open section that it is in
    open: bool  # whether it is in an open section, whose names no schema knows


def leaves(values: dict[str, Any], schema: type | None = RunConfig, path: str = "", section: Key | None = None) -> dict[str, Leaf]:
    """Every leaf of a configuration by its dotted name. What is in an open section has that section's policy; what
    nobody classified is frozen."""
    known = fields(schema) if schema else {}
    result: dict[str, Leaf] = {}
    for name, value in values.items():
        kind, key = known.get(name, (None, section))
        full = f"{path}{name}"
        if isinstance(value, dict) and Schedule not in _options(kind):  # an empty one has no leaves
            inner = TARGETS.get(value.get("_target_", "")) if "_target_" in value else kind
            result |= leaves(value, inner if dataclasses.is_dataclass(inner) else None, f"{full}.", key)  # type: ignore[arg-type]
        else:
            result[full] = Leaf(
                value, _meaning(kind, value), key.policy if key else FROZEN, key is not None, name not in known and key is not None
            )
    return result


def _meaning(kind: Any, value: Any) -> Any:
    """What a value stands for: 20M is 20000000, a schedule is its function."""
    if value is None:
        return None
    if Count in _options(kind):
        return parse_count(value)
    if Schedule in _options(kind):
        return Schedule(value)
    return value


@dataclass(frozen=True)
class Change:
    """A key that differs between a run and what is asked of it now; `refused` says why it cannot be, if it cannot."""

    key: str
    was: Any
    now: Any
    policy: str
    note: str
    refused: bool

    @property
    def keep(self) -> str:
        """The override that keeps the run's value."""
        return f"{self.key}={_typed(self.was)}"


MISSING = "(absent)"


def compare(
    old: dict[str, Any],
    new: dict[str, Any],
    frames: int,
    typed: Collection[str] = (),
    defaults: Callable[[], dict[str, Any]] = dict,
) -> list[Change]:
    """The keys in which a run's configuration and today's differ, at a clock of `frames`, each judged by its policy.

    A key of a schema that only one side knows counts as having always been at its default. New today, it must be at the
    default that `defaults()` holds; gone today, nobody must have typed it (`typed`: the keys that the whole command line
    names). In an open section, such as env.kwargs, there are no defaults.
    """
    before, after = leaves(old), leaves(new)
    changes = []
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key), after.get(key)
        if key in COMMANDS or (was and now and _same(was.meaning, now.meaning, frames=None)):
            continue
        if was is None and now is not None:
            default = leaves(defaults()).get(key)
            at_default = not now.open and default is not None and _same(default.meaning, now.meaning, frames=None)
        else:
            at_default = was is not None and not was.open and not any(key == name or key.startswith(f"{name}.") for name in typed)
        changes.append(_judge(key, was, now, frames, at_default))
    return changes


COMMANDS = ("resume", "base", "fork")  # what to do, not how to train


def _same(one: Any, other: Any, frames: int | None) -> bool:
    if isinstance(one, Schedule) and isinstance(other, Schedule):
        far = max(one.frames[-1], other.frames[-1]) if frames is None else frames
        return one.first_difference(other, far) is None
    return type(one) is type(other) and one == other or _number(one) is not None and _number(one) == _number(other)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


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
        refused, note = False, "results may differ in the last bits from here on"
    elif policy == HORIZON:
        refused = now.meaning < frames
        note = f"the run has already seen {format_count(frames)} frames" if refused else "trains to another end"
    elif policy == SCHEDULE and isinstance(was.meaning, Schedule) and isinstance(now.meaning, Schedule):
        where = was.meaning.first_difference(now.meaning, frames)
        refused = where is not None
        if where is None:
            note = f"the same up to frame {format_count(frames)}"
        else:
            note = f"the past would differ: at frame {format_count(where)} it was {was.meaning(where):g}, now {now.meaning(where):g}"
    return Change(key, was.value if was else MISSING, now.value if now else MISSING, policy, note, refused)
