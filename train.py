"""Train an agent: `python train.py algo=... env=...`; `--help` lists every choice and key."""

from rl.train import main  # an app in the manner of @hydra.main, which TAB completion looks for by this name

if __name__ == "__main__":
    main()
