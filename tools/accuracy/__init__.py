"""What `bench_accuracy.py` is made of: figures measured elsewhere, and the runs of one process."""
