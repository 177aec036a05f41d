"""Answers have the table's own column names; items are named by id or title; metadata stands beside them."""

import numpy as np
import pandas as pd
import pytest

from fastrec.all import (
    EASE,
    BiasOnly,
    RecDataLoaders,
    Reranked,
    collab_learner,
    exclude,
    load_recommender,
    mmr,
    pin,
    quota,
    save_recommender,
)
from fastrec.scorers.lists import id_columns


def table(user='kunde', item='artikel', n_users=20, n_items=12, **more):
    """Ratings of 7 of 12 items by each of 20 users; the last item has three."""
    rng = np.random.default_rng(0)
    rows = [
        (100 + u, 10 + i) for u in range(n_users) for i in rng.permutation(n_items - (1 if u > 2 else 0))[:7].tolist()
    ]
    df = pd.DataFrame(rows, columns=[user, item])
    return df.assign(stars=rng.integers(1, 6, len(df)).astype(float), zeit=np.arange(len(df)))


def films(item='artikel', n_items=12, title='title'):
    titles = ['Alien', 'Aliens', 'Brazil', 'Casablanca', 'Dune', 'Fargo', 'Heat', 'Jaws', 'Kes', 'M', 'Ran', '50']
    return pd.DataFrame(
        {item: 10 + np.arange(n_items), title: titles, 'genre': ['a', 'b'] * 6, 'year': range(1980, 1992)}
    )


ROLES = dict(user_name='kunde', item_name='artikel', rating_name='stars', time_name='zeit')


@pytest.fixture(scope='module')
def learn():
    dls = RecDataLoaders.from_df(table(), item_df=films(), valid_pct=0.1, seed=0, **ROLES)
    learn = collab_learner(dls, n_factors=4)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 1e-2)
    return learn


def test_answers_have_the_columns_of_the_table(learn, tmp_path):
    assert list(learn.recommend(100, 3)) == ['kunde', 'artikel', 'title', 'score', 'rank']
    assert list(learn.recommend(basket=[10, 11])) == ['artikel', 'title', 'score', 'rank']
    assert list(learn.recommend_users(10, 3)) == ['artikel', 'title', 'kunde', 'score', 'rank']
    assert list(learn.similar_items(10)) == ['query_artikel', 'artikel', 'title', 'score', 'rank']
    assert list(learn.similar_users(100)) == ['query_kunde', 'kunde', 'score', 'rank']
    assert list(learn.history(100)) == ['kunde', 'artikel', 'title', 'stars', 'zeit', 'part']
    assert list(learn.dls.show_batch(show=False)) == ['kunde', 'artikel', 'title', 'stars']
    path = learn.recommend([100, 101], 3, to=tmp_path / 'r.csv')
    assert list(pd.read_csv(path)) == ['kunde', 'artikel', 'title', 'score', 'rank', 'cold']
    save_recommender(learn, tmp_path / 'model', history=True)
    loaded = load_recommender(tmp_path / 'model')
    pd.testing.assert_frame_equal(loaded.recommend([100, 103], 3), learn.recommend([100, 103], 3))
    folded = learn.fold_in(pd.DataFrame(dict(kunde=[1, 1, 2], artikel=[10, 11, 12], stars=[5.0, 1.0, 3.0])))
    assert folded.recommend(k=2).kunde.tolist() == [1, 1, 2, 2]


def test_reranking_takes_them(learn):
    recs = learn.recommend([100, 101, 102], 4)
    assert list(mmr(recs, learn, 2)) == list(recs)
    assert exclude(recs, recs[['kunde', 'artikel']].head(2)).kunde.value_counts()[100] == 2
    assert (pin(recs, 'Brazil', titles=learn).groupby('kunde').first().title == 'Brazil').all()
    merged = recs.merge(films()[['artikel', 'genre']], on='artikel')  # which loses what pandas keeps in attrs
    assert (quota(merged, 'genre', at_most=1, k=2).groupby(['kunde', 'genre']).size() == 1).all()
    same = Reranked(learn, lambda o: o, n=5).recommend([100, 101], 3)
    pd.testing.assert_frame_equal(same, learn.recommend([100, 101], 3))
    values = Reranked(learn, lambda o: exclude(o, 'Brazil'), n=12).recommend([100, 101], 12)
    assert 'Brazil' not in values.title.tolist()


@pytest.mark.parametrize(
    ('columns', 'want'),
    [
        (['user', 'item', 'score', 'rank'], ('user', 'item')),
        (['userId', 'movieId', 'title', 'score', 'rank'], ('userId', 'movieId')),
        (['kunde', 'artikel', 'score', 'rank', 'genre'], ('kunde', 'artikel')),
        (['artikel', 'title', 'score', 'rank'], (None, 'artikel')),
        (['item', 'score', 'rank'], (None, 'item')),
        (['item', 'title', 'user', 'score', 'rank'], ('user', 'item')),
        (['kunde', 'movieId', 'score', 'rank'], ('kunde', 'movieId')),
        (['user', 'title', 'score', 'rank'], ('user', 'title')),
        (['title', 'score', 'rank'], (None, 'title')),
    ],
)
def test_columns_of_lists(columns, want):
    assert id_columns(pd.DataFrame(columns=columns)) == want


@pytest.mark.parametrize('columns', [['score', 'rank'], ['a', 'b', 'c', 'score', 'rank'], ['user', 'item', 'score']])
def test_columns_of_no_lists(columns):
    with pytest.raises(ValueError, match='no recommendation table'):
        id_columns(pd.DataFrame(columns=columns))


@pytest.mark.parametrize(
    ('user', 'item', 'want'),
    [
        ('score', 'rank', ['user', 'item', 'title', 'score', 'rank']),  # which the answer has itself
        (0, 1, ['user', 'item', 'title', 'score', 'rank']),  # of a file without a header
        ('userId', 'title', ['userId', 'title', 'score', 'rank']),  # the ids are the titles
        ('item', 'rank', ['user', 'item', 'title', 'score', 'rank']),  # both would be called 'item'
    ],
)
def test_names_that_are_taken(user, item, want):
    movies = films(item, title='name' if item == 'title' else 'title')
    dls = RecDataLoaders.from_df(
        table(user, item), item_df=movies, seed=0, user_name=user, item_name=item, rating_name='stars', time_name='zeit'
    )
    recs = BiasOnly().fit(dls).recommend(100, 3)
    assert list(recs) == want
    assert len(exclude(recs, recs[want[1]].iloc[0])) == 2
    assert len(set(BiasOnly().fit(dls).history(100))) == (6 if item != 'title' else 5)


def test_columns_of_metadata(learn):
    recs = learn.recommend([100, 101], 3, columns=['genre', 'year'])
    assert list(recs) == ['kunde', 'artikel', 'title', 'score', 'rank', 'genre', 'year']
    assert (recs.year - 1980 == recs.artikel - 10).all()
    near = learn.similar_items('Brazil', 3, columns='year')
    assert (near.year - 1980 == near.artikel - 10).all()
    assert list(learn.recommend(basket=['Alien'], k=2, columns='genre'))[-1] == 'genre'
    with pytest.raises(ValueError, match="no column 'genres': did you mean 'genre'"):
        learn.recommend(100, columns='genres')
    with pytest.raises(ValueError, match='has a column of that name already'):
        learn.recommend(100, columns=['title'])
    bare = BiasOnly().fit(RecDataLoaders.from_df(table(), seed=0, **ROLES))
    with pytest.raises(ValueError, match='item_df= was not given'):
        bare.recommend(100, columns='genre')


def test_items_are_named_by_id_title_or_part(learn):
    assert learn.predict(100, 'Brazil') == learn.predict(100, 12) == learn.predict((100, 'braz'))
    assert learn.predict(100, 'Alien') == learn.predict(100, 10)  # a whole title comes before a part of two
    with pytest.raises(KeyError, match="2 items match 'lien'"):
        learn.predict(100, 'lien')
    with pytest.raises(KeyError, match='no item has the id'):
        learn.predict(100, 'Solaris')
    with pytest.raises(KeyError, match='convert them'):
        learn.predict(100, '11')  # an id as a text, not a part of a title
    some = learn.recommend(100, 9, exclude_seen=False, candidates=['Brazil', 11, 'casa'])
    assert sorted(some.artikel) == [11, 12, 13]
    assert learn.recommend(100, exclude_seen=False, candidates='Brazil').artikel.tolist() == [12]
    assert set(learn.recommend(100, exclude_seen=False, candidates='year > 1988').artikel) <= {19, 20, 21}
    pd.testing.assert_frame_equal(
        learn.fold_in({'Brazil': 5, 'Fargo': 1}).recommend(), learn.fold_in({12: 5, 15: 1}).recommend()
    )
    assert learn.catalog.find('50') == 11


def test_ids_win_over_titles():
    ratings = table().assign(artikel=lambda df: df.artikel.map(lambda i: {10: 'Aliens', 11: 'x'}.get(i, f'i{i}')))
    movies = films().assign(artikel=lambda df: df.artikel.map(lambda i: {10: 'Aliens', 11: 'x'}.get(i, f'i{i}')))
    catalog = RecDataLoaders.from_df(ratings, item_df=movies, seed=0, **ROLES).catalog
    assert catalog.titles([catalog.find('Aliens')]).tolist() == ['Alien']


def test_lists_take_titles(learn):
    recs = learn.recommend([100, 101], 12, exclude_seen=False)
    assert 12 not in exclude(recs, ['braz', 13]).artikel.tolist()
    with pytest.raises(KeyError, match="2 items match 'lien'"):
        exclude(recs, 'lien')
    with pytest.warns(UserWarning, match="no list has an item with the title 'Solaris'"):
        assert len(exclude(recs, 'Solaris')) == len(recs)
    with pytest.raises(KeyError, match="no item has the title 'Solaris'"):
        exclude(recs, 'Solaris', titles=learn)
    first = pin(recs, {'Fargo': 2, 12: 1}, k=2)
    assert first.title.tolist() == ['Brazil', 'Fargo'] * 2
    with pytest.raises(ValueError, match='pinned to several places'):
        pin(recs, ['Fargo', 15])


def test_similar_items_have_rows():
    dls = RecDataLoaders.from_df(table(), item_df=films(), valid_pct=0, **ROLES)
    learn = collab_learner(dls, n_factors=4)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, 1e-2)
    rare = dls.catalog.vocab['item'].ids[dls.catalog.counts['item'] < 5]
    assert len(rare) == 1
    everything = learn.similar_items(10, 11, min_rows=0)
    assert set(rare) < set(everything.artikel)
    few = learn.similar_items([10, 12], 4)
    want = everything[~everything.artikel.isin(rare)].head(4)
    assert few[few.query_artikel == 10].artikel.tolist() == want.artikel.tolist()
    assert few['rank'].tolist() == [1, 2, 3, 4] * 2
    learn.index('exact')
    pd.testing.assert_frame_equal(learn.similar_items([10, 12], 4), few, rtol=1e-4)
    assert len(learn.similar_items(rare[0], 3)) == 3  # it may be asked
    with pytest.warns(UserWarning, match='1 of 12 items have less than 5 training rows.*min_rows=0 shows'):
        assert len(learn.similar_items(10, 11)) == 10
    with pytest.raises(ValueError, match='min_rows=-1'):
        learn.similar_items(10, min_rows=-1)
    clicks = RecDataLoaders.from_df(table(), item_df=films(), target='implicit', valid_pct=0, **ROLES)
    near = EASE().fit(clicks).similar_items('Alien', 11, min_rows=0)
    some = EASE().fit(clicks).similar_items('Alien', 4)
    assert some.artikel.tolist() == near[~near.artikel.isin(rare)].head(4).artikel.tolist()


def test_unknown_ids_are_predicted_as_the_average_one(learn):
    catalog = learn.catalog
    with pytest.raises(KeyError, match='unknown user id: 7'):
        learn.predict(7, 'Brazil')
    users = catalog.vocab['user'].ids[catalog.known('user')]
    items = catalog.vocab['item'].ids[catalog.known('item')]
    with pytest.warns(UserWarning, match='user 7 was not in the table: it is predicted as the average user'):
        got = learn.predict(7, 'Brazil', unknown='mean')
    assert got == pytest.approx(np.mean([learn.predict(u, 12) for u in users]), abs=1e-5)
    with pytest.warns(UserWarning, match="item 'Solaris' was not in the table"):
        got = learn.predict(100, 'Solaris', unknown='mean')
    assert got == pytest.approx(np.mean([learn.predict(100, i) for i in items]), abs=1e-5)
    with pytest.warns(UserWarning, match='was not in the table'):
        both = learn.predict(7, 'Solaris', unknown='mean')
    assert both == pytest.approx(np.mean([[learn.predict(u, i) for i in items] for u in users]), abs=0.05)
    with pytest.raises(KeyError, match='2 items match'):
        learn.predict(100, 'lien', unknown='mean')
    with pytest.raises(ValueError, match="unknown='skip'"):
        learn.predict(100, 10, unknown='skip')
