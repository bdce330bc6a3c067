"The command `emonb`, what a run notebook refuses however it is given, and the names at the package's top."
import json
import os
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
from conftest import NBS, ROOT, notebooks
from papermill import inspect_notebook

from emonb import command
from emonb.core import EmonbError, run_lock, seeds_of
from emonb.experiments import by_name as experiment

RUNS = notebooks('[89][0-9]*_*.ipynb')


def emonb(*words, cwd):
    p = subprocess.run([sys.executable, '-c', 'import sys; from emonb.command import main; sys.exit(main())',
                        *map(str, words)],
                       cwd=cwd, capture_output=True, text=True, timeout=300)
    return p.returncode, p.stdout, p.stderr


@pytest.mark.parametrize('path', RUNS, ids=lambda p: p.stem)
def test_parameters_are_those_papermill_sees(path):
    def plain(default): return str(default) if isinstance(default, (int, float)) else json.dumps(default)
    seen = inspect_notebook(str(path))
    assert [p.name for p in command.parameters(path)] == list(seen)
    for p in command.parameters(path):
        of = seen[p.name]
        assert (p.type, plain(p.default), p.help) == (of['inferred_type_name'], of['default'], of['help'])


def test_every_run_notebook_is_an_experiment(tmp_path):
    status, said, _ = emonb('list', cwd=tmp_path)
    assert status == 0 and sorted(command.experiments().values()) == RUNS
    assert all(f'\n{name} ' in said for name in command.experiments())


def test_models_are_listed_where_there_is_a_registry(monkeypatch):
    import emonb as package
    monkeypatch.setattr(package, 'list_models', lambda: ['a_model', 'another'], raising=False)
    assert command.listing().splitlines()[-3:] == ['Models:', 'a_model', 'another']


def test_run(people, apart):
    "The notebook is run and written, and gives what a call from Python gives."
    given = dict(dataset='stress_predict', model='features', protocol='loso', root=str(people))
    words = [w for k, v in given.items() for w in ('-p', k, v)]
    (apart/'more.yaml').write_text('workers: 1\nout: from_a_file')
    status, said, wrong = emonb('run', 'loso', *words, '-f', 'more.yaml', '-y', '{out: out}', 'done{1}.ipynb',
                                cwd=apart)
    assert (status, said) == (0, 'wrote done{1}.ipynb\n'), wrong
    nb = nbformat.read(apart/'done{1}.ipynb', 4)
    assert all(c.execution_count for c in nb.cells if c.cell_type == 'code')
    again = experiment.run(dict(given, out='again'))
    pd.testing.assert_frame_equal(
        pd.read_parquet(apart/'out'/'predictions.parquet')[again.main.predictions.columns.tolist()],
        again.main.predictions)


@pytest.mark.parametrize('words,named', [
    (['-p', 'protocl', 'loso'], 'protocl'), (['-p', '_epochs', '3'], '_epochs'), (['-p', 'run', '3'], 'run'),
    (['-y', '{In: 3}'], 'In'),
    (['-y', 'epochs'], 'YAML'), (['-y', '{epochs: ]'], 'YAML'), (['-f', 'nowhere.yaml'], 'nowhere.yaml'),
    (['out'], '.ipynb'), (['nowhere/out.ipynb'], 'cannot be written'), ([NBS/'90_loso.ipynb'], 'itself'),
    (['a.ipynb', 'b.ipynb'], 'b.ipynb'),
    (['-y', '{epochs: {first: 3}}'], 'epochs'), (['-p', 'seeds', '0,0'], 'twice'), (['-p', 'device', 'cpu:x'], 'cpu:x'),
    (['-p', 'out', 'a_file'], 'a_file')])
def test_refused_in_one_sentence(words, named, apart):
    (apart/'a_file').write_text('mine')
    status, said, wrong = emonb('run', 'loso', *words, cwd=apart)
    assert status == 1 and said == '', wrong
    # the kernel may warn about its own ports
    wrong = [line for line in wrong.splitlines() if 'IPKernelApp' not in line]
    assert len(wrong) == 1 and wrong[0].startswith('EmonbError: ') and named in wrong[0], wrong
    assert (apart/'a_file').read_text() == 'mine'


@pytest.mark.parametrize('words,named', [(['-p', '_epochs', '3'], '_epochs'), (['-p', 'In', '3'], "'In'"),
                                         (['-p', 'run', '3'], "'run'"),
                                         (['-y', '{epochs: {first: 3}}'], 'epochs'),
                                         (['-p', 'seeds', '9'*5000], 'whole numbers')])
def test_papermill_alone_stops_too(words, named, apart):
    "The sentence is the last line, whatever papermill prints above it."
    p = subprocess.run([sys.executable, '-m', 'papermill', NBS/'90_loso.ipynb', 'out.ipynb', '-p', 'out', 'results',
                        *words],
                       cwd=apart, capture_output=True, text=True, timeout=300)
    last = [line for line in (p.stdout + p.stderr).splitlines() if line.strip()][-1]
    assert p.returncode and last.startswith('EmonbError: ') and named in last, last
    assert not (apart/'results').exists()


def test_a_corrected_cell_counts(tmp_path):
    "In a kernel that goes on living, what papermill's cell says now is what counts."
    from nbclient import NotebookClient
    texts = ('from emonb.core import injected_names', '# Parameters\n_epochs = 3\nseeds = 1', 'print(injected_names())',
             '# Parameters\nseeds = 1', 'print(injected_names())')
    nb = nbformat.v4.new_notebook(metadata=dict(kernelspec=dict(name='python3', display_name='python3')),
                                  cells=list(map(nbformat.v4.new_code_cell, texts)))
    NotebookClient(nb, resources=dict(metadata=dict(path=str(tmp_path)))).execute()
    assert [c.outputs[0].text for c in nb.cells[2::2]] == ["['_epochs', 'seeds']\n", "['seeds']\n"]


@pytest.mark.parametrize('folds', ['0', '00', '5', '99999', '9'*5000, '²', '-1', 'S99'])
def test_folds_that_are_not_there(folds, people, apart):
    "Refused with what there is, before anything is trained."
    with pytest.raises(EmonbError, match='folds=.*S02') as e:
        experiment.run(dict(dataset='stress_predict', model='features', root=str(people), out='out', folds=folds))
    assert len(str(e.value)) < 500 and not list((apart/'out'/'rows').iterdir())


def test_the_first_folds_and_named_ones(people, apart):
    def tested(folds):
        return set(experiment.run(dict(dataset='stress_predict', model='features', protocol='loso', root=str(people),
                                       out='out', folds=folds)).main.predictions.fold)
    assert tested('2') == {'S02', 'S03'} and tested('S04, S02') == {'S02', 'S04'} and len(tested('4')) == 4


@pytest.mark.parametrize('text',
                         ['', ',', '0,0', '0,00', '²', '-1', '1.0', '1e3', 'True', '9'*5000, str(2**63), None, {}, '٣'])
def test_seeds_that_are_none(text):
    with pytest.raises(EmonbError, match='^seeds=.*;|whole numbers'): seeds_of(text)


def test_the_holder_is_named_and_the_lock_freed_with_its_process(tmp_path):
    "The lock is the kernel's: a process that is killed frees it, and a note it left behind does not hold anybody."
    hold = ('import sys, time\nfrom emonb.core import run_lock\n'
            'with run_lock(sys.argv[1]): print("held", flush=True); time.sleep(60)')
    p = subprocess.Popen([sys.executable, '-c', hold, tmp_path/'out'], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert p.stdout.readline() == 'held\n'
        with pytest.raises(EmonbError, match=f'another run holds this folder .process {p.pid}.'):
            with run_lock(tmp_path/'out', wait=.3): pass
    finally: p.kill(), p.wait()
    assert (tmp_path/'out'/'.holder').exists()
    with run_lock(tmp_path/'out', wait=5): assert (tmp_path/'out'/'.holder').read_text() == f'process {os.getpid()}'


def test_a_name_from_the_top_is_followed_to_its_code(tmp_path, monkeypatch):
    "What somebody's own module takes from the package's top counts in the key of a fold, before it is loaded too."
    (tmp_path/'somebody.py').write_text('import emonb\nfrom emonb import make_splits\ndef f(): '
                                        'return emonb.per_subject, make_splits\n')
    monkeypatch.syspath_prepend(tmp_path)
    said = subprocess.run([sys.executable, '-c', 'import sys; sys.path.insert(0, sys.argv[1]); import somebody; '
                           'from emonb.code_key import code_of; print(*code_of(somebody.f))', tmp_path],
                          capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert {'somebody.f', 'emonb.study.metrics.per_subject',
            'emonb.study.splits.make_splits'} <= set(said.stdout.split()), said.stderr
