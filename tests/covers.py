"""Cases of a product in which any two values still meet; the whole product runs in `--full`."""

import itertools

import pytest


def name_of(value) -> str:
  return str(getattr(value, 'name', value))


def kind_of(value) -> str:
  """What a value is without its sizes: "block" of block(length=7, width=3, num_levels=2)."""
  return name_of(value).partition('(')[0]


def pairwise(*axes, cases=None):
  """Returns the parameters of `pytest.mark.parametrize`, those that are left out marked `full`.

  Args:
    *axes: the values of each parameter, of which the cases are the product.
    cases: tuples of values, where not every combination is one.

  Returns:
    All cases. In those that are not marked every value is met, and any two of different parameters
    that meet in some case; of values that differ in their sizes alone, one stands for all.
  """
  cases = [*(itertools.product(*axes) if cases is None else cases)]

  def met(case):
    kinds = [(place, kind_of(value)) for place, value in enumerate(case)]
    return {*itertools.combinations(kinds, 2), *enumerate(map(name_of, case))}

  meetings = [met(case) for case in cases]
  missing, kept = set().union(*meetings), set()
  while missing:
    best = max(range(len(cases)), key=lambda i: len(meetings[i] & missing))
    kept.add(best)
    missing -= meetings[best]
  return [
    pytest.param(
      *case, id='-'.join(map(name_of, case)), marks=() if i in kept else pytest.mark.full
    )
    for i, case in enumerate(cases)
  ]
