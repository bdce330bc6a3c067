"""The documentation site: no warning, every internal link leads somewhere, nothing is loaded from elsewhere.

What needs Sphinx is skipped, saying so, where `emonb[docs]` is not installed; the workflow `docs` installs it.
"""
import hashlib
import html
import json
import re
import struct
import subprocess
import sys
import zlib

import pytest
from conftest import NBS, ROOT, notebooks
from test_export import MACHINE, SETTINGS

import emonb

sys.path.insert(0, str(NBS))
sys.dont_write_bytecode = True    # a chapter that is tested meanwhile looks for what is left in nbs/
import _docs  # noqa: E402
from _site import chapters, reference, results  # noqa: E402

SITE = NBS/'_site'


@pytest.fixture(scope='module')
def sphinx():
    for name in ('sphinx', 'myst_nb', 'furo'):
        pytest.importorskip(name, reason=f"{name} is not installed, so the site is not built: pip install -e '.[docs]'")


@pytest.fixture(scope='module')
def site(sphinx, tmp_path_factory):
    "The site, built by the one command into a folder of its own."
    out = tmp_path_factory.mktemp('site')/'made'
    command = [sys.executable, NBS/'_docs.py', 'site', out]
    p = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert p.returncode == 0, (p.stdout + p.stderr)[-4000:]
    return out


def read(path): return path.read_text(encoding='utf-8')


def test_every_chapter_is_a_page_in_the_sidebar(site):
    home = read(site/'index.html')
    for path in notebooks('[0-9][0-9]*_*.ipynb'):
        assert (site/f'{path.stem}.html').exists() and f'href="{path.stem}.html"' in home, path.name
    for name in ('trust', 'results', 'glossary', 'reference', 'search', 'genindex', 'use', 'chapters'):
        assert (site/f'{name}.html').exists(), name
    assert {'make_splits', 'twin'} <= set(re.findall(r'\w+', read(site/'searchindex.js'))), 'the search knows them'


def test_no_chapter_was_run(site):
    "A page shows the outputs that its notebook stores, and no more."
    bare = [p.stem for p in notebooks() if not any(c.get('outputs') for c in json.loads(read(p))['cells'])]
    assert '90_loso' in bare
    for name in bare: assert 'class="cell_output' not in read(site/f'{name}.html'), name
    shown = read(site/'51_metrics.html')
    stored = sum(bool(c.get('outputs')) for c in json.loads(read(NBS/'51_metrics.ipynb'))['cells'])
    assert stored and shown.count('class="cell_output') == stored and '#|' not in shown


def test_a_signature_leads_to_its_code(site):
    page = read(site/'reference'/'emonb.study.splits.html')
    assert 'id="emonb.study.splits.make_splits"' in page and 'href="../50_splits.html#source-make_splits"' in page
    assert 'id="source-make_splits"' in read(site/'50_splits.html')
    assert 'href="../50_splits.html"' in page
    assert 'reference/emonb.study.splits.html#emonb.study.splits.make_splits' in read(site/'50_splits.html')


def test_results_are_those_stored(site):
    page = read(site/'results.html')
    for name, s in results.stored().items():
        for _, block in results.blocks(s):
            for method, _, metrics in results.block_rows(block):
                assert results.interval(metrics['UF1']) in page, (name, method)
        told = s['title'].rpartition(' — ')[2]
        headings = re.findall(rf'<h3>([^<]*){re.escape(told)}<', html.unescape(page))
        assert any(before.startswith('' if s['provenance'] == 'real' else results.mark(s)) for before in headings), name
        assert s['provenance'] != 'real' or '' in headings, f'{name} is marked'


def test_a_warning_fails(sphinx, tmp_path, capfd):
    for name, text in (('good', '# Page\n'), ('bad', '# Page\n\n[nowhere](missing.md)\n')):
        pages = tmp_path/name
        pages.mkdir()
        (pages/'index.md').write_text(text)
        (pages/'where.json').write_text('{}')
        assert _docs.build(pages, tmp_path/f'{name}_site', tmp_path/f'{name}_scratch') == (name == 'good')
    assert 'missing.md' in capfd.readouterr().err


def test_broken_links_are_found(tmp_path):
    (tmp_path/'a.html').write_text('<p id="here"><a href="b.html">b</a><a href="b.html#gone">c</a>'
                                   '<a href="no.html">d</a><a href="#here">e</a><a href="https://example.org/x">out</a>'
                                   '<script src="https://example.org/s.js"></script>')
    (tmp_path/'b.html').write_text('<a href="a.html#here">a</a><img src="no.png">')
    found = ['a.html: b.html#gone', 'a.html: loads https://example.org/s.js', 'a.html: no.html', 'b.html: no.png']
    assert _docs.broken(tmp_path) == found


@pytest.mark.parametrize('said,linked', [
    ('as in chapter 31.', 'as in chapter [31](31_frame_fusion.ipynb).'),
    ('Chapters 50, 51 and 13b', 'Chapters [50](50_splits.ipynb), [51](51_metrics.ipynb) and [13b](13b_fmov.ipynb)'),
    ('`chapter 31` and chapter 99', '`chapter 31` and chapter 99'), ('# On chapter 31', '# On chapter 31'),
    ('one twin, two twins', 'one {term}`twin <twin>`, two twins'), ('the `twin` and $twin$', 'the `twin` and $twin$'),
    ('`make_splits` and `other`', '{py:obj}`make_splits <emonb.study.splits.make_splits>` and `other`')])
def test_prose_is_linked(said, linked):
    every = chapters.chapters()
    linker = chapters.Linker(every, {c.module: reference.Module(c.exports) for c in every if c.module})
    assert linker(said, {'make_splits': 'emonb.study.splits.make_splits'}, set()) == linked


def test_terms_that_are_linked_stand_in_the_glossary():
    words = set(re.findall(r'^(\w[^\n]*)\n  \S', read(SITE/'glossary.md'), re.M))
    assert set(chapters.TERMS.values()) | {'fold', 'block', 'look', 'null'} <= words


def texts(path):
    "The text entries of a PNG."
    data, at, found = path.read_bytes(), 8, {}
    while at < len(data):
        size, kind = struct.unpack('>I4s', data[at:at + 8])
        body = data[at + 8:at + 8 + size]
        assert struct.unpack('>I', data[at + 8 + size:at + 12 + size])[0] == zlib.crc32(kind + body)
        if kind == b'tEXt': found.update([body.decode('latin-1').split('\0', 1)])
        at += 12 + size
    return found


def test_the_picture_is_of_the_stored_rows():
    summary = results.stored()['fmov']
    assert summary['provenance'] == 'real' and 'development set' in summary['title']
    told = hashlib.sha256(json.dumps([summary['title'], summary['protocols']]).encode()).hexdigest()
    assert texts(SITE/'fmov.png')['Description'] == told, 'run python nbs/_site/picture.py'
    assert (SITE/'fmov.png').stat().st_size <= 100_000


def test_stored_rows_say_where_they_come_from():
    stored = results.stored()
    assert stored
    for name, s in stored.items():
        assert not (m := MACHINE.search(json.dumps(s))), f'{name}: {m[0]}'
        assert s['provenance'] in results.MARKS and s['fingerprint'] and s['run']['git'] and s['run']['versions']
        for protocol, block in results.blocks(s): assert block['floors'] and block['n_subjects'] > 1, (name, protocol)


def test_a_stored_run_tells_its_command():
    "The command names a run notebook and parameters that it has."
    for name, s in results.stored().items():
        run, words = re.match(r'papermill nbs/(\w+)\.ipynb out\.ipynb((?: -p \w+ \S+)*)$', results.command(s)).groups()
        cell = next(c for c in chapters.Chapter(NBS/f'{run}.ipynb').code()
                    if 'parameters' in c['metadata'].get('tags', []))
        assert all(re.search(rf'^{k}:', ''.join(cell['source']), re.M) for k in re.findall(r'-p (\w+)', words)), name
    assert results.command(results.stored()['fmov']).endswith('-p dataset fmov')
    assert results.command(results.stored()['deap_twin']).startswith('papermill nbs/91_deap.ipynb ')


def test_a_summary_is_kept_without_folders(tmp_path, monkeypatch):
    (tmp_path/'results').mkdir()
    given = results.stored()['fmov']
    given['parameters'] |= dict(root='somewhere/else', out='results/x', workers=2, face_weights='else/face.safetensors')
    (tmp_path/'summary.json').write_text(json.dumps({**given, 'seconds': 3}))
    monkeypatch.setattr(_docs, 'SITE', tmp_path)
    kept = json.loads(read(_docs.keep('x', tmp_path/'summary.json')))
    assert kept['parameters']['root'] == 'path/to/fmov' and not {'out', 'workers'} & set(kept['parameters'])
    assert kept['parameters']['face_weights'] == 'face.safetensors'
    assert 'seconds' not in kept and kept['protocols'] == given['protocols']


def test_the_version_is_one():
    said = re.search(r'^## (\S+)', read(ROOT/'CHANGELOG.md'), re.M)[1]
    cited = re.search(r'^version: (\S+)', read(ROOT/'CITATION.cff'), re.M)[1]
    assert SETTINGS['version'] == emonb.__version__ == said == cited


def test_issue_templates_ask_for_the_provenance():
    found = sorted((ROOT/'.github/ISSUE_TEMPLATE').glob('*.md'))
    assert len(found) == 3
    for path in found: assert read(path).startswith('---\nname: ') and 'provenance block' in read(path), path.name
