"""Whole files with strange content through every reader and door of emonb: what `hypothesis` can think of.

    python tests/strange.py                 12 files for each door
    python tests/strange.py -n 1000 --keep  more; the smallest of each that must not be goes into tests/corpus.json
    python tests/strange.py --only bdf,avi  only these doors
    python tests/strange.py --told a.json   the counts are added to those in a file

tests/campaign.py damages files. Here they are whole, and say odd things: cells, headers, times, units, sizes, types and
nestings that their formats allow. Doors without such a form get its damages. What hypothesis finds it makes as small
as it can be. The ends, and what may be, are those of tests/campaign.py."""
import argparse
import base64
import collections
import io
import json
import pickle
import random
import re
import struct
import sys
import tempfile
import zlib
from pathlib import Path

import campaign
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

WORDS = ['', ' ', 'nan', 'inf', '-1', '0', '1', '1.5', '1,5', '12:30', '1e5', '1e400', '1e2147483648', '9'*30, '²', '½',
         'S01', 'spNO.1', 'P 01', 'p 01', 'x', '=A1', '#REF!', 'True', '2021-03-04', '\u200b', 'ß', '−1', '1_0', '0x1f',
         '"', "'", 'µS', 'V', 'Hz', 'sec', 'min', '%', '4+R12', '12 or 14', 'I', 'happy', 'None', 'NULL']
CELLS = st.sampled_from(WORDS) | st.integers(-10**6, 10**6).map(str) | st.floats().map(repr) | st.text(max_size=6)
VALUES = (st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats() | st.text(max_size=8)
          | st.sampled_from(WORDS))
NESTED = st.recursive(VALUES, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3),
                      max_leaves=8)


# forms --------------------------------------------------------------------------------------------------------------

@st.composite
def rows_of(draw, whole:list):
    "A table, as rows of cells, with other cells, rows and columns."
    rows, width = [list(r) for r in whole], max(map(len, whole), default=1)
    for _ in range(draw(st.integers(1, 4))):
        i, j = draw(st.integers(0, min(len(rows) - 1, 40))), draw(st.integers(0, width - 1))
        what = draw(st.sampled_from(['cell', 'cell', 'cell', 'name', 'again', 'gone', 'swap', 'column', 'twice',
                                     'longer', 'all']))
        if what == 'cell' and j < len(rows[i]): rows[i][j] = draw(CELLS)
        if what == 'name' and j < len(rows[0]): rows[0][j] = draw(CELLS)
        if what == 'again': rows.insert(draw(st.integers(0, len(rows))), list(rows[i]))
        if what == 'gone' and len(rows) > 1: del rows[i]
        if what == 'swap': rows[0], rows[i] = rows[i], rows[0]
        if what == 'column': rows = [r[:j] + r[j+1:] for r in rows]
        if what == 'twice': rows = [r + r[j:j+1] for r in rows]
        if what == 'longer': rows[i] = rows[i] + [draw(CELLS)]*draw(st.integers(1, 3))
        if what == 'all':
            cell = draw(CELLS)
            rows[1:] = [[*r[:j], cell, *r[j+1:]] for r in rows[1:]]
    return rows


@st.composite
def texts(draw, whole:bytes, sep:str):
    "A text in columns, with other cells, ends of lines, marks and encodings."
    rows = draw(rows_of([line.split(sep) for line in whole.decode('utf-8').split('\n')]))
    other = draw(st.sampled_from([sep]*6 + [',', ';', '\t', ' ']))
    text = draw(st.sampled_from(['\n']*6 + ['\r\n', '\r', '\n\n'])).join(other.join(map(str, r)) for r in rows)
    encoding = draw(st.sampled_from(['utf-8']*5 + ['utf-8-sig', 'utf-16', 'latin-1', 'cp1252']))
    return text.encode(encoding, 'replace' if encoding in ('latin-1', 'cp1252') else 'surrogatepass')


def typed(cell):
    try: return float(cell)
    except ValueError: return cell

@st.composite
def workbooks(draw, whole, ending):
    "A table as a workbook: numbers, words, truths, dates and nothing in its cells."
    import datetime

    import openpyxl
    rows = draw(rows_of(whole))
    odd = st.sampled_from([None, True, 0., -1., 1.5, 1e300, 2**53, datetime.datetime(1900, 1, 1),
                           datetime.time(12, 30), 'x'*300])
    for _ in range(draw(st.integers(0, 2))): draw(st.sampled_from(rows)).append(draw(odd))
    rows = [[typed(c) if isinstance(c, str) else c for c in r] for r in rows]
    if ending == 'xls':
        def latin(c): return str(c)[:200].encode('latin-1', 'replace').decode('latin-1')
        def plain(c): return c if c is None or isinstance(c, float) else latin(c)
        return campaign.biff_rows([list(map(plain, r)) for r in rows])
    book = openpyxl.Workbook()
    def allowed(c): return re.sub('[\x00-\x1f\ud800-\udfff\ufffe\uffff]', '', c) if isinstance(c, str) else c
    for r in rows: book.active.append([*map(allowed, r)])
    if draw(st.booleans()): book.create_sheet(draw(st.sampled_from(['label', 'Tabelle 2']))).append(['Subject'])
    book.save(out := io.BytesIO())
    return out.getvalue()


def places_in(obj):
    "Each place of a nested value: what holds it, and under which name."
    for key in (obj if isinstance(obj, dict) else range(len(obj))):
        yield obj, key
        if isinstance(obj[key], (dict, list)): yield from places_in(obj[key])


@st.composite
def jsons(draw, whole:bytes):
    "A JSON with another value, name, or level somewhere."
    obj = json.loads(whole)
    for _ in range(draw(st.integers(1, 3))):
        places = [*places_in(obj)] if isinstance(obj, (dict, list)) else []
        if not places or draw(st.integers(0, 20)) == 0:
            obj = draw(NESTED)
            continue
        here, key = draw(st.sampled_from(places))
        what = draw(st.sampled_from(['value', 'value', 'value', 'name', 'gone', 'deeper']))
        if what == 'value': here[key] = draw(NESTED)
        if what == 'deeper': here[key] = {'x': here[key]}
        if what == 'name' and isinstance(here, dict): here[draw(st.text(max_size=5))] = here.pop(key)
        if what == 'gone': del here[key]
    return json.dumps(obj, ensure_ascii=draw(st.booleans())).encode('utf-8', 'surrogatepass')


@st.composite
def yamls(draw):
    import yaml
    text = yaml.safe_dump(draw(NESTED | st.dictionaries(st.text(max_size=5), NESTED, max_size=3)), allow_unicode=True)
    more = ['', 'a: &x [*x]\n', '<<: 1\n', '? [a]\n: b\n', '!!python/name:os.system x\n', '--- \nb: 1\n',
            'd: 2021-99-99\n', 'n: 0o9\n', 't: 190:20:30\n']
    return (text + draw(st.sampled_from(more))).encode('utf-8', 'surrogatepass')


@st.composite
def arrays(draw, kinds='fiubcSUO', most=3):
    import numpy as np
    kind = draw(st.sampled_from(['f8', '>f4', 'f2', 'i8', 'u1', '?', 'c16', 'S3', 'U2', 'M8[s]', 'i4,f4', 'O', 'f8']))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=most)))
    a = np.zeros(shape, kind) if kind != 'O' else np.full(shape, None)
    if kind in ('f8', '>f4', 'f2') and a.size: a.flat[0] = draw(st.sampled_from([0, 1, np.nan, np.inf, -1, 5]))
    return np.asfortranarray(a) if draw(st.booleans()) else a


@st.composite
def pickles(draw):
    "What a pickle can hold: arrays of any type, and much that is none."
    import datetime
    import fractions
    odd = VALUES | arrays() | st.binary(max_size=8) | st.complex_numbers() | st.sampled_from(
        [{1}, frozenset(), range(3), ..., int, fractions.Fraction(1, 3), datetime.date(2000, 1, 1), slice(1), b'x'*300,
         bytearray(b'y')])
    def more(v):
        keys = st.text(max_size=4) | st.tuples(st.integers())
        return st.lists(v, max_size=3) | st.tuples(v, v) | st.dictionaries(keys, v, max_size=3)
    obj = draw(st.recursive(odd, more, max_leaves=6) | st.fixed_dictionaries(dict(data=arrays(), labels=arrays())))
    return pickle.dumps(obj, draw(st.integers(0, 5)))


FIELDS = dict(zip('label transducer unit low high dlow dhigh filter samples reserved'.split(),
                  (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)))
HEAD = dict(start=(184, 8), form=(192, 44), records=(236, 8), seconds=(244, 8), channels=(252, 4))

@st.composite
def bdfs(draw, whole:bytes):
    "A BDF whose header says something else: a field of all, or of a channel."
    data, n = bytearray(whole), int(whole[252:256])
    words = st.sampled_from(['0', '-1', '1', '2', '256', '512', 'nan', '1e9', '99999999', 'V', 'mV', 'uV', 'µV', 'nV',
                             'Ohm', 'Status', '', 'Fp1', 'EXG1', '-262144', '262143', '8388607', '0.5', '1/2', '½',
                             '٣'])
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()): at, width = draw(st.sampled_from([*HEAD.values()]))
        else:
            name = draw(st.sampled_from([*FIELDS]))
            before = sum(w for k, w in FIELDS.items() if [*FIELDS].index(k) < [*FIELDS].index(name))
            width, at = FIELDS[name], 256 + before*n + FIELDS[name]*draw(st.integers(0, n - 1))
        data[at:at + width] = draw(words).encode('latin-1', 'replace')[:width].ljust(width)
    return bytes(data)


@st.composite
def films(draw):
    "A video that a camera could write: other sizes, rates, numbers of frames, some of them dropped, a strange clock."
    import cv2
    import numpy as np
    size = draw(st.sampled_from([(96, 72), (16, 16), (2, 2), (640, 8), (97, 73)]))
    with tempfile.NamedTemporaryFile(suffix='.avi') as f:
        rate = draw(st.sampled_from([1, 5, 10, 29.97, 240]))
        out = cv2.VideoWriter(f.name, cv2.VideoWriter_fourcc(*'MJPG'), rate, size)
        for k in range(draw(st.integers(0, 12))): out.write(np.full((*size[::-1], 3), 20*k, np.uint8))
        out.release()
        data = bytearray(Path(f.name).read_bytes())
    if b'strh' in data and draw(st.booleans()):
        at = data.index(b'strh') + 28                                   # scale and rate of the stream
        pair = draw(st.sampled_from([(0, 1), (1, 0), (1, 1), (1000, 1), (1, 1000), (1001, 30000), (2**31, 1),
                                     (1, 2**32 - 1)]))
        data[at:at + 8] = struct.pack('<II', *pair)
    places = [m.start() for m in re.finditer(b'00dc', data)]
    for at in draw(st.lists(st.sampled_from(places), max_size=3)) if places else ():
        data[at:at + 4] = draw(st.sampled_from([b'JUNK', b'00wb', b'01dc']))
    return bytes(data)


@st.composite
def pictures(draw):
    "A picture of another size, depth, number of channels, or format."
    import cv2
    import numpy as np
    shape = draw(st.sampled_from([(1, 1), (24, 32), (2, 900), (72, 96), (128, 170)]))
    chans = draw(st.sampled_from([(), (3,), (4,)]))
    kind = draw(st.sampled_from([np.uint8, np.uint16]))
    a = np.full((*shape, *chans), draw(st.sampled_from([0, 1, 77, 255])), kind)
    ending = draw(st.sampled_from(['.png', '.png', '.jpg', '.bmp', '.webp', '.tiff']))
    return cv2.imencode(ending, a if ending in ('.png', '.tiff') else a.astype(np.uint8))[1].tobytes()


@st.composite
def weights(draw, whole:bytes):
    "Tensors of other names, types, shapes and values."
    import torch
    from safetensors.torch import load, save
    at = load(whole)
    for _ in range(draw(st.integers(1, 2))):
        k = draw(st.sampled_from(sorted(at)))
        what = draw(st.sampled_from(['gone', 'type', 'shape', 'value', 'more']))
        if what == 'gone' and len(at) > 1: del at[k]
        if what == 'type':
            at[k] = at[k].to(draw(st.sampled_from([torch.float64, torch.float16, torch.int32, torch.bool])))
        if what == 'shape': at[k] = at[k].reshape(-1).clone()
        if what == 'value': at[k] = torch.full_like(at[k], draw(st.sampled_from([0, float('nan'), float('inf'), 1e38])))
        if what == 'more': at[draw(st.text(max_size=5))] = torch.zeros(2)
    note = draw(st.sampled_from([None, '', 'x', '[]', '{"data": 5}', '[[[']))
    return save(at, metadata=None if note is None else dict(trained_on=note))


@st.composite
def stored_arrays(draw):
    import numpy as np
    np.save(out := io.BytesIO(), draw(arrays()), allow_pickle=True)
    return out.getvalue()


@st.composite
def stored_tables(draw):
    import pandas as pd
    n = draw(st.integers(0, 3))
    columns = draw(st.lists(st.sampled_from(['row', 'y', 'yhat', 'subject', 'label', 'x']), unique=True, max_size=4))
    table = pd.DataFrame({c: draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n)) for c in columns})
    table.to_parquet(out := io.BytesIO())
    return out.getvalue()


def damages(door, alike):
    return st.integers(0, 2**32).map(lambda k: campaign.mutated(random.Random(k), door, alike))


def own_form(door):
    "The strategy of a door's own form; None where it has none."
    name, ending = door.name, door.name.rsplit('.', 1)[-1]
    seps = {'casme3.txt': '\t', 'clips.txt': '\t', 'fmov.txt': '\t'}
    if name in ('sheet.xlsx', 'table.xlsx', 'sheet.xls', 'table.xls', 'clips.sheet'):
        table = campaign.sheet()
        rows = [list(table), *table.astype(str).to_numpy().tolist()]
        return workbooks(rows, 'xls' if name.endswith('xls') else 'xlsx')
    if name == 'ratings.xls': return None
    if ending in ('csv', 'truth') or name in seps: return texts(door.whole, seps.get(name, ','))
    if name == 'face.safetensors': return weights(door.whole)
    if ending in ('json', 'marker') or name == 'deap.oracle': return jsons(door.whole)
    if name == 'a.yaml': return yamls()
    if ending == 'dat': return pickles()
    if ending == 'bdf': return bdfs(door.whole)
    if ending == 'avi': return films()
    if ending in ('png', 'jpg', 'picture'): return pictures()
    return {'npy': stored_arrays, 'parquet': stored_tables}.get(ending, lambda: None)()


def strange(door, alike):
    form, damaged = own_form(door), damages(door, alike)
    return form | damaged if form is not None else damaged


# all doors ----------------------------------------------------------------------------------------------------------

class Found(AssertionError): "A file that must not end so."


def looked_at(door, alike, n, counts, start, more) -> list[dict]:
    "n strange files through a door. What must not be, as small as it could be made, as entries of the corpus."
    last = []
    phases = [Phase.generate, Phase.shrink] if more else [Phase.generate]
    @seed(start)
    @settings(max_examples=n, deadline=None, database=None, phases=phases, suppress_health_check=list(HealthCheck),
              print_blob=False)
    @given(strange(door, alike))
    def look(data):
        kind, said = tried(data)
        counts[door.name, kind] += 1
        if kind in campaign.MAY: return
        last[:] = [(campaign.cause(kind, said), data)]
        raise Found(f'{door.name}: {kind}: {said}')
    try:
        with campaign.trying(door) as tried: look()
    except Found:
        def packed(data): return base64.b85encode(zlib.compress(data, 9)).decode()
        return [dict(door=door.name, why=why, data=packed(data)) for why, data in last]
    return []


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('-n', type=int, default=12, help='files for each door')
    p.add_argument('-s', '--seed', type=int, default=0)
    p.add_argument('--only', default='', help='doors, with commas')
    p.add_argument('--told', default='', help='a JSON file to whose counts these are added')
    p.add_argument('--keep', action='store_true', help='add what must not be to the corpus, made small')
    a = p.parse_args()
    counts, found = collections.Counter(), []
    with tempfile.TemporaryDirectory(prefix='emonb-strange-') as tmp:
        doors = campaign.opened(Path(tmp))
        alike = campaign.of_one_kind(doors)
        for d in doors:
            if a.only and not any(w in d.name for w in a.only.split(',')): continue
            start = random.Random(f'{a.seed} {d.name}').randrange(2**32)
            found += looked_at(d, alike[d.name], a.n, counts, start, a.keep)
    if a.keep and found: campaign.CORPUS.write_text(json.dumps(campaign.read_corpus() + found, indent=0) + '\n')
    if a.told: campaign.add_counts(Path(a.told), a.seed, counts)
    campaign.show(counts)
    for f in found: print(f"{f['door']}: {f['why']}")
    return bool(found)


if __name__ == '__main__': sys.exit(main())
