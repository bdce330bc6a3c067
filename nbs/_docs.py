"""README.md from index.ipynb, and the documentation site from all notebooks. Nothing is executed.

python nbs/_docs.py             writes README.md
python nbs/_docs.py site [DIR]  writes the site into _docs/ or DIR (needs emonb[docs]); a warning or a broken link fails
python nbs/_docs.py keep NAME summary.json    stores the summary of a run as nbs/_site/results/NAME.json
                                              (more/NAME: read by chapters, not listed on the site)
"""
import json
import os
import posixpath
import re
import shutil
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

NBS = Path(__file__).resolve().parent
sys.path.insert(0, str(NBS))
from _site.pages import write  # noqa: E402

SITE = NBS/'_site'
LINK = re.compile(r'(?<=\]\()(?![\w+.-]+:|[#/])([^)\s]+)')    # the target of a relative Markdown link


def has(directive, cell): return re.search(rf'^#\s*\|\s*{directive}\s*$', ''.join(cell['source']), re.M)


def readme(index=NBS/'index.ipynb'):
    "The text of README.md: prose, code that is not hidden, stored text outputs; links count from the top."
    parts = []
    for cell in json.loads(Path(index).read_text(encoding='utf-8'))['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown': parts.append(source)
        if cell['cell_type'] != 'code' or has('hide', cell): continue
        if not has('echo: *false', cell): parts.append(f'```python\n{source}\n```')
        for out in cell['outputs']:
            data = out.get('data', {})
            if 'text/markdown' in data: parts.append(''.join(data['text/markdown']))
            elif text := ''.join(out.get('text', data.get('text/plain', ''))).rstrip():
                parts.append(f'```\n{text}\n```')
    text = '\n\n'.join(p.strip() for p in parts if p.strip())
    return LINK.sub(lambda m: posixpath.normpath(posixpath.join(NBS.name, m[1])), text) + '\n'


KEPT = ('title', 'dataset', 'provenance', 'classes', 'protocols', 'studies', 'fingerprint', 'account', 'reductions',
        'setting', 'run', 'notes', 'standing')


def keep(name, path):
    "Store the summary of a run: what was asked, its blocks, and what made them; no folder of a machine."
    said = json.loads(Path(path).read_text(encoding='utf-8'))
    kept = {k: said[k] for k in KEPT if k in said}
    kept['parameters'] = {k: v for k, v in said['parameters'].items() if k not in ('root', 'out', 'workers')}
    if said['parameters'].get('face_weights'):
        kept['parameters']['face_weights'] = Path(said['parameters']['face_weights']).name
    if said['parameters'].get('root'): kept['parameters']['root'] = f"path/to/{said['dataset']}"
    target = SITE/'results'/f'{name}.json'
    target.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    return target


class Links(HTMLParser):
    "Targets and anchors of one page, and what it would load from elsewhere."
    def __init__(self, path):
        super().__init__()
        self.targets, self.anchors, self.loaded = [], set(), []
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if a.get('id'): self.anchors.add(a['id'])
        if tag == 'a' and a.get('name'): self.anchors.add(a['name'])
        told = a.get('rel') in ('canonical', 'next', 'prev', 'index', 'search')
        loads = tag in ('script', 'img', 'iframe', 'source') or (tag == 'link' and not told)
        target = a.get('href') or a.get('src')
        if not target: return
        if re.match(r'https?:|//', target): self.loaded += [target] if loads else []
        elif not re.match(r'[\w+.-]+:', target): self.targets.append(target)


def broken(site):
    "'page: target' of each internal link that leads nowhere, and of each file that a page would load from elsewhere."
    pages = {p.resolve(): Links(p) for p in sorted(Path(site).rglob('*.html'))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(Path(site).resolve()).as_posix()
        found += [f'{name}: loads {t}' for t in page.loaded]
        for target in page.targets:
            file, anchor = urldefrag(target)
            there = (path.parent/unquote(file.partition('?')[0])).resolve() if file else path
            lost = anchor and there in pages and unquote(anchor) not in pages[there].anchors
            if lost or not there.exists(): found.append(f'{name}: {target}')
    return sorted(set(found))


def build(pages, out, scratch):
    "Sphinx over a folder of pages; True if it found nothing to complain of."
    try:
        import furo  # noqa: F401
        import myst_nb  # noqa: F401
        from sphinx.cmd.build import build_main
    except ImportError as e: sys.exit(f"the site needs Sphinx, myst-nb and furo ({e}): pip install -e '.[docs]'")
    os.environ['EMONB_PAGES'] = str(pages)
    options = ['-W', '--keep-going', '-q', '-b', 'html', '-c', str(SITE), '-d', f'{scratch}/trees']
    return build_main([*options, str(pages), str(out)]) == 0


def site(out=NBS.parent/'_docs'):
    "The whole site in `out`; what was there is replaced when the new one is whole."
    with tempfile.TemporaryDirectory(prefix='emonb-site-') as scratch:
        pages, made = Path(scratch)/'pages', Path(scratch)/'site'
        write(pages)
        if not build(pages, made, scratch): sys.exit('the site was not written: Sphinx complains above')
        if wrong := broken(made): sys.exit('\n'.join(['the site was not written; broken links:', *wrong]))
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(made, out)
    return Path(out)


if __name__ == '__main__':
    if sys.argv[1:2] == ['site'] and len(sys.argv) < 4: print(f'wrote {site(*sys.argv[2:]).name}/index.html')
    elif sys.argv[1:2] == ['keep'] and len(sys.argv) == 4: print(f'wrote {keep(*sys.argv[2:]).relative_to(NBS.parent)}')
    elif not sys.argv[1:]:
        (NBS.parent/'README.md').write_text(readme(), encoding='utf-8')
        print('wrote README.md')
    else: sys.exit(__doc__)
