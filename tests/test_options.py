"Each option of the first paper's run is seen in the arrays or in the model; one that a run has no use for stops it."
import json

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from torch import nn

from emonb.core import DataError, EmonbError
from emonb.data.recordings import Prepared
from emonb.data.simulate import Casme3Twin, write_casme3
from emonb.experiments.casme3 import CASME3, OPTIONS, apices, load_set, systems
from emonb.models import backbones
from emonb.signals.physio import hjorth_courses, since_onset
from emonb.signals.prepare import PrepareSettings, as_measured
from emonb.study import report
from emonb.study.experiment import check_parameters, run, settled
from emonb.study.splits import Split
from emonb.study.train import Recipe, calibrated, correction_of, fit_fold, fit_module, fit_of, fold_key, known_by

SMALL = dict(size=72, dim=16, width=8, hidden=16)    # of pictures and networks


@pytest.fixture(scope='module')
def trees(tmp_path_factory):
    "part → a small SIMULATED tree."
    top = tmp_path_factory.mktemp('trees')
    return {part: write_casme3(top/part, Casme3Twin(part=part, subjects=3, clips=9, size=(320, 240))) for part in 'CA'}


@pytest.fixture
def opened(trees):
    "Parameters → those that a run ends with, and its set."
    def open_with(load=True, **given):
        asked = check_parameters(CASME3, dict(dict(root=str(trees[given.get('part', 'C')]), weights='random'), **given))
        p = settled(CASME3, asked, 'simulated').but(device='cpu', **SMALL)
        reader = CASME3.open(p)
        p = p.but(**CASME3.settle(p, reader))
        return p, load_set(p, reader) if load else None
    return open_with


def first_recipe(p, data): return next(iter(systems(p, data).values())).recipe


def test_depth_is_cleaned_or_as_it_was_measured(opened):
    clean, raw = (opened(model='latent_product', modalities='color,depth', clean_depth=v)[1] for v in (True, False))
    mm, valid = (np.asarray(raw.x['depth'])[:, :, k] for k in (0, 1))
    assert ((mm > 0) == (valid > 0)).all(), 'where nothing was measured there is a hole, and no other'
    assert (valid > np.asarray(clean.x['depth'])[:, :, 1]).any(), 'cleaning takes what lies outside the face'
    assert np.array_equal(clean.x['color'], raw.x['color'])
    assert not np.array_equal(clean.x['change_tokens'], raw.x['change_tokens'])
    depth = [k for k, n in enumerate(clean.info['feature_names']) if n.startswith('depth')]
    changed = (np.asarray(clean.x['features']) != np.asarray(raw.x['features'])).any(0)
    assert changed[depth].any() and not np.delete(changed, depth).any()


def test_the_second_before_the_onset(opened):
    auto, on, off = (opened(model='latent_product', modalities='physio', baseline=v)[1] for v in ('auto', 'on', 'off'))
    names, rate = auto.info['signals'], auto.info['rate']
    skin, heart, before = names.index('EDA'), names.index('ECG'), int(rate)
    assert np.array_equal(auto.x['physio'], off.x['physio'])
    assert np.array_equal(on.x['physio'][:, heart], off.x['physio'][:, heart])
    assert np.abs(off.x['physio'][:, skin, :before].mean(-1)).min() > .1
    assert np.abs(on.x['physio'][:, skin, :before].mean(-1)).max() < 1e-4
    subtracted = since_onset(np.asarray(off.x['physio']), rate, names)
    assert np.array_equal(on.x['physio'], subtracted)
    assert np.array_equal(auto.x['physio_courses'], on.x['physio_courses'])
    assert np.array_equal(off.x['physio_courses'], hjorth_courses(np.asarray(off.x['physio']), rate))
    level = auto.info['feature_names'].index('physio:EDA_level')
    assert not np.allclose(on.x['features'][:, level], off.x['features'][:, level])


def test_the_apex_is_spotted_annotated_or_the_centre(opened):
    how = dict(part='A', model='latent_product', frame_weighting='apex')
    found = {v: opened(**how, apex=v)[1] for v in ('spotted', 'annotated', 'centre')}
    meta, frames = found['annotated'].meta, np.asarray(found['centre'].x['mask']).sum(1)
    known = (meta.apex >= 0).to_numpy()
    assert known.any() and (found['annotated'].x['apex'] == meta.apex - meta.onset)[known].all()
    assert np.array_equal(found['annotated'].x['apex'][~known], found['spotted'].x['apex'][~known])
    assert np.array_equal(found['centre'].x['apex'], (frames - 1)//2)
    assert not np.array_equal(found['centre'].x['features'], found['annotated'].x['features'])
    p, data = opened(**how)
    assert np.array_equal(data.x['apex'], found['annotated'].x['apex']), "on Part A the sheet's apex is the default"
    assert f'as annotated in {known.sum()} of {len(known)} clips; in {(~known).sum()} the sheet' in apices(p, data)[0]
    assert 0 < known.sum() < len(known), 'this tree has a row whose apex lies before the onset'
    p, data = opened(model='latent_product', modalities='color')
    assert data.info['settings']['apex'] == 'spotted' and apices(p, data) == ['Apex: spotted (chapter 24).']


def test_how_colour_is_given_to_the_backbone(opened):
    how = dict(model='latent_emotion', modalities='color', backbone='resnet10t')
    frame, onset = (opened(**how, color_mode=v)[1].x['color_tokens'] for v in ('frame', 'onset'))
    assert np.asarray(frame[:, 0]).std(0).max() > .01, 'a frame says who it is'
    assert np.asarray(onset[:,
                            0]).std(0).max() == 0 and np.asarray(onset[:, 1]).std(0).max() > 0, 'the onset is no change'
    flow = opened(**how, color_mode='flow')[1]
    pictures, moved = np.asarray(flow.x['color'])[:, :2, :2], np.asarray(flow.x['color_tokens'])[:, :2]
    assert (pictures[:, 0] == 128).all() and (pictures[:, 1] != 128).any()
    assert moved[:, 0].std(0).max() < .01 < moved[:, 1].std(0).max()
    both = first_recipe(*opened(**how, color_mode='both', finetune=True)).make()
    assert both.frames.modes == dict(color='both') and both.frames.backbones['color'].in_chans == 6


def test_options_reach_the_networks(opened):
    p, data = opened(model='latent_emotion', backbone='resnet10t', reading='swapped', drop_rate=.3, lr=.002)
    recipe = first_recipe(p, data)
    net = recipe.make()
    assert net.join_physio.reading == net.frames.join_depth.reading == 'swapped'
    assert net.head[1].p == .3 and recipe.lr == .002
    p, data = opened(model='latent_product', mirror=False, drop_rate=.3, lr=.002)
    recipe = first_recipe(p, data)
    witnesses = recipe.make().witnesses.values()
    assert recipe.lr == .002 and {w.head[0].p for w in witnesses} == {.3}
    assert {getattr(w, 'mirror', None) for w in witnesses} == {None}
    usual = first_recipe(*opened(model='latent_product'))
    assert any(getattr(w, 'mirror', None) for w in usual.make().witnesses.values()) and usual.lr == 1e-3
    for k in ('separable', 'mixable'):
        net, usual_net = (first_recipe(*opened(model='psnet', **{k: v})).make().psnet for v in (False, True))
        groups = [(n.separable[0].groups, n.mix.groups) for n in (net, usual_net)]
        assert groups == [(1, 1) if k == 'separable' else (3, 3), (3, 1)]
    psnet = first_recipe(*opened(model='psnet', drop_rate=.3))
    assert psnet.make().head[1].p == .3 and psnet.lr == CASME3.presets['demo']['lr']


def test_a_norm_on_the_guide_and_a_head_for_each_modality(opened):
    own = {m: first_recipe(*opened(model=m, backbone='resnet10t')).make() for m in ('latent_emotion', 'latent_guided')}
    norms = {m: type(net.join_physio.norm_guide) for m, net in own.items()}
    assert norms == dict(latent_emotion=nn.LayerNorm, latent_guided=nn.Identity)
    assert not any(net.modality_heads for net in own.values())
    for m, word, kind in (('latent_emotion', 'off', nn.Identity), ('latent_guided', 'on', nn.LayerNorm)):
        p, data = opened(model=m, backbone='resnet10t', guide_norm=word, modality_heads=True, alone=True)
        net = first_recipe(p, data).make()
        assert type(net.join_physio.norm_guide) is type(net.frames.join_depth.norm_guide) is kind
        assert list(net.modality_heads) == ['color', 'depth', 'physio']
        alone = [s.recipe.make() for title, s in systems(p, data).items() if title.endswith(' alone')]
        assert len(alone) == 3 and not any(net.modality_heads for net in alone)
    both = 'latent_emotion_literal,latent_guided'
    p, data = opened(model=both, backbone='resnet10t', guide_norm='on', calibrate='inner')
    letter, ours = (s.recipe for s in list(systems(p, data).values())[:2])
    assert type(letter.make().join_physio.norm_guide) is nn.LayerNorm and not hasattr(letter, 'calibrate')
    assert type(ours.make().join_physio.norm_guide) is nn.LayerNorm and ours.calibrate == 'inner'
    assert not hasattr(systems(p, data)['hand features + logistic regression'].recipe, 'calibrate')


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Linear(8, 4), nn.Linear(4, 2)
    def forward(self, batch): return self.head(self.backbone(batch['physio'].flatten(1)))


def test_the_backbone_learns_at_its_own_rate(opened):
    x, y = np.random.default_rng(0).standard_normal((40, 2, 4)).astype('float32'), np.arange(40) % 2
    meta = pd.DataFrame(dict(subject=[f's{i % 4}' for i in range(40)], trial=[f't{i}' for i in range(40)], stimulus='a',
                             order=range(40), start_s=0., length_s=1., label=y))
    data, split = Prepared(dict(physio=x), meta, ['a', 'b'],
                           'simulated'), Split('loso', 'f', np.arange(30), np.arange(30, 40))
    def moved(**rate):
        torch.manual_seed(0)
        net = Two()
        before = {k: v.clone() for k, v in net.state_dict().items()}
        fit_module(net, data, split, Recipe(Two, epochs=2, lr=.01, **rate), 0)
        return {k: float((v - before[k]).abs().max()) for k, v in net.state_dict().items()}
    same, slow = moved(), moved(backbone_lr=1e-7)
    assert same['backbone.weight'] > .01 and slow['backbone.weight'] < 1e-4 and slow['head.weight'] > .01
    how = dict(model='latent_emotion', modalities='color', backbone='resnet10t', finetune=True)
    recipe = first_recipe(*opened(**how, backbone_lr=1e-5))
    assert recipe.backbone_lr == 1e-5 and any('backbone' in k for k, _ in recipe.make().named_parameters())


def test_a_run_says_which_weights_its_backbones_had(trees, opened, tmp_path, monkeypatch):
    "A stand-in for the hub, which gives other weights under the same name the second time."
    def hub_gives(seed):
        def given(name, in_chans, pretrained, img_size):
            torch.manual_seed(seed)
            return timm.create_model(name, in_chans=in_chans, num_classes=0)
        monkeypatch.setattr(backbones, '_create', given)
        monkeypatch.setattr(backbones, 'hub_reachable', lambda: True)
    how = dict(model='latent_emotion', modalities='color', backbone='resnet10t', weights='imagenet')
    hub_gives(1)
    r = run(CASME3, dict(how, root=str(trees['C']), epochs=1, seeds='0', folds='1', workers=1, out=str(tmp_path/'out')))
    said = json.loads((r.out/'summary.json').read_text())
    which = said['run']['backbones']['color']
    assert said['setting']['weights'] == 'imagenet' and which.startswith('imagenet resnet10t')
    t = report.provenance_table(r.provenance, r.fingerprint, r.run, r.seconds)
    assert t.set_index('what').value['weights, color'] == which and any(which in sentence for sentence in r.told)
    assert opened(**how)[1].info['backbones']['color'] == which
    hub_gives(2)
    assert opened(**how)[1].info['backbones']['color'] != which


def uneven(n=240, seed=0):
    "SIMULATED: ten people, two classes as frequent as 9 : 1, a small difference between their means."
    q = np.random.default_rng(seed)
    y = (q.random(n) < .1).astype(int)
    x = (q.standard_normal((n, 2, 4)) + .5*y[:, None, None]).astype('float32')
    meta = pd.DataFrame(dict(subject=[f's{i % 10}' for i in range(n)], trial=[f't{i}' for i in range(n)], stimulus='a',
                             order=range(n), start_s=0., length_s=1., label=y))
    trained = np.arange(n) % 10 < 8
    split = Split('loso', 'f', np.flatnonzero(trained), np.flatnonzero(~trained))
    return Prepared(dict(physio=x), meta, ['a', 'b'], 'simulated'), split

def with_rows(data, rows, value, label):
    "The set with other values and labels in these rows."
    x, y = data.x['physio'].copy(), data.y.copy()
    x[rows], y[rows] = value, label
    return Prepared(dict(physio=x), data.meta.assign(label=y), data.classes, data.provenance)

def log_loss(df): return -np.log(df[['p0', 'p1']].to_numpy()[np.arange(len(df)), df.y]).mean()


@pytest.mark.parametrize('how', ('prior', 'inner'))
def test_calibration_never_sees_the_test_part(how):
    data, split = uneven()
    recipe = calibrated(Recipe(Two, epochs=20, lr=.01), how)
    df, told = fit_of(recipe)(data, split, recipe, 0)
    known, rest = split.test[:20], split.test[20:]
    other, again = fit_of(recipe)(with_rows(data, rest, 1e6, 1), split, recipe, 0)
    assert again['calibration'] == told['calibration'] == correction_of(data, split, recipe, 0)
    columns = ['row', 'p0', 'p1', 'yhat']
    assert df[df.row.isin(known)][columns].equals(other[other.row.isin(known)][columns]), 'the same bits'
    plain = fit_fold(data, split, recipe, 0)[0]
    assert log_loss(df) < log_loss(plain) - .05, 'true frequencies cost less than even ones'
    assert (df.p1 < plain.p1).all() and df.p0.add(df.p1).sub(1).abs().max() < 1e-9


def test_what_was_never_calibrated_keeps_its_key():
    data, split = uneven()
    recipe = Recipe(Two, epochs=2)
    assert calibrated(recipe, 'none') is recipe and fit_of(recipe) is fit_fold
    assert 'calibrate' not in known_by(data, recipe)['recipe']
    keys = {fold_key(data, split, calibrated(recipe, how), 0) for how in ('none', 'prior', 'inner')}
    assert len(keys) == 3 and fold_key(data, split, recipe, 0) in keys


def test_what_cannot_be_calibrated_is_said():
    data, split = uneven()
    alone = Split('loso', 'f', np.flatnonzero(data.meta.subject == 's1'), split.test)
    with pytest.raises(EmonbError, match='two people in the training part'):
        fit_of(calibrated(Recipe(Two, epochs=1), 'inner'))(data, alone, calibrated(Recipe(Two, epochs=1), 'inner'), 0)
    recipe = calibrated(Recipe(Two, epochs=1, class_weights=False), 'prior')
    with pytest.raises(EmonbError, match='this system has none'): fit_of(recipe)(data, split, recipe, 0)


def test_settings_that_cannot_be_met_are_refused():
    with pytest.raises(EmonbError, match='window=onset'): PrepareSettings(baseline=True, window='clip')
    with pytest.raises(DataError, match='clip 7: no valid depth'): as_measured(np.zeros((2, 4, 4), np.uint16), 'clip 7')


def test_each_modality_alone(trees, tmp_path):
    given = dict(root=str(trees['C']), model='latent_product', modalities='color,physio', alone=True, epochs=1,
                 workers=1)
    r = run(CASME3, dict(given, out=str(tmp_path/'out')))
    names = [m.name for m in r.main.entries if m.kind == 'model']
    ours = 'product of modalities (ours)'
    assert names == [ours, f'{ours}, colour alone', f'{ours}, physiology alone']
    assert 'Options: alone True.' in r.told and set(names[1:]) <= set(r.main.predictions.model)
    assert f'{names[0]} − {names[1]}' in set(r.main.differences.comparison)


def test_a_modality_alone_reads_nothing_else(opened):
    rows = systems(*opened(model='latent_emotion', backbone='resnet10t', alone=True))
    words = dict(color='colour', depth='depth', physio='physiology')
    read = {m: rows[f'latent emotion, {word} alone'].recipe.inputs for m, word in words.items()}
    assert read == dict(color=('color_tokens', 'mask', 'apex'), depth=('depth_tokens', 'mask', 'apex'),
                        physio=('physio',))


def test_the_detector_that_was_asked_for_looks(opened, tmp_path):
    (tmp_path/'other.onnx').write_bytes(b'no network')
    with pytest.raises(EmonbError, match='cannot read this as a YuNet model'):
        opened(detector=str(tmp_path/'other.onnx'))


@pytest.mark.parametrize('given,word', [
    (dict(model='psnet', clean_depth=False), 'needs depth'), (dict(part='A', baseline='off'), 'needs physiology'),
    (dict(window='clip', baseline='on'), 'window=onset'), (dict(model='psnet', detector='yunet'), 'needs frames'),
    (dict(apex='annotated', frame_weighting='apex'), 'part=A'),
    (dict(apex='centre'), 'frame_weighting=apex or spotted'),
    (dict(model='latent_product', color_mode='frame'), 'needs model=latent_emotion'),
    (dict(fusion='concat', reading='swapped'), 'guided attention'),
    (dict(modalities='color', reading='swapped'), 'two modalities'),
    (dict(model='latent_emotion', mirror=False), 'needs model=latent_product'),
    (dict(model='features', drop_rate=.1), 'needs a network'),
    (dict(model='features', lr=.1), 'needs a network'), (dict(backbone_lr=.1), 'finetune=True'),
    (dict(model='features', separable=False), 'network on physiology'),
    (dict(modalities='color', mixable=False), 'on physiology'),
    (dict(apex='spotted', frame_weighting='apex'), 'part=A'),
    (dict(modality_heads=True), 'latent_emotion or latent_guided'),
    (dict(model='latent_guided', guide_norm='off'), 'whose guide is normed'),
    (dict(model='latent_guided', modalities='color', guide_norm='on'), 'two modalities'),
    (dict(guide_norm='on'), 'not normed'),
    (dict(model='latent_guided', modalities='color', modality_heads=True), 'two modalities'),
    (dict(model='features', calibrate='inner'), 'needs a network'),
    (dict(model='psnet_literal', calibrate='prior'), 'a network'),
    (dict(model='psnet', alone=True), 'two modalities'), (dict(drop_rate=1.), 'below 1'),
    (dict(detector='har'), 'haar')])
def test_an_option_without_a_use_stops_the_run(given, word, opened):
    with pytest.raises(EmonbError, match=word) as e: opened(load=False, **given)
    assert '\n' not in str(e.value)


def test_every_option_is_tried_above():
    tried = open(__file__, encoding='utf-8').read()
    assert all(f'{k}=' in tried for k in OPTIONS)
