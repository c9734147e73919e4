"""Embedding streams: the axis that layer normalizations read, made prunable by an exact change of basis."""
