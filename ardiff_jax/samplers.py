"""Samplers by name: which stepper, on which noise, with which prediction, along which rows.

`TABLE` says what goes together; everything else is refused with it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from ardiff_jax import hyperschedules, noise
from ardiff_jax import method as method_lib
from ardiff_jax.errors import UserError
from ardiff_jax.hyperschedules import Hyperschedule
from ardiff_jax.method import Method
from ardiff_jax.models.gate import Gate
from ardiff_jax.noise import Process
from ardiff_jax.sampling import steppers
from ardiff_jax.sampling.controls import Controls
from ardiff_jax.sampling.revision import Revision
from ardiff_jax.sampling.steppers import Stepper


@dataclasses.dataclass(frozen=True)
class Sampler:
  """What a name stands for.

  Attributes:
    make: the stepper, of η and of the head.
    models: noise of the models it is for.
    scores: noise with which a model may predict scores.
    own_rows: makes the rows that it brings along, of the length and the steps; None for any.
    flat: whether those are for models of flat schedules alone.
    takes_steps: whether there are as many of those as one asks for.
    causal: whether it is for autoregressive models too.
    any_order: whether it is for models of any order too, of flat schedules or not.
    in_order: whether it is for those alone.
  """

  make: Callable[[float, str], Stepper]
  models: tuple[type[Process], ...]
  scores: tuple[type[Process], ...] = ()
  own_rows: Callable[[int, int], Hyperschedule] | None = None
  flat: bool = False
  takes_steps: bool = True
  causal: bool = False
  any_order: bool = False
  in_order: bool = False

  @property
  def rows(self) -> str:
    """The hyperschedules it is for, in words."""
    if self.own_rows is None:
      return 'any'
    if not self.flat:
      return 'its own: one token a step'
    if self.in_order:
      return 'its own, of any-order models'
    return 'its own, of flat models' + (' and any-order ones' if self.any_order else '')


CACHES = ('auto', 'on', 'off')
_MASKS = noise.Absorbing, noise.EpsilonHybrid
_RATES = noise.Absorbing, noise.Uniform, noise.GammaHybrid
_WRONG_TOKENS = noise.Uniform, noise.GammaHybrid, noise.EpsilonHybrid
_ALL = *_RATES, noise.EpsilonHybrid
_WORDS = dict(zip(_ALL, ('masks', 'uniform', 'γ-hybrid', 'ε-hybrid'), strict=True))

_HARD = (noise.Absorbing,)  # where a score is a prediction of x_0 up to a factor


def _remasking(kind: str, **kwargs) -> Sampler:
  return Sampler(lambda eta, head: steppers.Remasking(kind, eta), _MASKS, _HARD, **kwargs)


TABLE = {
  'ancestral': Sampler(
    lambda eta, head: steppers.Ancestral(), _ALL, _HARD, causal=True, any_order=True
  ),
  'acs': Sampler(lambda eta, head: steppers.AdaptiveCorrection(eta), (noise.EpsilonHybrid,)),
  'acs_confidence': Sampler(
    lambda eta, head: steppers.AdaptiveCorrection(eta, True), (noise.EpsilonHybrid,)
  ),
  'analytic': Sampler(lambda eta, head: steppers.Analytic(head), _RATES, _RATES),
  'euler': Sampler(lambda eta, head: steppers.Euler(head), _RATES, _RATES),
  'revision': Sampler(lambda eta, head: Revision(), _WRONG_TOKENS),
  'remask': _remasking('remask'),
  'remdm_cap': _remasking('cap'),
  'remdm_rescale': _remasking('rescale'),
  'remdm_confidence': _remasking('confidence'),
  'remdm_loop': _remasking('loop', own_rows=hyperschedules.plateau, flat=True),
  **{
    f'unmask_{score}' + in_order * '_in_order': Sampler(
      functools.partial(lambda *kind, eta, head: steppers.Ranked(*kind), score, in_order),
      _MASKS,
      own_rows=hyperschedules.flat,
      flat=True,
      any_order=True,
      in_order=in_order,
    )
    for in_order in (False, True)
    for score in steppers.SCORES
  },
  'first_hitting': Sampler(
    lambda eta, head: steppers.Ancestral(), _MASKS, _HARD, causal=True, any_order=True
  ),
  'first_hitting_continuous': Sampler(
    lambda eta, head: steppers.FirstHitting(),
    _MASKS,
    _HARD,
    own_rows=lambda length, steps: hyperschedules.flat(length, length),
    flat=True,
    takes_steps=False,
  ),
  'autoregressive': Sampler(
    lambda eta, head: steppers.Ancestral(),
    _MASKS,
    _HARD,
    own_rows=lambda length, steps: hyperschedules.autoregressive(length),
    takes_steps=False,
    causal=True,
    any_order=True,
  ),
}


def table() -> str:
  """Returns TABLE as Markdown."""
  lines = ['| sampler | noise of the model | a score head | hyperschedules |', '|---|---|---|---|']
  for name, sampler in TABLE.items():
    scores = {(): 'no', _HARD: 'of masks', _RATES: 'yes'}[sampler.scores]
    models = 'any' if sampler.models == _ALL else ', '.join(_WORDS[x] for x in sampler.models)
    lines.append(f'| `{name}` | {models} | {scores} | {sampler.rows} |')
  return '\n'.join(lines)


def named(name: str) -> Sampler:
  """Returns TABLE[name].

  Raises:
    UserError: there is none.
  """
  if name not in TABLE:
    raise UserError(f'unknown sampler {name!r}; known: {", ".join(TABLE)}')
  return TABLE[name]


def make(
  method: Method,
  config: ConfigDict,
  name: str,
  *,
  eta: float | None = None,
  revision: Mapping[str, Any] | None = None,
  params: dict | None = None,
) -> Stepper:
  """Returns the stepper of a sampler.

  Args:
    method: of the model.
    config: of the model.
    name: a key of TABLE.
    eta: how much is corrected or masked again, in [0, 1]; None for the config's.
    revision: of sampler revision, fields of `Revision` other than config.revision's.
    params: of the model, for its gate; a linear gate does without.

  Raises:
    UserError: it is unknown, or is not for this model.
  """
  sampler = named(name)
  head = 'score' if method.predicts_scores else 'x0'
  wrong = None
  if method.is_autoregressive and not sampler.causal:
    wrong = 'an autoregressive model generates one token after another'
  elif not isinstance(method.process, sampler.models):
    wrong = f'this model was trained on other noise, {_WORDS[type(method.process)]}'
  elif head == 'score' and not isinstance(method.process, sampler.scores):
    wrong = 'this model predicts scores'
  elif method.is_any_order and not sampler.any_order:
    wrong = 'a model of any order draws each token once, in one step'
  elif sampler.in_order and not method.is_any_order:
    wrong = 'it keeps the order of a model of any order'
  elif method.own_chain and name != 'ancestral':
    wrong = "an ε-hybrid's own chain is followed by ancestral alone"
  elif revision and name != 'revision':
    wrong = f'{", ".join(revision)} are settings of sampler revision'
  if wrong:
    raise UserError(f'sampler {name}: {wrong}; what goes together:\n{table()}')
  try:
    stepper = sampler.make(eta=config.sampling.eta if eta is None else eta, head=head)
  except ValueError as error:
    raise UserError(f'config.sampling: {error}') from error
  if isinstance(stepper, Revision):
    usual = {name: value for name, value in config.revision.items() if name != 'steps'}
    return _equipped(method, usual | dict(revision or {}), params)
  return stepper


def _equipped(method: Method, settings: dict[str, Any], params: dict | None) -> Revision:
  """Returns the revision of these settings, with the model's gate, or the untrained linear one."""
  known = {field.name for field in dataclasses.fields(Revision)} - {'gate', 'weights'}
  if unknown := sorted(set(settings) - known):
    raise UserError(
      f'unknown settings of a revision: {", ".join(unknown)}; known: {", ".join(sorted(known))}'
    )
  for name in ('threshold', 'budget'):
    if isinstance(settings[name], list):  # from JSON
      settings[name] = tuple(settings[name])
  gate, weights = method.gate, (params or {}).get('gate')
  if gate is None:
    gate = Gate('linear', method.denoise.network.config.model_dim)
  if weights is None:
    weights = nn.unbox(gate.new_weights(jax.random.key(0)))
  try:
    revision = Revision(gate=gate, weights=weights, **settings)
    revision.check()
  except (TypeError, ValueError) as error:
    raise UserError(f'config.revision: {error}') from error
  return revision


def rows(
  method: Method,
  config: ConfigDict,
  name: str,
  *,
  length: int,
  steps: int | None = None,
  other: str | Hyperschedule | None = None,
) -> Hyperschedule:
  """Returns the rows that a sampler descends over `length` positions.

  Args:
    method: of the model.
    config: of the model.
    name: a key of TABLE.
    length: L.
    steps: T; None for config.sampling.steps, or of a revision config.revision.steps.
    other: a hyperschedule, or one as `method.parse_hyperschedule` reads it; None for the config's.

  Raises:
    UserError: they contradict each other, or cannot be.
  """
  sampler = named(name)
  if other is not None and sampler.own_rows is not None:
    raise UserError(f'sampler {name} has a hyperschedule of its own; leave out {other!r}')
  if other is not None and steps is not None:
    raise UserError('steps and hyperschedule: give one; num_levels of the latter is the steps')
  own = config.revision.steps if name == 'revision' else config.sampling.steps
  if isinstance(other, Hyperschedule):
    if other.length != length:
      raise UserError(f'{other.name} is over {other.length} positions, and the text has {length}')
    return other
  if other is not None:
    return method_lib.parse_hyperschedule(other, length)
  if sampler.own_rows is None:
    return method_lib.make_hyperschedule(config, steps or own, length)
  is_free = sampler.any_order and method.is_any_order
  if sampler.flat and not (method.hyperschedule.always_active or is_free):
    raise UserError(
      f'sampler {name} is for models of hyperschedule flat, this one is of '
      f'{method.hyperschedule.name}; what goes together:\n{table()}'
    )
  if steps is not None and not sampler.takes_steps:
    raise UserError(f'sampler {name} has as many steps as there are tokens; leave out steps')
  try:
    return sampler.own_rows(length, steps or own)
  except ValueError as error:
    raise UserError(f'sampler {name}: {error}') from error


def is_cacheable(method: Method, stepper: Stepper) -> bool:
  """Returns whether tokens settle while it samples, and their keys stay what they are."""
  if stepper.settles:
    return stepper.keeps_order and method.denoise.rules.context != 'full'
  return method.denoise.is_cacheable


def choose_cache(method: Method, stepper: Stepper, cache: str) -> bool:
  """Returns whether to sample with a key/value cache, given 'auto', 'on' or 'off'.

  Raises:
    UserError: another word, or 'on' where nothing can be cached.
  """
  if cache not in CACHES:
    raise UserError(f'cache must be one of {", ".join(CACHES)}, got {cache!r}')
  cacheable = is_cacheable(method, stepper)
  if cache == 'on' and not cacheable:
    why = (
      f'{method.hyperschedule.name} has no settled tokens to cache while it generates'
      if method.denoise.always_active or stepper.settles
      else 'with config.denoiser.context=full settled tokens see those that settle later, so that '
      'their keys change; supported: causal, block_causal'
    )
    raise UserError(f'--cache=on: {why}')
  return cacheable and cache != 'off'


def check(config: ConfigDict) -> None:
  """Raises UserError for what building the method or sampling by the config's defaults would
  refuse."""
  method = method_lib.build(config, vocab_size=2, bos_id=0, eos_id=0)
  if method.is_latent:
    return
  settings = config.sampling
  make(method, config, settings.sampler)
  if isinstance(method.process, TABLE['revision'].models) and not method.predicts_scores:
    make(method, config, 'revision')
  rows(method, config, settings.sampler, length=config.data.length)
  try:
    Controls(temperature=settings.temperature).check(vocab_size=2)
  except ValueError as error:
    raise UserError(f'config.sampling: {error}') from error
