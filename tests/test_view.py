"""Scoring goes through a view in eval mode: it neither depends on the mode of the model nor changes it for others."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from torch import nn

from fastrec.all import RecDataLoaders, collab_learner, mlp_learner, svdpp_learner, synthetic_ratings
from fastrec.models.view import eval_view, evaluating, in_eval

THREADS = 8
CALLS = {'mlp': 200, 'svdpp': 40, 'collab': 40}


def loaders(**options):
    ratings, items, _ = synthetic_ratings(n_users=80, n_items=50, density=0.3, seed=1)
    # a cold item and a cold user: what the table has of them is held out
    cold = (ratings.item == ratings.item.iloc[0]) | (ratings.user == ratings.user.iloc[1])
    split = (np.flatnonzero(~cold), np.flatnonzero(cold))
    return RecDataLoaders.from_df(ratings, item_df=items, splitter=lambda _: split, bs=64, seed=1, **options)


def with_dropout(kind, dls):
    if kind == 'mlp':
        return mlp_learner(dls, n_factors=8, layers=[16], dropout=0.5)
    if kind == 'svdpp':
        return svdpp_learner(dls, n_factors=8, dropout=0.5)
    return collab_learner(dls, n_factors=8)


def modes(model):
    return {name: m.training for name, m in model.named_modules()}


def in_threads(job):
    """Results of `job(number)` in THREADS threads that begin together."""
    barrier = threading.Barrier(THREADS)

    def start(number):
        barrier.wait()
        return job(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(start, range(THREADS)))


@pytest.mark.parametrize('kind', ['mlp', 'svdpp', 'collab'])
def test_threads_score_a_learner_in_train_mode_as_one_thread_does(kind, tmp_path):
    dls = loaders()
    trained = with_dropout(kind, dls)
    trained.path = tmp_path
    trained.fit_one_cycle(1, 5e-3)
    trained.save('weights')
    learn = with_dropout(kind, dls)
    learn.path = tmp_path
    learn.load('weights')
    learn.model.train()
    users = torch.arange(dls.n_users)
    items = users % dls.n_items
    want_pairs = trained.score(users, items)
    want_all = trained.score_items(users[:8])
    ids = dls.vocab['user'].ids
    item = dls.vocab['item'].ids[3]
    want_list = trained.recommend(ids[5], k=5)
    want_value = trained.predict(ids[5], item)

    def job(number):
        wrong = 0
        for call in range(CALLS[kind]):
            what = (call + number) % 4
            if what == 0:
                wrong += not torch.equal(learn.score(users, items), want_pairs)
            elif what == 1:
                wrong += not torch.equal(learn.score_items(users[:8]), want_all)
            elif what == 2:
                wrong += not learn.recommend(ids[5], k=5).equals(want_list)
            else:
                wrong += learn.predict(ids[5], item) != want_value
            wrong += not all(m.training for m in learn.model.modules())
        return wrong

    assert in_threads(job) == [0] * THREADS


@pytest.mark.parametrize('kind', ['mlp', 'svdpp'])
def test_training_in_another_thread_keeps_its_mode(kind):
    learn = with_dropout(kind, loaders())
    seen = []
    learn.model.register_forward_pre_hook(lambda m, _: seen.append((m.training, m is learn.model, learn.training)))
    users = torch.arange(20)
    done = threading.Event()

    def train():
        try:
            learn.fit(4, 1e-3)
        finally:
            done.set()

    trainer = threading.Thread(target=train)
    trainer.start()
    n_scored = 0
    while not done.is_set():
        learn.score(users, users)
        n_scored += 1
    trainer.join()
    of_training = [mode for mode, is_own, training in seen if is_own and training]
    of_views = [mode for mode, is_own, _ in seen if not is_own]
    assert len(of_training) >= 4 * len(learn.dls.train) and all(of_training)
    assert len(of_views) == n_scored and not any(of_views)


def test_modes_of_single_modules_stay():
    learn = with_dropout('mlp', loaders())
    learn.model.train()
    first = next(m for m in learn.model.modules() if isinstance(m, nn.Dropout))
    first.eval()
    before = modes(learn.model)
    assert len(set(before.values())) == 2
    with learn.inference():
        assert modes(learn.model) == before
        assert not any(modes(learn.rec_model).values())
        learn.score(torch.arange(3), torch.arange(3))
        assert modes(learn.model) == before
    assert modes(learn.model) == before


def test_scoring_between_two_steps_sees_each_of_them():
    # the fused optimizers leave versions of tensors as they are: what a model keeps for reading must not outlive a step
    learn = with_dropout('svdpp', loaders())
    users = torch.arange(20)
    scores = []

    class Watch(Callback):
        def after_batch(self):
            if self.training:
                scores.append(learn.score(users, users))

    learn.fit(1, 1e-2, cbs=Watch())
    assert len(scores) > 5
    assert all(not torch.equal(a, b) for a, b in pairwise(scores))


def test_cold_rows_are_the_mean_of_the_known_in_every_thread():
    dls = loaders()
    learn = with_dropout('collab', dls)
    learn.model.train()
    table = learn.model.item_factors
    cold = torch.from_numpy(~dls.catalog.known('item'))
    assert cold.any()
    with torch.no_grad():
        table.weight[cold] = 1e6
    mean = table.weight[~cold].mean(0)
    found = in_threads(lambda _: learn.vectors('item')[cold].clone())
    for rows in found:
        assert torch.allclose(rows, mean.expand_as(rows), atol=1e-6)


def test_scoring_inside_a_step_does_not_disturb_it():
    # cold rows are filled while a graph that has saved the table waits for its backward pass
    dls = loaders(target='implicit', n_neg=None)
    learn = collab_learner(dls, n_factors=4)

    class ScoreInside(Callback):
        def before_backward(self):
            learn.score(torch.arange(3), torch.arange(3))

    learn.fit(1, 1e-2, cbs=ScoreInside())


class Odd(nn.Module):
    """What is not registered: modules in a list, bound methods, a forward that was replaced."""

    def __init__(self):
        super().__init__()
        self.users = nn.Embedding(80, 4)
        self.items = nn.Embedding(50, 4)
        self.drop = nn.Dropout(0.5)
        self.layers = [self.drop]
        self.by_name = {'drop': self.drop}
        self.thin_out = self.drop.forward
        self.forward = self.scored

    def scored(self, users, items):
        p = self.layers[0](self.users(users))
        q = self.by_name['drop'](self.items(items))
        return self.thin_out(p * q).sum(-1)


def test_what_is_not_registered_is_in_eval_mode_too():
    model = Odd().train()
    users = torch.arange(50)
    want = (model.users(users) * model.items(users)).sum(-1)
    with evaluating(model) as view:
        assert in_eval(model) is view
        with evaluating(model) as inner:
            assert inner is view
        assert torch.equal(view(users, users), want)
        assert view.users.weight is model.users.weight
    assert in_eval(model) is model
    assert all(modes(model).values())
    assert not torch.equal(model(users, users), want)


def test_a_compiled_model_is_scored_as_what_it_was_made_from():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).train()
    x = torch.randn(4, 3)
    want = model[0](x)
    whole = torch.compile(model, backend='eager')
    assert torch.equal(eval_view(whole)(x), want)
    model.compile(backend='eager')
    assert torch.equal(eval_view(model)(x), want)
    assert all(m.training for m in model.modules())


def test_a_scripted_model_keeps_its_mode():
    model = torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)))
    model.train()
    x = torch.randn(4, 3)
    assert torch.equal(eval_view(model)(x), model[0](x))
    assert all(m.training for m in model.modules())


def test_statistics_of_a_norm_stay_as_training_left_them():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train()
    before = model[1].running_mean.clone()
    view = eval_view(model)
    view(torch.randn(8, 3) + 5)
    assert torch.equal(model[1].running_mean, before)
    model(torch.randn(8, 3) + 5)
    assert torch.equal(view[1].running_mean, model[1].running_mean)  # shared, not copied
