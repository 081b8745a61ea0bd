"""A run whose code changed goes on, and is never called exact from there."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from short_runs import TINY, differences, go, in_child, record

from rl.report.page import run_cells
from rl.report.runs import read_run
from rl.runs import history
from rl.runs.code import changes, commit, fingerprints, syntax_hash

pytestmark = pytest.mark.usefixtures("few_scores")
AGENT = '''"""An agent of one's own."""
from rl.algos.reinforce import Reinforce
from my_scale import scale


class Mine(Reinforce):
    """REINFORCE with another scale."""

    def learn(self, rollout):
        """Learn."""
        rollout.reward *= scale()  # as it should be
        return super().learn(rollout)
'''
LINE = [*TINY, "algo._target_=my_agent.Mine"]


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("sys.dont_write_bytecode", True)  # edits within a second must count
    (tmp_path / "my_scale.py").write_text("def scale():\n    return 1.0\n")
    path = tmp_path / "my_agent.py"
    path.write_text(AGENT)
    return path


def session(folder: Path, *overrides: str) -> str:
    """A session in a process of its own, which imports the agent as it is now; what it said."""
    assert in_child(functools.partial(go, folder, *overrides), Path("output")) == 0
    return Path("output").read_text()


def exactness(folder: Path) -> list[str]:
    return [line["exactness"] for line in history.read(folder)]


def test_a_run_whose_agent_changed_is_not_called_exact(agent: Path) -> None:
    run = Path("run")
    session(run, *LINE, "frames=256")
    session(run, "frames=320")
    agent.write_text(AGENT.replace("scale()", "2 * scale()"))
    told = "NOT EXACT from frame 320: the code changed: my_agent.py"
    assert told in session(run, "frames=384")
    agent.write_text(AGENT)  # what was trained meanwhile stays
    assert told in session(run, "frames=448")
    assert exactness(run) == [
        "exact",
        "exact",
        "not exact from frame 320: the code changed: my_agent.py",
        "not exact from frame 320: the code changed: my_agent.py; at frame 384 again: my_agent.py",
    ]
    assert list(run_cells(read_run(run), Path(), Path())["not_exact"]) == exactness(run)[2:]


def test_reworded_comments_and_docstrings_are_no_change(agent: Path) -> None:
    session(Path("straight"), *LINE, "frames=384")
    session(Path("run"), *LINE, "frames=256")
    reworded = AGENT.replace("# as it should be", "# so").replace(
        '"""Learn."""', '"""Learn from it,\n\n  all."""'
    )
    agent.write_text(reworded.replace('"""REINFORCE with another scale."""', "").replace("\n\n\n", "\n"))
    assert "NOT EXACT" not in session(Path("run"), "frames=384")
    assert exactness(Path("run")) == ["exact", "exact"]
    assert differences(record(Path("straight")), record(Path("run"))) == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a = 1", "a  =  1  # one", True),
        ('def f():\n    "x"\n    return 1', "def f():\n    return 1", True),
        ("class A:\n    '''x'''\n    b = 1", "class A:\n    '''y'''\n    b = 1", True),
        ("a = 1", "a = 2", False),
        ("a = 1", "a = 1.0", False),
        ("x = 'doc'", "x = 'dog'", False),
        ("f('doc')", "f('dog')", False),
        ("if a:\n    b()\n    c()", "if a:\n    b()\nc()", False),
        ("no python (", "no python )", False),
    ],
)
def test_only_what_python_runs_is_compared(one: str, other: str, same: bool) -> None:
    assert (syntax_hash(one.encode()) == syntax_hash(other.encode())) is same


def of_session(frames: int, code: dict[str, str] | None, *changed: int) -> dict[str, object]:
    noted = [{"frames": at, "files": ["rl/clock.py"]} for at in changed]
    return {"frames": frames, "code": code, "code_changed": noted}


def test_a_session_that_left_nothing_does_not_count() -> None:
    a, b = {"rl/clock.py": "a"}, {"rl/clock.py": "b"}
    past = [of_session(0, a), of_session(100, b, 100)]
    at_100 = [{"frames": 100, "files": ["rl/clock.py"]}]
    assert changes(past, 100, a) == []  # killed before it committed anything
    assert changes(past, 100, b) == at_100
    assert changes(past, 200, b) == at_100
    assert changes(past, 200, a) == [*at_100, {"frames": 200, "files": ["rl/clock.py"]}]
    assert changes([*past, of_session(200, None, 100)], 300, b) == at_100
    assert changes([{"frames": 0}, *past[1:]], 100, b) == []  # of an earlier version: nobody knows
    assert changes([of_session(0, a | {"rl/gone.py": "x"})], 100, a)[0]["files"] == ["rl/gone.py"]


def test_every_file_that_the_run_uses_has_a_fingerprint(agent: Path) -> None:
    session(Path("run"), *LINE, "frames=64")
    code = history.read(Path("run"))[0]["code"]
    used = {"rl/algos/reinforce.py", "rl/learning/networks/mlp.py", "rl/training/loop.py", "my_agent.py"}
    assert used <= code.keys()
    assert history.read(Path("run"))[0]["world"].keys() >= {"git", "clean"}


def test_fingerprints_take_less_than_50_ms() -> None:
    config = {"algo": {"_target_": "rl.algos.ppo.PPO", "network": {"_target_": "rl.networks.MLP"}}}
    found, seconds = fingerprints(config), []
    for _ in range(5):
        begin = time.perf_counter()
        assert fingerprints(config) == found
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.05


def test_the_commit_says_whether_its_files_were_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl.runs.code._ROOT", tmp_path)
    assert commit() == {"git": None, "clean": None}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@y"]
    (tmp_path / "a.py").write_text("a = 1\n")
    subprocess.run([*git, "init", "-q"], check=True)
    assert commit() == {"git": None, "clean": None}  # nothing is committed yet
    for words in (["add", "a.py"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    sha = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert commit() == {"git": sha, "clean": True}
    (tmp_path / "a.py").write_text("a = 2\n")
    assert commit() == {"git": sha, "clean": False}
    assert json.dumps(commit())
    index = tmp_path / ".git/index"
    subprocess.run([*git, "checkout", "-q", "a.py"], check=True)
    os.utime(tmp_path / "a.py", (1, 1))  # git would like to note this in its index
    before = index.read_bytes()
    assert commit() == {"git": sha, "clean": True}
    assert index.read_bytes() == before  # it took no lock, which a kill would leave there
