"""Several members as one scorer: the mean, how far they are apart, and that nothing else is touched."""

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.basics import noop
from fastai.callback.all import ProgressCallback
from trained import as_trained

from fastrec.all import (
    Blend,
    Ensemble,
    ItemKNN,
    RecDataLoaders,
    Scorer,
    collab_learner,
    compare_models,
    ensemble_learner,
    evaluate,
    hr,
    load_recommender,
    ndcg,
    save_recommender,
    svdpp_learner,
)


def quiet(ens):
    for m in ens.members:
        m.remove_cb(ProgressCallback)
        m.logger = noop
    return ens


@pytest.fixture()
def ens(dls):
    ens = quiet(ensemble_learner(dls, collab_learner, 3, seed=5, n_factors=4, y_range=(0.5, 5.5)))
    ens.fit_one_cycle(8, 1e-2)
    return ens


def test_scores_are_means_of_members_that_differ(ens):
    users = torch.tensor([0, 3, 7])
    items = torch.tensor([5, 1, 1])
    each = torch.stack([m.score(users, items) for m in ens.members])
    assert not torch.allclose(each[0], each[1], atol=1e-3), 'members are the same'
    assert torch.allclose(ens.score(users, items), each.mean(0), atol=1e-5)
    assert torch.allclose(ens.spread(users, items), each.std(0, correction=0), atol=1e-5)
    assert torch.allclose(ens.score_items(users)[torch.arange(3), items], each.mean(0), atol=1e-5)
    preds, target, spread = ens.get_preds(with_spread=True)
    assert preds.shape == target.shape == spread.shape
    assert torch.allclose(preds, torch.stack([m.get_preds()[0] for m in ens.members]).mean(0), atol=1e-5)
    assert torch.allclose(
        ens.vectors('user') @ ens.vectors('item').T,
        torch.stack([m.vectors('user') @ m.vectors('item').T for m in ens.members]).mean(0),
        atol=1e-5,
    )


def test_the_spread_is_what_averaging_takes_out_of_the_squared_error(ens, dls):
    spread = ens.get_preds(with_spread=True)[2]
    members = [evaluate(m).loc['all', 'rmse'] for m in ens.members]
    assert evaluate(ens).loc['all', 'rmse'] ** 2 == pytest.approx(
        np.mean(np.square(members)) - spread.square().mean().item(), rel=1e-3
    )


def test_seeds_decide_and_the_global_generator_is_left_alone(dls):
    preds = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        ens = quiet(ensemble_learner(dls, collab_learner, 2, seed=3, n_factors=4))
        ens.fit(1, 1e-2)
        assert torch.equal(torch.get_rng_state(), state)
        preds.append(ens.get_preds()[0])
    assert torch.equal(*preds)


def test_what_a_person_asks(ens, synthetic):
    ratings, _items, _ = synthetic
    pairs = ratings[['user', 'item']].head(4)
    df = ens.predictions(pairs)
    assert list(df.columns) == ['user', 'item', 'title', 'score', 'spread']
    assert (df.spread > 0).all()
    assert (df.user.to_numpy() == pairs.user.to_numpy()).all()
    assert (
        ens.predict(*pairs.iloc[2])
        == pytest.approx(df.score[2], abs=1e-5)
        == pytest.approx(ens.predict(tuple(pairs.iloc[2])), abs=1e-5)
    )
    pd.testing.assert_frame_equal(ens.predictions([tuple(o) for o in pairs.itertuples(index=False)]), df)
    assert len(ens.recommend('u0003', 5)) == 5
    assert 'Ensemble(3 x' in repr(ens)
    assert len(ens) == 3
    assert 'ensemble' in str(compare_models({'ensemble': ens, 'one': ens.members[0]}, ens.dls, relevant=4))


def test_scores_that_only_rank_are_standardised(synthetic):
    ratings, items, _ = synthetic
    dls = RecDataLoaders.from_df(ratings, item_df=items, target='implicit', valid_pct=0.1, seed=1, n_neg=None)
    ens = quiet(ensemble_learner(dls, [svdpp_learner, collab_learner], 2, n_factors=4))
    ens.fit_one_cycle(2, 1e-2)
    assert ens.scale == 'rank'
    assert type(ens.members[0].model).__name__ == 'SVDpp'
    assert type(ens.members[1].model).__name__ == 'DotBias'
    users = torch.tensor([2, 0, 5, 0])
    assert torch.allclose(ens.score_items(users), Blend(ens.members).score_items(users), atol=1e-5), (
        'the mean of standardised scores is an equal blend'
    )
    items = torch.tensor([1, 2, 3, 50])
    assert torch.allclose(ens.score(users, items), ens.score_items(users)[torch.arange(4), items], atol=1e-5)
    assert (ens.spread(users, items) > 0).all()
    preds, _target = ens.get_preds()
    rows = dls.valid.dataset.users
    assert torch.allclose(preds, ens.score_items(rows), atol=1e-4)
    assert 0 < evaluate(ens, dls, metrics=[hr(10), ndcg(10)])['hr@10']['all'] < 1


def test_logits_are_averaged(synthetic):
    ratings, _items, _ = synthetic
    dls = RecDataLoaders.from_df(ratings, target='implicit', valid_pct=0.1, seed=1, n_neg=2)
    ens = quiet(ensemble_learner(dls, collab_learner, 2, n_factors=4))
    ens.fit(1, 1e-2)
    assert ens.scale == 'logit'
    assert torch.allclose(
        ens.score_items(torch.tensor([1])), sum(m.score_items(torch.tensor([1])) for m in ens.members) / 2, atol=1e-6
    )
    assert ens.get_preds()[0].shape == ens.get_preds()[1].shape


def test_saved_and_loaded(ens, tmp_path):
    save_recommender(ens, tmp_path / 'ens')
    loaded = load_recommender(tmp_path / 'ens')
    users = torch.tensor([1, 2])
    assert isinstance(loaded, Ensemble)
    assert torch.allclose(loaded.score_items(users), ens.score_items(users), atol=1e-5)
    with pytest.raises(TypeError, match='no fit_one_cycle'):
        loaded.fit_one_cycle(1)


def test_predict_of_whom_nothing_is_known():
    pairs = [(user, item) for user in 'abcd' for item in (1, 2, 3)]
    ratings = pd.DataFrame(pairs, columns=['user', 'item']).assign(rating=np.arange(12) % 5 + 1.0)
    only_valid = ratings.item == 3
    parts = (np.flatnonzero(~only_valid), np.flatnonzero(only_valid))
    dls = RecDataLoaders.from_df(ratings, splitter=parts, bs=4)
    ens = Ensemble([ItemKNN(1).fit(dls), ItemKNN(2).fit(dls)])
    assert ens.predict('a', 2) == ens.predict(('a', 2)) == ens.score(torch.tensor([0]), torch.tensor([1])).item()
    with pytest.raises(KeyError, match='item 3 has no training row'):
        ens.predict('a', 3, cold='raise')
    with pytest.raises(TypeError, match='no fit: an ensemble is trained where its members are learners'):
        ens.fit(1)


def test_errors(ens, dls, synthetic):
    with pytest.raises(ValueError, match='needs members'):
        Ensemble([])
    with pytest.raises(ValueError, match='needs members'):
        ensemble_learner(dls, n_members=0)
    with pytest.raises(TypeError, match='takes a builder'):
        ensemble_learner(dls, 'svdpp')
    with pytest.raises(ValueError, match='different kinds'):
        Ensemble([ens, ItemKNN().fit(dls)])
    other = RecDataLoaders.from_df(synthetic[0].head(500), valid_pct=0.1, seed=0)
    with pytest.raises(ValueError, match='different users'):
        Ensemble([ens, collab_learner(other, n_factors=2)])


def test_members_without_biases_count_as_zero(dls):
    scorers = [ItemKNN().fit(dls), ItemKNN().fit(dls)]
    assert Ensemble(scorers).biases() is None
    first, second = (Biased(dls, biases) for biases in (torch.arange(float(dls.n_items)), None))
    assert torch.equal(Ensemble([first, second]).biases(), torch.arange(float(dls.n_items)) / 2)
    assert torch.equal(Ensemble([first, first]).biases(), torch.arange(float(dls.n_items)))
    near = Ensemble([second, second]).similar_items(dls.vocab['item'].ids[0], k=2)
    assert near.item.tolist() == second.similar_items(dls.vocab['item'].ids[0], k=2).item.tolist()


class Biased(Scorer):
    """Vectors of items, and biases or none."""

    scale = 'rank'

    def __init__(self, dls, biases):
        self.catalog = dls.catalog
        self._biases = biases
        self._vectors = torch.randn(dls.n_items, 3, generator=torch.Generator().manual_seed(0))

    def vectors(self, side='item'):
        return self._vectors

    def biases(self, side='item'):
        return self._biases


def test_predict_of_a_cold_pair_is_refused_or_the_mean(dls):
    ids = dls.vocab['user'].ids
    members = [as_trained(collab_learner(dls, n_factors=2)) for _ in range(2)]
    item = dls.vocab['item'].ids[0]
    for cold in ('mean', 'raise'):
        want = np.mean([m.predict(ids[0], item, cold=cold) for m in members])
        assert Ensemble(members).predict(ids[0], item, cold=cold) == pytest.approx(want)
    with pytest.raises(ValueError, match="cold='popular': 'mean' or 'raise'"):
        Ensemble(members).predict(ids[0], item, cold='popular')
