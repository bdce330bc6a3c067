"Code of notebooks and tests keeps the house's lines; in a chapter something runs after at most sixty exported ones."
import ast
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, notebooks

MOST = 60     # exported lines before something runs


def found_by_ruff(paths):
    "What ruff finds in notebooks and modules, a sentence each."
    if not shutil.which('ruff'): pytest.skip('ruff is not installed: pip install ruff')
    p = subprocess.run(['ruff', 'check', '--no-cache', '--output-format', 'json', '--config', ROOT/'ruff.toml', *paths],
                       capture_output=True, text=True, cwd=ROOT)
    assert p.returncode in (0, 1), p.stderr
    def place(f): return f"{Path(f['filename']).name}, " + (f"cell {f['cell']}, " if f['cell'] else '')
    return [f"{place(f)}line {f['location']['row']}: {f['code']} {f['message']}" for f in json.loads(p.stdout)]


def code_of(cell): return ''.join(cell['source'])
def exported(cell): return re.search(r'^#\| *export', code_of(cell), re.M)


def exported_lines(cell):
    "Lines of an exported cell that are neither blank nor a directive nor an import."
    source = code_of(cell)
    imports = (n for n in ast.parse(source).body if isinstance(n, (ast.Import, ast.ImportFrom)))
    skipped = {k for n in imports for k in range(n.lineno, n.end_lineno + 1)}
    lines = enumerate(source.splitlines(), 1)
    return sum(bool(line.strip()) and not line.startswith('#|') and k not in skipped for k, line in lines)


def runs(cell):
    "Whether a cell that is not exported calls or asserts something, beside what it imports and defines."
    source = re.sub(r'^[%!].*$', 'run()', code_of(cell), flags=re.M)
    body = [n for n in ast.parse(source).body
            if not isinstance(n, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef))]
    return any(isinstance(x, (ast.Call, ast.Assert)) for n in body for x in ast.walk(n))


def longest(cells):
    "The longest stretch of exported lines with nothing that runs between them, and the cell it ends before."
    most, n = (0, 0), 0
    for k, cell in enumerate(cells):
        if cell['cell_type'] != 'code': continue
        if exported(cell): n += exported_lines(cell)
        elif runs(cell): most, n = max(most, (n, k)), 0
    return max(most, (n, len(cells)))


def cells_of(path): return json.loads(path.read_text(encoding='utf-8'))['cells']


def test_lines():
    "120 columns, one statement a line, sorted imports, none unused; ruff.toml says which rules."
    found = found_by_ruff([*notebooks(), *(ROOT/'tests').rglob('*.py')])
    assert not found, '\n'.join(found)


def test_something_runs():
    lengths = {p.stem: longest(cells_of(p)) for p in notebooks()}
    long = [f'{name}: {n} exported lines before cell {k} runs' for name, (n, k) in lengths.items() if n > MOST]
    assert not long, '\n'.join(long)


def test_both_can_fail(tmp_path):
    def cell(source): return dict(cell_type='code', source=source, metadata={}, outputs=[], execution_count=None)
    long = cell('#| export\ndef f():\n' + '    pass\n\n'*70)
    assert longest([long, cell('import os\ndef g(): f()')]) == (71, 2) and longest([cell('x = 1')]) == (0, 1)
    assert longest([long, cell('f()'), long]) == (71, 3) and longest([cell('#| export\nimport os')])[0] == 0
    bad = dict(cells=[cell('import sys, os\nx = 1; y = 2\n' + 'z = "' + 'a'*120 + '"')], metadata={}, nbformat=4,
               nbformat_minor=5)
    path = tmp_path/'nbs'/'99_bad.ipynb'
    path.parent.mkdir()
    path.write_text(json.dumps(bad))
    codes = {line.split(': ')[1].split()[0] for line in found_by_ruff([path])}
    assert {'E401', 'E501', 'E702', 'F401'} <= codes
