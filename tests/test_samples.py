"""Measures of generated texts, against small cases counted by hand."""

import numpy as np

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
