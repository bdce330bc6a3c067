"Cleaning, windows and hand features on input that is not as it should be, and at rates other than the chapter's."
import numpy as np
import pandas as pd
import pytest

from emonb.core import DataError
from emonb.data.recordings import Signals
from emonb.signals import physio as P

R = 200.
T = np.arange(0, 60, 1/R)
def pulse(rate=72, r=R, seconds=60, seed=0):
    t = np.arange(0, seconds, 1/r)
    return np.exp(-.5*(((t*rate/60) % 1 - .5)/.12)**2) + .01*np.random.default_rng(seed).normal(size=len(t))
def ecg(rate=72, r=R, seconds=60):
    t = np.arange(0, seconds, 1/r)
    c = (t*rate/60) % 1
    return np.exp(-.5*((c - .5)/.012)**2) + .25*np.exp(-.5*((c - .75)/.05)**2)
def session(**change):
    values = dict(EDA=4 + .2*np.sin(T/6), ECG=ecg(), PPG=pulse(), RSP=np.sin(2*np.pi*.25*T))
    values.update(change)
    return Signals(values, {k: R for k in values}, source='7.txt')

@pytest.mark.parametrize('name', ['EDA', 'ECG', 'PPG', 'RSP'])
@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_not_a_number_names_file_signal_and_first_sample(name, value):
    s = session()
    s.values[name][[321, 5000]] = value
    with pytest.raises(DataError, match=rf'7\.txt: {name}, sample 321 .*2 such samples.*; (repair|leave)'):
        P.clean(s, ['EDA', 'ECG', 'PPG', 'RSP'])

@pytest.mark.parametrize('values, sentence',
                         [(np.zeros(12000), 'flat for 60 of 60 s'),
                          (np.r_[pulse()[:4000], np.full(8000, .3)], 'sample 4000 .*flat for 40 of 60 s'),
                          (pulse()[:100], '100 samples are 0.5 s, too short'), (np.zeros(0), '0 samples'),
                          (pulse().reshape(2, -1), '2 axes')])
def test_what_cannot_be_filtered_is_refused(values, sentence):
    with pytest.raises(DataError, match=f'7.txt: PPG.*{sentence}.*;'): P.clean(session(PPG=values), ['PPG'])

@pytest.mark.parametrize('rate', [0., -4., np.nan, np.inf, 1.5])
def test_a_wrong_rate_is_refused(rate):
    s = session()
    s.rates['PPG'] = rate
    with pytest.raises(DataError, match='PPG'): P.clean(s, ['PPG'])

def test_a_signal_not_asked_for_may_be_damaged():
    assert list(P.clean(session(EDA=np.full(12000, np.nan)), ['PPG', 'ECG']).values) == ['PPG', 'ECG']

@pytest.mark.parametrize('own', [4., 31.25, 64., 100., 128., 200., 256., 500., 1000.])
@pytest.mark.parametrize('to', [64., 100., 200.])
def test_resampling_keeps_time_and_level(own, to):
    t = np.arange(0, 40, 1/own)
    s = P.clean(Signals({'EDA': 5 + .5*np.sin(2*np.pi*.1*t)}, {'EDA': own}, start_s=-3.), ['EDA'], rate=to)
    v = s.values['EDA']
    grid = np.arange(len(v))/to
    assert s.rates['EDA'] == to and s.start_s == -3 and abs(len(v) - 40*to) <= to/own + 1
    assert np.abs(v - 5 - .5*np.sin(2*np.pi*.1*grid))[:int(39.5*to)].max() < .02

def test_signals_of_different_length_meet():
    s = Signals({'EDA': 1 + np.sin(np.arange(200)/9), 'BVP': pulse(r=64, seconds=48)}, {'EDA': 4., 'BVP': 64.})
    assert {len(v) for v in P.clean(s, ['EDA', 'BVP'], rate=64.).values.values()} == {48*64}

def test_the_original_is_left_alone():
    s = session()
    before = {k: v.copy() for k, v in s.values.items()}
    P.clean(s, ['EDA', 'ECG', 'PPG', 'RSP'], rate=64.)
    assert all(np.array_equal(before[k], v) for k, v in s.values.items())

def test_own_filters_and_unknown_signals():
    s = session(TEMP=30 + T/100)
    assert np.array_equal(P.clean(s, ['TEMP']).values['TEMP'], s.values['TEMP'])
    assert P.clean(s, ['ECG'],
                   filters={'ECG': P.Band(5., 15.)}).values['ECG'].std() < P.clean(s, ['ECG']).values['ECG'].std()

def test_windows_follow_the_clock_and_edges_are_counted():
    s = Signals({'A': np.arange(1000.)}, {'A': 100.}, start_s=-2.)
    x, share = P.cut(s, 0., 6.)
    assert x.dtype == np.float32 and x[0, 0] == 200 and x.shape == (1, 600) and share == 1
    x, share = P.cut(s, -5., 6.)
    assert share == .5 and (x[0, :300] == 0).all() and x[0, 300] == 0 and x[0, 599] == 299
    x, share = P.cut(s, 7., 2.)
    assert share == .5 and (x[0, 100:] == 999).all()
    for start in (-9., 8.): pytest.raises(DataError, P.cut, s, start, 1.)
    with pytest.raises(DataError, match='no sample'): P.cut(s, 0., 0.)

def test_overlaps_are_found_in_any_order_and_inside_each_other():
    w = pd.DataFrame(dict(subject=list('aaaab'), start_s=[50., 0., 10., 20., 0.], length_s=[6., 30., 2., 2., 6.]))
    assert P.overlaps(w).tolist() == [False, False, True, True, False]

@pytest.mark.parametrize('rate', [45, 60, 72, 95, 140])
@pytest.mark.parametrize('name, make, r', [('ECG', ecg, 200.), ('PPG', pulse, 200.), ('BVP', pulse, 64.)])
def test_heart_rate_over_the_range(rate, name, make, r):
    s = P.clean(Signals({name: make(rate, r)}, {name: r}), [name])
    assert abs(P.heart_rate(s, name) - rate) < 1
    f, names = P.physio_features(s.values[name][None, None, :int(6*r)].astype('float32'), r, [name])
    assert abs(f[0, names.index(f'{name}_rate')] - rate) < 3

def test_the_heart_rate_does_not_depend_on_units_or_sign_of_the_level():
    s = P.clean(session(), ['PPG']).values['PPG']
    rates = [P.physio_features((a*s)[None, None].astype('float32'), R, ['PPG'])[0][0, 0] for a in (1e-4, 1., 1e4)]
    assert np.allclose(rates, rates[1], rtol=1e-3)

@pytest.mark.parametrize('seconds', [.05, .4, 1., 6., 60.])
def test_features_of_any_length_are_never_infinite(seconds):
    c = P.clean(session(), ['EDA', 'ECG', 'PPG', 'RSP'])
    x = np.stack([P.cut(c, s, seconds)[0] for s in (0., .0)])
    f, names = P.physio_features(x, R, ['EDA', 'ECG', 'PPG', 'RSP'])
    assert f.shape == (2, len(names)) and f.dtype == np.float32 and len(set(names)) == len(names)
    assert not np.isinf(f).any()
    assert np.array_equal(f[0], f[1], equal_nan=True) and np.isfinite(f[:, [n.startswith('EDA') for n in names]]).all()

def test_missing_features_go_through_the_pipeline():
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    x = np.stack([pulse(60 + i, seconds=6, seed=i) for i in range(20)] + [np.zeros(1200)]*2)[:, None].astype('float32')
    f, _ = P.physio_features(x, R, ['PPG'])
    assert np.isnan(f[-1]).any() and np.isfinite(f[:20]).mean() > .95
    y = np.r_[np.arange(20) > 9, [0, 1]].astype(int)
    assert set(make_pipeline(SimpleImputer(strategy='median'),
                             LogisticRegression(max_iter=5000)).fit(f[:20], y[:20]).predict(f)) <= {0, 1}

def test_bad_windows_are_refused():
    x = np.zeros((3, 2, 100), 'float32')
    x[2, 1, 5] = np.inf
    with pytest.raises(DataError, match='row 2, signal BVP, sample 5'): P.physio_features(x, 64., ['EDA', 'BVP'])
    with pytest.raises(DataError, match='one name a signal'): P.physio_features(x, 64., ['EDA'])

def test_the_two_sensors_of_the_resting_recording_agree(real):
    t = pd.read_csv(real('neurokit')/'bio_resting_5min_100hz.csv')
    s = P.clean(Signals({k: t[k].to_numpy(float) for k in ('ECG', 'PPG')}, {'ECG': 100., 'PPG': 100.}), ['ECG', 'PPG'],
                rate=64.)
    rates = [P.heart_rate(s, k) for k in ('ECG', 'PPG')]
    assert abs(rates[0] - rates[1]) < .5 and all(85 < r < 89 for r in rates)
