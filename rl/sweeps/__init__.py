"""`train.py -m`: many runs from one command line."""
