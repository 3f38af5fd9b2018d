"""Requests for texts: prompts, gaps, arrays, lengths, stops, batches, and what is refused."""

import numpy as np
import pytest
from conftest import ROOT

import ardiff_jax
from ardiff_jax import generation, noise, samplers
from ardiff_jax.data.tokenizers import ByteTokenizer
from ardiff_jax.errors import UserError
from ardiff_jax.evaluation import samples as measures
from ardiff_jax.hyperschedules import any_order, block
from ardiff_jax.sampling.steppers import Ranked

BYTES = ByteTokenizer('byte', {})
LENGTH = 32


# Canvases.


def test_gaps_are_as_long_as_they_say():
  canvases = generation.of_infill(BYTES, '[[2]]ab [[3]]c', 2, 10)
  assert canvases.tokens.shape == (2, 9)
  np.testing.assert_array_equal(canvases.given[0], [0, 0, 1, 1, 1, 0, 0, 0, 1])
  assert bytes(canvases.tokens[1][canvases.given[1]].tolist()) == b'ab c'


@pytest.mark.parametrize(
  'text, message',
  [
    ('no gap', 'must have gaps'),
    ('a [[3] b', 'must have gaps'),
    ('a [[3]] b ]]', 'must have gaps'),
    ('a [[]] b', r'gap \[\[\]\] must hold a number'),
    ('a [[x]] b', r'gap \[\[x\]\] must hold a number'),
    ('a [[0]] b', r'gap \[\[0\]\] must hold a number'),
    ('a [[-2]] b', r'gap \[\[-2\]\] must hold a number'),
    ('a [[29]] b', 'its gaps are longer than 32 tokens'),
    ('a [[999999999]] b', 'its gaps are longer than 32 tokens'),
    ('a [[' + '9' * 5000 + ']] b', 'must hold a number'),
  ],
)
def test_malformed_gaps_are_refused(text, message):
  with pytest.raises(UserError, match=message):
    generation.of_infill(BYTES, text, 1, 32)


@pytest.mark.parametrize(
  'tokens, given, message',
  [
    ([1, 2], [True], 'of one shape'),
    ([1, 2], [1, 0], 'of one shape'),
    ([1.5, 2.0], [True, True], 'must be integers'),
    ([[1, 2]], [[True, True]], 'integers for 2 samples'),
    ([1, 300], [False, True], 'token id 300 at position 1 is not in 0..256'),
    ([1, -1], [False, True], 'token id -1 at position 1'),
    ([0] * 40, [True] * 40, 'have 40 positions; from 1 to 32 fit'),
  ],
)
def test_wrong_arrays_are_refused(tokens, given, message):
  with pytest.raises(UserError, match=message):
    generation.of_arrays(np.array(tokens), np.array(given), 2, 257, 32)


def test_entropy_of_frequencies():
  assert measures.entropy(np.array([7, 7, 7])) == 0.0
  assert measures.entropy(np.array([], int)) == 0.0
  np.testing.assert_allclose(measures.entropy(np.array([1, 2, 1, 2])), np.log(2))


# Texts.


@pytest.mark.parametrize('name, devices', [('epsilon_hybrid', 8), ('bd3lm', 1)])
def test_batches_and_neighbours_do_not_matter(models, name, devices):
  """Seven samples with prompts of their own: at once, two at a time, and one of them alone."""
  model = models(name) if devices == 1 else ardiff_jax.load(models.directory(name))
  assert model.mesh.size == devices
  prompts = ['1 plus', '', '12', '3 pl', '', '9 plus 9 is 18.', 'x']
  told = []
  at_once = model.sample(7, prompts, seed=5, trace=True)
  in_parts = model.sample(7, prompts, seed=5, batch_size=2, report=told.append)
  assert [x.token_ids for x in at_once] == [x.token_ids for x in in_parts]
  assert told == [2, 4, 6, 7]
  for sample, prompt in zip(at_once, prompts, strict=True):
    assert sample.text.startswith(prompt) and len(sample.token_ids) == LENGTH
    assert sample.trace.shape[1] == LENGTH and (sample.trace[-1] == sample.token_ids).all()
    assert sample.reveal_step[: len(prompt)] == [-1] * len(prompt)
    assert min(sample.reveal_step[len(prompt) :]) >= 0 < sample.entropy
  few = model.sample(1, prompts[0], seed=5, trace=3)[0]
  assert few.token_ids == at_once[0].token_ids
  assert few.trace.shape == (3, LENGTH) and few.trace_steps[-1] == len(at_once[0].trace) - 1
  np.testing.assert_array_equal(few.trace, at_once[0].trace[few.trace_steps])
  two = model.sample(2, seed=[9, 2**32 - 1])
  assert two[1].token_ids == model.sample(1, seed=2**32 - 1, trace=3)[0].token_ids
  html = model.animation(at_once[0])
  assert 'ardiff-player' in html
  with pytest.raises(UserError, match='has no trace'):
    model.animation(in_parts[0])


@pytest.mark.parametrize('name', ['epsilon_hybrid', 'bd3lm'])
def test_gaps_are_filled_and_the_rest_is_kept(models, name):
  model = models(name)
  for sample in model.sample(2, infill='1 plus [[4]] is [[2]].', steps=4):
    assert len(sample.token_ids) == 18
    assert bytes(sample.token_ids[:7]) == b'1 plus ' and bytes(sample.token_ids[-1:]) == b'.'
    assert bytes(sample.token_ids[11:15]) == b' is '
  given = np.arange(18) % 3 == 0
  tokens = np.arange(18) + 60
  for sample in model.sample(2, tokens=tokens, given=given, steps=4):
    np.testing.assert_array_equal(np.array(sample.token_ids)[given], tokens[given])
  draft = np.full(LENGTH, 65)
  (kept,) = model.sample(1, draft=draft, sampler='ancestral', steps=2)
  assert kept.token_ids == draft.tolist()
  assert kept.network_calls == (0 if name == 'epsilon_hybrid' else 3)  # three blocks are read


def test_texts_of_any_length_that_stop(models):
  """Longer than in training, with a context no longer than there; the end of a document ends it."""
  model = models('bd3lm')
  asked = dict(length=40, steps=2, seed=3)
  full = model.sample(40, context_length=24, **asked)
  near = model.sample(40, context_length=8, **asked)
  short = model.sample(40, context_length=24, **asked, stop=True)
  assert 'length=40' in full[0].hyperschedule
  for ours, theirs in zip(near, full, strict=True):
    assert len(theirs.token_ids) == 40
    assert ours.token_ids[:8] == theirs.token_ids[:8] and ours.token_ids != theirs.token_ids
  eos, ended = model.tokenizer.eos_id, 0
  for ours, theirs in zip(short, full, strict=True):
    end = theirs.token_ids.index(eos) if eos in theirs.token_ids else 40
    assert ours.token_ids == theirs.token_ids[:end]
    ended += end < 40
  assert ended > 0
  with pytest.raises(UserError, match='written from left to right'):
    models('epsilon_hybrid').sample(1, stop=True)
  with pytest.raises(UserError, match='context_length is not supported for flat'):
    models('epsilon_hybrid').sample(1, context_length=8)


def test_controls_reach_the_draws(models):
  model = models('epsilon_hybrid')
  usual, bound, guided, penalised = (
    model.sample(2, '1 plus', steps=8, sampler='ancestral', **controls)
    for controls in (
      *({}, dict(banned=tuple(range(200)))),
      *(dict(guidance=3.0), dict(repetition_penalty=30.0)),
    )
  )
  assert all(min(sample.token_ids[6:]) >= 200 for sample in bound)
  texts = [[x.token_ids for x in samples] for samples in (usual, guided, penalised)]
  assert texts[0] != texts[1] and texts[0] != texts[2]
  distinct = [len({*x.token_ids}) for x in (*usual, *penalised)]
  assert sum(distinct[2:]) > sum(distinct[:2])


def is_for(sampler, name):
  """Whether a sampler is for the model of configs/NAME.py, which is that of its noise alone."""
  it = samplers.TABLE[sampler]
  if name == 'ar':
    return it.causal
  if name == 'a3':
    return it.any_order
  kind = noise.GammaHybrid if name == 'gamma_hybrid' else noise.Absorbing
  kind = noise.EpsilonHybrid if name == 'epsilon_hybrid' else kind
  if kind not in it.models or it.in_order or (name == 'sedd' and not it.scores):
    return False
  return not (it.flat and name in ('bd3lm', 'gamma_hybrid'))


NAMES = 'epsilon_hybrid', 'gamma_hybrid', 'sedd', 'bd3lm', 'ar', 'a3'
FITS = [(sampler, name) for sampler in samplers.TABLE for name in NAMES if is_for(sampler, name)]
# each sampler with one model, and each model with one or more; how steppers move is for others
KEPT = {(sampler, 'epsilon_hybrid') for sampler, name in FITS if name == 'epsilon_hybrid'}
KEPT -= {(sampler, 'epsilon_hybrid') for sampler in ('ancestral', 'first_hitting', 'remdm_loop')}
KEPT |= {('ancestral', 'ar'), ('ancestral', 'gamma_hybrid'), ('euler', 'gamma_hybrid')}
KEPT |= {('analytic', 'sedd'), ('remdm_loop', 'sedd'), ('first_hitting', 'bd3lm')}
KEPT |= {('unmask_confidence_in_order', 'a3')}


@pytest.mark.parametrize(
  'sampler, name',
  [pytest.param(*fit, marks=() if fit in KEPT else pytest.mark.full) for fit in FITS],
)
def test_every_sampler_writes_with_a_model_it_is_for(models, sampler, name):
  (sample,) = models(name).sample(1, '1 plus', sampler=sampler)
  assert sample.text.startswith('1 plus') and max(sample.token_ids) < 257
  assert sample.network_calls > 0


REFUSED = {
  sampler: [name for name in NAMES if (sampler, name) not in FITS] for sampler in samplers.TABLE
}


@pytest.mark.parametrize('sampler', [sampler for sampler in REFUSED if REFUSED[sampler]])
def test_a_sampler_for_other_models_is_refused_with_the_table(models, sampler):
  for name in REFUSED[sampler]:
    with pytest.raises(UserError, match=r'\| `ancestral` \| any \|'):
      models(name).sample(1, sampler=sampler)


def test_samplers_that_unmask_are_named_by_what_they_reveal_first():
  for score in ('random', 'confidence', 'entropy'):
    for in_order in (False, True):
      name = f'unmask_{score}' + ('_in_order' if in_order else '')
      assert samplers.TABLE[name].make(eta=0.0, head='x0') == Ranked(score, in_order)


def test_a_revision_of_a_draft(models):
  """Its settings reach it, it notes its looks, and batches do not matter, of an oracle neither."""
  model = models('epsilon_hybrid')
  draft = np.random.default_rng(0).integers(0, 257, (3, LENGTH))
  truth = (draft + (np.arange(LENGTH) % 4 == 0)) % 257
  free = np.zeros(draft.shape, bool)
  free[:, :4] = True  # given

  def revise(**kwargs):
    return model.sample(3, tokens=draft, given=free, draft=draft, sampler='revision', **kwargs)

  everything = dict(doubt='uniform', rate=1.0, accept='any', early_stop=False)
  for row, sample in enumerate(revise(revision=everything)):
    assert sample.hyperschedule.endswith('num_levels=8)')  # the config's
    assert sample.network_calls == 8 and sample.notes['live'] == [1.0] * 8
    ids = np.array(sample.token_ids)
    np.testing.assert_array_equal(ids[:4], draft[row, :4])
    assert (ids[4:] != draft[row, 4:]).any()

  knows = dict(doubt='oracle', truth=truth, accept='any', threshold=(0.5, 0.5))
  alone = revise(revision=knows, steps=3, batch_size=2)
  together = revise(revision=knows, steps=3)
  for row, (ours, theirs) in enumerate(zip(alone, together, strict=True)):
    assert ours.token_ids == theirs.token_ids and len(ours.notes['live']) == 3
    same = truth[row] == draft[row]
    np.testing.assert_array_equal(np.array(ours.token_ids)[same], draft[row, same])
    np.testing.assert_array_equal(np.array(ours.doubt)[4:], ~same[4:])

  with pytest.raises(UserError, match='unknown settings of a revision: thresholds'):
    revise(revision=dict(thresholds=0.5))
  with pytest.raises(UserError, match='must be one of gate'):
    revise(revision=dict(doubt='luck'))
  with pytest.raises(UserError, match='rate are settings of sampler revision'):
    model.sample(1, sampler='acs', revision=dict(rate=0.5))


def test_a_revision_with_a_cache_is_the_one_without(models):
  """Window after window, a prompt included."""
  model = models('slide')
  draft = np.random.default_rng(0).integers(0, 257, (3, LENGTH))
  given = np.zeros(draft.shape, bool)
  given[:, :5] = True
  settings = dict(doubt='confidence', accept='any', threshold=(0.5, 0.5), early_stop=False)
  results = [
    model.sample(
      3,
      tokens=draft,
      given=given,
      draft=draft,
      sampler='revision',
      steps=4,
      cache=cache,
      revision=settings,
    )
    for cache in ('on', 'off')
  ]
  for ours, theirs in zip(*results, strict=True):
    assert ours.token_ids == theirs.token_ids
    assert ours.notes['live'] == theirs.notes['live']
    assert sum(ours.notes['edited']) == sum(theirs.notes['edited']) > 0
    np.testing.assert_allclose(ours.notes['doubt_mean'], theirs.notes['doubt_mean'], atol=1e-4)


def test_readme_has_the_table_of_samplers():
  assert samplers.table() in (ROOT / 'README.md').read_text()


def test_other_rows_and_the_own_chain(models):
  model = models('epsilon_hybrid')
  (block,) = model.sample(1, hyperschedule='block,width=8,num_levels=2')
  assert block.hyperschedule == 'block(length=32, width=8, num_levels=2)'
  (own,) = model.sample(1, sampler='ancestral', own_chain=True, steps=3)
  assert own.network_calls == 3
  (ordered,) = model.sample(1, sampler='autoregressive')
  assert ordered.network_calls == LENGTH and ordered.reveal_step == list(range(LENGTH))
  groups = np.random.default_rng(0).permutation(np.arange(LENGTH) // 2)
  (mine,) = models('mdlm').sample(1, hyperschedule=any_order(groups))
  assert mine.reveal_step == groups.tolist() and mine.network_calls == LENGTH // 2
  (hit,) = model.sample(1, sampler='first_hitting_continuous')
  assert hit.network_calls == LENGTH and sorted(hit.reveal_step) == list(range(LENGTH))


@pytest.mark.parametrize(
  'name, request_, message',
  [
    ('epsilon_hybrid', dict(num_samples=0), 'num_samples must be at least 1'),
    ('epsilon_hybrid', dict(steps=0), 'steps must be at least 1'),
    ('epsilon_hybrid', dict(length=0), 'length must be at least 1'),
    ('epsilon_hybrid', dict(batch_size=0), 'batch_size must be at least 1'),
    ('epsilon_hybrid', dict(temperature=-1.0), 'temperature must be from 0 up'),
    ('epsilon_hybrid', dict(eta=2.0), 'eta must be in'),
    ('epsilon_hybrid', dict(top_p=0.0), 'top_p must be'),
    ('epsilon_hybrid', dict(banned=(999,)), 'banned has'),
    ('epsilon_hybrid', dict(seed=-1), 'seed must be'),
    ('epsilon_hybrid', dict(seed=[1, 2]), '2 seeds for 4 samples'),
    (
      'epsilon_hybrid',
      dict(hyperschedule='flat,num_levels=2,wdth=3'),
      'wdth is unknown',
    ),
    (
      'epsilon_hybrid',
      dict(hyperschedule=block(8, 2, 2)),
      'over 8 positions, and the text',
    ),
    ('bd3lm', dict(infill='a [[10]] b', stop=True), 'a text with gaps has its end'),
    ('sedd', dict(guidance=1.0), 'guidance compares predictions'),
    ('ar', dict(guidance=1.0), 'guidance compares predictions'),
    ('epsilon_hybrid', dict(sampler='magic'), 'unknown sampler'),
    ('epsilon_hybrid', dict(prompt='x' * 32), 'leave room for an answer'),
    ('epsilon_hybrid', dict(prompt=['a', 'b']), '2 prompts for 4 samples'),
    ('epsilon_hybrid', dict(prompt='a', infill='b [[2]]'), 'give one of prompt, infill'),
    ('epsilon_hybrid', dict(tokens=np.zeros(3, int)), 'tokens with given'),
    ('epsilon_hybrid', dict(draft=np.zeros(3, int)), 'draft must be integers of shape'),
    ('epsilon_hybrid', dict(draft=np.full(32, 300)), 'draft must hold ids of 0..257'),
    ('epsilon_hybrid', dict(steps=3, hyperschedule='flat,num_levels=2'), 'give one'),
    ('epsilon_hybrid', dict(sampler='acs', own_chain=True), 'followed by ancestral alone'),
    ('epsilon_hybrid', dict(sampler='autoregressive', steps=3), 'leave out steps'),
    (
      'epsilon_hybrid',
      dict(sampler='autoregressive', hyperschedule='flat,num_levels=2'),
      'a hyperschedule of its own',
    ),
    ('bd3lm', dict(own_chain=True), 'only a model with noise epsilon_hybrid'),
    ('ar', dict(hyperschedule='flat,num_levels=4'), 'from left to right, one token a step'),
  ],
  ids=str,
)
def test_wrong_requests_are_refused(models, name, request_, message):
  with pytest.raises(UserError, match=message):
    models(name).sample(**request_)


def test_unknown_controls_are_a_type_error(models):
  with pytest.raises(TypeError, match='topk'):
    models('epsilon_hybrid').sample(1, topk=3)
