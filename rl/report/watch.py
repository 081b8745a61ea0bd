"""`watch=true`: the report on http://127.0.0.1, made again while runs train."""

from __future__ import annotations

import contextlib
import http.server
import json
import mimetypes
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from rl.report.page import PAGE, common_folder, make_page
from rl.report.runs import find_runs, read_run
from rl.runs.lock import is_locked
from rl.runs.outcome import STOPPING, Refused, Stop

PLACE = "report"  # the page's folder, as if it had been written into that of the runs
_POLL_S = 0.2  # between two looks at the signals
_LEAST_S = 2.0  # between two looks at the runs
_SHARE = 4  # a look takes at most a fifth of one core's time
_FILES = ("history.jsonl", "metrics.csv", "eval.csv", "result.json", "ckpt", "video")


@dataclass(frozen=True)
class Made:
    """A page, and the runs that it is of."""

    page: bytes
    version: str  # the time at which it was made
    root: Path  # what the page's links are relative to
    folders: list[Path]  # of the runs
    state: list[Any]  # of these folders when they were read


class LivePage:
    """The page of some runs, as new as they are."""

    def __init__(self, names: Sequence[str], outputs: Path, center: str) -> None:
        """Make it. Refused if there are no runs."""
        self.names, self.outputs, self.center = list(names), outputs, center
        self.made: Made | None = None
        self.renew()

    @property
    def newest(self) -> Made:
        """The page as it was made last."""
        assert self.made is not None
        return self.made

    def renew(self) -> bool:
        """Make the page again if a run has changed; whether one had."""
        found = {folder.resolve(): folder for name in self.names for folder in find_runs(name, self.outputs)}
        state = [_state_of(folder) for folder in found]
        if self.made is not None and self.made.state == state:
            return False
        runs = [read_run(folder) for folder in found.values()]
        version = time.strftime("%H:%M:%S") + f".{time.time_ns() % 10**9 // 10**6:03d}"
        root = common_folder(runs)
        files = make_page(runs, self.names, root / PLACE, self.center, version=version)
        self.made = Made(files[PAGE], version, root.resolve(), list(found), state)
        return True

    def file(self, path: str) -> Path | None:
        """The file or folder of a run at a path of the server; None if it is not in a run."""
        wanted = Path(self.newest.root, path.lstrip("/")).resolve()
        inside = any(wanted.is_relative_to(folder) for folder in self.newest.folders)
        return wanted if inside and wanted.exists() else None

    @contextlib.contextmanager
    def kept_new(self) -> Iterator[None]:
        """Within this context a process renews the page. It has a low priority: training comes first."""
        ours, its = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(target=self._keep_new, args=(ours, its))
        process.start()
        its.close()
        threading.Thread(target=self._receive, args=(ours,), daemon=True).start()
        try:
            yield
        finally:
            process.kill()
            process.join()

    def _keep_new(self, theirs: Connection, ours: Connection) -> None:
        """Renew it again and again. What a moment's state of the folders prevents is done at the next."""
        theirs.close()
        for number in STOPPING:  # they are for the process that serves, which ends this one
            signal.signal(number, signal.SIG_IGN)
        os.nice(10)
        said = ""
        with contextlib.suppress(BrokenPipeError):  # the server was killed
            while True:
                began = time.process_time()
                try:
                    ours.send(self.made if self.renew() else None)
                except (Refused, OSError) as error:
                    if isinstance(error, BrokenPipeError):
                        raise
                    if str(error) != said:
                        print(f"the page stays as it is: {error}", flush=True)
                    said = str(error)
                time.sleep(max(_LEAST_S, _SHARE * (time.process_time() - began)))

    def _receive(self, pages: Connection) -> None:
        with contextlib.suppress(EOFError, OSError):  # the process has ended
            while True:
                self.made = pages.recv() or self.made


def _state_of(folder: Path) -> Any:
    """What changes when a run's part of the page does."""
    return folder, is_locked(folder), *(_stamp(folder / name) for name in _FILES)


def _stamp(path: Path) -> tuple[int, int] | None:
    return (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the page, and with what its links name: the files of the runs."""

    live: LivePage
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer a request; only for this machine's own name, so that no other page can read along."""
        path = unquote(urlsplit(self.path).path)
        if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in ("127.0.0.1", "localhost"):
            self.send_error(HTTPStatus.FORBIDDEN)
        elif path == "/":
            self.send_response(HTTPStatus.FOUND)
            self._headers({"Location": f"/{PLACE}/", "Content-Length": "0"})
        elif path in (f"/{PLACE}/", f"/{PLACE}/{PAGE}"):
            self._send_page()
        elif (file := self.live.file(path)) is None:
            self.send_error(HTTPStatus.NOT_FOUND)
        elif file.is_dir():
            self._send_folder(file, path)
        else:
            self._send_file(file)

    def _send_page(self) -> None:
        made = self.live.newest
        page, tag = made.page, json.dumps(made.version)
        if self.headers.get("If-None-Match") == tag:
            self.send_response(HTTPStatus.NOT_MODIFIED)
            self._headers({"ETag": tag})
        else:
            self._send(page, "text/html; charset=utf-8", {"ETag": tag, "Cache-Control": "no-store"})

    def _send_folder(self, folder: Path, path: str) -> None:
        names = sorted(f"{child.name}/" if child.is_dir() else child.name for child in folder.iterdir())
        base = quote(path.rstrip("/"))
        lines = [f'<li><a href="{base}/{quote(name)}">{escape(name)}</a></li>' for name in names]
        title = escape(folder.name)
        head = f'<!DOCTYPE html><title>{title}</title><link rel="icon" href="data:,">'
        text = f"{head}<h1>{title}</h1><ul>{''.join(lines)}</ul>"
        self._send(text.encode(), "text/html; charset=utf-8", {})

    def _send_file(self, file: Path) -> None:
        """A file, or the part of it that is asked for: without parts a video cannot be wound."""
        kind = mimetypes.guess_type(file.name)[0] or "text/plain; charset=utf-8"
        size = file.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), int(asked[2] or size - 1)) if asked else (0, size - 1)
        if first > min(last, size - 1) and asked:
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self._headers({"Content-Range": f"bytes */{size}", "Content-Length": "0"})
            return
        last = min(last, size - 1)
        self.send_response(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK)
        part = {"Content-Range": f"bytes {first}-{last}/{size}"} if asked else {}
        length = last - first + 1
        self._headers({"Content-Type": kind, "Content-Length": str(length), "Accept-Ranges": "bytes", **part})
        for data in _read(file, first, length):
            self.wfile.write(data)

    def _send(self, data: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(HTTPStatus.OK)
        self._headers({"Content-Type": kind, "Content-Length": str(len(data)), **headers})
        self.wfile.write(data)

    def _headers(self, headers: dict[str, str]) -> None:
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """No line for each request."""


def _read(file: Path, first: int, length: int) -> Iterator[bytes]:
    with file.open("rb") as opened:
        opened.seek(first)
        while length > 0 and (data := opened.read(min(length, 2**18))):
            length -= len(data)
            yield data


class Server(http.server.ThreadingHTTPServer):
    """A server whose connections end with it; one that a browser cuts is no error."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing to say of a browser that has gone."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def make_server(live: LivePage, port: int) -> Server:
    """A server of the page on 127.0.0.1; port 0 is any free one. Refused if the port cannot be had."""
    handler = type("Handler", (Handler,), {"live": live})
    try:
        return Server(("127.0.0.1", port), handler)
    except OSError as error:
        other = port + 1 if port < 65535 else 0
        raise Refused(f"port={port}: {error.strerror}; type port={other}, or port=0 for any") from error


def watch(live: LivePage, port: int) -> None:
    """Serve the page and keep it new, until a signal. SystemExit with its exit code: 130 after Ctrl-C."""
    with make_server(live, port) as server, Stop() as stop, live.kept_new():
        where = f"http://127.0.0.1:{server.server_address[1]}/"
        print(f"{where} shows {' '.join(live.names)}; Ctrl-C ends it", flush=True)
        server.timeout = _POLL_S
        while not stop:
            server.handle_request()
    raise SystemExit(stop.exit_code)
