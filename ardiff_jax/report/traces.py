"""Traces: how a canvas came to be, as frames to look at and as a page that plays them."""

import html
import pathlib
import uuid
from collections.abc import Sequence
from typing import Any

import jinja2
import markupsafe

from ardiff_jax.data.tokenizers import Tokenizer

_TRACE_TOKENS = 512  # of a canvas; longer ones show their beginning


def frames(trace: dict[str, Any], tokenizer: Tokenizer) -> list[dict[str, Any]]:
  """Returns how to show each canvas of a trace.

  Args:
    trace: 'steps', the S' steps of the canvases, and 'canvases', int[S', L] in 0..V.
    tokenizer: V is its vocab_size, the mask.

  Returns:
    Per canvas {'step': int, 'tokens': [(mark, piece)], 'hidden': int}: the first tokens, how many
    are left out, and a mark against the canvas before: 'mask', 'new' (was a mask), 'changed' (was
    another token) or 'old'. In the first canvas, tokens are old.
  """
  found = []
  before = trace['canvases'][0] if len(trace['canvases']) else []
  for step, canvas in zip(trace['steps'], trace['canvases'], strict=True):
    shown = canvas[:_TRACE_TOKENS]
    marks = [_mark(old, new, tokenizer.vocab_size) for old, new in zip(before, shown, strict=False)]
    tokens = list(zip(marks, tokenizer.pieces(shown), strict=True))
    found.append({'step': int(step), 'tokens': tokens, 'hidden': len(canvas) - len(shown)})
    before = canvas
  return found


def player(trace: dict[str, Any], tokenizer: Tokenizer) -> markupsafe.Markup:
  """Returns a piece of a page, for reports and notebooks, that plays a trace; see `frames`."""
  shown = frames(trace, tokenizer)
  moves = []  # of each frame, what differs from the one before: [place, piece, first of the mark]
  for number, frame in enumerate(shown):
    before = shown[number - 1]['tokens'] if number else [None] * len(frame['tokens'])
    pairs = enumerate(zip(before, frame['tokens'], strict=True))
    moves.append([[i, new[1], new[0][0]] for i, (old, new) in pairs if _differs(old, new)])
  data = {'steps': [frame['step'] for frame in shown], 'moves': moves}
  name = f'trace-{uuid.uuid4().hex}'
  template = environment().get_template('player.html')
  return markupsafe.Markup(template.render(id=name, last=shown[-1], data=data))


def page(traces: Sequence[dict[str, Any]], tokenizer: Tokenizer, title: str) -> str:
  """Returns a page of its own that plays traces."""
  players = '\n<hr>\n'.join(player(trace, tokenizer) for trace in traces)
  return (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width">\n'
    f'<title>{html.escape(title)}</title>\n'
    '<style>:root { color-scheme: light dark } body { max-width: 60em; margin: 2em auto; '
    'padding: 0 1em } hr { border: 0; border-top: 1px solid gray; margin: 1.5em 0 }</style>\n'
    f'</head>\n<body>\n{players}\n</body>\n</html>\n'
  )


def environment() -> jinja2.Environment:
  """Returns what fills the templates of this folder in."""
  return jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )


def _differs(old: tuple[str, str] | None, new: tuple[str, str]) -> bool:
  """Whether a token is another, or one that only now looks as it is."""
  return old is None or old[1] != new[1] or ('mask' in (old[0], new[0]) and old[0] != new[0])


def _mark(old: int, new: int, mask_id: int) -> str:
  if new == mask_id:
    return 'mask'
  if new == old:
    return 'old'
  return 'new' if old == mask_id else 'changed'
