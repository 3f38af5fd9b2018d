"""Training state: parameters, their moving average and the optimizer's moments."""

from collections.abc import Collection
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ardiff_jax import mesh as mesh_lib
from ardiff_jax import rng
from ardiff_jax.method import Method
from ardiff_jax.models.denoiser import Denoiser


@flax.struct.dataclass
class TrainState:
  """Everything that training changes; a pytree.

  Attributes:
    step: int32[], updates made.
    params: variables of the network, float32.
    ema: exponential moving average of params, used by evaluation and sampling.
    opt_state: state of the optimizer.
  """

  step: jax.Array
  params: Any
  ema: Any
  opt_state: Any


def make_optimizer(
  config: ConfigDict, trained: Collection[str] | None = None
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Returns AdamW behind norm clipping, and its schedule: linear warm-up, then cosine to 0.

  Weight decay acts on matrices only, not on the scales of norms. A warm-up as long as the run is
  cut to leave a step of decay, so that runs of a few steps work.

  Args:
    config: config.train.
    trained: collections of the parameters that are trained, the others staying as they are; None
      for all.
  """
  schedule = optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=config.learning_rate,
    warmup_steps=max(0, min(config.warmup_steps, config.steps - 1)),
    decay_steps=max(config.steps, 1),
  )
  optimizer = optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.adamw(
      schedule,
      b1=0.9,
      b2=config.adam_b2,
      weight_decay=config.weight_decay,
      mask=lambda params: jax.tree_util.tree_map_with_path(_is_matrix, params),
    ),
  )
  if trained is None:
    return optimizer, schedule
  kinds = {True: optimizer, False: optax.set_to_zero()}
  labels = lambda params: {name: name in trained for name in params}  # noqa: E731
  return optax.multi_transform(kinds, labels), schedule


def _is_matrix(path: tuple, _: jax.Array) -> bool:
  return not any(name in jax.tree_util.keystr(path) for name in ('scale', 'bias'))


def init_state(
  model: Method | Denoiser,
  optimizer: optax.GradientTransformation,
  length: int,
  seed: int,
  mesh: Mesh,
) -> TrainState:
  """Creates the state already sharded, so that no host ever holds the whole model."""
  init, shardings = _init_and_shardings(model, optimizer, length, seed, mesh)
  with mesh_lib.use(mesh):
    return jax.jit(init, out_shardings=shardings)()


def abstract_state(
  model: Method | Denoiser,
  optimizer: optax.GradientTransformation,
  length: int,
  seed: int,
  mesh: Mesh,
) -> TrainState:
  """Returns the shapes, dtypes and shardings of `init_state`, without computing it."""
  init, shardings = _init_and_shardings(model, optimizer, length, seed, mesh)
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    jax.eval_shape(init),
    shardings,
  )


def abstract_params(model: Method | Denoiser, length: int, mesh: Mesh) -> dict:
  """Returns the shapes, dtypes and shardings of the parameters alone."""
  boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), length))
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    nn.unbox(boxed),
    mesh_lib.shardings(mesh, boxed),
  )


def _init_and_shardings(model, optimizer, length, seed, mesh):
  def boxed_init() -> TrainState:
    params = model.init(rng.stream(jax.random.key(seed), 'params'), length)
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      ema=jax.tree.map(jnp.copy, params),
      opt_state=optimizer.init(params),
    )

  shardings = mesh_lib.shardings(mesh, jax.eval_shape(boxed_init))
  return lambda: nn.unbox(boxed_init()), shardings
