"""Which run a command line means, and whether it may go on like that: all of it before anything on disk changes.

The command line of a resumed run is the run's own plus the new one. It is composed on today's conf/ and compared, key by
key, with the configuration that the run has; `rl.config.compare` judges the differences.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl import checkpoint, files
from rl.checkpoint import Manifest, RunLock
from rl.compose import Composed, compose, drop, from_yaml, merge, parse, to_yaml, value_of
from rl.config import MISSING, Change, ConfigError, RunConfig, compare, read_config
from rl.counts import format_count

CONFIG, HISTORY, RESULT = "config.yaml", "history.jsonl", "result.json"


class Refused(Exception):
    """The command line cannot be done; the message says why and what to type."""


class Finished(Exception):
    """There is nothing left to do; the message says what to type for more."""


@dataclass
class Plan:
    """What a command line comes to."""

    folder: Path
    composed: Composed
    overrides: list[str]  # the whole command line: the run's own and the new one
    manifest: Manifest | None = None  # where to go on; None: at frame 0
    changes: list[Change] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    lock: RunLock | None = None
    unnamed: bool = False  # a new run whose folder nobody named: it gets one of its own

    @property
    def config(self) -> RunConfig:
        """The typed configuration."""
        config: RunConfig = self.composed.config
        return config

    def take_folder(self) -> None:
        """Make the folder of a new run, or take an existing one; nobody else works on it from here on."""
        if self.unnamed:
            self.folder = _new_folder(self.folder)
        if self.lock is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = RunLock(self.folder)
        self.lock.announce()


# -------------------------------------------------------------------------------------------------------- planning


def plan(overrides: Sequence[str], config_dir: str | None = None) -> Plan:
    """What this command line comes to, for a single run. Refused, Finished, ConfigError or LockedError if to nothing."""
    resume, given_dir = value_of(overrides, "resume"), value_of(overrides, "hydra.run.dir")
    new = drop(overrides, "resume")
    if resume is not None:
        folder = _find(resume, new)
        return _plan_existing(folder, new, config_dir)
    if given_dir is not None and Path(given_dir).is_dir() and any(Path(given_dir).iterdir()):
        return _plan_existing(Path(given_dir), new, config_dir)
    composed = compose(new, RunConfig, config_dir=config_dir)
    if composed.config.base:
        raise ConfigError("base=run goes with resume=")
    return Plan(Path(composed.run_dir), composed, drop(new, "hydra."), unnamed=given_dir is None)


def plan_job(folder: Path, overrides: Sequence[str]) -> Plan:
    """What a sweep's job comes to in the folder that Hydra gave it: a new run, or the one that it holds."""
    if checkpoint.was_committed(folder):
        return _plan_existing(folder, list(overrides), None)
    return Plan(folder, compose(overrides, RunConfig), list(overrides))


def _new_folder(wanted: Path) -> Path:
    """The folder of a new run, made here: of two runs started in the same second each gets its own."""
    for number in range(1, 10_000):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise Refused(f"no free name for a run at {wanted}")


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
    history = read_history(folder)
    saved = history[-1]["overrides"] if history else []
    overrides = drop(merge(saved, new), "hydra.", "base")
    base = value_of(new, "base")
    if base == "run":
        composed = _compose_on_run(folder, new)
    else:
        composed = compose([*overrides, *_hydra_only(new)], RunConfig, config_dir=config_dir)
    if not checkpoint.was_committed(folder):
        warning = f"{folder}: no checkpoint was ever committed here; starting at frame 0"
        return Plan(folder, composed, overrides, warnings=[warning])
    manifest, problems = checkpoint.newest(folder / "ckpt")
    if manifest is None:
        damage = "\n".join(f"  {problem}" for problem in problems) or f"  {folder / 'ckpt'} holds none"
        raise Refused(
            f"{folder}: no checkpoint is whole, and the run is not started from scratch in silence:\n{damage}\n"
            "to start a new run, leave resume= away"
        )
    warnings = [f"DAMAGED CHECKPOINT: {problem}" for problem in problems]
    if problems:
        warnings.append(f"going on from the one before instead, at frame {format_count(manifest.frames)}")
    changes = compare(from_yaml(folder / CONFIG), composed.values, manifest.frames)
    refused = [change for change in changes if change.refused]
    if refused:
        raise Refused(_refusal(folder, manifest, refused))
    _refuse_if_finished(folder, composed.config, manifest)
    warnings += _other_world(history, composed.config)
    return Plan(folder, composed, overrides, manifest, changes, warnings)


def _compose_on_run(folder: Path, new: list[str]) -> Composed:
    """The run's own configuration under the new command line, whatever conf/ says today."""
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    values = OmegaConf.create(from_yaml(folder / CONFIG))
    for override in parse(drop(new, "base")):
        if override.key_or_group.startswith("hydra."):
            continue
        OmegaConf.update(values, override.key_or_group, override.value())
    plain = OmegaConf.to_container(values, resolve=True)
    assert isinstance(plain, dict)
    typed = {str(name): value for name, value in plain.items()}
    return Composed(typed, {}, read_config(typed, RunConfig), str(folder))


def _hydra_only(overrides: list[str]) -> list[str]:
    return [o.input_line or "" for o in parse(overrides) if o.key_or_group.startswith("hydra.")]


def _refuse_if_finished(folder: Path, config: RunConfig, manifest: Manifest) -> None:
    if not (folder / RESULT).exists():
        return
    result = json.loads((folder / RESULT).read_text())
    if manifest.frames >= config.frames:
        raise Finished(
            f"{folder} is finished: {format_count(manifest.frames)} frames of {format_count(config.frames)}.\n"
            f"to train it on:  python train.py resume={folder} frames={format_count(2 * config.frames)}"
        )
    if config.stop_at is not None and result["stopped_at"] is not None and result["stopped_at"] >= config.stop_at:
        raise Finished(
            f"{folder} is finished: it reached stop_at={config.stop_at:g}.\nto train it on:  python train.py resume={folder} stop_at=null"
        )


def _refusal(folder: Path, manifest: Manifest, refused: list[Change]) -> str:
    return "\n".join(
        [
            f"{folder} is at frame {format_count(manifest.frames)} and cannot go on with this:",
            "",
            change_table(refused),
            "",
            "to go on as it was:           " + " ".join(["python train.py", f"resume={folder}", *(c.keep for c in refused)]),
            "if only conf/ has changed:    " + f"python train.py resume={folder} base=run",
        ]
    )


def change_table(changes: Sequence[Change]) -> str:
    """Changes as aligned text."""
    head = ("key", "was", "now", "policy", "why")
    rows = [head, *((c.key, _short(c.was), _short(c.now), c.policy, c.note) for c in changes)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _short(value: Any) -> str:
    return "null" if value is None else MISSING if value is MISSING else str(value)


# --------------------------------------------------------------------------------------------------- finding a run


def _find(resume: str, overrides: list[str]) -> Path:
    if resume != "latest":
        folder = Path(resume)
        if not any((folder / name).exists() for name in ("ckpt", HISTORY, ".hydra")):
            raise Refused(f"resume={resume}: no run is there; type resume=latest, or a run's folder under outputs/")
        return folder
    return latest(Path(value_of(overrides, "outputs") or "outputs"), overrides)


def latest(outputs: Path, overrides: Sequence[str] = ()) -> Path:
    """The run under `outputs` that saved last, of those that the choices on the command line allow. Refused if there is none."""
    wanted = {name: value for name in ("algo", "env", "experiment", "seed") if (value := value_of(overrides, name)) is not None}
    candidates = []
    for folder in run_folders(outputs):
        whole, _ = checkpoint.manifests(folder / "ckpt")
        if whole and _matches(folder, wanted):
            candidates.append((whole[0].saved_at, str(folder), folder))
    if not candidates:
        asked = " with " + " ".join(f"{k}={v}" for k, v in wanted.items()) if wanted else ""
        raise Refused(
            f"no run{asked} has a checkpoint under {outputs.absolute()}; type resume=<a run's folder>, or leave resume= away to start one"
        )
    return max(candidates)[2]


def run_folders(outputs: Path) -> list[Path]:
    """Every run's folder under `outputs`, jobs of sweeps included."""
    found = [path.parent for pattern in ("*/*/ckpt", "sweeps/*/*/ckpt") for path in outputs.glob(pattern)]
    return sorted(path for path in found if path.is_dir())


def _matches(folder: Path, wanted: dict[str, str]) -> bool:
    if not wanted:
        return True
    history = read_history(folder)
    choices = history[0]["choices"] if history else {}
    return all(str(choices.get(name)) == value for name, value in wanted.items())


# --------------------------------------------------------------------------------------------------------- history


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The starts and resumes of a run, oldest first; a last line that a kill left unfinished does not count."""
    path = folder / HISTORY
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def write_history(plan: Plan, *, frames: int, command: str, not_exact: list[str]) -> None:
    """Add this start or resume, and make its configuration the run's. The line comes first: a kill between the two
    leaves a run that makes the same changes again."""
    path = plan.folder / HISTORY
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        files.cut(path, path.read_bytes().rfind(b"\n") + 1)
    line = {
        "event": "resume" if plan.manifest else "start",
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "frames": frames,
        "command": command,
        "overrides": plan.overrides,
        "choices": plan.composed.choices | {"seed": plan.config.seed},
        "changes": [{"key": c.key, "was": c.was, "now": c.now, "policy": c.policy, "note": c.note} for c in plan.changes],
        "world": world(plan.config),
        "exactness": f"not exact from frame {frames}: {'; '.join(not_exact)}" if not_exact else "exact",
    }
    files.append(path, (json.dumps(line) + "\n").encode())
    files.sync(path)
    files.write_atomic(plan.folder / CONFIG, to_yaml(plan.composed.values).encode())


def world(config: RunConfig) -> dict[str, Any]:
    """What bit-exactness depends on besides the run itself."""
    import platform
    import subprocess
    from importlib.metadata import version

    sha = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "gymnasium", "hydra-core")},
        "git": sha.stdout.strip() or None,
        "host": platform.node(),
        "machine": platform.machine(),
        "device": config.device,
        "threads": config.threads,
        "deterministic": config.deterministic,
    }


def _other_world(history: list[dict[str, Any]], config: RunConfig) -> list[str]:
    """A warning if what bit-exactness depends on is not what it was in the session before."""
    if not history:
        return []
    before, now = history[-1]["world"], world(config)
    names = [name for name in now if name not in ("git", "host") and before.get(name) != now[name]]
    if not names:
        return []
    what = ", ".join(f"{name} was {before.get(name)} and is {now[name]}" for name in names)
    return [f"{what}: results may differ in the last bits from here on"]
