"""Measures what the gateway costs, beside the other ways to reach the same agent or the same LLM.

`python -m benchmarks run` starts everything it needs on loopback, measures the targets in turns (A/B/A/B), and prints
one table. Linux only: CPU time and memory are read from /proc.
"""
