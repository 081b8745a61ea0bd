"""The parent's side of `mirror=`: it keeps the uploading process running, and waits for it at the end."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rl.children import start_beside
from rl.config.invocation import command
from rl.runs import files
from rl.runs.find import RESULT
from rl.runs.history import HISTORY
from rl.runs.mirror import MANIFEST, Claim
from rl.runs.upload import LONGEST_RETRY_S, TAKEN

log = logging.getLogger("encore")
LAST_STARTS = 5  # a process that cannot be started so often at the end of a run never will be


class MirrorProcess:
    """A context with the process that uploads a folder, if it has a mirror."""

    def __init__(self, folder: Path, claim: Claim | None, patience_s: Callable[[], float]) -> None:
        """`patience_s`: seconds to wait at the end for the last upload."""
        self.folder, self.claim, self.patience_s = folder, claim, patience_s
        self.up: set[str] = set()  # names that the process has said are up
        self._ending, self._done, self._taken = threading.Event(), False, False
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> MirrorProcess:
        if self.claim is not None:
            self.claim.write(self.folder)
            self._thread = threading.Thread(target=self._keep_running, daemon=True)
            self._thread.start()
        return self

    def _keep_running(self) -> None:
        retry_s, warned, not_started = 1.0, False, 0
        while not self._done:
            try:
                process = self._start()
                code = self._listen(process)
            except OSError as error:
                code, reason = 1, str(error)
                not_started += self._ending.is_set()
            else:
                reason = f"its process ended with {code}"
            if code == 0 or code == TAKEN or self._done or not_started > LAST_STARTS:
                self._taken = code == TAKEN
                return
            if not warned:
                log.warning("mirror: %s; another is started", reason)
            warned = True
            if self._ending.wait(retry_s):
                time.sleep(1.0)
            retry_s = min(2 * retry_s, LONGEST_RETRY_S)

    def _start(self) -> subprocess.Popen[str]:
        process = start_beside("rl.runs.upload", str(self.folder.absolute()))
        with self._lock:
            self._process = process
            if self._ending.is_set():
                self._say_end()
        return process

    def _listen(self, process: subprocess.Popen[str]) -> int:
        """Note what is up and log what it says, until it ends; its exit code."""
        assert process.stdout is not None
        for line in process.stdout:
            kind, _, text = line.rstrip("\n").partition(" ")
            if kind == "up":
                self.up.add(text)
            elif kind == "say":
                level, _, message = text.partition(" ")
                log.log(logging.getLevelNamesMapping()[level.upper()], message)
        return process.wait()

    def _say_end(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has just ended: the next is told
            self._process.stdin.write("end\n")
            self._process.stdin.flush()

    def finish(self) -> None:
        """Wait for the last upload, within limits, and say what is not up."""
        if self._thread is None or self._done or self.claim is None:
            return
        patience_s, started_at = self.patience_s(), time.monotonic()
        with self._lock:
            self._ending.set()
            if self._process is not None:
                self._say_end()
        self._thread.join(min(1.0, patience_s))
        if self._thread.is_alive():
            log.info("mirror: waiting up to %.0f s for the last upload", patience_s)
            self._thread.join(patience_s - 1.0)
        self._done = True
        if self._process is not None:
            self._process.kill()
        if self._taken:
            return
        waited_s = time.monotonic() - started_at
        missing = self._not_up()
        if missing:
            log.warning(
                "mirror: %s NOT in %s after %.0f s: %s", "is" if len(missing) == 1 else "are",
                self.claim.url, waited_s, ", ".join(missing),
            )  # fmt: skip
        else:
            log.info(
                "mirrored: %s; go on anywhere:  %s",
                self.claim.url, command("train", f"resume={self.claim.url}"),
            )  # fmt: skip

    def _not_up(self) -> list[str]:
        names = [name for name in files.listdir(self.folder / "ckpt") if MANIFEST.fullmatch(f"ckpt/{name}")]
        extras = [name for name in (HISTORY, RESULT) if (self.folder / name).exists()]
        return sorted(name for name in (*names, *extras) if name not in self.up)

    def __exit__(self, *_: object) -> None:
        self.finish()
