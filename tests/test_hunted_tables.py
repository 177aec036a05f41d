"""Tables that answered wrongly without a word, or with a word that did not help."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import coo_matrix, csc_matrix
from trained import as_trained

from fastrec.all import (
    EASE,
    Blend,
    Ensemble,
    ItemFeatures,
    Popularity,
    RecDataLoaders,
    RecInterpretation,
    Reranked,
    UserFeatures,
    collab_learner,
    content_learner,
    correct_and_smooth,
    item_graph,
    mmr,
    pin,
    quota,
    svdpp_learner,
    two_tower_learner,
)
from fastrec.data.interactions import Interactions
from fastrec.scorers.rerank import correct_popularity, epsilon_greedy


@pytest.fixture(scope='module')
def ratings():
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((12, 10)) < 0.6)
    return pd.DataFrame(
        dict(
            user=users + 1,
            item=items + 101,
            rating=rng.integers(1, 6, len(users)).astype(float),
            time=range(len(users)),
        )
    )


@pytest.fixture(scope='module')
def dls(ratings):
    return RecDataLoaders.from_df(ratings, seed=0, bs=16)


# --- labels of features


def test_a_missing_cell_does_not_change_the_other_labels():
    whole = pd.DataFrame(dict(item=range(4), year=[1950, 1960, 1950, 1960]))
    feats = ItemFeatures.from_df(whole, category='year', min_df=1)
    with pytest.warns(UserWarning, match='without a value, by block: year 1'):
        new = feats.transform(pd.DataFrame(dict(item=[7, 8, 9], year=[1950, 1960, None])))
    assert new['year'].values.toarray().tolist() == [[1, 0], [0, 1], [0, 0]]
    with pytest.warns(UserWarning, match='without a value'):
        feats = ItemFeatures.from_df(whole.assign(year=[1950, 1960, None, 1960]), category='year', min_df=1)
    assert feats['year'].names == ['1950', '1960']
    assert feats.transform(whole)['year'].values.toarray().tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]


def test_several_columns_and_lists_of_floats_have_the_labels_of_whole_numbers():
    table = pd.DataFrame(dict(item=range(3), a=[1.0, np.nan, 2.0], b=[3, 3, 4], tags=[[28.0, 12.0], [28], [12]]))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        feats = ItemFeatures.from_df(table, category={'both': ['a', 'b']}, multilabel='tags', min_df=1)
    assert feats['both'].names == ['0=1', '0=2', '1=3', '1=4']
    assert feats['tags'].names == ['12', '28']
    assert feats['tags'].values.toarray().tolist() == [[1, 1], [0, 1], [1, 0]]


def test_labels_that_an_earlier_version_saved_as_floats_are_found():
    table = pd.DataFrame(dict(item=range(4), year=[1950, 1960, 1950, 1960]))
    feats = ItemFeatures.from_df(table, category='year', min_df=1)
    feats.transforms['year'][1].names = ['1950.0', '1960.0']
    assert feats.transform(table)['year'].values.toarray().tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]


def test_texts_of_numbers_with_a_point_stay_apart():
    table = pd.DataFrame(dict(item=range(4), version=['1', '1.0', '1', '1.0']))
    feats = ItemFeatures.from_df(table, category='version', min_df=1)
    assert feats['version'].values.toarray().tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]


def test_labels_none_of_which_is_known_are_named():
    table = pd.DataFrame(dict(item=range(4), kind=['a', 'b', 'a', 'b']))
    feats = ItemFeatures.from_df(table, category='kind', min_df=1)
    with pytest.warns(UserWarning) as said:
        feats.transform(pd.DataFrame(dict(item=[8, 9], kind=['A', 'B'])))
    texts = [str(o.message) for o in said]
    expected = "block 'kind': no label of the table is known: labels look like 'A', 'B', those fitted like 'a', 'b'"
    assert expected in texts


@pytest.mark.parametrize('missing', [None, np.nan, pd.NA])
def test_objects_that_are_true_or_false(missing):
    column = pd.Series([True, missing, False, True, False, True], dtype=object)
    table = pd.DataFrame(dict(item=range(6), adult=column))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        flag = ItemFeatures.from_df(table, flag='adult')['adult']
        number = ItemFeatures.from_df(table, numeric='adult')['adult']
        label = ItemFeatures.from_df(table, category='adult', min_df=1)['adult']
    assert flag.values.ravel().tolist() == [1, 0, 0, 1, 0, 1]
    std = (0.6 * 0.4) ** 0.5
    assert number.values.ravel() == pytest.approx([0.4 / std, 0, -0.6 / std, 0.4 / std, -0.6 / std, 0.4 / std])
    assert label.values.toarray()[:, 1].tolist() == [1, 0, 0, 1, 0, 1]
    for block in (flag, number, label):
        assert block.present.tolist() == [True, False, True, True, True, True]


# --- where ids of metadata are

EAN = pd.DataFrame(dict(user=[1, 1, 2, 2], ean=[11, 12, 13, 11], rating=[1.0, 2, 3, 4]))


@pytest.mark.parametrize('other', ['stock', 'id', 'show'])
def test_the_index_named_as_in_the_ratings_comes_before_words(other):
    table = pd.DataFrame({'ean': [11, 12, 13], other: [13, 11, 12], 'title': ['x', 'y', 'z']}).set_index('ean')
    catalog = RecDataLoaders.from_df(EAN, item_name='ean', item_df=table, valid_pct=0).catalog
    assert dict(zip(catalog.vocab['item'].ids, catalog.titles([0, 1, 2]))) == {11: 'x', 12: 'y', 13: 'z'}
    feats = ItemFeatures.from_df(table, category='title', min_df=1, id_name='ean')
    assert feats.ids.tolist() == [11, 12, 13]


def test_an_index_with_a_usual_name_comes_before_words_too():
    table = pd.DataFrame(dict(item=[11, 12], stock=[12, 11], title=['x', 'y'])).set_index('item')
    assert ItemFeatures.from_df(table, category='title', min_df=1).ids.tolist() == [11, 12]


def test_an_index_with_a_name_and_a_column_with_a_word_are_not_guessed_between():
    table = pd.DataFrame(dict(ean=[11, 12, 13], stock=[13, 11, 12], title=['x', 'y', 'z'])).set_index('ean')
    with pytest.raises(ValueError, match=re.escape("do the index 'ean' or the column 'stock' hold the item ids")):
        ItemFeatures.from_df(table, category='title', min_df=1)
    assert ItemFeatures.from_df(table.reset_index(drop=True), category='title', min_df=1).ids.tolist() == [13, 11, 12]


def test_new_items_are_found_by_an_index_named_as_in_the_ratings():
    table = pd.DataFrame(dict(ean=[11, 12, 13], kind=['x', 'y', 'x'], stock=0)).set_index('ean')
    dls = RecDataLoaders.from_df(EAN, item_name='ean', item_df=table, valid_pct=0)
    feats = ItemFeatures.from_df(table, category='kind', min_df=1, id_name='ean')
    learn = content_learner(dls, feats, n_factors=2, hidden=0)
    learn.add_items(pd.DataFrame(dict(ean=[21, 22], kind=['y', 'x'], stock=[22, 21])).set_index('ean'))
    blocks = learn.rec_model.config()['blocks']
    assert learn.vocab['item'].ids.tolist() == [11, 12, 13, 21, 22]
    assert blocks['kind'].values.toarray().tolist() == [[1, 0], [0, 1], [1, 0], [0, 1], [1, 0]]


@pytest.mark.parametrize('side', ['item', 'user'])
def test_two_columns_of_metadata_with_one_name(ratings, side):
    table = pd.DataFrame([[101, 'a', 'b'], [1, 'c', 'd']], columns=[side, 'title', 'title'])
    with pytest.raises(ValueError, match=r"several columns are called 'title'\. Give each a name of its own"):
        RecDataLoaders.from_df(ratings, **{f'{side}_df': table})
    with pytest.raises(ValueError, match="several columns are called 'title'"):
        ItemFeatures.from_df(table.rename(columns={side: 'item'}), category='title')


# --- rows of weight 0, and rows that are merged


def test_rows_of_weight_0_teach_nothing_but_are_seen():
    df = pd.DataFrame(dict(user=[1, 1, 2, 2, 3], item=[5, 6, 5, 7, 6], rating=[1.0, 4, 3, 3, 2], w=[1.0, 3, 1, 0, 0]))
    dls = RecDataLoaders.from_df(df, weight_name='w', valid_pct=0)
    assert dls.catalog.counts['user'].tolist() == [2, 1, 0]
    assert dls.catalog.counts['item'].tolist() == [2, 1, 0]
    assert dls.catalog.known('user').tolist() == [True, True, False]
    learn = as_trained(collab_learner(dls, n_factors=2))
    recs = learn.recommend([2, 3], k=3)
    assert recs[recs.user == 3].cold.all()
    assert 7 not in recs[recs.user == 2].item.tolist()


def test_the_mean_of_repeated_rows_is_by_weight_and_its_time_is_the_last():
    df = pd.DataFrame(
        dict(
            user=[1, 1, 2, 2, 2],
            item=[5, 5, 5, 6, 6],
            rating=[1.0, 4, 3, 2, 4],
            time=[20, 10, 1, 2, 3],
            w=[1.0, 3, 1, 0, 0],
        )
    )
    inter = Interactions.from_df(df, duplicates='mean', weight_name='w')
    assert inter.ratings.tolist() == [3.25, 3.0, 3.0]
    assert inter.row_weights.tolist() == [4, 1, 0]
    assert inter.times.tolist() == [20, 1, 3]
    assert Interactions.from_df(df, duplicates='mean').ratings.tolist() == [2.5, 3.0, 3.0]


# --- tables that grow


def test_new_ratings_outside_the_range_of_the_model_are_refused(dls, ratings):
    learn = collab_learner(dls, n_factors=2, y_range=(0.5, 5.5))
    before = learn.catalog
    with pytest.raises(ValueError, match=r'run from 1 to 10, outside y_range=\(0\.5, 5\.5\)'):
        learn.extend(pd.DataFrame(dict(user=[99], item=[101], rating=[10.0], time=[5])))
    assert learn.catalog is before
    learn.extend(pd.DataFrame(dict(user=[99], item=[101], rating=[5.0], time=[5])))
    assert learn.catalog.n_users == before.n_users + 1


@pytest.mark.parametrize('build', ['svdpp', 'two_tower', 'content'])
def test_features_of_new_users_reach_the_model(ratings, build):
    people = pd.DataFrame(dict(user=range(1, 13), job=['a', 'b'] * 6))
    films = pd.DataFrame(dict(item=range(101, 111), kind=['x', 'y'] * 5))
    users = UserFeatures.from_df(people, category='job', min_df=1)
    items = ItemFeatures.from_df(films, category='kind', min_df=1)
    if build == 'svdpp':
        learn = svdpp_learner(RecDataLoaders.from_df(ratings, seed=0), n_factors=2, user_features=users)
    elif build == 'content':
        dls = RecDataLoaders.from_df(ratings, seed=0)
        learn = content_learner(dls, items, users, n_factors=2, hidden=0)
    else:
        dls = RecDataLoaders.from_df(ratings, target='implicit', n_neg=0, seed=0)
        learn = two_tower_learner(dls, n_factors=2, user_features=users)
    new = pd.DataFrame(dict(user=[50, 51, 52], item=[101, 102, 103], rating=[4.0, 5, 3], time=[1, 2, 3]))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn.extend(new, user_df=pd.DataFrame(dict(user=[51, 50], job=['b', 'a'])))
    assert learn.rec_model.has_features('user').tolist() == [True] * 14 + [False]
    blocks = learn.rec_model.config()['user_blocks']
    assert np.asarray(blocks['job'].values.todense())[-3:].tolist() == [[1, 0], [0, 1], [0, 0]]


def test_metadata_of_new_items_is_found_as_when_the_loaders_were_made(ratings):
    films = pd.DataFrame(dict(item=range(101, 111), title=[f'film {i}' for i in range(101, 111)]))
    new = pd.DataFrame(dict(user=[1], item=[777], rating=[4.0], time=[9]))
    more = pd.DataFrame(dict(item=[777], title=['new']))
    for table in (more, more.set_index('item'), more.rename(columns={'item': 'movieId'})):
        learn = collab_learner(RecDataLoaders.from_df(ratings, item_df=films, seed=0), n_factors=2)
        catalog = learn.extend(new, item_df=table).catalog
        code = catalog.vocab['item'].encode([777])
        assert catalog.titles(code).tolist() == ['new']
        assert catalog.titles([0]).tolist() == ['film 101']
    learn = collab_learner(RecDataLoaders.from_df(ratings, item_df=films, seed=0), n_factors=2)
    with pytest.raises(ValueError, match=r"item_df has no id column: expected 'item'.*got 'id', 'title'"):
        learn.extend(new, item_df=more.rename(columns={'item': 'id'}))


def test_datetimes_do_not_come_after_numbers(ratings):
    new = pd.DataFrame(dict(user=[1], item=[777], rating=[4.0], time=pd.to_datetime(['1970-01-01 00:05:00'])))
    learn = collab_learner(RecDataLoaders.from_df(ratings, seed=0), n_factors=2)
    with pytest.raises(ValueError, match=r'times of the new rows are datetimes.*those there are numbers') as error:
        learn.extend(new)
    way = re.search('`(.*)`', str(error.value)).group(1)
    space = dict(df=new.copy(), pd=pd)
    exec(way, space)
    inter = learn.extend(space['df']).catalog.interactions
    assert inter.times[-1] == 300
    dated = ratings.assign(time=pd.to_datetime(ratings.time, unit='s'))
    learn = collab_learner(RecDataLoaders.from_df(dated, seed=0), n_factors=2)
    new['time'] = 300
    with pytest.raises(ValueError, match=r'times of the new rows are numbers.*those there are datetimes') as error:
        learn.extend(new)
    space = dict(df=new.copy(), pd=pd)
    exec(re.search('`(.*)`', str(error.value)).group(1), space)
    assert learn.extend(space['df']).catalog.interactions.times[-1] == np.datetime64('1970-01-01T00:05:00')


def test_what_was_made_of_a_learner_is_made_again_after_extend(ratings):
    dls = RecDataLoaders.from_df(ratings, seed=0)
    learn = as_trained(collab_learner(dls, n_factors=2))
    graph = item_graph(dls)
    made = {
        'Blend': lambda: Blend([EASE().fit(learn.dls), learn]),
        'Ensemble': lambda: Ensemble([learn, learn]),
        'Reranked': lambda: Reranked(learn, pd.DataFrame.copy),
        'Refined': lambda: correct_and_smooth(learn, graph),
    }
    before = {name: make() for name, make in made.items()}
    for name, scorer in before.items():
        assert len(scorer.recommend(1, k=2)) == 2, name
    learn.extend(pd.DataFrame(dict(user=[1], item=[101], rating=[1.0], time=[999])))  # ids as they were
    for name, scorer in before.items():
        text = f'{name} was made of a RecLearner that has taken in items or rows since'
        for verb, args in (
            ('recommend', [1]),
            ('score_items', [torch.arange(2)]),
            ('similar_items', [101]),
            ('predict', [1, 101]),
        ):
            with pytest.raises(ValueError, match=text):
                getattr(scorer, verb)(*args)
        assert len(made[name]().recommend(1, k=2)) == 2


# --- users who are named twice, lists, rules


def test_who_is_named_twice_has_one_list(dls):
    ease = EASE().fit(dls)
    once, twice = ease.recommend([1, 2], k=6), ease.recommend([1, 1, 2, 1], k=6)
    assert once.equals(twice)
    assert ease.recommend_users([101, 102], k=2).equals(ease.recommend_users([101, 101, 102], k=2))
    assert not twice.pipe(mmr, ease, k=4).duplicated(['user', 'item']).any()
    scorer = Reranked(ease, lambda recs: recs.pipe(mmr, ease, diversity=0.5))
    scores = scorer.score_items(torch.tensor([0, 0, 1, 0]))
    assert torch.equal(scores, scorer.score_items(torch.tensor([0, 1]))[[0, 0, 1, 0]])
    assert scorer.recommend([1, 1], k=3).equals(scorer.recommend([1], k=3))


def test_a_table_with_an_item_twice_in_a_list_is_refused(dls):
    ease = EASE().fit(dls)
    recs = ease.recommend([1, 2], k=3)
    both = pd.concat([recs, recs[recs.user == 2]], ignore_index=True)
    with pytest.raises(ValueError, match=r"3 of 9 rows repeat an item.*recs\.drop_duplicates\(\['user', 'item'\]\)"):
        mmr(both, ease)
    assert mmr(both.drop_duplicates(['user', 'item']), ease).equals(mmr(recs, ease))


def test_a_seen_matrix_has_a_row_per_user_and_a_column_per_item(dls):
    ease = EASE().fit(dls)
    n_users, n_items = dls.catalog.n_users, dls.catalog.n_items
    left = dls.catalog.vocab['item'].ids[1]
    for kind in (csc_matrix, coo_matrix):
        dense = np.ones((n_users, n_items))
        dense[:, 1] = 0
        recs = ease.recommend([1, 2], k=3, seen=kind(dense))
        assert recs.item.tolist() == [left, left]
    for shape in ((n_users - 1, n_items), (n_users, n_items + 1), (n_items, n_users)):
        with pytest.raises(ValueError, match=re.escape(f'seen= is a matrix of shape {shape}')):
            ease.recommend([1], seen=csc_matrix(shape))


RECS = pd.DataFrame(
    dict(
        user=1,
        item=[1, 2, 3, 4],
        title=list('abcd'),
        score=[4.0, 3, 2, 1],
        rank=[1, 2, 3, 4],
        kind=['x', 'x', None, 'y'],
    )
)


def test_items_without_a_category_are_counted():
    with pytest.warns(UserWarning, match=r'1 of 4 recommended rows have no category.*recs\.fillna'):
        assert quota(RECS, 'kind', at_most=1, k=4).item.tolist() == [1, 3, 4]
    kinds = RECS.set_index('item').kind
    with pytest.warns(UserWarning, match=r'1 of 4 recommended rows have no category.*categories\.fillna'):
        quota(RECS, kinds, at_most=1, k=4)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert quota(RECS.fillna({'kind': 'unknown'}), 'kind', at_most={'unknown': 0}, k=4).item.tolist() == [1, 2, 4]


def test_a_quota_of_what_the_lists_do_not_have():
    kinds = pd.Series({1: 'x', 2: 'x', 3: 'y', 4: 'y', 5: 'horror'})
    table = RECS.assign(kind=kinds[RECS.item].to_numpy())
    for categories in ('kind', kinds):
        assert quota(table, categories, at_most={'horror': 2, 'x': 1}, k=4).item.tolist() == [1, 3, 4]
    assert quota(table, kinds, at_least={'horror': 1}, k=2).item.tolist() == [1, 2]
    with pytest.raises(ValueError, match="no item is of category 'horor'; categories: 'x', 'y', 'horror'"):
        quota(table, kinds, at_most={'horor': 1})
    with pytest.raises(ValueError, match="no item is of category 'horror'"):
        quota(table, 'kind', at_least={'horror': 1})


def test_pinned_items_are_items(dls, ratings):
    with pytest.warns(UserWarning, match='1 of 1 pinned items are in no list.*: 999'):
        assert pin(RECS, 999).item.tolist() == [999, 1, 2, 3]
    with pytest.raises(KeyError, match='titles has no row for 1 of 1 pinned items: 999'):
        pin(RECS, 999, titles=pd.Series({1: 'a'}))
    with pytest.raises(ValueError, match='item ids of the recommendations are integers'):
        pin(RECS, '4')
    films = pd.DataFrame(dict(item=range(101, 111), title='film'))
    ease = EASE().fit(RecDataLoaders.from_df(ratings, item_df=films, seed=0))
    recs = ease.recommend([1], k=2)
    with pytest.raises(KeyError, match='999'):
        pin(recs, 999, titles=ease)


# --- smaller


def test_weights_by_name_belong_to_the_scorers_of_the_names(dls):
    ease, popular = EASE().fit(dls), Popularity().fit(dls)
    users = torch.arange(3)
    expected = Blend([ease, popular], [0.7, 0.3]).score_items(users)
    named = Blend({'e': ease, 'p': popular}, {'p': 0.3, 'e': 0.7})
    assert named.weights == [0.7, 0.3]
    assert torch.equal(named.score_items(users), expected)
    with pytest.raises(ValueError, match="the scorers are called 'e', 'p', the weights 'e', 'x'"):
        Blend({'e': ease, 'p': popular}, {'e': 1, 'x': 1})
    with pytest.raises(TypeError, match='weights by name are for scorers by name'):
        Blend([ease, popular], {'e': 0.7, 'p': 0.3})


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_vectors_that_are_no_numbers_make_no_graph(bad):
    vectors = np.array([[1, 0], [bad, 1], [1, 1], [0, 1.0]])
    for source in ((list('abcd'), vectors), dict(zip('abcd', vectors)), (list('abcd'), csc_matrix(vectors))):
        with pytest.raises(ValueError, match=r"1 of 4 vectors hold values that are not finite.*items 'b': leave"):
            item_graph(source)
    good = [0, 2, 3]
    assert item_graph(([list('abcd')[i] for i in good], vectors[good])).ids.tolist() == ['a', 'c', 'd']


def test_few_rows_and_one_factor_can_be_looked_at(ratings):
    dls = RecDataLoaders.from_df(
        ratings, splitter=[np.arange(len(ratings) - 5), np.arange(len(ratings) - 5, len(ratings))]
    )
    interp = RecInterpretation.from_learner(collab_learner(dls, n_factors=1))
    top = interp.plot_top_losses(show=False)
    assert len(top) == 5
    assert top.loss.to_numpy() == pytest.approx(((top.rating - top.prediction) ** 2).to_numpy(), rel=1e-4)
    assert len(interp.plot_tsne().collections[0].get_offsets()) == dls.catalog.known('item').sum()


def test_reranked_lists_in_a_file_have_the_columns_of_recommend(dls, tmp_path):
    popular = Popularity().fit(dls)
    scorer = Reranked(popular, pd.DataFrame.copy)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        scorer.score_items(torch.arange(3))
    mine = pd.read_csv(scorer.recommend([1, 2], k=2, to=tmp_path / 'mine.csv'))
    theirs = pd.read_csv(popular.recommend([1, 2], k=2, to=tmp_path / 'theirs.csv'))
    assert mine.columns.tolist() == theirs.columns.tolist() == ['user', 'item', 'score', 'rank', 'cold']
    assert mine.cold.tolist() == [False] * 4


def test_loaders_tell_popularity_titles_and_what_was_seen_as_a_scorer_does(synthetic):
    ratings, items, _ = synthetic
    dls = RecDataLoaders.from_df(ratings, item_df=items, target='implicit', valid_pct=0.1, seed=1)
    scorer = Popularity().fit(dls)
    recs = scorer.recommend(dls.vocab['user'].ids[:20].tolist(), k=10)
    by_scorer = correct_popularity(recs, scorer, 0.5)
    pd.testing.assert_frame_equal(correct_popularity(recs, dls, 0.5), by_scorer)
    explored = epsilon_greedy(recs, 0.5, items=scorer, seed=1)
    pd.testing.assert_frame_equal(epsilon_greedy(recs, 0.5, items=dls, seed=1), explored)
    rare = recs['item'].iloc[0]
    pd.testing.assert_frame_equal(pin(recs, [rare], titles=dls), pin(recs, [rare], titles=scorer))
