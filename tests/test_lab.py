"""Chapters in JupyterLab, in a real browser without a window: open, run all cells, save, look at what was saved.

Skipped, saying so, where playwright or a Chromium is not installed.
"""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from conftest import NBS, ROOT
from test_main_job import write_sheet

# Notebooks to open, and values to put into the cell tagged `parameters` (as a user would edit it); {work} is the test's
# folder.
OPENED = {'31_frame_fusion': {},
          '90_loso': dict(dataset='casme3', part='A', classes=4, model='annotation', root='{work}/sheet',
                          out='{work}/out')}
LIMIT = 300    # seconds for one notebook


def browser_path(playwright):
    "A Chromium of the system, else the one that `playwright install chromium` put there, else None."
    for name in ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'):
        if path := shutil.which(name): return path
    return playwright.chromium.executable_path if os.path.exists(playwright.chromium.executable_path) else None


@pytest.fixture(scope='module')
def page():
    api = pytest.importorskip('playwright.sync_api',
                              reason='playwright is not installed: JupyterLab is not tested in a browser')
    with api.sync_playwright() as playwright:
        path = browser_path(playwright)
        if path is None: pytest.skip('no Chromium is installed: JupyterLab is not tested in a browser')
        browser = playwright.chromium.launch(executable_path=path, args=['--no-sandbox', '--disable-dev-shm-usage'])
        yield browser.new_page(viewport={'width': 1400, 'height': 1000})
        browser.close()


@pytest.fixture(scope='module')
def lab(page, tmp_path_factory):
    "JupyterLab on loopback over a copy of the notebooks, with settings, data and runtime folders of its own."
    work, token = tmp_path_factory.mktemp('lab'), os.urandom(12).hex()
    shutil.copytree(NBS, work/'nbs', ignore=shutil.ignore_patterns('.*', '__pycache__'))
    shutil.copy(ROOT/'settings.ini', work)
    (work/'sheet').mkdir()
    write_sheet(work/'sheet'/'annotation.xlsx')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    folders = ('JUPYTER_CONFIG_DIR', 'JUPYTER_DATA_DIR', 'JUPYTER_RUNTIME_DIR', 'JUPYTERLAB_SETTINGS_DIR',
               'JUPYTERLAB_WORKSPACES_DIR', 'IPYTHONDIR')
    env = {**os.environ, **{name: str(work/'.jupyter'/name.lower()) for name in folders}}
    env.pop('MPLBACKEND', None)    # figures as a reader sees them
    with open(work/'lab.log', 'w') as log:
        server = subprocess.Popen(
            [sys.executable, '-m', 'jupyterlab', '--no-browser', '--ip=127.0.0.1', f'--port={port}',
             '--ServerApp.port_retries=0',
             f'--IdentityProvider.token={token}', f'--ServerApp.root_dir={work}', '--allow-root',
             '--expose-app-in-browser',
             '--LabApp.news_url=None', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate'],
            cwd=work, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        until = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f'http://127.0.0.1:{port}/api?token={token}', timeout=2)
                break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None and time.monotonic() < until, (work/'lab.log').read_text()[-4000:]
                time.sleep(.2)
        yield f'http://127.0.0.1:{port}', token, work
    finally:
        server.terminate()
        try: server.wait(20)
        except subprocess.TimeoutExpired: pass
        try: os.killpg(server.pid, signal.SIGKILL)
        except ProcessLookupError: pass


def with_parameters(path, values):
    "Write `values` into the notebook's parameters cell; each must be there already."
    nb = json.loads(path.read_text(encoding='utf-8'))
    for cell in nb['cells']:
        if 'parameters' not in cell['metadata'].get('tags', []): continue
        source = ''.join(cell['source'])
        for name, value in values.items():
            def given(m, value=value): return f'{m[1]} {value!r}  '
            source, n = re.subn(rf'^({name}\b[^=\n]*=)[^#\n]*', given, source, flags=re.M)
            assert n == 1, f'{path.name} has no parameter {name}'
        cell['source'] = source
        path.write_text(json.dumps(nb), encoding='utf-8')
        return
    assert not values, f'{path.name} has no cell tagged parameters'


KERNEL = 'window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel'
RUN_ALL = '''async () => {
    const app = window.jupyterapp
    await app.commands.execute('notebook:run-all-cells')
    await app.commands.execute('docmanager:save')
}'''


@pytest.mark.parametrize('name', OPENED)
def test_in_lab(name, lab, page, tmp_path):
    url, token, work = lab
    path = work/'nbs'/f'{name}.ipynb'
    with_parameters(path, {k: v.format(work=work) if isinstance(v, str) else v for k, v in OPENED[name].items()})
    stored = json.loads(path.read_text(encoding='utf-8'))
    for cell in stored['cells']:
        if cell['cell_type'] == 'code':
            cell.update(outputs=[], execution_count=None)    # what is found later was made here
    path.write_text(json.dumps(stored), encoding='utf-8')
    page.set_default_timeout(60_000)
    page.goto(f'{url}/lab/tree/nbs/{name}.ipynb?token={token}&reset')
    page.wait_for_selector('.jp-Notebook .jp-CodeCell')
    page.wait_for_function(f"{KERNEL}?.status === 'idle'")
    page.set_default_timeout(LIMIT * 1000)
    page.evaluate(RUN_ALL)
    saved = json.loads(path.read_text(encoding='utf-8'))['cells']
    cells = [c for c in saved if c['cell_type'] == 'code' and ''.join(c['source']).strip()]
    errors = [f"{o['ename']}: {o['evalue']}" for c in cells for o in c['outputs'] if o['output_type'] == 'error']
    assert not errors, errors
    assert [c['execution_count'] for c in cells] == list(range(1, len(cells) + 1)), 'every cell, in order'
    last = max(k for k, c in enumerate(saved) if any('data' in o or o.get('name') == 'stdout'
                                                     for o in c.get('outputs', [])))
    page.evaluate('k => { const nb = window.jupyterapp.shell.currentWidget.content; nb.activeCellIndex = k; '
                  'return nb.scrollToItem(k, "start") }', last)
    # visible, not only saved
    page.locator('.jp-Cell.jp-mod-active .jp-OutputArea-output').first.wait_for(timeout=60_000)
    page.screenshot(path=str(tmp_path/'lab.png'))
