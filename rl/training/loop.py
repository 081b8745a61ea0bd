"""The training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rl.runs.outcome import Stop
from rl.training.run import Run

if TYPE_CHECKING:
    from rl.training.progress import Progress


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
            progress.evaluation(run.evaluate)
        for callback in run.callbacks:
            callback(run)
        if clock.due(cfg.ckpt.every) or run.minutes_passed:
            run.save()
        progress.update(clock, metrics)
    run.save()
