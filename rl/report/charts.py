"""The charts of a section: returns over frames and over time, and every other metric over frames."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from rl.report import measures
from rl.report.curves import Curve, as_svg, draw, draw_metric, over_seeds
from rl.report.group import Section
from rl.report.runs import CURVES, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_section(
    section: Section, index: int, center: measures.Center, made: dict[str, bytes] | None
) -> list[dict[str, str]]:
    """Draw the returns of a section, and add their PNG files to `made`, if it is given."""
    charts = []
    for name in CURVES:
        means = _means(section, name, center)
        for over, axis in (("frames", "frames"), ("wall_s", "training time")) if means else ():
            title = f"{section.env}: {name} return over {axis}"
            figure = draw(section, name, over, means, title)
            stem = _stem(f"{index} {section.env} {name} over {axis}")
            charts.append(
                {
                    "png": "" if made is None else _add_png(figure, stem, made),
                    "svg": as_svg(figure, stem, _described(title, means)),
                }
            )
    return charts


def draw_metrics(section: Section, index: int, center: measures.Center) -> list[str]:
    """A small chart as SVG for each metric that some run of a section has."""
    runs = [run for result in section.results for run in result.runs]
    charts = []
    for name in dict.fromkeys(name for run in runs for name in run.metric_names):
        means = _means(section, name, center)
        title = f"{section.env}: {name} over frames"
        stem = _stem(f"{index} {section.env} {name} over frames")
        charts.append(as_svg(draw_metric(section, name, means), stem, _described(title, means)))
    return charts


def _means(section: Section, name: str, center: measures.Center) -> dict[str, Curve]:
    found: dict[str, list[Run]] = {result.label: result.with_curve(name) for result in section.results}
    return {
        label: over_seeds([run.curves[name] for run in runs], center) for label, runs in found.items() if runs
    }


def _add_png(figure: Figure, stem: str, made: dict[str, bytes]) -> str:
    png = io.BytesIO()
    figure.savefig(png, dpi=200)
    made[f"{stem}.png"] = png.getvalue()
    return f"{stem}.png"


def _stem(text: str) -> str:
    return re.sub(r"\W+", "-", text, flags=re.ASCII).lower()


def _described(title: str, means: dict[str, Curve]) -> str:
    """What a chart shows, for those who do not see it."""
    ends: list[Any] = [(label, curve.middle[-1]) for label, curve in means.items() if len(curve.middle)]
    return f"{title}: " + "; ".join(f"{label} ends at {value:.4g}" for label, value in ends)
