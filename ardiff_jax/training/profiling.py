"""Where the time of training goes: parts of a step in the log, traces of a few steps, MFU."""

import contextlib
import pathlib
import re
import sys
import time
from collections.abc import Iterator

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ardiff_jax import processes
from ardiff_jax.errors import UserError
from ardiff_jax.models import flops

# These run the network another number of times than once forward and back.
UNCOUNTED = ('overwrite_gate', 'latent_diffusion')


class Stopwatch:
  """Parts the wall time of training as the host spends it.

  In seconds, means over steps:

    step_seconds     from step to step; evaluation, starting and ending a trace left out
    input_seconds    waiting for the batch and placing it
    compute_seconds  waiting for the devices, with nothing else to do
    host_seconds     the rest: dispatch, log, saving; in the first line of a log, compilation

  The last three add up to the first. Devices work on a step while the host prepares the next one,
  so `compute_seconds` is what they take beyond that, and not all their time, which a trace shows:
  near 0 they wait for the host. A line of the log waits for its step, so with
  `config.train.log_every=1` nothing overlaps, and it is nearly all their time.
  """

  def __init__(self):
    self._restart()

  def _restart(self) -> None:
    self._began = time.perf_counter()
    self._spent = {'input': 0.0, 'compute': 0.0, 'aside': 0.0}

  @contextlib.contextmanager
  def part(self, name: str) -> Iterator[None]:
    """Adds the time within to 'input', 'compute' or 'aside', the last being no part of a step; not
    to be nested. Traces show it under this name."""
    began = time.perf_counter()
    with jax.profiler.TraceAnnotation(name):
      yield
    self._spent[name] += time.perf_counter() - began

  def lap(self, steps: int) -> dict[str, float]:
    """Returns the four means over the steps since the last lap, and starts the next."""
    elapsed = time.perf_counter() - self._began - self._spent.pop('aside')
    host = elapsed - sum(self._spent.values())
    seconds = {'step': elapsed, **self._spent, 'host': host}
    self._restart()
    return {f'{name}_seconds': value / steps for name, value in seconds.items()}


def parse_steps(text: str) -> tuple[int, int]:
  """Returns the first and the last step of 'START:STOP'.

  Raises:
    UserError: it reads otherwise, or they are out of order.
  """
  match = re.fullmatch('([0-9]+):([0-9]+)', text)
  first, last = map(int, match.groups()) if match else (0, 0)
  if not 1 <= first <= last:
    raise UserError(
      f'--profile must be START:STOP, the first and the last step to trace, from 1 on; got {text!r}'
    )
  return first, last


def check_steps(steps: tuple[int, int], first: int, last: int) -> None:
  """Raises UserError unless steps to trace are among those to take, `first` to `last`."""
  if not first <= steps[0] <= steps[1] <= last:
    left = f'steps {first} to {last}' if first <= last else 'no step'
    raise UserError(f'--profile={steps[0]}:{steps[1]}: the run has {left} to take')


class Trace:
  """Writes an xprof trace of some steps to WORKDIR/profile; every process traces its devices.

  Of several processes each has a folder of its own there: files are named by the host, which may
  run many.
  """

  def __init__(self, workdir: pathlib.Path, steps: tuple[int, int] | None, stopwatch: Stopwatch):
    """Prepares to trace from the first to the last of `steps`; None for no trace."""
    self._directory = workdir / 'profile'
    if jax.process_count() > 1:
      self._directory /= f'process_{jax.process_index()}'
    self._first, self._last = steps or (0, 0)
    self._stopwatch = stopwatch
    self._runs = False

  def before(self, step: int, state: object) -> None:
    """Starts at the first step, when the arrays of `state`, of the step before, are there."""
    if step == self._first:
      self._wait(state)
      with self._stopwatch.part('aside'):
        jax.profiler.start_trace(self._directory)
      self._runs = True

  def after(self, step: int, state: object) -> None:
    """Ends at the last step, when the arrays of `state`, of that step, are there."""
    if step == self._last:
      self._wait(state)
      with self._stopwatch.part('aside'):
        self.close()

  def close(self) -> None:
    """Writes what there is, if it runs; a failure is said, and costs the run nothing."""
    if not self._runs:
      return
    self._runs = False
    try:
      jax.profiler.stop_trace()
      processes.say(f'trace written to {self._directory}')
    except (OSError, RuntimeError) as error:
      message = f'{processes.name()}no trace written to {self._directory}: {error}'
      print(message, file=sys.stderr, flush=True)

  def _wait(self, state: object) -> None:
    with self._stopwatch.part('compute'):
      jax.block_until_ready(state)


def ideal_seconds_per_token(config: ConfigDict, vocab_size: int, mesh: Mesh) -> float | None:
  """Returns how long a token of training takes at the peak of all devices, bfloat16's whatever
  `config.model.dtype` is; times tokens per second it is the MFU.

  None where the peak is not known, or the work of a token is not counted.
  """
  peak = config.train.peak_flops or flops.peak_flops(mesh.devices.flat[0].device_kind)
  if peak is None or config.objective.name in UNCOUNTED:
    return None
  return flops.train_flops_per_token(config, vocab_size) / (mesh.size * peak)
