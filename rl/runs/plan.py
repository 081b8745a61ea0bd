"""Which run a command line means, and whether it may go on like that: all of it before anything on disk
changes.

The command line of a resumed run is the run's own plus the new one. It is composed on today's conf/ and
compared, key by key, with the configuration that the run has; `rl.config.compare` judges the differences.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rl.config import FROZEN, MISSING, Change, ConfigError, RunConfig, compare, fill_in, read_config
from rl.config.compose import (
    GROUPS,
    Composed,
    check_single,
    compose,
    drop,
    from_yaml,
    hydra_only,
    merge,
    parse,
    quote,
    value_of,
)
from rl.config.counts import format_count
from rl.config.schedule import Schedule
from rl.config.text import aligned
from rl.runs import history
from rl.runs.find import REFILL, find_run, is_run, new_folder, read_result
from rl.runs.history import CONFIG
from rl.runs.lock import RunLock
from rl.runs.manifest import DamagedError, Manifest, changed_tables, newest_manifest, was_committed
from rl.runs.outcome import Finished, Refused
from rl.runs.weights import Weights, fork_weights


@dataclass
class Plan:
    """What a command line comes to."""

    folder: Path
    composed: Composed
    overrides: list[str]  # the whole command line: the run's own and the new one
    manifest: Manifest | None = None  # where to go on; None: at frame 0
    changes: list[Change] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    weights: Weights | None = None  # of another run, to start from
    lock: RunLock | None = None
    unnamed: bool = False  # a new run whose folder nobody named: it gets one of its own

    @property
    def config(self) -> RunConfig:
        """The typed configuration."""
        config: RunConfig = self.composed.config
        return config

    @property
    def typed_pair(self) -> bool:
        """Whether the algorithm or the environment was chosen, and no experiment that tunes the two together."""
        typed = {override.key_or_group for override in parse(self.overrides)}
        return bool(typed & {"algo", "env"}) and "experiment" not in typed

    def write_history(
        self, *, frames: int, command: str, not_exact: list[str], not_reproducible: str = ""
    ) -> None:
        """Add this session to the run's history, and make its configuration the run's."""
        session = {
            "event": "resume" if self.manifest else "start",
            "frames": frames,
            "command": command,
            "overrides": self.overrides,
            "choices": self.composed.choices | {"seed": self.config.seed},
            "fork": self.weights and {"run": str(self.weights.run), "weights": self.weights.name},
            "changes": [
                {"key": c.key, "was": c.was, "now": c.now, "policy": c.policy, "note": c.note}
                for c in self.changes
            ],
            "world": history.world(self.config),
            "exactness": history.exactness(frames, not_exact, not_reproducible),
        }
        history.write(self.folder, session, self.composed.values)

    def take_folder(self) -> None:
        """Make the folder of a new run, or take an existing one; nobody else works on it from here on."""
        if self.unnamed:
            self.folder = new_folder(self.folder)
        if self.lock is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = RunLock(self.folder)
            if was_committed(self.folder):  # by a run that began and ended since we looked
                raise Refused(
                    f"{self.folder}: another process has just trained here; type resume={self.folder} to go on with its run"
                )
        self.lock.announce()


def make_plan(overrides: Sequence[str], config_dir: str | None = None) -> Plan:
    """What this command line comes to, for a single run. Refused, Finished, ConfigError or LockedError if to
    nothing.
    """
    check_single(parse(overrides))
    resumed, given_dir, fork = (value_of(overrides, name) for name in ("resume", "hydra.run.dir", "fork"))
    new = drop(overrides, "resume")
    if resumed is not None and (fork is not None or given_dir is not None):
        raise ConfigError(
            "resume= goes on with a run in its own folder: type it without fork= and hydra.run.dir="
        )
    if resumed is not None:
        folder, warnings = find_run(resumed, new)
        if not (was_committed(folder) or history.read(folder)) and _first_overrides(folder) is None:
            raise Refused(
                f"{folder}: it was killed before its command line was written down; delete it, and type that line again"
            )
        result = _plan_existing(folder, new, config_dir)
        result.warnings[:0] = warnings
        return result
    own = drop(new, "hydra.run.dir")
    if given_dir is not None and "${" not in given_dir and _holds_run(Path(given_dir)):
        return _plan_existing(Path(given_dir), own, config_dir)
    result = _plan_new(new, config_dir)
    result.unnamed = given_dir is None
    return (
        _plan_existing(result.folder, own, config_dir)
        if given_dir is not None and _holds_run(result.folder)
        else result
    )


def _holds_run(folder: Path) -> bool:
    """Whether a run was started in a folder. Refused if it holds other things."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    if not is_run(folder):
        raise Refused(f"hydra.run.dir={folder}: it holds other things than a run; name a new folder")
    return True


def _plan_new(overrides: Sequence[str], config_dir: str | None) -> Plan:
    """A new run; with `fork=` it has the old run's command line and weights."""
    fork, weights, line = value_of(overrides, "fork"), None, list(overrides)
    if fork is not None:
        weights, exact = fork_weights(fork, overrides)
        overrides = merge(overrides, [f"fork={quote(exact)}"])
        past = history.read(weights.run)
        line = merge(drop(past[-1]["overrides"], "fork") if past else [], overrides)
    composed = compose(line, RunConfig, config_dir=config_dir)
    if composed.config.base:
        raise ConfigError("base=run goes with resume=")
    return Plan(Path(composed.run_dir), composed, drop(line, "hydra."), weights=weights)


def _plan_existing(folder: Path, new: list[str], config_dir: str | None) -> Plan:
    lock = RunLock(folder)
    try:
        result = _judge(folder, new, config_dir)
    except BaseException:
        lock.release()
        raise
    result.lock = lock
    return result


def _judge(folder: Path, new: list[str], config_dir: str | None) -> Plan:
    past, committed = history.read(folder), was_committed(folder)
    saved = past[-1]["overrides"] if past else _first_overrides(folder) or []
    choices = past[0]["choices"] if past else {}
    other = [
        _other_group(group, choices[group], value_of(new, group))
        for group in ("algo", "env")
        if group in choices
    ]
    if any(other) and committed:
        raise Refused(_refusal(folder, None, [change for change in other if change], new))
    overrides = drop(merge(saved, new), "hydra.", "base")
    base = value_of(new, "base")
    if base == "run":
        composed = _compose_on_run(folder, new, choices)
    else:
        composed = compose([*overrides, *hydra_only(new)], RunConfig, config_dir=config_dir)
    if not committed:
        warning = f"{folder}: no checkpoint was ever committed here; starting at frame 0"
        fork = composed.config.fork
        return Plan(
            folder,
            composed,
            overrides,
            warnings=[warning],
            weights=fork_weights(fork, overrides)[0] if fork else None,
        )
    restore = getattr(getattr(composed.config.algo, "replay", None), "on_resume", None) != REFILL
    manifest, problems = newest_manifest(folder / "ckpt", tables=folder, replay=restore)
    if manifest is None:
        damage = "\n".join(f"  {problem}" for problem in problems) or f"  {folder / 'ckpt'} holds none"
        without = restore and newest_manifest(folder / "ckpt", tables=folder, replay=False)[0]
        ways = (
            [
                f"to go on with an empty replay memory:\n  python train.py resume={folder} algo.replay.on_resume={REFILL}"
            ]
            if without
            else []
        )
        raise Refused(
            f"{folder}: no checkpoint is whole, and the run is not started from scratch in silence:\n{damage}\n"
            + "\n".join([*ways, "to start a new run, leave resume= away"])
        )
    warnings = [f"DAMAGED CHECKPOINT: {problem}" for problem in problems]
    if problems:
        warnings.append(f"going on from the one before instead, at frame {format_count(manifest.frames)}")
    typed = [override.key_or_group for override in parse(overrides)]
    try:
        changes = compare(
            _read_config(folder), composed.values, manifest.frames, typed, lambda: _defaults(choices)
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # values that no configuration has
        raise DamagedError(f"{folder / CONFIG}: {error}") from error
    refused = [change for change in changes if change.refused]
    if refused:
        raise Refused(_refusal(folder, manifest, refused, new))
    warnings += [
        f"DAMAGED: {path}: its rows are not what was written; they stay"
        for path in changed_tables(manifest, folder)
    ]
    warnings += _refuse_if_finished(folder, composed.config, manifest)
    warnings += history.other_world(past) + _learns_no_more(folder, composed.config, manifest.frames)
    return Plan(folder, composed, overrides, manifest, changes, warnings)


def _other_group(group: str, was: Any, now: str | None) -> Change | None:
    """Another algorithm or environment is refused before it is composed with overrides that are not its own."""
    return (
        None
        if now in (None, was)
        else Change(group, was, now, FROZEN, "it defines the run: with another it would be another run", True)
    )


def _compose_on_run(folder: Path, new: list[str], choices: dict[str, str | None]) -> Composed:
    """The run's own configuration under the new command line, whatever conf/ says today."""
    values = OmegaConf.create(saved_config(folder))
    for override in parse(drop(new, "base")):
        name = override.key_or_group
        if name.startswith("hydra.") or name in ("algo", "env"):  # these were compared already
            continue
        if name in GROUPS:
            raise ConfigError(
                f"{name}={override.value()}: base=run takes the run's own configuration; type single keys with it"
            )
        OmegaConf.update(values, name, override.value(), merge=False)
    plain = OmegaConf.to_container(values, resolve=True)
    assert isinstance(plain, dict)
    typed = {str(name): value for name, value in plain.items()}
    return Composed(typed, choices, read_config(typed, RunConfig), str(folder), "")


def saved_config(folder: Path) -> dict[str, Any]:
    """The configuration that the run has; keys that are newer than the run are at their defaults.
    DamagedError if it cannot be read."""
    values = _read_config(folder)
    past = history.read(folder)
    return fill_in(values, _defaults(past[0]["choices"])) if past else values


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        values = from_yaml(folder / CONFIG)
    except (OSError, AssertionError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise DamagedError(f"{folder / CONFIG}: {' '.join(str(error).split())}") from error
    if not values:
        raise DamagedError(f"{folder / CONFIG}: it is empty")
    return values


def _defaults(choices: dict[str, Any]) -> dict[str, Any]:
    """What conf/ says today of a run's algorithm and environment, without experiments; {} if it knows them no
    more.
    """
    try:
        return compose([f"algo={choices['algo']}", f"env={choices['env']}", "++env.id=x"], RunConfig).values
    except ConfigError:
        return {}


def _first_overrides(folder: Path) -> list[str] | None:
    """The command line of a run that was killed before its first line of history, from what Hydra wrote; None
    if nothing yet.
    """
    path = folder / ".hydra" / "overrides.yaml"
    return (
        [str(override) for override in OmegaConf.load(path)]
        if path.is_file() and path.stat().st_size
        else None
    )


def _refuse_if_finished(folder: Path, config: RunConfig, manifest: Manifest) -> list[str]:
    """Finished if nothing is left to do; a warning if the result is damaged, for then the weights are scored
    again.
    """
    try:
        result = read_result(folder)
    except DamagedError as error:
        return [f"DAMAGED: {error}; the weights are scored again"]
    if result is None:
        return []
    stopped_at = -math.inf if result["stopped_at"] is None else result["stopped_at"]
    if manifest.frames >= config.frames:
        why = f"{format_count(manifest.frames)} frames of {format_count(config.frames)}"
        raise Finished(folder, why, f"frames={format_count(2 * config.frames)}")
    if config.stop_at is not None and stopped_at >= config.stop_at:
        raise Finished(folder, f"it reached stop_at={config.stop_at:g}", "stop_at=null")
    return []


def _refusal(folder: Path, manifest: Manifest | None, refused: list[Change], new: list[str]) -> str:
    """The table, and every way out."""

    def types(override: Override, key: str) -> bool:
        name = override.key_or_group
        return key == name or key.startswith(f"{name}.") or name.startswith(f"{key}.")

    typed = [o for o in parse(new) if any(types(o, change.key) for change in refused)]
    others = [o.input_line or "" for o in parse(new) if o not in typed]
    in_conf = [change for change in refused if not any(types(o, change.key) for o in typed)]
    where = f" is at frame {format_count(manifest.frames)} and" if manifest else ""
    lines = [f"{folder}{where} cannot go on with this:", "", change_table(refused), ""]
    ways = [
        (
            "go on as it was",
            [f"resume={folder}", *others, *(change.keep for change in refused if change.was is not MISSING)],
        )
    ]
    if in_conf and not any(override.key_or_group in GROUPS for override in typed):
        ways.append(("go on, past what has changed in conf/", [f"resume={folder}", *others, "base=run"]))
    ways.append(("start a new run from its weights", [f"fork={folder}", *new]))
    return "\n".join(
        [*lines, *(f"to {what}:\n  python train.py {shlex.join(words)}" for what, words in ways)]
    )


def _learns_no_more(folder: Path, config: RunConfig, frames: int) -> list[str]:
    lr = getattr(config.algo, "lr", None)
    if not isinstance(lr, Schedule) or frames >= config.frames or lr(frames) > 0 or lr(config.frames) > 0:
        return []
    return [
        "the learning rate is 0 from here on, so nothing more will be learned;"
        f" to train on with another: python train.py fork={folder} algo.lr=..."
    ]


def change_table(changes: Sequence[Change]) -> str:
    """Changes as aligned text."""
    head = ("key", "was", "now", "policy", "why")
    rows = [head, *((c.key, _short(c.was), _short(c.now), c.policy, c.note) for c in changes)]
    return "\n".join(f"  {line}" for line in aligned(rows))


def _short(value: Any) -> str:
    return "null" if value is None else MISSING if value is MISSING else str(value)
