"""Evaluation that flattered: held-out rows that were learned, candidates that were none, groups that were lost."""

import numpy as np
import pandas as pd
import pytest
import torch
from trained import as_trained

from fastrec.all import (
    EASE,
    BiasOnly,
    Blend,
    Ensemble,
    ItemKNN,
    LabelPropagation,
    LeaveLastSplitter,
    Popularity,
    RecDataLoaders,
    Reranked,
    collab_learner,
    correct_and_smooth,
    evaluate,
    evaluate_users,
    hr,
    item_graph,
    load_learner,
    load_recommender,
    mrr,
    popularity_lift,
    recall,
    rmse,
    save_recommender,
)
from fastrec.scorers.scorer import Scorer

N_ITEMS = 10


class Given(Scorer):
    "Scores from a table (n_users, n_items)."

    scale = 'rank'

    def __init__(self, dls, scores):
        self.catalog, self.scores = dls.catalog, torch.as_tensor(scores, dtype=torch.float32)

    def score(self, users, items):
        return self.scores[users, items]

    def score_items(self, users):
        return self.scores[users].clone()


def table(n_users=8, n_items=N_ITEMS, seed=0, density=0.6):
    "Ratings from 1 to 5 at random, every user and item there, with distinct times."
    rng = np.random.default_rng(seed)
    there = rng.random((n_users, n_items)) < density
    there[:, 0] = there[0] = True
    users, items = np.nonzero(there)
    ratings = rng.integers(1, 6, len(users)).astype(float)
    return pd.DataFrame(dict(user=users + 1, item=items + 101, rating=ratings, time=rng.permutation(len(users))))


# --- candidates


@pytest.mark.parametrize('threshold', [None, 4])
def test_a_sampled_protocol_draws_no_item_that_was_seen_below_the_threshold(threshold):
    # user u has items 0..5, of which 5 is held out, and 0..3 rated 1; an oracle of who has what
    rows = [(u, i, 5 if i > 3 else 1, i) for u in range(4) for i in range(6)]
    rows += [(4, i, 5, i) for i in range(12)]  # for all items to be drawable
    df = pd.DataFrame(rows, columns=['user', 'item', 'rating', 'time'])
    is_valid = (df.user < 4) & (df.item == 5)
    dls = RecDataLoaders.from_df(
        df,
        target='implicit',
        n_neg=None,
        threshold=threshold,
        splitter=[np.flatnonzero(~is_valid), np.flatnonzero(is_valid)],
    )
    seen = np.zeros((5, 12))
    seen[:, :5] = 1
    got = evaluate(Given(dls, seen), dls, mrr(), n_candidates=6)
    # nobody's candidates are seen: all 7 are tied, at rank 4
    alone = evaluate_users(Given(dls, seen), dls, [hr(3), hr(4)], n_candidates=6)
    assert (alone['hr@3 (1+6 sampled)'] == 0).all() and (alone['hr@4 (1+6 sampled)'] == 1).all()
    assert got.iloc[0, 1] == pytest.approx(1 / 4)


def test_ratings_of_zero_are_seen_in_a_sampled_protocol():
    rows = [(u, i, 0 if i < 5 else 4, i) for u in range(4) for i in range(6)] + [(4, i, 3, i) for i in range(12)]
    df = pd.DataFrame(rows, columns=['user', 'item', 'rating', 'time'])
    is_valid = (df.user < 4) & (df.item == 5)
    dls = RecDataLoaders.from_df(df, splitter=[np.flatnonzero(~is_valid), np.flatnonzero(is_valid)])
    seen = np.zeros((5, 12))
    seen[:, :5] = 1
    got = evaluate_users(Given(dls, seen), dls, [hr(3), hr(4)], n_candidates=6, relevant=4)
    assert (got.iloc[:, 0] == 0).all() and (got.iloc[:, 1] == 1).all()


def implicit_loaders(**kwargs):
    df = table()
    return df, RecDataLoaders.from_df(df, target='implicit', n_neg=None, splitter=LeaveLastSplitter(1), **kwargs)


def test_users_without_candidates_are_counted_not_perfect():
    df, dls = implicit_loaders()
    worst = Given(dls, -np.eye(8, N_ITEMS))
    given = pd.DataFrame([(u, i) for u in range(3, 9) for i in df.item.unique()], columns=['user', 'item'])
    with pytest.raises(ValueError, match=r'2 of 8 users have no item there.*: 1, 2\. '):
        evaluate(worst, dls, hr(1), candidates=given)
    held_out = dls.catalog.interactions.to_df(dls.catalog.split.valid)
    with pytest.raises(ValueError, match='8 of 8 users'):  # the held-out items are not candidates beside themselves
        evaluate(worst, dls, hr(1), candidates=held_out)
    others = [u for u in range(1, 9) if u not in (1, 2)]
    assert evaluate(worst, dls, hr(1), candidates=given, users=others).users.item() == 6


@pytest.mark.parametrize('n', [0, -3, 2.5, np.nan, np.inf])
def test_counts_of_candidates_and_users_are_whole_numbers_from_one_on(n):
    _, dls = implicit_loaders()
    popular = Popularity().fit(dls)
    with pytest.raises(ValueError, match=f'n_candidates={n}: a whole number'):
        evaluate(popular, dls, hr(1), n_candidates=n)
    with pytest.raises(ValueError, match=f'users={n}: a whole number, of at least one user'):
        evaluate(popular, dls, hr(1), users=n)


def test_evaluating_nobody_is_said():
    _, dls = implicit_loaders()
    with pytest.raises(ValueError, match='users= names nobody'):
        evaluate(Popularity().fit(dls), dls, hr(1), users=[])
    assert evaluate(Popularity().fit(dls), dls, hr(1), users=2.0, n_candidates=2.0).columns[1] == 'hr@1 (1+2 sampled)'


# --- thresholds


@pytest.mark.parametrize('kind', [float, np.float64, np.float32, lambda o: np.array(o)])
def test_a_threshold_of_any_type_keeps_the_rows_that_just_reach_it(kind):
    df = table().assign(rating=lambda d: d.rating.map({1: 0.1, 2: 0.4, 3: 0.6, 4: 0.7, 5: 0.9}))
    n_positive = int((df.rating > 0.65).sum())
    dls = RecDataLoaders.from_df(df, target='implicit', n_neg=None, threshold=kind(0.7), valid_pct=0)
    assert dls.catalog.history.positives.nnz == (dls.catalog.history.positives.data > 0).sum() == n_positive
    dls = RecDataLoaders.from_df(df, valid_pct=0.5, seed=0)
    held_out = dls.catalog.interactions.to_df(dls.catalog.split.valid)
    reach = held_out[held_out.rating > 0.65]
    got = evaluate_users(Popularity().fit(dls), dls, recall(N_ITEMS), relevant=kind(0.7))
    assert set(got.index) == set(reach.user)


# --- groups of users


def test_users_who_are_all_alike_are_one_group():
    df = pd.DataFrame(
        [(u, i, 5, i) for u in range(6) for i in range(u, u + 3)], columns=['user', 'item', 'rating', 'time']
    )
    dls = RecDataLoaders.from_df(df, target='implicit', n_neg=None, splitter=LeaveLastSplitter(1))
    popular = Popularity().fit(dls)
    whole, grouped = (evaluate(popular, dls, hr(2), by=by) for by in (None, 'history'))
    assert len(grouped) == 1 and grouped.index[0] == pd.Interval(2, 2, closed='both')
    assert grouped.users.item() == 6 and grouped['hr@2'].item() == whole['hr@2'].item()


def test_popularity_of_held_out_items_is_that_of_the_relevant_ones():
    # of user u two items are held out: u, rated 5, and 20 + u, rated 1; item u has u + 1 training rows, 20 + u 12 - u
    rows = []
    for u in range(12):
        rows += [(u, u, 5, True), (u, 20 + u, 1, True)]
        rows += [(100 + n, u, 3, False) for n in range(u + 1)] + [(100 + n, 20 + u, 3, False) for n in range(12 - u)]
        rows += [(u, 99, 3, False)]
    df = pd.DataFrame(rows, columns=['user', 'item', 'rating', 'held'])
    dls = RecDataLoaders.from_df(df, splitter='held')
    grouped = evaluate(Popularity().fit(dls), dls, mrr(), relevant=5, by='popularity')
    assert list(grouped.users) == [3, 3, 3, 3]  # users 0 to 2 have the rarest relevant items, ...
    assert [o.right for o in grouped.index] == [4, 6, 9, 12]
    assert grouped.iloc[:, 1].is_monotonic_increasing and grouped.iloc[0, 1] < grouped.iloc[-1, 1]


def test_popularity_lift_of_a_user_without_training_rows_is_nan():
    df = table()
    is_valid = ((df.user == 8) | (df.item == 101)).to_numpy() & (df.user > 1).to_numpy()
    dls = RecDataLoaders.from_df(
        df, target='implicit', n_neg=None, splitter=[np.flatnonzero(~is_valid), np.flatnonzero(is_valid)]
    )
    per_user = evaluate_users(Popularity().fit(dls), dls, popularity_lift(3))
    lift = per_user['popularity_lift@3']
    assert np.isnan(lift[8]) and np.isfinite(lift.drop(8)).all()
    means = evaluate(Popularity().fit(dls), dls, popularity_lift(3))
    assert means['popularity_lift@3']['all'] == pytest.approx(lift.drop(8).mean())


# --- what is asked for


def test_lists_of_two_point_nought_items_have_two():
    _, dls = implicit_loaders()
    scorer = EASE().fit(dls)
    assert scorer.recommend([2, 3], k=2.0).equals(scorer.recommend([2, 3], k=2))
    assert scorer.recommend(basket=[101], k=np.float64(2)).equals(scorer.recommend(basket=[101], k=2))
    assert scorer.recommend_users(101, k=2.0, exclude_seen=False).equals(
        scorer.recommend_users(101, k=2, exclude_seen=False)
    )
    assert scorer.similar_items(101, k=2.0).equals(scorer.similar_items(101, k=2))
    assert evaluate(scorer, dls, popularity_lift(2.0)).equals(evaluate(scorer, dls, popularity_lift(2)))
    for k in (0, 2.5, np.nan, np.inf):
        with pytest.raises(ValueError, match=f'k={k}: '):
            scorer.recommend([2], k=k)


def test_candidates_of_any_container_are_the_same_ones():
    _, dls = implicit_loaders()
    popular = Popularity().fit(dls)
    expected = popular.recommend([1], 3, candidates=[101, 105], exclude_seen=False)
    assert set(expected.item) == {101, 105}
    for given in ((o for o in (101, 105)), {101: 0, 105: 0}.keys(), map(int, ['101', '105']), {101, 105}):
        assert popular.recommend([1], 3, candidates=given, exclude_seen=False).equals(expected)
    with pytest.raises(TypeError, match='boolean mask'):
        popular.recommend([1], 3, candidates=iter([True] * N_ITEMS))


def test_a_condition_gets_a_table_of_its_own():
    items = pd.DataFrame(dict(item=range(101, 101 + N_ITEMS), title=list('abcdefghij')))
    _, dls = implicit_loaders(item_df=items)

    def first_two(df):
        df['title'] = 'x'
        df['is_first'] = df.item < 103
        return df.is_first

    before = dls.catalog.item_df.copy()
    recs = Popularity().fit(dls).recommend([1], 5, candidates=first_two, exclude_seen=False)
    assert set(recs.title) == {'a', 'b'}
    pd.testing.assert_frame_equal(dls.catalog.item_df, before)


@pytest.mark.parametrize('k', [0, -1, 2.5, np.nan])
def test_item_knn_wants_a_neighbor(k):
    with pytest.raises(ValueError, match=f'k={k}: a whole number'):
        ItemKNN(k=k)


def test_without_damping_cold_rows_have_no_bias():
    df = pd.DataFrame(dict(user=[1, 1, 2, 3], item=[1, 2, 1, 3], rating=[5.0, 1, 3, 4]))
    dls = RecDataLoaders.from_df(df, splitter=[[0, 1, 2], [3]])
    scorer = BiasOnly(damping=(0, 0)).fit(dls)
    # mean 3; items 4 - 3 = 1 and -2; user 1 (1 + 0) / 2, user 2 -1; user and item 3 are cold
    assert torch.allclose(scorer.score_items(torch.tensor([0])), torch.tensor([[4.5, 1.5, 3.5]]))
    assert torch.equal(scorer.score_items(torch.tensor([2])), torch.tensor([[4.0, 1.0, 3.0]]))
    assert evaluate(scorer, dls, rmse).rmse.iloc[0] == 1
    with pytest.raises(ValueError, match='damping'):
        BiasOnly(damping=(-1, 0))


def test_a_fit_of_no_epochs_trains_nothing():
    learn = collab_learner(RecDataLoaders.from_df(table(), seed=0), n_factors=2)
    with learn.no_bar(), learn.no_logging():
        learn.fit(0)
        assert not learn.is_trained
        learn.fit(1)
    assert learn.is_trained


# --- splits


def test_a_mask_says_of_every_row_where_it_belongs():
    df = table()
    is_valid = np.arange(len(df)) % 4 == 0
    expected = RecDataLoaders.from_df(df, splitter=[np.flatnonzero(~is_valid), np.flatnonzero(is_valid)]).catalog.split
    nullable = pd.Series(is_valid).astype('boolean')
    for masks in ((~is_valid, is_valid), (~nullable, nullable), (~pd.Series(is_valid), list(is_valid))):
        for splitter in (masks, lambda inter, masks=masks: masks):
            got = RecDataLoaders.from_df(df, splitter=splitter).catalog.split
            assert np.array_equal(got.train, expected.train) and np.array_equal(got.valid, expected.valid)


@pytest.mark.parametrize('n_more', [-5, 5])
def test_masks_of_another_table_are_refused(n_more):
    df = table()
    n = len(df)
    is_valid = np.arange(n + n_more) % 4 == 0
    is_train = ~is_valid
    is_train[n:] = is_valid[n:] = False
    message = f'the train part of the split is a mask of {n + n_more} rows, and the table has {n}'
    with pytest.raises(ValueError, match=message):
        RecDataLoaders.from_df(df, splitter=(is_train, is_valid))
    with pytest.raises(ValueError, match=message):
        RecDataLoaders.from_df(df, splitter=lambda inter: (is_train, is_valid))
    twice = pd.concat([df, df], ignore_index=True)  # of which one row a pair is left
    with pytest.raises(ValueError, match=f'a mask of {n} rows, and the table has {2 * n}'):
        RecDataLoaders.from_df(twice, duplicates='last', splitter=(np.arange(n) % 4 > 0, np.arange(n) % 4 == 0))


# --- held-out rows that were learned


@pytest.fixture()
def both():
    """(dls, whole): loaders that hold a fifth out, and loaders of the same table that hold nothing out."""
    df = table(n_users=30)
    return RecDataLoaders.from_df(df, seed=0), RecDataLoaders.from_df(df, valid_pct=0)


def trained(dls, seed=0):
    torch.manual_seed(seed)
    learn = collab_learner(dls, n_factors=3)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-2)
    return learn


LEAK = r'held-out rows are training rows of the scorer, which was fitted with another split'


def test_what_a_scorer_is_made_of_is_looked_at(both):
    dls, whole = both
    honest, knowing = EASE().fit(dls), EASE().fit(whole)
    n_held_out = len(dls.catalog.split.valid)
    for blended in ([honest, knowing], [honest, Blend([honest, knowing])]):
        scorer = Blend(blended, [0.01, 0.99])
        for made in (scorer, Reranked(scorer, lambda recs: recs, n=5)):
            with pytest.raises(ValueError, match=f'{n_held_out} of {n_held_out} {LEAK}'):
                evaluate(made, dls, hr(3), relevant=1)
    with pytest.raises(ValueError, match=LEAK):
        evaluate(Ensemble([trained(dls), trained(whole)]), dls)
    good = Blend([honest, Popularity().fit(dls)])
    assert good.sources() == [dls.catalog]
    assert (
        evaluate(good, dls, hr(3), relevant=1).users.iloc[0]
        == dls.catalog.interactions.to_df(dls.catalog.split.valid).user.nunique()
    )


def test_all_that_a_sum_of_graphs_is_made_of_is_looked_at(both):
    dls, whole = both
    good, bad = item_graph(dls), item_graph(EASE().fit(whole))
    for graph in (good + bad, bad + good, good + (good + bad)):
        with pytest.raises(ValueError, match=LEAK):
            LabelPropagation(graph).fit(dls)
        with pytest.raises(ValueError, match=LEAK):
            correct_and_smooth(BiasOnly().fit(dls), graph)
    with pytest.raises(ValueError, match=LEAK):
        LabelPropagation(item_graph(Reranked(EASE().fit(whole), lambda recs: recs))).fit(dls)
    LabelPropagation(good + good).fit(dls)


def test_vectors_of_a_model_that_saw_what_is_held_out_are_refused(both, tmp_path):
    dls, whole = both
    knowing = trained(whole)
    learn = collab_learner(dls, n_factors=3)
    before = learn.model.item_factors.weight.detach().clone()
    with pytest.raises(ValueError, match=LEAK):
        learn.load_vectors(knowing, ['user', 'item'])
    assert torch.equal(learn.model.item_factors.weight, before) and not learn.is_trained
    # without held-out rows there is nothing to give away, until it is evaluated on loaders that have some
    heir = collab_learner(whole, n_factors=3).load_vectors(trained(dls, 1))
    assert heir.sources() == [whole.catalog, dls.catalog]
    evaluate(trained(dls).load_vectors(trained(dls, 1)), dls)


def test_what_was_taken_over_is_remembered(both, tmp_path):
    _, whole = both
    third = RecDataLoaders.from_df(table(n_users=30), seed=5)  # holds other rows out
    none_out = as_trained(collab_learner(third, n_factors=3))
    none_out.taken_over = [whole.catalog]
    with pytest.raises(ValueError, match=LEAK):
        evaluate(none_out, third)
    for history in (False, True):
        folder = save_recommender(none_out, tmp_path / str(history), history=history)
        loaded = load_recommender(folder)
        with pytest.warns(UserWarning, match='were others than those of these loaders'):
            evaluate(loaded, third)
        assert [source.history for source in loaded.taken_over] == [None]
    none_out.export(tmp_path / 'learner.pkl')
    assert none_out.taken_over == [whole.catalog]
    assert [source.history for source in as_trained(load_learner(tmp_path / 'learner.pkl')).taken_over] == [None]


def test_a_loaded_model_is_known_by_its_training_rows(both, tmp_path, recwarn):
    dls, whole = both
    own, knowing = (load_recommender(save_recommender(trained(o), tmp_path / n)) for o, n in ((dls, 'a'), (whole, 'b')))
    recwarn.clear()
    expected = evaluate(trained(dls), dls)
    pd.testing.assert_frame_equal(evaluate(own, dls), expected)
    shuffled = table(n_users=30)
    n = len(shuffled)
    in_train = np.isin(np.arange(n), dls.catalog.split.train)
    evaluate(own, RecDataLoaders.from_df(shuffled, splitter=(in_train, ~in_train)))
    assert not [w for w in recwarn if 'training rows of the scorer' in str(w.message)]
    n_held_out = len(dls.catalog.split.valid)
    with pytest.warns(UserWarning, match=f'were others than those of these loaders: if any of the {n_held_out} held-'):
        evaluate(knowing, dls)
    with pytest.warns(UserWarning, match='were others'):
        collab_learner(dls, n_factors=3).load_vectors(knowing)
    knowing.catalog._trained_on = None  # as of those saved before
    with pytest.warns(UserWarning, match='are not known'):
        evaluate(knowing, dls)
    # what the warning advises: the rows travel, and are compared
    checked = load_recommender(save_recommender(trained(whole), tmp_path / 'c', history=True))
    with pytest.raises(ValueError, match=f'{n_held_out} of {n_held_out} {LEAK}'):
        evaluate(checked, dls)


def test_vectors_of_other_users_are_compared_by_id(recwarn):
    df = table(n_users=30)
    dls = RecDataLoaders.from_df(df, seed=0)
    larger = pd.concat([df, df.assign(user=df.user + 1000)])
    held_out = dls.catalog.interactions.to_df(dls.catalog.split.valid)
    learn = collab_learner(dls, n_factors=3)
    with pytest.warns(UserWarning, match=f'{len(held_out)} of {len(held_out)} held-out rows have the ids of training'):
        learn.load_vectors(trained(RecDataLoaders.from_df(larger, valid_pct=0)))
    with pytest.warns(UserWarning, match='have the ids of training'):
        evaluate(learn, dls)
    recwarn.clear()
    strangers = trained(RecDataLoaders.from_df(df.assign(user=df.user + 1000), valid_pct=0))
    evaluate(collab_learner(dls, n_factors=3).load_vectors(strangers), dls)
    assert not [w for w in recwarn if 'held-out rows' in str(w.message)]
