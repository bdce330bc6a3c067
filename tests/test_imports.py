"Who may import whom: wings from left to right, light at the top, and nothing that settings.ini does not install."
import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest
from conftest import ROOT

LIB = ROOT/'emonb'
# what every wing may lean on, and the command, which leans on core alone
CORE = ('core.py', 'code_key.py', 'command.py')
WINGS = {   # wing → what its modules may import besides the core
    'data': ('data',), 'signals': ('data', 'signals'), 'models': ('models',),     # a model takes tensors
    # tables, splits, recipes: no reader, no simulator, no model
    'study': ('study', 'data.recordings', 'data.people', 'data.twins', 'models.registry'),
    # a set declared: it knows them by name
    'experiments': ('experiments', 'study', 'models', 'signals', 'data')}
MODULES = [p.relative_to(LIB).as_posix() for p in sorted(LIB.rglob('*.py')) if not p.name.startswith('_')]


def parsed(name): return ast.parse((LIB/name).read_text(encoding='utf-8'))


def imported(name, tree, top_level=False):
    """Absolute names of all modules that the module called `name` (a path inside emonb/) imports.

    With `top_level` those
    loaded with the module itself. nbdev writes imports of the package's own modules as relative ones."""
    def walk(node):
        for child in ast.iter_child_nodes(node):
            if top_level and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)): continue
            yield child
            yield from walk(child)
    names = set()
    for node in walk(tree):
        if isinstance(node, ast.Import): names |= {a.name for a in node.names}
        if isinstance(node, ast.ImportFrom):
            assert all(a.name != '*' for a in node.names), f'{name}, line {node.lineno}: star import'
            start = ['emonb', *name.split('/')][:-node.level] if node.level else []
            base = '.'.join([*start, *filter(None, [node.module])])
            names |= {f'{base}.{a.name}' for a in node.names} | {base}
    return names


def strangers(name, tree):
    "Modules of emonb that the module called `name` imports and may not."
    here = {m.removeprefix('emonb.') for m in imported(name, tree) if m.startswith('emonb.')}
    allowed = WINGS[name.split('/')[0]] if '/' in name else ()
    def within(m, place): return f'{m}.'.startswith(f'{place}.')
    def above(m):
        # `from emonb.data.recordings import …` names emonb.data too
        return any(within(place, m) and place != m for place in allowed)
    named = {m for m in here if any(within(m, w) for w in WINGS) and not any(within(m, place) for place in allowed)}
    return {m for m in named if not (above(m) and any(within(k, m) and k != m for k in here - named))}


@pytest.mark.parametrize('name', MODULES)
def test_wings(name):
    assert name in CORE or name.split('/')[0] in WINGS, 'a module lies in a wing'
    bad = strangers(name, parsed(name))
    assert not bad, f'{name} imports {sorted(bad)}: data → signals, models, study → experiments'


@pytest.mark.parametrize('name,code,bad', [
    ('models/x.py', 'from emonb.data.recordings import Prepared', True),
    ('models/x.py', 'import emonb.signals.faces', True),
    ('models/x.py', 'def f():\n from emonb.data import casme3', True),
    ('models/x.py', 'from emonb.models.psnet import PSNet', False),
    ('data/x.py', 'from emonb.signals.depth import clean', True), ('data/x.py', 'from emonb import study', True),
    ('models/x.py', 'from ..data.recordings import Prepared', True), ('models/x.py', 'from .psnet import PSNet', False),
    ('models/x.py', 'from .. import data', True), ('core.py', 'from .study.train import fit_fold', True),
    ('signals/x.py', 'from emonb.data.recordings import Signals', False),
    ('study/x.py', 'from emonb.models.psnet import PSNet', True),
    ('study/x.py', 'from emonb.data.recordings import Prepared', False),
    ('study/x.py', 'from ..data.people import told_names', False),
    ('study/experiment.py', 'from emonb.data.casme3 import x', True),
    ('study/experiment.py', 'from emonb.data import casme3', True),
    ('study/x.py', 'import emonb.signals.prepare', True),
    ('study/x.py', 'from ..experiments.casme3 import CASME3', True),
    ('study/x.py', 'from emonb.data import recordings', False),
    ('study/x.py', 'from emonb.data.recordings import Prepared\nfrom emonb.data import deap', True),
    ('experiments/x.py',
     'from emonb.models.psnet import PSNet\nfrom emonb.data.casme3 import x\nfrom ..study.train import Recipe', False),
    ('experiments/x.py', 'from emonb.experiments.casme3 import CASME3', False),
    ('signals/x.py', 'from emonb.experiments import casme3', True),
    ('core.py', 'from emonb.data.recordings import Signals', True)])
def test_the_rule_can_be_broken(name, code, bad): assert bool(strangers(name, ast.parse(code))) == bad


@pytest.mark.parametrize('module', ['emonb', 'emonb.core'])
def test_light(module):
    "Neither the package nor its core loads a heavy library."
    heavy = ['torch', 'torchvision', 'timm', 'mne', 'cv2', 'neurokit2', 'pandas', 'matplotlib', 'seaborn', 'scipy',
             'sklearn', 'IPython', 'numpy']
    say = f'import sys, {module}; print(*[m for m in {heavy} if m in sys.modules])'
    p = subprocess.run([sys.executable, '-c', say], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert p.returncode == 0, p.stderr
    assert p.stdout.split() == []


def canonical(name): return re.sub(r'[-_.]+', '-', name).lower()


def required(key):
    "Names of the distributions that settings.ini lists under `key`."
    line = re.search(rf'^{key}\s*=\s*(.*)$', (ROOT/'settings.ini').read_text(encoding='utf-8'), re.M)[1]
    return {canonical(re.match(r'[\w.-]+', r)[0]) for r in line.split()}


def test_every_import_is_required():
    "What a module loads with itself comes with emonb, not with something that happens to be installed beside it."
    owners, have, missing = packages_distributions(), required('requirements'), {}
    for name in MODULES:
        for top in {m.split('.')[0] for m in imported(name, parsed(name), top_level=True)}:
            if top in sys.stdlib_module_names or top == 'emonb': continue
            if not have & {canonical(d) for d in owners.get(top, [])}: missing.setdefault(top, []).append(name)
    assert not missing, f'not among the requirements in settings.ini: {missing}'


def test_package_needs_no_development_tool():
    "nbdev and its family make the modules; the modules do not need them."
    tools = {'nbdev', 'fastcore', 'execnb', 'ghapi', 'fastgit', 'pytest'}
    assert tools <= required('dev_requirements') and not tools & required('requirements')
    for name in MODULES:
        used = {m.split('.')[0] for m in imported(name, parsed(name))} & (tools | {'torchaudio'})
        assert not used, f'{name} imports {used}'


WHY = {   # a requirement that nothing here imports by name → what it is for
    'torchvision': 'timm builds its networks with it',
    'pyarrow': 'pandas writes predictions as parquet with it',
    'ipykernel': 'the kernel that notebooks run in',
    'ipywidgets': 'progress bars and controls in JupyterLab',
    'jupyterlab': 'where the chapters are read and changed',
    'nbdev': 'its commands export and clean the chapters',
    'ruff': 'holds the lines of the notebooks (test_lint.py)',
    'playwright': 'drives a browser through JupyterLab, where one is installed',
    'execnb': 'pinned beside nbdev, which reads notebooks by it',
    'ghapi': 'pinned beside nbdev',
    'fastgit': 'pinned beside nbdev',
    'fastcore': 'pinned beside nbdev, whose scripts stand on it',
    'build': 'python -m build makes the wheel',
    'wheel': 'the wheel is built without a network, so it must be there',
    'pytest-xdist': 'pytest -n: the suite on several processors',
}


DOCS = {   # what [docs] adds → what it is for
    'sphinx': 'builds the site from its pages, with search, index and checked references',
    'myst-nb': 'lets it read notebooks and Markdown, outputs as they are stored',
    'furo': 'the theme: a sidebar, narrow and wide, light and dark',
}


def test_what_the_site_is_built_with_is_told():
    assert required('docs_requirements') == set(DOCS)
    assert not set(DOCS) & set.union(*(required(f'{k}requirements') for k in ('', 'notebook_', 'dev_')))


def sources():
    "The Python of the modules, the tests, setup.py and the scripts of nbs/."
    return [*LIB.rglob('*.py'), *(ROOT/'tests').glob('*.py'), *(ROOT/'nbs').glob('*.py'), ROOT/'setup.py']


def test_every_requirement_is_used():
    "What is asked for at installation is imported somewhere, or it stands above with its reason."
    tops = {m.split('.')[0] for path in sources() for m in imported('', ast.parse(path.read_text(encoding='utf-8')))}
    owners = packages_distributions()
    used = {canonical(d) for top in tops for d in owners.get(top, [])}
    asked = set.union(*(required(f'{k}requirements') for k in ('', 'notebook_', 'dev_')))
    unused, told = asked - used, set(WHY)
    assert unused == told, f'neither imported nor told why: {unused - told}; told why, and imported: {told - unused}'


def test_what_the_modules_import_is_not_only_for_notebooks():
    "A module imports what [notebooks] adds inside a function alone, where a notebook or the command asks for it."
    owners, light = packages_distributions(), required('notebook_requirements')
    for name in MODULES:
        tops = {m.split('.')[0] for m in imported(name, parsed(name), top_level=True)}
        assert not {canonical(d) for top in tops for d in owners.get(top, [])} & light, name
