"""Revision: overwriting what a text has wrong, a few tokens at each look.

A `Revision` is a stepper. At each row of the schedule it asks of every position in the window how
doubtful its token is, selects some, and overwrites those for which the denoiser knows better; masks
are filled meanwhile. So a draft of any origin is revised in place, over the whole text on `flat` or
block after block, with a cache, on `block`.

The doubt p of a token is

  gate        1 - (1-u)(1-r), u of the overwrite gate, r the maturity prior   (models.gate)
  prior       r alone: a fixed schedule
  uniform     the same everywhere
  random      a coin
  confidence  1 - q[token]
  oracle      whether the token differs from `truth`

Shapes: B batch, W window, V vocabulary.
"""

import math
import numbers
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from ardiff_jax.models import gate as gate_lib
from ardiff_jax.models.gate import Gate, Guesses, Signals
from ardiff_jax.sampling.draws import inverse_cdf
from ardiff_jax.sampling.steppers import Moved, Stepper

DOUBTS = ('gate', 'prior', 'uniform', 'random', 'confidence', 'oracle')
SELECTIONS = ('bernoulli', 'threshold', 'budget')
WRITES = ('best', 'drawn', 'mask')
PHASES = ('all', 'early', 'late')
_WORD = {float: 'a number', int: 'a whole number'}


class Memory(NamedTuple):
  """What a revision remembers of each position, [B, W] each.

  Attributes:
    best, best_log: `Guesses` of the look before.
    rest: int32, looks for which it is left alone.
    selected: bool, at the look before.
    done: bool, for good.
    first_doubt: float32, p at the first look.
  """

  best: jax.Array
  best_log: jax.Array
  rest: jax.Array
  selected: jax.Array
  done: jax.Array
  first_doubt: jax.Array


class Notes(NamedTuple):
  """What happened to an example at one look, float32[B] each; 0 where the network was not called.

  Attributes:
    live: 1 if any of its positions could move: summed over the steps, the network calls it needed,
      those for a cache alone not counted.
    selected, edited: how many positions; those that were masks are not counted.
    entropy_mean, entropy_std, margin_mean, ...: signals and doubt over its visible positions.
  """

  live: jax.Array
  selected: jax.Array
  edited: jax.Array
  entropy_mean: jax.Array
  entropy_std: jax.Array
  margin_mean: jax.Array
  margin_std: jax.Array
  change_mean: jax.Array
  change_std: jax.Array
  surprise_mean: jax.Array
  surprise_std: jax.Array
  doubt_mean: jax.Array
  doubt_std: jax.Array


def _static(default):
  return flax.struct.field(pytree_node=False, default=default)


@flax.struct.dataclass
class Revision(Stepper):
  """The rule of a revision; numbers are traced, the rest is static.

  Attributes:
    gate: the module, for doubt 'gate'.
    weights: its parameters.
    truth: int32[B, L], what an oracle knows.
    doubt: what makes p, see above.
    select: 'bernoulli', with chance p; 'threshold', p >= θ, which rises over the looks and is
      lower by `hysteresis` for what was selected before; or 'budget', the ⌈ρ·n⌉ most doubtful of n
      positions that may move, ρ falling.
    accept: rule of `gate.acceptable` for a new token, with `ratio` and `lead`.
    write: 'best', the likeliest token; 'drawn', one drawn from the law; or 'mask': doubted tokens
      are masked, not accepted or refused, and filled with the likeliest at a later look, which did
      not see them.
    phase: looks at which the gate speaks; at the others u = 0.
    no_repeats: whether a token equal to a neighbour in the text gives way to the second best, or to
      nothing if that is one too. For vocabularies of words: letters may well repeat.
    span: how many neighbours to either side, in the window, are selected along.
    early_stop: whether a window is left alone after a look that edits nothing while no edit rests,
      or at which no doubt reaches `least_doubt`, once it has no masks and its phase has come.
    alpha, delta, prior_scale: the prior is prior_scale · σ(α(τ - t)), see `gate.maturity_prior`.
    rate: p of doubt 'uniform'.
    threshold: θ at the first and last look.
    budget: ρ at the first and last look.
    hysteresis: see `select`.
    ratio, lead: λ and δ of `gate.acceptable`.
    least_doubt: see `early_stop`.
    cooldown: looks for which an edited position is left alone.
    level: time that a network which is told noise levels is told of what it revises.
  """

  gate: Gate | None = _static(None)
  weights: dict | None = None
  truth: jax.Array | None = None
  doubt: str = _static('gate')
  select: str = _static('threshold')
  accept: str = _static('both')
  write: str = _static('best')
  phase: str = _static('all')
  no_repeats: bool = _static(False)
  span: int = _static(0)
  early_stop: bool = _static(True)
  alpha: float = 1.0
  delta: float = 0.5
  prior_scale: float = 0.15
  rate: float = 0.15
  threshold: tuple[float, float] = (0.1, 0.3)
  budget: tuple[float, float] = (0.3, 0.05)
  hysteresis: float = 0.05
  ratio: float = 1.2
  lead: float = 0.1
  least_doubt: float = 1e-3
  cooldown: int = 1
  level: float = 0.15

  def check(self) -> None:
    """Raises ValueError for a value that is none, saying which are."""
    for name, known in (
      ('doubt', DOUBTS),
      ('select', SELECTIONS),
      ('accept', gate_lib.ACCEPTANCES),
      ('write', WRITES),
      ('phase', PHASES),
    ):
      if getattr(self, name) not in known:
        raise ValueError(f'{name} {getattr(self, name)!r} must be one of {", ".join(known)}')
    for name in ('prior_scale', 'rate', 'hysteresis', 'lead', 'least_doubt', 'level'):
      value = getattr(self, name)
      if not _is_number(value) or not 0.0 <= value <= 1.0:
        raise ValueError(f'{name} must be a number in [0, 1], got {value!r}')
    for name in ('threshold', 'budget'):
      ends = getattr(self, name)
      if (
        not isinstance(ends, tuple)
        or len(ends) != 2
        or not all(_is_number(end) and 0.0 <= end <= 1.0 for end in ends)
      ):
        raise ValueError(f'{name} must be two numbers in [0, 1], first and last, got {ends!r}')
    for name, kind in (('ratio', float), ('alpha', float), ('cooldown', int), ('span', int)):
      value = getattr(self, name)
      if not _is_number(value) or not value >= 0 or (kind is int and value != int(value)):
        raise ValueError(f'{name} must be {_WORD[kind]} from 0 up, got {value!r}')
    if not _is_number(self.delta) or not math.isfinite(self.delta):
      raise ValueError(f'delta must be a finite number, got {self.delta!r}')
    for name in ('no_repeats', 'early_stop'):
      if not isinstance(getattr(self, name), bool):
        raise ValueError(f'{name} must be True or False, got {getattr(self, name)!r}')
    if (self.doubt == 'oracle') != (self.truth is not None):
      raise ValueError("doubt 'oracle' must be given with `truth`, and `truth` with it")
    if (self.doubt, self.select) == ('random', 'bernoulli'):
      raise ValueError(
        "doubt 'random' must be used with select budget or threshold: it is the coin"
      )

  @property
  def told_time(self):
    return self.level

  def memory(self, shape):
    zero, no = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool)
    return Memory(zero, jnp.zeros(shape), zero, no, no, jnp.zeros(shape))

  def notes(self, batch):
    return Notes(*[jnp.zeros(batch)] * len(Notes._fields))

  def of_examples(self, rows):
    return self if self.truth is None else self.replace(truth=self.truth[rows])

  def resting(self, memory):
    return memory.done

  def move(self, process, step, logits, bend):
    memory, may_move = step.memory, step.movable
    masked = step.canvas == process.mask_id
    visible = may_move & ~masked
    own_law, log_law = jax.nn.log_softmax(logits), jax.nn.log_softmax(bend(logits))
    before = Guesses(memory.best, memory.best_log)
    signals, guesses = gate_lib.look(own_law, step.canvas, before, step.visit == 1.0)
    doubt = self._doubt(step, own_law, signals, visible)
    doubt = jnp.where(masked, 1.0, doubt)

    free = may_move & (masked | (memory.rest == 0))
    progress = (step.visit - 1.0) / jnp.maximum(1.0, step.num_visits - 1.0)
    urgency = jnp.where(masked, 1.0 + jnp.exp(guesses.best_log), doubt)  # the surest mask first
    chosen = self._select(doubt, urgency, free, progress, memory.selected, step.coin)
    chosen = _widen(chosen, self.span) & free
    is_last = step.s == 0.0
    chosen |= masked & may_move & is_last  # no mask is left

    best, second, _, _ = gate_lib.two_best(log_law)
    new = inverse_cdf(log_law, step.uniform) if self.write == 'drawn' else best
    allowed = jnp.ones(new.shape, bool)
    if self.no_repeats:
      repeats = lambda token: (token[None] == step.beside).any(axis=0)  # noqa: E731
      allowed = ~(repeats(new) & repeats(second))
      new = jnp.where(repeats(new), second, new)
    if self.write == 'mask':
      edit = chosen & jnp.where(masked, True, ~is_last)
      new = jnp.where(masked, new, process.mask_id)
    else:
      better = gate_lib.acceptable(log_law, step.canvas, new, self.accept, self.ratio, self.lead)
      edit = chosen & (masked | (better & allowed)) & (new != step.canvas)
      if self.no_repeats:  # nor of what is written beside it at this very look
        twin = edit[:, 1:] & edit[:, :-1] & (new[:, 1:] == new[:, :-1]) & ~masked[:, 1:]
        twin &= (step.place[1:] == step.place[:-1] + 1)[None]
        edit &= ~jnp.pad(twin, [(0, 0), (1, 0)])
    canvas = jnp.where(edit, new, step.canvas)

    done = memory.done
    if self.early_stop:
      most = jnp.where(may_move, doubt, 0.0).max(axis=1)
      rests = (may_move & (memory.rest > 0)).any(axis=1)
      nothing = (~edit.any(axis=1) & ~rests) | (most < self.least_doubt)
      left = (may_move & (canvas == process.mask_id)).any(axis=1)
      done |= may_move & (nothing & ~left)[:, None]
      if self.phase == 'late':
        done &= step.visit > step.num_visits / 2
    rest = jnp.where(edit, self.cooldown, jnp.maximum(memory.rest - 1, 0)).astype(jnp.int32)
    first_doubt = jnp.where(step.visit == 1.0, doubt, memory.first_doubt)
    remembered = Memory(*guesses, rest, chosen, done, first_doubt)

    count = lambda x: (x & ~masked).sum(axis=1).astype(jnp.float32)  # noqa: E731
    measured = [f(x) for x in (*signals, doubt) for f in _moments(visible)]
    live = may_move.any(axis=1).astype(jnp.float32)
    return Moved(canvas, remembered, Notes(live, count(chosen), count(edit), *measured))

  def _doubt(self, step, own_law, signals: Signals, visible):
    width = step.canvas.shape[1]
    place = jnp.arange(width, dtype=jnp.float32)[None]
    prior = self.prior_scale * gate_lib.maturity_prior(
      place, step.visit, width, step.num_visits, alpha=self.alpha, delta=self.delta
    )
    shape = step.canvas.shape
    match self.doubt:
      case 'prior':
        return jnp.broadcast_to(prior, shape)
      case 'uniform':
        return jnp.full(shape, self.rate)
      case 'random':
        return step.coin
      case 'confidence':
        return 1.0 - jnp.exp(gate_lib.log_prob(own_law, step.canvas))
      case 'oracle':
        return (step.canvas != self.truth[:, step.place]).astype(jnp.float32)
    logit = self.gate.apply(
      {'params': self.weights},
      step.hidden,
      signals,
      visible,
      place / width,
      step.visit / step.num_visits,
      prior,
    )
    u = jax.nn.sigmoid(logit)
    late = step.visit > step.num_visits / 2
    if self.phase != 'all':
      u = jnp.where(late == (self.phase == 'late'), u, 0.0)
    return gate_lib.noisy_or(u, prior)

  def _select(self, doubt, urgency, free, progress, selected, coin):
    match self.select:
      case 'bernoulli':
        return free & (coin < doubt)
      case 'threshold':
        first, last = self.threshold
        least = first + (last - first) * progress
        return free & (doubt >= jnp.where(selected, least - self.hysteresis, least))
    first, last = self.budget
    share = jnp.where(free, first + (last - first) * progress, 0.0)
    slack = 1e-4 + 1e-6 * share.shape[1]  # of rounding: 0.3 of 10 is 3
    count = jnp.ceil(share.sum(axis=1, keepdims=True) - slack)
    order = jnp.argsort(jnp.where(free, -urgency, jnp.inf), axis=1, stable=True)  # ties: left first
    return free & (jnp.argsort(order, axis=1) < count)


def _moments(valid):
  count = jnp.maximum(valid.sum(axis=1), 1)
  mean = lambda x: jnp.where(valid, x, 0.0).sum(axis=1) / count  # noqa: E731
  std = lambda x: jnp.sqrt(jnp.maximum(mean(x * x) - mean(x) ** 2, 0.0))  # noqa: E731
  return mean, std


def _widen(chosen, span: int):
  for _ in range(span):
    beside = jnp.pad(chosen, [(0, 0), (1, 1)])
    chosen = chosen | beside[:, :-2] | beside[:, 2:]
  return chosen


def _is_number(value) -> bool:
  return isinstance(value, numbers.Real) and not isinstance(value, bool)
