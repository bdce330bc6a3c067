"""Faces, depth and apex beyond their chapters.

Whole paths on rendered clips of known truth (SIMULATED), on the real samples, and on bad input."""
import cv2
import numpy as np
import pytest

from emonb.core import DataError, EmonbError
from emonb.data.rendered_faces import FaceModel, sensor
from emonb.signals import faces as F
from emonb.signals.apex import depth_features, motion_features, spot_apex, spot_apices
from emonb.signals.depth import clean_depth, median_space, median_time, relative_to_onset


def clip(seed=0, T=9, apex=4, strength=.6, mm=0., shift=(0, 0), noise=3., depth_noise=3., holes=.03, size=(240, 180)):
    "Colour and depth frames of a movement that rises to `apex` and falls; the true depth."
    person, rng, t = FaceModel(seed, size=size), np.random.default_rng(seed), np.arange(T)
    a = np.sin(np.pi/2*np.where(t <= apex, t/max(apex, 1), (T - 1 - t)/max(T - 1 - apex, 1)))**2
    ideal = [person.frame({12: strength*x, 4: .5*strength*x}, mm*x*np.eye(7)[2], shift=shift) for x in a]
    seen = [sensor(*f, rng, colour_noise=noise, depth_noise=depth_noise, hole_rate=holes) for f in ideal]
    return [c for c, _ in seen], [d for _, d in seen], np.stack([d for _, d in ideal])


# ---- faces

def test_rendered_people_are_found_and_their_eyes_land_in_the_same_place():
    found = 0
    for seed in range(12):
        person = FaceModel(seed, size=(320, 240))
        who = person.who
        frame = sensor(*person.frame(), np.random.default_rng(seed))[0]
        _, M, report = F.crop_clip([frame], 112)
        found += report['eyes_found']
        eyes = F._into(M, [[person.cx - s*who.eye*person.scale, person.cy - .18*person.scale] for s in (1, -1)])
        want = np.array([[(.5 - F.EYES_APART/2)*112, F.EYES_DOWN*112],
                         [(.5 + F.EYES_APART/2)*112, F.EYES_DOWN*112]]) - .5
        assert np.abs(eyes - want).max() < 4, seed
    assert found >= 11

def test_crop_size_does_not_depend_on_the_cameras_pixels():
    crops = [F.crop_clip([sensor(*FaceModel(5, size=s).frame(), np.random.default_rng(0), colour_noise=0)[0]], 64)[0][0]
             for s in ((240, 180), (480, 360))]
    assert np.abs(crops[0].astype(float) - crops[1]).mean() < 12

def test_depth_of_another_size_lands_on_the_same_face():
    color, depth, _ = clip(2, T=3, holes=0, depth_noise=0)
    small = [np.ascontiguousarray(d[::2, ::2]) for d in depth]
    _, M, report = F.crop_clip(color, 96)
    a, _ = F.crop_depth(depth, M, color[0].shape, 96, report['source'])
    b, _ = F.crop_depth(small, M, color[0].shape, 96, report['source'])
    nose = [np.array(np.unravel_index(cv2.blur(x[1].astype(np.float32), (5, 5)).argmin(), (96, 96))) for x in (a, b)]
    assert np.abs(nose[0] - nose[1]).max() <= 3 and np.isin(b, small).all()

def test_lost_and_missing_frames_keep_colour_and_depth_of_one_moment_together():
    color, depth, _ = clip(3, T=8)
    color[0] = None
    color[5] = np.full_like(color[1], 128)
    out, M, report = F.crop_clip(color, 64)
    d, source = F.crop_depth(depth, M, color[1].shape, 64, report['source'])
    assert (report['missing'], report['lost']) == (1, 1)
    assert report['source'].tolist() == [1, 1, 2, 3, 4, 4, 6, 7] == source.tolist()
    assert (out[5] == out[4]).all() and (d[0] == d[1]).all()

def test_a_missed_detection_is_followed_not_lost():
    color, _, _ = clip(4, T=6)
    class Blink:
        name, n = 'blink', 0
        def __call__(self, frame, near=None):
            self.n += 1
            return [] if self.n in (3, 4) else F.make_detector('haar')(frame, near)
    out, _, report = F.crop_clip(color, 64, detector=Blink())
    assert (report['followed'], report['lost']) == (2, 0)
    assert report['source'].tolist() == list(range(6)) and report['detector'] == 'blink'

def test_every_k_and_per_frame():
    color, _, _ = clip(6, T=7)
    a, M, r = F.crop_clip(color, 64, every=3)
    assert r['detected'] == 3 and r['followed'] == 4 and r['lost'] == 0
    assert np.abs(a.astype(float) - F.crop_clip(color, 64)[0]).mean() < 6
    out, M, _ = F.crop_clip([None] + color, 64, per_frame=True)
    assert M.shape == (8, 2, 3) and out.shape == (8, 3, 64, 64) and (out[0] == out[1]).all()

@pytest.mark.parametrize('frames, word', [
    ([np.full((120, 160, 3), 90, np.uint8)]*3, 'no face found in any of its 3 frames'),
    ([None, None], 'none of its 2 colour frames'), ([], 'none of its 0 colour frames'),
    ([np.zeros((9, 9), np.uint8)], r'frame 0: a colour frame is \(H, W, 3\) uint8'), ([np.zeros((9, 9, 3))], 'float64'),
    ([np.zeros((9, 9, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], 'different sizes')])
def test_bad_clips_say_what_is_wrong(frames, word):
    with pytest.raises(DataError, match=f'^s01_a_116.*{word}'): F.crop_clip(frames, name='s01_a_116')

def test_colour_and_depth_of_different_lengths():
    color, depth, _ = clip(3, T=4)
    _, M, report = F.crop_clip(color)
    with pytest.raises(DataError, match='s01_a_116: 4 colour frames and 3 depth frames'):
        F.crop_depth(depth[:3], M, color[0].shape, source=report['source'], name='s01_a_116')

def test_unknown_detector_and_unreadable_weights(tmp_path, monkeypatch):
    with pytest.raises(EmonbError, match='accepted: haar, yunet'): F.make_detector('har')
    with pytest.raises(EmonbError, match='no such file'): F.YuNetDetector(tmp_path/'absent.onnx')
    (tmp_path/'bad.onnx').write_bytes(b'not a network')
    with pytest.raises(EmonbError, match='cannot read this as a YuNet model'): F.make_detector(tmp_path/'bad.onnx')
    monkeypatch.setattr('huggingface_hub.try_to_load_from_cache', lambda *a: None)
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    with pytest.raises(EmonbError, match="HF_HUB_OFFLINE is set; use detector='haar'"): F.yunet_weights()
    monkeypatch.delenv('HF_HUB_OFFLINE')
    monkeypatch.setattr(F, 'hub_answers', lambda file: False)
    with pytest.raises(EmonbError, match="did not answer within 5 s; use detector='haar'"): F.yunet_weights()
    monkeypatch.setattr('huggingface_hub.try_to_load_from_cache', lambda *a: str(tmp_path/'bad.onnx'))
    with pytest.raises(EmonbError, match="not YuNet's published file .its sha256 is another.; remove it"):
        F.yunet_weights()

def test_the_probe_of_the_hub_is_short(monkeypatch):
    import time
    def slow(*args, **kw):
        time.sleep(2)
        raise OSError
    monkeypatch.setattr('urllib.request.urlopen', slow)
    F.hub_answers.cache_clear()
    t = time.monotonic()
    assert F.hub_answers(limit=.3) is False and time.monotonic() - t < 1
    F.hub_answers.cache_clear()


# ---- video

def write_video(path, frames, rate=25):
    out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), rate, frames[0].shape[1::-1])
    for f in frames: out.write(np.ascontiguousarray(f[..., ::-1]))
    out.release()

def test_video_times_losses_and_order(tmp_path):
    person, rng = FaceModel(1, size=(240, 180)), np.random.default_rng(0)
    face, wall = sensor(*person.frame(), rng)[0], rng.integers(90, 110, (180, 240, 3), dtype=np.uint8)
    shown = np.r_[np.zeros(10), np.ones(40), np.zeros(12)].astype(bool)
    write_video(tmp_path/'v.avi', [face if s else wall for s in shown])
    crops, lost, times = F.crop_video(tmp_path/'v.avi', fps=5, size=64)
    assert crops.shape == (13, 3, 64, 64) and crops.dtype == np.uint8 and np.allclose(times, np.arange(13)/5)
    assert (lost == ~shown[::5]).all() and (crops[0] == crops[2]).all() and (crops[-1] == crops[9]).all()

def test_video_errors(tmp_path):
    (tmp_path/'text.avi').write_text('not a video')
    with pytest.raises(DataError, match='text.avi'): F.crop_video(tmp_path/'text.avi')
    with pytest.raises(DataError, match='no such video'): F.crop_video(tmp_path/'absent.avi')
    write_video(tmp_path/'wall.avi', [np.full((120, 160, 3), 90, np.uint8)]*20)
    with pytest.raises(DataError, match='a face in only 0 of its 4 pictures'): F.crop_video(tmp_path/'wall.avi')
    data = (tmp_path/'wall.avi').read_bytes()
    (tmp_path/'cut.avi').write_bytes(data[:600])
    with pytest.raises(DataError, match='cut.avi'): F.crop_video(tmp_path/'cut.avi')

def test_real_videos(real):
    crops, lost, times = F.crop_video(real('faces')/'single_face.mp4', fps=10)
    assert crops.shape == (24, 3, 64, 64) and not lost.any()
    with pytest.raises(DataError, match='no_face.mp4'): F.crop_video(real('faces')/'no_face.mp4', fps=2)


# ---- depth

def test_masked_medians_agree_with_the_plain_definition():
    rng = np.random.default_rng(0)
    d = rng.integers(700, 1000, (5, 13, 17)).astype(np.uint16)
    v = rng.random(d.shape) > .4
    space, n = median_space(d, v)
    in_time, _ = median_time(d, v)
    for t, y, x in rng.integers(0, [5, 13, 17], (200, 3)):
        near = d[t, max(y-1, 0):y+2, max(x-1, 0):x+2][v[t, max(y-1, 0):y+2, max(x-1, 0):x+2]]
        assert n[t, y, x] == len(near) and space[t, y, x] == (int(np.median(near)) if len(near) else 0)
        near = d[max(t-1, 0):t+2, y, x][v[max(t-1, 0):t+2, y, x]]
        assert in_time[t, y, x] == (int(np.median(near)) if len(near) else 0)

@pytest.mark.parametrize('seed', range(6))
def test_cleaning_lowers_the_error_against_the_true_depth(seed):
    color, depth, true = clip(seed, T=7, mm=6., depth_noise=2. + seed, holes=.02 + .02*seed, size=(320, 240))
    _, M, _ = F.crop_clip(color, 112, every=3)
    seen, _ = F.crop_depth(depth, M, color[0].shape, 112)
    true = np.stack([F.warp_depth(d, M, 112) for d in true])
    clean = clean_depth(seen)
    on = (true < 900) & (seen > 0) & (clean[:, 1] > 0)
    before, after = [np.sqrt(np.mean((x[on].astype(float) - true[on])**2)) for x in (seen, clean[:, 0])]
    assert after < .8*before and on.sum() > .95*((true < 900) & (seen > 0)).sum()
    change, truth = relative_to_onset(clean), true - true[0]
    on = (change[:, 1] > 0) & (true < 890) & (abs(truth) < 30)
    raw, there = seen.astype(float) - seen[0], on & (seen > 0) & (seen[0] > 0)
    assert np.sqrt(np.mean((change[:, 0] - truth)[on]**2)) < np.sqrt(np.mean((raw - truth)[there]**2))

def test_holes_are_never_distances():
    d = np.full((3, 20, 20), 800, np.uint16)
    d[:, 5:8, 5:8] = 0
    d[1, 12, 12] = 0
    out = clean_depth(d)
    assert set(np.unique(out[:, 0])) <= {0, 800} and (out[:, 1] == (d > 0)).all()
    assert out[1, 0, 12, 12] == 800 and out[1, 1, 12, 12] == 0        # shown, not claimed
    assert clean_depth(d, fill=None)[1, 0, 12, 12] == 0
    assert (clean_depth(d[:1]) == out[:1]).all()

@pytest.mark.parametrize('depth, word',
                         [(np.full((2, 9, 9), 80, np.uint8), 'depth is uint8, expected 16-bit millimetres'),
                          (np.zeros((2, 9, 9), np.uint16), 'no valid depth'),
                          (np.zeros((9, 9), np.uint16), r'depth is \(T, H, W\)'),
                          (np.full((2, 9, 9), 800.), 'depth is float64')])
def test_bad_depth_says_what_is_wrong(depth, word):
    with pytest.raises(DataError, match=f'^spNO.1_a_20: .*{word}'): clean_depth(depth, name='spNO.1_a_20')


# ---- apex and features

def crops(*args, **kw):
    color, _, _ = clip(*args, **kw)
    return F.crop_clip(color, 112, every=4)[0]

def test_apex_beats_the_middle_and_the_padding_is_not_looked_at():
    N, T = 10, 16
    apex = np.array([3, 4, 5, 6, 10, 11, 12, 3, 11, 4])
    x = np.stack([crops(s, T=14, apex=a) for s, a in enumerate(np.minimum(apex, 11))])
    mask = np.zeros((N, T), bool)
    mask[:, :14] = True
    padded = np.zeros((N, T, *x.shape[2:]), np.uint8)
    padded[:, :14] = x
    k, sure = spot_apices(padded, mask)
    assert k.dtype == np.int64 and k.shape == sure.shape == (N,) and (sure >= 0).all() and (sure <= 1).all()
    assert np.abs(k - np.minimum(apex, 11)).mean() < 1 < np.abs(6 - np.minimum(apex, 11)).mean()
    hole = mask.copy()
    hole[:, 2] = False
    assert np.abs(spot_apices(padded, hole)[0] - np.minimum(apex, 11)).mean() < 1

def test_without_movement_the_middle():
    for seed in range(6):
        k, sure = spot_apex(crops(seed, T=11, strength=0.))
        assert k == 5 and sure < .35
    x = crops(0, T=4)
    assert spot_apex(x[:1]) == (0, 0.) and spot_apex(x[:2]) == (0, 0.)
    assert spot_apex(x, [False, True, False, True]) == (1, 0.)

SLOPE = np.broadcast_to(np.add.outer(np.linspace(20, 120, 112), np.linspace(0, 80, 112)), (3, 112, 112))
NOISE = np.random.default_rng(0).uniform(0, 255, (3, 112, 112))

@pytest.mark.parametrize('T', range(3, 13))
@pytest.mark.parametrize('picture', [np.full((3, 32, 32), 7.), np.full((3, 112, 112), 200.), SLOPE, SLOPE[:, :64, :64],
                                     NOISE], ids=['black', 'bright', 'slope', 'small slope', 'noise'])
def test_equal_frames_have_their_apex_in_the_middle_with_confidence_zero(T, picture):
    assert spot_apex(np.repeat(picture[None].astype(np.uint8), T, 0)) == ((T - 1)//2, 0.)

@pytest.mark.parametrize('T', range(3, 13))
def test_what_rounding_leaves_is_no_movement(T):
    """A light that comes and goes, a gain that does, and camera noise below the grey levels of a picture.

    Only the rounding differs."""
    rise, rng = (1 - abs(np.linspace(-1, 1, T)))[:, None, None, None], np.random.default_rng(T)
    for frames in (SLOPE + .3*rise, SLOPE + 5*rise, SLOPE*(1 + .05*rise), SLOPE*(1 + .2*rise),
                   SLOPE + rng.normal(0, .1, (T, *SLOPE.shape))):
        assert spot_apex(np.round(frames).astype(np.uint8)) == ((T - 1)//2, 0.)

def test_a_movement_of_few_grey_levels_in_a_small_place_is_one():
    for apex in (2, 4, 6):
        t, frames = np.arange(9), np.repeat(SLOPE[None], 9, 0).copy()
        frames[:, :, 76:92, 44:68] += 2*np.where(t <= apex, t/apex, (8 - t)/(8 - apex))[:, None, None, None]
        k, sure = spot_apex(np.round(frames).astype(np.uint8))
        assert k == apex and sure > .35, (apex, k, sure)

@pytest.mark.parametrize('size', [64, 112, 200])
def test_features_of_any_crop_size(size):
    color, depth, _ = clip(1, T=5)
    x, M, report = F.crop_clip(color, size)
    d = clean_depth(F.crop_depth(depth, M, color[0].shape, size)[0])
    m, names = motion_features(x[None])
    z, dnames = depth_features(d[None])
    assert m.shape == (1, 180) == (1, len(names)) and z.shape == (1, 72) == (1, len(dnames))
    assert m.dtype == z.dtype == np.float32 and np.isfinite(m).all() and np.isfinite(z).all()
    assert len(set(names + dnames)) == 252

def test_features_do_not_see_the_padding():
    x = crops(2, T=6)
    padded, mask = np.concatenate([x, np.full_like(x[:3], 200)])[None], np.arange(9)[None] < 6
    assert np.allclose(motion_features(padded, mask)[0], motion_features(x[None])[0])
    one = np.zeros((1, 9), bool)
    one[0, 4] = True
    assert np.abs(motion_features(padded, one)[0]).max() < .05            # a single frame: nothing moved

def test_bad_batches():
    x = crops(2, T=3)[None]
    for bad in (lambda: motion_features(x[0]), lambda: motion_features(x, np.ones((1, 2), bool)),
                lambda: motion_features(x, np.zeros((1, 3), bool)), lambda: depth_features(x), lambda: spot_apex(x)):
        with pytest.raises(DataError): bad()
