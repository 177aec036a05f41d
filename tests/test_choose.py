"""`quick_compare`: what is tried, what is left out and why, and that the line it gives makes the winner."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from fastrec.all import (
    EASE,
    BiasOnly,
    Candidate,
    GlobalMean,
    ItemFeatures,
    LeaveLastSplitter,
    Popularity,
    RecDataLoaders,
    collab_learner,
    compare_models,
    evaluate,
    ndcg,
    quick_compare,
    rmse,
    svdpp_learner,
)
from fastrec.training import choose
from fastrec.training.candidates import CANDIDATES, candidates_for
from fastrec.training.clock import seconds_of
from fastrec.training.recipes import Recipe

SHORT = Recipe(5e-3, 1)
FEW = ['global mean', 'biases', Candidate('dot product', collab_learner, dict(n_factors=4), recipe=Recipe(1e-2, 1))]


@pytest.fixture(scope='module')
def rated(synthetic):
    """Loaders of ratings, and what `quick_compare` finds among a few models."""
    dls = RecDataLoaders.from_df(synthetic[0], valid_pct=0.1, seed=3, bs=256)
    return dls, quick_compare(dls, candidates=FEW, n_boot=50)


@pytest.fixture()
def clicks(synthetic):
    ratings = synthetic[0]
    return RecDataLoaders.from_df(
        ratings, target='implicit', threshold=3.5, splitter=LeaveLastSplitter(1, n_test=1), seed=0
    )


def run(code, **given):
    """The variable `learn` after the lines."""
    names = dict(given)
    exec('from fastrec.all import *', names)
    exec(code, names)
    return names['learn']


def test_the_table_is_that_of_compare_models_best_first(rated):
    dls, found = rated
    assert list(found.table.columns) == ['rmse', 'low', 'high', 'p', 'mae', 'seconds', 'code', 'note']
    assert found.table['rmse'].is_monotonic_increasing
    for name, scorer in found.scorers.items():
        errors = evaluate(scorer, dls).loc['all']
        assert found.table.loc[name, 'rmse'] == pytest.approx(errors['rmse'])
        assert found.table.loc[name, 'mae'] == pytest.approx(errors['mae'])
    again = compare_models(found.scorers, dls, [rmse], n_boot=50, seed=0, plot=False).xs('rmse')
    assert found.table['low'].to_dict() == pytest.approx(again['low'].to_dict())
    assert found.best is found.scorers[found.table.index[0]]
    assert found.name in repr(found) and found.code in repr(found)
    assert '<table' in found._repr_html_()


def test_two_runs_find_the_same_and_the_global_generator_stays(rated):
    dls, found = rated
    torch.manual_seed(3)
    before = torch.get_rng_state()
    again = quick_compare(dls, candidates=FEW, n_boot=50)
    assert torch.equal(torch.get_rng_state(), before)
    pd.testing.assert_frame_equal(found.table.drop(columns='seconds'), again.table.drop(columns='seconds'))


def test_the_lines_make_each_model(rated):
    dls, found = rated
    for name, row in found.table.iterrows():
        learn = run(row['code'], dls=dls)
        assert evaluate(learn, dls).loc['all', 'rmse'] == pytest.approx(row['rmse'], abs=1e-6), name
    assert 'n_factors=4' in found.table.loc['dot product', 'code']


def test_the_lines_make_the_loaders_and_the_blend(clicks):
    asked = ['EASE', Candidate('SVD++', svdpp_learner, dict(n_factors=8), dict(n_neg=None), recipe=Recipe(1e-2, 2))]
    found = quick_compare(clicks, candidates=asked, n_boot=2)
    (blend,) = (name for name in found.table.index if '+ ' in name or (' +' in name and name != 'SVD++'))
    assert 'clicks' not in found.table.loc[blend, 'code']
    for name in ('SVD++', blend):
        code = found.table.loc[name, 'code']
        assert 'dls.remade(n_neg=None)' in code
        learn = run(code, dls=clicks)
        value = evaluate(learn, clicks, [ndcg(10)]).loc['all', 'ndcg@10']
        assert value == pytest.approx(found.table.loc[name, 'ndcg@10'], abs=1e-6)
    best, other = (found.table.loc[name, 'ndcg@10'] for name in ('EASE', 'SVD++'))
    assert found.table.loc[blend, 'ndcg@10'] > min(best, other)


def test_the_choice_looks_at_valid_rows_alone(clicks, monkeypatch):
    seen = []
    real = choose.evaluate

    def watched(*args, split='valid', **kwargs):
        seen.append(split)
        return real(*args, split=split, **kwargs)

    monkeypatch.setattr(choose, 'evaluate', watched)
    found = quick_compare(clicks, candidates=['popularity', 'EASE'], n_boot=2)
    assert set(seen) == {'valid'}
    on_test = found.test()
    popular = evaluate(Popularity().fit(clicks), clicks, [ndcg(10)], split='test').loc['all', 'ndcg@10']
    assert on_test.loc[('ndcg@10', 'popularity'), 'mean'] == pytest.approx(popular)


def test_test_rows_have_to_be_there(dls):
    with pytest.raises(ValueError, match='no test rows'):
        quick_compare(dls, candidates=['global mean', 'biases'], n_boot=2).test()


# --- what is tried


@pytest.mark.parametrize('target', CANDIDATES)
def test_every_candidate_trains_on_a_small_table(synthetic, target):
    ratings, items, _ = synthetic
    some = ratings[ratings['user'].isin(ratings['user'].unique()[:30])]
    dls = RecDataLoaders.from_df(some, item_df=items, target=target, seed=0, bs=64)
    features = ItemFeatures.from_df(items, multilabel='genres')
    short = [
        Candidate(o.name, o.make, o.options, o.loaders, o.reads, o.needs, o.reads_context, SHORT)
        for o in candidates_for(dls)
    ]
    found = quick_compare(dls, None, item_features=features, candidates=short, n_boot=2)
    assert set(found.table.index) >= {o.name for o in short}
    assert not found.table['note'].any(), found.table['note'].to_dict()
    assert found.table['code'].str.contains('item_features=item_features').sum() >= 3


def test_features_and_context_decide_who_takes_part(synthetic, dls):
    names = [o.name for o in candidates_for(dls) if o.suits(dls, ())]
    assert 'gated' not in names and 'SVD++' in names
    assert 'gated' in [o.name for o in candidates_for(dls) if o.suits(dls, ('item',))]
    assert 'gated' not in [o.name for o in candidates_for(dls) if o.suits(dls, ('user',))]
    context = RecDataLoaders.from_df(synthetic[0].assign(device='tv'), context='device', seed=0)
    assert 'MLP' not in [o.name for o in candidates_for(context) if o.suits(context, ())]


def test_epochs_of_svdpp_have_about_forty_steps(synthetic, dls):
    (svdpp,) = (o for o in candidates_for(dls) if o.name == 'SVD++')
    n = len(dls.train.dataset)
    assert 25 < n / svdpp.loaders_of(dls)['bs'] < 60
    assert svdpp.loaders_of(dls.remade(bs=svdpp.loaders_of(dls)['bs'])) == {}, 'these loaders are such'


def test_models_of_ones_own(dls):
    def trained(dls, n_factors):
        learn = collab_learner(dls, n_factors=n_factors)
        learn.fit_one_cycle(1, 1e-2)
        return learn

    own = [
        Candidate('wide', partial(collab_learner, n_factors=3), recipe=SHORT),
        Candidate('own', trained, dict(n_factors=2)),
    ]
    found = quick_compare(dls, candidates=own, n_boot=2)
    assert 'collab_learner(dls, n_factors=3)' in found.table.loc['wide', 'code']
    assert [fit['epochs'] for fit in found.scorers['own'].fits] == [1], 'what is trained is not trained again'
    assert 'trained(dls, n_factors=2)' in found.table.loc['own', 'code']
    with pytest.raises(TypeError, match='makes no model'):
        Candidate('EASE', EASE())


# --- what is left out


def test_what_takes_longer_than_what_is_left_says_so(dls, monkeypatch):
    slow = Candidate('slow', collab_learner, recipe=Recipe(1e-3, 100_000))
    guessed = Candidate('guessed', BiasOnly, guess=lambda dls: 500)
    found = quick_compare(dls, '20s', candidates=['global mean', 'biases', slow, guessed], n_boot=2)
    assert found.table.loc['slow', 'note'].startswith('not run: about ')
    assert '500 s' in found.table.loc['guessed', 'note']
    assert np.isnan(found.table.loc['slow', 'rmse'])
    assert next(iter(found.scorers)) == 'biases'
    assert 'slow' in repr(found) and 'note' in repr(found)


def test_what_takes_too_much_memory_is_left_out(clicks):
    asked = ['popularity', Candidate('EASE', EASE, dict(budget=10))]
    note = quick_compare(clicks, candidates=asked, n_boot=2).table.loc['EASE', 'note']
    assert note.startswith('left out: EASE over')


def test_what_diverges_is_left_out(dls):
    wild = Candidate('wild', collab_learner, recipe=Recipe(1e30, 1))
    found = quick_compare(dls, candidates=['global mean', wild], n_boot=2)
    assert found.table.loc['wild', 'note'].startswith('left out')
    with pytest.raises(ValueError, match='none of 1 models could be fitted'):
        quick_compare(dls, candidates=[wild])


@pytest.mark.parametrize(
    'options, error, message',
    [
        (dict(budget='soon'), ValueError, "budget='soon'"),
        (dict(budget=0), ValueError, 'a time above 0'),
        (dict(metrics='ndgc@10'), ValueError, 'ndcg@10'),
        (dict(candidates='SVDpp'), ValueError, "there are 'global mean'"),
        (dict(candidates=[]), ValueError, 'nothing to compare'),
        (dict(item_features=pd.DataFrame()), TypeError, 'ItemFeatures.from_df'),
    ],
)
def test_errors(dls, options, error, message):
    with pytest.raises(error, match=message):
        quick_compare(dls, **options)


def test_rows_have_to_be_held_out(synthetic):
    with pytest.raises(ValueError, match='nothing to choose on'):
        quick_compare(RecDataLoaders.from_df(synthetic[0], valid_pct=0))


def test_budgets():
    budgets = {'90s': 90, '5min': 300, '5 min': 300, '1h': 3600, '1.5h': 5400, 20: 20, None: None}
    assert {budget: seconds_of(budget) for budget in budgets} == budgets


# --- is the choice good?


@pytest.mark.slow
@pytest.mark.parametrize('rows', [5000, None])
def test_the_choice_is_near_the_best_on_test_rows(data_folder, rows):
    from fastrec.all import movielens

    ratings, _ = movielens('latest-small', data_folder / 'ml-latest-small')
    users = np.random.default_rng(0).choice(ratings['user'].unique(), 60, replace=False)
    some = ratings.sample(rows, random_state=0) if rows else ratings[ratings['user'].isin(users)]
    some = some.reset_index(drop=True)
    order = np.random.default_rng(0).permutation(len(some))
    tenth = len(some) // 10
    dls = RecDataLoaders.from_df(some, splitter=(order[2 * tenth :], order[:tenth], order[tenth : 2 * tenth]))
    found = quick_compare(dls, None)
    test = found.test().xs('rmse')['mean']
    assert test[found.name] < 1.01 * test.min()
    assert test[found.name] < evaluate(GlobalMean().fit(dls), dls, split='test').loc['all', 'rmse']
