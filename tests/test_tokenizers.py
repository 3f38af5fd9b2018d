import functools
import os
import types
import unicodedata

import pytest
from conftest import DATA

from ardiff_jax.data import tokenizers
from ardiff_jax.errors import UserError

SENTENCES = [
  f'def function_{i}(x):\n  return x + {i * i}  # the {name} of {i}\n'
  for i in range(200)
  for name in ('number', 'square')
]
NASTY = [
  '',
  'plain text',
  '   ',
  ' leading and trailing  ',
  'a ▁ literal▁▁ underline▁',
  'line\r\nline\r\n\tindented\n\n\n',
  'nul \0 inside',
  '\ufeffwith a BOM',
  'form\ffeed',
  'emoji 🤷🏽‍♀️ and 漢字',
  unicodedata.normalize('NFD', 'élève Ångström'),
  'literal <0x0A> </s> <s> <unk> <|endoftext|>',
  'x = 1 + y; ' * 910,
  'unbroken' * 1250,
]


def make_config(kind, path='', vocab_size=400):
  return types.SimpleNamespace(kind=kind, path=str(path), vocab_size=vocab_size)


@pytest.fixture(scope='module')
def built(tmp_path_factory):
  """kind -> (config, directory, tokenizer), each built once."""

  @functools.cache
  def build(kind):
    config = make_config(kind, DATA / 'gpt2_bpe' if kind == 'gpt2' else '')
    if config.path and not os.path.exists(config.path):
      pytest.skip(f'no GPT-2 vocabulary at {config.path}')
    directory = tmp_path_factory.mktemp(kind)
    tokenizer = tokenizers.build_tokenizer(config, SENTENCES)
    tokenizer.save(directory)
    return config, directory, tokenizer

  return build


@pytest.mark.parametrize('kind', ['byte', 'sentencepiece', 'gpt2'])
def test_round_trip_of_nasty_text(built, kind):
  _, _, tokenizer = built(kind)
  for text in [*NASTY, ''.join(NASTY)]:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert not {tokenizer.bos_id, tokenizer.eos_id}.intersection(ids)


@pytest.mark.parametrize('kind', ['byte', 'sentencepiece', 'gpt2'])
def test_saved_tokenizer_gives_the_same_ids(built, kind):
  config, directory, tokenizer = built(kind)
  loaded = tokenizers.load_tokenizer(directory, config)
  assert [loaded.encode(x) for x in NASTY] == [tokenizer.encode(x) for x in NASTY]
  assert (loaded.name, loaded.vocab_size) == (tokenizer.name, tokenizer.vocab_size)
  assert (loaded.eos_id, loaded.bos_id) == (tokenizer.eos_id, tokenizer.bos_id)
  assert not [x for x in directory.iterdir() if x.name.startswith('.')]


@pytest.mark.parametrize('kind', ['byte', 'sentencepiece', 'gpt2'])
def test_parts_encode_like_the_whole(built, kind):
  _, _, tokenizer = built(kind)
  text = ''.join(SENTENCES[:20]) + '\n\n  a  \n b\n\n'.join(NASTY)
  parts = list(tokenizers.split_text(text, 7))
  assert len(parts) > 50
  assert [i for part in parts for i in tokenizer.encode(part)] == tokenizer.encode(text)


def test_byte_ids_and_pieces():
  tokenizer = tokenizers.ByteTokenizer('byte', {})
  assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (257, 256, 256)
  assert tokenizer.encode('hé') == [0x68, 0xC3, 0xA9]
  assert tokenizer.decode([0x68, 256, 0xE2, 0x69]) == 'h\ufffdi'
  assert tokenizer.pieces([0x68, 0xE2, 10, 256, 257]) == ['h', '\\xe2', '\\n', '⏎EOS', '▒']


def test_sentencepiece_pieces(built):
  _, _, tokenizer = built('sentencepiece')
  assert ''.join(tokenizer.pieces(tokenizer.encode('def function_7(x)'))) == 'def function_7(x)'
  assert tokenizer.pieces(tokenizer.encode('▁')) == ['\\xe2', '\\x96', '\\x81']
  special = [tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size]
  assert tokenizer.pieces(special) == ['⏎BOS', '⏎EOS', '▒']
  assert tokenizer.decode([tokenizer.bos_id, *tokenizer.encode('x'), tokenizer.eos_id]) == 'x'


def test_gpt2_ids_and_pieces(built):
  _, _, tokenizer = built('gpt2')
  assert tokenizer.encode('Hello world') == [15496, 995]
  assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (50257, 50256, 50256)
  assert tokenizer.pieces([15496, 995, 50256, 50257]) == ['Hello', ' world', '⏎EOS', '▒']
  assert tokenizer.pieces(tokenizer.encode('☃')) == ['\\xe2\\x98', '\\x83']


@pytest.mark.parametrize(
  'text, ids',
  [
    ('Hello world', [15496, 995]),
    ('Hello, my dog is cute', [15496, 11, 616, 3290, 318, 13779]),
    (
      'The quick brown fox jumps over the lazy dog',
      [464, 2068, 7586, 21831, 18045, 625, 262, 16931, 3290],
    ),
    ('Once upon a time', [7454, 2402, 257, 640]),
    ("I'm", [40, 1101]),
    ('hello', [31373]),
    ('the', [1169]),
    (' the', [262]),
    ('!', [0]),
    ('a', [64]),
    (' ', [220]),
    ('\n', [198]),
    ('\n\n', [628]),
  ],
)
def test_gpt2_ids_are_those_everybody_knows(built, text, ids):
  _, _, tokenizer = built('gpt2')
  assert tokenizer.encode(text) == ids
  assert tokenizer.decode(ids) == text


@pytest.mark.parametrize('kind', ['byte', 'sentencepiece'])
def test_ids_out_of_range_raise(built, kind):
  _, _, tokenizer = built(kind)
  for bad in (-1, tokenizer.vocab_size, tokenizer.vocab_size + 1):
    with pytest.raises(ValueError, match=str(bad)):
      tokenizer.decode([bad])
  with pytest.raises(ValueError, match='outside'):
    tokenizer.pieces([tokenizer.vocab_size + 1])


def test_lone_surrogate_is_a_plain_error(built):
  for kind in ('byte', 'sentencepiece'):
    with pytest.raises(UserError, match='character 1'):
      built(kind)[2].encode('a\ud800')


def test_vocab_size_is_the_models():
  wished = make_config('sentencepiece', vocab_size=300)
  tokenizer = tokenizers.build_tokenizer(wished, SENTENCES)
  assert tokenizer.vocab_size == 300
  assert tokenizer.name == 'sentencepiece-bpe-300'
  too_many = make_config('sentencepiece', vocab_size=100_000)
  tokenizer = tokenizers.build_tokenizer(too_many, ['tiny\n', 'text\n'])
  assert tokenizer.vocab_size < 400
  assert tokenizer.name == f'sentencepiece-bpe-{tokenizer.vocab_size}'
  with pytest.raises(UserError, match='vocab_size=20'):
    tokenizers.build_tokenizer(make_config('sentencepiece', vocab_size=20), ['x y'])


def test_training_takes_evenly_spread_text(monkeypatch):
  monkeypatch.setattr(tokenizers, '_TRAIN_CHARS', 50_000)
  documents = [f'{i:04d} {"x" * 94}\n' for i in range(5000)]
  lines = [x for x in tokenizers._train_lines(documents) if x]
  assert sum(map(len, lines)) == pytest.approx(50_000, rel=0.02)
  numbers = [int(x[:4]) for x in lines]
  assert max(b - a for a, b in zip([0, *numbers], [*numbers, 5000], strict=True)) <= 11


def test_long_lines_reach_training_chopped():
  lines = list(tokenizers._train_lines(['漢' * 10_000]))
  assert ''.join(lines) == '漢' * 10_000
  assert max(len(x.encode()) for x in lines) <= 4192


def test_training_twice_gives_the_same_files():
  config = make_config('sentencepiece')
  first, again = (tokenizers.build_tokenizer(config, SENTENCES) for _ in range(2))
  assert again.files == first.files
  assert tokenizers.build_tokenizer(config, SENTENCES[::2]).files != first.files


def test_given_model_may_be_lossy(tmp_path):
  path = DATA / 'sentencepiece' / 'test_model.model'
  if not path.exists():
    pytest.skip(f'no sentencepiece model at {path}')
  tokenizer = tokenizers.build_tokenizer(make_config('sentencepiece', path), [])
  tokenizer.save(tmp_path)
  assert tokenizer.vocab_size == 1000
  assert tokenizer.decode(tokenizer.encode('the same words')) == 'the same words'
  assert tokenizers.load_tokenizer(tmp_path, make_config('sentencepiece')).name == tokenizer.name


def test_bad_choices_are_plain_errors(tmp_path):
  with pytest.raises(UserError, match='byte, sentencepiece, gpt2'):
    tokenizers.build_tokenizer(make_config('bpe'), SENTENCES)
  with pytest.raises(UserError, match=r'vocab\.json and merges\.txt'):
    tokenizers.build_tokenizer(make_config('gpt2'), SENTENCES)
  with pytest.raises(UserError, match=r'nowhere\.model'):
    tokenizers.build_tokenizer(make_config('sentencepiece', 'nowhere.model'), SENTENCES)
  (tmp_path / 'junk.model').write_bytes(b'junk')
  junk = make_config('sentencepiece', tmp_path / 'junk.model')
  with pytest.raises(UserError, match='no usable sentencepiece'):
    tokenizers.build_tokenizer(junk, SENTENCES)
  (tmp_path / 'file').write_text('in the way')
  with pytest.raises(UserError, match='Cannot write'):
    tokenizers.build_tokenizer(make_config('byte'), []).save(tmp_path / 'file' / 'below')


def test_missing_or_damaged_tokenizer_is_a_plain_error(tmp_path):
  config = make_config('sentencepiece')
  with pytest.raises(UserError, match='No such file'):
    tokenizers.load_tokenizer(tmp_path, config)
  tokenizers.build_tokenizer(config, SENTENCES).save(tmp_path)
  with pytest.raises(UserError, match='asks for byte'):
    tokenizers.load_tokenizer(tmp_path, make_config('byte'))
  model = tmp_path / 'tokenizer.model'
  data = bytearray(model.read_bytes())
  data[len(data) // 2] ^= 1
  model.write_bytes(data)
  with pytest.raises(UserError, match=r'tokenizer\.model is damaged'):
    tokenizers.load_tokenizer(tmp_path, config)
  model.unlink()
  with pytest.raises(UserError, match=r'tokenizer\.model: No such file'):
    tokenizers.load_tokenizer(tmp_path, config)
  (tmp_path / 'tokenizer.json').write_text('{')
  with pytest.raises(UserError, match=r'manifest .* is damaged'):
    tokenizers.load_tokenizer(tmp_path, config)
