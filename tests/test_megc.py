"""MEGC 2019 as optical flow, from the outside: copies with faults, people of several sets, what the rows may claim."""
import itertools
import json
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

from emonb.core import DataError, EmonbError, Parameters, SetError
from emonb.data.megc2019 import (
    PICTURES,
    PUBLISHED,
    SETS,
    SHEET,
    FlowTwin,
    Megc2019,
    load_flow,
    oracle,
    read_flow,
    scaled_alone,
    third_channel,
    write_megc2019,
)
from emonb.data.people import UNEXPLAINED
from emonb.experiments import by_name
from emonb.experiments.megc2019 import MEGC2019, SOURCE, SVM, blocks, leave_value_out, load_set, published_megc, systems
from emonb.study.experiment import REPLICA, Block, check_parameters, run, settled
from emonb.study.metrics import scores
from emonb.study.splits import make_splits
from emonb.study.train import run_folds

TINY = FlowTwin(people=4, clips=3, quirks=False)


@pytest.fixture
def tree(tmp_path): return write_megc2019(tmp_path/'set', TINY)


@pytest.fixture(scope='module')
def kept(tmp_path_factory):
    return write_megc2019(tmp_path_factory.mktemp('megc')/'set', FlowTwin(people=8, clips=5, quirks=False))


def flow(root, *sets): return load_flow(Megc2019(root, *sets))


def flow_of(root, **settings): return flow(write_megc2019(root, FlowTwin(people=14, clips=5, quirks=False, **settings)))


def asked(**given): return Parameters(dict(dict(protocol='auto', folds='all', replica=False, model='svm'), **given))


def rows_of(root): return pd.read_csv(root/SHEET, dtype=str, keep_default_na=False)


def write(root, rows): rows.to_csv(root/SHEET, index=False)


def pictures(root): return sorted((root/'datasets'/PICTURES).iterdir())


def found_by(data, name, splits):
    "UF1 and UAR of a system, and its predictions in the order of the table."
    p = settled(MEGC2019, check_parameters(MEGC2019, dict(model='svm')), 'simulated').but(device='cpu')
    found = run_folds(data, splits, systems(p, data)[name].recipe).sort_values('row').reset_index(drop=True)
    return figures(found), found


def figures(d): return {k: float(np.mean(v)) for k, v in scores(d.y.to_numpy(), d.yhat.to_numpy(), 3).items()}


def svm_scores(data, splits): return found_by(data, SVM, splits)


# ---- what a copy may lack

@pytest.mark.parametrize('fault,said', [
    (lambda root: shutil.rmtree(root), 'no such folder'),
    (lambda root: (root/SHEET).unlink(), 'the labels are in it'),
    (lambda root: shutil.rmtree(root/'datasets'), 'the pictures are in it'),
    (lambda root: write(root, rows_of(root).drop(columns='label')), "column 'label' is missing, there are dataset"),
    (lambda root: write(root, rows_of(root).head(0)), 'a header and no rows'),
    (lambda root: [p.unlink() for p in pictures(root)], 'no sample can be used (there is no picture'),
    (lambda root: (root/SHEET).write_bytes(b''), "column 'dataset' is missing, there are none")])
def test_what_cannot_be_read_at_all_stops_in_one_sentence(tree, fault, said):
    fault(tree)
    with pytest.raises(SetError, match='.') as e: Megc2019(tree)
    text = str(e.value)
    assert said in text and str(tree) in text and '\n' not in text and (';' in text or ', ' in text)


@pytest.mark.parametrize('change,said', [
    (dict(label='3'), "label is '3', not 0, 1 or 2"), (dict(label='positive'), "label is 'positive'"),
    (dict(label=''), 'label is empty'), (dict(label='1e400'), "label is '1e400'"),
    (dict(dataset='casme3'), "dataset is 'casme3', not casme2, smic, samm"),
    (dict(sub=''), 'sub is empty'), (dict(filename_o='other', imagename=''), 'there is no picture')])
def test_a_faulty_row_is_left_out_with_its_number_or_stops(tree, change, said):
    rows = rows_of(tree)
    rows.loc[4, list(change)] = list(change.values())
    write(tree, rows)
    reader = Megc2019(tree)
    line = next(d for d in reader.defects if d['row'] is not None)
    assert said in line['defect'] and line['row'] == 6 and line['file'] == SHEET and len(reader) == 35
    with pytest.raises(DataError, match='row 6: ') as e: Megc2019(tree, strict=True)
    assert said in str(e.value) and ';' in str(e.value)
    account = load_flow(reader).info['account']
    assert account['sample']['used'] == 35 and sum(account['sample']['left_out'].values()) == 1
    assert not any(UNEXPLAINED in a['left_out'] for a in account.values())


@pytest.mark.parametrize('spoil,said', [
    (lambda p: p.write_bytes(p.read_bytes()[:90]), 'cut off'), (lambda p: p.write_bytes(b''), 'the file is empty'),
    (lambda p: p.write_bytes(cv2.imencode('.png', np.zeros((14, 28, 3), np.uint8))[1].tobytes()), '28 × 14 pixels')])
def test_a_damaged_picture_is_one_sample_less(tree, spoil, said):
    path = pictures(tree)[0]
    spoil(path)
    data = load_flow(Megc2019(tree))
    assert len(data) == 35 and data.info['left_out'] == 1 and said in data.info['defects'][0]['defect']
    assert data.info['account']['picture'] | dict(left_out=0) == dict(found=36, used=35, left_out=0)
    for read in (lambda: read_flow(path), lambda: load_flow(Megc2019(tree, strict=True))):
        with pytest.raises(DataError, match='fetch the picture again') as e: read()
        assert str(path) in str(e.value) and said in str(e.value)


# ---- names

def test_pictures_are_found_by_their_names_and_what_does_not_match_is_counted(tree):
    rows, paths = rows_of(tree), pictures(tree)
    truth = {r.filename_o: r.label for r in rows.itertuples()}
    by_name = {p.stem.strip(): p for p in paths}
    smic = rows[rows.dataset == 'smic'].reset_index()
    first, second, third = (by_name[f'{r.sub}_{r.filename_o}'] for r in smic.head(3).itertuples())
    first.rename(first.with_name(first.name.replace(' .png', '.PNG').upper()))                # no blank, other case
    second.rename(second.with_name(smic.imagename[1].replace('.jpg', ' .png')))               # as imagename has it
    third.rename(third.with_name('somewhere else .png'))
    assert smic.imagename[1].removesuffix('.jpg') != f'{smic["sub"][1]}_{smic.filename_o[1]}'
    reader = Megc2019(tree)
    assert dict(reader.matched) == {'<sub>_<filename_o>': 34, 'imagename': 1} and len(reader) == 35
    assert {d['defect'].split(" '")[0] for d in reader.defects} == {'there is no picture', 'no row names this picture'}
    account = load_flow(reader).info['account']
    assert account['sample']['left_out'] and account['picture']['left_out'] == {'no row names this picture': 1}
    taken = {p.stem.strip().casefold(): v for p, v in zip(reader.paths, reader.meta.label)}
    assert taken[first.stem.strip().casefold()] == int(truth[smic.filename_o[0]])


def test_one_picture_is_one_sample(tree):
    rows = rows_of(tree)
    write(tree, pd.concat([rows, rows.iloc[[0]].assign(label='2')]))
    twice = pictures(tree)[0]
    shutil.copy(twice, twice.with_name(twice.name.replace(' .png', '.png')))
    reader = Megc2019(tree)
    assert len(reader) == 36 and reader.meta.label[0] == int(rows.label[0])
    assert [d['defect'] for d in reader.defects] == ['a second picture of that name', 'its picture is that of row 2']
    account = load_flow(reader).info['account']
    assert (account['sample']['found'], account['picture']['found']) == (37, 37)


def test_people_are_those_of_their_set(tree):
    "s01 of one set is not s01 of another; S01 and s01 of one set are one."
    rows = rows_of(tree)
    old = rows[(rows.dataset == 'casme2') & (rows['sub'] == 'sub01')]
    for r in old.itertuples():
        path = tree/'datasets'/PICTURES/f'{r.sub}_{r.filename_o} .png'
        path.rename(path.with_name(f's01_{r.filename_o} .png'))
    rows.loc[old.index, 'sub'] = 's01'
    smic = rows.index[rows.dataset == 'smic'][0]
    rows.loc[smic, 'sub'] = 'S01'
    write(tree, rows)
    reader = Megc2019(tree)
    meta = reader.meta
    assert meta.subject.nunique() == 12 and len(meta) == 36 and {'casme2_s01'} < set(meta.subject)
    assert meta[meta.subject.str.casefold() == 'smic_s01'].subject.nunique() == 1
    assert (meta.groupby('subject')['set'].nunique() == 1).all()
    assert any('one person spelled' in d for d in reader.audit().defect)


@pytest.mark.parametrize('sets', [s for n in (1, 2, 3) for s in itertools.combinations(SETS, n)], ids='+'.join)
def test_any_subset_works(tree, sets):
    "Chosen from a full copy, or because the copy has no more: the same samples, and folds to judge them."
    rows = rows_of(tree)
    chosen = Megc2019(tree, ','.join(sets))
    write(tree, rows[rows.dataset.isin(sets)])
    reader = Megc2019(tree)
    assert reader.meta.equals(chosen.meta) and set(reader.meta['set']) == set(sets) and len(reader) == 12*len(sets)
    data = load_flow(chosen)
    assert data.info['account']['person'] == dict(found=12, used=4*len(sets), left_out={} if len(sets) == 3 else
                                                  {'source set not chosen': 12 - 4*len(sets)})
    names = [b.protocol for b in blocks(asked(), data)]
    parts = [f'loso: {SETS[s]}' for s in sets]
    assert names == (['loso'] if len(sets) == 1 else ['loso', *parts, 'leave_set_out'])
    for other in set(SETS) - set(sets):
        with pytest.raises(SetError, match=f'no row of {other}, there are '): Megc2019(tree, other)


def test_nothing_but_the_pictures_and_the_set_reaches_a_model(kept):
    "Names and places in the sheet tell the class in SMIC; no column that a floor or a model reads may."
    data = load_set(None, Megc2019(kept))
    known = data.meta.drop(columns=['subject', 'trial', 'label', 'set'])
    assert (known.nunique() == 1).all() and set(data.x) == {'flow', 'source'}
    p = settled(MEGC2019, check_parameters(MEGC2019, {}), 'real').but(device='cpu', model='ststnet,off_apexnet')
    inputs = {name: s.recipe.inputs for name, s in systems(p, data).items()}
    assert inputs.pop(SOURCE) == ('source',) and set(inputs.values()) == {('flow',)} and len(inputs) == 3


# ---- the twin

def test_the_twin_is_known_and_can_be_silent(tmp_path):
    loud, silent = (flow_of(tmp_path/str(e), effect=e) for e in (1.5, 0.))
    assert (loud.y == silent.y).all() and loud.provenance == 'simulated'
    best = (oracle(tmp_path/'1.5', loud.meta.trial) == loud.y).mean()
    six = make_splits(loud.meta, 'loso', subject_groups=6)
    found, nothing = (svm_scores(d, six)[0]['UAR'] for d in (loud, silent))
    assert best > .9 and found > .6 and nothing < .45
    pictures = loud.x['flow']
    assert scaled_alone(pictures).all() and (third_channel(pictures).idxmax(axis=1) == 'strain').mean() > .95


def test_a_stamp_of_the_set_is_seen_where_a_set_is_left_out(tmp_path):
    "A machine trained across sets loses what a set's own motion hides; within sets it does not."
    apart = []
    for stamp in (0., 2.):
        data = flow_of(tmp_path/str(stamp), stamp=stamp, identity=0.)
        apart.append(svm_scores(data, leave_value_out(data, 'set', 'leave_set_out'))[0]['UAR'])
    assert apart[0] > apart[1] + .05


# ---- folds

def test_leave_set_out_holds_sets_apart(kept):
    data = flow(kept)
    b = blocks(asked(protocol='leave_set_out'), data)[0]
    b.check(data.meta)
    tested = np.concatenate([v.test for v in b.splits])
    assert [v.name for v in b.splits] == sorted(SETS) and (np.sort(tested) == np.arange(len(data))).all()
    for v in b.splits:
        test, train = data.meta.iloc[v.test], data.meta.iloc[v.train]
        assert set(test['set']) == {v.name} and v.name not in set(train['set'])
        assert not set(test.subject) & set(train.subject)
    loose = make_splits(data.meta, 'loso')
    wrong = Block('leave_set_out', loose, [data.y]*len(loose), data.classes, apart=b.apart)
    with pytest.raises(EmonbError, match='set .* is in both parts'): wrong.check(data.meta)
    shared = data.meta.assign(subject=['one' if i in (0, len(data) - 1) else s
                                       for i, s in enumerate(data.meta.subject)])
    with pytest.raises(EmonbError, match='subject one is in both parts'): b.check(shared)
    with pytest.raises(EmonbError, match='needs two values of set'): leave_value_out(flow(kept, 'smic'), 'set', 'any')


def test_a_source_sets_own_score_is_that_of_the_same_predictions(kept, tmp_path):
    result = run(MEGC2019, dict(root=str(kept), out=str(tmp_path/'out'), model='svm', protocol='loso', workers=1))
    def decisions(b): return b.predictions[lambda d: d.model == SVM].set_index('row').yhat
    whole = decisions(result.main)
    for b in result.blocks[1:]:
        part = decisions(b)
        assert part.equals(whole.loc[part.index]) and len({*result.data.meta['set'].iloc[part.index]}) == 1
    assert len(list((tmp_path/'out').rglob('*.json'))) < 2*24 + 8, 'no fold is trained twice'
    summary = json.loads((tmp_path/'out'/'summary.json').read_text())
    assert set(summary['protocols']) == {b.protocol for b in result.blocks} and summary['n'] == 120


def test_the_replica_is_never_below_the_honest_row(kept, tmp_path):
    "Fold by fold: the last epoch is one of those it chooses from. And the row is named as what it is."
    given = dict(root=str(kept), out=str(tmp_path), model='ststnet', epochs=5, protocol='loso', folds='8', workers=1)
    r = run(MEGC2019, dict(given, replica=True))
    hit = r.main.predictions.assign(hit=lambda d: d.y == d.yhat).groupby(['model', 'fold']).hit.mean().unstack(0)
    assert (hit[REPLICA] >= hit['ststnet']).all() and hit[REPLICA].sum() > hit['ststnet'].sum()
    table = r.table(r.main).set_index('method')
    assert table.kind[REPLICA] == 'reference' and table.kind['ststnet'] == 'model' and table.kind[SVM] == 'baseline'
    assert all(REPLICA not in [m.name for m in b.entries] for b in r.blocks[1:])
    for wrong in (dict(model='svm', replica=True), dict(protocol='leave_set_out', replica=True)):
        with pytest.raises(EmonbError, match='replica=True'): check_parameters(MEGC2019, wrong)


# ---- floors and claims

def test_the_source_set_alone_is_a_floor_where_there_are_several(kept, tmp_path):
    "It is better than chance, it is one class a set, and no fold moves it."
    r = run(MEGC2019, dict(root=str(kept), out=str(tmp_path), model='svm', protocol='loso', workers=1))
    score = {m.name: (m.kind, m.scores['UAR']['value']) for m in r.main.entries}
    assert score[SOURCE][0] == 'floor' and 1/3 + .02 < score[SOURCE][1] < score[SVM][1]
    found = r.main.predictions[lambda d: d.model == SOURCE].merge(r.data.meta['set'], left_on='row', right_index=True)
    assert (found.groupby('set').yhat.nunique() == 1).all() and found.yhat.nunique() > 1
    one = load_set(None, Megc2019(kept, 'smic'))
    p = settled(MEGC2019, check_parameters(MEGC2019, {}), 'real').but(device='cpu', model='ststnet,off_apexnet')
    assert SOURCE not in systems(p, one) and list(systems(p, r.data)) == ['ststnet', 'off_apexnet', SVM, SOURCE]


def test_rows_say_what_they_are(kept, tmp_path):
    given = dict(dataset='megc2019', root=str(kept), out=str(tmp_path), model='svm', workers=1)
    r = by_name.run(dict(given, sets='casme2,smic'))
    table = r.table(r.main)
    assert table.attrs['title'].startswith('SIMULATED — MEGC 2019 flow, CASME II + SMIC: loso')
    assert 'development' not in r.name and (table['data'] == 'SIMULATED').all()
    as_real = SimpleNamespace(meta=r.data.meta, provenance='real')
    assert 'CASME II and SMIC a development set' in MEGC2019.title(None, as_real)
    published = r.published
    said = published.attrs['title']
    assert (published.N == 442).all() and 'not to be ranked' in said and f'N is {len(r.data)}' in said
    assert sum(map(sum, PUBLISHED.values())) == 442 and published.equals(published_megc(len(r.data)))


def test_a_run_without_the_set_falls_back_on_the_twin(tmp_path, monkeypatch):
    import emonb.core
    import emonb.data.twins
    for module in (emonb.core, emonb.data.twins): monkeypatch.setattr(module, 'project_dir', lambda: tmp_path)
    r = by_name.run(dict(dataset='megc2019', model='svm', protocol='loso', out=str(tmp_path/'out'), workers=1))
    assert r.provenance == 'simulated' and 'oracle (knows how the twin was made)' in [m.name for m in r.main.entries]
    for wrong, said in ((dict(source='real'), 'megc2019 is not there; fetch'), (dict(model='psnet'), 'reads physio'),
                        (dict(scale='none'), 'does not go with'), (dict(sets='casme3'), 'casme2')):
        with pytest.raises(EmonbError, match=said):
            by_name.run(dict(dataset='megc2019', out=str(tmp_path/'o'), **wrong))


# ---- the real pictures

def test_the_published_pictures_are_scaled_one_by_one_and_hold_strain(real):
    data = load_flow(Megc2019(real('megc2019')))
    assert scaled_alone(data.x['flow']).all()
    third = third_channel(data.x['flow'])
    assert (third.strain > third.length).mean() > .9 and (third.strain > third['strain, u and v exchanged']).mean() > .6


def test_the_linear_machine_reaches_its_reference_on_real_faces(real):
    reader = Megc2019(real('megc2019'))
    data = load_flow(reader)
    there = [s for s in SETS if s in set(data.meta['set'])]
    assert len(data) == sum(sum(PUBLISHED[s]) for s in there) and not reader.defects and data.provenance == 'real'
    if there != ['casme2', 'smic']: pytest.skip('the reference is for CASME II and SMIC')
    data = load_set(None, reader)
    loso = make_splits(data.meta, 'loso')
    found, predictions = svm_scores(data, loso)
    assert abs(found['UF1'] - .756) < .02 and abs(found['UAR'] - .769) < .02
    for source, reference in (('casme2', .857), ('smic', .673)):
        assert abs(figures(predictions[data.meta['set'] == source])['UF1'] - reference) < .02
    floor, _ = found_by(data, SOURCE, loso)
    assert len(loso) == 40 and abs(floor['UAR'] - .40) < .02 and found['UAR'] > floor['UAR'] + .2
