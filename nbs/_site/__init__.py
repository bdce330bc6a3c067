"The documentation site, made from the notebooks, the modules' text and stored results; nothing is imported or run."
import re
from configparser import ConfigParser
from pathlib import Path

HERE = Path(__file__).resolve().parent
NBS, ROOT = HERE.parent, HERE.parents[1]
LINK = re.compile(r'(?<=\]\()(?![\w+.-]+:|[#/])([^)#\s]+)')    # the target of a relative link, up to its anchor

_config = ConfigParser(delimiters=['='])
_config.read(ROOT/'settings.ini', encoding='utf-8')
SETTINGS = _config['DEFAULT']


def text_of(cell): return ''.join(cell['source'])


def has(directive, cell): return re.search(rf'^#\s*\|\s*{directive}', text_of(cell), re.M)


def markdown_outputs(cell):
    "What a stored cell shows as Markdown."
    return [''.join(out['data']['text/markdown']) for out in cell['outputs'] if 'text/markdown' in out.get('data', {})]


def escaped(text): return text.replace('|', '\\|')


def table(rows):
    "Rows, the first of them the head, as a Markdown table."
    return '\n'.join('| ' + ' | '.join(map(str, row)) + ' |' for row in [rows[0], ['---']*len(rows[0]), *rows[1:]])
