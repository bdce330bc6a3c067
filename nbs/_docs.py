"""README.md from index.ipynb, and HTML pages of all notebooks, without Quarto.

python nbs/_docs.py        writes README.md
python nbs/_docs.py html   writes _docs/*.html: prose, code and stored outputs, in the order of the notebook
"""
import json, posixpath, re, sys
from pathlib import Path

NBS = Path(__file__).resolve().parent
LINK = re.compile(r'(?<=\]\()(?![\w+.-]+:|[#/])([^)\s]+)')    # the target of a relative Markdown link


def has(directive, cell): return re.search(rf'^#\s*\|\s*{directive}\s*$', ''.join(cell['source']), re.M)


def readme(index=NBS/'index.ipynb'):
    "The text of README.md: prose, code that is not hidden, and stored text outputs, with links that count from the top."
    parts = []
    for cell in json.loads(Path(index).read_text(encoding='utf-8'))['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown': parts.append(source)
        if cell['cell_type'] != 'code' or has('hide', cell): continue
        if not has('echo: *false', cell): parts.append(f'```python\n{source}\n```')
        for out in cell['outputs']:
            data = out.get('data', {})
            if 'text/markdown' in data: parts.append(''.join(data['text/markdown']))
            elif text := ''.join(out.get('text', data.get('text/plain', ''))): parts.append(f'```\n{text.rstrip()}\n```')
    text = '\n\n'.join(p.strip() for p in parts if p.strip())
    return LINK.sub(lambda m: posixpath.normpath(posixpath.join(NBS.name, m[1])), text) + '\n'


def page(path):
    "A notebook ready for nbconvert: hidden cells, hidden code and nbdev's directives gone, links between pages."
    import nbformat
    nb = nbformat.read(path, as_version=4)
    nb.metadata.language_info = {'name': 'python'}    # cleaned away; nbconvert colours code by it
    nb.cells = [c for c in nb.cells if not has('hide', c)]
    def linked(text): return LINK.sub(lambda m: re.sub(r'\.ipynb(?=#|$)', '.html', m[1]), text)
    for cell in nb.cells:
        if cell.cell_type == 'markdown': cell.source = linked(cell.source)
        for out in cell.get('outputs', []):
            if 'text/markdown' in out.get('data', {}): out.data['text/markdown'] = linked(out.data['text/markdown'])
        if cell.cell_type != 'code': continue
        source = '' if has('echo: *false', cell) else re.sub(r'^#\s*\|.*\n?', '', cell.source, flags=re.M).strip()
        if not source: cell.metadata['tags'] = ['no-input']
        cell.source = source
    return nb


def html(out=NBS.parent/'_docs', names='*'):
    "Every notebook (or those whose name fits `names`) as a page of its own in `out`."
    from nbconvert import HTMLExporter
    from traitlets.config import Config
    out.mkdir(exist_ok=True)
    exporter = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True,
                            config=Config(TagRemovePreprocessor=dict(enabled=True, remove_input_tags={'no-input'})))
    for path in sorted(NBS.glob(f'{names}.ipynb')):
        (out/f'{path.stem}.html').write_text(exporter.from_notebook_node(page(path))[0], encoding='utf-8')
    return out


if __name__ == '__main__':
    if sys.argv[1:] == ['html']: print(f'wrote {html().name}/')
    elif not sys.argv[1:]: (NBS.parent/'README.md').write_text(readme(), encoding='utf-8'); print('wrote README.md')
    else: sys.exit(__doc__)
