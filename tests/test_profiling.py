"""Traces of steps, the parts of a step in the log, and the share of the devices' peak."""

import contextlib
import io
import math

import jax
import jax.numpy as jnp
import pytest
from commands import records, refuse
from conftest import small_config

from ardiff_jax import method as method_lib
from ardiff_jax.errors import UserError
from ardiff_jax.models import flops
from ardiff_jax.training import loop, profiling

VOCAB = 257


def read_log(workdir):
  return [x for x in records(workdir / 'metrics.jsonl') if x['split'] == 'train']


def traced(workdir):
  """Names of what a trace shows on the host, and the numbers of its steps."""
  (path,) = (workdir / 'profile').rglob('*.xplane.pb')
  planes = jax.profiler.ProfileData.from_file(str(path)).planes
  events = [event for plane in planes for line in plane.lines for event in line.events]
  steps = {dict(event.stats).get('step_num') for event in events if event.name == 'train'}
  return {event.name for event in events}, steps


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
  """A finished run of two steps: its config, its folder, and what it told."""
  folder, told = tmp_path_factory.mktemp('plain'), io.StringIO()
  (folder / 'sums.txt').write_text(''.join(f'{i} plus 2 is {i + 2}.\n' for i in range(400)))
  config = small_config('ar', folder / 'sums.txt', steps=2)
  with contextlib.redirect_stderr(told):
    loop.train(config, folder / 'run')
  return config, folder / 'run', told.getvalue()


def test_a_run_that_ends_early_leaves_its_trace(text_file, tmp_path):
  config = small_config('ar', text_file, learning_rate=1e30, warmup_steps=0, clip_norm=1e30)
  with pytest.raises(loop.TrainingDiverged):
    loop.train(config, tmp_path / 'run', profile=(1, 6))
  assert 1 in traced(tmp_path / 'run')[1]
  with jax.profiler.trace(tmp_path / 'next'):  # none is left running
    pass


def test_a_trace_that_cannot_be_written_costs_nothing(tmp_path, capsys, monkeypatch):
  def fail():
    raise RuntimeError('the disk is full')

  monkeypatch.setattr(jax.profiler, 'start_trace', lambda _: None)
  monkeypatch.setattr(jax.profiler, 'stop_trace', fail)
  trace = profiling.Trace(tmp_path, (1, 1), profiling.Stopwatch())
  trace.before(1, jnp.zeros(2))
  trace.after(1, jnp.zeros(2))
  assert f'no trace written to {tmp_path / "profile"}: the disk is full' in capsys.readouterr().err


def test_each_of_several_processes_has_a_folder(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  trace = profiling.Trace(tmp_path, (1, 1), profiling.Stopwatch())
  trace.before(1, jnp.zeros(2))
  trace.after(1, jnp.zeros(2))
  assert list((tmp_path / 'profile' / 'process_1').rglob('*.xplane.pb'))


@pytest.mark.parametrize('text', ['', '5', '7:3', '0:2', '2:', 'a:b', '1:2:3', '-1:2', '1:2.5'])
def test_steps_that_read_otherwise_are_refused(text):
  with pytest.raises(UserError, match='--profile must be START:STOP'):
    profiling.parse_steps(text)


def test_steps_are_parsed():
  assert profiling.parse_steps('2:3') == (2, 3)
  assert profiling.parse_steps('10:10') == (10, 10)


def test_the_command_refuses_plainly(tmp_path):
  flags = ['--config=configs/ar.py:tiny', f'--workdir={tmp_path / "run"}']
  assert 'must be START:STOP' in refuse('train', *flags, '--profile=7:3').stderr
  assert 'steps 1 to 1200' in refuse('train', *flags, '--profile=1200:1201').stderr
  assert not (tmp_path / 'run').exists()


def test_steps_that_are_not_to_be_taken_are_refused(plain, tmp_path):
  config, directory, _ = plain
  with pytest.raises(UserError, match='--profile=2:3: the run has steps 1 to 2 to take'):
    loop.train(config, tmp_path / 'run', profile=(2, 3))
  assert not (tmp_path / 'run').exists()
  with pytest.raises(UserError, match='--profile=1:2: the run has no step to take'):
    loop.train(config, directory, profile=(1, 2))


def test_a_lap_tells_parts_from_the_rest(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(profiling.time, 'perf_counter', lambda: now[0])
  stopwatch = profiling.Stopwatch()
  for _ in range(2):
    now[0] += 1.0  # at large
    for name, seconds in (('input', 2.0), ('compute', 4.0), ('compute', 4.0), ('aside', 16.0)):
      with stopwatch.part(name):
        now[0] += seconds
  means = dict(step_seconds=11.0, input_seconds=2.0, compute_seconds=8.0, host_seconds=1.0)
  assert stopwatch.lap(2) == means
  now[0] += 3.0
  assert stopwatch.lap(1) == dict.fromkeys(means, 0.0) | dict(step_seconds=3.0, host_seconds=3.0)


def test_a_trace_holds_the_steps_asked_for_and_the_log_parts_that_add_up(
  text_file, tmp_path, capsys
):
  config = small_config('ar', text_file, log_every=2)
  assert loop.train(config, tmp_path / 'run', profile=(2, 3))
  names, steps = traced(tmp_path / 'run')
  assert steps == {2, 3}
  assert {'input', 'compute'} <= names
  assert f'trace written to {tmp_path / "run" / "profile"}' in capsys.readouterr().err
  log = read_log(tmp_path / 'run')
  assert [line['step'] for line in log] == [2, 4, 6]
  for line in log:
    parts = [line[f'{name}_seconds'] for name in ('input', 'host', 'compute')]
    assert min(parts) > 0.0 and sum(parts) == pytest.approx(line['step_seconds'])
    assert line['tokens_per_second'] == pytest.approx(8 * 32 / line['step_seconds'])


def test_evaluation_and_tracing_are_no_part_of_a_step(text_file, tmp_path, monkeypatch):
  """They alone move the clock."""
  now = [0.0]
  monkeypatch.setattr(profiling.time, 'perf_counter', lambda: now[0])

  def during(function):
    def slow(*args, **kwargs):
      now[0] += 100.0
      return function(*args, **kwargs)

    return slow

  lap = profiling.Stopwatch.lap

  def after_a_second(stopwatch, steps):
    now[0] += 1.0
    return lap(stopwatch, steps)

  monkeypatch.setattr(profiling.Stopwatch, 'lap', after_a_second)
  monkeypatch.setattr(loop, '_evaluate', during(loop._evaluate))
  monkeypatch.setattr(jax.profiler, 'start_trace', during(jax.profiler.start_trace))
  monkeypatch.setattr(jax.profiler, 'stop_trace', during(jax.profiler.stop_trace))
  config = small_config('ar', text_file, log_every=2)
  loop.train(config, tmp_path / 'run', profile=(3, 3))
  assert now[0] == 403.0
  assert [line['step_seconds'] for line in read_log(tmp_path / 'run')] == [0.5] * 3


def test_mfu_is_of_the_peak(plain, tmp_path, capsys):
  config, directory, told = plain
  assert not any('mfu' in line for line in read_log(directory))  # a CPU is in no table
  assert 'mfu' not in told and not (directory / 'profile').exists()

  config = config.copy_and_resolve_references()
  config.train.peak_flops = 1e9
  loop.train(config, directory)  # may differ on resume
  loop.train(config, tmp_path / 'again')
  work = flops.train_flops_per_token(config, VOCAB)
  for line in read_log(tmp_path / 'again'):
    assert line['mfu'] == pytest.approx(work * line['tokens_per_second'] / (8 * 1e9))
  assert f'mfu {100 * line["mfu"]:.0f} %' in capsys.readouterr().err

  config.train.peak_flops = -1.0
  with pytest.raises(UserError, match='peak_flops must be at least 0'):
    loop.train(config, tmp_path / 'negative')


def test_mfu_is_left_out_where_the_work_is_not_counted(text_file):
  config = small_config('gate', text_file, peak_flops=1e9)
  mesh = loop.mesh_lib.make_mesh(config.mesh)
  assert profiling.ideal_seconds_per_token(config, VOCAB, mesh) is None


@pytest.mark.parametrize(
  ('name', 'model'),
  [
    ('ar', {}),
    ('ar', dict(activation='swiglu', num_kv_heads=2, mlp_dim=48)),
    ('epsilon_hybrid', dict(conditioning='adaln_constant', condition_dim=24)),
  ],
)
def test_work_of_a_token_is_that_of_its_weights(name, model, text_file):
  config = small_config(name, text_file)
  config.model.update(model)
  denoise = method_lib.build(config, VOCAB, bos_id=256, eos_id=0).denoise
  params = jax.eval_shape(lambda: denoise.init(jax.random.key(0), 32))['params']
  leaves = jax.tree_util.tree_leaves_with_path(params['blocks'])
  kernels = [x for path, x in leaves if 'kernel' in jax.tree_util.keystr(path)]
  products = sum(math.prod(x.shape) for x in kernels) + 32 * VOCAB  # and the head
  pairs = config.model.num_layers * 2 * 32 * 32  # a token with 32 keys and values of width 32
  assert flops.forward_flops_per_token(config, VOCAB) == 2 * (products + pairs)
  work = flops.train_flops_per_token(config, VOCAB)
  assert work == 3 * flops.forward_flops_per_token(config, VOCAB)


@pytest.mark.parametrize(
  ('kind', 'teraflops'),
  [
    ('TPU v4', 275),
    ('TPU v5 lite', 197),
    ('TPU v5e', 197),
    ('TPU v5', 459),
    ('TPU v5p', 459),
    ('TPU v6 lite', 918),
    ('TPU v6e', 918),
    ('NVIDIA A100-SXM4-40GB', 312),
    ('NVIDIA A100-SXM4-80GB', 312),
    ('NVIDIA A100-PCIE-40GB', 312),
    ('NVIDIA A100 80GB PCIe', 312),
    ('NVIDIA H100 80GB HBM3', 989),
    ('NVIDIA H100 PCIe', 756),
    ('NVIDIA H200', 989),
    ('NVIDIA B200', 2250),
    ('NVIDIA H100 80GB HBM3 MIG 1g.10gb', None),
    ('TPU v4 lite', None),
    ('cpu', None),
  ],
)
def test_peaks_go_by_the_names_of_devices(kind, teraflops):
  assert flops.peak_flops(kind) == (None if teraflops is None else teraflops * 1e12)
