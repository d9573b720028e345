"""How fast patch2tissue is, as ratios measured in one run; `python -m benchmarks.speed` prints the table."""
