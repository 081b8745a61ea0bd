"""`python -m rl.report <runs or sweeps>`: one page that opens from disk, and its charts as PNG files.

Runs that differ in nothing but their seed are one result; every environment has a section. The page is report.html filled
in; the same runs give the same bytes. Nothing here writes to a run, or waits for one that trains.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from yaml import YAMLError

from rl import history, measures, resume
from rl.checkpoint import DamagedError
from rl.compose import compose, from_yaml, quote_places, to_yaml
from rl.config import ConfigError, ReportConfig, install_line, leaves, same, typed
from rl.counts import format_count
from rl.help import show_help
from rl.history import CONFIG
from rl.resume import Refused
from rl.runs import describe
from rl.sweep import Record
from rl.train import refuse_or

if TYPE_CHECKING:  # slow to import, and an extra
    import pandas as pd
    from matplotlib.figure import Figure

    from rl.measures import Floats

PAGE, GENERATOR = "index.html", "rl.report"
BASELINES = Path(__file__).with_name("random_baselines.csv")
CURVES = {"evaluation": ("eval.csv", "total_reward"), "training": ("metrics.csv", "total_reward_ma")}  # table and column of each
IGNORED = ("seed", "outputs", "resume", "base", "progress")  # what does not make another configuration; nor do launcher and logger
POINTS = 200  # of a mean curve
MEDIA = {".mp4": "video/mp4", ".gif": "image/gif"}
EMBED_BYTES = 8 * 2**20  # videos of a page beyond this are links
# Okabe and Ito's colours, which colour-blind people tell apart; the page has brighter ones of the same order for the dark
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b38000", "#2b91cf", "#6b6b6b")
DASHES = ((), (6, 2), (2, 1.5), (7, 2, 1.5, 2))
INK, GRID = "#1b1f24", "#d0d7de"


# ---------------------------------------------------------------------------------------------------------- reading


@dataclass
class Run:
    """What a run's folder says."""

    folder: Path
    state: str
    seed: Any = None
    asked: int | None = None  # frames
    algo: str = "?"
    values: dict[str, Any] = field(default_factory=dict)  # the configuration
    history: list[dict[str, Any]] = field(default_factory=list)
    metrics: pd.DataFrame | None = None
    curves: dict[str, pd.DataFrame] = field(default_factory=dict)  # frames, wall_s and score of each that has rows
    result: dict[str, Any] = field(default_factory=dict)  # once it is finished
    problem: str = ""  # why it can be no part of a result

    @property
    def resumes(self) -> list[dict[str, Any]]:
        """Its lines of history but for the start."""
        return [line for line in self.history if line["event"] == "resume"]

    @property
    def videos(self) -> list[Path]:
        """What enjoy.py recorded."""
        return sorted(path for path in self.folder.glob("video/*") if path.suffix in MEDIA)


def find_runs(word: str, outputs: Path) -> list[Path]:
    """The runs that a word of the command line means. Refused if there are none."""
    folder = resume.latest(outputs) if word == "latest" else Path(word)
    if not folder.is_dir():
        raise Refused(f"{word}: no such folder; type latest, a run's folder or a sweep's; python -m rl.runs lists the runs")
    found = dict.fromkeys(resume.run_folders(folder))
    with contextlib.suppress(DamagedError):  # it is no sweep
        found |= dict.fromkeys(folder / name for name in Record.read(folder).jobs)
    if not found and resume.is_run(folder):
        return [folder]
    if not found:
        raise Refused(f"{word}: no run is in this folder; type latest, a run's folder or a sweep's; python -m rl.runs lists the runs")
    return list(found)


def read_run(folder: Path) -> Run:
    """A run, whatever state it is in."""
    if not folder.exists():
        return Run(folder, "waiting", problem="its sweep has not begun it")
    run = Run(folder, "damaged")
    try:
        run.history = history.read(folder)
        if run.history and (folder / CONFIG).exists():
            run.algo, run.values = str(run.history[0]["choices"]["algo"]), from_yaml(folder / CONFIG)
            leaves(run.values)
            run.metrics = _read_table(folder / "metrics.csv", ["frames", "wall_s", "fps", "total_reward_ma"])
            for name, (table, column) in CURVES.items():
                rows = run.metrics if table == "metrics.csv" else _read_table(folder / table, ["frames", "wall_s", column])
                curve = rows[["frames", "wall_s", column]].rename(columns={column: "score"}).dropna()
                run.curves |= {name: curve} if len(curve) else {}
            run.result = resume.read_result(folder) or {}
        else:
            run.problem = "it was killed before its configuration was written down"
        described = describe(folder)
        run.state, run.seed, run.asked = described["state"], described["seed"], described["asked"]
    except (DamagedError, ValueError, KeyError, TypeError, AssertionError, YAMLError) as error:
        run.problem = f"it cannot be read: {str(error).splitlines()[0]}"
    return run


def _read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """Columns of a table that may be growing: its whole lines. DamagedError if it is none."""
    import pandas as pd

    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1] or ",".join(columns)
    try:
        table = pd.read_csv(io.StringIO(whole), usecols=columns, dtype=float)
    except ValueError as error:
        raise DamagedError(f"{path.name}: {error}") from error
    return table.replace([float("inf"), float("-inf")], float("nan"))


@functools.cache
def _baselines() -> dict[tuple[str, ...], float]:
    """The mean return of random actions, by what makes an environment."""
    import pandas as pd

    return {
        tuple(map(str, row[:3])): float(row[3]) for row in pd.read_csv(BASELINES)[["id", "kwargs", "wrappers", "total_reward"]].to_numpy()
    }


def random_score(env: dict[str, Any]) -> float | None:
    """What random actions score in an environment, where that was recorded."""
    return _baselines().get((env["id"], json.dumps(env["kwargs"]), json.dumps(env["wrappers"])))


# --------------------------------------------------------------------------------------------------------- grouping


@dataclass
class Result:
    """The runs of one configuration, whatever their seeds."""

    runs: list[Run]
    label: str = ""
    colour: int = 0
    dashes: tuple[float, ...] = ()

    @property
    def env(self) -> dict[str, Any]:
        """The configuration of its environment."""
        return dict(self.runs[0].values["env"])

    def with_curve(self, name: str) -> list[Run]:
        """Its runs that have rows of a table."""
        return [run for run in self.runs if name in run.curves]


@dataclass
class Section:
    """The results of one environment."""

    env: str
    results: list[Result]
    differences: list[tuple[str, list[str]]]  # key -> its value in every result


def _compared(run: Run) -> dict[str, Any]:
    return {name: leaf for name, leaf in leaves(run.values).items() if name not in IGNORED and not name.startswith(("launcher.", "logger"))}


def group(runs: Sequence[Run]) -> list[Section]:
    """Runs as results, and those by environment."""
    found: list[tuple[dict[str, Any], Result]] = []
    for run in runs:
        mine = _compared(run)
        known = next((result for keys, result in found if _same(keys, mine)), None)
        if known:
            known.runs.append(run)
        else:
            found.append((mine, Result([run])))
    sections: dict[str, list[tuple[dict[str, Any], Result]]] = {}
    for keys, result in found:
        sections.setdefault(str(result.env["id"]), []).append((keys, result))
    return [_section(env, pairs) for env, pairs in sections.items()]


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return same({k: leaf.meaning for k, leaf in one.items()}, {k: leaf.meaning for k, leaf in other.items()})


def _section(env: str, pairs: list[tuple[dict[str, Any], Result]]) -> Section:
    """One environment's results, labelled by their algorithm and by what differs between those of the same algorithm."""
    results = [result for _, result in pairs]
    taken: dict[str, int] = {}
    for number, (_, result) in enumerate(pairs):
        alike = [keys for keys, other in pairs if other.runs[0].algo == result.runs[0].algo]
        own = pairs[number][0]
        parts = [f"{key.removeprefix('algo.')}={_shown(own, key)}" for key in _differing(alike) if key in own]
        label = " ".join([result.runs[0].algo, *parts[:3]]) + (" …" if len(parts) > 3 else "")
        label = label if len(label) <= 48 else f"{label[:47]}…"
        taken[label] = taken.get(label, 0) + 1
        result.label = label if taken[label] == 1 else f"{label} ({taken[label]})"
        result.colour, result.dashes = number % len(COLOURS), DASHES[number % len(DASHES)]
    all_keys = [keys for keys, _ in pairs]
    return Section(env, results, [(key, [_shown(keys, key) for keys in all_keys]) for key in _differing(all_keys)])


def _differing(configurations: list[dict[str, Any]]) -> list[str]:
    """The keys that do not have one value."""
    names = dict.fromkeys(name for keys in configurations for name in keys)
    first = configurations[0]
    return [
        n
        for n in names
        if any((n in keys) != (n in first) or (n in first and not _same({n: first[n]}, {n: keys[n]})) for keys in configurations)
    ]


def _shown(keys: dict[str, Any], key: str) -> str:
    return typed(keys[key].value) if key in keys else "–"


# ----------------------------------------------------------------------------------------------------------- curves


@dataclass(frozen=True)
class Curve:
    """The curves of several seeds as one; all arrays are [T]."""

    frames: Floats
    wall_s: Floats  # mean over the seeds, never falling
    middle: Floats
    low: Floats  # the interval's ends, or not a number
    high: Floats


def over_seeds(curves: Sequence[pd.DataFrame], center: measures.Center) -> Curve:
    """The center of curves at equal frames, as far as half of the seeds have come.

    Between rows a curve is straight. At each point the seeds that have come so far count.
    """
    import numpy as np

    grid = curves[0]["frames"].to_numpy(float)
    if len(grid) > POINTS or not all(np.array_equal(curve["frames"], grid) for curve in curves):
        grid = np.linspace(min(c["frames"].iloc[0] for c in curves), max(c["frames"].iloc[-1] for c in curves), POINTS)
    times, scores = (
        np.array([np.interp(grid, c["frames"], c[column], left=np.nan, right=np.nan) for c in curves])  # [S, T]
        for column in ("wall_s", "score")
    )
    there = ~np.isnan(scores)
    drawn = there.sum(axis=0) * 2 >= len(curves)
    grid, times, scores, there = grid[drawn], times[:, drawn], scores[:, drawn], there[:, drawn]
    middle, low, high = np.full((3, len(grid)), np.nan)
    for seeds in np.unique(there, axis=1).T if len(grid) else ():  # each set of seeds that some points have
        columns = (there == seeds[:, None]).all(axis=0)
        part = scores[np.ix_(seeds, columns)]
        middle[columns] = center(part)
        low[columns], high[columns] = measures.bootstrap_interval([part], center)
    return Curve(grid, np.maximum.accumulate(np.nanmean(times, axis=0)), middle, low, high)


def draw(section: Section, name: str, over: str, means: dict[str, Curve]) -> Figure:
    """One chart: the curves of all results of a section, over frames or wall_s; `means` by the results' labels."""
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    figure = Figure(figsize=(4.6, 3.3), layout="constrained")
    axes = figure.subplots()
    longest = max(run.curves[name]["wall_s"].iloc[-1] for result in section.results for run in result.with_curve(name))
    unit, seconds = next(pair for pair in (("h", 3600), ("min", 60), ("s", 1)) if longest >= 2 * pair[1] or pair[1] == 1)
    scale = seconds if over == "wall_s" else 1
    for result in section.results:
        colour, runs = COLOURS[result.colour], result.with_curve(name)
        for run in runs:
            x, y = run.curves[name][over] / scale, run.curves[name]["score"]
            axes.plot(x, y, color=colour, linewidth=0.6, alpha=0.45)
            frames = [line["frames"] for line in run.resumes]
            at = np.interp(frames, run.curves[name]["frames"], x)
            axes.plot(
                at, np.interp(at, x, y), linestyle="", marker="v", markersize=5, color=colour, markeredgecolor=INK, markeredgewidth=0.5
            )
        if not runs or not len(means[result.label].frames):
            continue
        curve = means[result.label]
        x = getattr(curve, over) / scale
        axes.plot(x, curve.middle, color=colour, linewidth=1.6, dashes=result.dashes, label=result.label, marker="." if len(x) == 1 else "")
        axes.fill_between(x, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
    if any(run.resumes for result in section.results for run in result.with_curve(name)):
        axes.plot([], [], linestyle="", marker="v", markersize=5, color=INK, label="resumed")
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
    columns = 3 if longest_label <= 8 else 2 if longest_label <= 20 else 1  # what the figure's width has room for
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, handlelength=3)
    return figure


STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": GENERATOR,  # the same figure has the same ids
    "text.parse_math": False,  # a label may have dollar signs
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.axisbelow": True,
    "path.simplify_threshold": 0.5,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


def as_svg(figure: Figure, name: str, title: str) -> str:
    """A figure as part of a page: with the page's colours, and ids that no other figure has."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg[svg.index("<svg") :])
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL), count=2)  # the page's own
    for colour, variable in [(INK, "currentColor"), (GRID, "var(--grid)"), *((c, f"var(--c{n})") for n, c in enumerate(COLOURS))]:
        svg = svg.replace(colour, variable)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)


# ----------------------------------------------------------------------------------------------------------- tables


def number(value: float | None) -> str:
    """A score for people; '' if there is none."""
    return "" if value is None or value != value else f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"


def final_scores(result: Result) -> tuple[str, list[float | None], list[float | None]]:
    """Where a result's scores come from, and the final and the best of each of its runs.

    Once all runs are finished: their last and best weights on fresh episodes. Before: the last and the best row.
    """
    if all(run.result for run in result.runs):
        episodes = result.runs[0].result["last"]["episodes"]
        both = [[run.result.get(name, {}).get("total_reward") for run in result.runs] for name in ("last", "best")]
        return f"{episodes} fresh episodes", both[0], both[1]
    name = measured_curve(result)
    scores = [run.curves[name]["score"] if name in run.curves else None for run in result.runs]
    last: list[float | None] = [None if rows is None else float(rows.iloc[-1]) for rows in scores]
    best: list[float | None] = [None if rows is None else float(rows.max()) for rows in scores]
    return f"{name} rows", last, best


def measured_curve(result: Result) -> str:
    """Which curve stands for a result: its evaluations, if there are any."""
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
    """Strength, efficiency, stability and consistency of a result, and why what is missing is missing."""
    import numpy as np

    name, score = measured_curve(result), random_score(result.env)
    runs = result.with_curve(name)
    if score is None:
        return [""] * 4, "unknown: no random baseline is recorded for this environment"
    if not runs:
        return [""] * 4, "no rows yet"
    curves = [(run.curves[name]["score"].to_numpy() - score, run.curves[name]["frames"].to_numpy()) for run in runs]
    common = functools.reduce(np.intersect1d, [frames for _, frames in curves])
    aligned = np.array([strengths[np.isin(frames, common)] for strengths, frames in curves])
    con = measures.consistency(aligned) if len(common) else None
    sta = _mean([measures.stability(strengths) for strengths, _ in curves])
    eff = _mean([measures.efficiency(*curve) for curve in curves])
    cells = [number(_mean([measures.strength(strengths) for strengths, _ in curves])), number(eff)]
    cells += ["" if value is None else f"{round(value, 2) + 0.0:.2f}" for value in (sta, con)]
    notes = [f"from {name} rows"]
    notes += ["stability needs two rows, and a mean above random"] if sta is None else []
    notes += ["consistency needs two seeds with rows at the same frames, and a mean above random"] if con is None else []
    return cells, "; ".join(notes)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def result_cells(result: Result, center: measures.Center, videos: Videos, out: Path, root: Path) -> dict[str, Any]:
    """A result as the page shows it."""
    source, last, best = final_scores(result)
    cells, note = four_measures(result)
    seeds = len({run.seed for run in result.runs})
    return {
        "label": result.label,
        "colour": result.colour,
        "dashes": " ".join(f"{1.6 * dash:g}" for dash in result.dashes),
        "random": number(random_score(result.env)) or "unknown",
        "source": source,
        "final": summary(last, center),
        "best": summary(best, center),
        "each": " ".join(number(score) or "–" for score in last),
        "measures": cells,
        "note": note,
        "config": to_yaml({name: value for name, value in result.runs[0].values.items() if name not in IGNORED}),
        "seeds": f"{len(result.runs)} runs of {seeds}" if len(result.runs) > seeds else str(seeds),
        "runs": [run_cells(run, out, root) for run in result.runs],
        "videos": [
            (f"{run.folder.name}: {video.name}", videos.source(video, out), video.suffix == ".gif")
            for run in result.runs
            for video in run.videos
        ],
    }


def run_cells(run: Run, out: Path, root: Path) -> dict[str, Any]:
    """A run as the page shows it."""
    metrics = run.metrics
    rows = metrics is not None and len(metrics) > 0
    log = run.folder / "train.log"
    last_line = log.read_text(errors="replace").rstrip().rpartition("\n")[2][:200] if run.state == "stopped" and log.exists() else ""
    return {
        "name": os.path.relpath(run.folder, root) if run.folder.absolute() != root else root.name,
        "link": _link(run.folder, out) + "/",
        "seed": run.seed,
        "state": run.state,
        "note": run.problem or last_line,
        "frames": f"{format_count(int(metrics['frames'].iloc[-1])) if rows else '0'} of {format_count(run.asked) if run.asked else '?'}",  # type: ignore[index]
        "minutes": f"{metrics['wall_s'].iloc[-1] / 60:.1f}" if rows else "",  # type: ignore[index]
        "fps": f"{metrics['fps'].median():,.0f}" if rows else "",  # type: ignore[index]
        "evaluation": number(run.curves["evaluation"]["score"].iloc[-1]) if "evaluation" in run.curves else "",
        "training": number(run.curves["training"]["score"].iloc[-1]) if "training" in run.curves else "",
        "resumes": [
            {
                "frames": format_count(line["frames"]),
                "time": line["time"],
                "changes": ", ".join(f"{c['key']}: {typed(c['was'])} → {typed(c['now'])}" for c in line["changes"]),
            }
            for line in run.resumes
        ],
        "not_exact": [line["exactness"] for line in run.history if line["exactness"] != "exact"],
    }


def _link(path: Path, out: Path) -> str:
    return quote(os.path.relpath(path.absolute(), out.absolute()))


class Videos:
    """Videos for a page: within it while they are small together, then as links."""

    def __init__(self) -> None:
        self.left = EMBED_BYTES

    def source(self, path: Path, out: Path) -> str:
        """What the page plays."""
        size = path.stat().st_size
        if size > self.left:
            return _link(path, out)
        self.left -= size
        return f"data:{MEDIA[path.suffix]};base64," + base64.b64encode(path.read_bytes()).decode()


# ------------------------------------------------------------------------------------------------------------- page


def make_page(runs: Sequence[Run], words: Sequence[str], out: Path, center_name: str) -> dict[str, bytes]:
    """The files of a report by their names."""
    import jinja2
    import matplotlib

    center: measures.Center = getattr(measures, center_name)
    root = Path(os.path.commonpath([run.folder.absolute() for run in runs]))
    made: dict[str, bytes] = {}
    videos = Videos()
    sections = []
    with matplotlib.rc_context(STYLE):
        for index, section in enumerate(group([run for run in runs if not run.problem]), 1):
            charts = draw_section(section, index, center, made)
            results = [result_cells(result, center, videos, out, root) for result in section.results]
            sections.append({"env": section.env, "charts": charts, "differences": section.differences, "results": results})
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    page = environment.get_template("report.html").render(
        title=root.name,
        words=" ".join(words),
        generator=GENERATOR,
        center="interquartile mean" if center_name == "iqm" else "mean",
        sections=sections,
        unread=[run_cells(run, out, root) for run in runs if run.problem],
        runs=len(runs),
        active=max((run.history[-1]["time"] for run in runs if run.history), default=""),
    )
    return {**made, PAGE: page.encode()}  # the page comes last: what it shows is there


def draw_section(section: Section, index: int, center: measures.Center, made: dict[str, bytes]) -> list[dict[str, str]]:
    """The charts of a section; their PNG files are added to `made`."""
    charts = []
    for name in CURVES:
        runs = {result.label: found for result in section.results if (found := result.with_curve(name))}
        means = {label: over_seeds([run.curves[name] for run in found], center) for label, found in runs.items()}
        for over, words in (("frames", "frames"), ("wall_s", "training time")) if means else ():
            figure, title = draw(section, name, over, means), f"{section.env}: {name} return over {words}"
            stem = re.sub(r"\W+", "-", f"{index} {section.env} {name} over {words}", flags=re.ASCII).lower()
            png = io.BytesIO()
            figure.savefig(png, dpi=200)
            made[f"{stem}.png"] = png.getvalue()
            ends = "; ".join(f"{label} ends at {number(curve.middle[-1])}" for label, curve in means.items() if len(curve.middle))
            charts.append({"title": title, "png": f"{stem}.png", "svg": as_svg(figure, stem, f"{title}: {ends}")})
    return charts


def place(config: ReportConfig, words: Sequence[str]) -> Path:
    """The folder of the report. Refused if there are other things in it."""
    if config.out is not None:
        out = Path(config.out)
    elif len(words) == 1:
        out = (resume.latest(Path(config.outputs)) if words[0] == "latest" else Path(words[0])) / "report"
    else:
        out = Path(config.outputs) / time.strftime("report-%Y-%m-%d_%H-%M-%S")
    page = out / PAGE
    ours = page.is_file() and f'content="{GENERATOR}"' in page.read_text(errors="replace")[:1000]
    if out.exists() and not ours and (not out.is_dir() or any(out.iterdir())):
        raise Refused(f"{out}: it holds other things than a report; type out=<a new folder>")
    return out


def report(words: Sequence[str]) -> Path:
    """Write the report that a command line asks for; its page. Refused or ConfigError if that cannot be."""
    named = [word for word in words if "=" not in word or Path(word).exists()]
    options = [word for word in words if word not in named]
    config: ReportConfig = compose(quote_places(options), ReportConfig, "report").config
    if not named:
        raise Refused("what to report? type latest, or the folders of runs and sweeps; python -m rl.runs lists the runs")
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{error}: {install_line('report')}") from error
    folders = {folder.resolve(): folder for word in named for folder in find_runs(word, Path(config.outputs))}
    out = place(config, named)
    made = make_page([read_run(folder) for folder in folders.values()], named, out, config.center)
    out.mkdir(parents=True, exist_ok=True)
    for name, data in made.items():
        (out / name).write_bytes(data)
    return out / PAGE


def main() -> None:
    """Read the command line and report."""
    from hydra._internal.utils import get_args_parser

    args = get_args_parser().parse_args()
    if args.help:
        print(show_help("rl.report"))
    else:
        refuse_or(lambda: print(report(args.overrides)))


if __name__ == "__main__":
    main()
