"""How the figures of a sweep came about: a line in starts.jsonl for each start of the command."""

import datetime
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import NamedTuple

import jax

from ardiff_jax import workdir as files

_ROOT = pathlib.Path(__file__).resolve().parents[2]


class Origin(NamedTuple):
  """A command, and where, of what and when it was run, as a page says it."""

  command: str
  circumstances: str


def note(directory: pathlib.Path) -> None:
  """Adds a line: this command, the commit of this code, this machine and the time."""
  folder = os.environ.get('ARDIFF_DATA')  # of the sets of text
  start = {
    'command': (f'ARDIFF_DATA={shlex.quote(folder)} ' if folder else '')
    + shlex.join(['python', *sys.orig_argv[1:]]),
    'commit': _commit(),
    'machine': f'{platform.system()} {platform.machine()}, {os.cpu_count()} cores, '
    f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'versions': files.versions(),
    'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
  }
  files.append(directory / 'starts.jsonl', [start])


def read(directory: pathlib.Path) -> list[Origin]:
  """Returns what was noted, starts that differ in their time alone as one.

  Raises:
    UserError: starts.jsonl is damaged.
  """
  found = {}
  for start in files.read_lines(directory / 'starts.jsonl'):
    time = start.pop('time')
    found.setdefault(json.dumps(start), (start, []))[1].append(time)
  return [_origin(start, times) for start, times in found.values()]


def _origin(start: dict, times: list[str]) -> Origin:
  days = ' to '.join(dict.fromkeys(time[:10] for time in (times[0], times[-1])))
  parts = [
    f'commit {start["commit"]}' if start['commit'] else 'of no commit',
    start['machine'],
    ', '.join(f'{name} {version}' for name, version in start['versions'].items()),
    f'started {len(times)} times, {days}' if len(times) > 1 else f'started {days}',
  ]
  return Origin(start['command'], '; '.join(parts))


def _commit() -> str | None:
  """Returns the commit of this code, '-dirty' if it has been changed since; None if it has none."""
  if not (_ROOT / '.git').exists():  # installed, perhaps into a repository of something else
    return None
  command = ['git', '-C', str(_ROOT), 'describe', '--always', '--dirty', '--abbrev=40']
  try:
    done = subprocess.run([*command, '--exclude=*'], capture_output=True, text=True, check=True)
  except (OSError, subprocess.CalledProcessError):
    return None
  return done.stdout.strip()
