"""Ablations: sweeps of runs, what they measure, and the page of their results."""
