"""Attributes of a text; rows of guidance, prompt, target and draft, all made of plain text."""

import numpy as np
import pytest

from ardiff_jax.data import attributes, drafts, guided
from ardiff_jax.data.guided import Guided
from ardiff_jax.data.packing import pack
from ardiff_jax.data.tokenizers import ByteTokenizer

BYTES = ByteTokenizer('byte', {})
TALE = (
  'The king had a horse. "I am tired," said he to his wife, who was the queen. '
  'She took her hat and gave her crown to him. They were old, and the palace was dark. '
)


@pytest.mark.parametrize(
  'name, text, value',
  [
    ('voice', '"Who is there?" said she.', 'dialogue'),
    ('voice', '“Who is there?” said she.', 'dialogue'),
    ('voice', "She didn't know who was there; it wasn't he.", 'narration'),
    ('voice', '?!', None),
    ('tense', 'He was old and had no horse, which is sad.', 'past'),
    ('tense', 'He is old.', 'present'),
    ('tense', 'He was and he is.', None),
    ('sentences', 'I came. I saw.', 'short'),
    ('sentences', 'One two three four five six seven eight nine ten eleven.', 'medium'),
    ('sentences', 'word ' * 21, 'long'),
    ('sentences', '...', None),
    ('gender', 'He gave his hat to her.', 'male'),
    ('gender', 'The queen and her daughter.', 'female'),
    ('gender', 'They were people.', 'neutral'),
    ('gender', 'He saw her.', None),
    ('gender', 'It rained.', None),
  ],
)
def test_attributes_are_told_from_words(name, text, value):
  assert attributes.ATTRIBUTES[name](text) == value
  if value is not None:
    assert attributes.holds(f'{name}: {value}', text)
    assert not attributes.holds(f'{name}: other', text)


def test_keywords_are_long_words_of_the_text():
  draw = np.random.default_rng(0)
  found = {attributes.keyword("The castle's dark towers, Towers!", draw) for _ in range(20)}
  assert found == {'towers'}
  assert attributes.keyword('a b c', draw) is None
  assert attributes.holds('keyword: Towers', 'Dark towers.')
  assert not attributes.holds('keyword: tower', 'Dark towers.')


@pytest.mark.parametrize('guidance', ['fix', 'keyword: ', 'mood: dark', ''])
def test_guidance_that_asks_for_no_attribute_is_refused(guidance):
  with pytest.raises(ValueError, match="must be like 'voice: dialogue'"):
    attributes.holds(guidance, TALE)


@pytest.mark.parametrize(
  'to, text, expected',
  [
    ('female', 'The King saw his son; he knew him.', 'The Queen saw her daughter; she knew her.'),
    ('male', 'She took her hat. I saw her.', 'He took his hat. I saw him.'),
    ('neutral', 'He himself is a man.', 'They themself is a person.'),
    ('neutral', 'HE, Mrs. Poyser', 'They, Mx. Poyser'),
    ('male', 'There, where others gather.', 'There, where others gather.'),
  ],
)
def test_gendered_words_are_rewritten(to, text, expected):
  assert attributes.regender(text, to) == expected


@pytest.mark.parametrize('to', attributes.GENDERS)
def test_what_is_rewritten_has_the_gender(to):
  assert attributes.holds(f'gender: {to}', attributes.regender(TALE, to))


@pytest.mark.parametrize(
  'guidance, text, lacking',
  [
    ('gender: male', 'He took his hat.', {'She took her hat.', 'They took their hat.'}),
    ('keyword: castle', 'The Castle was old.', {'The Something was old.'}),
    ('keyword: castle', 'A castle, a garden.', {'A garden, a garden.'}),
    ('tense: past', 'She was ill and had no hope.', {'She is ill and has no hope.'}),
    ('tense: present', 'I am here. Can he?', {'I was here. Could he?'}),
    ('voice: dialogue', '"Go," said she; “go!”', {'Go, said she; go!'}),
    ('voice: narration', 'It rained all day.', {'It rained “all day.”'}),
    ('sentences: short', 'I came. ' * 6, {'I came, ' * 6}),
    (
      'sentences: long',
      'word ' * 9 + 'word, ' + 'word ' * 12,
      {'word ' * 9 + 'word. ' + 'word ' * 12},
    ),
  ],
)
def test_a_text_rewritten_lacks_what_it_had(guidance, text, lacking):
  draw = np.random.default_rng(0)
  assert attributes.holds(guidance, text)
  assert {attributes.without(guidance, text, draw) for _ in range(20)} == lacking


def test_a_text_that_cannot_lack_it_is_left():
  draw = np.random.default_rng(0)
  assert attributes.without('sentences: long', 'word ' * 30, draw) is None


CLEAN = np.array(BYTES.encode(TALE), np.int32)
FOLLOWING = np.array(BYTES.encode('And so it ended.'), np.int32)


def damaged(damage, count=50):
  draw = np.random.default_rng(0)
  found = [damage(CLEAN, FOLLOWING, BYTES, draw) for _ in range(count)]
  assert all(x.shape == CLEAN.shape and x.dtype == np.int32 for x in found)
  return np.stack(found)


def test_substitutions_are_up_to_a_share():
  share = (damaged(drafts.substituted, 200) != CLEAN).mean(axis=1)
  assert share.max() < 0.4 and 0.1 < share.mean() < 0.2 and share.min() < 0.05


def test_shuffles_stay_within_stretches():
  def stretches(text, start):
    return [text[:start].tolist(), *(sorted(text[i : i + 8]) for i in range(start, len(text), 8))]

  for text in damaged(drafts.shuffled):
    assert (text != CLEAN).any()
    assert any(stretches(text, start) == stretches(CLEAN, start) for start in range(8))


def test_repeats_stand_behind_what_they_repeat():
  once = set()
  for size in range(1, 9):
    for start in range(len(CLEAN) - 2 * size + 1):
      text = CLEAN.copy()
      text[start + size : start + 2 * size] = text[start : start + size]
      once.add(text.tobytes())
  texts = damaged(drafts.repeated)
  assert 0.1 < np.mean([text.tobytes() in once for text in texts]) < 0.6  # a third, and by chance
  for text in texts:
    (places,) = np.nonzero(text != CLEAN)
    assert len(places) <= 3 * 8
    assert all(text[i] in CLEAN[max(i - 24, 0) : i] for i in places)


def test_a_dropped_clause_is_missing_and_the_text_goes_on():
  texts = {BYTES.decode(text) for text in damaged(drafts.dropped)}
  rest = BYTES.decode(FOLLOWING) + TALE
  clause = ' and the palace was dark.'
  assert (TALE.replace(clause, '') + rest)[: len(TALE)] in texts
  assert len(texts) > 5 and TALE not in texts
  for text in texts:
    same = next(i for i in range(len(TALE)) if text[i] != TALE[i])
    sizes = range(1, len(TALE) // 2 + 1)
    assert any((TALE[same + size :] + rest).startswith(text[same:]) for size in sizes)


def drafts_of(guidance, target, own=None, count=400):
  draw, target = np.random.default_rng(0), np.array(BYTES.encode(target), np.int32)
  own = target if own is None else np.array(BYTES.encode(own), np.int32)
  found = [drafts.draft(guidance, target, own, FOLLOWING, BYTES, draw) for _ in range(count)]
  assert all(x.shape == target.shape for x in found)
  wrong = [BYTES.decode(x) for x in found if (x != target).any()]
  assert 0.4 * count < len(wrong) < 0.6 * count  # half of the drafts are right
  return wrong


@pytest.mark.parametrize('to', attributes.GENDERS)
def test_before_it_was_rewritten_in_a_gender_a_text_had_another(to):
  own = attributes.regender(TALE, 'male' if to != 'male' else 'female')
  target = attributes.regender(TALE, to)
  (draft,) = {*drafts_of(f'gender: {to}', target, own)}
  assert draft.startswith(own[: len(target)]) and not attributes.holds(f'gender: {to}', draft)


@pytest.mark.parametrize('guidance', ['gender: female', 'keyword: palace', 'tense: past'])
def test_drafts_lack_what_the_text_has_by_itself(guidance):
  assert attributes.holds(guidance, TALE)
  for draft in drafts_of(guidance, TALE):
    assert not attributes.holds(guidance, draft) and draft[:4] == TALE[:4]


def test_drafts_that_cannot_lack_it_and_those_to_fix_are_damaged():
  plural = attributes.regender(TALE, 'neutral')
  assert len({*drafts_of(attributes.FIX, TALE)}) > 100
  assert len({*drafts_of('gender: neutral', plural)}) > 100


def rows(length=64, repeats=120):
  return Guided(pack([TALE * repeats], BYTES, length), BYTES, 0)


def test_rows_are_guidance_a_document_end_prompt_and_target():
  made = rows()
  plain, seen = made.packed, set()
  for row in range(len(made) - 1):
    tokens, counted = made[row]['tokens'], made[row]['loss_mask']
    assert tokens.shape == counted.shape == (64,) and tokens.dtype == np.int32
    assert (np.diff(counted.astype(int)) >= 0).all()  # the counted come last
    (ends,) = np.nonzero(tokens == BYTES.eos_id)
    before, text = np.split(tokens, [ends[1] + 1 if len(ends) else 0])
    source = bytes(plain[row]['tokens'].tolist()).decode()
    whole = counted.sum() == len(text)
    if whole:
      seen.add('no prompt')
    if not len(ends):
      seen.add('no guidance')
      assert bytes(text.tolist()).decode() == source and counted.sum() in (32, 64)
      continue
    assert len(ends) == 2 and ends[1] == ends[0] + 1
    guidance = bytes(before[:-2].tolist()).decode()
    assert before.tolist() == guided.head(BYTES, guidance)
    seen.add(guidance.partition(':')[0])
    prompt, target = (BYTES.decode(x) for x in np.split(text, [len(text) - counted.sum()]))
    size = 64 if whole else 32
    assert source[: 64 - size].endswith(prompt)
    if guidance.startswith('gender'):
      assert target in attributes.regender(source[-size:], guidance[8:])
    else:
      assert source.endswith(target) and (whole or target == source[32:])
    assert guidance == attributes.FIX or attributes.holds(guidance, target)
  wanted = {'no guidance', 'no prompt', 'fix', 'keyword', 'voice', 'tense', 'sentences', 'gender'}
  assert seen == wanted


def test_drafts_stand_where_targets_do():
  few, wrong = rows(), 0
  for row in range(len(few)):
    one = few[row]
    draft, given = one['draft'], ~one['loss_mask']
    assert draft.shape == (64,) and draft.dtype == np.int32
    np.testing.assert_array_equal(draft[given], one['tokens'][given])
    np.testing.assert_array_equal(draft, rows()[row]['draft'])
    wrong += (draft != one['tokens']).any()
  assert 0.3 < wrong / len(few) < 0.7


def test_a_row_is_always_the_same_and_another_seed_asks_for_other_things():
  first, again = rows(), rows()
  other = Guided(first.packed, BYTES, 1)
  same = [np.array_equal(first[i]['tokens'], again[i]['tokens']) for i in range(20)]
  differs = [not np.array_equal(first[i]['tokens'], other[i]['tokens']) for i in range(20)]
  assert all(same) and sum(differs) > 10


def test_a_task_without_what_it_asks_for_is_to_fix():
  target = np.array(BYTES.encode('???'), np.int32)
  draw = np.random.default_rng(0)
  for task in guided.TASKS:
    guidance, same = guided.guide(task, target, BYTES, draw)
    assert guidance == attributes.FIX
    np.testing.assert_array_equal(same, target)


def test_no_token_is_counted_twice():
  """What the last row shares with the one before is given in it."""
  made = rows(length=48)
  last = made.packed[len(made) - 1]['loss_mask']
  assert 0 < last.sum() < 24
  for row in range(len(made)):
    assert not (made[row]['loss_mask'] & ~made.packed[row]['loss_mask']).any()
