"""The launch scripts, against programs that stand in for python, gcloud, srun and the like."""

import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import time

import pytest
import yaml
from absl import flags
from commands import Fork, run
from conftest import ROOT
from ml_collections import config_flags

from ardiff_jax.ablation import sweep as sweep_lib
from ardiff_jax.training import loop

SCRIPTS = sorted([*ROOT.glob('launch/*.sh'), *ROOT.glob('launch/*.sbatch')])
TRICKY = [  # must arrive as they are, through however many shells
  '--config=configs/ar.py:tiny',
  "--config.gate.signals=('entropy', 'margin')",
  '--config.data.source=my text.txt,$HOME/`b`;c',
  """--config.data.tfds_text_key="it's" \\ & *""",
  '--config.init_from=',
]


@pytest.fixture
def programs(tmp_path, monkeypatch):
  """Returns a function that puts a bash script on the PATH, before all others."""
  folder = tmp_path / 'programs'
  folder.mkdir()
  monkeypatch.setenv('PATH', f'{folder}:{os.environ["PATH"]}')
  for name in ('CUDA_VISIBLE_DEVICES', 'PYTHON', 'JAX_PLATFORMS', 'SPOT', 'NUM_SLICES', 'DRY_RUN'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('CALLS', str(tmp_path / 'calls'))

  def put(name: str, script: str) -> str:
    path = folder / name
    path.write_text(f'#!/usr/bin/env bash\n{script}\n')
    path.chmod(0o755)
    return str(path)

  return put


def launch(*arguments, env=None):
  command = [str(x) for x in arguments]
  return subprocess.run(
    command, cwd=ROOT, env=os.environ | (env or {}), capture_output=True, text=True, timeout=120
  )


def words(line: str) -> list[str]:
  return shlex.split(line)


def wait_for(condition, seconds=20):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.02)


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda x: x.name)
def test_shellcheck_has_nothing_to_say(script):
  shellcheck = pathlib.Path(sys.executable).parent / 'shellcheck'
  exclude = '--exclude=SC2119'  # prepare_env has arguments of its own, not the script's
  result = launch(shellcheck, '--external-sources', exclude, script.relative_to(ROOT))
  assert result.returncode == 0, result.stdout


# local_multiprocess.sh


def fake_python(programs, body: str) -> dict:
  """Returns the environment in which `body` stands for train; it finds its number in I."""
  script = 'for flag; do case $flag in --process_id=*) I=${flag#*=} ;; esac; done\n' + body
  return {'PYTHON': programs('fake_python', script), 'JAX_PLATFORMS': 'cpu'}


def test_local_processes_get_their_flags_and_logs(programs, tmp_path):
  env = fake_python(programs, 'printf "%s\\n" "$@" >"$CALLS.$I"; echo "I am $I"; echo "err $I" >&2')
  workdir = tmp_path / 'run'
  result = launch(
    'bash', 'launch/local_multiprocess.sh', 3, f'--workdir={workdir}', *TRICKY, env=env
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout == 'I am 0\n' and 'err 0\n' in result.stderr
  assert f'{workdir}/process_I.log' in result.stderr
  ports = set()
  for i in range(3):
    module, *got = (tmp_path / f'calls.{i}').read_text().splitlines()[1:]
    assert module == 'ardiff_jax.train'
    ports.add(got.pop(-3))
    assert got == [
      *(f'--workdir={workdir}', f'--workdir={workdir}', *TRICKY),
      *('--num_processes=3', f'--process_id={i}'),
    ]
    if i:
      assert (workdir / f'process_{i}.log').read_text() == f'I am {i}\nerr {i}\n'
  assert len(ports) == 1 and re.fullmatch(r'--coordinator=127\.0\.0\.1:2\d{4}', ports.pop())


def test_local_processes_have_a_workdir_of_their_own_and_know_home(programs, tmp_path):
  env = fake_python(programs, 'printf "%s\\n" "$@" >"$CALLS.$I"') | {'HOME': str(tmp_path)}
  assert launch('bash', 'launch/local_multiprocess.sh', 1, env=env).returncode == 0
  assert '--workdir=runs/local_multiprocess\n' in (tmp_path / 'calls.0').read_text()
  launch('bash', 'launch/local_multiprocess.sh', 2, '--workdir=~/mine', env=env)
  assert (tmp_path / 'mine' / 'process_1.log').exists()


def test_local_processes_end_when_one_fails(programs, tmp_path):
  """The others, deaf to SIGTERM as inside a collective, are killed; the first failure is named."""
  body = f"""[ $I = 1 ] && sleep 0.2 && echo boom >&2 && exit 7
    trap "" TERM INT; echo $$ >{tmp_path}/pid.$I; exec sleep 600"""
  env = fake_python(programs, body) | {'KILL_AFTER': '1'}
  result = launch('bash', 'launch/local_multiprocess.sh', 3, f'--workdir={tmp_path}', env=env)
  assert result.returncode == 7
  log = f'{tmp_path}/process_1.log'
  who = f'{socket.gethostname()}, process 1 of 3'
  assert f'error: {who}: ended with status 7, so all end; see {log}' in result.stderr
  assert result.stderr.count('error: ') == 1 and 'Killed' not in result.stderr
  assert pathlib.Path(log).read_text() == 'boom\n'
  for i in (0, 2):
    pid = int((tmp_path / f'pid.{i}').read_text())
    with pytest.raises(ProcessLookupError):
      os.kill(pid, 0)


def test_local_processes_may_end_by_themselves_after_a_failure(programs, tmp_path):
  body = f'[ $I = 0 ] && exit 3; sleep 0.5; echo ended >{tmp_path}/ended; exit 4'
  env = fake_python(programs, body) | {'KILL_AFTER': '60'}
  result = launch('bash', 'launch/local_multiprocess.sh', 2, f'--workdir={tmp_path}', env=env)
  assert result.returncode == 3 and 'process 0 of 2: ended with status 3' in result.stderr
  assert 'its messages are above' in result.stderr and (tmp_path / 'ended').exists()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_local_processes_are_told_to_stop_and_waited_for(number, programs, tmp_path):
  name = number.name.removeprefix('SIG')
  body = f"""trap 'sleep 0.3; echo saved >{tmp_path}/saved.$I; exit 0' {name}
    touch {tmp_path}/ready.$I; while :; do sleep 0.05; done"""
  command = ['bash', 'launch/local_multiprocess.sh', '2', f'--workdir={tmp_path}']
  env = os.environ | fake_python(programs, body)
  # what runs in the background ignores Ctrl-C, and a shell cannot trap what is ignored
  heard = lambda: signal.signal(number, signal.SIG_DFL)  # noqa: E731
  process = subprocess.Popen(command, cwd=ROOT, env=env, preexec_fn=heard)
  wait_for(lambda: all((tmp_path / f'ready.{i}').exists() for i in range(2)))
  process.send_signal(number)
  assert process.wait(timeout=20) == 0
  assert all((tmp_path / f'saved.{i}').exists() for i in range(2))


@pytest.mark.parametrize(
  'count, env, shares',
  [
    (2, {}, ['0,1', '2,3']),
    (2, {'CUDA_VISIBLE_DEVICES': '5,GPU-a'}, ['5', 'GPU-a']),
    (2, {'CUDA_VISIBLE_DEVICES': ''}, ['', '']),
    (3, {'JAX_PLATFORMS': 'cpu'}, ['unset'] * 3),
    (3, {}, None),
  ],
)
def test_local_processes_share_the_gpus(count, env, shares, programs, tmp_path):
  programs('nvidia-smi', 'seq 0 3')
  python = fake_python(programs, 'echo "${CUDA_VISIBLE_DEVICES-unset}" >"$CALLS.$I"')['PYTHON']
  command = ['bash', 'launch/local_multiprocess.sh', count, f'--workdir={tmp_path}']
  result = launch(*command, env={'PYTHON': python, **env})
  if shares is None:
    assert result.returncode == 2 and '4 GPUs cannot be shared out evenly' in result.stderr
  else:
    assert result.returncode == 0, result.stderr
    assert [(tmp_path / f'calls.{i}').read_text().strip() for i in range(count)] == shares


def test_local_dry_run_prints_what_each_process_runs(programs, tmp_path):
  env = {'DRY_RUN': '1', 'CUDA_VISIBLE_DEVICES': '4,5'}
  workdir = f'--workdir={tmp_path / "run"}'
  result = launch('bash', 'launch/local_multiprocess.sh', 2, workdir, *TRICKY, env=env)
  assert result.returncode == 0 and not result.stderr
  for i, line in enumerate(result.stdout.splitlines()):
    gpu, python, *got = words(line)
    assert (gpu, python) == (f'CUDA_VISIBLE_DEVICES={4 + i}', '.venv/bin/python')
    assert got[:2] == ['-m', 'ardiff_jax.train'] and got[3:-3] == [workdir, *TRICKY]
    assert got[-2:] == ['--num_processes=2', f'--process_id={i}']
  assert i == 1 and not (tmp_path / 'run').exists()


@pytest.mark.parametrize('count', ['', '0', 'two', '--config=configs/ar.py'])
def test_local_processes_must_be_counted(count):
  result = launch('bash', 'launch/local_multiprocess.sh', count)
  assert result.returncode == 2 and result.stderr.startswith('error: say how many processes')


# tpu_pod.sh

TPU = {'ZONE': 'us-east5-b', 'PROJECT': 'mine', 'ACCELERATOR_TYPE': 'v6e-256'}


def tpu_pod(*arguments, env=TPU):
  return launch('bash', 'launch/tpu_pod.sh', *arguments, env=env)


@pytest.mark.parametrize(
  'command, expected',
  [
    ('create', 'queued-resources create pod --node-id=pod --accelerator-type=v6e-256'),
    ('status', 'queued-resources describe pod --format=value(state.state)'),
    ('logs', 'tpu-vm ssh pod --worker=0'),
    ('stop', 'tpu-vm ssh pod --worker=all'),
    ('delete', 'queued-resources delete pod --force --quiet'),
  ],
)
def test_tpu_commands(command, expected, programs, tmp_path):
  """A dry run prints what is run without."""
  programs('gcloud', 'printf "%s\\n" "$@" >>"$CALLS"')
  dry = tpu_pod('--dry_run', command, 'pod')
  assert dry.returncode == 0 and not (tmp_path / 'calls').exists()
  gcloud, *printed = words(dry.stdout)
  assert gcloud == 'gcloud' and printed[:2] == ['compute', 'tpus']
  assert set(expected.split()) | {'--zone=us-east5-b', '--project=mine'} <= set(printed)
  assert tpu_pod(command, 'pod').returncode == 0
  assert (tmp_path / 'calls').read_text().splitlines() == printed


@pytest.mark.parametrize(
  'env, expected',
  [
    ({}, '--runtime-version=v2-alpha-tpuv6e'),
    ({'ACCELERATOR_TYPE': 'v5litepod-64'}, '--runtime-version=v2-alpha-tpuv5-lite'),
    ({'ACCELERATOR_TYPE': 'v5p-128'}, '--runtime-version=v2-alpha-tpuv5'),
    ({'ACCELERATOR_TYPE': 'v4-32'}, '--runtime-version=tpu-ubuntu2204-base'),
    ({'RUNTIME_VERSION': 'newer'}, '--runtime-version=newer'),
    ({'SPOT': '1'}, '--spot'),
  ],
)
def test_tpu_create_knows_the_software(env, expected):
  printed = words(tpu_pod('--dry_run', 'create', 'pod', env=TPU | env).stdout)
  assert expected in printed and ('--spot' in printed) == ('SPOT' in env)


def worker(tmp_path) -> pathlib.Path:
  """Returns the home of a worker; `gcloud` must run there what it is told to."""
  (tmp_path / 'worker').mkdir()
  return tmp_path / 'worker'


GCLOUD = """for word; do case $word in --command=*) command=${word#*=} ;; esac; done
  cd "$WORKER" && exec bash -c "$command" """


def trained_by(programs, home, body):
  """Lets `body` stand for the python of a worker."""
  (home / 'ardiff_jax' / '.venv' / 'bin').mkdir(parents=True, exist_ok=True)
  os.symlink(programs('python_there', body), home / 'ardiff_jax' / '.venv' / 'bin' / 'python')


@pytest.mark.parametrize('status', [0, 5])
def test_tpu_train_quotes_follows_and_tells_the_status(status, programs, tmp_path, monkeypatch):
  monkeypatch.setenv('WORKER', str(home := worker(tmp_path)))
  programs('gcloud', GCLOUD)
  trained_by(programs, home, f'printf "%s\\n" "$@"; sleep 0.2; echo last; exit {status}')
  result = tpu_pod('train', 'pod', '--', *TRICKY)
  assert result.returncode == status, result.stderr
  expected = ['-m', 'ardiff_jax.train', '--distributed', *TRICKY, 'last']
  assert result.stdout.splitlines() == expected
  assert (home / 'ardiff_jax' / 'train.log').read_text().splitlines() == expected


def test_tpu_train_outlives_its_connection_and_stops(programs, tmp_path, monkeypatch):
  """It runs once at a time, and stop reaches it."""
  monkeypatch.setenv('WORKER', str(home := worker(tmp_path)))
  programs('gcloud', GCLOUD)
  body = "trap 'echo saved; exit 0' TERM; echo begun; while :; do sleep 0.05; done"
  trained_by(programs, home, body)
  log = home / 'ardiff_jax' / 'train.log'
  first = subprocess.Popen(
    ['bash', 'launch/tpu_pod.sh', 'train', 'pod', '--'],
    cwd=ROOT,
    env=os.environ | TPU,
    stdout=subprocess.DEVNULL,
    start_new_session=True,
  )
  wait_for(lambda: log.exists() and 'begun' in log.read_text())
  first.kill()
  first.wait()
  second = tpu_pod('train', 'pod', '--')
  assert second.returncode == 2 and 'a training runs here already' in second.stderr
  assert tpu_pod('stop', 'pod').returncode == 0
  wait_for(lambda: log.read_text() == 'begun\nsaved\n')
  assert tpu_pod('logs', 'pod').stdout == 'begun\nsaved\n'


def test_tpu_setup_takes_the_working_tree_to_all_workers(programs, tmp_path, monkeypatch):
  monkeypatch.setenv('WORKER', str(home := worker(tmp_path)))
  ssh = GCLOUD.replace('exec bash -c "$command"', 'exec bash -c "${command/prepare_env/echo}"')
  programs(
    'gcloud',
    f'''if [ "$4" = ssh ]; then {ssh}; fi
    [[ $4 = scp && "$*" = *" pod:ardiff_jax.tar.gz --worker=all" ]] && cp "$5" "$WORKER"''',
  )
  programs('python3.11', '')
  result = tpu_pod('setup', 'pod')
  assert result.returncode == 0, result.stderr
  assert re.search(r'^jax\[tpu\]>=[\d.]+,<[\d.]+$', result.stdout, re.MULTILINE)
  assert (home / 'ardiff_jax' / 'ardiff_jax' / 'train.py').exists()
  scp, ssh = tpu_pod('--dry_run', 'setup', 'pod').stdout.split('\n', 1)
  assert words(scp)[3:6] == ['tpu-vm', 'scp', 'ardiff_jax.tar.gz']
  assert '--worker=all' in words(ssh)


@pytest.mark.parametrize(
  'arguments, env, message',
  [
    (['dance', 'pod'], TPU, "unknown command 'dance'"),
    (['create'], TPU, 'say which TPU'),
    (['create', 'pod'], {'ZONE': ''}, 'ZONE is not set'),
    (['create', 'pod'], {'ZONE': 'z', 'ACCELERATOR_TYPE': ''}, 'ACCELERATOR_TYPE is not set'),
    (['train', 'pod', '--config=configs/ar.py'], TPU, 'flags of train stand behind --'),
  ],
)
def test_tpu_mistakes(arguments, env, message):
  result = tpu_pod('--dry_run', *arguments, env=env)
  assert result.returncode == 2 and message in result.stderr and result.stdout == ''


# in_pod.sh, gke_jobset.yaml, xpk.sh


@pytest.mark.parametrize('status', [0, 2])
def test_in_a_pod_the_status_is_the_commands(status):
  assert launch('bash', 'launch/in_pod.sh', 'bash', '-c', f'exit {status}').returncode == status


@pytest.mark.parametrize('status, expected', [(0, 143), (3, 3)])
def test_in_a_pod_what_saved_on_sigterm_is_not_done(status, expected, tmp_path):
  body = (
    f"trap 'sleep 0.2; touch saved; exit {status}' TERM; touch ready; while :; do sleep 0.05; done"
  )
  command = ['bash', 'launch/in_pod.sh', 'bash', '-c', f'cd {tmp_path}; {body}']
  process = subprocess.Popen(command, cwd=ROOT)
  wait_for((tmp_path / 'ready').exists)
  for _ in range(3):  # the command is waited for, however often it is told
    process.send_signal(signal.SIGTERM)
    time.sleep(0.05)
  assert process.wait(timeout=20) == expected and (tmp_path / 'saved').exists()


def test_the_jobset_is_whole_and_starts_again():
  """What the cluster would refuse, or what would lose a run at its first preemption."""
  jobset = yaml.safe_load((ROOT / 'launch/gke_jobset.yaml').read_text())
  assert (jobset['apiVersion'], jobset['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
  placement = jobset['metadata']['annotations']['alpha.jobset.sigs.k8s.io/exclusive-topology']
  assert placement == 'cloud.google.com/gke-nodepool'
  policy = jobset['spec']['failurePolicy']
  assert policy['maxRestarts'] > 0 and policy['restartStrategy'] == 'BlockingRecreate'
  (rule,) = policy['rules']
  assert (rule['action'], rule['onJobFailureReasons']) == ('FailJobSet', ['PodFailurePolicy'])
  (replicated,) = jobset['spec']['replicatedJobs']
  job = replicated['template']['spec']
  pod = job['template']['spec']
  (container,) = pod['containers']
  assert job['backoffLimit'] == 0 and pod['restartPolicy'] == 'Never'
  assert pod['terminationGracePeriodSeconds'] >= 60
  (rule,) = job['podFailurePolicy']['rules']
  assert rule['onExitCodes']['containerName'] == container['name']
  assert 143 not in rule['onExitCodes']['values'] and 2 in rule['onExitCodes']['values']

  chips = container['resources']['limits']['google.com/tpu']
  rows, columns = pod['nodeSelector']['cloud.google.com/gke-tpu-topology'].split('x')
  assert job['parallelism'] == job['completions'] == int(rows) * int(columns) // chips
  assert container['command'] == ['bash', 'launch/in_pod.sh']
  assert container['args'][:4] == ['python', '-m', 'ardiff_jax.train', '--distributed']
  assert all(isinstance(x, str) for x in container['args'])
  assert {x.split('=')[0] for x in container['args'][4:]} == {'--config', '--workdir'}


XPK = {'CLUSTER': 'mine', 'ACCELERATOR_TYPE': 'v5litepod-64', 'IMAGE': 'image'}


def test_xpk_creates_a_workload(programs, tmp_path):
  """Its command goes through a shell of the pod and comes out as the flags that were given."""
  programs('xpk', 'printf "%s\\n" "$@" >>"$CALLS"')
  env = XPK | {'NUM_SLICES': '2', 'PROJECT': 'p', 'ZONE': 'z'}
  dry = launch('bash', 'launch/xpk.sh', '--dry_run', 'run', '--', *TRICKY, env=env)
  assert dry.returncode == 0 and not (tmp_path / 'calls').exists()
  xpk, *printed = words(dry.stdout)
  assert xpk == 'xpk' and printed[:2] == ['workload', 'create']
  assert {'--workload=run', '--cluster=mine', '--tpu-type=v5litepod-64'} < set(printed)
  assert {'--docker-image=image', '--num-slices=2', '--project=p', '--zone=z'} < set(printed)
  assert launch('bash', 'launch/xpk.sh', 'run', '--', *TRICKY, env=env).returncode == 0
  assert (tmp_path / 'calls').read_text().splitlines() == printed
  (command,) = [x.removeprefix('--command=') for x in printed if x.startswith('--command=')]
  programs('python', 'printf "%s\\n" "$@"')
  in_pod = launch('bash', '-c', f'({command}) & wait $!')
  assert in_pod.stdout.splitlines() == ['-m', 'ardiff_jax.train', '--distributed', *TRICKY]
  one = launch('bash', 'launch/xpk.sh', '--dry_run', 'run', '--', env=XPK)
  assert '--num-slices=1' in words(one.stdout)


@pytest.mark.parametrize(
  'arguments, env, message',
  [
    (['run'], XPK, 'say a name, and flags of train'),
    (['run', '--'], XPK | {'CLUSTER': ''}, 'CLUSTER is not set'),
    (['run', '--'], XPK | {'IMAGE': ''}, 'IMAGE is not set'),
  ],
)
def test_xpk_mistakes(arguments, env, message):
  result = launch('bash', 'launch/xpk.sh', '--dry_run', *arguments, env=env)
  assert result.returncode == 2 and message in result.stderr


# slurm.sbatch


def test_slurm_asks_for_what_it_relies_on():
  lines = (ROOT / 'launch/slurm.sbatch').read_text().splitlines()
  options = {line.removeprefix('#SBATCH ') for line in lines if line.startswith('#SBATCH ')}
  assert {'--requeue', '--open-mode=append', '--signal=B:USR1@180'} < options
  per_node = {x.split('=')[0]: x.split('=')[-1] for x in options}
  assert per_node['--gpus-per-node'] == per_node['--ntasks-per-node']


def test_slurm_dry_run_prints_the_step(programs, tmp_path):
  programs('srun', 'echo ran >"$CALLS"')
  result = launch('bash', 'launch/slurm.sbatch', *TRICKY, env={'DRY_RUN': '1'})
  assert result.returncode == 0 and not (tmp_path / 'calls').exists()
  step = words(result.stdout)
  assert step[0] == 'srun' and '--kill-on-bad-exit=1' in step
  python = step.index('.venv/bin/python')
  assert step[python + 1 :] == ['-m', 'ardiff_jax.train', '--distributed', *TRICKY]


def slurm(programs, tmp_path, srun, told=False):
  """Runs a spooled copy of the script as Slurm does; returns its status, and calls of scontrol."""
  programs('scontrol', 'echo "$@" >>"$CALLS"')
  programs('srun', f'cd {tmp_path}; {srun}')
  script = tmp_path / 'spool' / 'slurm_script'
  script.parent.mkdir()
  script.write_text((ROOT / 'launch/slurm.sbatch').read_text())
  env = os.environ | {'SLURM_SUBMIT_DIR': str(ROOT), 'SLURM_JOB_ID': '42', 'PYTHON': 'python'}
  process = subprocess.Popen(['bash', script, '--workdir=w'], cwd=tmp_path, env=env)
  if told:
    wait_for((tmp_path / 'ready').exists)
    process.send_signal(signal.SIGUSR1)
  status, calls = process.wait(timeout=20), tmp_path / 'calls'
  return status, calls.read_text() if calls.exists() else ''


UNTIL_TOLD = "trap 'sleep 0.2; exit {}' USR1; touch ready; while :; do sleep 0.05; done"


def test_slurm_goes_on_later_when_told_in_time(programs, tmp_path):
  assert slurm(programs, tmp_path, UNTIL_TOLD.format(0), told=True) == (0, 'requeue 42\n')


@pytest.mark.parametrize('status', [0, 1])
def test_slurm_ends_with_the_run(status, programs, tmp_path):
  assert slurm(programs, tmp_path, f'exit {status}') == (status, '')


def test_slurm_does_not_go_on_after_a_failure(programs, tmp_path):
  assert slurm(programs, tmp_path, UNTIL_TOLD.format(9), told=True) == (9, '')


def test_slurm_wants_the_repository(tmp_path):
  env = {'SLURM_SUBMIT_DIR': str(tmp_path)}
  result = launch('bash', 'launch/slurm.sbatch', env=env)
  assert result.returncode == 2 and "from the repository's root" in result.stderr


# sweep.py

SWEEP = """
from ml_collections import ConfigDict

def get_config():
  c = ConfigDict()
  c.seeds = (0, 1)
  c.common = ConfigDict({'data': {'source': 'a b.txt,c,$d', 'valid_fraction': 0.1}})
  model = lambda name, per_seed, **override: ConfigDict(
    {'config': f'configs/{name}.py:tiny', 'override': override, 'per_seed': per_seed}
  )
  c.models = ConfigDict()
  c.models.gate = model('gate', True, init_from='@zero', gate={'signals': ('entropy',)})
  c.models['gate, none'] = model('gate', False, init_from='@zero', gate={'signals': ()})
  c.models.zero = model('epsilon_hybrid', False, tokenizer={'path': "@judge/it's.model"})
  c.models.judge = model('ar', False, train={'learning_rate': 1, 'adam_b2': 1e-05, 'steps': 7})
  c.models.a3 = model('a3', True, objective={'stages': ((0.0, 1, 0.0, 0.0), (0.5, 4, 1.0, 0.5))})
  c.models.quiet = model('ar', False, model={'tie_embedding': False, 'dtype': ''})
  c.models.given = ConfigDict({'workdir': '/nowhere', 'config': ''})
  run = {'task': 'likelihood', 'group': 'x', 'model': 'judge', 'grid': {'order': ('',)}}
  c.runs = ConfigDict({'run': run})
  return c
"""
NEEDS = {'gate-0': 'zero', 'gate-1': 'zero', 'gate,_none': 'zero', 'zero': 'judge'}
MODELS = {*NEEDS, 'judge', 'a3-0', 'a3-1', 'quiet'}


@pytest.fixture
def sweep(tmp_path):
  """Returns a function that launches a small sweep."""
  (tmp_path / 'sweep.py').write_text(SWEEP)

  def call(*arguments, env=None):
    chosen = [f'--sweep={tmp_path}/sweep.py', f'--workdir={tmp_path}/out']
    return run('launch/sweep.py', *chosen, *arguments, env=env)

  return call


def commands_of(stdout: str) -> dict[str, list[str]]:
  """Returns the printed commands by the name of their work directory, in their order."""
  commands = {}
  for line in stdout.splitlines():
    command = words(line.removeprefix('# later: '))
    (workdir,) = [x.removeprefix('--workdir=') for x in command if x.startswith('--workdir=')]
    assert pathlib.Path(workdir).name not in commands
    commands[pathlib.Path(workdir).name] = command
  return commands


def in_order(names) -> bool:
  names = list(names)
  return all(names.index(need) < names.index(name) for name, need in NEEDS.items())


def test_a_launched_sweep_trains_what_ablate_would(sweep, tmp_path, monkeypatch):
  """Flag by flag the same config, for every model and seed; then `ablate` trains none of them."""
  printed = sweep('--dry_run')
  assert printed.returncode == 0, printed.stderr
  assert not (tmp_path / 'out').exists()
  commands = commands_of(printed.stdout)
  trained = {}

  def train(config, workdir):
    trained[workdir.name] = config
    return True

  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(loop, 'train', train)
  monkeypatch.setitem(sweep_lib.TASKS, 'likelihood', lambda *_: {'metrics': {'nats': 1.0}})
  config = sweep_lib.read_config(str(tmp_path / 'sweep.py'))
  assert sweep_lib.run(config, tmp_path / 'out')
  assert set(trained) == set(commands) == MODELS and in_order(trained) and in_order(commands)
  for name, command in commands.items():
    assert command[:3] == [sys.executable, '-m', 'ardiff_jax.train']
    values = flags.FlagValues()
    config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=command)
    flags.DEFINE_string('workdir', None, '', flag_values=values)
    values(command[2:])
    assert values.workdir == str(tmp_path / 'out' / 'models' / name)
    assert repr(values.config.to_dict()) == repr(trained[name].to_dict())
  gate = trained['gate-1']
  assert (gate.seed, gate.gate.signals) == (1, ('entropy',))
  assert gate.init_from == str(tmp_path / 'out' / 'models' / 'zero')


def test_a_launched_sweep_says_no_value_that_flags_cannot(sweep, tmp_path):
  lines = SWEEP.replace("'dtype': ''", "'dtype': None")
  assert lines != SWEEP
  (tmp_path / 'sweep.py').write_text(lines)
  result = sweep('--dry_run')
  assert result.returncode == 2 and result.stdout == ''
  assert "error: model 'quiet' of the sweep has a value that no flag can have" in result.stderr


def train_stand_in(programs) -> str:
  """Returns an interpreter that notes its call and marks the run done; FAIL and STOP are names."""
  body = """for flag; do case $flag in --workdir=*) workdir=${flag#*=} ;; esac; done
    name=$(basename "$workdir"); echo "$name" >>"$CALLS"; mkdir -p "$workdir"
    [ "$name" = "${FAIL-}" ] && exit 3
    [ "$name" = "${STOP-}" ] || exec touch "$workdir/done"
    trap 'sleep 0.5; touch "$workdir/saved"; exit 0' TERM; while :; do sleep 0.05; done"""
  return programs('python_here', body)


def test_a_sweep_runs_here_one_after_the_other(sweep, programs, tmp_path):
  """It ends with the first that fails, and goes on there."""
  env = {'PYTHON': train_stand_in(programs)}
  failed = sweep('--via=local', env=env | {'FAIL': 'zero'})
  before = (tmp_path / 'calls').read_text().splitlines()
  assert failed.returncode == 3 and before[-1] == 'zero' and 'judge' in before
  assert sweep('--via=local', env=env).returncode == 0
  calls = (tmp_path / 'calls').read_text().splitlines()
  assert calls[: len(before) + 1] == [*before, 'zero']
  assert set(calls) == MODELS and len(calls) == len(MODELS) + 1
  again = sweep('--via=local', env=env)
  assert again.returncode == 0 and again.stdout == ''
  assert (tmp_path / 'out' / 'sweep.json').exists()


def test_a_sweep_that_is_told_to_stop_lets_its_training_save(sweep, programs, tmp_path):
  env = {'PYTHON': train_stand_in(programs), 'STOP': 'judge'}
  flags = f'--sweep={tmp_path}/sweep.py', f'--workdir={tmp_path}/out'
  process = Fork('launch/sweep.py', *flags, env=env)
  calls = tmp_path / 'calls'
  wait_for(lambda: calls.exists() and 'judge' in calls.read_text(), seconds=60)
  time.sleep(0.1)
  process.send_signal(signal.SIGTERM)
  _, stderr = process.communicate(timeout=20)
  assert process.returncode == 1 and 'judge was interrupted' in stderr
  assert (tmp_path / 'out' / 'models' / 'judge' / 'saved').exists()
  assert calls.read_text().splitlines()[-1] == 'judge'


def test_a_sweep_becomes_slurm_jobs_that_wait_for_each_other(sweep, programs, tmp_path):
  sbatch = 'printf "%s\\t" "$@" >>"$CALLS"; echo >>"$CALLS"; echo "$(wc -l <"$CALLS");cluster"'
  programs('sbatch', sbatch)
  assert sweep('--via=slurm', "--options=--nodes=4 --comment='a b'").returncode == 0
  jobs, ids = {}, {}
  for number, line in enumerate((tmp_path / 'calls').read_text().splitlines(), 1):
    call = line.strip('\t').split('\t')
    script = call.index('launch/slurm.sbatch')
    assert call[0] == '--parsable' and {'--nodes=4', '--comment=a b'} < set(call[:script])
    assert call[script + 1].startswith('--config=configs/')
    name = pathlib.Path(call[script + 2].removeprefix('--workdir=')).name
    jobs[name], ids[name] = call[:script], number
  assert set(jobs) == MODELS and in_order(jobs)
  for name, options in jobs.items():
    (after,) = [x for x in options if x.startswith('--dependency=')]
    expected = f',afterok:{ids[NEEDS[name]]}' if name in NEEDS else ''
    assert after == f'--dependency=singleton{expected}'
  names = {next(x for x in options if x.startswith('--job-name=')) for options in jobs.values()}
  assert len(names) == len(MODELS)
  printed = commands_of(sweep('--via=slurm', '--dry_run').stdout)
  judge = next(x for x in jobs['judge'] if x.startswith('--job-name=')).partition('=')[2]
  assert f'--dependency=singleton,afterok:<{judge}>' in printed['zero']
  programs('sbatch', 'echo no such partition >&2; exit 1')
  refused = sweep('--via=slurm')
  assert refused.returncode == 1 and len(refused.stdout.splitlines()) == 1


def test_a_sweep_goes_to_a_tpu_one_after_the_other(sweep, programs, tmp_path):
  done = """for word; do case $word in --command=*) command=${word#*=} ;; esac; done
    workdir=$(grep -o "[^'=]*/out/models/[^']*" <<<"$command" | head -1)
    mkdir -p "$workdir" && touch "$workdir/done"; echo "$5 $(basename "$workdir")" >>"$CALLS" """
  programs('gcloud', done)
  result = sweep('--via=tpu', '--options=pod', env=TPU)
  assert result.returncode == 0, result.stderr
  calls = [line.split() for line in (tmp_path / 'calls').read_text().splitlines()]
  assert {pod for pod, _ in calls} == {'pod'}
  assert {name for _, name in calls} == MODELS and in_order(name for _, name in calls)


def test_a_sweep_goes_to_gke_wave_by_wave(sweep, programs, tmp_path):
  programs('xpk', 'printf "%s\\n" "$3" >>"$CALLS"; [ "$3" != "${CLASH-}" ]')

  def wave(env=None):
    (tmp_path / 'calls').unlink(missing_ok=True)
    result = sweep('--via=gke', env=XPK | (env or {}))
    names = list(commands_of(result.stdout))
    now = [x for x in result.stdout.splitlines() if not x.startswith('# later: ')]
    workloads = (tmp_path / 'calls').read_text().splitlines()
    assert len(workloads) == len(now) and in_order_if_there(names)
    for workload in workloads:
      assert re.fullmatch(r'--workload=[a-z][a-z0-9-]{0,37}[a-z0-9]', workload)
    return result, set(commands_of('\n'.join(now))), workloads

  def in_order_if_there(names):
    return all(
      names.index(need) < names.index(name) for name, need in NEEDS.items() if need in names
    )

  result, first, workloads = wave()
  assert result.returncode == 0 and first == {'judge', 'a3-0', 'a3-1', 'quiet'}
  assert '4 wait for these' in result.stderr
  (tmp_path / 'out' / 'models' / 'judge').mkdir(parents=True)
  (tmp_path / 'out' / 'models' / 'judge' / 'done').touch()
  clash = next(x for x in workloads if '-a3-0-' in x)
  result, second, _ = wave({'CLASH': clash})  # it runs already
  assert result.returncode == 1 and second == {'zero', 'a3-0', 'a3-1', 'quiet'}
  assert '3 wait for these' in result.stderr


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--via=moon'], 'local|slurm|tpu|gke'),
    (['--via=tpu'], 'wants the name of the TPU'),
    (['--via=local', '--options=x'], '--via=local has no --options'),
  ],
)
def test_a_sweep_that_cannot_be_launched(arguments, message, sweep):
  result = sweep(*arguments)
  assert result.returncode == 2 and message in result.stderr and result.stdout == ''
