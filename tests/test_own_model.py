"""Models of a user's own: a LightGCN written by CONTRIBUTING alone does every verb; what is wrong is said by name."""

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.progress import ProgressCallback
from scipy.sparse import bmat, csr_matrix, diags
from torch import nn
from trained import as_trained

from fastrec.data.datasets import synthetic_ratings
from fastrec.data.splits import LeaveLastSplitter
from fastrec.evaluation.evaluate import evaluate
from fastrec.evaluation.metrics import hr, mae, ndcg, rmse
from fastrec.models import DotBias, EmbeddingTable, RecModel
from fastrec.models.losses import SoftmaxLoss
from fastrec.scorers.artifact import load_recommender, save_recommender
from fastrec.training.builders import rec_learner
from fastrec.training.dataloaders import RecDataLoaders


class LightGCN(RecModel):
    """Neighbors' vectors over the graph of users and items, averaged over layers (He et al., SIGIR 2020, eq. 7, 8)."""

    def __init__(self, n_users, n_items, history, n_factors=8, n_layers=2, known_users=None, known_items=None):
        super().__init__()
        self.history = history
        self.n_layers = n_layers
        self.user_factors = EmbeddingTable(n_users, n_factors, known_users, std=0.1)
        self.item_factors = EmbeddingTable(n_items, n_factors, known_items, std=0.1)
        x = csr_matrix((np.ones_like(history.data), history.indices, history.indptr), shape=(n_users, n_items))
        both = bmat([[None, x], [x.T, None]]).tocsr()
        half = diags(1 / np.sqrt(np.maximum(np.asarray(both.sum(1)).ravel(), 1)))
        a = (half @ both @ half).tocoo()
        at = torch.from_numpy(np.stack([a.row, a.col]).astype(np.int64))
        graph = torch.sparse_coo_tensor(at, torch.from_numpy(a.data.astype(np.float32)), a.shape).coalesce()
        self.register_buffer('graph', graph, persistent=False)

    def propagated(self):  # -> (n_users, d), (n_items, d)
        layer = torch.cat([self.user_factors.weight, self.item_factors.weight])
        total = layer
        for _ in range(self.n_layers):
            layer = self.graph @ layer
            total = total + layer
        return (total / (1 + self.n_layers)).split([len(self.user_factors.weight), len(self.item_factors.weight)])

    def forward(self, users, items=None):
        if items is None:
            return self.score_items(users)
        p, q = self.propagated()
        self.user_factors.penalise(self.user_factors.weight[users])
        self.item_factors.penalise(self.item_factors.weight[items])
        p = p[users]
        q = q[items]
        return ((p.unsqueeze(1) if items.dim() == 2 else p) * q).sum(-1)

    def score_items(self, users):
        p, q = self.propagated()
        return p[users] @ q.T

    def vectors(self, side):
        return self.propagated()[side == 'item'].detach()

    def config(self):
        return dict(
            n_users=self.user_factors.num_embeddings,
            n_items=self.item_factors.num_embeddings,
            history=self.history,
            n_factors=self.user_factors.embedding_dim,
            n_layers=self.n_layers,
        )

    def without_history(self):
        return DotBias.from_vectors(self.vectors('user'), self.vectors('item'))


@pytest.fixture(scope='module')
def table():
    ratings, items, _ = synthetic_ratings(n_users=120, n_items=60, n_factors=3, density=0.3, noise=0.2, seed=2)
    return ratings, items


def loaders(table, **options):
    ratings, items = table
    options = dict(target='implicit', splitter=LeaveLastSplitter(1), bs=128) | options
    return RecDataLoaders.from_df(ratings, item_df=items, **options)


def quiet(learn):
    learn.remove_cb(ProgressCallback)
    learn.logger = lambda *_: None
    return learn


# --- every verb


@pytest.fixture(scope='module')
def learn(table):
    torch.manual_seed(0)
    res = quiet(rec_learner(loaders(table), LightGCN, metrics=[hr(10), ndcg(10)], wd=1e-4))
    res.fit_one_cycle(3, 1e-2)
    return res


def test_a_class_is_given_the_history(learn):
    positives = learn.catalog.require_history().positives
    assert (learn.model.history != positives).nnz == 0
    assert learn.model.user_factors.known.tolist() == learn.catalog.known('user').tolist()


def test_an_instance_trains(table):
    dls = loaders(table)
    model = LightGCN(dls.n_users, dls.n_items, dls.catalog.require_history().positives)
    learn = quiet(rec_learner(dls, model, metrics=[hr(10)]))
    before = model.vectors('item').clone()
    learn.fit(1, 1e-2)
    assert learn.model is model
    assert not torch.equal(before, model.vectors('item'))


def test_over_the_whole_catalogue(table):
    learn = quiet(rec_learner(loaders(table, n_neg=None), LightGCN, loss_func=SoftmaxLoss(), metrics=[hr(10)]))
    learn.fit_one_cycle(2, 1e-2)
    assert np.isfinite(learn.recorder.values[-1]).all()


def test_questions(learn, table):
    user = table[0].user[0]
    item = table[0].item[0]
    top = learn.recommend(user, k=5)
    scores = [
        learn.score(*(torch.from_numpy(learn.vocab[s].encode([o])) for s, o in (('user', user), ('item', i)))).item()
        for i in top.item
    ]
    assert top.score.tolist() == pytest.approx(scores, abs=1e-5)
    assert evaluate(learn, metrics=[ndcg(10)]).loc['all', 'ndcg@10'] == pytest.approx(learn.recorder.values[-1][3])
    assert len(learn.similar_items(item, 4)) == 4
    parts = learn.rec_model.explain(0, 1)
    assert parts['factors'].sum().item() == pytest.approx(
        learn.score(torch.tensor([0]), torch.tensor([1])).item(), abs=1e-5
    )
    assert learn.index('exact').kind == 'exact'
    again = learn.recommend(user, k=5)
    pd.testing.assert_frame_equal(again, top)
    learn._item_index = None


def test_new_users(learn, table):
    mine = table[0][table[0].user == table[0].user[0]].item.tolist()
    lists = learn.fold_in(mine[:5]).recommend(k=5)
    assert len(lists) == 5
    assert not set(lists.item) & set(mine[:5])


def test_new_rows(table):
    ratings, items = table
    learn = quiet(rec_learner(loaders((ratings[ratings.user != ratings.user[0]], items)), LightGCN))
    learn.fit(1, 1e-2)
    before = learn.model.item_factors.weight.detach().clone()
    learn.extend(ratings[ratings.user == ratings.user[0]])
    assert torch.equal(before, learn.model.item_factors.weight[: len(before)])
    assert learn.model.history.shape == (learn.catalog.n_users, learn.catalog.n_items)
    quiet(learn).fine_tune(1, 1e-2)
    assert len(learn.recommend(ratings.user[0], 3)) == 3


@pytest.mark.parametrize('history', [False, True])
def test_it_is_saved_without_who_has_what_unless_asked(learn, table, tmp_path, history):
    users = table[0].user.unique()[:4].tolist()
    save_recommender(learn, tmp_path / 'model', history=history)
    loaded = load_recommender(tmp_path / 'model')
    assert type(loaded.model) is DotBias
    assert (loaded.catalog.interactions is not None) == history
    want = learn.recommend(users, 5, exclude_seen=False)
    pd.testing.assert_frame_equal(loaded.recommend(users, 5, exclude_seen=False), want, rtol=1e-5)


def test_it_is_exported_without_who_has_what(learn, table, tmp_path):
    from fastai.learner import load_learner

    learn.path = tmp_path
    learn.export('model.pkl')
    loaded = load_learner(tmp_path / 'model.pkl')
    assert type(loaded.model) is DotBias
    assert loaded.catalog.interactions is None
    assert type(learn.model) is LightGCN
    users = table[0].user.unique()[:4].tolist()
    want = learn.recommend(users, 5, exclude_seen=False)
    pd.testing.assert_frame_equal(loaded.recommend(users, 5, exclude_seen=False), want, rtol=1e-5)


# --- what was silent


class Hoarder(LightGCN):
    """Keeps its history in `config()` and does not say how to do without."""

    def without_history(self):
        return self


def test_training_rows_in_config_do_not_travel(table, tmp_path):
    learn = quiet(as_trained(rec_learner(loaders(table), Hoarder)))
    with pytest.raises(ValueError, match=r'config\(\) of Hoarder holds history.*without_history'):
        save_recommender(learn, tmp_path / 'model')
    assert not (tmp_path / 'model').exists()
    learn.path = tmp_path
    with pytest.raises(ValueError, match='Hoarder holds history'):
        learn.export('model.pkl')
    assert not list(tmp_path.glob('*.pkl'))
    save_recommender(learn, tmp_path / 'all', history=True)
    assert type(load_recommender(tmp_path / 'all', classes=[Hoarder]).model) is Hoarder


class Careless(LightGCN):
    """Reads its tables as a whole, past `wd`."""

    def forward(self, users, items=None):
        if items is None:
            return self.score_items(users)
        p, q = self.propagated()
        return ((p[users].unsqueeze(1) if items.dim() == 2 else p[users]) * q[items]).sum(-1)

    def score_items(self, users):
        return super().score_items(users)


def test_weight_decay_that_would_do_nothing_is_an_error(table):
    learn = quiet(rec_learner(loaders(table), Careless))
    with pytest.raises(ValueError, match=r'wd=0\.1 is the L2 of rows looked up.*Careless.*penalise'):
        learn.fit(1, 1e-2, wd=0.1)
    learn.fit(1, 1e-2, wd=0.0)


def test_weight_decay_holds_down_what_is_penalised(table):
    def norm(wd):
        torch.manual_seed(0)
        learn = quiet(rec_learner(loaders(table, seed=0), LightGCN))
        learn.fit(2, 1e-2, wd=wd)
        return learn.model.item_factors.weight.norm().item()

    assert norm(10.0) < 0.9 * norm(0.0)


class Shifted(DotBias):
    """Overrides `forward` alone; the parameter that it adds starts at 0, so that at first nothing shows."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.shift = nn.Parameter(torch.zeros(self.item_factors.num_embeddings))

    def forward(self, users, items=None, context=None):
        return super().forward(users, items, context) + self.shift[items]


def test_a_subclass_with_a_forward_of_its_own_is_ranked_by_it(table):
    learn = quiet(rec_learner(loaders(table), Shifted))
    with torch.no_grad():
        learn.model.shift[7] = 100.0
    everyone = torch.arange(learn.catalog.n_users)
    assert (learn.score_items(everyone).argmax(1) == 7).all()
    first = learn.recommend(learn.vocab['user'].ids.tolist(), 1, exclude_seen=False)
    assert set(first.item) == {learn.vocab['item'].ids[7]}


class Disagrees(DotBias):
    """Scores pairs one way and the catalogue another."""

    def forward(self, users, items=None, context=None):
        return super().forward(users, items, context) + 1

    def score_items(self, users, context=None):
        return super().score_items(users, context) * 2


def test_two_ways_to_score_are_an_error(table):
    with pytest.raises(ValueError, match=r'Disagrees scores pairs otherwise than its score_items'):
        rec_learner(loaders(table), Disagrees)


class Plain(nn.Module):
    """The book's chapter 8: a module that knows nothing of the contract."""

    squeeze = True

    def __init__(self, n_users, n_items, n_factors=5):
        super().__init__()
        self.user_factors = nn.Embedding(n_users, n_factors)
        self.item_factors = nn.Embedding(n_items, n_factors)

    def forward(self, users, items):
        res = (self.user_factors(users) * self.item_factors(items)).sum(-1, keepdim=True)
        return res.squeeze(-1) if self.squeeze else res


class Column(Plain):
    squeeze = False


@pytest.mark.parametrize('loss', [None, nn.MSELoss()])
def test_a_column_of_scores_is_an_error_that_says_so(table, loss):
    dls = loaders(table, target='rating', splitter=None, valid_pct=0.1)
    with pytest.raises(TypeError, match=r'Column returns scores of shape \(2, 1\).*\(2,\).*squeeze'):
        rec_learner(dls, Column(dls.n_users, dls.n_items), loss_func=loss, metrics=[rmse, mae])
    learn = quiet(rec_learner(dls, Plain, metrics=[rmse, mae]))
    learn.fit(1, 1e-2)
    assert len(learn.recommend(table[0].user[0], 3)) == 3


def test_scores_of_another_shape_stop_training(table):
    dls = loaders(table, target='rating', splitter=None, valid_pct=0.1)
    learn = quiet(rec_learner(dls, Plain))
    learn.model.squeeze = False  # after it was looked at
    with pytest.raises(ValueError, match=r'Plain returns scores of shape \(128, 1\) for a target of shape \(128,\)'):
        learn.fit(1, 1e-2)


def test_one_item_a_user_only_is_an_error_that_names_the_way(table):
    dls = loaders(table)
    with pytest.raises(TypeError, match=r'Plain does not take items \(B, C\).*users\[:, None\]'):
        rec_learner(dls, Plain)
    with pytest.raises(TypeError, match=r'n_neg=None.*Plain does not score it.*score_items'):
        rec_learner(loaders(table, n_neg=None), Plain)
    with pytest.raises(TypeError, match='does not have parameters'):
        rec_learner(dls, nn.Identity())
