"""rl.api: the command line's runs, from a notebook."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from short_runs import TINY, differences, environment, go, record, rows, typed

from rl import api
from rl.api import ConfigError, Failed, Refused
from rl.config.compose import CONF

LINE = [*TINY, "frames=8192", "eval.every=4000", "ckpt.every=1024", "callbacks=[{_target_: short_runs.hold}]"]
TRAINED = ["algo=a2c", "algo.normalize_obs=true", *TINY]


@pytest.fixture(autouse=True)
def children_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])


def once_it_holds(folder: Path, sessions: int, action: Callable[[], None]) -> threading.Thread:
    """When a run's n-th session waits at frame 4096: do it, and let the run go on."""

    def wait() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            history = folder / "history.jsonl"
            if (folder / "ckpt" / "ckpt-3072.json").exists() and history.read_text().count("\n") == sessions:
                break
            time.sleep(0.02)
        time.sleep(0.5)
        action()
        Path("hold").unlink()

    Path("hold").touch()
    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def world() -> list[object]:
    """What is set for all of this process."""
    generators = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
    settings = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        torch.get_float32_matmul_precision(),
    )
    handlers = [
        signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    ]
    return [
        generators,
        settings,
        handlers,
        dict(os.environ),
        os.getcwd(),
        GlobalHydra.instance().is_initialized(),
    ]


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C is an exception, as in a notebook: a worker of pytest-xdist ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_api_training_equals_the_command_line_bit_for_bit(
    capfd: pytest.CaptureFixture[str],
) -> None:
    done = typed(*LINE, "hydra.run.dir=typed")
    assert done.returncode == 0, done.stdout + done.stderr
    before = world()
    run = api.train(LINE)
    assert run.finished
    assert run.result is not None
    assert run.result["last"]["episodes"] == 100
    assert run.folder.parent == Path("outputs/reinforce_cartpole")
    assert "last weights" in capfd.readouterr().out
    assert differences(record(Path("typed")), record(run.folder)) == []

    stopped = Path("stopped")
    killer = once_it_holds(
        stopped, 1, lambda: os.kill(int((stopped / ".lock").read_text().split()[1]), signal.SIGKILL)
    )
    with pytest.raises(
        Failed, match=r"killed by SIGKILL; the last checkpoint stands, go on with resume\('stopped'\)"
    ):
        api.train([*LINE, "hydra.run.dir=stopped"])
    killer.join()
    interrupter = once_it_holds(stopped, 2, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match=r"go on with resume\('stopped'\)"):
        api.resume(stopped)
    interrupter.join()
    assert "saved; go on with" in capfd.readouterr().out
    assert not api.Run(stopped).finished
    assert api.resume("stopped").finished
    assert differences(record(Path("typed")), record(stopped)) == []
    assert world() == before


def test_what_cannot_be_is_an_exception_and_leaves_nothing() -> None:
    before = world()
    with pytest.raises(ConfigError, match=r"did you mean algo.gamma\?"):
        api.train("algo.gama=0.9")
    with pytest.raises(ConfigError, match="several values"):
        api.train("seed=1,2")
    with pytest.raises(Refused, match="no run is there"):
        api.resume("nowhere")
    with pytest.raises(Refused, match="no run is there"):
        api.fork("nowhere", "algo.lr=1e-4")
    assert not Path("outputs").exists()
    with pytest.raises(ConfigError, match="env.id=Nothing-v0"):  # building alone can see this
        api.train("env=gym env.id=Nothing-v0")
    assert not list(Path("outputs").glob("*/*"))
    with pytest.raises(Failed, match="the simulator is gone; the last checkpoint stands"):
        api.train([*TINY, "env=gym", "env.id=tiny_envs:Broken-v0", "hydra.run.dir=broken"])
    assert world() == before


@pytest.fixture
def run() -> Path:
    assert go(Path("run"), *TRAINED, "seed=5") == 0
    return Path("run")


@pytest.mark.usefixtures("few_scores")
def test_a_run_is_read_and_played(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics, evaluations = api.load_metrics(run), api.load_evaluations(run)
    assert list(metrics.columns) == list(rows(run / "metrics.csv")[0])
    for column in ("loss", "entropy", "total_reward_ma"):
        assert [repr(value) for value in metrics[column] if value == value] == [
            row[column] for row in rows(run / "metrics.csv") if row[column]
        ]
    assert evaluations["frames"].tolist() == [192, 384, 576]

    assert api.resume(run).finished
    assert "is finished: 640 frames of 640" in capsys.readouterr().out
    with pytest.raises(Refused, match="cannot go on with this"):
        api.resume(run, "algo.gamma=0.5 frames=10k")

    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        torch.manual_seed(1)
        before = world()
        played = api.enjoy(run, episodes=3, seed=4, render="video", video={"format": "gif"})
        policy = api.load_policy(run)
        assert world() == before
    assert len(played.returns) == 3
    assert played.video == run / "video" / "best-4.gif"
    assert played.video.stat().st_size > 1000
    printed = capsys.readouterr().out
    assert all(f"return {total:.2f}," in printed for total in played.returns)

    env = policy.make_env()
    obs, _ = env.reset(seed=0)
    batch = np.stack([obs, -obs, 2 * obs])
    one, many = policy(obs), policy(batch)
    assert env.action_space.contains(one)
    assert many.shape == (3,)
    assert many[0] == one
    assert policy(batch[:0]).shape == (0,)
    with pytest.raises(ValueError, match=r"expected one \(4,\), or a batch \(B, 4\)"):
        policy(obs[:3])


@pytest.mark.usefixtures("few_scores")
def test_a_policy_normalises_draws_and_clips() -> None:
    line = [*TRAINED, "env=pendulum", "eval.every=64"]
    assert go(Path("run"), *line) == 0
    greedy, again = api.load_policy("run", "last"), api.load_policy("run", "last")
    drawn = [api.load_policy("run", "last", explore=True, seed=seed) for seed in (1, 1, 2)]
    env = greedy.make_env()
    obs, _ = env.reset(seed=0)
    assert greedy(obs) == greedy(obs) == again(obs)
    one, same, other = ([policy(obs) for _ in range(50)] for policy in drawn)
    assert one == same != other
    assert all(env.action_space.contains(action) for action in one)
    assert max(np.abs(one)) == env.action_space.high  # some would lie beyond
    normalizer = greedy.agent.parts["obs_normalizer"]
    assert normalizer.moments.count == 640
    params = greedy.agent.act(obs[None], None, greedy.rng, explore=False)[0]
    assert np.array_equal(np.clip(params[0], -2, 2), greedy(obs))
