"""Settings of every test: eight fake devices, strict keys and ranks, one compilation cache."""

import os
import pathlib
import tempfile

CACHE = os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR', str(pathlib.Path(tempfile.gettempdir()) / 'ardiff_jax_test_cache')
)

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_debug_key_reuse', True)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_compilation_cache_dir', CACHE)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def shared_data() -> pathlib.Path:
  """The folder of real text; tests that read it are skipped where it is absent."""
  path = pathlib.Path(os.environ.get('ARDIFF_DATA', ROOT.parent / 'shared' / 'data'))
  if not path.is_dir():
    pytest.skip(f'no real text at {path}; set ARDIFF_DATA to the folder that holds it')
  return path
