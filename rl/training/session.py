"""One session of a run: from a validated plan to an exit code."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from typing import TYPE_CHECKING, Any

from rl.config.change_table import change_table
from rl.config.compose import options
from rl.config.counts import format_count
from rl.config.invocation import command
from rl.runs import files
from rl.runs.mirror_process import MirrorProcess
from rl.runs.outcome import FAILED, Stop
from rl.runs.plan import Plan
from rl.trackers import follow as trackers
from rl.training.loop import train
from rl.training.run import DivergedError, Run

if TYPE_CHECKING:
    from rl.training.build import Parts

log = logging.getLogger("encore")


def perform(plan: Plan, parts: Parts, typed: str) -> float | None:
    """Train a planned run to its end; the score of its best weights. SystemExit with the exit code if it does
    not get there.
    """
    from rl.envs.vector import WorkerDiedError, closing
    from rl.training.evaluate import Interrupted
    from rl.training.progress import Progress

    resume_command = command("train", f"resume={plan.folder}")
    try:
        with closing(parts.collector.envs), Stop() as stop, Progress(plan.config) as progress:
            for warning in plan.warnings:
                log.warning(warning)
            run = Run(plan, parts)
            run.begin(typed)
            stop = run.group.share_stop(stop, run)
            _announce(run)
            progress.start_session(run.clock.frames)
            result = None
            started_at = time.time() - run.clock.wall_s
            with (
                MirrorProcess(run.folder, plan.mirror, patience_s=lambda: 30 if stop else 300),
                trackers.TrackerProcess(
                    run.folder, plan.config.logger, started_at, patience_s=lambda: 5 if stop else 60
                ),
            ):
                try:
                    train(run, stop, progress)
                except Exception:
                    run.check_weights()  # weights of NaN or inf are the reason, not the error they caused
                    raise
                if run.finished:
                    run.checkpoints.prune()
                    with contextlib.suppress(Interrupted):  # the checkpoint stands; the next session scores
                        result = run.score(stop)
        stop.settle()
        if result is None:
            name, frames = signal.Signals(stop.requested[0]).name, format_count(run.clock.frames)
            log.info("stopped by %s at frame %s, saved; go on with: %s", name, frames, resume_command)
            stop.pass_on()
            raise SystemExit(stop.exit_code)
        _report(run, result)
    except OSError as error:
        if not files.is_ours(error):
            log.exception("failed; the last checkpoint stands: %s", resume_command)
            raise SystemExit(FAILED) from None
        where, why = error.filename or plan.folder, error.strerror or error
        log.error("stopped: %s: %s; the last checkpoint stands, go on with: %s", where, why, resume_command)
        raise SystemExit(FAILED) from error
    except WorkerDiedError as error:
        log.error("stopped: %s; the last checkpoint stands, go on with: %s", error, resume_command)
        raise SystemExit(FAILED) from error
    except DivergedError as error:
        log.error("stopped: %s; %s", error, _recovery_hint(run))
        raise SystemExit(FAILED) from error
    except Exception as error:
        if _is_out_of_memory(error):
            log.error("stopped: out of memory: %s; the last checkpoint stands: %s", error, resume_command)
        else:
            log.exception("failed; the last checkpoint stands: %s", resume_command)
        raise SystemExit(FAILED) from None
    return float(result["best"]["total_reward"]) if "best" in result else None


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python, NumPy or torch, which raises RuntimeError, got no memory."""
    return isinstance(error, MemoryError) or "allocate memory" in str(error) or "of memory" in str(error)


def _recovery_hint(run: Run) -> str:
    """What to type for a run that diverged: from its last checkpoint it would diverge again."""
    import numpy as np

    from rl.config.schedule import Schedule
    from rl.spaces import all_finite

    saved, rollout, lr = (
        run.checkpoints.saved_frames or 0,
        run.collector.rollout,
        getattr(run.config.algo, "lr", None),
    )
    stands = f"the checkpoint at frame {format_count(saved)} stands"
    if not (np.isfinite(rollout.reward).all() and all_finite(rollout.obs)):
        return (
            f"the environment gave a reward or an observation that is not finite; {stands}: "
            f"{command('train', f'resume={run.folder}')}"
        )
    overrides = [f"fork={run.folder}@last", "algo.lr=..."]
    if isinstance(lr, Schedule) and len(lr.heights) == 1:
        overrides = [f"resume={run.folder}", f"algo.lr=[[{saved},{lr(0)!r}],[{saved + 1},{lr(0) / 10:g}]]"]
    return f"{stands}, but would lead here again; with a lower learning rate: {command('train', *overrides)}"


def _announce(run: Run) -> None:
    from rl.spaces import describe_obs

    config, manifest = run.config, run.plan.manifest
    what = f"{run.folder}: {format_count(config.frames)} frames of {config.env.id}, seed {config.seed}"
    log.info(f"going on at frame {format_count(manifest.frames)} with {what}" if manifest else what)
    choices = run.plan.composed.choices
    tuned = f"{choices['algo']}_{choices['env']}"
    if manifest is None and run.plan.typed_pair and tuned in options("experiment"):
        log.info("experiment=%s is this pair with tuned values", tuned)
    if fields := describe_obs(run.collector.envs.single_observation_space):
        log.info("observations: %s", fields)
    if run.agent.replay:
        memory = run.agent.replay
        log.info(
            "the replay memory takes %.1f MB for %s transitions",
            memory.bytes / 1e6,
            format_count(memory.capacity * memory.num_envs),
        )
    cores = len(os.sched_getaffinity(0))
    if config.threads > cores:
        log.warning("threads=%d: there are %d cores here; more threads are slower", config.threads, cores)
    if run.plan.changes:
        log.info("accepted changes:\n%s", change_table(run.plan.changes))


def _report(run: Run, result: dict[str, Any]) -> None:
    folder, config = run.folder, run.config
    for name in ("last", "best"):
        if score := result.get(name):
            spread = (
                "mean return {total_reward:.1f}, std {total_reward_std:.1f}, min {total_reward_min:.1f}, "
            )
            spread += "max {total_reward_max:.1f} over {episodes} fresh episodes"
            frame = format_count(score["weights_of_frame"])
            cut = f", {score['cut']} of them cut at {config.eval.max_steps} steps" if score.get("cut") else ""
            log.info("%s weights (frame %s): %s", name, frame, spread.format(**score) + cut)
    if config.env.solved is not None:
        reached = [
            n for n in ("best", "last") if n in result and result[n]["total_reward"] >= config.env.solved
        ]
        by = f"reached by the {' and the '.join(reached)} weights" if reached else "not reached"
        log.info("solved is a mean return of %g: %s", config.env.solved, by)
    watch = [f"run={folder}", *([] if "best" in result else ["ckpt=last"])]
    more = "stop_at=null" if result["stopped_at"] is not None else f"frames={format_count(2 * config.frames)}"
    log.info("the run is in %s", folder)
    log.info("watch it:     %s", command("enjoy", *watch))
    log.info("report:       %s", command("report", str(folder)))
    log.info("train it on:  %s", command("train", f"resume={folder}", more))
