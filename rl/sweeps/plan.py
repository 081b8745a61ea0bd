"""Planning a sweep: every job is validated before any starts."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException

from rl.config import ConfigError, RunConfig, leaves, same, typed
from rl.config.compose import GROUPS, Composed, compose, drop, from_yaml, merge, parse, quote, value_of
from rl.config.counts import parse_count
from rl.runs import history
from rl.runs.history import CONFIG
from rl.runs.lock import RunLock
from rl.runs.manifest import list_manifests, was_committed
from rl.runs.outcome import Finished, Refused
from rl.runs.plan import Plan, make_plan
from rl.runs.weights import pin_fork
from rl.sweeps import launchers
from rl.sweeps.launchers import Launcher
from rl.sweeps.record import Job, Record, Remembered, Sweep

_OURS = (
    "hydra.sweep.subdir",
    "hydra.run.dir",
    "hydra/launcher",
    "hydra/sweeper",
    "hydra.launcher.",
    "hydra.sweeper.",
)


Check = Callable[[Plan], object]  # refuses what only building can see in a planned run


def plan_sweep(words: Sequence[str], config_dir: str | None = None, *, check: Check) -> Sweep:
    """What this command line comes to; `check` is asked about every job. Refused, ConfigError, DamagedError
    or LockedError if to nothing: then nothing on disk has changed."""
    words = list(words)
    for override in parse(words):
        if override.key_or_group.startswith(_OURS):
            raise ConfigError(
                f"{override.input_line}: type launcher=... to say how jobs run; their folders are named by their values"
            )
        if override.is_sweep_override() and override.key_or_group.partition(".")[0] in (
            "launcher",
            "hydra",
            "base",
        ):
            raise ConfigError(f"{override.input_line}: one value for all jobs")
    resumed, given = value_of(words, "resume"), value_of(words, "hydra.sweep.dir")
    if resumed is not None and given is not None:
        raise ConfigError("resume= goes on with a sweep in its own folder: type it without hydra.sweep.dir=")
    new = drop(words, "resume", "hydra.sweep.dir")
    if resumed is not None:
        return _plan_existing(find_sweep(Record, resumed, words), new, config_dir, check)
    folder, there = place_sweep(Record, _expand(new)[0], given, config_dir)
    if there:
        return _plan_existing(folder, new, config_dir, check)
    if value_of(new, "base") is not None:
        raise ConfigError("base=run goes with resume=")
    record, jobs, launcher = _judge(None, Record(), new, config_dir, check)
    return Sweep(folder, record, jobs, launcher, config_dir, None, given is None)


def _plan_existing(folder: Path, new: list[str], config_dir: str | None, check: Check) -> Sweep:
    lock = RunLock(folder)
    try:
        record, jobs, launcher = _judge(folder, Record.read(folder), new, config_dir, check)
    except BaseException:
        lock.release()
        raise
    return Sweep(folder, record, jobs, launcher, config_dir, lock, False)


def place_sweep(
    kind: type[Remembered], words: list[str], given: str | None, config_dir: str | None
) -> tuple[Path, bool]:
    """The folder for a line, and whether what it says is there already. Refused if there are other things."""
    named = [f"hydra.sweep.dir={quote(given)}"] if given is not None else []
    folder = Path(compose([*words, *named], RunConfig, config_dir=config_dir).sweep_dir)
    there = given is not None and (folder / kind.FILE).is_file()
    if (
        given is not None
        and not there
        and folder.is_dir()
        and any(path.name != ".lock" for path in folder.iterdir())
    ):
        raise Refused(
            f"hydra.sweep.dir={folder}: it holds other things than a {Path(kind.FILE).stem}; name a new folder"
        )
    return folder, there


def find_sweep(kind: type[Remembered], resumed: str, words: list[str]) -> Path:
    """The folder that `resume=` means. `latest`: the one that was started, resumed or saved last."""
    what = Path(kind.FILE).stem
    if resumed != "latest":
        if not (Path(resumed) / kind.FILE).is_file():
            raise Refused(
                f"resume={resumed}: no {what} is there; type resume=latest or a {what}'s folder (a single run's without -m)"
            )
        return Path(resumed)
    outputs = Path(value_of(words, "outputs") or "outputs")
    found = [path.parent for path in outputs.glob(f"sweeps/*/{kind.FILE}")]
    if not found:
        raise Refused(f"no {what} is under {outputs.absolute()}; name its folder, or start one: type --help")
    return max(found, key=lambda folder: (_active_at(kind, folder), str(folder)))


def _active_at(kind: type[Remembered], folder: Path) -> float:
    """When it was started or resumed, or a job of it saved, whichever was last."""
    saved = [
        whole[0].saved_at
        for path in folder.glob("*/ckpt")
        if (whole := list_manifests(path, replay=False)[0])
    ]
    return max([kind.read(folder).saved_at, *saved])


def _judge(
    folder: Path | None, old: Record, new: list[str], config_dir: str | None, check: Check
) -> tuple[Record, list[Job], Launcher]:
    """Every job that is asked for, each one judged."""
    if value_of(new, "fork") is not None:
        new = merge(new, [f"fork={quote(pin_fork(new))}"])  # the latest run would soon be a job of this sweep
    lasting = drop(new, "base")
    line = merge(old.overrides, lasting)
    keys = list(dict.fromkeys([*old.keys, *(o.key_or_group for o in parse(line) if o.is_sweep_override())]))
    if old.jobs and not {o.key_or_group for o in parse(new)} & set(keys):  # the same jobs
        asked = {name: merge(own, lasting) for name, own in old.jobs.items()}
    else:
        asked = _match(folder, old, _expand(line), keys, config_dir)
    record = Record(line, keys, {**old.jobs, **asked}, commands=old.commands)
    jobs = [judge_job(folder, name, own, new, config_dir, check) for name, own in asked.items()]
    composed = compose(next(iter(asked.values())), RunConfig, config_dir=config_dir)
    return record, jobs, make_launcher(composed.config.launcher)


def make_launcher(config: Any) -> Launcher:
    """The launcher with its arguments. ConfigError if there is none of that name, or it cannot be had here."""
    arguments = dict(config if isinstance(config, dict) else vars(config))
    target = arguments.pop("_target_")
    if target not in launchers.KNOWN:
        raise ConfigError(f"launcher._target_={target}: there are {', '.join(launchers.KNOWN)}")
    return launchers.KNOWN[target](**arguments)


def _expand(line: list[str]) -> list[list[str]]:
    """The line of every job: all combinations of the values of keys that have several."""
    choices = []
    for override in parse(line):
        text = override.input_line or ""
        if not override.is_sweep_override():
            choices.append([text])
            continue
        try:
            choices.append(
                [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
            )
        except HydraException as error:  # interval(), glob()
            raise ConfigError(f"{text}: write the values, as in key=1,2,3 or key=range(1,4)") from error
    return [list(combination) for combination in itertools.product(*choices)]


def _match(
    folder: Path | None, old: Record, lines: list[list[str]], keys: list[str], config_dir: str | None
) -> dict[str, list[str]]:
    """The name of each job: that of the old one with the same values, or a new name."""
    known = (
        {
            name: _values(keys, *_configuration(folder, name, own, config_dir))
            for name, own in old.jobs.items()
        }
        if folder
        else {}
    )
    asked: dict[str, list[str]] = {}
    for own in lines:
        composed = compose(own, RunConfig, config_dir=config_dir)
        mine = _values(keys, composed.values, composed.choices)
        name = next((name for name, values in known.items() if same(values, mine)), None)
        if name is None:
            name = _new_name(keys, composed, known.keys())
            known[name] = mine
        if name in asked:
            raise ConfigError(f"{name}: the list has it twice")
        asked[name] = own
    return asked


def _configuration(
    folder: Path, name: str, own: list[str], config_dir: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A job's values and choices: what its run has, or what its line would give."""
    past = history.read(folder / name)
    if past and (folder / name / CONFIG).exists():
        return from_yaml(folder / name / CONFIG), past[0]["choices"]
    composed = compose(own, RunConfig, config_dir=config_dir)
    return composed.values, composed.choices


def _values(keys: list[str], values: dict[str, Any], choices: dict[str, Any]) -> dict[str, Any]:
    """What the keys mean in a job, leaf by leaf."""
    found = {f"{group}=": choices.get(group) for group in GROUPS if group in keys}
    below = tuple(f"{key}." for key in keys if key not in GROUPS)
    return found | {
        name: leaf.meaning for name, leaf in leaves(values).items() if name in keys or name.startswith(below)
    }


def _new_name(keys: list[str], composed: Composed, taken: Any) -> str:
    """A name for a job's folder that tells its values, and is a file name."""
    parts = []
    for key in keys:
        value: Any = composed.choices.get(key) if key in GROUPS else composed.values
        for step in key.split(".") if key not in GROUPS else ():
            value = value.get(step) if isinstance(value, dict) else None
        parts.append(f"{key}={typed(value)}")
    name = re.sub(r"[/\0\n]", "_", ",".join(parts)) or "0"
    if len(name.encode()) > 200:
        name = (
            f"{name.encode()[:180].decode(errors='ignore')}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
        )
    same_name = sum(
        other == name or re.fullmatch(re.escape(name) + r"-\d+", other) is not None for other in taken
    )
    return f"{name}-{same_name + 1}" if same_name else name


def judge_job(
    folder: Path | None, name: str, own: list[str], new: list[str], config_dir: str | None, check: Check
) -> Job:
    """What a job comes to, judged as its process will judge it."""
    words = drop(own, "launcher", "launcher.")
    where = [f"hydra.run.dir={quote(str(folder / name))}"] if folder else []
    if folder and was_committed(folder / name):  # its own history has the rest
        now = {override.key_or_group for override in parse(new)}
        words = [
            o.input_line or ""
            for o in parse([*words, *(w for w in new if w.startswith("base="))])
            if o.key_or_group in now
        ]
    job = Job(name, own, words)
    try:
        judged = make_plan([*words, *where], config_dir)
    except Finished:
        assert folder is not None
        job.state, job.note, job.frames = (
            "finished",
            "skipped",
            parse_count(from_yaml(folder / name / CONFIG)["frames"]),
        )
        return job
    except Refused as error:
        raise Refused(f"{error}\n\nno job of the sweep was started") from error
    try:
        check(judged)
    finally:
        if judged.lock is not None:
            judged.lock.release()
    job.frames, job.threads = judged.config.frames, judged.config.threads
    return job
