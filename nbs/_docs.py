"""README.md from index.ipynb, and HTML pages of all notebooks, without Quarto.

python nbs/_docs.py        writes README.md
python nbs/_docs.py html   writes _docs/*.html (nbdev's processors add the documentation of each exported name)
"""
import json, posixpath, re, sys
from pathlib import Path

NBS = Path(__file__).resolve().parent
LINK = re.compile(r'(?<=\]\()(?![\w+.-]+:|[#/])([^)\s]+)')    # the target of a relative Markdown link


def readme(index=NBS/'index.ipynb'):
    "The text of README.md: prose, code that is not hidden, and stored text outputs, with links that count from the top."
    parts = []
    for cell in json.loads(Path(index).read_text(encoding='utf-8'))['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown': parts.append(source)
        if cell['cell_type'] != 'code' or re.search(r'^#\|\s*hide\s*$', source, re.M): continue
        if not re.search(r'^#\|\s*echo:\s*false', source, re.M): parts.append(f'```python\n{source}\n```')
        for out in cell['outputs']:
            data = out.get('data', {})
            if 'text/markdown' in data: parts.append(''.join(data['text/markdown']))
            elif text := ''.join(out.get('text', data.get('text/plain', ''))): parts.append(f'```\n{text.rstrip()}\n```')
    text = '\n\n'.join(p.strip() for p in parts if p.strip())
    return LINK.sub(lambda m: posixpath.normpath(posixpath.join(NBS.name, m[1])), text) + '\n'


def page(path):
    "One notebook as processed by nbdev, ready for nbconvert: its title back from the front matter, directives gone."
    import nbformat, yaml
    nb = nbformat.read(path, as_version=4)
    nb.metadata.language_info = {'name': 'python'}    # cleaned away; nbconvert colours code by it
    front = yaml.safe_load(nb.cells.pop(0).source.strip().strip('-')) if nb.cells and nb.cells[0].cell_type == 'raw' else {}
    line = f"\n\n> {front['description']}" if front.get('description') else ''
    nb.cells.insert(0, nbformat.v4.new_markdown_cell(f"# {front.get('title', path.stem)}{line}"))
    for cell in nb.cells:
        if cell.cell_type == 'markdown':
            cell.source = LINK.sub(lambda m: re.sub(r'\.ipynb(?=#|$)', '.html', m[1]), cell.source)
            continue
        if re.search(r'^#\|\s*echo:\s*false|^show_doc', cell.source, re.M): cell.metadata['tags'] = ['no-input']
        cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M)
        for text in (o.data for o in cell.get('outputs', []) if 'text/markdown' in o.get('data', {})):
            text['text/markdown'] = LINK.sub(lambda m: re.sub(r'\.ipynb(?=#|$)', '.html', m[1]),
                                             re.sub(r'\{target=.*?\}', '', text['text/markdown']))
    return nb


def html():
    "Every notebook as a page of its own in the folder that settings.ini names `doc_path`."
    from nbconvert import HTMLExporter
    from nbdev.config import get_config
    from nbdev.quarto import proc_nbs
    from traitlets.config import Config
    out = get_config().doc_path
    out.mkdir(exist_ok=True)
    exporter = HTMLExporter(config=Config(TagRemovePreprocessor=dict(enabled=True, remove_input_tags={'no-input'})))
    for path in sorted(Path(proc_nbs()).rglob('*.ipynb')):
        (out/f'{path.stem}.html').write_text(exporter.from_notebook_node(page(path))[0], encoding='utf-8')
    return out


if __name__ == '__main__':    # nbdev processes notebooks in spawned workers, which import this file again
    if sys.argv[1:] == ['html']: print('wrote', html())
    elif not sys.argv[1:]: (NBS.parent/'README.md').write_text(readme(), encoding='utf-8'); print('wrote README.md')
    else: sys.exit(__doc__)
