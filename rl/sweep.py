"""`train.py -m`: many runs from one line. Every job is judged before any starts, runs in its own process and folder, and
goes on from its own checkpoint when the sweep is resumed.

A sweep's folder holds `sweep.json`: the line, the keys that ever took several values, and every job by its folder's name.
A job is found again by the values of those keys, so that the list may be longer or in another order.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from hydra.errors import HydraException

from rl import checkpoint, files, history, launchers, resume, trackers
from rl.checkpoint import DamagedError, RunLock
from rl.compose import GROUPS, Composed, compose, drop, from_yaml, merge, parse, quote, value_of
from rl.config import ConfigError, RunConfig, leaves, same, typed
from rl.counts import format_count, parse_count
from rl.history import CONFIG
from rl.launchers import Launcher, Running
from rl.resume import FAILED, FINISHED, INTERRUPTED, STOPPING, TO_BE_CONTINUED, Finished, Refused
from rl.tables import aligned, last_row

_LOOK_S, _SHOW_S, _SAY_S = 0.1, 1.0, 10.0  # between looks at the processes, at their rows, and plain lines of a job
_OURS = ("hydra.sweep.subdir", "hydra.run.dir", "hydra/launcher", "hydra/sweeper", "hydra.launcher.", "hydra.sweeper.")


class Remembered:
    """What a folder says of the sweep or search in it, kept in a file named `FILE`."""

    FILE: ClassVar[str]
    saved_at: float
    commands: list[str]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """DamagedError if it cannot be read."""
        try:
            return cls(**json.loads((folder / cls.FILE).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise DamagedError(f"{folder / cls.FILE}: {error}") from error

    def write(self, folder: Path, command: str) -> None:
        """Keep it, and that a session begins."""
        self.saved_at = time.time()
        self.commands.append(command)
        files.write_atomic(folder / self.FILE, json.dumps(vars(self), indent=1).encode())


@dataclass
class Record(Remembered):
    """What a sweep's folder says of it."""

    FILE = "sweep.json"
    overrides: list[str] = field(default_factory=list)  # the whole line, several values and all
    keys: list[str] = field(default_factory=list)  # the keys that ever took several values
    jobs: dict[str, list[str]] = field(default_factory=dict)  # the folder's name of each job -> its own line
    saved_at: float = 0.0
    commands: list[str] = field(default_factory=list)  # as typed, one for each session


@dataclass
class Job:
    """One run of a sweep."""

    name: str
    line: list[str]  # all of it, as the record keeps it
    words: list[str]  # what its process gets, but for the folder
    frames: int = 0  # until where it trains
    threads: int = 1
    state: str = "waiting"  # then running; at last finished, stopped or failed
    note: str = ""


@dataclass
class Sweep:
    """A judged sweep, or a search."""

    folder: Path
    record: Remembered
    jobs: list[Job]
    launcher: Launcher
    config_dir: str | None
    lock: RunLock | None  # None: the folder is still to be made
    unnamed: bool  # it gets a folder of its own

    def take_folder(self, command: str) -> None:
        """Make or take the folder, and write down what belongs to it."""
        if self.unnamed:
            self.folder = resume.new_folder(self.folder)
        if self.lock is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = RunLock(self.folder)
        self.lock.announce()
        self.record.write(self.folder, command)

    def folder_of(self, job: Job) -> Path:
        """Where a job trains."""
        return self.folder / job.name

    def start(self, job: Job) -> Running:
        """Start a job's process."""
        config_dir = ["--config-dir", self.config_dir] if self.config_dir else []
        return self.launcher.start([*config_dir, *job.words, f"hydra.run.dir={quote(str(self.folder_of(job)))}"], self.folder, job.threads)


# ------------------------------------------------------------------------------------------------------------ planning


def plan(words: Sequence[str], config_dir: str | None = None) -> Sweep:
    """What this command line comes to. Refused, ConfigError, DamagedError or LockedError if to nothing: then nothing on
    disk has changed."""
    words = list(words)
    for override in parse(words):
        if override.key_or_group.startswith(_OURS):
            raise ConfigError(f"{override.input_line}: type launcher=... to say how jobs run; their folders are named by their values")
        if override.is_sweep_override() and override.key_or_group.partition(".")[0] in ("launcher", "hydra", "base"):
            raise ConfigError(f"{override.input_line}: one value for all jobs")
    resumed, given = value_of(words, "resume"), value_of(words, "hydra.sweep.dir")
    if resumed is not None and given is not None:
        raise ConfigError("resume= goes on with a sweep in its own folder: type it without hydra.sweep.dir=")
    new = drop(words, "resume", "hydra.sweep.dir")
    if resumed is not None:
        return _plan_existing(find(Record, resumed, words), new, config_dir)
    folder, there = place(Record, _expand(new)[0], given, config_dir)
    if there:
        return _plan_existing(folder, new, config_dir)
    if value_of(new, "base") is not None:
        raise ConfigError("base=run goes with resume=")
    record, jobs, launcher = _judge(None, Record(), new, config_dir)
    return Sweep(folder, record, jobs, launcher, config_dir, None, given is None)


def _plan_existing(folder: Path, new: list[str], config_dir: str | None) -> Sweep:
    lock = RunLock(folder)
    try:
        record, jobs, launcher = _judge(folder, Record.read(folder), new, config_dir)
    except BaseException:
        lock.release()
        raise
    return Sweep(folder, record, jobs, launcher, config_dir, lock, False)


def place(kind: type[Remembered], words: list[str], given: str | None, config_dir: str | None) -> tuple[Path, bool]:
    """The folder for a line, and whether what it says is there already. Refused if there are other things."""
    named = [f"hydra.sweep.dir={quote(given)}"] if given is not None else []
    folder = Path(compose([*words, *named], RunConfig, config_dir=config_dir).sweep_dir)
    there = given is not None and (folder / kind.FILE).is_file()
    if given is not None and not there and folder.is_dir() and any(path.name != ".lock" for path in folder.iterdir()):
        raise Refused(f"hydra.sweep.dir={folder}: it holds other things than a {Path(kind.FILE).stem}; name a new folder")
    return folder, there


def find(kind: type[Remembered], resumed: str, words: list[str]) -> Path:
    """The folder that `resume=` means. `latest`: the one that was started, resumed or saved last."""
    what = Path(kind.FILE).stem
    if resumed != "latest":
        if not (Path(resumed) / kind.FILE).is_file():
            raise Refused(f"resume={resumed}: no {what} is there; type resume=latest or a {what}'s folder (a single run's without -m)")
        return Path(resumed)
    outputs = Path(value_of(words, "outputs") or "outputs")
    found = [path.parent for path in outputs.glob(f"sweeps/*/{kind.FILE}")]
    if not found:
        raise Refused(f"no {what} is under {outputs.absolute()}; name its folder, or start one: type --help")
    return max(found, key=lambda folder: (_active_at(kind, folder), str(folder)))


def _active_at(kind: type[Remembered], folder: Path) -> float:
    """When it was started or resumed, or a job of it saved, whichever was last."""
    saved = [whole[0].saved_at for path in folder.glob("*/ckpt") if (whole := checkpoint.manifests(path, replay=False)[0])]
    return max([kind.read(folder).saved_at, *saved])


def _judge(folder: Path | None, old: Record, new: list[str], config_dir: str | None) -> tuple[Record, list[Job], Launcher]:
    """Every job that is asked for, each one judged."""
    if value_of(new, "fork") is not None:
        new = merge(new, [f"fork={quote(resume.pin_fork(new))}"])  # the latest run would soon be a job of this sweep
    lasting = drop(new, "base")
    line = merge(old.overrides, lasting)
    keys = list(dict.fromkeys([*old.keys, *(o.key_or_group for o in parse(line) if o.is_sweep_override())]))
    if old.jobs and not {o.key_or_group for o in parse(new)} & set(keys):  # the same jobs
        asked = {name: merge(own, lasting) for name, own in old.jobs.items()}
    else:
        asked = _match(folder, old, _expand(line), keys, config_dir)
    record = Record(line, keys, {**old.jobs, **asked}, commands=old.commands)
    jobs = [judge_job(folder, name, own, new, config_dir) for name, own in asked.items()]
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
            choices.append([f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()])
        except HydraException as error:  # interval(), glob()
            raise ConfigError(f"{text}: write the values, as in key=1,2,3 or key=range(1,4)") from error
    return [list(combination) for combination in itertools.product(*choices)]


def _match(folder: Path | None, old: Record, lines: list[list[str]], keys: list[str], config_dir: str | None) -> dict[str, list[str]]:
    """The name of each job: that of the old one with the same values, or a new name."""
    known = {name: _values(keys, *_configuration(folder, name, own, config_dir)) for name, own in old.jobs.items()} if folder else {}
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


def _configuration(folder: Path, name: str, own: list[str], config_dir: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
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
    return found | {name: leaf.meaning for name, leaf in leaves(values).items() if name in keys or name.startswith(below)}


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
        name = f"{name.encode()[:180].decode(errors='ignore')}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    same_name = sum(other == name or re.fullmatch(re.escape(name) + r"-\d+", other) is not None for other in taken)
    return f"{name}-{same_name + 1}" if same_name else name


def judge_job(folder: Path | None, name: str, own: list[str], new: list[str], config_dir: str | None) -> Job:
    """What a job comes to, judged as its process will judge it."""
    words = drop(own, "launcher", "launcher.")
    where = [f"hydra.run.dir={quote(str(folder / name))}"] if folder else []
    if folder and checkpoint.was_committed(folder / name):  # its own history has the rest
        now = {override.key_or_group for override in parse(new)}
        words = [o.input_line or "" for o in parse([*words, *(w for w in new if w.startswith("base="))]) if o.key_or_group in now]
    job = Job(name, own, words)
    try:
        judged = resume.plan([*words, *where], config_dir)
    except Finished:
        assert folder is not None
        job.state, job.note, job.frames = "finished", "skipped", parse_count(from_yaml(folder / name / CONFIG)["frames"])
        return job
    except Refused as error:
        raise Refused(f"{error}\n\nno job of the sweep was started") from error
    try:
        _check_parts(judged)
    finally:
        if judged.lock is not None:
            judged.lock.release()
    job.frames, job.threads = judged.config.frames, judged.config.threads
    return job


def _check_parts(judged: resume.Plan) -> None:
    """What only building can refuse. ConfigError or Refused."""
    from rl.build import build_callbacks, build_player

    agent = build_player(judged.config)
    build_callbacks(judged.config)
    trackers.make(judged.config.logger)
    if judged.weights:
        resume.load_weights(agent, judged.weights, judged.config.device)


# ------------------------------------------------------------------------------------------------------------- running


def run(sweep: Sweep, command: str) -> int:
    """Run all jobs that are not finished; the sweep's exit code."""
    waiting = [job for job in sweep.jobs if job.state == "waiting"]
    if waiting:
        sweep.take_folder(command)
        places = min(sweep.launcher.places(max(job.threads for job in waiting)), len(waiting))
        print(f"{sweep.folder}: {len(waiting)} of {len(sweep.jobs)} jobs to run, {places} at a time", flush=True)
    stop = run_jobs(sweep, lambda: waiting.pop(0) if waiting else None, places) if waiting else []
    if sweep.lock is not None:
        sweep.lock.release()
    print(table(sweep), flush=True)
    states, there = {job.state for job in sweep.jobs}, f"resume={sweep.folder}"
    if states == {"finished"}:
        frames = format_count(2 * max(job.frames for job in sweep.jobs))
        print("train it on: ", shlex.join(["python", "train.py", "-m", there, f"frames={frames}"]))
    else:
        print("go on with: ", shlex.join(["python", "train.py", "-m", there]))
    return exit_code(stop, states)


def exit_code(stop: list[int], states: set[str]) -> int:
    """What the signals that came, and what became of the jobs, amount to."""
    if stop:
        return INTERRUPTED if signal.SIGINT in stop else TO_BE_CONTINUED
    return FAILED if "failed" in states else TO_BE_CONTINUED if "stopped" in states else FINISHED


def run_jobs(
    sweep: Sweep,
    take: Callable[[], Job | None],
    places: int,
    look: Callable[[Job, Running], object] = lambda job, process: None,
    ended: Callable[[Job], object] = lambda job: None,
) -> list[int]:
    """Keep so many jobs running, each one that `take` gives until it gives none, or until a signal comes; the signals
    that did. `look` sees every running job now and then, `ended` every one that did."""
    running: list[tuple[Job, Running]] = []
    with _signals() as signals, _Display(sweep) as display:
        passed_on = 0
        while True:
            while len(running) < places and not signals and (job := take()):
                job.state = "running"
                display.say(job)
                running.append((job, sweep.start(job)))
            if not running:
                return signals
            for number in signals[passed_on:]:
                for _, process in running:
                    process.send_signal(number)
                passed_on += 1
            for job, process in list(running):
                code = process.poll()
                if code is not None:
                    running.remove((job, process))
                    _end(sweep, job, code, process.errors, stopped=bool(signals))
                    ended(job)
                    display.say(job)
                else:
                    look(job, process)
            display.update()
            time.sleep(_LOOK_S)


def _end(sweep: Sweep, job: Job, code: int, errors: str, *, stopped: bool) -> None:
    """Say what became of a job; what it wrote to stderr goes into its own log if it failed."""
    if code == FINISHED:
        job.state = "finished"
    elif code in (TO_BE_CONTINUED, INTERRUPTED) or (stopped and code < 0):  # a signal before it could handle any
        job.state = "stopped"
    else:
        job.state = "failed"
        log = sweep.folder_of(job) / "train.log"
        if errors and log.parent.is_dir():
            files.append(log, errors.encode())
        said = (log.read_text(errors="replace") if log.exists() else errors).strip().split("\n")
        job.note = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}: {said[-1]}"


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that ask to stop, as they come. What to do then is not done in their handler."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in STOPPING}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ------------------------------------------------------------------------------------------------------------- showing


class _Display:
    """One line for each running job, redrawn on a terminal; elsewhere a plain line now and then. Nothing if jobs write themselves."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.live: Any = None
        self._shown_at = 0.0
        self._said: dict[str, tuple[float, str]] = {}

    def __enter__(self) -> _Display:
        if sys.stdout.isatty() and not self.sweep.launcher.shown:
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(), auto_refresh=False, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def say(self, job: Job) -> None:
        """A job has begun or ended."""
        text = line_of(self.sweep, job)
        if self.live:
            self.live.console.print(text, soft_wrap=True, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def update(self) -> None:
        """Show how far the running jobs are."""
        now = time.monotonic()
        if self.sweep.launcher.shown or now - self._shown_at < _SHOW_S:
            return
        self._shown_at = now
        lines = {job.name: line_of(self.sweep, job) for job in self.sweep.jobs if job.state == "running"}
        if self.live:
            from rich.text import Text

            self.live.update(Text("\n".join(lines.values()), overflow="ellipsis", no_wrap=True), refresh=True)
            return
        for name, text in lines.items():
            at, before = self._said.get(name, (now, text))
            if name not in self._said or (text != before and now - at >= _SAY_S):
                self._said[name] = now, text
                if text != before:
                    print(text, flush=True)


def line_of(sweep: Sweep, job: Job) -> str:
    """A job in one line: state, frames, eta, total_reward_ma."""
    from rl.progress import progress_text

    row = last_row(sweep.folder_of(job) / "metrics.csv")
    if job.state != "running" or row is None:
        return f"{job.name}: {job.state}" + (f" ({job.note})" if job.note else "")
    average = float(row["total_reward_ma"]) if row["total_reward_ma"] else None
    return f"{job.name}: running, {progress_text(int(row['frames']), job.frames, float(row['fps']), average)}"


def table(sweep: Sweep) -> str:
    """Every job: its state, how far it is, and the score of its last and best weights on fresh episodes."""
    rows = [("job", "state", "frames", "last", "best", "")]
    for job in sweep.jobs:
        result = _result(sweep.folder_of(job)) if job.state == "finished" else {}
        whole, _ = checkpoint.manifests(sweep.folder_of(job) / "ckpt", replay=False)
        frames = f"{format_count(whole[0].frames) if whole else '-'} of {format_count(job.frames)}"
        scores = (f"{result[name]['total_reward']:.1f}" if name in result else "-" for name in ("last", "best"))
        rows.append((job.name, job.state, frames, *scores, job.note))  # type: ignore[arg-type]
    return "\n".join(aligned(rows))


def _result(folder: Path) -> dict[str, Any]:
    try:
        return resume.read_result(folder) or {}
    except DamagedError:  # a resume of the run alone says so, and makes it again
        return {}
