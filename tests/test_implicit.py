"""Implicit feedback from table to evaluation.

Positives, weights, loaders, protocols, baselines, metrics in the training table.
"""

import copy
import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.basics import load_learner, noop, set_seed
from fastai.callback.all import EarlyStoppingCallback, ProgressCallback, SaveModelCallback
from trained import as_trained

from fastrec.all import (
    EASE,
    BPRLoss,
    Interactions,
    ItemFeatures,
    ItemKNN,
    KFoldSplitter,
    LeaveLastSplitter,
    Popularity,
    RankingCallback,
    RecDataLoaders,
    SampledSoftmaxLoss,
    TimeSplitter,
    auc,
    collab_learner,
    compare_models,
    content_learner,
    evaluate,
    evaluate_users,
    gated_learner,
    gmf_learner,
    hr,
    mae,
    mlp_learner,
    ndcg,
    neumf_learner,
    recall,
    rmse,
    svdpp_learner,
)
from fastrec.training.decay import WeightDecay

pytestmark = pytest.mark.filterwarnings('ignore:LeaveLastSplitter')


@pytest.fixture(scope='module')
def clicks():
    """Users of two groups click on items of their group, with a little noise; time runs on."""
    rng = np.random.default_rng(0)
    rows = []
    for u in range(80):
        own = np.arange(u % 2, 60, 2)
        items = np.concatenate([rng.choice(own, 12, replace=False), rng.integers(0, 60, 2)])
        rows += [(f'u{u:02}', 500 + i, t) for t, i in enumerate(rng.permutation(np.unique(items)))]
    return pd.DataFrame(rows, columns=['user', 'item', 'time'])


@pytest.fixture(scope='module')
def items():
    return pd.DataFrame(
        dict(item=500 + np.arange(60), title=[f'{"even" if i % 2 == 0 else "odd"} {i}' for i in range(60)])
    )


def loaders(clicks, items, **kw):
    return RecDataLoaders.from_df(
        clicks,
        item_df=items,
        target='implicit',
        splitter=kw.pop('splitter', LeaveLastSplitter(1, n_test=1)),
        bs=kw.pop('bs', 64),
        **kw,
    )


@pytest.fixture()
def idls(clicks, items):
    return loaders(clicks, items)


@pytest.fixture()
def udls(clicks, items):
    return loaders(clicks, items, n_neg=None, bs=16)


def quiet(learn):
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    return learn


# --- interactions


def test_threshold_weights_and_repeats():
    df = pd.DataFrame(
        [(1, 'a', 2.0, 0), (1, 'a', 5.0, 1), (1, 'b', 1.0, 2), (2, 'a', 4.0, 3), (2, 'c', 3.0, 4), (2, 'c', 4.0, 5)],
        columns=['user', 'item', 'rating', 'time'],
    )
    inter = Interactions.from_df(df, duplicates='keep').implicit(threshold=4)
    got = inter.to_df().assign(weight=inter.weights)
    assert got.values.tolist() == [
        [1, 'a', 5.0, 1, 1.0],
        [1, 'b', 1.0, 2, 0.0],
        [2, 'a', 4.0, 3, 1.0],
        [2, 'c', 4.0, 5, 1.0],
    ]
    assert inter.rows.tolist() == [1, 2, 3, 5]
    assert inter.positive().tolist() == [0, 2, 3]
    assert Interactions.from_df(df, duplicates='keep').implicit().weights.tolist() == [2.0, 1.0, 1.0, 2.0]
    assert Interactions.from_df(df, duplicates='keep').implicit(weighted=True).weights.tolist() == [7.0, 1.0, 4.0, 7.0]
    with pytest.raises(ValueError, match=r'no rating reaches threshold=9.*1 to 5'):
        Interactions.from_df(df, duplicates='keep').implicit(9)
    with pytest.raises(ValueError, match='rating_name='):
        Interactions.from_df(df[['user', 'item']], duplicates='keep').implicit(3)
    with pytest.raises(ValueError, match='negative'):
        Interactions.from_df(df.assign(rating=-df.rating), duplicates='keep').implicit(weighted=True)


def test_only_positives_are_held_out():
    rows = [(u, i, 5.0 if i < 3 else 1.0, i) for u in range(6) for i in range(5)]
    rows.remove((0, 4, 1.0, 4))
    rows.append((0, 5, 1.0, 9))
    df = pd.DataFrame(rows, columns=['user', 'item', 'rating', 'time'])
    dls = RecDataLoaders.from_df(df, target='implicit', threshold=4, splitter=LeaveLastSplitter(1), n_neg=1, bs=4)
    inter = dls.catalog.interactions
    split = dls.catalog.split
    assert (inter.items[split.valid] == 2).all()
    assert len(split.valid) == 6
    assert len(dls.train_ds) == 12, 'rows below the threshold are seen, not learned from'
    assert dls.catalog.require_history().seen.nnz == 24
    assert dls.catalog.require_history().positives.nnz == 12
    assert dls.catalog.counts['item'].tolist() == [6, 6, 0, 0, 0, 0]


# --- loaders


def test_negatives(idls):
    users, items, target = idls.one_batch()
    assert items.shape == target.shape == (64, 5)
    assert target.dtype == torch.float32
    assert items.dtype == torch.int64
    assert target[:, 0].eq(1).all()
    assert target[:, 1:].eq(0).all()
    seen = torch.from_numpy(idls.catalog.require_history().seen.toarray() != 0)
    for users, items, _ in idls.train:
        assert seen[users, items[:, 0]].all()
        assert not seen[users[:, None], items[:, 1:]].any()
        assert all(len(set(row)) == 5 for row in items.tolist())
    assert idls.n_inp == 2


def test_training_negatives_are_fresh_and_valid_ones_fixed(idls):
    def draw(dl):
        return torch.cat([b[1][:, 1:] for b in dl])

    dl = idls.train.new(shuffle=False)
    assert not torch.equal(draw(dl), draw(dl))
    assert torch.equal(draw(idls.valid), draw(idls.valid))
    assert torch.equal(draw(idls.train.new(shuffle=False, seed=4)), draw(idls.train.new(shuffle=False, seed=4)))


def test_training_may_draw_held_out_items(idls):
    """If it could not, the held-out items would be those that are never negatives, which gives them away."""
    inter = idls.catalog.interactions
    split = idls.catalog.split
    held = set(zip(inter.users[split.valid].tolist(), inter.items[split.valid].tolist()))

    def negatives(dl):
        for batch in dl:
            for user, items in zip(batch[0].tolist(), batch[1][:, 1:].tolist()):
                yield from ((user, item) for item in items)

    drawn = {pair for _ in range(30) for pair in negatives(idls.train)}
    assert held & drawn
    assert not held & set(negatives(idls.valid))


def test_weights_come_along(clicks, items):
    dls = loaders(pd.concat([clicks, clicks.head(300)]), items, splitter=TimeSplitter(0.2))
    _users, _its, _target, weight = dls.one_batch()
    assert weight.shape == (64,)
    assert set(weight.tolist()) <= {1.0, 2.0}
    learn = quiet(collab_learner(dls, n_factors=4))
    learn.fit(1, 1e-2)


def test_user_loader(udls):
    users, target = udls.one_batch()
    assert users.shape == (16,)
    assert target.shape == (16, 60)
    assert udls.n_inp == 1
    for part, dl in ((0, udls.train), (1, udls.valid), (2, udls.loaders[2])):
        users, target = (torch.cat(o) for o in zip(*dl.new(shuffle=False)))
        inter = udls.catalog.interactions
        split = udls.catalog.split
        want = np.zeros((80, 60))
        for rows, value in [(r, -1) for r in split[:part]] + [(split[part], 1)]:
            want[inter.users[rows], inter.items[rows]] = value
        assert np.array_equal(target.numpy(), want[users.numpy()])


def test_no_weights_no_column_in_the_common_case(idls):
    assert len(idls.one_batch()) == 3


def test_show_batch(idls, udls):
    df = idls.show_batch(show=False, max_n=2)
    assert list(df.columns) == ['user', 'item', 'title', 'label']
    assert df.label.tolist() == [1, 0, 0, 0, 0] * 2
    df = udls.show_batch(show=False, max_n=3)
    assert list(df.columns) == ['user', 'positives', 'among_them']
    assert len(df) == 3


def test_loader_errors(clicks, items):
    with pytest.raises(ValueError, match=r'n_neg=59 negatives cannot be drawn.*n_neg=\d+ or less'):
        loaders(clicks, items, n_neg=59)
    with pytest.raises(ValueError, match='n_neg=-1: negatives for each positive, 0 for'):
        loaders(clicks, items, n_neg=-1)
    with pytest.raises(ValueError, match="go with target='implicit'"):
        RecDataLoaders.from_df(clicks, threshold=3)
    with pytest.raises(ValueError, match="choose 'rating', 'liked' or 'implicit'"):
        RecDataLoaders.from_df(clicks, target='clicks')


# --- learners

BUILDERS = {
    'collab': lambda dls, **kw: collab_learner(dls, n_factors=8, **kw),
    'svdpp': lambda dls, **kw: svdpp_learner(dls, n_factors=8, **kw),
    'gmf': lambda dls, **kw: gmf_learner(dls, n_factors=8, **kw),
    'mlp': lambda dls, **kw: mlp_learner(dls, n_factors=8, layers=[16, 8], **kw),
    'neumf': lambda dls, **kw: neumf_learner(dls, n_factors=8, layers=[16, 8], **kw),
    'content': lambda dls, **kw: content_learner(
        dls, ItemFeatures.from_df(dls.item_df, text='title'), n_factors=8, hidden=16, **kw
    ),
    'gated': lambda dls, **kw: gated_learner(dls, ItemFeatures.from_df(dls.item_df, text='title'), n_factors=8, **kw),
}
CASES = [(name, False) for name in BUILDERS] + [('collab', True), ('svdpp', True), ('content', True), ('gated', True)]


@pytest.fixture(params=CASES, ids=lambda c: f'{c[0]}-{"users" if c[1] else "negatives"}')
def trained(request, clicks, items, tmp_path):
    name, whole = request.param
    dls = loaders(clicks, items, n_neg=None, bs=16) if whole else loaders(clicks, items)
    dls.path = tmp_path
    set_seed(0)
    learn = quiet(BUILDERS[name](dls, metrics=[hr(10), ndcg(10)]))
    learn.fit_one_cycle(12 if name != 'neumf' else 16, 3e-2)
    return learn


def test_planted_groups_are_found(trained):
    """Known answer: nearly all recommendations are of the user's own group, and ranking beats popularity."""
    recs = trained.recommend(trained.vocab['user'].ids, k=5)
    own = recs.user.str[1:].astype(int) % 2 == recs.item % 2
    assert own.mean() > 0.9
    assert (
        evaluate(trained, split='test').loc['all', 'ndcg@10']
        > 1.3 * evaluate(Popularity().fit(trained.dls), split='test').loc['all', 'ndcg@10']
    )


def test_verbs(trained, synthetic):
    assert trained.recorder.metric_names == ['epoch', 'train_loss', 'valid_loss', 'hr@10', 'ndcg@10', 'time']
    losses = [v[1] for v in trained.recorder.values]
    assert min(losses) < losses[0]
    assert trained.recorder.values[-1][3] == pytest.approx(evaluate(trained, trained.dls)['ndcg@10']['all'])
    trained.lr_find(show_plot=False)
    preds, target = trained.get_preds()
    assert preds.shape == target.shape
    trained.show_results(max_n=2)
    assert type(trained.model).__name__ in trained.summary()
    user = 'u03'
    item = 507
    score = trained.score_items(torch.tensor([3]))[0, 7]
    assert trained.predict(user, item) == pytest.approx(
        (score.sigmoid() if trained.scale == 'logit' else score).item(), abs=1e-4
    )
    trained.export()
    loaded = load_learner(trained.path / 'export.pkl')
    pd.testing.assert_frame_equal(
        loaded.recommend(user, 5, exclude_seen=False),
        trained.recommend(user, 5, exclude_seen=False),
        rtol=1e-4,
        atol=1e-5,
    )
    assert loaded.dls.catalog.interactions is None
    assert 'indices' not in dict(loaded.model.named_buffers())
    assert hasattr(trained.model, 'indices') == (type(trained.model).__name__ == 'SVDpp'), (
        'the learner at hand keeps its history'
    )
    trained.fit(1, 1e-3)


def test_validation_loss_is_the_same_twice(trained):
    assert trained.validate()[0] == pytest.approx(trained.validate()[0])


def test_save_the_best_epoch_by_rank(idls, tmp_path):
    idls.path = tmp_path
    set_seed(0)
    learn = quiet(collab_learner(idls, n_factors=8, metrics=ndcg(10)))
    learn.fit_one_cycle(
        6, 5e-2, cbs=[SaveModelCallback(monitor='ndcg@10'), EarlyStoppingCallback(monitor='ndcg@10', patience=9)]
    )
    best = max(v[2] for v in learn.recorder.values)
    assert evaluate(learn, metrics=ndcg(10)).loc['all', 'ndcg@10'] == pytest.approx(best)


def test_ranking_every_other_epoch_and_on_a_sample(idls, tmp_path):
    idls.path = tmp_path
    learn = quiet(collab_learner(idls, n_factors=4, cbs=RankingCallback([ndcg(5)], every=2, n_users=20)))
    learn.fit(5, 1e-2, cbs=SaveModelCallback(monitor='ndcg@5'))
    values = [v[2] for v in learn.recorder.values]
    assert np.isnan(values).tolist() == [True, False, True, False, False], 'each second epoch and the last'


def test_ranking_does_not_run_for_lr_find_and_get_preds(idls, monkeypatch):
    learn = quiet(collab_learner(idls, n_factors=4, metrics=ndcg(10)))
    monkeypatch.setattr('fastrec.training.callbacks.values_of_users', lambda *a, **k: pytest.fail('ranked'))
    learn.lr_find(show_plot=False)
    learn.get_preds()


def test_losses_in_the_learner(clicks, items):
    dls = loaders(clicks, items, alpha=0.75)
    sampler = dls.train.sampler
    for loss in (BPRLoss(), SampledSoftmaxLoss(sampler.probabilities.clamp(min=1e-9).log())):
        set_seed(0)
        learn = quiet(collab_learner(dls, n_factors=8, loss_func=loss, metrics=ndcg(10)))
        learn.fit_one_cycle(10, 3e-2)
        assert learn.scale == 'rank'
        assert learn.recorder.values[-1][2] > 1.2 * learn.recorder.values[0][2]


def test_pretrained_neumf_starts_ahead(idls):
    set_seed(0)
    cold = quiet(neumf_learner(idls, n_factors=8, layers=[16, 8], metrics=ndcg(10)))
    warm = quiet(neumf_learner(idls, n_factors=8, layers=[16, 8], pretrain=8, pretrain_lr=3e-2, metrics=ndcg(10)))
    assert warm.validate()[1] > 1.3 * cold.validate()[1]


def test_builder_errors(idls, udls, dls):
    with pytest.raises(ValueError, match=r'y_range=.*leave it out'):
        collab_learner(idls, y_range=(0, 5))
    with pytest.raises(ValueError, match='rmse and mae compare ratings'):
        collab_learner(idls, metrics=[rmse, mae])
    with pytest.raises(ValueError, match="target='implicit'"):
        gmf_learner(dls)
    with pytest.raises(ValueError, match='n_neg=4'):
        neumf_learner(udls)


def test_get_preds_refuses_what_does_not_fit(udls, monkeypatch):
    monkeypatch.setattr('fastrec.training.learner.PREDS_BUDGET', 1000)
    with pytest.raises(MemoryError, match='recommend'):
        quiet(collab_learner(udls)).get_preds()


# --- evaluation


def slow_ranks(scorer, catalog, split):
    """Rank of each held-out item by sorting, seen items left out."""
    inter = catalog.interactions
    parts = catalog.split
    before = [parts.train] if split == 'valid' else [parts.train, parts.valid]
    res = {}
    for row in getattr(parts, split):
        u = inter.users[row]
        i = inter.items[row]
        scores = scorer.score_items(torch.tensor([u]))[0].double().numpy()
        mask = np.zeros(len(scores), bool)
        for rows in before:
            mask[inter.items[rows][inter.users[rows] == u]] = True
        others = scores[~mask]
        res[catalog.vocab['user'].ids[u]] = 1 + (others > scores[i]).sum() + ((others == scores[i]).sum() - 1) / 2
    return pd.Series(res).sort_index()


@pytest.mark.parametrize('split', ['valid', 'test'])
def test_whole_catalogue_against_a_slow_reference(idls, split, monkeypatch):
    for scorer in (Popularity().fit(idls), EASE(50.0).fit(idls)):
        want = slow_ranks(scorer, idls.catalog, split)
        got = evaluate_users(scorer, idls, [hr(10), ndcg(10)], split=split)
        assert got.index.tolist() == want.index.tolist()
        assert got['hr@10'].tolist() == (want <= 10).astype(float).tolist()
        assert got['ndcg@10'].tolist() == pytest.approx(np.where(want <= 10, 1 / np.log2(want + 1), 0).tolist())
        monkeypatch.setattr('fastrec.scorers.recommend.MEMORY_BUDGET', 8 * 60 * 7)
        pd.testing.assert_frame_equal(evaluate_users(scorer, idls, [hr(10), ndcg(10)], split=split), got)


def test_several_cut_offs(idls):
    table = evaluate(EASE(50.0).fit(idls), idls, [hr(10), auc()], k=[1, 5, 20])
    assert list(table.columns) == ['users', 'hr@1', 'hr@5', 'hr@20', 'auc']
    assert table.loc['all'].iloc[1:4].is_monotonic_increasing
    assert table.users['all'] == 80


def test_sampled_protocols_are_labelled(idls):
    scorer = EASE(50.0).fit(idls)
    table = evaluate(scorer, idls, hr(10), n_candidates=20)
    assert list(table.columns) == ['users', 'hr@10 (1+20 sampled)']
    assert table.iloc[0, 1] > evaluate(scorer, idls, hr(10)).iloc[0, 1]
    whole = evaluate_users(scorer, idls, [ndcg(10)])
    unseen = pd.DataFrame(
        [(u, i) for u in idls.vocab['user'].ids for i in idls.vocab['item'].ids], columns=['user', 'item']
    )
    seen = idls.catalog.interactions.to_df(idls.catalog.split.train)[['user', 'item']]
    given = unseen.merge(seen, how='left', indicator=True).query("_merge == 'left_only'")
    got = evaluate_users(scorer, idls, [ndcg(10)], candidates=given)
    assert list(got.columns) == ['ndcg@10 (given candidates)']
    assert got.iloc[:, 0].tolist() == pytest.approx(whole.iloc[:, 0].tolist())
    with pytest.raises(KeyError, match='unknown item id: 999'):
        evaluate(scorer, idls, hr(10), candidates=pd.DataFrame(dict(user=['u01'], item=[999])))
    with pytest.raises(ValueError, match='n_candidates=55'):
        evaluate(scorer, idls, hr(10), n_candidates=55)
    with pytest.raises(ValueError, match='not both'):
        evaluate(scorer, idls, hr(10), n_candidates=5, candidates=given)


def test_leakage_is_found(clicks, items):
    a = loaders(clicks, items, splitter=KFoldSplitter(5)[0])
    b = loaders(clicks, items, splitter=KFoldSplitter(5)[1])
    with pytest.raises(ValueError, match='training rows of the scorer'):
        evaluate(EASE().fit(a), b)
    assert len(evaluate(EASE().fit(a), loaders(clicks, items, splitter=KFoldSplitter(5)[0])))
    other = RecDataLoaders.from_df(clicks[clicks.item < 540], target='implicit', bs=64)
    with pytest.raises(ValueError, match='other users or items'):
        evaluate(EASE().fit(other), a)


def test_leave_last_warns(clicks):
    with pytest.warns(UserWarning, match='what others did later'):
        LeaveLastSplitter(1)(Interactions.from_df(clicks))


def test_explicit_ratings_need_relevant(dls):
    learn = as_trained(collab_learner(dls, n_factors=4, y_range=(0.5, 5.5)))
    with pytest.raises(ValueError, match='relevant='):
        evaluate(learn, metrics=ndcg(10))
    table = evaluate(learn, metrics=recall(10), relevant=4)
    inter = dls.catalog.interactions
    rows = dls.catalog.split.valid
    assert table.users['all'] == len(np.unique(inter.users[rows][inter.ratings[rows] >= 4]))
    with pytest.raises(ValueError, match='no rating reaches 9'):
        evaluate(learn, metrics=recall(10), relevant=9)


def test_users_to_evaluate(idls):
    scorer = Popularity().fit(idls)
    assert len(evaluate_users(scorer, idls, ndcg(5), users=13)) == 13
    assert evaluate_users(scorer, idls, ndcg(5), users=['u07']).index.tolist() == ['u07']
    assert evaluate_users(scorer, idls, ndcg(5), users=13).equals(evaluate_users(scorer, idls, ndcg(5), users=13))


def test_errors_of_a_ranker_are_refused(idls, dls):
    with pytest.raises(ValueError, match="scale 'rank'"):
        evaluate(Popularity().fit(dls), dls, [rmse])


def test_diverged_scores_are_an_error(idls):
    scorer = Popularity().fit(idls)
    scorer.scores[:] = float('nan')
    with pytest.raises(ValueError, match='not numbers'):
        evaluate(scorer, idls)


def test_compare_models(idls):
    models = {'popular': Popularity().fit(idls), 'EASE': EASE(50.0).fit(idls), 'KNN': ItemKNN(20, 5.0).fit(idls)}
    table = compare_models(models, idls, [hr(10), ndcg(10)], plot=True)
    per_user = table.attrs['per_user']
    part = table.loc['ndcg@10']
    assert part['mean'].to_dict() == pytest.approx({name: per_user[name, 'ndcg@10'].mean() for name in models})
    best = part['mean'].idxmax()
    assert (part.low <= part['mean']).all()
    assert (part['mean'] <= part.high).all()
    assert part.difference[best] == 0
    assert np.isnan(part.p[best])
    assert part.p['popular'] < 0.01
    import matplotlib.pyplot as plt

    axes = plt.gcf().axes
    assert [ax.get_xlabel() for ax in axes] == ['hr@10, mean over users', 'ndcg@10, mean over users']
    plt.close('all')
    assert compare_models(
        {'a': models['EASE'], 'b': copy.copy(models['EASE'])}, idls, ndcg(10), plot=False
    ).p.dropna().tolist() == [1.0]


# --- baselines


def test_popularity(idls):
    base = Popularity().fit(idls)
    assert base.score_items(torch.tensor([0, 1]))[1].tolist() == idls.catalog.counts['item'].tolist()
    assert base.score(torch.tensor([0]), torch.tensor([4])).item() == idls.catalog.counts['item'][4]


def test_ease_against_its_definition(idls):
    """Each column solves the ridge regression on all other columns (Steck 2019, eq. 3)."""
    x = idls.catalog.require_history().positives.toarray().astype(float)
    base = EASE(20.0).fit(idls)
    for j in (0, 17):
        others = np.delete(np.arange(x.shape[1]), j)
        w = np.linalg.solve(x[:, others].T @ x[:, others] + 20.0 * np.eye(len(others)), x[:, others].T @ x[:, j])
        assert base.weights[others, j] == pytest.approx(w, abs=1e-5)
        assert base.weights[j, j] == 0
    assert base.score_items(torch.tensor([3]))[0].numpy() == pytest.approx(x[3] @ base.weights, abs=1e-4)
    assert base.score(torch.tensor([3, 5, 3]), torch.tensor([1, 2, 9])).tolist() == pytest.approx(
        [(x[3] @ base.weights)[1], (x[5] @ base.weights)[2], (x[3] @ base.weights)[9]], abs=1e-4
    )


def test_counts_with_a_long_tail_are_warned_of(clicks, items):
    counts = clicks.assign(rating=1.0)
    counts.loc[counts.index[:5], 'rating'] = 1000.0
    with pytest.warns(
        UserWarning, match=r'1% of the positives have 8\d% of the weight \(up to 1,000, the median is 1\).*np.log1p'
    ):
        loaders(counts, items, weighted=True)
    with pytest.warns(UserWarning, match='drop_duplicates'):
        loaders(counts.loc[counts.index.repeat(counts.rating.astype(int))], items)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='.*of the weight')
        loaders(counts.assign(rating=np.log1p(counts.rating)), items, weighted=True)


@pytest.mark.filterwarnings('ignore:1%')
def test_counts_do_not_drown_the_item_models(clicks, items):
    once, counted = (
        loaders(clicks.assign(rating=rating), items, weighted=weighted)
        for rating, weighted in ((1.0, False), (10.0 ** (np.arange(len(clicks)) % 5), True))
    )
    assert counted.catalog.require_history().positives.data.max() >= 1e4
    for scorer in (EASE(20.0), ItemKNN(5, 3.0)):
        a, b = (scorer.fit(dls).score_items(torch.arange(6)) for dls in (once, counted))
        assert a.abs().max() > 0
        assert torch.allclose(a, b, atol=1e-5)


def test_item_knn_against_its_definition(idls):
    x = idls.catalog.require_history().positives.toarray().astype(float)
    common = x.T @ x
    norms = np.sqrt(np.diag(common))
    s = common / (np.outer(norms, norms) + 3.0)
    np.fill_diagonal(s, 0)
    for i in range(len(s)):
        s[i, np.argsort(-s[i], kind='stable')[5:]] = 0
    got = ItemKNN(5, 3.0).fit(idls).weights.toarray().T
    assert (np.count_nonzero(got, axis=1) <= 5).all()
    assert np.sort(got, 1) == pytest.approx(np.sort(s, 1), abs=1e-5)
    assert ItemKNN(5, 3.0).fit(idls).recommend('u00', 4).shape[0] == 4


def test_ials(idls):
    pytest.importorskip('implicit')
    from fastrec.all import IALS

    base = IALS(n_factors=8, n_iter=5).fit(idls)
    assert evaluate(base, idls).loc['all', 'ndcg@10'] > evaluate(Popularity().fit(idls), idls).loc['all', 'ndcg@10']
    assert base.score(torch.tensor([2]), torch.tensor([3])).item() == pytest.approx(
        base.score_items(torch.tensor([2]))[0, 3].item(), abs=1e-5
    )


def test_ials_names_its_extra(idls, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, 'implicit.als', None)
    from fastrec.all import IALS

    with pytest.raises(ImportError, match=r'fastrec-learn\[implicit\]'):
        IALS().fit(idls)


def test_baselines_on_ratings_count_rows(dls):
    assert Popularity().fit(dls).scores.tolist() == dls.catalog.counts['item'].tolist()
    assert EASE().fit(dls).recommend(dls.vocab['user'].ids[0], 3).shape[0] == 3


def test_baselines_show_their_settings(idls):
    from fastrec.all import IALS, Baseline, BiasOnly, GlobalMean

    assert repr(EASE(l2=200)) == 'EASE(l2=200), not fitted'
    assert repr(EASE(l2=200).fit(idls)) == 'EASE(l2=200)'
    assert repr(GlobalMean()) == 'GlobalMean(), not fitted'
    for made in (EASE(7.0), ItemKNN(5, 3.0), BiasOnly((1.0, 2.0)), GlobalMean(), Popularity(), IALS(8, alpha=2.0)):
        assert isinstance(made, Baseline)
        assert type(made)(**made.config()).config() == made.config()


# --- beyond accuracy, and by group


def test_list_metrics_by_hand(idls):
    from fastrec.all import coverage, diversity, gini, novelty, popularity_lift, serendipity

    metrics = [coverage(5), gini(5), novelty(5), popularity_lift(5), diversity(5), serendipity(5), ndcg(5)]
    scorer = EASE(50.0).fit(idls)
    per_user = evaluate_users(scorer, idls, metrics)
    catalog = idls.catalog
    inter = idls.catalog.interactions
    split = idls.catalog.split
    x = catalog.require_history().positives.toarray() > 0
    counts = x.sum(0)
    cosine = (x.T.astype(float) @ x) / np.sqrt(np.outer(counts, counts))
    lists = scorer.recommend(per_user.index, 5)
    times = np.zeros(60)
    for user in per_user.index[:25]:
        items = catalog.vocab['item'].encode(lists.item[lists.user == user])
        mine = x[catalog.vocab['user'].encode([user])[0]]
        held = set(inter.items[split.valid][inter.users[split.valid] == catalog.vocab['user'].encode([user])[0]])
        row = per_user.loc[user]
        assert row['novelty@5'] == pytest.approx(np.mean(-np.log2(counts[items] / 80)))
        assert row['popularity_lift@5'] == pytest.approx(counts[items].mean() / counts[mine].mean())
        cosines = [cosine[i, j] for i, j in itertools.permutations(items, 2)]
        assert row['diversity@5'] == pytest.approx(1 - np.mean(cosines), abs=1e-5)
        assert row['serendipity@5'] == pytest.approx(
            np.mean([(i in held) * (1 - cosine[i, mine].mean()) for i in items]), abs=1e-5
        )
    np.add.at(times, catalog.vocab['item'].encode(lists.item), 1)
    overall = evaluate(scorer, idls, metrics).loc['all']
    assert overall['coverage@5'] == pytest.approx((times > 0).mean())
    assert overall['gini@5'] == pytest.approx(np.abs(times[:, None] - times).sum() / (2 * 60 * times.sum()))
    assert overall['novelty@5'] == pytest.approx(per_user['novelty@5'].mean())
    with pytest.raises(ValueError, match='whole catalogue'):
        evaluate(scorer, idls, novelty(5), n_candidates=20)


def test_given_vectors_say_how_alike_items_are(idls):
    from fastrec.all import diversity

    base = Popularity().fit(idls)
    same = torch.ones(60, 2)
    apart = torch.eye(60)
    assert evaluate(base, idls, diversity(5), vectors=same).loc['all', 'diversity@5'] == pytest.approx(0, abs=1e-6)
    assert evaluate(base, idls, diversity(5), vectors=apart).loc['all', 'diversity@5'] == pytest.approx(1)


def test_popularity_recommends_few_items(idls):
    from fastrec.all import coverage, gini, popularity_lift

    table = {
        n: evaluate(s, idls, [coverage(5), gini(5), popularity_lift(5)]).loc['all']
        for n, s in {'popular': Popularity().fit(idls), 'EASE': EASE(50.0).fit(idls)}.items()
    }
    assert table['popular']['coverage@5'] < table['EASE']['coverage@5']
    assert table['popular']['gini@5'] > table['EASE']['gini@5']
    assert table['popular']['popularity_lift@5'] > table['EASE']['popularity_lift@5']
    assert table['popular']['popularity_lift@5'] > 1


def test_by_group(clicks, items):
    dls = loaders(clicks.sample(frac=0.7, random_state=0), items)
    scorer = Popularity().fit(dls)
    per_user = evaluate_users(scorer, dls, ndcg(10))
    for by in ('history', 'popularity'):
        table = evaluate(scorer, dls, ndcg(10), by=by)
        assert 2 <= len(table) <= 4
        assert table.users.sum() == len(per_user)
        assert (table['ndcg@10'] * table.users).sum() / len(per_user) == pytest.approx(per_user['ndcg@10'].mean())
    assert table['ndcg@10'].iloc[-1] > table['ndcg@10'].iloc[0], 'popular items are what popularity finds'
    with pytest.raises(ValueError, match="'history' or 'popularity'"):
        evaluate(scorer, dls, ndcg(10), by='age')


def test_list_metrics_in_the_training_table(idls):
    from fastrec.all import coverage

    learn = quiet(collab_learner(idls, n_factors=4, metrics=[ndcg(5), coverage(5)]))
    learn.fit(1, 1e-2)
    assert learn.recorder.metric_names[3:5] == ['ndcg@5', 'coverage@5']
    assert 0 < learn.recorder.values[-1][3] <= 1


def test_blend(idls):
    from fastrec.all import Blend

    a = Popularity().fit(idls)
    b = EASE(50.0).fit(idls)
    users = torch.tensor([3, 8])

    def z(s):
        return (s - s.mean(1, keepdim=True)) / s.std(1, keepdim=True)

    want = 0.25 * z(a.score_items(users)) + 0.75 * z(b.score_items(users))
    blend = Blend([a, b], [0.25, 0.75])
    assert torch.allclose(blend.score_items(users), want, atol=1e-5)
    assert torch.allclose(
        blend.score(torch.tensor([8, 3, 8]), torch.tensor([1, 2, 3])),
        torch.stack([want[1, 1], want[0, 2], want[1, 3]]),
        atol=1e-5,
    )
    assert Blend({'only': b}).recommend('u01', 4).item.tolist() == b.recommend('u01', 4).item.tolist()
    assert len(evaluate(blend, idls)) == 1
    with pytest.raises(ValueError, match='2 scorers, but 1 weights'):
        Blend([a, b], [1.0])
    with pytest.raises(ValueError, match='nothing to blend'):
        Blend([])


def test_summary_counts_positives():
    df = pd.DataFrame(
        [(u, i, 5.0 if i < 3 else 1.0, i) for u in range(6) for i in range(5)],
        columns=['user', 'item', 'rating', 'time'],
    )
    text = RecDataLoaders.from_df(
        df, target='implicit', threshold=4, splitter=LeaveLastSplitter(1), n_neg=None, bs=4
    ).summary()
    assert '18 rows are positives' in text
    assert 'training positives per item: min 6, quartiles 6 / 6 / 6, max 6; without any: 3' in text


def test_ranking_a_rating_model_while_it_trains(dls):
    with pytest.raises(ValueError, match=r'RankingCallback\(\[ndcg\(10\)\], relevant=4\)'):
        quiet(collab_learner(dls, n_factors=4, metrics=ndcg(10))).fit(1)
    learn = quiet(collab_learner(dls, n_factors=4, metrics=rmse, cbs=RankingCallback([recall(20)], relevant=4)))
    learn.fit(1, 1e-2)
    assert learn.recorder.metric_names == ['epoch', 'train_loss', 'valid_loss', 'rmse', 'recall@20', 'time']
    assert learn.recorder.values[-1][3] == pytest.approx(
        evaluate(learn, metrics=recall(20), relevant=4).loc['all', 'recall@20']
    )


def test_holm_by_hand():
    from fastrec.evaluation.compare import _holm

    want = dict(a=0.04, c=0.09, b=0.09, d=0.5)  # 4 x .01, 3 x .03, max(.09, 2 x .04), .5
    assert _holm(dict(a=0.01, b=0.04, c=0.03, d=0.5)) == pytest.approx(want)
    assert _holm(dict(a=0.4, b=0.6)) == pytest.approx(dict(a=0.8, b=0.8))


def test_weight_decay_over_the_whole_catalogue(udls):
    """The optimizer decays the factors of all rows, and not the biases; there is no L2 per row besides."""
    learn = quiet(svdpp_learner(udls, n_factors=4))
    learn.fit(1, 1e-3, wd=0.3)
    free, decayed = ({id(p) for p in g} for g in learn.opt.param_lists)
    assert [h['wd'] for h in learn.opt.hypers] == [0.0, 0.3]
    by_rows = WeightDecay(learn.model, learn.opt, 0.3, by_rows=False)
    assert by_rows.l2 == 0
    assert all(table.decay == 0 for table in by_rows.tables)
    m = learn.model
    assert decayed == {id(t.weight) for t in (m.user_factors, m.item_factors, m.history_factors)}
    assert free == {id(p) for p in (m.user_biases.weight, m.item_biases.weight, m.mean)}
