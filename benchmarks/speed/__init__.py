"""How fast patch2tissue is, as ratios measured in one run; `python -m benchmarks.speed` prints the table."""

from patch2tissue.cores import share_cores

share_cores()  # as the command line does, for ours and for what it is compared with
