"""The pages of the site, made from the notebooks, the modules' source text and stored results; nothing is imported or run."""
import ast
import copy
import io
import json
import re
import shutil
import tokenize
from configparser import ConfigParser
from pathlib import Path

HERE = Path(__file__).resolve().parent
NBS, ROOT = HERE.parent, HERE.parents[1]
config = ConfigParser(delimiters=['='])
config.read(ROOT/'settings.ini', encoding='utf-8')
ini = config['DEFAULT']
WINGS = {    # tens digit → wing, its title, and what it does
    '0': ('core', 'Core', 'What every chapter leans on: errors, files that are never half-written, provenance, the command.'),
    '1': ('data', 'Data', 'Reads: the one contract, a reader for each set, and the simulated twins.'),
    '2': ('signals', 'Signals', 'Cleans: from raw recordings to the arrays of the contract. It knows readers.'),
    '3': ('models', 'Models', 'Learn: tensors in, logits out. They know no set and no reader.'),
    '5': ('study', 'Study', 'Judges: protocols, metrics, training, results. It knows tables, splits and recipes, no set and no model by name.'),
    '6': ('experiments', 'Experiments', 'Declare: a chapter a set says how it is opened, prepared, split and judged. Only these know all wings.'),
    '9': ('runs', 'Runs', 'Notebooks with parameters: each is run by papermill, in JupyterLab or as `emonb run`.')}
MARKS = {'real': 'real', 'annotation': 'ANNOTATION', 'simulated': 'SIMULATED'}
METRICS = ('ACC', 'UF1', 'UAR')
TEXTS = ('use', 'trust', 'glossary')    # pages written by hand, beside this file
GIT = ini['git_url']
WINGS |= {'4': WINGS['3'], '8': WINGS['9']}
KEEP = re.compile(r'(```.*?```|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$|!?\[[^\]\n]*\]\([^)\n]*\)|^#[^\n]*$|<[^>\n]+>)', re.S | re.M)    # not prose
DISPLAYED = re.compile(r'(?:^|\n)[ \t]*(\$\$.+?\$\$)[ \t]*(?=\n|$)', re.S)    # a formula on lines of its own
NUMBERS = re.compile(r'(\b[Cc]hapters? )(\d\d[a-z]?(?:(?:, and |, | and | to | or )\d\d[a-z]?)*)')
TERMS = {    # how the chapters write it → entry of the glossary
    r'twins?': 'twin', r'floors?': 'floor', r'oracles?': 'oracle', r'(?:trial |stimulus )?stamps?': 'stamp',
    r'development sets?': 'development set', r'transductive(?:ly)?': 'transductive', r'leak audits?': 'leak audit',
    r'replicas?': 'replica', r'LOSO': 'LOSO'}


def text_of(cell): return ''.join(cell['source'])
def has(directive, cell): return re.search(rf'^#\s*\|\s*{directive}', text_of(cell), re.M)
def escaped(text): return text.replace('|', '\\|')


class Chapter:
    "A notebook: its number, title, line, module, and the cells a reader sees."
    def __init__(self, path):
        self.path, self.name, self.number = path, path.stem, path.stem.partition('_')[0]
        self.nb = json.loads(path.read_text(encoding='utf-8'))
        self.cells = [c for c in self.nb['cells'] if c['cell_type'] != 'code' or not has(r'hide\s*$', c)]
        first = text_of(self.cells[0])
        self.title, self.line = re.search(r'^# (.+)', first, re.M)[1].strip(), re.search(r'^> (.+)', first, re.M)[1].strip()
        module = re.search(r'^#\s*\|\s*default_exp (\S+)', '\n'.join(map(text_of, self.code())), re.M)
        self.module = f'emonb.{module[1]}' if module else ''
        self.wing = WINGS[self.number[0]][0] if self.number[0].isdigit() else ''

    def code(self): return [c for c in self.cells if c['cell_type'] == 'code']

    def imports(self):
        "name → the module of emonb that the chapter takes it from."
        found = {}
        for cell in self.code():
            tree = ast.parse(re.sub(r'^[%!].*$', '', text_of(cell), flags=re.M))
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('emonb'):
                    found |= {a.asname or a.name: f'{node.module}.{a.name}' for a in node.names}
        return found


def chapters(): return [Chapter(p) for p in sorted(NBS.glob('[0-9][0-9]*_*.ipynb'))]


# What the modules give, from their text

class Module:
    "The public names of one module: signatures, docstrings, and the comment beside each argument."
    def __init__(self, name):
        self.name = name
        path = ROOT/(name.replace('.', '/') + '.py')
        self.path = path if path.exists() else path.with_suffix('')/'__init__.py'
        if name == 'emonb.__init__': self.name, self.path = 'emonb', ROOT/'emonb'/'__init__.py'
        source = self.path.read_text(encoding='utf-8')
        tree, self.comments = ast.parse(source), {}
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT: self.comments[token.start[0]] = token.string.lstrip('# ').strip()
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        listed = next((ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and
                       getattr(n.targets[0], 'id', '') == '__all__' and isinstance(n.value, ast.List)), [])
        base = self.name.split('.') if self.path.name != '__init__.py' else [self.name, '']
        self.imported = {a.asname or a.name: '.'.join([*base[:-n.level], *filter(None, [n.module]), a.name])
                         for n in tree.body if isinstance(n, ast.ImportFrom) and n.level for a in n.names}
        self.nodes = {n.name: n for n in tree.body if isinstance(n, kinds) and n.name in listed}

    def parameters(self, node):
        "(arguments that share a line, the comment on that line), and the comment on what is given back."
        a = node.args
        every = [*a.posonlyargs, *a.args, *([a.vararg] if a.vararg else []), *a.kwonlyargs, *([a.kwarg] if a.kwarg else [])]
        lines = {}
        for arg in every: lines.setdefault(arg.lineno, []).append(arg.arg)
        first = node.body[0].lineno
        told = {k: c for k, c in self.comments.items() if node.lineno <= k < first}
        back = told.get(node.returns.end_lineno) if node.returns else None
        if node.returns and node.returns.end_lineno in lines and len(lines[node.returns.end_lineno]) > 0: back = None
        return [(names, told[k]) for k, names in lines.items() if k in told], back

    def entry(self, node, indent=0, owner=''):
        "One name as a Markdown directive of Sphinx's Python domain."
        fence = ':' * (5 - indent)
        if isinstance(node, ast.ClassDef):
            made = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == '__init__'), None)
            fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
            if made: signature, told = self.signature(made, drop=1), self.parameters(made)
            else:
                shown = [ast.unparse(n.target) + f': {ast.unparse(n.annotation)}' + (f' = {ast.unparse(n.value)}' if n.value else '') for n in fields]
                signature = f"({', '.join(shown)})" if shown and node.decorator_list else ''
                told = [([ast.unparse(n.target)], self.comments[n.lineno]) for n in fields if n.lineno in self.comments], None
            kind, inner = 'class', [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name[0] != '_' and ast.get_docstring(n)]
        else:
            static = any(getattr(d, 'id', '') in ('staticmethod', 'property') for d in node.decorator_list)
            signature, told, inner = self.signature(node, drop=bool(owner) and not static), self.parameters(node), []
            kind = 'method' if owner else 'function'
            if any(getattr(d, 'id', '') in ('property', 'cached_property') for d in node.decorator_list): kind, signature = 'property', ''
        doc = re.sub(r'(?<!\\)\$', r'\\$', ast.get_docstring(node) or '')
        lines = [f'{fence}{{py:{kind}}} {node.name}{signature}', '', doc, '']
        fields, back = told
        lines += [f":param {', '.join(names)}: {escaped(said)}" for names, said in fields]
        if back: lines += [f':returns: {escaped(back)}']
        lines += ['', *(self.entry(n, indent + 1, node.name) for n in inner), fence, '']
        return '\n'.join(lines)

    def full(self, tree):
        "An annotation in which names taken from other modules of emonb are whole, so that they can be linked."
        imported = self.imported

        class Full(ast.NodeTransformer):
            def visit_Name(self, node): return ast.Name(imported.get(node.id, node.id), node.ctx)
        return Full().visit(copy.deepcopy(tree))

    def signature(self, node, drop=0):
        "(a, b: int = 3) -> str, without `self`."
        node = copy.deepcopy(node)
        for part in ast.walk(node.args):
            if isinstance(part, ast.arg) and part.annotation: part.annotation = self.full(part.annotation)
        if node.returns: node.returns = self.full(node.returns)
        a = node.args
        if drop and (a.posonlyargs or a.args):
            a = ast.arguments(**{**vars(a), 'args': a.args[1:]})
        back = f' -> {ast.unparse(node.returns)}' if node.returns else ''
        return re.sub(r'\s*\n\s*', ' ', f'({ast.unparse(a)}){back}')


# One chapter as a page

class Linker:
    "Links in prose: chapters by their number, exported names in code, terms of the glossary where first met."
    def __init__(self, every, modules):
        self.files = {c.number: c.path.name for c in every}
        self.where = {f'{m.name}.{n}': m for m in modules.values() for n in m.nodes}

    def names(self, chapter):
        own = {n: f'{chapter.module}.{n}' for n in (k.rpartition('.')[2] for k in self.where if k.rpartition('.')[0] == chapter.module)}
        return {**{k: v for k, v in chapter.imports().items() if v in self.where}, **own}

    def chapter_links(self, text):
        def one(m): return f'[{m[0]}]({self.files[m[0]]})' if m[0] in self.files else m[0]
        return NUMBERS.sub(lambda m: m[1] + re.sub(r'\d\d[a-z]?', one, m[2]), text)

    def __call__(self, text, names, met):
        def prose(part):
            part = self.chapter_links(part)
            for pattern, term in TERMS.items():
                if term in met: continue
                parts = KEEP.split(part)
                for k in range(0, len(parts), 2):
                    parts[k], n = re.subn(rf'(?<![\w-])({pattern})(?![\w-])', rf'{{term}}`\1 <{term}>`', parts[k], count=1)
                    if n:
                        met.add(term)
                        break
                part = ''.join(parts)
            return part
        parts = KEEP.split(text)
        for k in range(0, len(parts), 2): parts[k] = prose(parts[k])
        for k in range(1, len(parts), 2):
            m = re.fullmatch(r'`([A-Za-z_]\w+)(\(\))?`', parts[k])
            if m and m[1] in names: parts[k] = f'{{py:obj}}`{m[1]} <{names[m[1]]}>`'
        return ''.join(parts)


def markdown(text, **meta): return dict(cell_type='markdown', metadata=meta, source=text)


def alt_of(cell):
    "What a figure shows, for those who cannot see it: what its code says it is."
    said = re.findall(r'''(?:title|suptitle|set_title)\(?\s*=?\s*f?(['"])(.{8,}?)\1''', text_of(cell))
    return said[0][1] if said else 'Figure made by the code above'


def page(chapter, linker, modules):
    "The notebook as the site shows it: directives and hidden cells gone, links set, anchors at what is exported."
    names, met, cells = linker.names(chapter), set(), []
    gives = modules[chapter.module].nodes if chapter.module in modules else {}
    where = {}
    for k, cell in enumerate(chapter.cells):
        cell = json.loads(json.dumps(cell))
        if cell['cell_type'] == 'markdown':
            text = linker(DISPLAYED.sub(r'\n\n\1\n\n', text_of(cell)), names, met)
            if k == 0: text = re.sub(r'(^> .+$)', lambda m: f'{m[1]}\n\n{head(chapter)}', text, count=1, flags=re.M)
            cells.append(markdown(text))
            continue
        source = '' if has('echo: *false', cell) else re.sub(r'^#\s*\|.*\n?', '', text_of(cell), flags=re.M).strip()
        tags = list(cell['metadata'].get('tags', []))
        if has('export', cell):
            tags.append('exported')
            made = [n for n in gives if re.search(rf'^(?:class|def|async def) {n}\b', source, re.M)]
            where |= {f'{modules[chapter.module].name}.{n}': f'../{chapter.name}.html#source-{n}' for n in made}
            if made: cells.append(markdown(''.join(f'<span class="anchor" id="source-{n}"></span>' for n in made)))
        if not source and not cell['outputs']: continue
        if not source: tags.append('remove-input')
        for out in cell['outputs']:
            if 'text/html' in out.get('data', {}): out['data'].pop('text/plain', None)
        cell['metadata'] = dict(tags=tags)
        if any('image/png' in o.get('data', {}) for o in cell['outputs']): cell['metadata']['mystnb'] = dict(image=dict(alt=alt_of(cell)))
        cells.append({**cell, 'source': source})
    if gives: cells.append(markdown('**In the reference:** ' + ', '.join(f'{{py:obj}}`{n} <{modules[chapter.module].name}.{n}>`' for n in gives) + '.'))
    meta = dict(kernelspec=dict(name='python3', display_name='Python 3', language='python'),
                language_info=dict(name='python', pygments_lexer='python'))
    return dict(nbformat=4, nbformat_minor=5, metadata=meta, cells=[dict(c, id=f'cell-{k}') for k, c in enumerate(cells)]), where


def head(chapter):
    "The line under a title: where this stands."
    wing = WINGS[chapter.number[0]]
    place = f'Chapter {chapter.number} · [{wing[1]}](wing/{wing[0]}.md)'
    if chapter.module: return f'{place} · module {{py:mod}}`{chapter.module.replace(".__init__", "")}` · `nbs/{chapter.path.name}`'
    return f"{place} · `emonb help {chapter.name.partition('_')[2]}` lists its parameters · `nbs/{chapter.path.name}`"


# Pages that stand beside the chapters

def table(rows): return '\n'.join('| ' + ' | '.join(map(str, r)) + ' |' for r in [rows[0], ['---']*len(rows[0]), *rows[1:]])


def chapter_rows(every, up=''):
    "Number, linked title, module and first line of each chapter."
    def module(c): return f'{{py:mod}}`{c.module.replace(".__init__", "")}`' if c.module else 'a run'
    return table([['', 'chapter', 'module', 'in one line'],
                  *([c.number, f'[{escaped(c.title)}]({up}{c.path.name})', module(c), escaped(c.line)] for c in every)])


def toctree(entries, **options):
    lines = [f':{k}: {v}'.rstrip() for k, v in options.items()]
    return '\n'.join(['```{toctree}', *lines, '', *entries, '```', ''])


def wing_page(name, title, line, every):
    mine = [c for c in every if c.wing == name]
    return (f'# {title}\n\n{line}\n\n{chapter_rows(mine, "../")}\n\n'
            + toctree([f'{c.number} {c.title} <../{c.name}>' for c in mine], hidden=''))


def share(v): return '–' if v is None else re.sub(r'^(-?)0(?=\.)', r'\1', f'{v:.2f}')


def interval(m):
    "'.61 [.55, .67]', which a line break does not part."
    if m.get('low') is None: return share(m['value'])
    return f"{share(m['value'])} [{share(m['low'])}, {share(m['high'])}]".replace(' ', '\u00a0')


def stored():
    "name → summary of a run, as `python nbs/_docs.py keep` stored it."
    return {p.stem: json.loads(p.read_text(encoding='utf-8')) for p in sorted((HERE/'results').glob('*.json'))}


def mark(summary): return MARKS[summary['provenance']]


def blocks(summary):
    "(protocol, target, block) of a stored summary."
    for protocol, found in summary['protocols'].items():
        if 'metrics' in found: yield protocol, '', found
        else:
            for target, one in found.items(): yield protocol, target, one


def block_rows(one):
    "(method, kind, metrics) of one block, models first."
    name = one.get('model') or 'model'
    yield name, 'reference' if 'annotated' in name else 'model', one['metrics']
    for kind in ('baselines', 'floors'):
        for name, metrics in (one.get(kind) or {}).items(): yield name, kind.rstrip('s'), metrics
    if one.get('oracle'): yield 'oracle', 'oracle', one['oracle']


def floor_of(one):
    "The highest floor of a block by UF1: its name and metrics."
    return max(one['floors'].items(), key=lambda f: f[1]['UF1']['value'])


def command(summary):
    "The command that made a stored summary."
    p = dict(summary['parameters'])
    run = '91_deap' if 'targets' in p or 'target' in p else '90_loso'
    cell = next(c for c in Chapter(NBS/f'{run}.ipynb').code() if 'parameters' in c['metadata'].get('tags', []))
    default = {n.target.id: ast.literal_eval(n.value) for n in ast.parse(text_of(cell)).body if isinstance(n, ast.AnnAssign)}
    given = {k: v for k, v in p.items() if k not in ('out', 'dataset') and k in default and v != default[k]}
    first = [('dataset', p['dataset'])] if 'dataset' in default else []
    return ' '.join(['papermill', f'nbs/{run}.ipynb', 'out.ipynb', *(f'-p {k} {v}' for k, v in [*first, *given.items()])])


def marked_title(summary):
    "The title of a stored run; one that is not real says so."
    return summary['title'] if summary['provenance'] == 'real' else f"{mark(summary)} — {summary['title']}"


def readme_table():
    "The results of the README: of each stored run the first and the last protocol, its system, the simplest rival, the highest floor."
    rows = [['set', 'protocol', 'N (people)', 'system', 'UF1', 'baseline', 'highest floor', 'data']]
    for s in sorted(stored().values(), key=lambda s: list(MARKS).index(s['provenance'])):
        found = list(blocks(s))
        for protocol, target, one in (found[:1] + found[-1:] if len(found) > 1 else found):
            base = next(iter((one.get('baselines') or {}).values()), None)
            name, floor = floor_of(one)
            rows.append([s['title'].split(',')[0], f'{protocol} {target}'.strip(), f"{one['n']} ({one['n_subjects']})", one.get('model') or '–',
                         interval(one['metrics']['UF1']), interval(base['UF1']) if base else '–', f"{interval(floor['UF1'])} {name}", MARKS[s['provenance']]])
    return table(rows)


def results_page(every):
    "Stored runs whole, then the tables that chapters of the experiments wing computed and stored."
    parts = ['# Results', 'Two kinds of figures stand here, and none is typed by hand: **stored rows** of whole runs, kept as JSON in '
             '`nbs/_site/results`, and **tables that a chapter computed** and stored with its code. What each mark means is told under '
             '[What can I trust?](trust.md). Intervals are 95 %, over people; scores are pooled over folds, each seed by itself, then averaged.',
             '## Stored rows']
    for s in stored().values():
        parts += [f'### {marked_title(s)}', f'```bash\n{command(s)}\n```']
        for protocol, target, one in blocks(s):
            rows = [['method', 'kind', 'ACC', 'UF1', 'UAR', 'data'],
                    *([m, kind, *(interval(v[k]) for k in METRICS), mark(s)] for m, kind, v in block_rows(one))]
            said = f"**{mark(s)}, {f'{protocol} {target}'.strip()}**: {one['n']} samples of {one['n_subjects']} people."
            parts += [said, table(rows)]
        run, setting = s['run'], s['setting']
        made = [f"{k} {', '.join(map(str, v)) if isinstance(v, list) else v}" for k, v in setting.items() if k in ('seeds', 'preset', 'weights')]
        made += [f"code {run['git']}", f"data {s['fingerprint']}", f"torch {run['versions']['torch']}", run['time'][:10]]
        parts += ['Made with ' + ', '.join(made) + '.']
        if s.get('reductions'): parts += ['Made smaller: ' + '; '.join(map(str, s['reductions'])) + '.']
    parts += ['## Computed in chapters']
    for c in every:
        if c.wing != 'experiments': continue
        found = [''.join(o['data']['text/markdown']) for cell in c.code() for o in cell['outputs'] if 'text/markdown' in o.get('data', {})]
        found = [t for t in found if re.match(r'\*\*.+\*\*\n', t) and re.search(r'\b(ACC|UF1|UAR|CCC)\b', t) and '|' in t]
        if found: parts += [f'### From chapter {c.number}: [{c.title}]({c.path.name})', *found]
    return '\n\n'.join(parts)


def public(module):
    "The names at the package's top, a line a module."
    tree = ast.parse(module.path.read_text(encoding='utf-8'))
    where = next(ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], 'id', '') == '_WHERE')
    return table([['from', 'names'], *([f'{{py:mod}}`emonb.{m}`', ', '.join(f'{{py:obj}}`{n} <emonb.{m}.{n}>`' for n in names)] for m, names in where.items())])


def reference_page(module, chapter):
    where = f'[Chapter {chapter.number}: {chapter.title}](../{chapter.path.name}).' if chapter else ''
    top = f'# {module.name}\n\n{chapter.line if chapter else ""} {where}\n\n'
    if module.name == 'emonb': return top + f':::{{py:module}} emonb\n:::\n\n`from emonb import …` offers these names:\n\n{public(module)}\n'
    return top + f':::{{py:module}} {module.name}\n:::\n\n' + '\n'.join(module.entry(n) for n in module.nodes.values())


def write(out):
    "All pages into the empty folder `out`, as Sphinx reads them."
    every = chapters()
    modules = {c.module: Module(c.module) for c in every if c.module}
    linker, where = Linker(every, modules), {}
    for folder in ('wing', 'reference', '_site'): (out/folder).mkdir(parents=True)

    def put(name, text): (out/name).write_text(text, encoding='utf-8')
    for c in every:
        nb, found = page(c, linker, modules)
        where |= found
        put(c.path.name, json.dumps(nb))
    put('where.json', json.dumps(where))
    wings = {w[0]: w for w in WINGS.values()}
    for name, title, line in wings.values(): put(f'wing/{name}.md', wing_page(name, title, line, every))
    for c in every:
        if c.module: put(f'reference/{modules[c.module].name}.md', reference_page(modules[c.module], c))
    put('reference.md', '# Reference\n\nEvery name that the modules export, with its signature and a link to the code cell it is defined in.\n\n'
        + toctree([f'reference/{m.name}' for m in modules.values()], maxdepth=1))
    put('chapters.md', '# Chapters\n\nEach chapter gives an idea, the code that is the idea, the code at work on an input one can see, and the tests of '
        f'what must hold.\n\n{chapter_rows(every)}\n')
    put('results.md', results_page(every))
    for name in TEXTS: put(f'{name}.md', linker(text(HERE/f'{name}.md'), {}, set(TERMS.values()) if name == 'glossary' else set()))
    for path in (ROOT/'data/README.md', ROOT/'CONTRIBUTING.md', ROOT/'CHANGELOG.md'):
        put(PAGES[path.relative_to(ROOT).as_posix()], linker(text(path), {}, set(TERMS.values())))
    for path in HERE.glob('*.png'): shutil.copy(path, out/'_site')
    put('index.ipynb', json.dumps(home(every, wings)))


LINK = re.compile(r'(?<=\]\()(?![\w+.-]+:|#)([^)#\s]+)')    # the target of a relative Markdown link, up to its anchor
PAGES = {    # what a page is made from → the page
    'nbs': 'chapters.md', 'data/README.md': 'data.md', 'CONTRIBUTING.md': 'contributing.md', 'CHANGELOG.md': 'changelog.md',
    'nbs/_site/results': 'results.md', **{f'nbs/_site/{name}.md': f'{name}.md' for name in TEXTS}}


def text(path):
    "A Markdown file of the repository as a page at the top of the site."
    return linked(path.read_text(encoding='utf-8'), path.parent)


def linked(words, folder):
    "Links that count from `folder` of the repository as links from the top of the site, or to the repository where it has no page."
    def one(m):
        name = (folder/m[1]).resolve().relative_to(ROOT).as_posix()
        if name in PAGES: return PAGES[name]
        return name.removeprefix('nbs/') if name.endswith(('.ipynb', '.png')) else f"{GIT}/blob/{ini['branch']}/{name}"
    return LINK.sub(one, words)


def home(every, wings):
    "The first page: the text of index.ipynb, and what the sidebar holds."
    cells = []
    for cell in Chapter(NBS/'index.ipynb').cells:
        if cell['cell_type'] == 'markdown': cells.append(markdown(linked(text_of(cell), NBS)))
        else: cells += [markdown(''.join(o['data']['text/markdown'])) for o in cell['outputs'] if 'text/markdown' in o.get('data', {})]
    first = ['Start here <self>', 'use', 'trust', 'results', 'glossary', 'data']
    cells.append(markdown(toctree(first, hidden='', caption='Begin')))
    cells.append(markdown(toctree(['chapters', *(f'wing/{w}' for w in wings)], hidden='', caption='Chapters')))
    cells.append(markdown(toctree(['reference', 'contributing', 'changelog'], hidden='', caption='Reference')))
    meta = dict(kernelspec=dict(name='python3', display_name='Python 3', language='python'), language_info=dict(name='python', pygments_lexer='python'))
    return dict(nbformat=4, nbformat_minor=5, metadata=meta, cells=[dict(c, id=f'cell-{k}') for k, c in enumerate(cells)])
