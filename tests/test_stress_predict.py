"The reader of Stress-Predict on whole, published and damaged trees."
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from emonb.core import DataError, EmonbError, SetError
from emonb.data import stress_predict as SP
from emonb.data.people import UNEXPLAINED
from emonb.data.recordings import check_reader
from emonb.signals.prepare import PrepareSettings, prepare
from emonb.study.splits import make_splits

T0 = 1_600_000_000
KILLER = '1e2147483648'      # one cell that ends the process where pandas parses it

def write(path, start, rate, x):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join([f'{start:.2f}', f'{rate:.6f}', *map(str, x)]) + '\n')

def tree(root, subjects=(2, 3, 4), seconds=500, runs=(70, 60, 60, 60, 60, 60, 121)):
    rng, rows = np.random.default_rng(0), []
    for p in subjects:
        for k, r in SP.RATES.items():
            late = 10*(k == 'HR')
            write(root/f'S{p:02d}'/f'{k}.csv', T0 + late, r, np.round(rng.normal(60, 1, int((seconds - late)*r)), 2))
        labels = np.repeat(np.arange(len(runs)) % 2, runs)
        rows += [(p, 70., 12., T0 + 9 + i, v) for i, v in enumerate(labels)]
    pd.DataFrame(rows, columns=['Participant', 'HR', 'respr', 'Time(sec)', 'Label']).to_csv(root/SP.LABELS, index=False)
    return root

@pytest.fixture
def root(tmp_path): return tree(tmp_path/'set')

def lines(path, change):
    rows = path.read_text().splitlines()
    change(rows)
    path.write_text('\n'.join(rows) + '\n')

def test_the_contract_and_the_rule(root):
    d = check_reader(SP.StressPredict(root, window_s=30.))
    m = d.meta
    assert d.provenance == 'real' and d.classes == ['rest', 'stress'] and d.name == 'stress_predict'
    assert len(d.sources) == 1 + 3*4
    assert m.subject.tolist() == sorted(m.subject) and set(m.stimulus) <= set(SP.TASKS)
    assert m.groupby('trial').subject.nunique().max() == 1
    labels = pd.read_csv(root/SP.LABELS)
    labels = labels[labels.Participant == 2].set_index('Time(sec)').Label
    for w in m[m.subject == 'S02'].itertuples():
        inside = labels.loc[T0 + int(w.start_s):T0 + int(w.start_s) + 29]
        assert len(inside) == 30 and (inside == w.label).all()
    starts = m[m.subject == 'S02'].start_s.to_numpy()
    assert (np.diff(starts) % 30 == 0).all() and starts[0] == 10
    assert len(starts) + (pd.DataFrame(d._dropped).subject == 'S02').sum() == len(range(10, 500 - 30 + 1, 30))

def test_signals_lie_on_the_sessions_clock(root):
    s = SP.StressPredict(root, window_s=30.)[0].signals
    assert s.start_s == 10 and list(s.values) == SP.SIGNALS and s.rates == SP.RATES
    raw = [float(v) for v in (root/'S02'/'BVP.csv').read_text().split()[2:]]
    assert np.array_equal(s.values['BVP'], raw[640:]) and len(s.values['HR']) == 490

def test_step_makes_windows_overlap(root):
    a, b = SP.StressPredict(root, window_s=30.), SP.StressPredict(root, window_s=30., step_s=10.)
    assert len(b) > 2*len(a) and a.settings != b.settings and (b.meta.length_s == 30).all()

def test_as_published(root, tmp_path):
    flat = SP.StressPredict(root, window_s=30.).meta
    (tmp_path/'own/Raw_data').mkdir(parents=True)
    (tmp_path/'own/Processed_data').mkdir()
    for p in root.glob('S*'): shutil.move(p, tmp_path/'own/Raw_data')
    shutil.move(root/SP.LABELS, tmp_path/'own/Processed_data')
    pd.testing.assert_frame_equal(SP.StressPredict(tmp_path/'own', window_s=30.).meta, flat)

def test_a_marker_makes_it_simulated(root):
    (root/'SIMULATED.json').write_text('{}')
    assert SP.StressPredict(root, window_s=30.).provenance == 'simulated'

def test_a_subject_without_labels_is_left_out_and_said(root):
    shutil.copytree(root/'S02', root/'S01')
    d = SP.StressPredict(root, window_s=30.)
    assert 'S01' not in set(d.meta.subject) and (d.audit().file == 'S01').any()
    with pytest.raises(SetError, match='S01 has no labels; there are S02'): SP.StressPredict(root, subjects=['S01'])
    assert set(SP.StressPredict(root, window_s=30., subjects=['S03']).meta.subject) == {'S03'}

def test_a_hole_in_the_labels_and_a_short_file_drop_windows_only(root):
    t = pd.read_csv(root/SP.LABELS)
    t[~((t.Participant == 2) & (t['Time(sec)'] == T0 + 20))].to_csv(root/SP.LABELS, index=False)
    whole = (root/'S03'/'EDA.csv').read_text().splitlines()
    (root/'S03'/'EDA.csv').write_text('\n'.join(whole[:2 + 4*450]))
    d = SP.StressPredict(root, window_s=30.)
    why = pd.DataFrame(d._dropped)
    assert (why[why.subject == 'S02'].why == 'a second without label').sum() == 1
    assert (why[why.subject == 'S03'].why == 'EDA ends before it').any()
    assert d.meta[d.meta.subject == 'S03'].start_s.max() <= 420
    assert d.audit().defect.str.contains('EDA ends before it').any()

def test_other_task_orders_are_not_named_as_designed(tmp_path):
    d = SP.StressPredict(tree(tmp_path/'a', runs=(100, 100, 100)), window_s=30.)
    assert set(d.meta.stimulus) == {'segment_0', 'segment_1', 'segment_2'}

@pytest.mark.parametrize('damage, kind, sentence', [
    (lambda r: shutil.rmtree(r), SetError, 'no such folder'),
    (lambda r: [shutil.rmtree(p) for p in r.glob('S*')], SetError, 'no subject folder S01'),
    (lambda r: (r/SP.LABELS).unlink(), SetError, f'{SP.LABELS}: no such file'),
    (lambda r: (r/SP.LABELS).write_text(''), SetError, 'cannot be read as a table'),
    (lambda r: (r/SP.LABELS).write_text('Participant,Time(sec)\n2,3\n'), SetError, "column 'Label' is missing"),
    (lambda r: lines(r/SP.LABELS, lambda v: v.__setitem__(7, '2,70,12,x,0')), DataError, "row 8: Time.sec. is 'x'"),
    (lambda r: lines(r/SP.LABELS, lambda v: v.__setitem__(7, v[7][:-1] + '3')), DataError, "row 8: Label is '3'"),
    (lambda r: lines(r/SP.LABELS, lambda v: v.__setitem__(7, v[6])), DataError,
     'row 8: time does not increase within S02')])
def test_a_wrong_set_stops_at_once(root, damage, kind, sentence):
    damage(root)
    with pytest.raises(kind, match=sentence) as e: SP.StressPredict(root, window_s=30.)
    assert '\n' not in str(e.value) and ';' in str(e.value)

ONE_PERSON = [
    (lambda r: shutil.rmtree(r/'S03'), SetError, 'S03: no such folder'),
    (lambda r: (r/'S03/HR.csv').unlink(), DataError, 'S03/HR.csv: no such file'),
    (lambda r: (r/'S03/EDA.csv').write_text(''), DataError, 'S03/EDA.csv, row 1'),
    (lambda r: lines(r/'S03/EDA.csv', lambda v: v.__delitem__(slice(0, 2))), DataError,
     'S03/EDA.csv, row 1: .*header is missing'),
    (lambda r: lines(r/'S03/EDA.csv', lambda v: v.__setitem__(1, '8.0')), DataError,
     "S03/EDA.csv, row 2: sampling rate '8.0' where 4 Hz"),
    (lambda r: lines(r/'S03/EDA.csv', lambda v: v.__setitem__(0, f'{T0 + 5000}')), DataError,
     'S03: the four files begin 5000 s apart'),
    (lambda r: lines(r/'S03/EDA.csv', lambda v: v.__setitem__(0, 'inf')), DataError,
     "S03/EDA.csv, row 1: 'inf' is not a start time"),
    (lambda r: lines(r/'S03/EDA.csv', lambda v: v.__setitem__(0, KILLER)), DataError,
     'S03/EDA.csv, row 1: .* is not a start time'),
    (lambda r: lines(r/'S03/HR.csv', lambda v: v.__setitem__(1, KILLER)), DataError,
     'S03/HR.csv, row 2: sampling rate')]

@pytest.mark.parametrize('damage, kind, sentence', ONE_PERSON)
def test_strict_stops_at_one_persons_files(root, damage, kind, sentence):
    damage(root)
    with pytest.raises(kind, match=sentence) as e: SP.StressPredict(root, window_s=30., strict=True)
    assert '\n' not in str(e.value) and ';' in str(e.value)

def account(d):
    "The reader's account; every unit must add up, with nothing unexplained."
    a = d.ledger.close(**d.units(d.meta))
    for unit, v in a.items():
        assert v['found'] == v['used'] + sum(v['left_out'].values()) and UNEXPLAINED not in v['left_out'], unit
    return a

@pytest.mark.parametrize('damage, kind, sentence', ONE_PERSON)
def test_one_persons_files_cost_one_person_and_are_counted(root, damage, kind, sentence):
    whole = account(SP.StressPredict(root, window_s=30.))
    damage(root)
    d = SP.StressPredict(root, window_s=30.)
    a = account(d)
    assert set(d.meta.subject) == {'S02', 'S04'} and sum(a['person']['left_out'].values()) == 1
    assert a['person']['found'] == 3 and a['trial']['found'] == whole['trial']['found'] == 21
    assert a['window']['found'] == whole['window']['found']
    assert len(d.defects) > 0 and (d.audit().action == 'subject left out').sum() == 1
    check_reader(d)

@pytest.mark.parametrize('by', [3600, -3600, 400, -400])
def test_a_clock_that_is_off_is_counted(root, by):
    "The windows that the labels promise are found, whether the recording lies before or after them."
    whole = account(SP.StressPredict(root, window_s=30.))
    for k in SP.RATES: lines(root/'S03'/f'{k}.csv', lambda v: v.__setitem__(0, str(float(v[0]) + by)))
    d = SP.StressPredict(root, window_s=30.)
    a = account(d)
    gone = abs(by) == 3600
    assert ('S03' in set(d.meta.subject)) != gone and a['person']['left_out'] == ({'not recorded': 1} if gone else {})
    assert a['person']['found'] == 3 and a['trial'] == whole['trial'] or a['trial']['left_out']['not recorded'] >= 5
    assert abs(a['window']['found'] - whole['window']['found']) <= 1 and a['window']['left_out']['not recorded'] >= 5
    told = d.audit()
    assert told.defect.str.match('S03: .* windows: (signals begin after it|.* ends before it)').any()
    assert (told.action == 'subject left out').sum() == gone

def test_people_are_counted_before_any_choice(root):
    shutil.copytree(root/'S02', root/'S01')
    a = account(SP.StressPredict(root, window_s=30., subjects=['S03']))
    assert a['person'] == dict(found=4, used=1, left_out={'no labels': 1, 'not chosen': 2})
    assert a['trial']['left_out']['not chosen'] == 14

def test_one_person_spelled_twice_is_one_person(root):
    (root/'S03').rename(root/'s03')
    d = SP.StressPredict(root, window_s=30.)
    assert sorted(set(d.meta.subject)) == ['S02', 'S03', 'S04'] and d[len(d) - 1].signals is not None
    assert account(d)['person'] == dict(found=3, used=3, left_out={})
    assert d.audit().defect.str.contains("one person spelled 'S03', 's03'").any()
    assert len(make_splits(d.meta, 'loso')) == 3
    shutil.copytree(root/'S02', root/'Raw_data'/'s02')
    assert SP.StressPredict(root, window_s=30.).audit().defect.eq('a second folder of the subject').any()

def test_nothing_left_names_the_first_files(root):
    for s in ('S02', 'S03', 'S04'): (root/s/'HR.csv').unlink()
    with pytest.raises(SetError, match='no window of 60 s can be used .*S02/HR.csv: no such file.*S03/HR.csv'):
        SP.StressPredict(root)

def test_the_sum_after_preparing(root, tmp_path):
    lines(root/'S03/BVP.csv', lambda v: v.__setitem__(99, KILLER))
    (root/'S04'/'EDA.csv').unlink()
    settings = PrepareSettings(modalities=('physio',), signals=('EDA', 'BVP'), rate=64., window='clip')
    for _ in range(2):        # prepared, and then read from its folder
        data = prepare(SP.StressPredict(root, window_s=30.), settings, folder=tmp_path/'prepared')
        a = data.info['account']
        assert a['person']['used'] == 1 and len(a['person']['left_out']) == 2
        assert UNEXPLAINED not in a['person']['left_out']
        for v in a.values():
            assert v['found'] == v['used'] + sum(v['left_out'].values()) and UNEXPLAINED not in v['left_out']
        assert a['window']['used'] == len(data) and a['trial']['found'] == 21

RUN = """
import sys
from emonb.core import DataError
from emonb.data.stress_predict import StressPredict
try:
    d = StressPredict(sys.argv[1], window_s=30.)
    d.audit()
    for i in range(len(d)): d[i]
    print('read', d.meta.subject.nunique())
except DataError as e: print('refused', e)
"""

@pytest.mark.parametrize('cell', [KILLER, '1e4294967297', '\u22125', '1,5', '1_000', '9'*400])
@pytest.mark.parametrize('file, row', [(SP.LABELS, 7), ('S03/EDA.csv', 0), ('S03/EDA.csv', 1), ('S03/BVP.csv', 99),
                                       ('S03/tags_S03.csv', 0)])
def test_a_number_that_is_none_never_ends_the_process(root, file, row, cell):
    (root/'S03/tags_S03.csv').write_text(f'{T0 + 20}\n')
    def damage(v): v[row] = ','.join([*v[row].split(',')[:3], cell, '0']) if ',' in v[row] else cell
    lines(root/file, damage)
    assert cell in (root/file).read_text()
    r = subprocess.run([sys.executable, '-c', RUN, str(root)], capture_output=True, text=True, timeout=60)
    assert r.returncode == 0 and (r.stdout.startswith('refused') or file.endswith('tags_S03.csv')
                                  or row < 2), r.stdout + r.stderr

@pytest.mark.parametrize('cell', ['nan', 'inf', 'n/a', '', '1,5x'])
def test_a_bad_value_is_found_when_its_subject_is_read(root, cell):
    lines(root/'S03/BVP.csv', lambda v: v.__setitem__(99, cell))
    d = SP.StressPredict(root, window_s=30.)
    assert d[0].signals is not None
    i = d.meta.index[d.meta.subject == 'S03'][0]
    for _ in range(2):
        with pytest.raises(DataError, match='S03/BVP.csv, row 100: .*is not a number; repair') as e: d[i]
        assert not e.value.stops

@pytest.mark.parametrize('window, step', [(0, None), (-1, None), (30, 0), (30, -5)])
def test_senseless_windows_are_refused(root, window, step):
    with pytest.raises(EmonbError, match='above 0'): SP.StressPredict(root, window_s=window, step_s=step)

def test_windows_longer_than_any_task(root):
    with pytest.raises(SetError, match='no window of 300 s'): SP.StressPredict(root, window_s=300.)

def test_clock_blocks():
    m = pd.DataFrame(dict(subject=list('aaabbb'), start_s=[0., 60, 600, 0, 60, 600], label=[0, 1, 0, 0, 0, 1]))
    b = SP.clock_blocks(m, [5])
    assert b.windows.tolist() == [4, 2] and b.subjects_with_all_classes.tolist() == [1, 0]
    assert b.share_of_1.tolist() == [.25, .5]

def test_the_real_set(real):
    root = real('stress_predict')
    d = check_reader(SP.StressPredict(root))
    assert d.meta.subject.nunique() == 34 and len(d) == 1657 and abs((d.meta.label == 0).mean() - .689) < .001
    # labels begin 1 s before the last file does
    slots = sum((n - 1)//60 for n in pd.read_csv(root/SP.LABELS).groupby('Participant').size())
    assert len(d) + len(d._dropped) == slots
