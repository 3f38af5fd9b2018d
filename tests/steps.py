"""A few updates on fixed tokens, on any mesh."""

import jax
import numpy as np
from ml_collections import ConfigDict

from ardiff_jax import mesh as mesh_lib
from ardiff_jax import method as method_lib
from ardiff_jax.training.state import abstract_state, init_state, make_optimizer
from ardiff_jax.training.step import jit_train_step

VOCAB = 257
BATCH = 8


def make_mesh(**sizes):
  """Of all devices, one along each axis that is not named; of the first alone without sizes."""
  devices = None if sizes else jax.devices()[:1]
  return mesh_lib.make_mesh(ConfigDict(sizes), devices)


def make_step(config, mesh):
  """Returns the step, what it takes besides the state, and the state's shapes."""
  method = method_lib.build(config, VOCAB, bos_id=256, eos_id=0)
  optimizer, _ = make_optimizer(config.train)
  abstract = abstract_state(method.denoise, optimizer, config.data.length, 0, mesh)
  tokens = np.random.default_rng(0).integers(0, VOCAB, (BATCH, config.data.length), np.int32)
  mask = np.ones(tokens.shape, bool)
  mask[1, :20] = False  # unequal counts: microbatches must be weighted by their tokens
  batch = mesh_lib.place_batch(mesh, {'tokens': tokens, 'loss_mask': mask})
  batch['stop'] = mesh_lib.place_flag(mesh, False, BATCH)
  with mesh_lib.use(mesh):
    constants = mesh_lib.repeat(mesh, (method.hyperschedule, jax.random.key(0)))
  step = jit_train_step(config, method, optimizer, abstract, mesh)
  return step, (batch, *constants), abstract


def make_state(config, mesh):
  method = method_lib.build(config, VOCAB, bos_id=256, eos_id=0)
  optimizer, _ = make_optimizer(config.train)
  return init_state(method.denoise, optimizer, config.data.length, 0, mesh)


def run_steps(config, mesh, steps=3):
  """Returns the state on the host, and the losses."""
  step, arguments, _ = make_step(config, mesh)
  state, losses = make_state(config, mesh), []
  for _ in range(steps):
    with mesh_lib.use(mesh):
      state, metrics, _ = step(state, *arguments)
    losses.append(float(jax.device_get(metrics).compute()['loss']))
  return jax.device_get(state), losses


def assert_same_gradients(a, b):
  """Compares Adam's first moments: parameters would hide small gradients behind their sign."""
  moments = [state.opt_state[1][0].mu for state in (a, b)]
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), *moments)
