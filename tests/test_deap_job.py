"The second paper's experiment as a whole command: what it writes, what it refuses, and that nothing is trained twice."
import json
import re
from functools import partial

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import NBS
from test_notebooks import papermill

from emonb.core import EmonbError
from emonb.data.simulate_deap import DeapTwin, deap_set, write_deap
from emonb.experiments.deap import DEAP, FLOORS, systems
from emonb.study import experiment, report
from emonb.study.experiment import REPLICA, check_parameters, curve_of, settled
from emonb.study.metrics import agreement, kept_null, null_band
from emonb.study.networks import load_network

METRICS = ('ACC', 'UF1', 'UAR')
run = partial(experiment.run, DEAP)
SMALL = dict(epochs=2, folds=2, preset='demo', workers=1, model='deep_fusion')
MADE = deap_set(subjects=2, trials=2, windows=1)


@pytest.fixture(scope='module')
def twin(tmp_path_factory):
    "Three people, six trials of five seconds, with faces; one face video is missing."
    root = tmp_path_factory.mktemp('twin')/'deap'
    write_deap(root, DeapTwin(subjects=(1, 2, 4), trials=6, seconds=5, fps=5, files=('dat', 'video'), seed=3))
    (root/'face_video/s02/s02_trial04.avi').unlink()
    return root

@pytest.fixture(scope='module')
def cache(tmp_path_factory): return tmp_path_factory.mktemp('cache')

@pytest.fixture
def apart(tmp_path, monkeypatch, cache):
    "A current folder of the test's own; what is prepared once is shared."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('EMONB_CACHE', str(cache))
    return tmp_path

def strict_json(path):
    def refuse(word): raise ValueError(f'{word} in {path.name}')
    return json.loads(path.read_text(), parse_constant=refuse)

def scores_of(block):
    for m in METRICS:
        assert 0 <= block[m]['value'] <= 1
        if block[m]['low'] is not None: assert block[m]['low'] - 1e-9 <= block[m]['value'] <= block[m]['high'] + 1e-9
    return block


def test_the_notebook_has_the_parameters_of_the_experiment():
    cell = next(c for c in nbformat.read(NBS/'91_deap.ipynb',
                                         as_version=4).cells if 'parameters' in c.metadata.get('tags', []))
    space = {}
    exec(cell.source, space)
    assert {k: v for k, v in space.items() if not k.startswith('_')} == {k: d for k, (d, _, _) in DEAP.table.items()}
    assert all('#' in line for line in cell.source.splitlines())


def test_whole_command_then_again_without_training(twin, apart):
    given = dict(SMALL, root=twin, out=apart/'out', replica=True)
    status, said = papermill(NBS/'91_deap.ipynb', apart/'done.ipynb', given, apart)
    assert status == 0, said[-4000:]
    s = strict_json(apart/'out'/'summary.json')
    assert s['provenance'] == 'simulated' and s['classes'] == ['low', 'high'] and s['parameters']['replica'] is True
    assert set(s['protocols']) == {'windows', 'trials', 'subjects', 'stimulus_x_subject'}
    for protocol, targets in s['protocols'].items():
        assert set(targets) == {'valence', 'arousal'}
        for b in targets.values():
            scores_of(b['metrics'])
            [scores_of(f) for f in b['floors'].values()]
            assert set(b['floors']) == set(FLOORS.values()) and b['n'] > 0 and b['oracle'] and b['baselines']
            assert set(b['trial_level']['floors']) == set(FLOORS.values())
            assert b['trial_level']['n'] == b['n_trials'] <= 17
            assert (REPLICA in b['replica']) == (protocol == 'windows') and 0 <= b['paper_figure'][b['model']] <= 1
    # within a subject the video is the trial
    assert s['protocols']['windows']['valence']['floors'][FLOORS['stimulus']]['UAR']['value'] == 1
    # the trial whose video is missing
    assert s['setting']['left_out'] == 1
    shown = json.dumps([c.outputs
                        for c in nbformat.read(apart/'done.ipynb', as_version=4).cells if c.cell_type == 'code'])
    assert shown.count('SIMULATED') > 8 and 'protocols side by side' in shown and '97.71' in shown
    assert 'random, frozen' in shown
    assert {'protocols.png', 'per_subject_valence.png', 'predictions.parquet', 'tables.md',
            'run.log'} <= {p.name for p in (apart/'out').iterdir()}
    stamp = {p: p.stat().st_mtime_ns for p in (apart/'out'/'rows').iterdir()}
    log = (apart/'out'/'run.log').read_text()
    again = run(dict(given, root=str(twin), out=str(apart/'out')))
    assert (apart/'out'/'run.log').read_text() == log
    assert {p: p.stat().st_mtime_ns for p in (apart/'out'/'rows').iterdir()} == stamp
    s2 = strict_json(apart/'out'/'summary.json')
    assert s2['protocols'] == s['protocols']
    check_frames(again)


def check_frames(r):
    "The predictions are whole, and the tables say what the predictions say."
    for b in r.blocks:
        first = b.predictions[b.predictions.model == b.entries[0].name].sort_values('row')
        assert first.row.is_unique and np.array_equal(first.row, b.block.rows)
        assert np.array_equal(first.y, b.block.y[b.block.rows])
        assert np.isclose((first.y == first.yhat).mean(), b.entries[0].scores['ACC']['value'])
        by_trial = first.groupby('trial').agg(p=('p1', 'mean'), y=('y', 'first'))
        assert np.isclose(((by_trial.p > .5) == by_trial.y).mean(), b.trials[0].scores['ACC']['value'])
        own = first.assign(hit=first.y == first.yhat).groupby(['subject',
                                                               'fold']).hit.mean().groupby('subject').mean().mean()
        assert np.isclose(own, b.paper[b.entries[0].name])
    for t in r.targets:
        table = r.side_by_side(t)
        assert (table.data == 'SIMULATED').all() and table.attrs['title'].startswith('SIMULATED')
        assert set(table.decision) == {'window', 'trial'}


@pytest.mark.parametrize('modalities,target,rule,baseline',
                         [('eeg', 'valence', '>5', 'off'), ('peripheral', 'arousal', '>4.5', 'mean'),
                          ('face', 'valence', '>=5', 'template'), ('eeg,face', 'arousal', 'mean', 'template')])
def test_every_choice_runs(modalities, target, rule, baseline, twin, apart):
    given = dict(SMALL, epochs=1, root=str(twin), out='out', modalities=modalities, target=target, rule=rule,
                 baseline=baseline, protocol='trials,subjects', alone=True)
    r = run(given)
    assert r.targets == [target] and r.protocols == ['trials', 'subjects']
    b = r.blocks[1]
    rating = r.data.meta[target].to_numpy()
    if rule == 'mean':
        for v, y in zip(b.block.splits, b.block.labels): assert np.array_equal(y, rating >= rating[v.train].mean())
    else:
        assert np.array_equal(b.block.y[b.block.rows],
                              {'>5': rating > 5, '>4.5': rating > 4.5, '>=5': rating >= 5}[rule][b.block.rows])
    models = [e.name for e in b.entries if e.kind == 'model']
    assert len(models) == (3 if ',' in modalities else 1)
    assert ('oracle' in {e.kind for e in b.entries}) == (rule == '>=5')
    names = r.data.info['feature_names']
    assert len(names) == dict(eeg=128, peripheral=24, face=152)[modalities.split(',')[0]]
    assert (len(r.data.meta.trial.unique()) == 17) == ('face' in modalities)


def test_all_systems_of_a_table_are_weighted_and_decide_alike(twin, apart):
    given = dict(SMALL, root=str(twin), modalities='peripheral', target='valence', protocol='subjects', epochs=1)
    even, usual = (run(dict(given, alike=v, out=f'out{v}')).blocks[0] for v in (True, False))
    name = 'body statistics + linear SVM'
    found = [b.predictions[b.predictions.model == name].sort_values('row') for b in (even, usual)]
    assert np.array_equal(found[0].yhat, found[1].yhat), 'what a window is called is the same'
    assert set(found[1].p1) == {0., 1.} and found[0].p1.between(.01, .99).mean() > .9
    by_score = found[0].groupby('trial').p1.mean() > .5
    assert np.array_equal(next(e for e in even.trials if e.name == name).yhat[0], by_score)
    for v in (True, False):
        q = settled(DEAP, check_parameters(DEAP, dict(given, alike=v, model='deep_fusion,eeg_transformer')),
                    'simulated')
        made = systems(q.but(**{**DEAP.settle(q), 'modalities': ('bio',)}, device='cpu'), MADE)
        assert {s.recipe.class_weights for s in made.values() if s.kind == 'model'} == {v} and len(made) == 3


def test_what_uses_the_tested_person_is_called_transductive(twin, apart):
    given = dict(SMALL, root=str(twin), modalities='peripheral,face', target='valence', protocol='subjects', epochs=1,
                 alone=True)
    table = run(dict(given, scale='subject', center_faces=True, out='out')).table('valence')
    said = dict(zip(table.method.str.partition(' [')[0], table.method))
    assert all('z within each subject' in v
               for k, v in said.items() if k in set(said) - set(FLOORS.values()) and 'oracle' not in k)
    assert {k for k, v in said.items() if 'face centred' in v} == {
        'deep fusion (peripheral + face)', 'face alone', 'body statistics, face pixels + linear SVM'}
    for wrong in (dict(face_cnn='trained'), dict(modalities='eeg')):
        with pytest.raises(EmonbError, match='center_faces'): run(dict(given, center_faces=True, out='other', **wrong))


def test_permuted_labels_are_trained_on_and_told(twin, apart, monkeypatch):
    looks = []
    monkeypatch.setattr(experiment, 'look', looks.append)
    given = dict(SMALL, root=str(twin), modalities='peripheral', target='valence', epochs=1)
    true, none = (run(dict(given, permute=v, out=f'out{v}')) for v in (False, True))
    assert len(looks) == 1 and true.data.meta.equals(none.data.meta)
    for a, b in zip(true.blocks, none.blocks):
        high = [pd.Series(v.block.y).groupby(v_meta)
                for v, v_meta in ((a, true.data.meta.trial), (b, none.data.meta.trial))]
        assert (high[1].nunique() == 1).all(), 'a trial keeps one label'
        assert not np.array_equal(a.block.labels[0], b.block.labels[0])
        assert {e.kind for e in a.entries} - {e.kind for e in b.entries} == {'oracle'}
        def of(j): return pd.Series(j.block.labels[0]).groupby(true.data.meta.subject.to_numpy()).sum()
        assert of(a).equals(of(b)), 'each person has as many of each'
    assert len({tuple(b.block.labels[0]) for b in none.blocks}) == 1, 'one draw for all protocols'
    table = none.table('valence')
    assert 'PERMUTED LABELS' in table.attrs['title'] and set(table.labels) == {'PERMUTED'}
    assert 'labels' not in true.table('valence')
    assert 'PERMUTED LABELS' in strict_json(apart/'outTrue'/'summary.json')['title']
    with pytest.raises(EmonbError, match='permute'): run(dict(given, permute=True, confirm=True, out='other'))


def test_every_row_has_its_null(twin, apart):
    r = run(dict(SMALL, root=str(twin), modalities='peripheral', target='valence', protocol='trials,subjects', epochs=1,
                 out='out'))
    for what in ('window', 'trial'):
        column = r.table('valence', what)['UAR, labels permuted']
        ends = np.array([[float(v) for v in cell.split(' to ')] for cell in column])
        assert ((0 <= ends) & (ends <= 1)).all() and (ends[:, 0] <= ends[:, 1]).all() and (np.diff(ends) > 0).any()
    for b in r.blocks:
        best = next(e for e in b.entries if e.kind == 'oracle')
        null = kept_null(b.y, best.yhat, r.data.meta.trial.iloc[b.block.rows], r.data.meta.subject.iloc[b.block.rows],
                         2)
        assert np.allclose([best.scores['UAR'][k] for k in ('null_low', 'null_high')], null_band(null, .95))


def test_new_people_on_new_videos(twin, apart):
    r = run(dict(SMALL, root=str(twin), modalities='peripheral', target='valence', protocol='stimulus_x_subject',
                 epochs=1, out='out'))
    meta = r.data.meta
    for v in r.main.block.splits:
        a, b = (meta.iloc[rows] for rows in (v.train, v.test))
        assert not set(a.subject) & set(b.subject) and not set(a.stimulus) & set(b.stimulus)
    folds, lost = r.main.block.splits, r.main.block.notes
    assert len(folds) == 4 - (int(lost[0].split()[0]) if lost else 0) > 1
    assert np.array_equal(np.sort(np.concatenate([v.test for v in folds])), r.main.block.rows)


def test_the_table_of_a_run_that_asks_for_no_model(twin, apart):
    r = run(dict(SMALL, root=str(twin), model='auto', modalities='peripheral,face', alone=True, target='valence',
                 protocol='subjects', epochs=1, out='out'))
    power = 'fusion on rhythms (ours)'
    alone = [f'{power}, peripheral alone', f'{power}, face alone']
    fusion = ['deep fusion (peripheral + face)', 'peripheral alone', 'face alone']
    got = [e.name for e in r.main.entries if e.kind == 'model']
    assert got[0] == 'product of signals and face (ours)'
    assert set(got) == {got[0], f'{got[0]}, peripheral alone', f'{got[0]}, face alone', power, *alone, *fusion}
    assert [e.name for e in r.main.entries if e.kind == 'baseline'] == ['body statistics + linear SVM',
                                                                        'body statistics, face pixels + linear SVM']
    seen = {e.name: e.weights for e in r.main.entries if e.kind == 'model' and 'peripheral alone' not in e.name}
    assert {w for name, w in seen.items() if not name.startswith(got[0])} == {'random, frozen'}
    assert {w for name, w in seen.items() if name.startswith(got[0])} == {'–'}         # pixels, and no CNN
    assert {s['epochs'] for s in [r.parameters]} == {1}


def test_a_modality_is_taken_away_at_test(twin, apart):
    given = dict(SMALL, root=str(twin), modalities='peripheral,face', target='valence', protocol='subjects', alone=True,
                 out='out')
    r = run(dict(given, without='face,peripheral'))
    whole, face, signals = r.blocks
    assert r.protocols == ['subjects', 'subjects, face taken away', 'subjects, peripheral taken away']
    name = 'deep fusion (peripheral + face)'
    def of(b, name): return b.predictions[b.predictions.model == name].sort_values('row').p1.to_numpy()
    assert np.array_equal(of(face, 'peripheral alone'),
                          of(whole, 'peripheral alone')), 'who never saw a face misses none'
    assert [{e.name for e in b.entries if e.kind == 'model'}
            for b in (face, signals)] == [{name, 'peripheral alone'}, {name, 'face alone'}]
    p = of(whole, name)
    split = whole.block.splits[0]
    folder, = [f for f in (apart/'out'/'networks').glob(f'*/{split.name}-seed0-*') if 'deep_fusion' in f.parent.name]
    net = load_network(folder)
    assert np.allclose(net.predict(r.data, split.test)[:, 1], p[np.searchsorted(whole.block.rows, split.test)])
    blind = r.data.with_x(face_mask=np.zeros_like(r.data.x['face_mask']))
    assert np.allclose(net.predict(blind, split.test)[:, 1],
                       of(face, name)[np.searchsorted(whole.block.rows, split.test)])
    assert not np.allclose(of(face, name), p) and not np.allclose(of(signals, name), p)
    assert not (set(strict_json(apart/'out'/'summary.json')['protocols']) - set(r.protocols))


def test_trials_without_a_video_are_left_out_or_kept_with_a_missing_face(twin, apart):
    given = dict(SMALL, root=str(twin), modalities='peripheral,face', target='valence', protocol='subjects', epochs=1)
    out, kept = (run(dict(given, no_video=v, out=v)).data for v in ('left_out', 'kept'))
    gone = set(kept.meta.trial) - set(out.meta.trial)
    assert len(gone) == 1 and kept.info['no_face'] == len(kept) - len(out)
    rows = kept.meta.trial.isin(gone).to_numpy()
    assert not kept.x['face_mask'][rows].any() and not np.asarray(kept.x['face_maps'])[rows].any()
    assert np.isnan(kept.x['face_pixels'][rows]).all()
    index = [pd.MultiIndex.from_frame(d.meta[['trial', 'window']]) for d in (kept, out)]
    same = index[0].get_indexer(index[1])
    assert (same >= 0).all() and not kept.x['face_mask'][np.setdiff1d(np.arange(len(kept)), same)].any()
    for k in ('bio', 'face_mask', 'face_maps', 'face_pixels'):
        assert np.array_equal(np.asarray(kept.x[k])[same], np.asarray(out.x[k]), equal_nan=k == 'face_pixels'), k


def test_calibration_learns_from_trials_that_no_point_of_the_curve_tests(twin, apart):
    r = run(dict(SMALL, root=str(twin), modalities='peripheral', target='valence', protocol='subjects',
                 own_trials='0,1,3', out='out'))
    meta, (_, *curve) = r.data.meta, r.blocks
    assert [b.block.trials for b in curve] == [0, 1, 3]
    assert r.protocols[1:] == [f'subjects + {k} trials' for k in (0, 1, 3)]
    for k, b in zip((0, 1, 3), curve):
        for v, v0 in zip(b.block.splits, curve[0].block.splits):
            assert np.array_equal(v.test, v0.test)
            own = np.setdiff1d(v.train, v0.train)
            late, early = meta.order.iloc[v.test].min(), meta.order.iloc[own].max() if k else -1
            assert meta.trial.iloc[own].nunique() == k and early < late and set(meta.subject.iloc[own]) <= {v.name}
            assert len(meta[meta.subject == v.name].trial.unique()) - meta.trial.iloc[v.test].nunique() == 3
    points = curve_of(r.of('valence'))
    assert set(points.trials) == {0, 1, 3} and (apart/'out'/'own_trials_valence.png').exists()
    assert points[points['method'] == curve[1].entries[0].name].value.tolist() == [b.trials[0].uar for b in curve]


def test_ratings_are_learnt_and_judged_by_agreement(twin, apart):
    r = run(dict(SMALL, root=str(twin), modalities='peripheral', target='valence', protocol='subjects,trials',
                 task='values', out='out'))
    table = pd.concat([b.ratings for b in r.blocks])
    assert set(table.method) >= {'peripheral alone', 'body statistics + ridge',
                                 'mean of the video in the training part'}
    b = r.blocks[0]
    p = b.predictions[b.predictions.model == 'body statistics + ridge'].set_index('row').p1.loc[b.block.rows].to_numpy()
    found = agreement(r.data.meta.valence.to_numpy()[b.block.rows, None], 1 + 8*p[:, None], b.subject,
                      targets=('valence',))['valence']
    row = b.ratings[(b.ratings['method'] == 'body statistics + ridge') & (b.ratings.decision == 'window')].iloc[0]
    assert row.CCC == report.interval(found['CCC']) and row.RMSE == report.interval(found['RMSE'])
    assert 'ratings' in strict_json(apart/'out'/'summary.json')['protocols']['subjects']['valence']
    assert 'CCC' in (apart/'out'/'tables.md').read_text()
    high = r.data.meta.valence.to_numpy() >= 5
    assert np.array_equal(b.y, high[b.block.rows])


def test_networks_are_kept(twin, apart):
    r = run(dict(SMALL, root=str(twin), model='deep_product,deep_fusion', modalities='peripheral,face',
                 target='valence', protocol='subjects', epochs=1, keep=True, out='out'))
    for name in ('product_of_signals_and_face', 'deep_fusion'):
        folders = [f for f in (apart/'out'/'networks').glob(f'{name}*/s*') if f.is_dir()]
        assert len(folders) == 3
        split = next(v for v in r.main.block.splits if folders[0].name.startswith(v.name))
        ours = r.main.predictions.model.str.replace(' ', '_').str.startswith(name)
        p = r.main.predictions[ours].set_index('row').p1.loc[split.test]
        assert np.allclose(load_network(folders[0]).predict(r.data, split.test)[:, 1], p)


def test_one_process_or_two_give_the_same(twin, apart):
    given = dict(SMALL, root=str(twin), modalities='peripheral', target='valence', protocol='subjects')
    one, two = (run(dict(given, workers=w, out=f'out{w}')) for w in (1, 2))
    pd.testing.assert_frame_equal(one.blocks[0].predictions, two.blocks[0].predictions, check_exact=True)


def test_other_settings_are_other_folds(twin, apart):
    given = dict(SMALL, root=str(twin), modalities='peripheral', target='valence', protocol='subjects', out='out')
    def count(): return len(list((apart/'out'/'rows').iterdir()))
    run(given)
    first = count()
    for change in (dict(epochs=3), dict(scale='none'), dict(target='arousal')):
        run(dict(given, **change))
        assert count() > first, change
        first = count()


REFUSED = {
    'unknown parameter': (dict(protocl='trials'), 'protocl', 'accepted'),
    'unknown target': (dict(target='liking'), 'liking', 'valence'),
    'unknown protocol': (dict(protocol='windows,loso'), 'loso', 'subjects'),
    'unknown rule': (dict(rule='>=6'), '>=6', 'mean'),
    'a modality twice told': (dict(modalities='bio,eeg'), 'bio'),
    'wrong type': (dict(epochs='many'), 'epochs', 'whole number'),
    'no subject 40': (dict(subjects='1,40'), '40'),
    'a subject that is not there': (dict(subjects='1,9', root='TWIN'), 's09'),
    'one subject to leave out': (dict(subjects='1', root='TWIN', protocol='subjects'), 'at least two'),
    'wrong root': (dict(root='no/such/folder'), 'no such folder', 'root'),
    'twin as real': (dict(root='TWIN', source='real'), 'SIMULATED.json'),
    'real set not there': (dict(source='real'), 'apply for DEAP'),
    'weights not there': (dict(root='TWIN', face_weights='gone.safetensors'), 'gone.safetensors', '89_pretrain_face'),
    'taken away what is not there': (dict(without='eeg'), 'without', 'bio'),
    'everything taken away': (dict(modalities='bio', without='bio'), 'leaves nothing'),
    'nobody new': (dict(without='face', protocol='trials'), 'new people', 'trials'),
    'calibrated by words': (dict(own_trials='0,few'), 'own_trials', 'whole numbers'),
    'too many of their own trials': (dict(own_trials='99', root='TWIN', modalities='peripheral'), '99', 'fewer'),
    'ratings and the replica': (dict(task='values', replica=True), 'values', 'replica'),
    'mixed precision on a processor': (dict(amp=True, root='TWIN', device='cpu'), 'amp', 'GPU'),
    'faces centred without faces': (dict(center_faces=True, root='TWIN', modalities='eeg'), 'center_faces', 'face'),
    'strict': (dict(root='BROKEN', strict=True, modalities='bio'), 's02', 'strict'),
}

@pytest.fixture
def broken(twin, tmp_path):
    "The same tree with a NaN in one signal of s02."
    import pickle
    import shutil
    root = shutil.copytree(twin, tmp_path/'broken')
    path = root/'data_preprocessed_python/s02.dat'
    with open(path, 'rb') as f: d = pickle.load(f, encoding='latin1')         # our own file
    data = d['data'].copy()
    data[1, 5, 500] = np.nan
    path.write_bytes(pickle.dumps(dict(data=data, labels=d['labels']), 2))
    return root

@pytest.mark.parametrize('what', REFUSED)
def test_refused_in_one_sentence(what, twin, broken, apart):
    given, *words = REFUSED[what]
    given = {k: str(twin) if v == 'TWIN' else str(broken) if v == 'BROKEN' else v for k, v in given.items()}
    with pytest.raises(EmonbError) as e: run({**SMALL, **given, 'out': str(apart/'out')})
    said = str(e.value)
    assert '\n' not in said and all(w in said for w in words), said
    assert not (apart/'out'/'summary.json').exists()


def test_a_damaged_trial_is_left_out_and_counted(broken, apart):
    r = run(dict(SMALL, root=str(broken), out='out', modalities='peripheral', target='valence', protocol='subjects'))
    assert r.setting['left_out'] == 1 and r.setting['audit'] >= 1 and r.data.meta.trial.nunique() == 17


def test_the_sentence_comes_last(apart):
    status, said = papermill(NBS/'91_deap.ipynb', apart/'done.ipynb', dict(target='liking', out=apart/'out'), apart)
    last = [line for line in said.splitlines() if line.strip()][-1]
    assert status != 0 and re.match(r'EmonbError: .*liking', last), said[-1500:]
