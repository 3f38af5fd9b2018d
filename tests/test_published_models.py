"""Published models put to use: imported from files of random weights with GPT-2's vocabulary."""

import json
import math
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from commands import refuse, succeed
from conftest import ROOT, small_config
from untrained import one_device

import ardiff_jax
from ardiff_jax import mesh as mesh_lib
from ardiff_jax import method as method_lib
from ardiff_jax.checkpoints import convert, files, layouts
from ardiff_jax.errors import UserError
from ardiff_jax.evaluate import evaluate, judge
from ardiff_jax.training.loop import train
from ardiff_jax.training.state import abstract_state, make_optimizer
from ardiff_jax.training.warm_start import source_tokenizer, warm_start

# of config.model, what the README says a run that starts from each has to set
_DDIT = dict(biases='ddit', tie_embedding=False)
FINE_TUNING = {
  'hdlm_epsilon': _DDIT,
  'hdlm_gamma': _DDIT | dict(condition_dim=24, final_conditioning=False, mask_mixing=0.01),
  'mdlm': _DDIT | dict(condition_dim=24, conditioning='adaln_constant'),
  'sedd': _DDIT | dict(condition_dim=24),
  'bd3lm': _DDIT | dict(condition_dim=24, conditioning='adaln_constant'),
  'gpt2': dict(biases='all', positions='learned', max_positions=40),
}
SIZES = ('condition_dim', 'max_positions')


@pytest.fixture(scope='module', autouse=True)
def of_one_device():
  with one_device():
    yield


def random_file(
  path,
  layout,
  vocab_size,
  width,
  num_layers,
  prefix='',
  dtype=lambda _: 'float32',
  head='',
  **sizes,
):
  """Writes a file of random tensors, with a tied head of that name, and returns its network."""
  network = layouts.TransformerConfig(
    vocab_size=vocab_size,
    model_dim=width,
    num_layers=num_layers,
    num_heads=width // 64,
    **layouts.LAYOUTS[layout],
    **sizes,
  )
  draw = np.random.default_rng(0)
  tensors = {
    prefix + name: (0.02 * draw.standard_normal(tensor.shape, np.float32), dtype(name))
    for name, tensor in layouts.tensors(layout, network).items()
  }
  if head:
    tensors[head] = tensors[f'{prefix}wte.weight']
  files.write(path, ((name, *tensor) for name, tensor in tensors.items()))
  return network


def small_file(path, layout, **kwargs):
  """A file of one layer, 64 wide, and the published config for 16 tokens and few steps."""
  sizes = {x: FINE_TUNING[layout][x] for x in SIZES if x in FINE_TUNING[layout]}
  random_file(path, layout, 50_257, 64, 1, **kwargs, **sizes)
  config = convert.published_config(layout)
  config.data.length, config.sampling.steps, config.hyperschedule.width = 16, 2, 4
  return config


_PEAK = """
import runpy, sys
sys.argv[0] = 'checkpoints'
try:
  runpy.run_module('ardiff_jax.checkpoints', run_name='__main__')
finally:
  status = open('/proc/self/status').read()
  print('peak', status.split('VmHWM:')[1].split()[0], file=sys.stderr)
"""


def command(*arguments):
  """The finished process, and the KiB it took at most."""
  done = subprocess.run(
    [sys.executable, '-c', _PEAK, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
  )
  return done, int(done.stderr.split('peak ')[-1])


def test_a_checkpoint_of_the_real_size(shared_data, tmp_path):
  """HDLM's 12 layers of 768 over GPT-2's vocabulary: imported in 1.3 times the memory of the
  file, beside what a command takes that does nothing; sampled, exported."""
  source, workdir = tmp_path / 'model.safetensors', tmp_path / 'model'
  random_file(source, 'hdlm_epsilon', 50_257, 768, 12)
  told, peak = command(
    'import',
    f'--from={source}',
    f'--workdir={workdir}',
    f'--tokenizer={shared_data / "gpt2_bpe"}',
    '--config=configs/epsilon_hybrid.py',
    '--config.data.length=64',
    '--config.sampling.steps=2',
  )
  assert told.returncode == 0, told.stderr
  assert 'of layout hdlm_epsilon' in told.stderr
  told, nothing = command('import', f'--from={tmp_path}', f'--workdir={workdir}')
  assert told.returncode == 2 and 'holds a run already' in told.stderr
  most = nothing + 1.3 * source.stat().st_size / 2**10  # KiB
  assert peak < most < 3 * 2**20
  model = ardiff_jax.load(workdir)
  (sample,) = model.sample(1, prompt='Hello world')
  assert sample.text.startswith('Hello world') and sample.token_ids[:2] == [15496, 995]
  succeed('checkpoints', 'export', f'--workdir={workdir}', f'--to={tmp_path}/again.safetensors')
  again = tmp_path / 'again.safetensors'
  with safetensors.safe_open(source, 'numpy') as old, safetensors.safe_open(again, 'numpy') as new:
    for name in old.keys():  # noqa: SIM118  (no mapping)
      np.testing.assert_array_equal(old.get_tensor(name), new.get_tensor(name))


@pytest.fixture(scope='module')
def imported(tmp_path_factory):
  """Returns a function: file and work directory of a model of a layout, wrapped, with matrices of
  the MLP in half precision."""
  folder = tmp_path_factory.mktemp('imported')

  def of(layout, tokenizer):
    source, workdir = folder / f'{layout}.safetensors', folder / layout
    if not workdir.exists():
      half = lambda name: 'bfloat16' if 'mlp' in name else 'float32'  # noqa: E731
      wrapped = dict(prefix='transformer.' if layout == 'gpt2' else 'backbone.', dtype=half)
      head = 'lm_head.weight' if layout == 'gpt2' else ''
      config = small_file(source, layout, head=head, **wrapped)
      convert.import_file(source, workdir, layout=layout, tokenizer=tokenizer, config=config)
    return source, workdir

  return of


@pytest.mark.parametrize('layout', layouts.LAYOUTS)
def test_every_layout_goes_in_samples_and_comes_out_the_same(
  layout, imported, shared_data, tmp_path
):
  """Through files and checkpoints."""
  source, workdir = imported(layout, shared_data / 'gpt2_bpe')
  model = ardiff_jax.load(workdir)
  (sample,) = model.sample(1, 'Hello')
  assert sample.token_ids[0] == 15496 and len(sample.token_ids) == 16
  if layout == 'gpt2':  # it judges texts, too
    out, real = tmp_path / 'out.jsonl', tmp_path / 'real.txt'
    out.write_text(3 * (json.dumps({'text': sample.text, 'token_ids': sample.token_ids}) + '\n'))
    real.write_text('Hello world, hello. ' * 30)
    (record,) = judge(workdir, [str(out)], workdir, str(real))
    tokens = np.array([sample.token_ids] * 3)
    nats = model.sequence_nats(tokens, np.ones(tokens.shape, bool), num_samples=None, seed=0)
    assert record['judge_nats'] == pytest.approx(float(nats[0]) / 16, rel=1e-5)
  assert convert.export_file(workdir, tmp_path / 'again.safetensors') == layout
  with (
    safetensors.safe_open(source, 'numpy') as old,
    safetensors.safe_open(tmp_path / 'again.safetensors', 'numpy') as new,
  ):
    derived = set() if layout == 'gpt2' else {f'backbone.{layouts.DERIVED}'}
    assert set(new.keys()) == set(old.keys()) | derived
    for name in old.keys():  # noqa: SIM118  (no mapping)
      ours, theirs = new.get_tensor(name), old.get_tensor(name)
      assert ours.dtype == theirs.dtype and ours.tobytes() == theirs.tobytes(), name


def by_default(*names, of=layouts.LAYOUTS):
  """All layouts, of which only those named are tried by default."""
  return [
    layout if layout in names else pytest.param(layout, marks=pytest.mark.full) for layout in of
  ]


# models that predict scores; models of our own that predict tokens are refined elsewhere
@pytest.mark.parametrize(
  'layout', by_default('hdlm_gamma', 'sedd', of=[x for x in layouts.LAYOUTS if x != 'gpt2'])
)
def test_layouts_of_denoisers_refine(layout, imported, shared_data):
  _, workdir = imported(layout, shared_data / 'gpt2_bpe')
  model = ardiff_jax.load(workdir)
  (refined,) = model.refine('Hello world, hello', prompt='Hello', strength=0.9, steps=2)
  assert len(refined.token_ids) == len(refined.draft_ids) and refined.changed > 0


def test_what_a_config_may_not_say(shared_data, tmp_path):
  source, workdir = tmp_path / 'model.safetensors', tmp_path / 'model'
  tokenizer = shared_data / 'gpt2_bpe'
  random_file(source, 'hdlm_epsilon', 300, 64, 1)
  with pytest.raises(UserError, match=r'which ε the model has is not in the file.*epsilon=0\.01'):
    convert.import_file(source, workdir, tokenizer=tokenizer)
  random_file(source, 'hdlm_gamma', 300, 64, 1, condition_dim=24)
  with pytest.raises(UserError, match=r'which γ the model has is not in the file.*gamma=0\.01'):
    convert.import_file(source, workdir, tokenizer=tokenizer)
  config = convert.published_config('hdlm_gamma')
  config.objective.head = 'x0'
  with pytest.raises(UserError, match=r"objective\.head is 'x0', and that of hdlm_gamma 'score'"):
    convert.import_file(source, workdir, tokenizer=tokenizer, config=config)
  with pytest.raises(UserError, match=r'has no vocab\.json: say with --tokenizer'):
    convert.import_file(source, workdir)
  with pytest.raises(UserError, match="unknown layout 'hdlm'; known: auto, hdlm_epsilon"):
    convert.read(source, 'hdlm')
  assert not workdir.exists()


def fine_tuning(layout, workdir, text_file):
  """The config of a run that starts from there, as the README says, and changes nothing."""
  config = convert.published_config(layout)
  own = small_config('mdlm', text_file, steps=1, learning_rate=0.0, ema_decay=0.0)
  config.train, config.eval, config.data.source = own.train, own.eval, own.data.source
  config.data.length, config.sampling.steps, config.hyperschedule.width = 16, 2, 4
  config.init_from = str(workdir)
  config.model.update(model_dim=64, num_layers=1, num_heads=1, dtype='float32')
  config.model.update(FINE_TUNING[layout])
  return config


@pytest.mark.parametrize('layout', layouts.LAYOUTS)
def test_every_layout_is_evaluated_and_started_from(layout, imported, shared_data, text_file):
  """Logits near 0 are near the uniform law, whose likelihood is known; a run starts from there."""
  _, workdir = imported(layout, shared_data / 'gpt2_bpe')
  text = text_file.parent / 'text.txt'
  text.write_text('The quick brown fox jumps over the lazy dog. ' * 20)
  (record,) = evaluate(workdir, [str(text)])
  assert record['kind'] == ('exact' if layout == 'gpt2' else 'bound') and not record['baselines']
  assert abs(record['nll_per_token'] - math.log(50_257)) < 3 * record['stderr'] + 0.01

  config = fine_tuning(layout, workdir, text_file)
  tokenizer = source_tokenizer(config)
  method = method_lib.build(config, tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id)
  optimizer, _ = make_optimizer(config.train, method.trained)
  mesh = mesh_lib.make_mesh(config.mesh)
  state = warm_start(abstract_state(method, optimizer, 16, 0, mesh), config)
  jax.tree.map(np.testing.assert_array_equal, state.params, ardiff_jax.load(workdir).params)


# the one with most that is its own: scores, mixing, conditioning
@pytest.mark.parametrize('layout', by_default('hdlm_gamma'))
def test_layouts_are_trained_on(layout, imported, shared_data, text_file, tmp_path):
  _, workdir = imported(layout, shared_data / 'gpt2_bpe')
  assert train(fine_tuning(layout, workdir, text_file), tmp_path / 'tuned')
  theirs, tuned = (ardiff_jax.load(path) for path in (workdir, tmp_path / 'tuned'))
  jax.tree.map(np.testing.assert_array_equal, tuned.params, theirs.params)


def test_what_an_imported_model_refuses(shared_data, tmp_path):
  """GPT-2 in small: another run in its place, text it does not have, more tokens than positions."""
  source, workdir = tmp_path / 'gpt2.safetensors', tmp_path / 'gpt2'
  random_file(source, 'gpt2', 50_257, 64, 1, max_positions=33)
  imports = ['import', f'--from={source}', f'--tokenizer={shared_data / "gpt2_bpe"}']
  succeed('checkpoints', *imports, f'--workdir={workdir}')
  content = json.loads((workdir / 'config.json').read_text())
  assert content['config']['data']['length'] == 32
  again = refuse('checkpoints', *imports, f'--workdir={workdir}')
  assert 'holds a run already' in again.stderr
  with pytest.raises(UserError, match='has no text of its own'):
    evaluate(workdir, ['valid'])
  config = convert.published_config('gpt2')
  config.init_from, config.data.length = str(workdir), 40
  config.model.update(content['config']['model'])
  with pytest.raises(UserError, match='33 learned positions'):
    train(config, tmp_path / 'longer')


def test_a_vocabulary_of_another_tokenizer_is_refused(shared_data, tmp_path):
  random_file(tmp_path / 'model.safetensors', 'hdlm_epsilon', 300, 64, 1)
  given = dict(tokenizer=shared_data / 'gpt2_bpe', config=convert.published_config('hdlm_epsilon'))
  with pytest.raises(UserError, match=r'a vocabulary of 300 .* tokenizer of .* one of 50257'):
    convert.import_file(tmp_path, tmp_path / 'run', **given)
  assert not (tmp_path / 'run').exists()
