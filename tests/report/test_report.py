"""`python -m rl.report`: what its page says of runs in every state, and that it leaves them as they are."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from short_runs import TINY, contents, differences, environment, go, record
from test_sweeps import run as run_sweep

import rl.training.run
from rl.config import ConfigError
from rl.config.compose import options
from rl.config.text import score_text
from rl.report import measures
from rl.report.__main__ import main, report
from rl.report.curves import draw, over_seeds
from rl.report.group import group
from rl.report.runs import BASELINES, find_runs, read_run
from rl.runs import files, history
from rl.runs.__main__ import main as list_runs
from rl.runs.lock import RunLock
from rl.runs.outcome import Refused

html5lib = pytest.importorskip("html5lib")

LINE = [*TINY, "env=cartpole", "ckpt.every=192"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep of two configurations and two seeds."""
    place = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rl.training.run, "SCORE_EPISODES", 4)
        patch.chdir(place)
        code, *_ = run_sweep(*LINE, "algo.lr=1e-3,1e-2", "seed=1,2", "hydra.sweep.dir=sweep")
    assert code == 0
    return place


@pytest.fixture
def sweep(made: Path) -> Path:
    """A copy of the sweep, in the test's working directory."""
    shutil.copytree(made / "sweep", "sweep", symlinks=True)
    return Path("sweep")


@pytest.fixture
def without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the charts out: they take a second or two."""
    monkeypatch.setattr("rl.report.page.draw_section", lambda *given: [])


def read(page: Path) -> str:
    """A page, checked to be HTML that nothing outside is needed for."""
    text = page.read_text()
    html5lib.HTMLParser(strict=True).parse(text)
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'https?://[^"\s]*', text)) <= {
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/2000/svg",
    }
    assert "<script" not in text
    for link in re.findall(r'(?:href|src)="(?![#d])([^"]*)"', text):
        assert (page.parent / link.replace("%3D", "=").replace("%2C", ",")).exists(), link
    return text


def cells(text: str, heading: str) -> list[list[str]]:
    """The rows of the table below a heading, as plain text."""
    table = text[text.index(f"<h3>{heading}</h3>") :].partition("</table>")[0]
    rows = [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
        for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    ]
    return [[re.sub(r"<[^>]*>", "", cell).strip() for cell in row] for row in rows]


def edit(run: Path, **changed: object) -> None:
    """Change a run's configuration."""
    sessions = history.read(run)
    values = sessions[-1]["config"]
    for key, value in changed.items():
        section, _, name = key.rpartition("__")
        (values[section] if section else values)[name] = value
    (run / "history.jsonl").write_text("".join(map(files.to_line, sessions)))


def test_a_sweep_becomes_a_page_and_charts(sweep: Path) -> None:
    before = contents(sweep)
    command = [sys.executable, "-m", "rl.report", "sweep"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(), check=False, timeout=100
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "sweep/report/index.html\n", "")
    page = sweep / "report" / "index.html"
    text = read(page)
    pngs = sorted(path.name for path in page.parent.glob("*.png"))
    assert len(pngs) == 4
    assert pngs[0] == "1-cartpole-v1-evaluation-over-frames.png"
    assert all(f'href="{name}"' in text for name in pngs)
    assert all((page.parent / name).read_bytes().startswith(b"\x89PNG") for name in pngs)
    charts = re.findall(r'<svg role="img" aria-label="CartPole-v1: (.*?):', text)
    assert [name for name in charts if " return over " not in name] == [
        f"{name} over frames"
        for name in (
            "fps",
            "episode_length",
            "loss",
            "lr",
            "entropy_coef",
            "entropy",
            "grad_norm",
            "policy_loss",
        )
    ]
    assert len(charts) == 4 + 8

    scores = cells(text, "Scores")
    assert [row[:2] for row in scores[1:]] == [["reinforce lr=0.001", "2"], ["reinforce lr=0.01", "2"]]
    finals = [
        json.loads((sweep / f"algo.lr=0.001,seed={seed}" / "result.json").read_text())["last"]["total_reward"]
        for seed in (1, 2)
    ]
    assert scores[1][2].startswith(f"{sum(finals) / 2:.3g} [")
    assert scores[1][4] == " ".join(f"{score:.3g}" for score in finals)
    assert scores[1][5:7] == ["4 fresh episodes", "22.4"]
    assert cells(text, "What differs") == [
        ["key", "reinforce lr=0.001", "reinforce lr=0.01"],
        ["algo.lr", "0.001", "0.01"],
    ]
    runs = cells(text, "Runs")
    assert [row[0] for row in runs[1:]] == [
        f"algo.lr={lr},seed={seed}" for lr in ("0.001", "0.01") for seed in (1, 2)
    ]
    assert all((row[2], row[3], row[8]) == ("finished", "640 of 640", "none") for row in runs[1:])

    assert {name: data for name, data in contents(sweep).items() if not name.startswith("report/")} == before
    first = contents(page.parent)
    assert report([str(sweep)]) == page
    assert contents(page.parent) == first


@pytest.mark.usefixtures("without_charts")
def test_a_results_measures_come_from_its_evaluations(sweep: Path) -> None:
    def strengths(seed: int) -> list[float]:
        with (sweep / f"algo.lr=0.01,seed={seed}" / "eval.csv").open() as file:
            return [float(row["total_reward"]) - 22.41 for row in csv.DictReader(file)]

    means = [sum(values) / len(values) for values in map(strengths, (1, 2))]
    shown = cells(read(report([str(sweep)])), "Measures")[2]
    assert shown[1] == score_text(sum(means) / 2)
    assert shown[5].startswith("from evaluation rows")


@pytest.mark.usefixtures("few_scores", "without_charts")
def test_reporting_a_run_does_not_change_its_resume() -> None:
    run, straight = Path("run"), Path("straight")
    assert go(run, *LINE, "frames=320") == 0
    before = contents(run)
    report(["run"])
    assert {name: data for name, data in contents(run).items() if not name.startswith("report/")} == before
    shutil.rmtree(run / "report")
    report(["run", "out=elsewhere"])
    assert contents(run) == before
    report(["run"])
    assert go(run, "frames=640") == 0
    assert go(straight, *LINE, "frames=640") == 0
    one, other = record(run), record(straight)
    resumed = read_run(run)
    text = read(report(["run"]))
    assert cells(text, "Runs")[1][8] == "320"
    (edit,) = cells(text, "What was edited, and when")[1:]
    assert (edit[0], edit[1], edit[2][:2], edit[3:]) == ("run", "320", "20", ["frames: 320 → 640", ""])
    section = group([resumed])[0]
    means = {
        result.label: over_seeds([resumed.curves["training"]], measures.mean) for result in section.results
    }
    for over in ("frames", "wall_s"):
        lines = draw(section, "training", over, means, "title").axes[0].lines
        curve, marks = lines[0], next(line for line in lines if line.get_marker() == "D")
        assert (curve.get_xdata()[1:] > curve.get_xdata()[:-1]).all()
        (at,) = marks.get_xdata()
        assert curve.get_xdata()[0] < at < curve.get_xdata()[-1]
        assert over == "wall_s" or at == 320
    one["files"].remove("report")
    assert differences(one, other) == []


@pytest.mark.usefixtures("without_charts")
def test_runs_in_every_state_are_reported(sweep: Path) -> None:
    stopped, running, garbage, damaged = sorted(path for path in sweep.iterdir() if path.is_dir())
    (stopped / "result.json").unlink()
    with (stopped / "train.log").open("a") as file:
        file.write("Traceback\nValueError: <it> broke\n")
    with (stopped / "metrics.csv").open("a") as file:
        file.write("704,7")  # a line that is being written
    (garbage / "eval.csv").write_text("frames,wall_s\nx,y\n")
    (damaged / "history.jsonl").write_text("{a\n")
    recorded = json.loads((sweep / "sweep.json").read_text())
    (sweep / "sweep.json").write_text(json.dumps(recorded | {"jobs": recorded["jobs"] | {"seed=3": []}}))
    (sweep / "fresh" / ".hydra").mkdir(parents=True)
    ready, hold = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        lock = RunLock(running)
        lock.announce()
        os.write(ready[1], b"x")
        os.read(hold[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    page = report([str(sweep)])
    os.write(hold[1], b"x")
    os.waitpid(child, 0)
    text = read(page)
    runs = cells(text, "Runs")
    assert [row[2] for row in runs[1:]] == ["stopped: ValueError: &lt;it&gt; broke", "running"]
    assert [row[5] for row in cells(text, "Scores")[1:]] == ["4 fresh episodes and evaluation rows"]
    unread = text[text.index("Runs without a result") :]
    assert f"{garbage.name}: damaged; it cannot be read: eval.csv: " in unread
    assert f"{damaged.name}: damaged; it cannot be read:" in unread
    assert "seed=3: waiting; its sweep has not begun it" in unread
    assert "fresh: never committed; it was killed before its configuration was written down" in unread


def test_a_run_without_rows_says_so_once(sweep: Path) -> None:
    run = sweep / "algo.lr=0.01,seed=1"
    (run / "result.json").unlink()
    for name in ("metrics.csv", "eval.csv"):
        (run / name).write_bytes((run / name).read_bytes().partition(b"\n")[0] + b"\n")
    text = read(report([str(run)]))
    assert text.count("There are no rows yet") == 1
    assert cells(text, "Runs")[1][:4] == [run.name, "1", "stopped", "640 of 640"]
    assert "<svg role=" not in text
    assert cells(text, "Measures")[1][1:] == ["", "", "", "", "no rows yet"]


@pytest.mark.usefixtures("without_charts")
def test_each_env_has_a_section_and_may_lack_a_baseline(sweep: Path) -> None:
    for seed in (1, 2):
        edit(sweep / f"algo.lr=0.01,seed={seed}", env__id="my_package:Mine-v0")
    text = read(report([str(sweep)]))
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["CartPole-v1", "my_package:Mine-v0"]
    mine = text[text.index("<h2>my_package") :]
    assert cells(mine, "Measures")[1] == [
        "reinforce",
        "",
        "",
        "",
        "",
        "unknown: no random baseline is recorded for this environment",
    ]
    assert cells(mine, "Scores")[1][6] == "unknown"
    assert "What differs" not in text


def test_what_does_not_make_another_configuration_is_one_result(sweep: Path) -> None:
    edit(
        sweep / "algo.lr=0.01,seed=1",
        outputs="elsewhere",
        progress=True,
        launcher={"_target_": "rl.launchers.Ray"},
    )
    edit(sweep / "algo.lr=0.001,seed=1", frames="0.64k")
    results = group([read_run(path) for path in find_runs(str(sweep), Path("outputs"))])[0].results
    assert [[run.seed for run in result.runs] for result in results] == [[1, 2], [1, 2]]


@pytest.mark.usefixtures("without_charts")
def test_tags_and_what_is_solved_are_shown(sweep: Path) -> None:
    edit(sweep / "algo.lr=0.001,seed=1", tags={"note": "a <first> try", "batch": 7})
    for lr, solved in (("0.001", 1.0), ("0.01", None)):
        for seed in (1, 2):
            edit(sweep / f"algo.lr={lr},seed={seed}", env__solved=solved)
    text = read(report([str(sweep)]))
    scores = cells(text, "Scores")
    column = scores[0].index("solved")
    assert [row[column] for row in scores[1:]] == ["2 of 2 reach 1", ""]
    runs = cells(text, "Runs")
    column = runs[0].index("tags")
    assert [row[column] for row in runs[1:]] == ["note=a &lt;first&gt; try, batch=7", "", "", ""]


@pytest.mark.usefixtures("without_charts")
def test_edits_of_keys_and_code_are_listed_with_their_frames(sweep: Path) -> None:
    run = sweep / "algo.lr=0.01,seed=1"
    (start,) = history.read(run)
    start |= {"fork": {"run": "outputs/<old>", "weights": "best"}, "time": "t0"}
    sessions = [start]
    for frames, keys, edited in ((128, [], ["mine.py"]), (256, [("algo.lr", 0.01, 0.1)], []), (384, [], [])):
        known = sessions[-1].get("code_changed") or []
        changes = [{"key": key, "was": was, "now": now} for key, was, now in keys]
        code = [*known, *([{"frames": frames, "files": edited}] if edited else [])]
        session = {
            "event": "resume",
            "frames": frames,
            "time": f"t{frames}",
            "changes": changes,
            "fork": None,
        }
        sessions.append(start | session | {"code_changed": code})
    (run / "history.jsonl").write_text("".join(map(files.to_line, sessions)))
    text = read(report([str(run)]))
    assert cells(text, "What was edited, and when")[1:] == [
        [run.name, "0", "t0", "forked from outputs/&lt;old&gt; (best weights)", ""],
        [run.name, "128", "t128", "", "mine.py"],
        [run.name, "256", "t256", "algo.lr: 0.01 → 0.1", ""],
    ]
    assert cells(text, "Runs")[1][8] == "128, 256, 384"


def test_names_are_shown_as_they_are(sweep: Path) -> None:
    name = "<b>&\"'$x^2$=1"
    (sweep / "algo.lr=0.01,seed=1").rename(sweep / name)
    edit(sweep / name, env__kwargs={"<i>": "</svg><script>"})
    text = report([str(sweep)]).read_text()
    html5lib.HTMLParser(strict=True).parse(text)
    assert "<b>" not in text
    assert "<i>" not in text
    assert "<script" not in text
    assert "&lt;b&gt;&amp;&#34;&#39;$x^2$=1" in text


@pytest.mark.usefixtures("without_charts")
def test_videos_are_in_the_page_or_linked(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, size in ((1, 100), (2, 1000)):
        (sweep / f"algo.lr=0.01,seed={seed}" / "video").mkdir()
        (sweep / f"algo.lr=0.01,seed={seed}" / "video" / "best-0.mp4").write_bytes(b"x" * size)
    (sweep / "algo.lr=0.01,seed=1" / "video" / "best-1.gif").write_bytes(b"x")
    monkeypatch.setattr("rl.report.page.EMBED_BYTES", 500)
    text = read(report([str(sweep)]))
    assert re.findall(r'<video [^>]*src="(.{20})', text) == ["data:video/mp4;base6", "../algo.lr%3D0.01%2C"]
    assert re.findall(r'<img class="video" src="(.{20})', text) == ["data:image/gif;base6"]


@pytest.mark.usefixtures("without_charts")
def test_several_inputs_are_reported_below_outputs_or_in_out(sweep: Path) -> None:
    one, other = sweep / "algo.lr=0.01,seed=1", sweep / "algo.lr=0.01,seed=2"
    page = report([str(one), str(other), str(one.absolute())])
    assert re.fullmatch(r"outputs/report-[\d_-]+", str(page.parent))
    assert cells(read(page), "Scores")[1][1] == "2"
    assert report([str(one), str(other), "out=a,b (c)", "center=mean"]) == Path("a,b (c)/index.html")
    assert ">The mean over seeds" in read(Path("a,b (c)/index.html"))


@pytest.mark.usefixtures("without_charts")
def test_latest_is_the_run_that_saved_last(sweep: Path) -> None:
    Path("outputs/reinforce_cartpole").mkdir(parents=True)
    folder = (sweep / "algo.lr=0.01,seed=2").rename("outputs/reinforce_cartpole/one")
    assert report(["latest"]) == folder / "report" / "index.html"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "what to report? type latest, or the folders of runs and sweeps"),
        (["nothing"], "nothing: no such folder; type latest, a run's folder or a sweep's"),
        (["latest"], "no run has a checkpoint under"),
        (["empty"], "empty: no run is in this folder"),
        (["file"], "file: no such folder"),
        (["sweep", "ouput=x"], "ouput: no such key; did you mean outputs?"),
        (["sweep", "center=median"], "center=median: expected one of iqm, mean"),
        (["sweep", "out=full"], "full: it holds other things than a report; type out=<a new folder>"),
        (
            ["sweep", "out=sweep/algo.lr=0.01,seed=1"],
            "sweep/algo.lr=0.01,seed=1: it holds other things than a report",
        ),
    ],
    ids=lambda words: words[-1] if words and isinstance(words, list) else "",
)
def test_a_bad_command_is_refused_and_writes_nothing(words: list[str], says: str, sweep: Path) -> None:
    for folder in ("empty", "full"):
        Path(folder).mkdir()
    Path("full/index.html").write_text("<p>mine</p>")
    Path("file").write_text("")
    before = contents(Path.cwd())
    with pytest.raises((Refused, ConfigError)) as caught:
        report(words)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)
    assert contents(Path.cwd()) == before


def test_a_missing_extra_is_told_with_what_to_type(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r'pip install -c constraints.txt -e "\.\[report\]"'):
        report([str(sweep)])


def test_the_command_line_refuses_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["report", "sweeep"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("sweeep: no such folder")


@pytest.mark.parametrize(("command", "says"), [("encore", "encore runs"), ("python", "python -m rl.runs")])
def test_hints_name_the_command_that_exists(
    command: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, run, arguments in (
        ("report", main, []),
        ("report", main, ["nothing"]),
        ("runs", list_runs, ["--help"]),
        ("runs", list_runs, ["nothing"]),
    ):
        start = f"encore {name}" if command == "encore" else f"rl/{name}/__main__.py"
        monkeypatch.setattr(sys, "argv", [start, *arguments])
        with contextlib.suppress(SystemExit):
            run()
        shown = "".join(capsys.readouterr())
        assert says in shown
        assert ("python -m" in shown) == (command == "python")


def test_every_cheap_environment_has_a_random_baseline() -> None:
    import benchmarks.random_baselines as recorded

    with BASELINES.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(options("env").keys() - recorded.LEFT_OUT)
    assert all(int(row["episodes"]) >= 100 for row in rows)


# ----------------------------------------------------------------------------------------------------- curves


def test_the_mean_curve_ends_with_half_of_the_seeds() -> None:
    import pandas as pd

    from rl.report.measures import mean

    def rows(*frames: float, score: float, pace: float) -> pd.DataFrame:
        return pd.DataFrame({"frames": frames, "wall_s": [pace * f for f in frames], "score": score})

    same = over_seeds([rows(10, 20, 30, score=1, pace=1), rows(10, 20, 30, score=3, pace=3)], mean)
    assert [*same.frames, *same.wall_s] == [10, 20, 30, 20, 40, 60]
    assert list(same.middle) == [2, 2, 2]
    assert ((same.low <= 2) & (same.high >= 2)).all()
    slow = [rows(10, 100, score=5, pace=9), rows(10, 50, score=1, pace=1), rows(10, 30, score=0, pace=1)]
    stopped = over_seeds(slow, mean)
    assert 49 < stopped.frames[-1] <= 50
    assert stopped.middle[0] == 2
    assert stopped.middle[-1] == 3
    assert (stopped.wall_s[1:] >= stopped.wall_s[:-1]).all()
    # never two of three
    assert len(over_seeds([rows(10 * n, score=n, pace=1) for n in (1, 2, 3)], mean).frames) == 0
    alone = over_seeds(slow[:1], mean)
    assert list(alone.middle) == [5, 5]
    assert (alone.low != alone.low).all()


# ---------------------------------------------------------------------------------------------------- browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(
    not (CHROMIUM and shutil.which("chromedriver")), reason="no chromium and chromedriver here"
)
def test_a_browser_shows_the_page_without_errors(sweep: Path) -> None:
    from selenium import webdriver

    page = report([str(sweep)]).resolve()
    wanted = webdriver.ChromeOptions()
    wanted.binary_location = str(CHROMIUM)
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--hide-scrollbars",
    ):
        wanted.add_argument(argument)
    wanted.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(wanted, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        for width in (390, 1280):
            view = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", view)
            driver.get(page.as_uri())
            assert driver.title == "sweep: report"
            assert driver.execute_script("return document.documentElement.scrollWidth") == width
            charts = driver.execute_script(
                "return [...document.querySelectorAll('.charts figure svg')]"
                ".map(s => [s.getBoundingClientRect().width, s.getBBox().height])"
            )
            assert len(charts) == 4
            assert all(300 < wide < width and high > 100 for wide, high in charts)
        assert driver.get_log("browser") == []
    finally:
        driver.quit()
