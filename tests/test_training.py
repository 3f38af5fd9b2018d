"""The update and the loop: same result however it is split, interrupted or sharded."""

import contextlib
import dataclasses
import json
import shutil
import signal
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import small_config, write_sums
from steps import assert_same_gradients, make_mesh, make_state, make_step, run_steps

import ardiff_jax
from ardiff_jax import mesh as mesh_lib
from ardiff_jax import method as method_lib
from ardiff_jax import workdir as workdir_lib
from ardiff_jax.data import corpus
from ardiff_jax.errors import UserError
from ardiff_jax.training import checkpointing, loop
from ardiff_jax.training.state import TrainState, abstract_state, init_state, make_optimizer
from ardiff_jax.training.step import make_train_step

VOCAB = 257
OTHERS = ('slide', 'gamma_hybrid')


def read_metrics(workdir, split='train'):
  lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return {x['step']: x for x in lines if x['split'] == split}


@pytest.mark.parametrize('name', [pytest.param('ar', marks=pytest.mark.full), 'epsilon_hybrid'])
def test_microbatches_equal_the_full_batch(name, text_file):
  config = small_config(name, text_file)
  full, full_losses = run_steps(config, make_mesh())
  config.train.accumulate = 4
  micro, micro_losses = run_steps(config, make_mesh())
  np.testing.assert_allclose(micro_losses, full_losses, rtol=1e-4)
  assert_same_gradients(micro, full)
  assert full_losses[2] < full_losses[0]


def test_drafts_reach_the_objective_in_microbatches(text_file):
  """And are ignored by a model that only reads: the same rows with and without."""

  def losses(name, **batch):
    config = small_config(name, text_file)
    config.train.accumulate, config.model.num_layers = 2, 1
    mesh = make_mesh()
    step, (plain, *constants), _ = make_step(config, mesh)
    with mesh_lib.use(mesh):
      _, metrics, _ = step(make_state(config, mesh), plain | batch, *constants)
    return float(metrics.compute()['loss'])

  _, (batch, *_), _ = make_step(small_config('ar', text_file), make_mesh())
  right, wrong = batch['tokens'], (batch['tokens'] + 1) % VOCAB
  plain = losses('epsilon_hybrid')
  assert losses('epsilon_hybrid', draft=right) == pytest.approx(plain, rel=1e-6)
  assert losses('epsilon_hybrid', draft=wrong) > plain * 1.001
  assert losses('ar', draft=wrong) == pytest.approx(losses('ar'), rel=1e-6)


def test_warmup_is_cut_to_the_run_and_decay_spares_scales():
  settings = small_config('ar', 'unused').train
  settings.update(steps=2, warmup_steps=100, weight_decay=0.5, learning_rate=1.0)
  optimizer, schedule = make_optimizer(settings)
  assert [float(schedule(i)) for i in range(3)] == [0.0, 1.0, 0.0]
  params = {'kernel': np.ones(3, np.float32), 'scale': np.ones(3, np.float32)}
  zero = jax.tree.map(np.zeros_like, params)
  _, state = optimizer.update(zero, optimizer.init(params), params)
  updates, _ = optimizer.update(zero, state, params)
  np.testing.assert_allclose(updates['kernel'], -0.5)
  np.testing.assert_allclose(updates['scale'], 0.0)


def test_clipping_and_adam_b2_move_the_update():
  def second_update(**change):
    settings = small_config('ar', 'unused', learning_rate=1.0, warmup_steps=0, weight_decay=0.0)
    settings.train.update(change)
    optimizer, _ = make_optimizer(settings.train)
    params = {'kernel': np.zeros(3, np.float32)}
    state = optimizer.init(params)
    for size in (1.0, 10.0):
      gradient = {'kernel': np.full(3, size, np.float32)}
      updates, state = optimizer.update(gradient, state, params)
    return float(updates['kernel'][0])

  # clipped to one norm, both gradients are alike and Adam's step is the learning rate
  assert second_update(clip_norm=0.1) == pytest.approx(second_update(clip_norm=0.1, adam_b2=0.5))
  assert second_update(clip_norm=100.0) != pytest.approx(second_update(clip_norm=0.1), rel=1e-2)
  free = dict(clip_norm=100.0)
  assert second_update(**free) != pytest.approx(second_update(**free, adam_b2=0.5), rel=1e-2)


def test_average_follows_its_decay(text_file):
  config = small_config('ar', text_file)
  method = method_lib.build(config, VOCAB, bos_id=256, eos_id=0)
  optimizer, _ = make_optimizer(config.train)
  mesh = make_mesh()
  tokens, counted = np.zeros((8, 32), np.int32), np.ones((8, 32), bool)
  batch = {'tokens': tokens, 'loss_mask': counted, 'stop': ~counted[:, 0]}
  states = {}

  @jax.jit
  def step(decay, state, *args):
    step_fn = make_train_step(
      method.denoise, method.objective, optimizer, ema_decay=decay, accumulate=1, dropout=False
    )
    return step_fn(state, *args)[0]

  for decay in (0.0, 0.15, 0.999):
    state = init_state(method.denoise, optimizer, 32, 0, mesh)
    with mesh_lib.use(mesh):
      args = mesh_lib.repeat(mesh, (batch, method.hyperschedule, jax.random.key(0)))
      states[decay] = state, step(decay, state, *args)
  for decay, (before, after) in states.items():
    used = min(decay, 2 / 11)  # of the first step
    jax.tree.map(
      lambda ema, old, new, used=used: np.testing.assert_allclose(
        ema, used * old + (1 - used) * new, atol=1e-6
      ),
      *(after.ema, before.params, after.params),
    )


def test_what_is_evaluated_is_the_average_that_is_saved(text_file, tmp_path, monkeypatch):
  seen = {}

  def evaluate(config, prepared, params, step, mesh, writer):
    seen[step] = checkpointing.fingerprint(params)
    return {'nll_per_token': 0.0}

  monkeypatch.setattr(loop, '_evaluate', evaluate)
  loop.train(small_config('ar', text_file, eval_every=6), tmp_path / 'run')
  model = ardiff_jax.load(tmp_path / 'run')
  assert seen == {6: checkpointing.fingerprint(model.params)}


def test_every_update_draws_rows_noise_and_dropout_of_its_own():
  """The gradients are what the objective is given, so the parameters tell."""

  def objective(denoise, params, examples, hyperschedule, dropout_key):
    noise = jax.vmap(jax.random.uniform)(examples.keys)
    dropped = jax.random.uniform(dropout_key, noise.shape)
    return params * jnp.stack([examples.uniform, noise, dropped], axis=1)

  optimizer, start = optax.sgd(1.0), jnp.zeros((1, 3))
  step = jax.jit(
    make_train_step(None, objective, optimizer, ema_decay=0.0, accumulate=2, dropout=True)
  )
  counted = np.ones((4, 3), bool)
  batch = {'tokens': 0 * counted, 'loss_mask': counted, 'stop': ~counted[:, :1]}
  state, found = TrainState(jnp.int32(0), start, start, optimizer.init(start)), [start]
  for _ in range(3):
    state = step(state, batch, None, jax.random.key(0))[0]
    found.append(state.params)
  moves = np.diff(np.concatenate(found), axis=0)
  assert all(len(np.unique(moves[:, i])) == 3 for i in range(3))


def test_only_the_newest_checkpoints_are_kept(text_file, tmp_path):
  for keep in (1, 2):
    config = small_config('ar', text_file, checkpoint_every=2, eval_every=6, keep=keep)
    loop.train(config, tmp_path / str(keep))
    steps = sorted(int(p.name) for p in (tmp_path / str(keep) / 'checkpoints').iterdir())
    assert steps == [6, 4, 2][:keep][::-1]


@pytest.mark.parametrize(
  'name',
  ['ar', 'epsilon_hybrid', *(pytest.param(x, marks=pytest.mark.full) for x in OTHERS)],
)
def test_interrupted_and_resumed_equals_uninterrupted(name, text_file, tmp_path, monkeypatch):
  config = small_config(name, text_file)
  assert loop.train(config, tmp_path / 'whole')

  take = loop.mesh_lib.place_batch
  calls = []

  def interrupting(mesh, batch):
    calls.append(1)
    if len(calls) == 4:
      signal.raise_signal(signal.SIGTERM)
    return take(mesh, batch)

  monkeypatch.setattr(loop.mesh_lib, 'place_batch', interrupting)
  assert not loop.train(config, tmp_path / 'parts')
  assert max(read_metrics(tmp_path / 'parts')) == 4
  assert loop.train(config, tmp_path / 'parts')

  whole, parts = (read_metrics(tmp_path / x) for x in ('whole', 'parts'))
  assert list(whole) == list(parts) == [1, 2, 3, 4, 5, 6]
  assert [whole[i]['loss'] for i in whole] == [parts[i]['loss'] for i in parts]
  valid = [read_metrics(tmp_path / x, 'valid')[6] for x in ('whole', 'parts')]
  assert valid[0] == valid[1]
  assert valid[0]['kind'] == ('exact' if name == 'ar' else 'bound')


@pytest.mark.parametrize(
  'numbers',
  [
    (signal.SIGTERM, signal.SIGTERM),
    (signal.SIGUSR1, signal.SIGTERM),
    (signal.SIGTERM, signal.SIGINT),
    (signal.SIGINT, signal.SIGINT),
  ],
)
def test_only_a_second_interrupt_does_not_wait(numbers, request):
  usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
  request.addfinalizer(lambda: signal.signal(signal.SIGINT, usual))
  aborts = pytest.raises(KeyboardInterrupt)
  with loop._signals() as received:
    signal.raise_signal(numbers[0])
    with aborts if numbers[0] == signal.SIGINT else contextlib.nullcontext():
      signal.raise_signal(numbers[1])
    assert received[0] == numbers[0].name


def test_an_evaluation_that_was_cut_off_comes_later(text_file, tmp_path, monkeypatch):
  config = small_config('ar', text_file)
  with monkeypatch.context() as patch:
    patch.setattr(loop, '_evaluate', lambda *_: 1 / 0)
    for _ in range(2):
      with pytest.raises(ZeroDivisionError):
        loop.train(config, tmp_path / 'run')
  assert not workdir_lib.is_done(tmp_path / 'run')
  assert loop.train(config, tmp_path / 'run')
  assert list(read_metrics(tmp_path / 'run', 'valid')) == [3, 6]
  loop.train(config, tmp_path / 'run')
  assert list(read_metrics(tmp_path / 'run', 'valid')) == [3, 6]


def test_what_is_evaluated_is_saved_before(text_file, tmp_path, monkeypatch):
  config = small_config('ar', text_file, eval_every=2, checkpoint_every=6)
  monkeypatch.setattr(loop, '_evaluate', lambda *_: 1 / 0)  # killed meanwhile
  with pytest.raises(ZeroDivisionError):
    loop.train(config, tmp_path / 'run')
  assert TestCheckpoints.steps_in(tmp_path / 'run') == [2]


def test_lines_past_the_checkpoint_are_written_once(text_file, tmp_path):
  config = small_config('ar', text_file, steps=3)
  loop.train(config, tmp_path / 'run')
  path = tmp_path / 'run' / 'metrics.jsonl'
  path.write_text(path.read_text() + '{"step": 4, "split": "train", "loss": 9}\n{"step": 5, "sp')
  loop.train(config, tmp_path / 'run')
  assert [json.loads(x)['step'] for x in path.read_text().splitlines()] == [1, 2, 3, 3]


def test_a_loss_that_is_not_finite_stops_with_the_step(text_file, tmp_path):
  config = small_config('ar', text_file, learning_rate=1e30, warmup_steps=0, clip_norm=1e30)
  with pytest.raises(loop.TrainingDiverged, match='at step 2'):
    loop.train(config, tmp_path / 'run')
  assert not list((tmp_path / 'run' / 'checkpoints').iterdir())


def test_dropout_draws_and_repeats(text_file, tmp_path):
  losses = []
  for name, rate in (('a', 0.5), ('b', 0.5), ('c', 0.0)):
    config = small_config('epsilon_hybrid', text_file)
    config.model.dropout = rate
    loop.train(config, tmp_path / name)
    losses.append(read_metrics(tmp_path / name)[1]['loss'])
  assert losses[0] == losses[1] != losses[2]


@pytest.fixture(scope='module')
def original(tmp_path_factory):
  """A config, and the directory of its run."""
  folder = tmp_path_factory.mktemp('trained')
  config = small_config('epsilon_hybrid', write_sums(folder))
  config.mesh.update(data=1, fsdp=8)
  loop.train(config, folder / 'run')
  return config, folder / 'run'


class TestCheckpoints:
  """Damage to the newest checkpoint: the one before it loads, and the user is told."""

  @pytest.fixture
  def trained(self, original, tmp_path):
    """A config, and a copy of its run."""
    config, workdir = original
    shutil.copytree(workdir, tmp_path / 'run')
    return config.copy_and_resolve_references(), tmp_path / 'run'

  @staticmethod
  def flip_byte(folder):
    largest = max(folder.rglob('*/d/*'), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)

  @staticmethod
  def truncate(folder):
    for path in folder.rglob('*/d/*'):
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

  @staticmethod
  def lose_manifest(folder):
    for path in folder.rglob('manifest.ocdbt'):
      path.unlink()

  @staticmethod
  def empty(folder):
    for path in sorted(folder.rglob('*'), reverse=True):
      path.rmdir() if path.is_dir() else path.unlink()

  @pytest.mark.parametrize('damage', ['flip_byte', 'truncate', 'lose_manifest', 'empty'])
  def test_previous_one_loads(self, trained, damage, capsys):
    config, workdir = trained
    before = read_metrics(workdir)
    getattr(self, damage)(workdir / 'checkpoints' / '6')

    mesh = mesh_lib.make_mesh(config.mesh)
    method = method_lib.build(config, VOCAB, bos_id=256, eos_id=0)
    optimizer, _ = make_optimizer(config.train)
    abstract = abstract_state(method.denoise, optimizer, config.data.length, 0, mesh)
    step, _ = checkpointing.restore_ema(workdir, abstract.ema)
    assert step in ((3, 6) if damage == 'flip_byte' else (3,))  # the flip may be in the moments

    assert loop.train(config, workdir)
    notices = capsys.readouterr().err
    assert 'checkpoint 6 is damaged' in notices and 'resumed from step 3' in notices
    assert (workdir / 'damaged_checkpoint_6.0').is_dir()
    after = read_metrics(workdir)
    assert [after[i]['loss'] for i in after] == [before[i]['loss'] for i in before]

  def test_all_damaged_is_a_plain_error(self, trained):
    config, workdir = trained
    for step in (3, 6):
      self.truncate(workdir / 'checkpoints' / str(step))
    with pytest.raises(UserError, match='can be read'):
      loop.train(config, workdir)

  def test_restores_onto_another_mesh(self, trained):
    config, workdir = trained
    method = method_lib.build(config, VOCAB, bos_id=256, eos_id=0)
    optimizer, _ = make_optimizer(config.train)
    trees = []
    for sizes in (dict(data=8), dict(fsdp=4, tensor=2), dict(fsdp=2, tensor=2, sequence=2)):
      mesh = make_mesh(**sizes)
      abstract = abstract_state(method.denoise, optimizer, config.data.length, 0, mesh)
      trees.append(jax.device_get(checkpointing.restore_ema(workdir, abstract.ema)[1]))
    for tree in trees[1:]:
      jax.tree.map(np.testing.assert_array_equal, tree, trees[0])

  @pytest.mark.parametrize(
    'sizes', [pytest.param({}, marks=pytest.mark.full), dict(fsdp=4, tensor=2)]
  )
  def test_run_goes_on_on_another_mesh(self, sizes, trained, monkeypatch, capsys):
    config, workdir = trained
    before = read_metrics(workdir)
    self.empty(workdir / 'checkpoints' / '6')
    (workdir / 'checkpoints' / '6').rmdir()
    config.mesh.update(dict(data=1, fsdp=1, tensor=1) | sizes)
    mesh = make_mesh(**sizes)
    monkeypatch.setattr(loop.mesh_lib, 'make_mesh', lambda *_: mesh)
    assert loop.train(config, workdir)
    assert 'resumed from step 3' in capsys.readouterr().err
    after = read_metrics(workdir)
    assert list(after) == list(before) == [1, 2, 3, 4, 5, 6]
    for step in before:
      assert after[step]['loss'] == pytest.approx(before[step]['loss'], rel=1e-5)

  @staticmethod
  def steps_in(workdir):
    return sorted(int(p.name) for p in (workdir / 'checkpoints').iterdir())

  def test_best_and_every_nth_stay(self, text_file, tmp_path, monkeypatch):
    scores = {1: 3.0, 2: 1.0, 3: 2.0, 4: 4.0, 5: 5.0, 6: 6.0}

    def evaluate(config, prepared, params, step, mesh, writer):
      scalars = {'nll_per_token': scores[step]}
      writer.write(step, 'valid', scalars)
      return scalars

    monkeypatch.setattr(loop, '_evaluate', evaluate)
    config = small_config('ar', text_file, checkpoint_every=1, eval_every=1, keep=1)
    loop.train(config, tmp_path / 'run')
    assert self.steps_in(tmp_path / 'run') == [2, 6]
    config.train.keep_every = 3
    loop.train(config, tmp_path / 'every')
    assert self.steps_in(tmp_path / 'every') == [2, 3, 6]

    directory = tmp_path / 'every'
    steps = {which: ardiff_jax.load(directory, which).step for which in ('newest', 'best', 3)}
    assert steps == {'newest': 6, 'best': 2, 3: 3}
    with pytest.raises(UserError, match='no checkpoint 4; it has 2, 3, 6'):
      ardiff_jax.load(directory, 4)

  def test_a_save_that_is_waited_for_is_on_disk(self, text_file, tmp_path, monkeypatch):
    saved = []

    def evaluate(config, prepared, params, step, mesh, writer):
      saved.append((tmp_path / 'run' / 'checkpoints' / str(step)).is_dir())
      return {'nll_per_token': 0.0}

    monkeypatch.setattr(loop, '_evaluate', evaluate)
    config = small_config('ar', text_file, eval_every=1, save_in_background=False)
    loop.train(config, tmp_path / 'run')
    assert saved == [True] * 6
    config.train.save_in_background = True
    assert loop.train(config, tmp_path / 'run')  # as with any setting of how often to look

  def test_best_survives_a_restart(self, tmp_path):
    record = {'step': 1, 'split': 'valid', 'nll_per_token': 0.0}
    workdir_lib.append(tmp_path / 'metrics.jsonl', [record, record | {'step': 2, 'gate_auc': -9.0}])
    checkpointer = checkpointing.Checkpointer(tmp_path, keep=1)
    steps = [types.SimpleNamespace(step=step) for step in (0, 1, 2, 3)]
    assert checkpointer._kept.should_preserve(steps, context=None) == [False, True, False, True]
    checkpointer.close()

  def test_fingerprint_sees_flips_and_swaps(self):
    tree = {'a': np.arange(6, dtype=np.float32).reshape(2, 3), 'b': np.ones(2, np.int32)}
    prints = {checkpointing.fingerprint(tree)}
    flipped = tree['a'].copy()
    flipped.view(np.uint32)[1, 1] ^= 1 << 31
    prints.add(checkpointing.fingerprint(tree | {'a': flipped}))
    prints.add(checkpointing.fingerprint(tree | {'a': tree['a'][::-1].copy()}))
    signs = tree | {'a': np.array([[1.5, -1.5, 0.0]] * 2, np.float32)}
    prints |= {checkpointing.fingerprint(signs)}
    prints |= {checkpointing.fingerprint(signs | {'a': -signs['a']})}
    prints.add(checkpointing.fingerprint(tree | {'b': np.array([1, 2], np.int32)}))
    assert len(prints) == 6


class TestRefusals:
  """What must not start, or go on, says so plainly and leaves nothing behind."""

  @pytest.mark.parametrize(
    ('change', 'message'),
    [
      (dict(hyperschedule=dict(name='zigzag')), 'autoregressive, flat, block, slide'),
      (dict(hyperschedule=dict(name='block', width=0)), 'width must be from 1 to the length 32'),
      (dict(hyperschedule=dict(name='slide', width=33)), 'width must be from 1 to the length 32'),
      (dict(hyperschedule=dict(num_levels=0)), 'num_levels must be at least 1'),
      (dict(noise=dict(name='pink')), 'absorbing, uniform, gamma_hybrid, epsilon_hybrid'),
      (dict(noise=dict(epsilon=2.0)), r'epsilon must be in \[0, 1\]'),
      (dict(objective=dict(name='hinge')), 'next_token, weighted_cross_entropy'),
      (dict(objective=dict(name='next_token')), 'would show the network'),
      (dict(denoiser=dict(context='sideways')), 'block_causal'),
      (dict(model=dict(num_heads=5)), 'num_heads'),
      (dict(objective=dict(name='score_entropy')), 'absorbing, uniform or gamma_hybrid'),
      (dict(train=dict(accumulate=3)), 'must be a multiple of 24'),
      (dict(train=dict(batch_size=0)), r'train\.batch_size must be at least 1, got 0'),
      (dict(train=dict(steps=-3)), r'train\.steps must be at least 1'),
      (dict(train=dict(ema_decay=2.0)), r'ema_decay must be from 0.0 to 1.0'),
      (dict(train=dict(clip_norm=0.0)), 'clip_norm must be above 0'),
      (dict(seed=-1), 'seed must be from 0'),
      (dict(model=dict(dropout=2.0)), r'dropout must be in \[0, 1\)'),
      (dict(model=dict(num_layers=0)), 'num_layers must be at least 1'),
      (dict(sampling=dict(sampler='foo')), 'ancestral, acs'),
      (dict(sampling=dict(steps=0)), 'num_levels must be at least 1'),
      (dict(sampling=dict(eta=7.0)), r'eta must be in \[0, 1\]'),
      (dict(objective=dict(time_range=(0.5, 0.2))), 'time_range must rise'),
      (dict(tokenizer=dict(kind='morse')), 'byte, sentencepiece, gpt2'),
      (dict(data=dict(source='/nowhere/text.txt')), '/nowhere/text.txt'),
      (dict(data=dict(length=16_000)), 'shorter than one sequence'),
    ],
  )
  def test_bad_config(self, change, message, text_file, tmp_path):
    config = small_config('epsilon_hybrid', text_file)
    config.update(change)
    with pytest.raises(UserError, match=message):
      loop.train(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()

  def test_next_token_wants_its_own_hyperschedule(self, text_file, tmp_path):
    config = small_config('ar', text_file)
    config.hyperschedule.name = 'flat'
    with pytest.raises(UserError, match='needs hyperschedule autoregressive, got flat'):
      loop.train(config, tmp_path / 'run')

  def test_another_config_corpus_or_vocabulary(self, text_file, tmp_path, monkeypatch):
    workdir = tmp_path / 'run'
    config = small_config('ar', text_file)
    loop.train(config, workdir)

    other = small_config('ar', text_file, learning_rate=1e-4)
    with pytest.raises(UserError, match=r'train\.learning_rate: 0.003 there, 0.0001 here'):
      loop.train(other, workdir)
    loop.train(small_config('ar', text_file, log_every=2), workdir)  # only how to look

    text = text_file.read_text()
    text_file.write_text(text + 'more\n')
    with pytest.raises(UserError, match='another corpus'):
      loop.train(config, workdir)
    text_file.write_text(text)

    load = corpus.load_corpus

    def on_another_python(settings):
      loaded = load(settings)
      return dataclasses.replace(loaded, identity=loaded.identity | {'python': '3.99'})

    with monkeypatch.context() as patch:
      patch.setattr(loop, 'load_corpus', on_another_python)
      with pytest.raises(UserError, match=r'python: None there, .3\.99. here'):
        loop.train(config, workdir)

    description = json.loads((workdir / 'config.json').read_text())
    description['tokenizer']['vocab_size'] = 300
    (workdir / 'config.json').write_text(json.dumps(description))
    with pytest.raises(UserError, match='vocab_size: 300 there, 257 here'):
      loop.train(config, workdir)

  def test_unwritable_directory(self, text_file, tmp_path):
    with pytest.raises(UserError, match='cannot be written'):
      loop.train(small_config('ar', text_file), text_file / 'below')


def test_state_is_a_pytree_without_boxes(text_file):
  config = small_config('ar', text_file)
  method = method_lib.build(config, VOCAB, bos_id=256, eos_id=0)
  optimizer, _ = make_optimizer(config.train)
  state = init_state(method.denoise, optimizer, 32, 0, make_mesh())
  assert isinstance(state, TrainState)
  boxes = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata))
  assert not any(isinstance(x, nn.meta.AxisMetadata) for x in boxes)
