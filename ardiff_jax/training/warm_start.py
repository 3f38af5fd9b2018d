"""Starting from another run's parameters: an AR model taught to denoise, or any fine-tuning."""

import pathlib

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ardiff_jax import workdir
from ardiff_jax.data.tokenizers import Tokenizer, load_tokenizer
from ardiff_jax.errors import UserError
from ardiff_jax.training.checkpointing import restore_ema
from ardiff_jax.training.state import TrainState

# of config.model, what does not change the parameters
_FREE = ('dropout', 'remat', 'dtype', 'attention')


def source_tokenizer(config: ConfigDict) -> Tokenizer:
  """Returns the tokenizer of the run config.init_from, whose network must be the same.

  Raises:
    UserError: there is no such run, or its network or tokenizer is another.
  """
  directory = _directory(config)
  theirs = ConfigDict(workdir.read(directory)['config']).model
  differing = [
    f'{key} is {theirs.get(key)!r} there and {config.model.get(key)!r} here'
    for key in sorted({*theirs, *config.model} - {*_FREE})
    if theirs.get(key) != config.model.get(key)
  ]
  if differing:
    raise UserError(
      f'config.init_from={config.init_from}: another network: config.model.'
      f'{"; ".join(differing)}; set config.model as it is there, but for {", ".join(_FREE)}'
    )
  return load_tokenizer(directory, config.tokenizer)


def warm_start(state: TrainState, config: ConfigDict) -> TrainState:
  """Returns the state with the moving average of config.init_from as parameters and average.

  Raises:
    UserError: it has no sound checkpoint.
  """
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state.params
  )
  _, params = restore_ema(_directory(config), abstract)
  return state.replace(params=params, ema=jax.tree.map(jnp.copy, params))  # donated apart


def _directory(config: ConfigDict) -> pathlib.Path:
  return pathlib.Path(config.init_from).expanduser().absolute()
