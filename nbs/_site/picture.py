"""The picture of the README: stored scores of one run on real people, protocol by protocol.

python nbs/_site/picture.py    draws nbs/_site/fmov.png from nbs/_site/results/fmov.json
"""
import hashlib
import json
from pathlib import Path

import seaborn as sns
from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
COLOUR = dict(model='C0', baseline='C2', floor='0.45')
TOLD = {    # protocol → what it leaves out
    'loso': 'one person left out', 'leave_version_out': 'one order left out', 'opposed_positions': 'order balanced'}


def drawn_from(summary):
    "What a picture was drawn from, as a key that stands in the file."
    return hashlib.sha256(json.dumps([summary['title'], summary['protocols']]).encode()).hexdigest()


def rows(block):
    "(name, kind, UF1 with its interval), floors last."
    yield block['model'], 'model', block['metrics']['UF1']
    for kind in ('baselines', 'floors'):
        for name, metrics in block[kind].items(): yield name, kind[:-1], metrics['UF1']


def picture(summary):
    "One panel a protocol: UF1 and its interval for every row of its table."
    with sns.axes_style('whitegrid'):
        fig = Figure(figsize=(9.6, 3.2), dpi=90, layout='constrained')
        axes = fig.subplots(1, len(summary['protocols']), sharey=True)
    for ax, (name, block) in zip(axes, summary['protocols'].items()):
        found = list(rows(block))
        for k, (_, kind, m) in enumerate(found):
            ax.hlines(k, m['low'], m['high'], colors=COLOUR[kind], lw=3, alpha=.5)
            ax.plot(m['value'], k, 'o', color=COLOUR[kind], ms=6)
        best = max(m['value'] for _, kind, m in found if kind == 'floor')
        ax.axvline(best, color='0.45', ls=':', lw=1.2)
        ax.set(xlim=(.25, 1), ylim=(len(found) - .5, -.5), xlabel='UF1')
        ax.set_title(f"{name}\n{TOLD.get(name, name)}, {block['n']} events", fontsize=9)
        ax.set_yticks(range(len(found)),
                      [method + (' (floor)' if kind == 'floor' else '') for method, kind, _ in found], fontsize=8.5)
    people = max(block['n_subjects'] for block in summary['protocols'].values())
    said = '95 % intervals over people; dotted: the highest floor'
    fig.suptitle(f"{summary['title']}: {people} real people\n{said}", fontsize=10)
    return fig


if __name__ == '__main__':
    summary = json.loads((HERE/'results'/'fmov.json').read_text(encoding='utf-8'))
    if summary['provenance'] != 'real': raise SystemExit('results/fmov.json is not of real people')
    picture(summary).savefig(HERE/'fmov.png', metadata={'Software': None, 'Description': drawn_from(summary)})
    print('wrote nbs/_site/fmov.png')
