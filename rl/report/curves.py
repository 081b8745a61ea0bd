"""Learning curves over seeds, and their charts."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from rl.report import measures
from rl.report.group import COLOURS, Result, Section
from rl.report.runs import GENERATOR, Run, random_score

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rl.report.measures import Floats


POINTS = 200  # maximum number of points of a mean curve
LINE_POINTS = 2000  # about as many of a run's own
INK, GRID = "#1b1f24", "#d0d7de"
MARKS = {"v": "resumed", "D": "resumed, edited"}


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


def draw(section: Section, name: str, over: str, means: dict[str, Curve], title: str) -> Figure:
    """Draw the returns of a section over frames or wall_s; `means`: label of a result -> mean curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.3), layout="constrained")
    axes = figure.subplots()
    scale, unit = _time_unit(section, name) if over == "wall_s" else (1, "")
    for result in section.results:
        _draw_result(axes, result, name, over, scale, means.get(result.label))
    runs = [run for result in section.results for run in result.with_curve(name)]
    marks = {mark for run in runs for _, mark in _marks(run)}
    for mark in (mark for mark in MARKS if mark in marks):
        axes.plot([], [], color=INK, label=MARKS[mark], linestyle="", marker=mark, markersize=5)
    for label, dashes, known in (
        ("random actions", (1, 2), {random_score(result.env) for result in section.results}),
        ("solved", (4, 2), {result.env.get("solved") for result in section.results}),
    ):
        for index, score in enumerate(sorted(score for score in known if score is not None)):
            axes.axhline(score, color=INK, linewidth=0.8, dashes=dashes, label="" if index else label)
    axes.set_xlabel("frames" if over == "frames" else f"training time ({unit})")
    axes.set_ylabel("return")
    axes.set_title(textwrap.fill(title, 56), fontsize=9, fontweight="bold")
    _style(axes, frames=over == "frames", ticks=6)
    longest_label = max(len(result.label) for result in section.results)
    # as many as fit the figure's width
    columns = 3 if longest_label <= 8 else 2 if longest_label <= 20 else 1
    handles, _ = axes.get_legend_handles_labels()
    figure.set_figheight(2.8 + 0.18 * -(-len(handles) // columns))
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, handlelength=3)
    return figure


def draw_metric(section: Section, name: str, means: dict[str, Curve]) -> Figure:
    """Draw a column of metrics.csv over frames, small and without a legend."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4, 2.2))
    axes = figure.add_axes((0.17, 0.2, 0.8, 0.66))
    for result in section.results:
        _draw_result(axes, result, name, "frames", 1, means.get(result.label))
    axes.set_title(name, fontsize=9, fontweight="bold")
    axes.set_xlabel("frames")
    axes.ticklabel_format(axis="y", scilimits=(-3, 4))
    _style(axes, frames=True, ticks=4)
    return figure


def _draw_result(axes: Axes, result: Result, name: str, over: str, scale: float, mean: Curve | None) -> None:
    """Each run's curve with its resumes, and the mean with its interval."""
    import numpy as np

    colour = COLOURS[result.colour]
    edge: dict[str, Any] = {"markeredgecolor": INK, "markeredgewidth": 0.5}
    for run in result.with_curve(name):
        curve = run.curves[name]
        every = -(-len(curve) // LINE_POINTS)
        axes.plot(
            curve[over][::every] / scale, curve["score"][::every], color=colour, linewidth=0.6, alpha=0.45
        )
        for frames, mark in _marks(run):
            at = np.interp(frames, curve["frames"], curve[over])
            y = np.interp(at, curve[over], curve["score"])
            axes.plot([at / scale], [y], color=colour, linestyle="", marker=mark, markersize=5, **edge)
    if mean is None or not len(mean.frames):
        return
    x = getattr(mean, over) / scale
    line_style: dict[str, Any] = {"color": colour, "linewidth": 1.6, "dashes": result.dashes}
    axes.plot(x, mean.middle, label=result.label, marker="." if len(x) == 1 else "", **line_style)
    axes.fill_between(x, mean.low, mean.high, color=colour, alpha=0.18, linewidth=0)


def _marks(run: Run) -> list[tuple[int, str]]:
    """The frames of a run's resumes, each with its mark."""
    edited = {edit.frames for edit in run.edits}
    return [(frames, "D" if frames in edited else "v") for frames in {line["frames"] for line in run.resumes}]


def _time_unit(section: Section, name: str) -> tuple[int, str]:
    """The seconds of the unit that suits the longest run, and its name."""
    longest = max(
        run.curves[name]["wall_s"].iloc[-1] for result in section.results for run in result.with_curve(name)
    )
    return next(
        pair for pair in ((3600, "h"), (60, "min"), (1, "s")) if longest >= 2 * pair[0] or pair[0] == 1
    )


def _style(axes: Axes, *, frames: bool, ticks: int) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    if frames:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(ticks))
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


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
