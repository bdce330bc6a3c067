"""The simulated twin as a whole.

The project's own reader finds it sound but for its quirks, it is written whole or not at all, and it says no more than
it should."""
import errno
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

import emonb.data.simulate as simulate
from emonb.core import DataError, EmonbError
from emonb.data.casme3 import CasMe3, action_units
from emonb.data.recordings import check_reader
from emonb.data.simulate import (
    Casme3Twin,
    face_of,
    ideal_frames,
    oracle,
    plan,
    read_truth,
    sheet_of,
    simulated_root,
    write_casme3,
)
from emonb.study.metrics import null_band, permutation_null, scores

TINY = Casme3Twin(subjects=3, clips=9, size=(160, 120), gap_s=2.,
                  quirks=('missing frame', 'damaged file', 'impossible rows', 'Others'))


@pytest.mark.parametrize('part, column', [('C', 5), ('C', 6), ('A', 5)])
def test_the_reader_takes_it_and_the_audit_finds_exactly_the_quirks(tmp_path, part, column):
    s = replace(TINY, part=part, clips=15, marker_column=column)
    root = write_casme3(tmp_path/'twin', s)
    reader = check_reader(CasMe3(root=root, part=part, classes=4))
    assert reader.provenance == 'simulated'
    defects = ' | '.join(reader.audit().defect)
    wanted = ['1 of', 'cut off'] + (['apex before onset', 'onset = apex = 0', 'offset 0'] if part == 'A' else [])
    assert all(w in defects for w in wanted), defects
    spelled = defects.count("spelled 'Others'")
    assert len(reader.audit()) == (3 if part == 'C' else 6) + spelled
    assert spelled == (min(3, (plan(s).emotion == 'others').sum()) if part == 'A' else 0)
    o = oracle(root, 4)
    both = reader.meta.merge(o['meta'].assign(y=o['y']), on='trial', how='left', validate='one_to_one')
    # every clip the reader has, with its label
    assert (both.label == both.y).all() and reader.classes == o['classes']
    if part == 'C':
        truth = read_truth(root)[1]
        lead = dict(zip(truth.subject.map('{:02d}'.format), truth.lead_s))
        for i in range(len(reader)): assert abs(reader[i].signals.start_s + lead[reader.meta.subject[i]]) < .01


def test_what_fails_midway_leaves_nothing(tmp_path, monkeypatch):
    def full(*args, **kw): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(simulate, 'write_signals', full)
    with pytest.raises(EmonbError, match='disk is full'): write_casme3(tmp_path/'twin', TINY)
    def killed(*args, **kw): raise KeyboardInterrupt
    monkeypatch.setattr(simulate, 'write_signals', killed)
    with pytest.raises(KeyboardInterrupt): write_casme3(tmp_path/'twin', TINY)
    assert list(tmp_path.iterdir()) == []


def test_a_leftover_of_a_killed_write_is_no_obstacle(tmp_path):
    (tmp_path/'.twin.part'/'part_C').mkdir(parents=True)
    (tmp_path/'.twin.part'/'part_C'/'half.jpg').write_text('x')
    root = write_casme3(tmp_path/'twin', TINY)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['twin'] and not list(root.rglob('half.jpg'))


def test_same_settings_same_files_other_settings_other_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = simulated_root('casme3', TINY, label='')
    assert one == simulated_root('casme3', replace(TINY), label='')
    assert {simulated_root('casme3', replace(TINY, **c), label='')
            for c in (dict(seed=1), dict(depth_noise=3.), dict(effect=dict(color=1.)))}.isdisjoint({one})
    with pytest.raises(EmonbError, match='accepted: casme3'): simulated_root('deap')
    other = write_casme3(tmp_path/'again', TINY)
    for f in one.rglob('*'):
        if f.is_file(): assert f.read_bytes() == (other/f.relative_to(one)).read_bytes(), f


def test_an_emptied_or_foreign_folder_is_told(tmp_path):
    with pytest.raises(DataError, match='not a simulated tree'): oracle(tmp_path)
    root = write_casme3(tmp_path/'twin', TINY)
    mark = root/'SIMULATED.json'
    mark.write_text(mark.read_text().replace(f'"version": {simulate.VERSION}', '"version": 0'))
    with pytest.raises(DataError, match='version 0'): oracle(root)
    with pytest.raises(EmonbError, match='accepted: 4, 3'): oracle(write_casme3(tmp_path/'new', TINY), classes=7)


def test_without_an_effect_the_coder_knows_nothing_and_with_one_he_does():
    "The annotation model of chapter 11 on the twin's sheet, against permuted labels."
    def of(effect):
        s = Casme3Twin(subjects=30, clips=330, effect=dict(color=effect), seed=4)
        table = plan(s)
        x = action_units(sheet_of(s, table).au)[0]
        y = table.emotion.map({'negative': 0, 'positive': 1, 'surprise': 2, 'others': 3}).to_numpy()
        def run(labels):
            return cross_val_predict(RidgeClassifier(class_weight='balanced'), x, labels, groups=table.subject,
                                     cv=LeaveOneGroupOut())
        return scores(y, run(y), 4)['UAR'], run, y
    value, run, y = of(0.)
    low, high = null_band(permutation_null(run, y, np.arange(len(y)), 40, 0, num_classes=4))
    # 40 draws: a little wider than their extremes
    assert low - .02 <= value <= high + .02, (value, low, high)
    assert of(4.)[0] > high + .2


def test_physiology_and_depth_carry_their_own_evidence_only():
    "Two clips that differ in one modality's evidence differ in that modality's files alone."
    s = replace(TINY, head_motion=0.)
    table = plan(s)
    row = table.iloc[0]
    face = face_of(s, row.subject)
    def apex(r): return next((c, mm) for n, c, mm in ideal_frames(s, r, face) if n == r.apex)
    c, mm = apex(row)
    for m, seen in (('color', (True, False)), ('depth', (False, True)), ('physio', (False, False))):
        other = row.copy()
        other[f'{m}_0'] += 2.
        c2, mm2 = apex(other)
        assert (not np.array_equal(c, c2), not np.array_equal(mm, mm2)) == seen, m
