from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from short_runs import TINY, begun, go, iterate, record

from rl.config import EnjoyConfig
from rl.config.compose import compose
from rl.config.overrides import Overrides
from rl.config.text import score_text
from rl.enjoy import enjoy
from rl.report.group import Result
from rl.report.page import final_scores
from rl.report.runs import read_run
from rl.runs.__main__ import describe
from rl.runs.tables import read_rows
from rl.search import best_score
from rl.sweeps import display
from rl.sweeps.record import Job
from rl.training.evaluate import Interrupted, play

pytestmark = pytest.mark.usefixtures("few_scores")


def test_training_is_the_same_however_often_it_is_evaluated(tmp_path: Path) -> None:
    assert go(tmp_path / "never", *TINY, "eval.every=null") == 0
    assert go(tmp_path / "always", *TINY, "eval.every=64", "eval.episodes=7") == 0
    never, always = record(tmp_path / "never"), record(tmp_path / "always")
    training = [name for name in never if name.startswith(("metrics.csv", "ckpt-640.pt", "ckpt-512.pt"))]
    assert len(training) > 200
    assert [
        name
        for name in training
        if not (
            torch.equal(never[name], always[name])
            if torch.is_tensor(never[name])
            else never[name] == always[name]
        )
    ] == []


def test_global_generators_are_put_back(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", *TINY)
    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    action = run.parts.streams.action.bit_generator.state
    play(run.agent, run.parts.make_env, 3, 0, explore=True)
    assert (random.getstate(), str(np.random.get_state())) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert run.parts.streams.action.bit_generator.state == action


def test_returns_do_not_depend_on_the_number_of_envs(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", *TINY)
    iterate(run, 3)
    one, three, wide = (play(run.agent, run.parts.make_env, 12, 5, width=width) for width in (1, 3, 50))
    assert one == three == wide
    assert len(set(one.lengths)) > 1


def test_every_env_plays_its_quota_of_episodes(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", *TINY)
    played: list[tuple[float, int]] = []
    scores = play(
        run.agent,
        run.parts.make_env,
        7,
        1,
        width=3,
        on_episode=lambda total, length: played.append((total, length)),
    )
    assert sorted(played) == sorted(zip(scores.returns, scores.lengths, strict=True))
    assert len(played) == 7
    assert scores == play(run.agent, run.parts.make_env, 7, 1, width=3)
    assert scores != play(run.agent, run.parts.make_env, 7, 2, width=3)


def test_a_stop_interrupts_the_episodes(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", *TINY)
    with pytest.raises(Interrupted):
        play(run.agent, run.parts.make_env, 100, 0, stop=lambda: True)


def test_the_summary_by_hand_numbers(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", *TINY, "env=gym", "env.id=tiny_envs:Counting-v0", "+env.kwargs.length=4")
    expected = {
        "episodes": 3,
        "total_reward": 10.0,
        "total_reward_std": 0.0,
        "total_reward_min": 10.0,
        "total_reward_max": 10.0,
        "episode_length": 4.0,
    }
    assert play(run.agent, run.parts.make_env, 3, 0).summary() == expected


def test_an_episode_is_cut_with_its_return_so_far(capsys: pytest.CaptureFixture[str]) -> None:
    """Episodes of 4 steps with the rewards 1, 2, 3, 4: evaluated, scored and watched for 2 of them."""
    run = Path("run")
    env = ["env=gym", "env.id=tiny_envs:Counting-v0", "env.kwargs.length=4"]
    assert go(run, *TINY, *env, "eval.max_steps=2") == 0
    assert {row["total_reward"] for row in read_rows(run / "eval.csv")} == {"3.0"}
    assert {row["episode_length"] for row in read_rows(run / "eval.csv")} == {"2.0"}
    result = json.loads((run / "result.json").read_text())
    assert [(result[n]["total_reward"], result[n]["cut"]) for n in ("last", "best")] == [(3.0, 4)] * 2
    for max_steps, returns, note in (
        (2, [3.0], ", 1 of 1 episode cut at 2 steps\n"),
        (4, [10.0], "1 episode\n"),
    ):
        words = ["run=run", "episodes=1", "render=none", f"max_steps={max_steps}"]
        assert enjoy(compose(words, EnjoyConfig, "enjoy").config).returns == returns
        assert capsys.readouterr().out.endswith(note)


def test_of_equal_scores_the_later_is_the_best(tmp_path: Path) -> None:
    assert go(tmp_path / "run", *TINY, "env=gym", "env.id=tiny_envs:Counting-v0") == 0
    assert record(tmp_path / "run")["link"] == "ckpt-best-576.pt"


def test_best_and_last_are_the_same_numbers_everywhere() -> None:
    """Of a finished run those of result.json; of one that is not, those by which its best was chosen."""
    run = Path("sweep/seed=0")
    line = [*TINY, "frames=320", "eval.episodes=25", "env.num_envs=2"]
    assert go(run, *line) == 0
    result = json.loads((run / "result.json").read_text())
    job = Job("seed=0", Overrides(), Overrides(), state="finished", frames=320)
    sweep = SimpleNamespace(jobs=[job], folder_of=lambda job: run)

    def shown() -> list[dict[str, Any]]:
        described, reported = describe(run), read_run(run)
        in_table = display.table(cast(Any, sweep)).splitlines()[-1].split()
        _, last, best = final_scores(Result([reported]))
        assert in_table[-2:] == [score_text(described[name]) for name in ("last", "best")]
        assert best_score(run) == described["best"]
        return [{n: described[n] for n in ("last", "best")}, {"last": last[0], "best": best[0]}]

    finished = {name: result[name]["total_reward"] for name in ("last", "best")}
    assert shown() == [finished, finished]
    (run / "result.json").unlink()
    rows = read_rows(run / "eval.csv")
    assert all(row["total_reward_ma"] == row["total_reward"] for row in rows)
    scores = [float(row["total_reward"]) for row in rows]
    assert shown() == [{"last": scores[-1], "best": max(scores)}] * 2
    assert read_run(run).frames == describe(run)["frames"] == 320
