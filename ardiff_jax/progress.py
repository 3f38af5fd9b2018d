"""A progress line: rewritten in place on a terminal, a line now and then elsewhere."""

import sys
import time

from ardiff_jax import processes

_QUIET_SECONDS = 30.0  # between lines when standard error is not a terminal


class Progress:
  """Shows step, a message, speed and time left on standard error."""

  def __init__(self, name: str, total: int, start: int = 0):
    """Counts from `start` to `total`."""
    self._name, self._total, self._start = name, total, start
    self._began = time.monotonic()
    self._shown = None
    self._terminal = sys.stderr.isatty()

  def show(self, done: int, message: str, tokens_per_second: float | None) -> None:
    """Shows the line, if it is due."""
    if not processes.is_first():
      return
    now = time.monotonic()
    due = self._shown is None or now - self._shown >= _QUIET_SECONDS or done == self._total
    if not (self._terminal or due):
      return
    self._shown = now
    left = (now - self._began) / max(done - self._start, 1) * (self._total - done)
    speed = '' if tokens_per_second is None else f'{tokens_per_second:,.0f} tokens/s  '
    line = f'{self._name} {done}/{self._total}  {message}  {speed}{_clock(left)} left'
    if self._terminal:
      print(f'\r\x1b[K{line}', end='', file=sys.stderr, flush=True)
    else:
      print(line, file=sys.stderr, flush=True)

  def close(self) -> None:
    """Ends the line."""
    if self._terminal and self._shown is not None:
      print(file=sys.stderr)


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'
