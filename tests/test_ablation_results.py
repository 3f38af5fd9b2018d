"""Results of made-up sweeps: figures checked by hand, pictures against what they are given."""

import base64
import csv
import json
import os
import re

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import FillBetweenPolyCollection, QuadMesh
from test_report import Page

from ardiff_jax import plots as pictures
from ardiff_jax.ablation import plots, results
from ardiff_jax.ablation import records as lib
from ardiff_jax.errors import UserError

NAMES = ('learned gate', 'linear gate', 'prior alone')

T_3 = 4.302652729911275  # 97.5 % of Student's t of two degrees of freedom


def repair(name, seed=0, corrupted=0.15, group='methods', model='gate', **metrics):
  return {
    'task': 'repair',
    'name': name,
    'group': group,
    'seed': seed,
    'model': model,
    'settings': {'corrupted': corrupted, 'steps': 4},
    'metrics': metrics,
  }


def draft(name, seed=0, kind='ar', steps=4, **metrics):
  settings = {'draft': kind} if name == lib.UNREVISED else {'draft': kind, 'steps': steps}
  record = repair(name, seed, **metrics)
  return record | {'task': 'drafts', 'settings': settings}


def failure(name, error, **fields):
  record = repair(name, **fields)
  del record['metrics']
  return record | {'error': error}


def course(base, live=(1.0, 1.0, 0.5, 0.0)):
  """Signals of four steps, of which those without live texts read 0."""
  signals = {'live': list(live), 'selected': [2.0] * 4, 'edited': [1.0] * 4}
  for number, name in enumerate(('entropy', 'margin', 'change', 'surprise', 'doubt')):
    mean = [base + number + 0.1 * step if x else 0.0 for step, x in enumerate(live)]
    signals |= {f'{name}_mean': mean, f'{name}_std': [0.5 * x for x in mean]}
  return signals


def sweep():
  """Two tasks in one group, three seeds, with all that pictures need."""
  found = []
  for rank, name in enumerate(NAMES):
    for seed in range(3):
      notes = {
        'signals': course(1.0 + rank),
        'edit_map': [[0.1 * rank, 0.2], [0.05, 0.0], [0.0, 0.0], [0.0, 0.0]],
      }
      for corrupted in (0.05, 0.3):
        f1 = 0.8 - 0.1 * rank - corrupted + 0.01 * seed
        figures = {'f1': f1, 'harmed': 0.01 * (rank + 1), 'fixed': 0.5, 'auc': 0.9}
        figures |= {'precision': 0.75, 'recall': 0.25}
        found.append(repair(name, seed, corrupted, **figures) | notes)
      for kind in ('ar', 'diffusion'):
        for steps in (4, 16):
          figures = {'judge_nats': 5 - rank - 0.1 * seed, 'entropy': 4.0, 'calls': steps - rank}
          found.append(draft(name, seed, kind, steps, **figures) | notes)
  for seed in range(3):
    for kind in ('ar', 'diffusion'):
      figures = {'judge_nats': 6 + 0.1 * seed, 'entropy': 4.5, 'calls': 0.0, 'draft_calls': 64.0}
      found.append(draft(lib.UNREVISED, seed, kind, **figures))
  return found


def write(folder, records):
  folder.mkdir(exist_ok=True)
  (folder / 'results.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in records))
  path = results.write(folder)
  assert path == folder / 'results.html'
  return Page(path.read_text())


def cells(markdown, heading):
  """The lines of the table under a heading, without the ruler, as lists of cells."""
  part = markdown.split(f'## {heading}\n', 1)[1].split('\n## ', 1)[0]
  lines = [line for line in part.splitlines() if line.startswith('|')]
  assert set(lines[1]) <= set('|-:')
  return [line[2:-2].split(' | ') for line in (lines[0], *lines[2:])]


def images(page):
  """Titles of the pictures, and the pictures."""
  titles = [value for name, value in page.attributes if name == 'alt']
  sources = [value for name, value in page.attributes if name == 'src']
  prefix = 'data:image/svg+xml;base64,'
  assert all(source.startswith(prefix) for source in sources)
  return {
    title: base64.b64decode(source.removeprefix(prefix)).decode()
    for title, source in zip(titles, sources, strict=True)
  }


def test_means_and_standard_errors():
  records = [
    repair('learned gate', seed, f1=f1, harmed=0.01, edits=edits)
    for seed, (f1, edits) in enumerate(((0.5, 10.0), (0.6, 14.0), (0.7, 21.0)))
  ]
  # F1: deviation 0.1, over √3 0.0577; edits: mean 15, deviation √31 = 5.568, over √3 3.215.
  assert cells(results.tables(records), 'repair: methods') == [
    ['method', 'seeds', 'harmed ↓', 'F1 ↑', 'edits'],
    ['learned gate', '3', '0.0100 ± 0.0000', '0.600 ± 0.248', '15.0 ± 13.8'],
  ]


def test_one_seed_has_a_mean_alone():
  table = cells(results.tables([repair('learned gate', f1=0.6111)]), 'repair: methods')
  assert table[1] == ['learned gate', '1', '0.611']


def test_missing_metrics_are_empty_cells_and_left_out_of_means():
  records = [
    repair('learned gate', 0, f1=0.5, auc=None),
    repair('learned gate', 1, f1=None, auc=None),
    repair('learned gate', 2, f1=0.7),
    repair('linear gate', 0, auc=0.25),
  ]
  assert cells(results.tables(records), 'repair: methods')[1:] == [
    ['learned gate', '3', '0.600 ± 1.271', ''],
    ['linear gate', '1', '', '0.250'],
  ]


def test_what_is_swept_over_has_a_column_and_orders_the_rows():
  records = [
    repair(name, seed, corrupted, f1=corrupted)
    for corrupted in (0.3, 0.05)
    for name in ('prior alone', 'learned gate')
    for seed in (0, 1)
  ]
  text = results.tables(records)
  assert 'All with model gate, steps 4.' in text
  assert [row[:3] for row in cells(text, 'repair: methods')] == [
    ['method', 'corrupted', 'seeds'],
    ['prior alone', '0.05', '2'],
    ['learned gate', '0.05', '2'],
    ['prior alone', '0.3', '2'],
    ['learned gate', '0.3', '2'],
  ]


def test_settings_that_make_a_method_have_no_column():
  records = [repair('narrow', model='small', f1=0.5), repair('wide', model='big', f1=0.6)]
  records[1]['settings']['span'] = 2
  text = results.tables(records)
  assert cells(text, 'repair: methods')[0] == ['method', 'seeds', 'F1 ↑']
  assert 'All with corrupted 0.15, steps 4.' in text and 'span' not in text and 'small' not in text


def test_a_table_per_task_and_group():
  records = [
    repair('learned gate', group='methods', f1=0.1),
    draft('learned gate', judge_nats=3.0),
    repair('entropy alone', group='signals', f1=0.2),
  ]
  text = results.tables(records)
  headings = [line for line in text.splitlines() if line.startswith('## ')]
  assert headings == ['## repair: methods', '## repair: signals', '## drafts: methods']
  assert cells(text, 'repair: signals')[1] == ['entropy alone', '1', '0.200']
  assert cells(text, 'drafts: methods')[0][-1] == 'judge nats/token ↓'


def test_other_tasks_have_tables_of_all_their_metrics(tmp_path):
  records = [
    {'task': 'speed', 'name': 'jit', 'seed': seed, 'metrics': {'tokens': 1000.0 + seed, 'f1': 0.5}}
    for seed in (0, 2)
  ]
  records.append({'task': 'speed', 'name': 'eager', 'metrics': {'rare': 1.5e-7}})
  assert cells(results.tables(records), 'speed') == [
    ['method', 'seeds', 'F1 ↑', 'tokens', 'rare'],
    ['jit', '2', '0.500 ± 0.000', '1001 ± 13', ''],
    ['eager', '1', '', '', '1.5e-07'],
  ]
  page = write(tmp_path, records)
  assert '1001 ± 13' in page.text and 'img' not in page.tags


def test_failures_are_listed_and_spoil_nothing(tmp_path):
  message = 'ValueError: <b>no</b> | such\ngate'
  records = [
    repair('learned gate', 0, f1=0.5),
    failure('learned gate', message, seed=1),
    failure('linear gate', 'out of memory', seed=0),
    draft('learned gate', judge_nats=3.0),
  ]
  page = write(tmp_path, records)
  markdown = (tmp_path / 'results.md').read_text()
  assert cells(markdown, 'repair: methods')[1:] == [
    ['learned gate', '1 of 2', '0.500'],
    ['linear gate', '0 of 1', ''],
  ]
  where = 'repair: methods, learned gate, seed 1, model gate, corrupted 0.15, steps 4'
  assert f'- {where}: `ValueError: <b>no</b> | such gate`\n' in markdown
  assert markdown.count('\n- ') == 2
  assert f'{where} ValueError: <b>no</b> | such gate' in page.text
  assert 'out of memory' in page.text and '2 failed' in page.text
  assert page.tags.count('pre') == 2 and page.tags.count('img') == 3


def test_only_failures_have_a_page(tmp_path):
  page = write(tmp_path, [failure('learned gate', 'no'), failure('a|b', 'no')])
  assert '0 of 1' in page.text and 'img' not in page.tags
  assert 'a\\|b' in (tmp_path / 'results.md').read_text()


def test_no_failures_have_no_list(tmp_path):
  page = write(tmp_path, [repair('learned gate', f1=0.5)])
  assert '0 failed' in page.text and 'Failures' not in page.text
  assert 'Failures' not in (tmp_path / 'results.md').read_text()


def test_csv_has_a_line_per_record(tmp_path):
  records = [
    repair('gate, "learned"', 0, f1=0.1 + 0.2, edits=None),
    draft('linear gate', 1, judge_nats=3.5),
    failure('prior alone', 'two\nlines', seed=2),
  ]
  records[0]['settings'] |= {'threshold': [0.1, 0.3], 'f1': 'by hand'}
  write(tmp_path, records)
  with (tmp_path / 'results.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  assert list(rows[0]) == [
    *('task', 'group', 'name', 'seed', 'model', 'corrupted', 'steps', 'threshold', 'settings.f1'),
    *('draft', 'judge_nats', 'f1', 'edits', 'error'),
  ]
  first = {'task': 'repair', 'group': 'methods', 'name': 'gate, "learned"', 'seed': '0'}
  first |= {'model': 'gate', 'corrupted': '0.15', 'steps': '4', 'threshold': '[0.1, 0.3]'}
  first |= {'settings.f1': 'by hand', 'f1': '0.30000000000000004'}  # every digit
  assert {key: value for key, value in rows[0].items() if value} == first
  assert (rows[1]['draft'], rows[1]['judge_nats'], rows[1]['corrupted']) == ('ar', '3.5', '')
  assert (rows[2]['seed'], rows[2]['error'], rows[2]['f1']) == ('2', 'two\nlines', '')


def test_the_last_record_of_a_seed_counts(tmp_path):
  records = [
    failure('learned gate', 'out of memory', seed=0),
    repair('learned gate', 1, f1=0.2),
    repair('learned gate', 0, f1=0.4),
    repair('learned gate', 0, corrupted=0.3, f1=0.9),
  ]
  page = write(tmp_path, records)
  table = cells((tmp_path / 'results.md').read_text(), 'repair: methods')
  assert table[1:] == [
    ['learned gate', '0.15', '2', '0.300 ± 1.271'],
    ['learned gate', '0.3', '1', '0.900'],
  ]
  assert '0 failed' in page.text
  assert (tmp_path / 'results.csv').read_text().count('\n') == 4


def test_records_without_a_seed_all_count():
  records = [repair('learned gate', None, f1=f1) for f1 in (0.2, 0.4)]
  assert [lib.metric(record, 'f1') for record in lib.newest(records)] == [0.2, 0.4]


def test_the_page_has_every_table_and_picture(tmp_path):
  page = write(tmp_path / 'my sweep', sweep())
  assert page.tags.count('table') == 2
  found = images(page)
  assert set(found) == {
    'Repair and harm, repair: methods',
    'Repairs, all round, repair: methods',
    'Edits by step and position, repair: methods',
    'Signals over the steps, repair: methods',
    'Quality against network calls, drafts: methods',
    'Edits by step and position, drafts: methods',
    'Signals over the steps, drafts: methods',
  }
  assert all('<svg' in picture for picture in found.values())
  assert len(set(found.values())) == len(found) - 2  # both tasks have the same notes
  for text in (
    'my sweep',
    '60 records 4 methods 3 seeds 0 failed',
    'All with model gate, steps 4.',
    'linear gate 0.3 3',
    '0.410 ± 0.025',  # 0.8 - 0.1 - 0.3 + 0.01, deviation 0.01
    'no revision ar 3 6.100 ± 0.248',
    'Further out is better. All with model gate, corrupted 0.3, steps 4.',
  ):
    assert text in page.text, text
  rows = (tmp_path / 'my sweep' / 'results.html').read_text()
  assert rows.count('<tr class="next">') == 1 + 5  # where corrupted, or draft and steps, go on


def test_nothing_is_fetched(tmp_path):
  page = write(tmp_path, sweep())
  assert 'http' not in (tmp_path / 'results.html').read_text()
  assert not {'link', 'iframe', 'script'}.intersection(page.tags)
  links = [value for name, value in page.attributes if name in ('src', 'href')]
  assert links and all(link.startswith('data:image/svg+xml;base64,') for link in links)


def test_the_draft_is_drawn_in_groups_that_did_not_take_it(tmp_path, monkeypatch):
  drawn = []
  monkeypatch.setattr(
    plots,
    'quality_against_calls',
    lambda records, shown: drawn.append(records) or mpl.figure.Figure(),
  )
  other = draft('learned gate', calls=4.0, judge_nats=3.0) | {'group': 'signals'}
  write(tmp_path, [*sweep(), other])
  own, borrowed = drawn
  assert sum(record['name'] == lib.UNREVISED for record in own) == 6
  assert [record['name'] for record in borrowed] == ['learned gate', *[lib.UNREVISED] * 6]


def test_text_is_escaped(tmp_path):
  write(tmp_path, [repair('<script>alert(1)</script>', f1=0.5)])
  assert '<script>' not in (tmp_path / 'results.html').read_text()


def test_no_records_have_a_page(tmp_path):
  page = write(tmp_path, [])
  assert 'No results yet.' in page.text
  assert 'No results yet.' in (tmp_path / 'results.md').read_text()
  assert (tmp_path / 'results.csv').read_text() == 'task,group,name,seed,model,error\n'


def test_no_sweep_is_refused(tmp_path):
  with pytest.raises(UserError, match=r'no results\.jsonl'):
    results.write(tmp_path)


@pytest.mark.parametrize('name', ['results.csv', 'results.md', 'results.html'])
def test_a_file_is_whole_or_as_before(tmp_path, monkeypatch, name):
  write(tmp_path, [repair('learned gate', f1=0.5)])
  before, replace = (tmp_path / name).read_text(), os.replace

  def killed(source, target):
    if target.name != name:
      return replace(source, target)
    assert 'newer' in source.read_text()  # complete before it takes the name
    raise KeyboardInterrupt

  monkeypatch.setattr(os, 'replace', killed)
  with pytest.raises(KeyboardInterrupt):
    write(tmp_path, [repair('newer', f1=0.7)])
  assert (tmp_path / name).read_text() == before


def test_axes_are_what_varies_under_one_name():
  records = sweep()
  of = {task: [r for r in records if r['task'] == task] for task in ('repair', 'drafts')}
  assert lib.axes(of['repair']) == ['corrupted']
  assert lib.axes(of['drafts']) == ['draft', 'steps']
  assert lib.common(of['repair']) == {'model': 'gate', 'steps': 4}
  short = [r for r in of['drafts'] if lib.settings(r).get('steps') != 16]
  assert any(r['name'] == lib.UNREVISED for r in short)  # which has no steps
  assert lib.common(short) == {'model': 'gate', 'steps': 4}


def test_methods_are_compared_where_most_of_them_are():
  records = [
    repair('learned gate', corrupted=0.05),
    repair('linear gate', corrupted=0.05),
    repair('learned gate', corrupted=0.3),
    repair('oracle', corrupted=None),
  ]
  assert lib.one_setting(records) == [records[0], records[1], records[3]]
  assert lib.one_setting(records, free=['corrupted']) == records
  records.append(repair('linear gate', corrupted=0.3))
  assert lib.one_setting(records) == records[2:]  # of two as good, the last
  assert lib.one_setting([]) == []


def test_figures_that_are_none_are_no_figures():
  for value in (None, float('nan'), float('inf'), 'many'):
    assert lib.metric(repair('a', f1=value), 'f1') is None
  assert lib.mean([repair('a')], 'f1') == (None, None)
  assert lib.mean([repair('a', f1=0.5), repair('a', f1=float('nan'))], 'f1') == (0.5, None)


def points(axes):
  """Of each method with error bars: x, y and the half widths of the upright ones."""
  found = {}
  for container in axes.containers:
    line, _, bars = container.lines
    widths = [s[1, 1] - s[0, 1] if len(s) else np.nan for s in bars[1].get_segments()]
    found[container.get_label()] = (*line.get_data(), np.array(widths) / 2)
  return found


def test_quality_is_drawn_against_calls():
  figure = plots.quality_against_calls(sweep())
  nats_ar, nats_diffusion, entropy_ar, _ = figure.axes
  assert [axes.get_title() for axes in figure.axes[:2]] == ['draft: ar', 'draft: diffusion']
  for axes in (nats_ar, nats_diffusion):
    drawn = points(axes)
    assert list(drawn) == list(NAMES)
    for rank, name in enumerate(NAMES):
      calls, nats, errors = drawn[name]
      np.testing.assert_allclose(calls, [4 - rank, 16 - rank])
      np.testing.assert_allclose(nats, [4.9 - rank] * 2)  # 5, 4.9 and 4.8
      np.testing.assert_allclose(errors, [T_3 * 0.1 / 3**0.5] * 2, rtol=1e-6)
    (across,) = (line for line in axes.lines if line.get_label() == lib.UNREVISED)
    np.testing.assert_allclose(across.get_ydata(), [6.1, 6.1])
    assert axes.get_xscale() == 'log'
  np.testing.assert_allclose(points(entropy_ar)['linear gate'][1], [4.0, 4.0])
  low, high = nats_ar.get_xlim()
  assert low <= 2.0 and high >= 16.0
  (legend,) = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == [*NAMES, lib.UNREVISED]


def test_one_seed_has_no_error_bars():
  records = [draft('learned gate', steps=s, judge_nats=3.0, calls=float(s)) for s in (4, 8)]
  _, nats, errors = points(plots.quality_against_calls(records).axes[0])['learned gate']
  np.testing.assert_array_equal(nats, [3.0, 3.0])
  assert np.isnan(errors).all()


def test_edit_maps_are_means_over_seeds_on_one_scale():
  first = {'edit_map': [[0.0, 0.2, 0.4], [0.1, 0.1, 0.0]]}
  second = {'edit_map': [[0.2, 0.2, 0.0], [0.1, 0.3, 0.0]]}
  last = {'edit_map': [[0.0, 0.0, 0.0], [0.0, 0.8, 0.0]]}
  records = [
    repair('learned gate', 0) | first,
    repair('learned gate', 1) | second,
    repair('learned gate', 2) | {'edit_map': [[0.9, 0.9]]},  # of other steps
    repair('linear gate', 0) | last,
    failure('prior alone', 'no') | last,
    repair('oracle', 0),
  ]
  figure = plots.edit_map(records)
  left, right, bar = figure.axes
  assert (left.get_title(), right.get_title()) == ('learned gate', 'linear gate')
  meshes = [next(x for x in a.collections if isinstance(x, QuadMesh)) for a in (left, right)]
  np.testing.assert_allclose(meshes[0].get_array(), [[0.1, 0.2, 0.2], [0.1, 0.2, 0.0]])
  np.testing.assert_allclose(meshes[1].get_array(), last['edit_map'])
  assert [mesh.get_clim() for mesh in meshes] == [(0.0, 0.8)] * 2
  assert bar.get_ylabel() == 'share of texts edited there'
  low, high = left.get_ylim()
  assert (low, high) == (2.5, 0.5)  # steps run downward
  corners = meshes[0].get_coordinates()
  np.testing.assert_allclose(corners[0, :, 0], [0, 1 / 3, 2 / 3, 1])
  np.testing.assert_allclose(corners[:, 0, 1], [0.5, 1.5, 2.5])


def test_signals_are_means_and_deviations_of_live_steps():
  records = [
    repair('learned gate', 0) | {'signals': course(1.0)},
    repair('learned gate', 1) | {'signals': course(2.0, live=(1.0, 1.0, 0.0, 0.0))},
    repair('linear gate', 0) | {'signals': course(5.0)},
  ]
  figure = plots.signals(records)
  titles = [axes.get_title() for axes in figure.axes]
  assert titles == [title for title, _ in plots._SIGNALS.values()] + ['']
  for number, axes in enumerate(figure.axes[:5]):
    lines = {line.get_label(): line.get_data() for line in axes.lines}
    steps, mean = lines['learned gate']
    expected = [1.5 + number, 1.6 + number, 1.2 + number]  # the third step of one seed alone
    np.testing.assert_array_equal(steps, [1, 2, 3])
    np.testing.assert_allclose(mean, expected)
    np.testing.assert_allclose(lines['linear gate'][1], [5 + number + x for x in (0, 0.1, 0.2)])
    bands = [x for x in axes.collections if isinstance(x, FillBetweenPolyCollection)]
    vertices = bands[0].get_paths()[0].vertices
    for step, value in zip(steps, expected, strict=True):
      heights = vertices[vertices[:, 0] == step, 1]
      np.testing.assert_allclose([heights.min(), heights.max()], [0.5 * value, 1.5 * value])


def test_signals_without_some_or_with_other_steps_are_drawn():
  short = {'entropy_mean': [1.0, None], 'live': [1.0, 1.0]}
  records = [repair('a', 0) | {'signals': short}, repair('b', 0) | {'signals': course(1.0)}]
  entropy, margin, *_ = plots.signals(records).axes
  a, b = entropy.lines
  assert (list(a.get_xdata()), list(a.get_ydata())) == ([1], [1.0])
  assert len(b.get_xdata()) == 3
  assert not len(margin.lines[0].get_xdata())


def test_radar_draws_the_means_and_what_is_spared():
  figures = {'fixed': 0.6, 'precision': 0.9, 'recall': 0.7, 'auc': 0.8}
  records = [
    repair('learned gate', 0, f1=0.4, harmed=0.1, **figures),
    repair('learned gate', 1, f1=0.6, harmed=0.3, **figures),
    repair('linear gate', 0, fixed=0.2),
  ]
  (axes,) = plots.radar(records).axes
  assert [label.get_text() for label in axes.get_xticklabels()] == [
    *('fixed', '1 − harmed', 'precision', 'recall', 'F1', 'AUC')
  ]
  full, sparse = axes.lines
  np.testing.assert_allclose(full.get_xdata()[:-1], np.arange(6) * np.pi / 3)
  np.testing.assert_allclose(full.get_ydata(), [0.6, 0.8, 0.9, 0.7, 0.5, 0.8, 0.6])
  np.testing.assert_array_equal(sparse.get_ydata(), [0.2, *[np.nan] * 5, 0.2])
  with pytest.raises(ValueError, match=r'\[0\.15, 0\.3\]'):
    plots.radar([*records, repair('learned gate', corrupted=0.3)])


def test_bars_are_means_with_errors_for_each_share():
  oracle = repair('oracle', corrupted=0.3, f1=1.0)
  figure = plots.bars([*sorted(sweep(), key=lambda r: -r['settings'].get('corrupted', 0)), oracle])
  f1, harmed = figure.axes
  assert [label.get_text() for label in f1.get_yticklabels()] == [*NAMES, 'oracle']
  assert [bars.get_label() for bars in f1.containers if bars.get_label()[0] != '_'] == [
    '5% corrupted',
    '30% corrupted',
  ]
  low, high = (bars for bars in f1.containers if hasattr(bars, 'patches'))
  np.testing.assert_allclose([p.get_width() for p in low], [0.76, 0.66, 0.56, np.nan])
  np.testing.assert_allclose([p.get_width() for p in high], [0.51, 0.41, 0.31, 1.0])
  (errors,) = high.errorbar.lines[2]
  lengths = [s[1, 0] - s[0, 0] for s in errors.get_segments() if len(s)]
  np.testing.assert_allclose(lengths[:3], [2 * T_3 * 0.01 / 3**0.5] * 3, rtol=1e-6)
  widths = [p.get_width() for p in next(b for b in harmed.containers if hasattr(b, 'patches'))]
  np.testing.assert_allclose(widths, [0.01, 0.02, 0.03, np.nan])
  centers = np.array([[p.get_y() + p.get_height() / 2 for p in bars] for bars in (low, high)])
  np.testing.assert_allclose(centers.mean(axis=0), range(4), atol=1e-9)
  assert f1.get_ylim()[0] > f1.get_ylim()[1]  # the first method on top


def many(count):
  return [
    repair(f'method {i}', f1=0.5) | {'signals': course(i), 'edit_map': [[0.1]]}
    for i in range(count)
  ]


def test_of_many_methods_eight_are_shown_and_it_is_said():
  records = many(10)
  for draw in (plots.signals, plots.radar):
    axes = draw(records).axes[0]
    assert [line.get_label() for line in axes.lines] == [f'method {i}' for i in range(8)]
  assert plots.radar(records).legends[0].get_title().get_text() == '8 of 10 methods'
  assert plots.signals(records).axes[-1].get_legend().get_title().get_text() == '8 of 10 methods'
  assert plots.edit_map(records).get_suptitle() == '8 of 10 methods'
  assert plots.radar(many(8)).legends[0].get_title().get_text() == ''
  assert len(plots.bars(records).axes[0].get_yticklabels()) == 10


def test_shown_methods_look_as_their_place_says():
  shown = ['method 9', 'elsewhere', 'method 2']
  for draw in (plots.signals, plots.radar):
    lines = draw(many(10), shown).axes[0].lines
    looks = [plots.Look(line.get_color(), line.get_marker()) for line in lines]
    assert [line.get_label() for line in lines] == ['method 9', 'method 2']
    assert looks == [plots._LOOKS[0], plots._LOOKS[2]]
  titles = [axes.get_title() for axes in plots.edit_map(many(10), shown).axes]
  assert titles == ['method 9', 'method 2', '']
  with pytest.raises(ValueError, match='9 methods'):
    plots.radar(many(10), [f'method {i}' for i in range(9)])


def test_methods_differ_in_colour_and_in_marker():
  assert len(plots._LOOKS) == plots.MAX_METHODS
  assert all(len(set(part)) == plots.MAX_METHODS for part in zip(*plots._LOOKS, strict=True))


@pytest.mark.parametrize(
  'draw', [plots.quality_against_calls, plots.edit_map, plots.signals, plots.radar, plots.bars]
)
def test_no_records_are_said_to_be_none(draw):
  figure = draw([failure('learned gate', 'no')])
  assert 'no records yet' in [text.get_text() for axes in figure.axes for text in axes.texts]


def test_pictures_leave_no_state_and_are_the_same_again():
  before = dict(mpl.rcParams)
  first = pictures.to_svg(plots.bars(sweep()))
  assert dict(mpl.rcParams) == before
  assert first == pictures.to_svg(plots.bars(sweep()))
  assert re.search(r'<svg [^>]*viewBox', first)
