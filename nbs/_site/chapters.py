"A notebook as a page: directives and hidden cells gone, links set, its outputs as they are stored."
import ast
import copy
import json
import re

from . import NBS, escaped, has, table, text_of

WINGS = {    # tens digit → wing, its title, and what it does
    '0': ('core', 'Core', 'What every chapter leans on: errors, whole files, provenance, the command.'),
    '1': ('data', 'Data', 'Reads: the one contract, a reader for each set, and the simulated twins.'),
    '2': ('signals', 'Signals', 'Cleans: from raw recordings to the arrays of the contract. It knows readers.'),
    '3': ('models', 'Models', 'Learn: tensors in, logits out. They know no set and no reader.'),
    '5': ('study', 'Study', 'Judges: protocols, metrics, training, results. It knows no set and no model by name.'),
    '6': ('experiments', 'Experiments', 'Declare how a set is opened, split and judged. Only they know all wings.'),
    '9': ('runs', 'Runs', 'Notebooks with parameters: run by papermill, in JupyterLab or as `emonb run`.')}
WINGS |= {'4': WINGS['3'], '8': WINGS['9']}

NOT_PROSE = re.compile(r'(```.*?```|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$|!?\[[^\]\n]*\]\([^)\n]*\)|^#[^\n]*$|<[^>\n]+>)',
                       re.S | re.M)
DISPLAYED = re.compile(r'(?:^|\n)[ \t]*(\$\$.+?\$\$)[ \t]*(?=\n|$)', re.S)    # a formula on lines of its own
NUMBERS = re.compile(r'(\b[Cc]hapters? )(\d\d[a-z]?(?:(?:, and |, | and | to | or )\d\d[a-z]?)*)')
TERMS = {    # how the chapters write it → entry of the glossary
    r'twins?': 'twin', r'floors?': 'floor', r'oracles?': 'oracle', r'(?:trial |stimulus )?stamps?': 'stamp',
    r'development sets?': 'development set', r'transductive(?:ly)?': 'transductive', r'leak audits?': 'leak audit',
    r'replicas?': 'replica', r'LOSO': 'LOSO'}


class Chapter:
    "A notebook: its number, title, line, module, and the cells a reader sees."
    def __init__(self, path):
        self.path, self.name, self.number = path, path.stem, path.stem.partition('_')[0]
        stored = json.loads(path.read_text(encoding='utf-8'))['cells']
        self.cells = [c for c in stored if c['cell_type'] != 'code' or not has(r'hide\s*$', c)]
        first = text_of(self.cells[0])
        self.title = re.search(r'^# (.+)', first, re.M)[1].strip()
        self.line = re.search(r'^> (.+)', first, re.M)[1].strip()
        module = re.search(r'^#\s*\|\s*default_exp (\S+)', '\n'.join(map(text_of, self.code())), re.M)
        self.exports = f'emonb.{module[1]}' if module else ''
        self.module = self.exports.removesuffix('.__init__')
        self.wing = WINGS[self.number[0]] if self.number[0].isdigit() else ('', '', '')

    def code(self): return [c for c in self.cells if c['cell_type'] == 'code']

    def imports(self):
        "name → the whole name of what the chapter takes from emonb."
        found = {}
        for cell in self.code():
            for node in ast.walk(ast.parse(re.sub(r'^[%!].*$', '', text_of(cell), flags=re.M))):
                if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('emonb'):
                    found |= {a.asname or a.name: f'{node.module}.{a.name}' for a in node.names}
        return found

    def head(self):
        "The line under a title: where this stands."
        place = f'Chapter {self.number} · [{self.wing[1]}](wing/{self.wing[0]}.md)'
        if self.module: return f'{place} · module {{py:mod}}`{self.module}` · `nbs/{self.path.name}`'
        return f"{place} · `emonb help {self.name.partition('_')[2]}` lists its parameters · `nbs/{self.path.name}`"


def chapters(): return [Chapter(p) for p in sorted(NBS.glob('[0-9][0-9]*_*.ipynb'))]


def chapter_table(every, up=''):
    "Number, linked title, module and first line of each chapter."
    rows = [(c.number, f'[{escaped(c.title)}]({up}{c.path.name})', f'{{py:mod}}`{c.module}`' if c.module else 'a run',
             escaped(c.line)) for c in every]
    return table([('', 'chapter', 'module', 'in one line'), *rows])


class Linker:
    "Links in prose: chapters by their number, exported names in code, terms of the glossary where first met."
    def __init__(self, every, modules):
        self.files = {c.number: c.path.name for c in every}
        self.known = {f'{m.name}.{n}' for m in modules.values() for n in m.nodes}

    def names(self, chapter):
        "name → whole name, of what the chapter imports or exports."
        own = {k.rpartition('.')[2]: k for k in self.known if k.rpartition('.')[0] == chapter.module}
        return {**{k: v for k, v in chapter.imports().items() if v in self.known}, **own}

    def numbered(self, text):
        def one(m): return f'[{m[0]}]({self.files[m[0]]})' if m[0] in self.files else m[0]
        return NUMBERS.sub(lambda m: m[1] + re.sub(r'\d\d[a-z]?', one, m[2]), text)

    def term(self, text, pattern, entry):
        "The first place in prose where a word stands, linked; and whether there was one."
        parts = NOT_PROSE.split(text)
        for k in range(0, len(parts), 2):
            parts[k], n = re.subn(rf'(?<![\w-])({pattern})(?![\w-])', rf'{{term}}`\1 <{entry}>`', parts[k], count=1)
            if n: return ''.join(parts), True
        return text, False

    def __call__(self, text, names, met):
        "`text` with its links; `met` are the terms that were linked before, and grows."
        parts = NOT_PROSE.split(text)
        for k, part in enumerate(parts):
            if k % 2 == 0: parts[k] = self.numbered(part)
            elif (m := re.fullmatch(r'`([A-Za-z_]\w+)(\(\))?`', part)) and m[1] in names:
                parts[k] = f'{{py:obj}}`{m[1]} <{names[m[1]]}>`'
        text = ''.join(parts)
        for pattern, entry in TERMS.items():
            if entry in met: continue
            text, found = self.term(text, pattern, entry)
            if found: met.add(entry)
        return text


def markdown(text): return dict(cell_type='markdown', metadata={}, source=text)


def notebook(cells):
    "Cells as a notebook that Sphinx reads."
    meta = dict(kernelspec=dict(name='python3', display_name='Python 3', language='python'),
                language_info=dict(name='python', pygments_lexer='python'))
    return json.dumps(dict(nbformat=4, nbformat_minor=5, metadata=meta,
                           cells=[dict(c, id=f'cell-{k}') for k, c in enumerate(cells)]))


def alt_of(source):
    "What a figure shows, for those who cannot see it: what its code says it is."
    said = re.search(r'''(?:title|suptitle)\(?\s*=?\s*f?(['"])(.{8,}?)\1''', source)
    return said[2] if said else 'Figure made by the code above'


def code_cell(cell):
    "A code cell without directives; one that shows nothing is None."
    cell, source = copy.deepcopy(cell), ''
    if not has('echo: *false', cell): source = re.sub(r'^#\s*\|.*\n?', '', text_of(cell), flags=re.M).strip()
    if not source and not cell['outputs']: return None
    told = {'exported': has('export', cell), 'remove-input': not source}
    tags = [*cell['metadata'].get('tags', []), *(tag for tag, true in told.items() if true)]
    for out in cell['outputs']:
        if 'text/html' in out.get('data', {}): out['data'].pop('text/plain', None)
    meta = dict(tags=tags)
    if any('image/png' in out.get('data', {}) for out in cell['outputs']):
        meta['mystnb'] = dict(image=dict(alt=alt_of(source)))
    return {**cell, 'source': source, 'metadata': meta}


def page(chapter, linker, module=None):
    "The text of the page, and where each name that the chapter exports is defined in it."
    names, met, cells, where = linker.names(chapter), set(), [], {}
    for k, cell in enumerate(chapter.cells):
        if cell['cell_type'] == 'markdown':
            text = linker(DISPLAYED.sub(r'\n\n\1\n\n', text_of(cell)), names, met)
            if k == 0: text = re.sub(r'^> .+$', lambda m: f'{m[0]}\n\n{chapter.head()}', text, count=1, flags=re.M)
            cells.append(markdown(text))
        elif shown := code_cell(cell):
            defined = re.findall(r'^(?:class|def|async def) (\w+)', shown['source'], re.M)
            made = [n for n in defined if has('export', cell) and module and n in module.nodes]
            where |= {f'{module.name}.{n}': f'../{chapter.name}.html#source-{n}' for n in made}
            if made: cells.append(markdown(''.join(f'<span class="anchor" id="source-{n}"></span>' for n in made)))
            cells.append(shown)
    if module and module.nodes:
        listed = ', '.join(f'{{py:obj}}`{n} <{module.name}.{n}>`' for n in module.nodes)
        cells.append(markdown(f'**In the reference:** {listed}.'))
    return notebook(cells), where
