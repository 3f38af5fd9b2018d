"""Checkpoints: state, moving average, data iterator and config, saved together by orbax.

Saves commit whole or not at all. A kill while one is written in the background loses the interval
before it, and the steps since. Each carries a fingerprint of its arrays, checked on restore; a
checkpoint that is damaged is passed over, with a notice, for the one before it.
"""

import contextlib
import dataclasses
import functools
import itertools
import pathlib
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from ardiff_jax import paths, processes
from ardiff_jax import workdir as workdir_lib
from ardiff_jax.errors import SaveError, UserError
from ardiff_jax.training.state import TrainState

_FOLDER = 'checkpoints'


class Checkpointer:
  """Saves and restores the checkpoints of one work directory."""

  def __init__(
    self, workdir: pathlib.Path, keep: int, keep_every: int = 0, *, in_background: bool = True
  ):
    """Opens the directory for writing.

    Args:
      workdir: of the run.
      keep: how many of the newest checkpoints are kept, besides the best (see `score`).
      keep_every: those of steps that are multiples of this are kept too; 0 for none.
      in_background: whether `save` returns before what it saves is on disk.
    """
    self._workdir = paths.path_of(workdir)
    self._kept = _Kept(keep, keep_every, _scores(self._workdir))
    self._options = ocp.CheckpointManagerOptions(
      preservation_policy=self._kept,
      cleanup_tmp_directories=True,
      enable_async_checkpointing=in_background,
    )
    self._saving: int | None = None
    self._manager = ocp.CheckpointManager(self._workdir / _FOLDER, options=self._options)

  def score(self, step: int, scalars: dict[str, float]) -> None:
    """Takes what evaluation says of a step; the best checkpoint is kept until there is a better."""
    self._kept.scores[step] = _score(scalars)

  def has_score(self, step: int) -> bool:
    """Whether `score` knows the step, now or from before the run was resumed."""
    return step in self._kept.scores

  def save(self, step: int, state: TrainState, iterator: Any, config: dict) -> None:
    """Saves `step`, or starts to; does nothing if it is already saved.

    Raises:
      SaveError: it failed, or the one before did in the background, e.g. for a full disk.
    """
    if step in self._manager.all_steps():
      return
    core, ema = _split(state)
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(core),
      ema=ocp.args.StandardSave(ema),
      data=ocp.args.JsonSave(iterator.get_state()),
      meta=ocp.args.JsonSave(
        {
          'config': config,
          'fingerprint': {'state': fingerprint(core), 'ema': fingerprint(ema)},
        }
      ),
    )
    self.wait()  # so that a failure is blamed on the step it befell
    self._saving = step
    with _explained(step, self._workdir):
      self._manager.save(step, args=items)

  def wait(self) -> None:
    """Waits until what was started is on disk; raises as `save` does."""
    with _explained(self._saving, self._workdir):
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Releases the manager; call it on every way out, else the newest save is lost."""
    self._manager.close()

  def restore(self, abstract: TrainState, iterator: Any) -> TrainState | None:
    """Restores the newest sound checkpoint, moving damaged ones aside.

    Args:
      abstract: shapes, dtypes and shardings wanted.
      iterator: data iterator, set in place to where the checkpoint left it.

    Returns:
      The state, or None if there is no checkpoint.

    Raises:
      UserError: there are checkpoints, but none can be read.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    core, ema = _split(abstract)
    items = ocp.args.Composite(
      state=ocp.args.StandardRestore(core),
      ema=ocp.args.StandardRestore(ema),
      data=ocp.args.JsonRestore(),
      meta=ocp.args.JsonRestore(),
    )
    step, restored = _first_sound(self._manager, steps, items, ('state', 'ema'))
    if restored is not None:
      iterator.set_state(restored.data)
      self._set_aside([s for s in steps if s > step])
      return TrainState(ema=restored.ema, **restored.state)
    if steps:
      raise _none_readable(self._workdir)
    return None

  def _set_aside(self, steps: list[int]) -> None:
    """Moves damaged checkpoints out of the way, so that their steps can be saved anew."""
    if not steps:
      return
    self._manager.close()
    processes.first_does(lambda: set_aside(self._workdir, steps))
    self._manager = ocp.CheckpointManager(self._workdir / _FOLDER, options=self._options)


def set_aside(workdir: pathlib.Path, steps: Sequence[int]) -> None:
  """Renames checkpoints to `damaged_checkpoint_STEP.N`, N the first that is free.

  They stay next to what is there anyway: a bucket has no empty folders, and into one that does not
  exist nothing can be moved.
  """
  for step in steps:
    names = (workdir / f'damaged_checkpoint_{step}.{number}' for number in itertools.count())
    target = next(name for name in names if not name.exists())
    (workdir / _FOLDER / str(step)).rename(target)
    processes.say(f'notice: moved the damaged checkpoint {step} to {target}')


@dataclasses.dataclass
class _Kept:
  """Which checkpoints stay when there is a new one: orbax's `PreservationPolicy`.

  Attributes:
    newest: how many of the newest.
    every: multiples of which step; 0 for none.
    scores: of steps that were evaluated, lower is better. The best stays.
  """

  newest: int
  every: int
  scores: dict[int, float]

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    kept = {*steps[-self.newest :], _best(steps, self.scores)}
    return [step in kept or (self.every > 0 and step % self.every == 0) for step in steps]


def _best(steps: Sequence[int], scores: dict[int, float]) -> int | None:
  return min((step for step in steps if step in scores), key=scores.get, default=None)


def _scores(workdir: pathlib.Path) -> dict[int, float]:
  """Returns the scores of the steps that training evaluated."""
  records = workdir_lib.read_lines(workdir / 'metrics.jsonl')
  return {x['step']: _score(x) for x in records if x['split'] == 'valid'}


def _score(scalars: dict[str, float]) -> float:
  """Lower is better."""
  if 'gate_auc' in scalars:
    return -scalars['gate_auc']
  return scalars['nll_per_token' if 'nll_per_token' in scalars else 'latent_error']


def save_ema(workdir: pathlib.Path, params: Any, config: dict) -> None:
  """Saves parameters that were trained elsewhere as step 0: what `restore_ema` reads, no more.

  Raises:
    SaveError: they cannot be written.
  """
  options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
  handlers = {
    'ema': ocp.PyTreeCheckpointHandler(use_compression=False),  # it takes copies of the arrays
    'meta': ocp.JsonCheckpointHandler(),
  }
  folder = paths.path_of(workdir) / _FOLDER
  with (
    _explained(0, workdir),
    ocp.CheckpointManager(folder, options=options, item_handlers=handlers) as manager,
  ):
    meta = {'config': config, 'fingerprint': {'ema': fingerprint(params)}}
    items = ocp.args.Composite(ema=ocp.args.PyTreeSave(params), meta=ocp.args.JsonSave(meta))
    manager.save(0, args=items)


def restore_ema(
  workdir: pathlib.Path, abstract_ema: Any, which: str | int = 'newest'
) -> tuple[int, Any]:
  """Returns (step, moving average) of a checkpoint, reading nothing else.

  Args:
    workdir: of the run.
    abstract_ema: shapes, dtypes and shardings wanted.
    which: 'newest', the newest that is sound; 'best', by the evaluations while training; or a step.

  Raises:
    UserError: no checkpoint, or none that can be read.
  """
  folder = paths.path_of(workdir) / _FOLDER
  if not folder.is_dir():
    raise UserError(f'no checkpoint in {folder}: train first with --workdir={workdir}')
  options = ocp.CheckpointManagerOptions(create=False)
  with ocp.CheckpointManager(folder, options=options) as manager:
    steps = _chosen(sorted(manager.all_steps(), reverse=True), which, workdir)
    items = ocp.args.Composite(
      ema=ocp.args.StandardRestore(abstract_ema), meta=ocp.args.JsonRestore()
    )
    step, restored = _first_sound(manager, steps, items, ('ema',))
  if restored is not None:
    return step, restored.ema
  if steps:
    raise _none_readable(workdir)
  raise UserError(f'no checkpoint in {folder}: train first with --workdir={workdir}')


def _chosen(steps: list[int], which: str | int, workdir: pathlib.Path) -> list[int]:
  """Returns which of the steps to try, in turn."""
  if which == 'newest':
    return steps
  step = _best(steps, _scores(workdir)) if which == 'best' else which
  if step not in steps:
    has = ', '.join(map(str, reversed(steps))) or 'none'
    what = 'that was evaluated' if which == 'best' else which
    raise UserError(f'{workdir} has no checkpoint {what}; it has {has}')
  return [step]


def fingerprint(tree: Any) -> str:
  """Returns a checksum of the arrays of a pytree, the same on any mesh.

  Each 32-bit word is mixed with its place by a hash, and the hashes are summed modulo 2^32 for each
  array, so the order of summation does not matter. Array by array, for each takes a copy.
  """
  return ' '.join(f'{int(_checksum(x)):08x}' for x in jax.tree.leaves(tree))


# the pass would write the hashes down before it sums them, an array as large as x
@functools.partial(jax.jit, compiler_options={'xla_disable_hlo_passes': 'tree_reduction_rewriter'})
def _checksum(x: jax.Array) -> jax.Array:
  words = jax.lax.bitcast_convert_type(x, jnp.uint32)
  place = jnp.zeros(words.shape, jnp.uint32)
  for axis, size in enumerate(words.shape):
    place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
  mixed = words ^ (place * jnp.uint32(0x9E3779B9))
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):  # the finaliser of MurmurHash3
    mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
  return (mixed ^ (mixed >> 16)).sum(dtype=jnp.uint32)


def _first_sound(
  manager: ocp.CheckpointManager, steps: list[int], items: Any, names: tuple[str, ...]
) -> tuple[int, Any]:
  """Returns the first of the steps that all processes can read, and what it holds; (0, None) if
  there is none. The arrays of `names` must have their fingerprints."""
  for step in steps:
    restored = _read(manager, step, items)
    if restored is None:
      continue
    saved = restored.meta.get('fingerprint', {})
    wrong = [name for name in names if fingerprint(restored[name]) != saved.get(name)]
    if not wrong:
      return step, restored
    _notice(step, f'the arrays of {wrong[0]} are not those that were saved')
  return 0, None


def _read(manager: ocp.CheckpointManager, step: int, items: Any) -> Any:
  """Returns what a checkpoint holds, or None if a process cannot read its part of it.

  Twice, for a shared disk or a bucket may fail for a moment. By the handler alone: the manager's
  own `restore` ends at a barrier, where the others would wait for a process that failed.
  """
  for last in (False, True):
    restored = None
    try:
      restored = ocp.CompositeCheckpointHandler().restore(manager.directory / str(step), args=items)
    except Exception as error:  # orbax raises bare Exception, ValueError, KeyError, ...
      if last:
        _notice(step, str(error) or type(error).__name__)
    if not processes.any_of(restored is None):
      return restored
  return None


def _split(state: TrainState) -> tuple[dict, Any]:
  """Core state and moving average apart, so that readers can load the latter alone."""
  core = dict(step=state.step, params=state.params, opt_state=state.opt_state)
  return core, state.ema


def _notice(step: int, error: str) -> None:
  reason, where = error.strip().split('\n')[0][:200], processes.name()
  print(f'notice: {where}checkpoint {step} is damaged and passed over ({reason})', file=sys.stderr)


def _none_readable(workdir: pathlib.Path) -> UserError:
  return UserError(
    f'no checkpoint in {workdir / _FOLDER} can be read: restore it from a copy, '
    'or start again in another --workdir'
  )


@contextlib.contextmanager
def _explained(step: int | None, workdir: pathlib.Path) -> Iterator[None]:
  """Turns a failed save into a plain message."""
  try:
    yield
  except Exception as error:  # orbax raises ValueError for a full disk, OSError, ...
    system = re.search(r'([^:]+) \[os_error_code=', str(error))
    reason = system[1].strip() if system else str(error)[:300]
    where = f'{workdir / _FOLDER} failed on {socket.gethostname()}'
    raise SaveError(
      f'saving checkpoint {step} in {where}: {reason}\n'
      'earlier checkpoints are whole; free some space and run the same command to resume'
    ) from error
