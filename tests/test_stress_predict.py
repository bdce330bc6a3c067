"The reader of Stress-Predict on whole, published and damaged trees."
import shutil
import numpy as np, pandas as pd, pytest
from emonb.core import DataError, EmonbError, SetError
from emonb.data import stress_predict as SP
from emonb.data.recordings import check_reader

T0 = 1_600_000_000

def write(path, start, rate, x): path.parent.mkdir(parents=True, exist_ok=True); path.write_text('\n'.join([f'{start:.2f}', f'{rate:.6f}', *map(str, x)]) + '\n')

def tree(root, subjects=(2, 3, 4), seconds=500, runs=(70, 60, 60, 60, 60, 60, 121)):
    rng, rows = np.random.default_rng(0), []
    for p in subjects:
        for k, r in SP.RATES.items():
            late = 10*(k == 'HR'); write(root/f'S{p:02d}'/f'{k}.csv', T0 + late, r, np.round(rng.normal(60, 1, int((seconds - late)*r)), 2))
        labels = np.repeat(np.arange(len(runs)) % 2, runs)
        rows += [(p, 70., 12., T0 + 9 + i, l) for i, l in enumerate(labels)]
    pd.DataFrame(rows, columns=['Participant', 'HR', 'respr', 'Time(sec)', 'Label']).to_csv(root/SP.LABELS, index=False)
    return root

@pytest.fixture
def root(tmp_path): return tree(tmp_path/'set')

def lines(path, change): rows = path.read_text().splitlines(); change(rows); path.write_text('\n'.join(rows) + '\n')

def test_the_contract_and_the_rule(root):
    d = check_reader(SP.StressPredict(root, window_s=30.)); m = d.meta
    assert d.provenance == 'real' and d.classes == ['rest', 'stress'] and d.name == 'stress_predict' and len(d.sources) == 1 + 3*4
    assert m.subject.tolist() == sorted(m.subject) and set(m.stimulus) <= set(SP.TASKS) and m.groupby('trial').subject.nunique().max() == 1
    labels = pd.read_csv(root/SP.LABELS); labels = labels[labels.Participant == 2].set_index('Time(sec)').Label
    for w in m[m.subject == 'S02'].itertuples():
        inside = labels.loc[T0 + int(w.start_s):T0 + int(w.start_s) + 29]
        assert len(inside) == 30 and (inside == w.label).all()
    starts = m[m.subject == 'S02'].start_s.to_numpy()
    assert (np.diff(starts) % 30 == 0).all() and starts[0] == 10 and len(starts) + (pd.DataFrame(d._dropped).subject == 'S02').sum() == len(range(10, 500 - 30 + 1, 30))

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
    (tmp_path/'own/Raw_data').mkdir(parents=True); (tmp_path/'own/Processed_data').mkdir()
    for p in root.glob('S*'): shutil.move(p, tmp_path/'own/Raw_data')
    shutil.move(root/SP.LABELS, tmp_path/'own/Processed_data')
    pd.testing.assert_frame_equal(SP.StressPredict(tmp_path/'own', window_s=30.).meta, flat)

def test_a_marker_makes_it_simulated(root):
    (root/'SIMULATED.json').write_text('{}'); assert SP.StressPredict(root, window_s=30.).provenance == 'simulated'

def test_a_subject_without_labels_is_left_out_and_said(root):
    shutil.copytree(root/'S02', root/'S01'); d = SP.StressPredict(root, window_s=30.)
    assert 'S01' not in set(d.meta.subject) and (d.audit().file == 'S01').any()
    with pytest.raises(SetError, match='S01 has no labels; there are S02'): SP.StressPredict(root, subjects=['S01'])
    assert set(SP.StressPredict(root, window_s=30., subjects=['S03']).meta.subject) == {'S03'}

def test_a_hole_in_the_labels_and_a_short_file_drop_windows_only(root):
    t = pd.read_csv(root/SP.LABELS); t[~((t.Participant == 2) & (t['Time(sec)'] == T0 + 20))].to_csv(root/SP.LABELS, index=False)
    whole = (root/'S03'/'EDA.csv').read_text().splitlines(); (root/'S03'/'EDA.csv').write_text('\n'.join(whole[:2 + 4*450]))
    d = SP.StressPredict(root, window_s=30.); why = pd.DataFrame(d._dropped)
    assert (why[why.subject == 'S02'].why == 'a second without label').sum() == 1
    assert (why[why.subject == 'S03'].why == 'EDA ends before it').any() and d.meta[d.meta.subject == 'S03'].start_s.max() <= 420
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
    (lambda r: lines(r/SP.LABELS, lambda l: l.__setitem__(7, '2,70,12,x,0')), DataError, "row 8: Time.sec. is 'x'"),
    (lambda r: lines(r/SP.LABELS, lambda l: l.__setitem__(7, l[7][:-1] + '3')), DataError, "row 8: Label is '3'"),
    (lambda r: lines(r/SP.LABELS, lambda l: l.__setitem__(7, l[6])), DataError, 'row 8: time does not increase within S02'),
    (lambda r: shutil.rmtree(r/'S03'), SetError, 'S03: no such folder'),
    (lambda r: (r/'S03/HR.csv').unlink(), DataError, 'S03/HR.csv: no such file'),
    (lambda r: (r/'S03/EDA.csv').write_text(''), DataError, 'S03/EDA.csv, row 1'),
    (lambda r: lines(r/'S03/EDA.csv', lambda l: l.__delitem__(slice(0, 2))), DataError, 'S03/EDA.csv, row 1: .*header is missing'),
    (lambda r: lines(r/'S03/EDA.csv', lambda l: l.__setitem__(1, '8.0')), DataError, "S03/EDA.csv, row 2: sampling rate '8.0' where 4 Hz"),
    (lambda r: lines(r/'S03/EDA.csv', lambda l: l.__setitem__(0, f'{T0 + 5000}')), DataError, 'S03: the four files begin 5000 s apart')])
def test_a_wrong_set_stops_at_once(root, damage, kind, sentence):
    damage(root)
    with pytest.raises(kind, match=sentence) as e: SP.StressPredict(root, window_s=30.)
    assert '\n' not in str(e.value) and ';' in str(e.value)

@pytest.mark.parametrize('cell', ['nan', 'inf', 'n/a', '', '1,5x'])
def test_a_bad_value_is_found_when_its_subject_is_read(root, cell):
    lines(root/'S03/BVP.csv', lambda l: l.__setitem__(99, cell)); d = SP.StressPredict(root, window_s=30.)
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
    assert b.windows.tolist() == [4, 2] and b.subjects_with_all_classes.tolist() == [1, 0] and b.share_of_1.tolist() == [.25, .5]

def test_the_real_set(real):
    root = real('stress_predict')
    d = check_reader(SP.StressPredict(root))
    assert d.meta.subject.nunique() == 34 and len(d) == 1657 and abs((d.meta.label == 0).mean() - .689) < .001
    slots = sum((n - 1)//60 for n in pd.read_csv(root/SP.LABELS).groupby('Participant').size())    # labels begin 1 s before the last file does
    assert len(d) + len(d._dropped) == slots
