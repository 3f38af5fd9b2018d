"""The ε-hybrid of HDLM: masks beside a share ε of wrong tokens (arXiv 2504.06416, §3.2).

  python -m ardiff_jax.train --config=configs/epsilon_hybrid.py:tiny --workdir=runs/epsilon_hybrid

Visible tokens are trained too, so that the Adaptive Correction Sampler can revise them.
"""

from configs import base


def get_config(size: str = ''):
  c = base.get_base()
  c.noise.name = 'epsilon_hybrid'
  c.hyperschedule.name = 'flat'
  c.sampling.sampler = 'acs'
  c = base.finish(c, size)
  if size == 'tiny':
    c.denoiser.alignment = 'shifted'  # leaves the unigram plateau sooner in short runs
  return c
