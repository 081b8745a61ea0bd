"""A loss or weight of NaN or inf stops a run, which keeps its last good checkpoint and says how to go on."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path

import pytest
import torch
from short_runs import differences, frames_of, go, in_child, record, rows
from test_kills import LINE as ON_POLICY
from test_sweeps import run as sweep

from rl.serialize import load
from rl.state import not_finite
from rl.training.run import Run

RUN = Path("run")
OFF_POLICY = [
    "algo.rollout_length=16",
    "algo.learning_starts=40",
    "algo.batch_size=8",
    "algo.replay.capacity=100",
]
NARROW = {
    "crossq": ["algo.critic_network.hidden=[8]"],
    "tqc": ["algo.critic_network.hidden=[8]"],
    "ppo": ["algo.minibatch_size=8"],
    "recurrent_ppo": ["algo.minibatch_size=16"],
    "pqn": ["algo.minibatch_size=8"],
}
PENDULUM = ("sac", "td3", "ddpg", "crossq", "tqc")
DISCRETE = ("dqn", "ddqn_per", "qr_dqn", "rainbow", "sac_discrete")
ALGOS = ("reinforce", "a2c", "ppo", "recurrent_ppo", "sarsa", "pqn", *DISCRETE, *PENDULUM)


class Spoil:
    """A callback that makes one weight infinite at frame `frames`, if the file `spoil` exists."""

    def __init__(self, frames: int) -> None:
        self.frames = frames

    def __call__(self, run: Run) -> None:
        if run.clock.frames == self.frames and Path("spoil").exists() and run.config.seed != 2:
            with torch.no_grad():
                next(iter(next(iter(run.agent.parts.values())).parameters())).view(-1)[0] = torch.inf


def line(algo: str, frames: int) -> list[str]:
    off_policy = OFF_POLICY if algo in (*DISCRETE, *PENDULUM) else []
    env = ["env=pendulum"] if algo in PENDULUM else []
    spoil = f"callbacks=[{{_target_: test_divergence.Spoil, frames: {frames}}}]"
    return [*ON_POLICY, "eval.every=64", f"algo={algo}", *off_policy, *NARROW.get(algo, []), *env, spoil]


@pytest.mark.usefixtures("few_scores", "composed_once")
@pytest.mark.parametrize(  # within an interval, or just before a checkpoint
    ("algo", "frames"), [*((algo, 96) for algo in ALGOS), ("ppo", 128), ("td3", 128)]
)
def test_a_diverged_run_keeps_its_last_good_checkpoint(algo: str, frames: int) -> None:
    assert go(Path("straight"), *line(algo, frames)) == 0
    Path("spoil").touch()
    assert in_child(functools.partial(go, RUN, *line(algo, frames)), Path("output")) == 1
    said = Path("output").read_text()
    assert re.search(
        r"stopped: at frame 128 .* (is (nan|inf)|holds NaN or inf); the checkpoint at frame 64 stands",
        said,
    )
    assert "Traceback" not in said
    assert frames_of(RUN) == [0, 64]
    for path in RUN.glob("ckpt/*.pt"):
        state = load(path.read_bytes(), "cpu")
        assert not_finite({name: part for name, part in state.items() if "replay" not in name}) == []
    both = rows(Path("straight/metrics.csv")), rows(RUN / "metrics.csv")
    assert [row["loss"] for row in both[1][:2]] == [row["loss"] for row in both[0][:2]]
    Path("spoil").unlink()
    assert in_child(functools.partial(go, RUN, *line(algo, frames))) == 0
    assert differences(record(Path("straight")), record(RUN)) == []


@pytest.mark.usefixtures("few_scores", "composed_once")
def test_the_command_offered_after_divergence_works() -> None:
    wild = [
        *line("reinforce", 0),
        "algo.optimizer._target_=torch.optim.SGD",
        "algo.lr=1e39",
        "algo.max_grad_norm=null",
    ]
    assert in_child(functools.partial(go, RUN, *wild), Path("output")) == 1
    offered = shlex.split(Path("output").read_text().partition("with a lower learning rate: ")[2])
    assert offered == ["python", "-m", "rl.train", f"resume={RUN}", "algo.lr=[[0,1e+39],[1,1e+38]]"]
    assert in_child(functools.partial(go, RUN, *wild, offered[-1]), Path("again")) == 0
    assert "going on at frame 0" in Path("again").read_text()


@pytest.mark.usefixtures("few_scores")
def test_an_environment_with_nan_is_named_as_the_reason() -> None:
    broken = [*ON_POLICY, "env=gym", "env.id=tiny_envs:NaNReward-v0"]
    assert in_child(functools.partial(go, RUN, *broken), Path("output")) == 1
    assert (
        "the environment gave a reward or an observation that is not finite; the checkpoint at frame 0 stands"
        in Path("output").read_text()
    )


@pytest.mark.usefixtures("few_scores")
def test_a_diverged_job_fails_and_the_others_continue(capsys: pytest.CaptureFixture[str]) -> None:
    Path("spoil").touch()
    code, _, planned = sweep(*line("a2c", 96), "hydra.sweep.dir=sweep", "seed=1,2")
    assert code == 1
    assert [job.state for job in planned.jobs] == ["failed", "finished"]
    assert "exit code 1: stopped: at frame 128" in capsys.readouterr().out
