"""Steppers: how one generation step moves the canvas.

For each token a coin decides whether it changes, then the new token is drawn by inverse CDF from
its own uniform: one categorical over tokens and "stay" together would lose the rare tokens to
rounding. There are two kinds of stepper:

  decide   the coin does not depend on the prediction; tokens that change are drawn from it. The
           loop then projects only those onto the vocabulary, and calls the network only where
           there are any. At most one call a position is left of many steps (first hitting, arXiv
           2409.02908).
  move     the coin depends on the prediction; the stepper sees all of it.

With A(t) the probability of not being masked, A = A(t) before the step and A⁺ = A(s) after it.

Shapes: B batch, W window, V vocabulary.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ardiff_jax import divergences, rng
from ardiff_jax.noise import EpsilonHybrid, Process
from ardiff_jax.sampling.draws import inverse_cdf

REMASKINGS = ('remask', 'cap', 'rescale', 'confidence', 'loop')
HEADS = ('x0', 'score')
SCORES = ('random', 'confidence', 'entropy')

_LAST_TIME = 1.0 - 1e-5  # the score is that of a density, unbounded at t = 1


Bend = Callable[[jax.Array], jax.Array]


class Step(NamedTuple):
  """What a stepper sees of one generation step.

  Attributes:
    canvas: int32[B, W] in 0..V.
    movable: bool[B, W], what the loop will let move.
    t: float32[1, W], time of each position before the step.
    s: float32[1, W], its time after the step.
    coin: float32[B, W] in [0, 1).
    uniform: float32[B, W] in [0, 1), for the token.
    dice: float32[B] in [0, 1).
    beside: int32[2, B, W], tokens to the left and right in the text; -1 beyond its ends.
    place: int32[W], where the window is; 0 where it is narrower.
    visit: float32[1, W], how many levels a position has fallen, and 1: on schedules on which levels
      fall one by one, how often it has been looked at, this look included.
    num_visits: float32[], T.
    memory: what `Stepper.memory` made, of the window; None without one.
    planned: bool[B, W], whose turn it is by `Stepper.plan`; None without a plan.
    hidden: [B, W, D], the network's stream behind the last block; None before it is called.
  """

  canvas: jax.Array
  movable: jax.Array
  t: jax.Array
  s: jax.Array
  coin: jax.Array
  uniform: jax.Array
  dice: jax.Array
  beside: jax.Array | None = None
  place: jax.Array | None = None
  visit: jax.Array | None = None
  num_visits: jax.Array | None = None
  memory: Any = None
  planned: jax.Array | None = None
  hidden: jax.Array | None = None


class Decision(NamedTuple):
  """What happens to each token: bool[B, W] each; `remask` is None for nowhere.

  Attributes:
    redraw: drawn from the prediction.
    remask: masked, where not redrawn.
  """

  redraw: jax.Array
  remask: jax.Array | None = None


class Moved(NamedTuple):
  """What a move makes of the window: int32[B, W] tokens, and memory and notes like those of
  `Stepper.memory` and `Stepper.notes`."""

  tokens: jax.Array
  memory: Any = None
  notes: Any = None


class Plan(NamedTuple):
  """A row for each position, and noise levels of the example's own.

  Attributes:
    step: int32[B, L], the row at which a position is drawn.
    sigma: float32[S, B], noise level shown at each row.
  """

  step: jax.Array
  sigma: jax.Array


class Stepper:
  """A frozen rule, and a pytree: of nothing, unless it has parameters.

  Attributes:
    corrects: whether tokens move at rows at which their level stands still.
    settles: whether a position is settled as soon as it is no mask, whatever the row says.
    keeps_order: whether what is settled sees what settled no later, of which the keys never change,
      instead of everything that is settled; of steppers that settle.
    told_time: the time a network that knows noise levels is told of active positions; None for
      that of the row.
  """

  corrects = False
  settles = False
  keeps_order = False
  told_time: float | jax.Array | None = None

  def memory(self, shape: tuple[int, int]) -> Any:
    """Returns what is remembered of each position before the first step, a pytree of [B, L]; None
    for nothing. Steppers that decide beforehand remember a float32: the probability that a token
    had when it was drawn."""
    del shape
    return None

  def notes(self, batch: int) -> Any:
    """Returns what is noted of each example at a step without a call, a pytree of [B]."""
    del batch
    return None

  def of_examples(self, rows: np.ndarray) -> 'Stepper':
    """Returns the rule for some examples of the batch it was made for, int[B']."""
    del rows
    return self

  def resting(self, memory: Any) -> jax.Array | None:
    """Returns bool[B, W], positions that are left alone for good; None for none."""
    del memory
    return None

  def plan(self, keys: jax.Array, given: jax.Array) -> Plan | None:
    """What is drawn before the first step, of typed keys [B] and bool[B, L]."""
    del keys, given
    return None

  def decide(self, process: Process, step: Step) -> Decision | None:
    """What changes, before the network is called; None if that depends on the prediction (of the
    process, not of the step)."""
    del process, step
    return None

  def move(self, process: Process, step: Step, logits: jax.Array, bend: Bend) -> Moved:
    """Moves the window, of steppers that cannot decide beforehand.

    The loop keeps only what may move.

    Args:
      process: noise whose reversal is followed.
      step: where the canvas is.
      logits: float32[B, W, V], what the network gives.
      bend: what controls make of the logits of a law of tokens.
    """
    raise NotImplementedError


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Ancestral(Stepper):
  """The reverse chain: a draw from the posterior p(x_s | x_t) of `Process.posterior_probs`.

  A mask is revealed with probability (A⁺ - A)/(1 - A); a visible token moves only under noise that
  resamples. Where it changes, the new token comes from B_s·p0 + (1-B_s)/V without the old. Under
  ε-hybrid noise p0 is the network's output made leave-one-out, see `divergences.leave_one_out`.
  """

  def decide(self, process, step):
    if process.resamples:
      return None
    masked = step.canvas == process.mask_id
    return Decision(masked & (step.coin < process.reveal_prob(step.t, step.s)))

  def move(self, process, step, logits, bend):
    if isinstance(process, EpsilonHybrid):
      logits = divergences.leave_one_out(logits, step.canvas)
    logits = bend(logits)
    v = process.vocab_size
    _, b = process.survivals(step.s)
    _, resampled = process.changes(step.s, jnp.zeros_like(step.s))
    _, change = process.changes(step.t, step.s)
    mix = b[..., None] * jax.nn.softmax(logits) + resampled[..., None] / v
    here = jnp.where(_is(step.canvas, v), mix, 0.0).sum(axis=-1)
    jump = change / v
    total = (1.0 - change) * here + jump
    chance = jump * (1.0 - here) / jnp.where(total > 0.0, total, 1.0)
    masked = step.canvas == process.mask_id
    chance = jnp.where(masked, process.reveal_prob(step.t, step.s), chance)
    return _move_elsewhere(step, chance, jnp.log(mix))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class AdaptiveCorrection(Stepper):
  """The Adaptive Correction Sampler (HDLM, arXiv 2504.06416, §3.4), on absorbing noise.

  With u = (A⁺ - A)/(1 - A): a mask is revealed with probability u by a draw from the prediction;
  a visible token is redrawn from it with probability η·(1 - u). With η = 0 it is `Ancestral` for
  absorbing noise. It needs a network that was trained on visible tokens.

  By confidence, as many visible tokens are redrawn in the mean, n = Σ η·(1 - u), but those whose
  present token is the least likely: ⌊n⌋ of them, and one more with probability n - ⌊n⌋.

  Attributes:
    eta: η in [0, 1].
    by_confidence: whether the prediction chooses what is redrawn.
  """

  eta: float
  by_confidence: bool = False

  def __post_init__(self):
    _check_eta(self.eta)

  @property
  def corrects(self):
    return self.eta > 0.0

  def decide(self, process, step):
    if self.by_confidence:
      return None
    reveal, masked = process.reveal_prob(step.t, step.s), step.canvas == process.mask_id
    return Decision(step.coin < jnp.where(masked, reveal, self.eta * (1.0 - reveal)))

  def move(self, process, step, logits, bend):
    logits = bend(logits)
    reveal, masked = process.reveal_prob(step.t, step.s), step.canvas == process.mask_id
    visible = step.movable & ~masked
    count = jnp.where(visible, self.eta * (1.0 - reveal), 0.0).sum(axis=1)
    count = jnp.floor(count) + (step.dice < count - jnp.floor(count))
    here = _is(step.canvas, process.vocab_size)
    present = jnp.where(here, jax.nn.log_softmax(logits), 0.0).sum(axis=-1)
    present = jnp.where(visible, present, jnp.inf)
    place = jnp.argsort(jnp.argsort(present, axis=1, stable=True), axis=1)  # ties: the left first
    least = visible & (place < count[:, None])
    change = jnp.where(masked, step.coin < reveal, least)
    return Moved(jnp.where(change, inverse_cdf(logits, step.uniform), step.canvas))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Remasking(Stepper):
  """Samplers that mask visible tokens again, on absorbing noise (ReMDM, arXiv 2503.00307).

  A visible token is masked with probability σ, and a mask revealed with probability
  (A⁺ - (1-σ)·A)/(1 - A), so that the marginals are those of `Ancestral`. σ is at most
  σ_max = min(1, (1 - A⁺)/A), and

    remask      1 - A⁺           every mask filled, then each position masked with 1 - A⁺
    cap         min(η, σ_max)
    rescale     η·σ_max
    confidence  σ_max · softmax(-ψ) over visible tokens, ψ the probability a token had when drawn;
                0 for masks
    loop        min(η, σ_max) at rows that stand still, 0 elsewhere; see `hyperschedules.plateau`

  Attributes:
    kind: which.
    eta: η in [0, 1], of cap, rescale and loop.
  """

  kind: str
  eta: float = 0.0
  corrects = True

  def __post_init__(self):
    _check_eta(self.eta)
    if self.kind not in REMASKINGS:
      raise ValueError(f'kind {self.kind!r} must be one of {", ".join(REMASKINGS)}')

  def memory(self, shape):
    return jnp.ones(shape) if self.kind == 'confidence' else None

  def decide(self, process, step):
    masked = step.canvas == process.mask_id
    a, _ = process.survivals(step.t)
    a_next, _ = process.survivals(step.s)
    absent, _ = process.changes(step.t, jnp.zeros_like(step.t))  # 1 - A
    absent_next, _ = process.changes(step.s, jnp.zeros_like(step.s))
    most = jnp.where(absent_next < a, absent_next / jnp.where(a > 0.0, a, 1.0), 1.0)
    match self.kind:
      case 'remask':
        sigma = absent_next
      case 'cap':
        sigma = jnp.minimum(self.eta, most)
      case 'rescale':
        sigma = self.eta * most
      case 'loop':
        sigma = jnp.where(step.t == step.s, jnp.minimum(self.eta, most), 0.0)
      case 'confidence':
        doubt = jnp.where(step.movable & ~masked, -step.memory, -jnp.inf)
        weight = jnp.exp(doubt - jnp.maximum(doubt.max(axis=1, keepdims=True), -1.0))
        sigma = most * weight / jnp.maximum(weight.sum(axis=1, keepdims=True), 1e-30)
    reveal = (a_next - (1.0 - sigma) * a) / jnp.where(absent > 0.0, absent, 1.0)
    return Decision(masked & (step.coin < reveal), ~masked & (step.coin < sigma))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Ranked(Stepper):
  """Reveals the masks of which the prediction is surest, as many at every step.

  Of n masks at the start, ⌊n·(T-s)/T⌋ are left after s of T steps. It is the decoding by confidence
  of MaskGIT (arXiv 2202.04200) and DiffuGPT (arXiv 2410.17891), and the dynamic resampling of A3
  (arXiv 2601.13228): what is not chosen is drawn again at the next step.

  Attributes:
    score: what is revealed first: where the greatest probability is highest ('confidence'), where
      the entropy is lowest ('entropy'), or any ('random'); by the model's own law, whatever bends
      that of the tokens, for at temperature 0 all are as sure.
    keeps_order: whether revealed tokens see those revealed no later, which makes the law of a text
      that of a model of any order in the order it was revealed in, and its keys fit for a cache.
  """

  score: str
  keeps_order: bool = False
  settles = True

  def __post_init__(self):
    if self.score not in SCORES:
      raise ValueError(f'score {self.score!r} must be one of {", ".join(SCORES)}')

  def move(self, process, step, logits, bend):
    log_law = jax.nn.log_softmax(logits)
    masked = step.movable & (step.canvas == process.mask_id)
    match self.score:
      case 'random':
        score = step.coin
      case 'confidence':
        score = log_law.max(axis=-1)
      case 'entropy':
        law = jnp.exp(log_law)
        score = jnp.where(law > 0.0, law * log_law, 0.0).sum(axis=-1)
    first = jnp.argsort(jnp.where(masked, -score, jnp.inf), axis=1, stable=True)
    place = jnp.argsort(first, axis=1)
    at_start = step.movable.sum(axis=1, keepdims=True)
    visits = step.num_visits.astype(int)
    left = at_start * (visits - step.visit[:, :1].astype(int)) // visits
    count = masked.sum(axis=1, keepdims=True) - left
    return Moved(jnp.where(place < count, inverse_cdf(bend(logits), step.uniform), step.canvas))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class FirstHitting(Stepper):
  """Absorbing noise in continuous time, one token a call (arXiv 2409.02908): the law of
  `Ancestral` on `flat` with T → ∞, on rows of which each reveals one position.

  Each position's survival at the time it is revealed is uniform, which gives the order and the
  noise levels at once. With δ > 0 the share δ that a jump at t = 1 reveals together comes one by
  one too.
  """

  def plan(self, keys, given):
    length = given.shape[1]
    draw = lambda key: jax.random.uniform(rng.stream(key, 'plan'), length)  # noqa: E731
    survival = jnp.where(given, 2.0, jax.vmap(draw)(keys))  # at which a position is revealed
    place = jnp.argsort(jnp.argsort(survival, axis=1), axis=1)
    shown = jnp.clip(jnp.sort(survival, axis=1), jnp.exp(-12.0), 1.0)
    return Plan(place.astype(jnp.int32), -jnp.log(shown).T)

  def decide(self, process, step):
    return Decision(step.planned & (step.canvas == process.mask_id))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Analytic(Stepper):
  """SEDD's Tweedie step (arXiv 2310.16834, theorem 4.2): the posterior that the score gives.

  With s_y the score of each token, 1 of the present one, P = Σ_y s_y, and A' = A_t/A_s, B' alike,

    v(y) = (s_y - (1-B')·P/V) / (A'·B'),   v(mask) = s_mask - (1-A')·P/A'

  where both are cut at 0, the next token is y with probability ∝ v(y)·q(x_t | x_s = y). For the
  score of a prediction of x_0 this is `Ancestral`. At t = 1 the score is that just before, and x_t
  says nothing: the next token is y with probability ∝ v(y).

  Controls bend the law s_y/P, whose total P they leave as it is.

  Attributes:
    head: what the network predicts, 'x0' or 'score'.
  """

  head: str = 'x0'

  def __post_init__(self):
    if self.head not in HEADS:
      raise ValueError(f'head {self.head!r} must be one of {", ".join(HEADS)}')

  def move(self, process, step, logits, bend):
    score = jnp.exp(_log_score(self.head, process, step, logits, bend))
    return _move_elsewhere(step, *_tweedie(process, step, score))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Euler(Analytic):
  """One Euler step of the reverse chain in time: a token turns into y at the rate of the forward
  process from y times s_y. A column's first step is that of `Analytic`, for the rate is unbounded
  at t = 1, and so is its last, so that no mask is left."""

  def move(self, process, step, logits, bend):
    score = jnp.exp(_log_score(self.head, process, step, logits, bend))
    masked = step.canvas == process.mask_id
    masking, resampling = process.rates(jnp.minimum(step.t, _LAST_TIME))
    rate = jnp.where(masked, masking, resampling / process.vocab_size)
    others = jnp.where(_is(step.canvas, process.vocab_size), 0.0, score)
    chance = (step.t - step.s) * rate * others.sum(axis=-1)
    end_chance, end_log = _tweedie(process, step, score)
    at_end = (step.t == 1.0) | (step.s == 0.0)
    log_law = jnp.where(at_end[..., None], end_log, jnp.log(score))
    return _move_elsewhere(step, jnp.where(at_end, end_chance, chance), log_law)


def _log_score(head, process, step, logits, bend):
  """float32[B, W, V], log q(y)/q(x_t) at times short of 1; 0 at the present token."""
  t = jnp.broadcast_to(jnp.minimum(step.t, _LAST_TIME), step.canvas.shape)
  if head == 'x0':
    return divergences.log_score_of(process, bend(logits), step.canvas, t)
  offset = jnp.log(jnp.expm1(process.sigma(t))) + jnp.log(process.vocab_size)
  log_score = jnp.where(_is(step.canvas, process.vocab_size), 0.0, logits - offset[..., None])
  log_total = jax.nn.logsumexp(log_score, axis=-1, keepdims=True)
  return jax.nn.log_softmax(bend(log_score)) + log_total


def _tweedie(process, step, score):
  """Returns the chance of leaving the present state, float32[B, W], and the logits of where to."""
  v = process.vocab_size
  masked = step.canvas == process.mask_id
  t = jnp.minimum(step.t, _LAST_TIME)
  masking, mixing = process.changes(t, step.s)  # 1 - A', 1 - B'
  total = score.sum(axis=-1)
  token = jnp.maximum(score - (mixing * total / v)[..., None], 0.0)  # v(y)·A'·B'
  mask = jnp.where(step.s > 0.0, (1.0 - masking) - masking * total, 0.0) * (1.0 - mixing)
  masked_from, mixed = (jnp.where(step.t == 1.0, 1.0, x) for x in (masking, mixing))
  to = token * jnp.where(masked, masked_from, mixed / v)[..., None]
  here = jnp.where(_is(step.canvas, v), token * (1.0 - mixed)[..., None] + to, 0.0).sum(axis=-1)
  stay = jnp.where(masked, jnp.maximum(mask, 0.0), here)
  to = jnp.where(_is(step.canvas, v), 0.0, to)
  leave = to.sum(axis=-1)
  return leave / jnp.where(leave + stay > 0.0, leave + stay, 1.0), jnp.log(to)


def _move_elsewhere(step: Step, chance: jax.Array, logits: jax.Array) -> Moved:
  """Replaces tokens by another one, with a chance of float32[B, W], drawn from float32[B, W, V]."""
  elsewhere = jnp.where(_is(step.canvas, logits.shape[-1]), -jnp.inf, logits)
  return Moved(jnp.where(step.coin < chance, inverse_cdf(elsewhere, step.uniform), step.canvas))


def _is(canvas: jax.Array, vocab_size: int) -> jax.Array:
  """bool[B, W, V], which token is there; none for a mask."""
  return jax.nn.one_hot(canvas, vocab_size, dtype=bool)


def _check_eta(eta: float) -> None:
  if not 0.0 <= eta <= 1.0:
    raise ValueError(f'eta must be in [0, 1], got {eta}')
