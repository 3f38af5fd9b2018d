"""Attributes of a text, and rows of guidance, prompt and target made of plain text."""

import numpy as np
import pytest

from ardiff_jax.data import attributes, guided
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
