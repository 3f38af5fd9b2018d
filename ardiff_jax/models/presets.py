"""Named sizes of the transformer; everything else of a config is the user's.

This module imports nothing, so that a config file can be read without loading JAX.
"""

TINY = dict(model_dim=192, num_layers=4, num_heads=6)  # minutes on two CPU cores
SMALL = dict(model_dim=768, num_layers=12, num_heads=12)  # the papers' 130 to 170 M parameters
MEDIUM = dict(model_dim=1024, num_layers=24, num_heads=16)  # 350 M
ONE_B = dict(model_dim=2048, num_layers=24, num_heads=16)  # 1.3 B
SEVEN_B = dict(model_dim=4096, num_layers=32, num_heads=32)  # 6.6 B
