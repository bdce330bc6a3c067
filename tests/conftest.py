"""What every test shares: one thread each, folders of its own, no model hub, two tests side by side."""
import os, shutil, tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'
for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'): os.environ[name] = '1'
os.environ.update(MPLBACKEND='Agg', JUPYTER_PREFER_ENV_PATH='1', HF_HUB_OFFLINE='1', PYTHONDONTWRITEBYTECODE='1')
for name in ('EMONB_DATA', 'EMONB_CACHE'): os.environ.pop(name, None)    # a developer's own recordings and caches stay out of it


def notebooks(pattern='*.ipynb'): return sorted(NBS.glob(pattern))


def processors(): return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    "The whole command runs on up to four processors, one test at a time on each; files named on the command line, or -n, decide for themselves."
    if 'PYTEST_XDIST_WORKER' in os.environ: return    # a worker must not start workers of its own
    whole = config.args_source is not pytest.Config.ArgsSource.ARGS
    if whole and hasattr(config.option, 'numprocesses') and config.option.numprocesses is None and not config.option.usepdb and processors() > 1:
        config.option.numprocesses, config.option.maxschedchunk = min(4, processors()), 1


def pytest_configure(config):
    if 's' not in config.option.reportchars: config.option.reportchars += 's'    # a skipped test says why
    if not hasattr(config, 'workerinput'):    # once for all workers, which inherit the variables
        config.emonb_scratch = Path(tempfile.mkdtemp(prefix='emonb-tests-'))
        os.environ['EMONB_TEST_SCRATCH'] = str(config.emonb_scratch)
    scratch = Path(os.environ['EMONB_TEST_SCRATCH'])
    os.environ.update(EMONB_CACHE=str(scratch/'cache'), IPYTHONDIR=str(scratch/'ipython'), MPLCONFIGDIR=str(scratch/'matplotlib'),
                      JUPYTER_CONFIG_DIR=str(scratch/'config'), JUPYTER_DATA_DIR=str(scratch/'data'), JUPYTER_RUNTIME_DIR=str(scratch/'run'))


def pytest_unconfigure(config):
    if hasattr(config, 'emonb_scratch'): shutil.rmtree(config.emonb_scratch, ignore_errors=True)


def pytest_collection_modifyitems(items):
    "The long ones first, so that no processor waits for the last of them alone."
    first = ('test_run', 'test_in_lab', 'test_notebook')
    items.sort(key=lambda item: next((k for k, name in enumerate(first) if item.name.startswith(name + '[')), len(first)))


@pytest.fixture
def scratch():
    "A folder that all tests of this session share, removed at its end."
    return Path(os.environ['EMONB_TEST_SCRATCH'])
