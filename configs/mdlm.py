"""MDLM: masks alone, all positions together (Sahoo et al. 2024, arXiv 2406.07524).

python -m ardiff_jax.train --config=configs/mdlm.py:tiny --workdir=runs/mdlm
"""

from configs import base


def get_config(size: str = ''):
  c = base.get_base()
  c.noise.name = 'absorbing'
  c.hyperschedule.name = 'flat'
  return base.finish(c, size)
