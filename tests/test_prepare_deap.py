"""DEAP from files to windows.

What belongs together stays together, what is damaged is left out and counted, no old cache is served. All files are
SIMULATED."""
import shutil
import tracemalloc
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest

from emonb.core import DataError, EmonbError, SetError
from emonb.data.deap import CHANNELS, RATE, Deap, count_frames
from emonb.data.people import UNEXPLAINED
from emonb.data.recordings import load
from emonb.data.simulate_deap import DeapTwin, python2_pickle, stamp_of_frame, stamp_of_signal, write_deap
from emonb.signals import prepare_deap as module
from emonb.signals.eeg import EEGSettings
from emonb.signals.prepare_deap import (
    FEATURES,
    DeapSettings,
    by_second,
    deap_features,
    deap_key,
    prepare_deap,
    trial_faces,
)

SIGNALS = DeapSettings(faces=False)

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """Two people with faces and one without, who also wore the cap in the other order.

    Four trials of four seconds, stamped."""
    root = tmp_path_factory.mktemp('deap')/'deap'
    write_deap(root,
               DeapTwin(subjects=(1, 2, 24), trials=4, seconds=4, mark=True, files=('dat', 'bdf', 'video'), seed=5))
    return root

@pytest.fixture
def tree(whole, tmp_path, monkeypatch):
    monkeypatch.setenv('EMONB_CACHE', str(tmp_path/'cache'))
    return shutil.copytree(whole, tmp_path/'deap')

@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('EMONB_CACHE', str(tmp_path/'cache'))
    return tmp_path/'cache'

def edit_video(path, change):
    "Rewrite a video frame by frame; `change(k, frame)` gives the new frame, or None to end there."
    video, frames = cv2.VideoCapture(str(path)), []
    while (got := video.read())[0]: frames.append(got[1])
    video.release()
    out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 50, frames[0].shape[1::-1])
    for k, f in enumerate(frames):
        if (f := change(k, f)) is None: break
        out.write(f)
    out.release()

def one_sentence(e, *words):
    said = str(e.value)
    assert '\n' not in said and len(said) < 400 and all(w in said for w in words), said

def nothing_half_written(folder):
    assert not [p for p in folder.rglob('*') if p.name.endswith('.tmp')]

# what belongs together ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('signals', ['dat', 'bdf'])
def test_labels_signals_and_faces_of_a_trial_stay_together(whole, cache, monkeypatch, signals):
    reader = Deap(whole, signals=signals, target='both')
    # the stamp lies in the corner of the picture, which a crop would cut off: here the corner itself is the crop
    def corner(path, fps, size, **how):
        from emonb.signals.faces import sample_video
        got = list(sample_video(path, fps))
        crops = np.zeros((len(got), 3, size, size), np.uint8)
        for c, (_, frame) in zip(crops, got): c[:, :8, :48] = frame[:8, :48].transpose(2, 0, 1)
        return crops, np.zeros(len(got), bool), np.array([t for t, _ in got])
    monkeypatch.setattr(module, 'crop_video', corner)
    data = prepare_deap(reader, DeapSettings(baseline='mean', eeg=EEGSettings(eog='none')))
    truth = pd.read_csv(whole/'truth.csv').set_index(['subject', 'experiment_id'])
    assert data.meta.trial.nunique() == 8 and data.info['subjects_left_out'] == ['s24']
    for trial, rows in data.meta.groupby('trial'):
        r, x = rows.iloc[0], data.x['bio'][rows.index]
        true = truth.loc[(r.subject, r.experiment_id)]
        assert stamp_of_signal(x[:, CHANNELS.index('Temp')].ravel(),
                               RATE) == r.experiment_id == int(r.stimulus), (signals, trial)
        assert {stamp_of_frame(p.transpose(1, 2, 0)) for second in data.x['face'][rows.index]
                for p in second} == {r.experiment_id}, (signals, trial)
        assert (r.valence, r.arousal, r.trial_number) == (true.valence, true.arousal, true.trial_number)
        assert r.order == true.trial_number - 1
        assert r.label == (true.valence >= 5) + 2*(true.arousal >= 5)
        assert rows.window.tolist() == list(range(len(rows))) and np.allclose(rows.start_s.diff().dropna(), 1)
    # the two numberings differ, so a mix-up would show
    assert (data.meta.order + 1 != data.meta.experiment_id).any()

def test_a_mixed_up_pairing_would_be_seen(whole, cache):
    "The stamps are a test only if exchanging two trials fails it."
    reader = Deap(whole, subjects='24')
    table = reader.meta.copy()
    reader.meta.loc[[0, 1], 'experiment_id'] = table.experiment_id[[1, 0]].to_numpy()
    # without the reader's own check of the ratings
    reader.load = lambda who: type(reader).load(Deap(whole, subjects='24'), who)
    data = prepare_deap(reader, replace(SIGNALS, baseline='mean'), folder=cache/'mixed')
    temp = data.x['bio'][data.meta.index[data.meta.trial == table.trial[0]], CHANNELS.index('Temp')].ravel()
    assert stamp_of_signal(temp, RATE) != table.experiment_id[0]

def test_windows_are_the_trial_less_its_baseline(whole, cache):
    reader = Deap(whole, subjects='24')
    raw = reader.load('s24').data
    sets = {m: prepare_deap(reader, replace(SIGNALS, baseline=m)) for m in ('template', 'mean', 'off')}
    for r in sets['off'].meta.itertuples():
        x = raw[r.experiment_id - 1]
        w = x[:, (3 + r.window)*128:(4 + r.window)*128]
        rest = x[:, :384].reshape(40, 3, 128)
        assert np.allclose(sets['off'].x['bio'][r.Index], w, atol=1e-3)
        assert np.allclose(sets['template'].x['bio'][r.Index], w - rest.mean(1), atol=1e-3)
        assert np.allclose(sets['mean'].x['bio'][r.Index], w - rest.mean((1, 2))[:, None], atol=1e-3)

def test_raw_recordings_come_in_microvolts_without_filter_edges(whole, cache):
    data = prepare_deap(Deap(whole, signals='bdf', subjects='24'), SIGNALS)
    eeg = data.x['bio'][:, :32]
    assert data.x['bio'].shape == (16, 40, 128) and data.x['bio'].dtype == np.float32 and data.info['rate'] == 128
    assert 1 < eeg.std() < 40 and abs(eeg.mean(1)).max() < .05             # µV; average reference
    assert eeg[data.meta.window == 0].std() < 1.6*eeg[data.meta.window == 2].std()

# faces ----------------------------------------------------------------------------------------------------------------

def test_lost_faces_and_short_seconds_are_counted(tree):
    reader = Deap(tree, subjects='1', faces='need')
    path = tree/reader.meta.video[0]
    # the second second is dark, the video ends at 3.2 s
    edit_video(path, lambda k, f: f*0 if 50 <= k < 100 else f if k < 160 else None)
    data = prepare_deap(reader)
    rows = data.meta[data.meta.trial == reader.meta.trial[0]]
    assert rows.window.tolist() == [0, 2, 3] and data.x['face_mask'][rows.index].sum(1).tolist()[0] == 5
    assert data.x['face_mask'][rows.index[-1]].tolist() == [True, False, False, False, False]
    last = data.x['face'][rows.index[-1]]
    assert all(np.array_equal(last[0], p) for p in last[1:])                                # its last picture, repeated
    seen = data.info['faces']
    assert seen['seconds_left_out'] >= 1 and seen['lost_pictures'] >= 5 and seen['short_seconds'] >= 1
    seconds = [-(-count_frames(tree/v)[0]//50) for v in reader.meta.video]
    assert seen['pictures'] == 5*sum(seconds) and seen['seconds_left_out'] == 4*4 - sum(seconds) + 1
    assert len(data) == sum(seconds) - 1
    every = prepare_deap(reader, DeapSettings(min_pictures=0))
    assert every.meta[every.meta.trial == reader.meta.trial[0]].window.tolist() == [0, 1, 2, 3]
    full = prepare_deap(reader, DeapSettings(min_pictures=5))
    assert full.x['face_mask'].all() and len(full) < len(data)
    signals = Deap(tree, subjects='1', faces='need').load('s01').data[reader.meta.experiment_id[0] - 1]
    # window 2: signals of the same second as its faces
    w = signals[:, 5*128:6*128] - signals[:, :384].reshape(40, 3, 128).mean(1)
    assert np.allclose(data.x['bio'][rows.index[1]], w, atol=1e-3)

@pytest.mark.parametrize('rate', [50, 29.97, 30, 25, 24, 12.5, 5, 3])
def test_pictures_fall_into_their_second_at_any_frame_rate(rate):
    step, n = max(rate/5, 1.), int(60*min(rate, 5.))
    times = np.array([round(k*step)/rate for k in range(n)])
    face, mask = by_second(np.arange(n, dtype=np.uint16)[:, None, None, None]*np.ones((1, 3, 1, 1), np.uint16),
                           np.zeros(n, bool), times)
    at = times[face[:, :, 0, 0, 0]]
    assert len(face) == 60
    assert (np.abs(at - np.arange(300).reshape(60, 5)/5) <= (.5/rate + .01 if rate >= 5 else 1/rate)).all()
    assert mask.all() if rate >= 5 else mask.sum() == n

def test_no_face_in_a_trial_leaves_it_out_and_says_so(tree):
    reader = Deap(tree, subjects='1,2', faces='need')
    edit_video(tree/reader.meta.video[0], lambda k, f: f*0)
    data = prepare_deap(reader)
    gone = [d for d in data.info['defects'] if d['action'] == 'trial left out']
    assert data.meta.trial.nunique() == 7 and data.info['left_out'] == 1 and len(gone) == 1
    assert gone[0]['row'] == reader.meta.trial[0] and reader.meta.video[0] in gone[0]['defect']
    assert 'a face in only 0' in gone[0]['defect']
    with pytest.raises(SetError) as e: prepare_deap(reader, strict=True)
    one_sentence(e, 'a face in only 0', 'strict')
    with pytest.raises(SetError): prepare_deap(reader, strict=True, folder=tree.parent/'fresh')
    assert not (tree.parent/'fresh').exists()
    nothing_half_written(tree.parent)

def test_missing_and_broken_videos(tree):
    first, second = sorted((tree/'face_video/s01').iterdir())[:2]
    first.unlink()
    second.write_bytes(b'RIFF' + bytes(200))
    data = prepare_deap(Deap(tree, subjects='1'))
    said = [d['defect'] for d in data.info['defects']]
    assert data.meta.trial.nunique() == 2 and data.info['left_out'] == 2
    assert any('no face video of Trial 1' in s for s in said)
    assert any(second.name in s and 'cannot open' in s for s in said)
    # the signals do not need them
    assert prepare_deap(Deap(tree, subjects='1'), SIGNALS).meta.trial.nunique() == 4
    reader = Deap(tree, subjects='2', faces='need')
    (tree/reader.meta.video[0]).unlink()
    with pytest.raises(SetError) as e: prepare_deap(reader)
    one_sentence(e, 's02_trial', 'is gone')
    shutil.rmtree(tree/'face_video')
    with pytest.raises(DataError) as e: prepare_deap(Deap(tree, subjects='1'))
    one_sentence(e, 'no trial has a face video')

def test_faces_are_searched_once(tree, monkeypatch):
    reader, calls = Deap(tree, subjects='1', faces='need'), []
    search = module.crop_video
    monkeypatch.setattr(module, 'crop_video', lambda path, **how: calls.append(path) or search(path, **how))
    a = prepare_deap(reader)
    b = prepare_deap(reader, DeapSettings(baseline='off'))
    assert len(calls) == 4 and np.array_equal(a.x['face'], b.x['face'])
    trial_faces(tree/reader.meta.video[0], DeapSettings(every=3))
    assert len(calls) == 5

# damaged signals ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('share', [.3, .9])
def test_a_truncated_dat_leaves_its_subject_out(tree, share):
    path = tree/'data_preprocessed_python/s02.dat'
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size*share)])
    (tree/'data_preprocessed_python/.DS_Store').write_bytes(b'\0Bud1')
    (tree/'.DS_Store').write_bytes(b'\0Bud1')
    (tree/'face_video/s01/.DS_Store').write_bytes(b'x')
    data = prepare_deap(Deap(tree), SIGNALS)
    assert sorted(data.meta.subject.unique()) == ['s01', 's24'] and len(data) == 2*4*4
    assert data.info['subjects_left_out'] == ['s02']
    assert [d['action'] for d in data.info['defects']] == ['subject left out']
    assert 's02.dat' in data.info['defects'][0]['defect'] and np.isfinite(data.x['bio']).all()
    with pytest.raises(SetError) as e: prepare_deap(Deap(tree), SIGNALS, strict=True, folder=tree.parent/'strict')
    one_sentence(e, 's02.dat', 'strict')
    assert not (tree.parent/'strict').exists()
    nothing_half_written(tree.parent)
    with pytest.raises(DataError): prepare_deap(Deap(tree, subjects='2'), SIGNALS)            # nothing is left

def test_a_trial_with_nan_is_left_out_a_flat_channel_is_told(tree):
    reader = Deap(tree, subjects='24')
    held = reader.load('s24')
    x, labels = held.data.copy(), held.labels.copy()
    x[1, 3, 700] = np.nan
    x[1, 5, 2] = np.inf
    x[2, 36] = 4.
    path = tree/'data_preprocessed_python/s24.dat'
    with open(path, 'wb') as f:
        for chunk in python2_pickle(dict(data=x, labels=labels)): f.write(chunk)
    data = prepare_deap(Deap(tree, subjects='24'), SIGNALS)
    assert sorted(data.meta.experiment_id.unique()) == [1, 3, 4] and data.info['left_out'] == 1
    assert np.isfinite(data.x['bio']).all()
    assert [(d['row'], d['action'])
            for d in data.info['defects']] == [('trial 2', 'trial left out'), ('trial 2', 'trial left out'),
                                               ('trial 3', 'kept')]
    with pytest.raises(SetError) as e: prepare_deap(Deap(tree, subjects='24'), SIGNALS, strict=True)
    one_sentence(e, 's24.dat', 'NaN')

@pytest.mark.parametrize('size', [0, 10**6])
def test_a_file_that_asks_for_code_stops_the_run_by_name(tree, size):
    "Small or large, strict or not, when everybody is read and when one person is asked for."
    import pickle
    class Evil:
        def __reduce__(self): return eval, (f'open({str(tree/"flag")!r}, "w")',)
    for protocol in (0, 2, 4):
        evil = pickle.dumps({'data': Evil(), 'more': b'0'*size}, protocol)
        (tree/'data_preprocessed_python/s02.dat').write_bytes(evil)
        for strict, chosen in ((False, None), (True, None), (False, '2')):
            with pytest.raises(SetError) as e:
                prepare_deap(Deap(tree, subjects=chosen, strict=strict), SIGNALS, strict=strict)
            one_sentence(e, 's02.dat', 'eval', 'was not run')
    others = prepare_deap(Deap(tree, subjects='1,24'), SIGNALS)            # who is not read is not opened
    assert others.meta.subject.nunique() == 2
    assert not (tree/'flag').exists()
    nothing_half_written(tree.parent)

def test_when_nothing_is_left_the_files_and_their_faults_are_named(tree):
    for who in ('s01', 's02', 's24'): (tree/f'data_preprocessed_python/{who}.dat').write_bytes(b'no pickle')
    with pytest.raises(DataError) as e: Deap(tree)
    one_sentence(e, 's01.dat: file too small', 's02.dat: file too small')
    for who in ('s01', 's02', 's24'): (tree/f'data_preprocessed_python/{who}.dat').write_bytes(b'no pickle'*10**6)
    with pytest.raises(DataError) as e: prepare_deap(Deap(tree), SIGNALS)
    one_sentence(e, 's01.dat: damaged', 's02.dat: damaged')

# what becomes of whom ------------------------------------------------------------------------------------------------

def balanced(account):
    "The account, if every person, trial and window is in the set or left out for a stated reason."
    for unit, a in account.items():
        assert a['found'] == a['used'] + sum(a['left_out'].values()) and UNEXPLAINED not in a['left_out'], (unit, a)
    return account

def with_nan(root, who, video):
    "Spoil one trial of a .dat."
    held = Deap(root, subjects=[who], faces='none').load(who)
    x = held.data.copy()
    x[video - 1, 3, 700] = np.nan
    with open(root/f'data_preprocessed_python/{who}.dat', 'wb') as f:
        for chunk in python2_pickle(dict(data=x, labels=held.labels)): f.write(chunk)

def test_every_person_trial_and_window_is_accounted_for(tree):
    dat, ratings = tree/'data_preprocessed_python', tree/'metadata_csv/participant_ratings.csv'
    with_nan(tree, 's01', 2)
    (dat/'s03.dat').write_bytes((dat/'s02.dat').read_bytes())              # files without ratings
    (dat/'s04.dat').write_bytes(b'small')
    (dat/'person 5.dat').write_bytes(b'')                                  # nobody's name
    (dat/'.DS_Store').write_bytes(b'')
    (dat/'s24.dat').rename(dat/' S24\u200b.dat')
    rows = ratings.read_text().splitlines()
    # a trial of s02 is not rated, s07 has no file
    short = next(r for r in rows if r.startswith('2,'))
    seventh = ['7,' + r.split(',', 1)[1] for r in rows if r.startswith('2,')]
    ratings.write_text('\n'.join([r for r in rows if r != short] + seventh))
    reader = Deap(tree)
    signals = balanced(prepare_deap(reader, SIGNALS).info['account'])
    unfit = ['file too small', 'its name is none of s01 to s32', 'no dat file', 'no ratings']
    assert signals['person'] == dict(found=7, used=3, left_out=dict.fromkeys(unfit, 1))
    lost = {**dict.fromkeys(unfit, 4), 'not rated': 1, 'signals cannot be used': 1}
    assert signals['trial'] == dict(found=28, used=10, left_out=lost)
    assert signals['window'] == dict(found=28*4, used=40, left_out={'trial left out': 18*4})
    again = prepare_deap(Deap(tree), SIGNALS)                              # found again in the cache
    assert again.info['account'] == signals and again.meta.subject.unique().tolist() == ['s01', 's02', 's24']
    one = balanced(prepare_deap(Deap(tree, subjects='1'), SIGNALS).info['account'])
    assert one['person'] == dict(found=7, used=1, left_out={'its name is none of s01 to s32': 1, 'not chosen': 5})
    video = sorted((tree/'face_video/s01').iterdir())
    video[0].unlink()
    video[1].write_bytes(b'RIFF' + bytes(200))
    edit_video(video[2], lambda k, f: f*0 if 50 <= k < 100 else f)
    data = prepare_deap(Deap(tree))
    faces = balanced(data.info['account'])
    assert faces['person']['left_out']['no face video'] == 1 and faces['trial']['left_out']['no face video'] == 4 + 1
    assert faces['trial']['left_out']['no usable face in its video'] >= 1 and faces['window']['used'] == len(data)
    assert faces['window']['left_out']['second without a face'] == data.info['faces']['seconds_left_out'] >= 1
    need = balanced(prepare_deap(Deap(tree, faces='need')).info['account'])
    assert need == faces
    balanced(prepare_deap(Deap(tree, signals='bdf'), replace(SIGNALS, eeg=EEGSettings(eog='none'))).info['account'])

def test_a_person_whose_file_fails_late_is_accounted_for(tree):
    path = tree/'data_preprocessed_python/s02.dat'
    path.write_bytes(path.read_bytes()[:-500])
    account = balanced(prepare_deap(Deap(tree), SIGNALS).info['account'])
    assert account['person']['left_out'] == {'signal file cannot be read': 1}
    assert account['trial']['left_out'] == {'signal file cannot be read': 4}

def test_a_reader_that_forgets_shows_in_the_account(tree):
    "The sum can fail: a row that goes without a reason is counted as such."
    reader = Deap(tree)
    reader.meta = reader.meta.iloc[1:].reset_index(drop=True)
    account = prepare_deap(reader, SIGNALS, folder=tree.parent/'short').info['account']
    assert account['trial']['left_out'] == {UNEXPLAINED: 1}

def test_a_raw_recording_without_its_codes_leaves_the_subject_out(tree):
    path = tree/'data_original/s24.bdf'
    raw = path.read_bytes()
    n = int(raw[252:256])
    path.write_bytes(raw[:256*(n + 1)] + bytes(len(raw) - 256*(n + 1)))
    data = prepare_deap(Deap(tree, signals='bdf', subjects='2,24'), SIGNALS)
    assert data.info['subjects_left_out'] == ['s24']
    assert 'code 4' in data.info['defects'][0]['defect'] and len(data) == 16

def test_a_flat_raw_channel_leaves_its_trials_out(tree, monkeypatch):
    reader = Deap(tree, signals='bdf', subjects='24')
    real = module.BdfSession.raw
    def flat(self, number, *span):
        raw = real(self, number, *span)
        if number == 2: raw._data[5] = 0
        return raw
    monkeypatch.setattr(module.BdfSession, 'raw', flat)
    data = prepare_deap(reader, SIGNALS)
    d, = data.info['defects']
    assert 2 not in data.meta.trial_number.tolist() and data.meta.trial.nunique() == 3
    assert 's24.bdf, trial 2' in d['defect'] and 'channel FC1' in d['defect']

def test_a_fault_of_the_whole_set_always_stops(tree, monkeypatch):
    reader = Deap(tree, faces='none')
    def broken(who): raise SetError('the table is gone')
    monkeypatch.setattr(reader, 'load', broken)
    with pytest.raises(SetError): prepare_deap(reader, SIGNALS)
    nothing_half_written(tree.parent)

# cache ----------------------------------------------------------------------------------------------------------------

CHANGES = [dict(baseline='mean'), dict(baseline='off'), dict(eeg=EEGSettings(eog='ica')), dict(eeg=EEGSettings(low=1.)),
           dict(eeg=EEGSettings(reference='none')), dict(margin_s=1.), dict(fps=4),
           dict(size=32), dict(every=3), dict(align=False), dict(min_share=.5), dict(min_pictures=3), dict(faces=False),
           dict(detector='yunet')]

def test_every_setting_source_and_line_of_code_changes_the_key(tree, monkeypatch):
    reader = Deap(tree)
    keys = [deap_key(reader, DeapSettings())] + [deap_key(reader, DeapSettings(**c)) for c in CHANGES]
    keys += [deap_key(Deap(tree, **c), DeapSettings())
             for c in (dict(signals='bdf'), dict(subjects='1,2'), dict(faces='need'), dict(strict=True))]
    assert len(set(keys)) == len(keys) and {f for c in CHANGES for f in c} == set(DeapSettings.__dataclass_fields__)
    monkeypatch.setattr(module, 'trial_windows', lambda *a: None)
    keys.append(deap_key(reader, DeapSettings()))
    monkeypatch.undo()
    monkeypatch.setenv('EMONB_CACHE', str(tree.parent/'cache'))
    for path in (tree/'data_preprocessed_python/s24.dat', tree/reader.meta.video[0],
                 tree/'metadata_csv/participant_ratings.csv'):
        path.write_bytes(path.read_bytes() + b'\n')
        keys.append(deap_key(reader, DeapSettings()))
    assert len(set(keys)) == len(keys)

def test_a_changed_setting_is_never_served_an_old_set(tree):
    reader, folder = Deap(tree, subjects='24'), tree.parent/'mine'
    a = prepare_deap(reader, SIGNALS, folder=folder)
    assert prepare_deap(reader, SIGNALS, folder=folder).x['bio'].filename == a.x['bio'].filename
    with pytest.raises(EmonbError) as e: prepare_deap(reader, replace(SIGNALS, baseline='off'), folder=folder)
    one_sentence(e, 'mine', 'other files, settings or code')
    b, c = (prepare_deap(reader, s) for s in (SIGNALS, replace(SIGNALS, baseline='off')))
    assert np.array_equal(a.x['bio'], b.x['bio']) and not np.allclose(b.x['bio'], c.x['bio'])
    (tree/'metadata_csv/participant_ratings.csv').touch()
    # a new time stamp alone is no change
    assert prepare_deap(Deap(tree, subjects='24'), SIGNALS).x['bio'].filename == b.x['bio'].filename

def test_labels_follow_the_reader_not_the_cache(tree):
    sets = {(t, r): prepare_deap(Deap(tree, target=t, rule=r), SIGNALS) for t in ('valence', 'arousal', 'both')
            for r in ('>=5', '>5', '>4.5')}
    assert len({d.x['bio'].filename for d in sets.values()}) == 1
    high = {'>=5': lambda r: r >= 5, '>5': lambda r: r > 5, '>4.5': lambda r: r > 4.5}
    for (t, r), d in sets.items():
        v, a = high[r](d.meta.valence).astype(int), high[r](d.meta.arousal).astype(int)
        assert (d.meta.label == {'valence': v, 'arousal': a, 'both': v + 2*a}[t]).all()
        assert len(d.classes) == (4 if t == 'both' else 2)
        assert d.info['reader']['target'] == t and (d.meta.high_valence == v).all()

def test_a_run_that_stops_leaves_nothing(tree, monkeypatch):
    def full(*args, **kwargs): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(module, 'trial_windows', full)
    with pytest.raises(EmonbError, match='disk is full'): prepare_deap(Deap(tree), SIGNALS)
    assert not list((tree.parent/'cache').glob('prepared/*')) and not list((tree.parent/'cache').glob('prepared/.*'))

# features and memory --------------------------------------------------------------------------------------------------

def test_hand_features_measure_what_they_are_called(whole, cache):
    data = prepare_deap(Deap(whole, subjects='24'), SIGNALS, features=False)
    assert 'features' not in data.x
    t = np.arange(128)/128
    x = np.zeros((2, 40, 128), np.float32)
    x[:, 4] = 3*np.sin(2*np.pi*10*t)
    x[1, 4] *= 10
    x[:, 36] = 7 + t
    x += 1e-3*np.random.default_rng(0).standard_normal(x.shape)
    f = dict(zip(FEATURES, deap_features(data.subset([0, 1]).with_x(bio=x.astype(np.float32))).T))
    assert len(f) == 152 and np.isclose(f['FC5:alpha'][0], .5*np.log(2*np.pi*np.e*4.5), atol=1e-2)
    assert np.isclose(np.diff(f['FC5:alpha'])[0], np.log(10), atol=1e-3)
    assert f['FC5:alpha'][0] > max(f[f'FC5:{b}'][0] for b in ('theta', 'beta', 'gamma')) + 3
    assert np.isclose(f['GSR:mean'][0], 7 + t.mean(), atol=1e-2) and np.isclose(f['GSR:change'][0], 1/128, atol=2e-3)
    whole_set = prepare_deap(Deap(whole, subjects='24'), SIGNALS)
    assert whole_set.x['features'].dtype == np.float32
    assert np.array_equal(whole_set.x['features'], deap_features(whole_set, block=5))
    kept = prepare_deap(Deap(whole, subjects='24', target='arousal'), SIGNALS)
    assert isinstance(kept.x['features'], np.memmap) and kept.info['feature_names'] == FEATURES
    part = prepare_deap(Deap(whole, subjects='24'), SIGNALS).subset([3, 1])
    assert np.array_equal(part.x['features'], whole_set.x['features'][[3, 1]])

def test_one_subject_is_in_memory_at_a_time(tmp_path, cache):
    root = tmp_path/'deap'
    write_deap(root, DeapTwin(subjects=tuple(range(1, 7)), trials=10, seconds=20, files=('dat',)))
    one = (root/'data_preprocessed_python/s01.dat').stat().st_size
    # a damaged trial makes the set shorter than planned: cutting it must not read it whole either
    path = root/'data_preprocessed_python/s03.dat'
    reader = Deap(root, subjects='3')
    held = reader.load('s03')
    x, labels = held.data.copy(), held.labels.copy()
    x[4, 2, 9] = np.nan
    with open(path, 'wb') as f:
        for chunk in python2_pickle(dict(data=x, labels=labels)): f.write(chunk)
    del x, held, reader
    reader = Deap(root)
    tracemalloc.start()
    data = prepare_deap(reader, SIGNALS, features=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(data) == (6*10 - 1)*20 and peak < 2*one, f'{peak/one:.2f} subjects'
    assert len(load(data.x['bio'].filename.parent)) == len(data)

@pytest.mark.parametrize('folder', [None, 'mine'])
def test_files_never_seen_before_are_prepared_while_their_fingerprint_is_taken(tree, monkeypatch, folder):
    import time
    take = module.deap_key
    def slow(*args):
        time.sleep(.6)
        return take(*args)
    folder = folder and tree.parent/folder
    plain = prepare_deap(Deap(tree), SIGNALS, folder=tree.parent/'plain')
    monkeypatch.setattr(module, 'deap_key', slow)
    # the second finds the first's, however late it learns its name
    for _ in range(2):
        data = prepare_deap(Deap(tree), SIGNALS, folder=folder)
        assert data.info['fingerprint'] == take(Deap(tree), SIGNALS) and np.array_equal(data.x['bio'], plain.x['bio'])
    nothing_half_written(tree.parent)
    with pytest.raises(EmonbError) as e:
        prepare_deap(Deap(tree), replace(SIGNALS, baseline='off'), folder=tree.parent/'plain')
    one_sentence(e, 'plain', 'other files')
    def gone(*args):
        time.sleep(.4)
        raise SetError('a source is gone')
    monkeypatch.setattr(module, 'deap_key', gone)
    with pytest.raises(SetError): prepare_deap(Deap(tree), SIGNALS, folder=tree.parent/'third')
    assert not (tree.parent/'third').exists()
    nothing_half_written(tree.parent)
