"""FMOV.

The reader on whole and damaged trees, the small file, its protocols and floors, figures of an independent script, and
the run."""
import json
import shutil
from dataclasses import replace

import nbformat
import numpy as np
import pytest
from conftest import NBS
from test_notebooks import papermill

from emonb.core import Damaged, DataError, EmonbError, Parameters, SetError
from emonb.data import fmov as F
from emonb.data.people import UNEXPLAINED
from emonb.data.recordings import check_reader, provenance_of
from emonb.experiments import fmov as X
from emonb.experiments.by_name import run
from emonb.study import experiment
from emonb.study.metrics import floors, scores
from emonb.study.splits import check_split

KILLER = '1e2147483648'      # one cell that ends the process where pandas parses it


@pytest.fixture(scope='session')
def simulated(tmp_path_factory):
    root = tmp_path_factory.mktemp('fmov')/'set'
    F.write_tree(root, F.FmovTwin(people=4))
    return root

@pytest.fixture
def root(simulated, tmp_path): return shutil.copytree(simulated, tmp_path/'set')

def file(root, k=2): return root/'FMOV'/f'{k:02d}_FMOV_preprocessed.txt'

def lines(path, change):
    rows = path.read_text().split('\n')
    change(rows)
    path.write_text('\n'.join(rows))

def put(path, row, column, text):
    "Another cell, both counted from 1."
    def change(rows):
        cells = rows[row-1].split('\t')
        cells[column-1] = text
        rows[row-1] = '\t'.join(cells)
    lines(path, change)

def onset(path, k): return F.onsets(path, F.read_columns(path))[k][0]

def account(reader):
    "The reader's account; every unit must add up, with nothing unexplained."
    found = reader.ledger.close(person=reader.meta.subject, trial=reader.meta.trial)
    for unit, a in found.items():
        assert a['found'] == a['used'] + sum(a['left_out'].values()) and UNEXPLAINED not in a['left_out'], unit
    return found

def signals(reader): return np.stack([np.stack(list(reader[i].signals.values.values())) for i in range(len(reader))])

def ten_columns(path, order, step=1/6000):
    "The file rewritten with ten columns in this order."
    t = F.read_columns(path)
    t = t.assign(minutes=(t.index - 1)*step, ekg=np.sin(t.index/10.))
    path.write_text(''.join('\t'.join(f'{v:.9g}' for v in r) + '\t\n' for r in t[order].to_numpy()))


def test_the_contract(simulated):
    d = check_reader(F.Fmov(simulated))
    m = d.meta
    assert d.provenance == 'simulated' and d.classes == ['angry', 'happy', 'neutral']
    assert len(d) == 48 and len(d.sources) == 4
    assert m.groupby('subject').label.value_counts().eq(4).all()
    assert m.position.tolist()[:12] == [str(k) for k in range(1, 13)]
    assert all(''.join(F.KINDS[k][0] for k in t.label).upper() == t.version.iloc[0] for _, t in m.groupby('subject'))
    assert set(m.version) == set(F.VERSIONS) and m.stimulus.nunique() == 1
    assert account(d)['person'] == dict(found=4, used=4, left_out={})

def test_values_are_those_of_the_file(simulated):
    d = F.Fmov(simulated)
    raw = np.loadtxt(file(simulated, 1), usecols=range(8))
    at = int(np.flatnonzero((raw[:-1, 5:] == 5).any(1) & (raw[1:, 5:] == 0).all(1))[3]) + 1
    s = d[3].signals
    assert d.meta.start_s[3] == at/100 and s.start_s == at/100 - 2
    assert np.array_equal(np.stack([s.values[k] for k in F.SIGNALS]).T, raw[at-200:at+600, [0, 3, 4]])

def test_two_classes_leave_the_neutral_out_and_say_so(simulated):
    a = account(d := F.Fmov(simulated, classes=2))
    assert d.classes == ['angry', 'happy'] and set(d.meta.label) == {0, 1} and a['trial']['used'] == 32
    assert a['trial']['left_out'] == {'a kind of face other than angry and happy': 16}

def test_files_may_lie_flat_and_end_without_a_tab(root, tmp_path):
    whole = F.Fmov(root)
    shutil.copytree(root/'FMOV', tmp_path/'flat')
    for p in (tmp_path/'flat').iterdir(): p.write_bytes(p.read_bytes().replace(b'\t\n', b'\r\n'))
    flat = F.Fmov(tmp_path/'flat')
    assert flat.meta.equals(whole.meta) and np.array_equal(signals(flat), signals(whole))

ONE_FILE = [
    (lambda p: p.write_text(''), 'row 1: 1 columns where the codebook has 8 or 10'),
    (lambda p: lines(p, lambda v: v.__setitem__(6, v[6] + '1\t')), 'row 7: 9 columns where row 1 has 8'),
    (lambda p: lines(p, lambda v: v.__setitem__(6, '')), 'row 7: 1 columns where row 1 has 8'),
    (lambda p: put(p, 9, 7, '3.2'), 'row 9: the reference wave of happy is 3.2'),
    (lambda p: put(p, 9, 8, 'x'), 'row 9: the reference wave of neutral is nan'),
    (lambda p: put(p, 9, 5, '-0.1'), 'row 9: column 5 is -0.1, and average rectified EMG is never below 0'),
    (lambda p: lines(p, lambda v: v.__setitem__(slice(None), [r.replace('\t5', '\t0') for r in v])),
     'no reference wave falls'),
    (lambda p: put(p, onset(p, 0) - 1, 6, '5'), 'two reference waves fall at once'),
    (lambda p: ten_columns(p, ['minutes', 'skin', 'raw_zygomatic', 'raw_corrugator', 'zygomatic', 'ekg', 'corrugator',
                               *F.KINDS]),
     'column 6 is .* never below 0'),
    (lambda p: ten_columns(p, F.COLUMNS[10], step=1/60000), 'column 1: the time goes on by 0.001 s a row where 0.01'),
    (lambda p: p.write_bytes(b'\xff\xfe' + p.read_bytes()), 'row 1')]

@pytest.mark.parametrize('damage, sentence', ONE_FILE, ids=[s for _, s in ONE_FILE])
def test_a_file_that_cannot_be_used_costs_its_person_and_is_named(root, damage, sentence):
    damage(file(root))
    if sentence != 'row 1':     # a byte-order mark alone spoils one cell before the first window: nothing is lost
        with pytest.raises(DataError, match=f'{file(root).name}.*{sentence}') as e: F.Fmov(root, strict=True)
        assert '\n' not in str(e.value) and ';' in str(e.value)
    d = F.Fmov(root)
    lost = sentence != 'row 1'
    assert len(d) == 48 - 12*lost and len(d.audit()) == lost and len(account(d)['person']['left_out']) == lost

@pytest.mark.parametrize('text, column', [('x', 1), ('', 4), (KILLER, 5), ('nan', 1), ('1,5', 4), ('0', 5)])
def test_a_bad_cell_costs_the_event_it_lies_in_and_no_other(root, text, column):
    whole, row = F.Fmov(root), onset(file(root), 4) + 50
    put(file(root), row, column, text)
    d = F.Fmov(root)
    assert set(whole.meta.trial) - set(d.meta.trial) == {'02_05'} and account(d)['trial']['found'] == 48
    assert d.audit().row.tolist() == [row] and d.audit().file.tolist() == [file(root).name]
    with pytest.raises(DataError, match=f'{file(root).name}, row {row}: event 5: .*; repair the row'):
        F.Fmov(root, strict=True)

def test_a_bad_cell_between_the_windows_costs_nothing(root):
    put(file(root), onset(file(root), 4) + 650, 1, 'x')
    assert len(F.Fmov(root, strict=True)) == 48

def test_an_event_at_the_end_is_not_recorded_in_full(root):
    stop = onset(file(root), 11) + 550
    lines(file(root), lambda v: v.__delitem__(slice(stop, None)))
    d = F.Fmov(root)
    assert '02_12' not in set(d.meta.trial) and len(d) == 47 and 'not all recorded' in d.audit().defect[0]

def test_ten_columns_are_read_by_the_codebook_and_said(root):
    whole = F.Fmov(root)
    ten_columns(file(root), F.COLUMNS[10])
    d = F.Fmov(root)
    assert np.allclose(signals(d), signals(whole)) and d.meta.equals(whole.meta)
    assert d.audit().defect.tolist() == ["10 columns, read in the codebook's order; their scales agree"]

def test_another_order_is_said_and_stays_out_of_the_versions(root):
    at = onset(file(root), 0)
    for row in range(at - 10, at):
        put(file(root), row, 8, '0')
        put(file(root), row, 6, '5')
    d = F.Fmov(root)
    assert d.meta[d.meta.subject == '02'].version.eq('other').all()
    assert 'AANHNAHAHAHN, which is neither' in d.audit().defect[0]
    tested = {i for s in X.version_splits(d.meta) for i in [*s.train, *s.test]}
    assert len(d) == 48 and set(d.meta.subject[list(tested)]) == {'01', '03', '04'}

def test_a_second_file_of_a_person_is_passed_over(root):
    shutil.copy(file(root, 1), root/file(root, 2).name)
    d = F.Fmov(root)
    assert len(d) == 48 and d.audit().defect.tolist() == ['a second file of the person']

def test_a_wrong_root_stops(tmp_path, root):
    with pytest.raises(SetError, match='no such folder'): F.Fmov(tmp_path/'nowhere')
    (tmp_path/'empty').mkdir()
    with pytest.raises(SetError, match='no file NN_FMOV_preprocessed.txt'): F.Fmov(tmp_path/'empty')
    for k in range(1, 5): file(root, k).write_text('1\t2\t\n')
    with pytest.raises(SetError, match='no event can be used .*01_FMOV_preprocessed.txt, row 1: 2 columns'):
        F.Fmov(root)


def test_the_small_file_that_comes_with_the_package():
    folder = F.small_root()
    assert (folder/F.SMALL).stat().st_size <= 2_000_000
    about = (folder/'README.md').read_text()
    assert 'CC0 1.0' in about and 'GNilsonne/Data-and-analysis-code-Oxazepam-and-emotion-2' in about
    d = check_reader(F.Fmov(everyone=True))
    assert d.provenance == 'real' and d.meta.subject.nunique() == 37 and len(d) == 444
    assert signals(d).shape == (444, 3, 800)
    assert d.meta.groupby('version').subject.nunique().to_dict() == {F.VERSIONS[0]: 21, F.VERSIONS[1]: 16}
    main = F.Fmov()
    assert main.meta.subject.nunique() == 36 and '36' not in set(main.meta.subject)
    assert account(main)['person']['left_out'] == {'excluded by the authors (facial tics)': 1}
    assert main.audit().file.tolist() == ['person 25', 'person 36']

def test_it_is_what_the_tree_gives(real, tmp_path):
    tree, small = F.read_tree(real('fmov')), F.read_small(F.small_root())
    assert tree.table.equals(small.table) and tree.provenance == small.provenance == 'real' and not tree.defects
    half = (tree.x.max(2) - tree.x.min(2))/F.STEPS/2
    far = np.abs(tree.x - small.x).max(2)
    assert (far <= 1.001*half).all() and far.max() > 0
    assert np.abs(F.second_features(tree.x)[0] - F.second_features(small.x)[0]).max() < .001
    F.write_small(tree, tmp_path)
    again = F.read_small(tmp_path)
    assert np.array_equal(again.x, small.x) and again.table.equals(small.table)
    a, b = F.Fmov(real('fmov')), F.Fmov()
    assert a.meta.equals(b.meta) and a.audit().equals(b.audit())

def test_it_is_written_the_same_twice(simulated, tmp_path):
    e = F.read_tree(simulated)
    said = [F.write_small(e, tmp_path/k).read_bytes() for k in 'ab']
    assert said[0] == said[1]
    e.x[7, 1, 300] *= 1.5
    assert F.write_small(e, tmp_path/'c').read_bytes() != said[0]
    assert F.Fmov(tmp_path/'a').provenance == 'simulated'     # a small file of a twin stays one

@pytest.mark.parametrize('damage',
                         [lambda b: b[:-9], lambda b: b[:5000] + bytes([b[5000] ^ 1]) + b[5001:], lambda b: b''])
def test_a_damaged_small_file_is_named(tmp_path, damage):
    shutil.copytree(F.small_root(), tmp_path/'small')
    path = tmp_path/'small'/F.SMALL
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Damaged, match=f'{F.SMALL}: damaged, its checksum does not fit; install emonb again'):
        F.Fmov(tmp_path/'small')

def test_a_missing_checksum_is_named(tmp_path):
    shutil.copytree(F.small_root(), tmp_path/'small')
    (tmp_path/'small'/f'{F.SMALL}.sha256').unlink()
    with pytest.raises(DataError, match='sha256: cannot be read'): F.Fmov(tmp_path/'small')

@pytest.mark.parametrize('x', [np.zeros((2, 3, 9)), np.arange(54.).reshape(2, 3, 9)*-1e6,
                               np.random.default_rng(0).normal(size=(4, 3, 800))])
def test_packing_keeps_half_a_step(x):
    assert (np.abs(F.unpacked(**F.packed(x)) - x) <= .5001*F.packed(x)['step'][..., None]).all()


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    "classes, people → the prepared real set of the small file."
    kept = {}
    def make(classes=2, everyone=False):
        key = classes, everyone
        if key not in kept:
            kept[key] = X.load_set(Parameters(dict(strict=False, model='psnet')),
                                   F.Fmov(classes=classes, everyone=everyone))
        return kept[key]
    return make

def all_blocks(data): return {b.protocol: b for b in X.blocks(Parameters(dict(protocol='auto', folds='all')), data)}

def test_protocols_hold_apart_what_they_promise(prepared):
    d = prepared()
    found = all_blocks(d)
    assert [len(found[k].splits) for k in ('loso', 'leave_version_out', 'opposed_positions')] == [36, 2, 36]
    for b in found.values():
        for s in b.splits:
            check_split(d.meta, s, b.apart)
            assert s.protocol == b.protocol
    for s in found['leave_version_out'].splits:
        assert not set(d.meta.version[s.train]) & set(d.meta.version[s.test]) and len(s.train) + len(s.test) == 288
    for b in found.values():
        assert np.array_equal(np.sort(np.concatenate([s.test for s in b.splits])), b.rows), 'each event is judged once'
    mixed = replace(found['leave_version_out'].splits[0], train=found['loso'].splits[0].train)
    with pytest.raises(EmonbError): check_split(d.meta, mixed, found['leave_version_out'].apart)
    judged = d.meta.iloc[found['opposed_positions'].rows]
    assert set(judged.position) == {'2', '6', '7', '11'} and len(judged) == 144
    assert all((t.groupby('version').label.nunique() == 1).all() and t.label.nunique() == 2
               for _, t in judged.groupby('position'))
    assert all(set(d.meta.position[s.train]) <= set(judged.position) for s in found['opposed_positions'].splits)

def test_a_protocol_of_a_set_is_checked_by_a_run(prepared):
    "A block whose parts share what it says they never share stops."
    d = prepared()
    b = all_blocks(d)['loso']
    b.apart = ('subject', 'version')
    with pytest.raises(EmonbError, match='version .* is in both parts'): experiment.judge_all(X.FMOV, d, [b], {}, (0,))

@pytest.mark.parametrize('classes, expected', [(2, .784), (3, .712)])
def test_the_floor_of_position_is_a_category(prepared, classes, expected):
    d = prepared(classes, everyone=True)
    b = all_blocks(d)['loso']
    def uar(meta):
        return scores(d.y, floors(meta, d.y, b.splits, classes, columns=X.FMOV.columns, draws=1)['metadata'],
                      classes)['UAR']
    assert abs(uar(d.meta) - expected) < .02
    lies = uar(d.meta.assign(position=d.meta.order + np.linspace(0, 1e-6, len(d))))    # a number, and no two alike
    assert lies < expected - .15

def test_position_is_worth_little_where_it_is_taken_away(prepared):
    d = prepared()
    # 21 of 36 people had one version: .583
    for name, most in (('leave_version_out', .51), ('opposed_positions', .59)):
        b = all_blocks(d)[name]
        found = floors(d.meta, d.y, b.splits, 2, columns=X.FMOV.columns, draws=1)['metadata']
        assert scores(d.y[b.rows], found[b.rows], 2)['UAR'] < most

def regress(d, features, name):
    b = all_blocks(d)[name]
    yhat = np.full(len(d), -1)
    for s in b.splits: yhat[s.test] = X.regression().fit(features[s.train], d.y[s.train]).predict(features[s.test])
    return scores(d.y[b.rows], yhat[b.rows], len(d.classes)), len(b.rows)

@pytest.mark.parametrize('people, classes, protocol, columns, uf1, uar, n', [
    (37, 2, 'loso', slice(None), .665, .669, 296), (36, 2, 'loso', slice(None), None, .656, 288),
    (37, 2, 'opposed_positions', slice(None), None, .66, 148),
    (37, 2, 'leave_version_out', slice(None), None, .65, 296), (37, 3, 'loso', slice(6, 18), .475, .471, 444),
    (37, 3, 'loso', slice(0, 6), .312, .354, 444)])
def test_figures_of_an_independent_script(prepared, people, classes, protocol, columns, uf1, uar, n):
    "Six seconds, on the file that comes with the package, to .03."
    reader = F.Fmov(classes=classes, everyone=people == 37)
    got, judged = regress(prepared(classes, people == 37), F.second_features(signals(reader))[0][:, columns], protocol)
    assert judged == n and abs(got['UAR'] - uar) < .03 and (uf1 is None or abs(got['UF1'] - uf1) < .03), got

def test_five_seconds_stand_above_their_null(prepared):
    "The scored window, under each protocol: beyond what labels permuted within people give."
    d, rng = prepared(), np.random.default_rng(0)
    features = d.x['features']
    for name in X.PROTOCOLS:
        got = regress(d, features, name)[0]['UAR']
        shuffled = [regress(replace(d, meta=d.meta.assign(label=F.permuted_within(d.meta.label, d.meta.subject, rng))),
                            features, name)[0]['UAR'] for _ in range(19)]
        assert got > max(shuffled) and abs(got - .665) < .03, (name, got, max(shuffled))

def test_the_control_without_a_model():
    d = F.Fmov()
    x, m = signals(d), d.meta
    value = np.log(x[:, 1:, 400:600].mean(2)/x[:, 1:, :200].mean(2))
    zygomatic, corrugator = F.contrast(value, m.label, m.subject).mean(0)
    assert abs(zygomatic + .201) < .03 and abs(corrugator - .195) < .03


def test_nothing_but_the_event_itself_reaches_the_model(root, tmp_path):
    "Other positions, later starts and other events change the table alone: the arrays stay to the last bit."
    def arrays(root): return X.load_set(Parameters(dict(strict=False, model='psnet')), F.Fmov(root, classes=3))
    before, quiet = arrays(root), '\t'.join(['8', '-.001', '.001', '.001', '.001', '0', '0', '0', ''])
    for k in range(1, 5): lines(file(root, k), lambda v: v.__setitem__(slice(0, 0), [quiet]*3000))
    late = arrays(root)
    assert (late.meta.start_s - before.meta.start_s).round(6).eq(30).all()
    for k in range(1, 5):    # the first event is gone: every other moves one position forward
        at = onset(file(root, k), 0)
        for row in range(at - 10, at): put(file(root, k), row, 8, '0')
    fewer = arrays(root)
    assert len(fewer) == 44 and fewer.meta.position.tolist()[:11] == [str(p) for p in range(1, 12)]
    kept = np.flatnonzero(before.meta.order > 0)
    for k in ('physio', 'features'):
        assert np.array_equal(late.x[k], before.x[k]) and np.array_equal(fewer.x[k], before.x[k][kept]), k

def test_scale_and_level_of_a_person_do_not_reach_the_model(simulated):
    x = signals(F.Fmov(simulated))
    other = x*np.array([1, 7, .2])[:, None] + np.array([5., 0, 0])[:, None]
    assert np.allclose(F.relative(other), F.relative(x))
    assert np.allclose(F.second_features(other)[0], F.second_features(x)[0])
    assert F.relative(x).shape == (48, 3, 600) and F.second_features(x)[0].shape == (48, 18)
    louder = x.copy()
    louder[:, 1, 400:500] *= np.e     # the third second of the mouth
    f = F.second_features(louder)[0] - F.second_features(x)[0]
    assert np.allclose(f[:, 8], 1) and np.allclose(np.delete(f, 8, 1), 0)

def test_the_network_is_given_the_signals_alone(prepared):
    d = prepared()
    p = Parameters(dict(X.PRESETS['paper'], model='psnet', scale='train', device='cpu'))
    assert [s.recipe.inputs for s in X.systems(p, d).values()] == [('physio',)] + [('features',)]*3
    assert d.x['physio'].shape == (288, 3, 500) and d.x['features'].shape == (288, 15)


@pytest.fixture
def quick(): return dict(dataset='fmov', model='features')

def test_a_run_without_files(quick, apart):
    r = run(dict(quick, out='out'))
    said = ' '.join(r.told)
    assert r.provenance == 'real' and r.protocols == list(X.PROTOCOLS) and len(r.data) == 288
    for words in ('SHOWN', 'not felt emotion', 'leaving a stimulus out is impossible', 'development set', 'oxazepam',
                  'no input', 'small file'):
        assert words in said
    assert 'development set' in r.table(r.main).attrs['title']
    s = json.loads((apart/'out'/'summary.json').read_text())
    assert set(s['floors']) == {'majority of the training fold', 'stratified random', X.FLOOR}
    assert s['account']['person']['used'] == 36
    assert [s['protocols'][k]['n'] for k in X.PROTOCOLS] == [288, 288, 144]
    assert abs(s['metrics']['UAR']['value'] - .670) < .03 and abs(s['floors'][X.FLOOR]['UAR']['value'] - .784) < .02
    assert s['protocols']['leave_version_out']['floors'][X.FLOOR]['UAR']['value'] < .51
    shown = r.side_by_side()
    assert set(shown.decision) == {'window'} and shown.shape[1] == 4 + 2*3
    assert shown.method[0] == 'hand features + logistic regression'

def test_predictions_do_not_depend_on_the_table(prepared):
    "Positions, starts and versions scrambled, the folds' rows the same: the same predictions."
    d = prepared()
    p = Parameters(dict(X.PRESETS['paper'], model='psnet', scale='train', device='cpu', epochs=1))
    name, system = next(iter(X.systems(p, d).items()))
    rng = np.random.default_rng(0)
    mixed = replace(d, meta=d.meta.assign(**{c: rng.permutation(d.meta[c])
                                             for c in ('position', 'order', 'start_s', 'version')}))
    block = all_blocks(d)['loso']
    block.splits = block.splits[:2]
    a, b = (experiment.predictions_of(x, block, name, system.recipe, (0,)) for x in (d, mixed))
    assert np.array_equal(a.p1, b.p1) and a.p1.nunique() > 2

def test_a_tree_that_is_given_is_read(quick, root, apart):
    r = run(dict(quick, root=str(root), out='out', protocol='loso', classes=3))
    assert r.provenance == 'simulated' and len(r.data) == 48 and not any('small file' in t for t in r.told)
    assert 'SIMULATED' in r.table(r.main).attrs['title']

def test_where_the_set_is_looked_for(quick, root, apart, monkeypatch):
    "$EMONB_DATA without the set does not hide what the package carries; with it, it is read."
    (apart/'sets').mkdir()
    monkeypatch.setenv('EMONB_DATA', str(apart/'sets'))
    def found(**given): return experiment.open_set(X.FMOV, experiment.check_parameters(X.FMOV, given)).root
    small = F.small_root()
    assert found() == small == found(source='real') and provenance_of(found(source='simulated')) == 'simulated'
    shutil.copytree(root, apart/'sets'/'fmov')
    assert found() == apart/'sets'/'fmov'
    assert len(run(dict(quick, out='out', protocol='loso')).data) == 32
    with pytest.raises(SetError, match='source=real was asked for'): run(dict(quick, out='out', source='real'))

def test_real_and_person_36(quick, apart):
    r = run(dict(quick, source='real', everyone=True, out='out', protocol='leave_version_out'))
    assert r.provenance == 'real' and r.data.meta.subject.nunique() == 37 and any('is among them' in t for t in r.told)

@pytest.mark.parametrize('given, sentence', [
    (dict(protocol='leave_stimulus_out'), 'protocol=.leave_stimulus_out. is not known.*opposed_positions'),
    (dict(classes=4), 'classes=4 is not known'), (dict(part='A'), 'part=A does not go with dataset=fmov'),
    (dict(folds=99), 'folds=99: loso has 36')])
def test_what_does_not_go_with_it_is_refused(quick, given, sentence, apart):
    with pytest.raises(EmonbError, match=sentence): run(dict(quick, out='out', **given))

@pytest.mark.parametrize('effect, low, high', [(0., .4, .6), (3., .9, 1.)])
def test_the_twin_knows_its_answer(effect, low, high, quick, apart):
    r = run(dict(quick, source='simulated', effect=effect, out='out', protocol='loso'))
    assert r.provenance == 'simulated' and r.data.meta.subject.nunique() == 24
    assert low < r.main.entries[0].scores['UAR']['value'] <= high

def test_by_papermill_on_real_people(apart):
    "The network for one epoch on two people: the notebook, what it prints, and what stands in summary.json."
    status, said = papermill(NBS/'90_loso.ipynb', apart/'done.ipynb',
                             dict(dataset='fmov', epochs=1, seeds=0, folds=2, out=apart/'out'), apart)
    assert status == 0, said[-3000:]
    s = json.loads((apart/'out'/'summary.json').read_text())
    assert s['model'] == 'product of modalities (ours)' and s['provenance'] == 'real' and s['n_subjects'] == 2
    shown = json.dumps([c.get('outputs') for c in nbformat.read(apart/'done.ipynb', 4).cells])
    for words in ('SHOWN', 'protocols side by side', X.FLOOR, 'development set'): assert words in shown
    assert 'SIMULATED' not in shown
