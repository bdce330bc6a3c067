"""Claims of the project where the answer is known.

On simulated sets, against the null of permuted labels, with enough samples to tell.

"Inside its null" means inside the central 99 % band of the same pipeline's UAR under 200 permutations of the labels of
whole trials. All seeds are fixed."""
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from emonb.data.feature_twins import feature_clips, feature_set, signal_set
from emonb.data.rendered_faces import FaceModel, sensor
from emonb.data.simulate import rise_and_fall
from emonb.models.frame_fusion import FrameFusion, frame_weights
from emonb.models.guided_attention import GuidedAttention
from emonb.models.latent_emotion import LatentEmotion
from emonb.signals.depth import clean_depth, relative_to_onset
from emonb.study.metrics import null_band, paired, permutation_null, scores
from emonb.study.splits import PROTOCOLS, check_split, make_splits
from emonb.study.train import Recipe, run_folds

DRAWS = 200


class Linear:
    """Linear discriminant on the shrunken total covariance, equal priors.

    The covariance knows no labels, so permutations share it."""
    def prepare(self, x):
        self.x = np.asarray(x, np.float64)
        cov = np.cov(self.x.T)
        self.inverse = np.linalg.inv(cov + .05*np.trace(cov)/len(cov)*np.eye(len(cov)))
        return self
    def label(self, y):
        self.classes_, k, n = np.unique(y, return_inverse=True, return_counts=True)
        mean = (np.eye(len(n))[k].T @ self.x)/n[:, None]
        self.w = self.inverse @ mean.T
        self.b = -.5*(mean.T*self.w).sum(0)
        return self
    def fit(self, x, y): return self.prepare(x).label(y)
    def predict(self, x): return self.classes_[(x @ self.w + self.b).argmax(1)]


def features(data, keys): return np.concatenate([data.x[k] for k in keys], 1)


def pipeline(data, splits, keys=('a',)):
    "y → pooled predictions of `Linear` under `splits`; −1 nowhere, because every row is tested."
    x = features(data, keys)
    ready = [(s, Linear().prepare(x[s.train]), x[s.test].astype(np.float64)) for s in splits]
    def run(y):
        out = np.full(len(y), -1)
        for s, model, test in ready: out[s.test] = model.label(y[s.train]).predict(test)
        assert (out >= 0).all()
        return out
    return run


def uar(data, splits, keys=('a',)):
    return scores(data.y, pipeline(data, splits, keys)(data.y), len(data.classes))['UAR']


def band(data, splits, keys=('a',), seed=0):
    "99 % band of the pipeline's UAR when labels are permuted between the trials."
    return null_band(permutation_null(pipeline(data, splits, keys), data.y, data.meta.trial.to_numpy(), DRAWS, seed,
                                      num_classes=len(data.classes)))


def folds(data, protocol):
    "The folds of a protocol; crossed ones in groups, so that permutations stay quick."
    how = dict(stimulus_x_subject=dict(subject_groups=4, stimulus_groups=4),
               clock_x_subject=dict(subject_groups=4, n_blocks=4, guard_s=120.), trials=dict(n_splits=5),
               windows=dict(n_splits=5))
    splits = make_splits(data.meta, protocol, **how.get(protocol, {}))
    for s in splits: check_split(data.meta, s, PROTOCOLS[protocol][1])
    return splits


# -- 0. the short way used here is the project's way

def test_the_short_pipeline_is_what_run_folds_does():
    data = feature_set(subjects=6, effect=dict(a=1.5, b=1.), seed=0)
    splits = folds(data, 'loso')
    slow = run_folds(data, splits, Recipe(make=Linear, inputs=('a', 'b'))).sort_values('row')
    assert np.array_equal(slow.yhat.to_numpy(), pipeline(data, splits, ('a', 'b'))(data.y))
    assert np.array_equal(slow.y.to_numpy(), data.y)


# -- 1. no effect: every honest protocol inside its null

@pytest.fixture(scope='module')
def nothing():
    "860 windows whose subjects, trials, stimuli and clock can all be recognised; none of them tells the label."
    return feature_set(subjects=24, effect=dict(a=0., b=0.), trial_stamp=.7, stimulus_stamp=.7, clock_drift=.7, seed=11)

@pytest.mark.parametrize('protocol', ['loso', 'leave_stimulus_out', 'stimulus_x_subject', 'trials', 'clock_x_subject'])
def test_no_effect_stays_inside_the_null(nothing, protocol):
    splits = folds(nothing, protocol)
    low, high = band(nothing, splits, ('a', 'b'))
    value = uar(nothing, splits, ('a', 'b'))
    assert low <= value <= high, f'{protocol}: UAR {value:.3f} outside [{low:.3f}, {high:.3f}]'
    assert high - low < .2    # narrow enough to have seen an effect


@pytest.mark.parametrize('seed', range(3))
def test_the_null_is_centred_on_chance(seed):
    data = feature_set(subjects=16, classes=3, effect=dict(a=0.), seed=seed)
    null = permutation_null(pipeline(data, folds(data, 'loso')), data.y, data.meta.trial.to_numpy(), 60, seed,
                            num_classes=3)
    assert abs(null.mean() - 1/3) < .02


# -- 2. dose and response of a leak (stimulus and clock)

def test_a_stimulus_stamp_lifts_loso_but_not_leave_stimulus_out():
    got = {p: [] for p in ('loso', 'leave_stimulus_out', 'stimulus_x_subject')}
    for dose in (0., .7, 1.4):
        data = feature_set(subjects=20, stimuli=12, effect=dict(a=0.), stimulus_stamp=dose, stimulus_bias=.8, seed=5)
        for p in got:
            splits = folds(data, p)
            got[p].append((uar(data, splits), *band(data, splits, seed=1)))
    loso = [v for v, _, _ in got['loso']]
    assert got['loso'][0][1] <= loso[0] <= got['loso'][0][2]                        # no stamp, no leak
    assert loso[2] > loso[1] > loso[0] and all(v > high for v, _, high in got['loso'][1:])   # the dose shows
    assert loso[2] > .65
    # below .5 is possible: a class held out is rarer in training
    for p in ('leave_stimulus_out', 'stimulus_x_subject'):
        assert got[p][0][0] <= got[p][0][2], p
        for (v, _, _), w in zip(got[p][1:], loso[1:]):
            assert v - .5 < (w - .5)/2, p    # twelve stimuli are few: not always inside the band


def test_a_clock_drift_lifts_whatever_does_not_block_time():
    got = {p: [] for p in ('loso', 'leave_stimulus_out', 'trials', 'clock_x_subject')}
    for dose in (0., 1.2):
        data = feature_set(subjects=20, trials=24, windows=2, stimuli=24, effect=dict(a=0.), clock_drift=dose,
                           clock_bias=.8, dim=24, seed=8)
        for p in got:
            splits = folds(data, p)
            got[p].append((uar(data, splits), *band(data, splits, seed=2)))
    for p in got: assert got[p][0][0] <= got[p][0][2], p                            # no drift, no lift
    for p in ('loso', 'leave_stimulus_out', 'trials'): assert got[p][1][0] > max(.59, got[p][1][2]), p
    lifted = min(got[p][1][0] for p in ('loso', 'leave_stimulus_out', 'trials'))
    # four blocks are few: not always inside the band
    assert got['clock_x_subject'][1][0] - .5 < (lifted - .5)/2


def test_a_trial_stamp_needs_the_trial_held_together():
    "Nearest neighbours, because a stamp of its own for each trial is nothing a straight line could learn."
    def nearest(data, splits):
        x, out = data.x['a'], np.full(len(data), -1)
        for s in splits:
            d = (x[s.test]**2).sum(1)[:, None] - 2*x[s.test] @ x[s.train].T + (x[s.train]**2).sum(1)
            out[s.test] = (data.y[s.train][np.argpartition(d, 2, 1)[:, :3]].mean(1) > .5)
        return scores(data.y, out, 2)['UAR']
    shuffled, grouped = [], []
    for dose in (0., 1., 2.):
        data = feature_set(subjects=20, windows=4, effect=dict(a=0.), trial_stamp=dose, seed=2)
        shuffled.append(nearest(data, folds(data, 'windows')))
        grouped.append([nearest(data, folds(data, p)) for p in ('trials', 'loso')])
    chance = 2.6*.5/np.sqrt(20*12)                                                  # 240 trials decide, not 960 windows
    assert abs(shuffled[0] - .5) < chance and shuffled[2] > shuffled[1] > shuffled[0] and shuffled[2] > .8
    assert (np.abs(np.array(grouped) - .5) < chance).all()


# -- 3. an effect is found, and two modalities are better than one

def test_the_effect_is_found_and_approaches_the_oracle():
    found, best = [], []
    for dose in (0., .5, 1., 2., 3.):
        data = feature_set(subjects=30, effect=dict(a=dose, b=dose), subject_offset=.3, seed=21)
        found.append(uar(data, folds(data, 'loso'), ('a', 'b')))
        best.append(scores(data.y, np.array(data.info['oracle']['a+b']), 2)['UAR'])
    found, best = np.array(found), np.array(best)
    assert (np.diff(found) > .02).all(), found                                      # more effect, more found
    error = 2.6*np.sqrt(best*(1 - best)/1080)
    assert (found <= best + error).all(), (found, best)                             # nobody beats the oracle
    # and with enough effect it comes close
    assert found[3] > best[3] - .06 and found[4] > best[4] - .04, (found, best)
    assert found[2] > band(data, folds(data, 'loso'), ('a', 'b'))[1]


@pytest.mark.parametrize('protocol', ['loso', 'leave_stimulus_out', 'stimulus_x_subject'])
def test_fusion_beats_each_modality_alone(protocol):
    data = feature_set(subjects=30, effect=dict(a=1.5, b=1.5), subject_offset=.3, seed=31)
    splits = folds(data, protocol)
    alone = {k: pipeline(data, splits, (k,))(data.y) for k in 'ab'}
    both = pipeline(data, splits, ('a', 'b'))(data.y)
    for k in 'ab':
        d = paired(data.y, both, alone[k], data.meta.subject.to_numpy(), 2, metric='UAR')
        assert d['low'] > 0 and d['p'] < .01, (k, d)


def test_fusion_with_noise_gains_nothing():
    "The same comparison where the second modality is empty: no difference may be shown in its favour."
    data = feature_set(subjects=30, effect=dict(a=1.5, b=0.), subject_offset=.3, seed=32)
    splits = folds(data, 'loso')
    d = paired(data.y, pipeline(data, splits, ('a', 'b'))(data.y), pipeline(data, splits, ('a',))(data.y),
               data.meta.subject.to_numpy(), 2, metric='UAR')
    assert d['low'] <= 0, d


def physiology(effect):
    """UAR of the physiological network and of the oracle on simulated windows, and how many windows.

    Four groups of subjects are left out in turn."""
    data = signal_set(subjects=14, trials=12, effect=effect, classes=2, rate=50., seed=1)
    x = data.x['physio']
    # against the second before the event
    data = data.with_x(physio=(x - x[:, :, :50].mean(-1, keepdims=True)).astype(np.float32))
    make = partial(LatentEmotion, num_classes=2, modalities=('physio',), rate=50., length=300, dim=32, width=10,
                   hidden=20)
    out = run_folds(data, make_splits(data.meta, 'loso', subject_groups=4),
                    Recipe(make=make, inputs=('physio',), epochs=16, lr=1e-3)).sort_values('row')
    return scores(data.y, out.yhat.to_numpy(),
                  2)['UAR'], scores(data.y, np.array(data.info['oracle']['physio']), 2)['UAR'], len(data)


def test_the_physiological_network_finds_the_effect_and_nothing_else():
    found, best, n = physiology(3.)
    error = 2.6*np.sqrt(.25/n)
    assert .5 + 2*error < found <= best + error and found > best - .12, (found, best)
    found, best, n = physiology(0.)
    assert abs(found - .5) < error, found


# -- 4. frame weights against the matched filter

def weights(clips, kind, k=None):
    "(N, T) weights by the project's own frame fusion; 'centre' is the standardised normal."
    m, a = torch.from_numpy(clips.mask), torch.from_numpy(clips.apex)
    return frame_weights(m, dict(centre='normal').get(kind, kind), k or 3**.5, a).numpy()


@pytest.mark.parametrize('frames', [12, (4, 35)])
def test_measured_dprime_is_the_predicted_one(frames):
    clips = feature_clips(6000, frames, effect=.6, seed=1)
    x, m, a = torch.from_numpy(clips.x), torch.from_numpy(clips.mask), torch.from_numpy(clips.apex)
    for kind, k in (('uniform', 1.), ('normal', 3**.5), ('normal', 3.), ('spotted', 3**.5), ('spotted', 3.),
                    ('apex', 1.)):
        fusion = FrameFusion(kind, k)
        got, said = clips.dprime(fusion(x, m, a).numpy()), clips.expected_dprime(fusion.weights(m, a).numpy())
        assert abs(got - said) < 3.5*np.sqrt(4/6000*(1 + said**2/8)), (kind, k, got, said)    # twelve looks


def test_at_root_three_centre_and_spotted_apex_differ_by_nothing_measurable():
    "With the apex where Part A has it, at the median length of Part C."
    clips = feature_clips(6000, 12, effect=.6, seed=2)
    snr = {kind: clips.snr(weights(clips, kind)).mean() for kind in ('uniform', 'centre', 'spotted')}
    assert abs(snr['uniform'] - .46) < .005 and .52 < snr['centre'] < .54 and .52 < snr['spotted'] < .545, snr
    d = {kind: clips.expected_dprime(weights(clips, kind)) for kind in ('uniform', 'centre', 'spotted')}
    # of a d′ measured on as many clips as Part A has
    error_860 = np.sqrt(4/860*(1 + d['centre']**2/8))
    assert abs(d['spotted'] - d['centre']) < .5*error_860                           # nothing to be seen
    # while weighting itself is worth something
    assert d['centre'] - d['uniform'] > 1.5*error_860


def test_at_three_the_position_of_the_apex_matters():
    N = 24_000
    late, early = (feature_clips(N, 12, effect=1.2, apex=a, apex_spread=0., seed=3) for a in (.5, .12))
    def d(clips, kind, k): return clips.dprime(np.einsum('nt,ntd->nd', weights(clips, kind, k), clips.x))
    error = 2.6*np.sqrt(4/N*(1 + 2.2**2/8))*np.sqrt(2)                           # 99 % of a difference between two sets
    loss = {k: d(late, 'centre', k) - d(early, 'centre', k) for k in (3**.5, 3.)}
    assert loss[3.] > loss[3**.5] + .2 and loss[3.] > .5 > error, loss              # an early apex costs twice as much
    # narrow is better where the apex is central …
    assert d(late, 'centre', 3.) > d(late, 'centre', 3**.5)
    # … and worse than no weights at all where it is early
    assert d(early, 'centre', 3.) < d(early, 'uniform', 1.) < d(early, 'centre', 3**.5)
    # the same clips: the error is smaller than `error`
    moved = d(early, 'spotted', 3.) - d(early, 'centre', 3.)
    rng, gain = np.random.default_rng(0), []
    f = {kind: np.einsum('nt,ntd->nd', weights(early, kind, 3.), early.x) @ early.direction
         for kind in ('spotted', 'centre')}
    for _ in range(400):
        i = rng.integers(N, size=N)
        y = early.y[i]
        apart = {kind: (x[i][y == 1], x[i][y == 0]) for kind, x in f.items()}
        v = {kind: (a.mean() - b.mean())/np.sqrt((a.var() + b.var())/2) for kind, (a, b) in apart.items()}
        gain.append(v['spotted'] - v['centre'])
    assert moved > 0 and np.quantile(gain, .005) > 0                                 # spotting it is worth measuring


# -- 5. depth: noise in, less noise out

def depth_clip(noise, holes, seed, frames=12):
    """True and noisy depth (T, H, W) of a rendered face whose cheeks come 8 mm nearer and go back; where the face is.

    The cheeks' place."""
    face, rng = FaceModel(seed, (320, 240)), np.random.default_rng(seed)
    bulge = np.zeros(7)
    bulge[2] = 8.
    truth = np.stack([face.frame(bulge=w*bulge)[1] for w in rise_and_fall(np.arange(frames), 0, 5, frames - 1)])
    noisy = np.stack([sensor(np.zeros((*mm.shape, 3), np.float32), mm, rng, 0., noise, holes)[1] for mm in truth])
    cheeks = (truth[0] - truth[5]) > 4
    return truth, noisy, truth[0] < 950, cheeks


def rms(a, b, where): return float(np.sqrt((np.where(where, a.astype(float) - b, 0)**2).sum()/where.sum()))


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('noise', [1.5, 3., 6.])
def test_cleaning_brings_depth_closer_to_the_truth(noise, seed):
    truth, noisy, head, cheeks = depth_clip(noise, .03, seed)
    clean = clean_depth(noisy)
    both = (noisy > 0) & (clean[:, 1] > 0) & head
    before, after = rms(noisy, truth, both), rms(clean[:, 0], truth, both)
    assert abs(before - noise) < .1*noise                        # the noise is what was asked for
    # little noise: the outline costs what the inside gains
    assert after < (.8 if noise > 2 else 1.1)*before, (before, after)
    # one pixel away from the outline, which a median rounds off
    inner = both & (cv2.erode(head.astype(np.uint8), np.ones((3, 3))) > 0)
    assert rms(clean[:, 0], truth, inner) < .55*before           # medians of 9 pixels and 3 frames
    assert not clean[:, 1][noisy == 0].any()                     # a hole is never called measured
    assert (clean[:, 1][(noisy > 0) & head]).mean() > .97        # and hardly a measured pixel of the face is lost
    change = relative_to_onset(clean)
    seen = (change[5, 1] > 0) & cheeks
    # the movement survives, to its sign
    assert abs(-change[5, 0][seen].mean() - (truth[0] - truth[5])[seen].mean()) < 1.5


def test_cleaning_a_perfect_camera_does_no_harm():
    truth, noisy, head, _ = depth_clip(0., 0., 4)
    clean = clean_depth(noisy)
    inner = (clean[:, 1] > 0) & (cv2.erode(head.astype(np.uint8), np.ones((3, 3))) > 0)
    assert rms(clean[:, 0], truth, inner) < 1.                   # .29 of it is whole millimetres
    assert np.median(np.abs(clean[:, 0].astype(float) - truth)[inner]) < .35


# -- 6. attention finds a planted region, and stops when the effect is gone

def planted(n, effect, rng, places=16, dim=16):
    """Guided and guide tokens: at one random place the guide carries a mark and ±effect/2 along the class.

    Everywhere else a class at random."""
    y, at = rng.integers(2, size=n), rng.integers(places, size=n)
    sign = rng.choice([-1., 1.], (n, places))
    sign[np.arange(n), at] = 2*y - 1
    x, guide = rng.standard_normal((2, n, places, dim))
    guide[:, :, 0] = effect/2*sign                               # what each place says: only the marked one is right
    guide[:, :, 1] = 0.
    guide[np.arange(n), at, 1] = 3.         # the mark is there with and without an effect
    return *(torch.tensor(v, dtype=torch.float32) for v in (x, guide)), torch.tensor(y), torch.tensor(at)


def attention_on_the_place(effect, steps=200):
    """Train on fresh samples (nothing can be learnt by heart).

    (share of the weight on the planted place, accuracy) on new ones."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    attend, head = GuidedAttention(16, num_heads=2), nn.Linear(16, 2)
    opt = torch.optim.AdamW([*attend.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(steps):
        x, guide, y, _ = planted(64, effect, rng)
        loss = nn.functional.cross_entropy(head(attend(x, guide).mean(1)), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
    x, guide, y, at = planted(2000, effect, rng)
    with torch.no_grad(): out, w = attend(x, guide, return_attention=True)
    share = w.mean((1, 2)).gather(1, at[:, None]).mean()
    return float(share), float((head(out.mean(1)).argmax(1) == y).float().mean())


def test_guided_attention_finds_the_planted_place_and_only_then():
    share, right = attention_on_the_place(effect=4.)
    assert share > .5 and right > .9, (share, right)             # one place of sixteen would get .06 by chance
    share, right = attention_on_the_place(effect=0.)
    assert share < .2 and abs(right - .5) < 2.6*.5/np.sqrt(2000), (share, right)
