"""Models from the outside: options in combination, odd shapes, bad input, files on disk, the hub out of reach."""
import inspect
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT

import emonb
from emonb.core import EmonbError, seed_everything
from emonb.data.recordings import Prepared
from emonb.data.recordings import batch as rows_of
from emonb.experiments import casme3, deap
from emonb.models import backbones, registry
from emonb.models.backbones import FrameBackbone, extract_tokens, prepare_depth
from emonb.models.face_net import AffectCNN, save_weights
from emonb.models.frame_fusion import FrameFusion, frame_weights, kinds
from emonb.models.guided_attention import Concatenation, GuidedAttention
from emonb.models.latent_emotion import MODALITIES, LatentEmotion
from emonb.models.psnet import PSNet, field_of_view, plan_strides, receptive_field, tokens_left
from emonb.models.registry import create_model, entry, list_models, load_model, register_model, save_model
from emonb.study.experiment import check_parameters, settled
from emonb.study.splits import make_splits
from emonb.study.train import Recipe, asdict_shallow, run_folds

SMALL = dict(backbone=None, token_shape=(9, 12), dim=16, num_heads=2, width=5, hidden=8, signals=('EDA', 'BVP'),
             rate=64, length=640)


def batch_of(n=5, T=4, P=9, D=12, S=2, L=640, seed=0):
    g = torch.Generator().manual_seed(seed)
    mask = torch.arange(T)[None] < torch.tensor([1, T, 2, 3, T])[:n, None]
    return dict(color_tokens=torch.randn(n, T, P, D, generator=g).half(),
                depth_tokens=torch.randn(n, T, P, D, generator=g).half(),
                physio=torch.randn(n, S, L, generator=g), mask=mask, apex=torch.tensor([0, 1, 9, -1, 2])[:n])


# ---- frame weights

@pytest.mark.parametrize('kind', kinds)
def test_weights_sum_to_one_on_real_frames_only(kind):
    g = torch.Generator().manual_seed(0)
    mask = torch.rand(200, 36, generator=g) > .6
    mask[:, 5] = True
    w = frame_weights(mask, kind, apex=torch.randint(-3, 50, (200,), generator=g))
    assert torch.allclose(w.sum(1), torch.ones(200), atol=1e-5) and (w[~mask] == 0).all() and (w >= 0).all()


def test_weights_do_not_depend_on_padding():
    short, long = torch.ones(1, 7, dtype=torch.bool), torch.arange(30)[None] < 7
    for kind in kinds:
        assert torch.allclose(frame_weights(short, kind), frame_weights(long, kind)[:, :7], atol=1e-6), kind


def test_a_wider_k_is_narrower_and_learned_trains():
    mask = torch.ones(1, 25, dtype=torch.bool)
    peaks = [float(frame_weights(mask, k).max())
             for k in ('uniform', 'normal1', 'normal', 'normal2', 'normal3', 'apex')]
    assert peaks == sorted(peaks) and len(set(peaks)) == 6 and peaks[-1] == 1
    layer = FrameFusion('learned')
    layer(torch.randn(2, 25, 3), mask.expand(2, -1)).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad) for p in layer.parameters())


def test_learned_weights_of_a_single_frame_have_finite_gradients():
    layer = FrameFusion('learned')
    layer(torch.randn(1, 4, 3), torch.tensor([[True, False, False, False]])).sum().backward()
    assert all(torch.isfinite(p.grad) for p in layer.parameters())


# ---- PSNet

@pytest.mark.parametrize('seconds,rate',
                         [(1, 128), (2, 64), (6, 200), (6, 100), (10, 32), (30, 200), (60, 64), (60, 4), (120, 500)])
def test_planned_strides_see_enough_for_any_window(seconds, rate):
    length = int(seconds * rate)
    strides = plan_strides(length, rate)
    net = PSNet(in_chans=2, rate=rate, length=length, dim=8, width=5, hidden=8)
    assert net.strides == strides
    tokens = net.forward_features(torch.randn(1, 2, length))
    assert tokens.shape[1] == tokens_left(strides, length) >= 8
    assert receptive_field(net, 'separable') >= .95 * min(rate, length) and receptive_field(net) >= .7 * length


def test_no_signal_reaches_another_before_the_mix():
    net, x = PSNet(in_chans=4, rate=64, length=640, dim=16, width=6,
                   hidden=8), torch.randn(2, 4, 640, requires_grad=True)
    out = net.forward_separable(x).unflatten(1, (4, -1))
    for s in range(4):
        reach = torch.autograd.grad(out[:, s].sum(), x, retain_graph=True)[0].abs().sum((0, 2)) > 0
        assert reach.tolist() == [i == s for i in range(4)]


def test_given_strides_and_kernels_are_used():
    net = PSNet(in_chans=1, length=300, strides=(1, 2, 1, 1, 1), kernels=(3, 5), stem_kernel=5, dim=8, width=5,
                hidden=8)
    assert net.field == field_of_view((1, 2, 1, 1, 1), 5, 5)
    assert receptive_field(net) <= net.field['end'] == 1 + 4 + 4*2*4


def test_psnet_refuses_what_it_was_not_made_for():
    with pytest.raises(EmonbError, match='3 signals'): PSNet(length=1200)(torch.zeros(1, 2, 1200))
    with pytest.raises(EmonbError, match='too short'): PSNet(length=10)
    with pytest.raises(EmonbError, match='odd'): PSNet(in_chans=1, kernels=(2, 4))


# ---- guided attention

@pytest.mark.parametrize('reading,aligned',
                         [('guided', 0), ('swapped', 0), ('guide_qk', 0), ('concat', False), ('concat', True)])
@pytest.mark.parametrize('n,m', [(9, 9), (16, 25), (25, 8), (8, 40)])
def test_any_number_of_tokens(reading, aligned, n, m):
    module = Concatenation(16, aligned) if reading == 'concat' else GuidedAttention(16, 2, reading)
    x, guide = torch.randn(3, n, 16), torch.randn(3, m, 16)
    y, weights = module(x, guide, return_attention=True)
    assert y.shape == (3, m if reading == 'swapped' else n, 16)
    if weights is not None:
        assert torch.allclose(module(x, guide), y, atol=1e-5)
        assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_too_short_a_guide_is_refused_unless_asked_for():
    x = torch.randn(1, 16, 8)
    with pytest.raises(EmonbError, match='8 are needed'): GuidedAttention(8)(x, x[:, :7])
    assert GuidedAttention(8, min_keys=1)(x, x[:, :1]).shape == x.shape


# ---- backbones

def test_depth_ignores_what_was_not_measured():
    x = torch.rand(3, 2, 8, 8) * 10 + 500
    x[:, 1] = (torch.rand(3, 8, 8) > .3).float()
    other = x.clone()
    other[:, 0][other[:, 1] == 0] = -1e4
    for mode in ('onset', 'frame'): assert torch.equal(prepare_depth(x, mode), prepare_depth(other, mode))


def test_tokens_are_the_same_bits_and_come_from_a_memory_map(tmp_path):
    rng = np.random.default_rng(0)
    frames, mask = rng.integers(0, 255, (3, 5, 3, 96, 96),
                                dtype=np.uint8), np.arange(5)[None] < np.array([[5], [1], [3]])
    np.save(tmp_path/'f.npy', frames)
    net = FrameBackbone('mobilenetv3_small_050', weights='random')
    a = extract_tokens(net, np.load(tmp_path/'f.npy', mmap_mode='r'), mask, 'color',
                       'both' if net.in_chans == 6 else 'onset', batch=4, show=False)
    b = extract_tokens(FrameBackbone('mobilenetv3_small_050', weights='random'), frames, mask, 'color', 'onset',
                       batch=4, show=False)
    assert a.tobytes() == b.tobytes() and a.dtype == np.float16 and (a[~mask] == 0).all() and (a[mask] != 0).any()


def test_unknown_backbone_names_close_ones():
    with pytest.raises(EmonbError, match='resnet18'): FrameBackbone('resnet_18', weights='random')


def test_imagenet_weights_that_cannot_be_had_stop(monkeypatch, tmp_path):
    monkeypatch.setattr(backbones.huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(backbones.huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path))
    with pytest.raises(EmonbError, match='could not be had.*weights=random'):
        FrameBackbone('mobilenetv3_small_050', weights='imagenet')
    assert FrameBackbone('mobilenetv3_small_050', weights='auto').weights == 'random'


def test_no_hub_costs_seconds_not_minutes(tmp_path):
    "In a fresh process whose hub does not answer, or whose proxy refuses, weights='auto' ends as random and soon."
    code = ("import time; t = time.time()\nfrom emonb.models.backbones import FrameBackbone, "
            "hub_reachable\nt = time.time()\n"
            "n, m = FrameBackbone('resnet18', weights='auto'), FrameBackbone('resnet18', in_chans=1)\n"
            "print(n.weights, m.weights, hub_reachable(), time.time() - t)")
    env = {**os.environ, 'HF_ENDPOINT': 'http://10.255.255.1:9', 'HF_HOME': str(tmp_path), 'HF_HUB_OFFLINE': '0',
           'http_proxy': '', 'HTTP_PROXY': ''}
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env, timeout=120,
                         cwd=Path(backbones.__file__).parents[2])
    assert out.returncode == 0, out.stderr
    first, second, reachable, seconds = out.stdout.split()[-4:]
    assert (first, second, reachable) == ('random', 'random', 'False') and float(seconds) < 30


# ---- the assembled model

SUBSETS = [s for r in (1, 2, 3) for s in itertools.combinations(MODALITIES, r)]


@pytest.mark.parametrize('modalities', SUBSETS, ids='+'.join)
@pytest.mark.parametrize('fusion,reading',
                         [('guided', 'guided'), ('guided', 'swapped'), ('guided', 'guide_qk'), ('concat', 'guided')])
def test_every_combination_runs_and_trains(modalities, fusion, reading):
    torch.manual_seed(0)
    model, batch = LatentEmotion(num_classes=3, modalities=modalities, fusion=fusion, reading=reading,
                                 **SMALL), batch_of()
    logits, attention = model(batch, return_attention=True)
    assert logits.shape == (5, 3) and torch.allclose(model(batch), logits, atol=1e-5)
    assert set(attention) == (set() if fusion == 'concat'
                              else {k for k, need in (('depth', {'color', 'depth'}), ('physio', {'physio'}))
                                    if need <= set(modalities)} - ({'physio'} if len(modalities) == 1 else set()))
    F.cross_entropy(logits, torch.arange(5) % 3).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize('weighting', kinds)
def test_a_clip_alone_gives_the_same_logits(weighting):
    torch.manual_seed(0)
    model, batch = LatentEmotion(num_classes=3, frame_weighting=weighting, **SMALL).eval(), batch_of()
    with torch.no_grad():
        together = model(batch)
        for i in range(5):
            n = int(batch['mask'][i].sum())
            alone = {k: (v[i:i+1, :n] if k in ('color_tokens', 'depth_tokens', 'mask') else v[i:i+1])
                     for k, v in batch.items()}
            assert torch.allclose(model(alone)[0], together[i], atol=1e-4)


def test_same_seed_same_bits_after_training():
    def trained():
        torch.manual_seed(3)
        model, batch = LatentEmotion(num_classes=3, drop_rate=.2, **SMALL), batch_of()
        model.fit_scale(batch)
        optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
        for _ in range(3):
            F.cross_entropy(model(batch), torch.arange(5) % 3).backward()
            optimiser.step()
            optimiser.zero_grad()
        return model.eval()(batch)
    assert torch.equal(trained(), trained())


def test_saved_config_is_plain_json_and_loads(tmp_path):
    model = LatentEmotion(num_classes=3, modalities='color,physio', frame_weighting='spotted', **SMALL)
    model.fit_scale(batch_of())
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path/'config.json').read_text())['frame_weighting'] == 'spotted'
    assert (tmp_path/'model.safetensors').is_file()
    again = LatentEmotion.from_pretrained(tmp_path)
    assert torch.equal(again.eval()(batch_of()), model.eval()(batch_of()))


@pytest.mark.parametrize('change,says', [(dict(modalities='colour'), 'accepted'), (dict(fusion='add'), 'accepted'),
                                         (dict(reading='x'), 'accepted'),
                                         (dict(frame_weighting='gauss'), 'accepted'), (dict(modalities=''), 'accepted'),
                                         (dict(num_heads=3), 'multiple')])
def test_unknown_values_name_what_is_accepted(change, says):
    with pytest.raises(EmonbError, match=says): LatentEmotion(num_classes=3, **{**SMALL, **change})


@pytest.mark.parametrize('drop,says',
                         [('mask', 'no mask'), ('physio', 'no physio'), ('color_tokens', 'neither color_tokens')])
def test_a_batch_without_a_needed_part_is_named(drop, says):
    with pytest.raises(EmonbError, match=says):
        LatentEmotion(num_classes=3, **SMALL)({k: v for k, v in batch_of().items() if k != drop})


def test_frozen_backbones_stay_and_tuned_ones_move():
    g = torch.Generator().manual_seed(0)
    batch = dict(color=torch.randint(0, 255, (2, 2, 3, 96, 96), generator=g, dtype=torch.uint8),
                 mask=torch.ones(2, 2, dtype=torch.bool))
    for freeze in (True, False):
        torch.manual_seed(0)
        model = LatentEmotion(num_classes=2, modalities=('color',), backbone='mobilenetv3_small_050', weights='random',
                              freeze=freeze, dim=16, img_size=96).train()
        before = model.frames.backbones['color'].weight_hash
        optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], .1)
        F.cross_entropy(model(batch), torch.tensor([0, 1])).backward()
        optimiser.step()
        assert (model.frames.backbones['color'].weight_hash == before) == freeze


# ---- systems by name: one test for all

TRANSFORMER = dict(in_chans=4, length=64, dim=8, num_layers=1, num_heads=2, ff_dim=16, out_dim=8)
PHYSIO = dict(dim=16, width=5, hidden=8, rate=64., length=640)
ARGUMENTS = dict(    # small ones, for the arrays below
    latent_emotion=dict(num_classes=2, token_shape=(9, 12), num_heads=2, signals=('EDA', 'BVP'), **PHYSIO),
    latent_guided=dict(num_classes=2, num_heads=2, signals=('EDA', 'BVP'), **PHYSIO),
    latent_product=dict(num_classes=2, dim=16, course_shape=(6, 4)),
    psnet=dict(num_classes=2, in_chans=2, **PHYSIO),
    psnet_literal=dict(num_classes=2, in_chans=2, rate=64., length=640),
    latent_emotion_literal=dict(num_classes=2, token_shape=(9, 12), signals=('EDA', 'BVP'), rate=64., length=640),
    eeg_transformer=dict(num_classes=2, **TRANSFORMER),
    face_net=dict(num_classes=2, frames=2, out_dim=8, embed_chans=8, hidden=16),
    eeg_power=dict(num_classes=2, **TRANSFORMER),
    deep_fusion=dict(num_classes=2, frames=2, **TRANSFORMER),
    deep_fusion_literal=dict(num_classes=2, frames=2, in_chans=4, length=64),
    deep_fusion_power=dict(num_classes=2, frames=2, **TRANSFORMER),
    face_kept=dict(num_classes=2, frames=2, out_dim=8),
    deep_fusion_joint=dict(num_classes=2, frames=2, **TRANSFORMER),
    deep_product=dict(drop_rate=0., reader_drop=(0., 0.), num_classes=2, frames=2, **TRANSFORMER),
    cnn_attention=dict(drop_rate=0., num_classes=2, eeg_chans=4, length=64, left=(0, 1), right=(2, 3), filters=4),
    deepvanet=dict(drop_rate=0., num_classes=2, in_chans=4, length=64, hidden=8),
    ststnet=dict(num_classes=2), off_apexnet=dict(num_classes=2, hidden=16),
    flow_tokens=dict(num_classes=2, dim=16),
    cnn3d=dict(num_classes=2, electrodes=('F3', 'F4', 'P3', 'P4'), length=64, width=2, hidden=8, drop_rate=0.),
    ccnn=dict(num_classes=2, electrodes=('F3', 'F4'), bands=2, width=4, hidden=8, drop_rate=0.),
    multispectral_cnn=dict(num_classes=2, electrodes=('F3', 'F4', 'P3', 'P4'), length=64, frame=32, width=4, hidden=16,
                           out_dim=8),
    dgcnn=dict(num_classes=2, electrodes=('F3', 'F4'), bands=2, width=8, hidden=16),
    eegnet=dict(num_classes=2, eeg_chans=4, length=64, kernel=16, bounds=(1., 10.), drop_rate=0.),
    shallow_convnet=dict(num_classes=2, eeg_chans=4, length=64, width=8, pool=20, drop_rate=0.))


def unseen(folder) -> tuple[dict, dict]:
    "Arguments of systems that nothing here trains: a checkout with nothing in it, a network of random weights."
    for name in ('emonet/models', 'pretrained'): (folder/name).mkdir(parents=True)
    (folder/'pretrained'/'emonet_8.pth').write_bytes(b'')
    return dict(emonet=str(folder)), dict(face_weights=str(save_weights(AffectCNN(), folder, 'simulated', {})))


UNSEEN = tempfile.TemporaryDirectory()
EMONET, OWN = unseen(Path(UNSEEN.name))
ARRAYS = dict(    # they take arrays by name
    emonet_v1=EMONET, emonet_v2=EMONET, face_zero_shot_v1=OWN, face_zero_shot_v2=OWN,
    cnn3d_ensemble=dict(electrodes=('F3', 'F4', 'P3', 'P4'), length=64, hidden=8, epochs=1, inner=2))
NETWORKS = [n for n in registry.CHAPTERS if n in ARGUMENTS]
ESTIMATORS = [n for n in registry.CHAPTERS if registry.CHAPTERS[n] == 'baselines'] + ['tangent_space']
WINDOWS = dict(tangent_space=dict(in_chans=4, eeg_chans=4))     # an estimator of windows instead of features


def or_skip(name):
    "A system that stands on an optional library is tested where that is installed."
    if name == 'tangent_space': pytest.importorskip('pyriemann', reason='tangent_space needs the extra riemann')


@pytest.fixture(scope='module')
def tiny():
    "SIMULATED: twelve samples of three people with every array that a system reads; noise, but for the features."
    rng, n, T = np.random.default_rng(0), 12, 4
    y = np.arange(n) // 2 % 2
    def normal(*shape, dtype=np.float32): return rng.normal(size=(n, *shape)).astype(dtype)
    x = dict(color_tokens=normal(T, 9, 12, dtype=np.float16), depth_tokens=normal(T, 9, 12, dtype=np.float16),
             physio=normal(2, 640),
             mask=np.arange(T)[None] < rng.integers(2, T + 1, n)[:, None], apex=rng.integers(0, 2, n),
             bio=normal(4, 64), face=rng.integers(0, 256, (n, 2, 3, 64, 64), dtype=np.uint8),
             face_mask=np.ones((n, 2), bool), features=normal(5) + y[:, None].astype(np.float32))
    x |= dict(flow_tokens=normal(T, 16, 147), difference_tokens=normal(T, 16, 49), change_tokens=normal(T, 16, 49),
              physio_courses=normal(6, 4))
    x |= dict(emonet_affect=normal(2, 2), face_affect=normal(2, 2))
    x |= dict(face_maps=normal(2, 128, 6, 6, dtype=np.float16), face_pixels=normal(256))
    x['flow'] = rng.integers(0, 256, (n, 3, 28, 28), dtype=np.uint8)
    meta = pd.DataFrame(dict(subject=[f's{i // 4}' for i in range(n)], trial=[f't{i}' for i in range(n)], stimulus='v',
                             order=np.arange(n), start_s=np.arange(n)*6., length_s=6., label=y))
    return Prepared(x, meta, ['low', 'high'], 'simulated', dict(name='tiny', fingerprint='tiny'))


def recipe_of(name):
    system, arguments = entry(name), {**ARGUMENTS, **ARRAYS}.get(name, {})
    return Recipe(system.maker(**arguments), inputs=system.reads(**arguments),
                  **{**system.recipe, 'loss': 'ce', 'epochs': 2, 'min_steps': 0})


def made(name, tiny, seed=0):
    seed_everything(seed)
    model = create_model(name, **ARGUMENTS[name])
    return model, rows_of(tiny, range(8), entry(name).reads(**ARGUMENTS[name])), torch.from_numpy(tiny.y[:8])


def made_with(name, arguments, seed=0):
    seed_everything(seed)
    return create_model(name, **arguments)


def test_the_table_is_what_the_chapters_register():
    modules = [p.stem for p in (ROOT/'emonb'/'models').glob('[!_]*.py')]
    found = {s.name: m for m in modules
             for s in getattr(__import__(f'emonb.models.{m}', fromlist=['x']), 'SYSTEMS', ())}
    assert found == registry.CHAPTERS and list_models() == sorted({*found, *registry._systems})
    assert {*NETWORKS, *ESTIMATORS, *ARRAYS} == set(found), 'every system has small arguments here, or is an estimator'


@pytest.mark.parametrize('name', registry.CHAPTERS)
def test_one_vocabulary(name):
    system = entry(name)
    assert all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(system.make).parameters.values())
    assert not set(system.arguments) & {'depth', 'layers', 'n_layers', 'heads', 'n_heads', 'classes', 'n_classes',
                                        'num_targets', 'dropout', 'channels'}
    assert system.kind in registry.KINDS and system.source and system.reads()
    assert set(system.preparations) <= {*system.reads(), 'face_maps'}
    assert (name in NETWORKS) == ('num_classes' in system.arguments)


@pytest.mark.parametrize('name', NETWORKS)
def test_a_network_by_name(name, tiny, tmp_path):
    """What every system holds.

    Shape, halves that make the whole, a gradient for every parameter, one batch by heart, same seed same numbers, saved
    and loaded."""
    model, batch, y = made(name, tiny)
    model.train()
    logits = model(batch)
    given = registry.given(entry(name).takes, batch)
    assert logits.shape == (8, 2) and torch.equal(model.forward_head(model.forward_features(*given)), logits)
    F.cross_entropy(logits, y).backward()
    dead = [k for k, p in model.named_parameters()
            if p.requires_grad and (p.grad is None or not p.grad.isfinite().all() or not p.grad.any())]
    # a softmax does not see the keys' bias (chapter 33)
    assert all(k.endswith('.k.bias') for k in dead), dead
    again, *_ = made(name, tiny)
    other, *_ = made(name, tiny, seed=1)
    assert torch.equal(again(batch), logits) and not torch.equal(other(batch), logits)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 3e-3)
    for _ in range(60):
        loss = F.cross_entropy(model(batch), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < .1
    loaded = load_model(save_model(model, tmp_path)).eval()
    assert torch.equal(loaded(batch), model.eval()(batch)) and loaded.made_by == model.made_by


@pytest.mark.parametrize('name', ('latent_emotion', 'latent_guided'))
def test_a_head_for_each_modality(name, tiny, tmp_path):
    "The loss is each head's own, the decision their sum, and without further heads nothing is otherwise."
    arguments = ARGUMENTS[name]
    batch, y = rows_of(tiny, range(8), entry(name).reads()), torch.from_numpy(tiny.y[:8])
    plain, heads = (made_with(name, dict(arguments, modality_heads=k)) for k in (False, True))
    shared = heads.state_dict()
    assert all(torch.equal(v, shared[k]) for k, v in plain.state_dict().items()), 'the further heads are made last'
    assert torch.equal(plain.loss(batch, y, F.cross_entropy), F.cross_entropy(plain(batch), y))
    joint = heads.forward_head(heads.forward_features(batch))
    assert torch.equal(joint, plain(batch)) and not torch.allclose(joint, heads(batch))
    logits, maps = heads(batch, return_attention=True)
    assert torch.allclose(logits, heads(batch), atol=1e-5) and set(maps) == {'depth', 'physio'}
    heads.loss(batch, y, F.cross_entropy).backward()
    assert all(p.grad is not None and p.grad.any() for p in heads.modality_heads.parameters())
    loaded = load_model(save_model(heads, tmp_path)).eval()
    assert torch.equal(loaded(batch), heads.eval()(batch))


@pytest.mark.parametrize('name', ESTIMATORS)
def test_an_estimator_by_name(name, tiny, tmp_path):
    "It learns what is there, gives a class a row, the same twice, and is the same saved and loaded."
    or_skip(name)
    x, y, given = tiny.x['bio'].reshape(len(tiny),
                                        -1) if name in WINDOWS else tiny.x['features'], tiny.y, WINDOWS.get(name, {})
    model = create_model(name, **given).fit(x, y)
    assert (model.predict(x) == y).mean() > .7
    assert (create_model(name, **given).fit(x, y).predict(x) == model.predict(x)).all()
    loaded = load_model(save_model(model, tmp_path))
    for method in ('predict_proba', 'decision_function', 'predict'):
        if hasattr(model, method): assert np.array_equal(getattr(loaded, method)(x), getattr(model, method)(x)), method
    assert type(loaded) is type(model) and loaded.made_by == model.made_by


@pytest.mark.parametrize('name', ARRAYS)
def test_an_estimator_of_arrays_by_name(name, tiny):
    "It is told trials and classes, gives scores of both, the same twice; in worker processes too."
    data, recipe = replace(tiny, classes=['low valence', 'high valence']), recipe_of(name)
    splits = make_splits(data.meta, 'loso')
    once, again = (run_folds(data, splits, recipe, workers=w) for w in (1, 2))
    assert len(once) == len(data) and once.equals(again) and np.allclose(once.p0 + once.p1, 1) and once.p1.nunique() > 1


def test_without_pyriemann_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyriemann.estimation', None)
    with pytest.raises(EmonbError, match=r"pip install 'emonb\[riemann\]'"): create_model('tangent_space')


THEIRS = dict(    # names in braindecode → here
    eegnet={'conv_temporal': 'time', 'bnorm_temporal': 'norm1',
            'conv_spatial.parametrizations.weight.original': 'space.weight',
            'bnorm_1': 'norm2', 'conv_separable_depth': 'late', 'conv_separable_point': 'mix', 'bnorm_2': 'norm3',
            'final_layer.linearconstraint.parametrizations.weight.original': 'head.weight',
            'final_layer.linearconstraint': 'head'},
    shallow_convnet={'conv_time_spat.conv_time': 'time', 'conv_time_spat.conv_spat': 'space', 'bnorm': 'norm',
                     'final_layer.conv_classifier': 'head'})
AS_THEIRS = dict(eegnet=dict(width=3, multiplier=2, out_chans=5, kernel=16, late_kernel=6, pools=(2, 4)),
                 shallow_convnet=dict(kernel=13, pool=20, stride=7))


@pytest.mark.parametrize('name', THEIRS)
def test_the_networks_of_braindecode(name):
    "The same weights and windows, the same logits; with the statistics of the batch too (tests/fixtures/eeg_nets.py)."
    kept = np.load(ROOT/'tests'/'fixtures'/'eeg_nets.npz')
    size = dict(width=kept['shallow_convnet/bnorm.weight'].size) if name == 'shallow_convnet' else {}
    net = create_model(name, num_classes=2, eeg_chans=4, length=64, drop_rate=0., **AS_THEIRS[name], **size)
    own = net.state_dict()
    for key in (k for k in kept if k.startswith(f'{name}/')):
        theirs = next(t for t in THEIRS[name] if key.startswith(f'{name}/{t}'))
        ours = THEIRS[name][theirs] + key.removeprefix(f'{name}/{theirs}')
        if ours == 'time.bias': continue
        value = torch.from_numpy(kept[key])
        if name == 'shallow_convnet' and value.ndim == 4: value = value.transpose(2, 3)
        assert value.numel() == own[ours].numel(), (key, ours)
        own[ours] = value.reshape(own[ours].shape)
    net.load_state_dict(own)
    x = torch.from_numpy(kept['x'])
    with torch.no_grad():
        assert torch.allclose(net.eval()(x), torch.from_numpy(kept[f'{name}: kept']), atol=1e-5)
        assert torch.allclose(net.train()(x), torch.from_numpy(kept[f'{name}: batch']), atol=1e-5)


@pytest.mark.parametrize('name', registry.CHAPTERS)
def test_a_recipe_by_name_can_be_sent_to_another_process(name):
    or_skip(name)
    recipe = recipe_of(name)
    there = pickle.loads(pickle.dumps(recipe))
    assert there.describe() == recipe.describe() and ' at 0x' not in str(recipe.describe())
    assert type(there.make()) is type(recipe.make())


@pytest.mark.parametrize('name', ['eeg_transformer', 'features'])
def test_systems_train_in_worker_processes(name, tiny):
    splits = make_splits(tiny.meta, 'loso')
    here, there = (run_folds(tiny, splits, recipe_of(name), workers=w) for w in (1, 2))
    assert len(here) == len(tiny) and here.equals(there)


def test_the_tables_of_the_papers_are_made_of_the_same_systems(tiny):
    "What the experiments build and what stands under the name agree: weights, arrays and recipe."
    data = SimpleNamespace(x=tiny.x, classes=tiny.classes, info=dict(signals=['EDA', 'BVP'], rate=64.))
    def first(e, systems, given, **more):
        p = settled(e, check_parameters(e, given), 'real')
        return next(iter(systems(p.but(device='cpu', **more), data).values())).recipe
    theirs = first(casme3.CASME3, casme3.systems, {}, model='psnet', modalities=('physio',), dim=16, width=5, hidden=8)
    seed_everything(0)
    a = theirs.make()
    seed_everything(0)
    b = create_model('psnet', **ARGUMENTS['psnet'])
    assert a.state_dict().keys() == b.state_dict().keys()
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert theirs.inputs == entry('psnet').reads() and asdict_shallow(theirs).items() >= entry('psnet').recipe.items()
    theirs = first(casme3.CASME3, casme3.systems, {}, model='latent_emotion', modalities=('color', 'physio'))
    assert theirs.inputs == entry('latent_emotion').reads(modalities=('color', 'physio'))
    assert asdict_shallow(theirs).items() >= entry('latent_emotion').recipe.items()
    for freeze in (False, True):
        theirs = first(deap.DEAP, deap.systems, dict(alike=False), model='deep_fusion', modalities=('bio', 'face'),
                       face_cnn='frozen' if freeze else 'trained', face_weights='', weights='random')
        assert theirs.inputs == entry('deep_fusion').reads(freeze_cnn=freeze)
        assert asdict_shallow(theirs).items() >= entry('deep_fusion').recipe.items()


def test_a_table_of_names_loads_no_torch():
    code = "import sys, emonb; print(emonb.list_models('*eeg*'), 'torch' in sys.modules, 'sklearn' in sys.modules)"
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert out.stdout.strip() == "['eeg_power', 'eeg_transformer', 'eegnet'] False False", out.stderr
    assert emonb.create_model is create_model and not hasattr(emonb, 'create_modal')


KEYS = """
from emonb.code_key import code_key
from emonb.models.registry import entry
print(*(code_key(entry(n).maker(num_classes=2)) for n in ('psnet', 'eeg_transformer')))
"""


def test_the_code_key_follows_the_constructor_and_not_the_registration(tmp_path):
    """In copies of the package.

    Another recipe or citation leaves the key of the code as it is, another line of the network changes it."""
    def keys(module, old, new):
        shutil.rmtree(tmp_path/'emonb', ignore_errors=True)
        shutil.copytree(ROOT/'emonb', tmp_path/'emonb', ignore=shutil.ignore_patterns('__pycache__'))
        path = tmp_path/'emonb'/'models'/module
        text = path.read_text(encoding='utf-8')
        assert old in text
        path.write_text(text.replace(old, new), encoding='utf-8')
        env = dict(os.environ, PYTHONPATH=str(tmp_path))
        out = subprocess.run([sys.executable, '-c', KEYS], capture_output=True, text=True, cwd=tmp_path, env=env,
                             timeout=300)
        assert out.returncode == 0, out.stderr
        return out.stdout.split()
    as_is = keys('latent_emotion.py', 'class LatentEmotion', 'class LatentEmotion')
    assert keys('latent_emotion.py', 'epochs=40', 'epochs=41') == as_is
    psnet, transformer = keys('psnet.py', 'self.drop(tokens.mean(1))', 'self.drop(tokens.amax(1))')
    assert psnet != as_is[0] and transformer == as_is[1]
    assert keys('eeg_transformer.py', 'return self.classifier(features)',
                'return self.classifier(2*features)')[1] != as_is[1]


def test_color_mode_survives_saving(monkeypatch, tmp_path, tiny):
    """With ImageNet weights 'auto' means the frame.

    Loaded from a file the model must not take its weights for random ones."""
    real = backbones._with_weights
    monkeypatch.setattr(backbones, '_with_weights', lambda name, chans, weights,
                        *a: (real(name, chans, 'random', *a)[0], 'imagenet' if weights == 'auto' else 'random'))
    model = create_model('latent_emotion', num_classes=2, modalities=('color',), backbone='mobilenetv3_small_050',
                         dim=8, num_heads=2, img_size=96)
    assert model.frames.modes == dict(color='frame')
    model.save_pretrained(tmp_path/'hub')
    for again in (load_model(save_model(model, tmp_path/'own')), LatentEmotion.from_pretrained(tmp_path/'hub')):
        assert again.frames.modes == dict(color='frame')


# ---- a system of one's own

MINE = """
import torch
from emonb import register_model

@register_model('a_mean', inputs=('physio',), takes=('physio',), recipe=dict(epochs=2), source='a test')
class Mean(torch.nn.Module):
    def __init__(self, *, num_classes, in_chans=2):
        super().__init__()
        self.head = torch.nn.Linear(in_chans, num_classes)
    def forward(self, x): return self.head(x.mean(-1))

def unsaid(*, num_classes=2): return Mean(num_classes=num_classes)
def wrong(): return 'a model'
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, '_systems', dict(registry._systems))
    (tmp_path/'my_own_net.py').write_text(MINE)
    (tmp_path/'my_broken_net.py').write_text('import no_such_library')
    (tmp_path/'my_failing_net.py').write_text('1/0')
    yield tmp_path
    sys.modules.pop('my_own_net', None)


def test_a_system_of_ones_own(own, tiny):
    system = entry('my_own_net:Mean')
    assert system.name == 'a_mean' and system.reads() == ('physio',) and 'a_mean' in list_models('a_*')
    model = create_model('my_own_net:Mean', num_classes=2)
    assert model(rows_of(tiny, range(3), ('physio',))).shape == (3, 2)
    assert load_model(save_model(model, own/'kept')).made_by['name'] == 'my_own_net:Mean'
    recipe = Recipe(system.maker(num_classes=2), inputs=system.reads(), **system.recipe)
    splits = make_splits(tiny.meta, 'loso')
    assert run_folds(tiny, splits, recipe, workers=2).equals(run_folds(tiny, splits, recipe))
    assert create_model('my_own_net:unsaid', num_classes=3).head.out_features == 3


@pytest.mark.parametrize('call,says', [
    (lambda: create_model('psnett', num_classes=2), "did you mean 'psnet'"),
    (lambda: create_model('psnet', n_classes=2), "did you mean 'num_classes'"),
    (lambda: create_model('psnet'), 'give num_classes='),
    (lambda: entry('my_own_nett:make'), 'my_own_nett.py was looked for.*my_own_net.py'),
    (lambda: entry('my_own_net:make'), "make.*accepted: Mean, unsaid, wrong"),
    (lambda: entry('my_own_net:'), 'accepted: Mean'),
    (lambda: entry('my_broken_net:make'), 'imports no_such_library'),
    (lambda: entry('my_failing_net:make'), 'ZeroDivisionError'),
    (lambda: create_model('my_own_net:wrong'), 'gave str'),
    (lambda: entry('my_own_net:unsaid').reads(), 'does not say which arrays'),
    (lambda: list_models(kind='papers'), "did you mean 'paper'"),
    (lambda: register_model('psnet', dict, inputs=()), 'taken'),
    (lambda: save_model(torch.nn.Linear(1, 1), 'x'), 'create_model'), (lambda: load_model('nowhere'), 'model.json')])
def test_what_is_not_there_is_told_in_a_sentence(own, call, says):
    with pytest.raises(EmonbError, match=says) as e: call()
    assert '\n' not in str(e.value)


def test_a_batch_without_what_is_read_is_named():
    with pytest.raises(EmonbError, match='no bio; it holds physio'):
        create_model('eeg_transformer', **ARGUMENTS['eeg_transformer'])(dict(physio=torch.zeros(1)))
