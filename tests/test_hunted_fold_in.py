"""What new users rated is read as the training table was; context, labels of features, one scale of scores."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.learner import load_learner

from fastrec.evaluation.evaluate import evaluate
from fastrec.scorers.artifact import load_recommender, save_recommender
from fastrec.scorers.blend import Ensemble
from fastrec.scorers.coldstart import Objective, new_users
from fastrec.scorers.linear import EASE
from fastrec.scorers.neighbors import ItemKNN
from fastrec.scorers.refine import correct_and_smooth, item_graph
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
    learn = collab_learner(loaders(table), n_factors=2, y_range=False)
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


# --- context


def with_context(df):
    "Numbers as codes of three devices, a column of many values, whole seconds."
    rng = np.random.default_rng(0)
    return df.assign(dev=rng.integers(1, 4, len(df)), temp=rng.normal(size=len(df)), time=rng.permutation(len(df)))


@pytest.fixture(scope='module')
def timed(table):
    return quiet(svdpp_learner(loaders(with_context(table), context='time'), n_factors=4))


def test_fold_in_of_one_situation_is_refused(timed, table):
    item = table.item.iloc[0]
    with pytest.raises(TypeError, match='Take the fold_in of the learner'):
        timed.in_context({'time': 5}).fold_in({item: 4})
    with pytest.raises(TypeError, match='reads no context'):
        timed.fold_in({item: 4}).in_context({'time': 5})


@pytest.mark.parametrize('context', ['time', ['time', 'dev']])
def test_with_history_biases_of_the_time_travel(table, context, tmp_path):
    learn = quiet(svdpp_learner(loaders(with_context(table), context=context), n_factors=4), 3)
    save_recommender(learn, tmp_path, history=True)
    loaded = load_recommender(tmp_path)
    assert type(loaded.model) is type(learn.model)
    assert loaded.reads_context
    users = torch.arange(20)
    assert torch.equal(loaded.score_items(users), learn.score_items(users))
    early, late = (learn.in_context({'time': o}).score_items(users) for o in (3, 2000))
    assert not torch.allclose(early, late, atol=1e-3)
    assert torch.equal(loaded.in_context({'time': 3}).score_items(users), early)
    assert torch.equal(loaded.in_context({'time': 2000}).score_items(users), late)
    assert evaluate(loaded, learn.dls).equals(evaluate(learn, learn.dls))


@pytest.mark.parametrize('context, reads', [('time', False), (['time', 'dev'], True)])
@pytest.mark.parametrize('way', ['save_recommender', 'export'])
def test_without_history_a_time_is_refused(table, context, reads, way, tmp_path):
    learn = quiet(svdpp_learner(loaders(with_context(table), context=context), n_factors=4))
    with pytest.warns(UserWarning, match='biases of the time.*stay behind') as warned:
        if way == 'export':
            learn.path = tmp_path
            learn.export('e.pkl')
        else:
            save_recommender(learn, tmp_path)
    assert sum('stay behind' in str(w.message) for w in warned) == 1
    loaded = load_learner(tmp_path / 'e.pkl') if way == 'export' else load_recommender(tmp_path)
    assert loaded.reads_context == reads
    users = torch.arange(20)
    assert torch.allclose(loaded.score_items(users), learn.score_items(users), atol=1e-5)
    with pytest.raises(KeyError, match=r"no biases of the time.*history=True.*Leave out 'time'"):
        loaded.in_context({'time': 3})
    if reads:
        want = learn.in_context({'dev': 2}).score_items(users)
        assert torch.allclose(loaded.in_context({'dev': 2}).score_items(users), want, atol=1e-5)
    else:
        with pytest.raises(TypeError, match='reads no context'):
            loaded.in_context({})


def test_a_model_that_reads_no_times_refuses_one(table):
    learn = collab_learner(loaders(with_context(table), context=['time', 'dev']), n_factors=2)
    with pytest.raises(KeyError, match='no biases of the time'):
        learn.in_context({'time': 3, 'dev': 1})
    assert learn.in_context({'dev': 1}).context.tolist() == [-1, 1]


def test_refining_what_reads_context_says_that_it_is_lost(timed, table):
    graph = item_graph(timed.dls)
    for scorer in (timed, Ensemble([timed, timed])):
        with pytest.warns(UserWarning, match=r'reads the context of rows \(Context\(time\)\), and its refinement does'):
            correct_and_smooth(scorer, graph, alpha=0, beta=0)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        now = timed.in_context({'time': 5})
        same = correct_and_smooth(now, graph, alpha=0, beta=0)
    users = torch.arange(5)
    assert torch.allclose(same.score_items(users), now.score_items(users))


def test_context_of_another_kind_is_refused(table):
    df = with_context(table)
    dls = loaders(df, context=['dev', 'temp'])
    with pytest.raises(ValueError, match=r"'dev'.*holds texts such as '\d', in training it held numbers.*to_numeric"):
        dls.test_dl(df.assign(dev=df.dev.astype(str)))
    made_alike = df.assign(dev=df.dev.astype(str))
    made_alike['dev'] = pd.to_numeric(made_alike['dev'])
    of = dls.catalog.context_of
    assert (of.encode(made_alike) == of.encode(df)).all()
    assert (of.encode(df.assign(dev=df.dev.astype(float)))[:, 0] == df.dev).all()
    with pytest.raises(ValueError, match=r"2 of 2 values of column 'temp' \(context=\) are not numbers"):
        of.encode(pd.DataFrame(dict(dev=[1, 2], temp=['cold', 'warm'])))
    texts = loaders(df.assign(dev=df.dev.astype(str)), context='dev').catalog.context_of
    with pytest.raises(ValueError, match=r'holds numbers such as 1, in training it held texts.*astype\(str\)'):
        texts.encode(pd.DataFrame(dict(dev=[1])))
    assert texts.encode(pd.DataFrame(dict(dev=[1])).astype(str)).tolist() == [[1]]


def test_new_levels_are_counted(table):
    of = loaders(with_context(table), context='dev').catalog.context_of
    with pytest.warns(UserWarning, match=r"2 of 4 rows have a 'dev' .*such as 9, 8: it counts as not given"):
        assert of.encode(pd.DataFrame(dict(dev=[1, 9, None, 8]))).tolist() == [[1], [0], [0], [0]]
    with pytest.raises(KeyError, match=r'dev=9 is in no row'):
        of.of({'dev': 9})


def test_a_number_in_the_place_of_a_datetime_is_in_seconds(table):
    df = with_context(table)
    df['time'] = pd.to_datetime(891_720_440 + df.time, unit='s')
    of = loaders(df, context='time').catalog.context_of
    want = of.of({'time': pd.Timestamp('1998-04-04 20:07:20')})
    assert want.tolist() == [891_720_440]
    assert of.of({'time': 891_720_440}).tolist() == want.tolist()
    assert of.encode(pd.DataFrame(dict(time=[891_720_440.7, None]))).tolist() == [[891_720_440], [-1]]
    with pytest.raises(ValueError, match=r"beyond the year 9999.*unit='ms'"):
        of.of({'time': 891_720_440_000})


# --- one scale


def test_an_ensemble_of_logits_predicts_on_one_scale(table):
    dls = loaders(table, target='liked')
    torch.manual_seed(0)
    members = [quiet(collab_learner(dls, n_factors=4), 3, 5e-2) for _ in range(2)]
    ens = Ensemble(members)
    rows = dls.catalog.interactions.to_df(dls.catalog.split.valid)[['user', 'item']]
    users, items = (torch.from_numpy(dls.vocab[o].encode(rows[o])) for o in ('user', 'item'))
    logits = torch.stack([m.score(users, items) for m in members])
    want = logits.mean(0).sigmoid()
    assert not torch.allclose(want, logits.sigmoid().mean(0), atol=1e-4)
    preds, _, spread = ens.get_preds(with_spread=True)
    assert torch.allclose(preds, want, atol=1e-6)
    assert torch.allclose(spread, logits.sigmoid().std(0, correction=0), atol=1e-6)
    said = ens.predictions(rows)
    assert said.score.tolist() == pytest.approx(want.tolist(), abs=1e-6)
    assert said.spread.tolist() == pytest.approx(spread.tolist(), abs=1e-6)
    assert ens.predict(rows.user.iloc[0], rows['item'].iloc[0]) == pytest.approx(want[0].item(), abs=1e-6)
