"""Which rows the network runs over, to predict positions of a canvas.

A canvas of L positions has *slots*: aligned, a slot is a position; shifted, slot 0 is BOS and slot
p shows token p-1, because the row that shows a token predicts the next. Slots give the network its
positions, and the cache its places.

When shifted, the last settled token h predicts the window's first. With a causal window the
context row of h does so. With any other window it has to see the window, so it is shown a second
time: the window is h, clean, and then the active tokens, none of which sees the context row of h.

Shapes: B batch, L length, M slots, R rows, W window.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ardiff_jax import masks
from ardiff_jax.hyperschedules import Region
from ardiff_jax.masks import AttentionMask, Keys
from ardiff_jax.rows import Tiles

ALIGNMENTS = ('aligned', 'shifted')


@dataclasses.dataclass(frozen=True)
class Rules:
  """What rows show and see.

  Attributes:
    alignment: 'aligned' (a row predicts its own token) or 'shifted' (the next one).
    context: rule among settled tokens, one of `masks.CONTEXT_RULES`.
    window: rule among active tokens, one of `masks.WINDOW_RULES`.
    bos_id: token shown in front of position 0 when shifted.
    eos_id: token that ends a document.
    separate_documents: whether tokens see the context of their own document only. A window is in
      the document that its context ends in, which is all that generation knows.
    context_length: how many positions back a row sees context, its own included; 0 for all.
  """

  alignment: str
  context: str
  window: str
  bos_id: int
  eos_id: int
  separate_documents: bool
  context_length: int = 0

  @property
  def sight(self) -> masks.Sight:
    return masks.Sight(self.window, self.context_length or None)

  @property
  def shifted(self) -> bool:
    return self.alignment == 'shifted'

  @property
  def repeats_head(self) -> bool:
    """Whether the window starts with a second row of the last settled token."""
    return self.shifted and self.window not in ('causal', 'none')


class Layout(NamedTuple):
  """Rows of the network.

  Attributes:
    tokens: int32[B, R].
    sigma: float32[B, R], 0 for context.
    positions: int32[R] or int32[B, R].
    mask: who sees whom; None for everybody everybody.
    outputs: the rows that predict, in the order of what they predict: int32[W] or int32[B, W], or
      how many of the leading rows.
  """

  tokens: jax.Array
  sigma: jax.Array
  positions: jax.Array
  mask: AttentionMask | None
  outputs: jax.Array | int


class _Slots(NamedTuple):
  """Tokens int32[B, M], settle step int32[M] or int32[B, M], document int32[B, M] or None."""

  tokens: jax.Array
  settle_step: jax.Array
  segment: jax.Array | None

  @classmethod
  def of(cls, rules: Rules, canvas: jax.Array, settle_step: jax.Array) -> '_Slots':
    tokens, settle_step = slot_values(rules, canvas, rules.bos_id), jnp.asarray(settle_step)
    segment = None
    if rules.separate_documents:
      ends = (tokens == rules.eos_id).astype(jnp.int32)
      segment = jnp.cumsum(ends, axis=1) - (0 if rules.shifted else ends)
    return cls(tokens, slot_values(rules, settle_step, 0), segment)

  def segment_after(self, num_settled: jax.Array) -> jax.Array | None:
    """int32[B, ...], the document of a window that `num_settled` positions, int32[B, ...], precede;
    that of its first position."""
    if self.segment is None:
      return None
    at = jnp.minimum(num_settled, self.segment.shape[1] - 1)
    return jax.vmap(lambda segment, at: segment[at])(self.segment, at)


def slot_values(rules: Rules, values: jax.Array, of_bos: float) -> jax.Array:
  """Returns [..., M], the slots' values given those of the positions, [..., L], and of BOS."""
  return _prepend(values, of_bos) if rules.shifted else values


@jax.ensure_compile_time_eval()  # so that what is known of the mask stays known, see `masks.fix`
def one_row(
  rules: Rules,
  canvas: jax.Array,
  sigma: jax.Array,
  regions: jax.Array,
  settle_step: jax.Array,
  always_active: bool,
  anneal: masks.Anneal | None = None,
) -> Layout:
  """Returns rows that show every position at one row of the hyperschedule.

  Args:
    rules: what rows show and see.
    canvas: int32[B, L] in 0..V.
    sigma: float32[B, L].
    regions: int8[L] or int8[B, L].
    settle_step: int32[L]; with window none, also int32[B, L].
    always_active: whether every position is active, so that there is no context, static.
    anneal: a window between causal and full, where every position is active; None for the rule's.
  """
  length = canvas.shape[1]
  regions = jnp.broadcast_to(regions, canvas.shape)
  if rules.shifted and rules.window == 'none':
    return two_stream(rules, canvas, canvas, sigma, settle_step, regions)
  num_settled = (regions == Region.SETTLED).sum(axis=1, dtype=jnp.int32)
  if rules.repeats_head and not always_active:
    return tiled(
      rules,
      canvas,
      canvas,
      sigma,
      Tiles(
        tile=jnp.where(regions == Region.ACTIVE, 0, -1),
        num_settled=num_settled[:, None],
        settle_step=settle_step,
        num_tiles=1,
        num_context=length,
        span=None,
      ),
    )
  slots = _Slots.of(rules, canvas, settle_step)
  bos_region = Region.ACTIVE if rules.repeats_head else Region.SETTLED
  num_rows = length + rules.repeats_head  # else the last row predicts nothing and nobody sees it
  regions = slot_values(rules, regions, bos_region)[:, :num_rows]
  mask = None
  if not (always_active and rules.window == 'full' and anneal is None):
    segments = None
    if slots.segment is not None:
      segments = slots.segment[:, :num_rows], slots.segment_after(num_settled)
    mask = masks.fix(
      masks.from_regions(
        regions,
        slots.settle_step[..., :num_rows],
        context=rules.context,
        sight=rules.sight,
        segments=segments,
      ).replace(anneal=anneal)
    )
  return Layout(
    tokens=slots.tokens[:, :num_rows],
    sigma=slot_values(rules, sigma, 0.0)[:, :num_rows],
    positions=jnp.arange(num_rows),
    mask=mask,
    outputs=length,
  )


@jax.ensure_compile_time_eval()
def tiled(
  rules: Rules,
  clean: jax.Array,
  canvas: jax.Array,
  sigma: jax.Array,
  tiles: Tiles,
) -> Layout:
  """Returns rows that show every position noisy, in its own window, and clean, as context.

  Args:
    rules: what rows show and see.
    clean: int32[B, L].
    canvas: int32[B, L], noisy.
    sigma: float32[B, L], of the canvas.
    tiles: the windows.
  """
  length = canvas.shape[1]
  slots = _Slots.of(rules, clean, tiles.settle_step)
  place, tile, num_settled = (
    jnp.broadcast_to(x, canvas.shape) for x in (jnp.arange(length), tiles.tile, tiles.num_settled)
  )
  is_last = tile != jnp.concatenate([tile[:, 1:], jnp.full_like(tile[:, :1], -2)], axis=1)
  window = dict(
    tokens=canvas,
    sigma=sigma,
    place=place,
    tile=tile,
    reach=jnp.where(tile >= 0, num_settled - 1, -1),  # shifted: BOS is one more, h one less
    segment=slots.segment_after(num_settled),
  )
  outputs, span = length, tiles.span
  if rules.shifted:  # row i predicts token i: it shows the one before, or else is a head
    is_head = _prepend(is_last[:, :-1], True)
    before = slots.tokens[:, :length]
    window['tokens'] = jnp.where(is_head, before, _prepend(canvas[:, :-1], 0))
    window['sigma'] = jnp.where(is_head, 0.0, _prepend(sigma[:, :-1], 0.0))
  if rules.repeats_head:  # and each window's last token is seen, though it predicts nothing
    last = jnp.sort(jnp.where(is_last & (tile >= 0), place, length), axis=1)[:, : tiles.num_tiles]
    there, last = last < length, jnp.minimum(last, length - 1)
    of_last = lambda x: jnp.take_along_axis(x, last, axis=1)  # noqa: E731
    extra = {name: None if x is None else of_last(x) for name, x in window.items()}
    extra |= dict(tokens=of_last(canvas), sigma=of_last(sigma), place=last + 1)
    extra['tile'] = jnp.where(there, extra['tile'], -1)
    # sorted by place, a window's last before the next one's head, which shows the same token
    key = jnp.concatenate([2 * place + 1, jnp.where(there, 2 * last + 2, 2 * length + 1)], axis=1)
    order = jnp.argsort(key, axis=1, stable=True)
    window = jax.tree.map(
      lambda x, y: jnp.take_along_axis(jnp.concatenate([x, y], axis=1), order, axis=1),
      window,
      extra,
    )
    outputs = jnp.argsort(order, axis=1)[:, :length]
    span = None if span is None else span + 1

  num_slots = min(max(tiles.num_context + rules.shifted, 1), length)

  def join(x, context):
    context = jnp.broadcast_to(context, (canvas.shape[0], context.shape[-1]))
    return jnp.concatenate([x, context[:, :num_slots]], axis=1)

  position = join(window['place'], place)
  mask = AttentionMask(
    rank=join(jnp.full_like(window['tile'], masks.NEVER), masks.settling_rank(slots.settle_step)),
    reach=join(window['reach'], masks.context_reach(slots.settle_step, rules.context)),
    tile=join(window['tile'], jnp.full_like(tile, -1)),
    position=position,
    segment=None if slots.segment is None else join(window['segment'], slots.segment),
    sight=rules.sight,
    span=span,
    num_window=window['tile'].shape[1],
  )
  sigma = join(window['sigma'], jnp.zeros_like(sigma))
  tokens = join(window['tokens'], slots.tokens)
  return Layout(tokens, sigma, position, masks.fix(mask), outputs)


def two_stream(
  rules: Rules,
  clean: jax.Array,
  canvas: jax.Array,
  sigma: jax.Array,
  settle_step: jax.Array,
  regions: jax.Array | None = None,
) -> Layout:
  """Returns rows that predict every position from what settles before it, and rows of the context.

  For window rule none, of A3 (arXiv 2601.13228): the former are the query stream, the latter the
  content stream, and only the latter have keys. Aligned, a query shows its position's noise.
  Shifted, it shows the token before, if that has settled before, else noise in its place: in the
  order of the text its prediction is that of an autoregressive model.

  Args:
    rules: what rows show and see.
    clean: int32[B, L].
    canvas: int32[B, L], noise.
    sigma: float32[B, L], of the canvas.
    settle_step: int32[L] or int32[B, L], from 1.
    regions: int8[B, L], to predict active positions from settled ones; None to predict each from
      those that settle before it.
  """
  batch, length = canvas.shape
  settle_step = jnp.broadcast_to(settle_step, canvas.shape)
  tokens, settled_at = slot_values(rules, clean, rules.bos_id), slot_values(rules, settle_step, 0)
  rank = masks.settling_rank(settled_at)
  if regions is None:
    reach = masks.num_settled_by(settled_at, settle_step - 1) - 1
  else:
    reach = jnp.where(regions == Region.ACTIVE, masks.EVERYTHING, -1)
    rank = jnp.where(
      slot_values(rules, regions, Region.SETTLED) == Region.SETTLED, rank, masks.NEVER
    )
  shown, told = canvas, sigma
  if rules.shifted:
    known = (
      settled_at[:, :length] < settle_step if regions is None else rank[:, :length] < masks.NEVER
    )
    shown = jnp.where(known, tokens[:, :length], _prepend(canvas[:, :-1], 0))
    told = jnp.where(known, 0.0, _prepend(sigma[:, :-1], 0.0))
  num_slots = tokens.shape[1]
  join = lambda x, y: jnp.concatenate([x, y], axis=1)  # noqa: E731
  position = jnp.concatenate([jnp.arange(length), jnp.arange(num_slots)])
  mask = AttentionMask(
    rank=join(jnp.full(canvas.shape, masks.NEVER), rank),
    reach=join(reach, masks.context_reach(settled_at, rules.context)),
    tile=jnp.full((batch, len(position)), -1),
    position=jnp.broadcast_to(position, (batch, len(position))),
    segment=None,
    sight=rules.sight,
    num_unseen=length,
  )
  sigma = join(told, jnp.zeros((batch, num_slots)))
  return Layout(join(shown, tokens), sigma, position, mask, length)


def cached(
  rules: Rules,
  canvas: jax.Array,
  sigma: jax.Array,
  *,
  window: jax.Array,
  step: jax.Array,
  cached_step: jax.Array,
  settle_step: jax.Array,
  num_new: int,
) -> tuple[Layout, jax.Array]:
  """Returns rows that show the window at one row of the hyperschedule and then new context, and
  the slots of the latter, int32[num_new] or int32[B, num_new], -1 for none.

  Args:
    rules: what rows show and see.
    canvas: int32[B, L].
    sigma: float32[B, L].
    window: int32[W], active positions, ascending, without gaps when shifted, then -1.
    step: int32[], row of the hyperschedule.
    cached_step: int32[], row at which all settled slots are cached; -1 for none.
    settle_step: int32[L]; with window none, also int32[B, L].
    num_new: at least as many as have settled since `cached_step`, static.
  """
  slots = _Slots.of(rules, canvas, settle_step)
  is_new = (slots.settle_step > cached_step) & (slots.settle_step <= step)
  new = _where(is_new, num_new)
  num_settled = (jnp.asarray(settle_step) <= step).sum(axis=-1, keepdims=True, dtype=jnp.int32)
  active, shown, alone = window >= 0, window, rules.window == 'none'
  if rules.repeats_head:
    active, shown = _prepend(active, True), jnp.append(window, -1)
    shown = jnp.where(active & (shown < 0), jnp.roll(shown, 1) + 1, shown)
  shown, kept = jnp.maximum(shown, 0), jnp.maximum(new, 0)
  rows = jnp.concatenate([jnp.broadcast_to(shown, (*kept.shape[:-1], len(shown))), kept], axis=-1)
  is_clean = jnp.arange(rows.shape[-1]) >= len(shown)
  if rules.shifted and not alone:
    is_clean = is_clean.at[0].set(True)
  rank = masks.settling_rank(slots.settle_step)
  reach = masks.context_reach(slots.settle_step, rules.context)
  batch, num_slots = slots.tokens.shape
  wide = lambda x, count: jnp.broadcast_to(x, (batch, count))  # noqa: E731
  segment = None
  if slots.segment is not None:
    own = slots.segment_after(jnp.broadcast_to(num_settled, (batch, len(shown))))
    segment = jnp.concatenate([own, _at(slots.segment, kept)], axis=1)

  def of_rows(of_window, of_new, of_dead):
    of_window = jnp.where(active[None], wide(of_window, len(shown)), of_dead)
    of_new = jnp.where(wide(new < 0, num_new), of_dead, wide(of_new, num_new))
    return jnp.concatenate([of_window, of_new], axis=1)

  mask = AttentionMask(
    rank=of_rows(masks.NEVER, _at(rank, kept), masks.NEVER),
    # shifted, BOS is one more, and h one less, but where it is no window row
    reach=of_rows(num_settled - 1 + (rules.shifted and alone), _at(reach, kept), -1),
    tile=of_rows(-1 if alone else 0, -1, -1),
    position=wide(rows, rows.shape[-1]),
    segment=segment,
    cached=Keys(
      rank=wide(jnp.where(slots.settle_step <= cached_step, rank, masks.NEVER), num_slots),
      tile=None,
      position=wide(jnp.arange(num_slots), num_slots),
      segment=slots.segment,
    ),
    sight=rules.sight,
    num_unseen=len(window) if alone else 0,
  )
  sigma = jnp.where(is_clean[None], 0.0, _at(slot_values(rules, sigma, 0.0), rows))
  return Layout(_at(slots.tokens, rows), sigma, rows, mask, len(window)), new


def _where(chosen: jax.Array, size: int) -> jax.Array:
  """int32[..., size], where bool[..., M] is True, then -1."""
  first = lambda x: jnp.nonzero(x, size=size, fill_value=-1)[0]  # noqa: E731
  return jnp.vectorize(first, signature='(m)->(n)')(chosen)


def _at(values: jax.Array, slots: jax.Array) -> jax.Array:
  """Values [..., M] at slots int32[n], or each example's at its own, int32[B, n]."""
  return values[..., slots] if slots.ndim == 1 else jnp.take_along_axis(values, slots, axis=-1)


def _prepend(x: jax.Array, value: float) -> jax.Array:
  return jnp.concatenate([jnp.full_like(x[..., :1], value), x], axis=-1)
