"""Docstrings, which are plain text with names in backticks, as reStructuredText."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any

SECTION = re.compile(r'^Parameters\n-+\n', re.M)
ITEM = re.compile(r'(?P<mark>[-*]|\d+\.) +(?P<text>.*)')
FIELD = re.compile(r'    (?P<name>\w+)\s*:[^#]*?(?:#\s?(?P<text>.*))?$')


def process(app, what, name, obj, options, lines) -> None:
    """Sphinx hands over the lines of each docstring."""
    text = inspect.cleandoc('\n'.join(lines))
    prose, arguments = split(text)
    if inspect.isclass(obj) and not arguments:
        arguments = fields_of(obj)
    lines[:] = [*as_rst(prose), '', *as_fields(arguments), *return_type(what, obj), '']


def skip(app, what, name, obj, skip, options) -> bool | None:
    """Fields of named tuples are explained with their class; what they have from tuple is left out."""
    return True if type(obj).__name__ == '_tuplegetter' else None


# --- the prose


def as_rst(text: str) -> list[str]:
    """Paragraphs, lists and indented code of plain text; nothing in it has a meaning for reStructuredText but those."""
    lines: list[str] = []
    for block in re.split(r'\n\s*\n', text.strip('\n')):
        rows = block.split('\n')
        if all(row.startswith('    ') for row in rows):
            lines += ['.. code-block:: text', '', *rows, '']
        elif ITEM.match(rows[0]):
            lines += [*_list(rows), '']
        else:
            before, items = _until_list(rows)
            lines += [inline(' '.join(row.strip() for row in before)), '']
            if items:
                lines += [*_list(items), '']
    return lines


def _until_list(rows: list[str]) -> tuple[list[str], list[str]]:
    """A paragraph, and the list that begins right below its first lines."""
    at = next((i for i, row in enumerate(rows) if row.startswith('- ')), len(rows))
    return rows[:at], rows[at:]


def _list(rows: list[str]) -> list[str]:
    """One line an item: lines that are no beginning belong to the item above."""
    items: list[str] = []
    for row in rows:
        match = ITEM.match(row)
        if match:
            items.append(match['text'])
        else:
            items[-1] += ' ' + row.strip()
    return [f'* {inline(item)}' for item in items]


def inline(text: str) -> str:
    """A line of plain text: what is in backticks is code, everything else stands for itself."""
    parts = re.split(r'(`[^`]+`)', text)
    out = []
    for before, part, after in zip(['', *parts], parts, [*parts[1:], '']):
        if not (part.startswith('`') and len(part) > 2):
            out.append(re.sub(r'([\\*_|`])', r'\\\1', part))
            continue
        left = '\\ ' if before and not before[-1].isspace() else ''
        right = '\\ ' if after and not after[0].isspace() else ''
        out.append(f'{left}``{part[1:-1].strip()}``{right}')
    return ''.join(out)


# --- the arguments

Argument = tuple[str, str, str]  # name, 'type, default value', text


def split(text: str) -> tuple[str, list[Argument]]:
    """(prose, arguments) of a docstring."""
    prose, *rest = SECTION.split(text, maxsplit=1)
    return prose, list(_arguments(rest[0])) if rest else []


def _arguments(section: str) -> Iterator[Argument]:
    for entry in re.split(r'\n(?=\S)', section.strip('\n')):
        head, _, text = entry.partition('\n')
        name, _, kind = head.partition(' : ')
        yield name.strip(), kind.strip(), ' '.join(text.split())


def as_fields(arguments: list[Argument]) -> list[str]:
    """A list of fields, as the Python domain of Sphinx reads it."""
    lines = []
    for name, kind, text in arguments:
        shown = name.replace('*', '\\*')
        lines.append(f':param {shown}: {inline(text)}')
        if kind:
            lines.append(f':type {shown}: {_kind(kind)}')
    return lines


def _kind(kind: str) -> str:
    """'``int``, default ``50``'."""
    before, is_there, default = f', {kind}'.partition(', default ')
    stated = before.removeprefix(', ')
    return ', '.join(part for part in (stated and _code(stated), is_there and f'default {_code(default)}') if part)


def _code(text: str) -> str:
    return f'``{text}``'


def return_type(what: str, obj: Any) -> list[str]:
    """What a function is annotated to return, where it is something."""
    if what not in ('function', 'method'):
        return []
    try:
        annotation = inspect.signature(obj).return_annotation
    except (TypeError, ValueError):
        return []
    if annotation in (inspect.Signature.empty, None, 'None'):
        return []
    return [f':rtype: {_code(inspect.formatannotation(annotation).strip(chr(39)))}']


def fields_of(cls: type) -> list[Argument]:
    """The fields of a named tuple or data class, with the comments beside them."""
    names = getattr(cls, '_fields', None) or [
        field.name for field in (dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ())
    ]
    texts: dict[str, str] = {}
    above: list[str] = []
    for line in inspect.getsourcelines(cls)[0] if names else ():
        match = FIELD.match(line.rstrip())
        if match:
            texts[match['name']] = ' '.join([*above, match['text'] or '']).strip()
        above = [*above, line.strip()[1:].strip()] if line.strip().startswith('#') else []
    return [(name, _annotation(cls.__annotations__.get(name, '')), texts.get(name, '')) for name in names]


def _annotation(value: Any) -> str:
    """As it is written in the source."""
    written = getattr(value, '__forward_arg__', value)  # of named tuples
    return written if isinstance(written, str) else inspect.formatannotation(written)
