"""Several processes that train as one: how they meet, who speaks, what they have to agree on.

One process is a special case of many. All run the same program; the first alone writes files and
the log. One that fails ends at once; the others wait for it until JAX misses its heartbeat, or
whoever started them ends them.
"""

import os
import socket
import sys
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from ardiff_jax.errors import UserError

_HEARTBEAT_SECONDS = 60  # without a sign of one process, the others are ended


def join(
  coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
  """Joins the other processes; to be called before anything runs on a device.

  Args:
    coordinator: HOST:PORT of the first process.
    num_processes: how many there are.
    process_id: which this is, from 0. Of a Slurm or GKE job and on a TPU slice JAX finds out all
      three.

  Raises:
    UserError: they were not found, or do not come together.
  """
  # It takes SIGTERM for itself until `train` takes it back: what is ended before must end.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(
      coordinator, num_processes, process_id, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS
    )
  except (ValueError, RuntimeError) as error:
    raise UserError(
      f'the processes could not be joined: {str(error).strip().splitlines()[0]}\n'
      'where no cluster tells them, give --coordinator=HOST:PORT, --num_processes and --process_id'
    ) from None
  hosts = enumerate(texts(socket.gethostname()))
  say('processes: ' + ', '.join(f'{i} on {host}' for i, host in hosts))


def name() -> str:
  """Returns 'HOST, process 1 of 2: ', to begin a message with; '' if there is but one."""
  if not jax.distributed.is_initialized():
    return ''
  return f'{socket.gethostname()}, process {jax.process_index()} of {jax.process_count()}: '


def leave(status: int) -> None:
  """Ends a process that failed, at once where there are others: a usual exit would wait for them,
  and they for it."""
  if not jax.distributed.is_initialized():
    sys.exit(status)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def is_first() -> bool:
  """Whether this process is the one that writes and speaks."""
  return jax.process_index() == 0


def say(text: str) -> None:
  """Prints a line on standard error, once."""
  if is_first():
    print(text, file=sys.stderr, flush=True)


def first_does(action: Callable[[], None]) -> None:
  """Runs `action` in the first process, while the others wait.

  Raises:
    UserError: in the others, if it failed there; the first raises what `action` did.
  """
  failure = None
  if is_first():
    try:
      action()
    except Exception as error:
      failure = error
  if any_of(failure is not None):
    raise failure or UserError('the first process failed, see its message')


def any_of(flag: bool) -> bool:
  """Returns whether the flag is set in any process."""
  return bool(_gather(np.asarray([flag])).any())


def texts(own: str) -> list[str]:
  """Returns the text of each process."""
  mine = np.frombuffer(own.encode(), np.uint8)
  longest = int(_gather(np.asarray([len(mine)])).max())
  padded = _gather(np.pad(mine, (0, longest - len(mine))))
  return [bytes(text).decode().rstrip('\0') for text in padded]


def fetch(tree: object) -> object:
  """Returns arrays that lie on all devices whole, as numpy, in every process."""
  if jax.process_count() == 1:
    return jax.device_get(tree)
  return multihost_utils.process_allgather(tree, tiled=True)


def _gather(x: np.ndarray) -> np.ndarray:
  """[...] of each process to [P, ...]."""
  if jax.process_count() == 1:
    return x[None]
  return np.asarray(multihost_utils.process_allgather(x))
