"""Likelihood of packed text under a model: exact for AR, the bound of `bounds` for the rest."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ardiff_jax import bounds, processes, rng
from ardiff_jax import mesh as mesh_lib
from ardiff_jax.errors import UserError
from ardiff_jax.hyperschedules import Hyperschedule
from ardiff_jax.method import Method
from ardiff_jax.noise import EpsilonHybrid, GammaHybrid, Uniform
from ardiff_jax.objectives.any_order import order_nats
from ardiff_jax.objectives.likelihood import reading_nats


@dataclasses.dataclass(frozen=True)
class Likelihood:
  """Negative log-likelihood of some text.

  Attributes:
    nats: total.
    tokens: number of tokens it is summed over.
    stderr: standard error of nats per token, over sequences and the noise drawn for them; None of
      a single sequence.
    kind: 'exact', or 'bound' for an upper bound.
    process: the noise of the law, with its parameter; 'none' of an autoregressive model.
    hyperschedule: name of the rows of the bound.
    law: whose law it is, in words: a bound is of a sampler, not of a network.
  """

  nats: float
  tokens: int
  stderr: float | None
  kind: str
  process: str
  hyperschedule: str
  law: str

  @property
  def nll_per_token(self) -> float:
    """Nats per token."""
    return self.nats / self.tokens

  @property
  def perplexity(self) -> float:
    return math.exp(min(self.nll_per_token, 700.0))

  def bits_per_byte(self, num_bytes: int) -> float:
    """Bits per byte of the text, which compares across tokenizers."""
    return self.nats / math.log(2) / num_bytes


def measure(
  method: Method,
  params: dict,
  batches: Iterable[dict[str, np.ndarray]],
  *,
  num_samples: int | None,
  seed: int,
  mesh: Mesh,
  report: Callable[[int, str, float], None] | None = None,
) -> Likelihood:
  """Sums the negative log-likelihood over batches.

  Args:
    method: the model's parts.
    params: parameters of the network, placed on the mesh.
    batches: {'tokens': int32[B, L], 'loss_mask': bool[B, L]}; tokens outside the mask are given,
      and a shorter L than the hyperschedule's takes its prefix.
    num_samples: draws of rows per sequence, see `bounds`; None visits each row once. Unused
      when exact.
    seed: of the rows and the noise.
    mesh: devices.
    report: called after every batch with tokens done, a message and tokens per second.
  """
  nats_N, counts_N, schedule = sequence_nats(
    method, params, batches, num_samples=num_samples, seed=seed, mesh=mesh, report=report
  )
  exact = (method.is_autoregressive or method.is_any_order) or (
    num_samples is None
    and method.hyperschedule.num_levels == 1  # no noise in between: groups are drawn as they are
    and float(method.generation_process.prior_probs()[-1]) == 1.0  # it starts from masks
  )
  return Likelihood(
    nats=float(nats_N.sum()),
    tokens=int(counts_N.sum()),
    stderr=_stderr(nats_N, counts_N),
    kind='exact' if exact else 'bound',
    process='none' if method.is_autoregressive else _process_name(method),
    hyperschedule=schedule,
    law=_law(method, 'exact' if exact else 'upper bound', schedule),
  )


def sequence_nats(
  method: Method,
  params: dict,
  batches: Iterable[dict[str, np.ndarray]],
  *,
  num_samples: int | None,
  seed: int,
  mesh: Mesh,
  report: Callable[[int, str, float], None] | None = None,
) -> tuple[np.ndarray, np.ndarray, str]:
  """Returns the nats of each sequence, float64[N], its tokens, int[N], and the name of the rows.

  What is drawn for a sequence depends on the seed and its number, not on its batch: its place in
  the text, or `number` int32[B] of a batch.

  Arguments as in `measure`.
  """
  key = rng.stream(jax.random.key(seed), 'likelihood')
  schedule, start = None, 0
  nats, counts = [], []
  began = time.monotonic()
  with mesh_lib.use(mesh):
    for batch in batches:
      if schedule is None:
        schedule = mesh_lib.repeat(mesh, method.hyperschedule.prefix(batch['tokens'].shape[1]))
      size = len(batch['tokens'])
      numbers = batch.get('number', np.arange(start, start + size)).astype(np.int32)
      placed = mesh_lib.place_whole(mesh, {**batch, 'number': numbers})
      start += size
      if report and nats:  # of the batches before, so that the devices need not wait
        done = sum(int(x.sum()) for x in counts)
        so_far = sum(float(x.sum()) for x in nats) / max(done, 1)
        report(done, f'{so_far:.3f} nats/token', done / (time.monotonic() - began))
      nats.append(
        _batch_nats(
          *(method, params, schedule, placed['tokens'], placed['loss_mask'], placed['number']),
          *(key, num_samples),
        )
      )
      counts.append(batch['loss_mask'].sum(axis=1))
  nats_N = np.concatenate([np.asarray(x, np.float64) for x in processes.fetch(nats)])
  return nats_N, np.concatenate(counts), schedule.name


@functools.partial(jax.jit, static_argnames=('method', 'num_samples'))
def _batch_nats(
  method: Method,
  params: dict,
  hyperschedule: Hyperschedule,
  tokens: jax.Array,
  counted: jax.Array,
  numbers: jax.Array,
  key: jax.Array,
  num_samples: int | None,
) -> jax.Array:
  """Returns float32[B], nats of each sequence."""
  if method.is_autoregressive:
    nats_BxL = reading_nats(method.denoise, params, tokens)
    return jnp.where(counted, nats_BxL, 0.0).sum(axis=1)
  if method.is_any_order:
    settle_step = jnp.where(counted, jnp.asarray(hyperschedule.settle_step) + 1, 1)  # given first
    nats_BxL = order_nats(method.denoise, params, tokens, settle_step)
    return jnp.where(counted, nats_BxL, 0.0).sum(axis=1)
  if method.predicts_scores:
    if num_samples is None:
      raise UserError('the bound of a score head is an integral over time: it has no rows to sum')
    plain = dataclasses.replace(method.objective, form='exact', settled_weight=0.0)
    return bounds.score_integral(
      method.denoise, params, plain, hyperschedule, tokens, counted, numbers, key, num_samples
    )
  args = method.denoise, params, method.generation_process, hyperschedule
  if num_samples is None:
    return bounds.full_sum(*args, tokens, counted, numbers, key)
  return bounds.monte_carlo(*args, tokens, counted, numbers, key, num_samples)


def _stderr(nats_N: np.ndarray, counts_N: np.ndarray) -> float | None:
  """Standard error of the ratio of the sums over sequences (delta method)."""
  nats_N, counts_N = nats_N[counts_N > 0], counts_N[counts_N > 0]
  n = len(counts_N)
  if n < 2:
    return None
  residual_N = nats_N - counts_N * nats_N.sum() / counts_N.sum()
  return math.sqrt((residual_N**2).sum() * n / (n - 1)) / int(counts_N.sum())


def _law(method: Method, kind: str, schedule: str) -> str:
  if method.is_autoregressive:
    return f'{kind}, of autoregressive sampling'
  if method.predicts_scores:
    return f'{kind}, of the reverse process of {schedule} in continuous time'
  return (
    f'{kind}, of {_process_name(method)} ancestral sampling on {schedule} '
    'without correction, temperature or truncation'
  )


def _process_name(method: Method) -> str:
  process = method.generation_process
  match process:
    case GammaHybrid():
      return f'γ-hybrid (γ = {process.gamma})'
    case EpsilonHybrid():
      return f'ε-hybrid (ε = {process.epsilon})'
    case Uniform():
      return 'uniform'
  return 'absorbing'
