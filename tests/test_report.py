"""The report of a made-up work directory: every figure is there, nothing foreign is."""

import html.parser
import json
import os
import re

import pytest

from ardiff_jax import report, workdir
from ardiff_jax.data.tokenizers import ByteTokenizer
from ardiff_jax.errors import UserError
from ardiff_jax.report import traces
from configs import epsilon_hybrid

MASK = 257
TRAIN = {
  'step': 40,
  'split': 'train',
  'loss': 4.3219,
  'grad_norm': 1.2345,
  'learning_rate': 2.5e-3,
  'tokens_per_second': 9123.4,
}
VALID = {
  'step': 40,
  'split': 'valid',
  'nll_per_token': 4.1617,
  'bits_per_byte': 2.6104,
  'stderr': 0.0402,
  'kind': 'bound',
}
EVALUATION = {
  'data': 'valid',
  'tokens': 218345,
  'bytes': 578123,
  'nll_per_token': 4.7123,
  'perplexity': 111.312,
  'bits_per_byte': 2.5634,
  'kind': 'bound',
  'law': 'upper bound, of absorbing ancestral sampling',
  'process': 'absorbing',
  'hyperschedule': 'flat(length=128, num_levels=1000)',
  'stderr': 0.0123,
  'samples': 4,
  'tokenizer': 'bytes!',
  'step': 1400,
  'baselines': {'byte unigram': 4.7211, 'byte trigram': 2.4044},
}
SAMPLE = {
  'text': 'Once <script>alert(1)</script> & so',
  'prompt': 'Once <b>',
  'token_ids': [79, 110],
  'network_calls': 1064,
  'redraws': 17,
  'seconds': 2.345,
  'sampler': 'acs',
  'hyperschedule': 'flat(length=128, num_levels=64)',
  'temperature': 0.75,
  'seed': 31,
  'step': 1399,
  'trace': {
    'steps': [0, 9, 64],
    'canvases': [
      [*b'O', MASK, MASK, MASK, MASK],
      [*b'Ox<', MASK, MASK],
      [*b'On<', *b'\n', 256],
    ],
  },
}


class Page(html.parser.HTMLParser):
  """Text, tags and attributes of a page."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.attributes, self.open, self.texts = [], [], [], []
    self.feed(text)
    assert not self.open, f'not closed: {self.open}'
    self.text = ' '.join(' '.join(self.texts).split())

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += attrs
    if tag not in ('meta', 'img', 'input'):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if not {'style', 'script'}.intersection(self.open):
      self.texts.append(data)


@pytest.fixture
def run(tmp_path):
  """A directory with config.json and a tokenizer only."""
  folder = tmp_path / 'my run'
  config = epsilon_hybrid.get_config('tiny')
  config.tokenizer.kind = 'byte'
  ByteTokenizer('byte', {}).save(folder)
  content = {
    'config': workdir.to_json(config),
    'tokenizer': {'name': 'byte', 'vocab_size': 257},
    'corpus': {'name': 'tales', 'sha256': 'abcd1234'},
    'versions': {'python': '3.11.7', 'jax': '0.10.2'},
    'parameters': 2_211_840,
  }
  workdir.write(folder, content)
  return folder


def fill(folder, metrics=(TRAIN, VALID), evaluations=(EVALUATION,), samples=(SAMPLE,)):
  workdir.append(folder / 'metrics.jsonl', metrics)
  workdir.append(folder / 'eval.jsonl', evaluations)
  workdir.append(folder / 'samples.jsonl', samples)


def read(folder):
  path = report.write(folder)
  assert path == folder / 'report.html'
  return Page(path.read_text())


def test_every_figure_is_on_the_page(run):
  fill(run)
  page = read(run)
  expected = [
    'my run',
    'epsilon_hybrid noise (ε = 0.01) · flat(length=128, num_levels=1024) · shifted',
    '2.21 M parameters · 81.9 k tokens seen',  # 40 steps x 16 sequences x 128 tokens
    '40 of 1,200 training steps',
    '9,123 tokens per second',
    'tales',
    '≤ 2.563 bits per byte',
    'this model ≤ 2.563',
    'byte trigram 2.404',
    'byte unigram 4.721',
    'kind bound',
    'perplexity ≤ 111.31 a token',
    '4.7123 ± 0.0123 (standard error)',
    'process absorbing',
    'hyperschedule flat(length=128, num_levels=1000)',
    '4 draws a sequence',
    '218,345 tokens, 578,123 bytes',
    'tokenizer bytes!',
    'step 1,400',
    'Upper bound, of absorbing ancestral sampling.',
    'Training at step 40: loss 4.322, gradient norm 1.23, learning rate 2.50e-03.',
    'Validation (bound) at step 40: 4.1617 ± 0.0402 nats a token, 2.610 bits per byte.',
    '128 tokens come about in 64 steps',
    'Drawn as sampled by default, flat(length=128, num_levels=64); trained and evaluated on',
    'acs, temperature 0.75',
    '1,064, 17 tokens redrawn',
    '2.3 s',
    'step 1,399, seed 31',
    'prompt Once <b>',
    'Once <script>alert(1)</script> & so',
    'python 3.11.7 · jax 0.10.2 · corpus sha256 abcd1234',
  ]
  for text in expected:
    assert text in page.text, text
  config = json.loads(next(x for x in page.texts if x.strip().startswith('{')))
  assert config == workdir.read(run)['config']


def test_baselines_stand_beside_the_model_best_first(run):
  fill(run)
  report.write(run)
  text = (run / 'report.html').read_text()
  bars = [float(x) for x in re.findall(r'style="width: ([\d.]+)%"', text)]
  assert bars == [pytest.approx(100 * x / 4.7211, abs=0.05) for x in (2.4044, 2.5634, 4.7211)]


def test_exact_figures_are_not_called_bounds(run):
  exact = {'kind': 'exact', 'process': 'none', 'law': 'exact', 'samples': None}
  fill(run, metrics=[], evaluations=[EVALUATION | exact], samples=[])
  page = read(run)
  assert '≤' not in page.text and 'draws a sequence' not in page.text
  assert 'kind exact' in page.text and 'perplexity 111.31' in page.text


def test_one_sequence_has_no_standard_error(run):
  fill(run, metrics=[], evaluations=[EVALUATION | {'stderr': None}], samples=[])
  assert '4.7123 (a single sequence)' in read(run).text


def test_text_is_escaped(run):
  fill(run)
  page = read(run)
  assert page.tags.count('script') == 1  # the player's own
  assert '<script>alert' not in (run / 'report.html').read_text()
  assert 'Once <b>' in page.text


def test_pieces_are_escaped_in_the_player():
  pieces = [*b'</script><b>']
  page = traces.page([{'steps': [0], 'canvases': [pieces]}], ByteTokenizer('byte', {}), 'a & b')
  assert page.count('</script>') == 1 and '<b>' not in page and 'a &amp; b' in page


def test_nothing_is_fetched(run):
  fill(run)
  page = read(run)
  assert 'http' not in (run / 'report.html').read_text()
  assert not {'link', 'iframe'}.intersection(page.tags)
  sources = [value for name, value in page.attributes if name in ('src', 'href')]
  assert len(sources) == 2
  assert all(x.startswith('data:image/svg+xml;base64,') for x in sources)


BYTES = ByteTokenizer('byte', {})


def test_trace_marks_masks_new_and_changed_tokens():
  shown = [frame['tokens'] for frame in traces.frames(SAMPLE['trace'], BYTES)]
  assert shown == [
    [('old', 'O'), *[('mask', '▒')] * 4],
    [('old', 'O'), ('new', 'x'), ('new', '<'), *[('mask', '▒')] * 2],
    [('old', 'O'), ('changed', 'n'), ('old', '<'), ('new', '\\n'), ('new', '⏎EOS')],
  ]


def test_a_token_masked_again_is_a_mask_then_new():
  trace = {'steps': [0, 1, 2], 'canvases': [[65], [MASK], [65]]}
  rows = traces.frames(trace, BYTES)
  assert [row['tokens'] for row in rows] == [[('old', 'A')], [('mask', '▒')], [('new', 'A')]]


def test_player_gets_each_frames_moves(run):
  """Replayed in order they are the frames."""
  page = traces.player(SAMPLE['trace'], BYTES)
  data = json.loads(re.search(r'var data = (.*);', page)[1])
  assert data['steps'] == [0, 9, 64]
  canvas = {}
  for moves, frame in zip(data['moves'], traces.frames(SAMPLE['trace'], BYTES), strict=True):
    canvas = {i: (piece, 'm' if mark == 'm' else 'o') for i, (piece, mark) in canvas.items()}
    canvas |= {i: (piece, mark) for i, piece, mark in moves}
    assert canvas == {i: (piece, mark[0]) for i, (mark, piece) in enumerate(frame['tokens'])}
  assert [len(moves) for moves in data['moves']] == [5, 2, 3]


def test_long_canvases_show_their_beginning(run):
  canvas = [*b'ab'] * 400
  trace = {'steps': [0, 1], 'canvases': [[MASK] * 800, canvas]}
  fill(run, samples=[SAMPLE | {'trace': trace}])
  assert len(traces.frames(trace, BYTES)[1]['tokens']) == 512
  assert '… and 288 more' in read(run).text


def test_newest_evaluation_of_each_data_set_and_newest_samples(run):
  newer = EVALUATION | {'bits_per_byte': 2.1111}
  other = EVALUATION | {'data': 'book.txt', 'bits_per_byte': 3.3333}
  samples = [SAMPLE | {'text': f'sample number {i}.'} for i in range(6)]
  fill(run, evaluations=[EVALUATION, other, newer], samples=samples)
  text = read(run).text
  assert '2.111' in text and '3.333' in text and '2.563' not in text
  assert re.findall(r'sample number (\d)\.', text) == ['5', '4', '3', '2']


@pytest.mark.parametrize(
  'file, sentence, command',
  [
    ('metrics.jsonl', 'No training records yet.', 'train --config=FILE'),
    ('eval.jsonl', 'No evaluation yet.', 'evaluate'),
    ('samples.jsonl', 'No samples yet.', 'sample'),
  ],
)
@pytest.mark.parametrize('empty', [False, True], ids=['missing', 'empty'])
def test_what_is_missing_is_named_with_its_command(run, file, sentence, command, empty):
  fill(run)
  assert sentence not in read(run).text
  (run / file).unlink()
  if empty:
    (run / file).touch()
  text = read(run).text
  assert sentence in text
  assert f'python -m ardiff_jax.{command} --workdir={run}' in text


def test_a_run_just_started_has_a_page(run):
  page = read(run)
  assert 'not trained yet' in page.text
  assert page.tags.count('img') == 1  # the hyperschedule


def test_records_of_one_split_alone_have_a_page(run):
  fill(run, metrics=[VALID], evaluations=[], samples=[])
  assert '≤ 2.610 bits per byte, validation at step 40' in read(run).text


def test_the_page_is_small_even_for_long_texts(run):
  content = workdir.read(run)
  content['config']['data']['length'] = 1024
  content['config']['hyperschedule'] |= {'name': 'slide', 'width': 64}
  workdir.write(run, content)
  canvas = [*b'text'] * 256
  trace = {
    'steps': list(range(12)),
    'canvases': [canvas[:i] + [MASK] * (1024 - i) for i in range(12)],
  }
  fill(run, samples=[SAMPLE | {'trace': trace}] * 4)
  assert report.write(run).stat().st_size < 1_500_000


def test_page_is_whole_or_as_before(run, monkeypatch):
  before = report.write(run).read_text()
  fill(run)

  def killed(source, target):
    assert '</html>' in source.read_text()  # complete before it takes the name
    raise KeyboardInterrupt

  monkeypatch.setattr(os, 'replace', killed)
  with pytest.raises(KeyboardInterrupt):
    report.write(run)
  assert (run / 'report.html').read_text() == before


def test_no_work_directory_is_refused(tmp_path):
  with pytest.raises(UserError, match=r'no config\.json'):
    report.write(tmp_path)
