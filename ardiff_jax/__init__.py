"""Language models between autoregression and diffusion, in JAX and Flax.

model = ardiff_jax.load('runs/quickstart')
model.sample(num_samples=4, prompt='def ')
model.bound('some text')

ardiff_jax.noise.epsilon_hybrid(vocab_size=4, epsilon=0.1)
ardiff_jax.hyperschedules.block(length=16, width=4, num_levels=8)
"""

import importlib

_SUBMODULES = ('hyperschedules', 'noise')


def __getattr__(name: str):
  """Imports on first use: commands check their flags before JAX is loaded."""
  if name == 'load':
    return importlib.import_module('ardiff_jax.model').load
  if name in _SUBMODULES:
    return importlib.import_module(f'ardiff_jax.{name}')
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return [*globals(), *_SUBMODULES, 'load']
