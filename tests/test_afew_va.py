"""AFEW-VA and pretraining.

Bad input, a fuzzed reader, actors kept apart, learning above the floor, weights into the networks. All files are
SIMULATED."""
import ast
import json
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import NBS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from emonb.core import DataError, EmonbError, SetError
from emonb.data.afew_va import AfewVa, AfewVaTwin, oracle, read_clip, simulated_afew_va_root, truth_table, write_afew_va
from emonb.data.people import UNEXPLAINED
from emonb.data.recordings import MARKER
from emonb.experiments import afew_va
from emonb.experiments.afew_va import PARAMETERS, check_parameters, companions, hold_out, open_set, run
from emonb.models.deep_fusion import DeepFusion
from emonb.models.face_net import AffectCNN, FaceNet, load_cnn, predict_affect, save_weights, train_affect, weights_note
from emonb.signals.faces import crop_face, face_crops
from emonb.study import report
from emonb.study.metrics import agreement, difference

TINY = AfewVaTwin(clips=5, frames=4, actors=3, quirks=False, seed=4)

@pytest.fixture(scope='module')
def whole(tmp_path_factory): return write_afew_va(tmp_path_factory.mktemp('afew')/'afew_va', TINY)

@pytest.fixture
def tree(whole, tmp_path): return shutil.copytree(whole, tmp_path/'afew_va')

@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch): monkeypatch.setenv('EMONB_CACHE', str(tmp_path/'cache'))

def refuses(match, call, *args, kind=DataError, **kwargs):
    "The call ends in one sentence that matches and says what to do."
    with pytest.raises(kind, match=match) as e: call(*args, **kwargs)
    assert '\n' not in str(e.value) and ';' in str(e.value) and len(str(e.value)) < 500
    return str(e.value)

def edit(path, change):
    "Rewrite a clip's JSON after `change(its dict)`."
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))

# the reader -----------------------------------------------------------------------------------------------------------

def test_a_whole_tree_is_read_as_it_was_written(whole):
    data, truth = AfewVa(whole), truth_table(TINY)
    assert data.provenance == 'simulated' and not len(data.audit()) and len(data) == 20
    columns = ['clip', 'actor', 'frame', 'valence', 'arousal']
    assert data.meta[columns].astype({'valence': int, 'arousal': int}).equals(truth[columns])
    assert all(p.stem == f'{n:05d}' and p.parent.name == c
               for p, n, c in zip(data.paths, data.meta.frame, data.meta['clip']))
    for i in (0, 7, 19): assert data.picture(i).shape == (168, 224, 3)

def test_layouts_of_copies(tree, tmp_path):
    nested = tmp_path/'nested/AFEW-VA'
    for p in sorted(tree.glob('[0-9]*')): shutil.move(p, nested/('01' if p.name < '003' else '02')/p.name)
    (nested/'01/001_cropped').mkdir()
    shutil.copy(nested/'01/001/00000.png', nested/'01/001_cropped/00000.png')
    (nested/'.DS_Store').write_bytes(b'x')
    data = AfewVa(nested)
    # no marker: nobody says it is simulated
    assert len(data) == 20 and data.provenance == 'real'
    assert set(data.audit().query("action == 'ignored'").file) == {'01/001_cropped', '.DS_Store'}
    # a part of the set may be read
    assert '595 of 600 clips are not here (first 006)' in set(data.audit().defect)
    assert len(AfewVa(nested, strict=True)) == 20
    assert len(AfewVa(nested.parent)) == 20

def test_without_an_actor_the_clip_is_the_group(tree):
    for p in tree.glob('0*/0*.json'): edit(p, lambda d: d.pop('actor'))
    data = AfewVa(tree)
    assert data.meta.group.nunique() == data.meta['clip'].nunique() == 5

def spoil_frame(key, **change): return lambda d: d['frames'][key].update(change)

FRAME_FAULTS = {'no valence': lambda d: d['frames']['00002'].pop('valence'),
                'no landmarks': lambda d: d['frames']['00002'].pop('landmarks'),
                'NaN or infinite': spoil_frame('00002', arousal=float('nan')),
                "arousal is 'x'": spoil_frame('00002', arousal='x'),
                "valence is 'True'": spoil_frame('00002', valence=True),
                'outside −10 to 10': spoil_frame('00002', valence=-10.5),
                '49 landmarks': lambda d: d['frames']['00002'].update(landmarks=d['frames']['00002']['landmarks'][:49]),
                'pairs of numbers': spoil_frame('00002', landmarks=[[1, 2], [3]]),
                'a landmark is NaN': lambda d: d['frames']['00002']['landmarks'].__setitem__(40, [float('inf'), 3]),
                'both eyes': spoil_frame('00002', landmarks=[[9, 9]]*68),
                'not an object': lambda d: d['frames'].__setitem__('00002', 7)}

@pytest.mark.parametrize('fault', FRAME_FAULTS)
def test_a_faulty_frame_is_left_out_and_named(tree, fault):
    edit(tree/'002/002.json', FRAME_FAULTS[fault])
    data = AfewVa(tree)
    assert len(data) == 19 and not ((data.meta['clip'] == '002') & (data.meta.frame == 2)).any()
    row = data.audit().iloc[0]
    assert (row.file, row.row, row.action) == ('002/002.json', 'frame 00002', 'frame left out') and fault in row.defect
    assert '002.json, frame 00002' in refuses(fault.replace('(', r'\('), AfewVa, tree, strict=True)

KILLERS = ['1' + '0'*400, '-1' + '0'*400, '1e2147483648', '1e4294967297', '1e400', 'Infinity', 'NaN', '"5"',
           '"1e2147483648"', '[5]', '{}', 'true', 'null', '9'*5000]

def test_no_number_of_an_annotation_ends_the_process(tree):
    "In a process of its own, each as a rating and as a landmark's coordinate: the frame is left out and named."
    path = tree/'002/002.json'
    said = path.read_text()
    code = """if True:
        import json, sys
        from pathlib import Path
        from emonb.data.afew_va import AfewVa
        root, texts = sys.argv[1], json.load(sys.stdin)
        for text in texts:
            (Path(root)/'002/002.json').write_text(text)
            data = AfewVa(root)
            print(json.dumps([len(data), data.audit().row.tolist(), data.account()['frame']]))
    """
    frame = json.loads(said)['frames']['00001']
    rating = [said.replace(f'"valence": {frame["valence"]}', f'"valence": {k}', 1) for k in KILLERS]
    place = [said.replace(f'{frame["landmarks"][7][0]}', k, 1) for k in KILLERS]
    assert said not in rating + place
    call, texts = [sys.executable, '-c', code, str(tree)], json.dumps(rating + place)
    done = subprocess.run(call, input=texts, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 2*len(KILLERS)
    for killer, (n, rows, account) in zip(KILLERS*2, found):
        whole_clip = killer == '9'*5000                                       # Python itself reads no number so long
        assert (n, len(rows)) == ((16, 1) if whole_clip else (19, 1)) and account['used'] == n, killer
        assert UNEXPLAINED not in account['left_out'], killer
        assert rows[0].startswith('clip' if whole_clip else 'frame 0000'), killer

def balanced(account):
    "The account, if every actor, clip and frame is there or left out for a stated reason."
    for unit, a in account.items():
        assert a['found'] == a['used'] + sum(a['left_out'].values()) and UNEXPLAINED not in a['left_out'], (unit, a)
    return account

def test_spellings_of_one_actor_stay_on_one_side(tree):
    "The twin's clips 001 and 004 show actor 1, 002 and 005 actor 2."
    plain = AfewVa(tree)
    for clip, name in (('004', 'Actor  1'), ('005', 'actor\u200b 2'), ('003', 'actor 02')):
        edit(tree/clip/f'{clip}.json', lambda d, name=name: d.update(actor=name))
    data = AfewVa(tree)
    groups = data.meta.groupby('clip').group.first().to_dict()
    assert groups == {'001': 'actor 1', '002': 'actor 2', '003': 'actor 02', '004': 'actor 1', '005': 'actor 2'}
    said = data.audit().defect
    assert said.str.contains('one person spelled').sum() == 2
    assert said.str.contains("near names .*'actor 02'").sum() == 1
    people = [balanced(d.account())['person'] for d in (data, plain)]
    assert people == [dict(found=3, used=3, left_out={})]*2
    faces = face_crops(data)
    for seed in range(10):
        test = hold_out(faces.groups, .4, seed)
        assert not {*faces.meta['clip'][test]} & {*faces.meta['clip'][~test]}
        assert len({*test[faces.meta['clip'].isin(['001', '004'])]}) == 1
    loose = data.meta.actor.to_numpy()                                        # the names in the files are safe, too
    assert all(len({*hold_out(loose, .4, seed)[data.meta['clip'].isin(['001', '004'])]}) == 1 for seed in range(10))

@pytest.mark.parametrize('actor', ['', ' ', '\u200b', None, [], 0])
def test_an_actor_without_a_name_is_none(tree, actor):
    for p in tree.glob('0*/0*.json'): edit(p, lambda d: d.update(actor=actor))
    assert AfewVa(tree).meta.group.unique().tolist() == [f'clip 00{k}' for k in range(1, 6)]

def test_every_actor_clip_and_frame_is_accounted_for(tree):
    every = dict(person=3, clip=5, frame=20)
    assert balanced(AfewVa(tree).account()) == {unit: dict(found=n, used=n, left_out={}) for unit, n in every.items()}
    (tree/'001/00003.png').unlink()
    shutil.copy(tree/'001/00000.png', tree/'001/00099.png')
    (tree/'001/cover.jpg').write_bytes(b'x')
    (tree/'002/00000.png').write_bytes(b'no picture')
    edit(tree/'002/002.json', spoil_frame('00002', valence=11))
    (tree/'003/003.json').write_text('{')                                     # the only clip of actor 3
    for k in range(4): edit(tree/'004/004.json', spoil_frame(f'{k:05d}', landmarks=[]))
    shutil.copytree(tree/'005', tree/'clip5')
    (tree/'clip5/005.json').rename(tree/'clip5/clip5.json')
    edit(tree/'clip5/clip5.json', lambda d: d.pop('video_id'))
    (tree/'005').rename(tree/' 005')
    (tree/' 005/005.json').rename(tree/' 005/ 005.json')
    data = AfewVa(tree)
    account = balanced(data.account())
    name, unread = 'its name is not three digits', 'annotation cannot be used'
    assert account['person'] == dict(found=3, used=2, left_out={unread: 1})
    assert account['clip'] == dict(found=6, used=3, left_out={unread: 1, name: 1, 'none of its frames can be used': 1})
    spoilt = {'no annotation names it': 1, 'no picture, or none of its name': 1,
              'rating or landmarks cannot be used': 1 + 4}
    assert account['frame'] == dict(found=6*4 + 1, used=3 + 3 + 4, left_out={unread: 4, name: 4, **spoilt})
    faces = balanced(face_crops(data).account)
    assert faces['frame']['used'] == account['frame']['used'] - 1
    assert faces['frame']['left_out']['picture cannot be read'] == 1
    assert balanced(face_crops(data).account) == faces                        # from the cache
    some = balanced(AfewVa(tree, every=2, clips=2).account())
    assert some['clip']['left_out']['not chosen'] == 3 and some['frame']['left_out']['not chosen'] > 8

def test_an_actor_of_whom_no_picture_opens_is_accounted_for(tree):
    for p in tree.glob('003/*.png'): p.write_bytes(b'')
    account = balanced(face_crops(AfewVa(tree)).account)
    why = {'picture cannot be read': 1}
    assert account['person'] == dict(found=3, used=2, left_out=why) and account['frame']['used'] == 16
    assert account['clip'] == dict(found=5, used=4, left_out=why)

def test_a_reader_that_forgets_shows_in_the_account(whole):
    assert AfewVa(whole).account(rows=range(1, 20))['frame']['left_out'] == {UNEXPLAINED: 1}

def test_pictures_missing_unrated_and_stray(tree):
    (tree/'001/00003.png').unlink()
    shutil.copy(tree/'001/00000.png', tree/'001/00099.png')
    (tree/'003/Thumbs.db').write_bytes(b'x')
    audit = AfewVa(tree).audit()
    assert list(zip(audit.file, audit.action)) == [('001/001.json', 'frame left out'), ('001/00099.png', 'ignored'),
                                                   ('003/Thumbs.db', 'ignored')]
    # a name that leads elsewhere
    edit(tree/'004/004.json', lambda d: d['frames'].update({'../../001/00000': d['frames']['00000']}))
    assert AfewVa(tree).audit().defect.str.contains('not a number').sum() == 1

@pytest.mark.parametrize('content, match',
                         [('', 'not readable as JSON'), ('[1, 2]', 'no frames'), ('{"video_id": "001"}', 'no frames'),
                          ('{"frames": {}}', 'no frames'), ('{"frames": [1]}', 'no frames'),
                          ('\udcff', 'not readable as JSON'), ('['*100_000, 'not readable as JSON')])
def test_a_faulty_annotation_leaves_out_its_clip(tree, content, match):
    (tree/'003/003.json').write_bytes(content.encode('utf-8', 'surrogateescape'))
    data = AfewVa(tree)
    assert len(data) == 16 and match in data.audit().defect[0] and data.audit().action[0] == 'clip left out'
    refuses(match, AfewVa, tree, strict=True)

def test_ratings_of_another_clip_are_not_taken(tree):
    shutil.copy(tree/'001/001.json', tree/'002/002.json')
    assert "'001'" in AfewVa(tree).audit().defect[0] and '002' not in set(AfewVa(tree).meta['clip'])
    (tree/'005/005.json').unlink()
    assert 'missing' in AfewVa(tree).audit().defect[1]

def test_sets_that_are_none(tmp_path, tree):
    refuses('no such folder', AfewVa, tmp_path/'x', kind=SetError)
    (tmp_path/'empty').mkdir()
    refuses('no clip folder', AfewVa, tmp_path/'empty', kind=SetError)
    (tmp_path/'empty/07.zip').write_bytes(b'PK')
    refuses('1 zip', AfewVa, tmp_path/'empty', kind=SetError)
    shutil.copytree(tree/'001', tree/'01/001')
    refuses('twice', AfewVa, tree, kind=SetError)
    shutil.rmtree(tree/'01')
    for p in tree.glob('0*/*.json'): p.write_text('{')
    refuses('not readable as JSON', AfewVa, tree, kind=SetError)

def test_damaged_and_resized_pictures(tree):
    (tree/'001/00000.png').write_bytes((tree/'001/00000.png').read_bytes()[:300])
    (tree/'001/00001.png').write_bytes(b'')
    import cv2
    small = cv2.resize(cv2.imread(str(tree/'001/00002.png')), (40, 30))
    cv2.imwrite(str(tree/'001/00002.png'), small)
    data = AfewVa(tree)
    for i, match in ((0, 'the png is cut off'), (1, 'the file is empty'), (2, 'of one size')):
        assert 'clip 001' in refuses(match, data.picture, i)
    faces = face_crops(data)
    assert len(faces.x) == 17 and [d['row'] for d in faces.defects] == [f'clip 001, frame {k}' for k in range(3)]
    refuses('the png is cut off', face_crops, data, strict=True)
    for p in tree.glob('0*/*.png'): p.write_bytes(b'no picture')
    refuses('neither a jpg nor a png', face_crops, AfewVa(tree), kind=SetError)

NAMES = st.sampled_from(['frames', '00000', '00001', 'valence', 'arousal', 'landmarks', 'video_id', 'actor'])
JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.integers(-20, 20) | st.text(max_size=5),
                    lambda c: st.lists(c, max_size=4) | st.dictionaries(NAMES, c, max_size=5), max_leaves=20)

@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=JSON.map(lambda o: json.dumps(o).encode()) | st.binary(max_size=200))
def test_any_annotation_is_read_or_listed(whole, tmp_path, content):
    clip = tmp_path/'fuzz/001'
    shutil.rmtree(clip, ignore_errors=True)
    shutil.copytree(whole/'001', clip)
    (clip/'001.json').write_bytes(content)
    rows, points, defects = read_clip(clip)
    assert len(rows) == len(points) and (rows or defects)
    try: AfewVa(clip.parent)
    except SetError as e: assert '\n' not in str(e)

@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 2000), where=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_any_picture_is_read_or_refused(whole, tmp_path, cut, where, byte):
    root = tmp_path/'pictures'
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(whole/'001', root/'001')
    content = bytearray((root/'001/00000.png').read_bytes())
    content[where % len(content)] = byte
    (root/'001/00000.png').write_bytes(bytes(content[:len(content) - cut] if cut % 2 else content))
    try: assert AfewVa(root).picture(0).dtype == np.uint8
    except DataError as e: assert '00000.png' in str(e)

# crops, split, agreement ----------------------------------------------------------------------------------------------

def test_crops_are_level_and_belong_to_their_ratings(whole):
    data = AfewVa(whole)
    faces = face_crops(data)
    for i in (0, 9, 19):
        assert np.array_equal(faces.x[i], crop_face(data.picture(i), data.landmarks[i]).transpose(2, 0, 1))
        assert np.allclose(faces.y[i]*10, [faces.meta.valence[i], faces.meta.arousal[i]])
    assert np.array_equal(face_crops(data).x, faces.x)                                     # from the cache
    assert face_crops(data, aspect=1.2).fingerprint != faces.fingerprint
    assert face_crops(data, aspect=1.2).x.shape == faces.x.shape

def test_a_changed_picture_is_never_served_from_the_cache(tree):
    was = face_crops(AfewVa(tree))
    shutil.copy(tree/'001/00001.png', tree/'001/00000.png')
    now = face_crops(AfewVa(tree))
    assert now.fingerprint != was.fingerprint and not np.array_equal(now.x[0], was.x[0])
    assert np.array_equal(now.x[1], was.x[1])

def test_no_actor_is_on_both_sides():
    groups = np.array(['a']*9 + ['b']*3 + ['c']*5 + ['d'])
    for seed in range(20):
        test = hold_out(groups, .3, seed)
        assert 0 < test.sum() < len(test) and not set(groups[test]) & set(groups[~test])
    assert len({tuple(hold_out(groups, .3, s)) for s in range(20)}) > 1
    with pytest.raises(EmonbError, match='nothing can be held out'): hold_out(['a', 'a'])

def test_agreement_by_hand():
    rng = np.random.default_rng(1)
    y = rng.uniform(-1, 1, (200, 2))
    p = .5*y + .2*rng.normal(size=y.shape)
    who = np.repeat(np.arange(20), 10)
    s = agreement(y, p, who, n=500)
    for k, name in enumerate(('valence', 'arousal')):
        a, b = y[:, k], p[:, k]
        ccc = 2*np.mean((a - a.mean())*(b - b.mean()))/(a.var() + b.var() + (a.mean() - b.mean())**2)
        assert s[name]['CCC']['value'] == pytest.approx(ccc)
        assert s[name]['RMSE']['value'] == pytest.approx(np.sqrt(np.mean((y - p)[:, k]**2)))
        assert s[name]['CCC']['low'] < ccc < s[name]['CCC']['high']
    same = difference(y, p, p, who, n=200)['valence']
    assert same['value'] == 0 == same['low'] == same['high']

# learning -------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A network trained on the twin, with its held-out faces."
    root = write_afew_va(tmp_path_factory.mktemp('learn')/'afew_va',
                         AfewVaTwin(clips=240, frames=2, actors=240, noise=.05, tilt=3., quirks=False))
    with pytest.MonkeyPatch.context() as m:
        m.setenv('EMONB_CACHE', str(root.parent/'cache'))
        faces = face_crops(AfewVa(root))
    test = hold_out(faces.groups, .3)
    net, losses = train_affect(faces.x[~test], faces.y[~test], epochs=10)
    return root, faces, test, net, losses

def test_training_beats_the_floor_on_actors_never_seen(trained):
    root, faces, test, net, losses = trained
    y, who = faces.y[test], faces.groups[test]
    guess, beside = predict_affect(net, faces.x[test]), companions(faces, test)
    floor = beside['mean rating of the training part'][1]
    gain, model, top = difference(y, guess, floor,
                                  who), agreement(y, guess, who), agreement(y, oracle(root, faces.meta[test]), who)
    assert losses[-1] < .8*losses[0]
    assert all(gain[k]['low'] > 0 for k in gain), gain
    # and nothing beats the truth
    assert all(model[k]['CCC']['value'] < top[k]['CCC']['value'] for k in model)
    rng = np.random.default_rng(0)
    shuffled = agreement(y, guess[rng.permutation(len(guess))], who)
    assert all(abs(shuffled[k]['CCC']['value']) < .3 for k in shuffled)

def test_same_seed_same_weights(trained):
    _, faces, _, _, _ = trained
    a, b, c = (train_affect(faces.x[:40], faces.y[:40], epochs=1, seed=s)[0] for s in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))
    assert not torch.equal(a.head.weight, c.head.weight)

# weights --------------------------------------------------------------------------------------------------------------

def test_weights_reach_the_face_net_and_the_fusion(trained, tmp_path, capsys):
    _, faces, _, net, _ = trained
    path = save_weights(net, tmp_path, faces.provenance, dict(epochs=10, fingerprint=faces.fingerprint))
    assert 'SIMULATED' in path.name and weights_note(path)['provenance'] == 'simulated'
    assert weights_note(path)['epochs'] == 10
    assert save_weights(net, tmp_path, 'real', {}).name == 'face_cnn.safetensors'
    for target in (FaceNet(), DeepFusion(modalities=('bio', 'face'))):
        assert 'SIMULATED' in load_cnn(target, path) and 'SIMULATED' in capsys.readouterr().out
        cnn = (target.parts['face'] if hasattr(target, 'parts') else target).cnn
        assert all(torch.equal(cnn.state_dict()[k], v) for k, v in load_file(path).items())
    assert load_cnn(FaceNet(), tmp_path/'face_cnn.safetensors') == 'pretrained (AFEW-VA)'
    # chapter 42's own way reads them too
    assert DeepFusion(modalities=('face',)).load_face(path) != 'random'

def test_missing_and_wrong_weights(tmp_path, capsys):
    net = FaceNet()
    before = [p.clone() for p in net.cnn.parameters()]
    assert load_cnn(net, tmp_path/'none.safetensors') == 'random' == net.weights
    assert 'random weights' in capsys.readouterr().out
    path = AffectCNN().save_cnn(tmp_path/'good.safetensors')
    (tmp_path/'cut.safetensors').write_bytes(path.read_bytes()[:900])
    (tmp_path/'text.safetensors').write_text('weights')
    save_file({'layers.0.weight': torch.zeros(3)}, tmp_path/'other.safetensors')
    save_file({k: v for k, v in load_file(path).items() if 'weight' in k}, tmp_path/'part.safetensors')
    for name, match in (('cut', 'not a readable safetensors'), ('text', 'not a readable safetensors'),
                        ('other', 'another network'), ('part', 'another network')):
        refuses(match, load_cnn, net, tmp_path/f'{name}.safetensors')
    good = load_file(path)
    for k, spoilt in enumerate((float('nan'), float('inf'), -float('inf'))):
        name = list(good)[k]
        bad = good[name].clone()
        bad.view(-1)[0] = spoilt
        save_file({**good, name: bad}, tmp_path/'spoilt.safetensors')
        for target in (net, DeepFusion(modalities=('bio', 'face'))):
            said = refuses('tensor .* NaN or infinity', load_cnn, target, tmp_path/'spoilt.safetensors')
            assert name in said and 'spoilt.safetensors: ' in said
    assert all(torch.equal(a, b) for a, b in zip(before, net.cnn.parameters()))                # nothing half-loaded
    assert load_cnn(net, path) == 'pretrained (source not stated)'

# the run --------------------------------------------------------------------------------------------------------------

def test_the_notebook_has_the_parameters_of_the_table():
    nb = nbformat.read(NBS/'89_pretrain_face.ipynb', as_version=4)
    cell = next(c for c in nb.cells if 'parameters' in c.metadata.get('tags', []))
    given = {n.target.id: (n.annotation.id, ast.literal_eval(n.value)) for n in ast.parse(cell.source).body}
    assert given == {k: (type(d).__name__, d) for k, (d, _, _) in PARAMETERS.items()}
    assert all('#' in line for line in cell.source.splitlines()) and not any(c.get('outputs') for c in nb.cells)

def test_unknown_names_and_values():
    for wrong, match in ((dict(epoch=2), 'epochs'), (dict(source='twin'), 'simulated'), (dict(epochs=1.5), 'whole'),
                         (dict(held_out=0.), 'between'), (dict(lr=0.), 'default'), (dict(strict=1.5), 'False, True'),
                         (dict(clips=-1), '0 or more')):
        with pytest.raises(EmonbError, match=match): check_parameters(wrong)
    with pytest.raises(EmonbError, match='outt'): check_parameters(dict(outt='x', epochs=2))

def test_where_the_set_is_looked_for(whole, tmp_path, monkeypatch):
    (tmp_path/'settings.ini').write_text('lib_name = emonb')
    monkeypatch.chdir(tmp_path)
    refuses('not there', open_set, check_parameters(dict(source='real')), kind=SetError)
    refuses('source=real', open_set, check_parameters(dict(source='real', root=str(whole))), kind=SetError)
    assert open_set(check_parameters(dict(root=str(whole)))).provenance == 'simulated'
    twin = open_set(check_parameters(dict(clips=4)))
    assert twin.root.parent == tmp_path/'data/simulated' and (twin.root/MARKER).exists()
    assert twin.meta['clip'].nunique() == 4
    monkeypatch.setenv('EMONB_DATA', str(tmp_path/'sets'))
    (tmp_path/'sets/afew_va').mkdir(parents=True)
    refuses('empty', open_set, check_parameters({}), kind=SetError)                             # asked for, so no twin
    shutil.copytree(whole/'001', tmp_path/'sets/afew_va/001')
    assert open_set(check_parameters({})).provenance == 'real'
    refuses('not a simulated twin', open_set,
            check_parameters(dict(source='simulated', root=str(tmp_path/'sets/afew_va'))), kind=SetError)
    assert simulated_afew_va_root(TINY, tmp_path/'base') == simulated_afew_va_root(TINY, tmp_path/'base')

def test_a_whole_run(whole, tmp_path, capsys):
    def once(name): return run(dict(root=str(whole), out=str(tmp_path/name), epochs=1, device='cpu'))
    r, again = once('a'), once('b')
    said = json.loads((tmp_path/'a/summary.json').read_text())
    assert said['provenance'] == 'simulated' and said['parameters']['epochs'] == 1
    assert said['seconds'] > 0 and 'SIMULATED' in (tmp_path/'a/tables.md').read_text()
    assert set(said['metrics']) == {'valence', 'arousal'}
    assert set(said['metrics']['valence']['CCC']) == {'value', 'low', 'high'} and said['floors']
    assert said['oracle']
    rows = pd.read_parquet(tmp_path/'a/predictions.parquet')
    assert len(rows) == said['n'] == r.test.sum() and (rows.provenance == 'simulated').all()
    assert all((tmp_path/'a'/f).stat().st_size > 0
               for f in ('face_cnn_SIMULATED.safetensors', 'scatter.png', 'faces.png'))
    a, b = (load_file(tmp_path/n/'face_cnn_SIMULATED.safetensors') for n in 'ab')
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert np.array_equal(r.entries[0]['prediction'], again.entries[0]['prediction'])
    for show in (afew_va.show_setting, afew_va.show_tables, report.show_figures, report.show_provenance): show(r)
    assert capsys.readouterr().out.count('SIMULATED') >= 6

def test_nothing_half_written_is_left(tree, tmp_path):
    run(dict(root=str(tree), out=str(tmp_path/'out'), epochs=1, device='cpu'))
    for p in tree.glob('0*/*.png'): p.write_bytes(b'')
    with pytest.raises(SetError): run(dict(root=str(tree), out=str(tmp_path/'out'), epochs=1, device='cpu'))
    # an old summary would speak for the failed run
    assert not (tmp_path/'out/summary.json').exists()
