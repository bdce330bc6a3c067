"Modules equal what the notebooks export, notebooks are clean, and README.md is made from index.ipynb."
import ast
import json
import re
import runpy
import shutil
import subprocess
import sys

import pytest
from conftest import NBS, ROOT, notebooks

import emonb

SETTINGS = dict(re.findall(r'^(\w+)\s*=\s*(.*)$', (ROOT/'settings.ini').read_text(encoding='utf-8'), re.M))


def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']
def text_of(cell): return ''.join(cell['source'])


def nbdev(command, cwd):
    "Run one of nbdev's commands in `cwd`; it must neither fail nor complain."
    p = subprocess.run([sys.executable, '-W', 'ignore',
                        '-c', f'from nbdev.{command.split("_")[1] if command == "nbdev_clean" else "doclinks"} import '
                        f'{command}; {command}()'],
                       cwd=cwd, capture_output=True, text=True, timeout=300)
    assert p.returncode == 0 and 'Failed' not in p.stderr + p.stdout, p.stderr + p.stdout


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "A checkout that holds the settings and the notebooks alone."
    top = tmp_path_factory.mktemp('checkout')
    shutil.copy(ROOT/'settings.ini', top)
    shutil.copytree(NBS, top/'nbs', ignore=shutil.ignore_patterns('.*', '_*'))
    return top


def tree(top): return {p.relative_to(top).as_posix(): p.read_text(encoding='utf-8') for p in sorted(top.rglob('*.py'))}


def test_modules_equal_what_the_notebooks_export(copy):
    nbdev('nbdev_export', copy)
    made, here = tree(copy/'emonb'), tree(ROOT/'emonb')
    left = sorted(here.keys() - made.keys())
    assert not left, f'no notebook exports {left}: remove, or restore the notebook'
    assert not made.keys() - here.keys(), f'missing: {sorted(made.keys() - here.keys())}; run nbdev_export'
    stale = [name for name in made if made[name] != here[name]]
    assert not stale, f'out of step with their notebooks: {stale}; edit the notebook and run nbdev_export'


def test_nbdev_clean_changes_nothing(copy):
    before = {p.name: p.read_text(encoding='utf-8') for p in (copy/'nbs').glob('*.ipynb')}
    nbdev('nbdev_clean', copy)
    dirty = [name for name, text in before.items() if (copy/'nbs'/name).read_text(encoding='utf-8') != text]
    assert before and not dirty, f'run nbdev_clean: {dirty}'


def test_a_stray_module_and_an_edited_one_are_seen(copy):
    "The comparison itself can fail."
    nbdev('nbdev_export', copy)
    made = tree(copy/'emonb')
    assert 'core.py' in made and '_modidx.py' in made
    assert f"__version__ = \"{SETTINGS['version']}\"" in made['__init__.py']
    (copy/'emonb'/'stray.py').write_text('x = 1\n')
    (copy/'emonb'/'core.py').write_text('edited')
    changed = tree(copy/'emonb')
    assert changed.keys() - made.keys() == {'stray.py'} and changed['core.py'] != made['core.py']
    nbdev('nbdev_export', copy)
    assert tree(copy/'emonb')['core.py'] == made['core.py']


# A home, temporary or other absolute folder of some machine, in words a user never typed.
MACHINE = re.compile(
    r'''(?<![\w.~$}/:>-])/(?:home|Users|root|tmp|var|opt|work|mnt|srv|private|usr/(?:lib|local)|content|workspace|data\d*)/[\w.-]+'''
    r'''|\b[A-Z]:\\{1,2}(?:Users|Windows|Temp)\b|file://|ipykernel_\d+''')


@pytest.mark.parametrize('path', notebooks(), ids=lambda p: p.stem)
def test_clean_notebook(path):
    assert path.stat().st_size <= 1_000_000, 'over 1 MB'
    nb = json.loads(path.read_text(encoding='utf-8'))
    assert nb['metadata']['kernelspec']['name'] == 'python3', 'papermill needs the python3 kernel'
    for k, cell in enumerate(nb['cells']):
        where = f'{path.name}, cell {k}'
        assert not (m := MACHINE.search(text_of(cell))), f'{where}: path of one machine, {m[0]}'
        for out in cell.get('outputs', []):
            assert out['output_type'] != 'error', f'{where}: an error is stored'
            assert out.get('name') != 'stderr', f'{where}: what went to stderr is stored'
            data = out.get('data', {})
            for kind, value in data.items():
                if kind.startswith('image/'):
                    assert len(''.join(value)) * 3 / 4 <= 100_000, f'{where}: figure over 100 kB'
            words = json.dumps([out.get('text'), {k: v for k, v in data.items() if not k.startswith('image/')}])
            assert not (m := MACHINE.search(words)), f'{where}: the output shows {m[0]}'


@pytest.mark.parametrize('path', notebooks('[0-9][0-9]*_*.ipynb'), ids=lambda p: p.stem)
def test_order_of_a_notebook(path):
    "A title, a line under it; then a chapter names its module, and a run notebook its parameters."
    all_cells = cells(path)
    assert re.match(r'# (?!#)\S.*\n+> \S', text_of(all_cells[0])), 'begins with a title and a line after >'
    code = [c for c in all_cells if c['cell_type'] == 'code']
    exports = [c for c in code if re.search(r'^#\s*\|\s*(export|exporti|default_exp)\b', text_of(c), re.M)]
    tagged = [c for c in code if 'parameters' in c['metadata'].get('tags', [])]
    if path.name[0] in '89':
        assert not exports and len(tagged) == 1, 'a run notebook exports nothing and has one cell tagged parameters'
        assert not any(c['outputs'] for c in code), 'a run notebook is stored without outputs'
    else:
        assert any('default_exp' in text_of(c) for c in exports) and len(exports) > 1
        for c in code: assert not mixed(text_of(c)), f'imports stand in a cell of their own:\n{text_of(c)}'


def mixed(source):
    "Whether a cell holds import statements beside others, at its top level."
    body = ast.parse(re.sub(r'^[%!].*$', '', source, flags=re.M)).body
    return len({isinstance(node, (ast.Import, ast.ImportFrom)) for node in body}) > 1


@pytest.mark.parametrize('source,expected', [
    ('import os\nx = 1', True), ('#| export\nimport os\n\nfrom pathlib import (Path,\n    PurePath)', False),
    ('x = 1', False),
    ('program = """\nimport os\n"""', False), ('def f():\n    import os', False),
    ('%matplotlib inline\nimport os', False), ('import os; os.getcwd()', True)])
def test_mixed_cells_are_told(source, expected): assert mixed(source) == expected


TOP = '/'     # written so, the examples are not taken for paths of a machine themselves
@pytest.mark.parametrize('said,machine', [
    (f'saved to {TOP}home/ann/x', True), (f'{TOP}root/.cache/y', True), (f"open('{TOP}tmp/abc')", True),
    (r'C:\\Users\\ann', True),
    ('twin in data/simulated/casme3', False), ('https://example.org/home/page', False), ('<div>/<b>', False),
    ('../shared/real', False), ('part_C/07/a/color/3.jpg', False), ('~/data/deap', False), ('µS/tmp', False)])
def test_machine_paths_are_told_from_others(said, machine): assert bool(MACHINE.search(said)) == machine


def test_readme_is_made_from_index():
    made = runpy.run_path(str(NBS/'_docs.py'))['readme']()
    assert (ROOT/'README.md').read_text(encoding='utf-8') == made, 'run python nbs/_docs.py'


def test_links_of_the_readme_lead_somewhere():
    for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'data/README.md',
                 *(f'nbs/_site/{n}.md' for n in ('use', 'trust', 'glossary'))):
        text = (ROOT/name).read_text(encoding='utf-8')
        links = [t.partition('#')[0] for t in re.findall(r'\]\(([^)\s]+)\)', text) if not re.match(r'\w+:|#', t)]
        assert not [t for t in links if not ((ROOT/name).parent/t).exists()], name
        assert links or name != 'README.md'


def test_the_two_commands_of_the_readme():
    text = (ROOT/'README.md').read_text(encoding='utf-8')
    for command in ("pip install -e '.[dev]' && papermill nbs/90_loso.ipynb out.ipynb -p dataset casme3",
                    "pip install -e '.[dev]' && pytest"):
        assert f'\n{command}\n' in text


def test_what_the_readme_names_is_there():
    """Imports and parameters shown in the README and on the page about running exist.

    The notebook's own defaults tell its parameters."""
    text = ''.join((ROOT/name).read_text(encoding='utf-8') for name in ('README.md', 'nbs/_site/use.md'))
    shown = re.findall(r'^from (emonb[\w.]*) import (\w+(?:, \w+)*)', text, re.M)
    assert shown
    for module, names in shown:
        if module == 'emonb': there = set(emonb.__all__)
        else:
            tree = ast.parse((ROOT/(module.replace('.', '/') + '.py')).read_text(encoding='utf-8'))
            there = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        assert set(names.split(', ')) <= there, module
    for notebook, rest in re.findall(r'papermill nbs/(\w+)\.ipynb out\.ipynb(.*)', text):
        cell = next(c for c in cells(NBS/f'{notebook}.ipynb') if 'parameters' in c['metadata'].get('tags', []))
        assert set(re.findall(r'-p (\w+) ', rest)) <= set(re.findall(r'^(\w+)\s*[:=]', text_of(cell), re.M)), rest


def test_python_versions_agree():
    "settings.ini's oldest Python is the oldest that the workflow tests."
    tested = re.findall(r"'(3\.\d+)'", (ROOT/'.github/workflows/test.yml').read_text(encoding='utf-8'))
    assert tested[0] == SETTINGS['min_python'] and tested == ['3.11', '3.12', '3.13']


def test_actions_are_pinned():
    "A tag can be moved to other code; a commit can't."
    used = [u for path in (ROOT/'.github/workflows').glob('*.yml')
            for u in re.findall(r'uses: (\S+)(.*)', path.read_text(encoding='utf-8'))]
    assert len(used) > 4 and all(re.fullmatch(r'[\w-]+/[\w-]+@[0-9a-f]{40}', name) and re.fullmatch(r'  # v[\d.]+', tag)
                                 for name, tag in used), used
