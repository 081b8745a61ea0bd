"""Command lines that cannot be done: one message each, exit code 2, nothing on disk, no traceback."""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from short_runs import ROOT, TINY, contents, go

import rl.enjoy
import rl.train

# what is typed, and what the message begins with or has in it
TRAIN = {
    # names
    "algo.learning_rate=0.1": "algo.learning_rate: no such key; did you mean algo.lr?",
    "algo.gama=0.9": "algo.gama: no such key; did you mean algo.gamma?",
    "+algo.foo=3": "algo.foo: no such key; there are algo.",
    "++algo.foo=3": "algo.foo: no such key; there are algo.",
    "+foo=1": "foo: no such key",
    "+note=x": "note: no such key; did you mean tags.note?",
    "total_timesteps=1M": "total_timesteps: no such key; did you mean frames?",
    "env.n_envs=4": "env.n_envs: no such key; did you mean env.num_envs?",
    "algo=reinforc": "algo=reinforc: no such algo; did you mean reinforce?",
    "algo=rl.algos.sac.SAC": "algo=rl.algos.sac.SAC: no such algo; did you mean sac?",
    "algo=": "algo=: no such algo",
    "algo=null": "algo=null: no such algo",
    "~algo": "~algo: a run needs an algo; type algo=...",
    "env=cartpol": "env=cartpol: no such env; did you mean cartpole?",
    "env=null": "env=null: no such env",
    "env=gym": "env.id: missing; type env.id=...",
    "env=gym env.id=NoSuchEnv-v0": "env.id=NoSuchEnv-v0: Environment `NoSuchEnv` doesn't exist",
    "env=atari": "env.game: missing; type env.game=...",
    "experiment=ppo_lunar_landr": "no such experiment; did you mean ppo_lunar_lander?",
    "logger=tensorbord": "logger=tensorbord: no such logger; did you mean tensorboard?",
    "algo=dqn env=pendulum": "algo=dqn: it needs a Discrete action space",
    "algo.network._target_=rl.networks.MLQ": "did you mean rl.networks.MLP?",
    # values
    "frames=abc": "frames=abc: expected a whole count such as 20M",
    "frames=1e6.5": "frames=1e6.5: expected a whole count",
    "frames=": "frames=: expected a whole count",
    "frames=0": "frames=0: expected a whole count",
    "seed=one": "seed=one: expected a whole number from 0",
    "seed=1.5": "seed=1.5: expected a whole number from 0",
    "seed=-1": "seed=-1: expected a whole number from 0",
    "device=gpu": "device=gpu: expected one of cpu, cuda; did you mean device=cpu?",
    "compile=maybe": "compile=maybe: expected true or false",
    "matmul_precision=low": "matmul_precision=low: expected one of highest, medium",
    "stop_at=yes": "stop_at=yes: expected a number",
    "env.num_envs=0": "env.num_envs=0: expected a whole number from 1 to 100_000",
    "eval.episodes=0": "eval.episodes=0: expected a whole number from 1 to 1_000_000",
    "ckpt.best_by=reward": "did you mean ckpt.best_by=total_reward?",
    "algo.gamma=2": "algo.gamma=2: expected a number from 0 to 1",
    "algo.lr=-1": "algo.lr=-1: expected a number from 0, or a schedule of such numbers",
    "algo.lr=fast": "algo.lr=fast: expected a number, knots such as",
    "algo.network.activation=relo": "did you mean algo.network.activation=relu?",
    "callbacks=[nope]": "callbacks[0]=nope: expected a _target_ and its arguments",
    "callbacks=nope": "callbacks=nope: expected a list in brackets",
    "seed=one frames=abc": "frames=abc: expected",
    # what is no override
    "hello": "hello: not an override; write key=value",
    "hello!": "hello!: not an override; write key=value",
    "=3": "=3: not an override; write key=value",
    "'algo={'": "algo={: not an override; write key=value",
    "'tags.note=a b: {c'": "tags.note=a b: {c: not an override; write key=value, with quotes",
    "lr =3": "lr: not an override; write key=value",
    # sweeps
    "seed=1,2": "seed=1,2: several values; type -m",
    "seed=range(1,6)": "seed=range(1,6): several values; type -m",
    "algo=glob(re*)": "algo=glob(re*): several values; type -m",
    "launcher=processes": "launcher=processes says how a sweep runs its jobs: type -m with it",
    "-m seed=1,x": "seed=x: expected a whole number from 0",
    "-m seed=interval(1,3)": "seed=interval(1,3): write the values",
    "-m algo=glob(nope*)": "algo=glob(nope*): nothing matches",
    "-m seed=glob(1*)": "seed=glob(1*): glob() is for the choices of",
    "-m frames=abc seed=1,2": "frames=abc: expected a whole count",
    "-m resume=latest": "no sweep is under",
    "-m resume=R": "resume=R: no sweep is there",
    "-m launcher=joblib seed=1,2": "launcher=joblib: no such launcher; did you mean processes?",
    "-m launcher._target_=no.Launcher": "launcher._target_=no.Launcher: No module named 'no'",
    "hydra.sweep.dir=x": "hydra.sweep.dir=x says where a sweep goes: type -m with it",
    # Hydra's own words
    "hydra/launcher=joblib": "hydra/launcher=joblib says how a sweep runs its jobs: type -m with it",
    "-m hydra/launcher=jobli seed=1,2": "hydra/launcher=jobli: no such launcher; did you mean joblib?",
    "-m hydra.launcher.n_jobs=2 seed=1,2": "hydra.launcher.n_jobs=2: type launcher.n_jobs=2",
    "-m hydra.sweep.subdir=x seed=1,2": "hydra.sweep.subdir=x: the folders of jobs are named by their values",
    "-m hydra/sweeper=optuna seed=1,2": "hydra/sweeper=optuna: a search; type python -m rl.search",
    "hydra/sweeper=optuna": "hydra/sweeper=optuna: a search; type python -m rl.search",
    "hydra.job.chdir=true": "hydra.job.chdir=true: a run stays in the directory where it was typed",
    "hydra.mode=SWEEP": "hydra.mode=SWEEP: expected RUN or MULTIRUN",
    "-m hydra.mode=RUN": "hydra.mode=RUN: type it without -m",
    "hydra.mode=MULTIRUN seed=1,x": "seed=x: expected a whole number from 0",
    "hydra.nope=3": "hydra.nope: no such key",
    "--config-name=nope": "--config-name=nope: no nope.yaml in",
    "--config-path=/nonexistent": "--config-path=/nonexistent: no such folder",
    "--config-dir=/nonexistent": "--config-dir=/nonexistent: no such folder",
    "-m --config-dir=/nonexistent seed=1,2": "--config-dir=/nonexistent: no such folder",
    "--experimental-rerun=x": "--experimental-rerun: type resume=<run folder>",
    "--resolve": "--resolve goes with --cfg",
    "--package=foo": "--package goes with --cfg",
    "-m -c job seed=1,2": "only one of --run, --multirun, --cfg and --info",
    "-c job frames=abc": "frames=abc: expected a whole count",
    "-c job seed=1,2": "seed=1,2: several values",
    "-c job resume=latest": "no run has a checkpoint under",
    "-c job --package=nope": "--package=nope: no such key",
    "-c nope": "argument --cfg/-c: invalid choice: 'nope'",
    "--info=nope": "argument --info/-i: invalid choice: 'nope'",
    "--help algo=nope": "algo=nope: no such algo",
    # runs
    "resume=latest": "no run has a checkpoint under",
    "resume=outputs/nothing": "resume=outputs/nothing: no run is there",
    "resume=R fork=R": "resume= goes on with a run in its own folder",
    "resume=R hydra.run.dir=R": "resume= goes on with a run in its own folder",
    "resume=R algo=ppo seed=3": "R cannot go on with this:",
    "resume=R algo.gamma=0.5": "R is at frame 128 and cannot go on with this:",
    "resume=R algo.lr=0.5": "R is at frame 128 and cannot go on with this:",
    "resume=R frames=100": "R is at frame 128 and cannot go on with this:",
    "fork=nothing": "fork=nothing: no run is there",
    "fork=R@nope": "R has no such weights",
    "base=run": "base=run goes with resume=",
    "hydra.run.dir=.": "hydra.run.dir=.: it holds other things than a run",
    "+logger.own._target_=no.Tracker": "logger.own._target_=no.Tracker: No module named 'no'",
}
ENJOY = {
    "-m": "enjoy.py plays one run: type it without -m",
    "-m ckpt=best,last": "enjoy.py plays one run: type it without -m",
    "ckpt=best,last": "ckpt=best,last: several values; enjoy.py plays one run",
    "run=nope": "run=nope: no run is there",
    "": "no run has a checkpoint under",
    "run=R ckpt=beast": "R has no such weights",
    "run=R render=humann": "expected one of null, human, video, none; did you mean render=human?",
    "run=R render=human": "render=human: there is no display; type render=video",
    "run=R epsodes=3": "epsodes: no such key; did you mean episodes?",
    "run=R video.format=avi": "video.format=avi: expected one of mp4, gif",
    "--config-name=nope": "--config-name=nope: no nope.yaml in",
    "--config-dir=/nonexistent": "--config-dir=/nonexistent: no such folder",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was saved at frame 128."""
    folder = tmp_path_factory.mktemp("trained") / "R"
    assert go(folder, *TINY, "frames=128", "env.num_envs=2") == 0
    return folder


def refusal(
    main: Callable[[], None],
    script: str,
    line: str,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> str:
    """What a command line that is refused prints; the directory holds a run R and stays as it is."""
    shutil.copytree(trained, "R", symlinks=True)
    before = contents(Path.cwd())
    monkeypatch.setattr(sys, "argv", [str(ROOT / script), *shlex.split(line)])
    monkeypatch.setattr(logging, "raiseExceptions", True)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        main()
    said = capfd.readouterr()
    assert stop.value.code == 2, said
    assert said.out == ""
    assert "Traceback" not in said.err
    assert "Warning" not in said.err
    assert contents(Path.cwd()) == before
    assert not Path("outputs").exists()
    return said.err


@pytest.mark.parametrize("line", TRAIN)
def test_train_refuses_in_one_message(
    line: str, trained: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said = refusal(rl.train.main, "train.py", line, trained, monkeypatch, capfd)
    assert TRAIN[line] in said
    if "usage:" not in said and "\n\n" not in said:
        assert len(said.splitlines()) <= (2 if "seed=one frames" in line else 1)


@pytest.mark.parametrize("line", ENJOY)
def test_enjoy_refuses_in_one_message(
    line: str, trained: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said = refusal(rl.enjoy.main, "enjoy.py", line, trained, monkeypatch, capfd)
    assert ENJOY[line] in said
    assert len(said.splitlines()) == 1
