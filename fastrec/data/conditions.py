"""Conditions on a table as text, `year > 1990 and genres.str.contains('Comedy')`: the harmless part of
`DataFrame.query`.

The text is parsed and every part of it is looked at before anything is computed; pandas' `eval` and `query`, which can
call any function that a module leads to, are not used."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from unicodedata import normalize

import numpy as np
import pandas as pd

from .columns import first_few

__all__: list[str] = []

LONGEST = 20_000  # characters of a condition
DEEPEST = 50  # parts of it that stand inside one another
ALLOWED = (
    'Allowed are names of columns (in backticks where they have blanks), numbers, texts, True and False; '
    '==, !=, <, <=, >, >=, in [...], not in [...]; and, or, not, &, |, ~; + - * / of numbers; '
    ".isin([...]), .isna(), .notna() and .str.contains('...', case=False, regex=False)"
)

# text in quotes, a name in backticks, or what reads otherwise here than in Python, as in `DataFrame.query`
TOKENS = re.compile(
    r"""(?P<text>'''(?:[^\\]|\\.)*?'''|\"\"\"(?:[^\\]|\\.)*?\"\"\"|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")"""
    r'|`(?P<name>[^`\n]+)`|(?P<sign>[&|@#`])',
    re.DOTALL,
)
WORDS = {'&': ' and ', '|': ' or '}
# these make the time that a regular expression takes explode; the rest of the language takes its length
SLOW_IN_PATTERNS = re.compile(r'[(){}*+?]')

COMPARISONS: dict[type, Callable] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
SUMS: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
MEMBERSHIPS = (ast.In, ast.NotIn)
OPTIONS_OF_CONTAINS = dict(case=bool, regex=bool, na=bool)
# how what is refused is called
REFUSED: dict[type, str] = {
    ast.Attribute: 'an attribute',
    ast.Call: 'a call',
    ast.Subscript: 'an index in brackets',
    ast.Lambda: 'a function',
    ast.IfExp: 'if ... else',
    ast.JoinedStr: 'an f-string',
    ast.List: 'a list where a value stands',
    ast.Tuple: 'a list where a value stands',
    ast.Pow: 'a power',
    ast.Is: '`is`',
    ast.IsNot: '`is not`',
}


def rows_where(
    df: pd.DataFrame,
    condition: str,  # as `DataFrame.query` has it, of which the parts in `ALLOWED` may occur
) -> pd.Series:
    """Where the condition is true: bool or boolean (rows,), missing where that cannot be told.

    What `DataFrame.query` would say to it; `ValueError` for a condition with anything else in it.
    """
    try:
        return _Condition(df, condition).truth()
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError) as e:
        shown = condition if len(condition) <= 200 else f'{condition[:200]}...'
        why = str(e) or type(e).__name__
        raise ValueError(
            f'cannot read the condition {shown!r}: {why}. {ALLOWED}. Columns of item_df: {first_few(df.columns, 20)}. '
            'What needs more than that is a function of item_df, e.g. `lambda m: m.year > 1990`'
        ) from e


class _Condition:
    """A condition that has been looked at as a whole, to be computed for the rows of a table."""

    def __init__(self, df: pd.DataFrame, text: str) -> None:
        self.df = df
        self.n_columns = 0  # that it reads
        self.quoted: dict[str, str] = {}  # names in backticks, by the name that stands for each in `tree`
        self.tree = self._parsed(text)
        self._check(self.tree, 0)
        if not self.n_columns:
            raise ValueError('it speaks of no column')

    def truth(self) -> pd.Series:
        """Where it is true."""
        res = _as_truth(self._value(self.tree), self.tree)
        assert isinstance(res, pd.Series)  # it reads a column
        return res

    # --- reading

    def _parsed(self, text: str) -> ast.expr:
        """The text as a tree, in which nothing has been looked at yet."""
        if len(text) > LONGEST:
            raise ValueError(f'it has {len(text):,} characters, at most {LONGEST:,} can be read')
        stem = 'column'
        while stem in text:
            stem += '_'

        def in_python(token: re.Match) -> str:
            if token['text'] is not None:
                return token['text']
            if token['name'] is not None:
                name = f'{stem}{len(self.quoted)}'
                self.quoted[name] = token['name']
                return name
            sign = token['sign']
            if sign in WORDS:
                return WORDS[sign]
            raise ValueError(
                '`@`, a variable of Python, is not allowed: put its value into the text, f"year > {year}"'
                if sign == '@'
                else f'{sign!r} is not allowed'
            )

        try:
            return ast.parse(TOKENS.sub(in_python, text).strip(), mode='eval').body
        except SyntaxError as e:
            single = re.search(r'[^=!<>]=[^=]', text) is not None
            raise ValueError('it is not complete, or not a condition' + ('; equal is ==' if single else '')) from e

    def _column_name(self, node: ast.Name) -> str:
        """The column that a name stands for; `ValueError` where there is none, or several."""
        name = self.quoted.get(node.id, node.id)
        found = [column for column in self.df.columns if isinstance(column, str) and column == name]
        if not found and node.id not in self.quoted:  # Python reads names in this form
            found = [
                column for column in self.df.columns if isinstance(column, str) and normalize('NFKC', column) == name
            ]
        if len(found) != 1:
            raise ValueError(f'there is no column {name!r}' if not found else f'several columns are called {name!r}')
        return found[0]

    # --- looking at all of it

    def _check(self, node: ast.expr, depth: int) -> None:
        """`ValueError` for what is not allowed, anywhere in `node`."""
        if depth > DEEPEST:
            raise ValueError(f'more than {DEEPEST} of its parts stand inside one another')
        depth += 1
        if isinstance(node, ast.Name):
            self._column_name(node)
            self.n_columns += 1
        elif isinstance(node, ast.Constant):
            _check_constant(node)
        elif isinstance(node, ast.BoolOp):
            for part in node.values:
                self._check(part, depth)
        elif isinstance(node, ast.UnaryOp):
            self._check(node.operand, depth)
            if isinstance(node.op, (ast.USub, ast.UAdd)):
                _check_not_text(node.operand)
        elif isinstance(node, ast.BinOp) and type(node.op) in SUMS:
            for part in (node.left, node.right):
                self._check(part, depth)
                _check_not_text(part)
        elif isinstance(node, ast.Compare):
            self._check_comparison(node, depth)
        elif isinstance(node, ast.Call):
            self._check_call(node, depth)
        else:
            raise ValueError(_refusal(node.op if isinstance(node, ast.BinOp) else node))

    def _check_comparison(self, node: ast.Compare, depth: int) -> None:
        self._check(node.left, depth)
        for comparison, right in zip(node.ops, node.comparators, strict=True):
            is_list = isinstance(right, (ast.List, ast.Tuple))
            if isinstance(comparison, MEMBERSHIPS) or (is_list and isinstance(comparison, (ast.Eq, ast.NotEq))):
                if len(node.ops) > 1:
                    raise ValueError('a list in a chain of comparisons is not allowed: say it with `and`')
                self._check_list(node.left, right)
            elif type(comparison) in COMPARISONS:
                self._check(right, depth)
            else:
                raise ValueError(_refusal(comparison))

    def _check_list(self, column: ast.expr, values: ast.expr) -> None:
        """Values in brackets, in which what stands to the left of them is looked for."""
        if not isinstance(column, ast.Name):
            raise ValueError(f'{_shown(column)!r} is looked for in a list, and only columns can be')
        if not isinstance(values, (ast.List, ast.Tuple)):
            raise ValueError(f'`in` wants values in brackets, [1990, 1991], and got {_shown(values)!r}')
        for value in values.elts:
            _constant(value)

    def _check_call(self, node: ast.Call, depth: int) -> None:
        """One of the methods of a column."""
        if not isinstance(node.func, ast.Attribute):
            raise ValueError(_refusal(node))
        owner, name = node.func.value, node.func.attr
        of_texts = isinstance(owner, ast.Attribute) and owner.attr == 'str'
        column = owner.value if of_texts else owner  # type: ignore[attr-defined]  # an attribute has a value
        if not isinstance(column, ast.Name):
            raise ValueError(_refusal(node))
        known = ('contains',) if of_texts else ('isin', 'isna', 'isnull', 'notna', 'notnull')
        if name not in known:
            raise ValueError(_refusal(node))
        self._check(column, depth)
        if name == 'contains':
            _contains_arguments(node)
        elif name == 'isin':
            if len(node.args) != 1 or node.keywords:
                raise ValueError('.isin takes one list')
            self._check_list(column, node.args[0])
        elif node.args or node.keywords:
            raise ValueError(f'.{name}() takes nothing')

    # --- computing it

    def _value(self, node: ast.expr):
        """What a checked part is: a Series, or a constant."""
        if isinstance(node, ast.Name):
            return self.df[self._column_name(node)]
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.BoolOp):
            return self._all_or_any(node)
        if isinstance(node, ast.UnaryOp):
            return self._unary(node)
        if isinstance(node, ast.BinOp):
            return self._sum(node)
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        assert isinstance(node, ast.Call)
        return self._call(node)

    def _all_or_any(self, node: ast.BoolOp):
        combine = operator.and_ if isinstance(node.op, ast.And) else operator.or_
        res = _as_truth(self._value(node.values[0]), node.values[0])
        for part in node.values[1:]:
            res = combine(res, _as_truth(self._value(part), part))
        return res

    def _unary(self, node: ast.UnaryOp):
        value = self._value(node.operand)
        if isinstance(node.op, (ast.Not, ast.Invert)):
            truth = _as_truth(value, node.operand)
            return (not truth) if isinstance(truth, bool) else ~truth
        value = _as_numbers(value, node.operand)
        return -value if isinstance(node.op, ast.USub) else value

    def _sum(self, node: ast.BinOp):
        left = _as_numbers(self._value(node.left), node.left)
        right = _as_numbers(self._value(node.right), node.right)
        return SUMS[type(node.op)](left, right)

    def _comparison(self, node: ast.Compare):
        """A comparison, or all of a chain of them."""
        left, res = node.left, None
        for comparison, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(right, (ast.List, ast.Tuple)):
                truth = self._isin(left, right)
                if isinstance(comparison, (ast.NotIn, ast.NotEq)):
                    truth = ~truth
            else:
                truth = COMPARISONS[type(comparison)](self._value(left), self._value(right))
            res = truth if res is None else res & truth
            left = right
        return res

    def _isin(self, column: ast.expr, values: ast.List | ast.Tuple) -> pd.Series:
        return self._value(column).isin([_constant(value) for value in values.elts])

    def _call(self, node: ast.Call) -> pd.Series:
        assert isinstance(node.func, ast.Attribute)
        owner, name = node.func.value, node.func.attr
        if name == 'contains':
            assert isinstance(owner, ast.Attribute)
            pattern, options = _contains_arguments(node)
            return self._value(owner.value).str.contains(pattern, **options)
        column = self._value(owner)
        if name == 'isin':
            values = node.args[0]
            assert isinstance(values, (ast.List, ast.Tuple))
            return self._isin(owner, values)
        return column.isna() if name in ('isna', 'isnull') else column.notna()


# --- parts


def _shown(node: ast.AST) -> str:
    """A part as it was written, or nearly so; its beginning where it is long."""
    text = ast.unparse(node)
    return text if len(text) <= 80 else f'{text[:80]}...'


def _refusal(node: ast.AST) -> str:
    """What is said of a part that is not allowed."""
    kind = REFUSED.get(type(node), type(node).__name__)
    shown = f' ({_shown(node)})' if isinstance(node, ast.expr) else ''
    return f'{kind}{shown} is not allowed'


def _check_constant(node: ast.Constant) -> None:
    if node.value is None:
        raise ValueError('None is not allowed: missing values are asked for by .isna() and .notna()')
    if not isinstance(node.value, (bool, int, float, str)):
        raise ValueError(f'{_shown(node)} is not allowed: values are numbers, texts, True and False')


def _check_not_text(node: ast.expr) -> None:
    """`ValueError` for a constant that is not a number."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, bool)):
        raise ValueError(f'{_shown(node)} is not a number, and + - * / are of numbers alone')


def _constant(node: ast.expr):
    """A number, negative ones included, or a text of a list."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        _check_constant(node.operand)
        _check_not_text(node.operand)
        return -node.operand.value  # type: ignore[operator]  # a number
    if not isinstance(node, ast.Constant):
        raise ValueError(f'{_shown(node)} in a list is not allowed: lists hold numbers and texts')
    _check_constant(node)
    return node.value


def _contains_arguments(node: ast.Call) -> tuple[str, dict[str, bool]]:
    """The text that `.str.contains` looks for, and its options."""
    if len(node.args) != 1:
        raise ValueError(".str.contains takes one text, and options by name: .str.contains('...', case=False)")
    pattern = _constant(node.args[0])
    if not isinstance(pattern, str):
        raise ValueError(f'.str.contains looks for a text, and got {_shown(node.args[0])}')
    options = {}
    for keyword in node.keywords:
        if keyword.arg not in OPTIONS_OF_CONTAINS:
            raise ValueError(f'.str.contains has the options {", ".join(OPTIONS_OF_CONTAINS)}; not {keyword.arg}')
        value = _constant(keyword.value)
        if not isinstance(value, bool):
            raise ValueError(f'{keyword.arg}= of .str.contains is True or False')
        options[keyword.arg] = value
    if options.get('regex', True):
        _check_pattern(pattern)
    return pattern, options


def _check_pattern(pattern: str) -> None:
    """`ValueError` for a regular expression that is none, or that may take for ever."""
    signs = SLOW_IN_PATTERNS.findall(re.sub(r'\\.', '', pattern, flags=re.DOTALL))
    if signs:
        raise ValueError(
            f'{signs[0]!r} in the regular expression {pattern!r} is not allowed: '
            'to look for the text as it is, .str.contains(..., regex=False)'
        )
    try:
        re.compile(pattern)
    except re.error as e:
        raise ValueError(f'{pattern!r} is not a regular expression ({e}): .str.contains(..., regex=False)') from e


def _as_truth(value, node: ast.expr):
    """True and False, in a Series or not; `ValueError` for anything else."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, pd.Series) and pd.api.types.is_bool_dtype(value.dtype):
        return value
    if isinstance(value, pd.Series) and value.dtype == object and value.map(_is_truth_or_missing).all():
        return value.astype('boolean')
    raise ValueError(f'{_shown(node)!r} is neither true nor false: compare it with something')


def _is_truth_or_missing(value) -> bool:
    return isinstance(value, (bool, np.bool_)) or (pd.api.types.is_scalar(value) and pd.isna(value))


def _as_numbers(value, node: ast.expr):
    """A number or a Series of numbers; `ValueError` for anything else."""
    dtype = value.dtype if isinstance(value, pd.Series) else np.asarray(value).dtype
    if pd.api.types.is_bool_dtype(dtype) or not pd.api.types.is_numeric_dtype(dtype):
        raise ValueError(f'{_shown(node)!r} has no numbers, and + - * / are of numbers alone')
    return value
