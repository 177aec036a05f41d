"""Ids come back as they went in, whatever their dtype, the container and the verb; unknown ones are always unknown.

A small form runs with the suite; `FASTREC_EXAMPLES=2000 pytest tests/test_properties.py` looks further.
"""

import os
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from pandas._libs.parsers import STR_NA_VALUES
from trained import as_trained

from fastrec.all import RecDataLoaders, Vocab, collab_learner, load_recommender, save_recommender

pytest.importorskip('pyarrow')
pytestmark = pytest.mark.filterwarnings('ignore')

EXAMPLES = int(os.environ.get('FASTREC_EXAMPLES', '25'))
thorough = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES < 100,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)

SIGNED = ('int8', 'int16', 'int32', 'int64', 'Int8', 'Int16', 'Int32', 'Int64')
UNSIGNED = ('uint8', 'uint16', 'uint32', 'uint64', 'UInt8', 'UInt64')
ARROW = ('int8[pyarrow]', 'int64[pyarrow]', 'uint16[pyarrow]')
FLOATS = ('float32', 'float64', 'Float64')
TEXTS = ('object', 'str', 'string[python]', 'string[pyarrow]', 'category')
TIMES = ('datetime64[s]', 'datetime64[us]', 'datetime64[ns]')
WIDTHS = (8, 16, 32, 64)


@dataclass
class Ids:
    """Distinct ids, others of their kind that are not among them, and the dtype that their column has."""

    known: list
    unknown: list
    dtype: str

    def column(self, positions):
        """A Series of the ids at these positions."""
        return as_column([self.known[i] for i in positions], self.dtype)


def as_column(values, dtype):
    if dtype == 'category':
        return pd.Series(pd.Categorical(values))
    if dtype == 'bytes':
        return pd.Series(values, dtype=object)
    if dtype.startswith('category of '):
        return pd.Series(values, dtype=dtype.removeprefix('category of ')).astype('category')
    return pd.Series(values, dtype=dtype)


def plain(values):
    """Ids as they are compared: Python's own values, in a list."""
    return [o.item() if isinstance(o, np.generic) and not isinstance(o, np.datetime64) else o for o in values]


def as_times(values):
    return [pd.Timestamp(o) for o in values]


# --- what is drawn


def whole_numbers(low, high):
    """Integers of a range, small ones and its ends more often."""
    ends = st.sampled_from(sorted({low, high, max(low, 0), min(high, 1), low + 1, high - 1}))
    return st.one_of(ends, st.integers(low, high), st.integers(max(low, -3), min(high, 12)))


def bounds(dtype):
    """Smallest and largest whole number that a column of the dtype holds exactly."""
    name = dtype.removesuffix('[pyarrow]').lower()
    if name.startswith('float'):
        exact = 2 ** (24 if name == 'float32' else 53) - 1
        return -exact, exact
    info = np.iinfo(name)
    return int(info.min), int(info.max)


def aliases(value):
    """Other whole numbers that a careless cast takes for this one."""
    return [value + sign * 2**width for width in WIDTHS for sign in (1, -1)] + [-value, value + 1]


@st.composite
def numbers(draw, n):
    dtype = draw(
        st.sampled_from((*SIGNED, *UNSIGNED, *ARROW, *FLOATS, 'object', 'category of int16', 'category of uint64'))
    )
    low, high = (-(2**63), 2**63 - 1) if dtype == 'object' else bounds(dtype.removeprefix('category of '))
    known = draw(st.lists(whole_numbers(low, high), min_size=n, max_size=n, unique=True))
    unknown = [o for value in known for o in aliases(value) if o not in known and -(2**63) <= o < 2**64]
    return Ids(known, draw(st.lists(st.sampled_from(unknown), min_size=1, max_size=3, unique=True)), dtype)


@st.composite
def texts(draw, n, alphabet=None):
    letters = st.characters(codec='utf-8', exclude_characters='\x00') if alphabet is None else alphabet
    some = st.one_of(
        st.text(letters, min_size=1, max_size=6),
        st.sampled_from(
            ['1', '01', '1.0', ' 1', 'a', 'A', 'a ', 'None', 'nan', 'NaN', 'NA', 'true', '2020-01-01', '-', 'é', 'é']
        ),
    )
    known = draw(st.lists(some, min_size=n, max_size=n, unique=True))
    unknown = [o for value in known for o in (value + ' ', value + 'x', value.upper() + '_') if o not in known]
    return Ids(known, unknown[:3], draw(st.sampled_from(TEXTS)))


@st.composite
def some_bytes(draw, n):
    known = draw(st.lists(st.binary(min_size=1, max_size=4), min_size=n, max_size=n, unique=True))
    return Ids(known, [o for o in (known[0] + b'x', known[-1] + b'y') if o not in known], 'bytes')


@st.composite
def times(draw, n):
    dtype = draw(st.sampled_from(TIMES))
    seconds = draw(st.lists(st.integers(-(10**9), 4 * 10**9), min_size=n, max_size=n, unique=True))
    known = [pd.Timestamp(o, unit='s') for o in seconds]
    unknown = [o + pd.Timedelta('1D') for o in known if o + pd.Timedelta('1D') not in known]
    return Ids(known, unknown[:2], dtype)


def any_ids(n):
    return st.one_of(numbers(n), texts(n), some_bytes(n), times(n))


RATING_DTYPES = ('float64', 'float32', 'int64', 'int8', 'uint16', 'Float64', 'Int64', 'double[pyarrow]')


@dataclass
class Table:
    """A table of ratings, and what is in it."""

    users: Ids
    items: Ids
    pairs: list
    ratings: list
    df: pd.DataFrame

    def truth(self):
        """{(user, item): rating}."""
        return {(self.users.known[u], self.items.known[i]): rating for (u, i), rating in zip(self.pairs, self.ratings)}


@st.composite
def tables(draw, ids=any_ids, n_users=4, n_items=5):
    users = draw(ids(n_users))
    items = draw(ids(n_items))
    every = [(u, i) for u in range(n_users) for i in range(n_items)]
    covering = [(k % n_users, k % n_items) for k in range(max(n_users, n_items))]
    more = draw(st.lists(st.sampled_from(every), max_size=12, unique=True))
    pairs = list(dict.fromkeys([*covering, *more]))
    pairs = draw(st.permutations(pairs))
    whole = st.integers(1, 100)
    dtype = draw(st.sampled_from(RATING_DTYPES))
    is_whole = 'int' in dtype.lower()
    ratings = [draw(whole) if is_whole else draw(whole) / 8 for _ in pairs]
    ratings[:2] = [1, 2]  # not all the same
    df = pd.DataFrame(
        dict(
            user=users.column([u for u, _ in pairs]),
            item=items.column([i for _, i in pairs]),
            rating=pd.Series(ratings, dtype=dtype),
        )
    )
    return Table(users, items, list(pairs), ratings, df)


# --- helpers


def last_row_valid(inter):
    n = len(inter)
    return np.arange(n - 1), np.arange(n - 1, n)


def loaders(df, **kwargs):
    return RecDataLoaders.from_df(df, splitter=last_row_valid, bs=4, **kwargs)


def truth_of(dls):
    """{(user, item): rating} of the rows that loaders hold."""
    df = dls.catalog.interactions.to_df()
    return {(u, i): r for u, i, r in zip(plain(df.user), plain(df.item), plain(df.rating))}


def assert_same_ids(got, want):
    """The same values in the same order; times as times."""
    got, want = plain(got), plain(want)
    if want and isinstance(want[0], pd.Timestamp):
        got = as_times(got)
    assert got == want
    assert [type(o) is str for o in got] == [type(o) is str for o in want]


def codes_of(dls, side, values):
    return dls.vocab[side].encode(values)


# --- vocabularies


@thorough
@given(any_ids(5), st.lists(st.integers(0, 4), min_size=1, max_size=8))
def test_codes_and_ids_are_each_others(ids, positions):
    vocab, codes = Vocab.factorize(ids.column(range(5)), 'user')
    assert sorted(codes.tolist()) == list(range(5))
    assert_same_ids(vocab.decode(codes), ids.known)
    asked = ids.column(positions)
    wanted = [ids.known[p] for p in positions]
    for form in (asked, list(asked), wanted, asked.to_numpy(), pd.Index(asked), iter(wanted)):
        assert vocab.encode(form).tolist() == codes[positions].tolist()
    assert_same_ids(vocab.decode(vocab.encode(asked)), wanted)
    for one, code in zip(ids.known, codes):
        assert vocab.encode(one).tolist() == [code]
        assert one in vocab
    assert sorted(vocab.encode(set(ids.known)).tolist()) == list(range(5))


@thorough
@given(any_ids(4))
def test_unknown_ids_are_unknown(ids):
    vocab, _ = Vocab.factorize(ids.column(range(4)), 'user')
    for other in ids.unknown:
        assert vocab.encode([other], unknown='mark').tolist() == [-1]
        assert vocab.encode([ids.known[0], other], unknown='mark').tolist() == [*vocab.encode([ids.known[0]]), -1]
        with pytest.raises(KeyError, match='unknown user id'):
            vocab.encode(other)
    for other in (np.datetime64('1901-01-01'), b'\xff\xfe', 'no such id', 0.5, (1, 2)):
        assert vocab.encode([other, other], unknown='mark').tolist() == [-1, -1]


@thorough
@given(any_ids(6))
def test_a_vocab_grows_at_its_end(ids):
    old, codes = Vocab.factorize(ids.column(range(4)), 'user')
    new = old.extended(ids.column([5, 1, 4, 4]))
    assert len(new) == 6
    assert_same_ids(new.decode(codes), ids.known[:4])
    assert sorted(new.encode([ids.known[4], ids.known[5]]).tolist()) == [4, 5]
    assert_same_ids(new.decode(new.encode(ids.known)), ids.known)


# --- containers


@thorough
@given(tables())
def test_a_table_comes_back(table):
    dls = loaders(table.df)
    assert truth_of(dls) == table.truth()


@thorough
@given(table=tables())
def test_a_parquet_file_comes_back(table, tmp_path_factory):
    file = tmp_path_factory.mktemp('parquet') / 'ratings.parquet'
    table.df.assign(rating=table.df.rating.astype('float64')).to_parquet(file)
    dls = RecDataLoaders.from_parquet(file, splitter=last_row_valid, bs=4)
    assert truth_of(dls) == table.truth()


def numbers_or_texts(n):
    return st.one_of(numbers(n), texts(n))


@thorough
@given(table=tables(numbers_or_texts))
def test_a_stream_comes_back(table, tmp_path_factory):
    file = tmp_path_factory.mktemp('stream') / 'ratings.parquet'
    table.df.assign(rating=table.df.rating.astype('float64')).to_parquet(file, row_group_size=3)
    dls = RecDataLoaders.from_parquet(file, stream=True, valid_pct=0, bs=4)
    assert truth_of(dls.of_users(table.users.known)) == table.truth()
    user = table.users.known[0]
    mine = {pair: rating for pair, rating in table.truth().items() if pair[0] == user}
    assert truth_of(dls.of_users([user])) == mine


def csv_ids(n):
    """Ids that a CSV file can hold: whole numbers that int64 holds, and texts that are not numbers."""
    letters = st.characters(codec='utf-8', categories=('L', 'P', 'Zs'), include_characters=',;"\t\'')
    words = texts(n, letters).filter(all_words)
    return st.one_of(numbers(n).filter(no_floats), words)


def all_words(ids):
    """Are they texts that a reader of CSV files leaves alone?"""
    return all(o.strip() == o and 'u' + o == 'u' + o.strip() and o[0].isalpha() and len(o) > 4 for o in ids.known)


def no_floats(ids):
    """Numbers that are written as integers, and read as such: beyond int64 both readers of CSV files make floats."""
    return ids.dtype not in FLOATS and max(ids.known) < 2**63


@thorough
@given(table=tables(csv_ids))
def test_a_csv_file_comes_back(table, tmp_path_factory):
    file = tmp_path_factory.mktemp('csv') / 'ratings.csv'
    table.df.to_csv(file, index=False)
    dls = RecDataLoaders.from_csv(file, sep=',', splitter=last_row_valid, bs=4)
    assert truth_of(dls) == table.truth()


@thorough
@given(table=tables(lambda n: texts(n, st.characters(codec='utf-8', categories=('L', 'P', 'N')))))
def test_texts_of_a_csv_file_stay_texts_where_that_is_said(table, tmp_path_factory):
    assume(not STR_NA_VALUES & {*table.users.known, *table.items.known})  # empty cells to any reader of CSV files
    file = tmp_path_factory.mktemp('csv') / 'ratings.csv'
    table.df.to_csv(file, index=False)
    dls = RecDataLoaders.from_csv(file, sep=',', dtype=dict(user=str, item=str), splitter=last_row_valid, bs=4)
    assert truth_of(dls) == table.truth()


# --- verbs


def other_dtypes(ids):
    """dtypes in which the same ids may come another time."""
    if isinstance(ids.known[0], int):
        fits = [o for o in (*SIGNED, *UNSIGNED, *FLOATS) if all(bounds(o)[0] <= v <= bounds(o)[1] for v in ids.known)]
        return [*fits, 'object', 'category']
    if isinstance(ids.known[0], str):
        return list(TEXTS)
    return [ids.dtype]


@thorough
@given(table=tables(), data=st.data())
def test_pairs_to_predict_come_in_any_dtype(table, data):
    dls = loaders(table.df)
    other = pd.DataFrame(
        {
            side: as_column([ids.known[p] for p in positions], data.draw(st.sampled_from(other_dtypes(ids))))
            for side, ids, positions in (
                ('user', table.users, [u for u, _ in table.pairs]),
                ('item', table.items, [i for _, i in table.pairs]),
            )
        }
    ).assign(rating=table.ratings)
    batches = list(dls.test_dl(other, with_labels=True))
    inter = dls.catalog.interactions
    for column, want in enumerate((inter.users, inter.items, inter.ratings)):
        assert torch.cat([b[column] for b in batches]).tolist() == want.tolist()
    unknown = pd.DataFrame(dict(user=[table.users.known[0]], item=[table.items.unknown[0]]))
    with pytest.raises(KeyError, match='unknown item id'):
        dls.test_dl(unknown)


@thorough
@given(table=tables(), data=st.data())
def test_titles_belong_to_their_items(table, data):
    ids = table.items
    order = data.draw(st.permutations(range(len(ids.known))))
    values = [*(ids.known[p] for p in order), *ids.unknown]
    column = pd.Series(values, dtype=object) if data.draw(st.booleans()) else pd.Series(values)
    names = [f'title of {p}' for p in order] + ['of nobody'] * len(ids.unknown)
    assume(len({*values}) == len(values))
    dls = loaders(table.df, item_df=pd.DataFrame(dict(item=column, title=names)))
    titles = dls.catalog.titles(codes_of(dls, 'item', ids.known))
    assert titles.tolist() == [f'title of {p}' for p in range(len(ids.known))]


@thorough
@given(table=tables())
def test_verbs_speak_of_the_ids_of_the_table(table):
    dls = loaders(table.df)
    learn = as_trained(collab_learner(dls, n_factors=2))
    users, items = table.users, table.items
    code = {
        side: dict(zip(ids.known, codes_of(dls, side, ids.known))) for side, ids in (('user', users), ('item', items))
    }
    recs = learn.recommend(users.known, k=9, exclude_seen=False, cold='mean')
    for user, mine in recs.groupby('user', sort=False):
        scores = [learn.predict(user, item) for item in mine.item]
        assert mine.score.tolist() == pytest.approx(scores, abs=1e-5)
    assert_same_ids(recs.user.unique(), users.known)
    truth = table.truth()
    for user in users.known:
        rows = learn.history(user)
        assert dict(zip(plain(rows.item) if not_times(items) else as_times(rows.item), rows.rating)) == {
            i: r for (u, i), r in truth.items() if u == user
        }
        want = learn.score(torch.tensor([code['user'][user]]), torch.tensor([code['item'][items.known[0]]]))
        assert learn.predict(user, items.known[0]) == pytest.approx(want.item(), abs=1e-6)
    for verb in (learn.recommend, learn.history):
        with pytest.raises(KeyError, match='unknown user id'):
            verb(users.unknown[0])
    with pytest.raises(KeyError, match='unknown item id'):
        learn.predict(users.known[0], items.unknown[0])
    known = dls.catalog.known('item')[list(code['item'].values())]
    if known.sum() > 1:
        first = items.known[int(known.argmax())]
        near = learn.similar_items(first, k=9, min_rows=0)
        assert_same_ids(near.query_item.unique(), [first])


def not_times(ids):
    return not isinstance(ids.known[0], pd.Timestamp)


@thorough
@given(table=tables(), new_users=st.data())
def test_extending_keeps_what_was_there(table, new_users):
    keep = len(table.df) - 3
    old = table.df.iloc[:keep]
    assume(len(old) > 2)
    dls = loaders(old)
    before = truth_of(dls)
    learn = collab_learner(dls, n_factors=2, y_range=False)
    held_out = dls.catalog.interactions.to_df().iloc[-1]
    new = table.df.iloc[keep:]
    learn.extend(new)
    assert truth_of(learn.dls) == table.truth()
    assert before.items() <= truth_of(learn.dls).items()
    assert len(held_out)
    for side, ids in (('user', table.users), ('item', table.items)):
        assert_same_ids(learn.vocab[side].decode(codes_of(learn.dls, side, ids.known)), ids.known)


@thorough
@given(table=tables(), n=st.integers(1, 4))
def test_folding_in_answers_for_the_ids_given(table, n):
    learn = collab_learner(loaders(table.df), n_factors=2)
    known = learn.dls.catalog.known('item')[codes_of(learn.dls, 'item', table.items.known)]
    learned = [item for item, is_known in zip(table.items.known, known) if is_known]
    assume(len(learned) > n)
    history = learn.catalog.require_history()
    ratings = history.interactions.ratings[history.split.train].tolist()  # on the scale of training
    rated = {item: ratings[k % len(ratings)] for k, item in enumerate(learned[:n])}
    folded = learn.fold_in(rated)
    history = folded.history(folded.vocab['user'].ids[0])
    got = as_times(history.item) if not not_times(table.items) else plain(history.item)
    assert dict(zip(got, history.rating)) == rated
    several = pd.DataFrame(
        dict(user=table.users.column([0] * n + [1] * n), item=[*rated, *rated], rating=[*rated.values()] * 2)
    )
    both = learn.fold_in(several)
    assert sorted(both.vocab['user'].encode(table.users.known[:2]).tolist()) == [0, 1]
    assert_same_ids(both.recommend(table.users.known[:2], k=2, exclude_seen=False).user.unique(), table.users.known[:2])


@thorough
@given(table=tables(), history=st.booleans())
def test_saved_recommenders_know_the_same_ids(table, history, tmp_path_factory):
    folder = tmp_path_factory.mktemp('saved')
    dls = loaders(table.df)
    learn = as_trained(collab_learner(dls, n_factors=2))
    save_recommender(learn, folder, history=history)
    loaded = load_recommender(folder)
    for side, ids in (('user', table.users), ('item', table.items)):
        assert loaded.vocab[side].encode(ids.known).tolist() == codes_of(dls, side, ids.known).tolist()
        assert_same_ids(loaded.vocab[side].decode(loaded.vocab[side].encode(ids.known)), ids.known)
        assert loaded.vocab[side].encode(ids.unknown, unknown='mark').tolist() == [-1] * len(ids.unknown)
        assert loaded.vocab[side] == dls.vocab[side]
    want = learn.recommend(table.users.known, k=3, exclude_seen=False)
    pd.testing.assert_frame_equal(loaded.recommend(table.users.known, k=3, exclude_seen=False), want)
    if history:
        assert truth_of(loaded) == table.truth()
