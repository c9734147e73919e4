"""Prunable groups and removable blocks of a network, and how to cut them."""
