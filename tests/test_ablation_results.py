"""Results of made-up sweeps: tables and pages, with figures checked by hand."""

import base64
import csv
import json
import os
import subprocess

import matplotlib as mpl
import pytest
from test_report import Page

from ardiff_jax.ablation import origins, quality_plots, results
from ardiff_jax.ablation import records as lib
from ardiff_jax.errors import UserError

NAMES = ('learned gate', 'linear gate', 'prior alone')


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


def generated(name, seed=0, temperature=1.0, group='texts', flag=None, refused=None, **metrics):
  record = repair(name, seed, group=group, **metrics)
  settings = {'temperature': temperature}
  return record | {'task': 'generation', 'settings': settings, 'flag': flag, 'refused': refused}


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
    ['learned gate', '3', '0.0100 ± 0.0000', '0.600 ± 0.058', '15.0 ± 3.2'],
  ]


def test_bounds_have_their_sign_and_likelihoods_say_whose_they_are(tmp_path):
  records = [
    dict(
      *[dict(task='perplexity', group='sets', name=name, seed=seed, model=name, law=law)],
      settings={'data': 'a'},
      metrics={'perplexity': 9.0 + seed, 'nats': 2.0, 'entropy': 1.0, 'exact': float(exact)},
    )
    for seed in (0, 1)
    for name, exact, law in (
      ('AR', True, 'exact, of reading'),
      ('MDLM', False, 'upper bound, of rows'),
      ('SEDD', False, 'upper bound, of rows'),
    )
  ]
  page = write(tmp_path, records)
  text = (tmp_path / 'results.md').read_text()
  head, *rows = cells(text, 'perplexity: sets')
  assert head == ['method', 'seeds', 'perplexity ↓', 'nats/token ↓', 'entropy']
  assert [row[2:] for row in rows] == [
    ['9.50 ± 0.50', '2.000 ± 0.000', '1.000 ± 0.000'],
    *[['≤ 9.50 ± 0.50', '≤ 2.000 ± 0.000', '1.000 ± 0.000']] * 2,
  ]
  for said in ('AR: exact, of reading.', 'MDLM, SEDD: upper bound, of rows.'):
    assert said + '\n' in text and said in page.text


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
    ['learned gate', '3', '0.600 ± 0.100', ''],
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
    ['jit', '2', '0.500 ± 0.000', '1001 ± 1', ''],
    ['eager', '1', '', '', '1.5e-07'],
  ]
  page = write(tmp_path, records)
  assert '1001 ± 1' in page.text and 'img' not in page.tags


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
    ['learned gate', '0.15', '2', '0.300 ± 0.100'],
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
    '0.410 ± 0.006',  # 0.8 - 0.1 - 0.3 + 0.01, deviation 0.01
    'no revision ar 3 6.100 ± 0.058',
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
    quality_plots,
    'quality_against_calls',
    lambda records, shown: drawn.append(records) or mpl.figure.Figure(),
  )
  other = draft('learned gate', calls=4.0, judge_nats=3.0) | {'group': 'signals'}
  write(tmp_path, [*sweep(), other])
  own, borrowed = drawn
  assert sum(record['name'] == lib.UNREVISED for record in own) == 6
  assert [record['name'] for record in borrowed] == ['learned gate', *[lib.UNREVISED] * 6]


def test_what_to_beware_of_stands_once_below_its_table(tmp_path):
  loops, few = 'samples are <loops>', '64 and 64 texts: too few'
  records = [
    generated('learned gate', 0, 0.7, flag=loops, refused=few, judge_nats=1.0, entropy=2.0),
    generated('learned gate', 1, 0.7, flag=loops, refused=few, judge_nats=1.1, entropy=2.0),
    generated('learned gate', 0, 1.0, refused=few, judge_nats=3.0, entropy=4.0),
    generated('linear gate', 0, 0.7, flag=loops, judge_nats=1.0, entropy=2.0),
    generated('linear gate', 0, 1.0, flag=loops, judge_nats=1.0, entropy=2.0),
    failure('linear gate', 'no', seed=1) | {'task': 'generation', 'group': 'texts'},
    generated('oracle', group='others', judge_nats=3.0, entropy=4.0, mauve=0.5),
  ]
  page = write(tmp_path, records)
  places = f'learned gate (temperature 0.7), linear gate: {loops}', f'learned gate: {few}'
  text = (tmp_path / 'results.md').read_text()
  table, rest = text.split('## generation: texts\n', 1)[1].split('\n\n- beware: ', 1)
  assert table.count('\n|') == 2 + 5
  assert rest.startswith(f'{places[0]}\n- beware: {places[1]}\n\n## generation: others\n')
  assert rest.count('beware') == 1
  for place in places:
    assert page.text.count(f'Beware: {place}') == 1
  assert {title for title in images(page) if title.startswith('Quality')} == {
    'Quality against diversity, generation: texts',
    'Quality against diversity, generation: others',
  }


def test_the_precision_of_sampling_stands_beside_the_figures(tmp_path):
  records = [
    generated(name, seed, judge_nats=3.0) | {'dtype': 'float32'}
    for name in NAMES
    for seed in (0, 1)
  ]
  said = 'Texts were written by networks that compute in'
  page = write(tmp_path, [*records, repair('learned gate', f1=0.5)])
  assert page.text.count(f'{said} float32.') == 1
  assert (tmp_path / 'results.md').read_text().count(f'|\n\n{said} float32.\n') == 1
  with (tmp_path / 'results.csv').open(newline='') as file:
    assert [row['dtype'] for row in csv.DictReader(file)] == ['float32'] * 6 + ['']
  for record in records[-2:]:
    record['dtype'] = 'bfloat16'
  text = results.tables(records)
  assert f'{said} float32 (learned gate, linear gate), in bfloat16 (prior alone).' in text


def test_warnings_that_differ_in_their_numbers_are_one():
  records = [
    generated('a', 0, 0.7, flag='an entropy of 2.31 nats, below 3.20 of 99 %', judge_nats=1.0),
    generated('a', 1, 0.7, flag='an entropy of 12.05 nats, below 3.20 of 99 %', judge_nats=1.0),
    generated('b', 0, 0.7, flag='an entropy of 9.00 nats, below 3.20 of 99 %', judge_nats=1.0),
    generated('b', 0, 1.0, judge_nats=1.0),
  ]
  (table,) = results.to_tables(records)
  said = 'an entropy of 2.31 to 12.05 nats, below 3.20 of 99 %'
  assert table.warnings == [f'a, b (temperature 0.7): {said}']


def test_the_page_says_how_it_came_about(tmp_path, monkeypatch):
  """A line a start; those that differ in nothing but time are one."""
  write(tmp_path, [repair('learned gate', f1=0.5)])
  assert 'came about' not in (tmp_path / 'results.md').read_text()
  monkeypatch.setenv('ARDIFF_DATA', 'my data')
  for argument in ('--only=<b>', '--seeds=(0, 1)', '--only=<b>'):
    monkeypatch.setattr('sys.orig_argv', ['/bin/python3', '-m', 'ardiff_jax.ablate', argument])
    origins.note(tmp_path)
  starts = (tmp_path / 'starts.jsonl').read_text().splitlines()
  assert len(starts) == 3
  start = json.loads(starts[0])
  page = write(tmp_path, [repair('learned gate', f1=0.5)])
  versions = f'python {start["versions"]["python"]}, jax {start["versions"]["jax"]}, '
  day = start['time'][:10]
  for text in (page.text, (tmp_path / 'results.md').read_text()):
    assert text.count("ARDIFF_DATA='my data' python -m ardiff_jax.ablate '--only=<b>'") == 1
    assert text.count("python -m ardiff_jax.ablate '--seeds=(0, 1)'") == 1
    assert f'{os.cpu_count()} cores, 8 x cpu; {versions}' in text
    assert f'started 2 times, {day}' in text and text.count(f'started {day}') == 1


def test_the_commit_is_that_of_the_code(tmp_path, monkeypatch):
  monkeypatch.setattr(origins, '_ROOT', tmp_path)
  git = lambda *arguments: subprocess.run(  # noqa: E731
    ['git', '-C', str(tmp_path), '-c', 'user.name=a', '-c', 'user.email=a@b', *arguments],
    check=True,
    capture_output=True,
    text=True,
  ).stdout.strip()
  notes = []
  for change in ('nothing', 'init', 'commit', 'change'):
    if change == 'init':
      git('init')
    elif change == 'commit':
      (tmp_path / 'code.py').write_text('1')
      git('add', 'code.py')
      git('commit', '-m', 'first')
      git('tag', 'v1')
    elif change == 'change':
      (tmp_path / 'code.py').write_text('20')
    origins.note(tmp_path)
    notes.append(json.loads((tmp_path / 'starts.jsonl').read_text().splitlines()[-1])['commit'])
  head = git('rev-parse', 'HEAD')
  assert notes == [None, None, head, f'{head}-dirty']
  assert 'of no commit' in origins.read(tmp_path)[0].circumstances


def test_tasks_of_one_figure_have_pictures_and_steps_are_drawn_against_calls(tmp_path):
  tasks = {
    'perplexity': ({'data': 'wikitext'}, {'bits_per_byte': 2.0}, 'Texts'),
    'likelihood': ({'order': ''}, {'nats': 3.0}, 'Orders'),
    'infilling': ({'steps': 8}, {'rougeL': 0.2}, 'Gaps'),
    'choices': ({'file': 'piqa.jsonl'}, {'accuracy': 0.6, 'chance': 0.5}, 'Right choices'),
  }
  records = [
    repair('learned gate', seed, group='', **metrics) | {'task': task, 'settings': settings}
    for task, (settings, metrics, _) in tasks.items()
    for seed in (0, 1)
  ]
  for calls in (8.0, 32.0):
    record = generated('learned gate', group='steps', calls=calls, judge_nats=3.0, entropy=4.0)
    records.append(record | {'settings': {'steps': int(calls)}})
    same = generated('learned gate', 0, calls, group='warm', calls=8.0, judge_nats=3.0, entropy=4.0)
    records.append(same)
  assert set(images(write(tmp_path, records))) == {
    *(f'{title}, {task}' for task, (_, _, title) in tasks.items()),
    *(f'Quality against diversity, generation: {group}' for group in ('steps', 'warm')),
    'Generation against network calls, generation: steps',
  }


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
