"""Claims about the three protocols of the second paper where the answer is known.

Simulated windows, and real recordings under labels that mean nothing.

"Inside its null" means inside the central 99 % band of the same pipeline's UAR under 200 permutations of the labels of
whole trials within each subject. All seeds are fixed."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_known_answers import Linear

from emonb.core import EmonbError
from emonb.data.deap import RATE
from emonb.data.deap_evidence import BACK, LEFT, RIGHT
from emonb.data.deap_twins import (
    DEAP_CHOOSE,
    DEAP_FINGERPRINTS,
    DEAP_JUDGE,
    DEAP_SEEN,
    DEAP_TWINS,
    deap_fingerprint,
    deap_twin,
)
from emonb.data.simulate_deap import DeapTwin, bdf_trial, dat_trial, deap_set, deap_windows, truth_table, write_deap
from emonb.experiments.deap import DEAP, FLOORS, blocks, folds_of, settle, systems
from emonb.experiments.deap_judged import by_trial, recipe_of, splits_of
from emonb.experiments.known_answers_deap import BEST, NETWORK, rows_of, signals_of
from emonb.signals.eeg import band_features
from emonb.study.experiment import check_parameters, judge_all, settled
from emonb.study.metrics import agreement, null_band, paired, permutation_null, scores
from emonb.study.splits import PROTOCOLS, check_split, make_splits
from emonb.study.train import run_folds

DRAWS = 200
PROTOCOL = ('windows', 'trials', 'subjects')
PARTS = dict(eeg=slice(0, 32), peripheral=slice(32, 40), both=slice(0, 40))


class Nearest:
    "The label of the nearest training window: what remembers best."
    def __init__(self, x):
        x = np.asarray(x, np.float32)
        n = (x**2).sum(1)
        self.d, self.kept = n[:, None] + n - 2*x @ x.T, {}
    def __call__(self, y, train, test):
        # who is nearest knows no labels: permutations share it
        key = train.tobytes()
        if len(self.kept) > 500: self.kept.clear()
        if key not in self.kept: self.kept[key] = train[self.d[np.ix_(test, train)].argmin(1)]
        return y[self.kept[key]]


class Straight:
    "Linear discriminant with equal priors; what a straight line can learn."
    def __init__(self, x): self.x, self.kept = np.asarray(x, np.float64), {}
    def __call__(self, y, train, test):
        # the covariance knows no labels: permutations share it
        key = train.tobytes()
        if key not in self.kept: self.kept[key] = Linear().prepare(self.x[train])
        return self.kept[key].label(y[train]).predict(self.x[test])


def pipeline(meta, protocol, model, n_splits=5):
    "y → pooled predictions; `trials` spreads the classes over its folds, so it is split anew for new labels."
    made = {}
    def splits(y):
        key = y.tobytes() if protocol == 'trials' else ''
        if key not in made:
            if protocol == 'trials': made.clear()
            made[key] = make_splits(meta, protocol, y=y, n_splits=n_splits, per_subject=protocol != 'subjects')
        return made[key]
    def run(y):
        out = np.full(len(y), -1)
        for s in splits(y): out[s.test] = model(y, s.train, s.test)
        assert (out >= 0).all()
        return out
    return run


def drawn(**how):
    "A twin without the people whose trials are all of one class: nothing can be told apart within them."
    data = deap_set(**how)
    return data.subset(np.flatnonzero(data.meta.groupby('subject').label.transform('nunique') > 1))

def levels(data, part='both'): return data.x['bio'][:, PARTS[part]].mean(-1)

def uar(data, protocol, model): return scores(data.y, pipeline(data.meta, protocol, model)(data.y), 2)['UAR']

def band(data, protocol, model, seed=0):
    "99 % band of the pipeline's UAR when trials of a subject swap their labels."
    return null_band(permutation_null(pipeline(data.meta, protocol, model), data.y, data.meta.trial.to_numpy(), DRAWS,
                                      seed, within=data.meta.subject.to_numpy(), num_classes=2))


def test_the_short_pipeline_splits_as_the_experiment_does():
    data = deap_set(subjects=4, trials=10, windows=3, seed=1)
    for protocol in PROTOCOL:
        f = folds_of(data.meta, 'valence', '>=5', protocol, 5)
        ours = make_splits(data.meta, protocol, n_splits=5, per_subject=protocol != 'subjects')
        kept = [s for s in ours if len(np.unique(data.y[s.train])) > 1]
        assert len(f.splits) == len(kept)
        assert all(np.array_equal(a.train, b.train) and np.array_equal(a.test, b.test) for a, b in zip(f.splits, kept))
        for s in f.splits: check_split(data.meta, s, PROTOCOLS[protocol][1])


# -- 1. a trial stamp: only shuffled windows see it

DOSES = (0., .15, .25, .4)

@pytest.fixture(scope='module')
def stamped():
    "protocol → [(UAR, low, high)] over the doses; no effect whatever."
    got = {p: [] for p in PROTOCOL}
    for dose in DOSES:
        data = drawn(subjects=8, trials=16, windows=6, effect=0., trial_stamp=dose, seed=4)
        model = Nearest(levels(data))
        for p in PROTOCOL:
            # each new labelling is split anew there, which takes time; the band hardly moves
            again = p != 'trials' or dose in (DOSES[0], DOSES[-1])
            got[p].append((uar(data, p, model), *(band(data, p, model) if again else got[p][0][1:])))
    return got


@pytest.mark.parametrize('protocol', PROTOCOL)
def test_without_a_stamp_every_protocol_is_inside_its_null(stamped, protocol):
    value, low, high = stamped[protocol][0]
    assert low <= value <= high and high - low < .25, (value, low, high)


def test_shuffled_windows_rise_with_the_stamp(stamped):
    value, low, high = np.array(stamped['windows']).T
    assert (np.diff(value) > 0).all() and value[-1] > .9, value
    assert (value[1:] > high[0]).all()                             # above the null of the pipeline that sees no stamp


@pytest.mark.parametrize('protocol', ['trials', 'subjects'])
def test_whole_trials_and_subjects_do_not_see_the_stamp(stamped, protocol):
    for dose, (value, low, high) in zip(DOSES, stamped[protocol]):
        # four looks at a 99 % band
        assert low - .02 <= value <= high + .02 and high - low < .25, (dose, value, low, high)


def test_labels_permuted_by_trial_leave_the_leak_in_place():
    "The control that is often left out: under permuted trial labels shuffled windows still score, whole trials do not."
    data = drawn(subjects=8, trials=16, windows=6, effect=1., trial_stamp=1., seed=6)
    model, trial, subject = Nearest(levels(data)), data.meta.trial.to_numpy(), data.meta.subject.to_numpy()
    null = {p: permutation_null(pipeline(data.meta, p, model), data.y, trial, 60, 0, within=subject, num_classes=2)
            for p in PROTOCOL}
    # the "null" of the published protocol is a high score
    assert null['windows'].min() > .8
    for p in ('trials', 'subjects'): assert abs(null[p].mean() - .5) < .05, (p, null[p].mean())
    own = {p: permutation_null(pipeline(data.meta, p, model), data.y, np.arange(len(data)).astype(str), 60, 0,
                               within=subject, num_classes=2) for p in ('windows',)}
    # permuting single windows, as is often done, hides it
    assert own['windows'].mean() < .6


# -- 2. an effect: all three rise towards the oracle, and two modalities beat one

def test_an_effect_is_found_under_every_protocol_and_approaches_the_oracle():
    found, best = {p: [] for p in PROTOCOL}, []
    for dose in (0., .5, 1., 2.):
        data = drawn(subjects=16, trials=30, windows=4, effect=dict(eeg=dose, peripheral=dose), seed=9)
        model = Straight(levels(data))
        for p in PROTOCOL: found[p].append(uar(data, p, model))
        best.append(scores(data.y, data.meta.oracle.to_numpy(), 2)['UAR'])
        if dose == 1.:
            assert found['subjects'][-1] > band(data, 'subjects', model)[1]
    error = 2.6*np.sqrt(np.array(best)*(1 - np.array(best))/(16*30))
    for p in PROTOCOL:
        v = np.array(found[p])
        assert (np.diff(v) > .02).all() and v[-1] > best[-1] - .06, (p, v, best)
        if p != 'windows':
            # nobody beats the oracle, unless trials straddle the split
            assert (v <= best + error)[1:].all(), (p, v, best)


@pytest.mark.parametrize('protocol', PROTOCOL)
def test_fusion_beats_each_modality_alone(protocol):
    data = drawn(subjects=20, trials=40, windows=2, effect=dict(eeg=1., peripheral=1.), seed=12)
    guess = {k: pipeline(data.meta, protocol, Straight(levels(data, k)))(data.y) for k in PARTS}
    groups = [data.meta.subject.to_numpy(), data.meta.trial.to_numpy()]
    for k in ('eeg', 'peripheral'):
        d = paired(data.y, guess['both'], guess[k], groups, 2, metric='UAR')
        assert d['low'] > 0 and d['p'] < .01, (k, d)


def test_fusion_with_an_empty_modality_gains_nothing():
    data = deap_set(subjects=20, trials=30, windows=3, effect=dict(eeg=1., peripheral=0.), seed=13)
    guess = {k: pipeline(data.meta, 'subjects', Straight(levels(data, k)))(data.y) for k in ('eeg', 'both')}
    assert paired(data.y, guess['both'], guess['eeg'], [data.meta.subject.to_numpy(), data.meta.trial.to_numpy()], 2,
                  metric='UAR')['low'] <= 0


# -- 3. the network itself, through the experiment

def network(data, protocol, epochs, modalities='bio', target='valence', alone=False, **more):
    "One block of a small network under one protocol, each modality alone beside it if wanted."
    p = check_parameters(DEAP, dict(target=target, modalities=modalities, protocol=protocol, preset='demo',
                                    epochs=epochs, folds=3, alone=alone, model='deep_fusion', **more))
    p = settled(DEAP, p, 'simulated')
    p = p.but(**settle(p), dim=16, ff_dim=32, batch=16, device='cpu')
    data = replace(data, x=dict(data.x, features=levels(data)), info=dict(data.info, fingerprint='test'))
    models = {k: v for k, v in systems(p).items() if v.kind == 'model'}
    return judge_all(DEAP, data, blocks(p, data), models)[-1]


def test_the_network_remembers_stamped_trials_and_nothing_else():
    data = deap_set(subjects=2, trials=16, windows=6, effect=0., trial_stamp=3., seed=3)
    windows, trials = (network(data, p, 25) for p in ('windows', 'trials'))
    got = {b.protocol: b.entries[0].scores['UAR']['value'] for b in (windows, trials)}
    assert got['windows'] > .85 and abs(got['trials'] - .5) < 2.6*.5/np.sqrt(32), got
    assert next(e for e in windows.entries if e.name == FLOORS['stimulus']).scores['UAR']['value'] > .99
    assert next(e for e in trials.entries if e.name == FLOORS['stimulus']).scores['UAR']['value'] < .7


def test_the_network_finds_an_effect_in_new_people():
    for effect in (2., 0.):
        data = deap_set(subjects=5, trials=20, windows=3, effect=dict(eeg=effect, peripheral=effect), seed=7)
        b = network(data, 'subjects', 10)
        value, by_trial = (e[0].scores['UAR']['value'] for e in (b.entries, b.trials))
        if effect: assert value > .85 and by_trial > .85, (value, by_trial)
        else: assert abs(by_trial - .5) < 2.6*.5/np.sqrt(100), by_trial


def test_the_networks_fusion_beats_each_modality_alone():
    """180 trials are few.

    Of six twins (seeds 7 to 12) five gave intervals above zero for both, seed 11 −.04 to .10 against EEG; another draw
    of the first under other kernels began at −.01. So: not shown to be below either, and above in the mean."""
    data = deap_set(subjects=6, trials=30, windows=2, effect=dict(eeg=1., peripheral=1.), seed=7)
    b = network(data, 'subjects', 10, 'eeg,peripheral', alone=True)
    assert [e.name for e in b.entries[:3]] == ['deep fusion (eeg + peripheral)', 'eeg alone', 'peripheral alone']
    d = b.differences.set_index('comparison')
    for k in ('eeg', 'peripheral'):
        of = d.loc[f'deep fusion (eeg + peripheral) − {k} alone']
        assert of.low > -.06 and of.difference > 0, d


def test_ratings_agree_with_the_network_where_there_is_an_effect():
    data = deap_set(subjects=5, trials=20, windows=3, effect=dict(eeg=2., peripheral=2.), seed=7)
    who, found = data.meta.subject.to_numpy(), {}
    for name, meta in dict(true=data.meta, permuted=data.meta.assign(valence=moved(data.meta))).items():
        b = network(replace(data, meta=meta), 'subjects', 10, task='values')
        p = 1 + 8*b.entries[0].prob[0]
        found[name] = agreement(meta.valence.to_numpy()[:, None], p[:, None], who, targets=('v',))['v']['CCC']
    assert found['true']['low'] > .3 and found['true']['value'] > found['permuted']['value'] + .3, found
    assert abs(found['permuted']['value']) < .2, found


def moved(meta, seed=0):
    "Ratings of whole trials that changed places within each person."
    rng, first = np.random.default_rng(seed), meta.groupby('trial').valence.first()
    person = meta.groupby('trial').subject.first()
    for who in person.unique(): first[person == who] = rng.permutation(first[person == who])
    return meta.trial.map(first).to_numpy()


# -- 4. real recordings, labels that mean nothing

def shuffled_and_grouped(x, block, draws=20, n_splits=5, seed=0):
    """Mean UAR over `draws` random labellings of whole blocks: windows shuffled, blocks kept whole.

    x (N, F), one recording."""
    x = (x - x.mean(0))/(x.std(0) + 1e-9)
    meta = pd.DataFrame(dict(subject='one', trial=[f'b{k:03d}' for k in block], stimulus=[f'b{k:03d}' for k in block],
                             order=block, start_s=np.arange(len(x)), length_s=1.))
    rng, model, got = np.random.default_rng(seed), Nearest(x), []
    for _ in range(draws):
        names = np.unique(block)
        label = dict(zip(names, rng.permutation(np.arange(len(names)) % 2)))
        y = np.array([label[b] for b in block])
        got.append([scores(y, pipeline(meta, p, model, n_splits)(y), 2)['UAR'] for p in ('windows', 'trials')])
    return np.array(got)


def test_random_block_labels_on_real_eeg(real):
    import mne

    from emonb.signals.eeg import band_features
    raw = mne.io.read_raw_eeglab(real('eeglab')/'eeglab_data.set', preload=True, verbose='error')
    x, rate = raw.get_data()*1e6, int(raw.info['sfreq'])
    n = x.shape[1]//rate
    windows = x[:, :n*rate].reshape(len(x), n, rate).swapaxes(0, 1)
    got = shuffled_and_grouped(band_features(windows, rate).reshape(n, -1), np.arange(n)//8)
    windows_uar, trials_uar = got.mean(0)
    assert windows_uar > .54 and abs(trials_uar - .5) < .05 and (got[:, 0] > got[:, 1]).mean() > .7, got.mean(0)


def test_random_block_labels_on_real_skin_conductance(real):
    from emonb.data.stress_predict import StressPredict
    reader = StressPredict(real('stress_predict'))
    means = []
    for who in reader.meta.subject.unique()[4:8]:        # the bounds below were set on the first four
        signals = reader[int(np.flatnonzero(reader.meta.subject == who)[0])].signals
        columns = []
        for k in ('EDA', 'TEMP'):
            v, rate = signals.values[k], int(signals.rates[k])
            n = len(v)//(10*rate)
            w = v[:n*10*rate].reshape(n, -1)
            columns += [w.mean(1), w.std(1)]
        n = min(map(len, columns))
        means.append(shuffled_and_grouped(np.stack([c[:n] for c in columns], 1), np.arange(n)//12, draws=10).mean(0))
    windows_uar, trials_uar = np.mean(means, 0)
    assert windows_uar > .6 and abs(trials_uar - .5) < .07, (windows_uar, trials_uar)


# -- 5. twins whose evidence is in power or in form, never in a level

def skews(x):
    "Third moment of the slope of (…, samples) over its spread: the simplest number that knows the direction of time."
    d = np.diff(x)
    return (d**3).mean(-1)/(d**2).mean(-1)**1.5

MEASURES = dict(level=lambda x: x.mean(-1), entropy=lambda x: band_features(x[:, :36]).reshape(len(x), -1), skew=skews)
TELLS = dict(power='entropy', waveform='skew')     # kind → the one measure that finds its evidence


@pytest.mark.parametrize('kind,seed', DEAP_FINGERPRINTS)
def test_frozen_twins_are_those_that_were_judged(kind, seed):
    now, known = deap_fingerprint(deap_twin(kind, seed)), DEAP_FINGERPRINTS[kind, seed]
    assert now['truth'] == known['truth']
    np.testing.assert_allclose(now['drawn'], known['drawn'], rtol=.01, atol=.01)


def test_no_judging_seed_is_one_to_develop_on():
    judged = [v for k in DEAP_TWINS for v in DEAP_JUDGE[k]]
    seen = {v for k in DEAP_TWINS for v in DEAP_SEEN[k]}
    assert len(set(judged)) == len(judged) == 12 and not set(judged) & {*DEAP_CHOOSE, *seen}
    assert all(min(s.size) > 160 and s.evidence == k for k, s in DEAP_TWINS.items())


@pytest.mark.parametrize('kind', TELLS)
def test_only_one_measure_finds_the_evidence_in_new_people(kind):
    data = drawn(subjects=6, trials=30, windows=4, effect=1.5, evidence=kind, seed=21)
    for name, measure in MEASURES.items():
        model = Straight(measure(data.x['bio']))
        value, (low, high) = uar(data, 'subjects', model), band(data, 'subjects', model)
        if name == TELLS[kind]: assert value > high + .1, (name, value, high)
        else: assert low - .02 <= value <= high + .02, (name, value, low, high)


def test_people_who_differ_make_power_harder_in_new_people():
    found = {}
    for gain in (0., .8):
        data = drawn(subjects=6, trials=30, windows=4, effect=1.5, evidence='power', person_gain=gain, seed=22)
        found[gain] = uar(data, 'subjects', Straight(MEASURES['entropy'](data.x['bio'])))
    assert found[.8] < found[0.] - .03, found


@pytest.mark.parametrize('kind', TELLS)
def test_every_knob_at_zero_gives_none_of_it(kind):
    s = DeapTwin(subjects=(1, 2), trials=4, seconds=3, evidence=kind, effect=(0.,)*3)
    rows = list(truth_table(s).itertuples())
    def drawn_by(s, row): return dat_trial(s, row, np.random.default_rng(0))
    same = [drawn_by(s, r) for r in rows]
    assert all(np.array_equal(same[0], x) for x in same)           # no person, trial, video, hour or label in it
    for knob in ('person_gain', 'person_offset', 'trial_stamp', 'stimulus_stamp', 'clock_drift'):
        one, other = (drawn_by(replace(s, **{knob: 1.}), r) for r in (rows[0], rows[-1]))
        assert not np.array_equal(one, other), knob
        with pytest.raises(EmonbError, match='0 or more'): deap_windows(replace(s, **{knob: -1.}))


def test_raw_recordings_carry_the_same_form():
    "Two separate writers; over the front the slope's skew has the sign of the evidence in both."
    s = DeapTwin(subjects=(24,), trials=2, seconds=20, evidence='waveform')
    row = next(truth_table(s).itertuples())
    for e in (-2., 2.):
        told = row._replace(valence_eeg=e, arousal_eeg=-e)
        dat = dat_trial(s, told, np.random.default_rng(1))[:32, int(3*RATE):]
        signals, codes = bdf_trial(s, told, np.random.default_rng(1))
        at = int(np.flatnonzero(codes == 4)[0])
        raw = np.stack(list(signals.values()))[:32, at:at + 20*512]
        raw = (raw - raw.mean(0)).reshape(32, -1, 4).mean(-1)      # to 128 Hz
        for x in (dat, raw):
            assert np.sign(skews(x[RIGHT + LEFT]).mean()) == -np.sign(e)
            assert np.sign(skews(x[BACK]).mean()) == np.sign(e)


def test_a_level_has_no_gain_and_a_power_no_level():
    with pytest.raises(EmonbError, match='evidence=level'): deap_set(2, 4, 2, person_gain=.4)
    with pytest.raises(EmonbError, match='gain and length'): deap_set(2, 4, 2, evidence='power', gain=1.)
    with pytest.raises(EmonbError, match='evidence'): deap_set(2, 4, 2, evidence='mixed')


def test_the_oracle_is_written_with_the_truth(tmp_path):
    import json
    s = replace(deap_twin('waveform', 7), subjects=(1,), trials=3, seconds=2, fps=5, files=('dat',))
    write_deap(tmp_path/'deap', s)
    said = json.loads((tmp_path/'deap/SIMULATED.json').read_text())
    assert set(said['oracle']) == {'eeg + peripheral + face', 'eeg', 'peripheral', 'face', 'all and the video'}
    assert said['settings']['evidence'] == 'waveform' and said['version'] == 1


# -- 6. the product of networks on signals, on small twins of either kind

def small_twin(kind, effect, **more):
    small = dict(subjects=(1, 2, 3, 4), trials=16, seconds=3, stimulus=0., effect=(effect,)*3)
    return replace(deap_twin(kind, 7), **small, **more)


@pytest.mark.parametrize('kind', TELLS)
def test_the_product_finds_an_effect_in_new_people_and_nothing_where_nothing_is(kind):
    for effect in (3., 0.):
        found = {r['system']: r for r in rows_of(small_twin(kind, effect), 'subjects')}
        ours = found[NETWORK]
        if effect: assert ours['UAR'] > ours['high'] + .1 and found[BEST]['UAR'] > .95, ours
        else: assert ours['low'] - .02 <= ours['UAR'] <= ours['high'] + .02 and ours['high'] - ours['low'] < .4, ours


def test_a_stamped_trial_is_remembered_and_no_more():
    s = replace(small_twin('power', 0., trial_stamp=6.), subjects=(1, 2))
    said = {q: {r['system']: r for r in rows_of(s, q)}[NETWORK] for q in ('windows', 'subjects')}
    assert said['windows']['UAR'] > said['windows']['high'], said
    assert said['subjects']['low'] - .02 <= said['subjects']['UAR'] <= said['subjects']['high'] + .02, said


def test_a_floor_of_steps_is_what_few_trials_of_a_person_need():
    data = signals_of(small_twin('power', 2., trial_stamp=0.))
    reached = {}
    for floor in (True, False):
        encoders = dict(modalities=('bio',), whole=False)            # small readers need fewer steps
        recipe = recipe_of('deep_product', encoders, **({} if floor else dict(min_steps=0)))
        p = run_folds(data, splits_of(data, 'trials', 2), recipe)
        said = by_trial(data, p.row.to_numpy(), p.p1.to_numpy()).sort_index()
        reached[floor] = scores(data.meta.groupby('trial').label.first(), said, 2)['UAR']
    assert reached[True] > .75 and reached[True] > reached[False] + .1, reached
