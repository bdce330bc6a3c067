"Every declared change is one that its set takes, and what an ablation says is what its rows and a run of its own say."
import json
from dataclasses import replace

import pytest

from emonb.core import EmonbError
from emonb.data.megc2019 import FlowTwin, write_megc2019
from emonb.data.recordings import MARKER
from emonb.data.simulate import Casme3Twin, write_casme3
from emonb.experiments import ablations
from emonb.experiments.ablations import ABLATIONS, PRETRAINED, Change, Changed, answer_of, set_of, table_of
from emonb.experiments.by_name import SETS
from emonb.models.face_net import AffectCNN
from emonb.models.registry import entry
from emonb.study.experiment import check_parameters
from emonb.study.experiment import run as run_one
from emonb.study.settled import logs, read_looks

STUDIES = [(name, k) for name, studies in ABLATIONS.items() for k in studies]


@pytest.mark.parametrize('name,study', STUDIES)
def test_declared_changes_are_known_to_their_set(name, study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/PRETRAINED).parent.mkdir(parents=True)
    AffectCNN().save_cnn(tmp_path/PRETRAINED)
    e, s, seen = set_of(name), ABLATIONS[name][study], []
    for c in s.changes:
        given = {**s.given, **c.given}
        p = check_parameters(e, {k: v for k, v in given.items() if k in e.table})
        numbers = {k for k in given if k not in e.table}
        assert all(k in e.presets['demo'] or k in entry(p.model).arguments for k in numbers), c
        assert (given, c.row) != (s.given, ''), f'{c.name} changes nothing'
        seen.append((tuple(sorted(given.items())), c.row))
    assert len(set(seen)) == len(seen) and len({(c.part, c.name) for c in s.changes}) == len(s.changes)


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    return write_casme3(tmp_path_factory.mktemp('set')/'tree', Casme3Twin(subjects=4, clips=16, size=(320, 240)))

@pytest.fixture(scope='module')
def result(tree, tmp_path_factory):
    "Ablations of the physiological network on a small SIMULATED tree."
    out = tmp_path_factory.mktemp('out')
    return ablations.run(dict(root=str(tree), studies='physiology', epochs=2, seeds='0,1', workers=1, out=str(out)))


def test_a_change_is_scored_as_a_run_of_its_own(result, tree, tmp_path):
    "The same parameters through chapter 55: the same predictions, the same paired difference."
    t, = result.tried
    row = next(r for r in t.rows if r.change.name == 'courses of the signals')
    given = dict(root=str(tree), modalities='physio', protocol='loso', epochs=2, seeds='0,1', workers=1)
    r = run_one(SETS['casme3'], dict(given, model='latent_product,psnet', out=str(tmp_path/'both')))
    first, other = r.main.entries[:2]
    assert row.scores['UF1']['value'] == first.scores['UF1']['value']
    assert t.first.scores['UF1']['value'] == other.scores['UF1']['value']
    d = r.main.differences.query("metric == 'UF1'").iloc[0]
    assert row.differences['UF1'] == {k: d[k] for k in ('difference', 'low', 'high', 'p')}


def test_what_is_written(result):
    s = json.loads((result.out/'summary.json').read_text())
    study = s['studies']['physiology']
    assert s['provenance'] == 'simulated' and study['seeds'] == [0, 1] and study['n'] == 16 and study['n_subjects'] == 4
    assert {c['change'] for c in study['changes']} == {c.name for c in ABLATIONS['casme3']['physiology'].changes}
    for c in study['changes']:
        d = c['differences']['UF1']
        assert abs(d['difference'] - (c['metrics']['UF1']['value'] - study['metrics']['UF1']['value'])) < 1e-9
        assert d['low'] <= d['difference'] <= d['high'] and c['seeds'] == 2
    words = (result.out/'tables.md').read_text()
    assert words.count('SIMULATED') > 10 and 'majority of the training fold' in words
    assert (result.out/'changes_physiology.png').stat().st_size > 1000


def known(name, difference, p):
    d = dict(difference=difference, low=difference - .05, high=difference + .05, p=p)
    return Changed(Change('part', name, {}), 'model', 2,
                   dict(UF1=dict(value=.5, low=.4, high=.6), UAR=dict(value=.5, low=.4, high=.6)),
                   dict(UF1=d, UAR=d))

def test_the_answer_is_computed_from_the_rows(result):
    rows = [known('A', -.2, .001), known('B', .2, .01), known('C', -.2, .2), known('D', .01, .001)]
    t = replace(result.tried[0], rows=rows)
    said = answer_of(t)
    worse, rest = said.split('Better by the change: ')
    better, none = rest.split('No difference shown: ')
    assert 'part A' in worse and 'part B' in better and 'part C' in none and 'part D' in none
    assert 'Of 4 comparisons' in said
    assert list(table_of(t, 'simulated').verdict) == ['–', 'below', 'above', 'no difference shown',
                                                      'no difference shown']


def test_what_a_set_cannot_show_is_listed_and_the_rest_runs(tmp_path):
    tree = write_casme3(tmp_path/'A', Casme3Twin(part='A', subjects=3, clips=9, size=(320, 240)))
    given = dict(root=str(tree), options='part=A', epochs=1, seeds='0', workers=1,
                 parts='baseline,mirror image,modalities')
    t, = ablations.run(dict(given, out=str(tmp_path/'out'))).tried
    assert [(c.name, 'needs physiology' in why) for c, why in t.lacking] == [('off', True)]
    assert [r.change.name for r in t.rows] == ['off', 'color alone', 'depth alone']
    assert len(t.reference.block.rows) == len(t.data)


@pytest.mark.parametrize('given,word', [
    (dict(studies='theirs'), 'paper'), (dict(protocol='loso,leave_stimulus_out'), 'one protocol'),
    (dict(dataset='stress'), 'fmov'),
    (dict(options='dim=3'), 'option'), (dict(dataset='fmov', clips=9), 'no such size'),
    (dict(seeds='a'), 'whole numbers')])
def test_refused_in_one_sentence(given, word, tmp_path):
    with pytest.raises(EmonbError, match=word) as e: ablations.run(dict(given, out=str(tmp_path/'out')))
    assert '\n' not in str(e.value) and not (tmp_path/'out').exists()


def test_a_larger_twin_keeps_the_rest():
    e = ablations.sized(SETS['casme3'], ablations.check(dict(people=20, clips=300)))
    before = SETS['casme3'].presets['demo']
    assert e.presets['demo']['twin'] == dict(before['twin'], subjects=20, clips=300)
    assert {k: v
            for k, v in e.presets['demo'].items() if k != 'twin'} == {k: v for k, v in before.items() if k != 'twin'}


def test_real_people_have_no_oracle_and_their_look_is_logged(tmp_path, monkeypatch):
    "Flow pictures without the mark of a twin: as the published ones are, they come without a truth."
    monkeypatch.setenv('EMONB_CACHE', str(tmp_path/'cache'))
    write_megc2019(tmp_path/'set', FlowTwin(people=4, clips=4, seed=5))
    for name in (MARKER, 'truth.csv'): (tmp_path/'set'/name).unlink()
    given = dict(dataset='megc2019', root=str(tmp_path/'set'), epochs=1, seeds='0', workers=1, parts='dropout',
                 out=str(tmp_path/'out'))
    r = ablations.run(given)
    t, = r.tried
    assert r.provenance == 'real' and not [m for m in t.reference.entries if m.kind == 'oracle'] and len(t.rows) == 1
    assert all(set(f.people) == {'not a development set'} for f in r.tables()[:2])
    assert 'first scored look' in ' '.join(r.told)
    look, = read_looks(logs()[1]).to_dict('records')
    assert look['changed'] == 'ablations' and look['settled']
