"""What the library says of arguments, said of flags: `--rating-name` in the place of `rating_name=`.

Messages name the argument that mends what is wrong. Whoever typed a command has flags, not arguments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__: list[str] = []

FLAGS: Mapping[str, str] = {
    'candidates': '--candidates',
    'cold': '--cold',
    'decimal': '--decimal',
    'duplicates': '--duplicates',
    'encoding': '--encoding',
    'item_name': '--item-name',
    'lr': '--lr',
    'lr_max': '--lr',
    'missing_rating': '--missing-rating',
    'n_epoch': '--epochs',
    'n_factors': '--factors',
    'names': '--columns',
    'rating_name': '--rating-name',
    'seed': '--seed',
    'seen': '--seen',
    'sep': '--sep',
    'target': '--target',
    'threshold': '--threshold',
    'time_name': '--time-name',
    'user_name': '--user-name',
    'valid_pct': '--valid-pct',
    'wd': '--wd',
}
# what only somebody who writes Python can do, and what a command does in its place
IN_PYTHON: tuple[tuple[str, str], ...] = (
    (r'header=None, names=\[[^\]]*\] \([^)]*(--columns [\w,]+)\)', r'\1'),
    (r'(?:\w+=\S+ )?\(fastrec train: (--[\w-]+)\)', r'\1'),
    (r'(?:RecDataLoaders\.)?from_df\(\.\.\., ([^)]*)\)', r'\1'),
    (r'rating_name=False, ', ''),
    (r': `df\[[^`]*`(, not pd\.\w+)?', ': edit the file'),
    (r' when the interactions are made', ''),
    (r'\bTimeSplitter\b', '--split time'),
    (r'\bLeaveLastSplitter\b', '--split last'),
    (r'\bexclude_seen=False\b', '--include-seen'),
    (r'\.? What needs more than that is a function of item_df, e\.g\. `[^`]*`', ''),
    (r'\bitem_df\b', 'the table of items'),
    (r'save_recommender\(learn, folder\)', '`fastrec train`'),
    (r'^\w+: (?=\w+=)', ''),  # the function of the library that says it
)
VALUE = r"""(?:\[[^\]]*\]|'[^']*'|"[^"]*"|[\w.+-]*\w)?"""


def in_flags(
    text: str,  # what the library says
) -> str:
    """The text with flags in the place of arguments: `threshold=9` is `--threshold 9`."""
    for pattern, replacement in IN_PYTHON:
        text = re.sub(pattern, replacement, text)
    names = '|'.join(sorted(FLAGS, key=len, reverse=True))
    text = re.sub(rf'\b(?<!-)({names})=({VALUE})', _flag, text)
    with_underscore = '|'.join(name for name in FLAGS if '_' in name)
    return re.sub(rf'\b(?<!-)({with_underscore})\b', lambda match: FLAGS[match[1]], text)


def _flag(match: re.Match) -> str:
    """`name=value` as it is typed; a value of Python without quotes and brackets."""
    value = match[2]
    if value.startswith('['):
        value = ','.join(part.strip(' \'"') for part in value[1:-1].split(','))
    elif value[:1] in ("'", '"') and value[1:-1].isalnum():
        value = value[1:-1]
    return f'{FLAGS[match[1]]} {value}'.rstrip()
