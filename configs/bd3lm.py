"""BD3-LM: masks, one block after another (Arriola et al. 2025, arXiv 2503.09573).

  python -m ardiff_jax.train --config=configs/bd3lm.py:tiny --workdir=runs/bd3lm

Training leaves out the times whose weights vary most; the bound that is reported does not. One pass
over clean and noisy tokens trains every block, each at a time of its own.
"""

from configs import base


def get_config(size: str = ''):
  c = base.get_base()
  c.noise.name = 'absorbing'
  c.hyperschedule.name = 'block'
  c.hyperschedule.width = 16
  c.hyperschedule.num_levels = 16
  c.objective.doubled = True
  c.objective.time_range = (0.3, 0.8)
  c.sampling.steps = 16
  c = base.finish(c, size)
  c.sampling.steps = 16
  return c
