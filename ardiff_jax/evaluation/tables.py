"""Records of `evaluate`, as text."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any


def of_likelihoods(records: Sequence[dict[str, Any]]) -> str:
  """Returns records of `evaluate.evaluate` as text: the model's figure, then the baselines."""
  lines = []
  for r in records:
    bound = r['kind'] == 'bound'
    error = 'a single sequence' if r['stderr'] is None else f'standard error {r["stderr"]:.4f}'
    lines += [
      f'{r["data"]}: {r["tokens"]:,} tokens ({r["tokenizer"]}), {r["bytes"]:,} bytes',
      *([f'  {r["note"]}'] if r['note'] else []),
      f'  {r["kind"]}: {r["law"]}',
      f'  perplexity {"≤ " if bound else ""}{r["perplexity"]:.2f} a token '
      f'= {r["nll_per_token"]:.4f} nats ({error}; process {r["process"]}, '
      + (f'{r["samples"]} draws a sequence)' if bound else 'no sampling)'),
      '',
      '  bits per byte',
      f'    {"this model":<16}{r["bits_per_byte"]:8.3f}',
      *(f'    {name:<16}{bits:8.3f}' for name, bits in r['baselines'].items()),
      '',
    ]
  return '\n'.join(lines)


def of_choices(records: Sequence[dict[str, Any]]) -> str:
  """Returns records of `evaluate.choose` as a Markdown table."""
  shown = lambda r, name, error: f'{r[name]:.3f} ± {r[error]:.3f}'  # noqa: E731
  return _markdown(
    records,
    {
      'accuracy': lambda r: shown(r, 'accuracy', 'stderr'),
      'per byte': lambda r: shown(r, 'accuracy_per_byte', 'stderr_per_byte'),
      'chance': lambda r: f'{r["chance"]:.3f}',
    },
  )


def of_infilling(records: Sequence[dict[str, Any]]) -> str:
  """Returns records of `evaluate.fill` as a Markdown table, and what `exact` is."""

  def column(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda r: (
      _figure(r[name], 3) + ('' if r['stderr'][name] is None else f' ± {r["stderr"][name]:.3f}')
    )

  names = {'exact': 'exact', 'rouge1': 'ROUGE-1', 'rouge2': 'ROUGE-2', 'rougeL': 'ROUGE-L'}
  table = _markdown(
    records,
    {
      **{title: column(name) for name, title in names.items()},
      'sampler': lambda r: f'{r["sampler"]}, temperature {r["temperature"]:g}',
    },
  )
  return table + (
    '\n\nexact: share of middles written as they were, of LAMBADA its last-word accuracy; the '
    'model is told how many tokens the right middle has'
  )


def of_judged(records: Sequence[dict[str, Any]]) -> str:
  """Returns records of `evaluate.judge` as text: each figure, then that of real text."""
  names = {
    'judge_nats': 'judge, nats',
    'judge_perplexity': 'perplexity',
    'entropy': 'entropy',
    **{f'distinct_{n}': f'distinct-{n}' for n in (1, 2, 3)},
    'self_bleu': 'self-BLEU',
    'repetition': 'rep-4',
  }
  lines = []
  for r in records:
    bending = r['controls'] or {}
    lines += [
      f'{r["data"]}: {r["texts"]} texts of {r["length"]} tokens'
      + (', encoded anew' if r['retokenised'] else ''),
      f'  {r["sampler"]} on {r["hyperschedule"]}, temperature {r["temperature"]}, '
      + ''.join(f'{name} {value}, ' for name, value in bending.items())
      + f'{r["network_calls"]} network calls, network in {r["dtype"]}, draws in float32',
      f'  judge {r["judge"]}, standard error {r["stderr"]:.3f} nats; real text: {r["real"]}',
      *([f'  beware: {r["flag"]}'] if r['flag'] else []),
      '',
      f'    {"":<12}{"texts":>8}{"real":>8}',
      *(
        f'    {title:<12}{_figure(r[name], 3):>8}{_figure(r[f"real_{name}"], 3):>8}'
        for name, title in names.items()
      ),
      f'    {"MAUVE":<12}{_figure(r["mauve"], 3):>8}{_figure(r["mauve_real"], 3):>8}   '
      + (r['refused'] or f'{r["mauve_texts"]} texts; real ones shuffled {r["mauve_shuffled"]:.3f}'),
      '',
    ]
  return '\n'.join(lines)


def _markdown(
  records: Sequence[dict[str, Any]], columns: dict[str, Callable[[dict[str, Any]], str]]
) -> str:
  """Returns a table of files of items: how many of them counted, then the columns."""
  columns = {
    'file': lambda r: pathlib.Path(r['data']).name,
    'items': lambda r: str(r['items']),
    'too long': lambda r: f'{r["cut"]} cut' if r['cut'] else str(r['too_long']),
    **columns,
  }
  rows = [[cell(r) for cell in columns.values()] for r in records]
  lines = [list(columns), ['---', *['---:'] * (len(columns) - 1)], *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _figure(value: float | None, digits: int) -> str:
  return '–' if value is None else f'{value:.{digits}f}'
