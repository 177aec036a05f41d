"""What stands beside an argument in the source, shown by `help()`, `?`, Shift-Tab and fastai's `doc()`.

The comment beside an argument is the one place where it is explained. Python keeps no comments, so those of public
functions are read from the source files and added to the docstrings, once, when `fastrec.all` is imported. The parser
of fastcore (`docments`) reads the same comments, a hundred times slower: it would add seconds to the import.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

__all__: list[str] = []

# a parameter at the start of a line, and the comment at its end: `bs: int = 64,  # rows of a batch`
PARAMETER = re.compile(r'\s*\*{0,2}(?P<name>\w+)\b(?P<rest>.*)')
COMMENT = re.compile(r'(?:^|\s)#\s?(?P<text>.*)$')
# `**kwargs,  # of `evaluate_users``: arguments that are handed on
HANDED_ON = re.compile(r'of `(?P<name>[\w.]+)`')
LEFT_OUT = ('self', 'cls')


class Argument(NamedTuple):
    """An argument of a function, as it is shown."""

    name: str
    type: str  # '' where none is stated
    default: str  # as Python writes it; '' where there is none
    text: str  # what stands beside it; '' where nothing does


def show_arguments(
    package: str,  # name of a package whose modules are imported
) -> None:
    """Add to the docstring of each public function, class and method of `package` what stands beside its arguments."""
    for _, owner, function in public_functions(package):
        holder: Any = owner if function.__name__ == '__init__' else function
        arguments = arguments_of(function, owner)
        if arguments and 'Parameters\n' not in (holder.__doc__ or ''):
            holder.__doc__ = inspect.cleandoc(holder.__doc__ or '') + '\n\n' + as_section(arguments)


def public_functions(
    package: str,
) -> Iterator[tuple[str, type | None, Any]]:
    """(name, class or None, function) of what the `__all__` of its modules name, and of the methods of such classes.

    The name is `module.function` or `module.Class.method`; a class stands for its `__init__`.
    """
    modules = [module for name, module in sorted(sys.modules.items()) if name.startswith(f'{package}.')]
    for module in modules:
        for name in getattr(module, '__all__', []):
            value = getattr(module, name)
            if getattr(value, '__module__', None) != module.__name__:
                continue  # a number, or a name of another module's
            if isinstance(value, type):
                yield from _methods(f'{module.__name__}.{name}', value)
            elif callable(value):
                yield f'{module.__name__}.{name}', None, value


def _methods(name: str, cls: type) -> Iterator[tuple[str, type, Any]]:
    """Its constructor, and the public methods that the class itself defines."""
    if inspect.isfunction(cls.__init__) and cls.__init__.__module__.startswith(f'{__package__}.'):
        yield f'{name}.__init__', cls, cls.__init__
    for attribute, value in vars(cls).items():
        function = getattr(value, '__func__', value)  # of class methods and static ones
        if inspect.isfunction(function) and not attribute.startswith('_'):
            yield f'{name}.{attribute}', cls, function


def arguments_of(
    function: Callable,
    owner: type | None = None,  # the class that it is a method of
) -> list[Argument]:
    """The arguments of a function with what stands beside them.

    Of arguments that `delegates` adds, and of those of a method that a base class has explained, the text is that of
    the function where it stands. `**kwargs` with the comment 'of `name`' are followed by the arguments of that one.
    """
    texts: dict[str, str] = {}
    for source in _explained_by(function, owner):
        for name, text in comments_of(source).items():
            texts.setdefault(name, text)
    arguments = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in LEFT_OUT:
            continue
        text = texts.get(parameter.name, '')
        arguments.append(_argument(parameter, text))
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments += _handed_on(function, text, {argument.name for argument in arguments})
    return arguments


def _explained_by(function: Callable, owner: type | None) -> Iterator[Callable]:
    """The function, those that it delegates to, and those that it overrides."""
    source: Any = function
    while source is not None:
        yield inspect.unwrap(source)
        source = getattr(source, '__delwrap__', None)
    for base in owner.__mro__[1:] if owner is not None else ():
        overridden = vars(base).get(function.__name__)
        overridden = getattr(overridden, '__func__', overridden)
        if inspect.isfunction(overridden):
            yield inspect.unwrap(overridden)


def _argument(parameter: inspect.Parameter, text: str) -> Argument:
    stars = {parameter.VAR_POSITIONAL: '*', parameter.VAR_KEYWORD: '**'}.get(parameter.kind, '')
    kind = '' if parameter.annotation is parameter.empty else inspect.formatannotation(parameter.annotation)
    default = '' if parameter.default is parameter.empty else _written(parameter.default)
    return Argument(stars + parameter.name, kind.strip("'"), default, text)


def _written(value: Any) -> str:
    """A default as it is written: functions and classes by name."""
    return getattr(value, '__name__', None) or repr(value)


def _handed_on(function: Callable, text: str, known: set[str]) -> list[Argument]:
    """The arguments that `**kwargs` stand for, but those that are `known`."""
    match = HANDED_ON.match(text)
    names = inspect.unwrap(function).__globals__  # type: ignore[attr-defined]
    target: Any = None if match is None else names.get(match['name'])
    if not callable(target):
        return []
    constructor = target.__init__ if isinstance(target, type) else inspect.unwrap(target)
    owner = target if isinstance(target, type) else None
    may_be_left_out = [argument for argument in arguments_of(constructor, owner) if argument.default]
    return [argument for argument in may_be_left_out if argument.name not in known]


# --- the source


def comments_of(
    function: Callable,
) -> dict[str, str]:
    """{argument: text} of comments in the signature: at the end of an argument's line, or in lines above it.

    Of what has no source, as builtins, {}.
    """
    code = getattr(function, '__code__', None)
    if code is None:
        return {}
    texts: dict[str, str] = {}
    above: list[str] = []
    for line in _signature_lines(_lines(code.co_filename), code.co_firstlineno - 1):
        comment = COMMENT.search(line)
        if comment is not None and not line[: comment.start()].strip():
            above.append(comment['text'].strip())
            continue
        parameter = PARAMETER.match(line)
        if parameter is not None:
            beside = [comment['text'].strip()] if comment is not None else []
            if text := ' '.join(above + beside):
                texts[parameter['name']] = text
        above = []
    return texts


def _signature_lines(lines: list[str], first: int) -> Iterator[str]:
    """The lines between `def name(` and `)`, of a function that starts at line `first`; none if it has a single one."""
    at = first
    while at < len(lines) and not lines[at].lstrip().startswith(('def ', 'async def ')):
        at += 1  # decorators
    if at >= len(lines) or _code(lines[at]).endswith(':'):
        return
    indent = len(lines[at]) - len(lines[at].lstrip())
    for line in lines[at + 1 :]:
        is_end = line[indent : indent + 1] == ')'
        if is_end:
            return
        yield line
        if _code(line).endswith('):'):
            return


def _code(line: str) -> str:
    """The line without its comment."""
    return COMMENT.sub('', line).rstrip()


@cache
def _lines(path: str) -> list[str]:
    """The lines of a file; [] where it cannot be read, as inside an archive."""
    try:
        return Path(path).read_text(encoding='utf-8').splitlines()
    except OSError:
        return []


# --- the text


def as_section(
    arguments: list[Argument],
) -> str:
    """A section of a docstring as numpy writes it, which editors and documentation tools read."""
    lines = ['Parameters', '----------']
    for name, kind, default, text in arguments:
        described = ', '.join(part for part in (kind, f'default {default}' if default else '') if part)
        lines.append(f'{name} : {described}' if described else name)
        if text:
            lines.append(f'    {text}')
    return '\n'.join(lines)
