"""What progress says: how far, how fast, and when it will be done."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path
from typing import Any

import pytest
from short_runs import TINY, go

from rl.config import RunConfig
from rl.config.compose import compose
from rl.config.text import progress_text
from rl.sweeps.display import line_of, overview, table
from rl.sweeps.plan import plan_sweep
from rl.training.progress import Progress


class Time:
    now = 0.0

    def pass_s(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    passing = Time()
    monkeypatch.setattr(time, "monotonic", lambda: passing.now)
    return passing


def test_eta_counts_the_evaluations_to_come(clock: Time, caplog: pytest.LogCaptureFixture) -> None:
    """100k frames, 1 s each 10k; an evaluation of 3 s each 20k: 25 s in all."""
    config = compose(["frames=100k", "eval.every=20k"], RunConfig).config
    progress = Progress(config)
    progress.start_session(0)
    caplog.set_level(logging.INFO, "encore")

    def evaluate() -> dict[str, Any]:
        clock.pass_s(3)
        return {"frames": 0, "total_reward": 1.0, "total_reward_ma": 1.0}

    for frames in range(10_000, 100_001, 10_000):
        clock.pass_s(1)
        progress.row({"frames": frames, "fps": 1.0, "total_reward_ma": None})
        if frames % 20_000 == 0:
            progress.evaluation(evaluate)
    shown = [int(s) for s in re.findall(r"eta 0:00:(\d\d)", caplog.text)]
    assert shown[2:] == [7 + 4 * 3, 6 + 3 * 3, 5 + 3 * 3, 4 + 2 * 3, 3 + 2 * 3, 2 + 3, 1 + 3, 0]
    assert shown[:2] == [9, 8]  # before anybody knows how long one takes


def test_a_resumed_session_has_its_own_speed(clock: Time) -> None:
    progress = Progress(compose(["frames=100k", "eval.every=null"], RunConfig).config)
    progress.start_session(90_000)
    clock.pass_s(1)
    assert progress.eta_s(95_000) == 1


@pytest.mark.parametrize("width", [200, 70, 55, 40, 20, 12])
def test_a_narrow_terminal_keeps_the_eta(width: int) -> None:
    text = progress_text(10_240, 200_000, 1234.5, 27.8, 3725, width=width)
    assert len(text) <= width
    assert text.endswith("eta 1:02:05")
    assert ("fps 1" in text, "frames" in text) == (width >= 70, width >= 40)


@pytest.mark.usefixtures("few_scores")
@pytest.mark.parametrize(
    ("solved", "says"),
    [("1", "reached by the best and the last weights"), ("5000", "not reached"), ("null", None)],
)
def test_progress_and_the_end_say_whether_it_is_solved(
    solved: str, says: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "encore")
    assert go(Path("run"), *TINY, "frames=256", f"env.solved={solved}") == 0
    assert (f", solved at {solved}, eta" in caplog.text) == (solved != "null")
    assert bool(re.search(r"evaluation at 192: .*, solved \(1\)\n", caplog.text)) == (solved == "1")
    found = re.findall(r"solved is a mean return of \d+: (.*)", caplog.text)
    assert found == ([] if says is None else [says])
    assert re.search(r"report: +python -m rl.report run\n", caplog.text)


@pytest.mark.usefixtures("few_scores")
def test_a_sweep_says_how_many_are_done_and_when_all_will_be() -> None:
    sweep = plan_sweep(
        [*TINY, "frames=128", "seed=range(1,10)", "hydra.sweep.dir=sweep"], check=lambda _: None
    )
    assert overview(sweep) == "0 of 9 done"
    for job in sweep.jobs[:3]:
        assert go(Path("sweep") / job.name, *TINY, f"frames={64 if job.name == 'seed=3' else 128}") == 0
        job.state = "finished"
    sweep.jobs[2].state = "stopped"  # half way
    path = Path("sweep/seed=3/ckpt")
    assert path.is_dir()
    sweep.jobs[3].state = "running"
    assert re.fullmatch(r"3 of 9 done, eta \d+:\d\d:\d\d", overview(sweep))
    assert line_of(sweep, sweep.jobs[2], 80) == "seed=3: stopped"


@pytest.mark.usefixtures("few_scores")
def test_a_stopped_job_shows_its_score() -> None:
    sweep = plan_sweep([*TINY, "frames=512", "seed=1,2", "hydra.sweep.dir=sweep"], check=lambda _: None)
    assert go(Path("sweep/seed=1"), *TINY, "frames=256", "seed=1") == 0
    Path("sweep/seed=1/result.json").unlink()
    sweep.jobs[0].state = "stopped"
    row = next(line for line in table(sweep).splitlines() if line.startswith("seed=1"))
    assert re.fullmatch(r"seed=1  stopped  256 of 512  +\d+\.\d  \d+\.\d", row), row
