"""Tiny worlds, small enough to enumerate: exact references for noise, bounds and samplers.

A world is a joint law over all sequences of L tokens of a vocabulary of V. Its canvases are the
sequences over V+1 symbols, the mask being V. References are float64 numpy, written from the
formulas, and share no code with the library; denoisers have the signature of
`ardiff_jax.models.denoiser.Denoiser`.

Shapes: B batch, L length, V vocabulary, N = V**L sequences, C = (V+1)**L canvases.
"""

import functools
import itertools
import zlib
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ardiff_jax.hyperschedules import Hyperschedule, Region
from ardiff_jax.models.transformer import Features
from ardiff_jax.sampling import draws
from ardiff_jax.sampling.loop import generate


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


def random_params(init) -> dict:
  """Returns parameters of the shapes that `init()` makes, all far from 0; compiles nothing. What
  has a name and a shape has the same values in every network."""

  def drawn(path, x):
    name = jax.tree_util.keystr(path)
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    about = 1.0 if name.endswith("['scale']") else 0.0
    return jnp.asarray(about + 0.3 * draw.standard_normal(x.shape), x.dtype)

  return jax.tree_util.tree_map_with_path(drawn, nn.unbox(jax.eval_shape(init)))


class World:
  """A denoiser made of a function, with what a sampler asks of it."""

  is_any_order = is_cacheable = False

  def __init__(self, predict):
    self._predict = predict
    self.__doc__ = predict.__doc__

  def __call__(self, params, canvas, *, sigma, regions, settle_step, dropout_key=None):
    return self._predict(params, canvas, sigma=sigma, regions=regions, settle_step=settle_step)

  def features(self, params, canvas, *, outputs, **shown):
    return Features(self._predict(params, canvas, **shown)[:, outputs], None)

  def project(self, params, features):
    return features.x


class TiledWorld(World):
  """One that can be shown several windows of a left-to-right schedule together."""

  is_cacheable = True

  def tiled(self, params, clean, canvas, *, sigma, tiles, dropout_key=None):
    length = canvas.shape[1]
    tile, num_settled = (jnp.broadcast_to(x, canvas.shape) for x in tiles[:2])
    found = None
    for number in range(length + 1):  # of a window, as it would be shown alone
      mine = tile == number
      settled = jnp.arange(length)[None] < jnp.where(mine, num_settled, 0).max(axis=1)[:, None]
      regions = jnp.where(settled, Region.SETTLED, jnp.where(mine, Region.ACTIVE, Region.WORTHLESS))
      shown = jnp.where(settled, clean, canvas)
      logits = self._predict(params, shown, sigma=sigma, regions=regions, settle_step=None)
      found = logits if found is None else jnp.where(mine[..., None], logits, found)
    return found


@World
def exact_denoise(params, canvas, *, sigma, regions, settle_step):
  """The best prediction of each token from all other tokens in sight, by enumeration."""
  del sigma, settle_step
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


@World
def arbitrary_denoise(params, canvas, *, sigma, regions, settle_step):
  """A network that knows nothing: unrelated logits for every canvas, worthless tokens unseen."""
  del sigma, settle_step
  table = params['table']
  length, _, vocab_size = table.shape
  hidden = jnp.broadcast_to(regions, canvas.shape) == Region.WORTHLESS
  shown = jnp.where(hidden, vocab_size + 1, canvas)
  code_B = (shown * ((vocab_size + 2) ** jnp.arange(length)[::-1])[None]).sum(axis=1)
  return table[:, code_B].swapaxes(0, 1)


tiled_denoise = TiledWorld(arbitrary_denoise._predict)


def jitted(denoise):
  """Returns the same denoiser compiled, once a shape, for references, which call it row by row."""
  return jax.jit(
    lambda params, canvas, sigma, regions, settle_step: denoise(
      params, canvas, sigma=sigma, regions=regions, settle_step=settle_step
    )
  )


@functools.partial(jax.jit, static_argnames=('denoiser', 'num_new'))
def extend(denoiser, params, cache, canvas, sigma, window, step, cached_step, settle_step, num_new):
  """Returns the logits of the window, and what is to be cached."""
  features, entries = denoiser.extend(
    params,
    cache,
    canvas,
    sigma=sigma,
    window=window,
    step=step,
    cached_step=cached_step,
    settle_step=settle_step,
    num_new=num_new,
  )
  return denoiser.project(params, features), entries


@World
def uniform_denoise(params, canvas, *, sigma, regions, settle_step):
  """Predicts every token of a vocabulary of `params['vocab_size']` alike."""
  del sigma, regions, settle_step
  return jnp.zeros((*canvas.shape, params['vocab_size']))


@functools.partial(
  jax.jit,
  static_argnames=('denoise', 'process', 'stepper', 'controls', 'stop_id', 'trace'),
)
def _generated(denoise, params, process, stepper, schedule, tokens, given, keys, **kwargs):
  return generate(denoise, params, process, stepper, schedule, tokens, given, keys, **kwargs)


def generated(*args, **kwargs):
  """`generate`, compiled. A vocabulary is drawn from in blocks of 2 tokens: a small one has several
  then, as a large one has, and is not filled up to 256."""
  with mock.patch.object(draws, '_BLOCK', 2):
    return _generated(*args, **kwargs)


@functools.partial(jax.jit, static_argnums=0)
def keys(num, seed=0):
  """Returns typed keys [num]."""
  return jax.random.split(jax.random.key(seed), num)


def predictions(denoise, params, hyperschedule: Hyperschedule, step: int, vocab_size: int):
  """Returns float64[C, L, V], p0 of every position for every canvas at `step`, and the canvases."""
  logits, canvases_CxL = outputs(denoise, params, hyperschedule, step, vocab_size)
  return softmax(logits), canvases_CxL


def softmax(logits: np.ndarray) -> np.ndarray:
  probs = np.exp(logits)
  return probs / probs.sum(axis=-1, keepdims=True)


def outputs(denoise, params, hyperschedule: Hyperschedule, step: int, vocab_size: int):
  """Returns float64[C, L, V], what the network gives for every canvas at `step`, and these."""
  canvases_CxL = sequences(vocab_size + 1, hyperschedule.length)
  t_L = np.asarray(hyperschedule.levels[step]) / hyperschedule.num_levels
  logits = denoise(
    params,
    jnp.asarray(canvases_CxL),
    sigma=jnp.broadcast_to(jnp.asarray(t_L, jnp.float32), canvases_CxL.shape),
    regions=jnp.broadcast_to(jnp.asarray(hyperschedule.regions(step)), canvases_CxL.shape),
    settle_step=jnp.asarray(hyperschedule.settle_step),
  )
  return np.asarray(logits, np.float64), canvases_CxL


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


def law_of_moves(denoise, params, hyperschedule: Hyperschedule, vocab_size: int, move, prior=None):
  """Returns float64[N], the law of a chain over all canvases whose positions move on their own.

  Args:
    denoise: the network.
    params: its parameters.
    hyperschedule: rows to descend.
    vocab_size: V.
    move: (logits float64[V], symbol, t, s) to the law of the next symbol, float64[V+1]; asked of
      active positions.
    prior: float64[V+1] of each position at the start; None for the mask.
  """
  length, total = hyperschedule.length, hyperschedule.num_levels
  prior = np.eye(vocab_size + 1)[vocab_size] if prior is None else prior
  law_C = np.prod(prior[sequences(vocab_size + 1, length)], axis=1)
  for step in range(hyperschedule.num_steps):
    logits_CxLxV, canvases_CxL = outputs(denoise, params, hyperschedule, step, vocab_size)
    regions = hyperschedule.regions(step)
    t_L, s_L = (np.asarray(hyperschedule.levels[step + i], np.float64) / total for i in (0, 1))
    next_C = np.zeros_like(law_C)
    for code in np.flatnonzero(law_C):
      joint = np.ones(())
      for i, symbol in enumerate(canvases_CxL[code]):
        law = np.eye(vocab_size + 1)[symbol]
        if regions[i] == Region.ACTIVE:
          law = move(logits_CxLxV[code, i], symbol, t_L[i], s_L[i])
        joint = np.multiply.outer(joint, law)
      next_C += law_C[code] * joint.reshape(-1)
    law_C = next_C
  law = law_C.reshape((vocab_size + 1,) * length)[(slice(vocab_size),) * length].reshape(-1)
  np.testing.assert_allclose(law.sum(), 1.0, atol=1e-6)  # no mask is left
  return law


def chain_law(
  denoise, params, hyperschedule: Hyperschedule, vocab_size: int, eta: float = 0.0
) -> np.ndarray:
  """Returns float64[N], the law of the sampler's result: its Markov chain over all canvases.

  A masked active position is revealed with probability u = (t - s)/t; a visible one is redrawn
  with probability eta·(1 - u); all others keep still.
  """

  def move(logits, symbol, t, s):
    reveal = (t - s) / t
    change = reveal if symbol == vocab_size else eta * (1 - reveal)
    return (1 - change) * np.eye(vocab_size + 1)[symbol] + change * np.append(softmax(logits), 0.0)

  return law_of_moves(denoise, params, hyperschedule, vocab_size, move)


def kernel(keep: float, unmixed: float, vocab_size: int) -> np.ndarray:
  """Returns float64[V+1, V+1], the noising matrix with survivals A = keep and B = unmixed."""
  q = np.zeros((vocab_size + 1, vocab_size + 1))
  q[:-1, :-1] = keep * (unmixed * np.eye(vocab_size) + (1 - unmixed) / vocab_size)
  q[:-1, -1] = 1 - keep
  q[-1, -1] = 1.0
  return q


def survivals(process, t: float) -> tuple[float, float]:
  """Returns A(t) and B(t) of any process, from the table of processes."""
  if t >= 1.0:
    survival = 0.0
  else:
    decay = np.sin(np.pi / 2 * t) if process.clock == 'cosine' else t
    survival = 1.0 - (1.0 - process.delta) * decay
  kind = type(process).__name__
  gamma = {'Absorbing': 0.0, 'Uniform': 1.0}.get(kind, getattr(process, 'gamma', None))
  if kind == 'EpsilonHybrid':
    return survival, 1.0 - process.epsilon if t > 0.0 else 1.0
  return survival ** (1.0 - gamma), survival**gamma  # 0 ** 0 is 1


def step_kernel(process, t: float, s: float) -> np.ndarray:
  """Returns float64[V+1, V+1], the matrix from time s < t to t, from quotients of survivals."""
  (a_t, b_t), (a_s, b_s) = survivals(process, t), survivals(process, s)
  return kernel(a_t / a_s, b_t / b_s, process.vocab_size)


def posteriors(process, p0s, t: float, s: float) -> np.ndarray:
  """Returns float64[..., V+1, V+1], p(x_s | x_t) for each law of x_0, float[..., V], by Bayes.

  Axes are x_t then x_s; rows of states that no x_0 leads to are 0.
  """
  if s == t:
    return np.broadcast_to(
      np.eye(process.vocab_size + 1), (*p0s.shape[:-1], *[p0s.shape[-1] + 1] * 2)
    )
  at_s = p0s @ kernel(*survivals(process, s), process.vocab_size)[:-1]
  joint = (at_s[..., None] * step_kernel(process, t, s)).swapaxes(-1, -2)
  total = joint.sum(axis=-1, keepdims=True)
  return joint / np.where(total > 0, total, 1.0)


def process_steps(denoise, params, process, hyperschedule: Hyperschedule):
  """Yields for every step what a bound and a chain are made of.

  Yields:
    times: float64[L], and those after the step.
    chains: float64[L, C, V+1], p(x_s of a position | canvas) under the denoiser.

  A network under ε-hybrid noise is taken for one of a weighted cross-entropy: the entry of the
  visible token is divided by V+1.
  """
  vocab_size, length = process.vocab_size, hyperschedule.length
  for step in range(hyperschedule.num_steps):
    p0_CxLxV, canvases_CxL = predictions(denoise, params, hyperschedule, step, vocab_size)
    if type(process).__name__ == 'EpsilonHybrid':
      here = canvases_CxL[..., None] == np.arange(vocab_size)
      p0_CxLxV = np.where(here, p0_CxLxV / (vocab_size + 1), p0_CxLxV)
      p0_CxLxV /= p0_CxLxV.sum(axis=2, keepdims=True)
    t_L = np.asarray(hyperschedule.levels[step], np.float64) / hyperschedule.num_levels
    s_L = np.asarray(hyperschedule.levels[step + 1], np.float64) / hyperschedule.num_levels
    codes = np.arange(len(canvases_CxL))
    chains = [
      posteriors(process, p0_CxLxV[:, i], t_L[i], s_L[i])[codes, canvases_CxL[:, i]]
      for i in range(length)
    ]
    yield t_L, s_L, np.stack(chains)


def process_bound(denoise, params, process, hyperschedule: Hyperschedule) -> np.ndarray:
  """Returns float64[N], the bound of every sequence for any process, noise enumerated."""
  vocab_size, length = process.vocab_size, hyperschedule.length
  seqs_NxL, canvases_CxL = sequences(vocab_size, length), sequences(vocab_size + 1, length)
  bound_N = np.zeros(len(seqs_NxL))
  for t_L, s_L, chains_LxCxY in process_steps(denoise, params, process, hyperschedule):
    chance_NxC = np.ones((len(seqs_NxL), len(canvases_CxL)))
    for i in range(length):
      marginal = kernel(*survivals(process, t_L[i]), vocab_size)
      chance_NxC *= marginal[np.ix_(seqs_NxL[:, i], canvases_CxL[:, i])]
    for i in range(length):
      truth_VxCxY = posteriors(process, np.eye(vocab_size), t_L[i], s_L[i])[:, canvases_CxL[:, i]]
      with np.errstate(divide='ignore', invalid='ignore'):
        nats = truth_VxCxY * (np.log(truth_VxCxY) - np.log(chains_LxCxY[i]))
      kl_NxC = np.where(truth_VxCxY > 0, nats, 0.0).sum(axis=2)[seqs_NxL[:, i]]
      bound_N += np.where(chance_NxC > 0, chance_NxC * kl_NxC, 0.0).sum(axis=1)
  return bound_N


def process_law(denoise, params, process, hyperschedule: Hyperschedule) -> np.ndarray:
  """Returns float64[N], the law of the chain that draws from the posteriors of any process."""
  vocab_size, length = process.vocab_size, hyperschedule.length
  canvases_CxL = sequences(vocab_size + 1, length)
  prior = kernel(*survivals(process, 1.0), vocab_size)[0]
  law_C = np.prod(prior[canvases_CxL], axis=1)
  for _, _, chains_LxCxY in process_steps(denoise, params, process, hyperschedule):
    moves = [chains_LxCxY[i][:, canvases_CxL[:, i]] for i in range(length)]
    law_C = law_C @ np.prod(moves, axis=0)
  law = law_C.reshape((vocab_size + 1,) * length)[(slice(vocab_size),) * length].reshape(-1)
  np.testing.assert_allclose(law.sum(), 1.0, atol=1e-9)  # no mask is left, nothing is lost
  return law
