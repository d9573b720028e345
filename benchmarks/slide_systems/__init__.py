"""The systems that `benchmarks/slides.py` compares, each run as a process of its own: ours, a plain loop, TIAToolbox.

Each prints one line of JSON at its end: `tiles`, `seconds` until the map was on disk, and what else it knows.
"""
