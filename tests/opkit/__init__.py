"""What operator tests and benchmarks share: operator processes, a proxy that stalls, control planes of their own."""
