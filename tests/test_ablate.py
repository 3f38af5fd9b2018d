"""Sweeps: from a file of models and runs to records, and what happens when part of it fails."""

import json
import shutil

import numpy as np
import pytest
from commands import refuse, succeed_alone
from conftest import ROOT
from ml_collections import ConfigDict
from untrained import one_device, untrained

import ardiff_jax
from ardiff_jax import method, workdir
from ardiff_jax.ablation import orders, refinements, results, revisions, tasks
from ardiff_jax.ablation import records as lib
from ardiff_jax.ablation import sweep as sweep_lib
from ardiff_jax.ablation.models import Models
from ardiff_jax.errors import UserError
from ardiff_jax.evaluation import sets
from ardiff_jax.sampling.revision import DOUBTS

SMALL = {
  'data': {'length': 16},
  'tokenizer': {'kind': 'byte'},
  'model': {'model_dim': 32, 'num_layers': 1, 'num_heads': 2},
  'train': {
    **{'steps': 2, 'batch_size': 8, 'log_every': 1, 'eval_every': 2, 'checkpoint_every': 2},
    'ema_decay': 0.0,  # so that what is not trained stays the same to the last bit
  },
  'eval': {'batch_size': 8, 'num_samples': 1, 'train_sequences': 8},
}


def small_sweep(source) -> ConfigDict:
  c = ConfigDict()
  c.seeds = (0, 1)
  c.common = ConfigDict(SMALL)
  c.common.data.source = str(source)
  model = lambda name, **extra: ConfigDict({'config': f'{ROOT}/configs/{name}.py:tiny', **extra})  # noqa: E731
  c.models = ConfigDict()
  c.models.hybrid = model('epsilon_hybrid')
  c.models.judge = model('ar')
  c.models.idle = model('ar')  # no run asks for it
  c.models.gate = model('gate', override={'init_from': '@hybrid'}, per_seed=True)
  c.runs = ConfigDict()
  revision = {'doubt': 'gate', 'threshold': (0.01, 0.01)}
  c.runs['the gate'] = ConfigDict(
    dict(task='repair', group='methods', model='gate', num_texts=8, revision=revision)
  )
  c.runs['the gate'].grid = ConfigDict({'corrupted': (0.2, 0.4), 'steps': (2,)})
  c.runs.judged = ConfigDict(
    dict(task='drafts', group='drafts', title='the gate', model='gate', judge='judge')
  )
  c.runs.judged.update(dict(drafter='judge', draft_steps=2, num_texts=8, revision=revision))
  c.runs.judged.grid = ConfigDict({'draft': revisions.DRAFTS, 'steps': (2,)})
  return c


@pytest.fixture(scope='module', autouse=True)
def of_one_device():
  with one_device():
    yield


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp('sweep')
  text = folder / 'sums.txt'
  text.write_text(''.join(f'{i} plus {j} is {i + j}.\n' for i in range(20) for j in range(20)))
  sweep = small_sweep(text)
  assert sweep_lib.run(sweep, folder / 'out')
  return sweep, folder / 'out'


def test_a_sweep_trains_measures_and_does_nothing_twice(finished, monkeypatch):
  sweep, directory = finished
  results = workdir.read_lines(directory / 'results.jsonl')
  assert len(results) == 2 * 2 + 2 * 4
  assert {(x['name'], x['seed']) for x in results} == {('the gate', 0), ('the gate', 1)}
  assert {p.name for p in (directory / 'models').iterdir()} == {
    *('hybrid', 'judge', 'idle', 'gate-0', 'gate-1')
  }
  for record in results:
    metrics = record['metrics']
    assert 1.0 <= metrics['calls'] <= 2.0 and metrics['seconds_p50'] > 0
    assert np.shape(record['edit_map']) == (2, 16)
    assert len(record['signals']['entropy_mean']) == 2
    if record['task'] == 'drafts':
      assert metrics['draft_calls'] == {'ar': 16, 'diffusion': 2}.get(
        record['settings']['draft'], 0
      )
      assert 0 < metrics['judge_nats'] < 20
    else:
      assert 0 <= metrics['harmed'] <= 1 and 0 <= metrics['auc'] <= 1

  monkeypatch.setattr(tasks, 'TASKS', {})
  before = (directory / 'results.jsonl').read_text()
  monkeypatch.setattr(sweep_lib.loop, 'train', None)  # neither trains nor measures again
  assert sweep_lib.run(sweep, directory)
  assert (directory / 'results.jsonl').read_text() == before


def test_the_gate_of_a_sweep_is_on_top_of_its_hybrid(finished):
  _, directory = finished
  hybrid = ardiff_jax.load(directory / 'models' / 'hybrid')
  gates = [ardiff_jax.load(directory / 'models' / f'gate-{seed}') for seed in (0, 1)]
  for gate in gates:
    for ours, theirs in zip(
      *(np.asarray(x.params['params']['embedding']) for x in (gate, hybrid)), strict=True
    ):
      np.testing.assert_array_equal(ours, theirs)
  weights = [np.asarray(gate.params['gate']['in']['kernel']) for gate in gates]
  assert (weights[0] != weights[1]).any()


def test_a_failing_figure_is_recorded_and_tried_again(finished, tmp_path):
  sweep, directory = finished
  changed = sweep.copy_and_resolve_references()
  path = tmp_path / 'items.jsonl'
  item = {'query': '1', 'choices': ['+ 1', 'x'], 'gold': 0}
  path.write_text(json.dumps(item | {'choices': ['+ 1 + 1 + 1 + 1 + 1', 'x']}))
  run = dict(task='choices', group='choices', model='judge', num_rows=1, max_items=2)
  changed.runs['long items'] = ConfigDict(run | {'grid': {'file': (str(path),)}})
  assert not sweep_lib.run(changed, directory)
  failed = [x for x in workdir.read_lines(directory / 'results.jsonl') if 'error' in x]
  assert len(failed) == 2 and all('no item fits into the 16 tokens' in x['error'] for x in failed)
  path.write_text(f'{json.dumps(item)}\n' * 2)
  assert sweep_lib.run(changed, directory)
  results = workdir.read_lines(directory / 'results.jsonl')
  assert not any('error' in x for x in results)
  assert sum(x['name'] == 'long items' for x in results) == 2


def test_a_model_that_cannot_be_trained_loses_its_own_figures_alone(text_file, tmp_path):
  """And those of the models that need it; it is tried again, and an interruption ends all."""
  sweep = ConfigDict(dict(seeds=(0,), runs={}, models={}, common=SMALL))
  sweep.common.data.source = str(text_file)
  diverging = {'train': {'learning_rate': 1e30, 'warmup_steps': 0, 'clip_norm': 1e30}}
  for name, config, override in (
    ('diverging', 'ar', diverging),
    ('refused', 'ar', {'train': {'warmup_steps': -1}}),
    ('on top', 'mdlm', {'init_from': '@diverging'}),
    ('sound', 'ar', {}),
  ):
    sweep.models[name] = dict(config=f'{ROOT}/configs/{config}.py:tiny', override=override)
    run = dict(task='perplexity', group='', model=name, num_texts=8, num_rows=1)
    sweep.runs[name] = ConfigDict(run | {'grid': {'data': ('valid',)}})
  assert not sweep_lib.run(sweep, tmp_path / 'out')
  found = {x['name']: x for x in workdir.read_lines(tmp_path / 'out' / 'results.jsonl')}
  assert found['sound']['metrics']['nats'] > 0
  diverged = found['diverging']['error']
  assert diverged.startswith('diverging was not trained: TrainingDiverged: ')
  assert found['on top']['error'] == diverged
  assert 'refused was not trained: UserError: config.train.warmup' in found['refused']['error']
  page = results.write(tmp_path / 'out').read_text()
  assert page.count('diverging was not trained') == 2

  tried = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sweep_lib.loop, 'train', lambda _, directory: tried.append(directory.name))
    assert not sweep_lib.run(sweep, tmp_path / 'out')
  assert tried == ['diverging']
  again = workdir.read_lines(tmp_path / 'out' / 'results.jsonl')
  assert {x['name']: x for x in again} == found


def test_a_changed_run_is_measured_again_and_says_what_it_was(finished):
  sweep, directory = finished
  changed = sweep.copy_and_resolve_references()
  changed.runs['the gate'].revision.threshold = (0.9, 0.9)
  before = len(workdir.read_lines(directory / 'results.jsonl'))
  assert sweep_lib.run(changed, directory)
  results = workdir.read_lines(directory / 'results.jsonl')
  assert len(results) == before + 4
  thresholds = [tuple(x['run']['revision']['threshold']) for x in results if x['task'] == 'repair']
  assert set(thresholds) == {(0.01, 0.01), (0.9, 0.9)}
  assert sweep_lib.run(sweep, directory)  # as it was: nothing new, and it is this that counts
  again = workdir.read_lines(directory / 'results.jsonl')
  assert len(again) == len(results)
  shown = [x['run']['revision']['threshold'] for x in lib.newest(again) if x['task'] == 'repair']
  assert shown == [[0.01, 0.01]] * 4
  assert [lib.figure(x) for x in lib.newest(again)] == [lib.figure(x) for x in results[:before]]


def test_finished_models_may_move_but_not_change(finished, tmp_path, monkeypatch):
  sweep, directory = finished
  monkeypatch.setattr(sweep_lib.loop, 'train', None)
  shutil.copytree(directory, tmp_path / 'moved')
  assert sweep_lib.run(sweep, tmp_path / 'moved')
  path = tmp_path / 'moved' / 'models' / 'judge' / 'config.json'
  content = json.loads(path.read_text())
  content['config']['train']['learning_rate'] = 0.5
  path.write_text(json.dumps(content))
  with pytest.raises(UserError, match=r'config.train.learning_rate: 0.5 there, 0.00\d* here'):
    sweep_lib.run(sweep, tmp_path / 'moved')


def test_what_is_no_number_is_recorded_as_missing():
  figures = {'metrics': {'a': float('nan'), 'b': 1.0}, 'map': [[float('inf'), 2.0]]}
  assert sweep_lib._finite(figures) == {'metrics': {'a': None, 'b': 1.0}, 'map': [[None, 2.0]]}


def test_seeds_alone_decide_about_texts_and_drafts(finished):
  """They are the same for all methods."""
  sweep, directory = finished
  models = Models(lambda name, seed: sweep_lib.model_directory(sweep, directory, name, seed))
  texts = [models.valid_texts('hybrid', seed, 8) for seed in (0, 0, 1)]
  np.testing.assert_array_equal(texts[0], texts[1])
  assert (texts[0] != texts[2]).any()
  judged = sweep.runs.judged
  drafts = [revisions.draft_of(models, judged, 'ar', seed)[0] for seed in (0, 0, 1)]
  np.testing.assert_array_equal(drafts[0], drafts[1])
  assert (drafts[0] != drafts[2]).any()


# that each doubt samples is told elsewhere; of repairs the oracle alone is known
@pytest.mark.parametrize(
  'doubt',
  [x if x == 'oracle' else pytest.param(x, marks=pytest.mark.full) for x in DOUBTS],
)
def test_every_doubt_revises_corrupted_texts(doubt, finished):
  """And the oracle, which knows them, harms nothing."""
  sweep, directory = finished
  models = Models(lambda name, seed: sweep_lib.model_directory(sweep, directory, name, seed))
  run = sweep.runs['the gate'].copy_and_resolve_references()
  run.revision = ConfigDict({'doubt': doubt, 'threshold': (0.5, 0.5), 'accept': 'any'})
  result = revisions.repair(models, run, {'corrupted': 0.25, 'steps': 2}, 0)['metrics']
  assert result['calls'] >= 1.0
  if doubt == 'oracle':
    assert result['harmed'] == 0.0 and result['auc'] == 1.0 and result['precision'] == 1.0


def test_tasks_of_orders(finished, tmp_path):
  """Likelihood by order, infilling, choices, generation: of a model of any order and others."""
  sweep, directory = finished
  config = sweep_lib.read_config(f'{ROOT}/configs/a3.py:tiny')
  config.update(sweep.common)
  a3 = untrained(config, tmp_path / 'a3')
  models = Models(lambda name, _: a3 if name == 'a3' else directory / 'models' / name)
  run = ConfigDict(dict(model='a3', judge='judge', num_texts=6, num_rows=2, max_items=2))

  nats = {}
  for order in ('', 'autoregressive', 'shuffled,width=4,seed=0', 'strided,width=4'):
    metrics = orders.likelihood(models, run, {'order': order}, 0)['metrics']
    assert metrics['exact'] == 1.0
    nats[order] = metrics['nats']
  assert nats[''] == nats['autoregressive'] and len(set(nats.values())) == 3
  run.model = 'hybrid'
  bound = orders.likelihood(models, run, {'order': ''}, 0)['metrics']
  assert bound['exact'] == 0.0 and bound['nats'] > 0

  run.model = 'a3'
  run.sampling = ConfigDict({'sampler': 'unmask_confidence'})
  filled = orders.infilling(models, run, {'blank': 0.25, 'steps': 4}, 0)['metrics']
  assert filled['calls'] == 4 and 0 <= filled['rougeL'] <= 1 and 0 <= filled['exact_tokens'] <= 1
  written = orders.generation(models, run, {'steps': 4}, 0)['metrics']
  assert written['calls'] == 4 and written['judge_nats'] > 0
  run.sampling = ConfigDict({'sampler': 'ancestral'})
  by_groups = {'hyperschedule': 'block,width=4,num_levels=1'}
  assert orders.generation(models, run, by_groups, 0)['metrics']['calls'] == 4

  path = tmp_path / 'items.jsonl'
  items = [{'query': '1', 'choices': [f'+ {i}', 'x'], 'gold': i % 2} for i in range(5)]
  path.write_text(''.join(json.dumps(item) + '\n' for item in items))
  chosen = orders.choices(models, run, {'file': str(path)}, 0)['metrics']
  assert chosen['items'] == 2 and chosen['chance'] == 0.5 and 0 <= chosen['accuracy'] <= 1


def test_task_of_refinements(tmp_path):
  """The same drafts for all; what was asked for, and what it took."""
  text = tmp_path / 'tale.txt'
  text.write_text('The king was old. "I am tired," said he, and his wife left him there.\n' * 90)
  sweep = ConfigDict(dict(seeds=(0,), runs={}, models={}, common=SMALL))
  sweep.common.data.update(dict(source=str(text), length=96))
  for name, file in (('judge', 'ar'), ('drafter', 'ar'), ('refiner', 'draft_refine')):
    config = sweep_lib.read_config(f'{ROOT}/configs/{file}.py:tiny')
    config.update(sweep.common)
    config.data.guided = name != 'judge'
    sweep.models[name] = ConfigDict({'workdir': str(untrained(config, tmp_path / name))})
  common = dict(task='refine', num_texts=12, judge='judge', drafter='drafter')
  common['sampling'] = {'steps': 8}
  runs = (
    ('token', 'refiner', 'token', {'strength': (0.0, 0.5)}),
    ('equal', 'refiner', 'token', {'strength': (0.5,), 'most_calls': (60,)}),
    ('alone', 'drafter', 'ar', {'most_calls': (48, 96)}),
  )
  # what has a budget of calls does not ask what kind of text is left alone
  for asked, draft, some in (
    *(('refine', 'corrupted', runs), ('control', 'ar', runs), ('neutralise', 'ar', runs[:1])),
  ):
    for title, model, refiner, grid in some:
      run = dict(common, model=model, refiner=refiner, draft=draft, group=asked)
      sweep.runs[f'{title}, {asked}'] = ConfigDict(
        run | dict(title=title, grid={'asked': (asked,), **grid})
      )
  assert sweep_lib.run(sweep, tmp_path / 'out')
  found = {}
  for record in workdir.read_lines(tmp_path / 'out' / 'results.jsonl'):
    settings, metrics = record['settings'], record['metrics']
    found[settings['asked'], settings.get('strength'), settings.get('most_calls')] = metrics
    assert 0 < metrics['texts'] <= 12
    assert ('success' in metrics) == (settings['asked'] != 'refine')
    # the drafter alone has not seen what is to be fixed
    assert ('fixed' in metrics) == (settings['asked'] == 'refine' and record['name'] != 'alone')
    drafted = settings['asked'] == 'control' and record['name'] != 'alone'
    assert metrics['draft_calls'] == (48 if drafted else 0)
    assert metrics['seconds'] > metrics['draft_seconds'] >= 0
    assert (metrics['draft_seconds'] > 0) == drafted
    for example in record['examples']:
      asks_to_fix = example['guidance'] == 'fix'
      assert asks_to_fix == (settings['asked'] == 'refine')
  for asked in ('refine', 'control', 'neutralise'):
    still, moved = (found[asked, strength, None] for strength in (0.0, 0.5))
    assert still['judge_nats'] == still['draft_nats'] == moved['draft_nats']
    assert still['changed'] == still.get('success', 0.0) == still.get('fixed', 0.0) == 0.0
    assert moved['calls'] > still['calls'] == still['draft_calls']
    assert 0 < moved['edit_distance'] <= 1 >= moved['changed'] > 0
    if asked == 'neutralise':
      continue
    once, twice = (found[asked, None, calls] for calls in (48, 96))
    more = found[asked, 0.5, 60]
    assert (
      1 < more['tries'] == (60 - more['draft_calls']) // (moved['calls'] - more['draft_calls'] + 1)
    )
    assert moved['calls'] < more['calls'] <= 60
    assert more.get('success', 1.0) >= moved.get('success', 1.0)
    assert once['draft_nats'] == twice['draft_nats'] == moved['draft_nats']
    assert (once['calls'], twice['calls']) == (48, 96) and once['changed'] > 0.5
    assert twice.get('success', 1.0) >= once.get('success', 1.0)
  page = results.write(tmp_path / 'out').read_text()
  assert page.count('<details') == 7 and '<ins>' in page and '<del>' in page
  bad = ConfigDict(dict(common, model='refiner', refiner='token', draft='ar'))
  models = Models(lambda name, seed: sweep_lib.model_directory(sweep, tmp_path / 'out', name, seed))
  with pytest.raises(UserError, match="asked 'sing'"):
    refinements.refine(models, bad, {'asked': 'sing', 'strength': 0.5}, 0)


def test_one_method_alone_trains_what_it_needs(finished, tmp_path):
  sweep, directory = finished
  changed = sweep.copy_and_resolve_references()
  changed.runs['the gate'].title = 'repaired'
  with pytest.raises(UserError, match="no method 'gate'; it has the gate, repaired"):
    sweep_lib.run(changed, tmp_path / 'out', ['gate'])
  changed.seeds = (1,)
  assert sweep_lib.run(changed, tmp_path / 'out', ['repaired'])
  assert {p.name for p in (tmp_path / 'out' / 'models').iterdir()} == {'hybrid', 'gate-1'}
  ours = workdir.read_lines(tmp_path / 'out' / 'results.jsonl')
  assert [(x['name'], x['seed']) for x in ours] == [('repaired', 1)] * 2
  theirs = workdir.read_lines(directory / 'results.jsonl')
  same = [x['metrics'] for x in theirs if x['run'] == ours[0]['run'] and x['seed'] == 1]
  for a, b in zip(ours, same, strict=True):
    assert a['metrics']['f1'] == b['f1'] and a['metrics']['auc'] == b['auc']


def test_a_sweep_refuses(finished, tmp_path):
  sweep, directory = finished

  def refused(message, change, where=directory):
    changed = sweep.copy_and_resolve_references()
    with changed.unlocked():
      change(changed)
    with pytest.raises(UserError, match=message):
      sweep_lib.run(changed, where)

  run = {'task': 'perplexity', 'group': '', 'model': 'idle', 'grid': {'data': ('wikitxt',)}}
  refused('Did you mean wikitext', lambda c: c.runs.update({'text': run}))
  refused('unknown task', lambda c: c.runs.judged.update({'task': 'dance'}))
  refused('judge .* is not among the models', lambda c: c.runs.judged.update({'judge': 'nobody'}))
  refused(
    "run 'the gate' of the sweep: doubt 'luck'",
    lambda c: c.runs['the gate'].revision.update({'doubt': 'luck'}),
  )
  run = {'task': 'choices', 'group': '', 'model': 'idle', 'grid': {'file': (f'{tmp_path}/items',)}}
  refused('items cannot be read', lambda c: c.runs.update({'chosen': run}))
  refused(
    "model 'judge' of the sweep: config.noise: .*delta",
    lambda c: c.models.judge.update({'override': {'noise': {'delta': 2.0}}}),
  )
  refused('asks for a figure twice', lambda c: c.update({'seeds': (0, 0)}))
  refused("model 'gate' of the sweep: ", lambda c: c.models.gate.override.update({'traim': 1}))
  refused('lacks judged.group', lambda c: c.runs.judged.__delitem__('group'))
  refused('other settings of hybrid', lambda c: c.models.hybrid.update({'override': {'seed': 3}}))
  refused('other settings of common', lambda c: c.common.train.update({'steps': 3}))
  refused('has no runs', lambda c: c.update({'seeds': ()}), tmp_path / 'new')
  refused(
    'cannot be loaded', lambda c: c.models.hybrid.update({'config': 'nowhere.py'}), tmp_path / 'new'
  )
  refused(
    'needs itself',
    lambda c: c.models.hybrid.update({'override': {'init_from': '@hybrid'}}),
    tmp_path / 'newest',
  )
  refused(
    "no model 'x'",
    lambda c: c.models.gate.update({'override': {'init_from': '@x'}}),
    tmp_path / 'newer',
  )


ABLATIONS = (
  'hyperschedule epsilon visible_weight gamma alignment context levels eta steps tokenizer'
)


@pytest.mark.parametrize(
  'name',
  [
    *('gate.py', 'any_order.py', 'draft_refine.py', 'table1.py', 'table1.py:400'),
    *(f'ablations.py:{name}' for name in ABLATIONS.split()),
    'ablations.py:epsilon,400',
  ],
)
def test_the_shipped_sweeps_name_what_there_is(name, monkeypatch):
  """Every model, setting and task of configs/sweeps exists, and every method can be built."""
  known = [*sets.KNOWN]
  monkeypatch.setattr(sweep_lib.sets, 'read', lambda text: known.index(text))
  sweep = sweep_lib.read_config(f'{ROOT}/configs/sweeps/{name}')
  assert sweep_lib.check(sweep)
  for model in sweep.models.values():
    config = sweep_lib.read_config(f'{ROOT}/{model.config}')
    config.update(sweep.common)
    config.update(model.override)
    assert not model.get('per_seed') or 'seed' not in model.override
    method.build(config, vocab_size=300, bos_id=0, eos_id=1)
  if ':' in name and name.endswith('400'):
    assert sweep.common.train.steps == 400
  config = sweep_lib.read_config(f'{ROOT}/configs/gate.py:tiny')
  for run in sweep.runs.values():
    config.revision.update(run.get('revision', {}))


@pytest.mark.parametrize(
  'name, titles',
  [
    ('epsilon', 'ε = 0, ε = 0.01, ε = 0.1'),
    ('gamma', 'γ = 0, γ = 0.01, γ = 0.1'),
    ('eta', 'η = 0, η = 0.005, η = 0.015, η = 0.05'),
    ('context', 'block_causal, causal'),
    (
      'hyperschedule',
      'autoregressive, block 16, block 4, block 64, flat, hybrid 16, slide 16, slide 64',
    ),
  ],
)
def test_ablations_go_over_what_they_should(name, titles):
  sweep = sweep_lib.read_config(f'{ROOT}/configs/sweeps/ablations.py:{name}')
  assert ', '.join(sorted({run.title for run in sweep.runs.values()})) == titles
  assert list(sweep.seeds) == [0, 1]


def test_the_command_makes_a_page(finished, tmp_path, monkeypatch):
  """Of models that exist; resumed, it takes no figure twice; a missing flag is named."""
  _, directory = finished
  lines = [
    'from ml_collections import ConfigDict',
    'def get_config():',
    '  c = ConfigDict()',
    '  c.seeds, c.common = (0,), ConfigDict()',
    "  c.models = ConfigDict({'hybrid': {'workdir': ''}})",
    "  run = {'task': 'repair', 'group': 'methods', 'model': 'hybrid', 'num_texts': 4}",
    "  run |= {'revision': {'doubt': 'uniform'}, 'grid': {'corrupted': (0.2,), 'steps': (2,)}}",
    "  c.runs = ConfigDict({'uniform': run})",
    '  return c',
  ]
  (tmp_path / 'sweep.py').write_text('\n'.join(lines))
  arguments = [f'--sweep={tmp_path}/sweep.py', f'--workdir={tmp_path}/out']
  arguments += [f'--sweep.models.hybrid.workdir={directory}/models/hybrid', '--only=uniform']
  monkeypatch.delenv('ARDIFF_DATA', raising=False)  # it is said
  for _ in range(2):
    done = succeed_alone('ablate', *arguments)  # how a user called it is said
    assert done.stdout.strip() == f'{tmp_path}/out/results.html'
    assert len(workdir.read_lines(tmp_path / 'out' / 'results.jsonl')) == 1
  page = (tmp_path / 'out' / 'results.html').read_text()
  assert '<html' in page and 'started 2 times' in page
  said = f'      python -m ardiff_jax.ablate {" ".join(arguments)}\n'
  assert said in (tmp_path / 'out' / 'results.md').read_text()
  assert '--sweep is missing' in refuse('ablate').stderr
