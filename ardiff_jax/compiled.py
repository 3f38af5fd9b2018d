"""Compiled programs outlive the process: XLA's cache on disk, unless the user has chosen."""

import os
import pathlib
import sys

_VARIABLE = 'JAX_COMPILATION_CACHE_DIR'
_FOLDER = pathlib.Path('~/.cache/ardiff_jax')


def keep() -> None:
  """Turns the cache on, if neither its variable (which may be empty) nor JAX's config is set."""
  if _VARIABLE in os.environ:
    return
  folder = str(_FOLDER.expanduser())
  if 'jax' not in sys.modules:  # which reads the variable when it is imported
    os.environ[_VARIABLE] = folder
    return
  import jax

  if jax.config.jax_compilation_cache_dir is None:
    jax.config.update('jax_compilation_cache_dir', folder)
