"""Damaged files through every reader and door of emonb, each in a process with limits of memory and time.

    python tests/campaign.py                 200 mutations of each kind of file
    python tests/campaign.py -n 5000 -s 7    more of them, with other random numbers
    python tests/campaign.py --only dat,bdf  only these kinds
    python tests/campaign.py --keep          what must not be is added to tests/corpus.json
    python tests/campaign.py --told a.json   the counts are added to those in a file

The files are those of the package's own twins, as small as they can be written. What became of each is one of

    alike      the same value as from the whole file
    other      another value; no fault where the file has no checksum and the value is a possible one
    ours       one sentence of emonb's
    foreign    a traceback from inside a library, or memory that was asked for and not there
    death      the process ended
    hang       no end within the limit of time
    wrong      another value from a file with a checksum, or a value that cannot be
    poor       a sentence of several lines, or longer than a screen

The first three may be; the last five must not, and `tests/corpus.json` keeps what once ended so."""
import argparse
import base64
import collections
import contextlib
import functools
import gc
import hashlib
import importlib
import io
import itertools
import json
import os
import pickle
import random
import re
import resource
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path

CORPUS = Path(__file__).with_name('corpus.json')
MAY = ('alike', 'other', 'ours')
MUST_NOT = ('foreign', 'death', 'hang', 'wrong', 'poor')
MEMORY, SECONDS = 300, 10       # MB above what the imports took; s of the processor's time
AT_ONCE = 50                    # files that are read one after another in one fork


# the files ----------------------------------------------------------------------------------------------------------

@dataclass
class Door:
    "One kind of file: where it lies in its tree, and what reads it."
    name: str
    tree: Path
    victim: str
    read: object                  # tree → value
    sealed: bool = False          # another value than the whole file's is wrong
    possible: object = None       # value → whether it can be
    whole: bytes = field(default=b'', repr=False)
    digest: str = ''

    @property
    def path(self): return self.tree/self.victim


def plain(value) -> str:
    "A text that is the same for the same value."
    import numpy as np
    import pandas as pd
    if isinstance(value, np.ndarray): return f'{value.dtype}{value.shape}' + hashlib.sha256(value.tobytes()).hexdigest()
    if isinstance(value, pd.DataFrame): return plain(value.to_dict('list'))
    if isinstance(value, dict): return '{' + ','.join(sorted(f'{k!r}:{plain(v)}' for k, v in value.items())) + '}'
    if isinstance(value, (list, tuple)): return '[' + ','.join(map(plain, value)) + ']'
    if is_dataclass(value): return plain(vars(value))
    return repr(value)


def biff(table) -> bytes: return biff_rows([list(table), *table.itertuples(index=False)])

def biff_rows(rows) -> bytes:
    "Rows of words and numbers as the oldest .xls that is still read: one stream of records."
    def record(kind, body): return struct.pack('<HH', kind, len(body)) + body
    def cell(r, c, v):
        if isinstance(v, str): return record(4, struct.pack('<HH3sB', r, c, bytes(3), len(v)) + v.encode('latin-1'))
        return record(3, struct.pack('<HH3sd', r, c, bytes(3), v))
    cells = (cell(r, c, v) for r, row in enumerate(rows) for c, v in enumerate(row) if v is not None)
    return record(9, struct.pack('<HH', 7, 16)) + b''.join(cells) + record(10, b'')


def sheet():
    "A sheet in the form of CAS(ME)³'s Part A."
    import pandas as pd
    rows = [(f'spNO.{s}', 'abc'[k % 3], 100*k, 100*k + 5, 100*k + 9, '12' if k % 2 else '4+R12', 'I',
             'happy' if k % 2 else 'anger') for s in range(1, 4) for k in range(4)]
    return pd.DataFrame(rows, columns='Subject Filename Onset Apex Offset AU Objective_class emotion'.split())


def grown(box) -> list[Door]:
    "Every door, its tree written below `box`."
    doors = []
    for grow in (sheets, casme3_files, deap_files, wrist_files, flow_files, film_files, own_files, twins, kept_networks,
                 words):
        doors += grow(box)
    return doors


def sheets(box):
    from emonb.data.casme3 import annotations, read_tables
    from emonb.data.simulate import write_workbook
    out = []
    for ending in ('csv', 'xlsx', 'xls'):
        tree = box/f'sheet_{ending}'
        tree.mkdir(parents=True)
        table, path = sheet(), tree/f'sheet.{ending}'
        if ending == 'csv': table.to_csv(path, index=False)
        if ending == 'xlsx': write_workbook(path, table)
        if ending == 'xls': path.write_bytes(biff(table))
        out.append(Door(f'sheet.{ending}', tree, path.name, lambda t: vars(annotations(t, 'A', 4))))
        out.append(Door(f'table.{ending}', tree, path.name, lambda t, n=path.name: read_tables(t/n)))
    return out


def casme3_files(box):
    import cv2
    import numpy as np
    import pandas as pd

    from emonb.data.casme3 import CasMe3, read_color, read_depth, read_signals
    from emonb.data.simulate import Casme3Twin, write_casme3
    from emonb.signals.prepare import read_frames
    tree, t = box/'casme3', np.arange(600)/200
    tree.mkdir()
    mark = np.where((t > .5) & (t < .7), 5, 0)
    columns = np.c_[t/60, np.sin(7*t), np.sin(t), (1.2*t % 1) < .05, 5 + .01*t, mark]
    pd.DataFrame(columns).to_csv(tree/'01.txt', sep='\t', header=['min', 'PPG', 'RSP', 'ECG', 'EDA', 'mark'],
                                 index=False, float_format='%.6g')
    y, x = np.mgrid[:24, :32]
    cv2.imwrite(str(tree/'c.jpg'), np.dstack([5*x, 9*y, x*y % 200]).astype(np.uint8))
    cv2.imwrite(str(tree/'c.png'), np.dstack([5*x, 9*y, x*y % 200]).astype(np.uint8))
    cv2.imwrite(str(tree/'d.png'), (600 + x*y).astype(np.uint16))
    whole = box/'casme3_tree'
    write_casme3(whole, Casme3Twin(part='C', subjects=2, clips=4, size=(160, 120), gap_s=1., quirks=()))
    seen = CasMe3(whole, 'C')[0]
    victims = dict(sheet=next(whole.glob('*.xlsx')), txt=seen.signals.source, jpg=seen.frames['color'][1],
                   png=seen.frames['depth'][1])
    def clips(t):
        d = CasMe3(t, 'C')
        return [d.meta, d.audit(), [d[i] for i in range(len(d))]]
    def frames(t):
        rec, told = CasMe3(t, 'C')[0], []
        def tell(*defect): told.append(defect[1:])
        readers = dict(color=read_color, depth=read_depth)
        return [read_frames(rec.frames[k], read, tell) for k, read in readers.items()], told
    def possible(value): return all(finite(r.signals) for r in value[2] if r.signals)
    tree_doors = [Door(f'clips.{k}', whole, str(Path(v).relative_to(whole)), clips if k in ('sheet', 'txt') else frames,
                       possible=possible if k in ('sheet', 'txt') else None) for k, v in victims.items()]
    return [*tree_doors,
            Door('casme3.txt', tree, '01.txt', lambda t: read_signals(t/'01.txt'), possible=finite),
            Door('color.jpg', tree, 'c.jpg', lambda t: read_color(t/'c.jpg')),
            Door('color.png', tree, 'c.png', lambda t: read_color(t/'c.png')),
            Door('depth.png', tree, 'd.png', lambda t: read_depth(t/'d.png'))]


def finite(signals): return all(map(all_finite, signals.values.values()))
def all_finite(a):
    import numpy as np
    return bool(np.isfinite(a).all())


def deap_files(box):
    import numpy as np

    from emonb.data.deap import BdfSession, Deap, count_frames, load_arrays, read_ratings, video_frame
    from emonb.data.simulate_deap import DeapTwin, oracle_of, python2_pickle, write_deap
    from emonb.signals.faces import sample_video
    tree, out = box/'deap', []
    write_deap(tree, DeapTwin(subjects=(1,), trials=2, seconds=2, files=('dat', 'bdf', 'video'), size=(96, 72), fps=10,
                              quirks=False))
    video = sorted(p.relative_to(tree) for p in tree.rglob('*.avi'))[0]
    def trial(t):
        d = Deap(t, subjects=[1])
        return [d.meta, [d[i].signals for i in range(len(d))]]
    def raw(t): return BdfSession(t/'data_original/s01.bdf', 2).samples(1, 3, 2)
    def watched(t): return list(sample_video(t/video))
    def in_time(seen):
        times = [at for at, _ in seen]
        return times == sorted(times) and 0 <= times[0] and times[-1] < 3600
    def rated(table): return all(table[c].between(1, 9).all() for c in ('valence', 'arousal', 'dominance', 'liking'))
    out += [Door('s01.dat', tree, 'data_preprocessed_python/s01.dat', trial),
            Door('s01.bdf', tree, 'data_original/s01.bdf', raw, possible=all_finite),
            Door('trial.avi', tree, str(video), watched, possible=in_time),
            Door('frames.avi', tree, str(video), lambda t: [count_frames(t/video), video_frame(t/video, 3)]),
            Door('ratings.csv', tree, 'metadata_csv/participant_ratings.csv', read_ratings, possible=rated),
            Door('deap.marker', tree, 'SIMULATED.json', read_ratings),
            Door('deap.oracle', tree, 'SIMULATED.json', lambda t: oracle_of(t, ['s01_e01', 's01_e02']))]
    old = box/'deap_xls'
    shutil.copytree(tree, old, ignore=shutil.ignore_patterns('*.avi', '*.bdf'))
    import pandas as pd
    table = pd.read_csv(old/'metadata_csv/participant_ratings.csv')
    (old/'metadata_csv/participant_ratings.csv').unlink()
    (old/'metadata_xls').mkdir()
    (old/'metadata_xls/participant_ratings.xls').write_bytes(biff(table.astype(object).where(table.notna(), None)))
    out.append(Door('ratings.xls', old, 'metadata_xls/participant_ratings.xls', read_ratings, possible=rated))
    arrays = {'data': np.arange(6.).reshape(2, 3), 'labels': np.eye(2, dtype='>f4')}
    for k, data in {'2': pickle.dumps(arrays, 2), '4': pickle.dumps(arrays, 4), '5': pickle.dumps(arrays, 5),
                    'python2': b''.join(map(bytes, python2_pickle(arrays)))}.items():
        small = box/f'dat_{k}'
        small.mkdir()
        (small/'a.dat').write_bytes(data)
        out.append(Door(f'protocol{k}.dat', small, 'a.dat', lambda t: load_arrays(t/'a.dat')))
    return out


def wrist_files(box):
    import numpy as np

    from emonb.data.fmov import FmovTwin, read_small, read_tree, small_root, write_tree
    from emonb.data.stress_predict import LABELS, RATES, StressPredict
    tree, start = box/'wrist', 1_600_000_000
    for s in (1, 2):
        folder = tree/f'S{s:02d}'
        folder.mkdir(parents=True)
        for k, rate in RATES.items():
            values = np.sin(np.arange(int(240*rate))/rate/7)
            (folder/f'{k}.csv').write_text(f'{start:.2f}\n{rate:.6f}\n' + '\n'.join(f'{v:.3f}' for v in values) + '\n')
        (folder/f'tags_S{s:02d}.csv').write_text(f'{start + 5:.2f}\n')
    rows = [(s, start + t, t // 60 % 2) for s in (1, 2) for t in range(240)]
    lines = ''.join(f'{s},70,14,{t},{y}\n' for s, t, y in rows)
    (tree/LABELS).write_text('Participant,HR,respr,Time(sec),Label\n' + lines)
    def read(t):
        d = StressPredict(t, window_s=30.)
        return [d.meta, d.audit(), [d[i].signals for i in range(len(d))]]
    def possible(value): return all(all_finite(v) for s in value[2] for v in s.values.values())
    muscles = box/'fmov'
    write_tree(muscles, FmovTwin(people=1, gap=8.2))
    small = box/'fmov_small'
    shutil.copytree(small_root(), small)
    def events(e): return [e.x, e.table]
    return [Door('labels.csv', tree, LABELS, read, possible=possible),
            Door('EDA.csv', tree, 'S01/EDA.csv', read, possible=possible),
            Door('tags.csv', tree, 'S01/tags_S01.csv', read, possible=possible),
            Door('fmov.txt', muscles, 'FMOV/01_FMOV_preprocessed.txt', lambda t: events(read_tree(t)),
                 possible=lambda v: all_finite(v[0])),
            Door('fmov.npz', small, 'fmov.npz', lambda t: events(read_small(t)), sealed=True),
            Door('fmov.sha256', small, 'fmov.npz.sha256', lambda t: events(read_small(t)), sealed=True)]


def flow_files(box):
    from emonb.data.megc2019 import SHEET, FlowTwin, Megc2019, load_flow, oracle, write_megc2019
    tree = box/'megc2019'
    write_megc2019(tree, FlowTwin(people=1, clips=2, quirks=False))
    picture = sorted(p.relative_to(tree) for p in tree.rglob('*.png'))[0]
    os.environ['EMONB_CACHE'] = str(box/'cache')
    def read(t): return [Megc2019(t).meta, load_flow(Megc2019(t)).x]
    trials = Megc2019(tree).meta.trial.tolist()
    def truth(t): return oracle(t, trials)
    return [Door('flow.csv', tree, SHEET, read), Door('flow.png', tree, str(picture), read),
            Door('flow.truth', tree, 'truth.csv', truth)]


def film_files(box):
    from emonb.data.afew_va import AfewVa, AfewVaTwin, oracle, write_afew_va
    from emonb.signals.faces import face_crops
    tree = box/'afew_va'
    write_afew_va(tree, AfewVaTwin(clips=2, frames=2, size=(96, 96), quirks=False))
    meta = AfewVa(tree).meta
    def read(t):
        d = AfewVa(t)
        return [d.meta, d.landmarks, d.audit(), [d.picture(i) for i in range(len(d))]]
    def possible(value):
        return bool(value[0][['valence', 'arousal']].abs().le(10).all(axis=None)) and all_finite(value[1])
    cache = box/'film_cache'
    def cropped(t):
        os.environ['EMONB_CACHE'] = str(cache)
        c = face_crops(AfewVa(tree))
        return [c.x, c.meta]
    cropped(cache)
    crops = next(cache.rglob('*.npz')).relative_to(cache)
    def picture(t): return [AfewVa(t).picture(1), AfewVa(t).audit()]
    return [Door('clip.json', tree, '001/001.json', read, possible=possible),
            Door('clip.picture', tree, '001/00001.png', picture),
            Door('film.truth', tree, 'truth.csv', lambda t: oracle(t, meta)),
            Door('crops.npz', cache, str(crops), cropped, sealed=True),
            Door('crops.sha256', cache, f'{crops}.sha256', cropped, sealed=True)]


def own_files(box):
    "What emonb itself writes: a prepared set, rows of folds, hashes, kept files, the twins' truth."
    import numpy as np
    import pandas as pd

    from emonb.core import fingerprint, kept_file
    from emonb.data.recordings import cached, from_arrays, kept_array, load, save, write_array
    from emonb.data.simulate import Casme3Twin, read_truth, write_casme3
    from emonb.study.results import Store
    from emonb.study.settled import read_looks, read_settled, settled_path
    tree = box/'prepared'
    table = pd.DataFrame(dict(subject=list('aabb'), label=[0, 1, 0, 1]))
    save(from_arrays(dict(features=np.arange(12, dtype='float32').reshape(4, 3)), table, provenance='simulated'), tree)
    def prepared_of(d): return [d.x, d.meta, d.classes, d.provenance]
    def prepared(t): return prepared_of(load(t))
    out = [Door(f'prepared.{f.split(".")[-1]}', tree, f, prepared, sealed=True)
           for f in ('header.json', 'features.npy', 'meta.parquet')]
    again = box/'cached'
    def found(t): return prepared_of(cached(t/'set', lambda p: save(load(tree), p)))
    found(again)
    out += [Door(f'cached.{f.split(".")[-1]}', again, f'set/{f}', found, sealed=True)
            for f in ('header.json', 'features.npy', 'meta.parquet')]
    one = box/'array'
    def array(t): return np.array(kept_array(t/'a.npy', lambda p: write_array(p, np.arange(9.))))
    array(one)
    out += [Door('array.npy', one, 'a.npy', array, sealed=True),
            Door('array.sha256', one, 'a.npy.sha256', array, sealed=True)]
    known = box/'settled'
    known.mkdir()
    shutil.copy(settled_path(), known/'settled.json')
    shutil.copy(settled_path().with_name('looks.csv'), known/'looks.csv')
    out += [Door('settled.json', known, 'settled.json', lambda t: read_settled(t/'settled.json')),
            Door('looks.csv', known, 'looks.csv', lambda t: read_looks(t/'looks.csv'))]
    rows = box/'rows'
    store = Store(rows)
    store.put('0'*16, dict(model='m', protocol='loso', fold='a', seed=0), pd.DataFrame(dict(row=[0], y=[1], yhat=[1])))
    row, predicted = next((rows/'rows').iterdir()), next((rows/'predictions').iterdir())
    def kept(t):
        s = Store(t)
        found = s.predictions('0'*16) if s.has('0'*16) else 'made anew'
        return [found, s.rows()]
    def possible(value): return isinstance(value[0], str) or value[0].values.tolist() == [[0, 1, 1]]
    out += [Door('row.json', rows, str(row.relative_to(rows)), kept, possible=possible),
            Door('predictions.parquet', rows, str(predicted.relative_to(rows)), kept, possible=possible)]
    hashes = box/'hashes'
    hashes.mkdir()
    (hashes/'a').write_text('a')
    def hashed(t):
        os.environ['EMONB_CACHE'] = str(t)
        return fingerprint([t/'a'])
    hashed(hashes)
    out.append(Door('sha256.json', hashes, 'sha256.json', hashed, sealed=True))
    beside = box/'kept'
    beside.mkdir()
    def held(t): return kept_file(t/'b', lambda p: p.write_bytes(b'b')).read_bytes()
    held(beside)
    out += [Door('kept file', beside, 'b', held, sealed=True),
            Door('kept.sha256', beside, 'b.sha256', held, sealed=True)]
    twin = box/'casme3_twin'
    write_casme3(twin, Casme3Twin(part='A', subjects=2, clips=8, size=(160, 120), quirks=()))
    out += [Door('casme3.truth', twin, 'truth.csv', lambda t: list(map(plain, read_truth(t)))),
            Door('casme3.marker', twin, 'SIMULATED.json', lambda t: list(map(plain, read_truth(t))))]
    return out


def twins(box):
    "The markers of simulated sets: what they say of themselves, and whether a set is whole or is written anew."
    from dataclasses import asdict

    from emonb.core import write_json
    from emonb.data.afew_va import AfewVaTwin
    from emonb.data.fmov import FmovTwin
    from emonb.data.megc2019 import FlowTwin
    from emonb.data.recordings import MARKER
    from emonb.data.twins import settings_of, twin_root
    out = []
    for kind in (AfewVaTwin, FlowTwin, FmovTwin):
        tree = box/f'marker_{kind.__name__}'
        write_json(tree/MARKER, dict(settings=asdict(kind()), version=1, files=1))
        out.append(Door(f'{kind.__name__}.marker', tree, MARKER, lambda t, kind=kind: settings_of(t, kind)))
    def write(root, s):
        root.mkdir(parents=True)
        write_json(root/MARKER, dict(settings=json.loads(json.dumps(asdict(s))), files=1))
    def again(t): return [(t/MARKER).name, twin_root('small', FmovTwin(), write, t.parent).name]
    whole = twin_root('small', FmovTwin(), write, box/'written')
    return [*out, Door('twin.marker', whole, MARKER, again)]


def kept_networks(box):
    "A network that was kept with its card, one of scikit-learn, and the weights of a face CNN."
    import numpy as np
    import pandas as pd
    import torch

    from emonb.data.recordings import from_arrays
    from emonb.models.face_net import AffectCNN, FaceNet, load_cnn, save_weights
    from emonb.models.registry import create_model, entry, load_model, save_model
    from emonb.study.networks import Networks, load_network
    from emonb.study.splits import make_splits
    from emonb.study.train import Recipe
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    table = pd.DataFrame(dict(subject=[*'aaaabbbb'], label=[0, 1]*4))
    data = from_arrays(dict(physio=rng.normal(size=(8, 2, 64)).astype('float32')), table, provenance='simulated')
    recipe = Recipe(entry('psnet').maker(num_classes=2, in_chans=2, length=64), inputs=('physio',), epochs=1)
    split = make_splits(data.meta, 'loso')[0]
    kept = Networks(box/'kept_networks')
    kept.fit('psnet', '0'*16, split, 0)(data, split, recipe, 0)
    folder = next((box/'kept_networks').rglob('fold.json')).parent
    def network(t):
        n = load_network(t)
        return [n.said, n.predict(data, [0, 1]), [v.numpy() for v in n.model.state_dict().values()]]
    out = [Door(f'network {f}', folder, f, network, sealed=True)
           for f in ('fold.json', 'model.json', 'model.safetensors', 'scaling.safetensors')]
    line = create_model('features')
    line.fit(rng.normal(size=(8, 3)), [0, 1]*4)
    save_model(line, box/'line')
    def estimator(t): return load_model(t).predict_proba(np.zeros((1, 3)))
    out += [Door(f'estimator {f}', box/'line', f, estimator, sealed=True) for f in ('model.json', 'model.safetensors')]
    path = save_weights(AffectCNN(), box/'weights', 'simulated', dict(clips=1))
    def weights(t):
        net = FaceNet()
        return [load_cnn(net, t/path.name, quiet=True), [v.numpy() for v in net.cnn.state_dict().values()]]
    def usable(value): return all(all_finite(v) for v in value[1])
    return [*out, Door('face.safetensors', box/'weights', path.name, weights, possible=usable)]


def words(box):
    "What stands on a command line or in the files it names."
    from emonb.command import mapping_of, text_of
    tree = box/'words'
    tree.mkdir()
    (tree/'a.yaml').write_text('dataset: casme3\nepochs: 3\nlr: 1.0e-3\nmore: [1, 2, {a: b}]\nlast: &x [1]\nmost: *x\n')
    return [Door('a.yaml', tree, 'a.yaml', lambda t: mapping_of(text_of(t/'a.yaml'), 'a.yaml'))]


# what is done to them -----------------------------------------------------------------------------------------------

ODD = [b'', b'-1', b'0', b'nan', b'inf', b'1e2147483648', b'1e4294967297', b'9'*40, b'1.5', b'1,5', b'\xb2', b'0x1f',
       b'1_0', b'\x00', b'\n', b'"', b'[', b'{}', b'null', b'\xff\xfe', '\u200b'.encode(), b',', b'\t', b';', b'True',
       b'1e400', b'-0']
SIZES = [0, 1, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff]


def place(rng, data, near=0) -> int:
    "A place in the data; half of them near the beginning or the end."
    n = max(1, len(data))
    if near or rng.random() < .4: return min(n - 1, int(rng.expovariate(1/60)))
    return n - 1 - min(n - 1, int(rng.expovariate(1/60))) if rng.random() < .25 else rng.randrange(n)


def flip(rng, data, others):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 3, 9))):
        if data: data[place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(data)

def put(rng, data, others):
    at = place(rng, data)
    many = b'\xff'*rng.choice((1, 4, 8))
    new = rng.choice((bytes([rng.randrange(256)]), bytes(rng.choice((1, 4, 64))), many, rng.choice(ODD)))
    return data[:at] + new + data[at + len(new)*rng.randrange(2):]

def cut(rng, data, others):
    a = place(rng, data)
    return data[:a] if rng.random() < .4 else data[:a] + data[a + 1 + int(rng.expovariate(1/40)):]

def repeat(rng, data, others):
    a = place(rng, data)
    b = a + 1 + int(rng.expovariate(1/40))
    return data[:b] + data[a:b]*rng.choice((1, 1, 2, 9, 200)) + data[b:]

def splice(rng, data, others):
    other = rng.choice(others)
    a, b = place(rng, data), place(rng, other)
    part = other[b:b + 1 + int(rng.expovariate(1/60))]
    return data[:a] + part + data[a + len(part)*rng.randrange(2):]

def size(rng, data, others):
    "Four or two bytes as another number, as sizes in headers are written."
    at, n, order = place(rng, data, rng.random() < .6), rng.choice((1, 2, 4, 8)), rng.choice(('little', 'big'))
    return data[:at] + (rng.choice(SIZES) & (256**n - 1)).to_bytes(n, order) + data[at + n:]

def number(rng, data, others):
    "One number of a text as something else."
    found = list(itertools.islice(re.finditer(rb'[-+.\d]+', data), 4000))
    if not found: return put(rng, data, others)
    m = found[min(len(found) - 1, int(rng.expovariate(1/20)))] if rng.random() < .5 else rng.choice(found)
    return data[:m.start()] + rng.choice(ODD) + data[m.end():]

def cells(rng, data, others):
    "Two cells or two rows of a text change places."
    mark = rng.choice((b'\n', b',', b'\t', b';', b'"', b': '))
    parts = data.split(mark)
    i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
    parts[i], parts[j] = parts[j], parts[i]
    return mark.join(parts)

PLAIN = (flip, put, cut, repeat, splice, size, number, cells)


def packed(rng, data, others):
    "A member of a zip is changed, and the zip is whole again."
    with zipfile.ZipFile(io.BytesIO(data)) as z: members = {name: z.read(name) for name in z.namelist()}
    name, out = rng.choice(sorted(members)), io.BytesIO()
    if rng.random() < .05: del members[name]
    else: members[name] = rng.choice(PLAIN)(rng, members[name], [*members.values()])
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as z:
        for n, d in members.items(): z.writestr(n, d)
    return out.getvalue()

def chunked(rng, data, others):
    "A chunk of a png is changed, and its checksum is right again."
    at, chunks = 8, []
    while at + 12 <= len(data):
        n = int.from_bytes(data[at:at+4], 'big')
        chunks.append([data[at+4:at+8], data[at+8:at+8+n]])
        at += n + 12
    k = rng.randrange(len(chunks)) if rng.random() < .5 else 0
    chunks[k][1] = rng.choice((flip, put, size))(rng, chunks[k][1], others)
    def number(n): return n.to_bytes(4, 'big')
    def whole(kind, body): return number(len(body)) + kind + body + number(zlib.crc32(kind + body))
    return data[:8] + b''.join(whole(*chunk) for chunk in chunks)


def mutated(rng, door, others) -> bytes:
    data = door.whole
    own = chunked if data.startswith(b'\x89PNG') else packed if data.startswith(b'PK') and not door.sealed else None
    if own and rng.random() < .7: return own(rng, data, others)
    for _ in range(rng.choice((1, 1, 1, 2, 4))): data = rng.choice(PLAIN)(rng, data, others)
    return data


# one read, in a process of its own ----------------------------------------------------------------------------------

def innermost(error) -> str:
    "Where a traceback ends, and the last line of emonb's in it."
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if '/emonb/' in f.filename]
    def told(f): return f'{Path(f.filename).name}:{f.name}'
    return ' < '.join(dict.fromkeys(map(told, [*frames[-1:], *ours[-1:]])))


def judged(door) -> tuple[str, str]:
    "What becomes of the file that lies at the door now."
    from emonb.core import EmonbError
    try:
        with contextlib.redirect_stdout(io.StringIO()): value = door.read(door.tree)
        said = plain(value)
    except EmonbError as e:
        text = str(e)
        return ('ours' if text and '\n' not in text and len(text) < 1000 else 'poor'), text[:300]
    except BaseException as e:
        return 'foreign', f'{type(e).__name__} in {innermost(e)}: {str(e)[:100]}'
    if hashlib.sha256(said.encode()).hexdigest() == door.digest: return 'alike', ''
    if door.sealed: return 'wrong', 'another value than the sealed one'
    if door.possible and not door.possible(value): return 'wrong', 'a value that cannot be'
    return 'other', ''


def limited(memory, seconds):
    "From now on this process may take so many MB more, and so many s of the processor's time more."
    used = resource.getrusage(resource.RUSAGE_SELF)
    end = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (end, resource.RLIM_INFINITY))
    if not memory: return
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    room = pages*os.sysconf('SC_PAGE_SIZE') + memory*2**20
    resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))


class Child:
    """A fork of this process that does a job as often as it is asked to, and is replaced where it ended.

    Each time it may take so many MB more than before, and so many s of the processor's time."""
    def __init__(self, job, memory=MEMORY, seconds=SECONDS):
        self.job, self.memory, self.seconds, self.number = job, memory, seconds, None

    def start(self):
        ask, self.to = os.pipe()
        self.at, tell = os.pipe()
        self.number = os.fork()
        if self.number:
            for end in (ask, tell): os.close(end)
            return
        with contextlib.suppress(BaseException):
            for end in (self.to, self.at): os.close(end)
            nothing = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2): os.dup2(nothing, stream)        # what libraries write past Python
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            while os.read(ask, 1):
                limited(self.memory, self.seconds)
                said = json.dumps(self.job()).encode()
                said = len(said).to_bytes(4, 'little') + said
                while said: said = said[os.write(tell, said):]
        os._exit(0)

    def told(self, n) -> bytes|None:
        "n bytes of what the fork tells; b'' where it ended before, None where nothing came in time."
        said, end = b'', time.monotonic() + 60*self.seconds
        while len(said) < n:
            if not select.select([self.at], [], [], max(0, end - time.monotonic()))[0]: return None
            part = os.read(self.at, n - len(said))
            if not part: return b''
            said += part
        return said

    def ask(self) -> tuple:
        "What the job gives; or ('death', why), ('hang', why) where the fork ended."
        if self.number is None: self.start()
        os.write(self.to, b'.')
        size = self.told(4)
        said = size and self.told(int.from_bytes(size, 'little'))
        if said: return tuple(json.loads(said))
        if said is None: os.kill(self.number, signal.SIGKILL)
        status = self.end()
        if -status in (signal.SIGXCPU, signal.SIGKILL): return 'hang', f'no end within {self.seconds} s'
        return 'death', f'signal {-status}' if status < 0 else f'nothing said, status {status}'

    def end(self) -> int:
        for end in (self.to, self.at): os.close(end)
        status, self.number = os.waitstatus_to_exitcode(os.waitpid(self.number, 0)[1]), None
        return status

    def __enter__(self): return self
    def __exit__(self, *_):
        if self.number is not None: self.end()


def in_child(job, memory=MEMORY, seconds=SECONDS) -> tuple:
    "What a job gives that is done once, in a fork."
    with Child(job, memory, seconds) as child: return child.ask()


@contextlib.contextmanager
def put_back(door):
    "The tree of a door is as it was in the end."
    several = door.sealed or 'row' in door.name or 'predictions' in door.name      # files that are set aside together
    beside = {p: p.read_bytes() for p in door.path.parent.iterdir() if p.is_file()} if several else {}
    def back():
        aside = [Path(d)/f for d, folders, files in os.walk(door.tree) for f in folders + files if '.damaged-' in f]
        for p in aside: shutil.rmtree(p) if p.is_dir() else p.unlink(missing_ok=True)
        door.path.parent.mkdir(parents=True, exist_ok=True)
        for p, whole in beside.items(): p.write_bytes(whole)
        door.path.write_bytes(door.whole)
    try: yield back
    finally: back()


@contextlib.contextmanager
def trying(door):
    "A function: bytes → what becomes of them in the place of the door's file. The tree is as it was in the end."
    with put_back(door) as back, Child(functools.partial(judged, door)) as child:
        def tried(data:bytes) -> tuple[str, str]:
            back()
            door.path.write_bytes(data)
            return child.ask()
        yield tried


def opened(box) -> list[Door]:
    "The doors with what the whole files give."
    with contextlib.redirect_stdout(io.StringIO()): doors = grown(box)
    def whole(d):
        before = set(sys.modules)
        return hashlib.sha256(plain(d.read(d.tree)).encode()).hexdigest(), sorted(set(sys.modules) - before)
    for d in doors:
        d.whole = d.path.read_bytes()
        d.digest, needs = in_child(lambda d=d: whole(d), memory=0)
        if d.digest in ('death', 'hang'): raise SystemExit(f'{d.name}: the whole file does not read ({needs})')
        for name in needs:                                         # before the forks, so that none pays for it
            with contextlib.suppress(ImportError): importlib.import_module(name)
    gc.collect()
    gc.freeze()
    return doors


# a campaign ---------------------------------------------------------------------------------------------------------

def of_one_kind(doors) -> dict:
    "Door → the whole files of all doors whose names end alike."
    return {d.name: [o.whole for o in doors if o.name.split('.')[-1] == d.name.split('.')[-1]] for d in doors}


def campaign(doors, n:int, seed:int, until=None):
    "n mutations of each door's file: (door, data, what became of it, what was said) each."
    alike = of_one_kind(doors)
    for first in range(0, n, AT_ONCE):
        for d in doors:
            if until and time.monotonic() > until: return
            with trying(d) as tried:
                for k in range(first, min(n, first + AT_ONCE)):
                    data = mutated(random.Random(f'{seed} {d.name} {k}'), d, alike[d.name])
                    yield d, data, *tried(data)


def again(doors):
    "The same of everything in the corpus."
    for d in doors:
        with trying(d) as tried:
            for e in read_corpus():
                if e['door'] == d.name: yield d, unpacked(e), *tried(unpacked(e))


def cause(kind, said) -> str:
    "What is the same of findings with one cause."
    return re.sub(r'0x[0-9a-f]+|[0-9]+|/\S+', '…', f'{kind}: {said}')[:120]


def read_corpus() -> list[dict]:
    return json.loads(CORPUS.read_text()) if CORPUS.exists() else []


def unpacked(entry) -> bytes: return zlib.decompress(base64.b85decode(entry['data']))


def add_counts(path, seed, counts):
    "Add the counts of a campaign to those in a file; those of the corpus among them."
    known = json.loads(path.read_text()) if path.exists() else dict(seeds=[], doors={})
    for (name, kind), v in counts.items():
        at = known['doors'].setdefault(name, dict.fromkeys((*MAY, *MUST_NOT), 0))
        at[kind] += v
    path.write_text(json.dumps(dict(known, seeds=[*known['seeds'], seed])) + '\n')


def show(counts):
    "A line a door: how many of its files ended how."
    kinds, doors = (*MAY, *MUST_NOT), list(dict.fromkeys(name for name, _ in counts))
    print(f"{'':28}" + ''.join(f'{k:>9}' for k in kinds))
    for name in doors: print(f'{name:28}' + ''.join(f'{counts[name, k] or "":>9}' for k in kinds))
    print(f"{'all':28}" + ''.join(f'{sum(counts[name, k] for name in doors):>9}' for k in kinds))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('-n', type=int, default=200, help='mutations of each kind of file')
    p.add_argument('-s', '--seed', type=int, default=0)
    p.add_argument('-t', '--seconds', type=float, default=0, help='stop after so many seconds')
    p.add_argument('--only', default='', help='kinds of file, with commas')
    p.add_argument('--told', default='', help='a JSON file to whose counts these are added')
    p.add_argument('--keep', action='store_true', help='add what must not be to the corpus, one of each cause')
    a = p.parse_args()
    counts, causes, new = collections.Counter(), collections.Counter(), []
    known = {(e['door'], e['why']) for e in read_corpus()}
    with tempfile.TemporaryDirectory(prefix='emonb-campaign-') as tmp:
        doors = opened(Path(tmp))
        wanted = [d for d in doors if not a.only or any(w in d.name for w in a.only.split(','))]
        until = time.monotonic() + a.seconds if a.seconds else None
        for d, data, kind, said in itertools.chain(again(wanted), campaign(wanted, a.n, a.seed, until)):
            counts[d.name, kind] += 1
            if kind in MAY: continue
            why = cause(kind, said)
            causes[d.name, why] += 1
            if a.keep and (d.name, why) not in known and len(packed_data := zlib.compress(data, 9)) < 6000:
                known.add((d.name, why))
                new.append(dict(door=d.name, why=why, data=base64.b85encode(packed_data).decode()))
    if new: CORPUS.write_text(json.dumps(read_corpus() + new, indent=0) + '\n')
    if a.told: add_counts(Path(a.told), a.seed, counts)
    show(counts)
    for (name, why), v in causes.most_common(): print(f'{v:5}  {name}: {why}')
    return any(counts[key] for key in counts if key[1] in MUST_NOT)


if __name__ == '__main__': sys.exit(main())
