"""Work directories as training leaves them, without training: their parameters are random."""

import contextlib
import math
import pathlib
import zlib
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from ardiff_jax import mesh as mesh_lib
from ardiff_jax import workdir as workdir_lib
from ardiff_jax.training import loop
from ardiff_jax.training.checkpointing import save_ema
from ardiff_jax.training.state import abstract_params


def random_params(shapes: Any, scale: float = 0.5) -> Any:
  """Returns parameters of such shapes, all of them far from 0; at scale 1 logits are about 1."""

  def drawn(path, x):
    name = jax.tree_util.keystr(path)
    value = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(x.shape, np.float32)
    fan_in = min(x.shape[-2:]) if len(x.shape) > 1 else 10  # of whatever is contracted
    return ('scale' in name) + value * np.float32(scale / math.sqrt(fan_in))

  return jax.tree_util.tree_map_with_path(drawn, shapes)


def untrained(config: ConfigDict, directory: pathlib.Path) -> pathlib.Path:
  """Makes `directory` a finished run of a config."""
  mesh = mesh_lib.make_mesh(config.mesh)
  prepared = loop._prepare(config, directory, mesh)
  params = random_params(abstract_params(prepared.method, config.data.length, mesh))
  parameters = sum(x.size for x in jax.tree.leaves(params))
  workdir_lib.create(directory)
  prepared.tokenizer.save(directory)
  workdir_lib.write(directory, prepared.description | {'parameters': parameters})
  save_ema(directory, params, prepared.description['config'])
  workdir_lib.mark_done(directory)
  return directory


@contextlib.contextmanager
def one_device():
  """Has every mesh made of the first device alone, where the claim is not about meshes."""
  make_mesh = mesh_lib.make_mesh
  with pytest.MonkeyPatch.context() as patch:
    of_one = lambda config, devices=None: make_mesh(ConfigDict(), devices or jax.devices()[:1])  # noqa: E731
    patch.setattr(mesh_lib, 'make_mesh', of_one)
    yield
