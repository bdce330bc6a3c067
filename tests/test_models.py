"""Models from the outside: options in combination, odd shapes, bad input, files on disk, the hub out of reach."""
import itertools, json, os, subprocess, sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from emonb.core import EmonbError
from emonb.models import backbones
from emonb.models.backbones import FrameBackbone, extract_tokens, prepare_depth
from emonb.models.frame_fusion import FrameFusion, frame_weights, kinds
from emonb.models.guided_attention import Concatenation, GuidedAttention
from emonb.models.latent_emotion import LatentEmotion, MODALITIES
from emonb.models.psnet import PSNet, field_of_view, plan_strides, receptive_field, tokens_left

SMALL = dict(backbone=None, token_shape=(9, 12), dim=16, num_heads=2, width=5, hidden=8, signals=('EDA', 'BVP'), rate=64, length=640)


def batch_of(n=5, T=4, P=9, D=12, S=2, L=640, seed=0):
    g = torch.Generator().manual_seed(seed)
    mask = torch.arange(T)[None] < torch.tensor([1, T, 2, 3, T])[:n, None]
    return dict(color_tokens=torch.randn(n, T, P, D, generator=g).half(), depth_tokens=torch.randn(n, T, P, D, generator=g).half(),
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
    for kind in kinds: assert torch.allclose(frame_weights(short, kind), frame_weights(long, kind)[:, :7], atol=1e-6), kind


def test_a_wider_k_is_narrower_and_learned_trains():
    mask = torch.ones(1, 25, dtype=torch.bool)
    peaks = [float(frame_weights(mask, k).max()) for k in ('uniform', 'normal1', 'normal', 'normal2', 'normal3', 'apex')]
    assert peaks == sorted(peaks) and len(set(peaks)) == 6 and peaks[-1] == 1
    layer = FrameFusion('learned')
    layer(torch.randn(2, 25, 3), mask.expand(2, -1)).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad) for p in layer.parameters())


def test_learned_weights_of_a_single_frame_have_finite_gradients():
    layer = FrameFusion('learned')
    layer(torch.randn(1, 4, 3), torch.tensor([[True, False, False, False]])).sum().backward()
    assert all(torch.isfinite(p.grad) for p in layer.parameters())


# ---- PSNet

@pytest.mark.parametrize('seconds,rate', [(1, 128), (2, 64), (6, 200), (6, 100), (10, 32), (30, 200), (60, 64), (60, 4), (120, 500)])
def test_planned_strides_see_enough_for_any_window(seconds, rate):
    length = int(seconds * rate)
    strides = plan_strides(length, rate)
    net = PSNet(2, rate=rate, length=length, dim=8, width=5, hidden=8)
    assert net.strides == strides
    tokens = net.forward_features(torch.randn(1, 2, length))
    assert tokens.shape[1] == tokens_left(strides, length) >= 8
    assert receptive_field(net, 'separable') >= .95 * min(rate, length) and receptive_field(net) >= .7 * length


def test_no_signal_reaches_another_before_the_mix():
    net, x = PSNet(4, rate=64, length=640, dim=16, width=6, hidden=8), torch.randn(2, 4, 640, requires_grad=True)
    out = net.forward_separable(x).unflatten(1, (4, -1))
    for s in range(4):
        reach = torch.autograd.grad(out[:, s].sum(), x, retain_graph=True)[0].abs().sum((0, 2)) > 0
        assert reach.tolist() == [i == s for i in range(4)]


def test_given_strides_and_kernels_are_used():
    net = PSNet(1, length=300, strides=(1, 2, 1, 1, 1), kernels=(3, 5), stem_kernel=5, dim=8, width=5, hidden=8)
    assert net.field == field_of_view((1, 2, 1, 1, 1), 5, 5) and receptive_field(net) <= net.field['end'] == 1 + 4 + 4*2*4


def test_psnet_refuses_what_it_was_not_made_for():
    with pytest.raises(EmonbError, match='3 signals'): PSNet(3, length=1200)(torch.zeros(1, 2, 1200))
    with pytest.raises(EmonbError, match='too short'): PSNet(3, length=10)
    with pytest.raises(EmonbError, match='odd'): PSNet(1, kernels=(2, 4))


# ---- guided attention

@pytest.mark.parametrize('reading,aligned', [('guided', 0), ('swapped', 0), ('guide_qk', 0), ('concat', False), ('concat', True)])
@pytest.mark.parametrize('n,m', [(9, 9), (16, 25), (25, 8), (8, 40)])
def test_any_number_of_tokens(reading, aligned, n, m):
    module = Concatenation(16, aligned) if reading == 'concat' else GuidedAttention(16, 2, reading)
    x, guide = torch.randn(3, n, 16), torch.randn(3, m, 16)
    y, weights = module(x, guide, return_attention=True)
    assert y.shape == (3, m if reading == 'swapped' else n, 16)
    if weights is not None: assert torch.allclose(module(x, guide), y, atol=1e-5) and torch.allclose(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_too_short_a_guide_is_refused_unless_asked_for():
    x = torch.randn(1, 16, 8)
    with pytest.raises(EmonbError, match='8 are needed'): GuidedAttention(8)(x, x[:, :7])
    assert GuidedAttention(8, min_keys=1)(x, x[:, :1]).shape == x.shape


# ---- backbones

def test_depth_ignores_what_was_not_measured():
    x = torch.rand(3, 2, 8, 8) * 10 + 500
    x[:, 1] = (torch.rand(3, 8, 8) > .3).float()
    other = x.clone(); other[:, 0][other[:, 1] == 0] = -1e4
    for mode in ('onset', 'frame'): assert torch.equal(prepare_depth(x, mode), prepare_depth(other, mode))


def test_tokens_are_the_same_bits_and_come_from_a_memory_map(tmp_path):
    rng = np.random.default_rng(0)
    frames, mask = rng.integers(0, 255, (3, 5, 3, 96, 96), dtype=np.uint8), np.arange(5)[None] < np.array([[5], [1], [3]])
    np.save(tmp_path/'f.npy', frames)
    net = FrameBackbone('mobilenetv3_small_050', weights='random')
    a = extract_tokens(net, np.load(tmp_path/'f.npy', mmap_mode='r'), mask, 'color', 'both' if net.in_chans == 6 else 'onset', batch=4, show=False)
    b = extract_tokens(FrameBackbone('mobilenetv3_small_050', weights='random'), frames, mask, 'color', 'onset', batch=4, show=False)
    assert a.tobytes() == b.tobytes() and a.dtype == np.float16 and (a[~mask] == 0).all() and (a[mask] != 0).any()


def test_unknown_backbone_names_close_ones():
    with pytest.raises(EmonbError, match='resnet18'): FrameBackbone('resnet_18', weights='random')


def test_imagenet_weights_that_cannot_be_had_stop(monkeypatch, tmp_path):
    monkeypatch.setattr(backbones.huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(backbones.huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path))
    with pytest.raises(EmonbError, match='could not be had.*weights=random'): FrameBackbone('mobilenetv3_small_050', weights='imagenet')
    assert FrameBackbone('mobilenetv3_small_050', weights='auto').weights == 'random'


def test_no_hub_costs_seconds_not_minutes(tmp_path):
    "In a fresh process with a hub that does not answer, or a proxy that refuses, weights='auto' ends as random and soon."
    code = ("import time; t = time.time()\nfrom emonb.models.backbones import FrameBackbone, hub_reachable\nt = time.time()\n"
            "n = FrameBackbone('resnet18', weights='auto'); m = FrameBackbone('resnet18', in_chans=1)\nprint(n.weights, m.weights, hub_reachable(), time.time() - t)")
    env = {**os.environ, 'HF_ENDPOINT': 'http://10.255.255.1:9', 'HF_HOME': str(tmp_path), 'HF_HUB_OFFLINE': '0', 'http_proxy': '', 'HTTP_PROXY': ''}
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env, timeout=120, cwd=Path(backbones.__file__).parents[2])
    assert out.returncode == 0, out.stderr
    first, second, reachable, seconds = out.stdout.split()[-4:]
    assert (first, second, reachable) == ('random', 'random', 'False') and float(seconds) < 30


# ---- the assembled model

SUBSETS = [s for r in (1, 2, 3) for s in itertools.combinations(MODALITIES, r)]


@pytest.mark.parametrize('modalities', SUBSETS, ids='+'.join)
@pytest.mark.parametrize('fusion,reading', [('guided', 'guided'), ('guided', 'swapped'), ('guided', 'guide_qk'), ('concat', 'guided')])
def test_every_combination_runs_and_trains(modalities, fusion, reading):
    torch.manual_seed(0)
    model, batch = LatentEmotion(3, modalities, fusion=fusion, reading=reading, **SMALL), batch_of()
    logits, attention = model(batch, return_attention=True)
    assert logits.shape == (5, 3) and torch.allclose(model(batch), logits, atol=1e-5)
    assert set(attention) == (set() if fusion == 'concat' else {k for k, need in (('depth', {'color', 'depth'}), ('physio', {'physio'})) if need <= set(modalities)} - ({'physio'} if len(modalities) == 1 else set()))
    F.cross_entropy(logits, torch.arange(5) % 3).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize('weighting', kinds)
def test_a_clip_alone_gives_the_same_logits(weighting):
    torch.manual_seed(0)
    model, batch = LatentEmotion(3, frame_weighting=weighting, **SMALL).eval(), batch_of()
    with torch.no_grad():
        together = model(batch)
        for i in range(5):
            n = int(batch['mask'][i].sum())
            alone = {k: (v[i:i+1, :n] if k in ('color_tokens', 'depth_tokens', 'mask') else v[i:i+1]) for k, v in batch.items()}
            assert torch.allclose(model(alone)[0], together[i], atol=1e-4)


def test_same_seed_same_bits_after_training():
    def trained():
        torch.manual_seed(3)
        model, batch = LatentEmotion(3, drop_rate=.2, **SMALL), batch_of()
        model.fit_scale(batch)
        optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
        for _ in range(3): F.cross_entropy(model(batch), torch.arange(5) % 3).backward(); optimiser.step(); optimiser.zero_grad()
        return model.eval()(batch)
    assert torch.equal(trained(), trained())


def test_saved_config_is_plain_json_and_loads(tmp_path):
    model = LatentEmotion(3, 'color,physio', frame_weighting='spotted', **SMALL)
    model.fit_scale(batch_of()); model.save_pretrained(tmp_path)
    assert json.loads((tmp_path/'config.json').read_text())['frame_weighting'] == 'spotted' and (tmp_path/'model.safetensors').is_file()
    again = LatentEmotion.from_pretrained(tmp_path)
    assert torch.equal(again.eval()(batch_of()), model.eval()(batch_of()))


@pytest.mark.parametrize('change,says', [(dict(modalities='colour'), 'accepted'), (dict(fusion='add'), 'accepted'), (dict(reading='x'), 'accepted'),
                                         (dict(frame_weighting='gauss'), 'accepted'), (dict(modalities=''), 'accepted'), (dict(num_heads=3), 'multiple')])
def test_unknown_values_name_what_is_accepted(change, says):
    with pytest.raises(EmonbError, match=says): LatentEmotion(3, **{**SMALL, **change})


@pytest.mark.parametrize('drop,says', [('mask', 'no mask'), ('physio', 'no physio'), ('color_tokens', 'neither color_tokens')])
def test_a_batch_without_a_needed_part_is_named(drop, says):
    with pytest.raises(EmonbError, match=says): LatentEmotion(3, **SMALL)({k: v for k, v in batch_of().items() if k != drop})


def test_frozen_backbones_stay_and_tuned_ones_move():
    g = torch.Generator().manual_seed(0)
    batch = dict(color=torch.randint(0, 255, (2, 2, 3, 96, 96), generator=g, dtype=torch.uint8), mask=torch.ones(2, 2, dtype=torch.bool))
    for freeze in (True, False):
        torch.manual_seed(0)
        model = LatentEmotion(2, ('color',), 'mobilenetv3_small_050', 'random', freeze, dim=16, img_size=96).train()
        before = model.backbones['color'].weight_hash
        optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], .1)
        F.cross_entropy(model(batch), torch.tensor([0, 1])).backward(); optimiser.step()
        assert (model.backbones['color'].weight_hash == before) == freeze
