"""From an autoregressive to a diffusion model (DiffuGPT, arXiv 2410.17891).

  python -m ardiff_jax.train --config=configs/adapt.py:tiny --workdir=runs/adapt

Trains the next token first; then tokens are masked and the window opens. With
`--config.init_from=DIR --config.objective.causal_steps=0` it starts from a trained run of `ar`.
"""

from configs import base


def get_config(size: str = ''):
  c = base.get_base()
  c.noise.name = 'absorbing'
  c.hyperschedule.name = 'flat'
  c.denoiser.alignment = 'shifted'
  c.objective.name = 'adaptation'
  c.objective.time_range = (1e-3, 1.0)
  c = base.finish(c, size)
  c.objective.causal_steps = c.train.get_ref('steps') // 2
  c.objective.anneal_steps = c.train.get_ref('steps') // 4
  return c
