"""docs/diagnostics.md quotes messages that are in the source, and every warning of the source is on it."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / 'docs' / 'diagnostics.md').read_text()
GAP = '\N{BLACK SQUARE}'  # in the place of what a message fills in
END = '\0'
NEVER_SEEN = ('pa.ArrowInvalid', 'AssertionError', 'AttributeError')  # caught inside
# what their errors say is shown inside of 'cannot read the condition ...' and '... is damaged ...'
PARTS_OF_A_MESSAGE = tuple(
    f'fastrec/{room}.py'
    for room in ('data/conditions', 'scorers/sound', 'scorers/folder', 'scorers/packing', 'scorers/artifact')
)


def literal(node: ast.AST) -> str:
    """The text of a message with a gap for each value, whichever way of an `x if y else z` it takes."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return ''.join(o.value if isinstance(o, ast.Constant) else GAP for o in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return literal(node.left) + literal(node.right)
    return GAP


@cache
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text()) for path in sorted((ROOT / 'fastrec').rglob('*.py'))}


@cache
def texts() -> str:
    """Every text of the source, also those that helpers return and others put together, with `END` between them."""
    kinds = (ast.Constant, ast.JoinedStr, ast.BinOp)
    found = {literal(node) for tree in trees().values() for node in ast.walk(tree) if isinstance(node, kinds)}
    return END.join(sorted(text for text in found if text.strip(GAP)))


def quotes() -> list[str]:
    """What the page quotes: in backticks after 'Says:'."""
    lines = [line.split('Says:')[1] for line in PAGE.splitlines() if 'Says:' in line]
    return [quote for line in lines for quote in re.findall(r'`([^`]+)`', line)]


def says(quote: str, text: str) -> bool:
    """Has a text the parts of a quote, in their order? '…' stands for anything within one text."""
    parts = [re.escape(part) for part in quote.split('…')]
    return re.search(f'[^{END}]*?'.join(parts), text) is not None


def warnings_of_source() -> list[tuple[str, str]]:
    """(where, text) of each `warn_user`; where a function makes the text, all texts of that function together."""
    found = []
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'warn_user':
                where = f'{path.relative_to(ROOT)}:{node.lineno}'
                message = node.args[0]
                called = message.func.id if isinstance(message, ast.Call) else None
                found.append((where, literal(message) if called is None else texts_of_function(called)))
    return found


def texts_of_function(name: str) -> str:
    functions = [
        node
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    return ' '.join(literal(node) for function in functions for node in ast.walk(function))


def errors_of_source() -> list[tuple[str, str, str]]:
    """(where, class, text) of each error that is raised with a text."""
    found = []
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                name = ast.unparse(node.exc.func)
                found.append((f'{path.relative_to(ROOT)}:{node.lineno}', name, literal(node.exc.args[0])))
    return found


def test_what_the_page_quotes_is_in_the_source():
    changed = [quote for quote in quotes() if not says(quote, texts())]
    assert not changed, 'no message says so any more'


def test_every_warning_is_on_the_page():
    quoted = quotes()
    missing = [(where, text) for where, text in warnings_of_source() if not any(says(quote, text) for quote in quoted)]
    assert not missing, 'give each an entry in docs/diagnostics.md:\n' + '\n'.join(map(str, missing))


def is_of_a_kind(where: str, name: str, text: str) -> bool:
    """Is it one of the many that are not quoted one by one?

    Never seen, a part of a larger message, a wrapped error, or an argument that cannot be used: `k=0: ...`,
    `--lr 0: ...` (`diag-argument-value`), `..., got a list` (`diag-argument-kind`).
    """
    argument = re.match(rf'({GAP}: )?[\w{GAP}]+=[{GAP}\w(\[]|--[\w-]+ {GAP}: ', text)
    wraps = len(text.replace(GAP, '').strip(' :')) <= len('block')
    is_part = where.startswith(PARTS_OF_A_MESSAGE)
    return name in NEVER_SEEN or is_part or wraps or argument is not None or ', got ' in text


def test_every_error_is_on_the_page():
    quoted = quotes()
    errors = [(where, text) for where, name, text in errors_of_source() if not is_of_a_kind(where, name, text)]
    missing = [(where, text) for where, text in errors if not any(says(quote, text) for quote in quoted)]
    assert not missing, 'give each an entry in docs/diagnostics.md:\n' + '\n'.join(map(str, missing))


def test_every_class_of_errors_is_on_the_page():
    classes = {name for _, name, _ in errors_of_source() if name.endswith('Error') and name.isidentifier()}
    table = PAGE[PAGE.index('## The classes') : PAGE.index('## The table')]
    assert sorted(name for name in classes - set(NEVER_SEEN) if f'`{name}`' not in table) == []


def test_anchors_are_unique_and_found():
    anchors = re.findall(r'^\(([\w-]+)\)=$', PAGE, re.M)
    assert len(anchors) == len(set(anchors)) > 80
    assert set(re.findall(r'\]\(#(diag-[\w-]+)\)', PAGE)) <= set(anchors)
