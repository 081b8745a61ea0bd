"""`python -m benchmarks.faults [minutes=20] [seed=1] [lines=NAME,...]`: hurt real runs in every way that
there is, and compare.

For each line of `LINES` one run is left alone. Others of the same line are killed, stopped, starved of disk,
damaged between two sessions and resumed, again and again, then resumed to their ends and compared bit for
bit. A session is what `train.py` does, in a fork of this process, which has imported torch already, or by
itself; where a run has several processes, these are forks too. The runs are on a small disk of their own,
which the campaign fills, where it may mount one. A mirrored run is compared with what is in its bucket too.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import importlib
import itertools
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import rl.runs.checkpoints
import rl.train
import rl.training.launch
import rl.training.run
from benchmarks import s3_server
from benchmarks.compare import differences
from benchmarks.hanging import HANGS
from benchmarks.kills import newest_frames
from benchmarks.mirror_kills import uploaded
from benchmarks.process_kills import children, left
from benchmarks.record import ROOT, record
from rl.runs import files, history
from rl.runs.bucket import Bucket
from rl.runs.fetch import fetch
from rl.runs.manifest import Manifest
from rl.runs.outcome import FAILED, FINISHED, INTERRUPTED, REFUSED, STOPPING, TO_BE_CONTINUED
from rl.serialize import load, serialize
from rl.trackers import tracker as trackers

SETTINGS = [
    "eval.episodes=1",
    "progress=false",
    "ckpt.minutes=null",
    "algo.network.hidden=[16]",
    "env.num_envs=2",
]
MEMORY = [
    *("algo.learning_starts=100", "algo.batch_size=16", "algo.replay.capacity=500"),
    *("algo.rollout_length=8", "algo.updates_per_frame=0.25"),
]
SHORT_EPOCHS = ["algo.rollout_length=64", "algo.minibatch_size=64", "algo.epochs=2"]
TWO = ["processes=2", "processes_limit_s=60"]
# by a name that begins with the algorithm: environment, frames of which a sixteenth is the interval of
# checkpoints, and the rest
LINES: dict[str, tuple[str, int, list[str]]] = {
    "reinforce": ("cartpole", 4096, ["algo.rollout_length=64"]),
    "a2c": ("lunar_lander", 1600, []),
    "ppo": ("pendulum", 4096, SHORT_EPOCHS),
    "recurrent_ppo": ("pendulum", 4096, [*SHORT_EPOCHS, "algo.state_size=16"]),
    "sarsa": ("cartpole", 4096, []),
    "pqn": ("cartpole", 4096, SHORT_EPOCHS),
    "dqn": ("lunar_lander", 1600, MEMORY),
    "ddqn_per": ("cartpole", 1600, MEMORY),
    "qr_dqn": ("cartpole", 1600, MEMORY),
    "rainbow": ("cartpole", 1600, MEMORY),
    "sac": ("pendulum", 1280, MEMORY),
    "sac_discrete": ("cartpole", 1280, MEMORY),
    "td3": ("pendulum", 1280, MEMORY),
    "ddpg": ("pendulum", 1280, MEMORY),
    "crossq": ("pendulum", 1280, [*MEMORY, "algo.critic_network.hidden=[16]"]),
    "tqc": ("pendulum", 1280, [*MEMORY, "algo.critic_network.hidden=[16]"]),
    "ppo with Dict observations": (
        "cartpole",
        4096,
        [*SHORT_EPOCHS, "env.wrappers=[{_target_: benchmarks.dict_obs.AsDict}]"],
    ),
    "dqn with action masks": (
        "taxi",
        1600,
        [*MEMORY, "env.wrappers=[{_target_: rl.wrappers.ActionMask}]"],
    ),
    "sac with goals": ("fetch_reach", 960, [*MEMORY, "algo.replay._target_=rl.replay.HindsightReplay"]),
    "ppo on two processes": ("cartpole", 4096, [*SHORT_EPOCHS, *TWO, "algo.normalize_obs=true"]),
    "dqn on two processes": ("cartpole", 1600, [*MEMORY, *TWO]),
    "ddqn_per mirrored": ("cartpole", 1600, MEMORY),
}
MIRRORED, MIRROR = ["ddqn_per mirrored"], f"s3://{s3_server.BUCKET}/faults"
FAILING = Path(tempfile.gettempdir(), f"faults-bucket-fails-{os.getpid()}")  # while it is there
CALLS = {  # system calls that change a folder, and how many of each a few checkpoints make
    "write": ("write", 60),
    "fsync": ("fsync", 40),
    "rename": ("/^rename", 14),
    "unlink": ("/^unlink", 30),
}
CALLBACK = "callback_of_faults"  # a module of the campaign's own, which it edits
SCORES, DISK_BYTES, PATIENCE_S, LEFT_S = 2, 48 * 2**20, 300, 20
WENT_ON, WENT_BACK, REFUSED_ = "went on", "went back", "refused"


class WrongError(Exception):
    """Something that must not happen; says what, and what the session said."""


# --------------------------------------------------------------------------------------------------- sessions


class Session:
    """`train.py` with these words in a fork of this process; what it says goes to a file. Without `now` it
    waits for `let_go`.
    """

    def __init__(
        self, words: list[str], output: Path, *, now: bool = True, before: Callable[[], object] | None = None
    ) -> None:
        self.output, self.failed_loudly = output, False
        self.code: int | None = None
        wait, self._go = os.pipe()
        # the other end is held open by all that is forked in the session
        read, alive = os.pipe()
        self._alive: int | None = read
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._go)
            _train(words, output, wait, before)
        os.close(wait)
        os.close(alive)
        if now:
            self.let_go()

    def let_go(self) -> None:
        """Let it begin."""
        os.write(self._go, b"!")  # others have inherited this end: closing it would say nothing
        os.close(self._go)

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait_for(self, happened: Callable[[], bool]) -> bool:
        """Wait for an event or the session's end; whether it still runs. WrongError after minutes."""
        until = time.monotonic() + PATIENCE_S
        while self.poll() is None and not happened():
            if time.monotonic() > until:
                self.send(signal.SIGKILL)
                raise WrongError(f"a session that hangs: {self.said[-2000:]}")
            time.sleep(0.004)
        return self.code is None

    def end(self) -> int:
        """Wait for its end. WrongError if processes of it are left."""
        self.wait_for(lambda: False)
        assert self.code is not None
        if self._alive is not None:
            # what it left may say that its parent is gone
            said = self.said.partition("Process Worker<")[0] if self.code == -signal.SIGKILL else self.said
            self.failed_loudly = "Traceback" in said
            if not select.select([self._alive], [], [], LEFT_S)[0]:
                raise WrongError(f"it ended with {self.code}, and processes of it are left")
            os.close(self._alive)
            self._alive = None
        return self.code

    def send(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    @property
    def said(self) -> str:
        """All that it wrote to stdout and stderr."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""


def _train(words: list[str], output: Path, wait: int, before: Callable[[], object] | None) -> None:
    """What a fork does; it never returns."""
    with _leaving(output.with_suffix(".modules")):
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for standard in (1, 2):
            os.dup2(descriptor, standard)
        sys.stdout, sys.stderr = (
            os.fdopen(1, "w", buffering=1, closefd=False),
            os.fdopen(2, "w", buffering=1, closefd=False),
        )
        os.read(wait, 1)
        if before:
            before()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.argv = ["train.py", *words]
        rl.train.main()


@contextlib.contextmanager
def _leaving(modules: Path | None) -> Iterator[None]:
    """Exit the process at the end of the block; if all went well, note in a file what it has imported."""
    code = 99
    try:
        yield
        code = FINISHED
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:  # noqa: BLE001  whatever it was, a fork must not go on with the campaign
        traceback.print_exc()
    finally:
        if code == FINISHED and modules:
            modules.write_text("\n".join(sys.modules))
        os._exit(code)


class Forked:
    """In place of `subprocess.Popen`, one of a run's processes: a fork, with what this process has imported
    and patched.
    """

    def __init__(
        self,
        command: list[str],
        *,
        stdin: int,
        stdout: Any,
        stderr: Any,
        env: dict[str, str],
        start_new_session: bool,
        preexec_fn: Callable[[], None],
    ) -> None:
        assert command[1:3] == ["-m", "rl.train"]
        assert stdin == subprocess.DEVNULL
        self.code: int | None = None
        sys.stdout.flush()
        null = os.open(os.devnull, os.O_RDONLY)  # as Popen does: what it raises is this process's
        self.pid = os.fork()
        if self.pid == 0:
            with _leaving(None):
                if start_new_session:
                    os.setsid()
                preexec_fn()
                for number in STOPPING:
                    signal.signal(number, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                os.dup2(null, 0)
                for standard, file in ((1, stdout), (2, stderr)):
                    if file is not None:
                        os.dup2(file.fileno(), standard)
                os.environ.update(env)
                sys.argv[1:] = command[3:]
                rl.train.main()
        os.close(null)

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        while self.poll() is None:
            time.sleep(0.002)
        assert self.code is not None
        return self.code


def prepare() -> None:
    """Make runs of this process and its forks cheap."""
    torch.set_num_threads(1)
    rl.training.run.SCORE_EPISODES = SCORES
    # what starts a run's processes
    vars(rl.training.launch)["subprocess"] = SimpleNamespace(Popen=Forked, DEVNULL=subprocess.DEVNULL)


@dataclass
class Hurt:
    """A run that is being hurt."""

    name: str  # of its line
    folder: Path
    line: list[str]
    frames: int
    logs: Path
    rng: random.Random
    sessions: int = 0
    whole_line: bool = False  # whether its history may say something else by now
    # what its next sessions must say of faults between sessions
    expected: list[str] = field(default_factory=list)
    heard: str = ""  # what they said so far
    struck: list[tuple[str, str]] = field(default_factory=list)  # the faults so far, and what the run did
    last: Session | None = None

    @property
    def several(self) -> bool:
        """Whether it is trained by several processes."""
        return set(TWO) <= set(self.line)

    @property
    def bucket(self) -> Bucket | None:
        """Where it is mirrored, if it is."""
        return Bucket(f"{MIRROR}/{self.folder.name}") if self.name in MIRRORED else None

    def start(self, *more: str, now: bool = True, before: Callable[[], object] | None = None) -> Session:
        """A session that goes on with it: by its own line again, or by resume=; with `more` overrides."""
        self.sessions += 1
        resumable = newest_frames(self.folder) >= 0 and not self.whole_line and self.rng.random() < 0.5
        words = [f"resume={self.folder}"] if resumable else [*self.line, f"hydra.run.dir={self.folder}"]
        output = self.logs / f"{self.folder.name}-{self.sessions}.txt"
        self.last = Session([*words, *more], output, now=now, before=before)
        return self.last

    def ended(self, session: Session, *codes: int, says: str = "") -> None:
        """WrongError unless a session ended with one of these codes and logged what it should.

        Where one of several processes fails, their parent says which.
        """
        must(session, *codes, says=says, or_says="stopped: process" if self.several else says)
        self.listen(session.output)

    def listen(self, output: Path) -> None:
        """WrongError if a session went on, and what should have been said of damage by then was not."""
        self.heard += _plain(output.read_text(errors="replace"))
        if "going on at frame" in self.heard:
            missing = [words for words in self.expected if words not in self.heard]
            if missing:
                raise WrongError(f"nobody said {missing}: {self.heard[-3000:]}")
            self.expected, self.heard = [], ""

    @property
    def finished(self) -> bool:
        """Whether it has reached its end."""
        return (self.folder / "result.json").exists()

    @property
    def early(self) -> bool:
        """Whether so much is left that a checkpoint made by a signal is forgotten at the end."""
        return newest_frames(self.folder) < self.frames // 2

    def train_a_while(self, session: Session, seconds: float = 0.3) -> bool:
        """Let a session commit a checkpoint, and a random while more; whether it still runs."""
        before = newest_frames(self.folder)
        until = time.monotonic() + self.rng.uniform(0, seconds)
        return session.wait_for(lambda: newest_frames(self.folder) > max(before, 0)) and session.wait_for(
            lambda: time.monotonic() > until
        )


def must(session: Session, *codes: int, says: str = "", or_says: str | None = None) -> None:
    """WrongError if a session ended otherwise, without some words, or with a traceback."""
    session.end()
    silent = says not in session.said and (or_says is None or or_says not in session.said)
    if session.code not in codes or silent or session.failed_loudly:
        raise WrongError(f"exit {session.code}, expected {codes} and {says!r}: {session.said[-3000:]}")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run but its lock."""
    return {
        str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    }


# ---------------------------------------------------------------------------------------- faults in a session


def killed(run: Hurt) -> str:
    """SIGKILL, at a random moment of training or, one time in four, of the start."""
    session = run.start()
    if run.rng.random() < 0.25:
        until = time.monotonic() + run.rng.uniform(0, 1.5)
        session.wait_for(lambda: time.monotonic() > until)
    else:
        run.train_a_while(session)
    session.send(signal.SIGKILL)
    run.ended(session, -signal.SIGKILL, FINISHED)
    return WENT_ON if session.code else ""


def killed_alone(run: Hurt) -> str:
    """The same to a process of its own that imports everything, while it starts or a little later.

    A tracker outlives it to send the last rows, and may first wait for one that hangs to give way.
    """
    program = f"import rl.train, rl.training.run; rl.training.run.SCORE_EPISODES = {SCORES}; rl.train.main()"
    if run.several:
        program = "import benchmarks.faults as faults; faults.prepare(); faults.rl.train.main()"
    words = [sys.executable, "-u", "-c", program, *run.line, f"hydra.run.dir={run.folder}"]
    output = run.logs / f"{run.folder.name}-alone.txt"
    with output.open("w") as file:
        process = subprocess.Popen(words, cwd=ROOT, stdout=file, stderr=file)
        time.sleep(run.rng.uniform(0, 6))
        others = _with_it(process.pid)
        process.kill()
        code = process.wait()
        if left(others):
            raise WrongError("processes are left")
    run.listen(output)
    return WENT_ON if code == -signal.SIGKILL else ""


def traced(run: Hurt, call: str, what: str) -> Session | None:
    """A session in which strace acts at the n-th of some system calls; None if that was not reached.

    Of several processes each counts its own calls. A write to an env's process is none to a disk.
    """
    name, most = CALLS[call]
    session = run.start("env.vectorization=sync", now=False)
    inject = f"inject={name}:{what}:when={run.rng.randint(1, most)}"
    with subprocess.Popen(
        ["strace", *["-f"] * run.several, "-p", str(session.pid), "-o", "/dev/null", "-e", inject],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as strace:
        session.wait_for(lambda: "TracerPid:\t0\n" not in Path(f"/proc/{session.pid}/status").read_text())
        session.let_go()
        session.end()
        strace.wait()
    return None if session.code == FINISHED else session


def killed_in(call: str) -> Callable[[Hurt], str]:
    """SIGKILL in place of the n-th call."""

    def fault(run: Hurt) -> str:
        session = traced(run, call, "signal=KILL")
        if session:
            if session.code == FAILED and run.several:
                run.ended(session, FAILED, says="was killed by SIGKILL")
            else:
                run.ended(session, -signal.SIGKILL)
        return WENT_ON if session else ""

    return fault


def failing(call: str) -> Callable[[Hurt], str]:
    """The n-th call fails; a run either does not need it, or says why it stopped."""

    def fault(run: Hurt) -> str:
        code = run.rng.choice([errno.EIO, errno.ENOSPC, errno.EROFS])
        session = traced(run, call, f"error={errno.errorcode[code]}")
        if session:
            run.ended(session, FAILED, says=os.strerror(code))
        return WENT_ON if session else ""

    return fault


def told_to_stop(run: Hurt) -> str:
    """SIGTERM, SIGINT, SIGUSR1 or SIGUSR2."""
    if not run.early:
        return ""
    session, number = (
        run.start(),
        run.rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2]),
    )
    run.train_a_while(session)
    session.send(number)
    code = INTERRUPTED if number == signal.SIGINT else TO_BE_CONTINUED
    run.ended(session, code, FINISHED, says="go on with: python")
    return WENT_ON if session.code == code else ""


def suspended(run: Hurt) -> str:
    """SIGSTOP; a resume in the meantime is refused; SIGCONT."""
    session = run.start()
    if not run.train_a_while(session):
        return ""
    session.send(signal.SIGSTOP)
    must(run.start(), REFUSED, says="is being worked on by process")
    session.send(signal.SIGCONT)
    run.train_a_while(session)
    session.send(signal.SIGKILL)
    run.ended(session, -signal.SIGKILL, FINISHED)
    return WENT_ON


def two_at_once(run: Hurt) -> str:
    """Two sessions start together: one is refused, the other trains."""
    sessions = [run.start(now=False) for _ in range(2)]
    for session in sessions:
        session.let_go()
    while all(session.poll() is None for session in sessions):
        time.sleep(0.004)
    loser, winner = sorted(sessions, key=lambda session: session.code is None)
    if loser.code == FINISHED:  # before the other had looked
        must(winner, REFUSED, FINISHED)
        return ""
    must(loser, REFUSED, says="is being worked on by")
    run.train_a_while(winner)
    winner.send(signal.SIGKILL)
    run.ended(winner, -signal.SIGKILL, FINISHED)
    return WENT_ON


def full_disk(run: Hurt) -> str:
    """The disk of the run's folder fills up while it trains; or, where that is not a small one, its files may
    not grow.
    """
    disk = run.folder.parent
    if shutil.disk_usage(disk).total > DISK_BYTES:
        size = run.rng.choice([1, 1000, 5000, 20_000])
        session = run.start(before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
        if session.end() == FINISHED:  # it wrote nothing that large
            return ""
        run.ended(session, FAILED, says=os.strerror(errno.EFBIG))
        return WENT_ON
    session, filler = run.start(), disk / "filler"
    if not run.train_a_while(session):
        return ""
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in [2**20] * (DISK_BYTES // 2**20) + [4096] * 256:
            file.write(bytes(size))
        while True:
            file.write(bytes(1))
    session.end()
    filler.unlink()
    if session.code == FINISHED:  # before the disk was full
        return ""
    run.ended(session, FAILED, says=os.strerror(errno.ENOSPC))
    return WENT_ON


def out_of_file_handles(run: Hurt) -> str:
    """A session may open a few files more than it has at its start; too few, and it says so."""

    def limit() -> None:
        number = len(os.listdir("/proc/self/fd")) + run.rng.randint(1, 8)
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))

    session = run.start(before=limit)
    if session.end() == FINISHED:
        return ""
    run.ended(session, FAILED, REFUSED, says=os.strerror(errno.EMFILE))
    return WENT_ON


def out_of_memory(run: Hurt) -> str:
    """From the nth save on no memory is to be had (RLIMIT_AS)."""
    nth = run.rng.randint(1, 4)

    def limit() -> None:
        saves = itertools.count(1)
        whole = rl.runs.checkpoints.serialize

        def serialize_without_memory(state: dict[str, object]) -> bytes:
            if next(saves) < nth:
                return whole(state)
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(),) * 2)
            return whole(state) + bytes(2**28)  # what a large state would need

        rl.runs.checkpoints.serialize = serialize_without_memory

    session = run.start(before=limit)
    if session.end() == FINISHED:
        return ""
    run.ended(session, FAILED, says="out of memory")
    return WENT_ON


def clock_jumps(run: Hurt) -> str:
    """The system's time jumps by up to a year, forward and back, while a session trains."""

    def jump() -> None:
        real, rng = time.time, random.Random(run.sessions)
        time.time = lambda: real() + rng.uniform(-1, 1) * 365 * 86_400

    session = run.start(before=jump)
    run.train_a_while(session)
    session.send(signal.SIGKILL)
    run.ended(session, -signal.SIGKILL, FINISHED)
    return WENT_ON if session.code else ""


def worker_killed(run: Hurt) -> str:
    """SIGKILL of the process of one env (env.vectorization=async)."""
    session = run.start("env.vectorization=async")
    if not run.train_a_while(session):
        return ""
    own = children(session.pid)
    own += [pid for one in own for pid in children(one)]
    workers = [
        pid
        for pid in own
        if not any(name in _command_line(str(pid)) for name in ("resource_tracker", "rl.runs.upload"))
    ]
    if workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(run.rng.choice(workers), signal.SIGKILL)
    session.end()
    if not workers or session.code == FINISHED:
        return ""
    run.ended(session, FAILED, says="was killed by SIGKILL")
    return WENT_ON


def uploader_killed(run: Hurt) -> str:
    """SIGKILL of the process that uploads: another is started."""
    session = run.start()
    if not run.train_a_while(session):
        return ""
    uploaders = [pid for pid in children(session.pid) if "rl.runs.upload" in _command_line(str(pid))]
    for pid in uploaders:
        os.kill(pid, signal.SIGKILL)
    session.wait_for(lambda: "another is started" in session.said)
    session.send(signal.SIGKILL)
    run.ended(session, -signal.SIGKILL, FINISHED)
    return WENT_ON if uploaders and session.code else ""


def machine_lost(run: Hurt) -> str:
    """SIGKILL, and its folder is gone: the same line goes on from the bucket."""
    bucket = run.bucket
    session = run.start()
    run.train_a_while(session, 3)
    others = _with_it(session.pid)
    session.send(signal.SIGKILL)
    run.ended(session, -signal.SIGKILL, FINISHED)
    if left(others):
        raise WrongError("processes are left")
    assert bucket
    frames = uploaded(bucket)
    if session.code == FINISHED or frames <= 0:
        return ""
    shutil.rmtree(run.folder)
    run.expected, run.heard, run.whole_line = [f"going on at frame {frames} "], "", True
    session = run.start("mirror_takeover=true")
    run.train_a_while(session)
    session.send(signal.SIGKILL)
    run.ended(session, -signal.SIGKILL, FINISHED)
    if newest_frames(run.folder) < frames:
        raise WrongError(f"it did not go on from the bucket: {session.said[-3000:]}")
    run.whole_line = False
    return WENT_ON


def bucket_fails(run: Hurt) -> str:
    """The bucket takes nothing: two starts are refused, a run that trains goes on, and later all is well."""
    before = run.expected
    FAILING.touch()
    for _ in range(2):
        run.expected = []
        must(run.start(), REFUSED, says=f"{MIRROR}/{run.folder.name}")
    FAILING.unlink()
    run.expected = before
    session = run.start()
    if not run.train_a_while(session):
        return ""
    FAILING.touch()
    run.train_a_while(session, 2)
    session.send(signal.SIGKILL)
    FAILING.unlink()
    run.ended(session, -signal.SIGKILL, FINISHED)
    return WENT_ON


def _end_trackers(folder: Path) -> None:
    """Those that hang give way later; the folder's disk is needed now."""
    for path in Path("/proc").glob("[0-9]*"):
        if _is_tracker(int(path.name)) and str(folder) in _command_line(path.name).split("\0"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(path.name), signal.SIGKILL)


def _is_tracker(pid: int) -> bool:
    return "rl.trackers.follow" in _command_line(str(pid)).split("\0")


def _with_it(parent: int) -> list[int]:
    """Its children that end when it does: a tracker may outlive it."""
    return [pid for pid in children(parent) if not _is_tracker(pid)]


def _command_line(pid: str) -> str:
    with contextlib.suppress(OSError):  # it has ended
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def tracker_hangs(run: Hurt) -> str:
    """A tracker that never comes back: training goes on without it."""
    if not run.early:
        return ""
    tracker = "+logger.hangs={_target_: benchmarks.hanging.HangingTracker}"
    session = run.start(tracker, before=lambda: os.environ.update({HANGS: "1"}))
    before = newest_frames(run.folder)
    hangs = run.folder / trackers.ID  # written just before
    if not session.wait_for(lambda: newest_frames(run.folder) > before and hangs.exists()):
        return ""
    session.send(signal.SIGKILL)
    run.ended(session, -signal.SIGKILL)
    return WENT_ON


def read_only(run: Hurt) -> str:
    """The folder is mounted for reading alone; nothing in it changes.

    A tracker of the session before may have files open there when that ends, hence the lazy umount.
    """
    if newest_frames(run.folder) < 0 or not _mount("--bind", str(run.folder), str(run.folder)):
        return ""
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(run.folder)], check=True)
        before = contents(run.folder)
        must(run.start(), FAILED, REFUSED, says=os.strerror(errno.EROFS))
    finally:
        subprocess.run(["umount", "--lazy", str(run.folder)], check=True)
    if contents(run.folder) != before:
        raise WrongError("a folder that is read-only has changed")
    return REFUSED_


# ------------------------------------------------------------------------------------ faults between sessions


def _truncate(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size or 1))


def _flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _delete(path: Path, rng: random.Random) -> None:
    path.unlink()


DAMAGES = {"truncated": _truncate, "flipped": _flip, "deleted": _delete}


def damaged(how: str, pattern: str) -> Callable[[Hurt], str]:
    """A file that checkpoints name is damaged. An older one that does not need it is used, loudly; else all
    is refused.
    """

    def fault(run: Hurt) -> str:
        manifests = {one: _named_by(one) for one in run.folder.glob("ckpt/ckpt-*.json")}
        newest = max(manifests, key=lambda one: int(one.stem[5:]))
        paths = [path for path in sorted(run.folder.glob(pattern)) if path in {newest} | manifests[newest]]
        if not paths:
            return ""
        path = run.rng.choice(paths)
        left = [int(one.stem[5:]) for one, names in manifests.items() if path != one and path not in names]
        before = path.read_bytes()
        DAMAGES[how](path, run.rng)
        if not left:
            return _refused(run, path, before, "no checkpoint is whole")
        # such a one was never committed
        loud = [] if (path, how) == (newest, "deleted") else ["DAMAGED CHECKPOINT"]
        run.expected += [f"going on at frame {max(left)} "] * (max(left) > 0) + loud
        return WENT_BACK

    return fault


def _named_by(manifest: Path) -> set[Path]:
    content = json.loads(manifest.read_text())
    return {manifest.parent / name for name in content["files"]} | {
        manifest.parent.parent / "replay" / name for name in content["replay"]
    }


def _plain(said: str) -> str:
    """What a session said, with its numbers written out."""

    def written_out(found: re.Match[str]) -> str:
        return str(round(float(found[1].replace("_", "")) * {"k": 1000, "M": 10**6, "": 1}[found[2]]))

    return re.sub(r"\b(\d[\d_]*(?:\.\d+)?)([kM]?)\b", written_out, said)


def _refused(run: Hurt, path: Path, before: bytes, says: str) -> str:
    """The next session is refused and changes nothing; then the damage is undone."""
    state = contents(run.folder)
    must(run.start(), REFUSED, says=says)
    if contents(run.folder) != state:
        raise WrongError(f"refused, but changed something: {path}")
    path.write_bytes(before)
    return REFUSED_


def own_files_damaged(run: Hurt) -> str:
    """A bit of its configuration or history flips, or the end is gone: refused with a message, or without
    effect.
    """
    path = run.folder / run.rng.choice(["config.yaml", "history.jsonl"])
    before, run.whole_line = path.read_bytes(), True
    run.rng.choice([_truncate, _flip])(path, run.rng)
    session = run.start()
    run.train_a_while(session)
    session.send(signal.SIGKILL)
    # their line may be the one whose end is gone
    remembered = [words for words in run.expected if words.startswith(("torch was", "the code changed"))]
    run.expected = [words for words in run.expected if words not in remembered]
    run.ended(session, -signal.SIGKILL, FINISHED, REFUSED)
    if session.code != REFUSED:
        return WENT_ON
    run.expected += remembered
    path.write_bytes(before)
    return REFUSED_


def half_a_line(run: Hurt) -> str:
    """Tables and history end in half a line."""
    for name, text in (("metrics.csv", "123456,7"), ("eval.csv", "9"), ("history.jsonl", '{"event": "res')):
        with (run.folder / name).open("a") as file:
            file.write(text)
    return WENT_ON


def rows_cut(run: Hurt) -> str:
    """metrics.csv lost rows that the newest checkpoint counts on."""
    sizes = sorted(Manifest.read(path).offsets["metrics.csv"] for path in run.folder.glob("ckpt/ckpt-*.json"))
    path = run.folder / "metrics.csv"
    before = path.read_bytes()
    os.truncate(path, sizes[-1] - 1)
    if sizes[0] == sizes[-1]:
        return _refused(run, path, before, "metrics.csv has")
    run.expected += ["DAMAGED CHECKPOINT", "metrics.csv has"]
    return WENT_BACK


def clock_moved(run: Hurt) -> str:
    """The clock was a year ahead when the newest checkpoint was saved, and the files' times are nonsense."""
    path = run.folder / "ckpt" / f"ckpt-{newest_frames(run.folder)}.json"
    path.write_bytes(
        Manifest(**{**vars(Manifest.read(path)), "saved_at": time.time() + 365 * 86_400}).to_bytes()
    )
    for file in run.folder.rglob("*"):
        os.utime(file, (run.rng.uniform(0, 4e9),) * 2, follow_symlinks=False)
    return WENT_ON


def other_version(run: Hurt) -> str:
    """The session before ran with another torch: that is said."""
    path = run.folder / "history.jsonl"
    *lines, last, unfinished = path.read_text().split("\n")
    event = files.parse_line(last)
    event["world"]["torch"] = "0.4.1"
    path.write_text("\n".join([*lines, files.to_line(event) + unfinished]))
    run.expected.append(f"torch was {_plain('0.4.1')} and is")
    return WENT_ON


def code_edited(run: Hurt) -> str:
    """The code behind a callback is edited: the next session says which file."""
    oldest = min(int(path.stem[5:]) for path in run.folder.glob("ckpt/ckpt-*.json"))
    begun = [session["frames"] for session in history.read(run.folder)]
    if min(begun, default=oldest) >= oldest:  # it may yet go back to where no known code had trained
        return ""
    path = run.logs / f"{CALLBACK}.py"
    number = path.read_text().count("\n") if path.exists() else 0
    with path.open("a") as file:
        file.write(f"x{number} = {number}\n")
    run.expected.append("the code changed")
    return WENT_ON


def strays(run: Hurt) -> str:
    """Files lie there that kills left, and newer ones that were never committed."""
    frames = newest_frames(run.folder) + 1
    (run.folder / "replay").mkdir(exist_ok=True)
    for name in (
        f"ckpt/ckpt-{frames}.pt",
        f"ckpt/ckpt-best-{frames}.pt",
        f"replay/chunk-{frames}.bin",
        "ckpt/.ckpt-7.json.tmp",
    ):
        (run.folder / name).write_bytes(run.rng.randbytes(100))
    return WENT_ON


Fault = Callable[[Hurt], str]  # gives what the run did: '' if the fault did not strike
IN_SESSIONS: dict[str, Fault] = {
    "kill -9": killed,
    "kill -9 in the start": killed_alone,
    **{f"kill -9 in a {call}": killed_in(call) for call in CALLS},
    **{f"a {call} fails": failing(call) for call in CALLS},
    "signal to stop": told_to_stop,
    "SIGSTOP and a second resume": suspended,
    "two resumes at once": two_at_once,
    "full disk": full_disk,
    "out of file handles": out_of_file_handles,
    "out of memory in a save": out_of_memory,
    "clock jumps": clock_jumps,
    "kill -9 of an env's process": worker_killed,
    "a tracker hangs": tracker_hangs,
    "read-only folder": read_only,
    "config or history damaged": own_files_damaged,
}
WITH_A_MIRROR: dict[str, Fault] = {
    "kill -9 of the uploader": uploader_killed,
    "its machine lost": machine_lost,
    "the bucket fails": bucket_fails,
}
HARMLESS: dict[str, Fault] = {  # between sessions, any number of them
    "half a line at the end of tables": half_a_line,
    "clock moved back": clock_moved,
    "another version of torch": other_version,
    "code edited": code_edited,
    "stray files": strays,
}
DAMAGING: dict[str, Fault] = {  # between sessions, one of them
    **{f"checkpoint {how}": damaged(how, "ckpt/ckpt-[0-9]*.pt") for how in DAMAGES},
    **{f"manifest {how}": damaged(how, "ckpt/ckpt-[0-9]*.json") for how in DAMAGES},
    **{f"best weights {how}": damaged(how, "ckpt/ckpt-best-*.pt") for how in DAMAGES},
    **{f"replay chunk {how}": damaged(how, "replay/*.bin") for how in DAMAGES},
    "rows of metrics.csv cut": rows_cut,
}
STRACE = [
    name for name in IN_SESSIONS if any(name in (f"kill -9 in a {call}", f"a {call} fails") for call in CALLS)
]


# --------------------------------------------------------------------------------------------------- campaign


class Campaign:
    """Runs, their faults and what came of them."""

    def __init__(self, place: Path, logs: Path, seed: int) -> None:
        self.place, self.logs, self.rng = place, logs, random.Random(seed)
        self.counts: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(
            collections.Counter
        )
        self.number = 0
        (logs / f"{CALLBACK}.py").write_text("def nothing(run: object) -> None: ...\n")
        sys.path.insert(0, str(logs))
        os.environ["PYTHONPATH"] = os.pathsep.join([str(logs), str(ROOT)])

    def line(self, name: str) -> tuple[list[str], int]:
        """A command line, and its frames."""
        env, frames, more = LINES[name]
        every = frames // 16
        intervals = [
            f"frames={frames}",
            f"ckpt.every={every}",
            f"log_every={every // 2}",
            f"eval.every={frames // 4}",
        ]
        callback = f"callbacks=[{{_target_: {CALLBACK}.nothing}}]"
        return [f"algo={name.split()[0]}", f"env={env}", *SETTINGS, *more, *intervals, callback], frames

    def alone(self, name: str) -> Path:
        """The run that is left alone; made once."""
        folder = self.logs / f"alone-{name.replace(' ', '-')}"
        if not folder.exists():
            output = folder.with_suffix(".txt")
            must(Session([*self.line(name)[0], f"hydra.run.dir={folder}"], output), FINISHED)
            # so that no later fork must
            for module in output.with_suffix(".modules").read_text().split():
                with contextlib.suppress(ImportError):
                    importlib.import_module(module)
        return folder

    def hurt(self, line: str, until: float) -> None:
        """Hurt a run until it has come to its end, and compare it."""
        self.number += 1
        self.alone(line)
        words, frames = self.line(line)
        words += [f"mirror={MIRROR}"] if line in MIRRORED else []
        run = Hurt(line, self.place / f"run-{self.number}", words, frames, self.logs, self.rng)
        name = ""
        try:
            while not run.finished and time.monotonic() < until:
                for name, fault in self.next_faults(run):
                    done = fault(run)
                    if run.last and run.last.code == FINISHED:  # before the fault: it has spoken too
                        run.listen(run.last.output)
                    if done:
                        run.struck.append((name, done))
                        self.counts[line, name].update(["times", done])
            name = ""
            run.ended(run.start(), FINISHED)
            outcome = self.compare(run)
        except Exception as error:  # noqa: BLE001  whatever it is, it is counted, and the campaign goes on
            self.counts[line, name or "resumed to its end"]["wrong" if name else "lost"] += 1
            outcome = f"{name}: {type(error).__name__}: {error}"
        print(f"{run.folder.name}, {line}: {len(run.struck)} faults; {outcome or 'exact'}", flush=True)
        _end_trackers(run.folder)
        for output in self.logs.glob(f"{run.folder.name}-*.*"):
            output.unlink()
        if outcome:
            shutil.move(run.folder, self.logs / run.folder.name)
        else:
            shutil.rmtree(run.folder)

    def next_faults(self, run: Hurt) -> list[tuple[str, Fault]]:
        """Where there is a checkpoint, two that harm nothing and one that damages; then one for the next
        session.
        """
        without = [] if shutil.which("strace") else STRACE
        possible = IN_SESSIONS | (WITH_A_MIRROR if run.bucket else {})
        session = {name: fault for name, fault in possible.items() if name not in without}
        if newest_frames(run.folder) < 0:
            return [("kill -9", killed)]
        if run.expected:  # the last session was killed before it had looked at the damage
            return self.least(run.name, session, 1)
        return [
            *self.least(run.name, HARMLESS, 2),
            *self.least(run.name, DAMAGING, 1),
            *self.least(run.name, session, 1),
        ]

    def least(self, line: str, faults: dict[str, Fault], number: int) -> list[tuple[str, Fault]]:
        """Those that the line, and then all together, were given least."""
        names = self.rng.sample(sorted(faults), len(faults))
        every = {
            name: sum(counts["tried"] for (_, other), counts in self.counts.items() if other == name)
            for name in names
        }
        chosen = sorted(names, key=lambda name: (self.counts[line, name]["tried"], every[name]))[:number]
        for name in chosen:
            self.counts[line, name]["tried"] += 1
        return [(name, faults[name]) for name in chosen]

    def compare(self, run: Hurt) -> str:
        """Count a run that has come to its end: exact, or silently wrong."""
        found = differences(self.alone(run.name), run.folder)
        if run.bucket:
            fetched, problems, _ = fetch(run.bucket.url, self.place / "fetched", reading=True)
            found += [f"in the bucket: {one}" for one in differences(self.alone(run.name), fetched)]
            found += problems[1:]  # the first says from where
            shutil.rmtree(self.place / "fetched")
        times = [
            Manifest.read(path).saved_at
            for path in sorted(run.folder.glob("ckpt/ckpt-[0-9]*.json"), key=lambda path: int(path.stem[5:]))
        ]
        if times != sorted(times):
            found.append("saved_at goes back")
        for name, _ in run.struck:
            self.counts[run.name, name]["wrong" if found else "exact"] += 1
        return "; ".join(found)

    def control(self, line: str) -> None:
        """A run like the one left alone but for one bit of one weight: it must be counted as wrong."""
        folder = self.place / "control"
        shutil.copytree(self.alone(line), folder, symlinks=True)
        path = folder / "ckpt" / f"ckpt-{newest_frames(folder)}.pt"
        state = load(path.read_bytes(), "cpu")
        weights = next(
            part
            for name, part in state.items()
            if name.startswith("agent.") and isinstance(next(iter(part.values()), None), torch.Tensor)
        )
        next(iter(weights.values())).view(-1)[:1].view(torch.int32)[0] ^= 1
        path.write_bytes(serialize(state))
        wrong = bool(differences(self.alone(line), folder))
        self.counts["control", "a bit of a weight"].update(["times", "wrong" if wrong else "exact"])
        shutil.rmtree(folder)

    def rows(self) -> list[dict[str, object]]:
        """One for each line and kind of fault."""
        columns = ("times", WENT_ON, WENT_BACK, REFUSED_, "exact", "wrong", "lost")
        kept = {
            key: counts
            for key, counts in sorted(self.counts.items())
            if counts["times"] or counts["wrong"] or counts["lost"]
        }
        return [
            {"line": line, "fault": name, **{column.replace(" ", "_"): counts[column] for column in columns}}
            for (line, name), counts in kept.items()
        ]


def _mount(*words: str) -> bool:
    return (
        os.geteuid() == 0
        and subprocess.run(["mount", *words], capture_output=True, check=False).returncode == 0
    )


@contextlib.contextmanager
def small_disk() -> Iterator[Path]:
    """A folder, on a small disk of its own where one may be mounted."""
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        mounted = _mount("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", place)
        try:
            yield Path(place)
        finally:
            if mounted:
                subprocess.run(["umount", "--lazy", place], check=True)


@contextlib.contextmanager
def mirrors(lines: list[str]) -> Iterator[None]:
    """A server with the bucket that mirrored lines need."""
    if not set(lines) & set(MIRRORED):
        yield
        return
    port = s3_server.free_port()
    os.environ.update(s3_server.environment(port))
    server = s3_server.start(port, failing=FAILING)
    try:
        yield
    finally:
        server.kill()
        server.wait()
        FAILING.unlink(missing_ok=True)


def main() -> None:
    """Run the campaign."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(INTERRUPTED))  # so that the small disk goes too
    prepare()
    until = time.monotonic() + 60 * float(words.get("minutes", 20))
    logs = Path(tempfile.mkdtemp(prefix="faults-logs-"))
    lines = words["lines"].split(",") if "lines" in words else list(LINES)
    with small_disk() as place, mirrors(lines):
        campaign = Campaign(place, logs, int(words.get("seed", 1)))
        for line in itertools.cycle(lines):
            if time.monotonic() > until:
                break
            campaign.hurt(line, until)
        campaign.control(lines[0])
    rows = campaign.rows()
    total = {
        name: sum(int(str(row[name])) for row in rows if row["line"] != "control")
        for name in list(rows[0])[2:]
    }
    print(total)
    (control,) = [row for row in rows if row["line"] == "control"]
    if "record" not in words:
        record("faults", rows)
    if total["wrong"] or total["lost"] or not control["wrong"]:
        raise SystemExit(f"look at {logs}")
    shutil.rmtree(logs)


if __name__ == "__main__":
    main()
