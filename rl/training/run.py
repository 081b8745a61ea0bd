"""A run while it trains: its parts, and the files in its folder."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rl.config.counts import format_count
from rl.config.invocation import command
from rl.runs import files
from rl.runs.checkpoints import Checkpoints
from rl.runs.find import RESULT
from rl.runs.history import other_processes, pack
from rl.runs.manifest import DamagedError, Manifest, read_verified
from rl.runs.outcome import Stop
from rl.runs.plan import Plan
from rl.serialize import load

if TYPE_CHECKING:
    from rl.training.build import Parts

log = logging.getLogger("encore")


SCORE_EPISODES = 100
_MUST_BE_FINITE = ("loss", "policy_loss", "value_loss", "grad_norm")


class DivergedError(Exception):
    """A loss or a weight is NaN or inf; the message names it and the frame."""


class Run:
    """A run in its folder: the parts that train, and the files they write."""

    time_to_save = False  # of several processes: the first said so when they last spoke

    def __init__(self, plan: Plan, parts: Parts) -> None:
        from rl.training.metrics import EVAL_COLUMNS, Metrics, Table

        self.plan, self.parts, self.config, self.folder = plan, parts, plan.config, plan.folder
        self.clock, self.agent, self.collector = parts.clock, parts.agent, parts.collector
        self.group, self.callbacks = parts.group, parts.callbacks
        self.metrics = Metrics(self.folder / "metrics.csv", self.agent.columns)
        self.evaluations = Table(self.folder / "eval.csv", EVAL_COLUMNS)
        self.tables = [self.metrics.table.path, self.evaluations.path]
        self.checkpoints = Checkpoints(self.folder, self.config.ckpt.keep)
        if self.group.rank:
            self._write_nothing()
        self.stateful = {"metrics": self.metrics, **parts.stateful}
        self._saved_at = time.monotonic()

    def _write_nothing(self) -> None:
        """The first process writes the files, and makes the callbacks that do not ask for all."""
        from rl.training.without_files import NoCheckpoints, NoTable

        table, checkpoints = NoTable(), NoCheckpoints(self.folder)
        self.metrics.table = self.evaluations = table  # type: ignore[assignment]
        self.checkpoints = checkpoints  # type: ignore[assignment]
        self.callbacks = [one for one in self.callbacks if getattr(one, "every_process", False)]

    def begin(self, command: str) -> None:
        """Start at frame 0, or restore the checkpoint and delete everything newer."""
        if self.plan.manifest is None:
            self._start(command)
        else:
            self._restore(self.plan.manifest, command)
        self.metrics.start_session(self.clock)

    def _start(self, command: str) -> None:
        self.checkpoints.start_over()
        self.metrics.table.start()
        self.evaluations.start()
        for warning in self.parts.warnings:
            log.warning(warning)
        problem = self.check_reproducible()
        if problem:
            log.warning("A RESUME OF THIS RUN WILL NOT BE EXACT: %s", problem)
        self.collector.start()
        if self.group.rank == 0:
            self.plan.write_history(frames=0, command=command, not_exact=[], not_reproducible=problem)
        self.save()

    def _restore(self, manifest: Manifest, command: str) -> None:
        self.load(manifest)  # may fail, so it comes before anything is moved or cut
        self.checkpoints.resume_from(manifest)
        self.clock.wall_before_s = manifest.wall_s
        replay = self.agent.replay
        not_exact = [*self.collector.not_exact, *(replay.not_exact if replay else [])]
        not_exact += other_processes(manifest.config, self.config.processes)
        for problem in not_exact:
            log.warning("NOT EXACT from frame %d: %s", self.clock.frames, problem)
        if self.group.rank:
            return
        for name, size in manifest.offsets.items():
            files.cut(self.folder / name, size)
        changed = self.plan.write_history(frames=self.clock.frames, command=command, not_exact=not_exact)
        for change in changed:
            log.warning(
                "NOT EXACT from frame %d: the code changed: %s", change["frames"], ", ".join(change["files"])
            )
        (self.folder / RESULT).unlink(missing_ok=True)

    def check_reproducible(self) -> str:
        """Why the environment cannot be restored exactly, as far as a short trial shows; else ''."""
        from rl.envs.checks import reproducibility_problem
        from rl.state import derive_seed

        own_process = self.config.env.vectorization == "async"
        return reproducibility_problem(
            self.parts.make_env, derive_seed(self.config.seed, "trial"), own_process=own_process
        )

    def load(self, manifest: Manifest) -> None:
        """Restore a checkpoint. DamagedError if its parts are not those of this version."""
        self._load(load(read_verified(self.checkpoints.folder, manifest, manifest.data), "cpu"))
        if self.agent.replay and not self.agent.replay.refill:
            for chunk in manifest.replay:
                self.agent.replay.load_chunk(self.checkpoints.replay / chunk)

    def _load(self, state: dict[str, Any]) -> None:
        missing, unknown = self.stateful.keys() - state.keys(), state.keys() - self.stateful.keys()
        if missing or unknown:
            raise DamagedError(
                f"the checkpoint lacks {sorted(missing)} and has {sorted(unknown)},"
                " which this version does not know"
            )
        for name, part in self.stateful.items():
            part.load_state_dict(state[name])

    def save(self) -> None:
        """Commit a checkpoint, unless there is one at this frame."""
        self._saved_at = time.monotonic()
        if self.checkpoints.saved_frames == self.clock.frames:
            return
        self.check_weights()
        state = {name: part.state_dict() for name, part in self.stateful.items()}
        same = {name: state[name] for name in state if name.startswith(("agent.", "clock", "streams"))}
        self.group.check_same(lambda: same, self.clock.frames, self.resume_command)
        frames, wall_s = self.clock.frames, self.clock.wall_s
        self.checkpoints.save(
            state,
            frames=frames,
            wall_s=wall_s,
            config=pack(self.plan.composed.values),
            tables=self.tables,
            memory=self.agent.replay,
        )

    def check_report(self, report: Mapping[str, float]) -> None:
        """DivergedError if an iteration reports NaN or inf; cheap, since it reads no tensor."""
        wrong = [
            f"{name} is {value}"
            for name in _MUST_BE_FINITE
            if not math.isfinite(value := report.get(name, 0.0))
        ]
        if wrong:
            raise DivergedError(f"at frame {format_count(self.clock.frames)} {' and '.join(wrong)}")

    def check_weights(self) -> None:
        """DivergedError if weights or the state of an optimizer or a normaliser hold NaN or inf."""
        from rl.state import not_finite

        wrong = not_finite(self._weights())
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise DivergedError(
                f"at frame {format_count(self.clock.frames)} {wrong[0]}{more} holds NaN or inf"
            )

    def _weights(self) -> dict[str, Any]:
        """The states of the agent's parts but for its replay memory."""
        return {n: part.state_dict() for n, part in self.agent.parts.items() if part is not self.agent.replay}

    @property
    def resume_command(self) -> str:
        """What goes on with this run."""
        return command("train", f"resume={self.folder}")

    @property
    def minutes_passed(self) -> bool:
        """Whether `ckpt.minutes` have gone by since the last checkpoint; of several processes, as the first
        said when they last exchanged a rollout.
        """
        return self.minutes_have_passed() if self.group.size == 1 else self.time_to_save

    def minutes_have_passed(self) -> bool:
        """The same by this process's time."""
        minutes = self.config.ckpt.minutes
        return minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes

    def evaluate(self) -> dict[str, Any]:
        """Add a row to eval.csv, and keep the weights if they are the best."""
        from rl.state import derive_seed
        from rl.training.evaluate import play
        from rl.training.metrics import EVAL_AVERAGE, moving_average

        self.check_weights()
        self.group.check_same(self._weights, self.clock.frames, self.resume_command)
        clock, by = self.clock, self.config.ckpt.best_by
        seed = derive_seed(self.config.seed, "eval", clock.frames)
        cfg, group = self.config.eval, self.group
        scores = play(
            self.agent, self.parts.make_env, cfg.episodes, seed, group=group, max_steps=cfg.max_steps
        )
        if scores.cut:
            log.info("evaluation at %s: %s", format_count(clock.frames), scores.note)
        row: dict[str, Any] = {
            "frames": clock.frames,
            "updates": clock.updates,
            "wall_s": clock.wall_s,
            **scores.summary(),
        }
        earlier = self.evaluations.last_rows(EVAL_AVERAGE)
        row["total_reward_ma"] = moving_average(earlier, row["total_reward"], len(scores.returns))
        self.evaluations.append(row)
        best = self.checkpoints.best
        if not math.isnan(row[by]) and (best is None or row[by] >= best.score):
            self.checkpoints.save_best(self.parts.learned_state(), clock.frames, row[by])
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
        from rl.state import derive_seed
        from rl.training.build import build_player
        from rl.training.evaluate import play

        seed = derive_seed(self.config.seed, "score")
        agents = {"last": (self.agent, self.clock.frames)}
        best = self.checkpoints.best
        weights = self.checkpoints.load_best(self.config.device)
        weights, frames = self.group.from_first((weights, best and best.frames))
        if weights is not None:
            agent = build_player(self.config)
            for name, state in weights.items():
                agent.parts[name].load_state_dict(state)
            agents["best"] = (agent, frames)
        result: dict[str, Any] = {
            "frames": self.clock.frames,
            "episodes": self.clock.episodes,
            "updates": self.clock.updates,
            "wall_s": self.clock.wall_s,
            "stopped_at": self.stopped_at,
        }
        for name, (agent, frames) in agents.items():
            cap, episodes = self.config.eval.max_steps, SCORE_EPISODES
            more: dict[str, Any] = {"group": self.group, "max_steps": cap, "stop": lambda: stop.asked}
            scores = play(agent, self.parts.make_env, episodes, seed, **more)
            result[name] = {"weights_of_frame": frames, **scores.summary()}
            if cap is not None:
                result[name]["cut"] = scores.cut
        if self.group.rank == 0:
            files.write_atomic(self.folder / RESULT, json.dumps(result, indent=1).encode())
        return result
