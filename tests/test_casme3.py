"The CAS(ME)³ reader on tiny trees in every layout, with every quirk and each bad input."
import os
import shutil
import subprocess
import sys
from functools import partial

import cv2
import numpy as np
import pandas as pd
import pytest

from emonb.core import DataError, EmonbError
from emonb.data.casme3 import CasMe3, action_units, annotations, audit, parse_au, read_color, read_depth, read_signals
from emonb.data.people import UNEXPLAINED
from emonb.data.recordings import check_reader
from emonb.data.simulate import Casme3Twin, write_casme3
from emonb.signals.prepare import PrepareSettings, prepare
from emonb.study.splits import make_splits

C = [(1, 1, 12, 18, 'R4,5', 'negative'), (1, 2, 40, 46, '2，5', 'surprise'), (2, 1, 20, 27, '13?', 'others'),
     (2, 2, 61, 70, 12, 'positive')]
C_COLUMNS = ['sub', 'count', 'onset', 'offset', 'au', 'emotion']
A = [('spNO.1', 'a', 5, 9, 12, '4', 'I', 'disgust'), ('spNO.1', 'b', 3, 5, 9, 'R12', 'I', 'Others'),
     ('spNO.215', 'a', 7, 9, 14, '2+1', 'II', 'surprise'), ('spNO.215', 'J', 2, 4, 8, '6+12', 'I', 'happy')]
A_COLUMNS = ['Subject', 'Filename', 'Onset', 'Apex', 'Offset', 'AU', 'Objective class', 'emotion']


def sheet(path, rows=C, columns=C_COLUMNS, drop=()):
    path.parent.mkdir(parents=True, exist_ok=True)
    df = pd.DataFrame(rows, columns=columns).drop(columns=list(drop))
    df.to_csv(path, index=False) if path.suffix == '.csv' else df.to_excel(path, index=False)
    return path


def frame(path, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(value).integers(0, 255, (12, 16, 3), np.uint8)
    if path.suffix.lower() == '.png': image = np.full((12, 16), 600 + value, np.uint16)
    path.write_bytes(cv2.imencode(path.suffix.lower(), image)[1].tobytes())
    return path


def physio(path, seconds=20, rate=200, mark_s=4., marks=(6,), columns=7, decimals=None):
    t = np.arange(int(seconds*rate))/rate
    x = np.zeros((len(t), columns))
    x[:, :5] = np.c_[t/60, np.sin(t), np.cos(t), np.sin(7*t), 2 + .01*t][:, :columns]
    if decimals is not None: x[:, 0] = x[:, 0].round(decimals)
    for c in marks: x[int(mark_s*rate):int(mark_s*rate)+30, c] = 5
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(x).to_csv(path, sep='\t', index=False, float_format='%.8g')
    return path


def part_c(root, frames=True, texts='part_C/{0:02d}/{0:02d}.txt', depth=True, name='CAS(ME)3_part_C_ME.xlsx'):
    sheet(root/name)
    for s, last in ((1, 50), (2, 75)):
        for k in range(1, last+1) if frames else ():
            frame(root/f'part_C/{s:02d}/a/color/{k}.jpg', k)
            if depth: frame(root/f'part_C/{s:02d}/a/depth/{k}.png', k)
        if texts: physio(root/texts.format(s))
    return root


def refuses(call, *words, kind=DataError):
    with pytest.raises(kind) as e: call()
    text = str(e.value)
    for w in words: assert str(w) in text, text
    assert '\n' not in text and e.value.__suppress_context__ | (e.value.__context__ is None)
    return text


# Part C

def test_part_c(tmp_path):
    r = check_reader(CasMe3(part_c(tmp_path)))
    assert len(r) == 4 and r.provenance == 'real' and r.streams == ['color', 'depth'] and r.has_frames and r.has_signals
    assert r.meta.trial.tolist() == ['01_a_12', '01_a_40', '02_a_20', '02_a_61']
    assert r.meta.order.tolist() == [0, 1, 0, 1]
    assert r.meta.apex.eq(-1).all() and r.meta.start_s[1] == 40/30 and r.meta.length_s[0] == 7/30
    assert r.meta.label.tolist() == [0, 2, 3, 1]
    rec = r[3]
    assert [p.name for p in rec.frames['color']] == [f'{n}.jpg' for n in range(61, 71)]
    assert len(rec.frames['depth']) == 10
    assert rec.signals.start_s == -4 and rec.signals is r[2].signals and rec.signals.source.name == '02.txt'
    assert read_depth(rec.frames['depth'][0])[0, 0] == 661 and read_color(rec.frames['color'][0]).shape == (12, 16, 3)
    assert r.audit().defect.tolist() == ["odd action unit '13?'"]
    assert list(r.audit()) == ['file', 'row', 'defect', 'action']
    assert CasMe3(tmp_path, sync='file_start')[0].signals.start_s == 0
    assert len(CasMe3(tmp_path, strict=True)) == 4                    # what is only noted never stops
    assert len(CasMe3(tmp_path, classes=3)) == 3 and r.need_frames() is r and r.need_signals() is r


@pytest.mark.parametrize('texts', ['part_C/{0:02d}.txt', 'part_C/physio/{0}.txt', 'part_C/{0:02d}/a/{0:02d}.TXT',
                                   'Physiology/{0:02d}.txt', 'part_C/{0:02d}/physio/{0}.txt'])
def test_physiology_wherever_it_sits(tmp_path, texts):
    r = CasMe3(part_c(tmp_path, frames=False, texts=texts))
    assert r.has_signals and not r.has_frames and r[0].signals.start_s == -4 and r[0].frames == {}


def test_part_c_folder_spellings(tmp_path):
    part_c(tmp_path)
    (tmp_path/'part_C').rename(tmp_path/'Part C')
    (tmp_path/'Part C/01').rename(tmp_path/'Part C/1')
    (tmp_path/'Part C/02/a/color').rename(tmp_path/'Part C/02/a/Color')
    assert len(CasMe3(tmp_path)) == 4 and CasMe3(tmp_path).audit().shape[0] == 1


def test_the_part_itself_as_root(tmp_path):
    part_c(tmp_path)
    (tmp_path/'CAS(ME)3_part_C_ME.xlsx').rename(tmp_path/'part_C'/'s.xlsx')
    assert CasMe3(tmp_path/'part_C').has_frames and len(CasMe3(tmp_path)) == 4


def test_marker_file_makes_it_simulated(tmp_path):
    part_c(tmp_path)
    (tmp_path/'SIMULATED.json').write_text('{}')
    assert CasMe3(tmp_path).provenance == 'simulated' == annotations(tmp_path).provenance


# Part A

@pytest.mark.parametrize('layout', ['levels', 'no depth level', 'no levels', 'png beside color'])
def test_part_a_full_tree(tmp_path, layout):
    sheet(tmp_path/'s.xlsx', A, A_COLUMNS)
    for s, letters in (('spNO.1', 'ab'), ('spNO215', 'aj')):
        for v in letters:
            for k in range(1, 16):
                d = tmp_path/'part_A'/s/(v.upper() if v == 'j' else v)
                frame(d/('' if layout == 'no levels' else 'color')/f'{k}.jpg', k)
                frame(d/{'levels': 'depth', 'png beside color': 'color'}.get(layout, '')/f'{k}.png', k)
    r = check_reader(CasMe3(tmp_path, 'A', 7))
    assert len(r) == 4 and r.streams == ['color', 'depth']
    assert all(all(v) for i in range(4) for v in r[i].frames.values())
    assert r.meta.stimulus.tolist() == ['a', 'b', 'a', 'j'] and r.meta.apex.tolist() == [9, 5, 9, 4]
    assert r.meta.emotion[1] == 'others'
    assert set(r.audit().defect) == {"emotion spelled 'Others'", "video letter 'J'"}
    refuses(r.need_signals, 'Part A has no physiology')


@pytest.mark.parametrize('own_numbers', [False, True])
def test_part_a_clip_tree(tmp_path, own_numbers):
    sheet(tmp_path/'s.csv', A, A_COLUMNS)
    for s, v, on, _, off, *_ in A:
        for k in range(on, off+1):
            n = k - on + 20 if own_numbers else k
            for folder, ext in (('frame', 'jpg'), ('depth', 'png')):
                frame(tmp_path/'Part_A_ME_clip'/folder/f'{s.upper()}_{v}_{on}'/f'{n}.{ext}', k)
    r = CasMe3(tmp_path, 'A', 4)
    assert len(r) == 4 and all(all(v) for i in range(4) for v in r[i].frames.values())
    assert read_depth(r[2].frames['depth'][0])[0, 0] == 607


def test_rows_that_cannot_be(tmp_path):
    rows = [A[0], ('spNo215', 'B', 30, 12, 40, 'R12', '', 'Happy'), ('spNO.2', 'a', 90, 40, 50, '1', '', 'fear'),
            ('spNO.2', 'a', 0, 0, 25, '14', '', 'others'),
            ('spNO.2', 'c', 18, 22, 0, '18', '', 'others'), ('spNO.2', 'd', 5, 5, 3460, '17', '', 'disgust'),
            ('spNO.2', 'e', 'soon', 8, 9, '4', '', 'sad'),
            (None, 'e', 7, 8, 9, '4', '', 'sad'), ('spNO.3', 'e', 7, 8, 9, '4', '', 'bored'),
            ('spNO.3', 'f', 7, 8, 9, '4', '', None), A[0],
            ('spNO.3', 'g', 7, None, 9, None, '', 'surprise'), ('spNO.3', 'h', 12.5, 13, -4, '4', '', 'sad'),
            ('spNO.3', None, 3, 5, 9, '4', '', 'sad'),
            ('spNO.3', 'k', 10**12, 3, 4, '4', '', 'sad'), (' spno_7 ', 'K', ' 3 ', '4.0', 9, '4', '', ' SADNESS '),
            (None,)*8]
    sheet(tmp_path/'s.xlsx', rows, A_COLUMNS)
    r, a = CasMe3(tmp_path, 'A', 7), annotations(tmp_path, 'A', 7)
    assert r.meta.trial.tolist() == ['spNO.1_a_5', 'spNO.215_b_30', 'spNO.3_g_7', 'spNO.7_k_3']
    assert r.meta.apex.tolist() == [9, -1, -1, 4]
    assert len(a) == 12 and a.meta.trial.is_unique and (a.meta.length_s >= 0).all()
    assert set(a.meta.subject) == {'spNO.1', 'spNO.2', 'spNO.3', 'spNO.7', 'spNO.215'}
    found = dict(zip(r.audit().row + ' ' + r.audit().defect, r.audit().action))
    for k, v in {'spNO.215, B, 30 (row 3) apex before onset': 'apex unknown (-1)',
                 'spNO.2, a, 90 (row 4) onset after apex and offset': 'no clip',
                 'spNO.2, a, 0 (row 5) onset = apex = 0': 'no clip',
                 'spNO.2, c, 18 (row 6) offset 0': 'no clip',
                 'spNO.2, d, 5 (row 7) suspiciously long (115 s)': 'no clip',
                 "spNO.2, e, soon (row 8) onset 'soon' is not a frame number": 'no clip',
                 '(empty), e, 7 (row 9) no subject': 'left out',
                 "spNO.3, e, 7 (row 10) unknown emotion 'bored'": 'left out',
                 'spNO.3, f, 7 (row 11) no emotion': 'left out',
                 'spNO.1, a, 5 (row 12) the same subject, video and onset as row 2': 'left out',
                 'spNO.3, g, 7 (row 13) apex missing': 'apex unknown (-1)',
                 "spNO.3, h, 12.5 (row 14) offset '-4' is not a frame number": 'no clip',
                 'spNO.3, (empty), 3 (row 15) no video letter': 'no clip',
                 "spNO.7, K, 3 (row 17) emotion spelled 'SADNESS'": "read as 'sad'"}.items():
        assert found[k] == v
    refuses(lambda: CasMe3(tmp_path, 'A', 7, strict=True), 's.xlsx, spNO.215, B, 30 (row 3): apex before onset',
            'strict=False')
    refuses(lambda: annotations(tmp_path, 'A', 7, strict=True), 'row 3')


# action units

@pytest.mark.parametrize('cell, units, odd', [('R12', ['R12'], []), ('26+25', ['26', '25'], []),
    ('2,24', ['2', '24'], []), ('T28+14', ['T28', '14'], []), ('4，11', ['4', '11'], []), ('4、11', ['4', '11'], []),
    ('L1,10,11,38,', ['L1', '10', '11', '38'], []), ('13?', ['13'], ['13?']), (4, ['4'], []), (4., ['4'], []),
                                              ('4.0', ['4'], []), (2.24, ['2', '24'], []),
                                              ('AU6 & au12', ['6', '12'], []),
    ('R4R45', ['R4', 'R45'], ['R4R45']), ('124', [], ['124']), ('none', [], ['NONE']), ('l2 + 4', ['L2', '4'], []),
                                              ('04', ['4'], []), (None, [], []), ('Ｒ１２', ['R12'], [])])
def test_parse_au(cell, units, odd): assert parse_au(cell) == (units, odd)


def test_action_units():
    x, names = action_units(['R12', '4+12', 'L4', ''])
    assert names == ['AU4', 'AU12', 'L4', 'R12']
    assert x.tolist() == [[0, 1, 0, 1], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert action_units(['12+99'], names)[0].tolist() == [[0, 1, 0, 0]]


# sheets

@pytest.mark.parametrize('name', ['x.xlsx', 'deep/y.csv', 'semi.csv', 'gbk.csv'])
def test_any_sheet_of_the_form(tmp_path, name):
    rows = [('P-11', 3, 100, 110, '4，11', 'Negative'), ('P-12', 1, 3, 9, '12', 'positive'),
            ('P-12', 1, 33, 39, '1', 'surprise')]
    columns = [' Sub', 'COUNT', 'Onset ', 'offset', 'AU', 'Emotion']
    sheet(tmp_path/name, rows, columns)
    if name == 'semi.csv': (tmp_path/name).write_text((tmp_path/name).read_text().replace(',', ';'))
    if name == 'gbk.csv': (tmp_path/name).write_bytes((tmp_path/name).read_text().encode('gb18030'))
    a = annotations(tmp_path, 'C', 4)
    assert a.meta.subject.tolist() == ['P-11', 'P-12', 'P-12']
    assert a.info['feature_names'] == ['AU1', 'AU4', 'AU11', 'AU12']
    assert a.classes == ['negative', 'positive', 'surprise', 'others']
    assert len(a.info['defects']) == 1 and a.provenance == 'annotation'


def test_unreadable_sheet(tmp_path):
    "An .xls that is none."
    (tmp_path/'s.xls').write_text('sub\tonset')
    refuses(lambda: CasMe3(tmp_path), 's.xls: cannot be read as a table')
    sheet(tmp_path/'good.csv')
    assert len(CasMe3(tmp_path)) == 4     # and is passed over beside a good one


def test_older_sheet_is_passed_over(tmp_path):
    sheet(tmp_path/'CAS(ME)3_part_C.csv', C[:2])
    sheet(tmp_path/'CAS(ME)3_part_C_ME.xlsx')
    r = CasMe3(tmp_path)
    assert len(r) == 4
    assert r.audit().iloc[0].tolist() == ['CAS(ME)3_part_C.csv', '',
                                          'an older sheet of the same form as CAS(ME)3_part_C_ME.xlsx', 'passed over']


def test_two_sheets(tmp_path):
    sheet(tmp_path/'mine.xlsx')
    sheet(tmp_path/'yours.csv', C[:3])
    refuses(lambda: CasMe3(tmp_path), 'mine.xlsx', 'yours.csv', 'sheet=')
    assert len(CasMe3(tmp_path, sheet='yours.csv')) == 3 and len(annotations(tmp_path, sheet='mine.xlsx')) == 4
    refuses(lambda: CasMe3(tmp_path, sheet='theirs.csv'), "no sheet 'theirs.csv'")


def test_unquoted_comma_in_csv(tmp_path):
    (tmp_path/'s.csv').write_text(
        'sub,count,onset,offset,au,emotion\n1,1,12,18,4,negative\n1,2,20,28,4,5,negative\n2,1,3,9,12,positive\n')
    r = CasMe3(tmp_path)
    assert len(r) == 2 and r.audit().defect[0].startswith('7 cells, more than the header')
    assert '(row 3)' in r.audit().row[0]


@pytest.mark.parametrize('make, words', [
    (lambda r: None, ['the folder is empty', 'casme.psych.ac.cn']),
    (lambda r: sheet(r/'s.xlsx', drop=['au']),
     ["column 'au' is missing", 'there are: sub, count, onset, offset, emotion', 's.xlsx']),
    (lambda r: sheet(r/'s.xlsx', drop=['sub']), ["column 'sub' is missing"]),
    (lambda r: sheet(r/'s.xlsx', A, A_COLUMNS), ["Part A's annotation sheet", 'choose part A']),
    (lambda r: (r/'s.xlsx').write_bytes(b'PK broken'), ['s.xlsx: cannot be read as a table']),
    (lambda r: (r/'notes.txt').write_text('x'), ['no .xlsx, .xls or .csv']),
    (lambda r: sheet(r/'s.xlsx', []), ['no row']),
    (lambda r: sheet(r/'s.xlsx', [C[0], (*C[2][:5], 'negative')]), ['a single class (negative)']),
    (lambda r: sheet(r/'s.xlsx', [(*C[0][:5], 'bored')]), ['no row is left']),
    (lambda r: sheet(r/'s.csv', C, ['sub', 'onset', 'onset ', 'offset', 'au', 'emotion']),
     ["column 'onset' is there twice"])])
def test_no_usable_sheet(tmp_path, make, words):
    make(tmp_path)
    refuses(lambda: CasMe3(tmp_path), tmp_path, *words)


def test_roots_and_values(tmp_path, monkeypatch):
    refuses(lambda: CasMe3(tmp_path/'nowhere'), 'nowhere: no such folder')
    monkeypatch.setenv('EMONB_DATA', str(tmp_path))
    refuses(CasMe3, 'casme3: no such folder')
    part_c(tmp_path/'casme3', frames=False, texts=None)
    assert len(CasMe3()) == 4
    refuses(lambda: CasMe3(part='B'), "part='B'", 'A, C', kind=EmonbError)
    refuses(lambda: CasMe3(classes=5), 'accepted: 7, 4, 3', kind=EmonbError)
    refuses(lambda: CasMe3(sync='guess'), 'marker, file_start', kind=EmonbError)
    refuses(lambda: CasMe3(classes=7), 'use classes=4 or 3')
    refuses(CasMe3().need_frames, 'only annotation sheets here; run with -p model annotation, or put the frames under',
            'part_C/<NN>/a/{color,depth}')
    refuses(CasMe3().need_signals, 'part_C/<NN>/<NN>.txt')
    monkeypatch.delenv('EMONB_DATA')
    monkeypatch.chdir(tmp_path)
    refuses(CasMe3, 'data/casme3: CAS(ME)³ is not there', 'casme.psych.ac.cn', 'data/README.md')


# physiology

def test_signals(tmp_path):
    for marks, columns in (((6,), 7), ((5,), 7), ((5,), 6)):
        assert read_signals(physio(tmp_path/'s.txt', marks=marks, columns=columns)).start_s == -4
    for decimals in (5, 4, 3):
        # minutes rounded by the exporter
        assert read_signals(physio(tmp_path/'s.txt', decimals=decimals)).start_s == -4
    s = read_signals(tmp_path/'s.txt')
    assert set(s.values) == {'PPG', 'RSP', 'ECG', 'EDA'} and set(s.rates.values()) == {200.}
    assert len(s.values['ECG']) == 4000 and np.isclose(s.values['EDA'][-1], 2.19995)
    # tabs at the ends, Windows lines
    (tmp_path/'t.txt').write_text((tmp_path/'s.txt').read_text().replace('\n', '\t\r\n'))
    assert np.array_equal(read_signals(tmp_path/'t.txt').values['PPG'], s.values['PPG'])


def edit(path, row, text):
    lines = path.read_text().splitlines()
    lines[row-1] = text
    path.write_text('\n'.join(lines))
    return path


@pytest.mark.parametrize('make, words', [
    (lambda p: physio(p, marks=()), ['no marker', 'column 6 or 7', "sync='file_start'"]),
    (lambda p: physio(p, marks=(), columns=6), ['no marker', 'column 6,']),
    (lambda p: physio(p, marks=(5, 6)), ['two markers', 'first in row 802']),
    (lambda p: physio(p, rate=100), ['wrong sampling rate', '100 Hz', '200 Hz']),
    (lambda p: physio(p, rate=250), ['wrong sampling rate', '250 Hz']),
    (lambda p: physio(p, marks=(), columns=5), ['row 2: 5 columns', 'tabs']),
    (lambda p: edit(physio(p), 57, '0.1\tlost\t0\t0\t5\t0\t0'), ['row 57', "'lost' in PPG is not a number"]),
    (lambda p: edit(physio(p), 58, '0,1\t0\t0\t0\t5\t0\t0'), ['row 58', "'0,1' in time"]),
    (lambda p: edit(physio(p), 99, '0.0081666\t0\t0\t0\tNaN\t0\t0'), ['row 99: NaN in EDA']),
    (lambda p: edit(physio(p), 98, '0.0080833\t0\t\t0\t1\t0\t0'), ['row 98: NaN in RSP']),
    (lambda p: edit(physio(p), 97, '0.008\t0\t0\tinf\t1\t0\t0'), ['row 97: infinity in ECG']),
    (lambda p: edit(physio(p), 12, '0.0001\t0\t0'), ['row 12: 3 columns where row 2 has 7']),
    (lambda p: edit(physio(p), 13, '0.0001' + '\t0'*8), ['row 13: 9 columns']),
    (lambda p: p.write_text('header\n'), ['no samples']),
    (lambda p: p.write_bytes(b''), ['no samples']),
    (lambda p: None, ['cannot be read', 'data/README.md']),
    (lambda p: p.write_text('h\n' + ('0\t1\t1\t1\t1\t0\t5\n')*500), ['time column does not advance'])])
def test_bad_physiology(tmp_path, make, words):
    make(p := tmp_path/'s.txt')
    refuses(lambda: read_signals(p), p, *words)


def test_lost_and_reversed_samples(tmp_path):
    lines = physio(tmp_path/'s.txt').read_text().splitlines()
    (tmp_path/'s.txt').write_text('\n'.join(lines[:500] + lines[600:]))
    refuses(lambda: read_signals(tmp_path/'s.txt'), 'row 501: time jumps by 0.5')
    (tmp_path/'s.txt').write_text('\n'.join(lines[:500] + lines[400:]))
    refuses(lambda: read_signals(tmp_path/'s.txt'), 'row 501: time goes back')


def test_bad_physiology_in_the_tree(tmp_path):
    root = part_c(tmp_path)
    (root/'part_C/01/01.txt').unlink()
    physio(root/'part_C/02/02.txt', marks=())
    r = CasMe3(root)
    assert r[0].signals is None
    assert r.audit().defect.tolist()[1:] == ['physiology file missing', r.audit().defect.tolist()[2]]
    assert r.audit().defect[2].startswith('no marker')
    refuses(lambda: r[2], '02.txt: no marker')
    refuses(lambda: CasMe3(root, strict=True), 'part_C/01/01.txt', 'physiology file missing')
    physio(root/'part_C/02/02.txt', seconds=5)
    physio(root/'part_C/02.txt')
    a = audit(root, 'C')
    assert a.defect.str.contains('recording ends at 1.0 s').sum() == 1
    assert a.defect.eq('a second physiology file').sum() == 1


# frames

@pytest.mark.parametrize('name, damage, words', [
    ('f.jpg', lambda b: b[:len(b)//2], ['cut off']),
    ('f.jpg', lambda b: b[:len(b)//2].ljust(len(b), b'\0'), ['cut off']), ('f.jpg', lambda b: b'', ['empty']),
    ('f.jpg', lambda b: b'hello', ['neither a jpg nor a png']), ('f.png', lambda b: b[:-15], ['cut off']),
    ('f.png', lambda b: b[:len(b)//2], ['cut off']),
    ('f.png', lambda b: b[:45] + bytes([b[45] ^ 255]) + b[46:], ['checksum'])])
def test_damaged_pictures(tmp_path, name, damage, words):
    p = frame(tmp_path/name)
    p.write_bytes(damage(p.read_bytes()))
    refuses(lambda: (read_color if name.endswith('jpg') else read_depth)(p), p, *words, 'copy the frame again')


def test_every_truncation_is_seen(tmp_path):
    for p, read in ((frame(tmp_path/'f.jpg'), read_color), (frame(tmp_path/'f.png'), read_depth)):
        data = p.read_bytes()
        read(p)
        for n in range(0, len(data)-1, 7):
            p.write_bytes(data[:n])
            refuses(partial(read, p), p)


def test_trailing_bytes_and_missing(tmp_path):
    p = frame(tmp_path/'f.jpg')
    p.write_bytes(p.read_bytes() + b'\0'*40)
    assert read_color(p).shape == (12, 16, 3)
    refuses(lambda: read_color(tmp_path/'g.jpg'), 'g.jpg: cannot be read')


def test_color_is_rgb(tmp_path):
    cv2.imwrite(str(tmp_path/'red.jpg'), np.full((16, 16, 3), (0, 0, 255), np.uint8))
    assert read_color(tmp_path/'red.jpg')[8, 8].argmax() == 0


def test_depth_kinds(tmp_path):
    cv2.imwrite(str(tmp_path/'8.png'), np.zeros((4, 4), np.uint8))
    cv2.imwrite(str(tmp_path/'3.png'), np.zeros((4, 4, 3), np.uint16))
    cv2.imwrite(str(tmp_path/'16.png'), np.full((4, 4), 40000, np.uint16))
    refuses(lambda: read_depth(tmp_path/'8.png'), '8.png: 8-bit depth')
    refuses(lambda: read_depth(tmp_path/'3.png'), '3 channels')
    assert read_depth(tmp_path/'16.png').max() == 40000


def test_missing_frames_and_odd_files(tmp_path):
    root = part_c(tmp_path)
    a = root/'part_C/01/a'
    (a/'color/14.jpg').unlink()
    for n in range(61, 68): (root/f'part_C/02/a/depth/{n}.png').unlink()
    (a/'color/.DS_Store').write_bytes(b'x')
    (root/'part_C/Thumbs.db').write_bytes(b'x')
    (a/'depth/15.bmp').write_bytes(b'x')
    frame(a/'color/016.jpg')
    frame(a/'depth/17.jpg')
    (root/'part_C/02/a/color/21.jpg').write_bytes((root/'part_C/02/a/color/21.jpg').read_bytes()[:-9])
    cv2.imwrite(str(root/'part_C/02/a/depth/22.png'), np.zeros((4, 4), np.uint8))
    (root/'part_C/09').mkdir()
    r = CasMe3(root)
    assert r.meta.trial.tolist() == ['01_a_12', '01_a_40', '02_a_20']
    assert r[0].frames['color'][2] is None and r[0].frames['depth'][2].name == '14.png'
    found = {(f, d): a for f, d, a in r.audit()[['file', 'defect', 'action']].itertuples(index=False)}
    def j(p): return p.replace('/', os.sep)
    for key, action in {('part_C/01/a/color', '1 of 7 frames missing (14)'): 'nearest frame',
                        ('part_C/02/a/depth', '7 of 10 frames missing (61, 62, 63, 64, 65 …)'): 'no clip',
                        ('part_C/01/a/color/.DS_Store', 'not a frame'): 'passed over',
                        ('part_C/Thumbs.db', 'not part of the set'): 'passed over',
                        ('part_C/01/a/depth/15.bmp', 'not a frame (wrong extension .bmp)'): 'passed over',
                        ('part_C/01/a/color/16.jpg', 'a second file for frame 16'): 'passed over',
                        ('part_C/01/a/depth/17.jpg', 'a jpg among depth png'): 'passed over',
                        ('part_C/02/a/color/21.jpg', 'cut off'): 'reading it raises; a run uses the nearest frame',
                        ('part_C/02/a/depth/22.png',
                         '8-bit depth where 16 are expected'): 'reading it raises; a run uses the nearest frame',
                        ('part_C/09', 'folder of a subject who is not in the sheet'): 'passed over'}.items():
        assert found[j(key[0]), key[1]] == action
    refuses(lambda: CasMe3(root, strict=True), j('part_C/01/a/color, 01_a_12: 1 of 7 frames missing'))
    assert len(CasMe3(root, max_missing=.8)) == 4 and len(CasMe3(root, max_missing=0.)) == 2


def test_color_and_depth_of_different_lengths(tmp_path):
    root = part_c(tmp_path)
    (root/'part_C/01/a/depth/3.png').unlink()           # outside every clip
    assert CasMe3(root).audit().defect.tolist()[1] == 'color has 50 frames, depth 49 (1 without a partner)'
    assert len(CasMe3(root)) == 4
    refuses(lambda: CasMe3(root, strict=True), os.path.join('part_C', '01', 'a') + ': color has 50 frames, depth 49')


def test_color_alone(tmp_path):
    r = CasMe3(part_c(tmp_path, depth=False))
    assert r.streams == ['color'] and set(r[0].frames) == {'color'} and len(r) == 4


def test_subject_without_folder(tmp_path):
    part_c(tmp_path)
    (tmp_path/'part_C/02').rename(tmp_path/'elsewhere')
    r = CasMe3(tmp_path)
    assert len(r) == 2 and 'subject in the sheet, no folder' in set(r.audit().defect)
    (tmp_path/'part_C/01/a').rename(tmp_path/'a')
    (tmp_path/'part_C/01/a').mkdir()
    assert not CasMe3(tmp_path).has_frames


# people, and what becomes of them

def balanced(account):
    "The account itself, after its sums are checked."
    for unit, v in account.items():
        assert v['found'] == v['used'] + sum(v['left_out'].values()) and UNEXPLAINED not in v['left_out'], (unit, v)
    return account


def account(reader): return balanced(reader.ledger.close(**reader.units(reader.meta)))


@pytest.mark.parametrize('spellings', [('P 01', 'p 01'), ('sub 1', 'sub  1'), ('P\u200b1', 'P1'), ('Ｐ１', 'p1'),
                                       ('Jose\u0301', 'JOSÉ')])
def test_one_person_spelled_twice_is_one_person(tmp_path, spellings):
    rows = [(s, k, 10*k + 3*j + 1, 10*k + 3*j + 9, '4', e) for k, s in enumerate([*spellings, 'other one'])
            for j, e in enumerate(['negative', 'positive'])]
    sheet(tmp_path/'s.csv', rows)
    a, r = annotations(tmp_path), CasMe3(tmp_path)
    first = a.meta.subject[0]
    assert a.meta.subject.tolist() == r.meta.subject.tolist() == [first]*4 + ['other one']*2
    assert len(make_splits(a.meta, 'loso')) == 2 and balanced(a.info['account'])['person']['found'] == 2
    assert r.audit().defect.str.contains('one person spelled').sum() == 1
    assert any('one person spelled' in d['defect'] for d in a.info['defects'])


def test_near_names_are_kept_apart_and_told(tmp_path):
    sheet(tmp_path/'s.csv', [(s, 1, 3, 9, '4', e) for s, e in (('sub1', 'negative'), ('sub01', 'positive'),
                                                               ('P-7', 'others'), ('P7', 'surprise'))])
    r = CasMe3(tmp_path)
    assert r.meta.subject.nunique() == 4 == account(r)['person']['used']
    assert r.audit().defect.str.contains('near names').sum() == 2


def test_spellings_of_the_set_stay_one(tmp_path):
    sheet(tmp_path/'s.csv', [('spNO.215', *A[0][1:]), ('SPno215', *A[1][1:]), ('spNO. 0215', *A[3][1:])], A_COLUMNS)
    r = CasMe3(tmp_path, 'A')
    assert set(r.meta.subject) == {'spNO.215'} and not r.audit().defect.str.contains('name|person').any()


DAMAGE = dict(
    whole=(lambda r: None, 2, 4, {}, {}),
    missing_folder=(lambda r: shutil.rmtree(r/'part_C/02'), 1, 2, {'subject has no folder': 1},
                    {'subject has no folder': 2}),
    missing_frames=(lambda r: [(r/f'part_C/01/a/color/{k}.jpg').unlink() for k in range(12, 19)], 2, 3, {},
                    {'frames missing': 1}),
    folder_without_a_row=(lambda r: (r/'part_C/09/a').mkdir(parents=True), 2, 4, {'not in the sheet': 1}, {}),
    text_without_a_row=(lambda r: physio(r/'part_C/physio/11.txt'), 2, 4, {'not in the sheet': 1}, {}),
    text_missing=(lambda r: (r/'part_C/02/02.txt').unlink(), 2, 4, {}, {}),
    duplicate=(lambda r: sheet(r/'CAS(ME)3_part_C_ME.xlsx', [*C, C[0]]), 2, 4, {},
               {'the same subject, video and onset as another row': 1}),
    no_emotion=(lambda r: sheet(r/'CAS(ME)3_part_C_ME.xlsx', [*C, (3, 1, 5, 9, '4', '')]), 2, 4, {'no emotion': 1},
                {'no emotion': 1}),
    no_subject=(lambda r: sheet(r/'CAS(ME)3_part_C_ME.xlsx', [*C, ('\u200b', 1, 5, 9, '4', 'others')]), 2, 4, {},
                {'no subject': 1}),
    unknown_emotion=(lambda r: sheet(r/'CAS(ME)3_part_C_ME.xlsx',
                                     [*C, (3, 1, 5, 9, '4', 'bored'), (4, 1, 5, 9, '4', 'tired')]), 2, 4,
                     {'unknown emotion …': 2}, {'unknown emotion …': 2}),
    long=(lambda r: sheet(r/'CAS(ME)3_part_C_ME.xlsx', [*C, (3, 1, 5, 5000, '4', 'others')]), 2, 4,
          {'suspiciously long (… s)': 1}, {'suspiciously long (… s)': 1}))


@pytest.mark.parametrize('name', DAMAGE)
def test_found_is_used_and_left_out(tmp_path, name):
    damage, people, clips, no_person, no_clip = DAMAGE[name]
    damage(part_c(tmp_path))
    r = CasMe3(tmp_path)
    a = account(r)
    assert (a['person']['used'], a['trial']['used']) == (people, clips) == (r.meta.subject.nunique(), len(r))
    assert a['person']['left_out'] == no_person and a['trial']['left_out'] == no_clip
    rows = 4 + sum(no_clip.values()) if clips == 4 else 4
    assert a['trial']['found'] == rows


def test_emotions_outside_the_classes_are_counted(tmp_path):
    root = part_c(tmp_path)
    for a in (account(CasMe3(root, classes=3)), balanced(annotations(root, classes=3).info['account'])):
        assert a['trial'] == dict(found=4, used=3, left_out={'others is not among the 3 classes': 1})


def test_nothing_left_names_the_first_rows_and_why(tmp_path):
    sheet(tmp_path/'s.csv', [(*C[0][:5], 'bored'), (*C[1][:5], '')])
    refuses(lambda: CasMe3(tmp_path), "01, 12 (row 2): unknown emotion 'bored'", '01, 40 (row 3): no emotion')
    sheet(tmp_path/'s.csv', [(1, 1, 9, 3, '4', 'negative'), (1, 2, 'x', 9, '4', 'others')])
    refuses(lambda: CasMe3(tmp_path), 'no clip can be made', '(row 2): onset after offset', "'x' is not a frame number")


def test_the_sum_after_preparing(tmp_path):
    "A twin with a clip whose pictures are damaged, a subject whose physiology is, and a folder of nobody."
    root = write_casme3(tmp_path/'twin', Casme3Twin(subjects=3, clips=9, seed=3))
    one = CasMe3(root)
    for path in one[0].frames['color']: path.write_bytes(b'')
    last = one.meta.subject.iloc[-1]
    text = one.tree.texts[str(int(last))][0]
    cells = text.read_text().splitlines()[56].split('\t')
    edit(text, 57, '\t'.join([cells[0], '1e2147483648', *cells[2:]]))
    (root/'part_C/77/a').mkdir(parents=True)
    lost = 1 + (one.meta.subject == last).sum()
    for folders in (1, 2):            # prepared; and read again, after one more folder has come
        data = prepare(CasMe3(root), PrepareSettings(size=48), folder=tmp_path/'set')
        a = balanced(data.info['account'])
        assert len(data) == len(one) - lost == a['trial']['used']
        assert sum(a['trial']['left_out'].values()) == len(CasMe3(root).ledger.units['trial']) - len(data)
        assert a['trial']['left_out']['clip left out: infinity in PPG'] == lost - 1
        assert a['person']['left_out']['not in the sheet'] == folders and a['person']['used'] == 2
        (root/'part_C/78/a').mkdir(parents=True, exist_ok=True)


RUN = """
import sys
from emonb.core import DataError
from emonb.data.casme3 import CasMe3, annotations
for f in (lambda: annotations(sys.argv[1]), lambda: CasMe3(sys.argv[1]).audit(),
          lambda: [CasMe3(sys.argv[1])[i] for i in range(3)]):
    try: print('read', len(f()))
    except DataError as e: print('refused', e)
"""


@pytest.mark.parametrize('cell', ['1e2147483648', '1e4294967297', '\u22125', '3,5', '1_000', '٣', '9'*400])
@pytest.mark.parametrize('file', ['s.csv', 's.xlsx', 'part_C/01/01.txt'])
def test_a_number_that_is_none_never_ends_the_process(tmp_path, file, cell):
    root = part_c(tmp_path, name=file if file.startswith('s.') else 's.csv')
    if file.endswith('txt'): edit(root/file, 57, f'0.0045\t{cell}\t0\t0\t5\t0\t0')
    else: sheet(root/file, [(1, 1, cell, 18, '4', 'negative'), *C[1:]])
    r = subprocess.run([sys.executable, '-c', RUN, str(root)], capture_output=True, text=True, timeout=60)
    assert r.returncode == 0 and not r.stderr, r.stderr
    if file.endswith('txt'): assert 'refused' in r.stdout.splitlines()[2] and 'row 57' in r.stdout
    else: assert r.stdout.startswith('read 4') and 'refused' not in r.stdout      # its row gives no clip


def test_a_number_too_large_in_a_spreadsheets_own_number(tmp_path):
    "A numeric cell that no program would write: the sheet is refused in a sentence."
    import zipfile
    sheet(tmp_path/'s.xlsx')
    with zipfile.ZipFile(tmp_path/'s.xlsx') as z: parts = {n: z.read(n) for n in z.namelist()}
    name = 'xl/worksheets/sheet1.xml'
    changed = parts[name].replace(b'<v>12</v>', b'<v>1e2147483648</v>', 1)
    assert changed != parts[name]
    with zipfile.ZipFile(tmp_path/'s.xlsx', 'w') as z:
        for n, data in (parts | {name: changed}).items(): z.writestr(n, data)
    r = subprocess.run([sys.executable, '-c', RUN, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert r.returncode == 0 and r.stdout.count('refused') == 3 and 's.xlsx' in r.stdout, r.stdout + r.stderr


# the real sheets

def test_real_sheets(real):
    root = real('casme3')
    for part, classes, n, subjects in (('A', 7, 860, 94), ('A', 4, 860, 94), ('A', 3, 699, 88), ('C', 4, 165, 30),
                                       ('C', 3, 145, 29)):
        a = annotations(root, part, classes)
        assert (len(a), a.meta.subject.nunique()) == (n, subjects) and a.meta.trial.is_unique
    counts = annotations(root, 'A', 4).meta.label.value_counts().sort_index().tolist()
    assert counts == [457, 55, 187, 161]
    assert annotations(root, 'C').meta.label.value_counts().sort_index().tolist() == [99, 16, 30, 20]
    assert len(CasMe3(root, 'A')) == 855 and len(CasMe3(root, 'C')) == 165
    assert (CasMe3(root, 'C').meta.length_s*30).median() == 12
    assert annotations(root, 'A', 7).x['features'].shape == (860, 43)
    assert annotations(root, 'C').x['features'].shape == (165, 39)
