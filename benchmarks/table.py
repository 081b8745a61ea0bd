"""`python -m benchmarks.table`: write the tables of README.md and docs/ from the files in
benchmarks/results/ and conf/algo/.

A table stands between `<!-- table NAME -->` and `<!-- end -->`. With `--check` nothing is written, and the
exit code is 1 if a table is not what the results say.
"""

from __future__ import annotations

import csv
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record import RESULTS, ROOT

_BLOCK = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
Row = dict[str, str]


SPACES = ("discrete", "continuous", "multi-discrete")
VALUE_BASED, ACTOR_CRITIC, POLICY_GRADIENT = ("discrete",), ("continuous",), SPACES


@dataclass(frozen=True)
class Algorithm:
    """A line of the table of algorithms. tests/test_tables.py compares it with the agent itself."""

    title: str
    actions: tuple[str, ...]  # the action spaces that it takes
    papers: dict[str, str]  # authors and year -> address, or '' if there is none that lasts
    memory: bool = False  # its policy is recurrent


# the files of conf/algo/ but for the random baseline
ALGORITHMS = {
    "reinforce": Algorithm(
        "REINFORCE", POLICY_GRADIENT, {"Williams 1992": "https://doi.org/10.1007/BF00992696"}
    ),
    "a2c": Algorithm("A2C", POLICY_GRADIENT, {"Mnih et al. 2016": "https://arxiv.org/abs/1602.01783"}),
    "ppo": Algorithm("PPO", POLICY_GRADIENT, {"Schulman et al. 2017": "https://arxiv.org/abs/1707.06347"}),
    "recurrent_ppo": Algorithm(
        "Recurrent PPO",
        POLICY_GRADIENT,
        {
            "Schulman et al. 2017": "https://arxiv.org/abs/1707.06347",
            "Cho et al. 2014": "https://arxiv.org/abs/1406.1078",
        },
        memory=True,
    ),
    "sarsa": Algorithm("Sarsa", VALUE_BASED, {"Rummery & Niranjan 1994": ""}),
    "pqn": Algorithm("PQN", VALUE_BASED, {"Gallici et al. 2024": "https://arxiv.org/abs/2407.04811"}),
    "dqn": Algorithm("DQN", VALUE_BASED, {"Mnih et al. 2015": "https://doi.org/10.1038/nature14236"}),
    "ddqn_per": Algorithm(
        "Double dueling DQN, prioritised replay",
        VALUE_BASED,
        {
            "van Hasselt et al. 2016": "https://arxiv.org/abs/1509.06461",
            "Wang et al. 2016": "https://arxiv.org/abs/1511.06581",
            "Schaul et al. 2016": "https://arxiv.org/abs/1511.05952",
        },
    ),
    "qr_dqn": Algorithm("QR-DQN", VALUE_BASED, {"Dabney et al. 2018": "https://arxiv.org/abs/1710.10044"}),
    "rainbow": Algorithm(
        "Rainbow, with quantiles", VALUE_BASED, {"Hessel et al. 2018": "https://arxiv.org/abs/1710.02298"}
    ),
    "sac_discrete": Algorithm(
        "Discrete SAC", VALUE_BASED, {"Christodoulou 2019": "https://arxiv.org/abs/1910.07207"}
    ),
    "sac": Algorithm("SAC", ACTOR_CRITIC, {"Haarnoja et al. 2018": "https://arxiv.org/abs/1812.05905"}),
    "crossq": Algorithm("CrossQ", ACTOR_CRITIC, {"Bhatt et al. 2024": "https://arxiv.org/abs/1902.05605"}),
    "tqc": Algorithm("TQC", ACTOR_CRITIC, {"Kuznetsov et al. 2020": "https://arxiv.org/abs/2005.04269"}),
    "td3": Algorithm("TD3", ACTOR_CRITIC, {"Fujimoto et al. 2018": "https://arxiv.org/abs/1802.09477"}),
    "ddpg": Algorithm("DDPG", ACTOR_CRITIC, {"Lillicrap et al. 2016": "https://arxiv.org/abs/1509.02971"}),
}


def algorithms() -> list[list[str]]:
    """Each algorithm: the action spaces that it takes, whether it has a memory, and its papers."""
    table = [["`algo=`", "algorithm", *SPACES, "memory", "paper"]]
    for name, algorithm in ALGORITHMS.items():
        papers = [f"[{text}]({url})" if url else text for text, url in algorithm.papers.items()]
        marks = ["yes" if space in algorithm.actions else "" for space in SPACES]
        memory = "yes" if algorithm.memory else ""
        link = f"[{name}](conf/algo/{name}.yaml)"
        table.append([link, algorithm.title, *marks, memory, ", ".join(papers)])
    return table


def read(path: Path) -> list[Row]:
    """The rows of a result file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def rows_of(pattern: str) -> Iterator[Row]:
    """The rows of all result files with such names."""
    for path in sorted(RESULTS.glob(pattern)):
        yield from read(path)


def kills() -> list[list[str]]:
    """Each campaign of kills: how many, and what they changed."""
    table = [["campaign", "runs", "kills in training", "of them inside a save", "runs that differ in a bit"]]
    for path in sorted(RESULTS.glob("kills*.csv")):
        rows = read(path)
        total = [sum(int(row[name]) for row in rows) for name in ("kills", "inside_a_save")]
        differ = sum(row["differences"] != "0" for row in rows)
        table.append([f"`{rows[0]['command']}`", str(len(rows)), *map(str, total), str(differ)])
    return table


def scores() -> list[list[str]]:
    """Each experiment's score, the mean over seeds, beside what others publish."""
    head = [
        "experiment",
        "frames",
        "seeds",
        "mean",
        "each seed",
        "best weights",
        "published",
        "minutes a seed",
    ]
    table, published = [head], {row["experiment"]: row for row in read(RESULTS / "published.csv")}
    for path in sorted(RESULTS.glob("scores_*.csv")):
        rows = read(path)
        last = [float(row["last_mean"]) for row in rows]
        best = [float(row["best_mean"]) for row in rows if row.get("best_mean")]
        name = path.stem.removeprefix("scores_")
        other = published.get(name)
        table.append(
            [
                f"`{name}`",
                f"{max(int(row['frames']) for row in rows):,}",
                str(len(rows)),
                short(statistics.fmean(last), 1),
                " ".join(short(value, 0) for value in last),
                short(statistics.fmean(best), 1) if best else "",
                f"{other['published']} ({other['source']})" if other else "",
                f"{statistics.median(float(row['minutes']) for row in rows):.1f}",
            ]
        )
    return table


def short(score: float, decimals: int) -> str:
    """A score with so many decimals, or two below 10."""
    return f"{score:.{2 if abs(score) < 10 else decimals}f}"


def reached() -> list[list[str]]:
    """With and without masks, each seed's frames until an evaluation's mean was 7.5 in Taxi."""
    table = [["experiment", "frames", "frames until 7.5, each seed"]]
    for path in sorted(RESULTS.glob("curves_*_taxi*.csv")):
        rows = [row for row in read(path) if row["table"] == "eval"]
        first: dict[str, str] = {row["seed"]: "never" for row in rows}
        for row in reversed(rows):
            if float(row["total_reward"]) >= 7.5:
                first[row["seed"]] = f"{int(row['frames']):,}"
        last = max(int(row["frames"]) for row in rows)
        table.append([f"`{path.stem.removeprefix('curves_')}`", f"{last:,}", "; ".join(first.values())])
    return table


def masks() -> list[list[str]]:
    """The steps of each algorithm in Taxi, and those whose action was masked."""
    head = [
        "algorithm",
        "steps with exploration",
        "of them masked",
        "greedy steps",
        "of them masked",
        "updates",
    ]
    names = ("exploring_steps", "exploring_masked", "greedy_steps", "greedy_masked", "updates")
    table = [head]
    for row in rows_of("masks.csv"):
        algo = row["algo"] if row["masks"] == "True" else f"{row['algo']}, without masks"
        table.append([algo, *(f"{int(row[name]):,}" for name in names)])
    return table


def hours() -> list[list[str]]:
    """Trainings that have no scores, and the hours of one core that a seed would take."""
    table = [["training", "frames", "updates a frame", "updates per second", "hours a seed"]]
    names = ("updates_per_frame", "updates_per_cpu_second", "hours_a_seed")
    for row in rows_of("hours.csv"):
        if not (RESULTS / f"scores_{row['training']}.csv").exists():
            frames = f"{int(row['frames']):,}"
            table.append([f"`{row['overrides']}`", frames, *(row[name] for name in names)])
    return table


def speed() -> list[list[str]]:
    """Each case's sides, and their ratio to the first, by the clock and by CPU time."""
    head = ["case", "side", "frames per second", "ratio to the first", "the same by CPU time"]
    table = [[*head, "the floor's speed, over its own"]]
    rows = list(rows_of("speed_*.csv"))
    floors = {row["case"]: float(row["ratio_to_first"]) for row in rows if row["side"] == "its floor"}
    for row in rows:
        ratios = [row.get(name) for name in ("ratio_to_first", "cpu_ratio_to_first")]
        said = [f"{float(ratio):.3g}" if ratio else "" for ratio in ratios]
        floor = floors.get(row["case"])
        over = "" if floor is None else f"{floor / float(row['ratio_to_first']):.2f}"
        table.append([row["case"], row["side"], f"{float(row['median']):,.0f}", *said, over])
    return table


def iteration() -> list[list[str]]:
    """Where the time of an iteration goes."""
    table = [["case", "part", "CPU ms an iteration", "share", "compiled: ms", "share"]]
    for row in rows_of("iteration.csv"):
        shares = [f"{row[name]} %" for name in ("percent", "compiled_percent")]
        table.append([row["case"], row["part"], row["ms"], shares[0], row["compiled_ms"], shares[1]])
    return table


def memory() -> list[list[str]]:
    """The peak of a training's memory."""
    table = [["training", "frames", "side", "peak, MiB"]]
    for row in rows_of("memory.csv"):
        table.append([row["training"], f"{int(row['frames']):,}", row["side"], row["peak_mib"]])
    return table


def costs() -> list[list[str]]:
    """What parts of a training cost, each beside the first of its case."""
    table = [["case", "side", "median", "ratio to the first"]]
    for row in rows_of("costs_*.csv"):
        value = float(row["median"])
        median = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        ratio = f"{float(row['ratio_to_first']):.3g}"
        table.append([row["case"], row["side"], f"{median} {row['unit']}", ratio])
    return table


def starts() -> list[list[str]]:
    """How long starts, jobs of sweeps, judging them and listing runs take."""
    table = [["case", "side", "seconds", "ratio to the first", "CPU seconds", "ratio of these"]]
    for path in sorted(RESULTS.glob("starts_*.csv")):
        for row in read(path) if path.stem != "starts_imports" else ():
            numbers = (row[name] for name in ("seconds", "ratio_to_first", "cpu_s", "cpu_ratio_to_first"))
            table.append([row["case"], row["side"], *(f"{float(number):.3g}" for number in numbers)])
    return table


def imports() -> list[list[str]]:
    """What a start imports, and what that costs."""
    table = [["package", "modules", "milliseconds", "share"]]
    for row in read(RESULTS / "starts_imports.csv"):
        table.append([row["package"], row["modules"], row["ms"], f"{float(row['share']):.1%}"])
    return table


def sweep_kills() -> list[list[str]]:
    """Each campaign of kills of a sweep."""
    table = [
        [
            "campaign",
            "jobs",
            "kills",
            "jobs that outlived a killed parent",
            "jobs that differ in a bit",
            "the same, extended",
        ]
    ]
    for path in sorted(RESULTS.glob("sweep_kills*.csv")):
        rows = read(path)
        killed, last = [row for row in rows if row["ended"] == "killed"], rows[-2:]
        left = sum(int(row["left_running"]) for row in killed)
        table.append(
            [
                f"`{rows[0]['command']}`",
                last[0]["jobs"],
                str(len(killed)),
                str(left),
                *(row["differences"] for row in last),
            ]
        )
    return table


def process_kills() -> list[list[str]]:
    """Runs of several processes that were killed: one of them, or their parent."""
    head = [
        "run",
        "processes",
        "kills",
        "of them inside a save",
        "processes left",
        "differences to a run left alone",
    ]
    names = ("case", "processes", "kills", "inside_a_save", "left_over", "differences")
    return [head, *([row[name] for name in names] for row in read(RESULTS / "process_kills.csv"))]


def process_equal() -> list[list[str]]:
    """How far what 2 and 4 processes report is from what one does."""
    head = ["run", "largest relative difference up to the 20th update, 2 processes", "4 processes"]
    head += ["another seed", "updates until it exceeds 1e-4, 2 processes", "4 processes"]
    names = ["case", "largest_difference_2", "largest_difference_4", "control"]
    names += ["within_for_updates_2", "within_for_updates_4"]
    return [head, *([row[name] for name in names] for row in read(RESULTS / "process_equal.csv"))]


def process_speed() -> list[list[str]]:
    """One run on several processes, against one."""
    table = [
        ["training", "side", "frames per second", "ratio, median of rounds", "exchanges, ms an iteration"]
    ]
    for row in rows_of("process_speed.csv"):
        speed = f"{float(row['median']):,.0f}"
        ratio = f"{float(row['ratio_to_first']):.2f}"
        table.append([row["case"], row["side"], speed, ratio, row["exchange_ms_an_iteration"]])
    return table


def mirror_kills() -> list[list[str]]:
    """Each campaign that takes machines away from mirrored runs."""
    names = ["machines_lost", "uploaders_killed", "frames_trained_again"]
    table = [["campaign", "runs", *(name.replace("_", " ") for name in names), "runs that differ in a bit"]]
    for path in sorted(RESULTS.glob("mirror_kills*.csv")):
        rows = read(path)
        total = [f"{sum(int(row[name]) for row in rows):,}" for name in names]
        differ = sum(row["differences"] != "0" for row in rows)
        table.append([f"`{rows[0]['command']}`", str(len(rows)), *total, str(differ)])
    return table


def mirror_speed() -> list[list[str]]:
    """What a mirror in a slow bucket costs training."""
    table = [["case", "frames per CPU second", "ratio, median of rounds"]]
    for row in rows_of("mirror_speed*.csv"):
        ratio = f"{float(row['median_ratio_of_rounds']):.3f}"
        table.append([row["case"], f"{int(row['frames_per_cpu_s']):,}", ratio])
    return table


def faults() -> list[list[str]]:
    """The campaign of faults, line by line."""
    counted = ("times", "went_on", "went_back", "refused", "exact", "wrong", "lost")
    table = [
        [
            "run",
            "kinds of faults",
            "faults",
            "went on",
            "from the checkpoint before",
            "refused",
            "ended exactly",
            "wrong",
            "lost",
        ]
    ]
    by_line: dict[str, list[Row]] = {}
    for row in rows_of("faults.csv"):
        by_line.setdefault(row["line"], []).append(row)
    control = by_line.pop("control", [])
    everything = [row for rows in by_line.values() for row in rows]
    for line, those in [*sorted(by_line.items()), ("all", everything), ("negative control", control)]:
        kinds = len({row["fault"] for row in those})
        table.append([line, str(kinds), *(str(sum(int(row[name]) for row in those)) for name in counted)])
    return table


def commit_protocol() -> list[list[str]]:
    """The steps of the state machine, and how many broke an invariant."""
    rows = list(rows_of("commit_protocol.csv"))
    total = [sum(int(row[name]) for row in rows) for name in ("times", "broken")]
    steps = [[row["step"], f"{int(row['times']):,}", row["broken"]] for row in rows]
    return [["step", "times", "broken invariants"], *steps, ["all", f"{total[0]:,}", str(total[1])]]


def parity() -> list[list[str]]:
    """How far each framework's resumed run is from an uninterrupted one."""
    columns = {
        "framework": "framework",
        "task": "task",
        "resumes": "resumes",
        "trained again": "frames_again",
        "updates lost": "updates_lost",
        "transitions lost": "transitions_lost",
        "same folder": "same_folder",
        "rows missing": "rows_missing",
        "rows doubled": "rows_doubled",
        "two controls differ by": "control_difference",
        "**resumed differs by**": "resumed_difference",
        "return before": "return_before",
        "return after": "return_after",
        "control's": "return_control",
        "edited lr": "edited_lr",
        "edited gamma": "edited_gamma",
        "flipped bit": "damaged",
        "first frame s": "first_frame_s",
    }
    table = [list(columns)]
    for path in sorted(RESULTS.glob("parity_*.csv")):
        table += [[row[name].partition(":")[0] for name in columns.values()] for row in read(path)]
    return table


def resumed() -> list[list[str]]:
    """Of each framework and task the difference of a resumed run's weights to an uninterrupted one's."""
    tasks = {
        "ppo_cartpole": "PPO CartPole",
        "dqn_cartpole": "DQN CartPole",
        "sac_pendulum": "SAC Pendulum",
        "ppo_lunar_lander": "PPO LunarLander",
    }
    table = [["weights differ by", *tasks.values()]]
    for path in sorted(RESULTS.glob("parity_*.csv")):
        found = {row["task"]: row["resumed_difference"] or "-" for row in read(path)}
        table.append([path.stem.removeprefix("parity_"), *(found[task] for task in tasks)])
    return table


TABLES: dict[str, Callable[[], list[list[str]]]] = {
    "algorithms": algorithms,
    "kills": kills,
    "process_kills": process_kills,
    "process_equal": process_equal,
    "process_speed": process_speed,
    "mirror_kills": mirror_kills,
    "mirror_speed": mirror_speed,
    "faults": faults,
    "commit_protocol": commit_protocol,
    "parity": parity,
    "resumed": resumed,
    "sweep_kills": sweep_kills,
    "scores": scores,
    "reached": reached,
    "masks": masks,
    "hours": hours,
    "speed": speed,
    "iteration": iteration,
    "memory": memory,
    "costs": costs,
    "starts": starts,
    "imports": imports,
}


def markdown(table: list[list[str]]) -> str:
    """A table in Markdown."""
    head, *rows = table
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]) + "\n"


def main() -> None:
    """Write the tables, or check them."""
    stale = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        old = path.read_text()
        new = _BLOCK.sub(lambda found: found[1] + markdown(TABLES[found[2]]()) + found[3], old)
        if new != old:
            stale.append(str(path.relative_to(ROOT)))
            if "--check" not in sys.argv:
                path.write_text(new)
    if stale and "--check" in sys.argv:
        raise SystemExit(f"stale tables in {', '.join(stale)}; run python -m benchmarks.table")


if __name__ == "__main__":
    main()
