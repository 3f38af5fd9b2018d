"""One update: loss, gradient over microbatches, optimizer, moving average. Pure functions."""

from collections.abc import Callable
from typing import Any

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ardiff_jax import mesh as mesh_lib
from ardiff_jax import rng
from ardiff_jax.hyperschedules import Hyperschedule
from ardiff_jax.method import Method
from ardiff_jax.models.denoiser import Denoiser
from ardiff_jax.objectives.likelihood import Examples
from ardiff_jax.training.state import TrainState


@flax.struct.dataclass
class TrainMetrics(clu.metrics.Collection):
  """Means over the steps since the last line of the log."""

  loss: clu.metrics.Average.from_output('loss')
  grad_norm: clu.metrics.Average.from_output('grad_norm')


def make_train_step(
  denoise: Denoiser,
  objective: Callable[..., jax.Array],
  optimizer: optax.GradientTransformation,
  *,
  ema_decay: float,
  accumulate: int,
  dropout: bool,
) -> Callable[..., tuple[TrainState, TrainMetrics, jax.Array]]:
  """Returns `train_step(state, batch, hyperschedule, root_key) -> (state, metrics, stop)`, not
  jitted.

  Args:
    denoise: the denoiser.
    objective: loss per position, see `objectives`.
    optimizer: gradient transformation.
    ema_decay: decay of the moving average; early steps use min(decay, (1+step)/(10+step)).
    accumulate: number of microbatches; but for rounding, the result depends on it only through
      dropout, which is drawn for each microbatch.
    dropout: whether the network draws dropout.

  The batch is `{'tokens': int32[B, L], 'loss_mask': bool[B, L], 'stop': bool[B, T·S]}`, and where
  there are drafts `'draft': int32[B, L]`; the loss is the mean over its counted tokens, in nats per
  token. `stop` says for each device (see `mesh.place_flag`) whether its process was asked to stop,
  and as a result, bool[], whether any was: so all learn of it at the same step.
  """

  def loss_sum(params, examples, hyperschedule, dropout_key):
    return objective(denoise, params, examples, hyperschedule, dropout_key).sum()

  def train_step(
    state: TrainState, batch: dict, hyperschedule: Hyperschedule, root_key: jax.Array
  ) -> tuple[TrainState, TrainMetrics, jax.Array]:
    batch_size = batch['tokens'].shape[0]
    uniform = rng.low_discrepancy(rng.stream(root_key, 'row', state.step), batch_size)
    noise_key = rng.stream(root_key, 'noise', state.step)

    def microbatch(carry, xs):
      index, part, uniform, ids = xs
      keys = jax.vmap(jax.random.fold_in, (None, 0))(noise_key, ids)
      counted, draft = part['loss_mask'], part.get('draft')
      examples = Examples(part['tokens'], counted, uniform, keys, state.step, draft)
      dropout_key = rng.stream(root_key, 'dropout', state.step, index) if dropout else None
      loss, grads = jax.value_and_grad(loss_sum)(state.params, examples, hyperschedule, dropout_key)
      # float32 like the rest, so that devices add them up in one exchange
      count, stops = counted.sum(dtype=jnp.float32), part['stop'].sum(axis=0, dtype=jnp.float32)
      return jax.tree.map(jnp.add, carry, (count, stops, loss, grads)), None

    stops = jnp.zeros(batch['stop'].shape[1:])
    zero = 0.0, stops, 0.0, jax.tree.map(jnp.zeros_like, state.params)
    examples = batch, uniform, jnp.arange(batch_size)
    parts = jax.tree.map(lambda x: _split_batch(x, accumulate), examples)
    (count, stops, loss, grads), _ = jax.lax.scan(
      microbatch, zero, (jnp.arange(accumulate), *parts)
    )
    loss, grads = jax.tree.map(lambda x: x / jnp.maximum(count, 1.0), (loss, grads))

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    step = state.step + 1
    decay = jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))
    ema = optax.incremental_update(params, state.ema, 1.0 - decay)
    metrics = TrainMetrics.single_from_model_output(loss=loss, grad_norm=optax.tree.norm(grads))
    return TrainState(step, params, ema, opt_state), metrics, stops.sum() > 0.0

  return train_step


def jit_train_step(
  config: ConfigDict,
  method: Method,
  optimizer: optax.GradientTransformation,
  abstract: TrainState,
  mesh: Mesh,
) -> Callable[..., tuple[TrainState, TrainMetrics, jax.Array]]:
  """Returns the `train_step` of a config, jitted; the state is donated, and keeps its shardings.

  Args:
    config: the whole experiment.
    method: denoiser and objective.
    optimizer: gradient transformation.
    abstract: shapes and shardings of the state.
    mesh: devices.
  """
  train_step = make_train_step(
    method.denoise,
    method.objective,
    optimizer,
    ema_decay=config.train.ema_decay,
    accumulate=config.train.accumulate,
    dropout=config.model.dropout > 0.0,
  )
  everywhere = mesh_lib.everywhere(mesh)
  out = jax.tree.map(lambda x: x.sharding, abstract), everywhere, everywhere
  return jax.jit(train_step, donate_argnames='state', out_shardings=out)


def _split_batch(x: Any, parts: int) -> Any:
  """[B, ...] to [parts, B/parts, ...]; each part takes from the shards of every device."""
  return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
