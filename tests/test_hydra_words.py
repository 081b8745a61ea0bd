"""Hydra's own flags and words do in train.py what Hydra's documentation says of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from short_runs import ROOT, TINY, go, typed

import rl.train
from rl.config.hydra_words import read_words
from rl.config.invocation import Flags, set_flags
from rl.config.overrides import Overrides
from rl.runs.completion import completed
from rl.sweeps.plan import plan_sweep


@pytest.fixture(autouse=True)
def no_flags_left() -> Iterator[None]:
    yield
    set_flags(Flags())


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What train.py prints, in this process."""

    def call(*words: str) -> str:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py"), *words])
        capsys.readouterr()
        rl.train.main()
        return capsys.readouterr().out

    return call


def own_conf(**files: str) -> str:
    for name, text in files.items():
        path = Path("own") / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return "--config-dir=own"


MINE = "defaults:\n  - config\n  - _self_\nseed: 5\n"


def test_config_name_chooses_the_primary_file(printed: Callable[..., str]) -> None:
    assert printed(own_conf(mine=MINE), "--config-name=mine", "-c", "job", "-p", "seed") == "5\n"


def test_a_run_has_the_values_of_config_name() -> None:
    done = typed(own_conf(mine=MINE), "--config-name=mine", *TINY, "frames=64", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert "64 frames of CartPole-v1, seed 5" in done.stdout
    assert "seed: 5" in Path("run/config.yaml").read_text()
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("train it on:")]
    assert "--config-name=mine --config-dir=own resume=" in line


def test_config_path_replaces_conf(printed: Callable[..., str]) -> None:
    own_conf(config="seed: 7\nalgo: null\n")
    with pytest.raises(SystemExit):  # a folder of one's own has to have all keys
        printed("--config-path=own", "-c", "job")
    assert "seed: 0" in printed(f"--config-path={ROOT / 'conf'}", "-c", "job")


def test_cfg_shows_the_configuration_of_a_resumed_run(printed: Callable[..., str]) -> None:
    assert go(Path("outputs/a/run"), *TINY, "frames=128", "algo.gamma=0.5") == 0
    shown = printed("-c", "job", "resume=latest", "frames=1k", "log_every=5")
    assert "gamma: 0.5" in shown
    assert "log_every: 5" in shown
    assert "gamma: 0.5" in printed("-c", "job", "resume=latest")  # a finished one too
    assert printed("-c", "job", "-p", "algo.gamma", "resume=latest") == "0.5\n"  # as Hydra prints a value


def test_cfg_resolves_only_when_asked(printed: Callable[..., str]) -> None:
    assert "frames: ${env.frames}" in printed("-c", "job")
    assert "frames: ${env.frames}" not in printed("-c", "job", "--resolve")


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        ("basic", ["launcher=basic"]),
        ("joblib", ["launcher=processes"]),
        ("submitit_local", ["launcher=slurm", "launcher.cluster=local"]),
        ("submitit_slurm", ["launcher=slurm", "launcher.cluster=slurm"]),
        ("ray", ["launcher=ray"]),
    ],
)
def test_hydras_launchers_are_ours(word: str, ours: list[str]) -> None:
    overrides, multirun = read_words(Overrides([f"hydra/launcher={word}", "seed=1,2"]), multirun=True)
    assert (overrides.texts, multirun) == ([*ours, "seed=1,2"], True)


def test_mode_multirun_is_a_sweep() -> None:
    overrides, multirun = read_words(Overrides(["hydra.mode=MULTIRUN", "seed=1,2"]), multirun=False)
    assert (overrides.texts, multirun) == (["seed=1,2"], True)


def names(*words: str, config_dir: str | None = None) -> list[str]:
    return [job.name for job in plan_sweep(words, config_dir, check=lambda plan: None).jobs]


def test_range_choice_and_glob_are_several_values() -> None:
    assert names("seed=range(1,6)") == [f"seed={n}" for n in range(1, 6)]
    assert names("seed=choice(3,5)") == ["seed=3", "seed=5"]
    assert names("algo=glob(re*)", "seed=1,2") == [
        f"algo={algo},seed={seed}" for algo in ("recurrent_ppo", "reinforce") for seed in (1, 2)
    ]


SWEEP = """# @package _global_
hydra:
  sweeper:
    params:
      seed: 1,2
      algo.lr: 1e-3,2e-3
"""


def test_an_experiment_can_hold_a_sweep() -> None:
    own_conf(experiment__mine=SWEEP)
    assert names("experiment=mine", config_dir="own") == [
        f"seed={seed},algo.lr={lr}" for seed in (1, 2) for lr in ("0.001", "0.002")
    ]
    assert names("experiment=mine", "seed=7", config_dir="own") == ["algo.lr=0.001", "algo.lr=0.002"]


def test_mode_in_a_file_makes_a_sweep_whose_jobs_are_runs() -> None:
    flag = own_conf(experiment__mine=f"{SWEEP.replace('1e-3,2e-3', '1e-3')}  mode: MULTIRUN\n")
    done = typed(flag, "experiment=mine", *TINY, "frames=64", "hydra.sweep.dir=sweep")
    assert done.returncode == 2
    assert done.stderr.startswith("hydra.sweep.dir=sweep says where a sweep goes")
    done = typed(
        flag, "experiment=mine", *TINY, "frames=64", "launcher=processes", "-m", "hydra.sweep.dir=sweep"
    )
    assert done.returncode == 0, done.stderr
    done = typed(flag, "experiment=mine", *TINY, "frames=64")
    assert done.returncode == 0, done.stderr
    (sweep,) = Path("outputs/sweeps").iterdir()
    for folder in (Path("sweep"), sweep):
        assert sorted(path.parent.name for path in folder.glob("*/result.json")) == ["seed=1", "seed=2"]


def test_disabled_job_logging_trains_in_silence() -> None:
    done = typed(*TINY, "frames=64", "hydra/job_logging=disabled", "hydra.run.dir=run")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert Path("run/result.json").exists()
    assert not Path("run/train.log").exists()


@pytest.mark.parametrize("key", ["resume", "fork", "run"])
def test_tab_completes_run_folders(
    key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b", "a"):
        Path(f"outputs/dqn_x/{name}/ckpt").mkdir(parents=True)
    Path("outputs/sweeps/s/seed=1/ckpt").mkdir(parents=True)
    Path("outputs/sweeps/s/sweep.json").touch()

    def complete(line: str) -> list[str] | None:
        monkeypatch.setenv("COMP_LINE", line)
        monkeypatch.setenv("COMP_POINT", str(len(line)))
        return capsys.readouterr().out.split() if completed(["query=bash"]) else None

    assert complete(f"python train.py {key}=") == [
        f"{key}={name}"
        for name in ("latest", "outputs/sweeps/s/seed=1", "outputs/dqn_x/b", "outputs/dqn_x/a")
    ]
    assert complete(f"python train.py {key}=outputs/d") == [
        f"{key}=outputs/dqn_x/b",
        f"{key}=outputs/dqn_x/a",
    ]
    assert complete(f"python train.py -m {key}=") == [f"{key}=latest", f"{key}=outputs/sweeps/s"]
    assert complete("python train.py algo=") is None
    assert not completed(["install=bash"])
