"""The package as others get it.

Built from a source distribution, installed alone into an empty environment, imported elsewhere."""
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import NBS, ROOT
from test_main_job import write_people

MODULES = sorted('.'.join(p.relative_to(ROOT).with_suffix('').parts)
                 for p in (ROOT/'emonb').rglob('*.py') if not p.name.startswith('_'))
ON_TOP = ['papermill', 'IPython', 'ipykernel', 'ipywidgets', 'jupyterlab', 'nbclient']      # what [notebooks] adds
OUTSIDE = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME')}


def run(*command, cwd, env=OUTSIDE, limit=300):
    p = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=limit)
    assert p.returncode == 0, (p.stdout + p.stderr)[-6000:]
    return p.stdout


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "The sdist, and the wheel made from it (so a file missing from MANIFEST.in breaks it), without a network."
    top, out = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('dist')
    for name in ('setup.py', 'settings.ini', 'MANIFEST.in', 'README.md', 'LICENSE'): shutil.copy(ROOT/name, top)
    for folder in ('emonb', 'nbs'):
        shutil.copytree(ROOT/folder, top/folder, ignore=shutil.ignore_patterns('__pycache__', '.*'))
    run(sys.executable, '-m', 'build', '--no-isolation', '--outdir', out, top, cwd=top)
    (wheel,), (sdist,) = out.glob('*.whl'), out.glob('*.tar.gz')
    return wheel, sdist


@pytest.fixture(scope='module')
def environment(built, tmp_path_factory):
    "Python of an empty environment that holds emonb alone."
    top = tmp_path_factory.mktemp('empty')/'venv'
    run(sys.executable, '-m', 'venv', '--without-pip', top, cwd=top.parent)
    python = top/('Scripts' if os.name == 'nt' else 'bin')/'python'
    run(sys.executable, '-m', 'pip', '--python', python, 'install', '--quiet', '--no-deps', '--no-index',
        '--disable-pip-version-check', built[0], cwd=top.parent)
    return python


def test_contents(built):
    wheel, sdist = built
    inside = {n for n in zipfile.ZipFile(wheel).namelist() if n.startswith('emonb/')}
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT/'emonb').rglob('*.py')}
    carried = {f'emonb/data/fmov_small/{name}' for name in ('README.md', 'fmov.npz', 'fmov.npz.sha256')}
    carried |= {'emonb/settled.json', 'emonb/looks.csv'}
    assert inside == modules | carried | {f'emonb/notebooks/{p.name}' for p in NBS.glob('[89][0-9]*_*.ipynb')}
    with tarfile.open(sdist) as t: names = {n.partition('/')[2] for n in t.getnames()}
    assert {'setup.py', 'settings.ini', 'README.md', 'LICENSE', 'MANIFEST.in'} <= names


def test_metadata(built):
    wheel = zipfile.ZipFile(built[0])
    meta = wheel.read(next(n for n in wheel.namelist() if n.endswith('METADATA'))).decode()
    ini = dict(re.findall(r'^(\w+)\s*=\s*(.*)$', (ROOT/'settings.ini').read_text(encoding='utf-8'), re.M))
    assert f"Version: {ini['version']}\n" in meta
    assert f"Requires-Python: >={ini['min_python']}\n" in meta and 'Apache-2.0' in meta
    needs = re.findall(r'^Requires-Dist: ([\w.-]+)(.*)$', meta, re.M)
    assert len([n for n, rest in needs if 'extra ==' not in rest]) == len(ini['requirements'].split())
    def extra(name): return [n for n, rest in needs if re.search(f'''extra == ['"]{name}''', rest)]
    notebooks = ini['notebook_requirements'].split()
    assert extra('notebooks') == notebooks and extra('dev')[:len(notebooks)] == notebooks
    riemann = ini['riemann_requirements'].split()
    assert len(extra('dev')) == len(notebooks) + len(ini['dev_requirements'].split()) + len(riemann)
    assert {'jupyterlab', 'papermill', 'ipywidgets'} <= set(notebooks)
    assert extra('docs') == ['sphinx', 'myst-nb', 'furo'] and extra('riemann') == riemann == ['pyriemann']


def test_import_with_nothing_else(environment, tmp_path):
    "`import emonb` and its core need only the standard library."
    said = run(environment, '-c', 'import emonb, emonb.core; print(emonb.__version__, emonb.__file__)', cwd=tmp_path)
    assert Path(said.split()[1]).is_relative_to(environment.parents[1])
    p = subprocess.run([environment, '-c', 'import torch'], cwd=tmp_path, env=OUTSIDE, capture_output=True)
    assert p.returncode, 'the environment is not empty'


def test_the_command_with_nothing_else(environment, tmp_path):
    "It lists and explains what the package carries, and says what running needs."
    command = environment.parent/'emonb'
    assert all(p.stem.partition('_')[2] in run(command, 'list', cwd=tmp_path) for p in NBS.glob('[89][0-9]*_*.ipynb'))
    assert 'frame_weighting: str' in run(command, 'help', 'loso', cwd=tmp_path)
    p = subprocess.run([command, 'run', 'loso', '-p', 'dataset', 'casme3'], cwd=tmp_path, env=OUTSIDE,
                       capture_output=True, text=True)
    assert p.returncode == 1 and p.stdout == '' and p.stderr.count('\n') == 1
    assert p.stderr.startswith('EmonbError: papermill and ipykernel') and "pip install 'emonb[notebooks]'" in p.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope='module')
def with_requirements(environment):
    """The same environment beside the packages of this one. They come after its own, and .pth files among them are not
    followed, so that no editable emonb is seen."""
    own = Path(run(environment, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))',
                   cwd=environment.parent).strip())
    here = [p for p in sys.path if Path(p).name in ('site-packages', 'dist-packages')]
    (own/'requirements.pth').write_text('\n'.join(here) + '\n')
    return environment


def test_every_module_imports(with_requirements, tmp_path):
    say = f'''
import importlib, json, sys
sys.modules.update(dict.fromkeys({ON_TOP}))      # what only the notebooks need is not there
print(json.dumps({{m: importlib.import_module(m).__file__ for m in {MODULES}}}))'''
    files = json.loads(run(with_requirements, '-c', say, cwd=tmp_path).splitlines()[-1])
    assert len(files) == len(MODULES) > 1
    outside = {m: f for m, f in files.items() if not Path(f).is_relative_to(with_requirements.parents[1])}
    assert not outside, f'not the installed ones: {outside}'
    assert not list(tmp_path.iterdir()), 'an import wrote files'


MODEL = '''
import torch
from emonb.models import latent_emotion
from emonb.models.latent_emotion import LatentEmotion

torch.manual_seed(0)
B, T = 2, 5
model = LatentEmotion(num_classes=4, backbone='resnet18', weights='random', dim=32, img_size=112).eval()
mask = torch.ones(B, T, dtype=torch.bool)
mask[1, 3:] = False
depth = torch.stack([torch.rand(B, T, 112, 112) * 400 + 700, torch.ones(B, T, 112, 112)], 2)
color = torch.randint(0, 256, (B, T, 3, 112, 112), dtype=torch.uint8)
batch = dict(color=color, depth=depth, physio=torch.randn(B, 3, 1200), mask=mask)
with torch.no_grad():
    logits = model(batch)
    same, attention = model(batch, return_attention=True)
assert logits.shape == (B, 4) and logits.isfinite().all() and torch.allclose(logits, same, atol=1e-5)
assert attention['physio'].shape[:1] == (B,) and attention['depth'].shape[:2] == (B, T)
print(latent_emotion.__file__)
'''


def test_model_from_the_wheel(with_requirements, tmp_path):
    "The first paper's model, built by its docstring, answers a batch of raw frames and signals outside the checkout."
    said = run(with_requirements, '-c', MODEL, cwd=tmp_path, env={**OUTSIDE, 'EMONB_CACHE': str(tmp_path/'cache')})
    assert Path(said.splitlines()[-1]).is_relative_to(with_requirements.parents[1])


def test_run_from_the_wheel(with_requirements, tmp_path):
    """The carried notebook, in a kernel of the same environment, outside the checkout.

    Whole, and stopped by one sentence."""
    write_people(tmp_path/'people')
    command = with_requirements.parent/'emonb'
    words = [command, 'run', 'loso', '-p', 'dataset', 'stress_predict', '-p', 'model', 'features', '-p', 'root',
             'people', '-p', 'protocol', 'loso']
    env = {**OUTSIDE, 'EMONB_CACHE': str(tmp_path/'cache')}
    assert run(*words, 'done.ipynb', cwd=tmp_path, env=env).endswith('wrote done.ipynb\n')
    assert json.loads((tmp_path/'results'/'summary.json').read_text())['n_subjects'] == 4
    p = subprocess.run([*words, '-p', 'folds', '99'], cwd=tmp_path, env=env, capture_output=True, text=True,
                       timeout=300)
    assert p.returncode == 1 and p.stderr.splitlines()[-1].startswith('EmonbError: folds=99: loso has 4'), p.stderr
    assert 'Traceback' not in p.stderr and not set(p.stderr.splitlines()) & {75*'-'}
