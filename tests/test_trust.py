"A number belongs to the code, the data and the people that made it: whole runs over a folder that an earlier one left."
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from test_main_job import write_people, write_sheet

from emonb.core import noted
from emonb.data.recordings import from_arrays
from emonb.experiments.by_name import run
from emonb.study.results import Store
from emonb.study.splits import make_splits
from emonb.study.train import Recipe, run_folds

RUN = """
import json, sys, warnings
from emonb.experiments.by_name import run
r = run(json.loads(sys.argv[1]))
print('UAR', r.main.entries[0].scores['UAR']['value'])
"""


class Checkout:
    "A copy of the package whose modules can be edited, and one results folder that all runs share."
    def __init__(self, top):
        self.top = top
        shutil.copytree(ROOT/'emonb', top/'emonb', ignore=shutil.ignore_patterns('__pycache__'))

    def edit(self, module, old, new):
        path = self.top/'emonb'/module
        text = path.read_text(encoding='utf-8')
        assert text.count(old) == 1, f'{module} has {text.count(old)} times: {old}'
        path.write_text(text.replace(old, new), encoding='utf-8')
        return lambda: path.write_text(text, encoding='utf-8')

    def run(self, **given):
        "Run in a process of its own; folds trained, and what it printed."
        log = self.top/'out/run.log'
        before = len(log.read_text().splitlines()) if log.exists() else 0
        env = dict(os.environ, PYTHONPATH=str(self.top), EMONB_CACHE=str(self.top/'cache'))
        p = subprocess.run([sys.executable, '-c', RUN, json.dumps(dict(given, out=str(self.top/'out')))],
                           capture_output=True, text=True, env=env, cwd=self.top, timeout=300)
        assert p.returncode == 0, p.stderr[-3000:]
        return len(log.read_text().splitlines()) - before, p.stdout


@pytest.fixture(scope='module')
def sheet(tmp_path_factory):
    "A checkout, a sheet of eight people, and the eight folds of a run on it."
    here = Checkout(tmp_path_factory.mktemp('trust'))
    (here.top/'set').mkdir()
    write_sheet(here.top/'set'/'sheet.xlsx')
    here.given = dict(dataset='casme3', part='A', classes=4, model='annotation', root=str(here.top/'set'),
                      protocol='loso', workers=1)
    assert here.run(**here.given)[0] == 8 and here.run(**here.given)[0] == 0
    return here


CHANGES = {   # what: (module, old, new, whether it makes another number)
    'a function of the reader': ('data/casme3.py', 'return np.array([[n in r for n in names]',
                                 'return 0*np.array([[n in r for n in names]', True),
    'a model': ('models/baselines.py', 'def annotation_model(*, C:float=1.)', 'def annotation_model(*, C:float=.01)',
                True),
    'the training': ('study/train.py', 'model.fit(x[split.train], data.y[split.train])',
                     'model.fit(x[split.train], 3 - data.y[split.train])', True),
    'a comment': ('data/casme3.py', 'def parse_au(', '# the units of a cell\ndef parse_au(', False),
    'a docstring': ('study/train.py', 'One fold: predictions', 'A single fold: predictions', False),
    'a plot': ('study/report.py', 'for k in table[\'kind\']], s=36', 'for k in table[\'kind\']], s=40', False),
    'another model': ('models/psnet.py', 'class PSNet(', 'UNUSED = 1\n\nclass PSNet(', False)}


@pytest.mark.parametrize('what', CHANGES)
def test_changed_code_under_an_old_folder(sheet, what):
    module, old, new, another = CHANGES[what]
    undo = sheet.edit(module, old, new)
    try: trained, said = sheet.run(**sheet.given)
    finally: undo()
    assert trained == (8 if another else 0), said


def test_what_other_code_left_is_told(sheet):
    undo = sheet.edit('study/train.py', "model.fit(x[split.train], data.y[split.train])",
                      "model.fit(x[split.train], data.y[split.train]); x = x*1.")
    try: sheet.run(**sheet.given)
    finally: undo()
    assert sheet.run(**sheet.given)[0] == 0      # the first code finds its own again
    notes = json.loads((sheet.top/'out/summary.json').read_text())['notes']
    assert len(notes) == 1 and 'belong to other code, data or settings' in notes[0]


KEYS = """
from functools import partial
from emonb.code_key import code_key
from emonb.data.casme3 import CasMe3
from emonb.data.deap import Deap
from emonb.experiments.deap import make_fusion
from emonb.models.latent_emotion import LatentEmotion
from emonb.signals import prepare, prepare_deap
from emonb.study.train import fit_fold
print(code_key(Deap, prepare_deap._prepare), code_key(CasMe3, prepare._prepare),
      code_key(partial(make_fusion), fit_fold), code_key(LatentEmotion))
"""

def test_a_key_is_the_same_in_every_process():
    "Whatever order sets have there."
    said = {subprocess.run([sys.executable, '-c', KEYS], capture_output=True, text=True, check=True, cwd=ROOT,
                           env=dict(os.environ, PYTHONHASHSEED=str(seed))).stdout for seed in range(4)}
    assert len(said) == 1 and len(set(said.pop().split())) == 4


def test_files_of_the_old_size_and_time(tmp_path):
    "A sheet whose labels were changed, with the old size and time set again, is another set."
    here = Checkout(tmp_path)
    (tmp_path/'set').mkdir()
    table = pd.DataFrame([(f's{s}', 'abc'[k % 3], 100*k, 100*k + 5, 100*k + 9, '12' if k % 2 else '4', 'I',
                           'happy' if k % 2 else 'anger') for s in range(1, 5) for k in range(6)],
                         columns=['Subject', 'Filename', 'Onset', 'Apex', 'Offset', 'AU', 'Objective class', 'emotion'])
    path = tmp_path/'set/sheet.csv'
    given = dict(dataset='casme3', part='A', classes=4, model='annotation', root=str(tmp_path/'set'), protocol='loso',
                 workers=1)
    table.to_csv(path, index=False)
    first, stat = here.run(**given), path.stat()
    swapped = path.read_text().replace('anger', 'XXXXX').replace('happy', 'anger').replace('XXXXX', 'happy')
    path.write_text(swapped)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size and path.stat().st_mtime_ns == stat.st_mtime_ns
    assert first[0] == 4 and here.run(**given)[0] == 4


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_in_every_kind_of_file(people, tmp_path, monkeypatch):
    """Cache, rows and predictions of a run on physiology.

    Whatever is damaged is named, set aside and made anew, to the same numbers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('EMONB_CACHE', str(tmp_path/'cache'))
    given = dict(dataset='stress_predict', model='features', root=str(people), out=str(tmp_path/'out'), protocol='loso',
                 workers=1)
    first = run(given)
    files = [p for p in [*(tmp_path/'cache').rglob('*'), *(tmp_path/'out/rows').iterdir(),
                         *(tmp_path/'out/predictions').iterdir()]
             if p.is_file() and p.name != 'sha256.json']
    kinds = {p.name if 'cache' in p.parts else p.suffix: p for p in files}
    assert {'physio.npy', 'features.npy', 'meta.parquet', 'header.json', '.json', '.parquet'} <= set(kinds)
    for name, path in kinds.items():
        flip(path, path.stat().st_size//2)
        again = run(given)
        assert len(again.notes) >= 1 and any('damaged' in n and path.name in n for n in again.notes), name
        assert again.main.predictions.equals(first.main.predictions), name
    assert run(given).notes == [] and list(tmp_path.rglob('*.damaged-1'))


def test_the_account_of_a_run(tmp_path, monkeypatch):
    """One person's clock is an hour off.

    The person and the windows that were promised stand in summary.json with the reason."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('EMONB_CACHE', str(tmp_path/'cache'))
    root = write_people(tmp_path/'people', seed=1)
    for path in (root/'S03').glob('[A-Z]*.csv'):
        start, rest = path.read_text().split('\n', 1)
        path.write_text(f'{float(start) + 3600:.2f}\n{rest}')
    r = run(dict(dataset='stress_predict', model='features', root=str(root), out=str(tmp_path/'out'), protocol='loso',
                 workers=1))
    account = json.loads((tmp_path/'out/summary.json').read_text())['account']
    assert set(account) >= {'person', 'trial', 'window'}
    for a in account.values():
        assert a['found'] == a['used'] + sum(a['left_out'].values()) and 'no reason noted' not in a['left_out']
    assert account['person']['found'] == 4 and account['person']['used'] == 3 == r.data.meta.subject.nunique()
    assert sum(account['window']['left_out'].values()) >= 25


def test_one_person_under_two_names_is_one_fold():
    rng = np.random.default_rng(0)
    spelled = np.array(['P 01', 'p 01', 'P\u200b 01', 'P 02', 'Ｐ 02', 'P 03'])[np.arange(60) % 6]
    data = from_arrays(dict(features=rng.standard_normal((60, 3))),
                       pd.DataFrame(dict(subject=spelled, label=np.arange(60)//6 % 2)), provenance='simulated')
    splits = make_splits(data.meta, 'loso')
    assert [s.name for s in splits] == ['P 01', 'P 02', 'P 03'] and [len(s.test) for s in splits] == [30, 20, 10]
    assert len([d for d in data.info['defects'] if d['action'].startswith('read as')]) == 2


def test_sets_with_the_same_table_are_told_apart(tmp_path):
    "Own arrays have no files and no fingerprint; their values tell them apart."
    from functools import partial

    from sklearn.linear_model import LogisticRegression
    rng = np.random.default_rng(0)
    table = pd.DataFrame(dict(subject=np.repeat(list('abc'), 20), label=np.arange(60) % 2))
    one, two = (from_arrays(dict(features=rng.standard_normal((60, 3))), table, provenance='simulated')
                for _ in range(2))
    recipe, splits = Recipe(partial(LogisticRegression), inputs=('features',)), make_splits(one.meta, 'loso')
    store = Store(tmp_path)
    a = run_folds(one, splits, recipe, store=store)
    with noted() as said: b = run_folds(two, splits, recipe, store=Store(tmp_path))
    assert not a.equals(b) and b.equals(run_folds(two, splits, recipe)) and not said
    assert run_folds(one, splits, recipe, store=Store(tmp_path)).equals(a)
