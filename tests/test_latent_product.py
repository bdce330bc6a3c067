"""The assembled product of modalities on token-level twins whose truth is known.

Nothing where nothing is, more with more clips."""
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import recall_score

from emonb.data.feature_twins import signal_set
from emonb.data.recordings import Prepared
from emonb.models.modality_product import WITNESSES
from emonb.models.registry import entry
from emonb.signals.physio import hjorth_courses
from emonb.study.splits import Split
from emonb.study.train import Recipe, fit_fold

EFFECT = dict(flow_tokens=2., difference_tokens=1.5, change_tokens=2., physio_courses=1.5)


def token_twin(n, effect, seed, T=2):
    """SIMULATED tokens of n clips of 4 classes; each witness has evidence of its own along fixed directions.

    And the oracle."""
    q, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    y, x, log_p = q.permutation(n) % 4, {}, 0
    course = np.sin(np.linspace(0, np.pi, T + 2)[1:-1])
    for k, shape in {k: s for w in WITNESSES.values() for k, s in w.items()}.items():
        to = np.linalg.qr(fixed.standard_normal((int(np.prod(shape)), 4)))[0].T*np.sqrt(np.prod(shape))/14
        mu = effect*EFFECT[k]/np.sqrt(2)*np.eye(4)
        e = mu[y] + q.standard_normal((n, 4))
        log_p = log_p - .5*((e[:, None] - mu)**2).sum(-1)
        maps = (e @ to).reshape(n, *shape).astype('float32')
        noise = q.standard_normal((n, T, *shape) if k.endswith('tokens') else maps.shape).astype('float32')
        x[k] = (maps[:, None]*course[:, None, None] if k.endswith('tokens') else maps) + noise
    x['mask'], x['apex'] = np.ones((n, T), bool), np.full(n, T//2)
    meta = pd.DataFrame(dict(subject=[f's{i % 20}' for i in range(n)], trial=[f't{i}' for i in range(n)], stimulus='a',
                             order=range(n), start_s=10.*np.arange(n), length_s=1., label=y))
    return Prepared(x, meta, list('abcd'), 'simulated', dict(name='token twin')), log_p.argmax(1)


@lru_cache
def tried(n, effect, seed, modalities=tuple(WITNESSES)):
    "UAR on 300 clips of the product trained on n, and of the oracle there."
    data, oracle = token_twin(n + 300, effect, seed)
    # random directions have no mirror image
    arguments = dict(num_classes=4, modalities=modalities, mirror=False)
    system = entry('latent_product')
    recipe = Recipe(system.maker(**arguments), inputs=system.reads(modalities=modalities), **system.recipe)
    df, _ = fit_fold(data, Split('groups', 'g', np.arange(n), np.arange(n, n + 300)), recipe, seed)
    y = data.y[n:]
    return recall_score(y, df.yhat, average='macro'), recall_score(y, oracle[n:], average='macro')


@pytest.mark.parametrize('seed', (11, 12))
def test_without_an_effect_it_is_at_chance(seed):
    assert abs(tried(160, 0., seed)[0] - .25) < .10                 # 99 % band of 300 even guesses: ± .065


def test_more_clips_bring_it_nearer_to_the_oracle():
    curve, oracle = zip(*(tried(n, 1., 13) for n in (60, 400)))
    assert curve[1] > curve[0] + .03 and curve[1] < max(oracle) + .03, (curve, oracle)


def test_the_product_is_above_each_modality_alone():
    together, oracle = tried(160, 1., 14)
    alone = {m: tried(160, 1., 14, (m,))[0] for m in WITNESSES}
    assert together > max(alone.values()) + .03, (together, alone, oracle)


def moved_by_the_skin(name, arrays, **arguments):
    "Accuracy on new people; how far its probabilities move when skin conductance is three times as large (SIMULATED)."
    data, system, test = signal_set(subjects=8, trials=20, effect=3., classes=2, rate=50.,
                                    seed=3), entry(name), np.arange(100, 160)
    louder = data.x['physio'].copy()
    louder[test, 0] *= 3
    recipe = Recipe(system.maker(num_classes=2, **arguments),
                    inputs=system.reads(**{k: v for k, v in arguments.items() if k == 'modalities'}),
                    **dict(system.recipe, epochs=8, lr=1e-3))
    split = Split('groups', 'g', np.arange(100), test)
    found = [fit_fold(data.with_x(**arrays(x)), split, recipe, 0)[0] for x in (data.x['physio'], louder)]
    return (found[0].yhat == data.y[test]).mean(), (found[0].p1 - found[1].p1).abs().mean()

def courses(x):
    "As a run makes them: against the second before the onset."
    return dict(physio_courses=hjorth_courses((x - x[:, :, :50].mean(-1, keepdims=True)).astype(np.float32), 50.))

def test_three_times_the_skin_response_is_seen_by_ours_and_not_by_the_letter():
    right, ours = moved_by_the_skin('latent_product', courses, modalities=('physio',), course_shape=(9, 4),
                                    mirror=False)
    _, letter = moved_by_the_skin('psnet_literal', lambda x: dict(physio=x), rate=50., length=300)
    assert right > .75 and ours > .08 and letter < .04, (right, ours, letter)
