"""Tiny worlds, small enough to enumerate: exact references for noise, bounds and samplers.

A world is a joint law over all sequences of L tokens of a vocabulary of V. Its canvases are the
sequences over V+1 symbols, the mask being V. References are float64 numpy, written from the
formulas, and share no code with the library; denoisers have the signature of
`ardiff_jax.models.denoiser.Denoiser`.

Shapes: B batch, L length, V vocabulary, N = V**L sequences, C = (V+1)**L canvases.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from ardiff_jax.hyperschedules import Hyperschedule, Region


def sequences(num_symbols: int, length: int) -> np.ndarray:
  """Returns int32[num_symbols**L, L], every sequence in lexicographic order."""
  return np.array(list(itertools.product(range(num_symbols), repeat=length)), np.int32)


def index_of(sequences_NxL: np.ndarray, num_symbols: int) -> np.ndarray:
  """Returns int[N], the place of each sequence in `sequences`."""
  place_L = num_symbols ** np.arange(sequences_NxL.shape[1])[::-1]
  return (np.asarray(sequences_NxL) * place_L).sum(axis=1)


def random_joint(seed: int, vocab_size: int, length: int) -> np.ndarray:
  """Returns float64[V, ..., V] over L axes, a law with full support and dependent tokens."""
  joint = np.exp(1.2 * np.random.default_rng(seed).standard_normal((vocab_size,) * length))
  return joint / joint.sum()


def entropy(joint: np.ndarray) -> float:
  """Returns the nats of a whole sequence."""
  return float(-(joint * np.log(joint)).sum())


def exact_params(joint: np.ndarray) -> dict:
  """Returns the parameters of `exact_denoise`."""
  return {'joint': jnp.asarray(joint, jnp.float32)}


def exact_denoise(params, canvas, *, sigma, regions, settle_step, dropout_key=None):
  """The best prediction of each token from all other tokens in sight, by enumeration."""
  del sigma, settle_step, dropout_key
  joint = params['joint']
  vocab_size, length = joint.shape[0], joint.ndim
  seqs_NxL = jnp.asarray(sequences(vocab_size, length))
  in_sight = (canvas < vocab_size) & (jnp.broadcast_to(regions, canvas.shape) != Region.WORTHLESS)
  wrong_BxNxL = (seqs_NxL[None] != canvas[:, None]) & in_sight[:, None]
  fits_BxNxL = (wrong_BxNxL.sum(axis=2, keepdims=True) - wrong_BxNxL) == 0
  weight_BxNxL = joint.reshape(-1)[None, :, None] * fits_BxNxL
  onehot_NxLxV = jax.nn.one_hot(seqs_NxL, vocab_size)
  return jnp.log((weight_BxNxL[..., None] * onehot_NxLxV[None]).sum(axis=1))


def arbitrary_params(seed: int, vocab_size: int, length: int) -> dict:
  """Returns the parameters of `arbitrary_denoise`: random logits for everything it may be shown."""
  shape = (length, (vocab_size + 2) ** length, vocab_size)
  table = np.random.default_rng(seed).standard_normal(shape)
  return {'table': jnp.asarray(table, jnp.float32)}


def arbitrary_denoise(params, canvas, *, sigma, regions, settle_step, dropout_key=None):
  """A network that knows nothing: unrelated logits for every canvas, worthless tokens unseen."""
  del sigma, settle_step, dropout_key
  table = params['table']
  length, _, vocab_size = table.shape
  hidden = jnp.broadcast_to(regions, canvas.shape) == Region.WORTHLESS
  shown = jnp.where(hidden, vocab_size + 1, canvas)
  code_B = (shown * ((vocab_size + 2) ** jnp.arange(length)[::-1])[None]).sum(axis=1)
  return table[:, code_B].swapaxes(0, 1)


def uniform_denoise(params, canvas, *, sigma, regions, settle_step, dropout_key=None):
  """Predicts every token of a vocabulary of `params['vocab_size']` alike."""
  del sigma, regions, settle_step, dropout_key
  return jnp.zeros((*canvas.shape, params['vocab_size']))


def predictions(denoise, params, hyperschedule: Hyperschedule, step: int, vocab_size: int):
  """Returns float64[C, L, V], p0 of every position for every canvas at `step`, and the canvases."""
  canvases_CxL = sequences(vocab_size + 1, hyperschedule.length)
  t_L = np.asarray(hyperschedule.levels[step]) / hyperschedule.num_levels
  logits = denoise(
    params,
    jnp.asarray(canvases_CxL),
    sigma=jnp.broadcast_to(jnp.asarray(t_L, jnp.float32), canvases_CxL.shape),
    regions=jnp.broadcast_to(jnp.asarray(hyperschedule.regions(step)), canvases_CxL.shape),
    settle_step=jnp.asarray(hyperschedule.settle_step),
  )
  probs = np.exp(np.asarray(logits, np.float64))
  return probs / probs.sum(axis=2, keepdims=True), canvases_CxL


def exhaustive_bound(denoise, params, hyperschedule: Hyperschedule, vocab_size: int) -> np.ndarray:
  """Returns float64[N], the absorbing bound of every sequence, noise enumerated, linear clock."""
  length, total = hyperschedule.length, hyperschedule.num_levels
  seqs_NxL = sequences(vocab_size, length)
  bound_N = np.zeros(len(seqs_NxL))
  for step in range(hyperschedule.num_steps):
    probs_CxLxV, _ = predictions(denoise, params, hyperschedule, step, vocab_size)
    t_L = np.asarray(hyperschedule.levels[step], np.float64) / total
    s_L = np.asarray(hyperschedule.levels[step + 1], np.float64) / total
    for masked_L in itertools.product((False, True), repeat=length):
      masked_L = np.array(masked_L)
      chance = np.prod(np.where(masked_L, t_L, 1 - t_L))
      if chance == 0.0:
        continue
      codes_N = index_of(np.where(masked_L, vocab_size, seqs_NxL), vocab_size + 1)
      for i in np.flatnonzero(masked_L):
        nats_N = -np.log(probs_CxLxV[codes_N, i, seqs_NxL[:, i]])
        bound_N += chance * (t_L[i] - s_L[i]) / t_L[i] * nats_N
  return bound_N


def chain_law(
  denoise, params, hyperschedule: Hyperschedule, vocab_size: int, eta: float = 0.0
) -> np.ndarray:
  """Returns float64[N], the law of the sampler's result: its Markov chain over all canvases.

  A masked active position is revealed with probability u = (t - s)/t; a visible one is redrawn
  with probability eta·(1 - u); all others keep still.
  """
  length, total = hyperschedule.length, hyperschedule.num_levels
  law_C = np.zeros((vocab_size + 1) ** length)
  law_C[-1] = 1.0  # all masks
  for step in range(hyperschedule.num_steps):
    probs_CxLxV, canvases_CxL = predictions(denoise, params, hyperschedule, step, vocab_size)
    levels, after = hyperschedule.levels[step], hyperschedule.levels[step + 1]
    next_C = np.zeros_like(law_C)
    for code in np.flatnonzero(law_C):
      move_L = []  # of each position, probability of each of its V+1 next symbols
      for i, symbol in enumerate(canvases_CxL[code]):
        still = np.eye(vocab_size + 1)[symbol]
        change = 0.0
        if levels[i] > 0 and after[i] < total:
          reveal = (levels[i] - after[i]) / levels[i]
          change = reveal if symbol == vocab_size else eta * (1 - reveal)
        drawn = np.append(probs_CxLxV[code, i], 0.0)
        move_L.append((1 - change) * still + change * drawn)
      joint = move_L[0]
      for move in move_L[1:]:
        joint = np.multiply.outer(joint, move)
      next_C += law_C[code] * joint.reshape(-1)
    law_C = next_C
  law = law_C.reshape((vocab_size + 1,) * length)[(slice(vocab_size),) * length].reshape(-1)
  np.testing.assert_allclose(law.sum(), 1.0, atol=1e-6)  # no mask is left
  return law


def kernel(keep: float, unmixed: float, vocab_size: int) -> np.ndarray:
  """Returns float64[V+1, V+1], the noising matrix with survivals A = keep and B = unmixed."""
  q = np.zeros((vocab_size + 1, vocab_size + 1))
  q[:-1, :-1] = keep * (unmixed * np.eye(vocab_size) + (1 - unmixed) / vocab_size)
  q[:-1, -1] = 1 - keep
  q[-1, -1] = 1.0
  return q
