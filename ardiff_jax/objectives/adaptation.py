"""The objective that turns an autoregressive model into a diffusion model (DiffuGPT, DiffuLLaMA,
arXiv 2410.17891).

A shifted denoiser whose window is causal, shown clean text, is an autoregressive model. From there
two things change: tokens are masked, and step by step the window opens, each row seeing more of
what is to its right. The denominator is fixed, so the loss does not depend on how much is masked.

Shapes: B batch, L length.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from ardiff_jax import divergences
from ardiff_jax.hyperschedules import Hyperschedule
from ardiff_jax.masks import Anneal
from ardiff_jax.models.denoiser import Denoiser
from ardiff_jax.noise import Absorbing
from ardiff_jax.objectives.likelihood import Examples, WeightedCrossEntropy
from ardiff_jax.tokenwise import tokenwise


@dataclasses.dataclass(frozen=True)
class Adaptation:
  """Next-token cross-entropy first, then the diffusion bound in a window that opens.

  Attributes:
    process: absorbing.
    causal_steps: updates of the first kind; 0 for a start from an autoregressive checkpoint.
    anneal_steps: updates of the second kind until the window is full; 0 for full at once.
    time_range: see `WeightedCrossEntropy`.
  """

  process: Absorbing
  causal_steps: int = 0
  anneal_steps: int = 0
  time_range: tuple[float, float] = (0.0, 1.0)

  def __post_init__(self):
    for name in ('causal_steps', 'anneal_steps'):
      if getattr(self, name) < 0:
        raise ValueError(f'{name} must be at least 0, got {getattr(self, name)}')
    if type(self.process) is not Absorbing:
      raise ValueError(
        f'objective adaptation needs noise absorbing, got {type(self.process).__name__}'
      )
    checked = WeightedCrossEntropy(self.process, time_range=self.time_range)
    object.__setattr__(self, 'time_range', checked.time_range)  # a list, from JSON

  def __call__(
    self,
    denoise: Denoiser,
    params: dict,
    examples: Examples,
    hyperschedule: Hyperschedule,
    dropout_key: jax.Array | None = None,
  ) -> jax.Array:
    """Returns float32[B, L], the weighted loss of each position."""
    step = jnp.asarray(examples.step)

    def within(share):
      return functools.partial(denoise, anneal=Anneal(jnp.asarray(share, jnp.float32), step))

    def reading():
      logits = within(0.0)(
        params,
        examples.tokens,
        sigma=jnp.zeros(examples.tokens.shape),
        regions=hyperschedule.regions(0),
        settle_step=hyperschedule.settle_step,
        dropout_key=dropout_key,
      )
      nats = tokenwise(divergences.cross_entropy, logits, examples.tokens)
      return jnp.where(examples.counted, nats, 0.0)

    def denoising():
      objective = WeightedCrossEntropy(self.process, time_range=self.time_range)
      return objective(within(self.share(step)), params, examples, hyperschedule, dropout_key)

    if not self.causal_steps:
      return denoising()
    return jax.lax.cond(step < self.causal_steps, reading, denoising)

  def share(self, step: jax.Array) -> jax.Array:
    """Returns float32[], the chance that a row sees one to its right, at an update from 0 on."""
    done = (step + 1 - self.causal_steps) / max(self.anneal_steps, 1)
    return jnp.clip(done, 0.0, 1.0) if self.anneal_steps else jnp.ones(())
