"""Planning a sweep: every job is validated before any starts."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

from rl.config import ConfigError, RunConfig, bucket, leaves, same, typed
from rl.config.compose import Composed, compose, options, shared_compositions
from rl.config.counts import parse_count
from rl.config.instantiate import entries, make_part
from rl.config.overrides import GROUPS, Overrides, quote
from rl.runs import history
from rl.runs.bucket import is_url
from rl.runs.fetch import read_takeover
from rl.runs.find import last_of, outputs_folder
from rl.runs.lock import RunLock
from rl.runs.manifest import newest_whole, saved_by, was_committed
from rl.runs.mirror import place_of
from rl.runs.outcome import Finished, Refused
from rl.runs.plan import Plan, make_plan
from rl.runs.weights import fork_weights
from rl.sweeps.launchers import Launcher
from rl.sweeps.record import Job, PersistedRecord, Record, Sweep
from rl.sweeps.remote import fetch_sweep, holds_sweep

_SINGLE = ("launcher", "hydra", "base")  # sections that take one value for all jobs


Check = Callable[[Plan], object]  # refuses what only building can see in a planned run


def plan_sweep(given: Iterable[str | Override], config_dir: str | None = None, *, check: Check) -> Sweep:
    """The sweep of a command line; `check` is asked about every job.

    Refused, ConfigError, DamagedError or LockedError if there is none: then nothing on disk has changed.
    """
    overrides, takeover = read_takeover(Overrides(given))
    with shared_compositions():
        sweep = _plan_sweep(overrides, config_dir, check, takeover=takeover)
    sweep.takeover = takeover
    return sweep


def _plan_sweep(overrides: Overrides, config_dir: str | None, check: Check, *, takeover: bool) -> Sweep:
    for override in overrides:
        key, text = override.key_or_group, override.input_line
        if key == "hydra.run.dir":
            raise ConfigError(f"{text}: type hydra.sweep.dir=..., which holds the folders of all jobs")
        if override.is_sweep_override() and key.partition(".")[0] in _SINGLE:
            raise ConfigError(f"{text}: one value for all jobs")
    resumed, given_dir = overrides.get("resume"), overrides.get("hydra.sweep.dir")
    if resumed is not None and given_dir is not None:
        raise ConfigError("resume= goes on with a sweep in its own folder: type it without hydra.sweep.dir=")
    new = overrides.drop("resume", "hydra.sweep.dir")
    if resumed is not None and is_url(resumed):
        folder, root, warnings = fetch_sweep(resumed, outputs_folder(new), takeover=takeover)
        new = Overrides([f"mirror={quote(root)}"]).merge(new)
        print("\n".join(warnings), flush=True)
        return _plan_existing(folder, new, config_dir, check)
    if resumed is not None:
        return _plan_existing(find_sweep(Record, resumed, new), new, config_dir, check)
    first = _expand(new.drop("hydra.sweeper.params."), config_dir)[0]
    params = compose([*first, *new.where(_is_param)], RunConfig, config_dir=config_dir).sweep_params
    new = Overrides(params).merge(new.drop("hydra.sweeper.params", "hydra.sweeper.params."))
    folder, exists = place_sweep(Record, first, given_dir, config_dir)
    if exists:
        return _plan_existing(folder, new, config_dir, check)
    if new.get("base") is not None:
        raise ConfigError("base=run goes with resume=")
    record, jobs, launcher, config = _plan_jobs(None, Record(), new, config_dir, check)
    if given_dir is not None and config.mirror is not None:  # the same line, on a machine without the sweep
        url, _ = place_of(config.mirror, folder, Path(config.outputs))
        if holds_sweep(url):
            fetch_sweep(url, Path(config.outputs), takeover=takeover, into=folder)
            return _plan_existing(folder, new, config_dir, check)
    return Sweep(folder, record, jobs, launcher, config_dir, None, given_dir is None, config=config)


def _plan_existing(folder: Path, new: Overrides, config_dir: str | None, check: Check) -> Sweep:
    with RunLock(folder) as lock:
        record, jobs, launcher, config = _plan_jobs(folder, Record.read(folder), new, config_dir, check)
    return Sweep(folder, record, jobs, launcher, config_dir, lock, False, config=config)


def place_sweep(
    kind: type[PersistedRecord], overrides: Overrides, given: str | None, config_dir: str | None
) -> tuple[Path, bool]:
    """The folder for a command line, and whether its record is there. Refused if it holds other things."""
    if given is None:
        return Path(compose(overrides, RunConfig, config_dir=config_dir).sweep_dir), False
    named = [*overrides, f"hydra.sweep.dir={quote(given)}"]
    folder = Path(compose(named, RunConfig, config_dir=config_dir).sweep_dir)
    exists = (folder / kind.FILE).is_file()
    if not exists and folder.is_dir() and any(path.name != ".lock" for path in folder.iterdir()):
        what = Path(kind.FILE).stem
        raise Refused(f"hydra.sweep.dir={folder}: it holds other things than a {what}; name a new folder")
    return folder, exists


def find_sweep(kind: type[PersistedRecord], resumed: str, overrides: Overrides) -> Path:
    """The folder that `resume=` means. `latest`: the one that was started, resumed or saved last."""
    what = Path(kind.FILE).stem
    if resumed != "latest":
        if not (Path(resumed) / kind.FILE).is_file():
            hint = f"type resume=latest or a {what}'s folder (a single run's without -m)"
            raise Refused(f"resume={resumed}: no {what} is there; {hint}")
        return Path(resumed)
    outputs = outputs_folder(overrides)
    found = [path.parent for path in outputs.glob(f"sweeps/*/{kind.FILE}")]
    bounds = {folder: _active_at(kind, folder, saved_by) for folder in found}

    def active_at(folder: Path) -> float:
        return _active_at(
            kind, folder, lambda ckpt: newest.saved_at if (newest := newest_whole(ckpt)) else None
        )

    latest = last_of(bounds, active_at)
    if latest is None:
        raise Refused(f"no {what} is under {outputs.absolute()}; name its folder, or start one: type --help")
    return latest


def _active_at(kind: type[PersistedRecord], folder: Path, saved_at: Callable[[Path], float | None]) -> float:
    """When it was started or resumed, or a job of it saved, whichever was last."""
    times = [time for path in folder.glob("*/ckpt") if (time := saved_at(path)) is not None]
    return max([kind.read(folder).saved_at, *times])


def _plan_jobs(
    folder: Path | None, old: Record, new: Overrides, config_dir: str | None, check: Check
) -> tuple[Record, list[Job], Launcher, RunConfig]:
    """Every job that is asked for, each one validated."""
    fork = new.get("fork")
    if fork is not None:  # the latest run would soon be a job of this sweep
        new = new.merge([f"fork={quote(fork_weights(fork, new)[1])}"])
    lasting = new.drop("base")
    line = Overrides(old.overrides).merge(lasting)
    keys = list(dict.fromkeys([*old.keys, *line.swept.keys]))
    known = {name: Overrides(own) for name, own in old.jobs.items()}
    if known and not set(new.keys) & set(keys):  # the same jobs
        asked = {name: own.merge(lasting) for name, own in known.items()}
    else:
        asked = _match(folder, known, _expand(line, config_dir), keys, config_dir)
    texts = {name: own.texts for name, own in asked.items()}
    record = Record(line.texts, keys, {**old.jobs, **texts}, commands=old.commands)
    config = compose(next(iter(asked.values())), RunConfig, config_dir=config_dir).config
    tasks = tasks_of(config)
    jobs = [validate_job(folder, name, own, new, config_dir, check, tasks) for name, own in asked.items()]
    return record, jobs, make_launcher(config.launcher), config


def make_launcher(config: Any) -> Launcher:
    """The launcher with its arguments. ConfigError if it cannot be had here."""
    launcher: Launcher = make_part("launcher", config, Launcher)
    return launcher


def tasks_of(config: RunConfig) -> int | None:
    """How many tasks of a cluster's job train a run together; None: it has one. ConfigError if `processes`
    says otherwise.
    """
    tasks: int | None = entries(config.launcher).get("tasks")
    if tasks is not None and config.processes not in (1, tasks):
        raise ConfigError(
            f"launcher.tasks={tasks} and processes={config.processes}: each task is a process; type one of"
            " the two"
        )
    return tasks


def _is_param(override: Override) -> bool:
    return override.key_or_group.startswith("hydra.sweeper.params")


def _expand(line: Overrides, config_dir: str | None) -> list[Overrides]:
    """The overrides of every job: all combinations of the values of keys that have several."""
    choices: list[list[str | Override]] = []
    for override in line:
        if not override.is_sweep_override():
            choices.append([override])
            continue
        name, given = override.get_key_element(), override.value()
        if isinstance(given, Glob):
            if name not in GROUPS:
                raise ConfigError(f"{override.input_line}: glob() is for the choices of {', '.join(GROUPS)}")
            values = given.filter(list(options(name, config_dir)))
            if not values:
                raise ConfigError(f"{override.input_line}: nothing matches")
            choices.append([f"{name}={value}" for value in values])
            continue
        try:
            choices.append([f"{name}={value}" for value in override.sweep_string_iterator()])
        except HydraException as error:  # interval()
            raise ConfigError(
                f"{override.input_line}: write the values, as in key=1,2,3 or key=range(1,4)"
            ) from error
    return [Overrides(combination) for combination in itertools.product(*choices)]


def _match(
    folder: Path | None,
    jobs: dict[str, Overrides],
    lines: list[Overrides],
    keys: list[str],
    config_dir: str | None,
) -> dict[str, Overrides]:
    """The name of each line: that of the old job with the same values, or a new name."""
    known = {
        name: _values(keys, *_configuration(folder, name, own, config_dir))
        for name, own in jobs.items()
        if folder
    }
    similar: dict[frozenset[Any], list[str]] = {}  # those with the same values are in one of its lists
    for name, values in known.items():
        similar.setdefault(bucket(values), []).append(name)
    taken = Counter(form for name in known for form in _forms(name))
    asked: dict[str, Overrides] = {}
    for own in lines:
        composed = compose(own, RunConfig, config_dir=config_dir)
        mine = _values(keys, composed.values, composed.choices)
        candidates = similar.setdefault(bucket(mine), [])
        name = next((name for name in candidates if same(known[name], mine)), "")
        if not name:
            name = _new_name(keys, composed, taken)
            known[name] = mine
            candidates.append(name)
            taken.update(_forms(name))
        if name in asked:
            raise ConfigError(f"{name}: the list has it twice")
        asked[name] = own
    return asked


def _configuration(
    folder: Path, name: str, own: Overrides, config_dir: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A job's values and choices: what its run has, or what its overrides would give."""
    past = history.read(folder / name)
    values = history.find_config(folder / name, past)
    if past and values:
        return values, past[0]["choices"]
    composed = compose(own, RunConfig, config_dir=config_dir)
    return composed.values, composed.choices


def _values(keys: list[str], values: dict[str, Any], choices: dict[str, Any]) -> dict[str, Any]:
    """What the keys mean in a job, leaf by leaf."""
    found = {f"{group}=": choices.get(group) for group in GROUPS if group in keys}
    below = tuple(f"{key}." for key in keys if key not in GROUPS)
    return found | {
        name: leaf.meaning for name, leaf in leaves(values).items() if name in keys or name.startswith(below)
    }


def _forms(name: str) -> list[str]:
    """The names that a name takes away: its own, and what it numbers."""
    numbered = re.fullmatch(r"(.+)-\d+", name)
    return [name, numbered[1]] if numbered else [name]


def _new_name(keys: list[str], composed: Composed, taken: Counter[str]) -> str:
    """A name for a job's folder that tells its values, and is a file name."""
    parts = []
    for key in keys:
        value: Any = composed.choices.get(key) if key in GROUPS else composed.values
        for step in key.split(".") if key not in GROUPS else ():
            value = value.get(step) if isinstance(value, dict) else None
        parts.append(f"{key}={typed(value)}")
    name = re.sub(r"[/\0\n]", "_", ",".join(parts)) or "0"
    if len(name.encode()) > 200:
        text = name.encode()
        name = f"{text[:180].decode(errors='ignore')}-{hashlib.sha256(text).hexdigest()[:12]}"
    return f"{name}-{taken[name] + 1}" if taken[name] else name


def validate_job(
    folder: Path | None,
    name: str,
    own: Overrides,
    new: Overrides,
    config_dir: str | None,
    check: Check,
    tasks: int | None = None,
) -> Job:
    """A job of a sweep in `folder`, validated as its process will validate it, or its `tasks` will."""
    passed = own.drop("launcher", "launcher.")
    run_dir = [f"hydra.run.dir={quote(str(folder / name))}"] if folder else []
    if folder and was_committed(folder / name):  # its own history has the rest
        passed = Overrides([*passed, *new.where(lambda o: o.key_or_group == "base")])
        passed = passed.where(lambda o: o.key_or_group in new.keys)
    job = Job(name, own, passed)
    try:
        plan = make_plan([*passed.merge([f"processes={tasks}"] if tasks else []), *run_dir], config_dir)
    except Finished:
        assert folder is not None
        job.state, job.note = "finished", "skipped"
        job.frames = parse_count(history.saved_config(folder / name)["frames"])
        return job
    except Refused as error:
        raise Refused(f"{error}\n\nno job of the sweep was started") from error
    try:
        check(plan)
    finally:
        if plan.lock is not None:
            plan.lock.release()
    job.frames, job.threads = plan.config.frames, plan.config.threads * plan.config.processes
    return job
