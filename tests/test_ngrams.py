"""n-gram baselines against dictionaries that count one symbol at a time."""

import collections
import itertools
import math
import random

import numpy as np
import pytest

from ardiff_jax.evaluation import ngrams

END = 256
NAMES = ['byte unigram', 'byte bigram', 'byte trigram']
WORDS = 'the of and to in that was for with his they history language letter question between'


def symbols_of(document):
  return [*document.encode(), END]


class BruteForce:
  """The formulas of the module docstring, literally."""

  def __init__(self, documents):
    self.counts = collections.Counter()
    self.followers = collections.defaultdict(set)
    for document in documents:
      context = (END, END)
      for c in symbols_of(document):
        for k in range(3):
          self.counts[(*context[2 - k :], c)] += 1
          self.followers[context[2 - k :]].add(c)
        context = (context[1], c)

  def prob(self, context, c):
    count = self.counts[(*context, c)]
    total = sum(self.counts[(*context, d)] for d in self.followers[context])
    if not context:
      return (count + 1) / (total + 257)
    kinds = len(self.followers[context])
    lower = self.prob(context[1:], c)
    return (count + kinds * lower) / (total + kinds) if total else lower

  def bits(self, documents):
    bits, num_bytes = [0.0] * 3, 0
    for document in documents:
      context = (END, END)
      for c in symbols_of(document):
        for k in range(3):
          bits[k] -= math.log2(self.prob(context[2 - k :], c))
        context = (context[1], c)
      num_bytes += len(document.encode())
    return [x / num_bytes for x in bits]


def random_documents(seed, count, alphabet):
  source = random.Random(seed)
  return [''.join(source.choices(alphabet, k=source.randrange(40))) for _ in range(count)]


def english_like(seed, count):
  """Sentences of common words, so that a longer context tells more."""
  source = random.Random(seed)
  return [' '.join(source.choices(WORDS.split(), k=60)).capitalize() + '.\n' for _ in range(count)]


@pytest.mark.parametrize('alphabet', ['ab', 'abcdefgh \n', 'aé漢🤷'], ids=['few', 'many', 'utf-8'])
def test_bits_are_those_of_the_formulas(alphabet):
  train = random_documents(0, 12, alphabet)
  text = [*random_documents(1, 8, alphabet), 'unseen: zq', '']
  ours = ngrams.byte_ngram_bits(iter(train), iter(text))
  assert list(ours) == NAMES
  np.testing.assert_allclose(list(ours.values()), BruteForce(train).bits(text), rtol=1e-9)


def test_bytes_are_counted_not_characters():
  """One document of two characters is six bytes and an end."""
  ours = ngrams.byte_ngram_bits(['漢字'], ['漢字'])
  counts = collections.Counter(symbols_of('漢字'))
  bits = -sum(n * math.log2((n + 1) / (7 + 257)) for n in counts.values())
  assert ours['byte unigram'] == pytest.approx(bits / 6, rel=1e-12)


def test_probabilities_sum_to_one_in_seen_and_unseen_contexts():
  model = ngrams.count_bytes(['abracadabra', 'é'])
  contexts = [*itertools.product(map(ord, 'abz'), repeat=2), (END, END), (END, ord('a')), (0, END)]
  for a, b in contexts:
    np.testing.assert_allclose(model.probs(a, b, np.arange(257)).sum(axis=1), 1.0, rtol=1e-12)
  assert (model.probs(ord('z'), ord('z'), np.arange(257)) > 0).all()


def test_no_context_crosses_a_document_start():
  apart = ngrams.count_bytes(['ab', 'cd'])
  assert apart.counts[ord('a'), ord('b'), ord('c')] == 0
  assert apart.counts[END, END, ord('a')] == apart.counts[END, END, ord('c')] == 1
  assert apart.counts[ord('a'), ord('b'), END] == apart.counts[ord('c'), ord('d'), END] == 1
  assert apart.counts.sum() == 6
  together = ngrams.byte_ngram_bits(['ab', 'cd'], ['ab', 'cd'])
  assert together == ngrams.byte_ngram_bits(['cd', 'ab'], ['cd', 'ab'])


def test_longer_contexts_tell_more_of_regular_text():
  bits = ngrams.byte_ngram_bits(english_like(0, 200), english_like(1, 20))
  assert 8 > bits['byte unigram'] > bits['byte bigram'] > bits['byte trigram'] > 0


def test_long_documents_are_counted_alike_in_parts(monkeypatch):
  train, text = english_like(0, 5), english_like(1, 3)
  whole = ngrams.byte_ngram_bits(train, text)
  monkeypatch.setattr(ngrams, '_PART_SYMBOLS', 7)
  parts = ngrams.byte_ngram_bits(train, text)
  np.testing.assert_allclose(list(parts.values()), list(whole.values()), rtol=1e-12)


@pytest.mark.parametrize(
  'limit, kept',
  [(3, [('abc', True)]), (5, [('abc', True), ('de', False)]), (6, [('abc', True), ('def', True)])],
)
def test_training_text_is_capped(monkeypatch, limit, kept):
  """A document cut short does not end; one that ends at the cap does."""
  monkeypatch.setattr(ngrams, 'MAX_TRAIN_BYTES', limit)
  documents = iter(['abc', 'def', 'ghi'])
  counts = ngrams.count_bytes(documents).counts
  expected = collections.Counter()
  for text, ends in kept:
    symbols = [END, END, *symbols_of(text)][: None if ends else -1]
    expected.update(zip(symbols, symbols[1:], symbols[2:], strict=False))
  assert {tuple(map(int, x)): counts[tuple(x)] for x in np.argwhere(counts)} == expected
  assert next(documents) == ('def' if limit == 3 else 'ghi')  # the rest is not even read


def test_token_unigram():
  train, text = np.array([0, 1, 1, 3], np.uint16), np.array([1, 3, 2, 3], np.int32)
  probs = [2 / 8, 3 / 8, 1 / 8, 2 / 8]
  expected = -sum(math.log2(probs[i]) for i in text) / 5
  ours = ngrams.token_unigram_bits(train, text, vocab_size=4, num_bytes=5)
  assert ours == pytest.approx(expected, rel=1e-12)
