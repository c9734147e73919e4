"""Runtimes: open a model, run it, say on what it runs. A new one is a file here and a row in `registry`."""
