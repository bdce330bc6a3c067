"""DEAP: bad input, hostile pickles, fuzzed readers, pairing through every path, memory and speed of reading.

All files are SIMULATED."""
import json
import os
import pickle
import pickletools
import shutil
import subprocess
import sys
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emonb.core import DataError, EmonbError, SetError
from emonb.data.deap import (
    CHANNELS,
    EEG,
    RATE,
    RATINGS,
    BdfSession,
    Deap,
    binarise,
    count_frames,
    inventory,
    load_arrays,
    parse_subjects,
    read_bdf_header,
    read_dat,
    read_digital,
    read_ratings,
    status_events,
    video_frame,
)
from emonb.data.simulate_deap import (
    TWENTE,
    DeapTwin,
    deap_set,
    python2_pickle,
    stamp_of_frame,
    stamp_of_signal,
    write_deap,
)

SMALL = dict(trials=4, seconds=4, mark=True, files=('dat', 'bdf', 'video'), seed=3)

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A simulated tree with one subject of each kind of status channel and channel order."
    root = tmp_path_factory.mktemp('deap') / 'deap'
    write_deap(root, DeapTwin(subjects=(1, 15, 23, 24, 32), **SMALL))
    return root

@pytest.fixture
def tree(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / 'deap')

def refuses(match, call, *args, **kwargs):
    "The call ends in one sentence that matches."
    with pytest.raises(DataError, match=match) as e: call(*args, **kwargs)
    assert '\n' not in str(e.value) and len(str(e.value)) < 400
    return str(e.value)

# pairing --------------------------------------------------------------------------------------------------------------

def test_one_trial_stays_one_trial_through_every_path(whole):
    dat, bdf = Deap(whole), Deap(whole, signals='bdf')
    truth = pd.read_csv(whole / 'truth.csv').set_index(['subject', 'experiment_id'])
    assert len(dat) == len(bdf) == 20 and (dat.meta.order + 1 != dat.meta.experiment_id).any()
    videos = 0
    for i in range(len(dat)):
        a, b = dat[i], bdf[i]
        number, true = a.meta['experiment_id'], truth.loc[(a.meta['subject'], a.meta['experiment_id'])]
        assert stamp_of_signal(a.signals.values['Temp'], RATE) == number
        assert stamp_of_signal(b.signals.values['Temp'], b.signals.rates['Temp']) == number
        assert [a.meta[k] for k in RATINGS] == [true[k] for k in RATINGS]
        assert a.meta['trial_number'] == true.trial_number
        assert a.meta['label'] == int(true.valence >= 5)
        if a.meta['video']:
            videos += 1
            assert stamp_of_frame(video_frame(a.meta['video'], 7)) == number
    assert videos == 8                                                     # two of the subjects have faces

def test_raw_channels_are_found_by_name_in_either_order(whole):
    first, late = (read_bdf_header(whole / f'data_original/{who}.bdf').labels[:32] for who in ('s01', 's23'))
    assert first == TWENTE != EEG == late
    import mne
    for who, status in (('s01', 'Status'), ('s23', 'Status'), ('s24', ''), ('s32', '')):
        session = BdfSession(whole / f'data_original/{who}.bdf', trials=4)
        assert session.header.labels[-1] == status and len(session.header.labels) == (49 if who == 's32' else 48)
        theirs = mne.io.read_raw_bdf(session.path, verbose='error')
        first = int(session.onsets_s[2] * 512)
        ours = session.raw(3, before_s=0, after_s=1)
        assert np.allclose(ours.get_data('Fz'), theirs.get_data('Fz', first, first + 512), atol=1e-12)
        assert np.allclose(ours.get_data('vEOG')[0],
                           np.subtract(*theirs.get_data(['EXG3', 'EXG4'], first, first + 512)), atol=1e-12)

def test_every_status_variant_gives_the_same_codes(whole):
    for who in ('s01', 's23', 's24', 's32'):
        code = status_events(read_bdf_header(whole / f'data_original/{who}.bdf'))[:, 1].tolist()
        assert code == [1, 2] + [1, 3, 4, 5] * 4 + [7], who

def test_a_real_biosemi_file_reads_as_mne_reads_it(real):
    import mne
    path = real('eeglab') / 'test.bdf'
    header, theirs = read_bdf_header(path), mne.io.read_raw_bdf(path, verbose='error')
    ours = read_digital(header, [3, 11], 1000, 5000) * header.gain[[3, 11], None] + header.offset[[3, 11], None]
    assert np.allclose(ours * 1e-6, theirs.get_data([3, 11], 1000, 5000), atol=1e-12)
    assert header.rate == theirs.info['sfreq']
    refuses('never shows code 4', status_events, header)
    refuses('no channel Fp1', BdfSession, path)

# what is there --------------------------------------------------------------------------------------------------------

def test_any_subset_of_subjects_and_files(tree):
    (tree / 'data_preprocessed_python/s15.dat').unlink()
    shutil.rmtree(tree / 'face_video/s01')
    table = inventory(tree).set_index('subject')
    assert table.used.to_dict() == dict(s01=True, s15=False, s23=True, s24=True, s32=True)
    assert table.note['s15'] == 'no dat file'
    assert not table.as_published['s01'] and table.as_published['s15'] and table.as_published['s24']
    assert Deap(tree).subjects == ['s01', 's23', 's24', 's32']
    assert Deap(tree, signals='bdf', subjects='15').subjects == ['s15']
    refuses('s15: no dat file', Deap, tree, subjects='1,15')
    refuses('no trial is left that has a face', Deap, tree, faces='need')
    shutil.rmtree(tree / 'data_original')
    assert len(Deap(tree, subjects=[24])) == 4

def test_missing_videos_are_named_and_left_out_on_demand(tree):
    (tree / 'face_video/s01/s01_trial02.avi').unlink()
    row = inventory(tree).set_index('subject').loc['s01']
    assert row.without_video == '2' and not row.as_published
    faces = Deap(tree, subjects='1', faces='need')
    assert Deap(tree, faces='none').meta.video.eq('').all() and len(Deap(tree, faces='none').sources) == 1 + 5
    assert len(faces) == 3 and 2 not in faces.meta.trial_number.tolist()
    audit = Deap(tree).audit()
    assert ((audit.file == 'face_video/s01') & (audit.row == 'Trial 2')).any()
    assert ((audit.row == 's15') & audit.defect.str.contains('familiarity')).any()

def test_stray_files_are_listed_and_ignored(tree):
    for p in ('.DS_Store', 'data_preprocessed_python/.DS_Store', 'data_preprocessed_python/._s01.dat',
              'face_video/.DS_Store', 'face_video/s01/Thumbs.db', 'data_original/s01.bdf.part'):
        (tree / p).write_bytes(b'\0\0\0\1Bud1')
    assert Deap(tree).subjects == ['s01', 's15', 's23', 's24', 's32']
    assert (Deap(tree).audit().action == 'ignored').sum() == 5

def test_a_root_without_the_set(tmp_path):
    refuses('no such folder', Deap, tmp_path / 'nowhere')
    assert 'apply for the set' in refuses('no DEAP files here', Deap, tmp_path)

def test_parameters_are_checked(tree):
    for wrong in (dict(signals='csv'), dict(target='joy'), dict(rule='>=6'), dict(rule='mean'), dict(subjects='0-40'),
                  dict(subjects='all')):
        with pytest.raises(EmonbError): Deap(tree, **wrong)
    assert parse_subjects('1-3, s07') == ['s01', 's02', 's03', 's07']
    assert parse_subjects([2, 's05']) == ['s02', 's05'] and parse_subjects(None) is None
    assert Deap(tree, target='both').meta.label.tolist() == (
        binarise(Deap(tree).meta.valence) + 2 * binarise(Deap(tree).meta.arousal)).tolist()

def test_settings_and_sources_tell_readers_apart(tree):
    a, b = Deap(tree), Deap(tree, rule='>5')
    assert a.settings != b.settings and a.provenance == 'simulated'
    assert all(p.is_file() for p in a.sources) and len(a.sources) == 1 + 5 + 8

# bad input ------------------------------------------------------------------------------------------------------------

def good(whole): return read_dat(whole / 'data_preprocessed_python/s01.dat', 4, 4)

def dat(tmp_path, **arrays):
    path = tmp_path / 's09.dat'
    path.write_bytes(pickle.dumps(arrays, 2))
    return path

def test_damaged_dat_files(whole, tmp_path):
    one = good(whole)
    full = dict(data=one.data, labels=one.labels)
    raw = (whole / 'data_preprocessed_python/s01.dat').read_bytes()
    for n in (0, 1, 50, len(raw) // 2, len(raw) - 1):
        (tmp_path / 'cut.dat').write_bytes(raw[:n])
        refuses('cut.dat: (damaged|refused)', read_dat, tmp_path / 'cut.dat', 4, 4)
    refuses('3 trials', read_dat, dat(tmp_path, **{**full, 'data': one.data[:3]}), 4, 4)
    refuses('39 channels', read_dat, dat(tmp_path, **{**full, 'data': one.data[:, :39]}), 4, 4)
    refuses('int64', read_dat, dat(tmp_path, **{**full, 'data': np.zeros(one.data.shape, int)}), 4, 4)
    refuses('no array named data', read_dat, dat(tmp_path, other=one.data), 4, 4)
    refuses('no array named labels', read_dat, dat(tmp_path, data=one.data), 4, 4)
    refuses('NaN', read_dat, dat(tmp_path, data=one.data, labels=np.full((4, 4), np.nan)), 4, 4)
    (tmp_path / 'list.dat').write_bytes(pickle.dumps([1, 2]))
    refuses('a pickle of a list', read_dat, tmp_path / 'list.dat')
    refuses('no such file', read_dat, tmp_path / 'none.dat')
    refuses('a folder', read_dat, tmp_path)

def test_thirty_nine_trials_in_a_full_size_file(tmp_path):
    path = dat(tmp_path, data=np.zeros((39, 40, 8064), np.float32), labels=np.full((39, 4), 5.))
    assert '39 trials' in refuses('s09.dat', read_dat, path)

def test_nan_leaves_the_trial_out_flat_is_told_strict_stops(whole, tmp_path):
    one = good(whole)
    data = one.data.copy()
    data[1, 3, 5], data[2, 36], data[0, 0, -1] = np.inf, 1.5, np.nan
    path = dat(tmp_path, data=data, labels=one.labels)
    loose = read_dat(path, 4, 4)
    assert loose.usable.tolist() == [False, False, True, True]
    assert [(d['row'], d['defect'].split()[0], d['action'])
            for d in loose.defects] == [('trial 1', 'Fp1', 'trial left out'), ('trial 2', 'F7', 'trial left out'),
                                        ('trial 3', 'GSR', 'kept')]
    refuses('trial 1: Fp1', read_dat, path, 4, 4, strict=True)

def test_ratings_that_cannot_be_trusted(tree):
    path = tree / 'metadata_csv/participant_ratings.csv'
    table = pd.read_csv(path)
    def write(change):
        t = table.copy().astype(object)
        change(t)
        t.to_csv(path, index=False)
    write(lambda t: t.drop(columns='Trial', inplace=True)), refuses("no column 'Trial'", read_ratings, tree)
    write(lambda t: t.__setitem__('Valence', 10.)), refuses('row 2', read_ratings, tree)
    write(lambda t: t.loc.__setitem__((3, 'Arousal'), 'x')), refuses('row 5', read_ratings, tree)
    write(lambda t: t.loc.__setitem__((1, 'Experiment_id'), t.Experiment_id[0]))
    refuses('Experiment_id [0-9]+ stands twice', read_ratings, tree)
    for data in (b'', b'\xff\xfe\0', b'\x00' * 50):
        path.write_bytes(data)
        refuses('participant_ratings.csv', read_ratings, tree)
    path.unlink()
    refuses('missing', Deap, tree)

def test_ratings_of_another_order_are_noticed(tree):
    path = tree / 'metadata_csv/participant_ratings.csv'
    table = pd.read_csv(path)
    mine = table.Participant_id == 1
    table.loc[mine, 'Experiment_id'] = table.Experiment_id[mine].to_numpy()[[1, 0, 2, 3]]
    table.to_csv(path, index=False)
    refuses('ratings differ from participant_ratings.csv', Deap(tree).load, 's01')

def test_the_clock_is_used_only_if_a_unit_fits(tree):
    path = tree / 'metadata_csv/participant_ratings.csv'
    table = pd.read_csv(path)
    assert (read_ratings(tree).clock == 'Start_time in 0.0001 s').all() and read_ratings(tree).start_s.max() > 180
    table['Start_time'] = 5
    table.to_csv(path, index=False)
    assert (read_ratings(tree).clock == 'trial count').all() and read_ratings(tree).start_s.iloc[1] == 63

def test_bdf_files_that_cannot_be_read(tree):
    path = tree / 'data_original/s23.bdf'
    raw = path.read_bytes()
    n = int(raw[252:256])
    per_record = 256 + n * (16 + 80 + 8*5 + 80)
    def put(data):
        path.write_bytes(data)
        return path
    refuses('never shows code 4', status_events,
            read_bdf_header(put(raw[:256*(n + 1)] + bytes(len(raw) - 256*(n + 1)))))
    refuses('no status channel', BdfSession, put(raw[:256 + 16*(n - 1)] + b'Battery         ' + raw[256 + 16*n:]))
    refuses('no channel Cz', BdfSession, put(raw.replace(b'Cz              ', b'Cy              ')))
    refuses('mixed sampling rates', BdfSession, put(raw[:per_record + 8] + b'256     ' + raw[per_record + 16:]))
    refuses('cut short', BdfSession, put(raw[:len(raw) // 2]))
    refuses('not a BDF', BdfSession, put(b'EDF+C' + raw[5:]))
    refuses('damaged', BdfSession, put(raw[:300]))
    refuses('cannot be opened', BdfSession, tree / 'data_original/none.bdf')
    put(raw)
    refuses('4 playback codes where the ratings have 40', BdfSession, path, trials=40)
    refuses('too short', BdfSession(path).samples, 4, after_s=600)

def test_videos_that_do_not_open(tree):
    path = tree / 'face_video/s01/s01_trial01.avi'
    n, fps = count_frames(path)
    assert fps == 50 and 4 * 50 - 70 < n < 4 * 50                               # a little shorter than the trial
    refuses(f'has no frame {n}', video_frame, path, n)
    for data in (b'', b'RIFF' + bytes(100), path.read_bytes()[:300]):
        path.write_bytes(data)
        refuses('s01_trial01.avi', count_frames, path)
    refuses('no such video', count_frames, path.with_name('none.avi'))

# numbers and names ---------------------------------------------------------------------------------------------------

HUGE = ['1e2147483648', '1e4294967297', '-1e2147483648', 'inf', '9'*5000]
KILLERS = [*HUGE, 'nan', '1.5', '41', '0', '²', '1_0', '٣', '0x1', '1e', '1e-400']

def test_no_cell_of_the_ratings_ends_the_process_or_is_guessed(tree):
    "In a process of its own: a parser that crashes would take the tests along."
    path = tree / 'metadata_csv/participant_ratings.csv'
    rows = [r.split(',') for r in path.read_text().splitlines()]
    code = """if True:
        import json, sys
        from pathlib import Path
        from emonb.core import DataError
        from emonb.data.deap import read_ratings
        root, rows, killers = sys.argv[1], *json.loads(sys.stdin.read())
        path = Path(root)/'metadata_csv/participant_ratings.csv'
        for c, name in enumerate(rows[0]):
            for killer in killers:
                changed = [list(r) for r in rows]
                changed[3][c] = killer
                path.write_text('\\n'.join(','.join(r) for r in changed))
                try:
                    read_ratings(root)
                    value = 'read'
                except DataError as e: value = str(e)
                print(json.dumps([name, killer, value]))
    """
    call, given = [sys.executable, '-c', code, str(tree)], json.dumps([rows, KILLERS])
    done = subprocess.run(call, input=given, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]
    said = {(name, killer): value for name, killer, value in map(json.loads, done.stdout.splitlines())}
    assert len(said) == len(rows[0]) * len(KILLERS)
    for (name, killer), value in said.items():
        if name.lower() in RATINGS and killer == '1.5': assert value == 'read'
        elif name not in ('Start_time', 'Familiarity'):
            assert f'ratings.csv, row 4: {name} is ' in value, (killer, value)
        elif killer in HUGE: assert f'row 4: {name} is ' in value and 'finite' in value, (killer, value)
        else: assert value == 'read', (name, killer, value)      # a word there is no number, and known as missing

def test_a_table_of_another_form_is_refused_at_its_row(tree):
    path = tree / 'metadata_csv/participant_ratings.csv'
    rows = path.read_text().splitlines()
    def put(lines):
        path.write_text('\n'.join(lines))
        return tree
    refuses('row 3: more cells', read_ratings, put([*rows[:2], rows[2] + ',7', *rows[3:]]))
    refuses("column 'Valence' stands twice", read_ratings, put([rows[0] + ',valence', *(r + ',5' for r in rows[1:])]))
    refuses('row 5: .* is .., not', read_ratings, put([*rows[:4], rows[4].split(',')[0], *rows[5:]]))
    for who in ('2.5', '33', '-1', ''):
        changed = [rows[0], who + ',' + rows[1].split(',', 1)[1], *rows[2:]]
        refuses(f"row 2: Participant_id is '{who}'", read_ratings, put(changed))
    refuses('rows where 32 people', read_ratings, put([rows[0], *rows[1:2] * 2000]))
    blanks = [rows[0].upper().replace(',', ' , '), '', *rows[1:], ',,,']
    assert len(read_ratings(put(blanks))) == 20                               # blanks and empty rows are no fault

def test_a_damaged_xls_is_refused(tree):
    (tree / 'metadata_csv/participant_ratings.csv').unlink()
    (tree / 'metadata_xls').mkdir()
    for data in (b'', b'no table', b'\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1' + bytes(4000)):
        (tree / 'metadata_xls/participant_ratings.xls').write_bytes(data)
        refuses('participant_ratings.xls: cannot be read as a table', read_ratings, tree)

MARKERS = ['[]', '5', '{"trials": "many"}', '{"trials": 1e400, "seconds": 4}', '{"trials": 4, "seconds": 4.5}',
           '{"trials": 41}', '[' * 100_000]

@pytest.mark.parametrize('marker', MARKERS)
def test_a_marker_that_says_nothing_stops(tree, marker):
    (tree / 'SIMULATED.json').write_text(marker)
    with pytest.raises(SetError, match='SIMULATED.json'): Deap(tree)

HEADER = dict(records=lambda n: 236, seconds=lambda n: 244, bytes=lambda n: 184, low=lambda n: 256 + n*104,
              digital_low=lambda n: 256 + n*120, per_record=lambda n: 256 + n*216)

@pytest.mark.parametrize('field', HEADER)
def test_no_number_of_a_bdf_header_is_guessed(tree, field):
    path = tree / 'data_original/s24.bdf'
    raw = path.read_bytes()
    at = HEADER[field](int(raw[252:256]))
    for killer in ('1e99999', 'inf', 'nan', '1_0', '\xb2', '', '1.5e', '0x10'):
        path.write_bytes(raw[:at] + killer.encode('latin1').ljust(8) + raw[at + 8:])
        refuses('s24.bdf: the BDF header (is damaged|contradicts)', read_bdf_header, path)

def test_a_bdf_is_read_in_the_unit_it_says(tree):
    path = tree / 'data_original/s24.bdf'
    raw = path.read_bytes()
    n = int(raw[252:256])
    at, samples = 256 + n*96, BdfSession(path, 4).samples(2, after_s=4)
    for unit, factor in (('uV', 1), ('\xb5V', 1), ('mV', 1e3), ('V', 1e6)):
        path.write_bytes(raw[:at] + unit.encode('latin1').ljust(8) * 40 + raw[at + 320:])
        other = BdfSession(path, 4)
        found = other.samples(2, after_s=4)
        assert np.allclose(found[:36], samples[:36] * factor) and np.array_equal(found[36:], samples[36:])
        assert np.allclose(other.raw(2, after_s=4).get_data()[:36], samples[:36] * factor * 1e-6)
    for unit in ('', 'nV', 'kV', 'Boolean'):
        path.write_bytes(raw[:at + 8*31] + unit.encode().ljust(8) + raw[at + 8*32:])
        refuses(f"channel .* is in '{unit}'", BdfSession, path, 4)

SPELLED = {'S01': 's01', 's1': 's01', ' s01': 's01', 's\u200b01': 's01', 'ｓ０１': 's01', 'S1 ': 's01'}

@pytest.mark.parametrize('name', SPELLED)
def test_a_person_spelled_otherwise_is_that_person(tree, name):
    plain, clip = Deap(tree), 's01_trial1.avi' if name == 'S1 ' else f'{name}_Trial1.AVI'
    oz = plain[0].signals.values['Oz'].copy()
    (tree / 'data_preprocessed_python/s01.dat').rename(tree / f'data_preprocessed_python/{name}.dat')
    (tree / 'face_video/s01/s01_trial01.avi').rename(tree / f'face_video/s01/{clip}')
    (tree / 'face_video/s01').rename(tree / f'face_video/{name}')
    other = Deap(tree)
    assert other.meta.drop(columns='video').equals(plain.meta.drop(columns='video'))
    assert (other.meta.video != '').equals(plain.meta.video != '')
    assert np.array_equal(other[0].signals.values['Oz'], oz)
    audit = other.audit()
    assert (audit.action == 'read as s01').sum() == 5 and audit.defect.str.contains(repr(name)[1:-1], regex=False).any()
    assert other.ledger.close(person=other.subjects)['person'] == plain.ledger.close(person=plain.subjects)['person']
    shutil.copy(tree / f'data_preprocessed_python/{name}.dat', tree / 'data_preprocessed_python/s01.dat')
    said = refuses('the same person and trial', Deap, tree)
    assert 's01.dat' in said and ascii(name + '.dat')[1:-1] in ascii(said)

@pytest.mark.parametrize('name', ['s33', 's00', 's 01', 's01 copy', 's001', 'P01', 'subject01'])
def test_a_name_that_is_nobodys_is_met_and_left_out(tree, name):
    shutil.copy(tree / 'data_preprocessed_python/s01.dat', tree / f'data_preprocessed_python/{name}.dat')
    (tree / 'face_video' / name).mkdir()
    reader = Deap(tree)
    account = reader.ledger.close(person=reader.subjects, trial=reader.meta.trial)
    why = 'its name is none of s01 to s32'
    assert account['person'] == dict(found=6, used=5, left_out={why: 1})
    assert account['trial'] == dict(found=24, used=20, left_out={why: 4})
    assert (reader.audit().action == 'left out').sum() == 2
    for who in ('s01', 's15', 's23', 's24', 's32'):
        (tree / f'data_preprocessed_python/{who}.dat').unlink()
        (tree / f'data_original/{who}.bdf').unlink()
    shutil.rmtree(tree / 'face_video')
    assert name in refuses('named as none of s01 to s32', Deap, tree)

def test_a_link_that_leads_nowhere_is_told(tree):
    path = tree / 'data_preprocessed_python/s15.dat'
    path.unlink()
    path.symlink_to(tree / 'annex/s15.dat')
    reader = Deap(tree)
    account = reader.ledger.close(person=reader.subjects)
    assert 's15' not in reader.subjects and account['person']['left_out'] == {'no file behind the name': 1}

def test_small_pickles_that_would_never_end(tmp_path):
    "Nested tuples as a key, a dict that holds itself twice at each level, one text turned to bytes again and again."
    nested = b'\x80\x02}' + b'(K\x01t' + b'q\x00h\x00h\x00\x86' * 40 + b'K\x01s.'
    keys = {'key': nested, 'set': b'\x80\x04\x8f(' + b'K\x01\x85' + b'q\x00h\x00\x86' * 40 + b'\x90.'}
    keys['type'] = b'\x80\x02cnumpy\ndtype\nK\x01' + b'q\x00h\x00\x86' * 40 + b'\x85R.'
    for name, code in keys.items():
        (tmp_path / f'{name}.dat').write_bytes(code)
        call = 'import sys; from emonb.data.deap import load_arrays; load_arrays(sys.argv[1])'
        path = str(tmp_path / f'{name}.dat')
        done = subprocess.run([sys.executable, '-c', call, path], capture_output=True, text=True, timeout=60)
        assert f'DataError: {tmp_path}/{name}.dat: ' in done.stderr, (name, done.stderr[-300:])
    inner = {}
    for _ in range(22): inner = {'a': inner, 'b': inner}
    (tmp_path / 'self.dat').write_bytes(pickle.dumps(dict(data=np.zeros(3), more=inner), 2))
    text = b'x' * 10_000
    once = b'\x80\x02](X' + len(text).to_bytes(4, 'little') + text + b'q\x00c_codecs\nencode\nq\x01h\x00\x85R'
    often = once + b'h\x01h\x00\x85R' * 5000 + b'e.'
    (tmp_path / 'often.dat').write_bytes(often)
    tracemalloc.start()
    assert np.array_equal(load_arrays(tmp_path / 'self.dat')['data'], np.zeros(3))
    refuses('more bytes than it holds', load_arrays, tmp_path / 'often.dat')
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()

# hostile pickles ------------------------------------------------------------------------------------------------------

class Evil:
    def __init__(self, call, *args): self.made = call, args
    def __reduce__(self): return self.made

@pytest.mark.parametrize('protocol', range(6))
def test_a_pickle_that_runs_a_command_is_refused_by_name(tmp_path, protocol):
    flag = tmp_path / 'flag'
    for call, args, name in ((os.system, (f'touch {flag}',), 'system'),
                             (subprocess.check_output, (['touch', str(flag)],), 'check_output'),
                             (eval, (f'open({str(flag)!r}, "w")',), 'eval'),
                             (exec, ('1',), 'exec'), (np.load, ('x.npy',), 'load'),
                             (getattr, (str, 'upper'), 'getattr')):
        for thing in (Evil(call, *args), {'data': np.zeros(3), 'labels': [Evil(call, *args)]}):
            (tmp_path / 'evil.dat').write_bytes(pickle.dumps(thing, protocol))
            refuses(f'refused, it asks for [a-z0-9_.]*{name}', load_arrays, tmp_path / 'evil.dat')
            with pytest.raises(SetError): load_arrays(tmp_path / 'evil.dat')       # at which every run stops
    assert not flag.exists()

def test_other_ways_of_making_objects_are_closed(tmp_path):
    codes = {'inst': b'(S"echo"\nios\nsystem\n.', 'obj': b'(cos\nsystem\nS"echo"\no.',
             'newobj': b'\x80\x02cnumpy\nndarray\n)\x81.', 'persistent': b'Pid\n.', 'extension': b'\x80\x02\x82\x01.',
             'numpy by another door': b'cnumpy.core.multiarray\n_reconstruct.os.system\n.',
             'attributes': b'\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.',
             'inside of a function': b'c_codecs\nencode\n}S"a"\nK\x01sb.',
             'bytes by number': b'cnumpy.core.numeric\n_frombuffer\n(J\xff\xff\xff\x7fcnumpy\ndtype\n'
                                b'(S"f8"\ntRK\x01S"C"\ntR.'}
    for code in codes.values():
        (tmp_path / 'odd.dat').write_bytes(code)
        refuses('odd.dat', load_arrays, tmp_path / 'odd.dat')

def test_array_types_that_are_not_numbers(tmp_path):
    for a in (np.array([{}], object), np.array(['a']), np.zeros(2, [('x', 'f8')]), np.array(['2020'], 'M8[D]'),
              np.zeros(2, 'c16')):
        for protocol in (2, 4, 5):
            (tmp_path / 'a.dat').write_bytes(pickle.dumps(dict(data=a), protocol))
            refuses('a.dat: (refused|damaged)', load_arrays, tmp_path / 'a.dat')

def test_both_names_of_numpys_core_and_both_orders(tmp_path):
    a = np.asfortranarray(np.arange(12.).reshape(3, 4))
    for protocol in range(6):
        data = pickle.dumps(dict(data=a, labels=a.T.astype('>f4')), protocol)
        for one, other in ((b'numpy._core', b'numpy.core'), (b'numpy.core', b'numpy._core')):
            if protocol >= 4 and one in data: continue                          # there a name's length stands before it
            (tmp_path / 'a.dat').write_bytes(data.replace(one, other))
            found = load_arrays(tmp_path / 'a.dat')
            assert np.array_equal(found['data'], a) and np.array_equal(found['labels'], a.T)

@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.randoms(use_true_random=False))
def test_python2_pickles_read_the_same_here_and_in_the_standard_library(tmp_path_factory, n, m, r):
    arrays = dict(data=np.array([[r.uniform(-9, 9) for _ in range(m)] for _ in range(n)]), labels=np.zeros((n, 4)))
    path = tmp_path_factory.mktemp('p') / 'a.dat'
    path.write_bytes(b''.join(bytes(c) for c in python2_pickle(arrays)))
    theirs, ours = pickle.loads(path.read_bytes(), encoding='latin1'), load_arrays(path)
    assert all(np.array_equal(ours[k], theirs[k]) and np.array_equal(ours[k], arrays[k]) for k in arrays)

# fuzz -----------------------------------------------------------------------------------------------------------------

LOOSE = dict(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow,
                                                   HealthCheck.data_too_large])

def only_data_errors(path, data, *calls):
    path.write_bytes(data)
    for call in calls:
        try: call(path)
        except DataError as e: assert path.name in str(e) and '\n' not in str(e)

def damage(draw, seed):
    "Cut, overwrite and insert bytes at random places of a good file."
    data = bytearray(seed[:draw(st.integers(0, len(seed)))] if draw(st.booleans()) else seed)
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(data)))
        data[at:at + draw(st.integers(0, 3))] = draw(st.binary(max_size=6))
    return bytes(data)

SEEDS = [pickle.dumps(dict(data=np.arange(6.).reshape(1, 2, 3), labels=np.ones((1, 4))), p)
         for p in (0, 2, 4, 5)] + [b''.join(bytes(c) for c in python2_pickle(dict(data=np.ones((2, 2)))))]

@settings(max_examples=300, **LOOSE)
@given(st.data())
def test_fuzzed_pickles_end_in_a_sentence(tmp_path, data):
    only_data_errors(tmp_path / 'f.dat', damage(data.draw, data.draw(st.sampled_from(SEEDS))), load_arrays,
                     lambda p: read_dat(p, 1, -2))

@settings(max_examples=200, **LOOSE)
@given(st.lists(st.sampled_from([bytes([o.code.encode('latin1')[0]])
                                 for o in pickletools.opcodes]) | st.binary(max_size=5), max_size=30))
def test_random_opcodes_end_in_a_sentence(tmp_path, parts):
    only_data_errors(tmp_path / 'f.dat', b''.join(parts) + b'.', load_arrays)

@settings(max_examples=150, **LOOSE)
@given(st.data())
def test_fuzzed_bdf_headers_end_in_a_sentence(tmp_path, whole, data):
    if not hasattr(test_fuzzed_bdf_headers_end_in_a_sentence, 'seed'):
        from emonb.data.simulate_deap import EXTRA, bdf_header
        names = EEG + EXTRA + ['Status']
        test_fuzzed_bdf_headers_end_in_a_sentence.seed = bdf_header(names, 1,
                                                                    ['uV'] * 47 + ['Boolean']) + bytes(48 * 512 * 3)
    seed = test_fuzzed_bdf_headers_end_in_a_sentence.seed
    edited, n = bytearray(seed), len(seed)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, 256 * 49))
        patch = data.draw(st.binary(max_size=8) | st.sampled_from([b'-1      ', b'0       ', b'nan     ', b'1e400   ',
                                                                   b'99999999']))
        edited[at:at + len(patch)] = patch
    cut = data.draw(st.integers(0, n)) if data.draw(st.booleans()) else n
    only_data_errors(tmp_path / 'f.bdf', bytes(edited[:cut]), BdfSession,
                     lambda p: read_digital(read_bdf_header(p), [0]))

HEAD = 'Participant_id,Trial,Experiment_id,Valence,Arousal,Dominance,Liking\n'

@settings(max_examples=80, **LOOSE)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: (HEAD + t).encode('utf8', 'surrogatepass')))
def test_fuzzed_ratings_end_in_a_sentence(tmp_path, data):
    path = tmp_path / 'participant_ratings.csv'
    path.write_bytes(data)
    try: read_ratings(tmp_path)
    except DataError as e: assert 'participant_ratings.csv' in str(e)

# memory and speed -----------------------------------------------------------------------------------------------------

def test_a_full_size_subject_is_held_once_and_read_at_the_speed_of_the_disk(tmp_path):
    data = np.random.default_rng(0).standard_normal((40, 40, 8064)).astype(np.float32).astype(float)
    path = tmp_path / 's01.dat'
    with open(path, 'wb') as file:
        for chunk in python2_pickle(dict(data=data, labels=np.full((40, 4), 5.))): file.write(chunk)
    tracemalloc.start()
    one = read_dat(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(one.data, data)
    assert peak < 1.3 * data.nbytes, f'{peak / data.nbytes:.2f} times the data'

def test_the_reader_holds_one_subject_at_a_time(whole):
    reader = Deap(whole)
    first = reader.load('s01')
    assert reader.load('s01') is first
    reader.load('s24')
    assert reader._held[0] == 's24' and reader.load('s01') is not first

# the twin -------------------------------------------------------------------------------------------------------------

def test_nothing_half_written_is_left_when_writing_fails(tmp_path, monkeypatch):
    import emonb.data.simulate_deap as module
    def full(*args): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(module, 'dat_trial', full)
    with pytest.raises(OSError): write_deap(tmp_path / 'deap', DeapTwin(subjects=(1,), trials=2, seconds=3))
    assert not (tmp_path / 'deap/SIMULATED.json').exists()
    assert not list((tmp_path / 'deap').rglob('*.tmp'))
    assert not list((tmp_path / 'deap').rglob('*.dat'))

def test_files_do_not_depend_on_who_else_is_written(tmp_path):
    for name, who in (('a', (1, 2)), ('b', (1, 2))):
        write_deap(tmp_path / name, DeapTwin(subjects=who, trials=2, seconds=3, files=('dat',)))
    assert (tmp_path / 'a/data_preprocessed_python/s02.dat').read_bytes() == (
        tmp_path / 'b/data_preprocessed_python/s02.dat').read_bytes()

def test_the_prepared_twin_keeps_the_contract():
    data = deap_set(subjects=3, trials=4, windows=5, effect={'face': 1.}, target='both', face=True)
    assert data.x['bio'].shape == (60, 40, 128) and data.x['face'].dtype == np.uint8
    assert data.provenance == 'simulated' and len(data.classes) == 4
    assert data.meta.groupby('trial').label.nunique().eq(1).all() and data.meta.groupby('trial').size().eq(5).all()
    assert data.meta.groupby('subject').order.apply(lambda o: sorted(set(o)) == list(range(4))).all()
    quiet = deap_set(subjects=3, trials=4, windows=5, effect={'face': 1.})
    # the face's effect leaves the signals alone
    assert abs(quiet.x['bio'].mean((0, 2))).max() < .15

def test_each_knob_adds_what_it_says():
    def levels(**knobs):
        return deap_set(subjects=6, trials=10, windows=4, effect=0., gain=1.,
                        **knobs).x['bio'].mean(-1).reshape(6, 10, 4, 40)
    noise = levels()
    for name, spread in dict(trial_stamp=lambda x: x.mean(2).var((0, 1)).mean(),
                             subject_offset=lambda x: x.mean((1, 2)).var(0).mean()).items():
        assert spread(levels(**{name: 1.})) > 10 * spread(noise), name
    drift = deap_set(subjects=6, trials=10, windows=4, effect=0., gain=1., clock_drift=2.)
    r = [abs(np.corrcoef(drift.x['bio'].mean(-1)[:, c], drift.meta.order)[0, 1]) for c in range(40)]
    assert np.median(r) > .8 and len(CHANNELS) == 40
    stimulus = deap_set(subjects=6, trials=10, windows=4, effect=0., gain=1., stimulus_stamp=1.)
    by_video = pd.DataFrame(stimulus.x['bio'].mean(-1)).groupby(stimulus.meta.stimulus).var().mean().mean()
    assert by_video < .2 * stimulus.x['bio'].mean(-1).var(0).mean()
