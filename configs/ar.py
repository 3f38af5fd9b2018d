"""Autoregression: a causal language model, one token after another.

python -m ardiff_jax.train --config=configs/ar.py:tiny --workdir=runs/ar
"""

from configs import base


def get_config(size: str = ''):
  c = base.get_base()
  c.hyperschedule.name = 'autoregressive'
  c.denoiser.alignment = 'shifted'
  c.denoiser.context = 'causal'
  c.denoiser.window = 'causal'
  c.objective.name = 'next_token'
  return base.finish(c, size)
