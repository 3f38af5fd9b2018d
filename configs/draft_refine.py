"""A refiner of drafts: an ε-hybrid that writes what a guidance asks for, behind a prompt.

  python -m ardiff_jax.train  --config=configs/draft_refine.py:tiny --workdir=runs/refiner
  python -m ardiff_jax.refine --workdir=runs/refiner --draft='He was a king.' \\
                              --guidance='gender: female' --strength=0.5

Trained on plain text, of which data/guided.py makes guidance, prompt and target. The sweep
configs/sweeps/draft_refine.py trains it beside the models that draft and judge, and measures it.
"""

from configs import epsilon_hybrid


def get_config(size: str = ''):
  c = epsilon_hybrid.get_config(size)
  c.data.guided = True
  return c
