"""The campaign of faults, for half a minute."""

from __future__ import annotations

import re
import subprocess
import sys

from short_runs import ROOT, environment


def test_runs_that_are_hurt_in_many_ways_end_exactly_and_a_changed_bit_is_seen() -> None:
    words = [sys.executable, "-m", "benchmarks.faults", "minutes=0.4", "lines=ddqn_per,a2c", "record=no"]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr  # the negative control is in there
    assert int(re.findall(r"'times': (\d+)", done.stdout)[0]) >= 4
    assert "'wrong': 0, 'lost': 0" in done.stdout
