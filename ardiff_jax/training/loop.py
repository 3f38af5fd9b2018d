"""The training loop: steps, log, evaluation, checkpoints, and clean ways out.

A step is dispatched before the metrics of the one before it are read, so the devices never wait
for the log. SIGTERM and SIGINT are noted and acted on between steps.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import operator
import pathlib
import signal
from collections.abc import Iterator

import clu.parameter_overview
import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ardiff_jax import mesh as mesh_lib
from ardiff_jax import method as method_lib
from ardiff_jax import processes, samplers
from ardiff_jax import workdir as workdir_lib
from ardiff_jax.data import pipeline, tokenizers
from ardiff_jax.data.corpus import load_corpus
from ardiff_jax.data.guided import Guided
from ardiff_jax.data.packing import Packed, pack
from ardiff_jax.errors import UserError
from ardiff_jax.evaluation import gates, latents, likelihood
from ardiff_jax.method import Method
from ardiff_jax.progress import Progress
from ardiff_jax.training import profiling
from ardiff_jax.training.checkpointing import Checkpointer
from ardiff_jax.training.state import TrainState, abstract_state, init_state, make_optimizer
from ardiff_jax.training.step import TrainMetrics, jit_train_step
from ardiff_jax.training.warm_start import source_tokenizer, warm_start
from ardiff_jax.training.writer import MetricWriter


class TrainingDiverged(Exception):
  """The loss or the gradient is not finite any more."""


@dataclasses.dataclass(frozen=True)
class _Prepared:
  """What a run needs before its first step; nothing of it has touched the work directory."""

  method: Method
  tokenizer: tokenizers.Tokenizer
  train: Packed | Guided
  valid: Packed | Guided
  description: dict


def train(
  config: ConfigDict, workdir: pathlib.Path, profile: tuple[int, int] | None = None
) -> bool:
  """Trains, or goes on training, in a work directory.

  Args:
    config: the whole experiment.
    workdir: made if it is not there; a run in it is resumed.
    profile: first and last step to trace; None for no trace.

  Returns:
    Whether the run is complete; False after an interruption, which saves first.

  Raises:
    UserError: bad config or text, a directory of another run, steps to trace that are not to be
      taken, or a checkpoint that cannot be written or read.
    TrainingDiverged: a loss or gradient is not finite; names the step. Nothing of that step is
      saved.
  """
  if profile:
    profiling.check_steps(profile, 1, config.train.steps)
  mesh = mesh_lib.make_mesh(config.mesh)
  prepared = _prepare(config, workdir, mesh)
  method, cfg = prepared.method, config.train
  optimizer, schedule = make_optimizer(cfg, method.trained)
  abstract = abstract_state(method, optimizer, config.data.length, config.seed, mesh)
  parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(abstract.params))
  prepared.description['parameters'] = parameters

  files = {k: hashlib.sha256(x).hexdigest() for k, x in prepared.tokenizer.files.items()}
  own = json.dumps(prepared.description | {'tokenizer': files})
  workdir_lib.check_same_processes([json.loads(x) for x in processes.texts(own)])
  processes.first_does(lambda: _start(workdir, prepared, abstract))
  if not workdir_lib.exists(workdir):
    raise UserError(f'--workdir={workdir} must be a directory that all processes share')

  part = mesh_lib.part_of_batch(mesh, cfg.batch_size)
  batches = pipeline.train_batches(
    prepared.train, batch_size=cfg.batch_size, seed=config.seed, part=part
  )
  iterator = iter(batches)
  checkpointer = Checkpointer(
    workdir, cfg.keep, cfg.keep_every, in_background=cfg.save_in_background
  )
  with contextlib.closing(checkpointer):
    state = checkpointer.restore(abstract, iterator)
    if state is None:
      state = init_state(method, optimizer, config.data.length, config.seed, mesh)
      if config.init_from:
        state = warm_start(state, config)
        processes.say(f'starting from the parameters of {config.init_from}')
    else:
      processes.say(f'resumed from step {int(state.step)} in {workdir}')
    start = int(state.step)
    if start >= cfg.steps:
      processes.say('all its steps are done')
    if profile:
      profiling.check_steps(profile, start + 1, cfg.steps)

    step_fn = jit_train_step(config, method, optimizer, abstract, mesh)
    hyperschedule = mesh_lib.repeat(mesh, method.hyperschedule)
    root_key = mesh_lib.repeat(mesh, jax.random.key(config.seed))
    writer = MetricWriter(workdir, start)
    progress = Progress('train', cfg.steps, start)
    stopwatch = profiling.Stopwatch()
    trace = profiling.Trace(workdir, profile, stopwatch)
    ideal = profiling.ideal_seconds_per_token(config, prepared.tokenizer.vocab_size, mesh)
    log = _Log(writer, progress, stopwatch, schedule, cfg.batch_size * config.data.length, ideal)
    stops = None  # whether any process was asked to stop, as told by the step before
    with (
      contextlib.closing(writer),
      contextlib.closing(progress),
      contextlib.closing(trace),
      _signals() as received,
    ):

      def evaluate(step: int) -> None:
        with stopwatch.part('aside'):
          scalars = _evaluate(config, prepared, state.ema, step, mesh, writer)
          checkpointer.score(step, scalars)

      if _is_evaluated(start, cfg) and not checkpointer.has_score(start):
        evaluate(start)  # it was stopped before it could
      for step in range(start + 1, cfg.steps + 1):
        trace.before(step, state)
        with jax.profiler.StepTraceAnnotation('train', step_num=step):
          with stopwatch.part('input'):
            batch = mesh_lib.place_batch(mesh, next(iterator))
            batch['stop'] = mesh_lib.place_flag(mesh, bool(received), cfg.batch_size)
          with mesh_lib.use(mesh):
            told = stops
            state, metrics, stops = step_fn(state, batch, hyperschedule, root_key)
        trace.after(step, state)
        with stopwatch.part('compute'):  # waits for what was told by the step before
          # once: a signal may come at any moment of what follows
          interrupted = bool(received if jax.process_count() == 1 else told)
        last = step == cfg.steps or interrupted
        log.add(step, metrics, flush=last or step % cfg.log_every == 0)
        evaluates = _is_evaluated(step, cfg)
        # what is to be evaluated, too: a signal is not acted on meanwhile, and its time may run out
        if evaluates or last or step % cfg.checkpoint_every == 0:
          log.check()
          checkpointer.save(step, state, iterator, prepared.description['config'])
        if interrupted:
          checkpointer.wait()
          why = received[0] if received else 'another process was stopped'
          saved = f'saved step {step} of {cfg.steps}'
          processes.say(f'{why}: {saved}; the same command goes on from there')
          return False
        if evaluates:
          evaluate(step)
      checkpointer.wait()
  if processes.is_first():
    workdir_lib.mark_done(workdir)
  return True


def _start(workdir: pathlib.Path, prepared: _Prepared, abstract: TrainState) -> None:
  """Makes the work directory, unless a run goes on in it."""
  workdir_lib.create(workdir)
  if not workdir_lib.exists(workdir):
    prepared.tokenizer.save(workdir)
    workdir_lib.write(workdir, prepared.description)
    processes.say(
      clu.parameter_overview.get_parameter_overview(abstract.params, include_stats=False)
    )


def _prepare(config: ConfigDict, workdir: pathlib.Path, mesh: Mesh) -> _Prepared:
  """Checks the config against the directory, and reads and packs the text.

  Raises:
    UserError: bad config, bad text, or a directory started with something else.
  """
  resumes = workdir_lib.exists(workdir)
  _check_numbers(config, mesh)
  samplers.check(config)  # complain before reading any text
  old = workdir_lib.read(workdir) if resumes else None
  settings = workdir_lib.to_json(config)
  if old:
    workdir_lib.check_same_run(workdir, old, {**old, 'config': settings})
  corpus = load_corpus(config.data)
  if resumes:
    tokenizer = tokenizers.load_tokenizer(workdir, config.tokenizer)
  elif config.init_from:
    tokenizer = source_tokenizer(config)
  else:
    tokenizer = tokenizers.build_tokenizer(config.tokenizer, corpus.train)
  description = {
    'config': settings,
    'tokenizer': {'name': tokenizer.name, 'vocab_size': tokenizer.vocab_size},
    'corpus': {'name': corpus.name, **corpus.identity},
    'versions': workdir_lib.versions(),
  }
  if old:
    workdir_lib.check_same_run(workdir, old, description)
  train = pack(corpus.train, tokenizer, config.data.length, 'train text')
  if len(train.stream) < config.data.length:
    raise UserError(
      f'the training text of {config.data.source} is shorter than one sequence: '
      f'{len(train.stream)} tokens, config.data.length={config.data.length}'
    )
  valid = pack(corpus.valid, tokenizer, config.data.length, 'valid text')
  if config.data.guided:
    train, valid = (Guided(packed, tokenizer, config.seed) for packed in (train, valid))
  return _Prepared(
    method=method_lib.build(config, tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id),
    tokenizer=tokenizer,
    train=train,
    valid=valid,
    description=description,
  )


_LOWEST = {
  'seed': 0,
  'train.steps': 1,
  'train.batch_size': 1,
  'train.accumulate': 1,
  'train.warmup_steps': 0,
  'train.log_every': 1,
  'train.eval_every': 1,
  'train.checkpoint_every': 1,
  'train.keep': 1,
  'train.keep_every': 0,
  'train.learning_rate': 0.0,
  'train.weight_decay': 0.0,
  'train.ema_decay': 0.0,
  'train.adam_b2': 0.0,
  'train.peak_flops': 0.0,
  'eval.batch_size': 1,
  'eval.num_samples': 1,
  'eval.train_sequences': 1,
}
_HIGHEST = {'seed': 2**32 - 1, 'train.ema_decay': 1.0, 'train.adam_b2': 1.0}


def _check_numbers(config: ConfigDict, mesh: Mesh) -> None:
  """Raises UserError for a number that no run could work with."""
  for key, low in _LOWEST.items():
    value, high = operator.attrgetter(key)(config), _HIGHEST.get(key, math.inf)
    if not low <= value <= high:
      bound = f'at least {low}' if high == math.inf else f'from {low} to {high}'
      raise UserError(f'config.{key} must be {bound}, got {value}')
  if not config.train.clip_norm > 0.0:
    raise UserError(f'config.train.clip_norm must be above 0, got {config.train.clip_norm}')
  if config.objective.name == 'overwrite_gate' and not config.init_from:
    raise UserError(
      'objective overwrite_gate trains a gate on top of a denoiser: set config.init_from to the '
      'work directory of an epsilon_hybrid run, or of another with wrong tokens in its noise'
    )
  parts = config.train.accumulate * mesh_lib.num_shares(mesh)
  if config.train.batch_size % parts:
    raise UserError(
      f'config.train.batch_size={config.train.batch_size} must be a multiple of {parts}: '
      'config.train.accumulate times the devices along data and fsdp'
    )


def _evaluate(config, prepared, params, step, mesh, writer) -> dict[str, float]:
  """Writes and returns the likelihood of evenly spread sequences of the valid text, or what stands
  for it."""
  valid = prepared.valid
  rows = np.linspace(0, len(valid) - 1, min(len(valid), config.eval.train_sequences)).astype(int)
  batch_size = mesh_lib.fill_batch(mesh, config.eval.batch_size)
  batches = pipeline.eval_batches(valid, batch_size=batch_size, rows=rows)
  if prepared.method.is_latent:
    denoise = prepared.method.denoise
    scalars = latents.measure(denoise, params, batches, seed=config.seed, mesh=mesh)
    writer.write(step, 'valid', scalars)
    return scalars
  if prepared.method.trained == ('gate',):
    rows = method_lib.make_hyperschedule(config, num_levels=1)
    method = method_lib.on_schedule(prepared.method, rows)
    scalars = gates.measure(method, params, batches, seed=config.seed, mesh=mesh)
    writer.write(step, 'valid', scalars)
    return scalars
  result = likelihood.measure(
    prepared.method,
    params,
    batches,
    num_samples=config.eval.num_samples,
    seed=config.seed,
    mesh=mesh,
  )
  scalars = {
    'nll_per_token': result.nll_per_token,
    'stderr': result.stderr or 0.0,  # 0 of a single sequence, which has none
  }
  if not config.data.guided:  # by the whole text's bytes per token
    bits = result.nll_per_token / math.log(2) * len(valid.stream) / valid.num_bytes
    scalars['bits_per_byte'] = bits
  writer.write(step, 'valid', scalars, kind=result.kind)
  return scalars


def _is_evaluated(step: int, cfg: ConfigDict) -> bool:
  return step > 0 and (step % cfg.eval_every == 0 or step == cfg.steps)


class _Log:
  """Collects metrics, one step behind the devices, and writes their means."""

  def __init__(self, writer, progress, stopwatch, schedule, tokens_per_step, ideal):
    self._writer, self._progress, self._stopwatch = writer, progress, stopwatch
    self._schedule, self._tokens_per_step = schedule, tokens_per_step
    self._ideal = ideal  # seconds of a token at the peak of the devices; None for no MFU
    self._mean, self._steps = TrainMetrics.empty(), 0
    self._pending = None

  def add(self, step: int, metrics: TrainMetrics, flush: bool) -> None:
    """Takes a step's metrics; reads those of the step before, or with `flush` its own too."""
    self.check()
    self._pending = step, metrics
    self._steps += 1
    if not flush:
      return
    self.check()
    values = {name: float(value) for name, value in self._mean.compute().items()}
    values['learning_rate'] = float(self._schedule(step - 1))
    values |= self._stopwatch.lap(self._steps)
    values['tokens_per_second'] = self._tokens_per_step / values['step_seconds']
    message = f'loss {values["loss"]:.3f}'
    if self._ideal is not None:
      values['mfu'] = self._ideal * values['tokens_per_second']
      message += f'  mfu {100 * values["mfu"]:.0f} %'
    self._writer.write(step, 'train', values)
    self._progress.show(step, message, values['tokens_per_second'])
    self._mean, self._steps = TrainMetrics.empty(), 0

  def check(self) -> None:
    """Waits for the step taken last.

    Raises:
      TrainingDiverged: its loss or gradient is not finite.
    """
    if self._pending is None:
      return
    with self._stopwatch.part('compute'):
      step, metrics = self._pending[0], jax.device_get(self._pending[1])
    self._pending = None
    self._mean = self._mean.merge(metrics)
    for name, value in metrics.compute().items():
      if not np.isfinite(value):
        raise TrainingDiverged(
          f'{name} is {value} at step {step}; checkpoints before it are kept. Start again in '
          'another --workdir, with a lower config.train.learning_rate perhaps'
        )


@contextlib.contextmanager
def _signals() -> Iterator[list[str]]:
  """Yields a list that holds the name of the first SIGTERM, SIGINT or SIGUSR1, once it came; the
  last is what Slurm is told to warn with.

  A second SIGINT takes its usual course, for whoever cannot wait for a step to end. The others come
  more than once from whoever takes a machine away, and must not cut the save short.
  """
  received: list[str] = []
  old = {}

  def handle(number, _):
    received.append(signal.Signals(number).name)
    if number == signal.SIGINT:
      signal.signal(number, old[number])

  for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    old[number] = signal.signal(number, handle)
  try:
    yield received
  finally:
    for number, handler in old.items():
      signal.signal(number, handler)
