"""Engines: where measurements run. A worker process on this machine, or a pool of like machines."""
