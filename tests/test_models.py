"""One contract for every model, and the tables they are made of."""

import copy

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from fastrec.data.block import Block
from fastrec.data.datasets import synthetic_ratings
from fastrec.data.features import ItemFeatures
from fastrec.models import GMF, MLP, DotBias, EmbeddingTable, NeuMF, SVDpp, pop_l2, set_l2
from fastrec.models.base import from_range, to_range
from fastrec.models.losses import BCELoss
from fastrec.models.svdpp import residuals_of
from fastrec.models.two_tower import TwoTower
from fastrec.scorers.artifact import load_recommender, save_recommender
from fastrec.training.builders import (
    collab_learner,
    content_learner,
    gated_learner,
    mlp_learner,
    neumf_learner,
    svdpp_learner,
)
from fastrec.training.dataloaders import RecDataLoaders

N_USERS = 7
N_ITEMS = 11
HISTORY = csr_matrix((np.random.default_rng(0).random((N_USERS, N_ITEMS)) < 0.4).astype(np.float32))
RATING = {
    'dot': lambda **kw: DotBias(N_USERS, N_ITEMS, 5, **kw),
    'dot1': lambda **kw: DotBias(N_USERS, N_ITEMS, 1, **kw),
    'svdpp': lambda **kw: SVDpp(N_USERS, N_ITEMS, HISTORY, 5, **kw),
    'flipped': lambda **kw: SVDpp(
        N_USERS, N_ITEMS, HISTORY, 5, item_side=True, residuals=True, leave_one_out=True, **kw
    ),
    'mlp': lambda **kw: MLP(N_USERS, N_ITEMS, 4, (8, 6), **kw),
    'mlp1': lambda **kw: MLP(N_USERS, N_ITEMS, 3, (5,), dropout=0.5, **kw),
}
MODELS = {
    **RATING,
    'gmf': lambda **kw: GMF(N_USERS, N_ITEMS, 5, **kw),
    'neumf': lambda **kw: NeuMF(N_USERS, N_ITEMS, 4, (8, 6), **kw),
    'neumf1': lambda **kw: NeuMF(N_USERS, N_ITEMS, 3, (5,), **kw),
}


@pytest.fixture(params=MODELS)
def make(request):
    return MODELS[request.param]


@pytest.fixture(params=RATING)
def make_rating(request):
    return RATING[request.param]


def randomised(model):
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p))
    return model


def test_shapes(make):
    model = make().eval()
    users = torch.arange(5)
    items = torch.arange(5)
    assert model(users, items).shape == (5,)
    assert model(users, torch.randint(N_ITEMS, (5, 3))).shape == (5, 3)
    assert model(users, torch.randint(N_ITEMS, (1, 3))).shape == (5, 3)
    assert model.score_items(users).shape == (5, N_ITEMS)
    assert model(users, items).dtype == torch.float32


def test_all_ways_of_scoring_agree(make):
    model = randomised(make()).eval()
    users = torch.tensor([0, 3, 6])
    everything = model.score_items(users)
    for i in range(N_ITEMS):
        assert torch.allclose(model(users, torch.full((3,), i)), everything[:, i], atol=1e-5)
    items = torch.tensor([[1, 2], [0, 10], [5, 5]])
    assert torch.allclose(model(users, items), everything.gather(1, items), atol=1e-5)
    assert torch.allclose(model(users, torch.tensor([[4, 7]])), everything[:, [4, 7]], atol=1e-5)


def test_scores_start_at_the_mean_and_stay_in_range(make_rating):
    torch.manual_seed(0)  # an MLP starts near the mean, not at it
    make = make_rating
    torch.manual_seed(0)
    model = make(y_range=(0.5, 5.5), mean=3.7).eval()
    assert torch.allclose(model(torch.arange(7), torch.arange(7)), torch.tensor(3.7), atol=0.05)
    scores = randomised(model).score_items(torch.arange(7))
    assert scores.min() >= 0.5
    assert scores.max() <= 5.5
    assert torch.allclose(make(mean=3.7).eval()(torch.arange(7), torch.arange(7)), torch.tensor(3.7), atol=0.05)


def test_vectors_and_biases(make):
    model = make()
    for side, n in (('user', N_USERS), ('item', N_ITEMS)):
        assert model.vectors(side).shape[0] == n
        assert model.vectors(side).ndim == 2
        assert not model.vectors(side).requires_grad
        biases = model.biases(side)
        assert biases is None or (biases.shape == (n,) and not biases.requires_grad)
    assert (model.biases('item') is None) == isinstance(model, (GMF, NeuMF))


def test_gradients_reach_every_parameter(make):
    model = randomised(make())
    model(torch.arange(7), torch.randint(N_ITEMS, (7, 11))).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_state_dict_round_trip(make):
    a = randomised(make()).eval()
    b = make().eval()
    b.load_state_dict(a.state_dict())
    assert torch.equal(a.score_items(torch.arange(7)), b.score_items(torch.arange(7)))


def test_int32_codes(make):
    model = make().eval()
    assert torch.equal(
        model(torch.arange(5, dtype=torch.int32), torch.arange(5, dtype=torch.int32)),
        model(torch.arange(5), torch.arange(5)),
    )


def test_fastai_collects_no_method(make):
    assert not hasattr(make(), 'reset')
    assert not hasattr(make(), 'bias')


def test_cold_rows_are_never_used(make):
    known_users = torch.arange(N_USERS) != 2
    known_items = torch.arange(N_ITEMS) < 9
    model = randomised(make(known_users=known_users, known_items=known_items)).eval()
    before = model.score_items(torch.arange(7))
    with torch.no_grad():  # whatever an untrained row holds must not matter
        for t in model.modules():
            if isinstance(t, EmbeddingTable):
                t.weight[~t.known] = 1e3
    after = model.train().eval().score_items(torch.arange(7))
    assert torch.allclose(before, after, atol=1e-5)
    assert torch.allclose(after[:, 9], after[:, 10], atol=1e-5)
    for t in model.modules():
        if isinstance(t, EmbeddingTable):
            assert torch.allclose(
                t.weight[~t.known], t.weight[t.known].mean(0).expand(int((~t.known).sum()), -1), atol=1e-5
            )


def test_explain_adds_up():
    model = randomised(MODELS['dot'](y_range=(1, 5))).eval()
    parts = model.explain(3, 4)
    total = parts['mean'] + parts['user_bias'] + parts['item_bias'] + parts['factors'].sum()
    assert torch.allclose(to_range(total, (1, 5)), model(torch.tensor([3]), torch.tensor([4]))[0], atol=1e-6)


def test_l2_is_per_row_looked_up():
    table = EmbeddingTable(4, 3, std=1.0)
    idx = torch.tensor([1, 1, 3])
    table.l2 = 0.5
    assert table.eval()(idx) is not None, 'no penalty outside training'
    assert table.penalty is None, 'no penalty outside training'
    table.train()(idx)
    w = table.weight.detach()
    want = 0.5 * (2 * w[1].square().sum() + w[3].square().sum()) / 3
    got = pop_l2(table)
    assert torch.allclose(got, want, atol=1e-5)
    assert pop_l2(table) is None
    got.backward()
    assert torch.allclose(table.weight.grad[1], 0.5 * 2 * 2 * w[1] / 3, atol=1e-5)
    assert table.weight.grad[0].abs().sum() == 0


def test_set_l2_scales_by_decay():
    model = DotBias(3, 3, 2, bias_decay=0.25)
    set_l2(model, 0.1)
    assert (model.user_factors.l2, model.item_biases.l2) == (0.1, 0.025)
    assert DotBias(3, 3, 2).user_biases.decay == 0


@pytest.mark.parametrize('columns', [(), (3,)])
def test_a_table_says_whether_its_l2_was_taken(columns):
    """By the fast node and by lookups alike; what reads a table as a whole bypasses it."""
    users = torch.arange(4)
    items = torch.randint(N_ITEMS, (4, *columns))
    for context in ({}, dict(context_sizes=[3])):
        model = DotBias(N_USERS, N_ITEMS, 5, **context).train()
        set_l2(model, 0.1)
        assert not any(t.penalized for t in model.tables)
        model.score_items(users)
        assert [t.penalized for t in model.tables] == [True, False, False, False]
        set_l2(model, 0.1)
        if not context or not columns:
            model(users, items)
            assert [t.penalized for t in model.tables] == [True, True, False, False], 'biases have no L2'
        set_l2(model, 0.0)
        model(users, torch.arange(4))
        assert not any(t.penalized for t in model.tables)


def test_svdpp_takes_the_l2_of_every_table_that_has_one():
    for decays in (dict(), dict(own_decay=0.0), dict(residual_decay=2.0, history_decay=1.0)):
        model = MODELS['flipped'](**decays).train()
        set_l2(model, 0.1)
        model(torch.arange(4), torch.arange(4))
        tables = [t for t in model.modules() if isinstance(t, EmbeddingTable)]
        assert [t.penalized for t in tables] == [t.l2 > 0 for t in tables]
        assert (model.residual_factors.l2 > 0) == (model.residual_decay > 0)


def test_models_hold_no_graph_after_copy(make):
    model = make()
    set_l2(model, 0.1)
    model.train()(torch.arange(5), torch.arange(5))
    pop_l2(model)
    copy.deepcopy(model)


def test_squash_inverts():
    for y in (1.2, 3.0, 4.9):
        assert np.isclose(to_range(torch.tensor(from_range(y, (0.5, 5.5))), (0.5, 5.5)).item(), y, atol=1e-5)
    assert from_range(2.0, None) == 2.0
    assert np.isfinite(from_range(9.0, (0, 5)))


def test_bad_arguments():
    with pytest.raises(ValueError, match='at least one hidden layer'):
        MLP(3, 3, 2, [])
    with pytest.raises(ValueError, match='known has shape'):
        DotBias(3, 3, 2, known_users=torch.ones(4, dtype=torch.bool))


def test_a_model_from_vectors():
    torch.manual_seed(0)
    p = torch.randn(7, 3)
    q = torch.randn(11, 3)
    bu = torch.randn(7)
    bi = torch.randn(11)
    before = torch.get_rng_state()
    model = DotBias.from_vectors(p, q, bu, bi, mean=0.7, y_range=(1, 5))
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training
    assert type(model) is DotBias
    assert model.intercept() == pytest.approx(0.7)
    assert model.y_range == (1.0, 5.0)
    for side, vectors, biases in (('user', p, bu), ('item', q, bi)):
        assert torch.equal(model.vectors(side), vectors)
        assert torch.equal(model.biases(side), biases)
    assert all(t.known.all() for t in model.tables)
    want = to_range(p @ q.T + bu[:, None] + bi + 0.7, (1, 5))
    assert torch.allclose(model.score_items(torch.arange(7)), want, atol=1e-6)
    assert torch.allclose(model(torch.tensor([2, 6]), torch.tensor([0, 10])), want[[2, 6], [0, 10]], atol=1e-6)
    with torch.no_grad():
        p.zero_()
    assert model.vectors('user').any(), 'the model has copies'
    plain = DotBias.from_vectors(q, q)
    assert torch.allclose(plain.score_items(torch.arange(11)), q @ q.T, atol=1e-6)
    assert plain.y_range is None
    again = DotBias(**plain.config())
    again.load_state_dict(plain.state_dict())
    assert torch.equal(again.eval().score_items(torch.arange(11)), plain.score_items(torch.arange(11)))
    for wrong in (dict(item_vectors=q[:, :2]), dict(user_biases=bi), dict(item_biases=bi[:1])):
        with pytest.raises(ValueError, match='for a table of'):
            DotBias.from_vectors(**{**dict(user_vectors=p, item_vectors=q), **wrong})


def test_who_has_features_is_none_where_none_are_read(make):
    assert make().has_features('user') is None
    assert make().has_features('item') is None


# --- the models of their papers


def test_without_items_scores_are_of_the_whole_catalogue(make):
    model = randomised(make()).eval()
    assert torch.equal(model(torch.arange(4)), model.score_items(torch.arange(4)))
    assert torch.equal(model(torch.arange(4), None), model.score_items(torch.arange(4)))


def test_svdpp_by_hand():
    model = randomised(MODELS['svdpp'](y_range=(1, 5))).eval()
    for u, i in ((0, 3), (6, 10)):
        mine = torch.from_numpy(HISTORY[u].indices.astype(np.int64))
        vector = model.user_factors.weight[u] + model.history_factors.weight[mine].sum(0) / len(mine) ** 0.5
        x = (
            model.mean
            + model.user_biases.weight[u, 0]
            + model.item_biases.weight[i, 0]
            + vector @ model.item_factors.weight[i]
        )
        assert torch.allclose(model(torch.tensor([u]), torch.tensor([i]))[0], to_range(x, (1, 5)), atol=1e-5)
        assert torch.allclose(model.vectors('user')[u], vector, atol=1e-5)


def test_svdpp_drops_history_in_training_only():
    model = SVDpp(N_USERS, N_ITEMS, HISTORY, 5, dropout=0.5, std=1.0)
    users = torch.arange(N_USERS)
    assert not torch.equal(model.train().user_vectors(users), model.user_vectors(users))
    assert torch.equal(model.eval().user_vectors(users), model.user_vectors(users))
    torch.manual_seed(0)
    mean = torch.stack([model.train().user_vectors(users) for _ in range(3000)]).mean(0)
    assert torch.allclose(mean, model.eval().user_vectors(users), atol=0.2)


@pytest.mark.parametrize('name', ['svdpp', 'flipped'])
def test_svdpp_without_history_scores_the_same(name):
    known = torch.arange(N_ITEMS) != 4
    model = randomised(MODELS[name](known_items=known)).eval()
    plain = model.without_history().eval()
    assert type(plain) is DotBias
    assert torch.allclose(plain.score_items(torch.arange(7)), model.score_items(torch.arange(7)), atol=1e-5)
    assert not any(
        o in k
        for k in {**plain.state_dict(), **dict(plain.named_buffers())}
        for o in ('history', 'rater', 'residual', 'ind', 'pairs')
    )


def without_rows_of(users=(), items=()):
    """A history in which all but some users and items have something, and masks of those who do."""
    known_users = ~np.isin(np.arange(N_USERS), users)
    known_items = ~np.isin(np.arange(N_ITEMS), items)
    everyone = HISTORY.toarray()
    everyone[0, 5] = 1.0  # which nobody has there
    left = csr_matrix(everyone * known_users[:, None] * known_items)
    left.eliminate_zeros()
    return left, torch.from_numpy(known_users), torch.from_numpy(known_items)


FLIPPED = dict(item_side=True, residuals=True, leave_one_out=True)


@pytest.mark.parametrize('options', [{}, dict(item_side=True), FLIPPED])
def test_who_has_no_history_is_the_average_of_those_who_have_one(options):
    history, known_users, known_items = without_rows_of(users=[2, 5], items=[4, 9])
    masks = dict(known_users=known_users, known_items=known_items)
    model = randomised(SVDpp(N_USERS, N_ITEMS, history, 5, **masks, **options)).eval()
    for table in model.modules():
        if isinstance(table, EmbeddingTable):
            table.fill_cold()
    plain = model.without_history()
    for m in (model, plain):
        for side, known in (('user', known_users), ('item', known_items)):
            vectors = m.vectors(side)
            biases = m.biases(side)
            assert torch.allclose(vectors[~known], vectors[known].mean(0).expand(2, -1), atol=1e-5)
            assert torch.allclose(biases[~known], biases[known].mean().expand(2), atol=1e-5)
        scores = m.score_items(torch.arange(N_USERS))  # no y_range: the mean vector has the mean score
        assert torch.allclose(scores[~known_users], scores[known_users].mean(0).expand(2, -1), atol=1e-4)
        assert torch.allclose(scores[:, ~known_items], scores[:, known_items].mean(1, True).expand(-1, 2), atol=1e-4)
        pair = torch.tensor([5]), torch.tensor([3])
        assert torch.allclose(m(*pair), scores[5, 3], atol=1e-4)


def test_rows_without_a_history_train_without_a_sum():
    """The average is for reading: it has no part in a step, where it would pull at everybody's vectors."""
    history, known_users, _ = without_rows_of(users=[2])
    model = randomised(SVDpp(N_USERS, N_ITEMS, history, 5, known_users=known_users, **FLIPPED)).train()
    cold = torch.tensor([2])
    assert torch.equal(model.user_vectors(cold), model.user_factors.weight[cold])
    model.score_items(cold).sum().backward()
    assert not model.history_factors.weight.grad.any()


@pytest.mark.parametrize('options', [{}, FLIPPED])
def test_nobody_with_a_history_leaves_only_own_vectors(options):
    nobody = dict(
        known_users=torch.zeros(N_USERS, dtype=torch.bool), known_items=torch.zeros(N_ITEMS, dtype=torch.bool)
    )
    empty = csr_matrix((N_USERS, N_ITEMS), dtype=np.float32)
    model = randomised(SVDpp(N_USERS, N_ITEMS, empty, 5, **nobody, **options)).eval()
    assert torch.equal(model.vectors('user'), model.user_factors.weight)
    assert torch.equal(model.vectors('item'), model.item_factors.weight)


@pytest.mark.parametrize('side', ['user', 'item'])
def test_features_of_who_has_no_history_stand_on_the_average_of_the_rest(side):
    n = dict(user=N_USERS, item=N_ITEMS)[side]
    history, known_users, known_items = without_rows_of(users=[2], items=[4])
    x = np.random.default_rng(1).random((n, 3), dtype=np.float32)
    blocks = {'x': Block(x, np.ones(n, dtype=bool), 'numeric')}
    masks = dict(known_users=known_users, known_items=known_items)
    model = randomised(SVDpp(N_USERS, N_ITEMS, history, 5, **masks, **FLIPPED, **{f'{side}_blocks': blocks})).eval()
    known, cold = dict(user=(known_users, 2), item=(known_items, 4))[side]
    with torch.no_grad():
        of_features = model._layer(side)()
    besides = model.vectors(side) - of_features[:, :-1]
    assert torch.allclose(besides[cold], besides[known].mean(0), atol=1e-5)
    besides = model.biases(side) - of_features[:, -1]
    assert torch.allclose(besides[cold], besides[known].mean(), atol=1e-5)


def flipped_by_hand(model, u, i, leave_out=False):
    """User and item vectors in plain loops."""
    R = HISTORY.toarray() != 0
    r = csr_matrix(
        (residuals_of(HISTORY.sorted_indices()), HISTORY.sorted_indices().indices, HISTORY.indptr),
        shape=HISTORY.shape,
    ).toarray()
    y, z, yr, zr = (
        t.weight
        for t in (model.history_factors, model.rater_factors, model.residual_factors, model.rater_residual_factors)
    )
    p = (
        model.user_factors.weight[u]
        + sum(y[j] + r[u, j] * yr[j] for j in range(N_ITEMS) if R[u, j] and not (leave_out and j == i))
        / max(R[u].sum(), 1) ** 0.5
    )
    q = (
        model.item_factors.weight[i]
        + sum(z[v] + r[v, i] * zr[v] for v in range(N_USERS) if R[v, i] and not (leave_out and v == u))
        / max(R[:, i].sum(), 1) ** 0.5
    )
    return p, q


def test_residuals_are_what_biases_leave():
    rng = np.random.default_rng(0)
    bu = rng.normal(size=200)
    bi = rng.normal(size=150)
    full = csr_matrix(3 + bu[:, None] + bi[None])
    left = residuals_of(full)
    assert left.dtype == np.float32, 'biases are taken out, whatever the scale'
    assert np.abs(left).max() < 0.2, 'biases are taken out, whatever the scale'
    assert np.allclose(left, residuals_of(csr_matrix(10 * full.toarray() - 7)), atol=1e-4), (
        'biases are taken out, whatever the scale'
    )
    noise = rng.normal(size=full.shape)
    assert np.corrcoef(residuals_of(csr_matrix(full.toarray() + noise)), noise.ravel())[0, 1] > 0.98
    assert np.isfinite(residuals_of(csr_matrix(np.full((3, 3), 2.0)))).all()


def test_flipped_by_hand():
    model = randomised(MODELS['flipped'](y_range=(1, 5)))
    pairs = [
        (0, int(HISTORY[0].indices[0])),
        (5, int(HISTORY[5].indices[-1])),
        *((u, i) for u in (0, 5) for i in range(N_ITEMS) if not HISTORY[u, i]),
    ][:5]
    users, items = torch.tensor(pairs).T
    for training in (True, False):
        want = []
        for u, i in pairs:
            p, q = flipped_by_hand(model, u, i, leave_out=training)
            want.append(
                to_range(p @ q + model.user_biases.weight[u, 0] + model.item_biases.weight[i, 0] + model.mean, (1, 5))
            )
        assert torch.allclose(model.train(training)(users, items), torch.stack(want), atol=1e-5)
    p, q = flipped_by_hand(model, 2, 3)
    assert torch.allclose(model.vectors('user')[2], p, atol=1e-5)
    assert torch.allclose(model.vectors('item')[3], q, atol=1e-5)


@pytest.mark.parametrize('few', [0, 10**9])
def test_sums_have_the_right_gradients_either_way(few, monkeypatch):
    """By one product with the whole history, or (few) by picking the entries of the rows asked for."""
    monkeypatch.setattr('fastrec.models.svdpp.PICK_COST', few)
    model = randomised(MODELS['flipped']()).train()
    users = torch.tensor([0, 0, 5, 3])
    items = torch.tensor([int(HISTORY[0].indices[0]), 7, int(HISTORY[5].indices[0]), 2])
    picked = []
    original = SVDpp._picked_sums

    def picked_sums(self, *args):
        picked.append(1)
        return original(self, *args)

    monkeypatch.setattr(SVDpp, '_picked_sums', picked_sums)
    model(users, items).square().sum().backward()
    assert bool(picked) == (few == 0)
    got = {k: v.grad.clone() for k, v in model.named_parameters()}
    model.zero_grad()
    p, q = zip(*(flipped_by_hand(model, u, i, leave_out=True) for u, i in zip(users.tolist(), items.tolist())))
    x = (
        (torch.stack(p) * torch.stack(q)).sum(1)
        + model.user_biases.weight[users, 0]
        + model.item_biases.weight[items, 0]
        + model.mean
    )
    x.square().sum().backward()
    for k, v in model.named_parameters():
        assert torch.allclose(got[k], v.grad, rtol=1e-4, atol=1e-4), k


def test_svdpp_l2_is_taken_of_sums_own_and_history_vectors():
    model = randomised(MODELS['flipped'](own_decay=3.0, history_decay=2.0, residual_decay=5.0)).train()
    set_l2(model, 0.1)
    users = torch.tensor([0, 5, 5])
    items = torch.tensor([4, 4, 7])
    model(users, items)
    want = 0.0
    share = {}
    for side, axis in (('user', 1), ('item', 0)):
        n = np.maximum((HISTORY.toarray() != 0).sum(axis), 1)
        share[side] = dict(user=44.0, item=6.2)[side] * n**-0.75
    for u, i in zip(users.tolist(), items.tolist()):
        p, q = flipped_by_hand(model, u, i, leave_out=True)
        su = share['user'][u]
        si = share['item'][i]
        want += 0.1 * (p @ p + q @ q) + 0.3 * (
            su * model.user_factors.weight[u].square().sum() + si * model.item_factors.weight[i].square().sum()
        )
        want += 0.2 * (
            si * model.history_factors.weight[i].square().sum() + su * model.rater_factors.weight[u].square().sum()
        )
        want += 0.5 * (
            si * model.residual_factors.weight[i].square().sum()
            + su * model.rater_residual_factors.weight[u].square().sum()
        )
    assert pop_l2(model).item() == pytest.approx(want.item() / 3, rel=1e-4)


def test_vectors_follow_the_parameters():
    model = randomised(MODELS['flipped']()).eval()
    with torch.no_grad():
        before = model.score_items(torch.arange(3))
    randomised(model)
    with torch.no_grad():
        assert not torch.allclose(before, model.score_items(torch.arange(3))), 'an old product was kept'


def test_gmf_is_the_papers():
    model = randomised(MODELS['gmf']()).eval()
    want = (
        model.out.weight[0] * model.product.user_factors.weight[2] * model.product.item_factors.weight[7]
    ).sum() + model.out.bias[0]
    assert torch.allclose(model(torch.tensor([2]), torch.tensor([7]))[0], want, atol=1e-5)
    assert torch.allclose(
        model.vectors('user') @ model.vectors('item').T + model.out.bias,
        model.score_items(torch.arange(N_USERS)),
        atol=1e-5,
    )
    assert (GMF(3, 3, 4).out.weight == 1).all()


def test_neumf_has_separate_embeddings_of_the_right_size():
    model = NeuMF(N_USERS, N_ITEMS, 4, (8, 6))
    assert model.product.user_factors is not model.tower.user_factors
    assert model.out.in_features == 4 + 6
    assert 0.005 < NeuMF(500, 500, 32).tower.item_factors.weight.std() < 0.015


def test_neumf_from_pretrained_mixes_the_scores():
    gmf = randomised(GMF(N_USERS, N_ITEMS, 5)).eval()
    mlp = randomised(MLP(N_USERS, N_ITEMS, 3, (8, 6), dropout=0.2)).eval()
    with torch.no_grad():  # the parts of a rating MLP that a NeuMF has not
        for t in (mlp.user_biases.weight, mlp.item_biases.weight):
            t.zero_()
    for alpha in (0.5, 0.2):
        model = NeuMF.from_pretrained(gmf, mlp, alpha).eval()
        users = torch.arange(N_USERS)
        assert torch.allclose(
            model.score_items(users), alpha * gmf.score_items(users) + (1 - alpha) * mlp.score_items(users), atol=1e-4
        )
    before = mlp.tower.hidden[2].weight.clone()
    with torch.no_grad():
        model.tower.hidden[2].weight.zero_()
    assert torch.equal(mlp.tower.hidden[2].weight, before), 'the pre-trained model must not be shared'
    with pytest.raises(ValueError, match='different users or items'):
        NeuMF.from_pretrained(GMF(3, N_ITEMS, 5), mlp)


def test_a_neumf_of_pathways_of_different_width_is_made_again_from_its_config():
    gmf = randomised(GMF(N_USERS, N_ITEMS, 5))
    mlp = randomised(MLP(N_USERS, N_ITEMS, 3, (8, 6), dropout=0.2))
    users = torch.arange(N_USERS)
    for model in (NeuMF.from_pretrained(gmf, mlp), randomised(NeuMF(N_USERS, N_ITEMS, 4, (8,), gmf_dim=2))):
        again = NeuMF(**model.config())
        again.load_state_dict(model.state_dict())
        assert torch.equal(again.eval().score_items(users), model.eval().score_items(users))
        assert again.config() == model.config()
    assert model.product.user_factors.embedding_dim == 2
    assert model.tower.user_factors.embedding_dim == 4
    assert NeuMF(3, 3, mlp_dim=7).vectors('item').shape == (3, 32 + 7)
    assert 'gmf_dim' not in NeuMF(3, 3).config(), 'what one width tells, versions before can read'


@pytest.mark.parametrize('pretrain', [0, 1])
def test_neumf_learner_makes_pathways_of_the_widths_asked_for(pretrain, tmp_path, capsys):
    ratings, _, _ = synthetic_ratings(n_users=40, n_items=30, n_factors=3, density=0.2, seed=6)
    dls = RecDataLoaders.from_df(ratings, target='implicit', valid_pct=0.1, seed=0, bs=64)
    learn = neumf_learner(dls, n_factors=6, layers=(8, 4), gmf_dim=3, pretrain=pretrain, alpha=0.25)
    assert [learn.model.vectors(side).shape[1] for side in ('user', 'item')] == [3 + 6, 3 + 6]
    assert neumf_learner(dls, layers=(8,), mlp_dim=5).model.vectors('item').shape[1] == 32 + 5
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, 1e-2)
    saved = load_recommender(save_recommender(learn, tmp_path))
    users = torch.arange(dls.n_users)
    assert torch.allclose(saved.score_items(users), learn.score_items(users), atol=1e-6)
    with pytest.raises(ValueError, match='alpha=2: a share from 0'):
        neumf_learner(dls, alpha=2)


@pytest.mark.parametrize('norm', [0.4, 0.5, 1.0])
def test_sums_are_over_the_length_of_the_history_to_the_norm(norm):
    model = SVDpp(N_USERS, N_ITEMS, HISTORY, 5, std=1.0, norm=norm)
    n = np.diff(HISTORY.indptr)
    sums = (
        (HISTORY != 0).astype(np.float32)
        @ model.history_factors.weight.detach().numpy()
        / np.maximum(n, 1)[:, None] ** norm
    )
    users = torch.arange(N_USERS)
    assert np.allclose(model.train().user_vectors(users).detach() - model.user_factors.weight.detach(), sums, atol=1e-5)
    few = users[np.argsort(n)[:1].tolist()]  # the entries of one user are picked, not multiplied
    assert np.allclose(model.user_vectors(few).detach() - model.user_factors.weight[few].detach(), sums[few], atol=1e-5)
    assert np.allclose(
        model.eval().vectors('user') - model.user_factors.weight.detach(),
        sums * model.user_factors.known.numpy()[:, None],
        atol=1e-5,
    )
    assert model.config()['norm'] == norm


# --- what a learner takes for the range of its predictions

RANGED = {
    'collab': collab_learner,
    'svdpp': svdpp_learner,
    'mlp': mlp_learner,
    'content': lambda dls, **kw: content_learner(dls, items_features(dls.item_df), **kw),
    'gated': lambda dls, **kw: gated_learner(dls, items_features(dls.item_df), **kw),
}


@pytest.fixture(scope='module')
def rated():
    ratings, items, _ = synthetic_ratings(n_users=60, n_items=40, n_factors=3, density=0.3, seed=6)
    return ratings, items


def loaders(ratings, items, **kwargs):
    return RecDataLoaders.from_df(ratings, item_df=items, valid_pct=0.1, seed=0, bs=64, **kwargs)


@pytest.mark.parametrize('name', RANGED)
def test_predictions_of_ratings_go_a_tenth_beyond_them_unless_asked(name, rated):
    dls = loaders(*rated)
    low, high = dls.y_bounds
    margin = (high - low) / 10
    assert RANGED[name](dls).model.y_range == pytest.approx((low - margin, high + margin))
    assert RANGED[name](dls, y_range=False).model.y_range is None
    assert RANGED[name](dls, y_range=(0, 7)).model.y_range == (0, 7)
    with pytest.raises(ValueError, match=r'give two numbers .* with y_range=False predictions are unbounded'):
        RANGED[name](dls, y_range=True)


def test_what_has_no_range_of_ratings_is_unbounded(rated):
    ratings, items = rated
    assert collab_learner(loaders(ratings, items), loss_func=BCELoss()).model.y_range is None, 'scores are logits'
    assert collab_learner(loaders(ratings, items, target='liked')).model.y_range is None
    assert collab_learner(loaders(ratings, items, target='liked'), y_range=False).model.y_range is None
    assert collab_learner(loaders(ratings, items, target='implicit'), y_range=False).model.y_range is None
    counts = ratings.assign(rating=1.0)
    counts.loc[counts.index[:5], 'rating'] = 300.0
    assert collab_learner(loaders(counts, items)).model.y_range is None, 'a long tail'


# --- what a learner says of users it never saw


def items_features(items):
    return ItemFeatures.from_df(items, multilabel='genres')


LEARNERS = {
    'svdpp': lambda dls, items: svdpp_learner(dls, n_factors=8),
    'svdpp with features': lambda dls, items: svdpp_learner(dls, n_factors=8, item_features=items_features(items)),
    'collab': lambda dls, items: collab_learner(dls, n_factors=8, y_range=(0.5, 5.5)),
    'mlp': lambda dls, items: mlp_learner(dls, y_range=(0.5, 5.5)),
    'content': lambda dls, items: content_learner(dls, items_features(items), y_range=(0.5, 5.5)),
    'gated': lambda dls, items: gated_learner(dls, items_features(items), y_range=(0.5, 5.5)),
    'sum': lambda dls, items: gated_learner(dls, items_features(items), fusion='sum', y_range=(0.5, 5.5)),
    'concat': lambda dls, items: gated_learner(dls, items_features(items), fusion='concat', y_range=(0.5, 5.5)),
}


def test_users_that_a_tower_never_saw_score_as_the_others_do_on_average():
    known = torch.arange(9) % 3 != 0
    model = randomised(TwoTower(9, N_ITEMS, 4, (6,), known_users=known))
    users = torch.arange(9)
    model.train()
    model.eval()
    scores = model.score_items(users)
    assert torch.allclose(scores[~known], scores[known].mean(0).expand(3, -1), atol=1e-5)
    assert torch.allclose(model(users, users), scores[users, users], atol=1e-5)
    with torch.no_grad():
        model.user_tower.ids.weight[1] += 5.0
    moved = model.score_items(users)
    assert torch.allclose(moved[~known], moved[known].mean(0).expand(3, -1), atol=1e-5), 'not the mean of before'
    lengths = model.vectors('user').norm(dim=1) * model.temperature
    assert torch.allclose(lengths[known], torch.ones(6), atol=1e-5)


@pytest.mark.parametrize('name', LEARNERS)
def test_cold_users_give_items_about_the_scores_that_the_others_give(name):
    ratings, items, _ = synthetic_ratings(n_users=200, n_items=100, n_factors=3, density=0.3, noise=0.3, seed=4)
    cold = ratings['user'].isin(ratings['user'].unique()[::8]).to_numpy()
    split = np.flatnonzero(~cold), np.flatnonzero(cold)
    dls = RecDataLoaders.from_df(ratings, item_df=items, splitter=split, bs=128)
    torch.manual_seed(0)
    learn = LEARNERS[name](dls, items)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(6, 1e-2)
    known = torch.from_numpy(dls.catalog.known('user'))
    best_known = torch.from_numpy(np.argsort(-dls.catalog.counts['item'])[:30].copy())
    scores = learn.score_items(torch.arange(dls.n_users))[:, best_known]
    apart = scores[~known].mean(0) - scores[known].mean(0)
    spread = scores[known].mean(0).std()  # of items
    assert apart.mean().abs() < 0.1
    assert apart.std() < 0.3 * spread, 'and tell items apart as they do'
