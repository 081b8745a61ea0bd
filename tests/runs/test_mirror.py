"""A mirrored run comes back from its bucket with the same bits, whoever was killed and whatever failed."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from short_runs import TINY, command, contents, differences, environment, go, record, typed

from benchmarks import s3_server
from benchmarks.sweep_kills import alive, children
from rl.config import RunConfig
from rl.config.compose import compose
from rl.runs.bucket import Bucket
from rl.runs.fetch import fetch
from rl.runs.manifest import Manifest
from rl.runs.mirror import ALIVE_S, BEAT, Beat, Claim, claim, read_beat, released_on_error
from rl.runs.mirror_process import MirrorProcess
from rl.runs.outcome import Refused
from rl.runs.upload import TakenOver, Uploader

pytestmark = pytest.mark.usefixtures("few_scores")
RUN = [*TINY, "algo=a2c"]


class FailingBucket(Bucket):
    """A bucket that fails on command: an upload of a name that contains `fails` ends half-way."""

    fails = ""

    def send(self, name: str, file: BinaryIO, size: int) -> None:
        if self.fails and self.fails in name:
            self.write_half(name, file.read())
        super().send(name, file, size)

    def write(self, name: str, data: bytes) -> None:
        if self.fails and self.fails in name:
            self.write_half(name, data)
        super().write(name, data)

    def write_half(self, name: str, data: bytes) -> None:
        path = Path(self._full(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[: len(data) // 2])
        raise TimeoutError("the connection broke")


def mirrored(folder: Path, place: Path, **given: Any) -> tuple[Uploader, FailingBucket]:
    """An uploader of a folder, with a claim of its own."""
    mine = Claim.read(folder)
    if mine is None:
        made = claim(config_with(place), folder, existing=True, named=True, takeover=False)
        assert made is not None
        mine = made
    bucket = FailingBucket(mine.url)
    return Uploader(folder, mine, bucket, **{"pid": os.getpid(), **given}), bucket


def config_with(place: Path) -> RunConfig:
    config: RunConfig = compose([], RunConfig).config
    config.mirror = f"file://{place}"
    return config


def age(place: Path, seconds: float) -> None:
    """Let a heartbeat have been some time ago."""
    beat = Beat(**json.loads((place / BEAT).read_bytes()))
    (place / BEAT).write_bytes(replace(beat, time=time.time() - seconds, ended=False).to_bytes())


def upload(folder: Path, place: Path) -> Path:
    """Upload all of a folder; where it is then."""
    uploader, bucket = mirrored(folder, place)
    uploader.round(last=True)
    uploader.beat(ended=True)
    return Path(bucket.path)


def of_run(folder: Path) -> dict[str, bytes]:
    """Every file of a run, without those of one machine or of the mirror."""
    own = {"mirror.json", ".lock", "ckpt/ckpt-best", BEAT, "sums.json"}
    return {name: data for name, data in contents(folder).items() if name not in own}


def newest(folder: Path) -> int:
    return max(Manifest.read(path).frames for path in (folder / "ckpt").glob("*.json"))


def fetched(place: Path, **given: Any) -> tuple[Path, list[str]]:
    folder, warnings, _ = fetch(f"file://{place}", Path("fresh"), **given)
    return folder, warnings


# -------------------------------------------------------------------------------------------------- uploading


def test_mirror_holds_what_the_folder_holds(tmp_path: Path) -> None:
    """Byte for byte, the replay memory's chunks too; and so does a folder that is fetched."""
    assert go(Path("run"), "algo=dqn", "frames=900", "ckpt.every=300", "eval.every=300", "eval.episodes=2",
              "env.num_envs=2", "algo.network.hidden=[8]", "algo.learning_starts=100") == 0  # fmt: skip
    place = upload(Path("run"), tmp_path / "bucket")
    assert of_run(Path("run")) == of_run(place) == of_run(fetched(place)[0])
    assert list((place / "replay").iterdir())


def test_mirror_keeps_what_kept_manifests_name(tmp_path: Path) -> None:
    assert go(Path("run"), *RUN, "frames=256") == 0
    place = upload(Path("run"), tmp_path / "bucket")
    assert go(Path("run"), "frames=640") == 0
    before = set(os.listdir(place / "ckpt"))
    upload(Path("run"), tmp_path / "bucket")
    assert set(os.listdir(place / "ckpt")) == set(os.listdir("run/ckpt")) - {"ckpt-best"}
    assert before - set(os.listdir(place / "ckpt"))


@pytest.mark.parametrize("fails", ["ckpt-640.pt", "ckpt-640.json"])
def test_half_upload_leaves_the_checkpoint_before(fails: str, tmp_path: Path) -> None:
    """And the next try replaces it."""
    assert go(Path("run"), *RUN, "frames=256") == 0
    place = upload(Path("run"), tmp_path / "bucket")
    assert go(Path("run"), "frames=640") == 0
    uploader, bucket = mirrored(Path("run"), tmp_path / "bucket")
    bucket.fails = fails
    with pytest.raises(TimeoutError):
        uploader.round()
    assert newest(fetched(place, takeover=True)[0]) == 256
    bucket.fails = ""
    uploader.round(last=True)
    shutil.rmtree("fresh")
    assert of_run(fetched(place, takeover=True)[0]) == of_run(Path("run"))


def test_file_that_training_deletes_is_still_uploaded(tmp_path: Path) -> None:
    """Training goes on while a checkpoint is sent, and deletes its file."""
    assert go(Path("run"), *RUN) == 0
    uploader, bucket = mirrored(Path("run"), tmp_path / "bucket")
    real, data = bucket.send, Path("run/ckpt/ckpt-640.pt").read_bytes()

    def send(name: str, file: BinaryIO, size: int) -> None:
        Path("run", name).unlink()
        real(name, file, size)

    bucket.send = send  # type: ignore[method-assign]
    uploader.round()
    assert (Path(bucket.path) / "ckpt/ckpt-640.pt").read_bytes() == data


# --------------------------------------------------------------------------------------------------- fetching


def test_fetched_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    assert go(Path("alone"), *RUN) == 0
    assert go(Path("run"), *RUN, "frames=256") == 0
    folder, _ = fetched(upload(Path("run"), tmp_path / "bucket"))
    assert go(folder, "frames=640") == 0
    own = record(folder)
    own["files"] = [name for name in own["files"] if name != "mirror.json"]
    assert differences(record(Path("alone")), own) == []


@pytest.mark.parametrize("name", ["ckpt-640.pt", "ckpt-640.json"])
def test_flipped_bit_in_the_bucket_is_noticed(name: str, tmp_path: Path) -> None:
    """The checkpoint before is taken, loudly. Negative control: nothing is said of one that is whole."""
    assert go(Path("run"), *RUN) == 0
    place = upload(Path("run"), tmp_path / "bucket")
    assert not any("DAMAGED" in line for line in fetched(place)[1])
    shutil.rmtree("fresh")
    data = bytearray((place / "ckpt" / name).read_bytes())
    data[len(data) // 2] ^= 1
    (place / "ckpt" / name).write_bytes(data)
    folder, warnings = fetched(place)
    assert any("DAMAGED IN THE BUCKET" in line for line in warnings)
    assert newest(folder) < 640


@pytest.mark.parametrize("name", ["history.jsonl", "result.json", "config.yaml"])
def test_flipped_bit_beside_the_checkpoints_is_noticed(name: str, tmp_path: Path) -> None:
    assert go(Path("run"), *RUN) == 0
    place = upload(Path("run"), tmp_path / "bucket")
    data = bytearray((place / name).read_bytes())
    data[len(data) // 2] ^= 1
    (place / name).write_bytes(data)
    assert any("DAMAGED" in line and name in line for line in fetched(place)[1])


def test_no_whole_checkpoint_is_refused(tmp_path: Path) -> None:
    assert go(Path("run"), *RUN) == 0
    place = upload(Path("run"), tmp_path / "bucket")
    for path in (place / "ckpt").glob("*.pt"):
        path.write_bytes(b"")
    with pytest.raises(Refused, match="no whole checkpoint"):
        fetched(place)
    assert not Path("fresh").exists() or not list(Path("fresh").rglob("*.json"))


# ----------------------------------------------------------------------------------------------- two machines


def test_second_machine_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    assert go(Path("run"), *RUN) == 0
    place = upload(Path("run"), tmp_path / "bucket")
    age(place, ALIVE_S - 20)
    with pytest.raises(Refused, match="mirror_takeover=true"):
        fetched(place)
    age(place, ALIVE_S + 1)
    fetched(place)


def test_copy_for_reading_is_not_the_run(tmp_path: Path) -> None:
    """A run that trains elsewhere can be looked at and forked, not resumed from the copy."""
    assert go(Path("run"), *RUN) == 0
    place = upload(Path("run"), tmp_path / "bucket")
    age(place, 0)
    folder, _ = fetched(place, reading=True)
    with pytest.raises(Refused, match="is at work on it"):
        claim(config_with(tmp_path / "bucket"), folder, existing=True, named=True, takeover=False)
    assert go(Path("child"), f"fork=file://{place}@last", "frames=128") == 0
    age(place, ALIVE_S + 1)
    assert fetched(place)[0] == folder
    assert claim(config_with(tmp_path / "bucket"), folder, existing=True, named=True, takeover=False)


def test_run_that_was_taken_over_stops_uploading(tmp_path: Path) -> None:
    assert go(Path("run"), *RUN, "frames=256") == 0
    place = upload(Path("run"), tmp_path / "bucket")
    first, _ = mirrored(Path("run"), tmp_path / "bucket")
    other, _ = fetched(place)
    config = config_with(tmp_path / "bucket")
    taken = claim(config, other, existing=True, named=True, takeover=False)
    assert taken is not None
    assert go(Path("run"), "frames=640") == 0
    before = contents(place)
    with pytest.raises(TakenOver):
        first.round(last=True)
    assert contents(place).keys() - {"ckpt/ckpt-640.json"} >= before.keys()
    assert not (place / "ckpt" / "ckpt-640.json").exists()
    with pytest.raises(Refused, match="heard of"):
        claim(config, Path("run"), existing=True, named=True, takeover=False)
    age(place, ALIVE_S + 1)
    with pytest.raises(Refused, match="went on elsewhere"):
        claim(config, Path("run"), existing=True, named=True, takeover=False)
    assert claim(config, Path("run"), existing=True, named=True, takeover=True)


def test_starts_that_cannot_reach_the_bucket_lose_no_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heartbeat there stays that of a session which the folder remembers."""
    assert go(Path("run"), *RUN) == 0
    upload(Path("run"), tmp_path / "bucket")
    config = config_with(tmp_path / "bucket")

    def fails(*_: Any) -> None:
        raise TimeoutError("the connection broke")

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "write", fails)
        for _ in range(3):
            with pytest.raises(Refused, match="the connection broke"):
                claim(config, Path("run"), existing=True, named=True, takeover=False)
    for _ in range(3):
        mine = claim(config, Path("run"), existing=True, named=True, takeover=False)
        assert mine is not None
    assert len(mine.sessions) == 2


@pytest.mark.parametrize("lost", ["result.json", "ckpt/ckpt-640.json", "ckpt/ckpt-512.json"])
def test_finished_run_that_was_killed_before_its_last_upload_is_uploaded(lost: str, tmp_path: Path) -> None:
    """By the line that says of others that they are finished; the result stays the same."""
    line = [*RUN, f"mirror=file://{tmp_path}/bucket", "hydra.run.dir=outputs/run"]
    assert typed(*line).returncode == 0
    before = record(Path("outputs/run"))
    (tmp_path / "bucket/run" / lost).unlink()
    ended = typed("resume=outputs/run")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"finished, but {lost} never reached file://{tmp_path}/bucket/run: uploaded now" in ended.stdout
    assert (tmp_path / "bucket/run" / lost).read_bytes() == Path("outputs/run", lost).read_bytes()
    there, here = of_run(tmp_path / "bucket/run"), of_run(Path("outputs/run"))
    assert [name for name in there if there[name] != here[name] and name != "train.log"] == []
    assert fetched(tmp_path / "bucket/run")[1] == [f"fetched from file://{tmp_path}/bucket/run"]
    assert differences(record(Path("outputs/run")), before) == []
    assert "outputs/run is finished" in typed("resume=outputs/run").stdout


def test_file_of_the_folder_that_cannot_be_written_is_not_the_buckets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert go(Path("run"), *RUN) == 0
    upload(Path("run"), tmp_path / "bucket")

    def fails(*_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "run/mirror.json")

    monkeypatch.setattr(Claim, "write", fails)
    with pytest.raises(OSError, match="Read-only file system: 'run/mirror.json'"):
        claim(config_with(tmp_path / "bucket"), Path("run"), existing=True, named=True, takeover=False)


def test_fetched_run_may_get_a_folder_on_another_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hydra.run.dir` need not be below `outputs`."""
    assert go(Path("run"), *RUN) == 0
    place = upload(Path("run"), tmp_path / "bucket")
    rename = os.replace

    def rename_on_a_disk(old: Path, new: Path) -> None:
        if Path(new).parent not in Path(old).parents:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(old, new)

    monkeypatch.setattr("rl.runs.fetch.os.replace", rename_on_a_disk)
    folder, _, _ = fetch(f"file://{place}", Path("outputs"), into=Path("disk/run"))
    assert of_run(folder) == of_run(Path("run"))
    assert os.listdir("disk") == ["run"]


def test_two_new_runs_of_one_name_get_two_places(tmp_path: Path) -> None:
    config = config_with(tmp_path / "bucket")
    places = [claim(config, Path("outputs/a"), existing=False, named=False, takeover=False) for _ in "12"]
    assert [place and Path(place.url).name for place in places] == ["a", "a-2"]
    with pytest.raises(Refused, match="another run is there"):
        claim(config, Path("outputs/a"), existing=False, named=True, takeover=False)


def test_place_of_a_run_that_never_uploaded_is_free(tmp_path: Path) -> None:
    """Its session failed while it was built, or was killed before the first checkpoint."""
    config = config_with(tmp_path / "bucket")
    mine = claim(config, Path("a"), existing=False, named=True, takeover=False)
    with pytest.raises(ZeroDivisionError), released_on_error(mine):
        1 / 0  # noqa: B018
    assert claim(config, Path("a"), existing=False, named=True, takeover=False)


def claim_and_die(bucket: Path) -> int:
    """The number of a process that claimed a place, and was killed before it had a folder."""
    program = (
        "import os; from pathlib import Path; from test_mirror import config_with;"
        "from rl.runs.mirror import claim;"
        f"claim(config_with(Path({str(bucket)!r})), Path('a'), existing=False, named=True, takeover=False);"
        "os.kill(os.getpid(), 9)"
    )
    here = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, **here})
    assert process.wait() == -signal.SIGKILL
    return process.pid


@pytest.mark.parametrize("where", ["here", "another machine", "unknown", "still alive"])
def test_place_of_a_run_that_was_killed_at_once_is_free_where_that_is_known(
    where: str, tmp_path: Path
) -> None:
    config, bucket = config_with(tmp_path / "bucket"), tmp_path / "bucket"
    pid = claim_and_die(bucket)
    (place,) = bucket.rglob(BEAT)
    beat = json.loads(place.read_text())
    assert beat["pid"] == pid
    if where == "another machine":
        place.write_text(json.dumps({**beat, "processes": "another boot"}))
    if where == "unknown":
        place.write_text(json.dumps({**beat, "processes": ""}))
    if where == "still alive":
        place.write_text(json.dumps({**beat, "pid": os.getpid()}))
    if where == "here":
        assert claim(config, Path("a"), existing=False, named=True, takeover=False)
    else:
        with pytest.raises(Refused, match="another run is there"):
            claim(config, Path("a"), existing=False, named=True, takeover=False)


def test_heartbeat_is_of_the_process_that_trains(tmp_path: Path) -> None:
    """Who kills the uploader has not ended the run."""
    assert go(Path("run"), *RUN) == 0
    _, bucket = mirrored(Path("run"), tmp_path / "bucket")
    program = "from pathlib import Path; from rl.runs.upload import Session;"
    program += "Session(Path('run'), print).uploader.beat()"
    subprocess.run([sys.executable, "-c", program], env=environment(), check=True)
    beat = read_beat(bucket)
    assert beat is not None
    assert beat.pid == os.getpid()
    assert beat.alive


def test_run_below_another_is_not_pruned(tmp_path: Path) -> None:
    assert go(Path("run"), *RUN) == 0
    place = upload(Path("run"), tmp_path / "bucket")
    shutil.copytree(place, place / "inner")
    before = of_run(place / "inner")
    upload(Path("run"), tmp_path / "bucket")
    assert of_run(place / "inner") == before


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("xyz://a/b", "Protocol not known"),
        ("gs://a/b", "gcsfs"),
        ("file:///proc/x", "No such file"),
        ("/tmp/x", "not a URL"),
    ],
)
def test_place_that_cannot_be_is_one_message(url: str, said: str) -> None:
    config: RunConfig = compose([], RunConfig).config
    config.mirror = url
    with pytest.raises(Refused, match=said):
        claim(config, Path("a"), existing=False, named=False, takeover=False)


def test_server_that_is_gone_costs_the_upload_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The run's end waits as long as is said, and says what is not up."""
    assert go(Path("run"), *RUN) == 0
    for name, value in s3_server.environment(s3_server.free_port()).items():
        monkeypatch.setenv(name, value)
    mine = Claim("s3://gone", "s3://gone/run", "run", "id", ["session"])
    began = time.monotonic()
    with caplog.at_level(logging.INFO, "encore"), MirrorProcess(Path("run"), mine, lambda: 3.0):
        pass
    assert time.monotonic() - began < 10
    said = caplog.messages[-1]
    assert "NOT in s3://gone/run after 3 s" in said
    assert "ckpt-640.json" in said
    assert "result.json" in said


def test_uploader_that_cannot_be_started_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process without file handles starts no other, however long it waits."""

    def no_handles(*words: str) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    assert go(Path("run"), *RUN) == 0
    monkeypatch.setattr("rl.runs.mirror_process.start_beside", no_handles)
    mine = Claim("memory://gone", "memory://gone/run", "run", "id", ["session"])
    began = time.monotonic()
    with caplog.at_level(logging.INFO, "encore"), MirrorProcess(Path("run"), mine, lambda: 300.0):
        pass
    assert time.monotonic() - began < 60
    assert "mirror: [Errno 24] Too many open files; another is started" in caplog.messages
    assert "NOT in memory://gone/run after" in caplog.messages[-1]


# ------------------------------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], Path]]:
    """An S3 API: the environment to use it, and the file that makes it fail."""
    port, failing = s3_server.free_port(), tmp_path_factory.mktemp("s3") / "failing"
    process = s3_server.start(port, failing=failing)
    yield s3_server.environment(port), failing
    process.kill()
    process.wait()


def run_of(process: subprocess.Popen[bytes], url: str, frames: int) -> None:
    """Wait until a checkpoint is in the bucket."""
    for _ in range(600):
        names = Bucket(url).sizes()
        if any(name.startswith("ckpt/ckpt-") and name.endswith(".json") and
               int(name[10:-5] if name[10:-5].isdigit() else 0) >= frames for name in names):  # fmt: skip
            return
        assert process.poll() is None
        time.sleep(0.05)
    raise AssertionError(f"nothing of frame {frames} is up")


def test_run_outlives_machine_uploader_and_server(
    bucket: tuple[dict[str, str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Uploads meet errors 500, the uploader is killed, at last the run and its folder; the next machine ends
    with the bits of an undisturbed run, and rl.runs lists it."""
    for name, value in bucket[0].items():
        monkeypatch.setenv(name, value)
    line = ["frames=120k", "env.num_envs=1", "ckpt.every=5k", "eval.every=50k", "eval.episodes=2"]
    line += ["progress=false"]
    url = f"s3://{s3_server.BUCKET}/t"
    machines = [tmp_path / name for name in ("alone", "first", "second")]
    for machine in machines:
        machine.mkdir()
    process = subprocess.Popen(
        command(*line, "hydra.run.dir=outputs/run", f"mirror={url}"),
        cwd=machines[1], env=environment(), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    run_of(process, f"{url}/run", 5000)
    bucket[1].touch()
    (uploader,) = children(process.pid)
    os.kill(uploader, signal.SIGKILL)
    time.sleep(0.5)
    bucket[1].unlink()
    now = max(int(path.stem[5:]) for path in (machines[1] / "outputs/run/ckpt").glob("ckpt-*.json"))
    run_of(process, f"{url}/run", now)
    left = children(process.pid)
    process.kill()
    process.wait()
    shutil.rmtree(machines[1])
    monkeypatch.chdir(machines[2])
    while any(map(alive, left)):
        time.sleep(0.05)
    beat = read_beat(Bucket(f"{url}/run"))
    assert beat is not None
    Bucket(f"{url}/run").write(BEAT, replace(beat, processes="of another machine").to_bytes())
    refused = typed(f"resume={url}/run")
    assert refused.returncode == 2
    assert "is at work on it" in refused.stderr
    assert os.listdir(machines[2]) == []
    longer = "frames=140k"  # so that checkpoints follow, wherever the first machine was lost
    ended = typed(f"resume={url}/run", longer, "mirror_takeover=true")
    assert ended.returncode == 0, ended.stderr
    monkeypatch.chdir(machines[0])
    assert typed(*line, longer, "hydra.run.dir=outputs/run").returncode == 0
    ours, alone = (record(machines[number] / "outputs" / "run") for number in (2, 0))
    ours["files"] = [name for name in ours["files"] if name != "mirror.json"]
    assert differences(alone, ours) == []
    listed = subprocess.run(
        [sys.executable, "-m", "rl.runs", url, "--json"], env=environment(), capture_output=True, check=True
    )
    (one,) = json.loads(listed.stdout)
    assert (one["run"], one["state"], one["seed"]) == (f"{url}/run", "finished", 0)
    beat = read_beat(Bucket(f"{url}/run"))
    assert beat is not None
    assert beat.ended


def test_sweep_is_finished_on_a_new_machine(tmp_path: Path) -> None:
    """By its record and the jobs in the mirror; one that had not begun begins there."""
    line = [*RUN, "seed=1,2", "hydra.sweep.dir=outputs/sweeps/a", f"mirror=file://{tmp_path}/bucket"]
    assert typed("-m", *line).returncode == 0
    shutil.rmtree("outputs")
    shutil.rmtree(tmp_path / "bucket/sweeps/a/seed=2")
    ended = typed("-m", f"resume=file://{tmp_path}/bucket/sweeps/a", "frames=768")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for seed in (1, 2):
        assert Path(f"outputs/sweeps/a/seed={seed}/ckpt/ckpt-768.json").exists()
        assert (tmp_path / f"bucket/sweeps/a/seed={seed}/ckpt/ckpt-768.json").exists()
