"""The γ-hybrid of HDLM: a rate that masks and resamples at once (arXiv 2504.06416, §3.1).

  python -m ardiff_jax.train --config=configs/gamma_hybrid.py:tiny --workdir=runs/gamma_hybrid

Trained by the exact bound; --config.objective.form=released is the public code's weighting, which
bounds nothing.
"""

from configs import base


def get_config(size: str = ''):
  c = base.get_base()
  c.noise.name = 'gamma_hybrid'
  c.noise.gamma = 0.01
  c.noise.delta = 5e-3
  c.hyperschedule.name = 'slide'
  c.hyperschedule.width = 512
  c.hyperschedule.num_levels = 512
  c.model.conditioning = 'adaln'
  c.objective.name = 'score_entropy'
  c.objective.settled_weight = 1.0
  c = base.finish(c, size)
  if size == 'tiny':
    c.hyperschedule.name = 'flat'
    c.hyperschedule.num_levels = 1024
    c.denoiser.alignment = 'shifted'
  return c
