"""How the code reads, in numbers: `python benchmarks/house.py [folder of a package, by default fastrec]`.

Tokens a line of code (mean and 95th percentile, comments and docstrings left out), lines over 120 characters, calls of
hasattr and getattr, public functions whose parameters all have a type, files, imports between wings, and circles.
"""

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

import numpy as np

LAYOUT = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
    tokenize.ENDMARKER,
}  # fmt: skip


def docstring_lines(tree):
    """Numbers of the lines that docstrings take."""
    lines = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            lines |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def tokens_a_line(text, tree):
    """How many tokens each line of code has."""
    skipped, counts = docstring_lines(tree), Counter()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in LAYOUT and token.start[0] not in skipped:
            counts[token.start[0]] += 1
    return list(counts.values())


def public_functions(tree):
    """Public functions of a module and public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
            yield node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and not method.name.startswith('_'):
                    yield method


def is_typed(function):
    """Has every parameter but self and cls a type?"""
    a = function.args
    parameters = [*a.posonlyargs, *a.args, *a.kwonlyargs]
    return all(p.annotation is not None or p.arg in ('self', 'cls') for p in parameters)


def imports(name, tree, modules):
    """Modules of the package that a module imports, wherever the import stands."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = name.split('.')[: -node.level]
        target = '.'.join([*base, *(node.module.split('.') if node.module else [])])
        if target in modules:
            yield target
        else:
            yield from (o for a in node.names if (o := f'{target}.{a.name}'.lstrip('.')) in modules)


def circles(graph):
    """Number of pairs of modules that reach each other."""
    reach = {name: set(others) for name, others in graph.items()}
    for middle in graph:
        for others in reach.values():
            if middle in others:
                others |= reach[middle]
    return sum(a < b and a in reach[b] and b in reach[a] for a in graph for b in graph)


def measure(root):
    """Figures of the package in the folder `root`."""
    paths = {'.'.join(p.relative_to(root).with_suffix('').parts): p for p in sorted(root.rglob('*.py'))}
    texts = {name: path.read_text() for name, path in paths.items()}
    trees = {name: ast.parse(text) for name, text in texts.items()}
    tokens = [n for name in texts for n in tokens_a_line(texts[name], trees[name])]
    functions = [f for tree in trees.values() for f in public_functions(tree)]
    calls = Counter(
        node.func.id
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    )
    graph = {name: set(imports(name, tree, trees)) - {name} for name, tree in trees.items()}
    wing = lambda name: name.partition('.')[0] if '.' in name else ''  # noqa: E731
    arrows = {(wing(a), wing(b)) for a, others in graph.items() for b in others if wing(a) and wing(b)}
    long = sum(len(line) > 120 for text in texts.values() for line in text.split('\n'))
    return {
        'files': len(paths),
        'lines of code': len(tokens),
        'tokens a line, mean': round(float(np.mean(tokens)), 1),
        'tokens a line, 95th percentile': int(np.percentile(tokens, 95)),
        'lines over 120 characters': long,
        'hasattr and getattr': calls['hasattr'] + calls['getattr'],
        'public functions': len(functions),
        'of them fully typed': f'{np.mean([is_typed(f) for f in functions]):.0%}',
        'arrows between wings': len({o for o in arrows if o[0] != o[1]}),
        'circles': circles(graph),
    }


if __name__ == '__main__':
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / 'fastrec'
    for key, value in measure(folder).items():
        print(f'{key:32} {value}')
