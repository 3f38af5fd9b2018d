"""How well a model predicts held-out text, and what counting alone would reach on it."""
