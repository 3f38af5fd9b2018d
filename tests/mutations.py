"""Puts faults into the package, one at a time, and says which test catches each.

  python tests/mutations.py [--jobs=2] [--only=WORD] [--control]

Every fault of `FAULTS` is put into a copy of the tree, in which the test file that must catch it is
run until its first failure. A fault that no test catches, or a test file that cannot even be run,
ends the program with status 1. It is no part of the suite, being as long as a good part of it; what
is checked there is that each fault still fits the package (`test_mutations.py`).
"""

import argparse
import concurrent.futures
import dataclasses
import os
import pathlib
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent

_MOST_SECONDS = 900  # of a run; a fault may make one that never ends


@dataclasses.dataclass(frozen=True)
class Fault:
  """A fault in one place.

  Attributes:
    name: what is wrong, in words.
    file: where.
    old: what is written there, exactly once.
    new: what is written there instead.
    test: file of tests/ that must fail.
  """

  name: str
  file: str
  old: str
  new: str
  test: str

  def put_into(self, text: str) -> str:
    """Returns the text of the file with the fault in it.

    Raises:
      ValueError: it does not hold `old` exactly once.
    """
    if (count := text.count(self.old)) != 1:
      raise ValueError(f'{self.file} holds {count} times {self.old!r}, and not once')
    return text.replace(self.old, self.new)


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What became of a fault.

  Attributes:
    verdict: 'caught', 'missed', or 'broken' if the tests did not run as they should.
    by: the test that caught it; or why it is broken.
    seconds: that the tests took.
  """

  verdict: str
  by: str
  seconds: float = 0.0


FAULTS = (
  Fault(
    'precision lost: 1 - exp in place of expm1',
    'ardiff_jax/noise.py',
    'return -jnp.expm1(exponent * log_ratio)',
    'return 1.0 - jnp.exp(exponent * log_ratio)',
    'test_noise.py',
  ),
  Fault(
    'with delta, something is left of a token at t = 1',
    'ardiff_jax/noise.py',
    'return jnp.where(t < 1.0, left + self.delta * (1.0 - left), 0.0)',
    'return left + self.delta * (1.0 - left)',
    'test_noise.py',
  ),
  Fault(
    'precision lost: a sure prediction has the loss of a difference',
    'ardiff_jax/divergences.py',
    'return jax.nn.softplus(jax.nn.logsumexp(others, axis=-1) - _entry(logits, x0))',
    'return jax.nn.logsumexp(logits, axis=-1) - _entry(logits, x0)',
    'test_divergences.py',
  ),
  Fault(
    'a row of a causal window does not see itself',
    'ardiff_jax/masks.py',
    "together &= k.position <= q.position + (sight.window == 'causal_next')",
    "together &= k.position < q.position + (sight.window == 'causal_next')",
    'test_masks.py',
  ),
  Fault(
    'context is seen one position too far back',
    'ardiff_jax/masks.py',
    'context &= k.position > q.position - sight.context_length',
    'context &= k.position >= q.position - sight.context_length',
    'test_layouts.py',
  ),
  Fault(
    'any order: a query sees its own group, and its own token',
    'ardiff_jax/models/layouts.py',
    'reach = masks.num_settled_by(settled_at, settle_step - 1) - 1',
    'reach = masks.num_settled_by(settled_at, settle_step) - 1',
    'test_any_order.py',
  ),
  Fault(
    'what has just settled is seen in the cache before it is written there',
    'ardiff_jax/models/layouts.py',
    'rank=wide(jnp.where(slots.settle_step <= cached_step, rank, masks.NEVER), num_slots),',
    'rank=wide(jnp.where(slots.settle_step <= step, rank, masks.NEVER), num_slots),',
    'test_any_order.py',
  ),
  Fault(
    'dropout is left on in evaluation',
    'ardiff_jax/models/denoiser.py',
    "    dropout = {} if dropout_key is None else {'dropout': dropout_key}\n"
    '    features, _ = self._blocks(params, layout, deterministic=dropout_key is None, '
    'rngs=dropout)\n',
    "    dropout = {'dropout': jax.random.key(0) if dropout_key is None else dropout_key}\n"
    '    features, _ = self._blocks(params, layout, deterministic=False, rngs=dropout)\n',
    'test_transformer.py',
  ),
  Fault(
    'gate: a token whose likelihood falls is doubted less',
    'ardiff_jax/models/gate.py',
    'signs = np.float32([1.0, -1.0, -1.0, 1.0])',
    'signs = np.float32([1.0, -1.0, 1.0, 1.0])',
    'test_gate.py',
  ),
  Fault(
    'gate: signals are standardised over the batch',
    'ardiff_jax/models/gate.py',
    '  count = jnp.maximum(valid.sum(axis=-1, keepdims=True), 1)\n'
    '  mean = jnp.where(valid, x, 0.0).sum(axis=-1, keepdims=True) / count\n'
    '  var = jnp.where(valid, jnp.square(x - mean), 0.0).sum(axis=-1, keepdims=True) / count\n',
    '  count = jnp.maximum(valid.sum(keepdims=True), 1)\n'
    '  mean = jnp.where(valid, x, 0.0).sum(keepdims=True) / count\n'
    '  var = jnp.where(valid, jnp.square(x - mean), 0.0).sum(keepdims=True) / count\n',
    'test_gate.py',
  ),
  Fault(
    "gate: its signals' gradient reaches the denoiser that is tuned along",
    'ardiff_jax/objectives/gate.py',
    'told = jax.lax.stop_gradient(log_law)',
    'told = log_law',
    'test_gate.py',
  ),
  Fault(
    'the weight of a mask is cut off at t near 0',
    'ardiff_jax/objectives/likelihood.py',
    'masked_weight = change_BxL / jnp.where(t_BxL > 0.0, t_BxL, 1.0)',
    'masked_weight = change_BxL / jnp.maximum(t_BxL, 0.01)',
    'test_objectives.py',
  ),
  Fault(
    'the importance of a visible token is cut off at t near 1',
    'ardiff_jax/objectives/likelihood.py',
    'visible_weight /= jnp.maximum(1.0 - t_BxL, 1e-4)',
    'visible_weight /= jnp.maximum(1.0 - t_BxL, 0.1)',
    'test_objectives.py',
  ),
  Fault(
    'latents: the table is drawn to what is estimated',
    'ardiff_jax/objectives/latents.py',
    'error = jnp.square(found - jax.lax.stop_gradient(z_0)).mean(axis=-1)',
    'error = jnp.square(found - z_0).mean(axis=-1)',
    'test_latents.py',
  ),
  Fault(
    'latents: a text that rests takes a new estimate if its neighbours move',
    'ardiff_jax/sampling/latents.py',
    'before = jnp.where(moves.any(axis=1, keepdims=True), found, before)',
    'before = found',
    'test_latents.py',
  ),
  Fault(
    'every step of sampling has the same coins',
    'ardiff_jax/sampling/loop.py',
    "jax.random.uniform(rng.stream(key, 'step', step), (2, len(row.place)))",
    "jax.random.uniform(rng.stream(key, 'step'), (2, len(row.place)))",
    'test_steppers.py',
  ),
  Fault(
    'top_p leaves out the token that reaches it',
    'ardiff_jax/sampling/controls.py',
    'before = jnp.cumsum(jax.nn.softmax(descending), axis=-1) - jax.nn.softmax(descending)',
    'before = jnp.cumsum(jax.nn.softmax(descending), axis=-1)',
    'test_controls.py',
  ),
  Fault(
    'all sequences of a bound have the same noise',
    'ardiff_jax/bounds.py',
    "rng.stream(key, 'noise', number, draw)",
    "rng.stream(key, 'noise', draw)",
    'test_bounds.py',
  ),
  Fault(
    'every update has the same noise',
    'ardiff_jax/training/step.py',
    "noise_key = rng.stream(root_key, 'noise', state.step)",
    "noise_key = rng.stream(root_key, 'noise')",
    'test_training.py',
  ),
  Fault(
    'microbatches weigh alike, whatever they count',
    'ardiff_jax/training/step.py',
    '      return jax.tree.map(jnp.add, carry, (count, stops, loss, grads)), None\n',
    '      loss, grads = jax.tree.map(lambda x: x / jnp.maximum(count, 1.0), (loss, grads))\n'
    '      return jax.tree.map(jnp.add, carry, (1.0, stops, loss, grads)), None\n',
    'test_training.py',
  ),
  Fault(
    'a checkpoint holds the parameters in place of their average',
    'ardiff_jax/training/checkpointing.py',
    'return core, state.ema',
    'return core, state.params',
    'test_training.py',
  ),
  Fault(
    'training evaluates the parameters in place of their average',
    'ardiff_jax/training/loop.py',
    'scalars = _evaluate(config, prepared, state.ema, step, mesh, writer)',
    'scalars = _evaluate(config, prepared, state.params, step, mesh, writer)',
    'test_training.py',
  ),
  Fault(
    'a resumed run begins the text anew',
    'ardiff_jax/training/checkpointing.py',
    '      iterator.set_state(restored.data)\n',
    '',
    'test_training.py',
  ),
  Fault(
    'every process reads the first rows of the batch',
    'ardiff_jax/data/pipeline.py',
    'for row in rows[part]]',
    'for row in rows[: len(part)]]',
    'test_packing.py',
  ),
  Fault(
    'a row that fills up the last batch is counted',
    'ardiff_jax/data/pipeline.py',
    "batch['loss_mask'][count:] = False",
    "batch['loss_mask'][count + 1 :] = False",
    'test_packing.py',
  ),
  Fault(
    'guided rows: what the last shares with the one before is counted twice',
    'ardiff_jax/data/guided.py',
    "counted = (np.arange(self.length) >= self.length - size) & plain['loss_mask']",
    'counted = np.arange(self.length) >= self.length - size',
    'test_guided.py',
  ),
  Fault(
    'a literal underline of sentencepiece is lost',
    'ardiff_jax/data/tokenizers.py',
    'ids += self._underline_ids + self._model.encode(part)',
    'ids += self._model.encode(part)',
    'test_tokenizers.py',
  ),
  Fault(
    'n-grams: the ends of documents count as bytes',
    'ardiff_jax/evaluation/ngrams.py',
    'num_bytes += np.count_nonzero(c != _END)',
    'num_bytes += len(c)',
    'test_ngrams.py',
  ),
  Fault(
    'over budget, the best edits of a draft are taken back',
    'ardiff_jax/refinement.py',
    "worst = edits[np.argsort(-gain[edits], kind='stable')][most:]",
    "worst = edits[np.argsort(gain[edits], kind='stable')][most:]",
    'test_refinement.py',
  ),
  Fault(
    'a square matrix is imported transposed',
    'ardiff_jax/checkpoints/layouts.py',
    "    linear(f'{theirs}.attn_out', (*ours, 'attention_out'), (width, width), i, bias=False)\n",
    "    path = (*ours, 'attention_out', 'kernel')\n"
    "    found[f'{theirs}.attn_out.weight'] = Tensor((width, width), (path,), i)\n",
    'test_checkpoints.py',
  ),
)


def copy_tree(folder: pathlib.Path) -> pathlib.Path:
  """Copies what git has or would take into a folder, with the data beside it; returns the copy."""
  command = ['git', 'ls-files', '-coz', '--exclude-standard']
  listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
  tree = folder / ROOT.name
  for name in filter(None, listed.split('\0')):
    if (ROOT / name).is_file():  # it may have been deleted
      (tree / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(ROOT / name, tree / name)
  if (shared := ROOT.parent / 'shared').exists():
    (folder / 'shared').symlink_to(shared)
  return tree


def check(fault: Fault, tree: pathlib.Path, control: bool = False) -> Outcome:
  """Puts a fault into a copy of the tree, runs the tests that must fail, and takes it out again.

  Args:
    fault: which.
    tree: the copy.
    control: whether the test that fails is run once more, without the fault.
  """
  file = tree / fault.file
  text = file.read_text()
  try:
    faulty = fault.put_into(text)
  except ValueError as error:
    return Outcome('broken', str(error))
  try:
    file.write_text(faulty)
    outcome = run_tests(f'tests/{fault.test}', tree)
  finally:
    file.write_text(text)
  if control and outcome.verdict == 'caught':
    again = run_tests(outcome.by, tree)
    if again.verdict != 'missed':
      return dataclasses.replace(outcome, verdict='broken', by=f'{outcome.by} fails without it')
  return outcome


def run_tests(which: str, tree: pathlib.Path) -> Outcome:
  """Runs tests until the first fails."""
  # a module compiled in the same second as another of the same size would be taken for it
  env = os.environ | {'PYTHONDONTWRITEBYTECODE': '1'}
  if 'ARDIFF_DATA' in env:
    env['ARDIFF_DATA'] = os.path.abspath(env['ARDIFF_DATA'])
  command = [sys.executable, '-m', 'pytest', which, '-x', '-q', '-n', '0']
  began = time.monotonic()
  try:
    run = subprocess.run(
      command,
      cwd=tree,
      env=env,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      timeout=_MOST_SECONDS,
    )
  except subprocess.TimeoutExpired:
    return Outcome('broken', f'it ran for more than {_MOST_SECONDS} seconds', _MOST_SECONDS)
  verdict, by = read_verdict(run.returncode, run.stdout)
  return Outcome(verdict, by, time.monotonic() - began)


def read_verdict(status: int, output: str) -> tuple[str, str]:
  """Returns verdict and reason of an `Outcome`, of the status of pytest and what it printed."""
  failed = re.search(r'^FAILED (.+?)(?: - .*)?$', output, re.MULTILINE)
  if status == 0:
    return 'missed', ''
  if status == 1 and failed:
    return 'caught', failed[1]
  last = output.strip().rpartition('\n')[2]
  return 'broken', f'pytest ended with status {status}: {last}'


def print_table(outcomes: dict[int, Outcome]) -> None:
  """Prints the outcome of each fault, by its place in FAULTS."""
  rows = [('', 'fault', 'file', 's', 'caught by')]
  for place, outcome in sorted(outcomes.items()):
    fault = FAULTS[place]
    by = outcome.by.removeprefix('tests/')
    by = by if outcome.verdict == 'caught' else f'{outcome.verdict.upper()} {by}'
    file = fault.file.removeprefix('ardiff_jax/')
    rows.append((str(place + 1), fault.name, file, f'{outcome.seconds:.0f}', by))
  sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
  for number, name, file, seconds, by in rows:
    left = f'{number:>{sizes[0]}}  {name:<{sizes[1]}}  {file:<{sizes[2]}}'
    print(f'{left}  {seconds:>{sizes[3]}}  {by}'.rstrip())


def main() -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--jobs', type=int, default=2, help='faults at a time')
  parser.add_argument(
    '--only', default='', metavar='WORD', help='faults in whose name, file or test this occurs'
  )
  parser.add_argument(
    '--control', action='store_true', help='run each test that fails once more without the fault'
  )
  flags = parser.parse_args()
  chosen = [
    place
    for place, fault in enumerate(FAULTS)
    if flags.only in f'{fault.name} {fault.file} {fault.test}'
  ]
  if not chosen:
    parser.error(f'no fault is of {flags.only!r}')
  if flags.jobs < 1:
    parser.error('--jobs must be at least 1')

  trees: queue.Queue[pathlib.Path] = queue.Queue()

  def one(place: int) -> Outcome:
    tree = trees.get()
    try:
      return check(FAULTS[place], tree, flags.control)
    finally:
      trees.put(tree)

  outcomes = {}
  with (
    tempfile.TemporaryDirectory(prefix='mutations_') as folder,
    concurrent.futures.ThreadPoolExecutor(flags.jobs) as pool,
  ):
    for job in range(flags.jobs):
      trees.put(copy_tree(pathlib.Path(folder) / str(job)))
    started = {pool.submit(one, place): place for place in chosen}
    try:
      for done in concurrent.futures.as_completed(started):
        place = started[done]
        outcome = outcomes[place] = done.result()
        told = f'{outcome.verdict:<6}  {outcome.seconds:3.0f} s  {FAULTS[place].name}'
        print(f'{len(outcomes):2}/{len(chosen)}  {told}', file=sys.stderr, flush=True)
    finally:
      pool.shutdown(cancel_futures=True)
  print_table(outcomes)
  caught = sum(outcome.verdict == 'caught' for outcome in outcomes.values())
  print(f'\n{caught} of {len(chosen)} faults caught')
  return 0 if caught == len(chosen) else 1


if __name__ == '__main__':
  sys.exit(main())
