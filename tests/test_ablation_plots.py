"""Pictures of made-up sweeps, against what they are given."""

import re

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import FillBetweenPolyCollection, QuadMesh
from test_ablation_results import NAMES, course, draft, failure, generated, repair, sweep

from ardiff_jax import plots
from ardiff_jax.ablation import looks, quality_plots, revision_plots, score_plots
from ardiff_jax.ablation import records as lib


def points(axes):
  """Of each method with error bars: x, y and the half widths of the upright ones."""
  found = {}
  for container in axes.containers:
    line, _, bars = container.lines
    widths = [s[1, 1] - s[0, 1] if len(s) else np.nan for s in bars[1].get_segments()]
    found[container.get_label()] = (*line.get_data(), np.array(widths) / 2)
  return found


def test_quality_is_drawn_against_calls():
  figure = quality_plots.quality_against_calls(sweep())
  nats_ar, nats_diffusion, entropy_ar, _ = figure.axes
  assert [axes.get_title() for axes in figure.axes[:2]] == ['draft: ar', 'draft: diffusion']
  for axes in (nats_ar, nats_diffusion):
    drawn = points(axes)
    assert list(drawn) == list(NAMES)
    for rank, name in enumerate(NAMES):
      calls, nats, errors = drawn[name]
      np.testing.assert_allclose(calls, [4 - rank, 16 - rank])
      np.testing.assert_allclose(nats, [4.9 - rank] * 2)  # 5, 4.9 and 4.8
      np.testing.assert_allclose(errors, [0.1 / 3**0.5] * 2, rtol=1e-6)
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
  _, nats, errors = points(quality_plots.quality_against_calls(records).axes[0])['learned gate']
  np.testing.assert_array_equal(nats, [3.0, 3.0])
  assert np.isnan(errors).all()


def dashed(axes):
  """Of each dashed line that crosses a panel: 'x' or 'y', and where."""
  lines = [line for line in axes.lines if line.get_linestyle() == '--']
  return [
    ('x', line.get_xdata()[0]) if len(set(line.get_xdata())) == 1 else ('y', line.get_ydata()[0])
    for line in lines
  ]


def test_quality_is_drawn_against_diversity():
  """Points of a line are joined by temperature, though the entropy goes back at the last."""
  records = [
    generated(
      *(name, seed, temperature),
      judge_nats=3.0 + rank + temperature + 0.1 * seed,
      mauve=0.5 + 0.1 * temperature - 0.01 * seed,
      entropy=(4.0 + rank, 4.5 + rank, 4.2 + rank)[number],
      real_entropy=4.9 + 0.1 * seed,
      mauve_real=0.95 + 0.01 * seed,
    )
    for rank, name in enumerate(NAMES[:2])
    for number, temperature in ((2, 1.0), (0, 0.7), (1, 0.8))
    for seed in range(3)
  ]
  records += [draft('draft', judge_nats=1.0), failure('prior alone', 'no') | {'task': 'generation'}]
  figure = quality_plots.quality_against_diversity(records)
  left, right = figure.axes
  half = 0.1 / 3**0.5
  for rank, name in enumerate(NAMES[:2]):
    nats = 3.1 + rank + np.array([0.7, 0.8, 1.0])
    entropy, perplexity, _ = points(left)[name]
    np.testing.assert_allclose(entropy, np.array([4.0, 4.5, 4.2]) + rank)
    np.testing.assert_allclose(perplexity, np.exp(nats))
    _, _, (_, upright) = left.containers[rank].lines
    ends = np.array([segment[:, 1] for segment in upright.get_segments()])
    np.testing.assert_allclose(ends, np.exp([nats - half, nats + half]).T)
    entropy, mauve, errors = points(right)[name]
    np.testing.assert_allclose(entropy, np.array([4.0, 4.5, 4.2]) + rank)
    np.testing.assert_allclose(mauve, [0.56, 0.57, 0.59])
    np.testing.assert_allclose(errors, [half / 10] * 3)
  assert list(points(left)) == list(points(right)) == list(NAMES[:2])
  assert (left.get_yscale(), right.get_yscale()) == ('log', 'linear')
  assert left.get_shared_x_axes().joined(left, right)
  assert left.get_ylabel() == 'judge perplexity (less is better)'
  assert right.get_ylabel() == 'MAUVE (more is better)'
  assert {axes.get_xlabel() for axes in (left, right)} == {"entropy of a text's tokens, nats"}
  ((side, real),) = dashed(left)
  assert (side, real) == ('x', pytest.approx(5.0)) and left.get_xlim()[1] > 5.0
  assert dashed(right) == [('x', real), ('y', pytest.approx(0.96))]
  (legend,) = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == [*NAMES[:2], 'real text']


def test_diversity_without_mauve_or_real_text_is_drawn():
  records = [
    generated(name, seed, judge_nats=3.0, entropy=4.0) for name in NAMES for seed in range(2)
  ]
  figure = quality_plots.quality_against_diversity(records)
  left, right = figure.axes
  assert list(points(left)) == list(NAMES) and not points(right)
  assert [text.get_text() for text in right.texts] == ['MAUVE was not computed']
  assert not left.texts and not dashed(left) and not dashed(right)
  assert [text.get_text() for text in figure.legends[0].get_texts()] == list(NAMES)
  figure = quality_plots.quality_against_diversity([*records, generated('oracle', entropy=4.0)])
  assert list(points(figure.axes[0])) == list(NAMES)
  only = [generated('oracle', entropy=4.0, mauve=0.5)]
  left, right = quality_plots.quality_against_diversity(only).axes
  assert [text.get_text() for text in left.texts] == ['no judge read the texts']
  assert list(points(right)) == ['oracle'] and not right.texts


def test_generation_is_drawn_against_calls():
  records = [
    generated(name, seed, calls=calls, judge_nats=nats + 0.1 * seed, entropy=4.0, **real)
    | {'settings': {'steps': int(calls)}}
    for name, nats in (('learned gate', 3.0), ('linear gate', 4.0))
    for calls in (32.0, 8.0)
    for seed in (0, 1)
    for real in [{'real_judge_nats': 2.5, 'real_entropy': 4.2}]
  ]
  figure = quality_plots.generation_against_calls(records)
  judged, entropy = figure.axes
  lines = {container.get_label(): container.lines[0] for container in judged.containers}
  np.testing.assert_allclose(lines['linear gate'].get_xdata(), [8.0, 32.0])
  np.testing.assert_allclose(lines['linear gate'].get_ydata(), [4.05, 4.05])
  for axes, real in ((judged, 2.5), (entropy, 4.2)):
    assert axes.get_xscale() == 'log'
    assert real in [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == '--']
  assert figure.legends[0].get_texts()[-1].get_text() == 'real text'


def test_scores_are_means_with_errors_and_bounds_are_hollow():
  records = [
    repair(name, seed, nats=nats + 0.1 * seed, exact=exact)
    | {'task': 'likelihood', 'settings': {'order': order, 'rows': rows}}
    for name, nats, exact, tried in (('AR', 2.0, 1.0, (1,)), ('MDLM', 3.0, 0.0, (1, 2)))
    for order in ('', 'strided,width=8')
    for rows in tried
    for seed in (0, 1)
  ]
  figure = score_plots.scores(records[:-2], 'nats', 'nats', 'order')
  assert [axes.get_title() for axes in figure.axes] == ['own order', 'strided,width=8']
  names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
  assert names == ['AR, rows 1', 'MDLM, rows 1', 'MDLM, rows 2']
  own, strided = (
    [(*point.lines[0].get_xydata()[0], point.lines[0].get_markerfacecolor()) for point in points]
    for points in (axes.containers for axes in figure.axes)
  )
  exact = plots.TRAIN
  assert own == [(2.05, 0, exact), (3.05, 1, 'white'), (3.05, 2, 'white')]
  assert strided == own[:2]
  (error,) = figure.axes[0].containers[0].lines[2]
  (ends,) = error.get_segments()
  np.testing.assert_allclose(ends[1, 0] - ends[0, 0], 2 * 0.05, rtol=1e-4)
  assert [x.get_text() for x in figure.legends[0].get_texts()] == ['upper bound', 'exact']


def test_guessing_is_drawn_beside_choices():
  records = [
    repair('AR', accuracy=0.4, chance=chance) | {'settings': {'file': f'/data/{name}.jsonl'}}
    for name, chance in (('hellaswag', 0.25), ('piqa', 0.5))
  ]
  figure = score_plots.scores(records, 'accuracy', 'right', 'file')
  assert [axes.get_title() for axes in figure.axes] == ['hellaswag.jsonl', 'piqa.jsonl']
  for axes, chance in zip(figure.axes, (0.25, 0.5), strict=True):
    (dashed,) = (line for line in axes.lines if line.get_linestyle() == '--')
    assert set(dashed.get_xdata()) == {chance}
  assert [x.get_text() for x in figure.legends[0].get_texts()] == ['guessing']


def test_a_narrow_range_of_perplexities_has_figures_on_its_axis():
  records = [generated(NAMES[0], judge_nats=np.log(x), entropy=x) for x in (23.0, 24.0)]
  records[1]['settings']['temperature'] = 0.7
  figure = quality_plots.quality_against_diversity(records)
  figure.draw_without_rendering()
  axes = figure.axes[0]
  low, high = axes.get_ylim()
  shown = [float(x.get_text()) for x in axes.get_yticklabels() if x.get_text()]
  assert low < 23.0 and high > 24.0 and sum(low <= x <= high for x in shown) >= 2


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
  figure = revision_plots.edit_map(records)
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
  figure = revision_plots.signals(records)
  titles = [axes.get_title() for axes in figure.axes]
  assert titles == [title for title, _ in revision_plots._SIGNALS.values()] + ['']
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
  entropy, margin, *_ = revision_plots.signals(records).axes
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
  (axes,) = revision_plots.radar(records).axes
  assert [label.get_text() for label in axes.get_xticklabels()] == [
    *('fixed', '1 − harmed', 'precision', 'recall', 'F1', 'AUC')
  ]
  full, sparse = axes.lines
  np.testing.assert_allclose(full.get_xdata()[:-1], np.arange(6) * np.pi / 3)
  np.testing.assert_allclose(full.get_ydata(), [0.6, 0.8, 0.9, 0.7, 0.5, 0.8, 0.6])
  np.testing.assert_array_equal(sparse.get_ydata(), [0.2, *[np.nan] * 5, 0.2])
  with pytest.raises(ValueError, match=r'\[0\.15, 0\.3\]'):
    revision_plots.radar([*records, repair('learned gate', corrupted=0.3)])


def test_bars_are_means_with_errors_for_each_share():
  oracle = repair('oracle', corrupted=0.3, f1=1.0)
  figure = revision_plots.bars(
    [*sorted(sweep(), key=lambda r: -r['settings'].get('corrupted', 0)), oracle]
  )
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
  np.testing.assert_allclose(lengths[:3], [2 * 0.01 / 3**0.5] * 3, rtol=1e-6)
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
  for draw in (revision_plots.signals, revision_plots.radar):
    axes = draw(records).axes[0]
    assert [line.get_label() for line in axes.lines] == [f'method {i}' for i in range(8)]
  assert revision_plots.radar(records).legends[0].get_title().get_text() == '8 of 10 methods'
  assert (
    revision_plots.signals(records).axes[-1].get_legend().get_title().get_text()
    == '8 of 10 methods'
  )
  assert revision_plots.edit_map(records).get_suptitle() == '8 of 10 methods'
  assert revision_plots.radar(many(8)).legends[0].get_title().get_text() == ''
  assert len(revision_plots.bars(records).axes[0].get_yticklabels()) == 10


def test_shown_methods_look_as_their_place_says():
  shown = ['method 9', 'elsewhere', 'method 2']
  for draw in (revision_plots.signals, revision_plots.radar):
    lines = draw(many(10), shown).axes[0].lines
    found = [looks.Look(line.get_color(), line.get_marker()) for line in lines]
    assert [line.get_label() for line in lines] == ['method 9', 'method 2']
    assert found == [looks.LOOKS[0], looks.LOOKS[2]]
  titles = [axes.get_title() for axes in revision_plots.edit_map(many(10), shown).axes]
  assert titles == ['method 9', 'method 2', '']
  with pytest.raises(ValueError, match='9 methods'):
    revision_plots.radar(many(10), [f'method {i}' for i in range(9)])


def test_methods_differ_in_colour_and_in_marker():
  assert len(looks.LOOKS) == looks.MAX_METHODS
  assert all(len(set(part)) == looks.MAX_METHODS for part in zip(*looks.LOOKS, strict=True))


@pytest.mark.parametrize(
  'draw',
  [
    quality_plots.quality_against_calls,
    quality_plots.quality_against_diversity,
    quality_plots.generation_against_calls,
    lambda records: score_plots.scores(records, 'accuracy', 'right', 'file'),
    revision_plots.edit_map,
    revision_plots.signals,
    revision_plots.radar,
    revision_plots.bars,
  ],
)
def test_no_records_are_said_to_be_none(draw):
  figure = draw([failure('learned gate', 'no')])
  assert 'no records yet' in [text.get_text() for axes in figure.axes for text in axes.texts]


def test_pictures_leave_no_state_and_are_the_same_again():
  before = dict(mpl.rcParams)
  first = plots.to_svg(revision_plots.bars(sweep()))
  assert dict(mpl.rcParams) == before
  assert first == plots.to_svg(revision_plots.bars(sweep()))
  assert re.search(r'<svg [^>]*viewBox', first)
