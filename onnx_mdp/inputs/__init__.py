"""Calibration inputs."""
