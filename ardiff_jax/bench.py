"""Measures speed, as a share of what a plain matrix product reaches in the same process.

  python -m ardiff_jax.bench train_step [--config=configs/epsilon_hybrid.py:tiny]
  python -m ardiff_jax.bench sampler    [--config=...]

Only products of matrices are counted as useful work, so recomputation (remat) is not.
"""

import importlib.metadata
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from ardiff_jax import cli

_CONFIG = cli.define_config()
_VOCAB_SIZE = flags.DEFINE_integer('vocab_size', 2048, 'Tokens of the random text.', lower_bound=2)
_REPEATS = flags.DEFINE_integer('repeats', 10, 'Timed runs; the median counts.', lower_bound=1)
_SAMPLER_BATCH = 4


def main(benchmark: str) -> None:
  config = cli.read_config(_CONFIG)
  measure = {'train_step': bench_train_step, 'sampler': bench_sampler}[benchmark]
  result = measure(config, _VOCAB_SIZE.value, _REPEATS.value)
  width = max(map(len, result))
  for name, value in result.items():
    print(f'{name:<{width}}  {value if isinstance(value, str) else format(value, ",.4g")}')


def bench_train_step(config: ConfigDict, vocab_size: int, repeats: int) -> dict[str, Any]:
  """Returns timings of the training step on random text, data loading left out."""
  import jax
  import jax.numpy as jnp

  from ardiff_jax import mesh as mesh_lib
  from ardiff_jax import method as method_lib
  from ardiff_jax.training.state import init_state, make_optimizer
  from ardiff_jax.training.step import make_train_step

  mesh = mesh_lib.make_mesh(config.mesh)
  method = method_lib.build(config, vocab_size, bos_id=0)
  optimizer, _ = make_optimizer(config.train)
  step_fn = jax.jit(
    make_train_step(
      method.denoise,
      method.objective,
      optimizer,
      ema_decay=config.train.ema_decay,
      accumulate=config.train.accumulate,
      dropout=config.model.dropout > 0.0,
    ),
    donate_argnames='state',
  )
  shape = config.train.batch_size, config.data.length
  tokens = jax.random.randint(jax.random.key(1), shape, 0, vocab_size)
  batch = mesh_lib.place_whole(mesh, {'tokens': tokens, 'loss_mask': jnp.ones(shape, bool)})
  schedule = mesh_lib.repeat(mesh, method.hyperschedule)
  key = mesh_lib.repeat(mesh, jax.random.key(0))
  state = init_state(method.denoise, optimizer, config.data.length, 0, mesh)

  def run() -> None:
    nonlocal state
    with mesh_lib.use(mesh):
      state, _ = step_fn(state, batch, schedule, key)
    jax.block_until_ready(state)

  tokens_per_step = math.prod(shape)
  flops = 3 * forward_flops_per_token(config, vocab_size) * tokens_per_step
  return _report(run, repeats, tokens_per_step, flops, config.model.dtype)


def bench_sampler(config: ConfigDict, vocab_size: int, repeats: int) -> dict[str, Any]:
  """Returns timings of generating four texts from nothing, with random parameters."""
  import flax.linen as nn
  import jax
  import jax.numpy as jnp

  from ardiff_jax import method as method_lib
  from ardiff_jax.sampling.loop import generate

  method = method_lib.build(config, vocab_size, bos_id=0)
  schedule = method_lib.make_hyperschedule(config, num_levels=config.sampling.steps)
  name = config.sampling.sampler
  stepper = method_lib.make_stepper(method, name, config.sampling.eta)
  params = nn.unbox(method.denoise.init(jax.random.key(0), config.data.length))
  shape = _SAMPLER_BATCH, config.data.length
  sampler = jax.jit(generate, static_argnames=('denoise', 'process', 'stepper'))
  nothing = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool)
  keys = jax.random.split(jax.random.key(1), _SAMPLER_BATCH)

  def run() -> None:
    jax.block_until_ready(
      sampler(method.denoise, params, method.generation_process, stepper, schedule, *nothing, keys)
    )

  tokens = math.prod(shape)
  flops = forward_flops_per_token(config, vocab_size) * tokens * schedule.num_steps
  result = _report(run, repeats, tokens, flops, config.model.dtype)
  return result | {'network calls': schedule.num_steps, 'sampler': f'{name}, {schedule.name}'}


def forward_flops_per_token(config: ConfigDict, vocab_size: int) -> float:
  """Returns floating-point operations of the matrix products of one token's forward pass."""
  from ardiff_jax.models.transformer import TransformerConfig

  model = TransformerConfig(vocab_size=vocab_size, **config.model)
  width, length = model.model_dim, config.data.length
  projections = 2 * width * (2 * model.num_heads + 2 * model.kv_heads) * model.head_dim
  attention = 4 * length * width
  mlp = 2 * width * model.hidden_dim * (3 if model.activation == 'swiglu' else 2)
  modulation = 2 * (width // 4) * 6 * width if model.conditioning == 'adaln' else 0
  head = 2 * width * vocab_size
  return model.num_layers * (projections + attention + mlp + modulation) + head


def _report(
  run: Callable[[], None], repeats: int, tokens: int, flops: float, dtype: str
) -> dict[str, Any]:
  import jax

  began = time.perf_counter()
  run()
  compile_seconds = time.perf_counter() - began
  run()
  seconds, matmul = [], []
  for _ in range(repeats):  # turn about, so that what else the machine does meets both
    seconds.append(_time(run))
    matmul.append(_matmul_flops_per_second(dtype))
  median, peak = statistics.median(seconds), statistics.median(matmul)
  return {
    'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'versions': f'jax {jax.__version__}, flax {importlib.metadata.version("flax")}',
    'first run, s': compile_seconds,
    'median, s': median,
    'range, s': f'{min(seconds):.4g} to {max(seconds):.4g}',
    'tokens/s': tokens / median,
    'useful GFLOP/s': flops / median / 1e9,
    'matrix product GFLOP/s': peak / 1e9,
    'ratio': flops / median / peak,
  }


def _matmul_flops_per_second(dtype: str) -> float:
  import jax
  import jax.numpy as jnp

  n = 2048
  x = jax.random.normal(jax.random.key(0), (n, n), dtype)
  product = jax.jit(jnp.matmul)
  jax.block_until_ready(product(x, x))
  return 2 * n**3 / _time(lambda: jax.block_until_ready(product(x, x)))


def _time(run: Callable[[], None]) -> float:
  began = time.perf_counter()
  run()
  return time.perf_counter() - began


if __name__ == '__main__':
  cli.run(main, choices=('train_step', 'sampler'))
