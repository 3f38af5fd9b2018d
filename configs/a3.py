"""A3: an autoregressive model that learns every order and every subset (arXiv 2601.13228).

  python -m ardiff_jax.train --config=configs/a3.py:tiny --workdir=runs/a3

Trains in stages: from left to right, which is autoregression; then groups of up to four; then in
random orders, with some of the text given. Generates in any order, a group a step:

  python -m ardiff_jax.sample --workdir=runs/a3 --hyperschedule=shuffled,width=4,seed=0
  python -m ardiff_jax.evaluate --workdir=runs/a3 --hyperschedule=strided,width=8

With `--config.init_from=DIR --config.objective.stages='((0.0,4,1.0,0.5),)'` it starts from a
trained run of `ar`.
"""

from configs import base


def get_config(size: str = ''):
  c = base.get_base()
  c.noise.name = 'absorbing'
  c.hyperschedule.name = 'autoregressive'
  c.denoiser.alignment = 'shifted'
  c.denoiser.context = 'block_causal'
  c.denoiser.window = 'none'
  c.objective.name = 'any_order'
  c.objective.stages = ((0.0, 1, 0.0, 0.0), (1 / 3, 4, 0.0, 0.0), (2 / 3, 4, 1.0, 0.5))
  c = base.finish(c, size)
  c.model.mask_positions = c.data.get_ref('length')
  return c
