"""Published checkpoints: files, layouts, and tiny ones with known outputs."""

import functools
import os
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from conftest import ROOT, small_config
from untrained import untrained
from worlds import extend

import ardiff_jax
from ardiff_jax import masks, mesh
from ardiff_jax import workdir as workdir_lib
from ardiff_jax.checkpoints import convert, files, layouts
from ardiff_jax.errors import UserError
from ardiff_jax.hyperschedules import Region, autoregressive, block
from ardiff_jax.models.denoiser import make_denoiser
from ardiff_jax.models.transformer import Transformer
from ardiff_jax.training.checkpointing import restore_ema, save_ema
from configs import base

FIXTURES = pathlib.Path(os.environ.get('ARDIFF_FIXTURES', ROOT.parent / 'shared' / 'fixtures'))
needs_fixtures = pytest.mark.skipif(
  not FIXTURES.is_dir(), reason=f'no tiny checkpoints at {FIXTURES}; set ARDIFF_FIXTURES'
)
# what a file does not tell
EXTRA = {
  'hdlm_epsilon': {},
  'hdlm_gamma': dict(mask_mixing=0.01),
  'mdlm': dict(conditioning='adaln'),  # the fixture varies the noise level
  'sedd': {},
  'gpt2': dict(num_heads=4),
}
VOCAB, LENGTH = 29, 12
LOG_SCORES = ('hdlm_gamma', 'sedd')


def weights(name):
  return FIXTURES / f'{name}.weights.safetensors'


def known(name):
  return safetensors.numpy.load_file(FIXTURES / f'{name}.io.safetensors')


@functools.cache
def fixture(name):
  """The network, its parameters and what the public code gave for which input."""
  config, arrays, _ = convert.read(weights(name), name, **EXTRA[name])
  known_values = known(name)
  tokens = jnp.asarray(known_values['tokens'], jnp.int32)
  sigma = known_values.get('sigma', np.zeros(2, np.float32))
  sigma = jnp.broadcast_to(jnp.asarray(sigma.reshape(2, -1)), tokens.shape)
  return Transformer(config), convert.to_params(arrays), tokens, sigma, known_values


def mask_of(name, known_values):
  """Who may attend in 'logits_masked' (blocks of 4, the last not started), or none."""
  schedule = block(LENGTH, 4, 1)
  regions = np.where(np.arange(LENGTH) < 8, Region.SETTLED, Region.WORTHLESS)
  settle = autoregressive(LENGTH).settle_step if name == 'gpt2' else schedule.settle_step
  if name == 'gpt2':
    regions = np.full(LENGTH, Region.SETTLED)
  mask = masks.from_regions(
    jnp.asarray(np.tile(regions, (2, 1))),
    jnp.asarray(settle),
    context='block_causal',
    sight=masks.Sight(),
  )
  if name != 'gpt2':
    np.testing.assert_array_equal(~np.asarray(mask.dense()), known_values['attend_masked_true'])
  return mask


def as_published(name, logits, tokens, sigma):
  """Ours without the mask's column; scores with their offset, SEDD's 0 at the present token."""
  if name in LOG_SCORES:
    logits = logits - (jnp.log(jnp.expm1(sigma)) + jnp.log(VOCAB))[..., None]
  if name == 'sedd':
    logits = jnp.where(jax.nn.one_hot(tokens, VOCAB, dtype=bool), 0.0, logits)
  return logits


@functools.partial(jax.jit, static_argnames=('name', 'network'))
def run(name, network, params, tokens, sigma, mask):
  logits = network.apply(params, tokens, sigma=sigma, positions=jnp.arange(LENGTH), mask=mask)
  return as_published(name, logits, tokens, sigma)


def cases(name, sigma, expected):
  """What the public code was shown, and gave: noise levels, mask, logits of the leading rows."""
  full = expected['log_score' if name == 'sedd' else 'logits_full'][..., :VOCAB]
  assert np.ptp(full) > 1.0
  yield sigma, mask_of(name, expected) if name == 'gpt2' else None, full
  if 'logits_masked' in expected:  # the rows that attend to something
    yield sigma, mask_of(name, expected), expected['logits_masked'][:, :8, :VOCAB]
  if 'logits_sigma0' in expected:
    yield jnp.zeros_like(sigma), None, expected['logits_sigma0'][..., :VOCAB]


@needs_fixtures
@pytest.mark.parametrize('name', EXTRA)
def test_logits_are_the_published_ones(name):
  network, params, tokens, sigma, expected = fixture(name)
  for levels, mask, wanted in cases(name, sigma, expected):
    ours = run(name, network, params, tokens, levels, mask)
    np.testing.assert_allclose(ours[:, : wanted.shape[1]], wanted, atol=2e-5)
  if 'logits_sigma0' in expected:
    config, arrays, _ = convert.read(weights(name), name)  # as published: always told 0
    told = run(name, Transformer(config), convert.to_params(arrays), tokens, sigma, None)
    np.testing.assert_allclose(told, expected['logits_sigma0'][..., :VOCAB], atol=2e-5)


# the network of the latter two has the parameters of hdlm_gamma's
@needs_fixtures
@pytest.mark.parametrize(
  'name',
  [
    *('hdlm_epsilon', 'hdlm_gamma', 'gpt2'),
    *(pytest.param(name, marks=pytest.mark.full) for name in ('mdlm', 'sedd')),
  ],
)
def test_logits_are_the_same_when_restored_on_eight_devices(name, tmp_path):
  network, params, tokens, sigma, expected = fixture(name)
  shape = base.get_base().mesh
  shape.data, shape.fsdp, shape.tensor = 2, 2, 2
  devices = mesh.make_mesh(shape)
  init = lambda key: network.init(key, tokens, sigma=sigma, positions=jnp.arange(LENGTH))  # noqa: E731
  shardings = mesh.shardings(devices, jax.eval_shape(init, jax.random.key(0)))
  save_ema(tmp_path, jax.tree.map(jnp.asarray, params), {})
  abstract = jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), params, shardings
  )
  _, placed = restore_ema(tmp_path, abstract)
  assert len({x.sharding.spec for x in jax.tree.leaves(placed)}) > 3
  for levels, mask, wanted in cases(name, sigma, expected):
    shown = tokens, levels, mask
    with mesh.use(devices):
      ours = jax.jit(lambda params, shown=shown: run(name, network, params, *shown))(placed)
    np.testing.assert_allclose(ours[:, : wanted.shape[1]], wanted, atol=2e-5)


def cached(name, width, step, sigma=None):
  """Outputs [2, width, VOCAB] of one of the blocks, twice: those before it are read into the cache
  by the call that looks at it, and were there before the call."""
  network, params, tokens, levels, _ = fixture(name)
  sigma = levels if sigma is None else jnp.broadcast_to(sigma, levels.shape)
  schedule = block(LENGTH, width, 1)
  rules = dict(alignment='aligned', context='block_causal', window='full', bos_id=0, eos_id=0)
  denoiser = make_denoiser(network, schedule, **rules)
  window = jnp.arange(width * step, width * (step + 1))
  cache, found = denoiser.empty_cache(2, LENGTH), []
  for cached_step, num_read in ((-1, width * step), (step, 0)):
    shown = tokens, sigma, window, step, cached_step, schedule.settle_step
    logits, entries = extend(denoiser, params, cache, *shown, num_new=width)
    assert (entries.slots >= 0).sum() == num_read
    cache = cache.write(entries)
    found.append(as_published(name, logits, tokens[:, window], sigma[:, window]))
  return found


@needs_fixtures
@pytest.mark.parametrize(
  'name, key, width, step, sigma',
  [
    ('hdlm_epsilon', 'logits_masked', 4, 0, None),
    ('hdlm_epsilon', 'logits_masked', 4, 1, None),
    ('hdlm_gamma', 'logits_masked', 4, 0, None),
    ('hdlm_gamma', 'logits_full', LENGTH, 0, None),
    ('mdlm', 'logits_full', LENGTH, 0, None),
    ('mdlm', 'logits_sigma0', LENGTH, 0, 0.0),
    ('sedd', 'log_score', LENGTH, 0, None),
  ],
)
def test_cached_logits_are_the_published_ones(name, key, width, step, sigma):
  expected = known(name)[key][:, width * step : width * (step + 1), :VOCAB]
  for ours in cached(name, width, step, sigma):
    np.testing.assert_allclose(ours, expected, atol=2e-5)


@needs_fixtures
def test_cached_logits_behind_clean_context_are_the_uncached_ones():
  """Context has noise level 0, as settled tokens have when HDLM samples; in the known outputs of
  the γ-hybrid it has a level, so these cannot be compared with."""
  network, params, tokens, sigma, expected = fixture('hdlm_gamma')
  levels = jnp.where(jnp.arange(LENGTH) < 4, 0.0, sigma)
  wanted = run('hdlm_gamma', network, params, tokens, levels, mask_of('hdlm_gamma', expected))
  assert np.abs(wanted[:, 4:8] - expected['logits_masked'][:, 4:8, :VOCAB]).max() > 1e-3
  for ours in cached('hdlm_gamma', 4, 1):
    np.testing.assert_allclose(ours, wanted[:, 4:8], atol=2e-5)


@needs_fixtures
def test_cached_logits_of_gpt2_are_the_published_ones():
  """Token by token, the first of them in front as BOS is."""
  network, params, tokens, sigma, expected = fixture('gpt2')
  schedule = autoregressive(LENGTH - 1)
  for example in range(2):
    rules = dict(alignment='shifted', context='causal', window='causal', eos_id=0)
    denoiser = make_denoiser(network, schedule, bos_id=int(tokens[example, 0]), **rules)
    rest, levels = tokens[example : example + 1, 1:], sigma[:1, 1:]
    cache = denoiser.empty_cache(1, LENGTH - 1)
    for step in range(LENGTH - 1):
      shown = rest, levels, np.array([step]), step, step - 1, schedule.settle_step
      logits, entries = extend(denoiser, params, cache, *shown, num_new=1)
      cache = cache.write(entries)
      ours = logits[0, 0]
      np.testing.assert_allclose(ours, expected['logits_full'][example, step], atol=2e-5)


@needs_fixtures
@pytest.mark.parametrize('name', EXTRA)
def test_what_comes_out_is_what_went_in(name):
  config, arrays, origin = convert.read(weights(name), name, **EXTRA[name])
  before = safetensors.numpy.load_file(weights(name))
  expected = layouts.tensors(name, config)
  after = {origin['prefix'] + key: tensor.get(arrays) for key, tensor in expected.items()}
  if name != 'gpt2':
    after[layouts.DERIVED] = layouts.derived(config)
  assert set(after) == set(before)
  for key, value in before.items():
    assert after[key].dtype == value.dtype and after[key].tobytes() == value.tobytes(), key


@needs_fixtures
@pytest.mark.parametrize('name', ['hdlm_epsilon', 'hdlm_gamma', 'gpt2'])
def test_layouts_are_told_from_the_names(name):
  assert layouts.recognise(set(files.open_file(weights(name)).shapes)) == name


def test_layouts_that_cannot_be_told_are_named():
  names = {
    'vocab_embed.embedding',
    'sigma_map.mlp.0.weight',
    'output_layer.adaLN_modulation.weight',
  }
  with pytest.raises(UserError, match='mdlm, sedd and bd3lm have the same; say which'):
    layouts.recognise(names)
  with pytest.raises(UserError, match=r'cannot be told from the names \(a, b\b.*known: hdlm_eps'):
    layouts.recognise({'a', 'b'})


def altered(tmp_path, change, name='hdlm_epsilon'):
  tensors = safetensors.numpy.load_file(weights(name))
  path = tmp_path / 'model.safetensors'
  safetensors.numpy.save_file(change(tensors), path)
  return path


@needs_fixtures
@pytest.mark.parametrize(
  'change, message',
  [
    (
      lambda x: {k: v for k, v in x.items() if k != 'blocks.1.norm2.weight'},
      r'as layout hdlm_epsilon:\n  blocks\.1\.norm2\.weight is missing, expected \[32\]',
    ),
    (
      lambda x: x | {'blocks.0.extra': np.zeros((2, 3), np.float32)},
      r'as layout hdlm_epsilon:\n  blocks\.0\.extra \[2, 3\] is unknown',
    ),
    (
      lambda x: x | {'blocks.0.mlp.2.bias': np.zeros(7, np.float32)},
      r'as layout hdlm_epsilon:\n  blocks\.0\.mlp\.2\.bias is \[7\], expected \[32\]',
    ),
    (
      lambda x: x | {'blocks.0.mlp.2.bias': np.zeros(32, np.int32)},
      r'as layout hdlm_epsilon:\n  blocks\.0\.mlp\.2\.bias is of I32, expected float32',
    ),
    (
      lambda x: {k: v for k, v in x.items() if 'mlp.0' not in k},
      r'as layout hdlm_epsilon:\n  blocks\.0\.mlp\.0\.weight is missing, expected a matrix',
    ),
    (
      lambda x: x | {'vocab_embed.embedding': np.zeros(30, np.float32)},
      r'as layout hdlm_epsilon:\n  vocab_embed\.embedding is \[30\], expected a matrix',
    ),
  ],
  ids=['missing', 'extra', 'misshapen', 'integers', 'no size', 'flat'],
)
def test_a_tensor_that_is_wrong_is_named(change, message, tmp_path):
  with pytest.raises(UserError, match=message):
    convert.read(altered(tmp_path, change))


@needs_fixtures
@pytest.mark.parametrize('prefix', ['backbone.', 'module.backbone.'])
def test_prefixes_and_half_precision_are_kept(prefix, tmp_path):
  half = lambda x: {prefix + k: v.astype(np.float16) for k, v in x.items()}  # noqa: E731
  path = altered(tmp_path, half)
  config, arrays, origin = convert.read(path)
  assert origin['prefix'] == prefix and set(origin['dtypes'].values()) == {'float16'}
  tensors = layouts.tensors('hdlm_epsilon', config).items()
  again = tmp_path / 'again.safetensors'
  files.write(again, ((prefix + key, tensor.get(arrays), 'float16') for key, tensor in tensors))
  before = safetensors.numpy.load_file(path)
  for key, value in safetensors.numpy.load_file(again).items():
    assert value.tobytes() == before[key].tobytes()


def test_files_that_are_none(tmp_path):
  with pytest.raises(UserError, match='there is no file or folder'):
    files.find(tmp_path / 'nowhere')
  with pytest.raises(UserError, match=r'holds no \*\.safetensors'):
    files.find(tmp_path)
  for name in ('a', 'b'):
    (tmp_path / f'{name}.safetensors').write_bytes(b'text')
  with pytest.raises(UserError, match=r'holds several: a\.safetensors, b\.safetensors'):
    files.find(tmp_path)
  with pytest.raises(UserError, match='is no safetensors file'):
    files.open_file(tmp_path / 'a.safetensors')
  with pytest.raises(UserError, match=r'known are \.safetensors'):
    files.open_file(tmp_path / 'a.gguf')


def test_pickles_without_torch_name_the_conversion(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  with pytest.raises(UserError, match=r'torch is not installed: .*convert it: safetensors'):
    files.open_file(tmp_path / 'pytorch_model.bin')


def test_pickles_are_asked_for_as_weights_alone(tmp_path, monkeypatch):
  """Of a torch that stands in for the real one."""
  asked = {}

  class Tensor(np.ndarray):
    float = numpy = lambda self: self

  def load(path, **how):
    asked.update(how)
    return {'state_dict': {'backbone.x': np.arange(3.0).view(Tensor), 'step': 3}}

  torch = types.SimpleNamespace(Tensor=Tensor, load=load)
  monkeypatch.setitem(sys.modules, 'torch', torch)
  file = files.open_file(tmp_path / 'model.ckpt')
  assert asked['weights_only'] is True
  assert file.prefix == 'backbone.' and file.shapes == {'x': (3,)}
  np.testing.assert_array_equal(file.read('x'), [0.0, 1.0, 2.0])

  def refuse(path, **how):
    raise RuntimeError('Weights only load failed\nin many lines')

  torch.load = refuse
  with pytest.raises(UserError, match=r'as weights alone \(Weights only load failed\): .*convert'):
    files.open_file(tmp_path / 'model.ckpt')


def test_pickles_with_torch_are_read_as_weights_alone(tmp_path):
  torch = pytest.importorskip('torch', reason='torch is not installed; it is no dependency')
  path = tmp_path / 'model.ckpt'
  torch.save({'state_dict': {'backbone.x': torch.arange(3.0)}}, path)
  file = files.open_file(path)
  assert file.prefix == 'backbone.' and file.shapes == {'x': (3,)}
  np.testing.assert_array_equal(file.read('x'), [0.0, 1.0, 2.0])
  for content in ([torch.zeros(1)], torch.zeros(1), {'state_dict': [torch.zeros(1)]}):
    torch.save(content, path)
    with pytest.raises(UserError, match='holds no tensors by name: where there is torch'):
      files.open_file(path)


def test_pickles_that_run_code_are_refused_unrun(tmp_path):
  torch = pytest.importorskip('torch', reason='torch is not installed; it is no dependency')
  made = tmp_path / 'made'

  class Code:
    def __reduce__(self):
      return pathlib.Path.touch, (made,)

  path = tmp_path / 'model.ckpt'
  torch.save({'state_dict': {'x': torch.zeros(1)}, 'callbacks': Code()}, path)
  with pytest.raises(UserError, match=r'cannot be read as weights alone .*convert it: safetensors'):
    files.open_file(path)
  assert not made.exists()
  torch.load(path, weights_only=False)
  assert made.exists()


def test_a_model_of_our_own_is_published_and_read_again(text_file, tmp_path):
  """Made here with the network of a layout; exported, and the logits are the same."""
  config = small_config('epsilon_hybrid', text_file)
  config.model.update(biases='ddit', tie_embedding=False)
  untrained(config, tmp_path / 'run')
  with pytest.raises(UserError, match='was not imported: say with --layout'):
    convert.export_file(tmp_path / 'run', tmp_path / 'x.safetensors')
  with pytest.raises(
    UserError, match=r"is no gpt2: config\.model\.biases is 'ddit', gpt2 has 'all'"
  ):
    convert.export_file(tmp_path / 'run', tmp_path / 'x.safetensors', 'gpt2')
  with pytest.raises(UserError, match=r'must be a \.safetensors file'):
    convert.export_file(tmp_path / 'run', tmp_path / 'x.bin', 'hdlm_epsilon')
  convert.export_file(tmp_path / 'run', tmp_path / 'x.safetensors', 'hdlm_epsilon')
  network, arrays, _ = convert.read(tmp_path / 'x.safetensors')
  model = ardiff_jax.load(tmp_path / 'run')
  tokens = jnp.arange(20)[None]
  shown = dict(sigma=jnp.zeros((1, 20)), positions=jnp.arange(20))
  ours = jax.jit(model.method.denoise.network.apply)(model.params, tokens, **shown)
  again = jax.jit(Transformer(network).apply)(convert.to_params(arrays), tokens, **shown)
  assert np.std(ours) > 0.1
  np.testing.assert_allclose(again, ours, atol=1e-5)


@pytest.mark.parametrize(
  'layout, changes, message',
  [
    ('sedd', {'objective.head': 'x0'}, r"objective\.head is 'x0', and that of sedd 'score'"),
    ('mdlm', {'noise.name': 'uniform'}, r"noise\.name is 'uniform', and that of mdlm 'absorbing'"),
    ('hdlm_gamma', {'noise.gamma': 0.1}, r'model\.mask_mixing is 0\.0, hdlm_gamma has 0\.1'),
    ('hdlm_epsilon', {'model.norm': 'rmsnorm'}, r"norm is 'rmsnorm', hdlm_epsilon has 'layernorm'"),
  ],
)
def test_a_model_that_means_something_else_is_not_published(layout, changes, message, tmp_path):
  config = convert.published_config(layout)
  config.model.update(layouts.LAYOUTS[layout])
  config.update_from_flattened_dict(changes)
  content = {'config': workdir_lib.to_json(config), 'tokenizer': {'vocab_size': 50_257}}
  workdir_lib.write(tmp_path, content | {'corpus': {}, 'parameters': 0})
  with pytest.raises(UserError, match=message):
    convert.export_file(tmp_path, tmp_path / 'x.safetensors', layout)


@needs_fixtures
@pytest.mark.parametrize('wrap', ['', 'module.'])
def test_gpt2_comes_with_its_tied_head_and_masks(wrap, tmp_path):
  """As its library writes it: a head beside the prefix, and buffers. Another head is refused."""
  extra = {
    'lm_head.weight': safetensors.numpy.load_file(weights('gpt2'))['transformer.wte.weight'],
    'transformer.h.0.attn.bias': np.ones((1, 1, 16, 16), np.uint8),
    'transformer.h.0.attn.masked_bias': np.array(-1e4, np.float16),
  }
  wrapped = lambda x: {wrap + name: value for name, value in (x | extra).items()}  # noqa: E731
  path = altered(tmp_path, wrapped, 'gpt2')
  _, arrays, origin = convert.read(path, num_heads=4)
  _, plain, _ = convert.read(weights('gpt2'), num_heads=4)
  assert origin == {
    'layout': 'gpt2',
    'prefix': f'{wrap}transformer.',
    'head': f'{wrap}lm_head.weight',
    'dtypes': {},
  }
  for key, value in plain.items():
    np.testing.assert_array_equal(arrays[key], value)
  extra['lm_head.weight'] = extra['lm_head.weight'] + 1
  with pytest.raises(UserError, match=r'lm_head\.weight is not wte\.weight'):
    convert.read(altered(tmp_path, wrapped, 'gpt2'), num_heads=4)


@needs_fixtures
def test_a_head_without_its_embedding_is_refused(tmp_path):
  alone = lambda x: {  # noqa: E731
    name.replace('transformer.wte', 'lm_head'): value for name, value in x.items()
  }
  with pytest.raises(
    UserError, match=r'as layout gpt2:\n  wte\.weight is missing, expected a matrix'
  ):
    convert.read(altered(tmp_path, alone, 'gpt2'), 'gpt2', num_heads=4)


@needs_fixtures
@pytest.mark.parametrize(
  'value, message',
  [
    (np.ones((), np.float32), 'expected half the width of a head'),
    (np.ones(5, np.float32), 'expected half the width of a head'),
    (np.ones(4, np.float32), 'not those of base 10,000'),
  ],
)
def test_other_rotary_frequencies_are_refused(value, message, tmp_path):
  with pytest.raises(UserError, match=message):
    convert.read(altered(tmp_path, lambda x: x | {layouts.DERIVED: value}))
