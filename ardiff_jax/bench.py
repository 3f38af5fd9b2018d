"""Measures speed, as a share of what a plain matrix product reaches in the same process.

  python -m ardiff_jax.bench train_step [--config=configs/epsilon_hybrid.py:tiny]
  python -m ardiff_jax.bench sampler    [--config=configs/bd3lm.py:tiny]     with and without cache
  python -m ardiff_jax.bench sampler    [--config=configs/a3.py:tiny]        by size of groups
  python -m ardiff_jax.bench attention  [--config=configs/bd3lm.py:tiny]     doubled training

Only products of matrices of a plain pass over L rows are counted as useful work, so recomputation
(remat) is not, nor the second showing of tokens in a doubled pass.
"""

import dataclasses
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
_GROUPS = 1, 2, 4, 8  # sizes


def main(benchmark: str) -> None:
  config = cli.read_config(_CONFIG)
  measure = BENCHMARKS[benchmark]
  result = measure(config, _VOCAB_SIZE.value, _REPEATS.value)
  width = max(map(len, result))
  for name, value in result.items():
    print(f'{name:<{width}}  {value if isinstance(value, str) else format(value, ",.4g")}')


def bench_train_step(config: ConfigDict, vocab_size: int, repeats: int) -> dict[str, Any]:
  """Returns timings of the training step on random text, data loading left out."""
  from ardiff_jax.models.flops import train_flops_per_token

  _, run = _train_step(config, vocab_size)
  tokens_per_step = config.train.batch_size * config.data.length
  flops = train_flops_per_token(config, vocab_size) * tokens_per_step
  (seconds,), peak, first = _time_all([run], repeats, config.model.dtype)
  return _machine() | {'first run, s': first[0]} | _rates(seconds, tokens_per_step, flops, peak)


def bench_sampler(config: ConfigDict, vocab_size: int, repeats: int) -> dict[str, Any]:
  """Returns timings of generating four texts from nothing with random parameters, with a cache and
  without, turn about; by a model of any order, in groups of several sizes."""
  import flax.linen as nn
  import jax
  import jax.numpy as jnp

  from ardiff_jax import hyperschedules, samplers
  from ardiff_jax import method as method_lib
  from ardiff_jax.sampling.loop import generate

  trained = method_lib.build(config, vocab_size, bos_id=0, eos_id=1)
  name, length = config.sampling.sampler, config.data.length
  schedules = [samplers.rows(trained, config, name, length=length)]
  if trained.is_any_order and samplers.named(name).own_rows is None:
    schedules = [hyperschedules.block(length, width, num_levels=1) for width in _GROUPS]
  methods = [method_lib.on_schedule(trained, schedule) for schedule in schedules]
  params = nn.unbox(trained.denoise.init(jax.random.key(0), length))
  shape = _SAMPLER_BATCH, length
  sampler = jax.jit(generate, static_argnames=('denoise', 'process', 'use_cache'))
  nothing = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool)
  keys = jax.random.split(jax.random.key(1), _SAMPLER_BATCH)
  calls, runs = {}, {}
  for schedule, method in zip(schedules, methods, strict=True):
    stepper = samplers.make(method, config, name)
    caches = [False, True] if samplers.is_cacheable(method, stepper) else [False]
    for use_cache in caches:
      kind = 'cached' if use_cache else 'uncached'
      if len(schedules) > 1:
        kind = f'groups of {schedule.width}, {kind}'

      def run(kind=kind, method=method, stepper=stepper, schedule=schedule, use_cache=use_cache):
        process = method.generation_process
        args = method.denoise, params, process, stepper, schedule, *nothing, keys
        calls[kind] = int(sampler(*args, use_cache=use_cache).network_calls)

      runs[kind] = run

  @jax.jit
  def blocks(params, canvas):
    """The network up to the vocabulary, over the whole canvas."""
    settle_step = jnp.asarray(schedule.settle_step)
    shown = dict(sigma=jnp.ones(shape), regions=schedule.regions(0), settle_step=settle_step)
    return method.denoise.features(params, canvas, **shown, outputs=jnp.arange(length))

  runs['blocks'] = lambda: jax.block_until_ready(blocks(params, nothing[0]))
  times, peak, _ = _time_all(list(runs.values()), repeats, config.model.dtype)
  medians = {kind: statistics.median(x) for kind, x in zip(runs, times, strict=True)}
  result = _machine() | {'sampler': f'{name}, {schedules[0].name}' if len(schedules) == 1 else name}
  for kind, count in calls.items():
    result[f'{kind}, network calls'] = count
    result[f'{kind}, tokens/s'] = math.prod(shape) / medians[kind]
    result[f'{kind}, ms a call'] = 1e3 * medians[kind] / count
  result['uncached, blocks alone, ms'] = 1e3 * medians['blocks']
  for kind in calls:
    if (other := kind.replace('uncached', 'cached')) != kind and other in medians:
      result[f'{other} : uncached'] = medians[kind] / medians[other]
  return result | {'matrix product GFLOP/s': peak / 1e9}


def bench_attention(config: ConfigDict, vocab_size: int, repeats: int) -> dict[str, Any]:
  """Returns timings and memory of a plain training step, of a doubled one, and of a doubled one
  whose attention meets all pairs of rows; turn about."""
  from ardiff_jax.models.denoiser import Denoiser

  class AllPairs(Denoiser):
    def tiled(self, *args, tiles, **kwargs):
      return super().tiled(*args, tiles=tiles._replace(span=None), **kwargs)

  config.objective.doubled = True
  plain = config.copy_and_resolve_references()
  plain.hyperschedule.name, plain.objective.doubled = 'flat', False
  all_pairs = lambda denoise: AllPairs(**vars(denoise))  # noqa: E731
  kinds = {'plain': (plain, None), 'doubled': (config, None), 'all pairs': (config, all_pairs)}
  compiled, runs = zip(
    *(_train_step(x, vocab_size, change) for x, change in kinds.values()), strict=True
  )
  times, peak, _ = _time_all(list(runs), repeats, config.model.dtype)
  medians = {kind: statistics.median(x) for kind, x in zip(kinds, times, strict=True)}
  result = _machine()
  for kind, program in zip(kinds, compiled, strict=True):
    result[f'{kind}, s'] = medians[kind]
    result[f'{kind}, temporary MiB'] = program.memory_analysis().temp_size_in_bytes / 2**20
  result['doubled : plain'] = medians['doubled'] / medians['plain']
  result['all pairs : doubled'] = medians['all pairs'] / medians['doubled']
  return result | {'matrix product GFLOP/s': peak / 1e9}


BENCHMARKS = {
  'train_step': bench_train_step,
  'sampler': bench_sampler,
  'attention': bench_attention,
}


def _train_step(
  config: ConfigDict, vocab_size: int, change: Callable[[Any], Any] | None = None
) -> tuple[Any, Callable[[], None]]:
  """Returns the compiled training step, its denoiser changed, and a call that runs it once."""
  import jax
  import jax.numpy as jnp

  from ardiff_jax import mesh as mesh_lib
  from ardiff_jax import method as method_lib
  from ardiff_jax.training.state import abstract_state, init_state, make_optimizer
  from ardiff_jax.training.step import jit_train_step

  mesh = mesh_lib.make_mesh(config.mesh)
  method = method_lib.build(config, vocab_size, bos_id=0, eos_id=1)
  optimizer, _ = make_optimizer(config.train)
  shapes = method.denoise, optimizer, config.data.length, 0, mesh
  changed = dataclasses.replace(method, denoise=change(method.denoise)) if change else method
  step_fn = jit_train_step(config, changed, optimizer, abstract_state(*shapes), mesh)
  shape = config.train.batch_size, config.data.length
  tokens = jax.random.randint(jax.random.key(1), shape, 0, vocab_size)
  all_true, none = jnp.ones(shape, bool), jnp.zeros(shape[0], bool)
  batch = mesh_lib.place_whole(mesh, {'tokens': tokens, 'loss_mask': all_true, 'stop': none})
  schedule = mesh_lib.repeat(mesh, method.hyperschedule)
  key = mesh_lib.repeat(mesh, jax.random.key(0))
  state = init_state(*shapes)
  with mesh_lib.use(mesh):
    compiled = step_fn.lower(state, batch, schedule, key).compile()

  def run() -> None:
    nonlocal state
    state, *_ = compiled(state, batch, schedule, key)
    jax.block_until_ready(state)

  return compiled, run


def _time_all(
  runs: list[Callable[[], None]], repeats: int, dtype: str
) -> tuple[list[list[float]], float, list[float]]:
  """Returns seconds of each repeat of each run, the FLOP/s of a matrix product, and the seconds of
  each first run; turn about, so that what else the machine does meets all alike."""
  first = [_time(run) for run in runs]
  seconds, matmul = [[] for _ in runs], []
  for _ in range(repeats):
    for run, times in zip(runs, seconds, strict=True):
      times.append(_time(run))
    matmul.append(_matmul_flops_per_second(dtype))
  return seconds, statistics.median(matmul), first


def _machine() -> dict[str, str]:
  import jax

  return {
    'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'versions': f'jax {jax.__version__}, flax {importlib.metadata.version("flax")}',
  }


def _rates(seconds: list[float], tokens: int, flops: float, peak: float) -> dict[str, Any]:
  median = statistics.median(seconds)
  return {
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
  cli.run(main, choices=tuple(BENCHMARKS))
