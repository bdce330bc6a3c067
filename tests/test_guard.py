"Damaged files, disks that fill up or cannot be written, killed runs: a sentence each, and nothing left behind."
import contextlib
import os
import resource
import shutil
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import campaign
import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from emonb.core import EmonbError, Parameters, at_work, run_lock, sweep, temporary_folder, write_json, writing
from emonb.data.casme3 import read_color, read_depth, read_tables
from emonb.data.deap import read_dat
from emonb.data.recordings import PreparedWriter, from_arrays, save
from emonb.data.stress_predict import StressPredict
from emonb.signals.faces import sample_video
from emonb.signals.prepare import PrepareSettings, prepare

SETTINGS = PrepareSettings(modalities=('physio',), signals=('EDA', 'BVP'), rate=16., window='clip')


def script(name, *args, limit=900):
    "A script of tests/ in a process of its own."
    env = dict(os.environ, PYTHONPATH=str(ROOT), MALLOC_ARENA_MAX='1')
    call = [sys.executable, str(ROOT/'tests'/name), *map(str, args)]
    return subprocess.run(call, capture_output=True, text=True, env=env, cwd=ROOT, timeout=limit)


linux = pytest.mark.skipif(not Path('/proc/self/statm').exists(),
                           reason='a child and its limit of memory are known on Linux')
SEED = os.environ.get('EMONB_SEED', 0)

@linux
@pytest.mark.parametrize('name,few', [('campaign.py', 25), ('strange.py', 12)])
def test_damaged_and_strange_files_end_in_a_sentence(name, few):
    "Some files for every door, and all that ever went wrong. EMONB_CAMPAIGN=1000: so many for each door."
    more = os.environ.get('EMONB_CAMPAIGN')
    done = script(name, '-n', more or few, '-s', SEED, limit=None if more else 900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert 'sheet.xlsx' in done.stdout and 'face.safetensors' in done.stdout

@linux
def test_a_disk_that_fails_at_any_change_of_a_file():
    "Some moments of the shortest run on four kinds of disk; `python tests/disks.py --every 1` takes all."
    done = script('disks.py', '--every', 25, '--first', 3, '--disks', 'full,once,gone,read-only')
    assert done.returncode == 0 and '0 faults' in done.stdout, done.stdout[-4000:] + done.stderr[-2000:]

@linux
def test_killed_runs_lose_nothing():
    "A few kills of two kinds of run; `python tests/kills.py -n 100` takes all kinds."
    done = script('kills.py', '-n', 4, '-s', SEED, '--only', 'wrist,fmov')
    assert done.returncode == 0 and ' 0 faults' in done.stdout, done.stdout[-4000:] + done.stderr[-2000:]


# sizes that a header promises -------------------------------------------------------------------------------

def png(width, height, depth, colour, rows):
    def number(n): return n.to_bytes(4, 'big')
    def chunk(kind, data): return number(len(data)) + kind + data + number(zlib.crc32(kind + data))
    head = struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(rows, 9)) + chunk(b'IEND', b'')


def ends_in_a_sentence(read, match):
    "In a process that may take 300 MB and a second of the processor's time."
    def job():
        start = time.process_time()
        try: read()
        except EmonbError as e: return ('ours' if time.process_time() - start < 1 else 'slow'), str(e)
        return 'read', ''
    kind, said = campaign.in_child(job, memory=300, seconds=1)
    assert kind == 'ours' and match in said, (kind, said)


def test_a_picture_that_promises_too_much(tmp_path):
    (tmp_path/'a.png').write_bytes(png(30_000, 30_000, 8, 0, bytes(30_001)*30_000))
    assert (tmp_path/'a.png').stat().st_size < 2e6
    for read in (read_color, read_depth):
        ends_in_a_sentence(lambda read=read: read(tmp_path/'a.png'), 'promises 900,000,000 pixels')
    small = cv2.imencode('.jpg', np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    at = small.index(b'\xff\xc0')
    for before in (b'', b'junk', b'\xff\xff', b'\xff\xfe\x00\x06note'):
        (tmp_path/'a.jpg').write_bytes(small[:at] + before + small[at:at+5] + b'\xea\x60\xea\x60' + small[at+9:])
        ends_in_a_sentence(lambda: read_color(tmp_path/'a.jpg'), 'promises 3,600,000,000 pixels')


def workbook(path, change):
    "A workbook whose sheet's XML is changed."
    pd.DataFrame(dict(Subject=['S01', 'S02'], Onset=[7, 8])).to_excel(path, index=False)
    with zipfile.ZipFile(path) as z: parts = {n: z.read(n) for n in z.namelist()}
    parts['xl/worksheets/sheet1.xml'] = change(parts['xl/worksheets/sheet1.xml'])
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z:
        for n, d in parts.items(): z.writestr(n, d)
    return path


SHEETS = {
    'a last cell far away': (lambda x: x.replace(b'"B3"', b'"XFD1048576"'), 'row 1,048,576'),
    'the same by an entity': (lambda x: x.replace(b'"B3"', b'"&#88;FD1048576"'), 'row 1,048,576'),
    'a row far away': (lambda x: x.replace(b'<row r="3"', b'<row r="99999999999999999"'), 'row 99,999,999,999,999,999'),
    'a zip bomb': (lambda x: x + b' '*2**27, 'unpacks to more than'),
    'half a million rows': (lambda x: x.replace(b'</sheetData>', b'<row/>'*2**19 + b'</sheetData>'), 'elements'),
    'cut': (lambda x: x[:len(x)//2], 'cannot be read as a table'),
    'another encoding': (lambda x: b'<?xml version="1.0" encoding="x-none"?>' + x, 'cannot be read as a table')}

@pytest.mark.parametrize('what', SHEETS)
def test_a_workbook_that_promises_too_much(tmp_path, what):
    change, match = SHEETS[what]
    path = workbook(tmp_path/'a.xlsx', change)
    ends_in_a_sentence(lambda: read_tables(path), match)


def test_an_xls_that_promises_too_much(tmp_path):
    (tmp_path/'a.xls').write_bytes(campaign.biff(campaign.sheet()))
    assert [len(t) for t in read_tables(tmp_path/'a.xls').values()] == [12]
    def cell(r, c): return struct.pack('<HHHH3sd', 3, 15, r, c, bytes(3), 1.)
    data = campaign.biff(campaign.sheet())
    (tmp_path/'a.xls').write_bytes(data[:-4] + cell(16383, 255) + data[-4:])
    ends_in_a_sentence(lambda: read_tables(tmp_path/'a.xls'), 'row 16,384, column 256')


# hostile pickles --------------------------------------------------------------------------------------------

def shared(depth, open, close):
    "Each level holds the one below twice."
    return b'\x80\x02' + open + b''.join(b'q' + bytes([k]) + close(k) for k in range(depth)) + b'.'

ARRAY = b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R'
MANY = b'(\x8a\xff' + b'\x7f'*255 + b'q\x01' + b'h\x01'*100_000
STATE = b'(K\x01' + MANY + b'tcnumpy\ndtype\nU\x02f8K\x00K\x01\x87R\x89U\x00tb.'
NESTED = b''.join(b'q' + bytes([k]) + b'h' + bytes([k]) + b'\x86' for k in range(40))
AGAIN = b'c_codecs\nencode\nq\x00X\x00\x00\x40\x00' + b'a'*2**22 + b'q\x010'
NAMED = b'c_codecs\nencode\nX\x00\x00\x40\x00' + b'a'*2**22 + b'q\x00h\x00\x86R.'
HOSTILE = {
    'empty dicts without end': (b'\x80\x02(' + b'}'*2_000_000 + b'l.', '200,000 steps'),
    'references without end': (b'\x80\x02(]q\x00' + b'h\x00'*1_000_000 + b'l.', '200,000 steps'),
    'a shape of many huge numbers': (b'\x80\x02' + ARRAY + STATE, 'a shape that no array has'),
    'a key of 40 levels, each twice': (b'\x80\x02})' + NESTED + b'K\x01s.', 'a key in it is neither text nor a number'),
    '22 levels of a dict, each twice': (
        shared(22, b'}', lambda k: b'}U\x01ah' + bytes([k]) + b'sU\x01bh' + bytes([k]) + b's'), 'no array named'),
    'four megabytes encoded 500 times': (b'\x80\x02' + AGAIN + b'h\x00h\x01\x85R'*500 + b'.',
                                         'more bytes than it holds'),
    'an encoding of four megabytes': (b'\x80\x02' + NAMED, 'a.dat: '),
    'lists in lists': (b'\x80\x02' + b']'*90_000 + b'a'*89_999 + b'.', 'a.dat: '),
    'tuples in tuples': (b'\x80\x02)' + b'\x85'*150_000 + b'.', 'a.dat: '),
    'pairs of pairs': (shared(60, b']', lambda k: b'h' + bytes([k]) + b'\x86'), 'a.dat: ')}

@pytest.mark.parametrize('what', HOSTILE)
def test_a_hostile_pickle_ends_within_a_second(tmp_path, what):
    code, match = HOSTILE[what]
    (tmp_path/'a.dat').write_bytes(code)
    ends_in_a_sentence(lambda: read_dat(tmp_path/'a.dat'), match)


# the clock of a video ---------------------------------------------------------------------------------------

def video(path, n=40, fps=10):
    "A video whose frame k has the grey value 5 k + 20."
    out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), fps, (96, 72))
    for k in range(n): out.write(np.full((72, 96, 3), 5*k + 20, np.uint8))
    out.release()
    return path


def without(path, gone):
    "The video with some frames dropped, as a camera drops them: their place in the file is empty."
    data = path.read_bytes()
    start = at = data.index(b'movi') + 4
    body, index, k = b'', b'', 0
    while data[at:at+4] == b'00dc':
        n = struct.unpack('<I', data[at+4:at+8])[0]
        piece = b'00dc' + (bytes(4) if k in gone else data[at+4:at+8+n+n % 2])
        index += b'00dc' + struct.pack('<III', 16, 4 + len(body), 0 if k in gone else n)
        body, at, k = body + piece, at + 8 + n + n % 2, k + 1
    body = struct.pack('<I', len(body) + 4) + b'movi' + body
    data = data[:start-8] + body + b'idx1' + struct.pack('<I', len(index)) + index
    path.write_bytes(data[:4] + struct.pack('<I', len(data) - 8) + data[8:])
    return path


def test_a_dropped_frame_moves_no_other(tmp_path):
    def seen(path, fps): return [(round(t, 6), round((frame.mean() - 20)/5)) for t, frame in sample_video(path, fps)]
    whole = seen(video(tmp_path/'a.avi'), 5)
    assert [t for t, _ in whole] == [round(k/5, 6) for k in range(20)]
    assert all(abs(k - 10*t) <= 1 for t, k in whole)
    fewer = seen(without(video(tmp_path/'b.avi'), {4, 5, 6, 7, 8, 9, 10, 11, 25}), 5)
    assert all(abs(k - 10*t) <= 1 for t, k in fewer)                 # each picture is still shown at its own time
    assert [t for t, _ in fewer] == [0., .2, 1.2, *[round(k/5, 6) for k in range(7, 20)]]


def test_a_video_of_hours_is_refused(tmp_path):
    path = video(tmp_path/'a.avi')
    data = bytearray(path.read_bytes())
    at = data.index(b'strh') + 8 + 20                                # scale and rate of the stream
    data[at:at+8] = struct.pack('<II', 1000, 1)
    path.write_bytes(data)
    ends_in_a_sentence(lambda: list(sample_video(path)), 'more than 3600 s')


# disks ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def wrist(tmp_path_factory):
    "Two people's wrist recordings."
    box = tmp_path_factory.mktemp('wrist')
    campaign.wrist_files(box)
    return box/'wrist'


@pytest.fixture
def disk(tmp_path):
    "size in kB → a folder on a disk of its own of that size; skipped where nobody may mount one."
    mounted = []
    def make(size):
        place = tmp_path/f'disk{size}'
        place.mkdir()
        call = ['mount', '-t', 'tmpfs', '-o', f'size={size}k', 'tmpfs', str(place)]
        if not shutil.which('mount') or subprocess.run(call, capture_output=True).returncode:
            pytest.skip('no disk of its own can be mounted here')
        mounted.append(place)
        return place
    yield make
    for place in mounted: subprocess.run(['umount', '-l', str(place)], check=True)


def left(folder): return [p.name for p in folder.rglob('*') if p.name.endswith(('.tmp', '.kept', '.making', '.part'))]


def test_a_disk_that_fills_while_preparing(wrist, disk, monkeypatch):
    "At every size the set is prepared, or a sentence says that the disk is full, and nothing is left."
    reader, ends = StressPredict(wrist, window_s=30.), set()
    for size in (4, 12, 20, 24, 28, 32, 36, 40, 48, 64, 96, 200):
        place = disk(size)
        monkeypatch.setenv('EMONB_CACHE', str(place))
        try: ends.add(len(prepare(reader, SETTINGS)))
        except EmonbError as e:
            assert 'the disk is full' in str(e) and '\n' not in str(e)
            ends.add('full')
        assert not left(place)
    assert ends == {'full', len(reader)}


def test_a_disk_that_fills_in_a_run(wrist, disk, tmp_path, monkeypatch):
    "The same for everything that a run writes; where there is room enough, the numbers are those of any disk."
    from emonb.experiments.by_name import run
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('EMONB_CACHE', str(tmp_path/'cache'))
    given = dict(dataset='stress_predict', model='features', root=str(wrist), protocol='loso', workers=1, options='')
    whole, ends = run(dict(given, out=str(tmp_path/'out'))).main.predictions, set()
    for size in (4, 12, 20, 28, 36, 44, 60, 100, 400):
        place = disk(size)
        try: ends.add(run(dict(given, out=str(place/'out'))).main.predictions.equals(whole))
        except EmonbError as e:
            assert 'the disk is full' in str(e) and '\n' not in str(e)
            ends.add('full')
        assert not left(place)
    assert ends == {True, 'full'}


def test_files_that_may_not_grow(wrist, tmp_path):
    "Where no disk can be mounted: a limit on a file's size says the same."
    def job():
        os.environ['EMONB_CACHE'] = str(tmp_path/'cache')
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try: prepare(StressPredict(wrist, window_s=30.), SETTINGS)
        except EmonbError as e: return 'ours', str(e)
        return 'made', ''
    kind, said = campaign.in_child(job, memory=0)
    assert kind == 'ours' and 'cannot be written (File too large)' in said and not left(tmp_path)


@pytest.mark.parametrize('size', range(1, 9))
def test_a_prepared_set_on_a_disk_that_fills(size, disk):
    "A mapped array finds no room: a sentence, where the process once died."
    place = disk(4*size)
    with contextlib.suppress(EmonbError):
        with PreparedWriter(place/'set', dict(features=(8, 512))) as w:
            w['features'][:] = 1
            columns = dict(subject='a', trial=[*map(str, range(8))], stimulus='x', order=0, start_s=0., length_s=0.)
            table = pd.DataFrame(dict(columns, label=[0, 1]*4))
            w.finish(table, ['n', 'y'], 'simulated', {})
    assert not left(place) and [p.name for p in place.iterdir()] in ([], ['set'])


def test_a_disk_that_is_read_only(wrist, disk, monkeypatch):
    place = disk(1000)
    monkeypatch.setenv('EMONB_CACHE', str(place))
    subprocess.run(['mount', '-o', 'remount,ro', str(place)], check=True)
    reader, table = StressPredict(wrist, window_s=30.), pd.DataFrame(dict(subject=['a', 'b'], label=[0, 1]))
    doors = {'cache': lambda: prepare(reader, SETTINGS), 'json': lambda: write_json(place/'a.json', {}),
             'lock': lambda: run_lock(place/'out').__enter__(),
             'set': lambda: save(from_arrays(np.zeros((2, 3)), table), place/'set')}
    for door in doors.values():
        with pytest.raises(EmonbError, match='Read-only file system'): door()
    monkeypatch.setenv('EMONB_CACHE', str(place/'deeper'))
    with pytest.raises(EmonbError, match='Read-only file system'): prepare(reader, SETTINGS)


def test_a_folder_that_vanishes(tmp_path):
    out = tmp_path/'out'
    with pytest.raises(EmonbError, match='out: cannot be written .*start the same command again'), \
            at_work(Parameters(dict(out=str(out)))) as job:
        shutil.rmtree(job.out)
        (job.out/'rows'/'a').write_text('x')


def test_an_error_of_another_file_is_not_the_disks(tmp_path):
    with pytest.raises(FileNotFoundError), writing(tmp_path/'a'): open('/no/such/recording')


# what killed processes leave --------------------------------------------------------------------------------

LEAVES = """
import os, signal, sys
from pathlib import Path
from emonb.core import atomic_path, temporary_folder
from emonb.data.recordings import PreparedWriter
w = PreparedWriter(Path(sys.argv[1])/'set', dict(features=(4, 3)))
with atomic_path(Path(sys.argv[1])/'row.json') as tmp, temporary_folder() as d:
    tmp.write_text('half a r')
    print(d, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""

def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, monkeypatch):
    cache, temp = tmp_path/'cache', tmp_path/'tmp'
    for p in (cache, temp): p.mkdir()
    env = dict(os.environ, PYTHONPATH=str(ROOT), TMPDIR=str(temp))
    killed = subprocess.run([sys.executable, '-c', LEAVES, str(cache)], env=env, capture_output=True, text=True)
    assert killed.returncode == -9 and len(left(cache)) == 2 and len(left(temp)) == 1, killed.stderr
    alive = cache/f'.other.{left(cache)[0].split(".")[-2].split("-")[0]}-{os.getpid()}.tmp'
    alive.write_text('of a process that lives')
    elsewhere = cache/'.other.00000000-1.tmp'
    elsewhere.write_text('of another machine')
    monkeypatch.setattr('tempfile.tempdir', str(temp))
    sweep.cache_clear()
    save(from_arrays(np.zeros((2, 3)), pd.DataFrame(dict(subject=['a', 'b'], label=[0, 1]))), cache/'set')
    with temporary_folder(): pass
    assert {p.name for p in cache.iterdir()} == {'set', alive.name, elsewhere.name} and not left(temp)


WORKER = """
import os, signal
import numpy as np
class Dies:
    classes_ = np.array([0, 1])
    def fit(self, x, y): os.kill(os.getpid(), signal.SIGKILL)
"""

def test_a_killed_worker_is_a_sentence(tmp_path, monkeypatch):
    from emonb.study.splits import make_splits
    from emonb.study.train import Recipe, run_folds
    (tmp_path/'its_worker.py').write_text(WORKER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv('PYTHONPATH', f'{tmp_path}{os.pathsep}{ROOT}')
    from its_worker import Dies
    table = pd.DataFrame(dict(subject=[*'aabbccdd'], label=[0, 1]*4))
    data, job = from_arrays(np.zeros((8, 3)), table, provenance='simulated'), Parameters(dict(out=str(tmp_path/'out')))
    with pytest.raises(EmonbError, match='a worker process was ended from outside'), at_work(job):
        run_folds(data, make_splits(data.meta, 'loso'), Recipe(Dies, inputs=('features',)), workers=2)


# what a command names, and what a file is not -----------------------------------------------------------------

WORDS = {'nobodyatall': dict(root='~nobodyatall/set'), 'nobodyatall ': dict(out='~nobodyatall/out'),
         'is a file|Not a directory|File exists': dict(out='a_file'), 'seed': dict(seeds='²'),
         'seeds': dict(seeds='9'*5000), 'cpu:x': dict(device='cpu:x'), 'folds': dict(folds='')}

@pytest.mark.parametrize('match', WORDS)
def test_a_word_that_nobody_can_mean(wrist, tmp_path, monkeypatch, match):
    from emonb.experiments.by_name import run
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('EMONB_CACHE', str(tmp_path/'cache'))
    (tmp_path/'a_file').write_text('')
    given = dict(dataset='stress_predict', model='features', root=str(wrist), protocol='loso', workers=1, options='',
                 out='out')
    given |= WORDS[match]
    with pytest.raises(EmonbError, match=match.strip()) as e: run(given)
    assert '\n' not in str(e.value)


def test_weights_that_nobody_trained():
    from emonb.models.backbones import FrameBackbone
    with pytest.raises(EmonbError, match="timm has no weights 'nosuchtag' of resnet18; it has a1_in1k"):
        FrameBackbone('resnet18.nosuchtag', weights='random')
    assert FrameBackbone('timm/resnet18.a1_in1k', weights='random').weights == 'random'


@pytest.mark.parametrize('name', ['S01/EDA.csv', 'Improved_All_Combined_hr_rsp_binary.csv'])
def test_a_link_to_nothing(wrist, tmp_path, name):
    "As git-annex leaves it where a file was not fetched."
    shutil.copytree(wrist, tmp_path/'set')
    (tmp_path/'set'/name).unlink()
    (tmp_path/'set'/name).symlink_to(tmp_path/'.git/annex/objects/gone')
    try: found = StressPredict(tmp_path/'set', window_s=30.).subjects
    except EmonbError as e: assert Path(name).name in str(e) and '\n' not in str(e)
    else: assert 'S01' not in found
