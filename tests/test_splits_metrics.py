"Splits, metrics and report beyond what their chapters assert: random tables, wrong input, real sheets."
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, recall_score

from emonb.core import EmonbError
from emonb.study.metrics import (
    bootstrap,
    confusion,
    floors,
    null_band,
    paired,
    paper_figure,
    permutation_null,
    scores,
    trial_decisions,
)
from emonb.study.report import (
    block,
    entry,
    markdown_table,
    plain,
    plot_confusion,
    plot_intervals,
    plot_per_subject,
    published_part_a,
    results_table,
    save_figure,
    show_table,
    summary,
    title,
)
from emonb.study.splits import PROTOCOLS, Split, check_split, clock_edges, leak_audit, make_splits, trial_key

SLOW = settings(max_examples=25, deadline=None)


def table(subjects=5, stimuli=4, windows=3, classes=2, seed=0, length_s=10.):
    """Subjects watch the same stimuli in their own order; the label belongs to the trial.

    Trial names repeat over subjects."""
    rng, rows = np.random.default_rng(seed), []
    for s in range(subjects):
        for order, v in enumerate(rng.permutation(stimuli)):
            label = (v + s) % classes
            rows += [dict(subject=f's{s:02d}', trial=f't{order}', stimulus=f'v{v}', order=order, label=int(label),
                          start_s=order*60. + w*length_s, length_s=length_s) for w in range(windows)]
    return pd.DataFrame(rows).sample(frac=1, random_state=seed)          # shuffled rows, a ragged index


@SLOW
@given(st.sampled_from(sorted(PROTOCOLS)), st.integers(3, 7), st.integers(4, 6), st.integers(2, 4),
       st.integers(0, 10**6))
def test_every_protocol_partitions_and_keeps_its_promise(protocol, subjects, stimuli, classes, seed):
    meta = table(subjects, stimuli, 3, classes, seed)
    splits = make_splits(meta, protocol, seed=seed, n_splits=4, n_blocks=2, guard_s=0.)
    assert np.array_equal(np.sort(np.concatenate([s.test for s in splits])), np.arange(len(meta)))
    for s in splits:
        check_split(meta, s, PROTOCOLS[protocol][1])
        assert (np.diff(s.train) > 0).all() and (np.diff(s.test) > 0).all() and len(s.train) and len(s.test)
    again = make_splits(meta.reset_index(drop=True), protocol, seed=seed, n_splits=4, n_blocks=2, guard_s=0.)
    assert all(np.array_equal(a.train, b.train) and np.array_equal(a.test, b.test) and a.name == b.name
               for a, b in zip(splits, again))


@pytest.mark.parametrize('protocol', ['windows', 'trials'])
def test_per_subject_stays_inside_the_subject(protocol):
    meta = table(3, 6, 4)
    splits = make_splits(meta, protocol, n_splits=3, per_subject=True)
    assert len(splits) == 9
    who = meta.subject.to_numpy()
    for s in splits: assert len(set(who[s.train]) | set(who[s.test])) == 1
    shared = [np.intersect1d(trial_key(meta)[s.train], trial_key(meta)[s.test]).size for s in splits]
    assert (max(shared) == 0) if protocol == 'trials' else (min(shared) > 0)


def test_forty_trials_in_ten_folds_leave_no_fold_empty():
    "DEAP's shape, with many priors: every fold holds whole trials, about four of them."
    for seed in range(30):
        rng = np.random.default_rng(seed)
        labels = rng.permutation(np.arange(40) < rng.integers(4, 36)).astype(int)
        meta = pd.DataFrame(dict(subject='s01', trial=np.repeat(np.arange(40), 6), label=np.repeat(labels, 6)))
        splits = make_splits(meta, 'trials', seed=seed)
        assert len(splits) == 10 and min(len(s.test) for s in splits) >= 12


def test_windows_of_different_seeds_differ_and_loso_does_not():
    meta = table()
    a, b = (make_splits(meta, 'windows', seed=i, n_splits=5) for i in (0, 1))
    assert any(not np.array_equal(x.test, z.test) for x, z in zip(a, b))
    a, b = (make_splits(meta, 'loso', seed=i) for i in (0, 1))
    assert all(np.array_equal(x.test, z.test) for x, z in zip(a, b))


def test_crossed_folds_are_grouped_above_the_limit():
    meta = table(30, 20, 1)
    assert len(make_splits(meta, 'stimulus_x_subject', max_folds=600)) == 600
    few = make_splits(meta, 'stimulus_x_subject', max_folds=100)
    assert len(few) <= 100 and 'group' in few[0].name
    for s in few: check_split(meta, s, ('subject', 'stimulus'))
    assert len(make_splits(meta, 'stimulus_x_subject', subject_groups=3, stimulus_groups=2)) == 6
    assert len(make_splits(meta, 'loso', subject_groups=5)) == 5


def test_clock_blocks_keep_time_apart_and_hold_both_classes():
    t = np.arange(0, 3600, 60.)
    meta = pd.concat([pd.DataFrame(dict(subject=f's{i}', trial='x', stimulus='x', order=0, start_s=t, length_s=60.,
                                        label=((t > 900) & (t < 1800) | (t > 2700)).astype(int))) for i in range(6)],
                     ignore_index=True)
    edges = clock_edges(meta.start_s.to_numpy(), meta.label.to_numpy(), 3)
    for a, b in zip(edges[:-1], edges[1:]): assert meta[(meta.start_s >= a) & (meta.start_s < b)].label.nunique() == 2
    for s in make_splits(meta, 'clock_x_subject', n_blocks=3, guard_s=120.):
        tr, te = meta.iloc[s.train], meta.iloc[s.test]
        assert not set(tr.subject) & set(te.subject)
        before, after = tr[tr.start_s < te.start_s.min()], tr[tr.start_s > te.start_s.max()]
        assert len(before) + len(after) == len(tr)                          # nobody's window from inside the block
        assert (before.start_s + 60 <= te.start_s.min() - 120).all()
        assert (after.start_s >= te.start_s.max() + 60 + 120).all()


WRONG = [
    (lambda m: make_splits(m, 'lozo'), 'loso'),
    (lambda m: make_splits(m[m.subject == 's00'], 'loso'), 'single subject (s00)'),
    (lambda m: make_splits(m[m.label == 1], 'loso'), 'single class (1)'),
    (lambda m: make_splits(m.iloc[:0], 'loso'), 'no rows'),
    (lambda m: make_splits(m.drop(columns='stimulus'), 'leave_stimulus_out'), "'stimulus'"),
    (lambda m: make_splits(m.drop(columns='label'), 'loso'), "'label'"),
    (lambda m: make_splits(m, 'trials', n_splits=21), '20 trials'),
    (lambda m: make_splits(m, 'windows', n_splits=1), '1 folds'),
    (lambda m: make_splits(m.assign(subject=np.where(np.arange(len(m)) == 7, None, m.subject)), 'loso'),
     'row 7: subject'),
    (lambda m: make_splits(m.assign(start_s=np.nan), 'clock_x_subject'), 'start_s'),
    (lambda m: make_splits(m, 'clock_x_subject', guard_s=1e4), 'shorter guard'),
    (lambda m: make_splits(m, 'clock_x_subject', guard_s=-1), 'negative'),
    (lambda m: make_splits(m, 'loso', y=np.arange(3)), 'shape (3,)'),
    (lambda m: make_splits(m, 'loso', y=m.label + .5), 'float'),
    (lambda m: make_splits(m.assign(label=(m.subject == 's01').astype(int)), 'trials', n_splits=2, per_subject=True),
     'subject s00 has a single class'),
    (lambda m: make_splits(m, 'loso', subject_groups=6), '6 groups'),
    (lambda m: check_split(m, Split('loso', 'x', np.arange(30), np.arange(30, 60))), 'subject s0'),
    (lambda m: check_split(m, Split('loso', 'x', np.arange(30), np.arange(20, 60))), 'row 20 is in both'),
    (lambda m: check_split(m, Split('loso', 'x', np.arange(30), np.arange(30, 61))), 'row 60'),
    (lambda m: check_split(m, Split('loso', 'x', np.arange(0), np.arange(30))), 'empty'),
    (lambda m: leak_audit(np.full((60, 2), np.nan), m, make_splits(m, 'loso')), 'NaN'),
    (lambda m: scores([0, 1], [0, 2], 2), '0 to 1'),
    (lambda m: bootstrap([0, 1], [0, 1], ['a'], 2), '2 subjects'),
    (lambda m: paired([0, 1], [0, 1], [1, 1], ['a', 'b'], 2, metric='F1'), 'UF1'),
    (lambda m: permutation_null(lambda y: y, m.label, m.subject, n=1), 'holds 2 labels'),
    (lambda m: trial_decisions(np.zeros((2, 2)), ['a']), '(2, 2)'),
    (lambda m: floors(m.assign(order=np.nan).assign(order=lambda d: np.where(np.arange(60) < 3, 1., np.nan)), m.label,
                      make_splits(m, 'loso'), 2), "order has missing"),
    (lambda m: paper_figure(pd.DataFrame(dict(subject=['a'], y=[0], yhat=[0]))), "'fold'"),
]


@pytest.mark.parametrize('call, says', WRONG, ids=[w[1] for w in WRONG])
def test_wrong_input_gets_one_sentence(call, says):
    with pytest.raises(EmonbError) as e: call(table())
    assert says in str(e.value) and '\n' not in str(e.value)


@SLOW
@given(st.integers(2, 7), st.integers(1, 80), st.integers(0, 10**6))
def test_scores_agree_with_scikit_learn(C, n, seed):
    rng = np.random.default_rng(seed)
    y, p = rng.integers(0, C, n), rng.integers(0, C, n)
    kw = dict(labels=range(C), average='macro', zero_division=0)
    assert np.allclose(list(scores(y, p, C).values()),
                       [(y == p).mean(), f1_score(y, p, **kw), recall_score(y, p, **kw)])
    assert np.array_equal(confusion(y, p, C), confusion_matrix(y, p, labels=range(C)))


def test_bootstrap_is_the_row_by_row_bootstrap():
    "Three metrics, three classes, unequal groups, against resampled rows."
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(15), rng.integers(2, 20, 15))
    y = rng.integers(0, 3, len(g))
    p = np.where(rng.random(len(g)) < .4 + .03*g, y, rng.integers(0, 3, len(g)))
    fast, slow = bootstrap(y, p, g, 3, n=4000), []
    for _ in range(1500):
        rows = np.concatenate([np.flatnonzero(g == k) for k in rng.integers(0, 15, 15)])
        slow.append(list(scores(y[rows], p[rows], 3).values()))
    for i, m in enumerate(('ACC', 'UF1', 'UAR')):
        assert abs(fast[m]['low'] - np.quantile(slow, .025, 0)[i]) < .02
        assert abs(fast[m]['high'] - np.quantile(slow, .975, 0)[i]) < .02
        assert fast[m]['low'] < fast[m]['value'] < fast[m]['high']


def test_a_resample_without_a_rare_class_does_not_lower_the_interval():
    "One subject holds the only two clips of class 2; a perfect answer must stay perfect in every resample."
    y = np.array([0, 1]*10 + [2, 2])
    g = np.array(list(np.repeat(np.arange(10), 2)) + [10, 10])
    assert bootstrap(y, y, g, 3)['UF1'] == dict(value=1., low=1., high=1.)


def test_two_levels_match_a_nested_loop():
    rng = np.random.default_rng(1)
    subject, trial = np.repeat(np.arange(8), 20), np.tile(np.repeat(np.arange(5), 4), 8)
    y = rng.integers(0, 2, 160)
    p = np.where(rng.random(160) < .5 + .05*trial, y, 1 - y)
    fast, slow = bootstrap(y, p, [subject, trial], 2, n=4000)['ACC'], []
    hit = (y == p).reshape(8, 5, 4).sum(2)
    for _ in range(3000):
        who = rng.integers(0, 8, 8)
        slow.append(np.mean([hit[s][rng.integers(0, 5, 5)].sum()/20 for s in who]))
    assert abs(fast['low'] - np.quantile(slow, .025)) < .012 and abs(fast['high'] - np.quantile(slow, .975)) < .012


def test_paired_permutation_is_exact_for_few_subjects():
    "Six subjects, by hand: every swap of hit counts."
    rng = np.random.default_rng(2)
    g = np.repeat(np.arange(6), 10)
    y = rng.integers(0, 2, 60)
    a, b = np.where(rng.random(60) < .8, y, 1 - y), np.where(rng.random(60) < .6, y, 1 - y)
    d = np.array([((a == y)[g == k].sum() - (b == y)[g == k].sum()) for k in range(6)])
    all_d = np.array([(np.array([1 if m >> k & 1 else -1 for k in range(6)])*d).sum() for m in range(64)])
    assert np.isclose(paired(y, a, b, g, 2, 'ACC')['p'], (abs(all_d) >= abs(d.sum())).mean())


def test_noise_stays_in_its_null_and_a_trial_stamp_does_not_under_windows():
    "A 1-nearest-neighbour on rows that carry nothing but the stamp of their trial, labels random by trial."
    rng = np.random.default_rng(3)
    trial = np.repeat(np.arange(60), 8)
    meta = pd.DataFrame(dict(subject='s', trial=trial.astype(str),
                             label=np.repeat(np.arange(60) % 2, 8)[np.argsort(np.argsort(trial))]))
    x = rng.normal(size=(60, 4))[trial] + rng.normal(size=(480, 4))*.2
    def run(splits):
        def go(y):
            out = np.empty(len(y), int)
            for s in splits: out[s.test] = y[s.train][((x[s.test, None] - x[s.train])**2).sum(-1).argmin(1)]
            return out
        return go
    y = meta.label.to_numpy()
    for protocol, inside in (('windows', False), ('trials', True)):
        go = run(make_splits(meta, protocol, n_splits=5))
        uar = scores(y, go(y), 2)['UAR']
        null = permutation_null(run(make_splits(meta, 'trials', n_splits=5)), y, trial, n=60)
        assert (null_band(null)[0] <= uar <= null_band(null)[1]) == inside, (protocol, uar, null_band(null))


def test_permutation_keeps_trials_whole_and_subjects_apart():
    meta = table(4, 6, 3)
    y, key, seen = meta.label.to_numpy(), trial_key(meta), []
    def run(yp):
        assert (pd.Series(yp).groupby(key).nunique() == 1).all()
        assert pd.Series(yp).groupby(meta.subject.to_numpy()).mean().equals(
            pd.Series(y).groupby(meta.subject.to_numpy()).mean())
        seen.append(yp)
        return yp
    assert (permutation_null(run, y, meta.trial.to_numpy(), n=5, within=meta.subject.to_numpy()) == 1).all()
    assert any((a != y).any() for a in seen)


def test_floors_know_only_the_training_part():
    "The majority is the training part's; a single-class training part gives that class; untested rows are -1."
    meta = table(4, 4, 2)
    y = (meta.subject == 's00').to_numpy().astype(int)
    splits = make_splits(meta, 'loso', y=y)
    f = floors(meta, y, splits, 2, trees=5)
    # s00 tested: only class 0 to learn from
    assert (f['majority'] == 0).all() and (f['metadata'][splits[0].test] == 0).all()
    assert (f['stratified'][:, splits[0].test] == 0).all() and f['stratified'].shape == (100, len(y))
    part = floors(meta, y, splits[:1], 2, trees=5)
    assert (part['majority'][splits[0].train] == -1).all()
    a, b = (floors(meta, y, splits, 2, seed=i, trees=5)['stratified'] for i in (0, 0))
    assert np.array_equal(a, b)


def test_metadata_floor_is_plain_balanced_logistic_regression():
    "Rows fitted once with their number as weight give what all rows give, one-hot and standardised by scikit-learn."
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler
    meta = table(8, 5, 4, 3, seed=1)
    rng = np.random.default_rng(0)
    y = np.where(rng.random(len(meta)) < .5, meta.label, rng.choice(3, len(meta), p=[.7, .2, .1])).astype(int)
    splits = make_splits(meta, 'loso', y=y)
    ours, theirs = floors(meta, y, splits, 3, columns=('stimulus', 'order'), trees=2)['metadata'], np.empty(len(y), int)
    for s in splits:
        encode = make_column_transformer((OneHotEncoder(handle_unknown='ignore'), ['stimulus']),
                                         (StandardScaler(), ['order']))
        m = make_pipeline(encode, LogisticRegression(class_weight='balanced', max_iter=1000)).fit(meta.iloc[s.train],
                                                                                                  y[s.train])
        theirs[s.test] = m.predict(meta.iloc[s.test])
    assert len(set(ours)) == 3 and (ours == theirs).mean() > .99


def test_clock_floor_finds_a_clock():
    meta = table(6, 8, 4, seed=5)
    y = (meta.start_s > 200).to_numpy().astype(int)
    splits = make_splits(meta, 'loso', y=y)
    f = floors(meta, y, splits, 2, trees=10)
    assert scores(y, f['clock'], 2)['UAR'] > .95 > .8 > scores(y, f['stimulus'], 2)['UAR']


def test_audit_finds_what_was_planted_and_nothing_else():
    rng, meta = np.random.default_rng(0), table(6, 6, 4, seed=2)
    meta = meta.assign(label=rng.permutation(np.arange(len(meta)) % 2), order=0, stimulus='x',
                       start_s=rng.permutation(len(meta))*500.)
    x, splits = rng.normal(size=(len(meta), 6)), make_splits(meta, 'loso')
    clean = leak_audit(x, meta, splits)
    assert not len(clean), clean
    who = meta.subject.to_numpy()
    i, j = np.flatnonzero(who == 's00')[0], np.flatnonzero(who == 's01')[0]
    twin = x.copy()
    twin[i] = twin[j]
    assert set(leak_audit(twin, meta, splits).finding) == {'twin rows'}
    told = x.copy()
    told[:, 2] = meta.label*3. + rng.normal(size=len(meta))*.1
    assert set(leak_audit(told, meta, splits).finding) == {'one feature tells the label'}
    z = (x - x.mean(0))/x.std(0)
    assert set(leak_audit(z, meta, splits).finding) == {'scaled over all rows'}
    own = np.vstack([x])
    own -= pd.DataFrame(x).groupby(who).transform('mean').to_numpy()
    assert set(leak_audit(own, meta, splits).finding) == {'scaled per subject'}


def example(provenance='real'):
    rng = np.random.default_rng(0)
    y, g = rng.integers(0, 3, 90), np.repeat([f's{i}' for i in range(9)], 10)
    p = np.where(rng.random(90) < .5, y, 0)
    rows = [entry('m', 'model', bootstrap(y, p, g, 3), 90, 9, 'loso'),
            entry('majority', 'floor', bootstrap(y, y*0, g, 3), 90, 9, 'loso')]
    return y, p, g, results_table(rows, provenance)


@pytest.mark.parametrize('provenance, word', [('simulated', 'SIMULATED'), ('annotation', 'ANNOTATION'), ('real', '')])
def test_provenance_is_in_every_title(provenance, word, tmp_path, capsys):
    y, p, g, t = example(provenance)
    figures = [plot_confusion(y, p, list('abc'), provenance), plot_per_subject(y, p, g, provenance), plot_intervals(t)]
    titles = [t.attrs['title'], *(f.axes[0].get_title() for f in figures)]
    assert all(x.startswith(word) for x in titles)
    assert all(('SIMULATED' in x) == (provenance == 'simulated') for x in titles)
    for i, f in enumerate(figures):
        save_figure(f, tmp_path/'f'/f'{i}.png')
        assert (tmp_path/'f'/f'{i}.png').read_bytes()[:4] == b'\x89PNG'
        assert (tmp_path/'f'/f'{i}.png').stat().st_size < 100_000
    show_table(t)
    assert t.attrs['title'] in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path/'f').iterdir()) == ['0.png', '1.png', '2.png']


def test_summary_is_plain_json_without_nan():
    y, p, g, _ = example()
    s = summary(np.array(list('abc')), 'real', dict(lr=np.float32(.1), modalities=('a', 'b'), root=None),
                np.float64(1.5), block(y, p, g, dict(majority=y*0, stimulus=None), 3))
    assert json.loads(json.dumps(s, allow_nan=False)) == s
    assert set(s['floors']) == {'majority'} and set(s['metrics']) == {'ACC', 'UF1', 'UAR'}
    assert s['parameters']['modalities'] == ['a', 'b']
    assert plain(dict(a=np.nan, b=np.array([1., np.inf]), c=np.int64(3),
                      d=pd.Series([1]))) == dict(a=None, b=[1., None], c=3, d=[1])


def test_markdown_escapes_and_stays_one_line_a_row():
    md = markdown_table(pd.DataFrame(dict(a=['x|y', 'two\nlines'], b=[.5, np.nan])))
    assert 'x\\|y' in md and len(md.strip().split('\n')) == 4 and '| – |' in md


def test_published_figures_are_never_in_our_table():
    t = published_part_a()
    assert set(t.classes) == {3, 4, 7} and not {'N', 'kind'} & set(t.columns)
    with pytest.raises(EmonbError): published_part_a(5)
    with pytest.raises(EmonbError): title('x', 'published')


def test_real_part_a_reference_floors(real):
    "Figures that an independent script gave, to .005."
    sheet = pd.read_excel(next(real('casme3').glob('*part_A*.xlsx')))
    meta = pd.DataFrame(dict(subject=sheet['Subject'].astype(str), stimulus=sheet['Filename'].str.lower(),
                             label=pd.factorize(sheet['emotion'].str.lower(), sort=True)[0]))
    f, y = floors(meta, meta.label, make_splits(meta, 'loso'), 7), meta.label.to_numpy()
    assert np.allclose(list(scores(y, f['stimulus'], 7).values()), [.377, .382, .560], atol=.005)
    assert np.allclose(list(scores(y, f['majority'], 7).values()), [.291, .064, .143], atol=.001)
    assert abs(scores(y, f['stratified'], 7)['UF1'] - .142) < .006
    assert len(make_splits(meta, 'leave_stimulus_out')) == 13
    assert len(make_splits(meta, 'stimulus_x_subject', max_folds=500)) == 463
