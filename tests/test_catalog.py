"""Catalog: metadata in the order of the codes, titles and searching, candidates, and who has seen what."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrec.data.catalog import Catalog
from fastrec.data.history import History
from fastrec.data.interactions import Interactions, Vocab
from fastrec.data.splits import Split, make_split

RATINGS = pd.DataFrame(
    [
        ('ann', 10, 4.0, 5),
        ('ann', 20, 2.0, 6),
        ('bob', 10, 5.0, 7),
        ('bob', 30, 3.0, 8),
        ('ann', 30, 4.0, 9),
        ('cyd', 40, 1.0, 1),
        ('ann', 40, 3.0, 2),
    ],
    columns=['user', 'item', 'rating', 'time'],
)
MOVIES = pd.DataFrame(
    [
        (40, 'Dust (1990)', 1990, None),
        (20, 'Blue Moon (1960)', 1960, 'Drama'),
        (30, 'Blue Moon Rising (1999)', 1999, 'Comedy|Drama'),
        (99, 'Not Rated (2000)', 2000, 'Comedy'),
        (10, 'Zebra (1970)', 1970, 'Comedy'),
    ],
    columns=['item', 'title', 'year', 'genres'],
)
USERS = pd.DataFrame(dict(user=['cyd', 'ann', 'bob'], age=[30, 40, 50]))
SPLIT = ([0, 1, 2, 3], [4, 5], [6])  # cyd and item 40 have no training row


def catalog(item_df=MOVIES, ratings=RATINGS, split=SPLIT, duplicates='error', item_name=None, **kwargs):
    inter = Interactions.from_df(ratings, item_name=item_name, duplicates=duplicates)
    return Catalog(History(inter, make_split(inter, split)), item_df=item_df, **kwargs)


def message(exc):
    return exc.value.args[0]


# --- metadata


def test_metadata_is_put_in_the_order_of_the_codes():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        cat = catalog(user_df=USERS)
    assert cat.vocab['item'].ids.tolist() == [10, 20, 30, 40]
    assert cat.item_df.index.tolist() == [0, 1, 2, 3]
    assert cat.item_df.title.tolist() == ['Zebra (1970)', 'Blue Moon (1960)', 'Blue Moon Rising (1999)', 'Dust (1990)']
    assert cat.item_df.year.tolist() == [1970, 1960, 1999, 1990]
    assert cat.user_df.age.tolist() == [40, 50, 30]


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(5)), st.randoms())
def test_metadata_order_does_not_matter(order, random):
    df = MOVIES.iloc[order]
    df.index = random.sample(range(100), 5)
    pd.testing.assert_frame_equal(catalog(df).item_df, catalog().item_df)


def test_the_given_tables_are_unchanged():
    items = MOVIES.copy(deep=True)
    users = USERS.copy(deep=True)
    catalog(items, user_df=users)
    pd.testing.assert_frame_equal(items, MOVIES)
    pd.testing.assert_frame_equal(users, USERS)


@pytest.mark.parametrize('name', ['item', 'item_id', 'itemId', 'movie', 'movieid', 'movieId', 'Movie_ID'])
def test_the_id_column_of_metadata_is_found(name):
    assert catalog(MOVIES.rename(columns=dict(item=name))).titles([0]).tolist() == ['Zebra (1970)']


def test_the_id_column_is_called_as_in_the_ratings():
    ratings = RATINGS.set_axis(['customer', 'sku', 'rating', 'time'], axis=1)
    cat = catalog(MOVIES.rename(columns=dict(item='sku')).assign(movie=0), ratings, item_name='sku')
    assert cat.names['item'] == 'sku'
    assert cat.titles([0]).tolist() == ['Zebra (1970)']


def test_ids_in_a_named_index_of_metadata():
    assert catalog(MOVIES.set_index('item')).titles([0, 3]).tolist() == ['Zebra (1970)', 'Dust (1990)']


def test_items_without_metadata_are_warned_of_and_counted():
    with pytest.warns(UserWarning, match='2 of 4 items have no row in item_df; their metadata is missing'):
        cat = catalog(MOVIES[MOVIES.item.isin([20, 40])])
    assert cat.item_df.title.isna().tolist() == [True, False, True, False]
    assert cat.item_df.year[1] == 1960
    assert cat.titles(range(4)).tolist() == ['10', 'Blue Moon (1960)', '30', 'Dust (1990)']
    with pytest.warns(UserWarning, match='1 of 3 users have no row in user_df'):
        catalog(user_df=USERS[1:])


def test_repeated_rows_of_metadata():
    with pytest.raises(
        ValueError,
        match=r'item_df has several rows for the same item: 20, 40\. Keep one each: '
        r"`item_df.drop_duplicates\('item'\)`",
    ):
        catalog(pd.concat([MOVIES, MOVIES[:2]]).sort_values('item'))
    with pytest.raises(ValueError, match="user_df has several rows for the same user: 'ann'"):
        catalog(user_df=pd.concat([USERS, USERS[1:2]]))


def test_metadata_without_ids():
    with pytest.raises(
        ValueError, match=r"item_df has no id column: expected 'item' .*, got 'title', 'year', 'genres'"
    ):
        catalog(MOVIES.drop(columns='item'))


def test_metadata_of_something_else():
    with pytest.raises(
        ValueError,
        match=r"no item of item_df is in the ratings: ids there look like '40', '20', '30', .*, in the "
        r'ratings like 10, 20, 30',
    ):
        catalog(MOVIES.assign(item=MOVIES.item.astype(str)))


def test_a_title_column_by_name():
    assert catalog(title_name='genres').titles([0, 3]).tolist() == ['Comedy', '40']
    with pytest.raises(ValueError, match=r"no column 'nope' \(title_name\) in item_df"):
        catalog(title_name='nope')
    with pytest.raises(ValueError, match=r"no column 'title' \(title_name\) in item_df"):
        catalog(None, title_name='title')
    assert catalog(MOVIES.rename(columns=dict(title='name'))).titles([1]).tolist() == ['Blue Moon (1960)']


# --- titles and searching


def test_titles():
    assert catalog().titles([3, 0, 3]).tolist() == ['Dust (1990)', 'Zebra (1970)', 'Dust (1990)']
    assert catalog(None).titles([3, 0]).tolist() == ['40', '10']


@pytest.mark.parametrize(
    'query, code',
    [(20, 1), ('Blue Moon (1960)', 1), ('blue moon rising (1999)', 2), ('zebra', 0), ('Rising', 2), ('(1990)', 3)],
)
def test_find_by_id_title_or_part(query, code):
    found = catalog().find(query)
    assert found == code
    assert isinstance(found, int)


def test_find_prefers_the_whole_title_and_the_exact_case():
    cat = catalog(MOVIES.assign(title=['Moon', 'Blue', 'Blue Moon', 'x', 'moon']))
    assert cat.find('Blue') == 1
    assert cat.find('Moon') == 3
    assert cat.find('moon') == 0
    assert cat.find('BLUE') == 1


def test_find_user():
    assert catalog().find('bob', 'user') == 1
    with pytest.raises(KeyError, match="unknown user id: 'bo'"):
        catalog().find('bo', 'user')


def test_an_id_comes_before_a_title():
    ratings = RATINGS.assign(item=RATINGS.item.astype(str))
    cat = catalog(MOVIES.assign(item=MOVIES.item.astype(str), title=['10', 'a', 'b', 'c', 'd']), ratings)
    assert cat.find('10') == 0
    assert cat.find('a') == 1


def test_an_ambiguous_part_lists_ids_and_titles_the_best_known_first():
    with pytest.raises(KeyError) as exc:
        catalog(split=([0, 2, 3, 4], [1, 5])).find('blue')
    assert (
        message(exc)
        == "2 items match 'blue': 30: Blue Moon Rising (1999); 20: Blue Moon (1960). Pass the id or the whole title "
        'of one'
    )


def test_an_ambiguous_title_lists_ids():
    with pytest.raises(KeyError) as exc:
        catalog(MOVIES.assign(title='Same')).find('Same')
    assert message(exc).startswith("4 items match 'Same': 10: Same; ")
    assert all(f'{i}: Same' in message(exc) for i in (20, 30, 40))


def test_many_matches_are_cut_to_five():
    n = 8
    ratings = pd.DataFrame(dict(user=[0, 1] * n, item=np.repeat(np.arange(n), 2), rating=3.0))
    cat = catalog(
        pd.DataFrame(dict(item=range(n), title=[f'part {i}' for i in range(n)])),
        ratings,
        split=(range(n), range(n, 2 * n)),
    )
    with pytest.raises(KeyError, match=r"8 items match 'part': .*; \.\.\.") as exc:
        cat.find('part')
    assert message(exc).count(': part') == 5


def test_nothing_found():
    with pytest.raises(KeyError, match="no item has the id 'walrus', or a title with 'walrus' in it"):
        catalog().find('walrus')
    with pytest.raises(KeyError, match='unknown item id: 77'):
        catalog().find(77)
    with pytest.raises(KeyError, match="unknown item id: 'zebra'"):
        catalog(None).find('zebra')


@pytest.mark.parametrize('query', ['(', '[a', '.*', '\\'])
def test_a_query_is_no_regular_expression(query):
    cat = catalog(MOVIES.assign(title=['( [a .* \\', 'b', 'c', 'd', 'e']))
    assert cat.find(query) == 3


def test_a_missing_title_is_never_found():
    cat = catalog(MOVIES.assign(title=[None, 'Banana', 'b', 'c', 'd']))
    assert cat.find('nan') == 1
    with pytest.raises(KeyError, match="no item has the id 'none'"):
        cat.find('none')


def test_find_all():
    assert catalog().find_all([30, 10]).tolist() == [2, 0]
    assert catalog().find_all(['Zebra (1970)', 'Rising']).tolist() == [0, 2]
    assert catalog().find_all('zebra').tolist() == [0]
    assert catalog().find_all(20).tolist() == [1]
    assert catalog().find_all([20, 'Rising']).tolist() == [1, 2]
    assert catalog().find_all(['cyd', 'ann'], 'user').tolist() == [2, 0]


# --- candidates


@pytest.mark.parametrize(
    'candidates, codes',
    [
        ([30, 10, 30], [0, 2]),
        (np.array([40]), [3]),
        (pd.Series([20, 10]), [0, 1]),
        ('year >= 1970', [0, 2, 3]),
        ("genres == 'Drama'", [1]),
        ("genres.str.contains('Comedy')", [0, 2]),
        ('year > 1960 and year < 1999', [0, 3]),
        (lambda df: df.year < 1970, [1]),
        (lambda df: (df.year < 1970).to_numpy(), [1]),
        (lambda df: df.genres.str.contains('Drama'), [1, 2]),
    ],
)
def test_candidates(candidates, codes):
    found = catalog().candidates(candidates)
    assert found.tolist() == codes
    assert found.dtype == np.int64


def test_all_items_are_candidates_by_default():
    assert catalog().candidates(None) is None


def test_missing_metadata_is_no_candidate():
    with pytest.warns(UserWarning, match='1 of 4 items'):
        cat = catalog(MOVIES.assign(year=MOVIES.year.astype('Int64'))[:4])
    assert cat.candidates('year > 1900').tolist() == [1, 2, 3]
    assert cat.candidates(lambda df: df.year > 1900).tolist() == [1, 2, 3]


def test_a_mask_in_another_order_is_aligned():
    assert catalog().candidates(lambda df: df.sort_values('year').year < 1970).tolist() == [1]


@pytest.mark.parametrize('candidates', ['year > 2100', [], lambda df: df.year > 2100], ids=['text', 'ids', 'function'])
def test_no_candidate_left(candidates):
    with pytest.raises(ValueError, match=r'no item is left: .*none of the 4 items'):
        catalog().candidates(candidates)


def test_bad_candidates():
    with pytest.raises(KeyError, match='unknown item id: 99'):
        catalog().candidates([10, 99])
    with pytest.raises(ValueError, match='the condition gave 2 values for 4 items'):
        catalog().candidates(lambda df: df.year.to_numpy()[:2] > 0)
    with pytest.raises(ValueError, match='candidates by a condition need item_df='):
        catalog(None).candidates('year > 1')
    with pytest.raises(ValueError, match='candidates by a condition need item_df='):
        catalog(None).candidates(lambda df: df.year > 1)


# --- history


def test_counts_and_known_speak_of_training_rows():
    cat = catalog()
    assert cat.counts['user'].tolist() == [2, 2, 0]
    assert cat.counts['item'].tolist() == [2, 1, 1, 0]
    assert cat.known('user').tolist() == [True, True, False]
    assert cat.known('item').tolist() == [True, True, True, False]
    assert cat.mean_rating == 3.5
    assert (cat.n_users, cat.n_items) == (3, 4)
    assert repr(cat) == 'Catalog(3 users, 4 items)'


def test_seen_holds_the_training_ratings():
    seen = catalog().history.seen
    assert seen.format == 'csr'
    assert seen.shape == (3, 4)
    assert seen.dtype == np.float32
    assert seen.toarray().tolist() == [[4, 2, 0, 0], [5, 0, 3, 0], [0, 0, 0, 0]]


def test_seen_without_ratings_counts_rows():
    cat = catalog(
        ratings=pd.concat([RATINGS, RATINGS[:1]])[['user', 'item']],
        split=([0, 1, 2, 7], [3, 4, 5, 6]),
        duplicates='keep',
    )
    assert cat.history.seen.toarray().tolist() == [[2, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert cat.mean_rating is None


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_seen_against_a_slow_one(data):
    pair = st.tuples(st.integers(0, 3), st.integers(0, 3))
    pairs = data.draw(
        st.lists(pair, min_size=4, max_size=16, unique=True).filter(lambda o: all(len(set(s)) > 1 for s in zip(*o)))
    )
    df = pd.DataFrame(pairs, columns=['user', 'item']).assign(rating=np.arange(len(pairs)) + 1.0)
    n_train = data.draw(st.integers(1, len(pairs) - 1))
    train = data.draw(st.permutations(range(len(pairs))))[:n_train]
    cat = catalog(None, df, (train, [i for i in range(len(pairs)) if i not in train]))
    expect = np.zeros((cat.n_users, cat.n_items))
    for i in train:
        expect[sorted(set(df.user)).index(df.user[i]), sorted(set(df.item)).index(df.item[i])] = df.rating[i]
    np.testing.assert_array_equal(cat.history.seen.toarray(), expect)


def test_a_rating_of_zero_is_seen():
    cat = catalog(None, RATINGS.assign(rating=[0.0, 2, 5, 3, 4, 1, 3]))
    assert cat.history.seen[0].indices.tolist() == [0, 1]


def test_history_is_best_rated_first_then_latest():
    df = catalog().history_of('ann')
    assert df.columns.tolist() == ['user', 'item', 'title', 'rating', 'time', 'part']
    assert df.values.tolist() == [
        ['ann', 30, 'Blue Moon Rising (1999)', 4.0, 9, 'valid'],
        ['ann', 10, 'Zebra (1970)', 4.0, 5, 'train'],
        ['ann', 40, 'Dust (1990)', 3.0, 2, 'test'],
        ['ann', 20, 'Blue Moon (1960)', 2.0, 6, 'train'],
    ]
    assert df.index.tolist() == [0, 1, 2, 3]


def test_history_without_ratings_is_latest_first_and_without_times_in_order():
    assert catalog(ratings=RATINGS.drop(columns='rating')).history_of('ann').item.tolist() == [30, 20, 10, 40]
    assert catalog(ratings=RATINGS[['user', 'item']]).history_of('ann').item.tolist() == [10, 20, 30, 40]


def test_history_of_nobody():
    with pytest.raises(KeyError, match="unknown user id: 'dan'"):
        catalog().history_of('dan')


def test_without_history_drops_the_rows_and_keeps_the_rest():
    cat = catalog(user_df=USERS)
    assert cat.history.seen.nnz == 4  # cached
    res = cat.without_history()
    assert res.interactions is None
    assert res.split is None
    assert res.user_df is None
    assert 'seen' not in res.__dict__
    for ask in (lambda: res.require_history().seen, lambda: res.history_of('ann'), res.require_history):
        with pytest.raises(ValueError, match=r'training data and did not travel with what was saved. .*RecDataLoaders'):
            ask()
    assert res.find('zebra') == 0
    assert res.titles([3]).tolist() == ['Dust (1990)']
    assert res.candidates('year < 1970').tolist() == [1]
    assert res.counts['item'].tolist() == [2, 1, 1, 0]
    assert res.mean_rating == 3.5
    assert res.vocab['user'].ids.tolist() == ['ann', 'bob', 'cyd']
    assert repr(res) == 'Catalog(3 users, 4 items, without history)'
    assert cat.history_of('ann').shape == (4, 6)
    assert cat.user_df is not None


def test_without_history_nothing_of_the_rows_is_pickled():
    n = 20_000
    ratings = pd.DataFrame(dict(user=np.arange(n) % 200, item=np.arange(n) // 200, rating=1.0, time=np.arange(n)))
    cat = catalog(None, ratings, (range(n - 1), [n - 1]))
    cat.history.seen
    assert len(pickle.dumps(cat)) > 10 * n > n > len(pickle.dumps(cat.without_history()))


def test_the_split_is_kept_as_given():
    assert isinstance(catalog().split, Split)
    assert catalog().split.test.tolist() == [6]


def test_conditions_may_use_the_id_and_a_string_id_is_an_id():
    df = pd.DataFrame(dict(user=['a', 'a', 'b', 'b'], item=['x', 'y', 'x', 'z'], rating=[1.0, 2.0, 3.0, 4.0]))
    inter = Interactions.from_df(df)
    catalog = Catalog(
        History(inter, make_split(inter, (np.array([0, 1, 2]), np.array([3])))),
        pd.DataFrame(dict(item=['z', 'y', 'x'], title=['Z', 'Y', 'X'])),
    )
    assert catalog.item_df.item.tolist() == ['x', 'y', 'z']
    assert catalog.candidates("item != 'y'").tolist() == [0, 2]
    assert catalog.candidates('z').tolist() == [2]


def test_minus_one_is_not_the_last_id():
    with pytest.raises(IndexError, match='1 of 2 codes are negative'):
        Vocab(['a', 'b']).decode([0, -1])


def test_items_without_titles_are_shown_by_their_ids_also_bytes():
    ids = [b'\x80', b'a', b'\xc3\xa9']
    inter = Interactions.from_df(pd.DataFrame(dict(user=[1, 1, 2], item=ids, rating=[1.0, 2.0, 3.0])))
    catalog = Catalog(History(inter, make_split(inter, ([0, 1], [2]))))
    shown = catalog.titles(inter.vocab['item'].encode(ids))
    assert shown.tolist() == ['\\x80', 'a', 'é']
