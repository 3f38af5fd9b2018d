"""A refiner in latent space: text as vectors, denoised together, behind guidance and prompt.

  python -m ardiff_jax.train  --config=configs/latent_refiner.py:tiny --workdir=runs/latent
  python -m ardiff_jax.refine --workdir=runs/latent --refiner=latent --draft='He was a king.' \\
                              --guidance='gender: female' --strength=0.5 --guidance_scale=2

It has no likelihood and writes nothing from scratch: `round_trip` of its log says how many tokens
come back from their latents, `latent_error` how far its estimates are off.
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
    c.objective.latent_dim = 64
  return c
