"Every notebook of nbs/ runs from its first cell to its last, in a kernel of its own."
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from conftest import NBS, notebooks
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from papermill import inspect_notebook

LIMIT = 300    # seconds for one chapter; they are written to need less than 60

# Each run notebook with small parameters: {'90_loso': [{'dataset': 'casme3', ...}, ...]}; `out` is added here.
RUNS = {'90_loso': [{'source': 'simulated'},    # the README's command, whole
                    {'dataset': 'megc2019', 'source': 'simulated', 'model': 'svm'}],
        '91_deap': [{'source': 'simulated', 'subjects': '1,2', 'target': 'valence', 'epochs': 1, 'folds': 2,
                     'replica': True},
                    {'source': 'simulated', 'subjects': '1,2', 'epochs': 1, 'folds': 2, 'windows': 1,
                     'model': 'table1_quick'}],
        '94_known_answers': [dict(people=6, all_clips=40, clips='12,20', seeds=0, epochs=1, twin_seed=7)],
        '95_known_answers_deap': [dict(windows='360', questions='curve', kind='waveform', twin_seed=7)],
        '93_attention': [dict(clips=16, people=4, groups=2, epochs=1, seeds='0', workers=1),
                         dict(dataset='deap', clips=16, people=4, groups=2, epochs=1, seeds='0', workers=1,
                              permute=True)],
        '89_pretrain_face': [{'source': 'simulated', 'clips': 12, 'every': 4, 'epochs': 1, 'permute': True}],
        '92_ablations': [dict(source='simulated', people=4, clips=16, epochs=1, seeds=0, parts='mirror image,baseline'),
                         dict(dataset='fmov', folds=2, epochs=1, seeds='0,1')],
        '96_speed': [dict(subjects=2, trials=4, seconds=4, memory_subjects=3, memory_seconds=4, epochs=1,
                          train_trials=4, steps=1, size=8, video_seconds=2, width=160, height=120, repeats=1,
                          threads=1)]}
RUN_LIMIT = 600

CHAPTERS = [p for p in notebooks() if not re.match(r'[89]\d_', p.name)]
RUN_NOTEBOOKS = notebooks('[89][0-9]_*.ipynb')


def execute(path):
    """The notebook at `path` after a run in a fresh kernel in its folder.

    What went wrong and in which cell, as one message."""
    nb, at, start = nbformat.read(path, as_version=4), [None], time.monotonic()
    def started(cell, cell_index): at[0] = cell_index
    client = NotebookClient(nb, timeout=None, kernel_name='python3', on_cell_start=started,
                            resources={'metadata': {'path': str(path.parent)}})
    try:
        asyncio.run(asyncio.wait_for(client.async_execute(), LIMIT))
        failed = None
    except (CellExecutionError, DeadKernelError, TimeoutError) as e: failed = e
    if failed is not None:
        late = time.monotonic() - start >= LIMIT
        why = f'stopped: not done after {LIMIT} s' if late else re.sub(r'\x1b\[[\d;]*m', '', str(failed))
        source = nb.cells[at[0]].source if at[0] is not None else ''
        what = why if isinstance(failed, CellExecutionError) else f'{source}\n------------------\n{why}'
        pytest.fail(f'{path.name}, cell {at[0]}: {type(failed).__name__}\n{what[-8000:]}', pytrace=False)
    return nb


@pytest.mark.parametrize('path', CHAPTERS, ids=lambda p: p.stem)
def test_notebook(path):
    before = {p for p in path.parent.rglob('*') if p.suffix != '.ipynb'}
    nb = execute(path)
    assert all(c.execution_count for c in nb.cells if c.cell_type == 'code' and c.source.strip()), 'a cell was left out'
    left = {p for p in path.parent.rglob('*') if p.suffix != '.ipynb'} - before
    assert not left, f'{path.name} leaves files in nbs/: {sorted(p.name for p in left)}'


def test_index_shows_the_stored_results():
    def shown(nb):
        return [''.join(o['data']['text/markdown']) for c in nb.cells
                for o in c.get('outputs', []) if 'text/markdown' in o.get('data', {})]
    path = NBS/'index.ipynb'
    stored, now = shown(nbformat.read(path, as_version=4)), shown(execute(path))
    assert now and stored == now, 'run nbs/index.ipynb once, save it, then python nbs/_docs.py'


def test_every_run_notebook_has_a_small_run():
    assert {p.stem for p in RUN_NOTEBOOKS} == set(RUNS)


@pytest.mark.parametrize('path', RUN_NOTEBOOKS, ids=[p.stem for p in RUN_NOTEBOOKS])
def test_papermill_reads_every_parameter(path):
    "`papermill --help-notebook` parses lines, not Python: a second '=' in a line hides a parameter."
    cell = next(c for c in nbformat.read(path, 4).cells if 'parameters' in c.metadata.get('tags', []))
    names = [line.split(':')[0] for line in cell.source.splitlines()]
    seen = inspect_notebook(str(path))
    assert list(seen) == names and all(p['help'] and p['inferred_type_name'] != 'None' for p in seen.values())


def papermill(path, done, parameters, cwd, limit=RUN_LIMIT):
    "Run papermill as on the command line; its exit status and what it printed. Nothing it started outlives it."
    args = [a for k, v in parameters.items() for a in ('-p', k, str(v))]
    p = subprocess.Popen([sys.executable, '-m', 'papermill', str(path), str(done), *args], cwd=cwd, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try: said = p.communicate(timeout=limit)[0]
    except subprocess.TimeoutExpired: said = f'not done after {limit} s'
    finally:
        try: os.killpg(p.pid, signal.SIGKILL)
        except ProcessLookupError: pass
        p.wait()
    return p.returncode, said


@pytest.mark.parametrize('name,parameters', [(n, p) for n, many in RUNS.items() for p in many],
                         ids=[f"{n}-{'-'.join(map(str, p.values()))}" for n, many in RUNS.items() for p in many])
def test_run(name, parameters, tmp_path, scratch):
    "Through papermill, from a folder that is not the notebook's; runs share that folder, so a twin is written once."
    out, done, cwd = tmp_path/'out', tmp_path/'done.ipynb', scratch/'runs'
    cwd.mkdir(exist_ok=True)
    status, said = papermill(NBS/f'{name}.ipynb', done, {**parameters, 'out': out}, cwd)
    assert status == 0, said[-6000:]
    nb = nbformat.read(done, as_version=4)
    assert all(c.execution_count for c in nb.cells if c.cell_type == 'code' and c.source.strip())
    def refuse(word): raise ValueError(f'{word} in summary.json')
    summary = json.loads((out/'summary.json').read_text(encoding='utf-8'), parse_constant=refuse)
    assert summary['provenance'] in ('real', 'annotation', 'simulated')
    shown = json.dumps([c.outputs for c in nb.cells if c.cell_type == 'code'])
    assert ('SIMULATED' in shown) == (summary['provenance'] == 'simulated')
