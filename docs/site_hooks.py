"""What the site has besides docs/*.md: README.md as its first page, the notebook, a reference of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
REFERENCE = {
    "api": ("rl.api", ["rl.api"]),
    "algos": ("Algorithms' interface", ["rl.algos.agent", "rl.learning.gradient_step"]),
    "networks": (
        "Networks",
        [
            f"rl.learning.networks.{path.stem}"
            for path in sorted((ROOT / "rl/learning/networks").glob("[!_]*.py"))
        ],
    ),
    "learning": (
        "What algorithms are made of",
        [
            f"rl.learning.{name}"
            for name in ("distributions", "returns", "normalize", "replay", "rollout", "optimizers")
        ],
    ),
    "envs": ("Environments", ["rl.envs.wrappers", "rl.envs.atari", "rl.envs.episodes"]),
}
_OUTSIDE = re.compile(r"(?<!!)\[([^\]]*)\]\((?:\.\./|conf/|rl/|benchmarks/|tests/)[^)]*\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that have no file in docs/."""
    pages = {"index.md": _readme(), "notebook.md": _notebook()}
    for name, (title, modules) in REFERENCE.items():
        pages[f"reference/{name}.md"] = "\n\n".join([f"# {title}", *(f"::: {module}" for module in modules)])
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A link to a file outside docs/ is its text."""
    return _OUTSIDE.sub(r"\1", markdown.replace("](../README.md", "](index.md"))


def _readme() -> str:
    text = (ROOT / "README.md").read_text().replace("](docs/", "](").replace('src="docs/', 'src="')
    return text.replace("](LICENSE)", "](https://opensource.org/license/mit)")


def _notebook() -> str:
    """The notebook's text and code; what it prints shows in the notebook itself."""
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"]
    blocks = []
    for cell in cells:
        source = "".join(cell["source"])
        blocks.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join(blocks)
