"""Settings of every test: eight fake devices, strict keys and ranks, one compilation cache.

Half of the suite's time was XLA's optimising of programs that run once. Without it, and with the
older of its two ways to emit loops, they are compiled in a quarter of the time, here and in the
processes that tests start.
"""

import gc
import importlib
import os
import pathlib
import tempfile

FAST_COMPILATION = '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false'
if FAST_COMPILATION not in os.environ.get('XLA_FLAGS', ''):
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {FAST_COMPILATION}'.strip()
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR', str(pathlib.Path(tempfile.gettempdir()) / 'ardiff_jax_test_cache')
)

import jax  # noqa: E402
import pytest  # noqa: E402
from untrained import one_device, untrained  # noqa: E402

import ardiff_jax  # noqa: E402
from ardiff_jax import compiled  # noqa: E402

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_debug_key_reuse', True)
jax.config.update('jax_numpy_rank_promotion', 'raise')


def pytest_addoption(parser):
  parser.addoption('--full', action='store_true', help='run the long products, too')


# Each file runs in one of two processes: the longest must not be the last to begin.
LONGEST = ('configs', 'training', 'interruptions', 'processes', 'ablate', 'published_models')


def pytest_collection_modifyitems(config, items):
  """Leaves out what is marked `full`, unless it is asked for; the longest files come first."""

  def place(item):
    name = item.path.stem.removeprefix('test_')
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)

  items.sort(key=place)
  if not config.getoption('full'):
    kept, left_out = [], []
    for item in items:
      (left_out if item.get_closest_marker('full') else kept).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = pathlib.Path(os.environ.get('ARDIFF_DATA', ROOT.parent / 'shared' / 'data'))


@pytest.fixture(autouse=True, scope='module')
def few_memory_maps():
  """Dozens of files compile more programs than a process may hold, or look through for garbage."""
  gc.freeze()
  yield
  compiled.drop_many()


@pytest.fixture
def shared_data() -> pathlib.Path:
  """The folder of real text; tests that read it are skipped where it is absent."""
  if not DATA.is_dir():
    pytest.skip(f'no real text at {DATA}; set ARDIFF_DATA to the folder that holds it')
  return DATA


@pytest.fixture
def text_file(tmp_path) -> pathlib.Path:
  """A small text with some structure."""
  return write_sums(tmp_path)


def write_sums(folder: pathlib.Path, most: int = 30) -> pathlib.Path:
  """Writes the sums of all pairs of numbers below `most` to a file, and returns its path."""
  path = folder / 'sums.txt'
  path.write_text(''.join(f'{i} plus {j} is {i + j}.\n' for i in range(most) for j in range(most)))
  return path


def small_config(name: str, source: pathlib.Path, **train):
  """configs/NAME.py:tiny, shrunk to a network that trains a step in milliseconds."""
  config = importlib.import_module(f'configs.{name}').get_config('tiny')
  config.data.source = str(source)
  config.data.length = 32
  config.tokenizer.kind = 'byte'
  config.model.update(model_dim=32, num_layers=2, num_heads=4)
  if config.hyperschedule.name == 'slide':
    config.hyperschedule.update(width=8, num_levels=8)
  config.train.update(
    steps=6, batch_size=8, log_every=1, eval_every=3, checkpoint_every=3, warmup_steps=2
  )
  config.train.update(train)
  config.eval.update(batch_size=8, num_samples=2, train_sequences=16)
  config.sampling.steps = 8
  return config


class Runs:
  """Runs of each config whose parameters are random, on one device; made when first asked for."""

  def __init__(self, folder: pathlib.Path):
    self._folder, self._loaded = folder, {}
    self._text = write_sums(folder, 20)

  def __call__(self, name: str):
    """Returns the model of configs/NAME.py."""
    if name not in self._loaded:
      with one_device():
        self._loaded[name] = ardiff_jax.load(self.directory(name))
    return self._loaded[name]

  def directory(self, name: str) -> pathlib.Path:
    """Returns its work directory."""
    if not (self._folder / name).exists():
      config = small_config(name, self._text, steps=2)
      if name == 'bd3lm':
        config.hyperschedule.update(width=8, num_levels=4)
      if name == 'gate':
        config.init_from = str(self.directory('epsilon_hybrid'))
      with one_device():
        untrained(config, self._folder / name)
    return self._folder / name


@pytest.fixture(scope='module')
def models(tmp_path_factory) -> Runs:
  return Runs(tmp_path_factory.mktemp('models'))
