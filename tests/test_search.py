"""`python -m rl.search`: exactly n_trials over all sessions, however they end, and each a run that comes
back.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from short_runs import TINY, contents, differences, go, in_child, record
from test_sweeps import Done, Forks

from rl import search
from rl.config import ConfigError, RunConfig
from rl.config.compose import compose
from rl.config.text import score_text
from rl.runs.outcome import Refused
from rl.sweeps.record import Job
from rl.training.run import Run

optuna = pytest.importorskip("optuna")

PLACE = Path("search")
SPACE = [
    "~space.algo.gamma",
    "space.algo.lr={low: 1e-4, high: 1e-2, log: true}",
    "space.algo.entropy_coef={choices: [0, 0.01]}",
]
LINE = [*TINY, "frames=256", "eval.every=64", "callbacks=[{_target_: test_search.die}]"]
WORDS = [*LINE, *SPACE, f"hydra.sweep.dir={PLACE}"]


def die(run: Run) -> None:
    """A callback: kills this process and the search, once, in the middle of the trial that the file `kill`
    names.
    """
    kill = Path("kill")
    if run.clock.frames >= 192 and kill.exists() and run.folder.name == kill.read_text():
        kill.unlink()
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


class Dying(Forks):
    """Kills the search as it starts a trial, or when that trial has ended."""

    def __init__(self, before: int = -1, after: int = -1) -> None:
        super().__init__()
        self.before, self.after = before, after

    def start(self, words: Sequence[str], folder: Path, threads: int) -> Done:
        trial = int(words[-1].rpartition("-")[2].rstrip("'"))
        if trial == self.before:
            os.kill(os.getpid(), signal.SIGKILL)
        done = super().start(words, folder, threads)
        if trial == self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        return done


def run(*words: str, launcher: Forks | None = None) -> int:
    planned = search.plan(words)
    planned.sweep.launcher = launcher or Forks()
    return planned.run(" ".join(words))


def trials(folder: Path = PLACE) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="search", storage=f"sqlite:///{folder / 'search.db'}").get_trials()


@pytest.mark.usefixtures("few_scores")
def test_a_killed_search_ends_with_n_trials_each_equal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    killed = -signal.SIGKILL
    # asked for, never started
    assert in_child(lambda: run(*WORDS, "n_trials=3", launcher=Dying(before=1))) == killed
    Path("kill").write_text("trial-1")
    assert in_child(lambda: run("resume=search")) == killed  # in the middle
    assert not Path("kill").exists()
    # finished, but the study was not told
    assert in_child(lambda: run("resume=search", launcher=Dying(after=2))) == killed
    assert [trial.state.name for trial in trials()] == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert run("resume=search") == 0
    assert [trial.state.name for trial in trials()] == ["COMPLETE"] * 3
    said = capsys.readouterr().out
    best = max(trials(), key=lambda trial: trial.value)
    assert f"best: trial-{best.number}, score {score_text(best.value)}\n" in said
    assert f"algo.lr={best.params['algo.lr']}" in said
    for trial in trials():
        alone = Path(f"alone-{trial.number}")
        assert go(alone, *LINE, *(f"{key}={value}" for key, value in trial.params.items())) == 0
        assert differences(record(alone), record(PLACE / f"trial-{trial.number}")) == []
        assert trial.value == search.best_score(alone)
        assert len(trial.intermediate_values) == 4
    assert differences(record(Path("alone-0")), record(PLACE / "trial-1")) != []

    before = contents(PLACE)
    for words, says in (
        (
            ["space.algo.lr.high=1"],
            r"another space.*\n  algo.lr: was \{low:0.0001,high:0.01,log:true\}, now "
            r"\{low:0.0001,high:1,log:true\}",
        ),
        (["algo.gamma=0.5"], r"other overrides"),
        (["save_as=ppo_cartpole"], r"exists"),
    ):
        with pytest.raises(Refused, match=says):
            search.plan(["resume=search", *words])
    assert contents(PLACE) == before

    assert run("resume=search", "n_trials=4") == 0
    assert len(trials()) == 4


@pytest.mark.usefixtures("few_scores")
def test_the_best_trial_becomes_an_experiment(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    (conf / "experiment").mkdir(parents=True)
    planned = search.plan([*WORDS, "algo=a2c", "n_trials=1", "save_as=found"], str(conf))
    planned.sweep.launcher = Forks()
    with pytest.raises(ConfigError):
        compose(["experiment=found"], RunConfig, config_dir=str(conf))
    assert planned.run("the test's command") == 0
    (trial,) = trials()
    typed = [*LINE, "algo=a2c", *(f"{key}={value}" for key, value in trial.params.items())]
    assert (
        compose(["experiment=found"], RunConfig, config_dir=str(conf)).values
        == compose(typed, RunConfig).values
    )


class Hopeless(optuna.pruners.BasePruner):
    """Gives up a trial at its second evaluation."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return len(trial.intermediate_values) >= 2


class Listening:
    def __init__(self) -> None:
        self.signals: list[int] = []

    def send_signal(self, number: int) -> None:
        self.signals.append(number)


@pytest.mark.usefixtures("few_scores")
def test_a_hopeless_trial_is_stopped_once_and_not_restarted() -> None:
    planned = search.plan(
        [
            *WORDS,
            "n_trials=2",
            "pruner={_target_: test_search.Hopeless}",
            "~pruner.n_startup_trials",
            "~pruner.n_warmup_steps",
        ]
    )
    planned.sweep.take_folder("the test's command")
    planned.open()
    job = planned.next_trial()
    assert isinstance(job, Job)
    process = Listening()
    for frames in (64, 128, 192):
        assert go(PLACE / "trial-0", *job.passed.texts, f"frames={frames}") == 0
        planned.on_poll(job, process)  # type: ignore[arg-type]
        assert process.signals == [signal.SIGTERM] * (frames >= 128)
    assert trials()[0].intermediate_values.keys() == {1, 2}
    # killed before the study was told
    again = search.Search(planned.sweep, planned.config, planned.space, planned.record)
    again.open()
    following = again.next_trial()
    assert following is not None
    assert following.name == "trial-1"
    assert [trial.state.name for trial in trials()] == ["PRUNED", "RUNNING"]
    following.state = "failed"
    again.on_end(following)
    assert again.next_trial() is None
    assert [trial.state.name for trial in trials()] == ["PRUNED", "FAIL"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["space.algo.gama={low: 0, high: 1}"], "algo.gama: no such key; did you mean algo.gamma?"),
        (["space.algo.gamma.low=0"], "space.algo.gamma={choices:"),
        (["space.algo.lr.low=1"], "low above high"),
        (["space.algo.lr.low=0"], "log with a low of 0"),
        (["space.algo.lr=3"], "expected {low: 1e-4"),
        (["~space.algo"], "nothing to search"),
        (["n_trials=0"], "n_trials=0: expected a whole number from 1"),
        (["seed=1,2"], "several values"),
        (["frames=1k"], "a trial is never evaluated"),
        (["space.algo.gamma.choices=[0.9, 1.5]"], "algo.gamma=1.5: expected a number from 0 to 1"),
        (["sampler._target_=optuna.samplers.NoSuch"], "NoSuch"),
        (["fork=latest"], "a search takes no"),
    ],
)
def test_an_impossible_search_is_refused(words: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        search.plan(words)
    assert says in str(caught.value)
    assert list(Path.cwd().iterdir()) == []
