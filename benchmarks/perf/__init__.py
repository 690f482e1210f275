"""Speed benchmarks: every figure is a ratio paired within one run."""
