"""Benchmarks: `python -m bench NAME` runs one, prints its table and writes build/bench/NAME.json."""
