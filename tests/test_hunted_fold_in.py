"""What new users rated is read as the training table was; context, labels of features, one scale of scores."""

import pandas as pd
import pytest
import torch

from fastrec.scorers.artifact import load_recommender, save_recommender
from fastrec.scorers.baselines import EASE, ItemKNN
from fastrec.scorers.coldstart import Objective, new_users
from fastrec.training.builders import collab_learner, svdpp_learner
from fastrec.training.dataloaders import RecDataLoaders


@pytest.fixture(scope='module')
def table(synthetic):
    return synthetic[0]


def loaders(df, **kwargs):
    return RecDataLoaders.from_df(df, valid_pct=0.1, seed=0, bs=256, **kwargs)


def quiet(learn, epochs=1, lr=1e-2):
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs, lr)
    return learn


def row_of(folded):
    return folded.score_items(torch.arange(folded.catalog.n_users))


# --- threshold, weighted, missing_rating


@pytest.fixture(scope='module')
def above_four(table):
    return loaders(table, target='implicit', threshold=4)


@pytest.mark.parametrize('through_file', [False, True])
def test_ratings_below_the_threshold_are_seen_and_no_positives(above_four, through_file, tmp_path):
    scorer = EASE(5.0).fit(above_four)
    if through_file:
        save_recommender(scorer, tmp_path, history=True)
        scorer = load_recommender(tmp_path)
    ids = list(above_four.vocab['item'].ids[:6])
    mixed = dict(zip(ids, [5, 5, 4, 1, 3.5, 1]))
    folded = scorer.fold_in(mixed)
    assert torch.allclose(row_of(folded), row_of(scorer.fold_in(ids[:3])))
    assert not torch.allclose(row_of(folded), row_of(scorer.fold_in(ids)))
    everything = folded.recommend('new user', k=len(above_four.vocab['item'].ids))
    assert not set(everything.item) & set(ids)  # seen, all six
    with pytest.raises(ValueError, match=r'none of the 6 ratings reaches threshold=4'):
        scorer.fold_in(dict.fromkeys(ids, 1))


def test_a_model_without_history_remembers_the_threshold(above_four, tmp_path):
    learn = quiet(svdpp_learner(above_four, n_factors=4))
    save_recommender(learn, tmp_path)
    ids = list(above_four.vocab['item'].ids[:6])
    for scorer in (learn, load_recommender(tmp_path)):
        with pytest.raises(ValueError, match=r'threshold=4'):
            scorer.fold_in(dict.fromkeys(ids, 1))
        several = pd.DataFrame(dict(user=[*'aaabbb'], item=ids, rating=[5, 5, 1, 1, 2, 3]))
        folded = scorer.fold_in(several)
        assert list(folded.catalog.known('user')) == [True, False]
        recs = folded.recommend(k=2)
        assert recs.cold.tolist() == [False, False, True, True]


def test_what_is_no_positive_has_no_part_in_the_loss(above_four):
    learn = collab_learner(above_four, n_factors=2)
    ids = list(above_four.vocab['item'].ids[:4])
    catalog = new_users(learn, dict(zip(ids, [5, 1, 4, 1])))
    _, y, w = Objective(learn, 0.5).rows(catalog, 0)
    n = above_four.n_items
    assert y[:4].tolist() == [1, 0, 1, 0]
    assert y.sum() == 2
    assert w[:4].tolist() == [1, 0, 1, 0]
    assert w[4:].tolist() == pytest.approx([learn.n_negatives * 2 / (n - 4)] * (n - 4))


def test_softmax_over_the_candidates_alone(above_four):
    learn = quiet(
        collab_learner(
            loaders(above_four.catalog.interactions.to_df(), target='implicit', threshold=4, n_neg=None), n_factors=2
        )
    )
    objective = Objective(learn, 0.5)
    s, y, w = torch.tensor([1.0, 3.0, 2.0]), torch.tensor([1.0, 0.0, 0.0]), torch.tensor([1.0, 0.0, 1.0])
    want = -torch.tensor([1.0, 2.0]).log_softmax(0)[0] / 0.5
    assert float(objective.value(s, y, w)) == pytest.approx(float(want))
    z = torch.eye(3)
    gradient, _ = objective.newton(s, y, w, z, None)
    s.requires_grad_()
    objective.value(s, y, w).backward()
    assert torch.allclose(gradient, s.grad)


def test_weights_count_as_in_training(table):
    dls = loaders(table, target='implicit', weighted=True)
    learn = collab_learner(dls, n_factors=2)
    ids = list(dls.vocab['item'].ids[:2])
    _, y, w = Objective(learn, 0.5).rows(new_users(learn, dict(zip(ids, [3, 1]))), 0)
    assert y[:3].tolist() == [1, 1, 0]
    assert w[:3].tolist() == pytest.approx([3, 1, learn.n_negatives * 4 / (dls.n_items - 2)])
    with pytest.raises(ValueError, match='1 of 2 ratings are negative'):
        learn.fold_in(dict(zip(ids, [3, -1])))


# --- which scale


def test_ratings_of_another_scale_are_refused(table):
    learn = collab_learner(loaders(table), n_factors=2)
    a, b = learn.vocab['item'].ids[:2]
    low, high = learn.catalog.rating_range
    train = learn.catalog.split.train
    assert (low, high) == (table.rating.iloc[train].min(), table.rating.iloc[train].max())
    with pytest.raises(ValueError, match=r'2 of 2 ratings lie outside those of training.*run from 400 to 500'):
        learn.fold_in({a: 500, b: 400})
    with pytest.warns(UserWarning, match='1 of 2 ratings lie outside'):
        learn.fold_in({a: high + 1, b: high})


# --- Series, tables of which the user is not found


def test_a_series_of_items_is_a_list_of_items(table):
    scorer = EASE(5.0).fit(loaders(table, target='implicit'))
    ids = list(scorer.vocab['item'].ids[:3])
    want = row_of(scorer.fold_in(ids))
    for mine in (pd.Series(ids, name='item'), pd.Series(ids), pd.Series(5.0, index=ids)):
        assert torch.equal(row_of(scorer.fold_in(mine)), want)
    numbered = EASE(5.0).fit(loaders(table.assign(item=table.item - table.item.min()), target='implicit'))
    with pytest.raises(ValueError, match=r'labels and whose values may both be items.*tolist.*to_dict'):
        numbered.fold_in(pd.Series([2, 5]))
    assert numbered.fold_in(pd.Series([2, 5], name='item')).history('new user').item.tolist() == [2, 5]


def test_a_series_that_has_an_item_twice_is_refused(table):
    learn = collab_learner(loaders(table), n_factors=2)
    item = learn.vocab['item'].ids[0]
    with pytest.raises(ValueError, match='twice'):
        learn.fold_in(pd.Series([5.0, 1.0], index=[item, item]))
    with pytest.raises(ValueError, match='here are none'):
        learn.fold_in(pd.Series([item], name='item'))


def test_one_user_only_where_no_other_column_is_left(table):
    learn = collab_learner(loaders(table), n_factors=2)
    a, b = learn.vocab['item'].ids[:2]
    rows = pd.DataFrame(dict(account=[7, 8], item=[a, b], rating=[5, 1]))
    with pytest.raises(ValueError, match=r"which column holds the users.*rename it to 'user', or leave out 'account'"):
        learn.fold_in(rows)
    assert list(learn.fold_in(rows.rename(columns=dict(account='user'))).vocab['user'].ids) == [7, 8]
    one = learn.fold_in(rows.drop(columns='account'))
    assert list(one.vocab['user'].ids) == ['new user']
    assert list(learn.fold_in(rows.drop(columns='account').assign(time=[1, 2])).vocab['user'].ids) == ['new user']


def test_the_threshold_asks_for_the_column_of_ratings(above_four):
    scorer = EASE(5.0).fit(above_four)
    ids = list(above_four.vocab['item'].ids[:2])
    with pytest.raises(ValueError, match=r"which column holds the ratings.*rename it to 'rating'.*'how_good'"):
        scorer.fold_in(pd.DataFrame(dict(user=[1, 1], item=ids, how_good=[5, 1])))
    chosen = scorer.fold_in(pd.DataFrame(dict(user=[1, 1], item=ids)))
    assert torch.equal(row_of(chosen), row_of(scorer.fold_in(ids)))


# --- for whom


@pytest.mark.parametrize('scorer', [EASE(5.0), ItemKNN(5)])
def test_recommend_after_fold_in_is_for_the_new_users(table, scorer, tmp_path):
    scorer = scorer.fit(loaders(table, target='implicit'))
    ids = list(scorer.vocab['item'].ids[:3])
    folded = scorer.fold_in(ids)
    recs = folded.recommend(k=3)
    assert recs.equals(folded.recommend(['new user'], k=3))
    assert folded.predict(recs.item[0]) == pytest.approx(recs.score[0])
    save_recommender(folded, tmp_path, history=True)
    assert load_recommender(tmp_path).recommend(k=3).equals(recs)
    with pytest.raises(ValueError, match='recommend for whom'):
        scorer.recommend(k=3)
