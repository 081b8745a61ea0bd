"""The numbers in README.md and docs/ are those of the result files."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_tables_are_what_the_results_say():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.table", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
