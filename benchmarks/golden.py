"""`python -m benchmarks.golden make|compare [place=DIR] [only=TEXT]`: short runs whose bits a refactor must
not move.

`make` trains every case of the table from the command line and writes to DIR (default ../golden, outside the
tree) the hashes of what each ends with: every part of its last checkpoint, its metric rows and its result. Of
every algorithm it also leaves a run folder that was stopped half way. `compare` trains all of them again with
the code as it is, resumes copies of the half-way folders, and names what differs. Without a difference it
exits with 0.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import ROOT

FRAMES = 1536
SHORT = [
    *(f"frames={FRAMES}", "seed=3", "log_every=256", "eval.every=512", "eval.episodes=2", "ckpt.every=512"),
    *("ckpt.minutes=null", "progress=false"),
]
OF_TIME = {"wall_s", "fps"}  # columns and results that measure the machine
NORMALIZED = ["algo.normalize_obs=true", "algo.normalize_reward=true"]
OFF_POLICY = [
    "algo.learning_starts=256",
    "algo.replay.capacity=1000",
    "algo.network.hidden=[32,32]",
    "algo.updates_per_frame=0.5",
]
BY_STEP = ["algo.network.hidden=[32,32]", "algo.rollout_length=32"]
PONG = ["env=pong", "env.num_envs=2", "frames=256", "log_every=64", "eval.every=null", "ckpt.every=128"]
SMALL_CNN = [
    "algo.network._target_=rl.pixels.NatureCNN",
    "+algo.network.channels=[4,8,8]",
    "algo.network.hidden=[32]",
]

# one for each algorithm: these also resume from a folder that the code of `make` left half way
ALGORITHMS = {
    "reinforce": ["algo.rollout_length=64"],
    "a2c": ["algo=a2c", *NORMALIZED],
    "ppo": ["algo=ppo", "algo.rollout_length=64", "algo.minibatch_size=64", *NORMALIZED],
    "recurrent_ppo": ["algo=recurrent_ppo", "algo.rollout_length=64", "algo.minibatch_size=64", *NORMALIZED],
    "pqn": ["algo=pqn", "algo.normalize_obs=true", *BY_STEP],
    "sarsa": ["algo=sarsa", "algo.normalize_obs=true", *BY_STEP],
    "dqn": ["algo=dqn", "algo.normalize_obs=true", *OFF_POLICY],
    "ddqn_per": ["algo=ddqn_per", *OFF_POLICY],
    "qr_dqn": ["algo=qr_dqn", *OFF_POLICY],
    "rainbow": ["algo=rainbow", *OFF_POLICY],
    "sac": ["algo=sac", "env=pendulum", "algo.normalize_obs=true", *OFF_POLICY],
    "sac_discrete": ["algo=sac_discrete", "algo.normalize_obs=true", *OFF_POLICY],
    "td3": ["algo=td3", "env=pendulum", "algo.normalize_obs=true", *OFF_POLICY],
    "ddpg": ["algo=ddpg", "env=pendulum", *OFF_POLICY],
    "crossq": [
        "algo=crossq",
        "env=pendulum",
        "algo.normalize_obs=true",
        "algo.critic_network.hidden=[32,32]",
        *OFF_POLICY,
    ],
    "tqc": [
        "algo=tqc",
        "env=pendulum",
        "algo.normalize_obs=true",
        "algo.critic_network.hidden=[32,32]",
        *OFF_POLICY,
    ],
    "random": ["algo=random", "algo.rollout_length=64"],
}
_PPO = ["algo=ppo", "algo.rollout_length=64", "algo.minibatch_size=64"]
FORKED = "ppo plain"  # the run that a case forks
VARIANTS = {
    "reinforce baseline": ["algo.rollout_length=64", "algo.baseline=true", "algo.max_grad_norm=null"],
    "reinforce compiled": ["algo.rollout_length=64", "algo.baseline=true", "compile=true"],
    "reinforce pendulum": [
        "env=pendulum",
        "algo.rollout_length=64",
        "algo.baseline=true",
        "algo.center_returns=false",
    ],
    "a2c plain": ["algo=a2c"],
    "a2c shared": ["algo=a2c", "algo.shared_network=true", "algo.normalize_advantage=true"],
    "a2c value_lr, compiled": ["algo=a2c", "algo.value_lr=1e-3", "compile=true"],
    "a2c pendulum": ["algo=a2c", "env=pendulum"],
    "ppo plain": _PPO,
    "ppo defaults": ["algo=ppo", "frames=4096"],
    "ppo shared": [*_PPO, "algo.shared_network=true", *NORMALIZED],
    "ppo compiled": [*_PPO, *NORMALIZED, "compile=true", "algo.value_clip_range=0.2"],
    "ppo value_lr": [
        *_PPO,
        "algo.value_lr=1e-3",
        "algo.target_kl=0.003",
        "algo.clip_range=[[0,0.2],[2k,0.1]]",
    ],
    "ppo AdamW": [
        *_PPO,
        "algo.optimizer={_target_: torch.optim.AdamW}",
        "algo.network.activation=relu",
        "algo.network.init=default",
    ],
    "ppo pendulum async": [*_PPO, "env=pendulum", "env.vectorization=async", "env.num_envs=2"],
    "ppo halfcheetah": [*_PPO, "env=halfcheetah", *NORMALIZED],
    "ppo bipedal walker": [*_PPO, "env=bipedal_walker", "env.num_envs=2"],
    "ppo LayerNormMLP": [*_PPO, "algo.network._target_=rl.networks.LayerNormMLP"],
    "ppo two threads": [*_PPO, "threads=2"],
    "ppo pong native": [*_PPO, *PONG, *SMALL_CNN, "algo.shared_network=true"],
    "ppo pong sync": [*_PPO, *PONG, *SMALL_CNN, "algo.shared_network=true", "env.vectorization=sync"],
    "ppo pong ImpalaResNet": [
        *_PPO,
        *PONG,
        *SMALL_CNN,
        "algo.network._target_=rl.pixels.ImpalaResNet",
        "env.deepmind=true",
        "frames=128",
    ],
    "ppo sampled actions of a fork": [*_PPO, f"fork={{{FORKED}}}@last", "algo.lr=1e-4"],
    "recurrent_ppo compiled": [
        "algo=recurrent_ppo",
        "algo.rollout_length=64",
        "algo.minibatch_size=64",
        "compile=true",
    ],
    "recurrent_ppo lunar_lander": [
        "algo=recurrent_ppo",
        "env=lunar_lander",
        "algo.value_clip_range=0.2",
        *NORMALIZED,
    ],
    "pqn huber, Boltzmann": [
        "algo=pqn",
        "algo.loss=huber",
        "algo.epsilon=null",
        "algo.temperature=0.5",
        *BY_STEP,
    ],
    "sarsa one step": ["algo=sarsa", "algo.td_lambda=0", "algo.loss=squared", *BY_STEP],
    "sarsa compiled": ["algo=sarsa", "compile=true", *BY_STEP],
    "dqn compiled": ["algo=dqn", "compile=true", *OFF_POLICY],
    "dqn polyak": [
        "algo=dqn",
        "algo.target_every=null",
        "algo.target_tau=0.01",
        "algo.n_step=3",
        "algo.loss=squared",
        *OFF_POLICY,
    ],
    "dqn pong": [
        "algo=dqn",
        *PONG,
        *SMALL_CNN,
        "algo.learning_starts=64",
        "algo.replay.capacity=200",
        "algo.batch_size=8",
    ],
    "rainbow pong": [
        *(
            "algo=rainbow",
            *PONG,
            "algo.network._target_=rl.pixels.NoisyDuelingNatureCNN",
            "+algo.network.channels=[4,8,8]",
        ),
        *(
            "algo.network.hidden=[32]",
            "algo.learning_starts=64",
            "algo.replay.capacity=200",
            "algo.batch_size=8",
        ),
    ],
    "rainbow compiled": ["algo=rainbow", "compile=true", *OFF_POLICY],
    "ddqn_per acrobot refill": ["algo=ddqn_per", "env=acrobot", "algo.replay.on_resume=refill", *OFF_POLICY],
    "sac compiled": ["algo=sac", "env=pendulum", "compile=true", *OFF_POLICY],
    "sac hopper, prioritised": [
        *(
            "algo=sac",
            "env=hopper",
            "+algo.replay.alpha=0.6",
            "+algo.replay.beta=[[0,0.4],[2k,1]]",
            "+algo.replay.epsilon=1e-6",
        ),
        *("algo.replay._target_=rl.replay.PrioritizedReplay", *OFF_POLICY),
    ],
    "sac LayerNormMLP": [
        "algo=sac",
        "env=pendulum",
        "algo.network._target_=rl.networks.LayerNormMLP",
        "algo.actor_lr=1e-3",
        *OFF_POLICY,
    ],
    "sac_discrete compiled": ["algo=sac_discrete", "compile=true", *OFF_POLICY],
    "sac SimBa": ["algo=sac", "env=pendulum", "algo.network._target_=rl.networks.SimBa", *OFF_POLICY],
    "tqc compiled": [
        "algo=tqc",
        "env=pendulum",
        "compile=true",
        "algo.critic_network._target_=rl.networks.SimBa",
        "algo.critic_network.hidden=[32,32]",
        *OFF_POLICY,
    ],
    "td3 compiled": ["algo=td3", "env=pendulum", "compile=true", *OFF_POLICY],
    "crossq compiled": [
        "algo=crossq",
        "env=pendulum",
        "compile=true",
        "algo.critic_network.hidden=[32,32]",
        *OFF_POLICY,
    ],
}
SWEEPS = {
    "sweep": ["-m", "algo=reinforce,a2c", "seed=1,2", "algo.rollout_length=32", "launcher=processes"],
    "search": ["algo=a2c", "n_trials=3", "+sampler.seed=1"],
}

# two evaluation episodes at a run's end, not 100: those of Pong would take minutes
_PROGRAM = "import {module} as module, rl.train; module.SCORE_EPISODES = 2; rl.train.main()"


def program() -> list[str]:
    """What trains a run from the command line, ending with a short score."""
    module = "rl.training.run" if (ROOT / "rl" / "training").exists() else "rl.train"
    return [sys.executable, "-c", _PROGRAM.format(module=module)]


def run(command: list[str]) -> None:
    """One process. RuntimeError with what it said if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
        )


def train(folder: Path, overrides: list[str]) -> None:
    """One run from its start or from its checkpoint."""
    run([*program(), f"hydra.run.dir='{folder}'", *SHORT, *overrides])


def hashes(folder: Path) -> dict[str, str]:
    """What a run ended with: a hash for each part of its newest checkpoint, for its tables and for its
    result.
    """
    frames = max(int(path.stem.partition("-")[2]) for path in (folder / "ckpt").glob("ckpt-*.json"))
    state = torch.load(folder / "ckpt" / f"ckpt-{frames}.pt", weights_only=True)
    found = {f"checkpoint {name}": _hash(part) for name, part in state.items()}
    for name in ("metrics.csv", "eval.csv"):
        with (folder / name).open(newline="") as file:
            found[name] = _hash(
                [{k: v for k, v in row.items() if k not in OF_TIME} for row in csv.DictReader(file)]
            )
    result = json.loads((folder / "result.json").read_text())
    return found | {
        "result.json": _hash({name: value for name, value in result.items() if name not in OF_TIME})
    }


def _hash(value: Any) -> str:
    digest = hashlib.sha256()
    _feed(digest.update, value, "")
    return digest.hexdigest()[:16]


def _feed(update: Callable[[bytes], None], value: Any, path: str) -> None:
    if isinstance(value, dict):
        for name in sorted(value, key=str):
            _feed(update, value[name], f"{path}/{name}")
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            _feed(update, part, f"{path}/{number}")
    elif isinstance(value, torch.Tensor):
        update(f"{path} {value.dtype} {list(value.shape)}".encode() + value.contiguous().numpy().tobytes())
    else:
        update(f"{path} {value!r}".encode())


def measure(place: Path, only: str) -> dict[str, dict[str, str]]:
    """Train all cases; what each ended with. A case that fails has its error in place of hashes."""
    cases = {name: overrides for name, overrides in {**ALGORITHMS, **VARIANTS}.items() if only in name}
    sweeps = {name: overrides for name, overrides in SWEEPS.items() if only in name}
    forks = [name for name, overrides in cases.items() if any(text.startswith("fork=") for text in overrides)]
    if forks:
        cases |= {FORKED: VARIANTS[FORKED]}
    found: dict[str, dict[str, str]] = {}

    def one(name: str) -> None:
        def do() -> dict[str, str]:
            train(place / name, [text.replace(f"{{{FORKED}}}", str(place / FORKED)) for text in cases[name]])
            return hashes(place / name)

        found[name] = attempt(name, do)

    def one_sweep(name: str) -> None:
        attempt(name, lambda: sweep(place / name, sweeps[name]))
        for job in sorted(path.parent for path in (place / name).glob("*/result.json")):
            found[f"{name} {job.name}"] = hashes(job)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, sorted(cases.keys() - set(forks), key=lambda name: "compile" not in name)))
        list(pool.map(one, forks))
        list(pool.map(one_sweep, sweeps))
    return found


def attempt(name: str, action: Callable[[], dict[str, str]]) -> dict[str, str]:
    """What an action gives, or its error; says that it was done."""
    try:
        result = action()
    except RuntimeError as error:
        print(f"FAILED {name}: {error}", flush=True)
        return {"error": str(error)}
    print(f"  {name}", flush=True)
    return result


def sweep(folder: Path, overrides: list[str]) -> dict[str, str]:
    """A sweep or a search in `folder`. Their jobs end with 100 episodes each."""
    command = [sys.executable, "train.py"] if "-m" in overrides else [sys.executable, "-m", "rl.search"]
    run([*command, *overrides, f"hydra.sweep.dir='{folder}'", *SHORT])
    return {}


def make(place: Path, only: str) -> None:
    """Write the table and the half-way folders."""
    table = place / "golden.json"

    def half(name: str) -> None:
        shutil.rmtree(place / "halves" / name, ignore_errors=True)
        train(place / "halves" / name, [*ALGORITHMS[name], f"frames={FRAMES // 2}"])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(half, [name for name in ALGORITHMS if only in name]))
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        found = measure(Path(folder), only)
    before = json.loads(table.read_text()) if only and table.exists() else {}
    table.write_text(json.dumps(before | found, indent=1, sort_keys=True))
    print(f"{len(found)} runs in {table}")


def compare(place: Path, only: str) -> int:
    """Train all cases again; the number of runs that differ."""
    wanted = json.loads((place / "golden.json").read_text())
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        found = measure(Path(folder), only)
        wanted = {name: parts for name, parts in wanted.items() if only in name}
        new = [name for name in found if name not in wanted]
        print(f"not in the table, so not compared: {', '.join(new)}" if new else "")
        found = {name: parts for name, parts in found.items() if name in wanted}
        halves = [name for name in ALGORITHMS if only in name and (place / "halves" / name).exists()]

        def resume(name: str) -> None:
            copy = Path(folder) / "halves" / name
            shutil.copytree(place / "halves" / name, copy, symlinks=True)

            def do() -> dict[str, str]:
                train(copy, [f"frames={FRAMES}"])
                return hashes(copy)

            title = f"{name}, resumed from the old code"
            found[title] = attempt(title, do)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(resume, halves))
    wanted |= {f"{name}, resumed from the old code": wanted[name] for name in halves}
    wrong = 0
    for name in sorted(wanted.keys() | found.keys()):
        one, other = wanted.get(name, {}), found.get(name, {})
        parts = [part for part in sorted(one.keys() | other.keys()) if one.get(part) != other.get(part)]
        if parts:
            wrong += 1
            print(f"DIFFERS {name}: {', '.join(parts)}")
    print(f"{len(wanted)} runs, {wrong} differ" if wrong else f"{len(wanted)} runs, all equal")
    return wrong


def main() -> None:
    """Make the table, or compare with it."""
    words = dict(word.split("=", 1) for word in sys.argv[2:])
    place, only = Path(words.get("place", ROOT.parent / "golden")).absolute(), words.get("only", "")
    place.mkdir(parents=True, exist_ok=True)
    if sys.argv[1:2] == ["make"]:
        make(place, only)
    elif sys.argv[1:2] == ["compare"]:
        raise SystemExit(1 if compare(place, only) else 0)
    else:
        print(__doc__)
        raise SystemExit(2)


if __name__ == "__main__":
    main()
