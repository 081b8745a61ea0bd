"""Kill -9 in the middle of runs of the real command line: they resume to the run that was never killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.compare import differences

ROOT = Path(__file__).resolve().parent.parent
COMMON = (
    *(
        "env=cartpole",
        "env.num_envs=2",
        "algo.rollout_length=16",
        "algo.network.hidden=[8,8]",
        "frames=6k",
        "log_every=500",
    ),
    *("eval.every=2k", "eval.episodes=2", "ckpt.every=1k", "algo.normalize_obs=true"),
    "algo.lr=[[0, 1e-2], [6k, 1e-3]]",
)
MEMORY = ("algo.learning_starts=200", "algo.batch_size=16", "algo.epsilon=[[0, 1], [3k, 0.1]]")
OWN = {
    "ppo": (
        "algo.minibatch_size=16",
        "algo.epochs=2",
        "algo.clip_range=[[0, 0.3], [6k, 0.1]]",
        "algo.normalize_reward=true",
    ),
    "a2c": ("env.vectorization=async", "algo.normalize_reward=true"),
    "ppo, compiled": (
        "algo.minibatch_size=16",
        "algo.epochs=2",
        "algo.normalize_reward=true",
        "compile=true",
    ),
    "recurrent_ppo": ("algo.minibatch_size=32", "algo.epochs=2", "algo.normalize_reward=true"),
    "recurrent_ppo, compiled": ("algo.minibatch_size=32", "algo.sequence_length=4", "compile=true"),
    "sarsa": (),
    "pqn": ("algo.minibatch_size=16", "algo.epsilon=[[0, 1], [3k, 0.1]]"),
    "dqn": (*MEMORY, "env.vectorization=async"),
    "ddqn_per": (*MEMORY, "algo.replay.capacity=1500", "algo.replay.beta=[[0, 0.4], [6k, 1]]"),
    "qr_dqn": MEMORY,
    "rainbow": (*MEMORY[:2], "algo.replay.capacity=1500"),
}


def start(*overrides):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py"), *overrides]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize(
    "algo",
    [
        "ppo",
        "ddqn_per",
        *(pytest.param(algo, marks=pytest.mark.slow) for algo in OWN if algo not in ("ppo", "ddqn_per")),
    ],
)
def test_a_killed_run_comes_back_bit_for_bit(tmp_path, algo):
    overrides = (f"algo={algo.partition(',')[0]}", *COMMON, *OWN[algo])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    straight = start(*overrides, f"hydra.run.dir={whole}")
    output, _ = straight.communicate(timeout=120)
    assert straight.returncode == 0, output
    run = start(*overrides, f"hydra.run.dir={killed}")
    while run.poll() is None and not reached(killed, 3_500):
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=60)
    assert run.returncode == -signal.SIGKILL
    resumed = start(f"resume={killed}")
    output, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, output
    assert differences(whole, killed) == []


def reached(folder, frames):
    try:
        last_line = (folder / "metrics.csv").read_text().splitlines()[-1]
        return int(last_line.partition(",")[0]) >= frames
    except (OSError, IndexError, ValueError):  # no file, no line, the header
        return False
