"""`python -m rl.report`: a page that compares runs."""
