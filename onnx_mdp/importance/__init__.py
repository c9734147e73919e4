"""Importance: an order of every group's units, and the damage of each width and of each removed block."""
