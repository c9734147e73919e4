"""What the program reaches on a collection of exported architectures: the parts of `tools/bench_coverage.py`."""
