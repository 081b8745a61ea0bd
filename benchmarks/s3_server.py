"""`python -m benchmarks.s3_server PORT LATENCY_S FAILING`: an S3 API in memory (moto), bucket `mirrors`.

Every request waits for `latency_s` first. While the file `failing` exists, requests that write get a 500.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUCKET = "mirrors"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def environment(port: int) -> dict[str, str]:
    """What a process needs in its environment to use the server."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def start(port: int, latency_s: float = 0.0, failing: Path | str = "") -> subprocess.Popen[bytes]:
    """The server in a process of its own, once it answers."""
    import urllib.request

    command = [sys.executable, "-m", "benchmarks.s3_server", str(port), str(latency_s), str(failing)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet)
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=30).close()
            break
        except OSError:
            time.sleep(0.1)
    urllib.request.urlopen(
        urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT"), timeout=30
    ).close()
    return process


def main() -> None:
    """Serve until killed."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    port, latency_s, failing = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    moto = DomainDispatcherApplication(create_backend_app)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        time.sleep(latency_s)
        if failing and os.path.exists(failing) and environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE"):
            start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
            return [b"it fails, as it was told to"]
        answer: Iterable[bytes] = moto(environ, start_response)
        return answer

    run_simple("127.0.0.1", port, app, threaded=True)


if __name__ == "__main__":
    main()
