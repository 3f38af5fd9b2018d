"""Settings of every test: eight fake devices, strict keys and ranks, one compilation cache."""

import importlib
import os
import pathlib
import tempfile

CACHE = os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR', str(pathlib.Path(tempfile.gettempdir()) / 'ardiff_jax_test_cache')
)

import jax  # noqa: E402
import pytest  # noqa: E402

from ardiff_jax import compiled  # noqa: E402

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_debug_key_reuse', True)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_compilation_cache_dir', CACHE)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = pathlib.Path(os.environ.get('ARDIFF_DATA', ROOT.parent / 'shared' / 'data'))


@pytest.fixture(autouse=True)
def few_memory_maps():
  """Thousands of tests compile more programs than a process may hold."""
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
  lines = [f'{i} plus {j} is {i + j}.\n' for i in range(30) for j in range(30)]
  path = tmp_path / 'sums.txt'
  path.write_text(''.join(lines))
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
  """Runs of two steps of each config, trained when first asked for."""

  def __init__(self, folder: pathlib.Path):
    self._folder, self._loaded = folder, {}
    self._text = folder / 'sums.txt'
    self._text.write_text(
      ''.join(f'{i} plus {j} is {i + j}.\n' for i in range(20) for j in range(20))
    )

  def __call__(self, name: str):
    """Returns the model of configs/NAME.py."""
    if name not in self._loaded:
      import ardiff_jax
      from ardiff_jax.training.loop import train

      config = small_config(name, self._text, steps=2)
      if name == 'bd3lm':
        config.hyperschedule.update(width=8, num_levels=4)
      if name == 'gate':
        config.init_from = str(self.directory('epsilon_hybrid'))
      train(config, self._folder / name)
      self._loaded[name] = ardiff_jax.load(self._folder / name)
    return self._loaded[name]

  def directory(self, name: str) -> pathlib.Path:
    """Returns its work directory."""
    self(name)
    return self._folder / name


@pytest.fixture(scope='module')
def models(tmp_path_factory) -> Runs:
  return Runs(tmp_path_factory.mktemp('models'))
