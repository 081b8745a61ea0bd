"""`python -m benchmarks.random_baselines [episodes=100]`: what uniformly random actions score in each
environment.

Written as rl/report/random_baselines.csv, which the package ships: `rl.report` measures strength against it. Left
out is what takes hours: CarRacing, and of Atari all but Pong.
"""

from __future__ import annotations

import json
import sys

from benchmarks.record import ROOT, record
from rl.config import RunConfig
from rl.config.compose import compose, options
from rl.training.build import build_env_factory, build_player
from rl.training.evaluate import play

LEFT_OUT = {
    "gym",
    "atari",
    "car_racing",
    "beam_rider",
    "breakout",
    "enduro",
    "qbert",
    "seaquest",
    "space_invaders",
}


def main() -> None:
    """Play random actions everywhere, and record the returns."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    episodes = int(words.get("episodes", "100"))
    rows = []
    for env in sorted(options("env").keys() - LEFT_OUT):
        composed = compose(["algo=random", f"env={env}"], RunConfig)
        entry = composed.values["env"]
        scores = play(
            build_player(composed.config),
            build_env_factory(composed.config.env),
            episodes,
            seed=0,
            explore=True,
        )
        rows.append(
            {
                "id": entry["id"],
                **{key: json.dumps(entry[key]) for key in ("kwargs", "wrappers")},
                **scores.summary(),
            }
        )
        print(env, rows[-1], flush=True)
    record(
        "random_baselines",
        sorted(rows, key=lambda row: (str(row["id"]), str(row["kwargs"]))),
        ROOT / "rl" / "report",
    )


if __name__ == "__main__":
    main()
