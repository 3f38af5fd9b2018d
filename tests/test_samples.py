"""Measures of generated texts, against small cases counted by hand."""

import numpy as np
import pytest

from ardiff_jax.errors import UserError
from ardiff_jax.evaluation import samples


def test_distinct_counts_n_grams_of_all_samples():
  tokens = np.array([[1, 2, 1, 2], [1, 2, 3, 4]])
  assert samples.distinct(tokens, 1) == 4 / 8
  assert samples.distinct(tokens, 2) == 4 / 6  # 12, 21, 23, 34
  assert samples.distinct(np.zeros((3, 5), int), 3) == 1 / 9


def test_corrupted_tokens_are_other_tokens_of_the_share_asked_for():
  tokens = np.random.default_rng(0).integers(0, 7, (50, 40))
  wrong = samples.corrupt(tokens, 0.15, 7, seed=1)
  assert ((wrong != tokens).sum(axis=1) == 6).all()
  assert wrong.min() == 0 and wrong.max() == 6
  np.testing.assert_array_equal(wrong, samples.corrupt(tokens, 0.15, 7, seed=1))
  assert (wrong != samples.corrupt(tokens, 0.15, 7, seed=2)).any()


def test_repair_tells_what_was_fixed_from_what_was_harmed():
  before = np.array([[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]])
  corrupted = np.array([[9, 8, 2, 3, 4], [9, 1, 2, 3, 4]])
  after = np.array([[0, 7, 2, 3, 6], [9, 1, 2, 3, 4]])
  repair = samples.repair(before, corrupted, after)
  np.testing.assert_allclose(repair.fixed, [1 / 2, 0])
  np.testing.assert_allclose(repair.harmed, [1 / 3, 0])
  np.testing.assert_allclose(repair.precision, [2 / 3, 0])
  np.testing.assert_allclose(repair.recall, [1, 0])


def test_area_under_curve_is_the_chance_of_the_right_order():
  rng = np.random.default_rng(0)
  scores, positive = rng.integers(0, 6, (4, 10)), rng.random((4, 10)) < 0.4
  above = scores[positive][:, None] - scores[~positive][None]
  expected = ((above > 0) + 0.5 * (above == 0)).mean()
  np.testing.assert_allclose(samples.area_under_curve(scores, positive), expected)
  assert samples.area_under_curve(positive.astype(float), positive) == 1.0


def test_repeats_are_tokens_like_the_one_before():
  assert samples.repeats(np.array([[1, 1, 1, 2], [3, 4, 3, 3]])) == 3 / 6


def test_self_bleu_is_one_of_the_same_texts_and_near_zero_of_unrelated_ones():
  text = np.random.default_rng(0).permutation(40)
  np.testing.assert_allclose(samples.self_bleu(np.tile(text, (5, 1))), 1.0)
  assert samples.self_bleu(np.arange(200).reshape(5, 40)) == 0.0  # not a token in common
  shuffled = np.random.default_rng(1).permuted(np.tile(text, (5, 1)), axis=1)
  assert 0.0 < samples.self_bleu(shuffled) < 0.1  # all tokens in common


def test_self_bleu_is_the_mean_over_texts_of_their_bleu_by_hand():
  tokens = np.array([[1, 2, 3, 4, 5], [1, 2, 3, 4, 6], [7, 8, 9, 10, 11]])
  one = (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4)
  np.testing.assert_allclose(samples.self_bleu(tokens), (one + one + 0.0) / 3)
  smoothed = (4 / 5 * 2 / 4 * 0.1 / 3 * 0.1 / 2) ** (1 / 4)
  np.testing.assert_allclose(
    samples.self_bleu(np.array([[1, 2, 5, 3, 4], [1, 2, 6, 3, 4]])), smoothed
  )


def test_self_bleu_compares_at_most_so_many_texts_evenly_spread():
  tokens = np.concatenate([np.tile(np.arange(8), (3, 1)), np.arange(100, 124).reshape(3, 8)])
  assert samples.self_bleu(tokens, most=2) == 0.0  # the first and the last
  np.testing.assert_allclose(samples.self_bleu(tokens), 3 / 6)
  with pytest.raises(UserError, match='at least 2'):
    samples.self_bleu(tokens[:1])


def test_repetition_counts_n_grams_that_occurred_before_in_their_text():
  tokens = np.array([[1, 2, 1, 2, 1, 2], [1, 2, 3, 4, 5, 6]])
  np.testing.assert_allclose(samples.repetition(tokens, 4), (1 / 3 + 0) / 2)  # 1212, 2121, 1212
  np.testing.assert_allclose(samples.repetition(tokens, 2), (3 / 5 + 0) / 2)
  np.testing.assert_allclose(samples.repetition(np.zeros((2, 10), int)), 6 / 7)
  assert samples.repeats(tokens) == 0.0


def test_entropies_are_of_the_tokens_of_each_text():
  tokens = np.array([[1, 1, 1, 1], [1, 2, 1, 2], [1, 2, 3, 4]])
  np.testing.assert_allclose(samples.entropies(tokens), np.log([1, 2, 4]), atol=1e-12)
