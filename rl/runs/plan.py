"""From a command line to a plan: which run it means, and whether that run may continue like this. Nothing on
disk changes here.

The command line of a resumed run is the run's own plus the new one. It is composed on today's conf/ and
compared, key by key, with the configuration that the run has; `rl.config.compare` applies the policies.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from rl.config import FROZEN, MISSING, Change, ConfigError, RunConfig, compare, read_config
from rl.config.change_table import change_table
from rl.config.compose import Composed, compose
from rl.config.counts import format_count
from rl.config.invocation import command
from rl.config.overrides import GROUPS, Overrides, quote
from rl.config.schedule import Schedule
from rl.runs import code, history
from rl.runs.bucket import is_url
from rl.runs.edits import edits_of_file
from rl.runs.fetch import fetch, fetch_named, read_takeover
from rl.runs.find import REFILL, find_run, is_run, new_folder, outputs_folder, read_result
from rl.runs.lock import RunLock
from rl.runs.manifest import (
    DamagedError,
    Manifest,
    changed_tables,
    list_manifests,
    newest_manifest,
    was_committed,
)
from rl.runs.mirror import Claim, not_uploaded
from rl.runs.outcome import Finished, Refused
from rl.runs.weights import Weights, fork_weights


@dataclass
class Plan:
    """What a command line asks for, validated."""

    folder: Path
    composed: Composed
    overrides: Overrides  # the whole command line: the run's own and the new one
    manifest: Manifest | None = None  # the checkpoint to continue from; None: frame 0
    changes: list[Change] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    weights: Weights | None = None  # of another run, to start from
    lock: RunLock | None = None
    unnamed: bool = False  # a new run whose folder nobody named: it gets one of its own
    takeover: bool = False  # whether it may go on though another machine is at work on its mirror
    mirror: Claim | None = None  # its place there, once it has taken it

    @property
    def config(self) -> RunConfig:
        """The typed configuration."""
        config: RunConfig = self.composed.config
        return config

    @property
    def typed_pair(self) -> bool:
        """Whether algorithm or environment were chosen, and no experiment that tunes the two together."""
        keys = set(self.overrides.keys)
        return bool(keys & {"algo", "env"}) and "experiment" not in keys

    def write_history(
        self, *, frames: int, command: str, not_exact: list[str], not_reproducible: str = ""
    ) -> list[dict[str, Any]]:
        """Add this session to the run's history, and make its configuration the run's.

        It returns where the run's code has changed until `frames`, where this session begins.
        """
        past, used = history.read(self.folder), code.fingerprints(self.composed.values)
        changed = code.changes(past, frames, used)
        for number, one in enumerate(changed):
            when = f"at frame {one['frames']} again" if number else "the code changed"
            not_exact = [*not_exact, f"{when}: {', '.join(one['files'])}"]
        since = changed[0]["frames"] if changed else frames
        session = {
            "event": "resume" if self.manifest else "start",
            "frames": frames,
            "command": command,
            "overrides": self.overrides.texts,
            "choices": self.composed.choices | {"seed": self.config.seed},
            "tags": self.config.tags,
            "fork": self.weights and {"run": str(self.weights.run), "weights": self.weights.name},
            "changes": [
                {"key": c.key, "was": c.was, "now": c.now, "policy": c.policy, "note": c.note}
                for c in self.changes
            ],
            "world": history.world(self.config),
            "code": None if used == code.last_recorded(past) else used,
            "code_changed": changed,
            "exactness": history.exactness(since, not_exact, not_reproducible),
        }
        made_before = self.manifest is not None and self.manifest.config is None
        history.write(self.folder, session, self.composed.values, line_first=made_before)
        return changed

    def take_folder(self) -> None:
        """Make the folder of a new run and lock it; an existing run's lock is held already."""
        if self.unnamed:
            self.folder = new_folder(self.folder)
        if self.lock is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = RunLock(self.folder)
            if was_committed(self.folder):  # by a run that began and ended in the meantime
                raise Refused(
                    f"{self.folder}: another process has just trained here; type "
                    f"resume={self.folder} to go on with its run"
                )
        self.lock.announce()


def make_plan(given: Iterable[str | Override], config_dir: str | None = None) -> Plan:
    """The plan of a single run.

    Refused, Finished, ConfigError, DamagedError or LockedError if there is none.
    """
    overrides = Overrides(given)
    overrides.check_single()
    overrides, takeover = read_takeover(overrides)
    plan = _make_plan(overrides, config_dir, takeover=takeover)
    plan.takeover = takeover
    return plan


def _make_plan(overrides: Overrides, config_dir: str | None, *, takeover: bool) -> Plan:
    resumed, run_dir = overrides.get("resume"), overrides.get("hydra.run.dir")
    new = overrides.drop("resume", "hydra.run.dir")
    if resumed is not None:
        if overrides.get("fork") is not None or run_dir is not None:
            raise ConfigError(
                "resume= goes on with a run in its own folder: type it without fork= and hydra.run.dir="
            )
        if is_url(resumed):
            folder, warnings, root = fetch(resumed, outputs_folder(new), takeover=takeover)
            new = Overrides([f"mirror={quote(root)}"]).merge(new)
        else:
            folder, warnings = find_run(resumed, new)
        if not (was_committed(folder) or history.read(folder)) and history.first_overrides(folder) is None:
            raise Refused(
                f"{folder}: it was killed before its command line was written down; delete "
                "it, and type that line again"
            )
        return _plan_existing(folder, new, config_dir, warnings)
    if run_dir is not None and "${" not in run_dir and _holds_run(Path(run_dir)):
        return _plan_existing(Path(run_dir), new, config_dir)
    plan = _plan_new(overrides.drop("resume"), config_dir)
    if run_dir is not None and _holds_run(plan.folder):
        return _plan_existing(plan.folder, new, config_dir)
    if run_dir is not None and (warnings := fetch_named(plan.config, plan.folder, takeover=takeover)):
        return _plan_existing(plan.folder, new, config_dir, warnings)
    plan.unnamed = run_dir is None
    return plan


def _holds_run(folder: Path) -> bool:
    """Whether a run was started in a folder. Refused if it holds other things."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    if not is_run(folder):
        raise Refused(f"hydra.run.dir={folder}: it holds other things than a run; name a new folder")
    return True


def _plan_new(overrides: Overrides, config_dir: str | None) -> Plan:
    """A new run; with `fork=` it has the old run's command line and weights."""
    fork, weights = overrides.get("fork"), None
    if fork is not None:
        weights, exact = fork_weights(fork, overrides)
        past = history.read(weights.run)
        saved = Overrides(past[-1]["overrides"] if past else []).drop("fork")
        overrides = saved.merge([*overrides, f"fork={quote(exact)}"])
    composed = compose(overrides, RunConfig, config_dir=config_dir)
    if composed.config.base:
        raise ConfigError("base=run goes with resume=")
    return Plan(Path(composed.run_dir), composed, overrides.drop("hydra."), weights=weights)


def _plan_existing(
    folder: Path, new: Overrides, config_dir: str | None, warnings: Sequence[str] = ()
) -> Plan:
    """A run that continues in its folder. It is locked from here on."""
    with RunLock(folder) as lock:
        plan = _validate_resume(folder, new, config_dir)
    plan.lock = lock
    plan.warnings[:0] = warnings
    return plan


def _validate_resume(folder: Path, new: Overrides, config_dir: str | None) -> Plan:
    """The plan of a run that continues: its command line, its checkpoint, and the changes it accepts."""
    past, committed = history.read(folder), was_committed(folder)
    choices = past[0]["choices"] if past else {}
    saved = Overrides(past[-1]["overrides"] if past else history.first_overrides(folder) or [])
    if committed:
        _check_spec(folder, choices, new, saved, config_dir)
    own = history.recorded_config(folder, past)
    whole, _ = list_manifests(folder / "ckpt", replay=False)
    made_before = bool(whole) and whole[0].config is None  # then config.yaml is what it has
    edits, warnings = edits_of_file(folder, own) if own and not made_before else (Overrides(), [])
    overrides = saved.merge(edits).merge(new).drop("hydra.", "base")
    if new.get("base") == "run":
        composed = _compose_on_run(folder, edits.merge(new), choices)
    else:
        composed = compose([*overrides, *new.hydra], RunConfig, config_dir=config_dir)
    if not committed:
        fork = composed.config.fork
        weights = fork_weights(fork, overrides)[0] if fork else None
        warnings.append(f"{folder}: no checkpoint was ever committed here; starting at frame 0")
        return Plan(folder, composed, overrides, warnings=warnings, weights=weights)
    manifest, problems = _find_checkpoint(folder, composed.config)
    warnings += problems
    was = history.unpack(manifest.config) or (not made_before and own) or history.read_file(folder)
    changes = _check_changes(folder, manifest, was, composed, overrides, choices, new, edits, saved)
    if own and own != was:  # what a session has accepted and not committed is no news
        changes = compare(own, composed.values, manifest.frames, overrides.keys)
    warnings += [
        f"DAMAGED: {path}: its rows are not what was written; they stay"
        for path in changed_tables(manifest, folder)
    ]
    warnings += _check_unfinished(folder, composed.config, manifest)
    warnings += history.other_world(past) + _lr_is_zero(folder, composed.config, manifest.frames)
    return Plan(folder, composed, overrides, manifest, changes, warnings)


def _check_spec(
    folder: Path, choices: dict[str, Any], new: Overrides, saved: Overrides, config_dir: str | None
) -> None:
    """Refused for another algorithm or environment: the run's overrides would not compose with it."""
    note = "it defines the run: with another it would be another run"
    changes = [
        Change(group, was, now, FROZEN, note, True)
        for group, was in choices.items()
        if group in ("algo", "env") and (now := new.get(group)) not in (None, was)
    ]
    if not changes:
        return
    changed = [change.key for change in changes]
    rest = new.drop(*changed, *(f"{group}." for group in changed))
    try:
        _validate_resume(folder, rest, config_dir)
    except (Refused, ConfigError):  # the rest would be refused in its turn
        rest = Overrides()
    except Finished:  # it is accepted, though there is nothing left to do
        pass
    groups = [f"{group}={choices[group]}" for group in ("algo", "env") if group not in changed]
    fitting = saved.drop("experiment", "algo", "env", *(f"{group}." for group in changed))
    start = Overrides(groups).merge(fitting).merge(new)
    raise Refused(
        _refusal(
            folder, None, changes, Overrides([*rest, *new.where(lambda o: o.key_or_group in changed)]), start
        )
    )


def _check_changes(
    folder: Path,
    manifest: Manifest,
    was: dict[str, Any],
    composed: Composed,
    overrides: Overrides,
    choices: dict[str, Any],
    new: Overrides,
    edits: Overrides,
    saved: Overrides,
) -> list[Change]:
    """What differs from the run's own configuration. Refused if a key's policy forbids its change."""
    try:
        defaults = functools.partial(history.defaults, choices)
        changes = compare(was, composed.values, manifest.frames, overrides.keys, defaults)
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # values that no configuration has
        raise DamagedError(f"{folder / history.CONFIG}: {error}") from error
    refused = [change for change in changes if change.refused]
    if refused:
        raise Refused(_refusal(folder, manifest, refused, new, saved.merge(new), edits))
    return changes


def _find_checkpoint(folder: Path, config: RunConfig) -> tuple[Manifest, list[str]]:
    """The newest whole checkpoint, and warnings about newer ones. Refused if none is whole."""
    restore = getattr(getattr(config.algo, "replay", None), "on_resume", None) != REFILL
    manifest, problems = newest_manifest(folder / "ckpt", tables=folder, replay=restore)
    if manifest is not None:
        warnings = [f"DAMAGED CHECKPOINT: {problem}" for problem in problems]
        if problems:
            warnings.append(f"going on from the one before instead, at frame {format_count(manifest.frames)}")
        return manifest, warnings
    lines = [f"{folder}: no checkpoint is whole, and the run is not started from scratch in silence:"]
    lines += [f"  {problem}" for problem in problems] or [f"  {folder / 'ckpt'} holds none"]
    if restore and newest_manifest(folder / "ckpt", tables=folder, replay=False)[0]:
        refill = f"algo.replay.on_resume={REFILL}"
        lines += [f"to go on with an empty replay memory:\n  {command('train', f'resume={folder}', refill)}"]
    raise Refused("\n".join([*lines, "to start a new run, leave resume= away"]))


def _compose_on_run(folder: Path, new: Overrides, choices: dict[str, str | None]) -> Composed:
    """The run's own configuration under the new command line, whatever conf/ says today."""
    values = OmegaConf.create(history.saved_config(folder))
    for override in new.drop("base", "hydra.", "algo", "env"):  # the groups were compared already
        name = override.key_or_group
        if name in GROUPS:
            raise ConfigError(
                f"{name}={override.value()}: base=run takes the run's own configuration; "
                "type single keys with it"
            )
        OmegaConf.update(values, name, override.value(), merge=False)
    resolved = OmegaConf.to_container(values, resolve=True)
    assert isinstance(resolved, dict)
    plain = {str(name): value for name, value in resolved.items()}
    return Composed(plain, choices, read_config(plain, RunConfig), str(folder), "")


def _check_unfinished(folder: Path, config: RunConfig, manifest: Manifest) -> list[str]:
    """Finished if nothing is left to do. A warning if a damaged result is made again, or one is uploaded."""
    try:
        result = read_result(folder)
    except DamagedError as error:
        return [f"DAMAGED: {error}; the weights are scored again"]
    if result is None:
        return []
    stopped_at = -math.inf if result["stopped_at"] is None else result["stopped_at"]
    if manifest.frames >= config.frames:
        why = f"{format_count(manifest.frames)} frames of {format_count(config.frames)}"
        finished = Finished(folder, why, f"frames={format_count(2 * config.frames)}")
    elif config.stop_at is not None and stopped_at >= config.stop_at:
        finished = Finished(folder, f"it reached stop_at={config.stop_at:g}", "stop_at=null")
    else:
        return []
    if missing := not_uploaded(config, folder):
        return [missing]
    raise finished


def _lr_is_zero(folder: Path, config: RunConfig, frames: int) -> list[str]:
    """A warning if the learning rate stays 0 from here on."""
    lr = getattr(config.algo, "lr", None)
    if not isinstance(lr, Schedule) or frames >= config.frames or lr(frames) > 0 or lr(config.frames) > 0:
        return []
    return [
        "the learning rate is 0 from here on, so nothing more will be learned;"
        f" to train on with another: {command('train', f'fork={folder}')} algo.lr=..."
    ]


def _refusal(
    folder: Path,
    manifest: Manifest | None,
    refused: list[Change],
    new: Overrides,
    start: Overrides,
    edits: Overrides | None = None,
) -> str:
    """The table of refused changes, and every command that works instead; `start` makes it a new run."""

    def names(override: Override, key: str) -> bool:
        name = override.key_or_group
        return key == name or key.startswith(f"{name}.") or name.startswith(f"{key}.")

    typed = new.where(lambda o: any(names(o, change.key) for change in refused))
    others = new.where(lambda o: o not in list(typed)).texts
    own = [*typed, *(edits or ())]
    in_conf = [change for change in refused if not any(names(o, change.key) for o in own)]
    at = f" is at frame {format_count(manifest.frames)} and" if manifest else ""
    kept = [change.keep for change in refused if change.was is not MISSING]
    resume = f"resume={folder}"
    commands = [("go on as it was", [resume, *others, *kept])]
    if manifest is not None:
        later = [change.from_now_on(manifest.frames) or change.keep for change in refused]
        if set(later) - set(kept):
            commands.append(("change it from here on", [resume, *others, *later]))
    if in_conf and not set(typed.keys) & set(GROUPS):
        commands.append(("go on, past what has changed in conf/", [resume, *others, "base=run"]))
    if any(_of_shape(change.key) for change in refused):
        commands.append(("start a new run", start.drop("fork").texts))
    else:
        which = "" if manifest is None or manifest.best else "@last"
        commands.append(("start a new run from its weights", [f"fork={folder}{which}", *new.texts]))
    lines = [f"{folder}{at} cannot go on with this:", "", change_table(refused), ""]
    edited = [o.key_or_group for o in edits or () if any(names(o, change.key) for change in refused)]
    lines += [f"edited in {folder / history.CONFIG}: {', '.join(edited)}"] if edited else []
    lines += [f"to {what}:\n  {command('train', *overrides)}" for what, overrides in commands]
    return "\n".join(lines)


def _of_shape(key: str) -> bool:
    """Whether weights may not fit once this key has changed."""
    shaping = ("algo", "env", "env.id", "env.game", "algo.quantiles", "algo._target_")
    return key in shaping or key.startswith(("env.kwargs", "env.wrappers")) or "network" in key
