"""Proof that a cut is exact, and that the result is a valid model with the same signature."""
