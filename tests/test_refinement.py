"""Refining drafts: what may change, how far, by whose law, and what is refused."""

import dataclasses
import functools
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds
from commands import records, refuse, run, succeed
from conftest import ROOT

from ardiff_jax import edits, noise, refinement, report
from ardiff_jax import method as method_lib
from ardiff_jax.data.tokenizers import ByteTokenizer
from ardiff_jax.errors import UserError
from ardiff_jax.hyperschedules import flat
from ardiff_jax.sampling.loop import generate
from ardiff_jax.sampling.steppers import Ancestral

BYTES = ByteTokenizer('byte', {})
DRAFT = '3 plus 4 is 7.'
OTHER = '8 plus 1 is 9.'
LONG = '1 plus 1 is 2.\n' + DRAFT


# Pieces.


def test_canvas_is_guidance_a_document_and_the_prompt_before_the_draft():
  canvas = refinement.canvas(BYTES, 'cat', 'a ', 'be brief', 20)
  assert canvas.tokens.tolist() == [*b'be brief', BYTES.eos_id, BYTES.eos_id, *b'a cat']
  assert bytes(canvas.draft.tolist()) == b'cat'
  np.testing.assert_array_equal(canvas.free, [False] * 12 + [True] * 3)
  assert refinement.canvas(BYTES, 'cat', '', '', 3).start == 0


@pytest.mark.parametrize(
  'draft, prompt, message',
  [('', '', 'draft is empty'), ('cat', 'a ', 'of 3 tokens behind 2 .* longer than the model.s 4')],
)
def test_drafts_that_are_none_or_do_not_fit_are_refused(draft, prompt, message):
  with pytest.raises(UserError, match=message):
    refinement.canvas(BYTES, draft, prompt, '', 4)


def test_over_budget_the_edits_of_least_gain_are_taken_back():
  draft, refined = np.array([1, 2, 3, 4, 5]), np.array([9, 2, 8, 7, 6])
  gain = np.array([0.1, 9.0, 3.0, -1.0, 2.0])
  kept, reverted = refinement.within_budget(draft, refined, gain, 2)
  np.testing.assert_array_equal(kept, [1, 2, 8, 4, 6])
  assert reverted == 2
  np.testing.assert_array_equal(refinement.within_budget(draft, refined, gain, 4)[0], refined)
  np.testing.assert_array_equal(refinement.within_budget(draft, refined, gain, 0)[0], draft)


def test_drift_of_a_shift_is_small_as_an_edit_and_large_by_position():
  drift = refinement.drift([1, 2, 3, 4], [2, 3, 4, 5])
  assert drift == {'changed': 1.0, 'edit_distance': 0.5}
  assert refinement.drift([1, 2], [1, 2]) == {'changed': 0.0, 'edit_distance': 0.0}


def test_edits_are_marked_word_by_word():
  marked = edits.marked('The cat sat, alone.', 'The dog sat alone.')
  assert marked == 'The [-cat-]{+dog+} sat[-,-] alone.'
  assert edits.marked('as it was', 'as it was') == 'as it was'


# The law.


@functools.partial(jax.jit, static_argnums=0)
def reversal(process, params, schedule, drafts):
  """Drafts that are noised to the first time of a schedule, and what becomes of them."""
  keys = jax.random.split(jax.random.key(0), (2, len(drafts)))
  noisy = jax.vmap(process.sample, (0, 0, None))(keys[0], drafts, schedule.last_time)
  given = jnp.zeros(drafts.shape, bool)
  arguments = worlds.exact_denoise, params, process, Ancestral(), schedule, drafts, given, keys[1]
  return generate(*arguments, draft=noisy).tokens


def test_refinement_follows_the_reversal_of_the_noise_from_its_time_on():
  """One token, whose posterior is known: noised to time t, and back in four steps."""
  n, vocab_size, last_time, draft = 20_000, 3, np.float32(0.5), 2
  process = noise.uniform(vocab_size)
  joint = np.array([0.6, 0.3, 0.1])
  schedule = dataclasses.replace(flat(1, 4), last_time=last_time)
  drafts = np.full((n, 1), draft, np.int32)
  tokens = np.asarray(reversal(process, worlds.exact_params(joint), schedule, drafts))
  stays = float(np.exp(-process.sigma(last_time)))
  forward = stays * np.eye(vocab_size) + (1.0 - stays) / vocab_size  # q(x_t | x_0)
  backward = joint[:, None] * forward
  law = (backward / backward.sum(axis=0)) @ forward[draft]
  share = np.bincount(tokens[:, 0], minlength=vocab_size) / n
  np.testing.assert_allclose(share, law, atol=0.015)
  assert np.abs(law - joint).max() > 0.1  # where time 1 would end


# Models.


@pytest.mark.parametrize('name, refiner', [('epsilon_hybrid', 'token'), ('gate', 'gate')])
def test_strength_zero_changes_nothing_and_what_is_kept_never_changes(models, name, refiner):
  model = models(name)
  (same,) = model.refine('é – ' + DRAFT, refiner=refiner, strength=0.0)
  assert same.text == 'é – ' + DRAFT and same.network_calls == same.changed == 0
  keep = np.arange(len(DRAFT)) % 2 == 0
  settings = {'revision': {'accept': 'any', 'prior_scale': 0.0}} if refiner == 'gate' else {}
  (one,) = model.refine(
    DRAFT, prompt='2 plus 2 is 4.\n', refiner=refiner, strength=1.0, keep=[keep], **settings
  )
  new, old = np.array(one.token_ids), np.array(one.draft_ids)
  assert len(new) == len(old) == len(DRAFT)
  np.testing.assert_array_equal(new[keep], old[keep])
  assert (new[~keep] != old[~keep]).any()
  assert one.changed == (new != old).mean()


def test_at_full_strength_masks_forget_the_draft_but_not_the_prompt(models):
  model = models('mdlm')
  texts = [
    model.refine(draft, prompt=prompt, strength=1.0, seed=3)[0].text
    for draft, prompt in ((DRAFT, 'a '), (DRAFT[::-1], 'a '), (DRAFT, 'b '))
  ]
  assert texts[0] == texts[1]
  assert texts[0] != texts[2]


def test_a_draft_is_refined_alike_whatever_stands_beside_it(models):
  model = models('epsilon_hybrid')
  refine = lambda *drafts, seed=7: model.refine(drafts, strength=0.5, seed=seed)  # noqa: E731
  together = refine(DRAFT, LONG, DRAFT)
  assert [one.draft for one in together] == [DRAFT, LONG, DRAFT]
  first, last = refine(DRAFT, LONG, OTHER), refine(OTHER, LONG, DRAFT)
  assert (together[0].text, together[2].text) == (first[0].text, last[2].text)
  assert together[1].text == first[1].text == last[1].text
  assert together[0].text != together[2].text  # draws of their own
  assert refine(DRAFT, LONG, DRAFT, seed=8)[0].text != together[0].text


@pytest.mark.parametrize('name', ['epsilon_hybrid', 'latent_refiner'])
def test_a_batch_holds_so_many_drafts_and_changes_none(models, monkeypatch, name):
  model, sizes, stack = models(name), [], refinement._stack

  def watched(canvases):
    sizes.append(len(canvases))
    return stack(canvases)

  monkeypatch.setattr(refinement, '_stack', watched)
  drafts = [DRAFT, LONG, DRAFT, DRAFT]
  settings = dict(strength=0.9, budget=0.5, steps=4, seed=7)
  whole = model.refine(drafts, **settings)
  assert set(sizes) == {1, 3}
  sizes.clear()
  few = model.refine(drafts, batch_size=2, **settings)
  assert set(sizes) == {1, 2}
  assert [one.text for one in few] == [one.text for one in whole] != drafts
  assert [one.network_calls for one in few] == [one.network_calls for one in whole]


def test_stronger_refinements_drift_further_and_call_more(models):
  model = models('epsilon_hybrid')
  drafts = [DRAFT] * 16
  settings = dict(steps=4, batch_size=2)
  runs = [model.refine(drafts, strength=strength, **settings) for strength in (0.2, 0.5, 0.9)]
  drifts = [np.mean([one.edit_distance for one in run]) for run in runs]
  assert 0.0 < drifts[0] < drifts[1] < drifts[2] <= 1.0
  assert [run[0].network_calls for run in runs] == [1, 2, 4]


def test_an_epsilon_hybrid_refines_along_its_own_chain_too(models):
  model = models('epsilon_hybrid')
  usual, own = (
    model.refine([DRAFT] * 2, strength=0.9, steps=4, **chain)[0]
    for chain in ({}, dict(sampler='ancestral', own_chain=True))
  )
  assert own.changed > 0.0 and own.text != usual.text


@functools.partial(jax.jit, static_argnums=0)
def masked_prediction(denoise, params, canvas):
  active = dict(
    regions=np.ones(canvas.shape[1], np.int8), settle_step=np.ones(canvas.shape[1], int)
  )
  return denoise(params, canvas, sigma=jnp.zeros(canvas.shape), **active)


def test_budget_keeps_the_edits_that_the_model_prefers_most(models):
  model = models('mdlm')
  free = model.refine([DRAFT] * 4, strength=0.7, seed=1)
  bound = model.refine([DRAFT] * 4, strength=0.7, seed=1, budget=0.2)
  for all_edits, few in zip(free, bound, strict=True):
    old, new, kept = (np.array(x) for x in (few.draft_ids, all_edits.token_ids, few.token_ids))
    edits = np.flatnonzero(old != new)
    most = math.floor(0.2 * len(DRAFT))
    assert (kept != old).sum() == most == len(edits) - few.reverted
    assert few.network_calls == all_edits.network_calls + 1
    shown = np.where(old != new, BYTES.vocab_size, new)[None]
    denoise = method_lib.on_schedule(model.method, flat(len(DRAFT), 1)).denoise
    logits = np.asarray(masked_prediction(denoise, model.params, shown))[0]
    gain = np.array([logits[i, new[i]] - logits[i, old[i]] for i in edits])
    best = edits[np.argsort(-gain)[:most]]
    np.testing.assert_array_equal(np.flatnonzero(kept != old), np.sort(best))


def test_rows_of_a_refinement_may_be_others(models):
  model = models('bd3lm')
  usual, other = (
    model.refine(DRAFT, strength=0.8, **rows)[0]
    for rows in (dict(steps=5), dict(hyperschedule='block,width=2,num_levels=1'))
  )
  assert usual.network_calls <= 2 * 4 and other.network_calls <= 7
  assert usual.text != other.text
  (bound,) = model.refine(DRAFT, strength=0.8, steps=5, budget=0.1)
  assert bound.network_calls == usual.network_calls + 2  # two blocks to compare


def test_judge_reads_the_text_after_the_prompt(models):
  (one,) = models('epsilon_hybrid').refine(
    DRAFT, prompt='so ', guidance='be brief', strength=0.8, judge=models('ar')
  )
  judge = models('ar')
  for nats, ids in ((one.nats, one.token_ids), (one.draft_nats, one.draft_ids)):
    prompt = [*b'so ']
    texts = np.array([[*prompt, *ids], [*prompt, *[0] * len(ids)]], np.int32)
    counted = np.stack([np.ones(len(texts[0]), bool), np.arange(len(texts[0])) < len(prompt)])
    whole, before = judge.sequence_nats(texts, counted, num_samples=None, seed=0)
    np.testing.assert_allclose(nats, (whole - before) / len(ids), rtol=1e-4)


@pytest.mark.parametrize(
  'name, settings, message',
  [
    ('ar', {}, 'writes each token once'),
    ('a3', {}, 'writes each token once'),
    ('mdlm', {'refiner': 'pen'}, 'refiner must be one of token, gate'),
    ('mdlm', {'strength': 1.5}, r'strength must be in \[0, 1\], got 1.5'),
    ('mdlm', {'seed': -1}, 'seed must be from 0'),
    ('mdlm', {'steps': 0}, 'steps must be at least 1, got 0'),
    ('mdlm', {'prompt': np.array([300])}, '300 is no token: the vocabulary has ids from 0 to 25'),
    ('mdlm', {'batch_size': 0}, 'batch_size must be at least 1, got 0'),
    ('mdlm', {'budget': -1}, r'budget must be in \[0, 1\]'),
    ('mdlm', {'refiner': 'gate'}, 'trained on other noise'),
    ('mdlm', {'sampler': 'unmask_random'}, 'hyperschedule of its own'),
    ('epsilon_hybrid', {'sampler': 'ancestral'}, 'take acs or acs_confidence, or ancestral with'),
    ('epsilon_hybrid', {'sampler': 'first_hitting', 'strength': 0.0}, 'leaves wrong tokens'),
    ('epsilon_hybrid', {'refiner': 'gate', 'sampler': 'acs'}, 'leave out .acs.'),
    ('mdlm', {'keep': [np.ones(3, bool)]}, 'keep of draft 0 must be 14 booleans'),
    ('mdlm', {'keep': []}, 'keep is for 0 drafts'),
    ('mdlm', {'sampler': 'magic', 'strength': 0.0}, 'unknown sampler'),
    ('mdlm', {'steps': 2, 'hyperschedule': 'block,width=2,num_levels=2'}, 'give one'),
    ('mdlm', {'guidance': 'x' * 30}, "longer than the model's 32"),
    ('mdlm', {'refiner': 'latent'}, 'refiner latent is not for this model'),
    ('mdlm', {'guidance_scale': 2.0}, 'guidance_scale are settings of refiner latent'),
    ('mdlm', {'clamp': 0.5}, 'clamp are settings of refiner latent'),
  ],
)
def test_refinements_that_cannot_be_are_refused(models, name, settings, message):
  with pytest.raises(UserError, match=message):
    models(name).refine(DRAFT, **settings)


def test_judge_of_another_tokenizer_is_refused(models):
  model = models('mdlm')
  other = dataclasses.replace(model, tokenizer=ByteTokenizer('byte', {'x': b'y'}))
  with pytest.raises(UserError, match='another tokenizer'):
    model.refine(DRAFT, judge=other)


def test_a_judge_that_cannot_read_the_texts_is_refused_before_any_work(models, monkeypatch):
  model, judge = models('epsilon_hybrid'), models('ar')
  short = dataclasses.replace(judge, config=judge.config.copy_and_resolve_references())
  short.config.data.length = len('so ' + DRAFT)
  asked = dict(prompt='so ', guidance='be brief', strength=0.8)
  (one,) = model.refine(DRAFT, judge=short, **asked)
  assert one.nats > 0.0
  draft = refinement.drafted(model, judge, short, 'so ', 'be brief', None, 0)
  assert len(draft) == len(DRAFT)

  def work(*_, **__):
    raise AssertionError('it was refined all the same')

  monkeypatch.setattr(type(model), 'sample', work)
  with pytest.raises(UserError, match='have 18 tokens, and the judge reads 17'):
    model.refine([DRAFT, DRAFT + '!'], prompt='so ', judge=short)
  for call in (
    lambda: model.refine(DRAFT, judge=models('mdlm')),
    lambda: refinement.drafted(model, judge, models('mdlm'), '', '', None, 0),
  ):
    with pytest.raises(UserError, match='judge is not autoregressive'):
      call()


# The command.


def test_command_prints_the_text_and_nothing_else(models, tmp_path):
  directory = models.directory('epsilon_hybrid')
  file = tmp_path / 'draft.txt'
  draft = 'two\r\nlines\t '
  file.write_bytes(draft.encode() + b'\n')
  arguments = 'refine', f'--workdir={directory}', f'--out={tmp_path}/out.jsonl'
  same = succeed(*arguments, f'--draft=@{file}', '--strength=0')
  told = records(tmp_path / 'out.jsonl')
  assert same.stdout == 'two\nlines\t \n' and told[0]['text'] == draft  # the pipe is text
  judged = f'--judge={models.directory("ar")}'
  other = succeed(*arguments, f'--draft={DRAFT}', '--strength=0.9', '--prompt=so ', judged)
  told = records(tmp_path / 'out.jsonl')
  assert other.stdout == told[1]['text'] + '\n' != same.stdout
  assert told[1]['nats'] > 0.0 and 'nats/token under the judge' in other.stderr
  assert edits.marked(DRAFT, told[1]['text']) in other.stderr
  assert file.read_bytes() == draft.encode() + b'\n'
  (tmp_path / 'folder').mkdir()
  lost = run(*arguments[:2], f'--out={tmp_path}/folder', '--draft=kept', '--strength=0')
  assert (lost.returncode, lost.stdout) == (2, 'kept\n') and 'folder' in lost.stderr


def test_a_draft_is_never_written_to_by_whatever_name(models, tmp_path):
  directory, file = models.directory('epsilon_hybrid'), tmp_path / 'draft.txt'
  file.write_text('a draft')
  (tmp_path / 'link').symlink_to(file)
  own = directory / 'refined.jsonl'
  own.write_text('{}\n')
  for draft, out in (
    (file, [f'--out={file}']),
    (file, [f'--out={tmp_path}/./draft.txt']),
    (tmp_path / 'link', [f'--out={file}']),
    (os.path.relpath(file, ROOT), [f'--out={file}']),
    (own, []),
  ):
    refused = refuse('refine', f'--workdir={directory}', f'--draft=@{draft}', *out)
    assert 'is the draft itself' in refused.stderr
  assert (file.read_text(), own.read_text()) == ('a draft', '{}\n')
  own.unlink()


def test_the_report_shows_what_was_refined(models):
  directory = models.directory('epsilon_hybrid')
  judge = f'--judge={models.directory("ar")}'
  asked = '--strength=1', '--prompt=so <so> ', '--guidance=be', '--budget=0.5', judge
  succeed('refine', f'--workdir={directory}', '--draft=one <two> three four', *asked)
  (record,) = records(directory / 'refined.jsonl')
  page = (directory / 'report.html').read_text()
  assert 'one &lt;two&gt; three four' in page and 'so &lt;so&gt; ' in page
  assert record['text'] != record['draft'] and '<ins>' in page and '<del>' in page
  assert f'{record["draft_nats"]:.3f} → {record["nats"]:.3f} nats' in page
  (directory / 'refined.jsonl').unlink()
  report.write(directory)
  assert 'Refined drafts' not in (directory / 'report.html').read_text()


def test_command_has_a_draft_written(models, tmp_path):
  drafter, out = models.directory('ar'), tmp_path / 'out.jsonl'
  model = f'--workdir={models.directory("epsilon_hybrid")}'
  flags = model, f'--drafter={drafter}', '--prompt=so ', '--guidance=ξ♞', f'--out={out}'
  succeed('refine', *flags, '--strength=0.9', '--seed=4')
  succeed('refine', *flags, '--strength=0', '--draft_tokens=9')
  whole, short = records(out)
  assert len(whole['draft_ids']) == 32 - len('so ') - len('ξ♞'.encode()) - 2
  (sample,) = models('ar').sample(1, 'so ', length=len(whole['draft_ids']) + 3, seed=4)
  assert whole['draft_ids'] == sample.token_ids[3:] != whole['token_ids']
  assert len(short['token_ids']) == 9 and short['token_ids'] == short['draft_ids']
  assert 'room for 22 tokens' in refuse('refine', *flags, '--draft_tokens=23').stderr


@pytest.mark.parametrize(
  'arguments, message',
  [
    ([], '--draft is missing'),
    (['--draft=a', '--drafter=b'], 'give one of --draft and --drafter'),
    (['--draft=@nowhere.txt'], 'there is no file nowhere.txt'),
    (['--draft='], 'the draft is empty'),
    (['--draft=a', '--strength=2'], 'strength must be in'),
    (['--draft=a', '--out=nowhere/out.jsonl'], 'there is no folder nowhere'),
    (['--draft=' + 'long ' * 9], 'is longer than the model'),
  ],
)
def test_command_says_what_is_wrong(models, arguments, message):
  result = refuse('refine', f'--workdir={models.directory("epsilon_hybrid")}', *arguments)
  assert message in result.stderr
  assert not (models.directory('epsilon_hybrid') / 'refined.jsonl').exists()
