"""What every test shares: one thread each, folders of its own, no model hub, two tests side by side."""
import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest
import seeds

from emonb.core import real_material

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'
# set by tests/steady.py
SEED, THREADS = int(os.environ.get('EMONB_SEED') or 0), os.environ.get('EMONB_THREADS') or '1'
for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'): os.environ[name] = THREADS
os.environ.update(MPLBACKEND='Agg', JUPYTER_PREFER_ENV_PATH='1', HF_HUB_OFFLINE='1', PYTHONDONTWRITEBYTECODE='1')
for name in ('EMONB_DATA', 'EMONB_CACHE'):
    os.environ.pop(name, None)    # a developer's own recordings and caches stay out of it


def notebooks(pattern='*.ipynb'): return sorted(NBS.glob(pattern))


def processors(): return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """The whole command runs on up to four processors, one test at a time on each.

    Files named on the command line, or -n, decide for themselves."""
    if 'PYTEST_XDIST_WORKER' in os.environ: return    # a worker must not start workers of its own
    whole = config.args_source is not pytest.Config.ArgsSource.ARGS
    free = getattr(config.option, 'numprocesses', 0) is None and not config.option.usepdb
    if whole and free and processors() > 1:
        config.option.numprocesses, config.option.maxschedchunk = min(4, processors()), 1


def pytest_configure(config):
    config.addinivalue_line('markers', 'real: uses real recordings, which lie beside the checkout or at $EMONB_REAL')
    if 's' not in config.option.reportchars: config.option.reportchars += 's'    # a skipped test says why
    if not hasattr(config, 'workerinput'):    # once for all workers, which inherit the variables
        config.emonb_scratch = Path(tempfile.mkdtemp(prefix='emonb-tests-'))
        os.environ['EMONB_TEST_SCRATCH'] = str(config.emonb_scratch)
    scratch = Path(os.environ['EMONB_TEST_SCRATCH'])
    os.environ.update(EMONB_CACHE=str(scratch/'cache'), IPYTHONDIR=str(scratch/'ipython'),
                      MPLCONFIGDIR=str(scratch/'matplotlib'),
                      JUPYTER_CONFIG_DIR=str(scratch/'config'), JUPYTER_DATA_DIR=str(scratch/'data'),
                      JUPYTER_RUNTIME_DIR=str(scratch/'run'))
    if SEED:
        seeds.shift(SEED)
        seeds.shift_kernels(SEED, scratch/'ipython')


def pytest_unconfigure(config):
    if hasattr(config, 'emonb_scratch'): shutil.rmtree(config.emonb_scratch, ignore_errors=True)


def wants_real(item):
    "Whether a test, or the notebook it runs, looks for real recordings."
    if not item.name.startswith('test_notebook['): return 'real' in item.fixturenames
    return re.search(r'import .*\breal_material\b',
                     item.callspec.params['path'].read_text(encoding='utf-8')) is not None


@pytest.hookimpl(tryfirst=True)    # before -m selects
def pytest_collection_modifyitems(items):
    """What wants real recordings is marked so.

    The long ones first, so that no processor waits for the last of them alone."""
    for item in items:
        if wants_real(item): item.add_marker('real')
    first = ('test_run', 'test_in_lab', 'test_notebook')
    items.sort(key=lambda item: next((k for k, name in enumerate(first) if item.name.startswith(name + '[')),
                                     len(first)))


@pytest.fixture
def scratch():
    "A folder that all tests of this session share, removed at its end."
    return Path(os.environ['EMONB_TEST_SCRATCH'])


@pytest.fixture
def real():
    "name → the folder of those real recordings; where they are not, the test is skipped and says so."
    def folder(name):
        with contextlib.chdir(ROOT): path = real_material(name)
        if path is None: pytest.skip(f'the real recordings {name!r} are neither at $EMONB_REAL nor beside the checkout')
        return path.resolve()
    return folder


@pytest.fixture(scope='module')
def people(tmp_path_factory):
    "A small set in the form of Stress-Predict."
    from test_main_job import write_people
    return write_people(tmp_path_factory.mktemp('set')/'people')


@pytest.fixture
def apart(tmp_path, monkeypatch):
    "A current folder and a cache of the test's own."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('EMONB_CACHE', str(tmp_path/'cache'))
    return tmp_path
