"""What must work on every system (the workflow runs this file alone on Windows and macOS).

Import, splits, metrics, files, the lock."""
import importlib
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

import emonb
from emonb import core, floors, make_splits, scores

MODULES = sorted('.'.join(p.relative_to(ROOT).with_suffix('').parts)
                 for p in (ROOT/'emonb').rglob('*.py') if not p.name.startswith('_'))


@pytest.mark.parametrize('name', MODULES)
def test_import(name): assert importlib.import_module(name).__name__ == name


WITHOUT = """
import importlib, mmap, os, signal, sys
for name in sys.argv[1:]: importlib.import_module(name)      # other packages are loaded as they are here
for name in [m for m in sys.modules if m.split('.')[0] == 'emonb']: del sys.modules[name]
sys.modules.update(dict.fromkeys(['fcntl', 'grp', 'pwd', 'resource', 'termios']))
gone = {os: ('fork', 'getuid', 'killpg', 'sched_getaffinity', 'setsid', 'statvfs', 'O_CLOEXEC', 'O_DIRECTORY',
             'O_NOFOLLOW', 'O_NONBLOCK'),
        signal: ('SIGALRM', 'SIGHUP', 'SIGKILL', 'SIGUSR1'),
        mmap: [n for n in dir(mmap) if n.startswith(('MADV_', 'MAP_', 'PROT_'))]}
for module, names in gone.items():
    for name in names: vars(module).pop(name, None)
for name in sys.argv[1:]: importlib.import_module(name)
from emonb.core import processors
print('imported', processors() >= 1)
"""

def test_import_without_what_only_unix_has():
    p = subprocess.run([sys.executable, '-c', WITHOUT, *MODULES], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert p.stdout.split()[-2:] == ['imported', 'True'], p.stderr[-3000:]


def table(people=6, clips=8):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, people*clips)
    return pd.DataFrame(dict(subject=np.repeat([f's{k}' for k in range(people)], clips), trial=np.arange(people*clips),
                             label=label,
                             stimulus=np.tile([f'v{k % 4}' for k in range(clips)], people),
                             order=np.tile(np.arange(clips), people),
                             start_s=np.tile(np.arange(clips)*60., people), length_s=60.))


def test_splits_and_metrics():
    meta = table()
    splits = make_splits(meta, 'loso')
    assert len(splits) == 6 and all(not set(meta.subject[s.train]) & set(meta.subject[s.test]) for s in splits)
    y = meta.label.to_numpy()
    assert scores(y, y, 2)['UAR'] == 1 and scores(y, 1 - y, 2)['UAR'] == 0
    found = floors(meta, y, splits, 2, trees=10)
    assert found['majority'].shape == y.shape


def test_files_and_the_lock(tmp_path):
    core.write_json(tmp_path/'a'/'row.json', dict(a=1))
    core.write_json(tmp_path/'a'/'row.json', dict(a=2))
    assert [p.name for p in (tmp_path/'a').iterdir()] == ['row.json'] and '2' in (tmp_path/'a'/'row.json').read_text()
    with core.run_lock(tmp_path/'out'):
        with pytest.raises(core.EmonbError, match=f'process {os.getpid()}'):
            with core.run_lock(tmp_path/'out', wait=.3): pass
    with core.run_lock(tmp_path/'out', wait=0): assert core.processors() >= 1


def test_the_command(capsys):
    from emonb.command import main
    assert main(['list']) == 0 and 'loso' in capsys.readouterr().out
    assert main(['help', 'losso']) == 1 and capsys.readouterr().err.startswith('EmonbError: ')
    assert 'make_splits' in dir(emonb)
