"""The table of perplexities: cells by hand, what is marked, and what stands apart."""

import math

from test_ablation_results import cells as cells_below

from ardiff_jax.ablation import table1
from ardiff_jax.evaluation import sets


def scored(name, seed=0, data='valid', nats=4.0, stderr=0.0, exact=0.0, **fields):
  metrics = {'nats': nats, 'bits_per_byte': nats / 2, 'stderr': stderr, 'exact': exact}
  record = {'task': 'perplexity', 'name': name, 'group': 'g', 'seed': seed, 'model': name}
  return record | {'settings': {'data': data}, 'metrics': metrics} | fields


def released(seed=0, data='valid', nats=4.0, difference=-1.0, stderr=0.0):
  metrics = {'nats': nats, 'released_nats': nats + difference}
  metrics |= {'difference': difference, 'stderr': stderr}
  return scored('γ-hybrid', seed, data) | {'task': 'released', 'group': 'r', 'metrics': metrics}


def failed(record):
  return {key: value for key, value in record.items() if key != 'metrics'} | {'error': 'no'}


def cells(text, number=0):
  """The table of that number, without the ruler, as lists of cells."""
  tables = [part for part in text.split('\n\n') if part.startswith('|')]
  lines = tables[number].splitlines()
  return [line[2:-2].split(' | ') for line in (lines[0], *lines[2:])]


def test_cells_and_their_standard_errors():
  """Deviation of the seeds 0.1414, over √2 0.1; of the text 0.04; √(0.1² + 0.04²) = 0.10770, times
  exp(4.1) = 60.340 are 6.499, times ½ bit 0.054."""
  records = [scored('MDLM', 0, nats=4.0, stderr=0.03), scored('MDLM', 1, nats=4.2, stderr=0.05)]
  text = table1.to_markdown(records)
  assert cells(text) == [['method', 'valid'], ['MDLM', '**≤ 60.34 ± 6.50**']]
  assert cells(text, 1) == [['method', 'valid'], ['MDLM', '**≤ 2.050 ± 0.054**']]
  assert '(seeds: 2)' in text


def test_seeds_do_not_lessen_the_error_of_the_text():
  """They share it: it is that of one seed, exp(3)/10."""
  for count in (1, 2, 9):
    records = [scored('AR', seed, nats=3.0, stderr=0.1, exact=1.0) for seed in range(count)]
    assert cells(table1.to_markdown(records))[1] == ['AR', '20.09 ± 2.01']


def test_without_any_error_a_figure_stands_alone():
  records = [scored('AR', nats=3.0, stderr=None, exact=1.0)]
  assert cells(table1.to_markdown(records))[1] == ['AR', '20.09']


def test_bounds_are_marked_and_the_lowest_is_bold():
  records = [
    scored('AR', data='valid', nats=1.0, exact=1.0),
    scored('AR', data='arxiv', nats=3.0, exact=1.0),
    scored('SEDD', data='valid', nats=2.0),
    scored('SEDD', data='arxiv', nats=2.5),
    scored('MDLM', data='valid', nats=1.5),
    scored('MDLM', data='arxiv', nats=2.75),
  ]
  records[5]['metrics']['bits_per_byte'] = 1.0  # of other tokens, so it is the best of these
  text = table1.to_markdown(records)
  assert cells(text) == [
    ['method', 'valid', 'arxiv'],
    ['AR', '2.72', '20.09'],
    ['SEDD', '≤ 7.39', '**≤ 12.18**'],
    ['MDLM', '**≤ 4.48**', '≤ 15.64'],
  ]
  assert [row[2] for row in cells(text, 1)[1:]] == ['1.500', '≤ 1.250', '**≤ 1.000**']


def test_a_figure_of_unknown_kind_is_taken_for_a_bound():
  record = scored('MDLM', nats=2.0)
  del record['metrics']['exact']
  assert cells(table1.to_markdown([record]))[1] == ['MDLM', '**≤ 7.39**']


def test_what_is_missing_is_an_empty_cell():
  records = [
    scored('AR', 0, 'valid', nats=1.0, exact=1.0),
    failed(scored('AR', 1, 'valid')),
    failed(scored('SEDD', 0, 'valid')),
    scored('SEDD', 0, 'lambada', nats=2.0),
    scored('MDLM', 0, 'valid') | {'metrics': {'nats': None}},
    scored('BD3-LM', 0, 'valid') | {'metrics': {'nats': 3.0, 'exact': 0.0}},
    {'task': 'drafts', 'name': 'gate', 'model': 'gate', 'settings': {}, 'metrics': {'nats': 1.0}},
  ]
  text = table1.to_markdown(records)
  assert cells(text) == [
    ['method', 'valid', 'lambada'],
    ['AR', '2.72', ''],
    ['SEDD', '', '**≤ 7.39**'],
    ['MDLM', '', ''],
    ['BD3-LM', '**≤ 20.09**', ''],
  ]
  assert cells(text, 1)[-1] == ['BD3-LM', '', '']


def test_several_settings_of_a_method_have_a_row_each():
  records = [scored('MDLM', nats=2.0), scored('MDLM', nats=1.0), scored('AR', exact=1.0)]
  for record, schedule in zip(records, ('flat', 'block', None), strict=True):
    record['settings']['hyperschedule'] = schedule
  rows = cells(table1.to_markdown(records))
  assert [row[0] for row in rows] == [
    *('method', 'MDLM, hyperschedule flat', 'MDLM, hyperschedule block', 'AR')
  ]
  assert rows[2][1] == '**≤ 2.72**'


def test_rows_are_in_the_order_of_the_paper():
  names = 'Transformer', 'SEDD', 'MDLM', 'BD3-LM', 'γ-hybrid', 'ε-hybrid'
  text = table1.to_markdown([scored(name) for name in sorted(names)])
  for table in (0, 1):
    assert [row[0] for row in cells(text, table)[1:]] == [*names]


def test_groups_have_tables_of_their_own():
  records = [scored('MDLM', nats=1.0), scored('MDLM', nats=2.0, group='other')]
  text = table1.to_markdown(records)
  assert [text.count(f'\n## {group}\n') for group in ('g', 'other')] == [1, 1]
  assert (cells(text, 0)[1][1], cells(text, 2)[1][1]) == ('**≤ 2.72**', '**≤ 7.39**')


def test_what_was_published_stands_apart():
  text = table1.to_markdown([scored('MDLM')])
  ours, published = text.split('\n## Published, for orientation only: other models, other data')
  assert '32.83' not in ours and '≤ 54.60' not in published
  assert published.splitlines()[0] == (
    ', 524 B tokens of OpenWebText, GPT-2 tokens; not comparable with the figures above'
  )
  assert cells(published) == [
    ['', 'WikiText', 'LAMBADA', 'PubMed', 'arXiv'],
    ['Transformer (AR, retrained)', '25.75', '51.28', '49.01', '41.73'],
    ['SEDD (retrained)', '≤ 34.28', '≤ 49.86', '≤ 44.53', '≤ 38.48'],
    ['MDLM', '≤ 32.83', '≤ 47.52', '≤ 41.89', '≤ 37.37'],
  ]
  for paper in ('2406.07524', '2503.09573', '2504.06416'):
    assert f'arXiv {paper}' in published


def test_released_rates_stand_beside_the_exact_ones():
  """Differences -1.0 and -1.2: deviation 0.1414, over √2 0.1; with 0.04 of the text 0.108."""
  records = [
    scored('γ-hybrid', nats=4.0),
    released(0, nats=4.0, difference=-1.0, stderr=0.03),
    released(1, nats=4.2, difference=-1.2, stderr=0.05),
    released(0, 'arxiv', nats=3.0, difference=0.0),
    failed(released(0, 'lambada')),
  ]
  text = table1.to_markdown(records)
  heading = 'The rate of the γ-hybrid, and the weighting that was published in its stead'
  assert cells_below(text, heading) == [
    *(
      ['method', 'text', 'by the exact rate', 'by the published weighting', 'difference, nats'],
      ['γ-hybrid', 'valid', '≤ 60.34', '20.09', '-1.100 ± 0.108'],
      ['γ-hybrid', 'arxiv', '≤ 20.09', '20.09', '+0.000'],
    )
  ]
  assert text.count('is no bound') == 1
  assert 'is no bound' not in table1.to_markdown(records[:1])
  alone = table1.to_markdown(records[1:])
  assert 'Bits per byte' not in alone and 'Published' in alone


def test_notes_of_the_sets_stand_below():
  records = [
    scored('MDLM', data=data) for data in ('valid', 'wikitext', 'arxiv', 'a.txt', 'arxiv:a.txt')
  ]
  text = table1.to_markdown([*records, released(data='lambada')])
  notes = [line for line in text.splitlines() if line.startswith('- ')]
  assert notes == [
    '- wikitext: validation part, rare words as `<unk>`',
    f'- arxiv: {sets.note("arxiv")}',
    '- arxiv:a.txt: read as ordinary text, a document a line; the JSON and the tokens of '
    'scientific_papers stay as is',
    '- lambada: whole passages',
  ]
  assert text.index('is no bound') < text.index(notes[0]) < text.index('## Published')


def test_enormous_nats_are_no_crash():
  text = table1.to_markdown([scored('SEDD', nats=1e4)])
  assert f'{math.exp(700):.2f}' in text


def test_no_records_have_the_published_figures_alone():
  text = table1.to_markdown([])
  assert text.count('|\n|---') == 1 and 'Published' in text
