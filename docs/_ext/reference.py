"""The API reference: a page for each wing, one for each of its rooms, and a table of all names."""

from __future__ import annotations

import inspect
from pathlib import Path

from docutils import nodes
from house import DOCS, WINGS, first_sentence, full_name, module_of, names_of, rooms_of
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode


def write(app: Sphinx) -> None:
    """Write the pages below docs/reference, and take away those of rooms that are gone."""
    folder = DOCS / 'reference'
    pages = {folder / name: text for name, text in pages_of_reference().items()}
    for path, text in pages.items():
        write_once(path, text)
    for path in folder.rglob('*.md'):
        if path not in pages:
            path.unlink()


def write_once(path: Path, text: str) -> None:
    """Write, unless it is there already: Sphinx reads again what is newer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def pages_of_reference() -> dict[str, str]:
    """{path below docs/reference: text}."""
    pages = {'index.md': _index()}
    for wing, what in WINGS.items():
        pages[f'{wing}.md'] = _wing(wing, what)
        for room in rooms_of(wing):
            pages[f'{_path(wing, room)}.md'] = _room(room)
    return pages


def _path(wing: str, room: str) -> str:
    return f'{wing}/{room.rpartition(".")[2]}'


def _wing(wing: str, what: str) -> str:
    lines = [f'# {wing.capitalize()}', '', what, '', '```{toctree}', ':hidden:', '']
    lines += [_path(wing, room) for room in rooms_of(wing)]
    lines += ['```', '']
    for room in rooms_of(wing):
        lines += [f'## [{room}]({_path(wing, room)}.md)', '', first_sentence(module_of(room)), '']
        lines += [_table(room), '']
    return '\n'.join(lines)


def _table(room: str) -> str:
    """The names of a room, each with the first line of its docstring."""
    rows = ['| | |', '|---|---|']
    for name in names_of(room):
        said = first_sentence(getattr(module_of(room), name)).replace('|', '\\|')
        rows.append(f'| {{py:obj}}`{name} <fastrec.{room}.{name}>` | {said} |')
    return '\n'.join(rows)


def _room(room: str) -> str:
    """A directive for each name."""
    lines = [f'# {room}', '', first_sentence(module_of(room)), '', '```{eval-rst}']
    for name in names_of(room):
        if inspect.isclass(getattr(module_of(room), name)):
            lines += [f'.. autoclass:: fastrec.{room}.{name}', '   :members:', '   :show-inheritance:', '']
        else:
            lines += [f'.. autofunction:: fastrec.{room}.{name}', '']
    return '\n'.join([*lines, '```', ''])


def _index() -> str:
    """The table of all public names."""
    lines = ['# API reference', '', 'Everything that `from fastrec.all import *` brings.', '']
    lines += ['```{toctree}', ':hidden:', '', *WINGS, '```', '']
    for wing, what in WINGS.items():
        lines += [f'## [{wing.capitalize()}]({wing}.md)', '', what, '', '| | |', '|---|---|']
        for room in rooms_of(wing):
            lines += _table(room).split('\n')[2:]
        lines.append('')
    return '\n'.join(lines)


def text_of(room: str) -> str:
    """The page of a room as plain text: signatures and docstrings."""
    parts = [f'# {room}', first_sentence(module_of(room))]
    for name in names_of(room):
        value = getattr(module_of(room), name)
        parts.append(_entry(name, value))
        if inspect.isclass(value):
            for method, function in vars(value).items():
                function = getattr(function, '__func__', function)
                if inspect.isfunction(function) and not method.startswith('_'):
                    parts.append(_entry(f'{name}.{method}', function))
    return '\n\n'.join(parts)


def _entry(name: str, value) -> str:
    # not `getdoc`: what a class has from fastai or torch is not repeated
    return f'## {name}\n\n{inspect.cleandoc(value.__doc__ or "")}'


def link_names(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Code that is a public name, on any page, leads to its place in the reference."""
    objects = app.env.domains['py'].objects
    for node in list(doctree.findall(nodes.literal)):
        if _is_linked(node):
            continue
        place = objects.get(full_name(node.astext()))
        if place is not None:
            link = make_refnode(app.builder, docname, place.docname, place.node_id, node.deepcopy())
            node.replace_self(link)


def _is_linked(node: nodes.Node) -> bool:
    """Is it inside a link, or in a heading?"""
    parent = node.parent
    while parent is not None:
        if isinstance(parent, nodes.reference | nodes.title):
            return True
        parent = parent.parent
    return False
