"Every page of the site, into a folder that Sphinx reads."
import json
import shutil

from . import HERE, LINK, NBS, ROOT, SETTINGS, markdown_outputs, results, text_of
from .chapters import TERMS, WINGS, Chapter, Linker, chapter_table, chapters, markdown, notebook
from .chapters import page as chapter_page
from .reference import Module

TEXTS = ('use', 'trust', 'glossary')    # pages written by hand, beside this file
PAGES = {    # what a page is made from → the page
    'nbs': 'chapters.md', 'nbs/_site/results': 'results.md', **{f'nbs/_site/{name}.md': f'{name}.md' for name in TEXTS},
    'data/README.md': 'data.md', 'CONTRIBUTING.md': 'contributing.md', 'CHANGELOG.md': 'changelog.md'}
CHAPTERS = '''# Chapters

Each chapter gives an idea, the code that is the idea, the code at work on an input one can see, and the tests of what
must hold.
'''
REFERENCE = '''# Reference

Every name that the modules export, with its signature and a link to the code cell it is defined in.
'''


def linked(words, folder):
    "Links that count from `folder` as links from the top of the site, or to the repository where it has no page."
    def one(m):
        name = (folder/m[1]).resolve().relative_to(ROOT).as_posix()
        if name in PAGES: return PAGES[name]
        if name.endswith(('.ipynb', '.png')): return name.removeprefix('nbs/')
        return f"{SETTINGS['git_url']}/blob/{SETTINGS['branch']}/{name}"
    return LINK.sub(one, words)


def toctree(entries, **options):
    "A part of the sidebar."
    lines = [f':{k}: {v}'.rstrip() for k, v in options.items()]
    return '\n'.join(['```{toctree}', *lines, '', *entries, '```', ''])


def wing_page(wing, every):
    "The chapters of one wing."
    name, title, line = wing
    mine = [c for c in every if c.wing[0] == name]
    listed = toctree([f'{c.number} {c.title} <../{c.name}>' for c in mine], hidden='')
    return f'# {title}\n\n{line}\n\n{chapter_table(mine, "../")}\n\n{listed}'


def home(wings):
    "The first page: the text of index.ipynb, and what the sidebar holds."
    cells = []
    for cell in Chapter(NBS/'index.ipynb').cells:
        if cell['cell_type'] == 'markdown': cells.append(markdown(linked(text_of(cell), NBS)))
        else: cells += map(markdown, markdown_outputs(cell))
    sidebar = dict(Begin=['Start here <self>', 'use', 'trust', 'results', 'glossary', 'data'],
                   Chapters=['chapters', *(f'wing/{w}' for w in wings)],
                   Reference=['reference', 'contributing', 'changelog'])
    return notebook([*cells, *(markdown(toctree(v, hidden='', caption=k)) for k, v in sidebar.items())])


def write(out):
    "All pages into the new folder `out`."
    every = chapters()
    modules = {c.module: Module(c.exports) for c in every if c.module}
    linker, wings = Linker(every, modules), {w[0]: w for w in WINGS.values()}
    for folder in ('wing', 'reference', '_site'): (out/folder).mkdir(parents=True)
    where = {}

    def put(name, text): (out/name).write_text(text, encoding='utf-8')
    for c in every:
        text, found = chapter_page(c, linker, modules.get(c.module))
        where |= found
        put(c.path.name, text)
        if c.module: put(f'reference/{c.module}.md', modules[c.module].page(c))
    for name, wing in wings.items(): put(f'wing/{name}.md', wing_page(wing, every))
    for source in PAGES:
        path, terms = ROOT/source, set(TERMS.values())
        if path.suffix != '.md': continue
        if path.stem in ('use', 'trust'): terms = set()
        put(PAGES[source], linker(linked(path.read_text(encoding='utf-8'), path.parent), {}, terms))
    put('chapters.md', f'{CHAPTERS}\n{chapter_table(every)}\n')
    put('reference.md', f'{REFERENCE}\n' + toctree([f'reference/{name}' for name in modules], maxdepth=1))
    put('results.md', results.page(every))
    put('index.ipynb', home(wings))
    put('where.json', json.dumps(where))
    for path in HERE.glob('*.png'): shutil.copy(path, out/'_site')
