"""`python -m benchmarks.coverage [pytest arguments ...]`: the lines of rl/ that the tests run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.record import ROOT, record


def main() -> None:
    """Run the tests, and record how much of each file they ran."""
    arguments = sys.argv[1:] or ["-n", "2"]
    with tempfile.TemporaryDirectory(prefix="coverage-") as place:
        report = Path(place) / "report.json"
        environment = {**os.environ, "COVERAGE_FILE": str(Path(place) / "data")}

        def coverage(*options: str) -> int:
            command = [sys.executable, "-m", "coverage", *options]
            return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode

        failed = coverage("run", "-m", "pytest", *arguments)
        if coverage("combine", "-q") or coverage("json", "-q", "-o", str(report)):
            raise SystemExit("no data were written")
        measured = json.loads(report.read_text())
    files = {
        **{name: one["summary"] for name, one in sorted(measured["files"].items())},
        "all": measured["totals"],
    }
    rows = [
        {
            "file": name,
            "lines": one["num_statements"],
            "run": one["covered_lines"],
            "percent": f"{one['percent_covered']:.1f}",
        }
        for name, one in files.items()
    ]
    print("\n".join(f"{row['percent']:>6} {row['file']}" for row in rows))
    if failed:
        raise SystemExit("a test failed: nothing is recorded")
    record("coverage", rows)


if __name__ == "__main__":
    main()
