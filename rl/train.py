"""train.py: a command line becomes a run, or goes on with one."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from rl import compose, files, history, resume, trackers
from rl.checkpoint import Checkpoints, DamagedError, LockedError, Manifest, load, read_verified
from rl.config import ConfigError
from rl.counts import format_count
from rl.help import show_help
from rl.resume import FAILED, FINISHED, INTERRUPTED, REFUSED, STOPPING, TO_BE_CONTINUED, Finished, Plan, Refused

if TYPE_CHECKING:  # these import torch; a command line is judged without it
    from rl.build import Parts
    from rl.progress import Progress

log = logging.getLogger("encore")

SCORE_EPISODES = 100
_MUST_BE_FINITE = ("loss", "policy_loss", "value_loss", "grad_norm")


class DivergedError(Exception):
    """A loss or a weight is infinite or no number; says which, and at what frame."""


class Stop:
    """The request to stop that a signal makes: the iteration is finished and saved first."""

    def __init__(self) -> None:
        self.requested: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        self._before = {number: signal.signal(number, self._handle) for number in STOPPING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return bool(self.requested)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        final = {signal.SIGTERM, signal.SIGINT}
        if number in final and final & set(self.requested):
            os._exit(INTERRUPTED if number == signal.SIGINT else 128 + number)
        self.requested.append(number)

    def pass_on(self) -> None:
        """Call the handlers that were there before ours: a launcher's requeues the job."""
        for number in self.requested:
            handler = self._before[number]
            if callable(handler) and handler is not signal.default_int_handler:
                handler(number, None)

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, else 75."""
        return INTERRUPTED if signal.SIGINT in self.requested else TO_BE_CONTINUED


class Run:
    """A run in its folder: the parts that train, and the files that tell of it."""

    def __init__(self, plan: Plan, parts: Parts) -> None:
        from rl.metrics import EVAL_COLUMNS, Metrics, Table

        self.plan, self.parts, self.config, self.folder = plan, parts, plan.config, plan.folder
        self.clock, self.agent, self.collector = parts.clock, parts.agent, parts.collector
        self.metrics = Metrics(self.folder / "metrics.csv", self.agent.columns)
        self.evaluations = Table(self.folder / "eval.csv", EVAL_COLUMNS)
        self.tables = [self.metrics.table.path, self.evaluations.path]
        self.checkpoints = Checkpoints(self.folder, self.config.ckpt.keep)
        self.stateful = {"metrics": self.metrics, **parts.stateful}
        self._saved_at = time.monotonic()

    def begin(self, command: str) -> None:
        """Be at frame 0, or at the checkpoint, with everything newer than it gone."""
        manifest = self.plan.manifest
        if manifest is None:
            self.checkpoints.start_over()
            self.metrics.table.start()
            self.evaluations.start()
            for warning in self.parts.warnings:
                log.warning(warning)
            not_replayable = self.try_replay()
            if not_replayable:
                log.warning("A RESUME OF THIS RUN WILL NOT BE EXACT: %s", not_replayable)
            self.collector.start()
            history.write(self.plan, frames=0, command=command, not_exact=[], not_replayable=not_replayable)
            self.save()
        else:
            self.checkpoints.resume_from(manifest)
            for name, size in manifest.offsets.items():
                files.cut(self.folder / name, size)
            self.load(manifest)
            self.clock.wall_before_s = manifest.wall_s
            replay = self.agent.replay
            not_exact = [*self.collector.not_exact, *(replay.not_exact if replay else [])]
            for problem in not_exact:
                log.warning("NOT EXACT from frame %d: %s", self.clock.frames, problem)
            history.write(self.plan, frames=self.clock.frames, command=command, not_exact=not_exact)
            (self.folder / resume.RESULT).unlink(missing_ok=True)
        self.metrics.start_session(self.clock)

    def try_replay(self) -> str:
        """What keeps the environment from being brought back exactly, as far as a short trial shows; else ''."""
        from rl.env_checks import replay_problem
        from rl.state import derive_seed

        own_process = self.config.env.vectorization == "async"
        return replay_problem(self.parts.make_env, derive_seed(self.config.seed, "trial"), own_process=own_process)

    def load(self, manifest: Manifest) -> None:
        """Become what a checkpoint holds. DamagedError if that is not what this version knows."""
        self._load(load(read_verified(self.checkpoints.folder, manifest, manifest.data), "cpu"))
        if self.agent.replay and not self.agent.replay.refill:
            for chunk in manifest.replay:
                self.agent.replay.load_chunk(self.checkpoints.replay / chunk)

    def _load(self, state: dict[str, Any]) -> None:
        missing, unknown = self.stateful.keys() - state.keys(), state.keys() - self.stateful.keys()
        if missing or unknown:
            raise DamagedError(f"the checkpoint lacks {sorted(missing)} and has {sorted(unknown)}, which this version does not know")
        for name, part in self.stateful.items():
            part.load_state_dict(state[name])

    def save(self) -> None:
        """Commit a checkpoint of this moment, unless there is one."""
        self._saved_at = time.monotonic()
        if self.checkpoints.saved_frames == self.clock.frames:
            return
        self.check_weights()
        state = {name: part.state_dict() for name, part in self.stateful.items()}
        frames, wall_s = self.clock.frames, self.clock.wall_s
        self.checkpoints.save(state, frames=frames, wall_s=wall_s, tables=self.tables, memory=self.agent.replay)

    def check_report(self, report: Mapping[str, float]) -> None:
        """DivergedError if what an iteration reports is not finite: every iteration asks, so it costs no look at a tensor."""
        wrong = [f"{name} is {value}" for name in _MUST_BE_FINITE if not math.isfinite(value := report.get(name, 0.0))]
        if wrong:
            raise DivergedError(f"at frame {format_count(self.clock.frames)} {' and '.join(wrong)}")

    def check_weights(self) -> None:
        """DivergedError if weights, or what an optimizer or a normaliser keeps, are not finite: no such file is written."""
        from rl.state import not_finite

        parts = {name: part.state_dict() for name, part in self.agent.parts.items() if part is not self.agent.replay}
        wrong = not_finite(parts)
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise DivergedError(f"at frame {format_count(self.clock.frames)} {wrong[0]}{more} holds infinities or no numbers")

    @property
    def minutes_passed(self) -> bool:
        """Whether `ckpt.minutes` have gone by since the last checkpoint."""
        minutes = self.config.ckpt.minutes
        return minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes

    def evaluate(self) -> dict[str, Any]:
        """Add a row to eval.csv, and keep the weights if they are the best."""
        from rl.evaluate import play
        from rl.metrics import moving_average
        from rl.state import derive_seed

        self.check_weights()
        clock, by = self.clock, self.config.ckpt.best_by
        seed = derive_seed(self.config.seed, "eval", clock.frames)
        scores = play(self.agent, self.parts.make_env, self.config.eval.episodes, seed)
        row: dict[str, Any] = {"frames": clock.frames, "updates": clock.updates, "wall_s": clock.wall_s, **scores.summary()}
        row["total_reward_ma"] = moving_average(self.evaluations.rows(), row["total_reward"], len(scores.returns))
        self.evaluations.append(row)
        best = self.checkpoints.best
        if not math.isnan(row[by]) and (best is None or row[by] >= best.score):
            self.checkpoints.save_best(self.parts.playing_state(), clock.frames, row[by])
        return row

    @property
    def stopped_at(self) -> float | None:
        """The total_reward_ma that ends the run early, once 100 episodes reach `stop_at`."""
        full = len(self.metrics.recent) == self.metrics.recent.maxlen
        average, enough = self.metrics.total_reward_ma, self.config.stop_at
        return average if enough is not None and full and average is not None and average >= enough else None

    @property
    def finished(self) -> bool:
        """Whether the clock has reached `frames`, or the score `stop_at`."""
        return self.clock.frames >= self.config.frames or self.stopped_at is not None

    def score(self, stop: Stop) -> dict[str, Any]:
        """Play 100 fresh episodes with the last and with the best weights, and write result.json."""
        from rl.build import build_player
        from rl.evaluate import play
        from rl.state import derive_seed

        seed = derive_seed(self.config.seed, "score")
        agents = {"last": (self.agent, self.clock.frames)}
        best = self.checkpoints.load_best(self.config.device)
        if best is not None and self.checkpoints.best is not None:
            agent = build_player(self.config)
            for name, state in best.items():
                agent.parts[name].load_state_dict(state)
            agents["best"] = (agent, self.checkpoints.best.frames)
        result: dict[str, Any] = {
            "frames": self.clock.frames,
            "episodes": self.clock.episodes,
            "updates": self.clock.updates,
            "wall_s": self.clock.wall_s,
            "stopped_at": self.stopped_at,
        }
        for name, (agent, frames) in agents.items():
            scores = play(agent, self.parts.make_env, SCORE_EPISODES, seed, stop=lambda: bool(stop))
            result[name] = {"weights_of_frame": frames, **scores.summary()}
        files.write_atomic(self.folder / resume.RESULT, json.dumps(result, indent=1).encode())
        return result


def train(run: Run, stop: Stop, progress: Progress) -> None:
    """The loop. It speaks to every algorithm in the same two verbs, collect and learn."""
    cfg, clock, agent, collector, metrics = run.config, run.clock, run.agent, run.collector, run.metrics
    while not run.finished and not stop:
        rollout = collector.collect(agent)
        metrics.add_episodes(collector.ended_returns, collector.ended_lengths)
        report = agent.learn(rollout)
        run.check_report(report)
        metrics.add(report)
        if clock.due(cfg.log_every):
            progress.row(metrics.write(clock))
        if clock.due(cfg.eval.every):
            progress.evaluation(run.evaluate())
        for callback in run.parts.callbacks:
            callback(run)
        if clock.due(cfg.ckpt.every) or run.minutes_passed:
            run.save()
        progress.update(clock, metrics)
    run.save()


def perform(plan: Plan, parts: Parts, command: str) -> float | None:
    """Train a planned run to its end; its best evaluation score. SystemExit with the exit code if it does not get there."""
    from rl.envs import closing
    from rl.evaluate import Interrupted
    from rl.progress import Progress

    resume_command = shlex.join(["python", "train.py", f"resume={plan.folder}"])
    try:
        with closing(parts.collector.envs), Stop() as stop, Progress(plan.config) as progress:
            for warning in plan.warnings:
                log.warning(warning)
            run = Run(plan, parts)
            run.begin(command)
            _announce(run)
            result = None
            started_at = time.time() - run.clock.wall_s
            with trackers.Following(run.folder, plan.config.logger, started_at, patience_s=lambda: 5 if stop else 60):
                try:
                    train(run, stop, progress)
                except Exception:
                    run.check_weights()  # if they are no numbers, what choked on them is not the reason
                    raise
                if run.finished:
                    run.checkpoints.prune()
                    with contextlib.suppress(Interrupted):  # the checkpoint stands; the next session scores
                        result = run.score(stop)
        if result is None:
            name, frames = signal.Signals(stop.requested[0]).name, format_count(run.clock.frames)
            log.info("stopped by %s at frame %s, saved; go on with: %s", name, frames, resume_command)
            stop.pass_on()
            raise SystemExit(stop.exit_code)
        _report(run, result)
    except OSError as error:
        where, why = error.filename or plan.folder, error.strerror or error
        log.error("stopped: %s: %s; the last checkpoint stands, go on with: %s", where, why, resume_command)
        raise SystemExit(FAILED) from error
    except DivergedError as error:
        log.error("stopped: %s; %s", error, _way_on(run))
        raise SystemExit(FAILED) from error
    except Exception:
        log.exception("failed; the last checkpoint stands: %s", resume_command)
        raise SystemExit(FAILED) from None
    return run.checkpoints.best.score if run.checkpoints.best else None


def _way_on(run: Run) -> str:
    """What may be done about a run that diverged: from its last checkpoint it would diverge again."""
    import numpy as np

    from rl.schedule import Schedule

    saved, rollout, lr = run.checkpoints.saved_frames or 0, run.collector.rollout, getattr(run.config.algo, "lr", None)
    stands = f"the checkpoint at frame {format_count(saved)} stands"
    if not (np.isfinite(rollout.reward).all() and np.isfinite(rollout.obs).all()):
        return f"the environment gave a reward or an observation that is not finite; {stands}: python train.py resume={run.folder}"
    words = [f"fork={run.folder}@last", "algo.lr=..."]
    if isinstance(lr, Schedule) and len(lr.heights) == 1:
        words = [f"resume={run.folder}", f"algo.lr=[[{saved},{lr(0)!r}],[{saved + 1},{lr(0) / 10:g}]]"]
    return f"{stands}, but would lead here again; with a lower learning rate: {shlex.join(['python', 'train.py', *words])}"


def _announce(run: Run) -> None:
    config, manifest = run.config, run.plan.manifest
    what = f"{run.folder}: {format_count(config.frames)} frames of {config.env.id}, seed {config.seed}"
    log.info(f"going on at frame {format_count(manifest.frames)} with {what}" if manifest else what)
    choices = run.plan.composed.choices
    tuned = f"{choices['algo']}_{choices['env']}"
    if manifest is None and run.plan.typed_pair and tuned in compose.options("experiment"):
        log.info("experiment=%s is this pair with tuned values", tuned)
    if run.agent.replay:
        memory = run.agent.replay
        log.info("the replay memory takes %.1f MB for %s transitions", memory.bytes / 1e6, format_count(memory.capacity * memory.num_envs))
    if run.plan.changes:
        log.info("accepted changes:\n%s", resume.change_table(run.plan.changes))


def _report(run: Run, result: dict[str, Any]) -> None:
    for name in ("last", "best"):
        if name in result:
            score = result[name]
            log.info(
                "%s weights (frame %s): mean return %.1f, std %.1f, min %.1f, max %.1f over %d fresh episodes",
                *(name, format_count(score["weights_of_frame"]), score["total_reward"], score["total_reward_std"]),
                *(score["total_reward_min"], score["total_reward_max"], score["episodes"]),
            )
    watch = [f"run={run.folder}", *([] if "best" in result else ["ckpt=last"])]
    more = [f"resume={run.folder}", "stop_at=null" if result["stopped_at"] is not None else f"frames={format_count(2 * run.config.frames)}"]
    log.info("the run is in %s", run.folder)
    log.info("watch it:     python enjoy.py %s", shlex.join(watch))
    log.info("train it on:  python train.py %s", shlex.join(more))


# ---------------------------------------------------------------------------------------------------- command line

_prepared: list[tuple[Plan, Parts]] = []  # what main judged, for the job that Hydra then calls


def job(_: DictConfig) -> float | None:
    """What Hydra calls, in the run's folder."""
    plan, parts = _prepared[0]
    return perform(plan, parts, " ".join(_command or sys.argv))


_command: list[str] = []  # as it was typed, before it is rewritten for Hydra


def main() -> None:
    """Refuse what cannot be, before anything is made; then let Hydra make the folder and call `job`."""
    from hydra._internal.utils import get_args_parser

    args = get_args_parser().parse_args()
    logging.raiseExceptions = False  # a full disk is told once, and not by a traceback for each line that train.log cannot take
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # acting in NumPy: products too small to share, and the same bits everywhere
    if args.help:
        print(show_help("train.py", args.config_dir))
        return
    _command[:] = sys.argv
    if args.multirun and not (args.shell_completion or args.cfg or args.info or args.hydra_help):
        refuse_or(lambda: _sweep(args))
    refuse_or(lambda: _prepare(args))
    refuse_or(hydra.main(version_base="1.3", config_path=str(compose.CONF), config_name="config")(job))


def refuse_or(action: Callable[[], object]) -> None:
    """Do it, or say on stderr why not, and leave with exit code 2 (0 if there is nothing left to do)."""
    try:
        action()
    except Finished as message:
        print(message)
        raise SystemExit(FINISHED) from None
    except (ConfigError, Refused, LockedError, DamagedError) as message:
        print(message, file=sys.stderr)
        raise SystemExit(REFUSED) from None
    except KeyboardInterrupt:  # before a run had begun to handle signals: there is nothing to save
        raise SystemExit(INTERRUPTED) from None
    except OSError as error:
        print(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "), file=sys.stderr)
        raise SystemExit(FAILED) from None


def _prepare(args: Any) -> None:
    """Judge the command line, and rewrite it into what Hydra is to do."""
    flags = [word for word in sys.argv[1:] if word not in args.overrides]
    overrides = compose.quote_places(args.overrides)
    if args.shell_completion or args.cfg or args.info or args.hydra_help:  # Hydra shows something and leaves
        if not args.shell_completion:
            sys.argv[1:] = [*flags, *compose.for_hydra(overrides)]
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if len(compose.drop(overrides, "launcher", "launcher.")) < len(overrides):
        raise ConfigError("launcher= says how a sweep runs its jobs: type -m with it")
    plan = resume.plan(overrides, args.config_dir)
    parts = _build(plan)
    folder = os.path.abspath(plan.folder)  # as Hydra will name it: without ..
    _prepared[:] = [(plan, parts)]
    place = [f"hydra.run.dir={compose.quote(folder)}"]
    own = compose.drop(compose.hydra_only(overrides), "hydra.run.dir")
    if plan.manifest:  # the folder's .hydra stays as Hydra wrote it at the start
        place.append("hydra.output_subdir=null")
    else:
        own += plan.overrides
    sys.argv[1:] = [*flags, *compose.for_hydra(own), *place]


def _build(plan: Plan) -> Parts:
    """All that can still refuse; then the folder is taken."""
    from rl.build import build

    trackers.make(plan.config.logger)
    parts = build(plan.config)
    if plan.weights:
        resume.load_weights(parts.agent, plan.weights, plan.config.device)
    plan.take_folder()
    return parts


def _sweep(args: Any) -> None:
    """Judge every job of a sweep before anything is made; then let its launcher run them."""
    from rl import sweep

    raise SystemExit(sweep.run(sweep.plan(compose.quote_places(args.overrides), args.config_dir), shlex.join(sys.argv)))


if __name__ == "__main__":
    main()
