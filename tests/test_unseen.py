"""Ratings made up for pairs without one; batch sizes and order of the loaders."""

import numpy as np
import pandas as pd
import pytest
import torch

from fastrec.all import RecDataLoaders, collab_learner, evaluate, ndcg, set_seed, svdpp_learner
from fastrec.training.batches import InteractionDL, UnseenDL


def ratings(n_users=40, n_items=30, seed=0):
    """Users of one half of the items and of the other: they rate those, all but one 3 to 5."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        items = rng.permutation(n_items // 2)[:9] + (user % 2) * (n_items // 2)
        rows += [(user, item, float(rng.integers(3, 6))) for item in items.tolist()]
    df = pd.DataFrame(rows, columns=['user', 'item', 'rating'])
    df.loc[0, 'rating'] = 1.0
    return df


def loaders(**kwargs):
    return RecDataLoaders.from_df(ratings(), valid_pct=0.2, seed=0, **{'bs': 16, **kwargs})


def test_each_row_has_its_made_up_pairs():
    dls = loaders(unseen=(2, 1.5))
    seen = torch.from_numpy(dls.catalog.history.seen.toarray() != 0)
    table = {(u, i): r for u, i, r in dls.catalog.interactions.to_df(dls.catalog.split.train).itertuples(index=False)}
    drawn = []
    for _ in range(2):
        rows = []
        for users, items, target in dls.train:
            assert users.shape == items.shape == target.shape and len(users) % 3 == 0 and len(users) <= 48
            assert users.dtype == items.dtype == torch.int64 and target.dtype == torch.float32
            rows.append(torch.stack([users.double(), items.double(), target.double()], 1).view(-1, 3, 3))
        rows = torch.cat(rows)
        assert len(rows) == len(dls.train_ds) == len(table)
        ids = {side: dls.vocab[side].ids for side in ('user', 'item')}
        assert {(ids['user'][int(u)], ids['item'][int(i)]): r for u, i, r in rows[:, 0].tolist()} == table
        assert (rows[:, 1:, 0] == rows[:, :1, 0]).all() and (rows[:, 1:, 2] == 1.5).all()
        made_up = rows[:, 1:, :2].long()
        assert not seen[made_up[..., 0], made_up[..., 1]].any()
        assert (made_up[:, 0, 1] != made_up[:, 1, 1]).all()
        drawn.append(made_up)
    assert not torch.equal(*(o.flatten(0, 1).sort(0).values for o in drawn)), 'drawn anew'


def test_the_rest_of_the_loaders_is_as_it_is():
    dls = loaders(unseen=(1, 1.0))
    assert len(dls.valid_ds) == sum(len(b[0]) for b in dls.valid)
    assert type(dls.valid) is InteractionDL and type(dls.train) is UnseenDL
    assert dls.show_batch(show=False).shape[1] == 3
    learn = collab_learner(dls, n_factors=4)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, 1e-2)
        preds, targs = learn.get_preds(ds_idx=0)
    assert len(preds) == len(targs) == len(dls.train_ds) and targs.min() >= 1
    assert dls.remade(bs=8).train.unseen == (1, 1.0)
    inter, split = dls.catalog.interactions, dls.catalog.split
    assert dls.rebuilt(inter, split).train.unseen == (1, 1.0)
    weighted = RecDataLoaders.from_df(
        ratings().assign(w=lambda df: df.item + 1.0), weight_name='w', unseen=(2, 1.0), seed=0, bs=16
    )
    _, items, _, weight = weighted.one_batch()
    by_row = weight.view(-1, 3)
    ids = torch.tensor(weighted.vocab['item'].ids.to_numpy())
    assert torch.equal(by_row, (ids[items.view(-1, 3)[:, :1]] + 1).float().expand(-1, 3))


def test_the_draw_can_be_repeated():
    def batch(seed):
        set_seed(seed)
        return loaders(unseen=(1, 1.0)).one_batch()

    assert all(map(torch.equal, batch(1), batch(1)))
    assert not torch.equal(batch(1)[1], batch(2)[1])


@pytest.mark.parametrize(
    ('options', 'why'),
    [
        (dict(unseen=1.0), 'pairs made up to each training row'),
        (dict(unseen=(0, 1.0)), 'a whole number of pairs from 1 on'),
        (dict(unseen=(1, 0.0)), 'one from 1 to 5'),
        (dict(unseen=(25, 1.0)), 'leave as few as'),
        (dict(unseen=(1, 1.0), target='implicit'), 'n_neg= says how many'),
        (dict(unseen=(1, 1.0), target='liked'), "goes with target='rating'"),
        (dict(unseen=(1, 1.0), context='rating_place'), 'has no context'),
        (dict(target='implicit', n_neg=0, val_bs=8), 'the other items of the batch are the negatives'),
    ],
)
def test_what_does_not_go_together(options, why):
    df = ratings().assign(rating_place=lambda df: np.where(df.item % 2, 'home', 'away'))
    with pytest.raises(ValueError, match=why):
        RecDataLoaders.from_df(df, user_name='user', item_name='item', rating_name='rating', seed=0, **options)


def test_lists_get_better():
    figures = {}
    for name, unseen in (('plain', None), ('unseen', (2, 1.0))):
        dls = loaders(unseen=unseen)
        set_seed(0)
        learn = collab_learner(dls, n_factors=4)
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(15, 2e-2)
        figures[name] = evaluate(learn, dls, metrics=[ndcg(10)], relevant=3).loc['all', 'ndcg@10']
    assert figures['unseen'] > figures['plain'] + 0.1, figures


def test_pairs_left_out_of_histories():
    learn = svdpp_learner(loaders(unseen=(1, 1.0)), n_factors=4)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, 1e-2)
    assert np.isfinite(learn.recorder.values[-1]).all()


@pytest.mark.parametrize('options', [{}, dict(target='implicit'), dict(target='implicit', n_neg=None)])
def test_batch_sizes_and_order(options):
    dls = loaders(val_bs=7, shuffle_train=False, **options)
    assert dls.train.bs == 16 and dls.valid.bs == 7 and not dls.train.shuffle
    users = torch.cat([b[0] for b in dls.train])
    expected = dls.train_ds[torch.arange(len(dls.train_ds))][0]
    assert torch.equal(users, expected)
    again = dls.remade(bs=8)
    assert again.train.bs == 8 and again.valid.bs == 7 and not again.train.shuffle
    assert loaders(**options).train.shuffle
