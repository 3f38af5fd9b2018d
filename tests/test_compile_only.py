"""What a step is said to need is what it needs."""

import importlib
import math
import re

import jax
import pytest
from commands import refuse, succeed
from conftest import small_config

from ardiff_jax import mesh as mesh_lib
from ardiff_jax import method as method_lib
from ardiff_jax.errors import UserError
from ardiff_jax.training import compile_only
from ardiff_jax.training.compile_only import collectives, compile_step, format_report
from ardiff_jax.training.state import abstract_params, init_state, make_optimizer


def shallow_config(name, **train):
  """Of one block: no claim below depends on how many there are."""
  config = small_config(name, 'unused', **train)
  config.model.num_layers = 1
  return config


@pytest.mark.parametrize('sizes', [dict(data=8), dict(data=1, fsdp=4, tensor=2)])
def test_bytes_are_those_of_the_state(sizes):
  config = shallow_config('ar')
  config.mesh.update(sizes)
  report = compile_step(config, 'cpu:8')
  method = method_lib.build(config, 257, bos_id=0, eos_id=1)
  optimizer, _ = make_optimizer(config.train)
  mesh = mesh_lib.make_mesh(config.mesh)
  state = init_state(method, optimizer, config.data.length, 0, mesh)
  leaves = jax.tree.leaves(state)
  assert report['state'] == sum(x.addressable_shards[0].data.nbytes for x in leaves)
  assert report['parameters'] == sum(x.size for x in jax.tree.leaves(state.params))
  assert report['total'] > report['state'] and report['temporaries'] > 0
  assert 'all-reduce' in report['collectives']
  assert ('all-gather' in report['collectives']) == ('fsdp' in sizes)


def test_flops_that_are_not_counted_are_not_told(monkeypatch):
  """The step is traced; for this figure it need not be compiled."""
  lower = compile_only._lower
  nothing = jax.jit(lambda: 0.0).lower()
  monkeypatch.setattr(compile_only, '_lower', lambda *args: lower(*args) and nothing)
  report = compile_step(shallow_config('latent_refiner'), 'cpu:8')
  assert report['flops_per_step'] is None
  assert '| FLOPs of a step | not counted |' in format_report(report)


def test_drafts_are_part_of_the_batch():
  config = shallow_config('draft_refine')
  taken = lambda report: report['total'] - report['temporaries'] - report['program']  # noqa: E731
  guided = taken(compile_step(config, 'cpu:8'))
  config.data.guided = False
  more = guided - taken(compile_step(config, 'cpu:8'))
  assert more == config.train.batch_size * config.data.length * 4 / 8  # int32 over 8 devices


def test_microbatches_save_memory_and_change_no_flops():
  config = shallow_config('ar', batch_size=64)
  whole = compile_step(config, 'cpu:8')
  config.train.accumulate = 8
  parts = compile_step(config, 'cpu:8')
  assert parts['temporaries'] < whole['temporaries']
  assert parts['flops_per_step'] == whole['flops_per_step'] > 0


def test_collectives_count_as_often_as_their_loop_goes_round():
  text = """HloModule step

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%inner (p: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %g = bf16[4,8]{1,0:T(8,128)(2,1)} all-gather(%x), dimensions={0}
}

%inner_condition (p: (s32[], bf16[4,8])) -> pred[] {
  %limit = s32[] constant(3)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%body (p: (s32[], f32[2])) -> (s32[], f32[2]) {
  %w = (s32[], bf16[4,8]) while(%t), condition=%inner_condition, body=%inner
  %r = (f32[2]{0}, f32[]) all-reduce(%a, %b), to_apply=%add
}

%condition (p: (s32[], f32[2])) -> pred[] {
  %limit = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (p: f32[2]) -> f32[2] {
  %w = (s32[], f32[2]) while(%t), condition=%condition, body=%body
  %s = (pred[16]{0}, pred[64]{0}) all-gather-start(%c), dimensions={0}
  %d = pred[64]{0} all-gather-done(%s)
}
"""
  assert collectives(text) == {
    'all-gather': (5 * 3 + 1, 5 * 3 * 64 + 64),
    'all-reduce': (5, 5 * 12),
  }


@pytest.mark.parametrize(
  ('operation', 'expected'),
  [
    ('f32[8]{0} all-reduce-start(%a), to_apply=%add', 32),
    ('(f32[8]{0}, bf16[2,4]{1,0}) all-reduce-start(%a, %b), to_apply=%add', 32 + 16),
    ('(f32[2]{0}, f32[8]{0}) all-gather-start(%a), dimensions={0}', 32),
    ('((f32[2], s8[3]), (f32[8]{0}, s8[12]{0})) all-gather-start(%a, %b)', 32 + 12),
    ('(f32[8], f32[8], u32[]{:S(2)}, u32[]) collective-permute-start(%a)', 32),
    ('((f32[8], f32[2]), (f32[8], f32[2]), u32[], u32[]) collective-permute-start(%a, %b)', 40),
  ],
)
def test_collectives_that_are_started_count_what_they_get(operation, expected):
  text = f'ENTRY %main (p: f32[2]) -> f32[2] {{\n  %s = {operation}\n}}\n'
  assert list(collectives(text).values()) == [(1, expected)]


@pytest.mark.parametrize(
  ('size', 'low', 'high'),
  [('small', 120e6, 130e6), ('medium', 340e6, 360e6), ('1b', 1.2e9, 1.4e9), ('7b', 6.5e9, 6.8e9)],
)
def test_sizes_have_the_parameters_their_names_say(size, low, high):
  config = importlib.import_module('configs.epsilon_hybrid').get_config(size)
  config.mesh.update(data=1, fsdp=-1)
  method = method_lib.build(config, 50_257, bos_id=0, eos_id=0)
  params = abstract_params(method, config.data.length, mesh_lib.make_mesh(config.mesh))
  assert low < sum(math.prod(x.shape) for x in jax.tree.leaves(params)) < high


def test_what_does_not_fit_is_refused():
  config = small_config('ar', 'unused')
  config.mesh.update(data=3)
  with pytest.raises(UserError, match='does not make the 8 devices'):
    compile_step(config, 'cpu:8')
  with pytest.raises(UserError, match='topology=v99:1x1 cannot be compiled for'):
    compile_step(config, 'v99:1x1')
  with pytest.raises(UserError, match='fewer CPU devices'):
    compile_step(config, 'cpu:4096')


def test_the_command_needs_neither_text_nor_devices():
  flags = '--config=configs/epsilon_hybrid.py:tiny', '--config.mesh.fsdp=4'
  table = succeed('train', *flags, '--compile_only', '--topology=cpu:8').stdout
  assert 'cpu:8, data=2 x fsdp=4' in table and 'all memory, each device' in table
  for row in ('parameters', 'FLOPs of a step', 'state, each device', 'temporaries, each device'):
    assert re.search(rf'{row} +\|? *[1-9]', table), row
  assert 'all-reduce' in table and 'all-gather' in table
  assert 'goes with --compile_only' in refuse('train', *flags, '--topology=cpu:8').stderr
