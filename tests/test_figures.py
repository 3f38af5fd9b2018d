"""Pictures: what is drawn is what the schedule or the records say."""

import copy
import json
import pathlib

import matplotlib
import numpy as np
import pytest
from commands import refuse, succeed
from matplotlib.collections import QuadMesh
from test_ablation_results import failure, generated
from test_table1 import released, scored

from ardiff_jax import figures, plots
from ardiff_jax.errors import UserError
from ardiff_jax.hyperschedules import Region, autoregressive, block, flat, slide

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCHEDULES = [autoregressive(6), flat(5, 3), block(7, 3, 2), slide(16, 4, 4), flat(1, 1)]


def mesh_of(axes):
  (mesh,) = (x for x in axes.collections if isinstance(x, QuadMesh))
  return mesh


def colors_of(axes):
  mesh = mesh_of(axes)
  return mesh.to_rgba(mesh.get_array())


def all_regions(schedule):
  return np.stack([schedule.regions(s) for s in range(schedule.num_steps)])


def check_cells(axes, schedule):
  """The colours drawn against levels and regions, cell by cell."""
  colors = colors_of(axes)
  assert colors.shape == (schedule.num_steps + 1, schedule.length, 4)
  rgba = matplotlib.colors.to_rgba
  for (step, i), region in np.ndenumerate(all_regions(schedule)):
    expected = {Region.SETTLED: rgba(plots.SETTLED), Region.WORTHLESS: rgba(plots.WORTHLESS)}
    if region != Region.ACTIVE:
      assert tuple(colors[step, i]) == expected[region], (step, i)
    else:
      assert tuple(colors[step, i]) not in expected.values()
      assert mesh_of(axes).get_array()[step, i] == schedule.levels[step, i]
  assert (colors[-1] == rgba(plots.SETTLED)).all()
  corners = mesh_of(axes).get_coordinates()
  np.testing.assert_array_equal(corners[:, 0, 1], np.arange(schedule.num_steps + 2) - 0.5)
  np.testing.assert_array_equal(corners[0, :, 0], np.arange(schedule.length + 1) - 0.5)


@pytest.mark.parametrize('schedule', SCHEDULES, ids=lambda s: s.name)
def test_hyperschedule_draws_levels_and_regions(schedule):
  (axes,) = plots.hyperschedule(schedule).axes
  check_cells(axes, schedule)
  assert axes.get_title() == schedule.name.partition('(')[0]
  low, high = axes.get_ylim()
  assert low > high  # steps run downward


def test_lines_part_the_regions():
  schedule = slide(7, 3, 2)
  (axes,) = plots.hyperschedule(schedule).axes
  (line,) = axes.lines
  sides = line.get_xydata().reshape(-1, 3, 2)
  assert np.isnan(sides[:, 2]).all()
  drawn = {tuple(map(tuple, side[:2])) for side in sides.tolist()}
  regions = np.vstack([all_regions(schedule), np.zeros((1, 7), np.int8)])
  expected = set()
  for (s, i), region in np.ndenumerate(regions):
    if i and regions[s, i - 1] != region:
      expected.add(((i - 0.5, s - 0.5), (i - 0.5, s + 0.5)))
    if s and regions[s - 1, i] != region:
      expected.add(((i - 0.5, s - 0.5), (i + 0.5, s - 0.5)))
  assert drawn == expected and len(sides) == len(drawn)


def test_noisier_cells_are_darker():
  (axes,) = plots.hyperschedule(flat(1, 8)).axes
  light = colors_of(axes)[:8, 0, :3].sum(axis=1)
  assert (np.diff(light) > 0).all()


def test_long_schedules_show_evenly_spaced_rows():
  schedule = flat(2, 5000)
  (axes,) = plots.hyperschedule(schedule).axes
  rows = schedule.num_steps - mesh_of(axes).get_array()[:, 0]  # flat: level T - s
  assert 256 <= len(rows) <= 512 and rows[0] == 0 and rows[-1] == schedule.num_steps
  assert np.ptp(np.diff(rows)) <= 1
  edges = mesh_of(axes).get_coordinates()[:, 0, 1]
  assert ((edges[:-1] < rows) & (rows < edges[1:])).all()  # the axis tells true steps


def test_large_schedules_stay_small_files():
  assert len(plots.to_svg(plots.hyperschedule(slide(1024, 64, 64)))) < 400_000


def test_gallery_has_one_panel_each_on_one_scale():
  figure = plots.gallery(SCHEDULES)
  assert len(figure.axes) == len(SCHEDULES) and len(figure.legends) == 1
  labels = [text.get_text() for text in figure.legends[0].get_texts()]
  assert [label.partition(':')[0] for label in labels] == ['worthless', 'active', 'settled']
  for axes, schedule in zip(figure.axes, SCHEDULES, strict=True):
    check_cells(axes, schedule)
    assert axes.get_ylim() == (19.5, -0.5)  # slide takes the most steps: 19


def test_svg_is_the_same_whenever_drawn():
  first, second = (plots.to_svg(plots.gallery(SCHEDULES)) for _ in range(2))
  assert first == second
  assert '<metadata>' not in first


def test_style_does_not_leak():
  before = copy.copy(dict(matplotlib.rcParams))
  plots.to_svg(plots.curves(make_records(3)))
  assert dict(matplotlib.rcParams) == before


def make_records(count):
  records = []
  for i in range(1, count + 1):
    noise = (-1) ** i * 0.5
    train = {'step': 10 * i, 'split': 'train', 'loss': 4 + 3 / i + noise, 'learning_rate': 1e-3 / i}
    valid = {'nll_per_token': 4.1 + 3 / i, 'stderr': 0.1, 'bits_per_byte': 2.5, 'kind': 'bound'}
    records += [train, {'step': 10 * i, 'split': 'valid', **valid}]
  return records


def curve(axes, label):
  (line,) = (x for x in axes.lines if label in x.get_label())
  return line.get_xydata()


@pytest.mark.parametrize('count', [1, 5])
def test_curves_draw_the_records(count):
  records = make_records(count)
  top, bottom = plots.curves(records).axes
  train, valid = records[::2], records[1::2]
  losses = [(r['step'], r['loss']) for r in train]
  np.testing.assert_array_equal(curve(top, 'training loss'), losses)
  (errorbar,) = top.containers
  bounds = [(r['step'], r['nll_per_token']) for r in valid]
  np.testing.assert_array_equal(errorbar.lines[0].get_xydata(), bounds)
  assert (
    errorbar.get_label() == 'validation, bound ± standard error: 2.500 bits per byte at the end'
  )
  rates = [(r['step'], r['learning_rate']) for r in train]
  np.testing.assert_array_equal(bottom.lines[0].get_xydata(), rates)


def test_curves_of_many_records_are_smoothed_over_the_raw_ones():
  records = make_records(200)
  top, _ = plots.curves(records).axes
  losses = np.array([r['loss'] for r in records[::2]])
  raw, smooth = top.lines[0].get_ydata(), curve(top, 'smoothed')[:, 1]
  np.testing.assert_array_equal(raw, losses)
  assert len(smooth) == len(losses)
  assert np.abs(np.diff(smooth))[50:].max() < 0.1 < np.abs(np.diff(losses))[50:].min()
  np.testing.assert_allclose(smooth[100], losses[90:110].mean())


@pytest.mark.parametrize('split', ['train', 'valid'])
def test_curves_of_one_split_alone(split):
  records = [r for r in make_records(3) if r['split'] == split]
  top, bottom = plots.curves(records).axes
  assert len(top.containers) == (split == 'valid')
  assert len(bottom.lines) == (split == 'train')


def test_curves_without_records_say_so():
  figure = plots.curves([])
  assert figure.axes[0].texts[0].get_text() == 'no records yet'
  assert plots.to_svg(figure).startswith('<?xml')


def test_figures_are_written(tmp_path):
  """By a command of another process, to the last byte."""
  paths = figures.write(tmp_path / 'new' / 'folder')
  assert [p.name for p in paths] == [
    f'{name}.{kind}' for name in ('hyperschedules', 'noising', 'masks') for kind in ('png', 'svg')
  ]
  assert paths[0].read_bytes().startswith(b'\x89PNG')
  assert '</svg>' in paths[1].read_text()
  assert 'hyperschedules.svg' in succeed('figures', f'--out={tmp_path}/again').stdout
  again = [tmp_path / 'again' / p.name for p in paths]
  assert [p.read_bytes() for p in again] == [p.read_bytes() for p in paths]


def test_masks_colour_a_cell_by_its_key():
  """Context 1, window 2, not seen 0; labels name what rows show."""
  allowed = np.array([[1, 0, 0], [1, 1, 1], [1, 0, 1]], bool)
  panel = plots.MaskPanel(allowed, np.array([False, True, True]), ['BOS', '0', '1'])
  axes = plots.masks({'step': panel}).axes[0]
  cells = np.asarray(axes.collections[0].get_array()).reshape(3, 3)
  np.testing.assert_array_equal(cells, [[1, 0, 0], [1, 2, 2], [1, 0, 2]])
  assert [label.get_text() for label in axes.get_yticklabels()] == ['BOS', '0', '1']
  assert axes.get_title() == 'step'


def test_mask_figure_shows_what_the_rules_say():
  """One step, aligned: 4 window rows see all 8; shifted: the last settled token is shown twice."""
  panels = figures._attention()
  aligned, shifted = (panels[f'{x}, one step'] for x in ('aligned', 'shifted'))
  assert aligned.shown == [*'4567', *'0123'] and aligned.allowed[:4].all()
  assert not aligned.allowed[4:, :4].any() and aligned.allowed[4:, 4:].all()
  assert shifted.shown == [*'34567', 'BOS', *'0123'] and shifted.in_window.sum() == 5
  assert not shifted.allowed[:5, shifted.shown.index('3', 1)].any()  # h's context row
  training = panels['training, block']
  assert training.allowed[:12, :12].sum() == 3 * 16
  assert training.allowed[:12, 12:].sum() == 4 * (4 + 8)


def test_noising_marks_what_became_of_each_character():
  rows = np.array([list('abc'), ['a', plots.MASKED, 'x']])
  axes = plots.noising('abc', {'panel': rows}, (0.0, 0.5)).axes[0]
  np.testing.assert_array_equal(axes.images[0].get_array(), [[0, 0, 0], [0, 1, 2]])
  assert [t.get_text() for t in axes.texts] == ['a', 'b', 'c', 'a', 'x']


@pytest.mark.parametrize('title', figures._PROCESSES)
def test_sentence_dissolves_as_its_process_says(title):
  rows = figures._dissolve(figures._PROCESSES[title])
  clean = list(figures._SENTENCE)
  assert list(rows[0]) == clean
  masked = (rows == plots.MASKED).sum(axis=1)
  replaced = ((rows != plots.MASKED) & (rows != np.array(clean))).sum(axis=1)
  assert (np.diff(masked) >= 0).all()
  assert masked[-1] == (0 if title == 'uniform' else len(clean))
  assert (replaced.max() > 0) == (title != 'absorbing')


def test_unwritable_folder_is_refused(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match=r'--out=.*file/below cannot be written'):
    figures.write(tmp_path / 'file' / 'below')


def sweep_in(folder, records):
  folder.mkdir(exist_ok=True)
  (folder / 'results.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in records))
  return folder


def test_a_sweep_has_its_table_and_picture(tmp_path):
  old = scored('MDLM', nats=9.0)
  text = generated('MDLM', judge_nats=3.0, entropy=4.0)
  sweep = sweep_in(tmp_path / 'sweep', [old, text, scored('MDLM', nats=2.0)])
  paths = figures.write_sweep(sweep, tmp_path / 'new' / 'folder')
  assert [p.name for p in paths] == ['perplexity.md', 'quality.png', 'quality.svg']
  assert '| MDLM | **≤ 7.39** |' in paths[0].read_text(encoding='utf-8')  # the last counts
  assert paths[1].read_bytes().startswith(b'\x89PNG') and '</svg>' in paths[2].read_text()
  again = figures.write_sweep(sweep, tmp_path / 'again')
  assert [p.read_bytes() for p in again] == [p.read_bytes() for p in paths]


def test_a_sweep_has_what_it_has_measured(tmp_path):
  texts = [generated('MDLM', group=x, judge_nats=3.0, entropy=4.0) for x in ('steps', 'η, 2')]
  no_rows = failure('MDLM', 'no') | {'task': 'perplexity', 'settings': {'data': 'valid'}}
  for name, records, expected in (
    ('table', [scored('MDLM')], ['perplexity.md']),
    ('rates', [released()], ['perplexity.md']),
    ('texts', [texts[0], no_rows], ['quality.png', 'quality.svg']),
    ('both', texts, [f'quality_{x}' for x in ('steps.png', 'steps.svg', 'η_2.png', 'η_2.svg')]),
  ):
    paths = figures.write_sweep(sweep_in(tmp_path / name, records), tmp_path / 'out')
    assert [p.name for p in paths] == expected


def test_a_sweep_without_figures_is_refused(tmp_path):
  with pytest.raises(UserError, match=r'--sweep=.*nowhere holds no results\.jsonl'):
    figures.write_sweep(tmp_path / 'nowhere', tmp_path / 'out')
  others = [failure('MDLM', 'no') | {'task': 'generation'}, scored('MDLM') | {'task': 'drafts'}]
  for records in ([], others):
    with pytest.raises(UserError, match='no figures of the tasks perplexity, released or gen'):
      figures.write_sweep(sweep_in(tmp_path / 'sweep', records), tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


def test_command(tmp_path):
  assert '--out is missing, e.g. --out=figures' in refuse('figures').stderr
  folder = sweep_in(tmp_path / 'sweep', [scored('MDLM')])
  told = succeed('figures', f'--sweep={folder}', f'--out={tmp_path}').stdout
  assert 'perplexity.md\n' in told and 'hyperschedules' not in told
  assert '--sweep=' in refuse('figures', f'--sweep={tmp_path}', f'--out={tmp_path}').stderr
