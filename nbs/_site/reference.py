"What the modules give, read from their text: signatures, docstrings, and the comment beside each argument."
import ast
import copy
import io
import re
import tokenize

from . import ROOT, escaped, table


def named(decorated, *names):
    "Whether one of these decorators stands over it."
    return any(getattr(d, 'id', '') in names for d in decorated.decorator_list)


def assigned(tree, name):
    "The literal that a module assigns to `name`, else None."
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == name:
            return ast.literal_eval(node.value)


class Whole(ast.NodeTransformer):
    "Names taken from other modules of emonb become whole ones, which can be linked."
    def __init__(self, imported): self.imported = imported
    def visit_Name(self, node): return ast.Name(self.imported.get(node.id, node.id), node.ctx)


class Module:
    "The public names of one module."
    def __init__(self, name):
        self.name = name.removesuffix('.__init__')
        self.path = ROOT/(name.replace('.', '/') + '.py')
        source = self.path.read_text(encoding='utf-8')
        self.tree, self.comments = ast.parse(source), {}
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT: self.comments[token.start[0]] = token.string.lstrip('# ').strip()
        listed, kinds = assigned(self.tree, '__all__') or (), (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        package = name.split('.')
        relative = [n for n in self.tree.body if isinstance(n, ast.ImportFrom) and n.level]
        self.imported = {a.asname or a.name: '.'.join([*package[:-n.level], *filter(None, [n.module]), a.name])
                         for n in relative for a in n.names}
        self.nodes = {n.name: n for n in self.tree.body if isinstance(n, kinds) and n.name in listed}

    def entry(self, node, depth=0):
        "One name as a Markdown directive of Sphinx's Python domain, a class with its methods."
        if isinstance(node, ast.ClassDef): kind, signature, told, inner = self.of_class(node)
        else: kind, signature, told, inner = self.of_function(node, depth > 0)
        fence, doc = ':'*(5 - depth), re.sub(r'(?<!\\)\$', r'\\$', ast.get_docstring(node) or '')
        return '\n'.join([f'{fence}{{py:{kind}}} {node.name}{signature}', '', doc, '', *told, '',
                          *(self.entry(n, depth + 1) for n in inner), fence, ''])

    def of_function(self, node, method):
        if named(node, 'property', 'cached_property'): return 'property', '', [], []
        bound = method and not named(node, 'staticmethod')
        return 'method' if method else 'function', self.signature(node, bound), self.told(node), []

    def of_class(self, node):
        inner = [n for n in node.body if isinstance(n, ast.FunctionDef)]
        shown = [n for n in inner if n.name[0] != '_' and ast.get_docstring(n)]
        made = next((n for n in inner if n.name == '__init__'), None)
        if made: return 'class', self.signature(made, True), self.told(made), shown
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
        told = [f':param {ast.unparse(n.target)}: {escaped(self.comments[n.lineno])}' for n in fields
                if n.lineno in self.comments]
        signature = ', '.join(ast.unparse(n) for n in fields)
        return 'class', f'({signature})' if node.decorator_list and fields else '', told, shown

    def told(self, node):
        "The comment beside each argument, and beside what is given back, as fields."
        a = node.args
        lines = {}
        for arg in filter(None, [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg]):
            lines.setdefault(arg.lineno, []).append(arg.arg)
        out = [f":param {', '.join(names)}: {escaped(self.comments[k])}" for k, names in lines.items()
               if k in self.comments]
        back = node.returns and node.returns.end_lineno
        if back in self.comments and back not in lines: out.append(f':returns: {escaped(self.comments[back])}')
        return out

    def signature(self, node, bound=False):
        "(a, b: int = 3) -> str, without `self`."
        node = copy.deepcopy(node)
        whole = Whole(self.imported)
        for part in ast.walk(node.args):
            if isinstance(part, ast.arg) and part.annotation: part.annotation = whole.visit(part.annotation)
        if bound: node.args.args = node.args.args[1:]
        back = f' -> {ast.unparse(whole.visit(node.returns))}' if node.returns else ''
        return re.sub(r'\s*\n\s*', ' ', f'({ast.unparse(node.args)}){back}')

    def offered(self):
        "What the package offers at its top, a row a module."
        rows = [(f'{{py:mod}}`emonb.{m}`', ', '.join(f'{{py:obj}}`{n} <emonb.{m}.{n}>`' for n in names))
                for m, names in assigned(self.tree, '_WHERE').items()]
        return f'`from emonb import …` offers these names:\n\n{table([("from", "names"), *rows])}\n'

    def page(self, chapter):
        "The module as a page."
        where = f'[Chapter {chapter.number}: {chapter.title}](../{chapter.path.name}).'
        entries = map(self.entry, self.nodes.values()) if self.name != 'emonb' else [self.offered()]
        top = [f'# {self.name}\n', f'{chapter.line} {where}\n', f':::{{py:module}} {self.name}\n:::\n']
        return '\n'.join([*top, *entries])
