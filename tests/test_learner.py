"""Every verb of fastai on a RecLearner, what fastrec adds, and that training learns what was planted."""

import copy
import itertools
import pickle
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.basics import Adam, Callback, CancelFitException, Learner, OptimWrapper, load_learner, noop, set_seed
from fastai.callback.all import CSVLogger, EarlyStoppingCallback, ProgressCallback, SaveModelCallback, ShowGraphCallback
from fastai.interpret import Interpretation
from sklearn.model_selection import GroupKFold, KFold
from torch import nn
from trained import as_trained

from fastrec.all import (
    BiasOnly,
    GlobalMean,
    ItemFeatures,
    RecDataLoaders,
    collab_learner,
    content_learner,
    cross_validate,
    evaluate,
    gated_learner,
    hr,
    mae,
    mlp_learner,
    rec_learner,
    rmse,
    roc_auc_score,
    svdpp_learner,
)
from fastrec.models import DotBias, EmbeddingTable
from fastrec.training.decay import WeightDecay
from fastrec.training.learner import RecLearner
from fastrec.training.optimizers import FusedAdam, one_cycle

BUILDERS = {
    'collab': lambda dls, **kw: collab_learner(dls, n_factors=8, y_range=(0.5, 5.5), metrics=[rmse, mae], **kw),
    'mlp': lambda dls, **kw: mlp_learner(
        dls, n_factors=8, layers=(16, 8), y_range=(0.5, 5.5), metrics=[rmse, mae], **kw
    ),
    'content': lambda dls, **kw: content_learner(
        dls, _features(dls), n_factors=8, hidden=16, y_range=(0.5, 5.5), metrics=[rmse, mae], **kw
    ),
    'gated': lambda dls, **kw: gated_learner(
        dls, _features(dls), n_factors=8, y_range=(0.5, 5.5), metrics=[rmse, mae], **kw
    ),
}


def _features(dls):
    return ItemFeatures.from_df(dls.item_df, text='title', multilabel='genres', numeric='year')


def quiet(learn):
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    return learn


@pytest.fixture(params=BUILDERS)
def learn(request, dls, tmp_path):
    dls.path = tmp_path
    set_seed(0)
    return quiet(as_trained(BUILDERS[request.param](dls)))


@pytest.fixture()
def fitted(dls, tmp_path):
    dls.path = tmp_path
    set_seed(0)
    learn = quiet(BUILDERS['collab'](dls))
    learn.fit_one_cycle(8, 1e-2)
    return learn


# --- fastai's verbs


def test_fit_learns_and_records(learn):
    before = learn.validate()[0]
    learn.fit(2, 5e-3)
    assert learn.recorder.metric_names == ['epoch', 'train_loss', 'valid_loss', 'rmse', 'mae', 'time']
    assert learn.recorder.values[-1][1] < before
    assert len(learn.recorder.values) == 2


def test_fit_one_cycle_and_fine_tune(learn):
    learn.fit_one_cycle(1, 5e-3)
    assert max(learn.recorder.lrs) == pytest.approx(5e-3, rel=0.05)
    assert learn.recorder.lrs[-1] < 1e-5
    learn.fine_tune(1, 5e-3)
    assert all(p.requires_grad for p in learn.model.parameters())


def test_lr_find_leaves_the_model_as_it_was(learn):
    before = copy.deepcopy(learn.model.state_dict())
    suggestion = learn.lr_find(show_plot=False)
    assert 1e-7 < suggestion.valley < 10
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())


def test_validate_is_the_exact_error(learn):
    loss, r, m = learn.validate()
    preds, targ = learn.get_preds()
    error = preds - targ
    assert loss == pytest.approx(error.square().mean().item(), rel=1e-5)
    assert r == pytest.approx(error.square().mean().sqrt().item(), rel=1e-5)
    assert m == pytest.approx(error.abs().mean().item(), rel=1e-5)


def test_get_preds_keeps_the_order(learn):
    inter = learn.catalog.interactions
    split = learn.catalog.split
    for ds_idx, rows in ((0, split.train), (1, split.valid)):
        preds, targ = learn.get_preds(ds_idx)
        assert torch.equal(targ, torch.from_numpy(inter.ratings[rows]))
        want = learn.score(torch.from_numpy(inter.users[rows]).long(), torch.from_numpy(inter.items[rows]).long())
        assert torch.allclose(preds, want, atol=1e-6)
    shuffled = learn.dls.train.new(drop_last=True)  # shuffled and cut: get_preds puts all of it back
    assert torch.equal(learn.get_preds(dl=shuffled)[1], torch.from_numpy(inter.ratings[split.train]))


@pytest.mark.parametrize('target', ['rating', 'liked', 'implicit'])
def test_predictions_of_one_pair(synthetic, target):
    dls = RecDataLoaders.from_df(synthetic[0], target=target, valid_pct=0.2, seed=0)
    learn = as_trained(collab_learner(dls, n_factors=4))
    pair = synthetic[0].loc[[5], ['user', 'item']]
    preds, target = learn.get_preds(dl=dls.test_dl(pair))
    assert preds.shape == (1,)
    assert target is None
    assert preds.item() == pytest.approx(learn.predict(*pair.iloc[0]), abs=1e-5)
    assert len(learn.get_preds(dl=dls.test_dl(pair), with_input=True)) == 3


def test_get_preds_of_a_test_dl(learn, synthetic):
    df = synthetic[0].sample(50, random_state=0)
    preds, targ = learn.get_preds(dl=learn.dls.test_dl(df))
    assert targ is None or len(targ) == 0
    assert preds.numpy() == pytest.approx([learn.predict(u, i) for u, i in zip(df.user, df.item)], abs=1e-5)


def test_predict(learn, synthetic):
    user = synthetic[0].user[0]
    item = synthetic[0].item[0]
    assert isinstance(learn.predict(user, item), float)
    assert learn.predict(user, item) == learn.predict((user, item))
    with pytest.raises(KeyError, match='unknown user id'):
        learn.predict('nobody', item)


def test_show_results_has_titles(learn, capsys):
    learn.show_results(max_n=3)
    text = capsys.readouterr().out
    assert 'title' in text
    assert 'prediction' in text
    assert len(text.strip().splitlines()) == 4


def test_summary(learn):
    assert type(learn.model).__name__ in learn.summary()


def test_save_load(learn):
    learn.fit(1, 5e-3)
    want = learn.get_preds()[0]
    learn.save('m')
    learn.fit(1, 5e-3)
    assert not torch.equal(learn.get_preds()[0], want)
    learn.load('m')
    assert torch.equal(learn.get_preds()[0], want)


def test_export_holds_no_training_data(learn, synthetic):
    ratings, _, _ = synthetic
    learn.fit(1, 5e-3)
    user = ratings.user[0]
    want = learn.recommend(user, 5, exclude_seen=False)
    learn.export()
    blob = (learn.path / 'export.pkl').read_bytes()
    assert len(blob) < len(pickle.dumps(learn.dls.catalog.interactions)) + 4 * sum(
        p.numel() for p in learn.model.parameters()
    )
    assert learn.dls.catalog.interactions is not None, 'exporting must not touch the learner at hand'
    loaded = load_learner(learn.path / 'export.pkl')
    assert loaded.dls.catalog.interactions is None
    assert len(loaded.dls.train_ds) == 0
    assert 'seen' not in vars(loaded.dls.catalog)
    pd.testing.assert_frame_equal(loaded.recommend(user, 5, exclude_seen=False), want)
    assert loaded.predict(user, ratings.item[0]) == pytest.approx(learn.predict(user, ratings.item[0]))
    with pytest.raises(ValueError, match=r'seen=.*exclude_seen=False'):
        loaded.recommend(user)
    train = learn.catalog.interactions.to_df(learn.catalog.split.train)
    pd.testing.assert_frame_equal(loaded.recommend(user, 5, seen=train), learn.recommend(user, 5))
    with pytest.raises(ValueError, match='training data'):
        loaded.history(user)


def test_fp16(learn):
    learn.to_fp16()
    learn.fit(1, 5e-3)
    assert np.isfinite(learn.recorder.values[-1][1])


def test_save_model_and_early_stopping_know_that_less_error_is_better(learn):
    save = SaveModelCallback(monitor='rmse')
    stop = EarlyStoppingCallback(monitor='mae', min_delta=0.001, patience=9)
    learn.fit(2, 5e-3, cbs=[save, stop])
    assert save.comp is np.less
    assert stop.comp is np.less
    assert stop.min_delta == -0.001
    assert save.best == min(v[2] for v in learn.recorder.values) < np.inf
    loss = EarlyStoppingCallback(monitor='valid_loss')
    learn.fit(1, 5e-3, cbs=loss)
    assert loss.comp is np.less


def test_save_model_restores_the_best_epoch(fitted):
    fitted.fit(3, 5e-1, cbs=SaveModelCallback(monitor='rmse', fname='best'))  # a rate that wrecks it
    best = min(v[2] for v in fitted.recorder.values)
    assert fitted.validate()[1] == pytest.approx(best, rel=1e-5)


def test_logging_callbacks(dls, tmp_path, monkeypatch):
    dls.path = tmp_path
    learn = BUILDERS['collab'](dls)
    drawn = []
    monkeypatch.setattr(
        'fastprogress.fastprogress.ConsoleMasterBar.update_graph',
        lambda self, graphs, *a: drawn.append(graphs),
        raising=False,
    )
    with learn.no_logging():
        learn.fit(2, 1e-3, cbs=[CSVLogger(), ShowGraphCallback()])
    assert len(drawn) == 2
    assert len(drawn[-1][0][1]) == 2 * len(dls.train)
    assert 'rmse' in (tmp_path / 'history.csv').read_text().splitlines()[0]


def test_fastai_interpretation(learn):
    interp = Interpretation.from_learner(learn)
    losses, idx = interp.top_losses(4)
    preds, targ = learn.get_preds()
    want = (preds - targ).square()
    assert torch.allclose(losses, want.topk(4).values, atol=1e-5)
    assert torch.allclose(want[idx], losses, atol=1e-5)
    _, _, items = interp.top_losses(2, items=True)
    assert list(items.columns) == ['user', 'item', 'title', 'rating']


def test_training_as_fastai_would(dls, tmp_path):
    """Our dispatch of events changes nothing: the same batches through a stock Learner give the same weights."""

    class Tagged(nn.Module):
        def __init__(self):
            super().__init__()
            self.u = nn.Embedding(dls.n_users, 4)
            self.i = nn.Embedding(dls.n_items, 4)

        def forward(self, users, items):
            return (self.u(users) * self.i(items)).sum(1)

    def train(make):
        set_seed(7)
        learn = make(Tagged())
        learn.remove_cb(ProgressCallback)
        learn.logger = noop
        learn.fit_one_cycle(2, 1e-2, wd=0.1)
        return learn

    ours = train(lambda m: rec_learner(dls, m, opt_func=Adam))
    stock = train(lambda m: Learner(dls, m, loss_func=nn.MSELoss(), opt_func=Adam))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours.model.parameters(), stock.model.parameters()))
    assert ours.recorder.lrs == pytest.approx(stock.recorder.lrs, rel=1e-4)
    assert ours.recorder.hps['mom'] == pytest.approx(stock.recorder.hps['mom'], rel=1e-5)
    for a, b in zip(ours.recorder.values, stock.recorder.values):
        assert list(a) == pytest.approx(list(b), rel=1e-4)


def test_callbacks_hear_every_event_in_order(dls):
    heard = []

    class Ear(Callback):
        def before_batch(self):
            heard.append('before_batch')

        def after_pred(self):
            heard.append('after_pred')

        def after_loss(self):
            heard.append('after_loss')

        def before_step(self):
            heard.append('before_step')

        def after_batch(self):
            heard.append('after_batch')

    class TrainOnly(Callback):
        run_valid = False

        def after_pred(self):
            heard.append('train_only')

    learn = quiet(rec_learner(dls, nn_model(dls)))
    learn.fit(1, 1e-3, cbs=[Ear(), TrainOnly()])
    n_train = len(dls.train)
    n_valid = len(dls.valid)
    assert heard.count('after_pred') == n_train + n_valid
    assert heard.count('train_only') == heard.count('before_step') == n_train
    assert heard[:6] == ['before_batch', 'after_pred', 'train_only', 'after_loss', 'before_step', 'after_batch']


def test_cancelling_and_errors_in_callbacks(dls):
    class Stop(Callback):
        def after_batch(self):
            if self.learn.training and self.iter == 2:
                raise CancelFitException

    learn = quiet(rec_learner(dls, nn_model(dls)))
    learn.fit(1, 1e-3, cbs=Stop())
    assert len(learn.recorder.lrs) == 3 - (Stop.order < learn.recorder.order)

    class Bad(Callback):
        def after_pred(self):
            raise RuntimeError('broken on purpose')

    with pytest.raises(RuntimeError, match=r'Bad.*after_pred.*\n.*broken on purpose'):
        learn.fit(1, 1e-3, cbs=Bad())


def nn_model(dls):
    class Dot(nn.Module):
        def __init__(self):
            super().__init__()
            self.u = nn.Embedding(dls.n_users, 3)
            self.i = nn.Embedding(dls.n_items, 3)

        def forward(self, users, items):
            return (self.u(users) * self.i(items)).sum(-1)

    return Dot()


# --- what fastrec promises


def test_a_users_own_module(dls, synthetic):
    learn = quiet(rec_learner(dls, nn_model(dls), metrics=rmse))
    learn.fit(1, 1e-2)
    df = learn.recommend(synthetic[0].user[0], k=3)
    scores = [learn.predict(synthetic[0].user[0], i) for i in df.item]
    assert df.score.tolist() == pytest.approx(scores, abs=1e-5)
    with pytest.raises(TypeError, match='no method vectors'):
        learn.similar_items(1000)


def test_weight_decay_reaches_tables_as_l2_and_not_the_biases(dls):
    def norms(wd):
        set_seed(0)
        learn = quiet(BUILDERS['collab'](dls))
        learn.fit_one_cycle(3, 1e-2, wd=wd)
        return learn.model.vectors('item').norm().item(), learn.opt.hypers[0]['wd']

    (free, a) = norms(0.0)
    (held, b) = norms(0.5)
    assert held < 0.5 * free, 'the optimizer itself must not decay tables'
    assert a == b == 0, 'the optimizer itself must not decay tables'


def test_weight_decay_groups_of_the_mlp(dls):
    learn = quiet(BUILDERS['mlp'](dls))
    learn.fit_one_cycle(1, 1e-3, wd=0.3)
    assert [h['wd'] for h in learn.opt.hypers] == [0.0, 0.3]
    exempt = {id(p) for p in learn.opt.param_lists[0]}
    tables = [m for m in learn.model.modules() if isinstance(m, EmbeddingTable)]
    assert all(id(p) in exempt for table in tables for p in table.parameters())
    assert all(p.ndim == 2 for p in learn.opt.param_lists[1])
    assert learn.wd == 0.1, 'wd of one fit must not become the default'


def test_displayed_loss_is_free_of_the_penalty(dls):
    learn = quiet(BUILDERS['collab'](dls))
    learn.fit(1, 0.0, wd=100.0)
    assert learn.recorder.values[0][0] < 3


def test_planted_structure_is_recovered(fitted, synthetic):
    """Known answer: error near the planted noise, scores and biases that follow the truth."""
    _ratings, _, truth = synthetic
    table = evaluate(fitted)
    assert (
        table.rmse['all']
        < 0.6 * evaluate(BiasOnly().fit(fitted.dls)).rmse['all']
        < evaluate(GlobalMean().fit(fitted.dls)).rmse['all']
    )
    scores = fitted.score_items(torch.arange(fitted.dls.n_users)).numpy()
    assert np.corrcoef(scores.ravel(), np.clip(truth.scores, 1, 5).ravel())[0, 1] > 0.93
    assert np.corrcoef(fitted.biases('item').numpy(), truth.item_biases)[0, 1] > 0.8


def test_checkerboard():
    """Even users like even items, odd users odd ones: after training, no recommendation crosses the board."""
    n = 40
    pairs = itertools.product(range(n), range(n))
    rows = [(u, i, 5.0 if (u + i) % 2 == 0 else 1.0) for u, i in pairs if (u * 7 + i * 3) % 5]
    df = pd.DataFrame(rows, columns=['user', 'item', 'rating'])
    dls = RecDataLoaders.from_df(df, valid_pct=0.1, seed=0, bs=64)
    set_seed(0)
    learn = quiet(collab_learner(dls, n_factors=4, y_range=(0.5, 5.5), wd=0.02))
    learn.fit_one_cycle(10, 3e-2)
    recs = learn.recommend(range(n), k=3, exclude_seen=False)
    assert ((recs.user + recs.item) % 2 == 0).all()
    assert (learn.similar_items(0, k=5).item % 2 == 0).all()


def test_seeded_runs_are_equal(dls):
    def run():
        set_seed(3)
        learn = quiet(BUILDERS['collab'](dls))
        learn.fit_one_cycle(1, 1e-2)
        return learn.get_preds()[0]

    assert torch.equal(run(), run())


def test_warm_and_cold_columns(synthetic):
    ratings, _, _ = synthetic
    # the last fifth of the users comes after everybody else
    late = ratings.assign(time=np.where(ratings.user < 'u0060', 1, 0))
    dls = RecDataLoaders.from_df(
        late,
        splitter=np.array_split(np.argsort(late.time.to_numpy(), kind='stable'), [int((late.time == 0).sum()) - 200]),
        bs=64,
    )
    learn = quiet(collab_learner(dls, n_factors=4, y_range=(0.5, 5.5), metrics=rmse))
    assert learn.metrics.attrgot('name') == ['rmse', 'rmse_warm', 'rmse_cold']
    learn.fit(1, 1e-2)
    _, _, all_, warm, cold = learn.recorder.values[-1]
    table = evaluate(learn)
    assert list(table.index) == ['all', 'warm', 'cold']
    assert table.rows['all'] == table.rows['warm'] + table.rows['cold'] == len(dls.valid_ds)
    assert [all_, warm, cold] == pytest.approx(table.rmse.tolist(), rel=1e-5)


def test_a_cold_item_is_cold(synthetic):
    ratings, _, _ = synthetic
    late = ratings.item < 1030
    dls = RecDataLoaders.from_df(
        ratings,
        splitter=(np.flatnonzero(~late)[100:], np.append(np.flatnonzero(~late)[:100], np.flatnonzero(late))),
        bs=64,
    )
    learn = quiet(collab_learner(dls, n_factors=4, y_range=(0.5, 5.5), metrics=rmse))
    learn.fit(1, 1e-2)
    table = evaluate(learn)
    assert table.rows.to_dict() == dict(all=100 + late.sum(), warm=100, cold=late.sum())
    assert list(learn.recorder.values[-1])[2:] == pytest.approx(table.rmse.tolist(), rel=1e-5)


def test_schedule_arguments(dls):
    learn = quiet(BUILDERS['collab'](dls, lr=7e-3))
    learn.fit_one_cycle(1, moms=(0.8, 0.6, 0.7), pct_start=0.5, div=10.0)
    assert max(learn.recorder.lrs) == pytest.approx(7e-3, rel=0.01)
    assert learn.recorder.lrs[0] == pytest.approx(7e-4, rel=0.05)
    assert [
        learn.recorder.hps['mom'][0],
        min(learn.recorder.hps['mom']),
        learn.recorder.hps['mom'][-1],
    ] == pytest.approx([0.8, 0.6, 0.7], abs=0.005)


def test_fine_tune_trains_everything(dls):
    for name in BUILDERS:
        set_seed(0)
        learn = quiet(BUILDERS[name](dls))
        before = [p.detach().clone() for p in learn.model.parameters()]
        learn.freeze()
        learn.fit_one_cycle(1, slice(1e-5, 1e-2))
        assert all(not torch.equal(a, b) for a, b in zip(before, learn.model.parameters()))
        assert {h['lr'] for h in learn.opt.hypers} == {learn.opt.hypers[0]['lr']}


def test_a_mixed_group_is_decayed_once(dls):
    learn = quiet(mlp_learner(dls, n_factors=4, layers=(8,), splitter=lambda m: [list(m.parameters())]))
    learn.fit(1, 1e-3, wd=0.3)
    assert learn.opt.hypers[0]['wd'] == 0.3
    tables = WeightDecay(learn.model, learn.opt, 0.3, by_rows=True).tables
    assert tables == [], 'the optimizer decays the whole group, so the tables have no L2 besides'


def test_l2_is_off_after_training(dls):
    learn = quiet(BUILDERS['collab'](dls))
    learn.fit(1, 1e-3)
    learn.model.train()(torch.tensor([1]), torch.tensor([2]))
    assert learn.model.user_factors.penalty is None


def test_inference_restores_each_module(dls):
    learn = quiet(as_trained(BUILDERS['mlp'](dls)))
    learn.model.train()
    learn.model.tower.eval()
    learn.predict(dls.vocab['user'].ids[0], dls.vocab['item'].ids[0])
    assert learn.model.training
    assert not learn.model.tower.training


def test_a_torch_optimiser_class(dls):
    learn = quiet(BUILDERS['collab'](dls, opt_func=torch.optim.AdamW))
    learn.fit_one_cycle(1, 1e-2)
    assert learn.recorder.values[-1][1] < 1.3


def test_a_model_class_gets_what_it_takes(dls):
    learn = rec_learner(dls, DotBias)
    assert learn.model.mean.item() == pytest.approx(dls.catalog.mean_rating, rel=1e-4)
    assert torch.equal(learn.model.item_factors.known, torch.from_numpy(dls.catalog.known('item')))


def test_foreign_loaders_are_refused(fitted, synthetic):
    other = RecDataLoaders.from_df(synthetic[0][synthetic[0].item > 1020], valid_pct=0.1, seed=3, bs=64)
    with pytest.raises(ValueError, match='other users or items'):
        evaluate(fitted, other)
    again = RecDataLoaders.from_df(synthetic[0], valid_pct=0.1, seed=4, bs=64)
    with pytest.raises(ValueError, match='training rows of the scorer'):
        evaluate(fitted, again)


def test_cold_pairs_are_announced(synthetic):
    ratings, _, _ = synthetic
    cold = ratings.item == 1003
    dls = RecDataLoaders.from_df(ratings, splitter=(np.flatnonzero(~cold), np.flatnonzero(cold)), bs=64)
    learn = quiet(as_trained(collab_learner(dls, n_factors=4)))
    with pytest.warns(UserWarning, match='item 1003 has no training row'):
        learn.predict(ratings.user[0], 1003)
    with pytest.warns(UserWarning, match='1 of 2 pairs'):
        dls.test_dl([(ratings.user[0], 1003), (ratings.user[0], 1004)])
    with pytest.raises(TypeError, match='test_dl'):
        learn.predict(ratings.user[0])


def test_cross_validate_uses_each_fold(synthetic):
    seen = []

    def fit(dls):
        seen.append(tuple(dls.catalog.split.valid))
        return GlobalMean().fit(dls)

    table = cross_validate(synthetic[0], fit, metrics=mae)
    assert len(set(seen)) == 5
    assert sorted(r for o in seen for r in o) == list(range(len(synthetic[0])))
    assert list(table.columns) == ['mae']
    with pytest.raises(TypeError, match='returned None'):
        cross_validate(synthetic[0], lambda dls: None)
    with pytest.raises(TypeError, match='give folds'):
        cross_validate(synthetic[0], fit, 5)


def test_cross_validate_takes_folds_of_scikit_learn(synthetic):
    maker = KFold(3, shuffle=True, random_state=0)
    arrays = list(maker.split(synthetic[0]))
    valid = []

    def fit(dls):
        valid.append(dls.catalog.split.valid)
        return BiasOnly().fit(dls)

    table = cross_validate(synthetic[0], fit, maker, metrics=mae)
    assert all(np.array_equal(got, want) for got, (_, want) in zip(valid, arrays, strict=True))
    pd.testing.assert_frame_equal(table, cross_validate(synthetic[0], fit, arrays, metrics=mae))
    with pytest.raises(ValueError, match=r"groups=df\['user'\]"):
        cross_validate(synthetic[0], fit, GroupKFold(3))
    by_user = list(GroupKFold(3).split(synthetic[0], synthetic[0]['rating'], groups=synthetic[0]['user']))
    assert len(cross_validate(synthetic[0], fit, by_user)) == 5


def test_cross_validate(synthetic):
    table = cross_validate(synthetic[0], lambda dls: BiasOnly().fit(dls))
    assert list(table.index) == [0, 1, 2, 3, 4, 'mean', 'std']
    assert list(table.columns) == ['rmse', 'mae']
    assert table.rmse['mean'] == pytest.approx(table.rmse[:5].mean())
    assert table.rmse['std'] == pytest.approx(table.rmse[:5].std())
    n = len(synthetic[0])
    folds = [(np.arange(0, n // 2), np.arange(n // 2, n)), (np.arange(n // 2, n), np.arange(0, n // 2))]
    assert len(cross_validate(synthetic[0], lambda dls: GlobalMean().fit(dls), folds)) == 4


def test_evaluate_by_hand(dls):
    inter = dls.catalog.interactions
    split = dls.catalog.split
    mean = inter.ratings[split.train].mean()
    got = evaluate(GlobalMean().fit(dls))
    assert got.rmse['all'] == pytest.approx(np.sqrt(((inter.ratings[split.valid] - mean) ** 2).mean()), rel=1e-5)
    with pytest.raises(ValueError, match="no 'test' part"):
        evaluate(GlobalMean().fit(dls), split='test')


# --- errors that name the way out


def test_fastais_own_dataloaders_are_refused():
    from fastai.data.core import DataLoaders

    with pytest.raises(TypeError, match=r'RecDataLoaders.from_df.*fastai.collab'):
        collab_learner(DataLoaders())
    with pytest.raises(TypeError, match=r'RecDataLoaders.from_df'):
        RecLearner(None, nn.Linear(1, 1))


def test_use_nn_points_to_mlp_learner(dls):
    with pytest.raises(TypeError, match='mlp_learner'):
        collab_learner(dls, use_nn=True)


def test_y_range(dls):
    with pytest.raises(ValueError, match=r'outside y_range=\(2.*y_range=\(0.5, 5.5\)'):
        collab_learner(dls, y_range=(2, 5))
    with pytest.raises(ValueError, match='low < high'):
        collab_learner(dls, y_range=(5, 1))


def test_constant_ratings(synthetic):
    dls = RecDataLoaders.from_df(synthetic[0].assign(rating=1.0), valid_pct=0.1, seed=0, bs=64)
    with pytest.raises(ValueError, match='nothing to regress on'):
        collab_learner(dls, y_range=(0, 5))


def test_optimiser_without_weight_decay(dls):
    learn = quiet(rec_learner(dls, nn_model(dls), opt_func=partial(OptimWrapper, opt=torch.optim.Rprop), wd=0.1))
    with pytest.raises(ValueError, match='no weight decay'):
        learn.fit(1)
    learn = collab_learner(dls, opt_func=partial(OptimWrapper, opt=torch.optim.Rprop))
    quiet(learn).fit(1, 1e-3)  # tables have their own L2


# --- the optimizer and the schedule


def test_one_cycle_is_fastais():
    from fastai.callback.schedule import combined_cos

    for args in ((0.25, 0.1, 1.0, 0.001), (0.6, 0.95, 0.85, 0.9)):
        ours = one_cycle(*args)
        stock = combined_cos(*args)
        assert [ours(p) for p in np.linspace(0, 1, 41)] == pytest.approx(
            [stock(p) for p in np.linspace(0, 1, 41)], rel=1e-5
        )
    assert one_cycle(0.5, np.array([1.0, 2.0]), np.array([2.0, 4.0]), np.array([0.0, 0.0]))(0.5).tolist() == [2.0, 4.0]


def test_one_cycle_whose_first_part_is_all_of_it(dls):
    value_at = one_cycle(1.0, 0.0, 4.0, 9.0)
    assert [value_at(pct) for pct in (0.0, 0.5, 1.0)] == pytest.approx([0.0, 2.0, 4.0])
    assert one_cycle(0.0, 0.0, 4.0, 9.0)(0.0) == 4.0
    learn = quiet(rec_learner(dls, nn_model(dls)))
    learn.fit_one_cycle(1, 1e-2, pct_start=1.0)
    assert learn.recorder.lrs[-1] == pytest.approx(1e-2, rel=0.05)


def test_fused_adam_is_torchs_adamw_and_fastais_hypers():
    def make():
        return [nn.Parameter(torch.arange(6.0).view(2, 3)), nn.Parameter(torch.ones(2))]

    (a, b) = make()
    (c, d) = make()
    ours = FusedAdam([[a], [b]], lr=0.1)
    stock = OptimWrapper([[c], [d]], opt=torch.optim.AdamW, lr=0.1, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.0)
    for opt in (ours, stock):
        opt.set_hypers(lr=slice(0.01, 0.1), mom=0.8, wd=[0.1, 0.0])
        opt.set_hyper('sqr_mom', 0.98)
    assert [{k: h[k] for k in o} for h, o in zip(stock.hypers, ours.hypers)] == [pytest.approx(o) for o in ours.hypers]
    for _ in range(3):
        for opt, ps in ((ours, (a, b)), (stock, (c, d))):
            for p in ps:
                p.grad = p.detach() * 0.5 + 1
            opt.step()
    assert torch.allclose(a, c, atol=1e-6)
    assert torch.allclose(b, d, atol=1e-6)


def test_discriminative_rates(dls):
    learn = quiet(BUILDERS['mlp'](dls))
    learn.fit_one_cycle(1, slice(1e-4, 1e-2))
    assert max(learn.recorder.lrs) == pytest.approx(1e-2, rel=0.05)


def test_optimiser_state_is_saved_and_loaded(dls, tmp_path):
    dls.path = tmp_path
    learn = quiet(BUILDERS['collab'](dls))
    learn.fit_one_cycle(1, 1e-2)
    learn.save('m', with_opt=True)
    want = [s['exp_avg'].clone() for s in learn.opt.opt.state.values()]
    learn.fit_one_cycle(1, 1e-2)
    learn.load('m', with_opt=True)
    assert all(torch.equal(a, s['exp_avg']) for a, s in zip(want, learn.opt.opt.state.values()))


# --- SVD++ of ratings


def test_svdpp_of_ratings_follows_the_scale_of_the_ratings(synthetic):
    """Stars from 1 to 5 and the same as -20 to 100 give the same predictions.

    The range and the L2 come from the training ratings.
    """
    ratings, _, _ = synthetic
    stretched = ratings.assign(rating=30 * ratings.rating - 50)
    preds = []
    options = []
    for df in (ratings, stretched):
        dls = RecDataLoaders.from_df(df, valid_pct=0.1, seed=3, bs=256)
        set_seed(0)
        learn = quiet(svdpp_learner(dls, n_factors=6))
        assert learn.model.item_side
        assert learn.model.leave_one_out
        assert learn.model.pairs.shape == (len(dls.train.dataset),)
        learn.fit_one_cycle(3, 1e-2)
        preds.append(learn.get_preds()[0])
        options.append((learn.model.y_range, learn.wd))
    assert options[0][0] == pytest.approx((0.6, 5.4))
    assert options[1][0] == pytest.approx((-32, 112))
    assert options[1][1] == pytest.approx(900 * options[0][1], rel=1e-3)
    assert preds[0].std() > 0.2
    assert torch.allclose(30 * preds[0] - 50, preds[1], atol=1.0)


def test_svdpp_item_side_can_be_left_out(dls):
    learn = quiet(svdpp_learner(dls, n_factors=4, item_side=False, y_range=(0, 6)))
    assert learn.model.y_range == (0, 6)
    assert not hasattr(learn.model, 'rater_factors')
    learn.fit(1, 5e-3)
    assert torch.isfinite(learn.get_preds()[0]).all()
    with pytest.raises(ValueError, match='learn from choices'):
        svdpp_learner(
            RecDataLoaders.from_df(dls.catalog.interactions.to_df(), target='implicit', seed=0), residuals=True
        )


# --- the last fit, with every row


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(target='liked'),
        dict(target='implicit'),
        dict(target='implicit', n_neg=0),
        dict(target='implicit', n_neg=None),
    ],
    ids=str,
)
def test_training_on_every_row(synthetic, options):
    df = synthetic[0]
    dls = RecDataLoaders.from_df(df, valid_pct=0, **options)
    assert sorted(dls.catalog.split.train) == list(range(len(df)))
    assert not len(dls.catalog.split.valid)
    metrics = dict(implicit=[hr(5)], rating=rmse, liked=roc_auc_score())
    learn = collab_learner(dls, n_factors=4, metrics=metrics[dls.target])
    before = learn.model.item_factors.weight.detach().clone()
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, 5e-3)
    assert not torch.equal(before, learn.model.item_factors.weight)
    losses = learn.recorder.values[-1]
    assert np.isfinite(losses[0])
    assert losses[1] is None
    assert losses[2] is None or np.isnan(losses[2])
    assert len(learn.recommend(df.user.iloc[0], 3)) == 3
    with pytest.raises(ValueError, match=r'no rows are held out.*valid_pct=0'):
        evaluate(learn)
    with pytest.raises(ValueError, match="SaveModelCallback watches 'valid_loss', and no rows are held out"):
        learn.fit(1, cbs=SaveModelCallback())
    assert not any(isinstance(cb, SaveModelCallback) for cb in learn.cbs)
    card = learn.card()
    assert card['metrics']['rows'] == []
    assert 'No rows are held out' in card.to_markdown()
    assert card['split']['made_by'] == 'all rows for training'


def test_a_part_that_is_empty_by_accident(synthetic):
    with pytest.raises(ValueError, match=r'valid part of the split is empty.*valid_pct=0'):
        RecDataLoaders.from_df(synthetic[0], splitter=(np.arange(len(synthetic[0])), []))
    with pytest.raises(ValueError, match=r'valid_pct=-0.1: a share between 0 and 1, or 0'):
        RecDataLoaders.from_df(synthetic[0], valid_pct=-0.1)
