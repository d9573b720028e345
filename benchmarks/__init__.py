"""Benchmarks: every figure of the documentation comes from a command in this folder; results lie in results/."""
