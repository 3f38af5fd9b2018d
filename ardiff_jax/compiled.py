"""Compiled programs outlive the process: XLA's cache on disk, unless the user has chosen.

Within the process they are dropped before there are too many for the system.
"""

import os
import pathlib
import sys

_VARIABLE = 'JAX_COMPILATION_CACHE_DIR'
_FOLDER = pathlib.Path('~/.cache/ardiff_jax')
_MAPS = pathlib.Path('/proc/self/maps')  # of Linux


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


def drop_many(most: int = 30_000) -> None:
  """Drops the compiled programs of this process if it has more than `most` memory maps.

  On CPU every program takes several, and where Linux allows no more (vm.max_map_count, by default
  65,530) XLA crashes. What is dropped comes again from the cache on disk.
  """
  if _MAPS.exists() and _MAPS.read_bytes().count(b'\n') > most:
    import jax

    jax.clear_caches()
