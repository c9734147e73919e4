"""Facts about a run, and how they are shown."""
