"The main job as a whole command: what it writes, what it refuses, and that a killed run loses nothing."
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import NBS
from test_notebooks import papermill

from emonb import core
from emonb.core import EmonbError, run_lock
from emonb.experiments.by_name import run

METRICS = ('ACC', 'UF1', 'UAR')


def write_people(root, subjects=4, task_s=300, seed=0):
    """A SIMULATED tree in the form of Stress-Predict.

    Rest and tasks in turn, a faster pulse and rising skin conductance under stress."""
    rng, rows = np.random.default_rng(seed), []
    root.mkdir(parents=True)
    (root/'SIMULATED.json').write_text('{"SIMULATED": true}')
    for s in range(2, 2 + subjects):
        label = np.repeat([0, 1, 0, 1, 0], task_s)
        start, n = 1_644_000_000 + 5000*s, len(label)
        l64, l4 = np.repeat(label, 64), np.repeat(label, 4)
        beat = 2*np.pi*np.cumsum(1.1 + .05*s + .25*l64)/64
        folder = root/f'S{s:02d}'
        folder.mkdir()
        def put(name, rate, x, folder=folder, start=start):
            (folder/f'{name}.csv').write_text(f'{start:.2f}\n{rate:.6f}\n' + '\n'.join(f'{v:.4f}' for v in x) + '\n')
        put('BVP', 64, 30*np.sin(beat) + rng.normal(0, 3, 64*n))
        put('EDA', 4, 1 + .1*s + .5*np.convolve(l4, np.ones(40)/40, 'same') + rng.normal(0, .01, 4*n).cumsum()*.1 + .2)
        put('HR', 1, 66 + 15*label + rng.normal(0, 1, n))
        put('TEMP', 4, 33 + rng.normal(0, .01, 4*n))
        (folder/f'tags_S{s:02d}.csv').write_text(''.join(f'{start + k*task_s}\n' for k in range(1, 5)))
        rows += [(s, 70, 15, start + k, v) for k, v in enumerate(label)]
    pd.DataFrame(rows, columns=['Participant', 'HR', 'respr', 'Time(sec)',
                                'Label']).to_csv(root/'Improved_All_Combined_hr_rsp_binary.csv', index=False)
    return root


def write_sheet(path, seed=0):
    "A sheet in the form of Part A: the action units tell the emotion three times in four."
    rng, rows = np.random.default_rng(seed), []
    au = dict(disgust='4+9', surprise='1+R2', happy='12', others='14')
    for s in range(1, 9):
        for v in 'abc':
            for k in range(3):
                e = rng.choice(list(au))
                shown = e if rng.random() < .75 else rng.choice(list(au))
                on = 100*k + 7*s
                rows.append((f'spNO.{s}', v, on, on + 5, on + 12, au[shown], 'I', e))
    pd.DataFrame(rows, columns=['Subject', 'Filename', 'Onset', 'Apex', 'Offset', 'AU', 'Objective class',
                                'emotion']).to_excel(path, sheet_name='label', index=False)


def check_summary(out, provenance, classes):
    s = json.loads((out/'summary.json').read_text())
    assert s['provenance'] == provenance and len(s['classes']) == classes and s['n'] > 0
    assert s['n_subjects'] > 1 and s['seconds'] > 0
    for block in (s['metrics'], *s['floors'].values()):
        for m in METRICS: assert 0 <= block[m]['low'] <= block[m]['value'] <= block[m]['high'] <= 1
    assert {'majority of the training fold', 'stratified random'} <= set(s['floors'])
    assert list((out/'rows').glob('*.json')) and list((out/'predictions').glob('*.parquet'))
    assert list(out.glob('*.png')) and (out/'run.log').exists()
    return s


def test_annotation_on_a_sheet_alone(apart):
    (apart/'set').mkdir()
    write_sheet(apart/'set'/'codes_of_somebody_else.xlsx')
    status, said = papermill(NBS/'90_loso.ipynb', apart/'done.ipynb',
                             dict(dataset='casme3', part='A', classes=4, model='annotation', root=apart/'set',
                                  out=apart/'out'), apart)
    assert status == 0, said[-3000:]
    s = check_summary(apart/'out', 'annotation', 4)
    assert s['n'] == 72 and s['n_subjects'] == 8 and s['metrics']['UAR']['value'] > .5
    done = (apart/'done.ipynb').read_text()
    assert 'stimulus only' in done and 'leave_stimulus_out' in done and 'SIMULATED' not in json.dumps(s)


@pytest.mark.parametrize('part,classes,reference', [('A', 7, (.474, .338, .376)), ('A', 4, (.599, .530, .572)),
                                                    ('A', 3, (.668, .616, .733)), ('C', 4, (.691, .661, .720))])
def test_annotation_on_the_official_sheets(part, classes, reference, real, apart):
    "An independent script's figures, to .02."
    r = run(dict(part=part, classes=classes, model='annotation', protocol='loso', root=str(real('casme3')), out='out'))
    got = [r.main.entries[0].scores[m]['value'] for m in METRICS]
    assert r.data.provenance == 'annotation' and np.allclose(got, reference, atol=.02), got


def test_physiology_of_a_small_set(people, apart):
    status, said = papermill(NBS/'90_loso.ipynb', apart/'done.ipynb',
                             dict(dataset='stress_predict', model='psnet', root=people, out=apart/'out', epochs=2,
                                  seeds=0), apart)
    assert status == 0, said[-3000:]
    s = check_summary(apart/'out', 'simulated', 2)
    assert s['n_subjects'] == 4 and 'clock only (minutes since start)' in s['floors']
    assert (apart/'done.ipynb').read_text().count('SIMULATED') > 3


def tagged(tag):
    "Processes whose environment holds `tag`."
    found = []
    for p in Path('/proc').glob('[0-9]*'):
        try:
            if tag.encode() in (p/'environ').read_bytes() and (p/'stat').read_text().rsplit(')',
                                                                                            1)[1].split()[0] != 'Z':
                found.append(int(p.name))
        except OSError: pass
    return found

@pytest.mark.skipif(not Path('/proc/self/environ').exists(), reason='looks for processes in /proc')
def test_a_killed_run_goes_on_where_it_stopped(people, apart):
    tag, out = f'EMONB_TEST_TAG={os.getpid()}-{time.time_ns()}', apart/'out'
    given = dict(dataset='stress_predict', model='psnet', root=people, epochs=25, seeds='0,1', protocol='loso',
                 workers=2)
    args = [sys.executable, '-m', 'papermill', str(NBS/'90_loso.ipynb'), str(apart/'done.ipynb'),
            *(a for k, v in dict(given, out=out).items() for a in ('-p', k, str(v)))]
    first = subprocess.Popen(args, cwd=apart, env=dict(os.environ, **dict([tag.split('=')])), stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    until = time.time() + 900
    while len(list((out/'rows').glob('*.json'))) < 2 and first.poll() is None and time.time() < until: time.sleep(.02)
    assert first.poll() is None, 'the run ended before it could be killed'
    first.send_signal(signal.SIGKILL)
    first.wait()
    until = time.time() + 20
    while tagged(tag) and time.time() < until: time.sleep(.1)
    assert not tagged(tag), 'a process outlived the killed run'
    kept = {p.name: p.stat().st_mtime_ns for p in (out/'rows').glob('*.json')}
    assert not (out/'summary.json').exists() and 2 <= len(kept) < 12
    time.sleep(1)
    assert kept.keys() == {p.name for p in (out/'rows').glob('*.json')}
    status, said = papermill(NBS/'90_loso.ipynb', apart/'done.ipynb', dict(given, out=out), apart)
    assert status == 0, said[-3000:]
    assert all((out/'rows'/n).stat().st_mtime_ns == t for n, t in kept.items()), 'a finished fold was trained again'
    whole = run(dict({k: str(v) if k == 'root' else v for k, v in given.items()}, out=str(apart/'undisturbed'),
                     workers=1))
    again = run(dict({k: str(v) if k == 'root' else v for k, v in given.items()}, out=str(out)))
    pd.testing.assert_frame_equal(whole.main.predictions, again.main.predictions, check_exact=True)


REFUSED = {
    'unknown parameter': (dict(protocl='loso'), 'protocl', 'accepted'),
    'unknown value': (dict(fusion='sum'), 'fusion', 'guided'),
    'wrong type': (dict(epochs='many'), 'epochs', 'whole number'),
    'wrong root': (dict(root='no/such/folder'), 'no such folder', 'root'),
    'real set not there': (dict(source='real'), 'casme3', 'casme.psych.ac.cn'),
    'no twin of this set': (dict(dataset='stress_predict'), 'no simulated twin', 'root'),
    'model without its input': (dict(dataset='stress_predict', model='annotation', root='PEOPLE'), 'action units',
                                'leave it out'),
    'unknown backbone': (dict(root='TWIN', backbone='resnet19', folds='1', epochs=1), 'resnet19', 'resnet'),
    'unknown fold': (dict(dataset='stress_predict', model='features', root='PEOPLE', folds='S99,S98'), 'S99',
                     'accepted'),
    'twin as real': (dict(dataset='stress_predict', root='PEOPLE', source='real'), 'SIMULATED.json', 'real'),
}

@pytest.mark.parametrize('what', [k for k in REFUSED if k != 'unknown backbone'])
def test_refused_in_one_sentence(what, people, apart):
    given, *words = REFUSED[what]
    with pytest.raises(EmonbError) as e:
        run({k: str(people) if v == 'PEOPLE' else v for k, v in given.items()} | dict(out=str(apart/'out')))
    said = str(e.value)
    assert '\n' not in said and all(w in said for w in words), said
    assert e.value.__cause__ is None and not (apart/'out'/'summary.json').exists()


MY_MODULE = '''
import numpy as np, pandas as pd
from functools import partial
from torch import nn
from emonb.data.recordings import from_arrays
from emonb.study.experiment import AUTO, Experiment, System, plain_blocks
from emonb.study.train import Recipe

class Line(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.out = nn.Linear(width, 2)
    def forward(self, x): return self.out(x["physio"].flatten(1))

class Reader:
    provenance = "simulated"
    def __init__(self, root): self.root = root

def prepare(p, reader):
    rng, label = np.random.default_rng(0), np.arange(60)//5 % 2
    x = rng.normal(size=(60, 1, p["width"])) + 2*label[:, None, None]
    table = pd.DataFrame(dict(subject=np.repeat(["ann", "ben", "eve"], 20), label=np.array(["rest", "task"])[label]))
    return from_arrays(dict(physio=x.astype(np.float32)), table, provenance=reader.provenance)

numbers = dict(epochs=3, batch=8, lr=.05, seeds="0")
def systems(p, data):
    recipe = Recipe(partial(Line, p["width"]), epochs=p["epochs"], batch=p["batch"], lr=p["lr"])
    return {"a line": System("model", recipe)}
MySet = Experiment("my_set", lambda p, data: "my set", dict(width=(4, 1, "of a sample")),
                   dict(paper=numbers, demo=numbers), twin=lambda p: ".",
                   open=lambda p: Reader(p["root"]), prepare=prepare, systems=systems, told=lambda p, data: [],
                   blocks=lambda p, data: plain_blocks(data, AUTO, ["loso"]))
'''


def test_a_set_of_ones_own_from_the_command_line_in_worker_processes(apart):
    (apart/'my_module.py').write_text(MY_MODULE)
    given = dict(dataset='my_module:MySet', options='width=6', epochs=4, workers=2, out=apart/'out')
    status, said = papermill(NBS/'90_loso.ipynb', apart/'done.ipynb', given, apart)
    assert status == 0, said[-3000:]
    s = check_summary(apart/'out', 'simulated', 2)
    assert s['dataset'] == 'my_set' and s['parameters']['width'] == 6
    assert s['setting']['epochs'] == 4 and s['n_subjects'] == 3
    assert s['model'] == 'a line' and s['metrics']['UAR']['value'] > .9
    assert len(list((apart/'out'/'rows').glob('*.json'))) == 3


@pytest.mark.parametrize('given,words', [
    (dict(dataset='stress_predict', part='A'), 'part=A does not go with dataset=stress_predict'),
    (dict(dataset='stress_predict', classes=4), 'classes=4 does not go'),
    (dict(dataset='stress_predict', effect=2.), 'effect=2.0 does not go'),
    (dict(dataset='casme3', options='k=5'), "option='k' is not known"),
    (dict(dataset='no_such_module:MySet'), 'no_such_module.py was looked for'),
    (dict(dataset='json:dumps'), 'not an Experiment'), (dict(dataset='casme2'), 'did you mean .casme3')])
def test_what_does_not_belong_to_the_set_stops_the_run(given, words, apart):
    with pytest.raises(EmonbError, match=words): run(dict(given, out='out'))
    assert not (apart/'out').exists()


def test_empty_folder_and_sheets_alone(apart):
    (apart/'empty').mkdir()
    with pytest.raises(EmonbError, match='empty.*apply'): run(dict(root='empty', out='out'))
    (apart/'sheets').mkdir()
    write_sheet(apart/'sheets'/'a.xlsx')
    with pytest.raises(EmonbError, match='-p model annotation'):
        run(dict(part='A', classes=4, model='latent_emotion', root='sheets', out='out'))


def test_the_command_fails_with_the_sentence_last(apart):
    for given, word in ((dict(protocl='loso'), 'protocl'), (dict(root=apart/'nowhere'), 'no such folder')):
        status, said = papermill(NBS/'90_loso.ipynb', apart/'done.ipynb', dict(given, out=apart/'out'), apart)
        last = [line for line in said.splitlines() if line.strip()][-1]
        assert status != 0 and last.startswith('EmonbError: ') and word in last, said[-1500:]


def test_a_single_class_left(people, apart, tmp_path):
    import shutil
    one = shutil.copytree(people, tmp_path/'one')
    table = one/'Improved_All_Combined_hr_rsp_binary.csv'
    pd.read_csv(table).assign(Label=0).to_csv(table, index=False)
    with pytest.raises(EmonbError, match='class'):
        run(dict(dataset='stress_predict', model='features', root=str(one), out='out'))


def test_two_runs_do_not_share_a_folder(people, apart, monkeypatch):
    monkeypatch.setattr(core, 'run_lock', lambda folder: run_lock(folder, wait=.5))
    with run_lock(apart/'out'):
        with pytest.raises(EmonbError, match='another run holds this folder.*-p out'):
            run(dict(dataset='stress_predict', model='features', root=str(people), out='out'))
    assert not (apart/'out'/'rows').exists()


def test_a_full_disk_loses_no_finished_fold(people, apart, monkeypatch):
    "The third row meets a full disk; after room was made the run goes on, and ends as if nothing had been."
    import errno

    from emonb.study import results
    given, real, n = dict(dataset='stress_predict', model='features', protocol='loso', root=str(people),
                          out='out'), results.write_sealed, [0]
    def full(path, obj):
        n[0] += 1
        if n[0] == 3:
            monkeypatch.setattr(os, 'fsync',
                                lambda fd: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
        return real(path, obj)
    monkeypatch.setattr(results, 'write_sealed', full)
    with pytest.raises(EmonbError, match='disk is full.*free some space'): run(given)
    monkeypatch.undo()
    monkeypatch.chdir(apart)
    monkeypatch.setenv('EMONB_CACHE', str(apart/'cache'))
    rows = {p: p.stat().st_mtime_ns for p in (apart/'out'/'rows').iterdir()}
    assert len(rows) == 2 and all(p.suffix == '.json' for p in rows) and not list((apart/'out').rglob('*.tmp'))
    r = run(given)
    assert all(p.stat().st_mtime_ns == t for p, t in rows.items())
    assert r.main.predictions.equals(run(dict(given, out='other')).main.predictions)


@pytest.mark.parametrize('notebook,module',
                         [('89_pretrain_face', 'afew_va'), ('90_loso', 'by_name'), ('91_deap', 'deap'),
                          ('92_ablations', 'ablations'), ('93_attention', 'attention'),
                           ('95_known_answers_deap', 'known_answers_deap'), ('96_speed', 'speed')])
def test_the_parameters_cell_says_what_the_package_takes(notebook, module):
    "The same names, the same defaults, and a type and a comment for each (papermill shows them as help)."
    import ast
    import importlib

    from emonb.experiments.deap import DEAP
    table = DEAP.table if module == 'deap' else importlib.import_module(f'emonb.experiments.{module}').PARAMETERS
    cell, = [''.join(c['source']) for c in json.loads((NBS/f'{notebook}.ipynb').read_text())['cells']
             if 'parameters' in c['metadata'].get('tags', [])]
    given = {n.target.id: ast.literal_eval(n.value) for n in ast.parse(cell).body if isinstance(n, ast.AnnAssign)}
    assert given == {k: d for k, (d, _, _) in table.items()}
    assert all(line.count('#') >= 1 for line in cell.splitlines() if line.strip())
