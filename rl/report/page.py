"""The HTML page of a report."""

from __future__ import annotations

import base64
import functools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rl.config import ReportConfig, typed
from rl.config.compose import to_yaml
from rl.config.counts import format_count
from rl.config.text import score_text
from rl.report import measures
from rl.report.charts import draw_metrics, draw_section
from rl.report.curves import STYLE
from rl.report.group import IGNORED, Result, group
from rl.report.runs import GENERATOR, MEDIA, Edit, Run, latest, random_score
from rl.runs.outcome import Refused

PAGE = "index.html"
EMBED_BYTES = 8 * 2**20  # total size of the videos in a page; further ones are links


def number(value: float | None) -> str:
    """A score as text; '' for None and NaN."""
    return "" if value is None or value != value else score_text(value)


def final_scores(result: Result) -> tuple[str, list[float | None], list[float | None]]:
    """The source of a result's scores, and the final and the best score of each run.

    They are those of `rl.runs`; of runs that were never evaluated, those of the last and best training row.
    """
    name = measured_curve(result)
    if any(run.scores for run in result.runs):
        episodes = {run.result["last"]["episodes"] if run.result else 0 for run in result.runs}
        fresh = [f"{number} fresh episodes" for number in sorted(episodes) if number]
        source = " and ".join([*fresh, *(["evaluation rows"] if 0 in episodes else [])])
        scores = [run.scores for run in result.runs]
        return source, [each.get("last") for each in scores], [each.get("best") for each in scores]
    rows = [run.curves[name]["score"] if name in run.curves else None for run in result.runs]
    last: list[float | None] = [None if row is None else float(row.iloc[-1]) for row in rows]
    best: list[float | None] = [None if row is None else float(row.max()) for row in rows]
    return f"{name} rows", last, best


def measured_curve(result: Result) -> str:
    """The curve that measures a result: evaluations, if there are any."""
    return "evaluation" if result.with_curve("evaluation") else "training"


def summary(scores: list[float | None], center: measures.Center) -> str:
    """The center over seeds with its interval."""
    import numpy as np

    known = np.array([[score] for score in scores if score is not None])
    if not len(known):
        return ""
    low, high = measures.bootstrap_interval([known], center)
    interval = "" if np.isnan(low[0]) else f" [{number(low[0])}, {number(high[0])}]"
    return number(float(center(known)[0])) + interval


def four_measures(result: Result) -> tuple[list[str], str]:
    """Strength, efficiency, stability and consistency of a result, and a note that explains missing ones."""
    import numpy as np

    name, score = measured_curve(result), random_score(result.env)
    runs = result.with_curve(name)
    if score is None:
        return [""] * 4, "unknown: no random baseline is recorded for this environment"
    if not runs:
        return [""] * 4, "no rows yet"
    curves = [
        (run.curves[name]["score"].to_numpy() - score, run.curves[name]["frames"].to_numpy()) for run in runs
    ]
    common = functools.reduce(np.intersect1d, [frames for _, frames in curves])
    aligned = np.array([strengths[np.isin(frames, common)] for strengths, frames in curves])
    con = measures.consistency(aligned) if len(common) else None
    sta = mean_of_known([measures.stability(strengths) for strengths, _ in curves])
    eff = mean_of_known([measures.efficiency(*curve) for curve in curves])
    cells = [number(mean_of_known([measures.strength(strengths) for strengths, _ in curves])), number(eff)]
    cells += ["" if value is None else f"{round(value, 2) + 0.0:.2f}" for value in (sta, con)]
    notes = [f"from {name} rows"]
    if sta is None:
        notes.append("stability needs two rows, and a mean above random")
    if con is None:
        notes.append("consistency needs two seeds with rows at the same frames, and a mean above random")
    return cells, "; ".join(notes)


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def result_cells(
    result: Result, center: measures.Center, videos: Videos, out: Path, root: Path
) -> dict[str, Any]:
    """A result's data for the template."""
    source, last, best = final_scores(result)
    cells, note = four_measures(result)
    seeds = len({run.seed for run in result.runs})
    return {
        "label": result.label,
        "colour": result.colour,
        "dashes": " ".join(f"{1.6 * dash:g}" for dash in result.dashes),
        "random": number(random_score(result.env)) or "unknown",
        "solved": _solved(result, best),
        "source": source,
        "final": summary(last, center),
        "best": summary(best, center),
        "each": " ".join(number(score) or "–" for score in last),
        "measures": cells,
        "note": note,
        "config": to_yaml({name: v for name, v in result.runs[0].values.items() if name not in IGNORED}),
        "seeds": f"{len(result.runs)} runs of {seeds}" if len(result.runs) > seeds else str(seeds),
        "runs": [run_cells(run, out, root) for run in result.runs],
        "videos": [
            (f"{run.folder.name}: {video.name}", videos.source(video, out), video.suffix == ".gif")
            for run in result.runs
            for video in run.videos
        ],
    }


def _solved(result: Result, best: list[float | None]) -> str:
    """How many runs reach the return that counts as solved; '' where none is known."""
    enough = result.env.get("solved")
    if enough is None:
        return ""
    return f"{sum(score is not None and score >= enough for score in best)} of {len(best)} reach {enough:g}"


def run_cells(run: Run, out: Path, root: Path) -> dict[str, Any]:
    """A run's data for the template."""
    metrics = run.metrics if run.metrics is not None and len(run.metrics) else None
    log = run.folder / "train.log"
    last_line = ""
    if run.state == "stopped" and log.exists():
        last_line = log.read_text(errors="replace").rstrip().rpartition("\n")[2][:200]
    frames = format_count(run.frames or 0)
    scores = {name: number(curve["score"].iloc[-1]) for name, curve in run.curves.items()}
    return {
        "name": os.path.relpath(run.folder, root) if run.folder.absolute() != root else root.name,
        "link": _link(run.folder, out) + "/",
        "seed": run.seed,
        "state": run.state,
        "note": run.problem or last_line,
        "frames": f"{frames} of {format_count(run.asked) if run.asked else '?'}",
        "minutes": "" if metrics is None else f"{metrics['wall_s'].iloc[-1] / 60:.1f}",
        "fps": "" if metrics is None else f"{metrics['fps'].median():,.0f}",
        "evaluation": scores.get("evaluation", ""),
        "training": scores.get("training", ""),
        "tags": ", ".join(f"{name}={typed(value)}" for name, value in run.values.get("tags", {}).items()),
        "resumes": ", ".join(format_count(line["frames"]) for line in run.resumes) or "none",
        "edits": [_edit_cells(edit) for edit in run.edits],
        "not_exact": dict.fromkeys(line["exactness"] for line in run.history if line["exactness"] != "exact"),
    }


def _edit_cells(edit: Edit) -> dict[str, str]:
    return {
        "frames": format_count(edit.frames),
        "time": edit.time,
        "keys": ", ".join([*([f"forked from {edit.fork}"] if edit.fork else []), *edit.keys]),
        "code": ", ".join(edit.code),
    }


def _link(path: Path, out: Path) -> str:
    return quote(os.path.relpath(path.absolute(), out.absolute()))


class Videos:
    """Videos of a page: embedded up to `left` bytes in total, then linked."""

    def __init__(self, left: int) -> None:
        self.left = left

    def source(self, path: Path, out: Path) -> str:
        """The `src` of a video: its data or a link."""
        size = path.stat().st_size
        if size > self.left:
            return _link(path, out)
        self.left -= size
        return f"data:{MEDIA[path.suffix]};base64," + base64.b64encode(path.read_bytes()).decode()


def make_page(
    runs: Sequence[Run], names: Sequence[str], out: Path, center_name: str, *, version: str = ""
) -> dict[str, bytes]:
    """The files of a report by name; `names`: the arguments that named the runs.

    With a `version` it is a page that a server renews: it asks for newer ones, and has no files beside it.
    """
    import jinja2
    import matplotlib

    center: measures.Center = getattr(measures, center_name)
    root = common_folder(runs)
    made: dict[str, bytes] = {}
    videos = Videos(0 if version else EMBED_BYTES)
    sections = []
    with matplotlib.rc_context(STYLE):
        for index, section in enumerate(group([run for run in runs if not run.problem]), 1):
            charts = draw_section(section, index, center, None if version else made)
            results = [result_cells(result, center, videos, out, root) for result in section.results]
            sections.append(
                {
                    "env": section.env,
                    "charts": charts,
                    "metrics": draw_metrics(section, index, center) if charts else [],
                    "differences": section.differences,
                    "results": results,
                    "edited": [run for result in results for run in result["runs"] if run["edits"]],
                }
            )
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html").render(
        title=root.name,
        names=" ".join(names),
        generator=GENERATOR,
        center="interquartile mean" if center_name == "iqm" else "mean",
        sections=sections,
        unread=[run_cells(run, out, root) for run in runs if run.problem],
        runs=len(runs),
        active=max((run.history[-1]["time"] for run in runs if run.history), default=""),
        version=version,
    )
    return {**made, PAGE: page.encode()}  # the page is written last, after the files it links to


def common_folder(runs: Sequence[Run]) -> Path:
    """The folder that all runs are in; of one run its own."""
    return Path(os.path.commonpath([run.folder.absolute() for run in runs]))


def report_folder(config: ReportConfig, names: Sequence[str]) -> Path:
    """The folder to write the report to. Refused if it holds anything but a report."""
    if config.out is not None:
        out = Path(config.out)
    elif len(names) == 1:
        out = (latest(Path(config.outputs)) if names[0] == "latest" else Path(names[0])) / "report"
    else:
        out = Path(config.outputs) / time.strftime("report-%Y-%m-%d_%H-%M-%S")
    page = out / PAGE
    ours = page.is_file() and f'content="{GENERATOR}"' in page.read_text(errors="replace")[:1000]
    if out.exists() and not ours and (not out.is_dir() or any(out.iterdir())):
        raise Refused(f"{out}: it holds other things than a report; type out=<a new folder>")
    return out
