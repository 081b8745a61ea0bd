"""Networks, a file for each kind."""
