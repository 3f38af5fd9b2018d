"""SEDD: score entropy under masks (Lou et al. 2024, arXiv 2310.16834).

  python -m ardiff_jax.train --config=configs/sedd.py:tiny --workdir=runs/sedd

For SEDD-uniform: --config.noise.name=uniform --config.objective.head=x0.
"""

from configs import base


def get_config(size: str = ''):
  c = base.get_base()
  c.noise.name = 'absorbing'
  c.noise.delta = 1e-3
  c.hyperschedule.name = 'flat'
  c.model.conditioning = 'adaln'
  c.objective.name = 'score_entropy'
  c.objective.head = 'score'
  return base.finish(c, size)
