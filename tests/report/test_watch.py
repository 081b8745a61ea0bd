"""`python -m rl.report watch=true`: the page follows its runs, and only they can be read through it."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from short_runs import TINY, contents, environment, go

from rl.report.__main__ import run
from rl.report.runs import find_runs
from rl.report.watch import LivePage, make_server
from rl.runs.outcome import Refused

pytest.importorskip("matplotlib")
Get = Callable[..., tuple[int, dict[str, str], bytes]]
RUN = Path("outputs/reinforce_cartpole/one")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped at frame 320."""
    run = tmp_path_factory.mktemp("made") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rl.training.run.SCORE_EPISODES", 4)
        assert go(run, *TINY, "frames=320") == 0
    return run


@pytest.fixture
def live(made: Path, monkeypatch: pytest.MonkeyPatch) -> LivePage:
    shutil.copytree(made, RUN, symlinks=True)
    monkeypatch.setattr("rl.report.page.draw_section", lambda *given: [])
    return LivePage([str(RUN)], Path("outputs"), "iqm")


@pytest.fixture
def get(live: LivePage) -> Iterator[Get]:
    """Ask a server of the page for a path as it stands: status, headers, body."""
    with make_server(live, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def ask(path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            found = answer.status, dict(answer.getheaders()), answer.read()
            connection.close()
            return found

        yield ask
        server.shutdown()


@pytest.mark.usefixtures("few_scores")
def test_the_page_follows_a_run_and_writes_nothing(live: LivePage, get: Get) -> None:
    before = contents(RUN)
    status, headers, page = get("/report/")
    assert (status, b"320 of 320" in page, b"<script>" in page) == (200, True, True)
    assert json.loads(headers["ETag"]) == live.newest.version
    live.renew()
    assert get("/report/", **{"If-None-Match": headers["ETag"]})[0] == 304
    assert contents(RUN) == before
    assert go(RUN, "frames=640") == 0
    live.renew()
    status, _, page = get("/report/", **{"If-None-Match": headers["ETag"]})
    assert (status, b"640 of 640" in page) == (200, True)


def test_a_video_comes_in_parts(live: LivePage, get: Get) -> None:
    (RUN / "video").mkdir()
    (RUN / "video" / "best-0.mp4").write_bytes(b"0123456789")
    live.renew()
    source = re.findall(r'<video [^>]*src="([^"]*)"', live.newest.page.decode())
    assert source == ["../video/best-0.mp4"]
    status, headers, body = get("/video/best-0.mp4", Range="bytes=2-4")
    assert (status, headers["Content-Range"], body) == (206, "bytes 2-4/10", b"234")
    assert get("/video/best-0.mp4", Range="bytes=8-")[2] == b"89"
    assert get("/video/best-0.mp4", Range="bytes=10-")[0] == 416
    assert get("/video/best-0.mp4")[1]["Content-Type"] == "video/mp4"
    assert b'href="/video/best-0.mp4"' in get("/video/")[2]


def test_only_the_runs_can_be_read_and_only_from_here(get: Get) -> None:
    Path("outputs/secret").write_text("x")
    (RUN / "link").symlink_to(Path("outputs/secret").resolve())
    for path in ("/../../secret", "/%2e%2e/%2e%2e/secret", "/link", "//etc/passwd", "/nothing"):
        assert get(path)[0] == 404, path
    assert get("/metrics.csv")[0] == 200
    assert get("/report/", Host="elsewhere.org")[0] == 403


def test_a_port_in_use_and_a_file_are_refused(live: LivePage) -> None:
    with make_server(live, 0) as server:
        port = server.server_address[1]
        with pytest.raises(Refused, match=f"port={port}: .*; type port={port + 1}"):
            make_server(live, port)
    with pytest.raises(Refused, match="leave out=... away"):
        run([str(RUN), "watch=true", "out=x"])


def assert_renewed(url: str) -> None:
    """The page comes to have another version."""
    first, deadline = None, time.monotonic() + 60
    while time.monotonic() < deadline:
        with urlopen(Request(f"{url}report/"), timeout=20) as page:
            first = first or page.headers["ETag"]
            if page.headers["ETag"] != first:
                return
        time.sleep(0.1)
    raise AssertionError("the page is the same after a minute")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
@pytest.mark.usefixtures("live")
def test_a_signal_ends_the_command(number: signal.Signals, code: int) -> None:
    words = [sys.executable, "-m", "rl.report", "latest", "watch=true", "port=0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=environment()) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.endswith(f" shows {RUN}; Ctrl-C ends it\n")
        with urlopen(Request(line.split()[0]), timeout=20) as page:
            assert page.url.endswith("/report/")
        with (RUN / "metrics.csv").open("a") as file:
            file.write("384" + "," * 15 + "\n")
        assert_renewed(line.split()[0])
        process.send_signal(number)
        assert (process.wait(20), process.communicate()) == (code, ("", ""))


def test_latest_is_the_sweep_of_its_newest_run(made: Path) -> None:
    for name in ("sweep.json", "search.json"):
        folder = Path("outputs/sweeps") / name[:5]
        for seed in (1, 2):
            shutil.copytree(made, folder / f"seed={seed}", symlinks=True)
        (folder / name).write_text('{"x": 1}')
        assert find_runs("latest", Path("outputs")) == [folder / "seed=1", folder / "seed=2"]
        shutil.rmtree(folder)
