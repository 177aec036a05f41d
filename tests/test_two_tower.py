"""Two towers: the batches and their loss by hand, what is learned, and the learner's contract."""

import numpy as np
import pandas as pd
import pytest
import torch

from fastrec.all import (
    InBatchDL,
    InBatchSoftmaxLoss,
    ItemFeatures,
    Popularity,
    RecDataLoaders,
    SaveModelCallback,
    TwoTower,
    UserFeatures,
    collab_learner,
    compare_models,
    evaluate,
    hr,
    load_learner,
    load_recommender,
    ndcg,
    save_recommender,
    set_seed,
    two_tower_learner,
)


@pytest.fixture(scope='module')
def clicks():
    """Users of two groups click on items of their group, the first ones more often.

    Items 0 .. 59 by group, of two kinds, which a table tells; user 0 and item 58 only in valid.
    """
    rng = np.random.default_rng(0)
    p = 1 / np.sqrt(np.arange(1, 30))
    rows = []
    for u in range(120):
        rows += [(u, int(i)) for i in 2 * rng.choice(29, 10, replace=False, p=p / p.sum()) + u % 2]
    rows += [(2, 58), (4, 58), (6, 58)]
    df = pd.DataFrame(rows, columns=['user', 'item'])
    valid = (df.user == 0) | (df.item == 58) | (rng.random(len(df)) < 0.15)
    return df, (np.flatnonzero(~valid), np.flatnonzero(valid))


@pytest.fixture(scope='module')
def items():
    return pd.DataFrame(
        dict(item=np.arange(60), title=[f'T{i}' for i in range(60)], kind=[f'kind {i % 2}' for i in range(60)])
    )


def loaders(clicks, **kwargs):
    return RecDataLoaders.from_df(
        clicks[0], target='implicit', splitter=clicks[1], **{**dict(n_neg=0, bs=64), **kwargs}
    )


def quick(learn, n=4, lr=2e-2):
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(n, lr)
    return learn


# --- batches


def test_a_batch_against_a_loop(clicks):
    dls = loaders(clicks)
    assert isinstance(dls.train, InBatchDL)
    assert dls.target == 'implicit'
    for dl, seen in (
        (dls.train, dls.catalog.require_history().seen),
        (dls.valid, dls.catalog.history.matrix(np.concatenate(dls.catalog.split[:2]))),
    ):
        n = 0
        for users, cols, target in dl:
            assert cols.shape == (1, target.shape[1])
            assert target.shape[0] == len(users)
            assert target.dtype == torch.float32
            assert len(cols[0].unique()) == cols.shape[1]
            have = np.asarray(seen[users.numpy()][:, cols[0].numpy()].todense()) > 0
            own = target.argmax(1)
            assert (target == 1).sum(1).eq(1).all()
            assert have[np.arange(len(users)), own].all()
            want = np.where(have, -1.0, 0.0)
            want[np.arange(len(users)), own] = 1
            assert (target.numpy() == want).all()
            assert set(cols[0].tolist()) == set(cols[0, own].tolist())  # nothing but positives of the batch
            n += len(users)
        assert n == len(dl.dataset)
    assert (dls.train._index[2] == -1).all()  # the lookup is left clean


def test_every_positive_comes_once_an_epoch(clicks):
    dls = loaders(clicks)
    pairs = []
    for users, columns, targets in dls.train:
        for user, target in zip(users, targets):
            pairs.append((int(user), int(columns[0, target.argmax()])))
    train = clicks[0].iloc[clicks[1][0]]
    assert sorted(pairs) == sorted(
        (int(dls.vocab['user'].encode([u])[0]), int(dls.vocab['item'].encode([i])[0]))
        for u, i in zip(train.user, train.item)
    )


def test_weights_come_along(clicks):
    df = pd.concat([clicks[0], clicks[0].iloc[:50]])
    dls = RecDataLoaders.from_df(df, target='implicit', valid_pct=0.1, seed=0, n_neg=0, bs=64)
    assert len(dls.one_batch()) == 4
    assert set(torch.cat([b[3] for b in dls.train]).tolist()) == {1.0, 2.0}
    quick(two_tower_learner(dls, n_factors=4), 1)


def test_show_batch_and_pairs(clicks, items):
    dls = loaders(clicks, item_df=items)
    b = dls.one_batch()
    df = dls.train.show_batch(b, show=False)
    assert df.columns.tolist() == ['user', 'item', 'title', 'negatives', 'hits']
    assert len(df) == 9
    assert (df.negatives + df.hits + 1 == b[1].shape[1]).all()
    assert set(zip(df.user, df.item)) <= set(zip(clicks[0].user, clicks[0].item))
    assert sum(len(u) for u, _ in dls.valid.pairs()) == len(dls.valid.dataset)


def test_in_batch_of_other_loaders(clicks):
    for n_neg in (4, None):
        dls = loaders(clicks, n_neg=n_neg, bs=32)
        assert dls.in_batch().catalog is dls.catalog
        assert isinstance(dls.in_batch().train, InBatchDL)
        assert dls.in_batch(16).train.bs == 16
    assert loaders(clicks, n_neg=4, bs=32).in_batch().train.bs == 32
    with pytest.raises(ValueError, match='hold a rating'):
        RecDataLoaders.from_df(clicks[0].assign(rating=np.arange(len(clicks[0])) % 5)).in_batch()


# --- the loss


def test_the_loss_by_hand():
    counts = torch.tensor([50.0, 30.0, 15.0, 5.0, 0.0])
    items = torch.tensor([[3, 0, 1]])
    target = torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    scores = torch.tensor([[0.5, 2.0, 9.0], [1.0, -1.0, 0.3]])
    p = np.array([5.0, 50.0, 30.0]) / 101  # (an item without rows counts 1)
    q = 1 - (1 - p) ** 2  # a batch of two
    first = -0.5 + np.log(np.exp(0.5) + np.exp(2.0) / q[1])
    second = 1.0 + np.log(np.exp(-1.0) + np.exp(1.0) / q[0] + np.exp(0.3) / q[2])
    loss = InBatchSoftmaxLoss(counts, 'none')
    assert loss(scores, target, items=items).tolist() == pytest.approx([first, second], rel=1e-5)
    assert InBatchSoftmaxLoss(counts)(scores, target, items=items).item() == pytest.approx(
        (first + second) / 2, rel=1e-5
    )
    assert InBatchSoftmaxLoss(counts)(scores, target, torch.tensor([1.0, 3.0]), items=items).item() == pytest.approx(
        (first + 3 * second) / 4, rel=1e-5
    )
    with pytest.raises(ValueError, match='n_neg=0'):
        loss(scores, target)


def test_the_corrected_sum_estimates_that_of_all_items():
    """Without the correction popular items count too much."""
    rng = np.random.default_rng(0)
    counts = rng.zipf(1.6, 40).clip(max=60)
    n = 40
    bs = 30
    rows = np.repeat(np.arange(n), counts)
    s = torch.from_numpy(rng.normal(size=n)).float()
    loss = InBatchSoftmaxLoss(torch.from_numpy(counts), 'none')
    sums = []
    for _ in range(3000):
        cols = np.unique(rng.choice(rows, bs))
        target = torch.zeros(bs, len(cols) + 1)
        target[:, -1] = 1.0  # a positive whose score does not matter
        value = loss(
            torch.cat([s[cols], torch.tensor([-50.0])]).expand(bs, -1),
            target,
            items=torch.from_numpy(np.append(cols, 0))[None],
        )
        sums.append(np.exp(value[0].item() - 50))
    assert np.mean(sums) == pytest.approx(s.exp().sum().item(), rel=0.05)


# --- the model


def test_forms_of_scores_agree():
    torch.manual_seed(0)
    model = TwoTower(7, 9, n_factors=5, layers=(6,), temperature=0.2)
    for p in model.parameters():
        torch.nn.init.normal_(p, 0, 0.3)
    users = torch.arange(7)
    items = torch.arange(9)
    table = model.eval().score_items(users)
    assert torch.allclose(model(users, items[None]), table, atol=1e-5)
    assert torch.allclose(model(users, items.expand(7, 9)), table, atol=1e-5)
    assert torch.allclose(model(users, torch.arange(7)), table[users, users], atol=1e-5)
    assert torch.equal(model(users), table)
    assert torch.allclose(model.vectors('user') @ model.vectors('item').T, table, atol=1e-5)
    assert torch.allclose(model.vectors('item').norm(dim=1), torch.ones(9))
    assert table.abs().max() <= 5 + 1e-5
    cosine = torch.nn.functional.cosine_similarity(
        model.user_tower.ids.weight[2] + model.user_tower.mlp(model.user_tower.ids.weight[2]),
        model.item_tower.ids.weight[4] + model.item_tower.mlp(model.item_tower.ids.weight[4]),
        dim=0,
    )
    assert table[2, 4].item() == pytest.approx(cosine.item() / 0.2, rel=1e-4)
    with pytest.raises(ValueError, match='temperature=0'):
        TwoTower(3, 3, temperature=0)


def test_masking_accidental_hits_matters(clicks):
    """With the user's own items as negatives the loss pushes away what it should pull."""
    dls = loaders(clicks, bs=256)
    users, cols, target = dls.one_batch()
    assert (target < 0).sum() > len(users)  # there are many
    scores = torch.zeros_like(target, requires_grad=True)
    InBatchSoftmaxLoss(dls.catalog.counts['item'])(scores, target, items=cols).backward()
    assert (scores.grad[target < 0] == 0).all()
    assert (scores.grad[target == 0] > 0).all()
    assert (scores.grad[target == 1] < 0).all()


def test_it_learns_the_groups(clicks):
    set_seed(0)
    dls = loaders(clicks)
    learn = quick(two_tower_learner(dls, n_factors=8, temperature=0.3), 12)
    ours, popular = (evaluate(s, dls, [ndcg(10)]).loc['warm', 'ndcg@10'] for s in (learn, Popularity().fit(dls)))
    assert ours > 1.3 * popular
    top = learn.recommend(range(10, 20), k=5)
    assert ((top.item % 2) == (top.user % 2)).mean() > 0.9


# --- features and cold rows


def test_cold_items_from_features(clicks, items):
    set_seed(0)
    feats = ItemFeatures.from_df(items, category='kind')
    learn = quick(two_tower_learner(loaders(clicks), item_features=feats, n_factors=8, id_dropout=0.3), 8)
    v = torch.nn.functional.normalize(learn.vectors('item'), dim=1)
    cosines = v @ v[58]  # 58 has no training row, and is of the even kind
    assert cosines[torch.arange(0, 57, 2)].mean() > cosines[torch.arange(1, 57, 2)].mean() + 0.5
    even, odd = (learn.score(torch.tensor([u]), torch.tensor([58])).item() for u in (10, 11))
    assert even > odd
    top = learn.recommend(range(10, 30, 2), k=30)
    assert (top.item == 58).sum() >= 5
    assert 'cold' not in top
    learn.index('exact')
    assert learn.recommend(range(10, 30, 2), k=30).item.tolist() == top.item.tolist()
    blind = quick(two_tower_learner(loaders(clicks), n_factors=8), 8)
    w = torch.nn.functional.normalize(blind.vectors('item'), dim=1)
    assert w[58] @ w[torch.arange(0, 57, 2)].mean(0) < cosines[torch.arange(0, 57, 2)].mean()


def test_user_features_and_new_rows_of_features_that_are_missing(clicks, items):
    set_seed(0)
    users = pd.DataFrame(dict(user=np.arange(120), team=[f't{u % 2}' for u in range(120)]))
    learn = quick(
        two_tower_learner(
            loaders(clicks),
            UserFeatures.from_df(users, category='team'),
            ItemFeatures.from_df(items, category='kind'),
            n_factors=8,
            id_dropout=0.3,
        ),
        8,
    )
    top = learn.recommend([0], k=8)  # user 0 has no training row, and is of the even team
    assert (top.item % 2 == 0).all()
    assert 'cold' not in top
    assert top.score.notna().all()
    with pytest.warns(UserWarning, match='have no row in the features'):
        two_tower_learner(loaders(clicks), item_features=ItemFeatures.from_df(items.iloc[:50], category='kind'))


# --- the learner's contract


def test_the_contract(clicks, items, tmp_path):
    dls = loaders(clicks, item_df=items, path=tmp_path)
    set_seed(0)
    learn = two_tower_learner(dls, n_factors=8, metrics=[hr(10), ndcg(10)])
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 1e-2, cbs=SaveModelCallback(monitor='ndcg@10'))
        assert learn.recorder.metric_names[3:5] == ['hr@10', 'ndcg@10']
        assert np.isfinite(learn.validate()).all()
        assert learn.lr_find(show_plot=False).valley > 0
        preds, targets = learn.get_preds()
        learn.fine_tune(1, 1e-3)
        learn.show_results(show=False)
        preds, targets = learn.get_preds()
        test = learn.get_preds(dl=learn.dls.test_dl([(3, 5), (4, 8)]))[0]
    users, its = learn.dls.valid.dataset[torch.arange(len(learn.dls.valid.dataset))][:2]
    assert targets is None
    assert torch.allclose(preds, learn.score(users, its), atol=1e-5)
    assert test[0].item() == pytest.approx(learn.predict(3, 5), abs=1e-5)
    learn.summary()
    learn.export(tmp_path / 'tt.pkl')
    loaded = load_learner(tmp_path / 'tt.pkl')
    want = learn.recommend([3, 4], k=5, exclude_seen=False)
    assert loaded.recommend([3, 4], k=5, exclude_seen=False).equals(want)
    assert loaded.similar_items('T5').equals(learn.similar_items('T5'))
    with pytest.raises(ValueError, match='exclude_seen=False'):
        loaded.recommend([3])
    state = {k: v.clone() for k, v in learn.model.state_dict().items()}
    learn.save('x')
    quick(learn, 1)
    learn.load('x')
    assert all(torch.equal(v, state[k]) for k, v in learn.model.state_dict().items())
    table = compare_models({'two towers': learn, 'popularity': Popularity().fit(dls)}, dls, [ndcg(10)], plot=False)
    assert len(table) == 2


def test_a_saved_recommender(clicks, items, tmp_path):
    for feats in (None, ItemFeatures.from_df(items, category='kind')):
        learn = quick(two_tower_learner(loaders(clicks, item_df=items), item_features=feats, n_factors=8), 1)
        save_recommender(learn, tmp_path / 'saved')
        loaded = load_recommender(tmp_path / 'saved')
        want = learn.recommend([3, 4], k=5, exclude_seen=False)
        assert loaded.recommend([3, 4], k=5, exclude_seen=False).equals(want)


def test_whatever_negatives_the_loaders_draw(clicks):
    for n_neg in (4, None):
        assert isinstance(two_tower_learner(loaders(clicks, n_neg=n_neg)).dls.train, InBatchDL)
    with pytest.raises(ValueError, match="target='implicit'"):
        two_tower_learner(RecDataLoaders.from_df(clicks[0].assign(rating=np.arange(len(clicks[0])) % 5)))


def test_other_models_learn_from_the_batch_as_well(clicks):
    set_seed(0)
    dls = loaders(clicks)
    learn = quick(collab_learner(dls, n_factors=8), 6)
    assert isinstance(learn.loss_func, InBatchSoftmaxLoss)
    assert (
        evaluate(learn, dls, [ndcg(10)]).loc['warm', 'ndcg@10']
        > evaluate(Popularity().fit(dls), dls, [ndcg(10)]).loc['warm', 'ndcg@10']
    )


def test_new_users_and_items_join(clicks):
    set_seed(0)
    learn = quick(two_tower_learner(loaders(clicks), n_factors=8), 2)
    learn.index('exact')
    before = learn.vectors('item').clone()
    new = pd.DataFrame(dict(user=[500] * 6 + [501] * 6, item=[0, 2, 4, 6, 8, 999, 1, 3, 5, 7, 9, 999]))
    learn.extend(new)
    assert isinstance(learn.dls.train, InBatchDL)
    assert torch.allclose(
        learn.vectors('item')[: len(before)][learn.model.item_tower.ids.known[: len(before)]],
        before[learn.model.item_tower.ids.known[: len(before)]],
        atol=1e-5,
    )
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(1, 1e-2)
    assert 999 in learn.recommend([10, 500], k=50).item.tolist()
    assert len(learn.item_index().codes) == learn.dls.n_items


def test_items_from_a_table_join_by_their_features(clicks, items):
    set_seed(0)
    learn = quick(
        two_tower_learner(
            loaders(clicks, item_df=items),
            item_features=ItemFeatures.from_df(items, category='kind'),
            n_factors=8,
            id_dropout=0.3,
        ),
        8,
    )
    learn.index('exact')
    before = learn.recommend([10, 11], k=5)
    learn.add_items(pd.DataFrame(dict(item=[900, 901], title=['new even', 'new odd'], kind=['kind 0', 'kind 1'])))
    score = {(u, i): learn.predict(u, i) for u in (10, 11) for i in (900, 901)}
    assert score[10, 900] > score[10, 901]
    assert score[11, 901] > score[11, 900]
    assert learn.dls.n_items == len(learn.item_index().codes) == 61
    assert 900 in learn.recommend([10], k=40).item.tolist()
    assert (
        learn.recommend([10, 11], k=5, candidates=list(range(59))).item.tolist()
        == before[before.item < 59].item.tolist()[:10]
    )
    quick(learn, 1)
    with pytest.raises(TypeError, match='two_tower_learner'):
        two_tower_learner(loaders(clicks), n_factors=8).add_items(items)
