"""docs/resume-and-enjoy.md does what it says, line for line; docs/what-may-change.md is what the policies
say.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from rl.config.help import what_may_change

ROOT = Path(__file__).parent.parent
_LINE = re.compile(r"^\$ (.+?)\s+# (?:exit (\d+))?(?:: )?(.*)$", re.MULTILINE)


def test_tutorial_does_what_it_says(tmp_path):
    for name in ("train.py", "enjoy.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    environment.pop("DISPLAY", None)
    commands = _LINE.findall((ROOT / "docs/resume-and-enjoy.md").read_text())
    assert len(commands) >= 12
    for command, code, says in commands:
        done = subprocess.run(
            ["bash", "-c", f"{command}\nexit $?"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == int(code or 0), f"{command}\n{done.stdout}\n{done.stderr}"
        assert says in done.stdout + done.stderr, f"{command}\n{done.stdout}\n{done.stderr}"


def test_what_may_change_is_not_stale():
    assert (ROOT / "docs/what-may-change.md").read_text() == what_may_change(), (
        "run python -m rl.config.help > docs/what-may-change.md"
    )
