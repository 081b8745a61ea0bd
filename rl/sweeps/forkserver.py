"""Jobs from a warm process: `python -m rl.sweeps.forkserver` imports what every run does, and forks jobs.

A job is a fork of it in place of a new Python that imports torch anew. Sweep and server speak over a socket,
in packets of one JSON object. `{"start": [...]}`, with the file for the job's errors, is answered by
`{"pid": ...}`, or by `{"changed": true}` if our code was edited since; `{"signal": ..., "pid": ...}` has no
answer.
Of its own the server says `{"ended": pid, "status": ...}`. It dies with the sweep, and the jobs with it,
however these end.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from typing import IO, Any

from rl.children import die_with, read_errors

_PACKET = 1 << 20  # bytes; a command line is far shorter
_POLL_S = 0.02
# what every run imports, and nothing else: a job's history tells the code that it has loaded
_IMPORTED_BY_RUNS = (
    *("hydra.main", "hydra._internal.logging_config", "torch.utils.serialization.config"),
    *("rl.config.help", "rl.config.hydra_words", "rl.runs.completion", "rl.training.build"),
    *("rl.training.evaluate", "rl.training.metrics", "rl.training.progress", "rl.training.session"),
)


class Unusable(Exception):
    """No job can be forked here; says why."""


class Forkserver:
    """A server that was started, as the sweep sees it. It ends with this object, or with the process."""

    def __init__(self, environment: dict[str, str], output: int | None) -> None:
        """`output`: where the jobs' stdout goes, as `subprocess` has it. Unusable if it cannot fork jobs."""
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "rl.sweeps.forkserver", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                preexec_fn=die_with(os.getpid()),
            )
        self.pid, self.lost = process.pid, False
        self._ended: dict[int, int] = {}  # exit codes of jobs
        self.close = weakref.finalize(self, _close, self._channel, process)
        answer = self._receive() or {"unusable": "its process ended"}
        if "unusable" in answer:
            self.close()
            raise Unusable(answer["unusable"])

    def start(self, arguments: Sequence[str], *, shown: bool) -> Forked | None:
        """A job, whose stderr is ours if it is `shown`; None if our code was edited since it was loaded.

        Unusable if the server is gone.
        """
        errors = None if shown else tempfile.TemporaryFile()  # noqa: SIM115  open while the job runs
        try:
            packet = json.dumps({"start": list(arguments)}).encode()
            socket.send_fds(self._channel, [packet], [errors.fileno()] if errors else [])
        except OSError as error:
            self.lost = True
            raise Unusable(str(error)) from error
        while (answer := self._receive()) is not None:
            if "pid" in answer:
                return Forked(self, answer["pid"], errors)
            if "changed" in answer:
                return None
        raise Unusable("its process ended")

    def poll(self, pid: int) -> int | None:
        """A job's exit code, negative for a signal; None while it runs."""
        while pid not in self._ended and not self.lost and select.select([self._channel], [], [], 0)[0]:
            self._receive()
        return self._ended.get(pid, -signal.SIGKILL if self.lost else None)

    def send_signal(self, pid: int, number: int) -> None:
        """Send a job a signal, if it still runs."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the jobs went with the server
            self._channel.send(json.dumps({"signal": number, "pid": pid}).encode())

    def _receive(self) -> dict[str, Any] | None:
        """The server's next packet; None, now and ever after, once it is gone."""
        data = b""
        with contextlib.suppress(ConnectionResetError):
            data = self._channel.recv(_PACKET)
        if not data:
            self.lost = True
            return None
        packet: dict[str, Any] = json.loads(data)
        if "ended" in packet:
            self._ended[packet["ended"]] = packet["status"]
        return packet


def _close(channel: socket.socket, process: subprocess.Popen[bytes]) -> None:
    channel.close()
    process.kill()  # jobs that still run go with it
    process.wait()


class Forked:
    """A job that a server has forked, in the manner of `launchers.Process`."""

    def __init__(self, server: Forkserver, pid: int, errors: IO[bytes] | None) -> None:
        self._server, self.pid, self._errors = server, pid, errors

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._server.poll(self.pid)

    def send_signal(self, number: int) -> None:
        """Have it save and leave (a second time: leave at once)."""
        self._server.send_signal(self.pid, number)

    @property
    def errors(self) -> str:
        """What it wrote to stderr, if that was not shown."""
        return read_errors(self._errors)


def main() -> None:
    """Serve until the sweep is gone; a job returns from here into a run of its own."""
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        _import()
        threads = len(os.listdir("/proc/self/task"))
        if threads > 1:  # of them a fork would have only one, and what the others hold would stay locked
            _tell(channel, {"unusable": f"imports have started {threads - 1} threads"})
            return
        _tell(channel, {"ready": True})
        arguments = _serve(channel, _code())
    if arguments is not None:
        sys.argv[1:] = arguments
        runpy.run_module("rl.train", run_name="__main__", alter_sys=True)


def _import() -> None:
    """Import what runs do. Nothing is computed: a fork has no use for the threads that torch would start."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as rl.train sets it
    gc.disable()
    for module in _IMPORTED_BY_RUNS:
        importlib.import_module(module)
    from rl.config import RunConfig
    from rl.config.compose import compose

    compose([], RunConfig)  # Hydra finds its plugins, and its parsers learn the grammar
    gc.freeze()  # jobs share these pages until a collection would write to them
    gc.enable()


def _tell(channel: socket.socket, packet: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the sweep is gone: we see that next
        channel.send(json.dumps(packet).encode())


def _code() -> dict[str, tuple[int, int]]:
    """The files of our own code that are loaded, and what tells that one was edited."""
    ours = (module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "rl")
    paths = filter(None, (getattr(module, "__file__", None) for module in ours))
    stats = {path: os.stat(path) for path in paths if os.path.exists(path)}
    return {path: (stat.st_mtime_ns, stat.st_size) for path, stat in stats.items()}


def _serve(channel: socket.socket, code: dict[str, tuple[int, int]]) -> list[str] | None:
    """Do what the sweep asks for until it is gone. In a job: its arguments."""
    running: set[int] = set()
    while True:
        for pid in list(running):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                running.remove(pid)
                _tell(channel, {"ended": pid, "status": os.waitstatus_to_exitcode(status)})
        if not select.select([channel], [], [], _POLL_S if running else None)[0]:
            continue
        data, descriptors = b"", list[int]()
        with contextlib.suppress(ConnectionResetError):
            data, descriptors, _, _ = socket.recv_fds(channel, _PACKET, 1)
        if not data:
            return None
        request = json.loads(data)
        if "start" in request and _code() != code:
            _tell(channel, {"changed": True})
        elif "start" in request:
            pid = _fork(descriptors)
            if not pid:
                return list(request["start"])
            running.add(pid)
            _tell(channel, {"pid": pid})
        elif request["pid"] in running:
            os.kill(request["pid"], request["signal"])
        for descriptor in descriptors:
            os.close(descriptor)


def _fork(descriptors: Sequence[int]) -> int:
    """The new job's pid; 0 in the job, which is then as a Python that was started for it."""
    ask = die_with(os.getpid())
    pid = os.fork()
    if not pid:
        ask()
        os.setsid()
        for descriptor in descriptors:
            os.dup2(descriptor, sys.stderr.fileno())
            os.close(descriptor)
        import numpy as np

        np.random.seed()  # Python's own generator does so by itself
        for name in [name for name in sys.modules if name.startswith("rl.sweeps")]:
            del sys.modules[name]
    return pid


if __name__ == "__main__":
    main()
