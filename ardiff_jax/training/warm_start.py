"""Starting from another run's parameters: an AR model taught to denoise, or any fine-tuning."""

import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ardiff_jax import mesh as mesh_lib
from ardiff_jax import method as method_lib
from ardiff_jax import paths, workdir
from ardiff_jax.data.tokenizers import Tokenizer, load_tokenizer
from ardiff_jax.errors import UserError
from ardiff_jax.training.checkpointing import restore_ema
from ardiff_jax.training.state import TrainState

# of config.model, what does not change the parameters
_FREE = ('dropout', 'remat', 'dtype', 'attention')
_ADDED = 'mask_position_embedding'  # a parameter that the other network may lack


def source_tokenizer(config: ConfigDict) -> Tokenizer:
  """Returns the tokenizer of the run config.init_from, whose network must be the same.

  Raises:
    UserError: there is no such run, or its network or tokenizer is another.
  """
  directory = _directory(config)
  source = ConfigDict(workdir.read(directory)['config'])
  theirs = source.model
  if source.objective.head != config.objective.head:
    raise UserError(
      f'config.init_from={config.init_from} was trained with config.objective.head='
      f'{source.objective.head}, here it is {config.objective.head}: its outputs mean another thing'
    )
  if config.objective.name == 'overwrite_gate':
    _check_denoiser(config, source)
  differing = [
    f'{key} is {theirs.get(key)!r} there and {config.model.get(key)!r} here'
    for key in sorted({*theirs, *config.model} - {*_FREE})
    if theirs.get(key) != config.model.get(key)
    and not (key == 'mask_positions' and not theirs[key])
  ]
  if differing:
    raise UserError(
      f'config.init_from={config.init_from}: another network: config.model.'
      f'{"; ".join(differing)}; set config.model as it is there, but for {", ".join(_FREE)}'
    )
  return load_tokenizer(directory, config.tokenizer)


def _check_denoiser(config: ConfigDict, source: ConfigDict) -> None:
  """Raises UserError unless the source is the denoiser that the config of a gate says it is."""
  ours, theirs = (workdir.to_json(x) for x in (config, source))
  differing = [
    f'config.{part}.{key} is {theirs[part][key]!r} there and {ours[part][key]!r} here'
    for part in ('noise', 'hyperschedule', 'denoiser')
    for key in ours[part]
    if theirs[part].get(key) != ours[part][key]
  ]
  if source.objective.name == 'next_token' or (
    source.objective.name == 'score_entropy' and source.objective.head == 'score'
  ):
    differing.append(f'its objective {source.objective.name} teaches no prediction of x_0')
  if differing:
    raise UserError(
      f'config.init_from={config.init_from} is no denoiser for this gate: {"; ".join(differing)}'
    )


def warm_start(state: TrainState, config: ConfigDict) -> TrainState:
  """Returns the state with the moving average of config.init_from as parameters and average.

  A gate of this run starts anew, unless that one has the same, and so do vectors of the positions
  of masks if that one has none.

  Raises:
    UserError: it has no sound checkpoint.
  """
  directory = _directory(config)
  theirs = ConfigDict(workdir.read(directory)['config'])
  own = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state.params
  )
  stored = {'params': dict(own['params'])}
  if not theirs.model.mask_positions:
    stored['params'].pop(_ADDED, None)
  same_gate = workdir.to_json(theirs.gate) == workdir.to_json(config.gate)
  if theirs.gate.kind and same_gate:
    stored['gate'] = own['gate']
  elif theirs.gate.kind:
    weights = method_lib.make_gate(theirs).new_weights(jax.random.key(0))
    mesh = jax.tree.leaves(own)[0].sharding.mesh
    stored['gate'] = mesh_lib.repeat(mesh, nn.unbox(weights))
  _, restored = restore_ema(directory, stored)
  params = dict(state.params)
  params['params'] = params['params'] | restored['params']
  if same_gate and 'gate' in restored:
    params['gate'] = restored['gate']
  return state.replace(params=params, ema=jax.tree.map(jnp.copy, params))  # donated apart


def _directory(config: ConfigDict) -> pathlib.Path:
  return paths.path_of(config.init_from)
