"""What belongs to an interaction itself (context), side features and weights of ratings.

From the table to the scores.
"""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import nn

from fastrec.all import (
    ItemFeatures,
    RecDataLoaders,
    UserFeatures,
    collab_learner,
    ensemble_learner,
    evaluate,
    load_learner,
    load_recommender,
    mlp_learner,
    rmse,
    save_recommender,
    svdpp_learner,
)
from fastrec.data.interactions import Context, Interactions
from fastrec.models import DotBias, SVDpp, TimeDependentBias
from fastrec.models.losses import MSELoss


def quiet(learn, epochs=0, lr=5e-3):
    with learn.no_bar(), learn.no_logging():
        if epochs:
            learn.fit_one_cycle(epochs, lr)
    return learn


@pytest.fixture(scope='module')
def moody():
    """Ratings given in sittings, each with a mood of its own.

    A device that takes something off; genres and ages that say who likes what.
    """
    rng = np.random.default_rng(0)
    n_users = 80
    n_items = 60
    rows = []
    genre = rng.integers(0, 3, n_items)
    age = rng.integers(0, 2, n_users)
    taste = rng.normal(0, 0.8, (2, 3))
    for u in range(n_users):
        items = rng.permutation(n_items)[:36]
        for s, part in enumerate(np.split(items, 6)):
            mood = rng.normal(0, 1)
            device = rng.integers(0, 2)
            rows += [
                (
                    u,
                    i,
                    3 + mood - 0.8 * device + taste[age[u], genre[i]] + rng.normal(0, 0.3),
                    10**9 + 10**6 * s + 20 * k,
                    ['phone', 'tv'][device],
                )
                for k, i in enumerate(part)
            ]
    df = pd.DataFrame(rows, columns=['user', 'item', 'rating', 'time', 'device'])
    df['rating'] = df.rating.clip(0, 6).round(1)
    return (
        df.sample(frac=1, random_state=0, ignore_index=True),
        pd.DataFrame(dict(item=range(n_items), genre=genre.astype(str))),
        pd.DataFrame(dict(user=range(n_users), age=age.astype(str))),
    )


def loaders(df, **kw):
    return RecDataLoaders.from_df(df, seed=0, bs=128, **kw)


# --- from columns to numbers


def test_context_encodes_categories_bins_and_times():
    df = pd.DataFrame(
        dict(
            user=[1, 1, 2, 2],
            item=[1, 2, 1, 2],
            rating=[1.0, 2.0, 3.0, 4.0],
            when=pd.to_datetime(
                ['2020-01-01 00:00:00', '2020-01-02 00:00:00', '2020-01-02 00:00:05', '2020-02-01 00:00:00']
            ),
            device=['tv', None, 'phone', 'tv'],
        )
    )
    context = Context.fit(df, ['when', 'device'], dict(time='when'))
    codes = context.encode(df)
    assert context.sizes == [0, 3]
    assert context.time_column == 0
    assert codes[:, 1].tolist() == [2, 0, 1, 2], 'seconds; a missing value is not given'
    assert np.diff(codes[:, 0]).tolist() == [86400, 5, 30 * 86400 - 5], 'seconds; a missing value is not given'
    assert context.encode(df[['user']]).tolist() == [[-1, 0]] * 4, 'of rows to predict, what is not known is not given'
    assert context.encode(pd.DataFrame(dict(device=['radio']))).tolist() == [[-1, 0]], (
        'of rows to predict, what is not known is not given'
    )
    assert context.of({}).tolist() == [-1, 0]
    assert context.of(dict(when='2020-01-02', device='tv')).tolist() == codes[1, :1].tolist() + [2]
    assert context.decode(codes).device.tolist() == ['tv', None, 'phone', 'tv']
    with pytest.raises(KeyError, match="no context is called 'mood'"):
        context.of(dict(mood=1))
    many = pd.DataFrame(dict(x=np.r_[np.arange(999.0), np.nan]))
    bins = Context.fit(many, 'x')
    counts = np.bincount(bins.encode(many)[:, 0])
    assert bins.sizes == [21]
    assert counts[0] == 1
    assert counts[1:].min() >= 49
    assert bins.encode(pd.DataFrame(dict(x=[-5.0, 5000.0])))[:, 0].tolist() == [1, 20]
    assert '[' in bins.decode(bins.encode(many)).x[0]


def test_times_of_any_kind_become_whole_numbers():
    for times in (
        np.array([5, 7, 1000]),
        np.array([0.5, 0.75, 2.0]),
        pd.to_datetime(['2020-01-01', '2021-01-01', '2021-01-02']).to_numpy(),
    ):
        df = pd.DataFrame(dict(time=times))
        context = Context.fit(df, 'time', dict(time='time'))
        codes = context.encode(df)[:, 0]
        assert (np.diff(codes) > 0).all()
        assert context.of(dict(time=times[1]))[0] == codes[1]
    back = Context.fit(pd.DataFrame(dict(time=[0.5, 0.75, 2.0])), 'time', dict(time='time'))
    assert np.allclose(
        back.decode(back.encode(pd.DataFrame(dict(time=[0.5, 0.75, 2.0])))).time, [0.5, 0.75, 2.0], atol=1e-6
    )
    unix = Context.fit(pd.DataFrame(dict(time=[10**9, 10**9 + 60])), 'time', dict(time='time'))
    assert unix.of(dict(time=pd.Timestamp(10**9, unit='s')))[0] == 10**9, 'a date for a table of seconds since 1970'
    with pytest.raises(ValueError, match='neither numbers nor datetimes'):
        unix.of(dict(time='soon'))


def test_context_says_what_is_wrong(moody):
    df = moody[0]
    with pytest.raises(ValueError, match="no column 'mood'"):
        loaders(df, context='mood')
    with pytest.raises(ValueError, match='already'):
        loaders(df, context=['rating'])
    with pytest.raises(ValueError, match='a column twice'):
        loaders(df, context=['device', 'device'])
    with pytest.raises(ValueError, match='for ratings'):
        loaders(df, context='device', target='implicit')
    with pytest.raises(ValueError, match='two of them are times'):
        loaders(df.assign(seen=pd.to_datetime(df.time, unit='s')), context=['time', 'seen'])
    with pytest.raises(ValueError, match='does not read'):
        mlp_learner(loaders(df, context='device'))
    with pytest.raises(ValueError, match='the time alone'):
        collab_learner(loaders(df, context='time'))
    with pytest.raises(TypeError, match='reads no context'):
        collab_learner(loaders(df)).in_context(dict(device='tv'))
    with pytest.raises(KeyError, match=r"device='fridge' is in no row: known are 'phone', 'tv'. Leave it out"):
        collab_learner(loaders(df, context='device')).in_context(dict(device='fridge'))


def test_context_goes_through_the_loaders(moody):
    df = moody[0]
    dls = loaders(df, context=['time', 'device'])
    users, items, context, target = dls.one_batch()
    assert dls.n_inp == 3
    assert context.shape == (128, 2)
    assert context.dtype == torch.int64
    assert target.shape == (128,)
    want = df.set_index(['user', 'item'])
    ids = dls.vocab['user'].decode(users.cpu()), dls.vocab['item'].decode(items.cpu())
    rows = want.loc[list(zip(*ids))]
    assert (rows.time.to_numpy() == context[:, 0].cpu().numpy()).all()
    assert (rows.device.map(dict(phone=1, tv=2)).to_numpy() == context[:, 1].cpu().numpy()).all()
    shown = dls.show_batch(show=False)
    assert {'user', 'item', 'rating', 'time', 'device'} <= set(shown)
    assert shown.device.isin(['phone', 'tv']).all()
    test = dls.test_dl(df[['user', 'item', 'device']].head(7))
    assert next(iter(test))[2][:, 0].tolist() == [-1] * 7
    assert test.n_inp == 3
    assert len(dls.test_dl(df.head(7), with_labels=True).one_batch()) == 4
    twice = Interactions.from_df(
        pd.concat([df.head(9), df.head(3).assign(device='tv')]), duplicates='last', context='device'
    )
    assert len(twice.context) == len(twice) == 9


# --- a user's bias at a time, by hand


def test_time_dependent_bias_by_hand():
    rng = np.random.default_rng(1)
    dense = rng.random((4, 9)) < 0.7
    dense[3] = False
    times = csr_matrix(np.where(dense, rng.integers(100, 130, dense.shape), 0)).astype(np.int64).sorted_indices()
    residual = rng.normal(size=times.nnz).astype(np.float32)
    bias = TimeDependentBias(times, residual)
    with torch.no_grad():
        bias.kernel.copy_(torch.randn(len(bias.kernel)))
    r = csr_matrix((residual, times.indices, times.indptr), shape=times.shape).toarray()

    def by_hand(u, i, t):
        top = bottom = 0.0
        for j in range(9):
            if not dense[u, j] or j == i:
                continue
            d = abs(t - times[u, j])
            w = np.exp(bias.kernel[0 if d == 0 else 1 + int(np.log2(d))].item())
            top = top + w * r[u, j]
            bottom = bottom + w
        return bias.amplitude.item() * top / (bottom + np.exp(bias.damping.item()))

    users = torch.tensor([0, 0, 1, 2, 2, 3])
    items = torch.tensor([0, 4, 8, 3, 3, 1])
    when = torch.tensor([100, 117, 128, 5, 4000, 110])
    want = [by_hand(*o) for o in zip(users.tolist(), items.tolist(), when.tolist())]
    assert np.allclose(bias(users, items, when).detach(), want, atol=1e-5)
    assert bias(users, items, torch.full((6,), -1)).abs().max() == 0, 'no time, no bias of the time'
    whole = bias.all_items(users, when, 9)
    assert np.allclose(
        whole.detach(), [[by_hand(u, i, t) for i in range(9)] for u, t in zip(users.tolist(), when.tolist())], atol=1e-5
    )
    empty = TimeDependentBias(csr_matrix((2, 3), dtype=np.int64), np.zeros(0, np.float32))
    assert empty(torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([5, 6])).tolist() == [0, 0]


# --- what it is good for


def test_time_dependent_bias_of_times_as_fine_as_nanoseconds():
    """A user's neighbors are the user's own, however many users and moments there are."""
    n = 5000
    late = 10**18
    times = csr_matrix(([10**17, late, late + 10**9], ([0, n - 1, n - 1], [0, 1, 2])), shape=(n, 3), dtype=np.int64)
    bias = TimeDependentBias(times, np.array([1.0, -1.0, 1.0], np.float32))
    got = bias(
        torch.tensor([0, n - 1, n - 1, n // 2]),
        torch.tensor([1, 1, 0, 0]),
        torch.tensor([10**17 + 10**9, late, late, late]),
    ).detach()
    assert got[0] > 0
    assert got[1] > 0 > got[2]
    assert got[3] == 0
    assert got[1] == pytest.approx(got[0].item(), rel=0.2), 'a second away, either way'


def test_context_takes_off_the_error(moody):
    df = moody[0]
    found = {}
    for name, context in (('ids', None), ('device', 'device'), ('time', 'time'), ('both', ['time', 'device'])):
        torch.manual_seed(0)
        learn = quiet(svdpp_learner(loaders(df, context=context), n_factors=4), 5, 1e-2)
        found[name] = evaluate(learn).rmse['all']
    assert found['device'] < found['ids'] - 0.02, found
    assert found['time'] < found['ids'] - 0.15, found
    assert found['both'] < found['time'], found


@pytest.fixture(scope='module')
def learn(moody):
    df, items, _users = moody
    torch.manual_seed(0)
    return quiet(
        svdpp_learner(
            loaders(df, item_df=items, context=['time', 'device']),
            n_factors=4,
            item_features=ItemFeatures.from_df(items, category='genre'),
            metrics=rmse,
        ),
        3,
    )


def test_each_row_is_scored_in_its_context(learn, moody):
    df = moody[0]
    preds, target = learn.get_preds()
    assert (
        learn.recorder.values[-1][-1]
        == pytest.approx(evaluate(learn).rmse['all'], abs=1e-5)
        == (preds - target).square().mean().sqrt().item()
    )
    rows = learn.catalog.split.valid[:5]
    in_context = learn.score_rows(learn.catalog.interactions, rows).cpu()
    assert torch.allclose(in_context, preds[:5], atol=1e-5)
    row = df.iloc[rows[0]]
    now = learn.in_context(dict(time=row.time, device=row.device))
    assert now.predict(row.user, row['item']) == pytest.approx(in_context[0].item(), abs=1e-5)
    assert learn.predict(row.user, row['item']) != pytest.approx(in_context[0].item(), abs=1e-3)
    table = learn.get_preds(dl=learn.dls.test_dl(df.iloc[rows]))[0]
    assert torch.allclose(table, in_context, atol=1e-5)


def test_whole_catalogue_in_context_is_the_pairs_in_context(learn):
    now = learn.in_context(dict(time=10**9 + 3 * 10**6 + 50, device='tv'))
    users = torch.arange(3).repeat_interleave(60)
    items = torch.arange(60).repeat(3)
    for scorer in (now, learn, learn.in_context(dict(device='phone'))):
        assert torch.allclose(
            scorer.score_items(torch.arange(3)).cpu().reshape(-1), scorer.score(users, items).cpu(), atol=1e-4
        )
    best = now.recommend([0, 1], k=3)
    assert best.score.tolist() == pytest.approx([now.predict(u, i) for u, i in zip(best.user, best['item'])], abs=1e-4)
    tv, phone = (learn.in_context(dict(device=o)).score_items(torch.arange(3)).mean().item() for o in ('tv', 'phone'))
    assert tv < learn.score_items(torch.arange(3)).mean().item() < phone, 'what is not given is between the levels'
    for user, item in ((0, 1), (3, 5)):
        parts = learn.model.explain(user, item)
        x = parts['mean'] + parts['user_bias'] + parts['item_bias'] + parts['factors'].sum().item()
        lo, hi = learn.model.y_range
        assert learn.score(torch.tensor([user]), torch.tensor([item])).item() == pytest.approx(
            lo + (hi - lo) / (1 + np.exp(-x)), abs=1e-4
        )


def test_collab_learner_reads_levels(moody):
    df = moody[0]
    torch.manual_seed(0)
    plain, levels = (
        quiet(collab_learner(loaders(df, context=o), n_factors=4, y_range=(-0.5, 6.5)), 5, 1e-2)
        for o in (None, 'device')
    )
    assert evaluate(levels).rmse['all'] < evaluate(plain).rmse['all'] - 0.02
    users = torch.arange(3).repeat_interleave(60)
    items = torch.arange(60).repeat(3)
    now = levels.in_context(dict(device='tv'))
    assert type(levels.model) is DotBias
    assert torch.allclose(now.score_items(torch.arange(3)).reshape(-1), now.score(users, items), atol=1e-4)
    assert now.recommend([0], k=2).score.tolist() == pytest.approx(
        [now.predict(0, i) for i in now.recommend([0], k=2)['item']], abs=1e-4
    )


def test_learners_with_context_travel(learn, tmp_path):
    users = torch.arange(3).repeat_interleave(60)
    items = torch.arange(60).repeat(3)
    want = learn.in_context(dict(device='tv'))
    learn.path = tmp_path
    learn.save('m')
    learn.load('m')
    learn.export('e.pkl')
    for other in (load_learner(tmp_path / 'e.pkl'), load_recommender(save_recommender(learn, tmp_path / 'r'))):
        there = other.in_context(dict(device='tv'))
        assert torch.allclose(there.score(users, items), want.score(users, items), atol=1e-4)
        assert torch.allclose(other.score(users, items), learn.score(users, items), atol=1e-4)
        assert not any(
            o in k for k in dict(other.model.named_buffers()) for o in ('residual', 'pairs', 'times', 'time_bias')
        ), 'what users did stays at home'


def test_learners_with_context_grow(learn, moody):
    df = moody[0]
    from copy import copy

    grown = copy(learn)
    new = pd.DataFrame(
        dict(user=[999, 999, 0], item=[0, 1, 777], rating=[5.0, 4.0, 3.0], time=10**9, device=['tv', 'radio', 'phone'])
    )
    n = learn.catalog.n_items
    before = learn.model.levels.factors[0].weight.clone()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        grown.extend(new)
    assert grown.catalog.n_items == n + 1
    assert len(grown.catalog.interactions.context) == len(df) + 3
    assert grown.catalog.interactions.context[-3:, 1].tolist() == [2, 0, 1]
    assert torch.equal(grown.model.levels.factors[0].weight, before)
    assert len(grown.model.time_bias.key) == len(learn.model.time_bias.key) + 3
    assert np.isfinite(evaluate(grown).rmse['all'])


def test_new_items_are_known_by_their_features(moody):
    df, items, users = moody
    features = ItemFeatures.from_df(items, category='genre')
    hidden = df[df['item'] >= 55]
    table = pd.concat([df[df['item'] < 55], hidden], ignore_index=True)
    split = np.arange(len(table) - len(hidden)), np.arange(len(table) - len(hidden), len(table))
    torch.manual_seed(0)
    dls = RecDataLoaders.from_df(table, splitter=split, bs=128, context='time')
    ages = UserFeatures.from_df(users, category='age')
    with_features, without = (
        quiet(svdpp_learner(dls, n_factors=4, **o), 6, 1e-2)
        for o in (dict(item_features=features, user_features=ages), {})
    )
    assert evaluate(with_features).rmse['features'] < evaluate(without).rmse['cold'] - 0.02
    assert with_features.knows('item').all()
    assert not without.knows('item').all()
    known = with_features.score_items(torch.arange(4)).clone()
    with_features.add_items(pd.DataFrame(dict(item=[900, 901], genre=['1', '2'])))
    now = with_features.score_items(torch.arange(4))
    assert now.shape[1] == known.shape[1] + 2
    assert torch.allclose(now[:, :-2], known, atol=1e-5)
    other = [int(o) for o in items[items.genre == '1']['item'] if o >= 55]
    assert not other or torch.allclose(
        now[:, -2], now[:, with_features.vocab['item'].encode(other[:1])[0]], atol=1e-4
    ), 'two cold items of the same features score the same'
    assert set(with_features.recommend([0], k=200)['item']) >= {900, 901}
    quiet(with_features, 1)  # and training goes on
    with pytest.raises(TypeError, match='knows items by their ratings alone'):
        without.add_items(items)
    with pytest.raises(TypeError, match='expected UserFeatures'):
        svdpp_learner(dls, user_features=features)


def test_features_of_models_have_as_many_rows():
    from fastrec.data.block import Block

    with pytest.raises(ValueError, match='known has 3 rows, the features have 2'):
        SVDpp(
            2,
            3,
            csr_matrix(np.eye(2, 3)),
            2,
            item_blocks=dict(a=Block(np.ones((2, 1), np.float32), np.ones(2, bool), 'numeric')),
        )


def test_fold_in_is_out_of_context(learn):
    new = learn.fold_in({1: 5.0, 2: 4.0, 3: 5.0})
    assert np.isfinite(new.predict(7))
    assert len(new.recommend(k=4)) == 4
    with pytest.raises(TypeError, match='reads no context'):
        new.in_context(dict(device='tv'))


def test_ensembles_score_rows_in_context(moody):
    ens = ensemble_learner(loaders(moody[0], context='time'), svdpp_learner, 2, n_factors=4)
    quiet(ens, 2)
    rows = ens.catalog.split.valid
    want = torch.stack([m.score_rows(ens.catalog.interactions, rows) for m in ens.members]).mean(0)
    assert torch.allclose(ens.score_rows(ens.catalog.interactions, rows), want.cpu(), atol=1e-5)
    df = moody[0].iloc[rows]
    assert np.allclose(ens.predictions(df).score, want.cpu(), atol=1e-5)
    assert not np.allclose(ens.predictions(df[['user', 'item']]).score, want.cpu(), atol=1e-3)
    row = df.iloc[0]
    assert ens.in_context(dict(time=row.time)).predict(row.user, row['item']) == pytest.approx(want[0].item(), abs=1e-5)
    assert evaluate(ens).rmse['all'] == pytest.approx(
        (want.cpu() - torch.from_numpy(ens.catalog.interactions.ratings[rows])).square().mean().sqrt().item(), abs=1e-5
    )


# --- weights


def test_weighted_loss_by_hand():
    scores = torch.tensor([1.0, 2.0, 4.0])
    target = torch.tensor([1.0, 4.0, 1.0])
    weight = torch.tensor([5.0, 1.0, 3.0])
    assert MSELoss()(scores, target).item() == pytest.approx(13 / 3)
    assert MSELoss()(scores, target, weight).item() == pytest.approx((4 + 27) / 9)
    assert MSELoss('none')(scores, target, weight).tolist() == [0, 4, 27]


def test_rows_of_weight_0_teach_nothing(moody):
    df = moody[0].copy()
    half = df['item'] % 2 == 0
    wrong = df.assign(rating=np.where(half, df.rating, 6 - df.rating), weight=half.astype(float))
    found = {}
    for name, kw in (('weighted', dict(weight_name='weight')), ('all', {})):
        torch.manual_seed(0)
        found[name] = quiet(collab_learner(loaders(wrong, **kw), n_factors=4, y_range=(-0.5, 6.5)), 5, 1e-2)
    assert len(found['weighted'].dls.one_batch()) == 4
    assert isinstance(found['weighted'].loss_func, MSELoss)
    biases = found['weighted'].model.item_biases.weight[:, 0]
    weightless, learned = biases[1::2], biases[::2]
    assert (weightless - learned.mean()).abs().max() < 1e-6, 'items all of whose rows weigh nothing are cold'
    assert learned.std() > 1e-3
    inter = found['all'].catalog.interactions
    valid = found['all'].catalog.split.valid
    rows = valid[inter.items[valid] % 2 == 0]
    error = {k: (v.score_rows(inter, rows).cpu().numpy() - inter.ratings[rows]).std() for k, v in found.items()}
    assert error['weighted'] < error['all']
    assert {'user', 'item', 'rating'} <= set(found['weighted'].dls.show_batch(show=False))
    liked = loaders(wrong, weight_name='weight', target='liked')
    quiet(collab_learner(liked, n_factors=4), 1)


def test_weights_say_what_is_wrong(moody):
    df = moody[0].assign(w=1.0)
    with pytest.raises(ValueError, match='negative, missing or not numbers'):
        loaders(df.assign(w=-1.0), weight_name='w')
    with pytest.raises(ValueError, match='are 0'):
        loaders(df.assign(w=0.0), weight_name='w')
    with pytest.raises(ValueError, match="no column 'v'"):
        loaders(df, weight_name='v')
    with pytest.raises(ValueError, match='is for ratings'):
        loaders(df, weight_name='w', target='implicit')
    with pytest.raises(TypeError, match='takes no weights'):
        collab_learner(loaders(df, weight_name='w'), loss_func=nn.L1Loss())


def test_the_scale_of_ratings_does_not_matter(moody):
    df, items, _ = moody
    preds = []
    for scale, shift in ((1.0, 0.0), (20.0, -40.0)):
        torch.manual_seed(0)
        learn = svdpp_learner(
            loaders(df.assign(rating=df.rating * scale + shift), context=['time', 'device']),
            n_factors=4,
            item_features=ItemFeatures.from_df(items, category='genre'),
        )
        torch.manual_seed(1)
        preds.append((quiet(learn, 3).get_preds()[0] - shift) / scale)
    assert (preds[0] - preds[1]).abs().max() < 0.06
    assert preds[0].std() > 0.5
