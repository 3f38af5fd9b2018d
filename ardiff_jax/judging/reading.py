"""How a judge, an autoregressive model with the same tokenizer, reads texts.

Texts are ids as they were drawn: encoding their text anew would judge other tokens. A low
perplexity is worth nothing where texts are `degenerate`: loops are likely under any judge.

Shapes: N texts, B batch, L length, D model width of the judge.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ardiff_jax import mesh as mesh_lib
from ardiff_jax import processes
from ardiff_jax.data.tokenizers import Tokenizer
from ardiff_jax.errors import UserError
from ardiff_jax.hyperschedules import Region
from ardiff_jax.model import Model
from ardiff_jax.models.denoiser import Denoiser


def check(judge: Model, tokenizer: Tokenizer, length: int) -> None:
  """Checks that a model can judge texts of `length` tokens of a tokenizer.

  Raises:
    UserError: it cannot, and what would.
  """
  if not judge.method.is_autoregressive:
    raise UserError(
      'the judge is not autoregressive, so it gives texts a bound instead of their likelihood; '
      'give a run of configs/ar.py or an imported GPT-2'
    )
  if judge.tokenizer.files != tokenizer.files:
    raise UserError(
      'the judge has another tokenizer: texts are judged as they were drawn; give a judge trained '
      "with --config.tokenizer.path= set to the model's, or have `evaluate --retokenise` encode "
      'them anew'
    )
  if length > judge.config.data.length:
    raise UserError(
      f'texts of {length} tokens are longer than the {judge.config.data.length} that the judge '
      f'reads: sample with --length={judge.config.data.length}, or give a judge that reads more'
    )


def nats(judge: Model, tokens_NxL: np.ndarray, batch_size: int | None = None) -> np.ndarray:
  """Returns float64[N], nats per token of int[N, L] texts under a judge that `check` let pass."""
  tokens = np.asarray(tokens_NxL, np.int32)
  everything = np.ones(tokens.shape, bool)
  total = judge.sequence_nats(tokens, everything, num_samples=None, seed=0, batch_size=batch_size)
  return total / tokens.shape[1]


def features(judge: Model, tokens_NxL: np.ndarray, batch_size: int | None = None) -> np.ndarray:
  """Returns float32[N, D], what the judge makes of each text: its hidden state at the last token,
  behind the last norm, from which it would predict what comes next.

  Args:
    judge: one that `check` let pass.
    tokens_NxL: int[N, L].
    batch_size: texts at a time; None for config.eval.batch_size of the judge.
  """
  tokens = np.asarray(tokens_NxL, np.int32)
  size = min(batch_size or judge.config.eval.batch_size, len(tokens))
  found = []
  with mesh_lib.use(judge.mesh):
    for start in range(0, len(tokens), size):
      rows = np.minimum(np.arange(start, start + size), len(tokens) - 1)
      batch = mesh_lib.place_whole(judge.mesh, tokens[rows])
      found.append(_features(judge.method.denoise, judge.params, batch))
  return np.concatenate(processes.fetch(found))[: len(tokens)]


@functools.partial(jax.jit, static_argnames='denoise')
def _features(denoise: Denoiser, params: dict, tokens_BxL: jax.Array) -> jax.Array:
  """Returns float32[B, D]: the row that shows the last token predicts the one after it, whatever
  that is."""
  length = tokens_BxL.shape[1]
  canvas = jnp.pad(tokens_BxL, ((0, 0), (0, 1)))
  seen = denoise.features(
    params,
    canvas,
    sigma=jnp.zeros(canvas.shape),
    regions=np.full(length + 1, Region.SETTLED, np.int8),
    settle_step=np.arange(length + 1),
    outputs=np.array([length]),
  )
  return denoise.hidden(params, seen)[:, 0].astype(jnp.float32)


def degenerate(entropies: np.ndarray, real_entropies: np.ndarray) -> str | None:
  """Returns why a low perplexity of some samples says nothing, or None.

  They are degenerate if on average they have less entropy than all but the poorest 1 % of real
  texts: then they repeat themselves, which is likely under any judge.

  Args:
    entropies: float[N], nats of the samples, see `samples.entropies`.
    real_entropies: float[M], those of real texts of the same length, on which they depend.
  """
  mean, least = np.mean(entropies), np.percentile(real_entropies, 1)
  if mean >= least:
    return None
  return (
    f'samples have an entropy of {mean:.2f} nats, below the {least:.2f} that 99 % of real texts '
    'reach: that a judge finds them likely says nothing'
  )
