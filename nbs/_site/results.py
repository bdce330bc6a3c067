"Stored summaries of runs, and tables that chapters computed, as tables of the README and of the site."
import ast
import json
import re
import shlex

from . import HERE, NBS, markdown_outputs, table, text_of
from .chapters import Chapter

METRICS = ('ACC', 'UF1', 'UAR')
MARKS = {'real': 'real', 'annotation': 'ANNOTATION', 'simulated': 'SIMULATED'}


def stored():
    "name → summary of a run, as `python nbs/_docs.py keep` stored it; real ones first."
    found = {p.stem: json.loads(p.read_text(encoding='utf-8')) for p in sorted((HERE/'results').glob('*.json'))}
    return dict(sorted(found.items(), key=lambda item: list(MARKS).index(item[1]['provenance'])))


def mark(summary): return MARKS[summary['provenance']]


def marked_title(summary):
    "The title of a stored run; one that is not real says so."
    said = summary['title']
    return said if summary['provenance'] == 'real' or mark(summary) in said else f'{mark(summary)} — {said}'


def share(v): return '–' if v is None else re.sub(r'^(-?)0(?=\.)', r'\1', f'{v:.2f}')


def interval(m):
    "'.61 [.55, .67]', which a line break does not part."
    if m.get('low') is None: return share(m['value'])
    return f"{share(m['value'])} [{share(m['low'])}, {share(m['high'])}]".replace(' ', '\u00a0')


def blocks(summary):
    "(protocol, block) of a stored summary; where a run has several targets, they are named with the protocol."
    for protocol, found in summary['protocols'].items():
        if 'metrics' in found: yield protocol, found
        else: yield from ((f'{protocol}, {target}', one) for target, one in found.items())


def block_rows(one):
    "(method, kind, metrics) of one block, models first."
    name = one.get('model') or 'model'
    yield name, 'reference' if 'annotated' in name else 'model', one['metrics']
    for kind in ('baselines', 'replica', 'floors', 'oracle'):
        for method, metrics in (one.get(kind) or {}).items(): yield method, kind.removesuffix('s'), metrics


def command(summary):
    "The command that made a stored summary."
    p = summary['parameters']
    run = '91_deap' if 'target' in p else '94_known_answers' if 'twin_seed' in p else '90_loso'
    cell = next(c for c in Chapter(NBS/f'{run}.ipynb').code() if 'parameters' in c['metadata'].get('tags', []))
    given_there = [n for n in ast.parse(text_of(cell)).body if isinstance(n, ast.AnnAssign)]
    default = {n.target.id: ast.literal_eval(n.value) for n in given_there}
    given = {k: v for k, v in p.items() if k in default and (v != default[k] or k == 'dataset')}
    first = sorted(given, key=lambda k: k != 'dataset')
    words = [f'-p {k} {shlex.quote(str(given[k]))}' for k in first if k != 'out']
    return ' '.join([f'papermill nbs/{run}.ipynb out.ipynb', *words])


BESIDE = ('physiological network', 'hand features + logistic regression', 'linear SVM on pixels',
          'differential entropy + linear SVM', 'differential entropy, face pixels + linear SVM', 'deep fusion (bio + face)')


def in_readme(one):
    "The model of a block, and what of `BESIDE` stands there."
    first, *others = block_rows(one)
    return [first, *(row for row in others if row[0] in BESIDE)]


def readme_table():
    "The results of the README: of each stored run of an experiment the first and the last protocol of its first target."
    rows = [('data', 'set', 'protocol', 'N (people)', 'system', 'UF1', 'highest floor', 'oracle')]
    for s in (s for name, s in stored().items() if not name.startswith('twin_')):
        found, name = list(blocks(s)), re.split('[,:]', s['title'].rpartition(' — ')[2])[0]
        found = [b for b in found if b[0].partition(', ')[2] == found[0][0].partition(', ')[2]]
        for protocol, one in dict([found[0], found[-1]]).items():
            floor, high = max(one['floors'].items(), key=lambda f: f[1]['UF1']['value'])
            oracle = next((interval(m['UF1']) for m in (one.get('oracle') or {}).values()), '–')
            for method, _, metrics in in_readme(one):
                rows.append((mark(s), name, protocol, f"{one['n']} ({one['n_subjects']})", method,
                             interval(metrics['UF1']), f"{interval(high['UF1'])} {floor.partition(' (')[0]}", oracle))
    return table(rows)


def made_with(s):
    "One line: seeds, preset, weights, code, data, versions."
    chosen = {k: s['setting'][k] for k in ('seeds', 'preset', 'weights') if k in s['setting']}
    told = [f"{k} {', '.join(map(str, v)) if isinstance(v, list) else v}" for k, v in chosen.items()]
    run = s['run']
    told += [f"code {run['git']}", f"data {s['fingerprint']}", f"torch {run['versions']['torch']}", run['time'][:10]]
    return ', '.join(told)


def stored_run(s):
    "One stored run: its command, a table a protocol, and what made it."
    yield f'### {marked_title(s)}'
    yield f'```bash\n{command(s)}\n```'
    for protocol, one in blocks(s):
        yield f"**{mark(s)}, {protocol}**: {one['n']} samples of {one['n_subjects']} people."
        rows = [(mark(s), name, kind, *(interval(m[k]) for k in METRICS)) for name, kind, m in block_rows(one)]
        yield table([('data', 'method', 'kind', *METRICS), *rows])
    yield f'Made with {made_with(s)}.'
    smaller = [f"{r['setting']} {r['this_run']} (full: {r['paper']})" for r in s.get('reductions', [])]
    if smaller: yield f"Made smaller: {'; '.join(smaller)}."


def computed(chapter):
    "The titled tables of scores that a chapter stores."
    found = [text for cell in chapter.code() for text in markdown_outputs(cell)]
    return [t for t in found if re.match(r'\*\*.+\*\*\n', t) and '|' in t and re.search(r'\b(ACC|UF1|UAR|CCC)\b', t)]


TOP = '''# Results

Two kinds of figures stand here, and none is typed by hand: **stored rows** of whole runs, kept as JSON in
`nbs/_site/results`, and **tables that a chapter computed** and stored beside its code. What each mark means is told
under [What can I trust?](trust.md). Intervals are 95 %, over people; scores are pooled over folds, each seed by itself,
then averaged.'''


def page(every):
    "Stored runs whole, then the tables of the experiments wing."
    parts = [TOP, '## Stored rows']
    for s in stored().values(): parts += stored_run(s)
    parts.append('## Computed in chapters')
    for c in every:
        if c.wing[0] == 'experiments' and (found := computed(c)):
            parts += [f'### From chapter {c.number}: [{c.title}]({c.path.name})', *found]
    return '\n\n'.join(parts)
