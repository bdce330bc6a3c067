"""Sphinx settings of the site. `python nbs/_docs.py site` writes the pages it reads; nothing is run."""
import json
import os
from configparser import ConfigParser
from html import escape
from pathlib import Path

from docutils.nodes import SkipNode
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.logging import getLogger

MEANT = {'′': "'", '…': r'\ldots ', r'\dots': r'\ldots '}    # what docutils does not know → what it does
HERE = Path(__file__).resolve().parent
ini = ConfigParser(delimiters=['='])
ini.read(HERE.parents[1]/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
where = json.loads((Path(os.environ['EMONB_PAGES'])/'where.json').read_text(encoding='utf-8'))

project, author, copyright = cfg['title'], cfg['author'], cfg['copyright']
release = version = cfg['version']
extensions = ['myst_nb', 'sphinx.ext.linkcode', 'sphinx.ext.githubpages']
exclude_patterns = ['jupyter_execute']
nb_execution_mode = 'off'
nb_merge_streams = True
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence', 'fieldlist', 'deflist']
myst_heading_anchors = 3
python_maximum_signature_line_length = 88
add_module_names = False
python_use_unqualified_type_names = True
toc_object_entries_show_parents = 'hide'
html_theme = 'furo'
html_title = f'{project} {release}'
html_baseurl = f"{cfg['doc_host']}{cfg['doc_baseurl']}/"
html_static_path = [str(HERE/'site.css')]
html_css_files = ['site.css']
html_show_sourcelink = html_copy_source = False
html_math_renderer = 'mathml'
html_theme_options = dict(
    source_repository=f"{cfg['git_url']}/", source_branch=cfg['branch'], source_directory='nbs/',
    top_of_page_buttons=[],
    light_css_variables={'color-brand-primary': '#0b5c8f', 'color-brand-content': '#0b5c8f'},
    dark_css_variables={'color-brand-primary': '#7cc4f0', 'color-brand-content': '#7cc4f0'})


def linkcode_resolve(domain, info):
    "The code cell of the chapter that a name of the reference is defined in: the notebooks are the source."
    return where.get(f"{info['module']}.{info['fullname']}")


def mathml(node, block):
    "A formula as MathML, which browsers draw themselves: no script from elsewhere."
    tex = node.astext()
    for word, known in MEANT.items(): tex = tex.replace(word, known)
    try: return tex2mathml(tex, as_block=block)
    except MathError as e:
        getLogger(__name__).warning('%s in the formula %r', e, tex, location=node)
        return f'<code>{escape(tex)}</code>'


def inline(writer, node):
    writer.body.append(mathml(node, False))
    raise SkipNode


def block(writer, node):
    writer.body.append(f'<div class="math">{mathml(node, True)}</div>')
    raise SkipNode


def setup(app): app.add_html_math_renderer('mathml', (inline, None), (block, None))
