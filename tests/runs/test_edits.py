"""What a resumed run may change: every key has a policy that is kept, and a refusal changes nothing."""

import copy
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from short_runs import PAIRS, to_compose

from benchmarks.compare import differences
from rl.config import FREE, FROZEN, HORIZON, NUMERICS, SCHEDULE, RunConfig, compare, leaves
from rl.config.compose import compose

ROOT = Path(__file__).parent.parent.parent
SMALL = [
    "env.num_envs=2",
    "algo.rollout_length=32",
    "algo.network.hidden=[8]",
    "eval.every=256",
    "eval.episodes=2",
    "ckpt.every=128",
    "log_every=64",
]


def command_line(*words, cwd=ROOT, script=ROOT / "train.py"):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(script), *map(str, words)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )


def train(*words, **where):
    done = command_line(*words, **where)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def refused(*words, **where):
    done = command_line(*words, **where)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def contents(folder):
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of 512 frames, made once; tests work on copies."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(f"hydra.run.dir={folder}", *SMALL, "frames=512")
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run", symlinks=True))


def unclassified(values):
    return [name for name, leaf in leaves(values).items() if not leaf.classified]


@pytest.mark.parametrize(("algo", "env"), PAIRS)
def test_every_key_is_classified(algo, env):
    values = compose([f"algo={algo}", *to_compose(env)], RunConfig).values
    assert not unclassified(values)


def test_a_key_that_nobody_classified_is_found_and_frozen():
    values = compose([], RunConfig).values
    values["algo"]["novelty"] = 1
    assert unclassified(values) == ["algo.novelty"]
    changed = {**values, "algo": {**values["algo"], "novelty": 2}}
    (change,) = compare(values, changed, frames=10)
    assert change.refused
    assert change.policy == FROZEN


def edited(*overrides, frames=1000, old=()):
    """What `compare` says of each edit, by key."""
    before, after = (compose(line, RunConfig).values for line in (old, [*old, *overrides]))
    return {
        change.key: change
        for change in compare(before, after, frames, [o.partition("=")[0] for o in overrides])
    }


@pytest.mark.parametrize(
    ("override", "policy", "accepted"),
    [
        ("log_every=1k", FREE, True),
        ("eval.episodes=3", FREE, True),
        ("ckpt.keep=5", FREE, True),
        ("stop_at=400", FREE, True),
        ("threads=2", NUMERICS, True),
        ("env.vectorization=async", NUMERICS, True),
        ("frames=300k", HORIZON, True),
        ("frames=1k", HORIZON, True),
        ("frames=999", HORIZON, False),
        ("algo.lr=[[0,2e-3],[1000,2e-3],[5k,0]]", SCHEDULE, True),
        ("algo.lr=[[0,2e-3],[999,2e-3],[5k,0]]", SCHEDULE, False),
        ("algo.lr={kind: cosine, from: 2e-3, to: 0, frames: 1M}", SCHEDULE, False),
        ("algo.entropy_coef=[[0,1e-3],[100k,5e-4],[200k,0]]", None, True),
        ("algo.entropy_coef={kind: linear, from: 0.001, to: 0, frames: 200k}", None, True),
        ("algo.entropy_coef=[[0,1e-3],[100k,5e-4],[150k,0]]", SCHEDULE, True),
        ("algo.gamma=0.98", FROZEN, False),
        ("algo.gamma=0.990", None, True),
        ("seed=1", FROZEN, False),
        ("ckpt.best_by=total_reward", FROZEN, False),
        ("algo.network.hidden=[64]", FROZEN, False),
        ("env.num_envs=8", FROZEN, False),
    ],
)
def test_policy(override, policy, accepted):
    changes = edited(override)
    if policy is None:  # no change at all, however it is written
        assert not changes
        return
    change = changes[override.partition("=")[0]]
    assert change.policy == policy
    assert change.refused is not accepted


def test_the_first_differing_frame_is_named_with_both_values():
    assert (
        "at frame 501 it was 0.002, now 0.001996"
        in edited("algo.lr=[[0,2e-3],[500,2e-3],[1000,0]]")["algo.lr"].note
    )


def test_new_or_gone_keys_count_as_their_default_unless_typed():
    today = compose([], RunConfig).values
    older = copy.deepcopy({name: value for name, value in today.items() if name != "stop_at"})
    newer = {**today, "algo": {**today["algo"], "max_grad_norm": 9.0}}
    del older["algo"]["max_grad_norm"]
    assert [change.refused for change in compare(older, today, 10, defaults=lambda: today)] == [False, False]
    assert [change.refused for change in compare(older, newer, 10, defaults=lambda: today)] == [True, False]
    assert [change.refused for change in compare(today, older, 10)] == [False, False]
    assert [change.refused for change in compare(today, older, 10, ["algo.max_grad_norm"])] == [True, False]


def test_key_of_an_open_section_has_no_default():
    old = compose([], RunConfig).values
    new = {**old, "env": {**old["env"], "kwargs": {"sutton_barto_reward": True}}}
    for before, after in ((old, new), (new, old)):
        (change,) = compare(before, after, 10, defaults=lambda: new)
        assert change.refused
        assert change.key == "env.kwargs.sutton_barto_reward"


def test_refusals_leave_every_byte_and_say_what_to_type(run):
    before = contents(run)
    for override, says in (
        ("algo.lr=0.5", "the past would differ: at frame 0 it was 0.002, now 0.5"),
        ("frames=100", "the run has already seen 512 frames"),
        ("algo.gamma=0.9", "algo.gamma=0.99"),
        ("algo=random", "algo=reinforce"),
    ):
        message = refused(f"resume={run}", override)
        assert says in message
        assert f"fork={run}" in message
        assert contents(run) == before


def test_accepted_edits_are_told_and_kept(run):
    said = train(f"resume={run}", "frames=640", "threads=2", "ckpt.keep=3")
    assert "accepted changes" in said
    said = train(f"resume={run}", "frames=768")  # the edits of the session before count
    assert "threads" not in said
    assert "ckpt.keep" not in said


def test_a_new_future_knot_equals_one_from_the_start(run, tmp_path):
    schedule = "algo.lr=[[0,2e-3],[512,2e-3],[1024,1e-4]]"
    train(f"resume={run}", "frames=1024", schedule)
    straight = tmp_path / "straight"
    train(f"hydra.run.dir={straight}", *SMALL, "frames=1024", schedule)
    assert not differences(straight, run)


def test_an_edit_in_conf_is_found_and_base_run_ignores_it(tmp_path):
    for name in ("rl", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    script = Path(shutil.copy(ROOT / "train.py", tmp_path))
    where = {"cwd": tmp_path, "script": script}
    train("hydra.run.dir=run", *SMALL, "frames=512", **where)
    conf = tmp_path / "conf/algo/reinforce.yaml"
    conf.write_text(conf.read_text().replace("gamma: 0.99", "gamma: 0.95"))
    message = refused("resume=run", "frames=1024", **where)
    assert "algo.gamma  0.99  0.95" in message
    assert "base=run" in message
    train("resume=run", "frames=1024", "base=run", **where)
    assert "gamma: 0.99\n" in (tmp_path / "run/config.yaml").read_text()


def test_extension_past_a_learning_rate_of_zero_is_warned_of(run):
    train(f"resume={run}", "frames=576", "algo.lr=[[0,2e-3],[512,2e-3],[576,0]]")
    assert "nothing more will be learned" in train(f"resume={run}", "frames=640")


def test_fork_starts_a_new_run_from_the_weights(run, tmp_path):
    before = contents(run)
    fork = tmp_path / "fork"
    train(f"fork={run}@last", f"hydra.run.dir={fork}", "frames=64", "algo.gamma=0.5")
    assert contents(run) == before
    import torch

    old = torch.load(run / "ckpt/ckpt-512.pt", weights_only=True)["agent.policy"]
    new = torch.load(fork / "ckpt/ckpt-0.pt", weights_only=True)["agent.policy"]
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert "gamma: 0.5\n" in (fork / "config.yaml").read_text()
    assert str(run) in (fork / "history.jsonl").read_text()


def test_a_fork_with_another_network_is_refused_before_its_folder(run, tmp_path):
    message = refused(f"fork={run}", "algo.network.hidden=[9]", f"hydra.run.dir={tmp_path / 'fork'}")
    assert "do not fit" in message
    assert not (tmp_path / "fork").exists()


def test_runs_lists_states_and_marks_latest(run, tmp_path):
    place = tmp_path / "outputs" / "reinforce_cartpole"
    place.mkdir(parents=True)
    for name in ("2026-01-01_00-00-00", "2026-01-02_00-00-00", "2026-01-03_00-00-00"):
        shutil.copytree(run, place / name, symlinks=True)
    (place / "2026-01-01_00-00-00" / "result.json").unlink()
    shutil.copytree(run, place / "2025-12-31_00-00-00", symlinks=True)
    (place / "2025-12-31_00-00-00" / "history.jsonl").write_text("{rotten\n")
    shutil.rmtree(place / "2026-01-02_00-00-00" / "ckpt")
    shutil.copytree(run / ".hydra", place / "2026-01-04_00-00-00" / ".hydra")
    done = subprocess.run(
        [sys.executable, "-m", "rl.runs", f"outputs={tmp_path / 'outputs'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    rotten, *lines = done.stdout.splitlines()[1:]
    assert "damaged" in rotten
    assert [
        "stopped" in lines[0],
        "damaged" in lines[1],
        "finished" in lines[2],
        "never committed" in lines[3],
    ] == [True] * 4
    assert [line.startswith("->") for line in lines] == [False, False, True, False]


def test_a_key_newer_than_the_run_is_filled_in(run):
    lines = (run / "config.yaml").read_text().splitlines(keepends=True)
    (run / "config.yaml").write_text(
        "".join(line for line in lines if "max_grad_norm" not in line and "stop_at" not in line)
    )
    train(f"resume={run}", "frames=576", "base=run")
    assert "max_grad_norm: 0.5\n" in (run / "config.yaml").read_text()


def test_a_sweeps_job_resumes_by_its_printed_command(tmp_path):
    said = train("-m", *SMALL, "frames=64", "algo.network.hidden=[8],[4]", f"outputs={tmp_path}")
    (line,) = [line for line in said.splitlines() if "resume=" in line and "[4]" in line]
    words = shlex.split(line.partition("train.py ")[2])
    assert "going on at frame 64" in train(*words)


def test_a_fork_that_never_began_keeps_its_parent(run, tmp_path):
    outputs = tmp_path / "outputs"
    shutil.copytree(run, outputs / "a_b" / "2026-01-01_00-00-00", symlinks=True)
    fork = tmp_path / "fork"
    train("fork=latest@last", f"outputs={outputs}", f"hydra.run.dir={fork}", "frames=64")
    for name in ("ckpt", "metrics.csv", "eval.csv", "result.json"):
        shutil.rmtree(fork / name) if name == "ckpt" else (fork / name).unlink()
    train(*SMALL, f"outputs={outputs}", "frames=64")  # now another run is the latest
    train(f"resume={fork}")
    parents = [json.loads(line)["fork"]["run"] for line in (fork / "history.jsonl").read_text().splitlines()]
    assert parents[0] == parents[1]
