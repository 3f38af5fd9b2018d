"""Controls against what they say, on logits small enough to look at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ardiff_jax.sampling.controls import Controls

LOGITS = jnp.log(jnp.asarray([[[0.4, 0.3, 0.2, 0.1], [0.05, 0.05, 0.8, 0.1]]]))


def probs(logits):
  return np.asarray(jax.nn.softmax(logits))


def shaped(visible=None, **controls):
  return probs(Controls(**controls).bend(LOGITS, visible))


def normal(*weights):
  return np.array(weights) / sum(weights)


def test_defaults_change_nothing():
  np.testing.assert_array_equal(Controls().bend(LOGITS, None), LOGITS)


def test_temperature_is_a_power_of_the_law():
  np.testing.assert_allclose(shaped(temperature=0.5)[0, 0], normal(16, 9, 4, 1), rtol=1e-5)
  np.testing.assert_array_equal(shaped(temperature=0.0)[0].argmax(axis=-1), [0, 2])
  np.testing.assert_array_equal(shaped(temperature=0.0).max(axis=-1), 1.0)


@pytest.mark.parametrize(
  'controls, first, second',
  [
    (dict(top_k=2), (4, 3, 0, 0), (0, 0, 8, 1)),
    (dict(top_k=9), (4, 3, 2, 1), (0.5, 0.5, 8, 1)),
    (dict(top_p=0.6), (4, 3, 0, 0), (0, 0, 1, 0)),
    (dict(top_p=0.85), (4, 3, 2, 0), (0, 0, 8, 1)),
    (dict(min_p=0.4), (4, 3, 2, 0), (0, 0, 1, 0)),
    (dict(banned=(0, 2)), (0, 3, 0, 1), (0.5, 0.5, 0, 1)),
    (dict(banned=(0,), top_k=1), (0, 1, 0, 0), (0, 0, 1, 0)),
    (dict(temperature=0.5, top_p=0.6), (16, 9, 0, 0), (0, 0, 1, 0)),
  ],
  ids=str,
)
def test_what_is_left_out(controls, first, second):
  """Banned tokens get nothing, whatever the rest."""
  ours = shaped(**controls)[0]
  wanted = np.array(second, float)
  if 'banned' in controls and 0 in controls['banned']:
    wanted[0] = 0.0
  np.testing.assert_allclose(ours[0], normal(*first), atol=1e-6)
  np.testing.assert_allclose(ours[1], wanted / wanted.sum(), atol=1e-6)


def test_repetition_penalty_raises_visible_tokens_to_a_power():
  visible = jnp.asarray([[True, False, False, True]])
  ours = shaped(visible, repetition_penalty=2.0)[0, 0]
  np.testing.assert_allclose(ours, normal(0.16, 0.3, 0.2, 0.01), rtol=1e-5)
  moved = Controls(repetition_penalty=2.0).bend(LOGITS + 7.0, visible)
  np.testing.assert_allclose(probs(moved)[0, 0], ours, rtol=1e-4)


@pytest.mark.parametrize(
  'wrong',
  [
    dict(temperature=-1.0),
    dict(temperature=float('inf')),
    dict(top_k=-1),
    dict(top_p=0.0),
    dict(top_p=1.1),
    dict(min_p=1.0),
    dict(repetition_penalty=0.5),
    dict(guidance=-0.1),
    dict(banned=(4,)),
    dict(banned=(0, 1, 2, 3)),
  ],
  ids=str,
)
def test_values_out_of_range_are_refused_by_name(wrong):
  with pytest.raises(ValueError, match=next(iter(wrong))):
    Controls(**wrong).check(vocab_size=4)
  Controls(temperature=0.0, top_k=3, top_p=0.5, min_p=0.1, banned=(3,)).check(vocab_size=4)
