"""Running the commands as a user does."""

import json
import os
import subprocess
import sys

from conftest import ROOT

ENV = os.environ | {'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}


def command(name, *arguments):
  return [sys.executable, '-m', f'ardiff_jax.{name}', *map(str, arguments)]


def run(name, *arguments, **kwargs):
  return subprocess.run(
    command(name, *arguments), cwd=ROOT, env=ENV, capture_output=True, text=True, **kwargs
  )


def succeed(name, *arguments):
  result = run(name, *arguments)
  assert result.returncode == 0, result.stderr
  assert 'Traceback' not in result.stderr
  return result


def records(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def refuse(name, *arguments):
  """Runs what must end with status 2 and a plain line."""
  result = run(name, *arguments)
  assert result.returncode == 2, result.stderr
  assert result.stderr.startswith('error: ') and len(result.stderr.splitlines()) <= 2
  assert result.stdout == ''
  return result
