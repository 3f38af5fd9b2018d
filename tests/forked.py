"""The other side of `commands.Fork`: a process that becomes a command.

It must not import conftest, whose settings a user's process does not have.
"""

import os
import runpy
import sys

import jax


def run(
  name: str, arguments: list[str], root: str, env: dict, devices: int, stdout: str, stderr: str
) -> None:
  """Becomes `python -m ardiff_jax.NAME ARGUMENTS`, or `python NAME ARGUMENTS` of a script, run in
  `root`, its output in two files."""
  for number, path in ((0, os.devnull), (1, stdout), (2, stderr)):
    os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), number)
  os.environ.clear()
  os.environ.update(env)  # but what JAX read of it, it read before
  jax.config.update('jax_num_cpu_devices', devices)
  os.chdir(root)
  script = name.endswith('.py')
  program = [name] if script else ['-m', f'ardiff_jax.{name}']
  sys.argv, sys.orig_argv = [name, *arguments], [sys.executable, *program, *arguments]
  if script:
    runpy.run_path(name, run_name='__main__')
  else:
    runpy.run_module(program[1], run_name='__main__', alter_sys=True)
