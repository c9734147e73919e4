"""Latency: the regions a runtime fuses, their measured look-up table, and the prediction made from it."""
