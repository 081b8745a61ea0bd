"""`python -m benchmarks.random_baselines [episodes=100] [envs=NAME,...]`: returns of random actions in each
environment. With `envs` in these alone; the rows of all others are kept.

Written to rl/report/random_baselines.csv, which the package ships: `rl.report` measures strength against it.
What takes hours is left out: CarRacing, and all Atari games but Pong.
"""

from __future__ import annotations

import csv
import json
import sys

from benchmarks.record import ROOT, record
from rl.config import RunConfig
from rl.config.compose import compose, options
from rl.training.build import build_env_factory, build_player
from rl.training.evaluate import play

LEFT_OUT = {"gym", "atari", "car_racing"}
LEFT_OUT |= {"beam_rider", "breakout", "enduro", "qbert", "seaquest", "space_invaders"}


def main() -> None:
    """Play random actions in all environments, and record the returns."""
    arguments = dict(argument.split("=", 1) for argument in sys.argv[1:])
    episodes = int(arguments.get("episodes", "100"))
    chosen = arguments["envs"].split(",") if "envs" in arguments else sorted(options("env").keys() - LEFT_OUT)
    rows: list[dict[str, object]] = []
    for env in chosen:
        composed = compose(["algo=random", f"env={env}"], RunConfig)
        entry = composed.values["env"]
        agent, make_env = build_player(composed.config), build_env_factory(composed.config.env)
        scores = play(agent, make_env, episodes, seed=0, explore=True)
        arguments_of_env = {key: json.dumps(entry[key]) for key in ("kwargs", "wrappers")}
        rows.append({"id": entry["id"], **arguments_of_env, **scores.summary()})
        print(env, rows[-1], flush=True)
    if "envs" in arguments:
        new = {str(row["id"]) for row in rows}
        with (ROOT / "rl" / "report" / "random_baselines.csv").open(newline="") as file:
            rows += [row for row in csv.DictReader(file) if row["id"] not in new]
    rows.sort(key=lambda row: (str(row["id"]), str(row["kwargs"])))
    record("random_baselines", rows, ROOT / "rl" / "report")


if __name__ == "__main__":
    main()
