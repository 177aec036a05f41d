"""New rows, users and items join a trained model: old rows stay, training goes on.

Vectors come from another model by id.
"""

import numpy as np
import pandas as pd
import pytest
import torch

from fastrec.all import (
    EASE,
    BiasOnly,
    Callback,
    EmbeddingTable,
    ItemFeatures,
    NewRowsFirst,
    RecDataLoaders,
    SampledSoftmaxLoss,
    WARPLoss,
    collab_learner,
    content_learner,
    gated_learner,
    load_recommender,
    mlp_learner,
    neumf_learner,
    rmse,
    save_recommender,
    set_seed,
    svdpp_learner,
    synthetic_ratings,
    two_tower_learner,
)
from fastrec.data.interactions import Vocab


@pytest.fixture(scope='module')
def table():
    """(old, new, items): the new rows bring 20 users and 12 items, and more rows of old ones."""
    ratings, items, _ = synthetic_ratings(n_users=120, n_items=70, n_factors=2, density=0.4, noise=0.2, seed=4)
    users = ratings.user.unique()
    names = ratings.item.unique()
    late = ratings.user.isin(users[::6]) | ratings.item.isin(names[3::6])
    rest = ratings[~late].sample(frac=1, random_state=0)
    return rest.iloc[:-200], pd.concat([ratings[late], rest.iloc[-200:]]).sample(frac=1, random_state=1), items


def FEATURES():
    return ItemFeatures.from_df(
        synthetic_ratings(n_users=120, n_items=70, n_factors=2, density=0.4, noise=0.2, seed=4)[1].iloc[:60],
        multilabel='genres',
        numeric='year',
    )


OPTIONS = dict(valid_pct=0.1, seed=0, bs=64)
KINDS = dict(
    collab=lambda df, items: collab_learner(
        RecDataLoaders.from_df(df, item_df=items, **OPTIONS), n_factors=4, y_range=(0, 6)
    ),
    svdpp=lambda df, items: svdpp_learner(RecDataLoaders.from_df(df, item_df=items, **OPTIONS), n_factors=4),
    mlp=lambda df, items: mlp_learner(RecDataLoaders.from_df(df, item_df=items, **OPTIONS), n_factors=4, layers=[8, 4]),
    liked=lambda df, items: collab_learner(
        RecDataLoaders.from_df(df, item_df=items, target='liked', **OPTIONS), n_factors=4
    ),
    neumf=lambda df, items: neumf_learner(
        RecDataLoaders.from_df(df, item_df=items, target='implicit', threshold=3.0, n_neg=2, **OPTIONS),
        n_factors=4,
        layers=[8, 4],
    ),
    towers=lambda df, items: two_tower_learner(
        RecDataLoaders.from_df(df, item_df=items, target='implicit', threshold=3.0, n_neg=0, **OPTIONS),
        n_factors=4,
        layers=[8],
    ),
    content=lambda df, items: content_learner(
        RecDataLoaders.from_df(df, item_df=items, **OPTIONS), FEATURES(), n_factors=4, hidden=8
    ),
    gated=lambda df, items: gated_learner(
        RecDataLoaders.from_df(df, item_df=items, **OPTIONS), FEATURES(), n_factors=4
    ),
    whole=lambda df, items: svdpp_learner(
        RecDataLoaders.from_df(
            df, item_df=items, target='implicit', threshold=3.0, n_neg=None, **{**OPTIONS, 'bs': 16}
        ),
        n_factors=4,
    ),
)


def quietly(learn, f):
    with learn.no_bar(), learn.no_logging():
        f()
    return learn


@pytest.mark.filterwarnings('ignore:.*held out for validation')
@pytest.mark.filterwarnings('ignore:.*have no row in item_df')
@pytest.mark.parametrize('kind', KINDS)
def test_old_rows_stay_and_new_ones_start_at_the_mean(kind, table):
    old, new, items = table
    set_seed(0)
    learn = KINDS[kind](old, items[items.item.isin(old.item)])
    quietly(learn, lambda: learn.fit_one_cycle(2, 1e-2))
    learn.model.eval()
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    vocab = learn.vocab
    rng = torch.get_rng_state()
    assert learn.extend(new, item_df=items) is learn
    assert torch.equal(rng, torch.get_rng_state())
    for side in ('user', 'item'):
        assert learn.vocab[side].ids[: len(vocab[side])].equals(vocab[side].ids)
        assert len(learn.vocab[side]) > len(vocab[side])
    assert learn.catalog.item_df.title.notna().all()
    assert learn.catalog.item_df.item.tolist() == learn.vocab['item'].ids.tolist()
    for name, m in learn.model.named_modules():
        if not isinstance(m, EmbeddingTable):
            continue
        was = before[f'{name}.weight']
        ok = before[f'{name}.known']
        n = len(was)
        assert len(m.weight) > n
        assert torch.equal(m.weight[:n][ok], was[ok])
        fresh = m.known.clone()
        fresh[:n] &= ~ok
        assert fresh.any()
        assert torch.allclose(m.weight[fresh], was[ok].mean(0).expand(int(fresh.sum()), -1), atol=1e-5)
    tables = [name for name, m in learn.model.named_modules() if isinstance(m, EmbeddingTable)]
    counts = dict(log_counts='item', user_log_counts='user') if kind == 'gated' else {}
    for name, p in learn.model.state_dict().items():
        assert name.rpartition('.')[0] in tables or name in counts or torch.equal(p, before[name]), name
    for name, side in counts.items():
        want = torch.from_numpy(learn.catalog.counts[side]).float().log1p()
        assert torch.allclose(getattr(learn.model, name), want, atol=1e-5)
    quietly(learn, lambda: learn.fine_tune(1, 1e-2))
    assert np.isfinite(learn.recorder.values[-1][1])
    learn.recommend(learn.vocab['user'].ids[-1], 3)


@pytest.mark.parametrize('kind', KINDS)
def test_the_first_phase_moves_new_rows_only(kind, table):
    old, new, _items = table
    learn = KINDS[kind](old, None)
    learn.extend(new)
    state = {k: p.detach().clone() for k, p in learn.model.named_parameters()}
    mask = learn.new_rows
    n_train = len(learn.dls.train.dataset)
    seen = []

    class Watch(Callback):
        def before_batch(self):
            if self.training:
                seen.append(self.xb[0].unique())

    quietly(learn, lambda: learn.fit_one_cycle(1, 1e-2, wd=0.1, cbs=[NewRowsFirst(**mask), Watch()]))
    assert len(learn.dls.train.dataset) == n_train
    moved = 0
    for name, p in learn.model.named_parameters():
        rows = mask['params'].get(name)
        if rows is None:
            assert torch.equal(p, state[name]), name
        else:
            known = learn.model.get_submodule(name.rpartition('.')[0]).known
            old_rows = ~rows & known  # (cold rows are the mean, always)
            assert old_rows.any(), name
            assert torch.equal(p[old_rows], state[name][old_rows]), name
            moved += not torch.equal(p[rows], state[name][rows])
    assert moved >= 2
    new_users = torch.from_numpy(mask['users'])
    assert new_users[torch.cat(seen)].float().mean() > new_users.float().mean()


def test_going_on_is_as_good_as_starting_anew(table):
    old, new, _items = table
    test = new.sample(frac=0.2, random_state=3)
    more = new.drop(test.index)
    set_seed(1)
    learn = KINDS['collab'](old, None)
    quietly(learn, lambda: learn.fit_one_cycle(10, 2e-2))

    def error(learn):
        codes = [torch.from_numpy(learn.vocab[side].encode(test[side])) for side in ('user', 'item')]
        return rmse(learn.score(*codes), torch.tensor(test.rating.to_numpy(), dtype=torch.float32)).item()

    learn.extend(more)
    start = error(learn)
    quietly(learn, lambda: learn.fine_tune(4, 2e-2, freeze_epochs=4))
    anew = KINDS['collab'](pd.concat([old, more]), None)
    quietly(anew, lambda: anew.fit_one_cycle(10, 2e-2))
    assert error(learn) < 0.75 * start
    assert error(learn) < 1.15 * error(anew)


def test_pairs_that_were_there():
    df = pd.DataFrame(
        [(1, 'a', 2.0), (1, 'b', 3.0), (2, 'a', 4.0), (2, 'b', 5.0), (3, 'a', 1.0), (3, 'c', 2.0)],
        columns=['user', 'item', 'rating'],
    )
    new = pd.DataFrame(
        [(1, 'a', 5.0), (3, 'c', 4.0), (9, 'a', 3.0), (9, 'd', 2.0), (9, 'd', 1.0)], columns=['user', 'item', 'rating']
    )
    learn = collab_learner(RecDataLoaders.from_df(df, splitter=([0, 1, 2, 3, 4], [5]), bs=4), n_factors=2)
    with pytest.warns(UserWarning, match='1 of 4 new rows are about pairs that are held out'):
        learn.extend(new)
    inter = learn.catalog.interactions
    split = learn.catalog.split

    def rows(part):
        return sorted(inter.to_df(part).itertuples(index=False, name=None))

    assert rows(split.train) == [
        (1, 'a', 5.0),
        (1, 'b', 3.0),
        (2, 'a', 4.0),
        (2, 'b', 5.0),
        (3, 'a', 1.0),
        (9, 'a', 3.0),
        (9, 'd', 1.0),
    ]
    assert rows(split.valid) == [(3, 'c', 2.0)]
    assert learn.vocab['user'].ids.tolist() == [1, 2, 3, 9]
    assert learn.vocab['item'].ids.tolist() == ['a', 'b', 'c', 'd']
    implicit = collab_learner(
        RecDataLoaders.from_df(
            df[['user', 'item']], target='implicit', splitter=([0, 1, 2, 3, 4], [5]), bs=4, n_neg=None
        ),
        n_factors=2,
    )
    implicit.extend(new[['user', 'item']].drop(index=1))
    inter = implicit.catalog.interactions
    assert dict(zip(inter.to_df()[['user', 'item']].itertuples(index=False, name=None), inter.weights)) == {
        (1, 'a'): 2,
        (1, 'b'): 1,
        (2, 'a'): 1,
        (2, 'b'): 1,
        (3, 'a'): 1,
        (3, 'c'): 1,
        (9, 'a'): 1,
        (9, 'd'): 2,
    }


def test_losses_that_count_items():
    df = pd.DataFrame([(u, 'abcdefgh'[(u + i) % 8]) for u in range(8) for i in range(3)], columns=['user', 'item'])
    new = pd.DataFrame([(1, 'x'), (1, 'y')], columns=['user', 'item'])

    def dls():
        return RecDataLoaders.from_df(df, target='implicit', n_neg=2, bs=4)

    learn = collab_learner(dls(), n_factors=2, loss_func=WARPLoss(8)).extend(new)
    assert learn.loss_func.n_items == 10
    assert len(learn.loss_func.harmonic) == 10
    learn = collab_learner(dls(), n_factors=2, loss_func=SampledSoftmaxLoss(torch.zeros(8)))
    with pytest.warns(
        UserWarning,
        match=r'log_q of the loss is for 8 items, and there are 10 now: '
        r'set learn.loss_func = SampledSoftmaxLoss\(log_q',
    ):
        learn.extend(new)


def test_a_share_of_the_new_rows_is_held_out(table):
    old, new, _ = table
    learn = KINDS['collab'](old, None)
    n = len(learn.catalog.split.valid)
    learn.extend(new, valid_pct=0.25, seed=1)
    assert len(learn.catalog.split.valid) == n + round(0.25 * len(new))
    assert len(learn.catalog.interactions) == len(old) + len(new)
    with pytest.raises(ValueError, match='valid_pct=1'):
        learn.extend(new, valid_pct=1)


def test_what_does_not_fit_is_said(table, tmp_path):
    old, new, _ = table
    learn = KINDS['collab'](old, None)
    with pytest.raises(ValueError, match=r'new item ids are of another type .*string.* than those known .*integer'):
        learn.extend(new.assign(item='i' + new.item.astype(str)))
    with pytest.raises(ValueError, match='which column holds the ratings'):
        learn.extend(new.drop(columns='rating'))
    with pytest.raises(ValueError, match=r'outside y_range|ratings .* are missing'):
        learn.extend(new.assign(rating=np.nan))
    with pytest.raises(ValueError, match='training data'):
        learn.dls = learn.dls.new_empty()
        learn.extend(new)


def test_vocab_extended():
    v = Vocab(['b', 'd'], 'item')
    w = v.extended(pd.Series(['c', 'b', None, 'a', 'c']))
    assert w.ids.tolist() == ['b', 'd', 'a', 'c']
    assert v.ids.tolist() == ['b', 'd']
    assert v.extended(['d']) is v
    narrow = Vocab(np.array([3, 1], dtype=np.uint16), 'user')
    assert narrow.extended([7, 3, 65539]).ids.tolist() == [3, 1, 7, 65539]
    assert narrow.extended([7]).ids.dtype == np.int64


# --- vectors of another model


def test_vectors_by_id(table, tmp_path):
    old, new, _items = table
    source = KINDS['collab'](old, None)
    quietly(source, lambda: source.fit_one_cycle(1, 1e-2))
    target = KINDS['collab'](new, None)
    fresh = target.model.item_factors.weight.detach().clone()
    assert target.load_vectors(source) is target
    shared = [
        i
        for i in target.vocab['item'].ids
        if i in source.vocab['item'] and source.catalog.known('item')[source.vocab['item'].encode([i])[0]]
    ]
    at, there = (torch.from_numpy(o.vocab['item'].encode(shared)) for o in (target, source))
    others = torch.ones(len(fresh), dtype=bool).index_fill(0, at, False)
    assert others.any()
    assert len(shared) > 20
    for name in ('item_factors', 'item_biases'):
        assert torch.equal(getattr(target.model, name).weight[at], getattr(source.model, name).weight[there])
    assert torch.equal(target.model.item_factors.weight[others], fresh[others])
    user_factors = target.model.user_factors.weight.detach().clone()
    target.load_vectors(load_recommender(save_recommender(source, tmp_path)), match=['item', 'user'])
    assert not torch.equal(target.model.user_factors.weight, user_factors)


def test_vectors_that_do_not_fit(table):
    old, new, _ = table
    learn = KINDS['collab'](new, None)
    with pytest.raises(ValueError, match=r'no table of items fits.*item_factors 4 wide.*EASE.*n_factors'):
        learn.load_vectors(EASE().fit(KINDS['collab'](old, None).dls))
    with pytest.raises(ValueError, match='no table of items fits'):
        learn.load_vectors(BiasOnly().fit(KINDS['collab'](old, None).dls))
    with pytest.raises(ValueError, match='ids here look like'):
        learn.load_vectors(KINDS['collab'](old.assign(item=old.item + 10_000), None))
    with pytest.raises(ValueError, match="match='items'"):
        learn.load_vectors(learn, match='items')
