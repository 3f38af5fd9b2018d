"""Sampling: one scan over the rows of a hyperschedule, with interchangeable steppers."""
