"""Learning curves over seeds, and their charts."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from rl.report import measures
from rl.report.group import COLOURS, Section
from rl.report.runs import GENERATOR, random_score

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from rl.report.measures import Floats


POINTS = 200  # maximum number of points of a mean curve
INK, GRID = "#1b1f24", "#d0d7de"
RESUME_MARK: dict[str, Any] = {"linestyle": "", "marker": "v", "markersize": 5}


@dataclass(frozen=True)
class Curve:
    """The curves of several seeds combined; all arrays are [T]."""

    frames: Floats
    wall_s: Floats  # mean over the seeds, never decreasing
    middle: Floats
    low: Floats  # bounds of the interval, or NaN
    high: Floats


def over_seeds(curves: Sequence[pd.DataFrame], center: measures.Center) -> Curve:
    """The center of curves at equal frames, up to where half of the seeds have rows.

    Curves are interpolated linearly between rows. Each point uses the seeds that have got that far.
    """
    import numpy as np

    grid = curves[0]["frames"].to_numpy(float)
    if len(grid) > POINTS or not all(np.array_equal(curve["frames"], grid) for curve in curves):
        grid = np.linspace(
            min(c["frames"].iloc[0] for c in curves), max(c["frames"].iloc[-1] for c in curves), POINTS
        )
    times, scores = (
        # [S, T]
        np.array([np.interp(grid, c["frames"], c[column], left=np.nan, right=np.nan) for c in curves])
        for column in ("wall_s", "score")
    )
    known = ~np.isnan(scores)
    drawn = known.sum(axis=0) * 2 >= len(curves)
    grid, times, scores, known = grid[drawn], times[:, drawn], scores[:, drawn], known[:, drawn]
    middle, low, high = np.full((3, len(grid)), np.nan)
    for seeds in np.unique(known, axis=1).T if len(grid) else ():  # each set of seeds known at some points
        columns = (known == seeds[:, None]).all(axis=0)
        part = scores[np.ix_(seeds, columns)]
        middle[columns] = center(part)
        low[columns], high[columns] = measures.bootstrap_interval([part], center)
    return Curve(grid, np.maximum.accumulate(np.nanmean(times, axis=0)), middle, low, high)


def draw(section: Section, name: str, over: str, means: dict[str, Curve]) -> Figure:
    """Draw the curves of a section over frames or wall_s; `means`: label of a result -> mean curve."""
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    figure = Figure(figsize=(4.6, 3.3), layout="constrained")
    axes = figure.subplots()
    longest = max(
        run.curves[name]["wall_s"].iloc[-1] for result in section.results for run in result.with_curve(name)
    )
    unit, seconds = next(
        pair for pair in (("h", 3600), ("min", 60), ("s", 1)) if longest >= 2 * pair[1] or pair[1] == 1
    )
    scale = seconds if over == "wall_s" else 1
    for result in section.results:
        colour, runs = COLOURS[result.colour], result.with_curve(name)
        for run in runs:
            x, y = run.curves[name][over] / scale, run.curves[name]["score"]
            axes.plot(x, y, color=colour, linewidth=0.6, alpha=0.45)
            frames = [line["frames"] for line in run.resumes]
            at = np.interp(frames, run.curves[name]["frames"], x)
            edge: dict[str, Any] = {"markeredgecolor": INK, "markeredgewidth": 0.5}
            axes.plot(at, np.interp(at, x, y), color=colour, **RESUME_MARK, **edge)
        if not runs or not len(means[result.label].frames):
            continue
        curve = means[result.label]
        x = getattr(curve, over) / scale
        line_style: dict[str, Any] = {"color": colour, "linewidth": 1.6, "dashes": result.dashes}
        axes.plot(x, curve.middle, label=result.label, marker="." if len(x) == 1 else "", **line_style)
        axes.fill_between(x, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
    if any(run.resumes for result in section.results for run in result.with_curve(name)):
        axes.plot([], [], color=INK, label="resumed", **RESUME_MARK)
    known = {score for result in section.results if (score := random_score(result.env)) is not None}
    for index, score in enumerate(sorted(known)):
        axes.axhline(score, color=INK, linewidth=0.8, dashes=(1, 2), label="" if index else "random actions")
    axes.set_xlabel("frames" if over == "frames" else f"training time ({unit})")
    axes.set_ylabel("return")
    if over == "frames":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    longest_label = max(len(result.label) for result in section.results)
    # as many as fit the figure's width
    columns = 3 if longest_label <= 8 else 2 if longest_label <= 20 else 1
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, handlelength=3)
    return figure


STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": GENERATOR,  # ids are reproducible
    "text.parse_math": False,  # a label may contain dollar signs
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.axisbelow": True,
    "path.simplify_threshold": 0.5,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


def as_svg(figure: Figure, name: str, title: str) -> str:
    """A figure as SVG for the page: with the page's colours, and ids that are unique within it."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg[svg.index("<svg") :])
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # the page has its own
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    variables = {INK: "currentColor", GRID: "var(--grid)"}
    variables |= {colour: f"var(--c{n})" for n, colour in enumerate(COLOURS)}
    for colour, variable in variables.items():
        svg = svg.replace(colour, variable)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
