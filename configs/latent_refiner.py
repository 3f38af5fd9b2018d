"""A refiner in latent space: text as vectors, denoised together, behind guidance and prompt.

  python -m ardiff_jax.train  --config=configs/latent_refiner.py:tiny --workdir=runs/latent
  python -m ardiff_jax.refine --workdir=runs/latent --refiner=latent --draft='He was a king.' \\
                              --guidance='gender: female' --strength=0.5 --guidance_scale=2

It has no likelihood and writes nothing from scratch. Its log has `round_trip`, the share of tokens
that come back from their latents, all of them by construction unless two become one, and of its
estimates at time ½ `latent_error` and `latent_reading`, the share of tokens that they give.
"""

from configs import base


def get_config(size: str = ''):
  c = base.get_base()
  c.hyperschedule.name = 'flat'
  c.denoiser.context = 'full'
  c.model.conditioning = 'adaln'
  c.data.guided = True
  c.objective.name = 'latent_diffusion'
  c = base.finish(c, size)
  if size == 'tiny':
    c.objective.latent_dim = 16
  return c
