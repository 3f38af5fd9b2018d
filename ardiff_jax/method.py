"""A method = noise + hyperschedule + denoiser + objective, assembled from a config."""

import dataclasses
import inspect
from typing import Any

import jax
from ml_collections import ConfigDict

from ardiff_jax import hyperschedules, noise, rng, rows
from ardiff_jax.errors import UserError
from ardiff_jax.hyperschedules import Hyperschedule
from ardiff_jax.models.denoiser import Denoiser, make_denoiser
from ardiff_jax.models.gate import Gate
from ardiff_jax.models.latents import LatentDenoiser, LatentNetwork
from ardiff_jax.models.transformer import Transformer, TransformerConfig
from ardiff_jax.noise import Process
from ardiff_jax.objectives.adaptation import Adaptation
from ardiff_jax.objectives.any_order import AnyOrder
from ardiff_jax.objectives.gate import OverwriteGate
from ardiff_jax.objectives.latents import LatentDiffusion
from ardiff_jax.objectives.likelihood import NextToken, ScoreEntropy, WeightedCrossEntropy

PROCESSES = {
  'absorbing': noise.absorbing,
  'uniform': noise.uniform,
  'gamma_hybrid': noise.gamma_hybrid,
  'epsilon_hybrid': noise.epsilon_hybrid,
}
OBJECTIVES = {
  'next_token': NextToken,
  'weighted_cross_entropy': WeightedCrossEntropy,
  'score_entropy': ScoreEntropy,
  'overwrite_gate': OverwriteGate,
  'any_order': AnyOrder,
  'adaptation': Adaptation,
  'latent_diffusion': LatentDiffusion,
}


@dataclasses.dataclass(frozen=True)
class Method:
  """The parts a config names.

  Attributes:
    process: noise of training.
    hyperschedule: rows of training and evaluation.
    denoise: the network under the method's attention and alignment; of a latent refiner, which has
      no use for the process, a `LatentDenoiser`.
    objective: the training loss.
    gate: overwrite gate beside the network; None for none.
    own_chain: whether an ε-hybrid is measured on its own noise rather than on absorbing noise.
  """

  process: Process
  hyperschedule: Hyperschedule
  denoise: Denoiser | LatentDenoiser
  objective: (
    NextToken
    | WeightedCrossEntropy
    | ScoreEntropy
    | OverwriteGate
    | AnyOrder
    | Adaptation
    | LatentDiffusion
  )
  gate: Gate | None = None
  own_chain: bool = False

  def init(self, key: jax.Array, length: int) -> dict:
    """Returns new parameters, boxed, see `Denoiser.init`: collection 'params', and 'gate'."""
    params = self.denoise.init(key, length)
    if self.gate is None:
      return params
    return params | {'gate': self.gate.new_weights(rng.stream(key, 'gate'))}

  @property
  def is_autoregressive(self) -> bool:
    """Whether the likelihood is exact, in one pass."""
    return isinstance(self.objective, NextToken)

  @property
  def is_any_order(self) -> bool:
    """Whether the likelihood is exact, in one pass, for any order of groups."""
    return isinstance(self.objective, AnyOrder)

  @property
  def is_latent(self) -> bool:
    """Whether it denoises latents: it refines, and has no likelihood."""
    return isinstance(self.objective, LatentDiffusion)

  @property
  def predicts_scores(self) -> bool:
    """Whether the network gives ratios of marginals rather than a law of x_0."""
    return isinstance(self.objective, ScoreEntropy) and self.objective.head == 'score'

  @property
  def trained(self) -> tuple[str, ...] | None:
    """Collections of the parameters that the objective trains; None for all."""
    return getattr(self.objective, 'trained', None)

  @property
  def generation_process(self) -> Process:
    """Noise whose reversal generates, and whose bound is reported: that of training, but absorbing
    noise for an ε-hybrid, whose own chain corrects wrong tokens only at their last step."""
    if isinstance(self.process, noise.EpsilonHybrid) and not self.own_chain:
      return noise.absorbing(self.process.vocab_size, self.process.delta, self.process.clock)
    return self.process


def build(config: ConfigDict, vocab_size: int, bos_id: int, eos_id: int) -> Method:
  """Assembles the method of a config.

  Args:
    config: a whole experiment config.
    vocab_size: V of the tokenizer.
    bos_id: token in front of the text.
    eos_id: token that ends a document.

  Raises:
    UserError: an unknown name or a value out of range, with the key it came from.
  """
  with _blaming('noise'):
    process = _call(PROCESSES, config.noise, vocab_size=vocab_size)
  schedule = make_hyperschedule(config)
  with _blaming('model'):
    network = Transformer(TransformerConfig(vocab_size=vocab_size, **config.model))
  if config.objective.name == 'latent_diffusion':
    return _of_latents(config, process, schedule, network.config, eos_id)
  with _blaming('denoiser'):
    denoise = make_denoiser(network, schedule, bos_id=bos_id, eos_id=eos_id, **config.denoiser)
  with _blaming('gate'):
    gate = make_gate(config)
  with _blaming('objective'):
    # what an objective wants to know beside its own settings
    others = dict(config.revision) | dict(process=process, width=config.hyperschedule.width)
    others |= dict(gate=gate, num_visits=config.revision.steps, num_updates=config.train.steps)
    objective = _call(OBJECTIVES, config.objective, **others)
    if gate is not None and not isinstance(objective, OverwriteGate):
      raise ValueError('config.gate.kind is set, but only objective overwrite_gate trains a gate')
    if getattr(objective, 'doubled', False):
      rows.check_tiling(schedule)
      if denoise.rules.context == 'full':
        raise ValueError(
          'a doubled pass computes the context once, so it cannot be full; supported: '
          'config.denoiser.context causal, block_causal'
        )
    if isinstance(objective, NextToken) and not denoise.is_causal:
      raise ValueError(
        'next_token needs denoiser alignment shifted, context causal, window causal: '
        'any other would show the network the token it predicts'
      )
    if isinstance(objective, AnyOrder) != (denoise.rules.window == 'none'):
      raise ValueError(
        'objective any_order and window none need each other: the positions of a group are '
        f'predicted without each other; got window {denoise.rules.window}'
      )
    if isinstance(objective, AnyOrder) and network.config.conditioning == 'adaln':
      raise ValueError(
        'any_order has no noise levels to tell: it needs config.model.conditioning none'
      )
    if isinstance(objective, Adaptation) and objective.causal_steps >= config.train.steps:
      raise ValueError(
        f'causal_steps={objective.causal_steps} of {config.train.steps} updates leave none for '
        'diffusion'
      )
    if isinstance(objective, Adaptation) and not (
      denoise.rules.shifted and denoise.rules.window == 'full' and denoise.always_active
    ):
      raise ValueError(
        'adaptation starts from a model that predicts the next token and ends at one that sees '
        'everything: it needs hyperschedule flat and denoiser alignment shifted, window full'
      )
    if isinstance(objective, NextToken) and config.hyperschedule.name != 'autoregressive':
      raise ValueError(
        'next_token needs hyperschedule autoregressive, '
        f'got {config.hyperschedule.name}: its model can generate in no other order'
      )
  return Method(process, schedule, denoise, objective, gate)


def _of_latents(config, process, schedule, network: TransformerConfig, eos_id: int) -> Method:
  """Returns the method of a latent refiner."""
  with _blaming('objective'):
    objective = _call(OBJECTIVES, config.objective)
    if network.conditioning != 'adaln':
      raise ValueError('latent_diffusion needs config.model.conditioning adaln: it tells the time')
    if config.gate.kind:
      raise ValueError('config.gate.kind is set, but only objective overwrite_gate trains a gate')
  denoise = LatentDenoiser(LatentNetwork(network, objective.latent_dim), eos_id)
  return Method(process, schedule, denoise, objective)


def make_gate(config: ConfigDict) -> Gate | None:
  """Returns the overwrite gate of a config; None for none.

  Raises:
    ValueError: one of its values is none.
  """
  settings = config.gate
  if not settings.kind:
    return None
  gate = Gate(
    settings.kind,
    config.model.model_dim,
    settings.width,
    tuple(settings.signals),
    settings.standardise,
  )
  gate.check()
  return gate


def measured_on(method: Method, hyperschedule: Hyperschedule, own_chain: bool) -> Method:
  """Returns the method whose bound on other rows than it was trained on is meant.

  Args:
    method: of a model that is not autoregressive.
    hyperschedule: over as many positions.
    own_chain: see `Method`.

  Raises:
    UserError: the model cannot be used so.
  """
  if method.is_autoregressive:
    raise UserError('the likelihood of an autoregressive model is exact, and of its own order only')
  return on_schedule(method, hyperschedule, own_chain)


def on_schedule(
  method: Method,
  hyperschedule: Hyperschedule,
  own_chain: bool = False,
  context_length: int | None = None,
) -> Method:
  """Returns the method generating along other rows than it was trained on.

  Args:
    method: of a model.
    hyperschedule: over any number of positions.
    own_chain: see `Method`.
    context_length: see `layouts.Rules`; None for that of training.

  Raises:
    UserError: the model cannot be used so.
  """
  if method.is_latent:
    raise UserError('a latent refiner refines drafts: it has no likelihood and no samplers')
  if own_chain and not isinstance(method.process, noise.EpsilonHybrid):
    raise UserError(
      'only a model with noise epsilon_hybrid has a chain of its own beside absorbing'
    )
  in_order = hyperschedule.one_at_a_time and hyperschedule.left_to_right
  if method.is_autoregressive and not in_order:
    raise UserError(
      'an autoregressive model generates from left to right, one token a step, not along '
      f'{hyperschedule.name}'
    )
  rules = dataclasses.asdict(method.denoise.rules)
  if context_length is not None:
    rules['context_length'] = context_length
  with _blaming('denoiser'):
    denoise = make_denoiser(method.denoise.network, hyperschedule, **rules)
  return dataclasses.replace(
    method, hyperschedule=hyperschedule, denoise=denoise, own_chain=own_chain
  )


def parse_hyperschedule(text: str, length: int) -> Hyperschedule:
  """Returns the hyperschedule of a flag such as 'block,width=4,num_levels=8'.

  Raises:
    UserError: it cannot be read, or names what does not exist.
  """
  name, *settings = text.split(',')
  pairs = [setting.partition('=') for setting in settings]
  if not all(key and value.isdecimal() for key, _, value in pairs):
    raise UserError(f"hyperschedule {text!r} must look like 'block,width=4,num_levels=8'")
  numbers = {key: int(value) for key, _, value in pairs}
  known = inspect.signature(hyperschedules.BY_NAME.get(name, hyperschedules.flat)).parameters
  unknown = sorted(set(numbers) - set(known) | ({'length'} & set(numbers)))
  if unknown:
    raise UserError(
      f'hyperschedule {text!r}: {", ".join(unknown)} is unknown; {name} takes '
      f'{", ".join(x for x in known if x != "length") or "nothing"}'
    )
  with _blaming('hyperschedule'):
    return _call(hyperschedules.BY_NAME, {'name': name, **numbers}, length=length)


def make_hyperschedule(
  config: ConfigDict, num_levels: int | None = None, length: int | None = None
) -> Hyperschedule:
  """Returns config.hyperschedule, for sampling with T = num_levels over `length` positions.

  Args:
    config: a whole experiment config.
    num_levels: T; None for the config's.
    length: L, and at most as wide a window; None for the config's.

  Raises:
    UserError: an unknown name or a value out of range.
  """
  settings = dict(config.hyperschedule)
  if num_levels is not None:
    settings['num_levels'] = num_levels
  if length is not None:
    settings['width'] = min(settings['width'], length)
  with _blaming('hyperschedule'):
    return _call(hyperschedules.BY_NAME, settings, length=length or config.data.length)


def _call(known: dict[str, Any], settings: ConfigDict | dict, **extra: Any) -> Any:
  """Calls known[settings['name']] with those of the settings that it takes."""
  settings = dict(settings)
  name = settings.pop('name')
  if name not in known:
    raise ValueError(f'unknown name {name!r}; known: {", ".join(known)}')
  parameters = inspect.signature(known[name]).parameters
  missing = [
    key
    for key, parameter in parameters.items()
    if parameter.default is parameter.empty and key not in settings | extra
  ]
  if missing:
    raise ValueError(f'{name} also needs {", ".join(missing)}')
  return known[name](**{k: v for k, v in (settings | extra).items() if k in parameters})


class _blaming:
  """Turns a ValueError into a message that names the part of the config at fault."""

  def __init__(self, part: str):
    self._part = part

  def __enter__(self):
    return self

  def __exit__(self, kind, error, traceback):
    if isinstance(error, ValueError | TypeError):
      raise UserError(f'config.{self._part}: {error}') from error
    return False
