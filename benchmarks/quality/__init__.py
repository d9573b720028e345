"""Quality benchmark: every part of the method, its peers and the ceiling, in one table under one budget.

    python -m benchmarks.quality            (or `make bench-quality`)

A cell of the table is a set, an encoder, a row and a seed. Each is trained, scored and written by itself, and left
alone while the settings that it depends on are the same; so an interrupted call goes on where it was.
"""
