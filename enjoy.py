"""Watch a trained agent: `python enjoy.py run=latest ckpt=best`; `--help` lists every key."""

from rl.enjoy import main  # an app in the manner of @hydra.main, which TAB completion looks for by this name

if __name__ == "__main__":
    main()
