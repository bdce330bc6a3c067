"keep=True: what is kept is the network that made a fold's predictions, and keeping changes nothing."
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import NBS
from test_main_job import MY_MODULE
from test_notebooks import papermill

from emonb import load_model
from emonb.core import Damaged, DataError, EmonbError
from emonb.experiments.by_name import run
from emonb.study.networks import Networks, load_network, read_fold


def kept(out): return sorted(p.parent for p in (out/'networks').glob('*/*/fold.json') if 'damaged' not in p.parent.name)

def keys(out): return {p.name: json.loads(p.read_text())['key'] for p in (out/'rows').glob('*.json')}

def written(folders): return {f: (f/'fold.json').stat().st_mtime_ns for f in folders}

def as_the_run_said(folder, result):
    "The kept network on its fold's test rows against the run's predictions, to the last bit."
    network, d = load_network(folder), result.main.predictions
    d = d[(d.model == network.said['system']) & (d.fold == network.said['fold']) & (d.seed == network.said['seed'])]
    assert len(d) and sorted(set(d.subject)) == network.said['tested']
    assert not set(d.subject) & set(network.said['trained'])
    columns = [f'p{c}' for c in range(len(network.said['classes']))]
    return np.array_equal(network.predict(result.data, d.row.to_numpy()), d[columns])

def other(data, x=None, **meta):
    "The same set with other arrays, or another column of its table."
    return replace(data, x=x or data.x, meta=data.meta.assign(**meta))


@pytest.fixture(scope='module')
def whole(people, tmp_path_factory):
    "A run with keep=True in two processes, hand features beside the network, and the same run without."
    with pytest.MonkeyPatch.context() as patch:
        top = tmp_path_factory.mktemp('kept')
        patch.chdir(top)
        patch.setenv('EMONB_CACHE', str(top/'cache'))
        given = dict(dataset='stress_predict', model='psnet,features', root=str(people), epochs=1, seeds='0,1',
                     protocol='loso')
        plain = run(dict(given, out=str(top/'plain'), workers=1))
        with_them = run(dict(given, out=str(top/'out'), workers=2, keep=True))
        return given, plain, with_them, top


def test_keeping_changes_no_prediction_and_no_key(whole):
    given, plain, result, top = whole
    assert result.main.predictions.equals(plain.main.predictions) and keys(top/'out') == keys(top/'plain')
    assert not (top/'plain'/'networks').exists()
    assert len(kept(top/'out')) == 4*2, 'four people, two seeds; the regression is not kept'


def test_a_kept_network_gives_its_fold_again(whole):
    result, folders = whole[2], kept(whole[3]/'out')
    assert all(as_the_run_said(f, result) for f in folders)
    network = load_network(folders[0])
    every = np.arange(len(result.data))
    last = load_network(folders[-1])
    assert not np.array_equal(last.predict(result.data, every), network.predict(result.data, every))
    bare = load_model(folders[0])
    assert type(bare) is type(network.model) and bare.made_by['arguments']['num_classes'] == 2
    with pytest.raises(EmonbError, match='reads physio'):
        network.predict(other(result.data, {'features': result.data.x['features']}), [0])


def test_the_card_says_what_the_run_says(whole):
    result, top = whole[2], whole[3]
    text = (kept(top/'out')[0].parent/'README.md').read_text(encoding='utf-8')
    entry = result.main.entries[0]
    assert text.count('SIMULATED') >= 2 and 'must not be used' in text and 'loso, 4 folds, 2 seeds: 8 networks' in text
    for m in ('ACC', 'UF1', 'UAR'):
        low, value, high = (f'{entry.scores[m][k]:.2f}'.lstrip('0') for k in ('low', 'value', 'high'))
        assert f'| {m} | {value} [{low}, {high}]' in text, m
    assert all(f.name in text for f in kept(top/'out')) and str(result.fingerprint) in text


@pytest.mark.parametrize('harm', ['four of eight', 'never kept'])
def test_only_what_is_missing_is_trained_again(harm, whole, tmp_path):
    given, plain, _, top = whole
    out = shutil.copytree(top/'out', tmp_path/'out')
    folders = kept(out)
    hurt = folders if harm == 'never kept' else folders[:4]
    if harm == 'never kept': shutil.rmtree(out/'networks')
    else:
        (hurt[0]/'scaling.safetensors').unlink()                                     # somebody took a file
        (hurt[1]/'fold.json').unlink()                                               # killed before the end
        (hurt[2]/'model.safetensors').write_bytes(b'half of it')                     # damaged
        (hurt[3]/'fold.json').write_bytes((folders[4]/'fold.json').read_bytes())     # of another fold
    before = written(f for f in folders if f not in hurt)
    again = run(dict(given, out=str(out), workers=1, keep=True))
    assert again.main.predictions.equals(plain.main.predictions) and kept(out) == folders
    assert all(as_the_run_said(f, again) for f in hurt) and written(before) == before
    assert [n for n in again.notes if f'{len(hurt)} finished folds had no kept network' in n]
    if harm == 'never kept': return
    now = written(folders)
    assert run(dict(given, out=str(out), workers=1, keep=True)).notes == [] and written(folders) == now


def test_what_is_not_whole_is_not_loaded(whole, tmp_path):
    folder = shutil.copytree(kept(whole[3]/'out')[0], tmp_path/'one')
    key = read_fold(folder)['key']
    assert Networks(tmp_path).has(folder, key) and not Networks(tmp_path).has(folder, 'another')
    (folder/'model.json').unlink()
    with pytest.raises(DataError, match='model.json: missing'): load_network(folder)
    shutil.copy(kept(whole[3]/'out')[0]/'model.json', folder)
    (folder/'model.safetensors').write_bytes(b'')
    with pytest.raises(Damaged, match='checksum'): load_network(folder)


def test_each_person_scaled_by_themselves(whole, people, tmp_path):
    given = dict(whole[0], model='psnet', scale='subject', seeds='0', out=str(tmp_path/'out'), workers=1, keep=True)
    result = run(given)
    assert all(as_the_run_said(f, result) for f in kept(tmp_path/'out'))
    with pytest.raises(EmonbError, match='does not know nobody'):
        load_network(kept(tmp_path/'out')[0]).predict(other(result.data, subject='nobody'), [0])


def test_a_model_of_ones_own_module_from_the_command_line(apart, monkeypatch):
    (apart/'my_module.py').write_text(MY_MODULE)
    given = dict(dataset='my_module:MySet', workers=2, keep=True, out=apart/'out')
    status, said = papermill(NBS/'90_loso.ipynb', apart/'done.ipynb', given, apart)
    assert status == 0, said[-3000:]
    folders = kept(apart/'out')
    assert [json.loads((f/'model.json').read_text())['name'] for f in folders] == ['my_module:Line']*3
    monkeypatch.syspath_prepend(str(apart))
    assert load_model(folders[0]).out.in_features == 4
    assert 'SIMULATED' in (folders[0].parent/'README.md').read_text(encoding='utf-8')
