"""Rewrites that save work and change no result: selections move up."""
