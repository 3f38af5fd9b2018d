"""Compiled programs are dropped before the system runs out of maps."""

import pathlib

import jax
import jax.numpy as jnp
import pytest

from ardiff_jax import compiled

MAPS = pathlib.Path('/proc/self/maps')


@pytest.mark.skipif(not MAPS.exists(), reason='only Linux counts memory maps')
def test_programs_are_dropped_when_there_are_many_and_come_again():
  count = lambda: len(MAPS.read_text().splitlines())  # noqa: E731
  programs = [jax.jit(lambda x, i=i: jnp.tanh(x + i).sum() * i) for i in range(30)]
  values = [float(program(jnp.ones(3))) for program in programs]
  many = count()
  compiled.drop_many(most=many + 1000)
  assert count() > many - 30
  compiled.drop_many(most=many - 30)
  assert count() < many - 30
  assert [float(program(jnp.ones(3))) for program in programs] == values
