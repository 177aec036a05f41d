"""Content model and gated hybrid.

Against slow references, what is masked, items added, and that the gate learns what was planted.
"""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.basics import load_learner, noop, set_seed
from fastai.callback.all import ProgressCallback

from fastrec.all import (
    ItemFeatures,
    RecDataLoaders,
    RecInterpretation,
    UserFeatures,
    collab_learner,
    content_learner,
    evaluate,
    gated_learner,
    load_recommender,
    rmse,
    save_recommender,
    synthetic_ratings,
)
from fastrec.models import ConcatHybrid, Content, GatedHybrid, SumHybrid, pop_l2, set_l2

YR = (0.5, 5.5)


def quiet(learn):
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    return learn


@pytest.fixture(scope='module')
def table():
    """(ratings, items, truth): genre says most about taste."""
    return synthetic_ratings(n_users=200, n_items=150, n_factors=4, density=0.2, noise=0.3, seed=5)


@pytest.fixture(scope='module')
def feats(table):
    return ItemFeatures.from_df(
        table[1],
        multilabel='genres',
        numeric='year',
        vectors={i: np.random.default_rng(i).normal(size=3) for i in table[1].item if i % 3},
    )


@pytest.fixture()
def dls(table):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return RecDataLoaders.from_df(table[0], item_df=table[1], valid_pct=0.1, seed=1, bs=64)


@pytest.fixture(scope='module')
def blocks(feats):
    return feats.blocks


KNOWN = dict(known_items=torch.arange(150) != 7, known_users=torch.arange(20) != 3)
MODELS = {
    'content': lambda b: Content(20, 150, b, 5, 8, **KNOWN),
    'linear content': lambda b: Content(20, 150, b, 5, 0, y_range=YR, mean=3.5, **KNOWN),
    'sum': lambda b: SumHybrid(20, 150, _paths(b), 5, **KNOWN),
    'concat': lambda b: ConcatHybrid(20, 150, _paths(b), 5, hidden=6, **KNOWN),
    'gate': lambda b: GatedHybrid(20, 150, _paths(b), 5, y_range=YR, mean=3.5, item_counts=np.arange(150), **KNOWN),
}


def _paths(blocks):
    return {'genre and year': {o: blocks[o] for o in ('genres', 'year')}, 'picture': {'vectors': blocks['vectors']}}


def _shake(model):
    """Weights as after training: nothing is zero or alike."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.5 * torch.randn_like(p)
    return model.eval()


@pytest.mark.parametrize('name', MODELS)
def test_scores_agree_however_asked(name, blocks):
    model = _shake(MODELS[name](blocks))
    users = torch.tensor([3, 0, 5, 3])
    items = torch.tensor([7, 1, 149, 1])
    with torch.no_grad():
        table = model.score_items(users)
        assert table.shape == (4, 150)
        assert torch.allclose(model(users, items), table[torch.arange(4), items], atol=1e-5)
        grid = torch.randint(150, (4, 6))
        assert torch.allclose(model(users, grid), table.gather(1, grid), atol=1e-5)
        assert torch.allclose(model(users, grid[:1]), table[:, grid[0]], atol=1e-5)
        assert torch.allclose(model(users), table, atol=1e-5)
    parts = model.explain(5, 149)
    x = torch.tensor(parts['mean'] + parts['user_bias'] + parts['item_bias'] + parts['factors'].sum().item())
    if model.y_range:
        x = x.sigmoid() * 5 + 0.5
    assert x.item() == pytest.approx(table[2, 149].item(), abs=1e-4)
    assert model.vectors('item').shape == (150, 5)
    assert model.vectors('user').shape == (20, 5)
    assert model.biases('item').shape == (150,)
    assert model.biases('user').shape == (20,)


def test_gate_against_a_slow_reference(blocks):
    model = _shake(MODELS['gate'](blocks))
    with torch.no_grad():
        for u, i in ((0, 1), (4, 3), (2, 7)):  # 3 has no picture, 7 no training row
            p = model.user_factors.weight[u]
            code = torch.tensor([i])
            z = [torch.cat([model.item_factors.weight[i], torch.zeros(1)]), *(o(code)[0] for o in model.encoders)]
            has = [i != 7, True, i % 3 != 2]  # ids are 1000 + code
            own = model.query.weight[model.gate_width :] @ p
            query = model.query.weight[: model.gate_width] @ p
            logits = [
                query @ (z[m] @ model.keys[m][:, :-1])
                + z[m] @ model.keys[m][:, -1]
                + own[m]
                + model.gate_offsets[m]
                + model.of_counts * np.log1p(i) * (m == 0)
                for m in range(3)
            ]
            e = np.array([np.exp(o.item()) * h for o, h in zip(logits, has)])
            g = e / e.sum()
            weights = model.gate_weights(torch.tensor([u]), code)
            parts = model.contributions(torch.tensor([u]), code)
            assert np.allclose(weights[0, 0], g, atol=1e-5)
            assert np.allclose(parts[0, 0], [g[m] * (p @ z[m][:-1] + z[m][-1]).item() for m in range(3)], atol=1e-4)
            x = (
                sum(g[m] * (p @ z[m][:-1] + z[m][-1]).item() for m in range(3))
                + model.mean
                + model.user_biases.weight[u]
                + (model.item_biases.weight[i] if i != 7 else 0)
            )
            assert model(torch.tensor([u]), code).item() == pytest.approx(x.sigmoid().item() * 5 + 0.5, abs=1e-5)


def test_an_item_of_which_nothing_is_known_is_the_average_item(feats):
    gone = feats.align([*feats.ids[:-1], 'nothing'])
    model = _shake(GatedHybrid(4, 150, {'genres': {'genres': gone['genres']}}, 3, known_items=torch.arange(150) < 149))
    with torch.no_grad():
        assert model.gate_weights(torch.tensor([0]), torch.tensor([149]))[0, 0].tolist() == [1, 0]
        expected = (
            model.user_factors.weight @ model.item_factors.weight[:149].mean(0)
            + model.item_biases.weight[:149].mean()
            + model.mean
            + model.user_biases.weight[:, 0]
        )
        assert torch.allclose(model.score_items(torch.arange(4))[:, 149], expected, atol=1e-5)


def test_the_gate_starts_as_shrinkage(blocks):
    """Before training the id's weight is n / (n + shrinkage) against all features together, with 1 more rating."""
    model = GatedHybrid(20, 150, _paths(blocks), 5, item_counts=np.arange(150), shrinkage=6.0).eval()
    for p in (model.query.weight, model.keys):
        torch.nn.init.zeros_(p)
    codes = torch.tensor([0, 6, 120])  # with a picture
    assert torch.allclose(model.gate_weights(torch.tensor([0]), codes)[0, :, 0], (1 + codes) / (7 + codes), atol=1e-5)
    with pytest.raises(ValueError, match='shrinkage=0: a number of ratings above 0'):
        GatedHybrid(20, 150, _paths(blocks), 5, shrinkage=0)


def test_ids_and_features_are_masked_in_training_only(blocks):
    model = GatedHybrid(20, 150, _paths(blocks), 5, id_dropout=0.4, feature_dropout=0.3)
    torch.manual_seed(0)
    codes = torch.arange(150).repeat(20)
    drawn = model.train().present(codes)
    all_ = model.eval().present(codes)
    assert 1 - drawn[:, 0].float().mean() == pytest.approx(0.4, abs=0.03)
    assert 1 - drawn[:, 1].float().mean() == pytest.approx(0.3, abs=0.03)
    assert all_[:, :2].all()
    assert drawn.any(1).all()
    assert not (drawn & ~all_).any()


def test_l2_is_per_observed_row(blocks):
    """An item that stands in a batch three times counts three times, though it is worked out once."""
    model = _shake(SumHybrid(20, 150, _paths(blocks), 5, id_dropout=0.0, feature_dropout=0.0, dropout=0.0)).train()
    set_l2(model, 0.1)
    items = torch.tensor([1, 1, 1, 4])
    users = torch.tensor([0, 1, 2, 3])
    model(users, items)
    want = (
        0.1
        * (model.user_factors.weight[users].square().sum() + 0.25 * model.item_factors.weight[items].square().sum())
        / 4
    )
    assert pop_l2(model).item() == pytest.approx(want.item(), rel=1e-5)


def test_pairs_that_train_the_gate_train_nothing_else(blocks):
    model = _shake(GatedHybrid(20, 150, _paths(blocks), 5, id_dropout=0.0, feature_dropout=0.0, dropout=0.0)).train()
    gate = {'query.weight', 'keys', 'of_counts', 'gate_offsets'}

    def moved():
        return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}

    users = torch.arange(20)
    items = torch.randint(150, (20, 30), generator=torch.Generator().manual_seed(0))
    for held, which in ((1.0, lambda o: o in gate), (0.0, lambda o: o not in gate)):
        model.zero_grad()
        model.held = held
        model(users, items).square().sum().backward()
        assert moved()
        assert all(map(which, moved()))
        whole = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        model.score_items(users)[torch.arange(20)[:, None], items].square().sum().backward()
        assert all(
            torch.allclose(whole[name], p.grad, atol=1e-3)
            for name, p in model.named_parameters()
            if name in whole and p.grad is not None
        ), 'however asked'


# --- learners

BUILDERS = {
    'content': lambda dls, f, **kw: content_learner(dls, f, n_factors=8, hidden=16, **kw),
    **{
        fusion: lambda dls, f, fusion=fusion, **kw: gated_learner(dls, f, n_factors=8, fusion=fusion, **kw)
        for fusion in ('gate', 'sum', 'concat')
    },
}


@pytest.mark.parametrize('name', BUILDERS)
def test_new_items_from_features_alone(name, table, feats, tmp_path):
    """Known answer: items that training never saw are ranked by the user's taste in genres.

    What was there before does not move.
    """
    ratings, items, truth = table
    new = items[items.item % 10 == 3]
    dls = RecDataLoaders.from_df(
        ratings[~ratings.item.isin(new.item)], item_df=items, valid_pct=0.1, seed=1, bs=128, path=tmp_path
    )
    set_seed(0)
    learn = quiet(BUILDERS[name](dls, feats, y_range=YR))
    learn.fit_one_cycle(6, 2e-2)
    before = learn.score_items(torch.arange(20))
    shared = learn.dls
    n = dls.n_items
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert learn.add_items(new) is learn
    assert shared.n_items == n, 'loaders that others may use stay as they were'
    assert learn.dls.n_items == n + len(new), 'loaders that others may use stay as they were'
    scores = learn.score_items(torch.arange(200))
    assert torch.allclose(scores[:20, :n], before, atol=1e-5)
    expected = truth.scores[:, new.item - 1000] - truth.item_biases[new.item - 1000]

    def user(x):
        return x - x.mean(1, keepdims=True)

    corr = np.corrcoef(user(scores[:, n:].numpy()).ravel(), user(expected).ravel())[0, 1]
    # genres explain .66 of it at most; a hidden layer over all pathways needs more than these few epochs to do
    # without one
    assert corr > (0.1 if name == 'concat' else 0.4)
    recs = learn.recommend('u0003', k=5, candidates=new.item)
    assert set(recs.item) <= set(new.item)
    assert 'cold' not in recs
    assert recs.title.iloc[0] == items.set_index('item').title[recs.item.iloc[0]]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert learn.predict('u0003', recs.item.iloc[0]) == pytest.approx(recs.score.iloc[0], abs=1e-4)
    near = learn.similar_items(int(new.item.iloc[0]), 5)
    genre = items.set_index('item').genres
    assert len(near) == 5
    assert name == 'concat' or (genre[near.item].to_numpy() == genre[new.item.iloc[0]]).mean() >= 0.6
    with pytest.raises(ValueError, match='are already there'):
        learn.add_items(new)
    learn.fit(1, 1e-3)  # training goes on
    learn.export()
    loaded = load_learner(tmp_path / 'export.pkl')

    def again(learn):
        return learn.recommend('u0003', 5, exclude_seen=False)

    pd.testing.assert_frame_equal(again(loaded), again(learn), rtol=1e-4, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        loaded.add_items(new.assign(item=new.item + 5000))  # the transforms travel
    assert (
        torch.allclose(
            loaded.score_items(torch.arange(3))[:, -len(new) :],
            learn.score_items(torch.arange(3))[:, -len(new) :],
            atol=1e-2,
        )
        or name == 'content'
    )
    save_recommender(learn, tmp_path / 'saved')
    pd.testing.assert_frame_equal(again(load_recommender(tmp_path / 'saved')), again(learn), rtol=1e-4, atol=1e-5)


def test_add_items_messages(dls, feats, table):
    with pytest.raises(TypeError, match='DotBias knows items by their ratings alone'):
        collab_learner(dls).add_items(table[1])
    learn = quiet(content_learner(dls, feats, y_range=YR))
    with pytest.raises(ValueError, match='the table has none of the columns'):
        learn.add_items(pd.DataFrame(dict(item=[9999], foo=[1])))
    with pytest.raises(TypeError, match='expected ItemFeatures, got DataFrame'):
        content_learner(dls, table[1])
    with pytest.raises(ValueError, match="fusion='mean': choose one of"):
        gated_learner(dls, feats, fusion='mean')
    with pytest.raises(ValueError, match='shrinkage=-1: a number of ratings above 0'):
        gated_learner(dls, feats, shrinkage=-1)


def test_the_gate_leans_on_features_where_history_is_short(table, feats, tmp_path):
    ratings, items, _ = table
    rare = ratings.item % 2 == 0
    ratings = ratings[~rare | (ratings.groupby('item').cumcount() < 2)]  # half of the items keep two ratings
    dls = RecDataLoaders.from_df(ratings, item_df=items, valid_pct=0.1, seed=1, bs=64)
    set_seed(0)
    learn = quiet(gated_learner(dls, feats[['genres']], n_factors=8, y_range=YR))
    learn.fit_one_cycle(15, 1e-2)
    interp = RecInterpretation.from_learner(learn)
    gates = interp.gates()
    assert np.allclose(gates[['id', 'genres']].sum(axis=1), 1, atol=1e-5)
    shares = interp.gates(shares=True)
    assert np.allclose(shares[['id', 'genres']].sum(axis=1), 1, atol=1e-5)
    often = gates.rows > 20
    rarely = (gates.rows > 0) & (gates.rows <= 2)
    assert gates.id[often].mean() > gates.id[rarely].mean() + 0.2
    assert shares.id[often].mean() > shares.id[rarely].mean() + 0.2
    one = interp.gates([items.title[0]], users=['u0001'])
    assert len(one) == 1
    assert one.title.iloc[0] == items.title[0]
    axes = interp.plot_gates()
    assert axes[0].get_xlabel().startswith('training rows')
    assert len(axes[0].patches) % 2 == 0
    with pytest.raises(TypeError, match='DotBias has no gate'):
        RecInterpretation.from_learner(quiet(collab_learner(dls))).gates()


def test_the_gate_trusts_ids_the_more_the_longer_the_users_history(blocks):
    """By hand: with nothing else that tells users apart, the id's odds grow as (1 + n_u)^user_trust."""
    counts = np.array([0, 1, 3, 9, 40, *[5] * 15])
    options = dict(item_counts=np.full(150, 12), user_counts=counts, known_users=torch.from_numpy(counts > 0))
    model = GatedHybrid(20, 150, _paths(blocks), 5, user_trust=0.5, **options).eval()
    for p in (model.query.weight, model.keys):
        torch.nn.init.zeros_(p)
    weights = model.gate_weights(torch.arange(5), torch.tensor([0]))[:, 0, 0]
    odds = weights / (1 - weights)
    assert torch.allclose(odds[1:] / odds[1], torch.from_numpy(((1 + counts[1:5]) / 2) ** 0.5).float(), rtol=1e-4)
    average = 13 / 8 * torch.ones(())  # (1 + n) / shrinkage, of the item alone
    assert torch.allclose(odds[0], average, rtol=1e-4), 'who has no rows counts as the average user'
    blind = GatedHybrid(20, 150, _paths(blocks), 5, **options)
    assert 'user_trust' not in blind.config()
    assert 'user_log_counts' not in blind.state_dict(), 'as versions before have it'


def test_the_gates_trust_after_training(table, feats, tmp_path):
    ratings, items, _ = table
    short = ratings['user'].isin(ratings['user'].unique()[::2])
    ratings = ratings[~short | (ratings.groupby('user').cumcount() < 5)]  # half of the users keep five rows
    dls = RecDataLoaders.from_df(ratings, item_df=items, valid_pct=0.1, seed=1, bs=64)
    set_seed(0)
    learn = quiet(gated_learner(dls, feats[['genres']], n_factors=8, user_trust=0.5))
    learn.fit_one_cycle(5, 1e-2)
    counts = dls.catalog.counts['user']
    users = dls.vocab['user'].ids.to_numpy()
    interp = RecInterpretation.from_learner(learn)
    few, many = (interp.gates(users=users[which]).id.mean() for which in (counts < 8, counts > 20))
    assert many > few + 0.05
    saved = load_recommender(save_recommender(learn, tmp_path))
    codes = torch.arange(dls.n_users)
    assert torch.allclose(saved.score_items(codes), learn.score_items(codes), atol=1e-5)
    taste = ratings[ratings['user'] == users[counts > 20][0]]
    folded = learn.fold_in(taste[:3].assign(user='new'))
    log_counts = folded.model.user_log_counts
    assert log_counts.tolist() == pytest.approx([np.log(4)])
    assert learn.model.user_log_counts.shape == (dls.n_users,), 'the learner keeps its own'


def test_user_features_speak_for_users_without_ratings(table, feats):
    ratings, items, truth = table
    users = pd.DataFrame(dict(user=[f'u{i:04}' for i in range(200)], taste=truth.user_factors.argmax(1).astype(str)))
    cold = users.user[users.index % 10 == 0]
    train = (~ratings.user.isin(cold)).to_numpy()
    dls = RecDataLoaders.from_df(
        ratings, item_df=items, splitter=(np.flatnonzero(train), np.flatnonzero(~train)), bs=64
    )
    errors = {}
    for name, f in (('with', UserFeatures.from_df(users, category='taste')), ('without', None)):
        set_seed(0)
        learn = quiet(content_learner(dls, feats, f, n_factors=8, hidden=16, y_range=YR))
        learn.fit_one_cycle(6, 2e-2)
        errors[name] = evaluate(learn, metrics=rmse).loc['all', 'rmse']
    assert errors['with'] < 0.97 * errors['without']


def test_errors_of_items_known_by_features_stand_apart(table, feats):
    """Held out are some rows of known items, all rows of items with features, and all rows of items without."""
    ratings, items, _ = table
    some = feats.align(items['item'][items['item'] % 10 != 4])
    late = ratings['item'] % 10
    valid = late.isin([3, 4]) | (np.arange(len(ratings)) % 20 == 0)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        dls = RecDataLoaders.from_df(ratings, splitter=(np.flatnonzero(~valid), np.flatnonzero(valid)), bs=256)
        learn = quiet(content_learner(dls, some, n_factors=4, hidden=0, metrics=rmse))
    assert learn.metrics.attrgot('name') == ['rmse', 'rmse_warm', 'rmse_features', 'rmse_cold']
    learn.fit(1, 1e-2)
    res = evaluate(learn)
    assert res.rows.to_dict() == dict(
        all=valid.sum(), warm=(valid & ~late.isin([3, 4])).sum(), features=(late == 3).sum(), cold=(late == 4).sum()
    )
    assert list(learn.recorder.values[-1][2:]) == pytest.approx(res.rmse.tolist(), rel=1e-4)
    other = quiet(collab_learner(dls, n_factors=4, metrics=rmse))
    other.fit(1, 1e-2)
    assert list(evaluate(other).index) == ['all', 'warm', 'cold']
    assert other.metrics.attrgot('name') == ['rmse', 'rmse_warm', 'rmse_cold']


def test_a_catalog_with_further_items(dls, table):
    catalog = dls.catalog.with_items(
        [5001, 5000], pd.DataFrame(dict(item=[5000, 5001], title=['a', 'b'], other=[1, 2]))
    )
    n = dls.n_items
    assert catalog.vocab['item'].encode([5001, 5000, int(dls.vocab['item'].ids[0])]).tolist() == [n, n + 1, 0]
    assert catalog.titles([n, n + 1]).tolist() == ['b', 'a']
    assert catalog.require_history().seen.shape == (dls.n_users, n + 2)
    assert not catalog.known('item')[n:].any()
    assert list(catalog.item_df.columns) == list(dls.item_df.columns)
    assert dls.n_items == n
