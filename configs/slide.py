"""Slide annealing: a window of noise levels moving over the text (HDLM, arXiv 2504.06416).

  python -m ardiff_jax.train --config=configs/slide.py:tiny --workdir=runs/slide

One pass over clean and noisy tokens trains every position: windows at rows T apart tile the text.
"""

from configs import base


def get_config(size: str = ''):
  c = base.get_base()
  c.noise.name = 'epsilon_hybrid'
  c.hyperschedule.name = 'slide'
  c.hyperschedule.width = 64
  c.hyperschedule.num_levels = 64
  c.objective.doubled = True
  c.sampling.sampler = 'acs'
  c.sampling.steps = 64
  return base.finish(c, size)
