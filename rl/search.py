"""`python -m rl.search`: look for good values of a run's keys, by runs.

Killed and resumed, it makes exactly `n_trials`, each a run in a folder of its own that goes on from its
checkpoint. A search's folder holds `search.json`, `search.db` (Optuna's study) and the trials.
"""

from __future__ import annotations

import contextlib
import itertools
import shlex
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override

from rl.config import FREE, ConfigError, RunConfig, SearchConfig, compare, fields, install_line, leaves, typed
from rl.config.change_table import change_table
from rl.config.compose import CONF, compose, shared_compositions, to_yaml
from rl.config.help import show_help
from rl.config.hydra_words import read_words
from rl.config.instantiate import instantiate
from rl.config.invocation import Flags, command, set_flags
from rl.config.overrides import Overrides
from rl.config.text import aligned, score_text
from rl.runs import files
from rl.runs.find import read_scores
from rl.runs.lock import RunLock
from rl.runs.manifest import newest_manifest
from rl.runs.outcome import Refused, with_exit_codes
from rl.runs.tables import read_rows
from rl.sweeps.launchers import Running
from rl.sweeps.plan import find_sweep, make_launcher, place_sweep, tasks_of, validate_job
from rl.sweeps.record import Job, PersistedRecord, Sweep
from rl.sweeps.sweep import exit_code, run_jobs

if TYPE_CHECKING:
    import optuna


DATABASE, STUDY = "search.db", "search"
Space = dict[str, Any]  # dotted key -> {low, high, log, step} or {choices}


@dataclass
class Record(PersistedRecord):
    """The record of a search."""

    FILE = "search.json"
    # every trial's overrides, without the values that are searched
    line: list[str] = field(default_factory=list)
    search: list[str] = field(default_factory=list)  # the search's own overrides
    space: Space = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)  # the configuration of `line`
    saved_at: float = 0.0
    commands: list[str] = field(default_factory=list)


@dataclass
class Search:
    """A validated search."""

    sweep: Sweep
    config: SearchConfig
    space: Space
    record: Record
    trials: dict[str, optuna.Trial] = field(default_factory=dict)  # by the name of the job
    pruned: set[str] = field(default_factory=set)
    # the size that a trial's eval.csv had when it was last read
    seen: dict[str, int] = field(default_factory=dict)
    study: Any = None
    unfinished: list[optuna.Trial] = field(default_factory=list)  # of earlier sessions

    def next_trial(self) -> Job | None:
        """The next trial: one that an earlier session left, or a new one, up to `n_trials`."""
        while True:
            if self.unfinished:
                trial = self.unfinished.pop(0)
            elif len(self.made()) < self.config.n_trials:
                trial = self.study.ask()
            else:
                return None
            job = self.job_of(trial)
            self.trials[job.name] = trial
            self.sweep.jobs.append(job)
            if not self.should_prune(job):
                return job
            self.prune(job)

    def job_of(self, trial: optuna.Trial) -> Job:
        """A trial as a job. What was suggested before a kill is suggested again."""
        chosen = {key: _suggest(trial, key, space) for key, space in self.space.items()}
        overrides = Overrides([*self.record.line, *(f"{key}={value}" for key, value in chosen.items())])
        config = compose(overrides, RunConfig, config_dir=self.sweep.config_dir).config
        passed = overrides.drop("launcher", "launcher.")
        note = " ".join(f"{key}={value}" for key, value in chosen.items())
        threads = config.threads * (tasks_of(config) or config.processes)
        return Job(f"trial-{trial.number}", overrides, passed, config.frames, threads, note=note)

    def should_prune(self, job: Job) -> bool:
        """Report new evaluations to the study; whether the pruner would end the trial."""
        trial, rows = self.trials[job.name], read_rows(self.sweep.folder_of(job) / "eval.csv")
        known = self.made()[trial.number].intermediate_values
        # evaluations, not frames: those may differ by part of an iteration
        for number, row in enumerate(rows, 1):
            if number not in known:
                trial.report(float(row[self.record.values["ckpt"]["best_by"]]), number)
        return bool(rows) and trial.should_prune()

    def prune(self, job: Job) -> None:
        """A trial ends here."""
        job.state = "pruned"
        self.study.tell(self.trials[job.name], state=_state("PRUNED"))

    def on_poll(self, job: Job, process: Running) -> None:
        """Stop a running trial that the pruner would end; it saves, and `on_end` tells the study."""
        path = self.sweep.folder_of(job) / "eval.csv"
        size = path.stat().st_size if path.exists() else 0
        if size == self.seen.get(job.name, 0) or job.name in self.pruned:
            return
        self.seen[job.name] = size
        if self.should_prune(job):
            self.pruned.add(job.name)
            process.send_signal(signal.SIGTERM)

    def on_end(self, job: Job) -> None:
        """Tell the study how a trial ended. One that was only stopped stays open, to be continued."""
        if job.state == "stopped" and job.name in self.pruned:
            self.prune(job)
        elif job.state == "finished":
            self.should_prune(job)
            self.study.tell(self.trials[job.name], best_score(self.sweep.folder_of(job)))
        elif job.state == "failed":
            self.study.tell(self.trials[job.name], state=_state("FAIL"))

    def run(self, typed: str) -> int:
        """Make all trials that are missing; the exit code."""
        from rl.training.build import check_once

        if self.sweep.lock is not None:  # what an earlier session left is validated before anything changes
            self.open()
            check = check_once()
            with shared_compositions():
                line, config_dir = self.record.line, self.sweep.config_dir
                tasks = tasks_of(compose(line, RunConfig, config_dir=config_dir).config)
                for trial in self.unfinished:
                    job, sweep = self.job_of(trial), self.sweep
                    given = (job.passed, job.passed, sweep.config_dir, check, tasks)
                    validate_job(sweep.folder, job.name, *given)
        self.sweep.take_folder(typed)
        self.sweep.total = self.config.n_trials
        if self.study is None:
            self.open()
        made = f"{len(self.made())} of {self.config.n_trials} trials made"
        print(f"{self.sweep.folder}: {made}, {len(self.unfinished)} to be continued", flush=True)
        slots = self.sweep.launcher.slots(self.record.values["threads"])
        stop = run_jobs(self.sweep, self.next_trial, slots, self.on_poll, self.on_end)
        print(self.table(), flush=True)
        self.report_best()
        return exit_code(stop, {job.state for job in self.sweep.jobs})

    def open(self) -> None:
        """Open the study, and find the trials that are still open in it."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = optuna.storages.RDBStorage(f"sqlite:///{(self.sweep.folder / DATABASE).absolute()}")
        sampler, pruner = instantiate(self.config.sampler)(), instantiate(self.config.pruner)()
        parts: dict[str, Any] = {"storage": storage, "sampler": sampler, "pruner": pruner}
        self.study = optuna.create_study(study_name=STUDY, **parts, direction="maximize", load_if_exists=True)
        ids = storage.get_study_id_from_name(STUDY)
        self.unfinished = [
            optuna.Trial(self.study, storage.get_trial_id_from_study_id_trial_number(ids, trial.number))
            for trial in self.made("RUNNING")
        ]

    def made(self, *states: str) -> list[Any]:
        """The trials of all sessions, or those in these states."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if not states or trial.state.name in states]

    def table(self) -> str:
        """Every trial of all sessions: its state, its score and its values."""
        rows = [("trial", "state", "score", *self.space)]
        for trial in self.made():
            score = f"{trial.value:.2f}" if trial.state.name == "COMPLETE" else "-"
            values = (str(trial.params.get(key, "-")) for key in self.space)
            rows.append((f"trial-{trial.number}", trial.state.name.lower(), score, *values))
        return "\n".join(aligned(rows))

    def report_best(self) -> None:
        """Print the best trial's command line, and write it as an experiment if that was asked."""
        complete = self.made("COMPLETE")
        if self.made("RUNNING") or len(self.made()) < self.config.n_trials:
            print("go on with: ", command("search", f"resume={self.sweep.folder}"))
        if not complete:
            print("no trial has been finished")
            return
        best = max(complete, key=lambda trial: trial.value)
        own = Overrides(self.record.line).drop("launcher", "launcher.", "outputs")
        overrides = Overrides([*own, *(f"{key}={value}" for key, value in best.params.items())])
        best_command = command("train", *overrides.texts)
        print(f"best: trial-{best.number}, score {score_text(best.value)}\n ", best_command)
        if self.config.save_as:
            path = _experiment(self.config.save_as, self.sweep.config_dir)
            comment = f"score {score_text(best.value)} in a search"
            files.write_new(path, as_experiment(overrides, comment, self.sweep.config_dir).encode())
            print("written as", path)


def _state(name: str) -> Any:
    import optuna

    return optuna.trial.TrialState[name]


def _suggest(trial: optuna.Trial, key: str, space: dict[str, Any]) -> Any:
    if "choices" in space:
        return trial.suggest_categorical(key, [typed(choice) for choice in space["choices"]])
    low, high, log = space["low"], space["high"], space.get("log", False)
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log=log, step=space.get("step", 1))
    return trial.suggest_float(key, low, high, log=log, step=space.get("step"))


def best_score(folder: Path) -> float:
    """The score of a run's best weights, which is what a search looks for."""
    newest, _ = newest_manifest(folder / "ckpt", replay=False)
    return read_scores(folder, newest)["best"]  # it is refused if a trial is never evaluated


def as_experiment(overrides: Overrides, comment: str, config_dir: str | None) -> str:
    """A command line as a file of conf/experiment: what differs from its algorithm's and env's values."""
    full = compose(overrides, RunConfig, config_dir=config_dir)
    algo, env = full.choices["algo"], full.choices["env"]
    env_id = overrides.where(lambda override: override.key_or_group == "env.id")
    plain = leaves(compose([f"algo={algo}", f"env={env}", *env_id], RunConfig, config_dir=config_dir).values)
    values: dict[str, Any] = {}
    for name, leaf in leaves(full.values).items():
        if name in ("seed", "outputs") or (name in plain and plain[name].value == leaf.value):
            continue
        section = values
        *path, last = name.split(".")
        for step in path:
            section = section.setdefault(step, {})
        section[last] = leaf.value
    head = f"# @package _global_\n# {algo} on {env}: {comment}\n"
    head += f"defaults:\n  - override /algo: {algo}\n  - override /env: {env}\n\n"
    return head + to_yaml(values)


def read_space(values: dict[str, Any], path: str = "") -> Space:
    """The space by dotted key. ConfigError says which entry cannot be."""
    space: Space = {}
    for name, entry in values.items():
        key = f"{path}{name}"
        given = f"space.{key}={typed(entry)}"
        if not isinstance(entry, dict):
            example = "{low: 1e-4, high: 1e-2, log: true} or {choices: [1, 2]}"
            raise ConfigError(f"{given}: expected {example}")
        if not {"low", "high", "choices"} & set(entry):
            space |= read_space(entry, f"{key}.")
            continue
        low: Any = entry.get("low")
        high: Any = entry.get("high")
        numbers = all(isinstance(n, int | float) and not isinstance(n, bool) for n in (low, high))
        ranged = set(entry) <= {"low", "high", "log", "step"} and numbers
        listed = set(entry) == {"choices"} and isinstance(entry["choices"], list) and entry["choices"]
        if not (ranged or listed):
            raise ConfigError(f"{given}: expected low and high with log or step, or choices alone")
        if ranged and (low > high or (entry.get("log") and (low <= 0 or "step" in entry))):
            raise ConfigError(f"{given}: low above high, or log with a low of 0 or with step")
        space[key] = entry
    return space


def plan(given: Iterable[str | Override], config_dir: str | None = None) -> Search:
    """The search of a command line. Refused, ConfigError, DamagedError or LockedError if there is none."""
    overrides = Overrides(given)
    overrides.check_single()
    keys = set(fields(SearchConfig))
    own = overrides.where(lambda override: override.key_or_group.partition(".")[0] in keys)
    resumed, given_dir = own.get("resume"), overrides.get("hydra.sweep.dir")
    line = overrides.where(lambda override: override not in list(own)).drop("hydra.sweep.dir")
    if any(key.startswith("hydra") for key in line.keys) or line.get("fork") or line.get("base"):
        raise ConfigError("a search takes no hydra., fork= or base= but hydra.sweep.dir=")
    if resumed is not None:
        folder, exists = find_sweep(Record, resumed, line), True
    else:
        folder, exists = place_sweep(Record, line, given_dir, config_dir)
    with RunLock(folder) if exists else contextlib.nullcontext() as lock:
        old = Record.read(folder) if exists else None
        record, config = _validate(old, own.drop("resume"), line, config_dir)
        composed = compose(record.line, RunConfig, config_dir=config_dir)
        launcher = make_launcher(composed.config.launcher)
    sweep = Sweep(folder, record, [], launcher, config_dir, lock, not exists and given_dir is None)
    return Search(sweep, config, record.space, record)


def _validate(
    old: Record | None, own: Overrides, line: Overrides, config_dir: str | None
) -> tuple[Record, SearchConfig]:
    """The record and the configuration of a search. Refused if it may not continue like that."""
    lasting = Overrides(old.search if old else []).merge(own.drop("save_as"))
    config: SearchConfig = compose(lasting.merge(own), SearchConfig, "search", config_dir=config_dir).config
    space = read_space(config.space)
    if not space:
        raise ConfigError("space: nothing to search; type space.algo.lr='{low: 1e-4, high: 1e-2, log: true}'")
    whole = Overrides(old.line if old else []).merge(line)
    values = compose(whole, RunConfig, config_dir=config_dir).values
    if config.save_as and _experiment(config.save_as, config_dir).exists():
        raise Refused(f"save_as={config.save_as}: {_experiment(config.save_as, config_dir)} exists")
    if old is None:
        _validate_corners(whole, space, config, config_dir)
        return Record(whole.texts, lasting.texts, space, values), config
    if space != old.space:
        both = [(key, old.space.get(key), space.get(key)) for key in sorted(space.keys() | old.space.keys())]
        rows = (f"  {key}: was {typed(was)}, now {typed(now)}\n" for key, was, now in both if was != now)
        raise Refused(
            "the search has another space, so that its trials could not be compared:\n"
            f"{''.join(rows)}to search here, start a new search"
        )
    changes = [change for change in compare(old.values, values, frames=0) if change.policy != FREE]
    if changes:
        what = "the search's trials have other overrides, so that they could not be compared"
        raise Refused(f"{what}:\n{change_table(changes)}")
    return Record(whole.texts, lasting.texts, space, values, commands=old.commands), config


def _validate_corners(line: Overrides, space: Space, config: SearchConfig, config_dir: str | None) -> None:
    """ConfigError unless every value of a list and both ends of a range make a run, or without Optuna."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{error}: {install_line('search')}") from error
    for part, given in (("sampler", config.sampler), ("pruner", config.pruner)):
        try:
            instantiate(given)()
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{part}: {error}") from error
    from rl.training.build import check_parts_of

    evaluated = compose(line, RunConfig, config_dir=config_dir).config
    tasks = tasks_of(evaluated)
    ends = {key: entry.get("choices") or [entry["low"], entry["high"]] for key, entry in space.items()}
    for corner in itertools.islice(itertools.zip_longest(*ends.values()), max(map(len, ends.values()))):
        chosen = [
            f"{key}={typed(values[0] if end is None else end)}"
            for (key, values), end in zip(ends.items(), corner, strict=True)
        ]
        validate_job(None, "", Overrides([*line, *chosen]), Overrides(), config_dir, check_parts_of, tasks)
    if evaluated.eval.every is None or evaluated.eval.every > evaluated.frames:
        raise ConfigError("eval.every: a trial is never evaluated; type eval.every=... of at most frames")


def _experiment(name: str, config_dir: str | None) -> Path:
    return Path(config_dir or CONF) / "experiment" / f"{name}.yaml"


def main() -> None:
    """Read the command line and search."""
    from hydra._internal.utils import get_args_parser

    args = get_args_parser().parse_args()
    if args.help:
        print(show_help("rl.search"))
        return

    def search() -> None:
        set_flags(Flags(dir=args.config_dir))
        overrides, _ = read_words(Overrides(args.overrides), multirun=True)
        raise SystemExit(plan(overrides, args.config_dir).run(shlex.join(sys.argv)))

    with_exit_codes(search)


if __name__ == "__main__":
    main()
