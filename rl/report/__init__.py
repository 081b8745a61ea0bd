"""`python -m rl.report`: one page about runs."""
