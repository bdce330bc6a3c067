"""A set and a system of somebody else's, in one short module.

Run by its name, in worker processes, without a change to the package."""
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from test_notebooks import papermill

NBS = ROOT/'nbs'
MODULE = '''"Skin and pulse while people rest or count backwards, and a small network for it."
import numpy as np, pandas as pd, torch
from sklearn.model_selection import GroupKFold
from emonb import from_arrays, own_set, register_model
from emonb.data.recordings import provenance_of


def read(root, p):
    "table.csv: file, person, task; each file two columns at 32 Hz."
    table = pd.read_csv(root/'table.csv')
    x = np.stack([np.loadtxt(root/name, delimiter=',').T[:, :int(32*p.seconds)] for name in table.file])
    return from_arrays(dict(physio=x, features=np.concatenate([x.mean(2), x.std(2)], 1)), table, label='task',
                       subject='person', provenance=provenance_of(root), info=dict(signals=['EDA', 'PPG'], rate=32.))


ItsSet = own_set('counting', read, model='its_module:Net', parameters=dict(seconds=(4., .5, 'of each file')))
three_groups = GroupKFold(3)


@register_model('its_net', inputs=('physio',), recipe=dict(epochs=30, lr=1e-2))
class Net(torch.nn.Module):
    "Log power of every frequency of every signal, then a line."
    def __init__(self, *, num_classes, in_chans, length):
        super().__init__()
        self.norm = torch.nn.LayerNorm(in_chans*(length//2 + 1))
        self.head = torch.nn.Linear(in_chans*(length//2 + 1), num_classes)

    def forward(self, batch):
        return self.head(self.norm(torch.fft.rfft(batch['physio']).abs().log1p().flatten(1)))
'''
SEEN = "\nimport os, pathlib; pathlib.Path(os.environ['SEEN'], str(os.getpid())).touch()\n"


@pytest.fixture
def elsewhere(tmp_path):
    "A folder with the module and, below it, drawn files of eight people: the pulse is quicker while they count."
    rng, rows = np.random.default_rng(0), []
    (tmp_path/'files').mkdir()
    for i in range(80):
        task, t = ('rest', 'count')[i*7 % 10 > 4], np.arange(160)/32
        pulse = np.sin(2*np.pi*(1. if task == 'rest' else 1.75)*t + rng.uniform(0, 6))
        np.savetxt(tmp_path/'files'/f'{i:02}.csv',
                   np.stack([rng.standard_normal(160), pulse + .3*rng.standard_normal(160)], 1), delimiter=',')
        rows.append(dict(file=f'{i:02}.csv', person=f'p{i % 8}', task=task))
    pd.DataFrame(rows).to_csv(tmp_path/'files'/'table.csv', index=False)
    (tmp_path/'files'/'SIMULATED.json').write_text('{}')
    (tmp_path/'seen').mkdir()
    (tmp_path/'its_module.py').write_text(MODULE + SEEN)
    return tmp_path


def test_it_runs_by_name_in_two_workers(elsewhere, monkeypatch):
    assert len(MODULE.splitlines()) <= 40
    monkeypatch.setenv('SEEN', str(elsewhere/'seen'))
    given = dict(dataset='its_module:ItsSet', model='its_module:Net,psnet,features', root=elsewhere/'files',
                 out=elsewhere/'out', workers=2, options='seconds=3', epochs=12)
    status, said = papermill(NBS/'90_loso.ipynb', elsewhere/'done.ipynb', given, elsewhere)
    assert status == 0, said[-2000:]
    assert len(list((elsewhere/'seen').iterdir())) >= 3                 # the kernel and two workers
    summary = json.loads((elsewhere/'out'/'summary.json').read_text())
    assert summary['model'] == 'its_module:Net' and summary['dataset'] == 'counting'
    assert summary['provenance'] == 'simulated'
    assert summary['n'] == 80 and summary['metrics']['UAR']['value'] > .9
    assert {'psnet', 'hand features + logistic regression'} <= set(summary['baselines'])
    compared = {d['comparison'] for d in summary['protocols']['loso']['differences']}
    assert {'its_module:Net − psnet', 'its_module:Net − hand features + logistic regression'} <= compared
    rows = pd.read_parquet(elsewhere/'out'/'predictions.parquet')
    # the same folds for all
    assert rows.groupby('model').fold.nunique().to_dict() == {m: 8 for m in rows.model.unique()}
    assert 'SIMULATED' in (elsewhere/'out'/'tables.md').read_text()


def test_its_own_splitter_and_the_sets_own_answer_to_auto(elsewhere, monkeypatch):
    monkeypatch.setenv('SEEN', str(elsewhere/'seen'))
    code = ('import json, sys; from emonb.experiments.by_name import PARAMETERS, run\n'
            'r = run(json.loads(sys.argv[1]))\n'
            'print([(m.name, m.kind) for m in r.main.entries if m.kind != "floor"], len(r.main.block.splits))')
    given = dict(dataset='its_module:ItsSet', protocol='its_module:three_groups', root=str(elsewhere/'files'),
                 out=str(elsewhere/'out'), workers=1, epochs=1)
    p = subprocess.run([sys.executable, '-c', code, json.dumps(given)], cwd=elsewhere, capture_output=True, text=True,
                       env=dict(os.environ))
    assert p.returncode == 0, p.stderr[-2000:]
    assert "[('its_module:Net', 'model'), ('hand features + logistic regression', 'baseline')] 3" in p.stdout


@pytest.mark.parametrize('given,match', [
    (dict(model='its_module:Nett'), "did you mean 'Net'"), (dict(model='deep_fusion'), 'reads bio'),
    (dict(options='second=3'), "did you mean 'seconds'"),
    (dict(protocol='its_module:three_group'), "did you mean 'three_groups'"),
    (dict(dataset='its_module:Net'), 'not an Experiment'), (dict(part='A'), 'does not go with')])
def test_a_wrong_name_is_one_sentence(elsewhere, monkeypatch, given, match):
    monkeypatch.setenv('SEEN', str(elsewhere/'seen'))
    code = ('import json, sys; from emonb.core import EmonbError; from emonb.experiments.by_name import run\n'
            'try: run(json.loads(sys.argv[1]))\nexcept EmonbError as e: print(e)')
    given = {**dict(dataset='its_module:ItsSet', root=str(elsewhere/'files'), out=str(elsewhere/'out'), workers=1),
             **given}
    p = subprocess.run([sys.executable, '-c', code, json.dumps(given)], cwd=elsewhere, capture_output=True, text=True,
                       env=dict(os.environ))
    assert p.returncode == 0 and match in p.stdout, p.stdout + p.stderr[-2000:]
    assert len(p.stdout.strip().splitlines()) == 1, p.stdout
