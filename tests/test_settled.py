"What a run says of its people and its settings, and what may confirm (chapter 57)."
import json

import pytest

from emonb.core import EmonbError
from emonb.data.fmov import Fmov, FmovTwin, small_root, write_tree
from emonb.data.megc2019 import FlowTwin, write_megc2019
from emonb.data.simulate import Casme3Twin, write_casme3
from emonb.data.twins import MARKER
from emonb.experiments.by_name import SETS, run, what_is_settled
from emonb.study.settled import all_looks, logs, read_looks, read_settled, settled_hash, settled_path, standing


@pytest.fixture
def quick(apart, monkeypatch):
    monkeypatch.setenv('EMONB_CACHE', str(apart/'cache'))
    return dict(dataset='fmov', model='features', protocol='leave_version_out', out='out')


def test_the_file_says_what_the_code_says():
    kept = read_settled()
    assert what_is_settled() == {k: kept[k]
                                 for k in ('sets', 'systems')}, 'a default was changed: say why and write_settled()'
    assert set(SETS) == set(kept['sets']) and len(settled_hash()) == 8
    assert all(c['on'] and c['tried'] for c in kept['choices'])


def test_other_line_ends_give_the_same_hash(tmp_path):
    (tmp_path/'copy.json').write_bytes(settled_path().read_bytes().replace(b'\n', b'\r\n'))
    assert settled_hash(tmp_path/'copy.json') == settled_hash()


def test_rows_say_development_and_hash_and_what_was_changed(quick, apart):
    r = run(quick)
    t = r.table(r.main)
    assert set(t.people) == {'development set'} and set(t.settings) == {settled_hash()}
    assert r.standing.sentence in (apart/'out'/'tables.md').read_text()
    said = json.loads((apart/'out'/'summary.json').read_text())['standing']
    assert said['development_files'] == said['files'] == 1 and said['settled'] == settled_hash()
    other = run(dict(quick, scale='none', out='other'))
    assert set(other.table(other.main).settings) == {f'{settled_hash()} but scale'}


def test_a_look_is_counted_once(quick):
    before = len(read_looks(logs()[0]).query('set == "fmov"'))
    first, again = run(quick), run(quick)
    other = run(dict(quick, classes=3, out='three'))
    assert [r.standing.before for r in (first, again, other)] == [before, before + 1, before + 1]
    mine = read_looks(logs()[1])
    assert len(mine) == 2 and set(mine.set) == {'fmov'} and set(mine.protocol) == {'leave_version_out'}
    assert abs(float(mine.UAR.iloc[0]) - first.main.entries[0].scores['UAR']['value']) < 1e-3


def test_a_twin_is_no_look(quick):
    r = run(dict(quick, source='simulated'))
    assert r.standing.word == 'twin' and not r.standing.sentence and not logs()[1].exists()


@pytest.fixture
def strangers(tmp_path):
    "A tree of people nobody has looked at: one of the twin whose mark is taken away."
    root = tmp_path/'fmov'
    write_tree(root, FmovTwin(people=6, seed=77))
    (root/MARKER).unlink()
    return root


def test_what_may_not_confirm(quick, strangers):
    for given, sentence in ((dict(), '1 of 1 files were looked at'), (dict(source='simulated'), 'is simulated'),
                            (dict(root=str(strangers), scale='none'), 'leave scale as they are'),
                            (dict(root=str(strangers), preset='demo'), 'leave preset as they are')):
        with pytest.raises(EmonbError, match=sentence): run(dict(quick, confirm=True, **given))
    assert not logs()[1].exists(), 'nothing was scored'


def test_a_confirmation_is_one_look(quick, strangers, apart):
    given = dict(quick, root=str(strangers), confirm=True)
    r, again = run(given), run(given)
    assert set(r.table(r.main).people) == {'CONFIRMATION'} and len(all_looks().query('confirm == "yes"')) == 1
    assert again.standing.before == 1


@pytest.mark.parametrize('name, model, write', [
    ('megc2019', 'svm', lambda root: write_megc2019(root, FlowTwin(people=4, clips=4, seed=77))),
    ('casme3', 'features', lambda root: write_casme3(root, Casme3Twin(subjects=3, clips=9, seed=77)))])
def test_ones_own_files_confirm_once(name, model, write, tmp_path, apart, monkeypatch):
    """Files in the form of a known set, which nobody has looked at (of a twin without its mark).

    One look, with settings as settled."""
    monkeypatch.setenv('EMONB_CACHE', str(apart/'cache'))
    root = write(tmp_path/'own')
    for file in root.glob('truth*'): file.unlink()
    (root/MARKER).unlink()
    given = dict(dataset=name, model=model, protocol='loso', root=str(root), workers=1, confirm=True)
    with pytest.raises(EmonbError, match='leave epochs as they are'): run(dict(given, epochs=1, out='changed'))
    r, again = (run(dict(given, out=out)) for out in ('out', 'again'))
    assert r.provenance == 'real' and set(r.table(r.main).people) == {'CONFIRMATION'}
    assert (r.standing.before, again.standing.before) == (0, 1)
    assert all_looks().query('confirm == "yes"').set.tolist() == [name]


def test_who_was_scored_before_cannot_confirm(quick, strangers):
    run(dict(quick, root=str(strangers)))
    with pytest.raises(EmonbError, match='scored before'):
        run(dict(quick, root=str(strangers), confirm=True, out='late'))


def test_some_among_others(tmp_path):
    file = tmp_path/'another.txt'
    file.write_text('a person')
    s = standing('fmov', 'real', [*Fmov(small_root()).sources, file], [])
    assert s.development == (1, 2) and s.word == 'in part a development set' and '1 of 2' in s.sentence
