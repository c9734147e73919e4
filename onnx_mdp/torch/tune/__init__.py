"""Training of a cut model towards the dense one's outputs."""
