"""An overwrite gate on top of an ε-hybrid, which stays as it is.

  python -m ardiff_jax.train --config=configs/gate.py:tiny --workdir=runs/gate \\
    --config.init_from=runs/epsilon_hybrid

Then sampler `revision` overwrites what the gate doubts of a draft: see the README.
"""

from configs import epsilon_hybrid


def get_config(size: str = ''):
  c = epsilon_hybrid.get_config(size)
  c.gate.kind = 'learned'
  c.gate.standardise = False  # then it can tell how much of a text is wrong
  c.objective.name = 'overwrite_gate'
  c.revision.prior_scale = 0.0  # the gate alone
  c.revision.threshold = (0.5, 0.5)
  c.train.steps = 10_000
  c.train.warmup_steps = 100
  c.train.eval_every = c.train.checkpoint_every = 10_000
  if size == 'tiny':
    c.train.steps = 300
    c.train.warmup_steps = 20
    c.train.eval_every = c.train.checkpoint_every = 300
  return c
