"""Commands that measure; what they find is kept in benchmarks/results/."""
