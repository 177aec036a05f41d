"""What stands beside an argument in the source, shown by `help()`, `?`, Shift-Tab and fastai's `doc()`.

The comment beside an argument is the one place where it is explained. Python keeps no comments, so those of public
functions are read from the source files and added to the docstrings, once, when `fastrec.all` is imported. The parser
of fastcore (`docments`) reads the same comments, a hundred times slower: it would add seconds to the import.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import is_dataclass
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

ITEMS = 'function, or list of transforms, of'
# what fastai has no comments for: function -> argument -> text
FASTAI = {
    'fastai.data.load.DataLoader.__init__': dict(
        pin_memory='make batches in page-locked memory, from where they are copied to a GPU faster',
        timeout='seconds to wait for a worker process; 0: as long as it takes',
        batch_size="PyTorch's name of `bs`",
        indexed='is the dataset read by index? None: if it can be',
        n='samples in an epoch; None: all',
        device='where batches are put; None: they stay where they are made',
        persistent_workers='keep worker processes from one epoch to the next',
        pin_memory_device='device that memory is locked for',
        wif='function called in each worker process as it starts',
        before_iter='function called before each epoch',
        after_item=f'{ITEMS} a sample',
        before_batch=f'{ITEMS} the samples of a batch, before they are put together',
        after_batch=f'{ITEMS} a batch',
        after_iter='function called after each epoch',
        create_batches='function of the order of samples that yields batches',
        create_item='function of an index that returns a sample',
        create_batch='function of a list of samples that returns a batch',
        retain='function of a batch and its samples that gives the batch their type',
        get_idxs='function that returns the order of samples in an epoch',
        sample='function that returns the part of that order that a worker process reads',
        shuffle_fn='function that returns an order shuffled',
        do_batch='function of a list of samples that does all of before_batch, create_batch and retain',
    ),
    'fastai.callback.schedule.Learner.fit_one_cycle': dict(
        lr_max='highest learning rate of the cycle; None: `learn.lr`',
        div_final='the cycle ends at lr_max / div_final',
        wd='weight decay; None: `learn.wd`',
        moms='momentum at the start, at the highest rate and at the end; None: `learn.moms`',
        cbs='callbacks of this fit alone',
        reset_opt='start with a new optimizer',
        start_epoch='epochs that are skipped, to go on with a fit that was cut off',
    ),
    'fastai.learner.Learner.export': dict(
        pickle_module='what writes the file',
        pickle_protocol='version of the format',
    ),
}


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


def _methods(name: str, cls: Any) -> Iterator[tuple[str, type, Any]]:
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
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name not in LEFT_OUT]
    texts = _texts_of({p.name for p in parameters}, function, owner)
    arguments = []
    for parameter in parameters:
        text = texts.get(parameter.name, '')
        arguments.append(_argument(parameter, text))
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments += _handed_on(function, text, {argument.name for argument in arguments})
    return arguments


def _texts_of(names: set[str], function: Callable, owner: type | None) -> dict[str, str]:
    """What stands beside the arguments of these names, as far as anything does."""
    texts: dict[str, str] = {}
    for source in _explained_by(function, owner):
        if names <= texts.keys():
            break  # the others, files of fastai among them, need not be read
        texts = {**comments_of(source), **texts}
    return texts


def _explained_by(function: Callable, owner: type | None) -> Iterator[Callable]:
    """The function, those that it delegates to, and those that it overrides; of a dataclass the class itself."""
    if owner is not None and function.__name__ == '__init__' and is_dataclass(owner):
        yield owner
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
    stars: dict[Any, str] = {parameter.VAR_POSITIONAL: '*', parameter.VAR_KEYWORD: '**'}
    kind = '' if parameter.annotation is parameter.empty else inspect.formatannotation(parameter.annotation)
    default = '' if parameter.default is parameter.empty else _written(parameter.default)
    return Argument(stars.get(parameter.kind, '') + parameter.name, kind.strip("'"), default, text)


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
    is_class = isinstance(target, type)
    constructor = target.__init__ if is_class else inspect.unwrap(target)
    owner = target if is_class else None
    may_be_left_out = [argument for argument in arguments_of(constructor, owner) if argument.default]
    return [argument for argument in may_be_left_out if argument.name not in known]


# --- the source


@cache
def comments_of(
    function: Callable,  # or a dataclass, whose fields are arguments
) -> dict[str, str]:
    """{argument: text} of comments in the signature: at the end of an argument's line, or in lines above it.

    Of a function of fastai that has none those of `FASTAI`; of what has no source, as builtins, {}.
    """
    code = getattr(function, '__code__', None)
    if isinstance(function, type):
        return _comments(_field_lines(function))
    if code is None:
        return {}
    known = FASTAI.get(f'{function.__module__}.{function.__qualname__}', {})
    return {**known, **_comments(_signature_lines(_lines(code.co_filename), code.co_firstlineno - 1))}


def _comments(lines: Iterable[str]) -> dict[str, str]:
    """{name: text}, of lines that have a name each, or a comment for the name below."""
    texts: dict[str, str] = {}
    above: list[str] = []
    for line in lines:
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


def _field_lines(cls: type) -> Iterator[str]:
    """The lines of a class from its name to its first method."""
    lines = iter(_lines(inspect.getfile(cls)))
    for line in lines:
        if line.startswith(f'class {cls.__name__}'):
            break
    for line in lines:
        if line.lstrip().startswith(('def ', '@')) or line[:1].strip():
            return
        yield line


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
