"""Vocab and Interactions.from_df: the one checked door through which ids and columns come in."""

import re
import uuid

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrec.data.interactions import Interactions, Vocab, check_y_range

quick = settings(max_examples=60, deadline=None)


def table(**columns):
    """Two users who each rated two items; `columns` replace or add (None: leave the column out)."""
    base = dict(user=[1, 1, 2, 2], item=[10, 20, 10, 20], rating=[1.0, 2.0, 3.0, 4.0])
    return pd.DataFrame({k: v for k, v in {**base, **columns}.items() if v is not None})


def from_df(kwargs=None, **columns):
    return Interactions.from_df(table(**columns), **(kwargs or {}))


def rows(inter):
    return sorted(map(tuple, inter.to_df().itertuples(index=False)))


def message(exc):
    return exc.value.args[0]


# --- Vocab

ids_strategy = st.one_of(
    st.lists(ids, min_size=1, max_size=30) for ids in (st.integers(-(2**62), 2**62), st.text(max_size=6))
)


@quick
@given(ids_strategy)
def test_factorize_gives_dense_codes_in_the_order_of_the_ids(values):
    vocab, codes = Vocab.factorize(pd.Series(values), 'user')
    assert list(vocab.ids) == sorted(set(values))
    assert codes.dtype == np.int32
    assert set(codes) == set(range(len(vocab)))
    assert list(vocab.decode(codes)) == values


@quick
@given(ids_strategy, st.randoms())
def test_encode_and_decode_undo_each_other(values, random):
    vocab, _codes = Vocab.factorize(pd.Series(values))
    asked = [random.choice(values) for _ in range(2 * len(values))]
    encoded = vocab.encode(asked)
    assert encoded.dtype == np.int64
    assert encoded.shape == (len(asked),)
    assert list(vocab.decode(encoded)) == asked
    assert list(vocab.encode(vocab.ids)) == list(range(len(vocab)))


@pytest.mark.parametrize(
    'ids',
    [
        [30, 10],
        (30, 10),
        np.array([30, 10]),
        np.array([30.0, 10.0]),
        pd.Series([30, 10], index=[7, 7]),
        pd.Index([30, 10]),
        pd.Categorical([30, 10]),
        pd.array([30, 10], dtype='Int64'),
    ],
    ids=lambda o: type(o).__name__,
)
def test_encode_takes_any_sequence_of_integers(ids):
    assert Vocab([10, 20, 30]).encode(ids).tolist() == [2, 0]


@pytest.mark.parametrize(
    'ids',
    [
        ['c', 'a'],
        np.array(['c', 'a']),
        np.array(['c', 'a'], dtype=object),
        pd.Series(['c', 'a'], dtype='string'),
        pd.Series(['c', 'a'], dtype=object),
        pd.Categorical(['c', 'a']),
    ],
    ids=lambda o: f'{type(o).__name__}-{getattr(o, "dtype", "")}',
)
def test_encode_takes_any_sequence_of_strings(ids):
    assert Vocab(['a', 'b', 'c']).encode(ids).tolist() == [2, 0]


@pytest.mark.parametrize('one', [20, np.int64(20), 20.0, np.array(20)], ids=lambda o: f'{type(o).__name__}')
def test_encode_takes_one_id(one):
    assert Vocab([10, 20, 30]).encode(one).tolist() == [1]


def test_encode_takes_one_string_whole():
    assert Vocab(['a', 'ab', 'b']).encode('ab').tolist() == [1]


def test_encode_of_nothing_is_empty():
    codes = Vocab([1, 2]).encode([])
    assert codes.shape == (0,)
    assert codes.dtype == np.int64


def test_decode_keeps_the_shape():
    assert Vocab(['a', 'b']).decode([[0, 1], [1, 1]]).tolist() == [['a', 'b'], ['b', 'b']]
    assert Vocab(['a', 'b']).decode(1) == 'b'


def test_unknown_ids_are_marked_when_asked():
    assert Vocab([10, 20]).encode([20, 5, 10, 99], unknown='mark').tolist() == [1, -1, 0, -1]
    assert Vocab([10, 20]).encode(['20'], unknown='mark').tolist() == [-1]
    with pytest.raises(ValueError, match="unknown='ignore': choose 'raise' or 'mark'"):
        Vocab([10, 20]).encode([10], unknown='ignore')


def test_unknown_ids_are_named_up_to_five():
    with pytest.raises(KeyError, match=r'unknown item ids: 1, 2, 3, 4, 5, \.\.\. \(7 of 8 looked up\)') as exc:
        Vocab([10, 20], 'item').encode([1, 2, 10, 3, 4, 5, 6, 7])
    assert '6' not in re.sub(r'\(.*', '', message(exc))
    assert 'build again from a table that has them' in message(exc)
    assert "isin(dls.vocab['item'].ids)" in message(exc)


def test_an_unknown_id_is_named_once_with_its_side():
    with pytest.raises(KeyError, match=r"unknown user id: 'x' \("):
        Vocab(['a', 'b'], 'user').encode(['x', 'a', 'x', 'b'])


def test_strings_looked_up_in_integers_are_told_to_convert():
    with pytest.raises(
        KeyError, match=r'integer user ids such as 10, 20.*these are strings: convert them with `ids.astype\(int\)`'
    ):
        Vocab([10, 20], 'user').encode(['10'])


def test_integers_looked_up_in_strings_are_told_to_convert():
    with pytest.raises(
        KeyError, match=r"string user ids such as '10', '20'.*these are integers: convert them with `ids.astype\(str\)`"
    ):
        Vocab(['10', '20'], 'user').encode([10])


def test_vocab_refuses_repeated_and_missing_ids():
    with pytest.raises(ValueError, match=r'item ids repeat: 2\. .*pass `pd.unique\(ids\)`'):
        Vocab([1, 2, 2], 'item')
    with pytest.raises(ValueError, match='user ids hold missing values'):
        Vocab(['a', None], 'user')


def test_vocab_len_contains_eq_repr():
    vocab = Vocab([3, 5], 'user')
    assert len(vocab) == 2
    assert 5 in vocab
    assert 4 not in vocab
    assert vocab == Vocab([3, 5], 'user')
    assert vocab != Vocab([3, 6], 'user')
    assert vocab != Vocab([3, 5], 'item')
    assert repr(vocab) == 'Vocab(2 users: 3, 5)'


# --- which column is what


@pytest.mark.parametrize(
    'user, item, rating, time',
    [
        ('user', 'item', 'rating', 'time'),
        ('user_id', 'item_id', 'rating', 'timestamp'),
        ('userId', 'movieId', 'rating', 'timestamp'),
        ('User-ID', 'ISBN', 'Book-Rating', 'date'),
        ('customer_id', 'product_id', 'stars', 'ts'),
        ('reviewerID', 'asin', 'score', 'unixReviewTime'),
    ],
)
def test_columns_are_found_by_name_in_any_order(user, item, rating, time):
    df = pd.DataFrame({'extra': [0, 0], time: [5, 6], rating: [1.0, 2.0], item: [10, 20], user: [1, 2]})
    inter = Interactions.from_df(df)
    assert inter.names == dict(user=user, item=item, rating=rating, time=time)
    assert rows(inter) == [(1, 10, 1.0, 5), (2, 20, 2.0, 6)]


def test_columns_are_found_by_position_where_no_name_is_known():
    inter = Interactions.from_df(pd.DataFrame(dict(a=[1, 2], b=[10, 20], c=[1.0, 2.0], d=[5, 6], e=[7, 8])))
    assert inter.names == dict(user='a', item='b', rating='c', time='d')
    assert rows(inter) == [(1, 10, 1.0, 5), (2, 20, 2.0, 6)]


def test_position_skips_the_columns_known_by_name():
    inter = Interactions.from_df(pd.DataFrame(dict(timestamp=[5, 6], a=[1, 2], rating=[1.0, 2.0], b=[10, 20])))
    assert inter.names == dict(user='a', item='b', rating='rating', time='timestamp')


def test_columns_of_a_table_without_header_are_found():
    inter = Interactions.from_df(pd.DataFrame([[1, 10, 3, 5], [2, 20, 4, 6]]))
    assert inter.names == dict(user=0, item=1, rating=2, time=3)
    inter = Interactions.from_df(pd.DataFrame([[1, 10, 3], [2, 20, 4]]), time_name=False)
    assert inter.names == dict(user=0, item=1, rating=2, time=None)


def test_two_columns_are_enough():
    inter = Interactions.from_df(pd.DataFrame(dict(a=[1, 2], b=[10, 20])))
    assert inter.ratings is None
    assert inter.times is None
    assert rows(inter) == [(1, 10), (2, 20)]


def test_given_names_win_over_known_ones():
    df = pd.DataFrame(
        dict(
            user=[1, 1],
            who=[7, 8],
            item=[3, 3],
            what=[10, 20],
            rating=[1.0, 1.0],
            score2=[4.0, 5.0],
            time=[0, 0],
            moment=[5, 6],
        )
    )
    inter = Interactions.from_df(df, user_name='who', item_name='what', rating_name='score2', time_name='moment')
    assert rows(inter) == [(7, 10, 4.0, 5), (8, 20, 5.0, 6)]


def test_the_first_of_two_columns_of_one_known_name_is_taken():
    inter = Interactions.from_df(pd.DataFrame(dict(userId=[1, 2], user_id=[1, 1], item=[10, 20])))
    assert inter.names['user'] == 'userId'


# --- what is kept


def test_codes_are_int32_and_ratings_float32():
    inter = from_df(rating=[1, 2, 3, 4], time=[5, 6, 7, 8])
    assert inter.users.dtype == np.int32
    assert inter.items.dtype == np.int32
    assert inter.ratings.dtype == np.float32
    assert inter.users.tolist() == [0, 0, 1, 1]
    assert inter.items.tolist() == [0, 1, 0, 1]
    assert inter.times.tolist() == [5, 6, 7, 8]
    assert (len(inter), inter.n_users, inter.n_items, inter.rows) == (4, 2, 2, None)
    assert repr(inter) == 'Interactions(4 rows, 2 users, 2 items, ratings 1 to 4)'


def test_counts():
    inter = from_df(item=[10, 20, 10, 30])
    assert inter.counts('user').tolist() == [2, 2]
    assert inter.counts('item').tolist() == [2, 1, 1]
    assert inter.counts('item', [0, 2]).tolist() == [2, 0, 0]


def test_to_df_of_some_rows():
    assert from_df(time=[5, 6, 7, 8]).to_df([2, 0]).values.tolist() == [[2, 10, 3.0, 7], [1, 10, 1.0, 5]]


@pytest.mark.parametrize('dtype', ['int32', 'uint8', 'float64', 'Int64', 'Float64', 'category'])
def test_integer_ids_in_any_dtype_come_back_as_integers(dtype):
    inter = from_df(user=pd.Series([2, 2, 1, 1]).astype(dtype))
    assert inter.vocab['user'].ids.tolist() == [1, 2]
    assert pd.api.types.is_integer_dtype(inter.vocab['user'].ids.dtype)
    assert inter.users.tolist() == [1, 1, 0, 0]
    assert inter.vocab['user'].encode([2]).tolist() == [1]


def test_whole_floats_as_objects_are_integers():
    assert from_df(user=pd.Series([2.0, 2.0, 1.0, 1.0], dtype=object)).vocab['user'].ids.tolist() == [1, 2]


@pytest.mark.parametrize('dtype', [object, 'str', 'string', 'category'])
def test_string_ids_in_any_dtype(dtype):
    inter = from_df(user=pd.Series(['b', 'b', 'a', 'a']).astype(dtype))
    assert inter.vocab['user'].ids.tolist() == ['a', 'b']
    assert inter.users.tolist() == [1, 1, 0, 0]
    assert inter.to_df().user.tolist() == ['b', 'b', 'a', 'a']


def test_category_order_and_unused_categories_do_not_matter():
    inter = from_df(user=pd.Categorical(['b', 'b', 'a', 'a'], categories=['z', 'b', 'a'], ordered=True))
    assert inter.vocab['user'].ids.tolist() == ['a', 'b']
    assert inter.users.tolist() == [1, 1, 0, 0]


def test_the_source_table_is_unchanged():
    df = table(user=pd.Categorical(['b', 'b', 'a', 'a']), item=[10.0, 10.0, 20.0, 20.0], time=[8, 7, 6, 5])
    df = df.sample(frac=1, random_state=0)
    before = df.copy(deep=True)
    Interactions.from_df(df, duplicates='mean')
    pd.testing.assert_frame_equal(df, before)


def test_changing_the_table_later_changes_nothing():
    df = table(rating=np.array([1, 2, 3, 4], dtype='float32'), time=[5, 6, 7, 8])
    inter = Interactions.from_df(df)
    df.loc[0, 'rating'] = 9.0
    df.loc[0, 'time'] = 9
    assert inter.ratings.tolist() == [1, 2, 3, 4]
    assert inter.times.tolist() == [5, 6, 7, 8]


def test_datetimes_are_kept_and_time_zones_become_utc():
    moments = pd.to_datetime(['2020-01-01', '2020-01-02', '2020-01-03', '2020-01-04'])
    assert (from_df(time=moments).times == moments.to_numpy()).all()
    assert from_df(time=moments.tz_localize('Europe/Rome')).times[0] == np.datetime64('2019-12-31T23:00')


def test_given_vocabs_are_used():
    known = from_df(item=[10, 20, 10, 30]).vocab
    inter = Interactions.from_df(table()[1:3], user_vocab=known['user'], item_vocab=known['item'])
    assert inter.vocab['item'] is known['item']
    assert inter.n_items == 3
    assert inter.users.tolist() == [0, 1]
    assert inter.items.tolist() == [1, 0]
    assert inter.items.dtype == np.int32
    with pytest.raises(KeyError, match='unknown item id: 77'):
        Interactions.from_df(table(item=[10, 20, 10, 77]), item_vocab=known['item'])


cells = st.tuples(
    st.integers(0, 6), st.sampled_from(['a', 'b', 'Ü', 'zz', '']), st.floats(-100, 100, width=32), st.integers(0, 2**40)
)


def has_two_of_each_side(rows):
    return len({r[0] for r in rows}) > 1 and len({r[1] for r in rows}) > 1


random_rows = st.lists(cells, min_size=2, max_size=25).filter(has_two_of_each_side)


def frame(o):
    return pd.DataFrame(o, columns=['user', 'item', 'rating', 'time'])


@quick
@given(random_rows, st.randoms())
def test_from_df_to_df_gives_back_the_rows(data, random):
    df = frame(data)
    df.index = random.sample(range(100), len(df))
    inter = Interactions.from_df(df, duplicates='keep')
    assert list(map(tuple, inter.to_df().itertuples(index=False))) == data
    assert set(inter.users) == set(range(inter.n_users))
    assert set(inter.items) == set(range(inter.n_items))


# --- repeated pairs


def merged_slowly(df, policy, by_time):
    """One row per pair by pandas: {(user, item): rating}"""
    df = df.sort_values('time', kind='stable') if by_time else df
    return getattr(df.assign(rating=df.rating.astype('float64')).groupby(['user', 'item']).rating, policy)().to_dict()


@quick
@given(random_rows, st.sampled_from(['first', 'last', 'mean']), st.booleans(), st.integers(1, 4))
def test_duplicates_against_pandas(data, policy, by_time, n_times):
    df = frame(data)
    df['time'] %= n_times  # so that times tie
    if not by_time:
        df = df.drop(columns='time')
    inter = Interactions.from_df(df, duplicates=policy)
    expect = merged_slowly(df, policy, by_time)
    got = {(u, i): r for u, i, r in inter.to_df()[['user', 'item', 'rating']].itertuples(index=False)}
    assert len(inter) == len(expect)
    assert got.keys() == expect.keys()
    assert all(got[k] == pytest.approx(expect[k], rel=1e-6, abs=1e-4) for k in expect)
    kept = np.arange(len(df)) if inter.rows is None else inter.rows
    assert (np.diff(kept) > 0).all()  # in the order of the table
    assert list(zip(df.user.iloc[kept], df.item.iloc[kept])) == list(zip(*(inter.to_df()[c] for c in ('user', 'item'))))
    if by_time:
        assert inter.times.tolist() == df.time.iloc[kept].tolist()
    if policy != 'mean':
        assert inter.ratings.tolist() == df.rating.astype('float32').iloc[kept].tolist()


@quick
@given(random_rows, st.sampled_from(['first', 'last', 'mean']), st.randoms())
def test_the_order_of_rows_does_not_matter_where_times_differ(data, policy, random):
    df = frame(data).assign(time=random.sample(range(1000), len(data)))
    a, b = (
        Interactions.from_df(o, duplicates=policy) for o in (df, df.sample(frac=1, random_state=random.randrange(1000)))
    )
    assert a.vocab == b.vocab
    a, b = (o.to_df().sort_values(['user', 'item'], ignore_index=True) for o in (a, b))
    pd.testing.assert_frame_equal(a, b, rtol=1e-5, atol=1e-4)


def test_the_mean_keeps_the_last_row_and_its_time():
    inter = Interactions.from_df(
        pd.DataFrame(dict(user=[1, 2, 1], item=[10, 20, 10], rating=[5, 3, 2], time=[9, 8, 7])), duplicates='mean'
    )
    assert inter.rows.tolist() == [0, 1]
    assert inter.ratings.tolist() == [3.5, 3.0]
    assert inter.times.tolist() == [9, 8]


def test_keep_keeps_repeated_pairs():
    assert len(from_df(dict(duplicates='keep'), item=[10, 10, 10, 20])) == 4


def test_rows_is_none_where_nothing_repeats():
    assert from_df(dict(duplicates='last')).rows is None


def test_a_repeated_pair_is_an_error_that_offers_the_policies():
    with pytest.raises(
        ValueError, match=r"1 rows? repeats? a user-item pair, e.g. \(1, 10\).*duplicates='last', 'first' or 'mean'"
    ):
        from_df(item=[10, 10, 10, 20])
    with pytest.raises(ValueError, match=r"2 rows repeat a user-item pair, e.g. \('a', 'x'\), \('a', 'x'\)\. "):
        from_df(user=list('aaab'), item=list('xxxy'))


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="duplicates='median': choose one of 'error', 'last', 'first', 'mean'"):
        from_df(dict(duplicates='median'))


# --- bad tables


def test_not_a_table():
    with pytest.raises(TypeError, match='expected a DataFrame with one row per interaction, got list'):
        Interactions.from_df([(1, 2)])


def test_an_empty_table():
    with pytest.raises(ValueError, match='the table is empty: it needs one row per interaction'):
        Interactions.from_df(table()[:0])


@pytest.mark.parametrize('role', ['user', 'item', 'rating', 'time'])
def test_a_given_column_that_is_not_there(role):
    with pytest.raises(
        ValueError, match=rf"no column 'usr' \({role}_name\) in the table. Its columns are: 'user', 'item', 'rating'"
    ):
        from_df({f'{role}_name': 'usr'})


def test_missing_columns():
    with pytest.raises(ValueError, match="need at least a user and an item column, got: 'a'"):
        Interactions.from_df(pd.DataFrame(dict(a=[1, 2])))
    with pytest.raises(ValueError, match="need at least a user and an item column, got: 'a', 'rating'"):
        Interactions.from_df(pd.DataFrame(dict(a=[1], rating=[2])))


def test_the_only_other_id_is_the_item():
    df = table().rename(columns=dict(item='joke_id'))
    assert Interactions.from_df(df).names['item'] == 'joke_id'
    with pytest.raises(ValueError, match='which column holds the items'):
        Interactions.from_df(df.assign(session_id=1))


def test_ids_of_a_type_of_their_own():
    df = table()
    df['user'] = [uuid.UUID(int=i) for i in range(len(df))]
    with pytest.raises(ValueError, match=r"column 'user' holds UUID objects such as UUID\('0.*astype\(str\)"):
        Interactions.from_df(df)


@pytest.mark.parametrize('role', ['user', 'item'])
def test_one_side_found_and_not_the_other(role):
    with pytest.raises(ValueError, match=rf"which column holds the {role}s\? Pass {role}_name=, one of: .*'thing'"):
        Interactions.from_df(table().rename(columns={role: 'thing'}))


def test_a_column_in_two_roles():
    with pytest.raises(ValueError, match="column 'user' is asked to play two roles"):
        from_df(dict(user_name='user', item_name='user'))


def test_two_columns_of_the_same_name():
    with pytest.raises(ValueError, match="'user'"):
        Interactions.from_df(pd.DataFrame([[1, 1, 2], [2, 2, 3]], columns=['user', 'user', 'item']))


@pytest.mark.parametrize('side', ['user', 'item'])
@pytest.mark.parametrize(
    'column',
    [
        [1.0, np.nan, 2.0, 2.0],
        ['a', None, 'b', 'b'],
        pd.Categorical(['a', None, 'b', 'b']),
        pd.array([1, None, 2, 2], dtype='Int64'),
    ],
    ids=['float', 'str', 'category', 'Int64'],
)
def test_missing_ids(side, column):
    with pytest.raises(
        ValueError,
        match=rf"1 of 4 rows have no {side} id \(column '{side}'\). Drop them with "
        rf"`df.dropna\(subset=\['{side}'\]\)`",
    ):
        from_df(**{side: column})


@pytest.mark.parametrize('side', ['user', 'item'])
@pytest.mark.parametrize('column', [[1, '1', 2, 2], pd.Categorical([1, '1', 2, 2])], ids=['object', 'category'])
def test_ids_of_mixed_types(side, column):
    with pytest.raises(
        ValueError,
        match=rf"column '{side}' mixes types \(int such as 1, str such as '1'\), so 1 and '1' would be two "
        rf'{side}s.*astype\(str\)`',
    ):
        from_df(**{side: column})


def test_ids_of_mixed_types_are_found_whatever_the_index():
    df = table(user=[1, '1', 2, 2])
    df.index = [5, 5, 5, 5]
    with pytest.raises(ValueError, match="column 'user' mixes types"):
        Interactions.from_df(df)


@pytest.mark.parametrize('dtype', ['float64', object])
def test_fractions_are_no_ids(dtype):
    with pytest.raises(
        ValueError, match=r"column 'item' holds fractions such as 4.5, 3.5, which are not item ids. .*Pass item_name="
    ):
        from_df(item=pd.Series([1.0, 4.5, 3.5, 2.0]).astype(dtype))


def test_infinite_ids():
    with pytest.raises(ValueError, match="column 'user'"):
        from_df(user=[1, np.inf, 2, 2])


@pytest.mark.parametrize('side, other', [('user', 'item'), ('item', 'user')])
@pytest.mark.parametrize('one', [7, 'seven'])
def test_a_single_user_or_item(side, other, one):
    with pytest.raises(
        ValueError, match=rf"the table has a single {side} \({one!r}, column '{side}'\).*Is {side}_name right\?"
    ):
        from_df(**{side: [one] * 4, other: [1, 2, 3, 4]})


def test_ratings_that_are_words():
    with pytest.raises(
        ValueError,
        match=r"ratings in column 'rating' are not numbers .*; not a number: 'good', 'bad'\. .*pd.to_numeric",
    ):
        from_df(rating=['1', 'good', 'bad', 'bad'])


def test_ratings_that_are_numbers_as_text():
    with pytest.raises(
        ValueError,
        match=r"ratings in column 'rating' are not numbers \(dtype \w+\)\. Convert them: `df\['rating'\] "
        r'= pd.to_numeric',
    ):
        from_df(rating=list('1234'))


@pytest.mark.parametrize(
    'column',
    [
        [1, np.nan, np.inf, 4],
        pd.array([1, None, None, 4], dtype='Int64'),
        pd.array([1, None, None, 4], dtype='Float32'),
    ],
    ids=['float64', 'Int64', 'Float32'],
)
def test_missing_ratings(column):
    with pytest.raises(
        ValueError,
        match=r"2 of 4 ratings in column 'rating' are missing or infinite. Drop those rows.*target='implicit'",
    ):
        from_df(rating=column)


def test_the_advice_for_missing_ratings_works():
    df = pd.concat([table(), table()[:1].assign(user=3, rating=np.nan)])
    assert len(Interactions.from_df(df[np.isfinite(df['rating'])])) == 4


def test_a_timestamp_as_the_rating():
    with pytest.raises(
        ValueError,
        match=r"column 'rating' looks like a timestamp \(values from 8\d+ to 8\d+\), not a rating. Pass "
        r"rating_name=, one of: 'user'.*target='implicit'",
    ):
        from_df(rating=[881250949, 881250950, 891717742, 891717743])
    with pytest.raises(ValueError, match="column 'c' looks like a timestamp"):
        Interactions.from_df(pd.DataFrame(dict(a=[1, 2], b=[1, 2], c=[881250949, 881250950])))


def test_dates_as_the_rating():
    with pytest.raises(
        ValueError, match=r"column 'rating' holds dates, not ratings. Pass rating_name= \(and time_name='rating'\)"
    ):
        from_df(rating=pd.to_datetime(['2020-01-01'] * 4))


def test_ratings_outside_y_range():
    with pytest.raises(
        ValueError, match=r"ratings in 'rating' run from 1 to 4, outside y_range=\(1, 3\).*y_range=\(0.5, 4.5\)"
    ):
        from_df(dict(y_range=(1, 3)))
    with pytest.raises(ValueError, match=r'outside y_range=\(2, 5\)'):
        from_df(dict(y_range=(2, 5)))
    assert len(from_df(dict(y_range=(1, 4)))) == 4


def test_a_y_range_that_is_none():
    with pytest.raises(ValueError, match=r'y_range=\(5, 1\): give two numbers \(low, high\) with low < high'):
        from_df(dict(y_range=(5, 1)))
    with pytest.raises(ValueError, match=r'give two numbers \(low, high\)'):
        check_y_range(1, 5, (1, 2, 3))


def test_times_that_are_words_or_missing():
    with pytest.raises(
        ValueError,
        match=r"times in column 'time' are neither numbers nor datetimes .*`df\['time'\] = "
        r"pd.to_datetime\(df\['time'\]\)`",
    ):
        Interactions.from_df(
            pd.DataFrame(dict(user=[1, 1, 2, 2], item=[1, 2, 1, 2], rating=1.0, time=list('abcd'))), time_name='time'
        )
    with pytest.raises(
        ValueError, match=r"1 of 4 rows have no time \(column 'time'\). Drop them with `df.dropna\(subset=\['time'\]\)`"
    ):
        Interactions.from_df(
            pd.DataFrame(dict(user=[1, 1, 2, 2], item=[1, 2, 1, 2], rating=1.0, time=[1, 2, None, 4])), time_name='time'
        )


def test_arrays_of_different_lengths():
    vocab = dict(user=Vocab([1, 2], 'user'), item=Vocab([1, 2]))
    with pytest.raises(ValueError, match='ratings has 1 rows, users has 2'):
        Interactions(np.array([0, 1]), np.array([0, 1]), np.array([1.0]), None, vocab)


def test_a_time_column_that_nobody_asked_for_stops_nothing():
    from fastrec.data.splits import LeaveLastSplitter

    df = pd.DataFrame(
        dict(user=[1, 1, 2, 2], item=[1, 2, 1, 2], rating=1.0, time=['2020-01-01', '2020-01-02', 'soon', ''])
    )
    inter = Interactions.from_df(df)
    assert inter.times is None
    assert inter.names['time'] is None
    with pytest.raises(ValueError, match=r'neither numbers nor datetimes.*to_datetime'):
        LeaveLastSplitter(1)(inter)
    assert Interactions.from_df(df.assign(time=1), time_name=False).times is None


def test_ids_come_before_names_and_roles_by_position_in_order():
    df = pd.DataFrame(
        dict(
            user=['Ann', 'Ann', 'Bob'],
            user_id=[7, 8, 9],
            product=['x', 'x', 'y'],
            product_id=[1, 1, 2],
            rating=[1.0, 2.0, 3.0],
        )
    )
    inter = Interactions.from_df(df)
    assert (inter.names['user'], inter.names['item']) == ('user_id', 'product_id')
    table = pd.DataFrame(
        dict(buyer=[1, 1, 2], sku=[1, 2, 1], stars=[1.0, 2.0, 3.0], moment=[1, 2, 3], comment=list('abc'))
    )
    assert Interactions.from_df(table).names == dict(user='buyer', item='sku', rating='stars', time='moment')


@pytest.mark.parametrize('ids', [[-5, -1, 0, 7], [0, 7, 2**63, 2**64 - 1]])
def test_numbers_that_no_column_can_hold_together_are_looked_up_each(ids):
    vocab = Vocab(ids, 'item')
    asked = [-5, 7, 2**64 - 1, -1, 2**63, 0, 2**64, -(2**63) - 1]
    want = [ids.index(o) if o in ids else -1 for o in asked]
    for form in (asked, asked[:6], pd.Series(asked), np.array(asked, dtype=object), pd.Index(asked[:6])):
        assert vocab.encode(form, unknown='mark').tolist() == want[: len(form)]
