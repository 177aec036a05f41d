"""What is asked for is in the answer, or an error or a warning says why not: metrics, untrained models, divergence."""

import re
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.basics import set_seed
from fastai.callback.all import ProgressCallback, TerminateOnNaNCallback

from fastrec.all import (
    EASE,
    BiasOnly,
    Blend,
    DotBias,
    ItemKNN,
    KFoldSplitter,
    Popularity,
    RankingCallback,
    RecDataLoaders,
    Scorer,
    collab_learner,
    compare_models,
    coverage,
    cross_validate,
    ensemble_learner,
    evaluate,
    evaluate_users,
    gini,
    gmf_learner,
    hr,
    mlp_learner,
    ndcg,
    neumf_learner,
    plot_gains,
    rec_learner,
    rmse,
    roc_auc_score,
    svdpp_learner,
    tune_learner,
)


@pytest.fixture(scope='module')
def ratings(synthetic):
    table = synthetic[0]
    return table[table.user.isin(table.user.unique()[:100]) & table.item.isin(table.item.unique()[:60])]


@pytest.fixture(scope='module')
def explicit(ratings):
    return RecDataLoaders.from_df(ratings, seed=1)


@pytest.fixture(scope='module')
def implicit(ratings):
    return RecDataLoaders.from_df(ratings[['user', 'item']], target='implicit', seed=1)


def quiet(learn):
    learn.remove_cb(ProgressCallback)
    learn.logger = lambda *_: None
    return learn


def weights_of(learn):
    return [weight.detach().clone() for weight in learn.model.parameters()]


# --- metrics


def test_metrics_of_all_lists_are_compared(implicit):
    models = {'popular': Popularity().fit(implicit), 'EASE': EASE().fit(implicit), 'KNN': ItemKNN().fit(implicit)}
    table = compare_models(models, metrics=[ndcg(10), coverage(10), gini(10)], n_boot=20)
    assert list(dict.fromkeys(table.index.get_level_values('metric'))) == ['ndcg@10', 'coverage@10', 'gini@10']
    for name, scorer in models.items():
        own = evaluate(scorer, metrics=[coverage(10), gini(10)]).loc['all']
        for metric in ('coverage@10', 'gini@10'):
            assert table.loc[(metric, name), 'mean'] == own[metric]
            assert table.loc[(metric, name), ['low', 'high', 'p']].isna().all()
    covered, shares = table.loc['coverage@10'], table.loc['gini@10']
    assert (covered['difference'] == covered['mean'] - covered['mean'].max()).all()
    assert (shares['difference'] == shares['mean'] - shares['mean'].min()).all()  # less is a fairer share
    against = compare_models(models, metrics=[gini(10)], against='popular', plot=False).loc['gini@10']
    assert (against['difference'] == against['mean'] - against['mean']['popular']).all()


def test_bars_without_intervals(implicit):
    models = {'popular': Popularity().fit(implicit), 'EASE': EASE().fit(implicit)}
    from fastrec.evaluation.compare import plot_comparison

    table = compare_models(models, metrics=[ndcg(10), gini(10)], n_boot=20, plot=False)
    of_users, together = plot_comparison(table)
    assert together.get_xlabel() == 'gini@10, all users together (lower is better)'
    assert [bar.get_width() for bar in together.patches] == table.loc['gini@10', 'mean'].tolist()[::-1]
    assert [text.get_position()[0] for text in together.texts] == table.loc['gini@10', 'mean'].tolist()[::-1]
    assert len(of_users.lines) and not len(together.lines)  # the ends of intervals


def test_pooled_labels_are_compared(ratings):
    dls = RecDataLoaders.from_df(ratings, target='liked', seed=1)
    bias = BiasOnly().fit(dls)
    table = compare_models(
        {'bias': bias, 'popular': Popularity().fit(dls)}, dls, roc_auc_score(pooled=True), plot=False
    )
    pooled = evaluate(bias, dls, roc_auc_score(pooled=True)).loc['all', 'roc_auc_pooled']
    assert table.loc[('roc_auc_pooled', 'bias'), 'mean'] == pooled
    with pytest.raises(ValueError, match='gains are those of single users'):
        plot_gains(table)


def test_groups_have_no_metrics_of_all_lists(implicit):
    scorer = EASE().fit(implicit)
    with pytest.raises(ValueError, match=r'coverage@10, gini@10 have one value for all users together.*users=\[ids\]'):
        evaluate(scorer, metrics=[ndcg(10), coverage(10), gini(10)], by='history')
    ids = evaluate_users(scorer, metrics=ndcg(10)).index[:7]
    assert evaluate(scorer, metrics=coverage(10), users=ids).loc['all', 'coverage@10'] > 0


@pytest.mark.parametrize('asked', [dict(relevant=4), dict(k=5), dict(n_candidates=9)])
def test_errors_do_not_leave_out_what_is_for_ranking(explicit, asked):
    with pytest.raises(ValueError, match=f'{next(iter(asked))}.*errors of ratings'):
        evaluate(BiasOnly().fit(explicit), metrics=[rmse], **asked)


def test_columns_of_every_ranking_callback(explicit):
    rank = RankingCallback([hr(5)], relevant=4)
    cover = RankingCallback([coverage(5)], relevant=4)
    learn = quiet(collab_learner(explicit, n_factors=4, metrics=[rmse], cbs=[rank, cover]))
    learn.fit(1, 1e-2)
    assert learn.recorder.metric_names[3:-1] == ['rmse', 'hr@5', 'coverage@5']
    want = evaluate(learn, metrics=[hr(5), coverage(5)], relevant=4).loc['all', ['hr@5', 'coverage@5']]
    assert list(learn.recorder.values[-1][3:]) == pytest.approx(want.tolist())
    learn = quiet(collab_learner(explicit, n_factors=4))
    learn.fit(1, 1e-2, cbs=RankingCallback([hr(5)], relevant=4))
    assert learn.recorder.metric_names[3:-1] == ['hr@5']
    learn.fit(1, 1e-2)
    assert not learn.recorder.metric_names[3:-1]


# --- models that were not trained


def test_cross_validation_trains_a_builder(ratings):
    folds = KFoldSplitter(2)
    with pytest.raises(ValueError, match=r'was not trained: let cross_validate train it, n_epoch=10'):
        cross_validate(ratings, lambda dls: quiet(collab_learner(dls, n_factors=4)), folds)
    with pytest.raises(ValueError, match='was not trained'):
        cross_validate(ratings, partial(ensemble_learner, learner=collab_learner, n_members=2), folds)
    set_seed(3)
    by_itself = cross_validate(ratings, partial(collab_learner, n_factors=4), folds, n_epoch=2, lr=1e-2)

    def fit(dls):
        learn = quiet(collab_learner(dls, n_factors=4))
        learn.fit_one_cycle(2, 1e-2)
        return learn

    set_seed(3)
    pd.testing.assert_frame_equal(cross_validate(ratings, fit, folds), by_itself)
    with pytest.raises(ValueError, match='would train it again'):
        cross_validate(ratings, fit, folds, n_epoch=2)
    ensemble = cross_validate(ratings, partial(ensemble_learner, learner=collab_learner, n_members=2), folds, n_epoch=1)
    assert (ensemble.rmse[:2] < 2).all()


class Unfitted(Scorer):
    """A scorer of somebody else's, which is no `Baseline`."""


def test_cross_validation_wants_a_fitted_scorer(ratings):
    with pytest.raises(ValueError, match=re.escape('lambda dls: Unfitted().fit(dls)')):
        cross_validate(ratings, lambda dls: Unfitted())
    table = cross_validate(ratings, lambda dls: EASE().fit(dls), KFoldSplitter(2), [ndcg(10), coverage(10)], relevant=4)
    assert list(table.columns) == ['ndcg@10', 'coverage@10']
    with pytest.raises(TypeError, match=r'n_epoch=2 trains learners, and EASE has no training loop'):
        cross_validate(ratings, lambda dls: EASE().fit(dls), n_epoch=2, target='implicit')
    with pytest.raises(TypeError, match='returned int'):
        cross_validate(ratings, lambda dls: 3)


def test_what_is_trained(explicit, implicit):
    learn = quiet(collab_learner(explicit, n_factors=4))
    assert not learn.is_trained
    with pytest.raises(ValueError, match='was never trained'):
        evaluate(learn)
    learn.fit(1, 1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        evaluate(learn)
    assert learn.is_trained
    assert Blend([learn]).is_trained
    assert EASE().fit(implicit).is_trained


def test_weights_from_elsewhere_are_trained(explicit, implicit, tmp_path):
    def fresh(**kwargs):
        return quiet(collab_learner(explicit, n_factors=4, path=tmp_path, **kwargs))

    trained = fresh()
    trained.fit(1, 1e-2)
    trained.save('weights')
    assert fresh().load('weights').is_trained
    assert fresh().load_vectors(trained, ['item', 'user']).is_trained
    by_hand = fresh()
    with torch.no_grad():
        by_hand.model.user_factors.weight.add_(0.1)
    assert by_hand.is_trained
    assert rec_learner(explicit, trained.model).is_trained  # who knows where it comes from
    assert not rec_learner(explicit, DotBias).is_trained
    assert not gmf_learner(implicit).is_trained
    assert quiet(neumf_learner(implicit, n_factors=4, layers=(8,), pretrain=1)).is_trained
    found = fresh()
    found.lr_find(show_plot=False, num_it=20)
    assert not found.is_trained  # it puts the weights back


# --- divergence


def damaged(dls, value, **kwargs):
    """A learner of which one item's bias and vector are not numbers."""
    learn = quiet(collab_learner(dls, n_factors=4, **kwargs))
    learn.fits.append({})
    with torch.no_grad():
        learn.model.item_biases.weight[3] = value
        learn.model.item_factors.weight[3] = value
    return learn


@pytest.mark.parametrize('value', [torch.nan, torch.inf])
@pytest.mark.parametrize(
    'verb',
    ['predict', 'recommend', 'many', 'candidates', 'users', 'basket', 'similar', 'fold_in', 'index', 'errors', 'ranks'],
)
def test_what_is_no_number_is_no_answer(explicit, value, verb):
    learn = damaged(explicit, value)
    users, items = (explicit.vocab[side].ids for side in ('user', 'item'))
    verbs = dict(
        predict=lambda: learn.predict(users[0], items[3]),
        recommend=lambda: learn.recommend(users[0], exclude_seen=False),
        many=lambda: learn.recommend(users[:50], exclude_seen=False),
        candidates=lambda: learn.recommend(users[0], candidates=[items[3]], exclude_seen=False),
        users=lambda: learn.recommend_users(items[3]),
        basket=lambda: learn.recommend(basket=[items[1]]),
        similar=lambda: learn.similar_items(items[1]),
        fold_in=lambda: learn.fold_in({items[1]: 4}),
        index=lambda: learn.index(),
        errors=lambda: evaluate(learn),
        ranks=lambda: evaluate(learn, metrics=hr(5), relevant=4),
    )
    with pytest.raises(ValueError, match='not numbers: did training diverge'):
        verbs[verb]()


def test_scores_of_infinity_do_not_leave_the_lists(implicit):
    popular = Popularity().fit(implicit)
    user = implicit.vocab['user'].ids[0]
    best = popular.recommend(user, 1).item[0]
    popular.scores[implicit.vocab['item'].encode(best)] = torch.inf
    with pytest.raises(ValueError, match='not numbers'):
        popular.recommend(user, 3)
    with pytest.raises(ValueError, match='not numbers'):
        evaluate(popular)


def test_users_that_are_no_numbers_are_not_searched_for(implicit):
    learn = quiet(collab_learner(implicit, n_factors=4))
    learn.fit(1, 1e-2)
    learn.index('exact')
    with torch.no_grad():
        learn.model.user_factors.weight[:] = torch.nan
    with pytest.raises(ValueError, match='not numbers'):
        learn.recommend(implicit.vocab['user'].ids[0])


def test_likes_that_are_no_numbers(ratings):
    learn = damaged(RecDataLoaders.from_df(ratings, target='liked', seed=1), torch.inf)
    with pytest.raises(ValueError, match='not numbers'):
        evaluate(learn)


def divergence(learn, *args, **kwargs):
    """Messages about divergence that a fit gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        learn.fit(*args, **kwargs)
    return [str(o.message) for o in caught if 'diverged' in str(o.message)]


def test_a_loss_that_is_no_number_is_said_once(explicit):
    learn = quiet(collab_learner(explicit, n_factors=4))
    assert not divergence(learn, 1, 1e-2)
    (message,) = divergence(learn, 3, 1e30)
    assert 'training loss of epoch 0 is not a number' in message
    assert 'learning rate of 1e+30' in message
    assert not np.isfinite(learn.recorder.values[-1][0])
    (again,) = divergence(learn, 1, 1e-2)  # of each fit
    assert 'learning rate of 0.01' in again
    learn.validate()  # no fit


def test_a_search_goes_on_after_a_trial_that_diverged(implicit):
    pytest.importorskip('optuna')
    learn = quiet(collab_learner(implicit, n_factors=4, metrics=[ndcg(10)]))
    assert len(divergence(learn, 2, 1e30)) == 1
    assert np.isnan(learn.recorder.values[-1][2])
    options = dict(n_trials=3, n_epoch=1, monitor='ndcg@10', metrics=[ndcg(10)], n_factors=4, start=dict(lr=1e30))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        table = tune_learner(implicit, collab_learner, dict(lr=[1e30, 1e-2]), **options).table()
    assert set(table.state[table.lr == 1e30]) == {'pruned'}
    assert set(table.state[table.lr == 1e-2]) == {'complete'}


def test_only_the_validation_loss_is_no_number(explicit):
    from fastai.callback.core import Callback

    class Spoil(Callback):
        def after_train(self):
            if self.epoch == 1:
                with torch.no_grad():
                    self.model.mean.fill_(torch.nan)

    (message,) = divergence(quiet(collab_learner(explicit, n_factors=4)), 2, 1e-3, cbs=Spoil())
    assert 'validation loss of epoch 1' in message
    assert 'learning rate of 0.001' in message


def test_terminate_on_nan_ends_the_fit(explicit):
    learn = quiet(collab_learner(explicit, n_factors=4))
    (message,) = divergence(learn, 3, 1e30, cbs=TerminateOnNaNCallback())
    assert 'epoch 0' in message
    assert not learn.recorder.values  # no epoch came to its end


# --- ranges


@pytest.mark.parametrize('y_range', [(0, np.inf), (-np.inf, 5), (np.nan, 5), (0, np.nan), (5.5, 0.5), (3, 3)])
def test_ranges_that_are_none(explicit, y_range):
    for builder in (collab_learner, svdpp_learner, mlp_learner):
        with pytest.raises(ValueError, match=r'give two numbers \(low, high\).*y_range=\(0.5, 5.5\)'):
            builder(explicit, y_range=y_range)
    with pytest.raises(ValueError, match='give two numbers'):
        DotBias(3, 3, 2, y_range=y_range)
    collab_learner(explicit, y_range=(0.5, 5.5))


@pytest.mark.parametrize('value', [-1e30, 1e9])
@pytest.mark.parametrize('way', ['table', 'csv', 'parquet', 'stream'])
def test_values_that_are_no_ratings(ratings, value, way, tmp_path):
    table = ratings.astype(dict(rating=float)).reset_index(drop=True)
    table.loc[5, 'rating'] = value
    table.to_csv(tmp_path / 'ratings.csv', index=False)
    table.to_parquet(tmp_path / 'ratings.parquet')
    loaders = dict(
        table=lambda: RecDataLoaders.from_df(table),
        csv=lambda: RecDataLoaders.from_csv(tmp_path / 'ratings.csv'),
        parquet=lambda: RecDataLoaders.from_parquet(tmp_path / 'ratings.parquet'),
        stream=lambda: RecDataLoaders.from_parquet(tmp_path / 'ratings.parquet', stream=True),
    )
    with pytest.raises(ValueError, match=r'no rating is larger than 1e[+]08 either way.*drop those rows') as e:
        loaders[way]()
    condition = re.search(r'`df\[(.*)\]`', str(e.value))[1]
    kept = table[eval(condition, dict(df=table))]
    assert len(kept) == len(table) - 1
    RecDataLoaders.from_df(kept)


def test_values_that_are_no_ratings_of_new_users(explicit):
    learn = quiet(collab_learner(explicit, n_factors=4))
    with pytest.raises(ValueError, match='no rating is larger than'):
        learn.fold_in({explicit.vocab['item'].ids[0]: -1e30})
