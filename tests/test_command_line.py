"""The real `python train.py`: what it refuses, how it is killed and told to stop, and how it goes on."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from short_runs import (
    ROOT,
    TINY,
    command,
    contents,
    differences,
    environment,
    frames_of,
    go,
    record,
    rows,
    started,
    typed,
)

from rl.runs.outcome import Refused
from rl.runs.plan import make_plan

# 128 iterations of 64 frames; checkpoints far enough apart that those at a stop are forgotten by the end
LINE = [*TINY, "frames=8192", "eval.every=4000", "ckpt.every=1024", "callbacks=[{_target_: short_runs.hold}]"]
RUN = Path("run")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["algo.gama=0.9"], "algo.gama: no such key; did you mean algo.gamma?"),
        (["algo=reinforc"], "algo=reinforc: no such algo; did you mean reinforce?"),
        (["seed=one"], "seed=one: expected a whole number from 0"),
        (["algo={"], "algo={: not an override; write key=value"),
        (["+foo=1"], "foo: no such key"),
        (["resume=outputs/nothing"], "resume=outputs/nothing: no run is there"),
        (["resume=latest"], "no run has a checkpoint under"),
        (["base=run"], "base=run goes with resume="),
        (["-m", "launcher._target_=no.Launcher"], "launcher._target_=no.Launcher: No module named 'no'"),
        (["-m", "launcher._target_=pathlib.Path"], "launcher._target_=pathlib.Path: not a Launcher"),
        (["+logger.own._target_=no.Tracker"], "logger.own._target_=no.Tracker: No module named 'no'"),
        (["+logger.own._target_=pathlib.Path"], "logger.own._target_=pathlib.Path: not a Tracker"),
        (["-m", "seed=1,x"], "seed=x: expected a whole number from 0"),
        (["env=gym", "env.id=NoSuchEnv-v0"], "env.id=NoSuchEnv-v0: Environment `NoSuchEnv` doesn't exist"),
    ],
    ids=lambda words: words[-1] if isinstance(words, list) else "",
)
def test_an_impossible_command_line_is_refused_in_one_message(words: list[str], says: str) -> None:
    done = typed(*words)
    assert done.returncode == 2
    assert done.stderr.startswith(says)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert list(Path.cwd().iterdir()) == []


def test_where_no_folder_can_be_made_the_message_names_it() -> None:
    Path("outputs").write_text("a file")
    done = typed()
    assert done.returncode == 1
    assert done.stderr.startswith("outputs/reinforce_cartpole")
    assert done.stderr.endswith("Not a directory\n")
    assert "Traceback" not in done.stderr


def test_a_command_line_is_validated_without_torch() -> None:
    code = """
import sys
import rl.train, rl.runs.plan
rl.runs.plan.make_plan(["frames=1k"])
sys.argv = ["train.py", "frames=no"]
try:
    rl.train.main()
except SystemExit as stop:
    assert stop.code == 2
print([name for name in ("torch", "gymnasium", "numpy") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    assert done.stdout == "[]\n", done.stdout


def wait_for(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def has_rows(number: int) -> Callable[[], bool]:
    return lambda: (RUN / "metrics.csv").exists() and (RUN / "metrics.csv").read_bytes().count(b"\n") > number


def test_a_run_killed_twice_and_typed_again_ends_equal() -> None:
    assert go(Path("straight"), *LINE) == 0
    Path("hold").touch()
    for session in range(2):
        process = started(*LINE, f"hydra.run.dir={RUN}")
        wait_for(process, has_rows(1 if session == 0 else len(rows(RUN / "metrics.csv")) + 1))
        time.sleep(session * random.random())
        process.kill()
        assert process.wait() == -signal.SIGKILL
    Path("hold").unlink()
    hydras = contents(RUN / ".hydra")
    done = typed(*LINE, f"hydra.run.dir={RUN}")
    assert done.returncode == 0, done.stderr
    assert "going on at frame" in done.stdout
    assert contents(RUN / ".hydra") == hydras
    assert differences(record(Path("straight")), record(RUN)) == []


def test_a_stopped_run_resumes_extends_and_is_locked() -> None:
    longer = [*LINE, "frames=10240"]
    assert go(Path("straight"), *LINE) == 0
    assert go(Path("straight longer"), *longer) == 0
    outputs = Path("outputs/reinforce_cartpole")

    Path("hold").touch()
    first = started(*LINE)
    wait_for(first, lambda: any(outputs.glob("*/ckpt/ckpt-0.json")))
    (folder,) = outputs.iterdir()
    second = typed(f"resume={folder}")
    assert (second.returncode, second.stdout) == (2, "")
    assert f"{folder} is being worked on by process {first.pid} on " in second.stderr
    first.send_signal(signal.SIGTERM)
    Path("hold").unlink()
    output = first.communicate()[0]
    assert first.returncode == 75, output
    assert f"train.py resume={folder}" in output
    assert max(frames_of(folder)) == int(rows(folder / "metrics.csv")[-1]["frames"])

    Path("hold").touch()
    again = started("resume=latest")
    at = len(rows(folder / "metrics.csv"))
    wait_for(again, lambda: len(rows(folder / "metrics.csv")) > at)
    again.send_signal(signal.SIGINT)
    Path("hold").unlink()
    assert again.wait() == 130
    assert max(frames_of(folder)) == int(rows(folder / "metrics.csv")[-1]["frames"])

    last = typed("resume=latest")
    assert last.returncode == 0, last.stderr
    assert differences(record(Path("straight")), record(folder)) == []

    done = typed("resume=latest")
    assert done.returncode == 0
    assert f"{folder} is finished: 8_192 frames of 8_192." in done.stdout
    assert f"train.py resume={folder} frames=16_384" in done.stdout

    around = Path("outputs/../outputs/reinforce_cartpole") / folder.name
    extended = typed(f"resume={around}", "frames=10240")
    assert extended.returncode == 0, extended.stderr
    assert differences(record(Path("straight longer")), record(folder)) == []
    events = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "resume", "resume", "resume"]
    assert [change["key"] for change in events[-1]["changes"]] == ["frames"]
    assert events[-1]["command"].endswith(f"resume={around} frames=10240")


def test_a_run_killed_before_a_commit_keeps_its_command_line() -> None:
    first = started("algo=random", "env=pendulum", "frames=2k", "seed=7", f"hydra.run.dir={RUN}")
    wait_for(
        first,
        lambda: (
            (RUN / ".hydra" / "overrides.yaml").exists()
            and (RUN / ".hydra" / "overrides.yaml").stat().st_size > 0
        ),
    )
    first.kill()
    first.wait()
    for path in RUN.iterdir():  # as if it had come no further
        if path.is_file():
            path.unlink()
    for path in RUN.glob("ckpt/*"):
        path.unlink()
    done = typed(f"resume={RUN}")
    assert done.returncode == 0, done.stderr
    assert "no checkpoint was ever committed here; starting at frame 0" in done.stdout
    event = json.loads((RUN / "history.jsonl").read_text())
    assert {name: event["choices"][name] for name in ("algo", "env", "seed")} == {
        "algo": "random",
        "env": "pendulum",
        "seed": 7,
    }
    assert "seed=7" in (RUN / ".hydra" / "overrides.yaml").read_text()


@pytest.mark.parametrize("overrides", [None, ""])
def test_a_run_killed_before_its_command_line_is_refused(overrides: str | None) -> None:
    (RUN / ".hydra").mkdir(parents=True)
    if overrides is not None:
        (RUN / ".hydra" / "overrides.yaml").write_text(overrides)
    with pytest.raises(Refused, match="killed before its command line was written down"):
        make_plan([f"resume={RUN}"])
    # the line that the cluster types again has it all
    assert make_plan([f"hydra.run.dir={RUN}", "seed=7"]).config.seed == 7


def test_a_stopped_sweep_starts_no_further_job() -> None:
    Path("hold").touch()
    process = subprocess.Popen(
        command("-m", *LINE, "seed=1,2", "hydra.sweep.dir=sweep"),
        stdout=subprocess.PIPE,
        env=environment(),
        text=True,
    )
    wait_for(process, lambda: any(Path("sweep").glob("*/ckpt/ckpt-0.json")))
    process.send_signal(signal.SIGTERM)
    Path("hold").unlink()
    output = process.communicate()[0]
    assert process.returncode == 75, output
    assert [path.name for path in Path("sweep").glob("*/ckpt")] == ["ckpt"]


class OwnTracker:
    """A tracker: writes what it is told into the run's folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def open(self, run: Any) -> None:
        self.path = run.folder / self.name
        self.path.write_text("")

    def add(self, rows: list[Any]) -> None:
        with self.path.open("a") as file:
            file.writelines(f"{row.table} {row.frames}\n" for row in rows)

    def close(self, finished: bool) -> None:
        with self.path.open("a") as file:
            file.write(f"finished: {finished}\n")


def test_a_tracker_of_ones_own_is_told_every_row() -> None:
    own = "+logger.own={_target_: test_command_line.OwnTracker, name: told}"
    done = typed(*TINY, "frames=256", f"hydra.run.dir={RUN}", own)
    assert done.returncode == 0, done.stdout + done.stderr
    wanted = [f"train {frames}" for frames in (64, 128, 192, 256)]
    told = (RUN / "told").read_text().splitlines()
    assert [line for line in told if line.startswith("train")] == wanted
    assert told[-1] == "finished: True"


def test_the_tests_run_the_code_beside_them() -> None:
    assert Path(command()[1]).parent == ROOT
