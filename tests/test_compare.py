"""Models side by side and metrics by name: errors by hand, intervals over users, paired tests, folds."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.basics import set_seed
from fastai.callback.all import ProgressCallback
from scipy.stats import wilcoxon

from fastrec.all import (
    EASE,
    BiasOnly,
    Blend,
    Ensemble,
    GlobalMean,
    Popularity,
    RankingCallback,
    RecDataLoaders,
    Scorer,
    collab_learner,
    compare_models,
    coverage,
    cross_validate,
    evaluate,
    evaluate_users,
    gini,
    hr,
    mae,
    mlp_learner,
    ndcg,
    plot_gains,
    rmse,
    roc_auc_score,
    save_recommender,
    svdpp_learner,
)
from fastrec.evaluation.compare import plot_comparison
from fastrec.evaluation.named import as_metrics, metric_name


class Given(Scorer):
    """Predicts a rating for each pair that is given, whatever it was trained on."""

    scale = 'rating'

    def __init__(self, catalog, predictions):
        self.catalog, self.predictions = catalog, torch.as_tensor(predictions)

    def score(self, users, items):
        return self.predictions[users, items]

    def score_items(self, users):
        return self.predictions[users].clone()


@pytest.fixture(scope='module')
def ratings():
    rng = np.random.default_rng(0)
    pairs = [(f'u{user}', f'i{item}') for user in range(12) for item in rng.permutation(10)[: 4 + user % 6]]
    table = pd.DataFrame(pairs, columns=['userId', 'movieId'])
    return table.assign(rating=rng.integers(1, 6, len(table)).astype(float))


@pytest.fixture(scope='module')
def dls(ratings):
    return RecDataLoaders.from_df(ratings, seed=2, valid_pct=0.4, bs=16)


@pytest.fixture(scope='module')
def models(dls):
    rng = np.random.default_rng(1)
    shape = dls.n_users, dls.n_items
    return {
        f'noise {noise}': Given(dls.catalog, 3 + rng.normal(0, noise, shape).astype(np.float32)) for noise in (0, 1, 2)
    }


def held_out_errors(dls, scorer):
    """A table of the held-out rows: codes of user and item, error."""
    history = dls.catalog.require_history()
    inter, rows = history.interactions, history.split.valid
    users, items = inter.users[rows].astype(int), inter.items[rows].astype(int)
    errors = scorer.predictions.numpy()[users, items].astype(float) - inter.ratings[rows]
    return pd.DataFrame(dict(user=users, item=items, error=errors))


def quiet(learn):
    learn.remove_cb(ProgressCallback)
    learn.logger = lambda *_: None
    return learn


# --- metrics by name


@pytest.mark.parametrize(
    ('asked', 'names'),
    [
        ('rmse', ['rmse']),
        (['rmse', mae, 'NDCG@5', hr, ndcg(3)], ['rmse', 'mae', 'ndcg@5', 'hr@10', 'ndcg@3']),
        (['map@7', 'hit@10', 'auc', 'coverage@20', 'gini@10'], ['map@7', 'hr@10', 'auc', 'coverage@20', 'gini@10']),
        (['roc_auc_score', 'roc_auc_pooled', 'f1', 'precision_score', 'precision@3'],
         ['roc_auc', 'roc_auc_pooled', 'f1', 'precision', 'precision@3']),
        (None, []),
    ],
)  # fmt: skip
def test_names_of_metrics(asked, names):
    assert [metric_name(metric) for metric in as_metrics(asked)] == names


@pytest.mark.parametrize(
    ('asked', 'error'),
    [
        ('nddcg@10', r"unknown metric 'nddcg@10': did you mean 'ndcg@10'\?"),
        ('recal@20', r"did you mean 'recall@20'"),
        ('rsme', r"did you mean 'rmse'"),
        ('hr@0', 'whole number from 1 on, such as hr@10'),
        ('hr@', 'whole number from 1 on'),
        ('rmse@10', "'rmse' is known, but not the cut-off of it"),
        ('hr_pooled', "'hr' is known, but not what is pooled of it"),
        ('zzz', r"unknown metric 'zzz'\. There are rmse, mae, hr@k"),
    ],
)
def test_unknown_names_are_errors(asked, error):
    with pytest.raises(ValueError, match=error):
        as_metrics([rmse, asked])


def test_metrics_are_checked_when_the_learner_is_made(dls):
    for metrics in ('ndcg@10', [hr(10)], ['rmse', 'coverage@5']):
        with pytest.raises(ValueError, match=r'cbs=RankingCallback\(\[ndcg\(10\)\], relevant=4\)'):
            collab_learner(dls, metrics=metrics)
    with pytest.raises(ValueError, match='did you mean'):
        collab_learner(dls, metrics='rsme')
    with pytest.raises(ValueError, match="target='liked'"):
        collab_learner(dls, metrics='roc_auc_score')
    with pytest.raises(TypeError, match='metrics=3: metrics are functions, objects or names'):
        collab_learner(dls, metrics=[3])
    with pytest.raises(ValueError, match='relevant=4'):
        collab_learner(dls, cbs=RankingCallback('ndcg@10'))
    with pytest.raises(TypeError, match='do not look at ranks'):
        RankingCallback(['ndcg@10', 'rmse'], relevant=4)
    learn = quiet(collab_learner(dls, metrics=['rmse', 'mae'], cbs=RankingCallback(['hr@2', 'gini@2'], relevant=4)))
    learn.fit(1, 1e-3)
    columns = [name for name in learn.recorder.metric_names if not name.endswith(('_warm', '_cold'))]
    assert columns[3:-1] == ['rmse', 'mae', 'hr@2', 'gini@2']
    fresh = quiet(collab_learner(dls))
    with pytest.raises(ValueError, match='relevant=4'):
        fresh.fit(1, cbs=RankingCallback('hr@2'))
    assert not fresh.is_trained


# --- errors


def test_errors_of_users(dls, models):
    table = evaluate_users(models['noise 1'], dls, ['rmse', 'mae'])
    of_rows = held_out_errors(dls, models['noise 1'])
    assert table.index.name == 'userId'
    by_user = of_rows.groupby('user').error
    assert table.index.tolist() == list(dls.vocab['user'].decode(np.array(list(by_user.groups))))
    assert table['rows'].tolist() == by_user.size().tolist()
    assert table['rmse'].to_numpy() == pytest.approx(by_user.apply(lambda e: np.sqrt((e**2).mean())).to_numpy())
    assert table['mae'].to_numpy() == pytest.approx(by_user.apply(lambda e: e.abs().mean()).to_numpy())
    assert table.attrs['of_rows'] == pytest.approx(
        dict(rmse=np.sqrt((of_rows.error**2).mean()), mae=of_rows.error.abs().mean())
    )
    some = table.index[:3]
    of_some = evaluate(models['noise 1'], dls, 'rmse', users=some)
    assert of_some.loc['all', 'rows'] == table['rows'][:3].sum()


def test_intervals_draw_users_with_all_their_rows(dls, models):
    table = compare_models(models, dls, n_boot=50, seed=7, plot=False)
    assert table.index.tolist() == [(metric, name) for metric in ('rmse', 'mae') for name in models]
    for name, scorer in models.items():
        errors = [rows.to_numpy() for _, rows in held_out_errors(dls, scorer).groupby('user').error]
        rng = np.random.default_rng(7)
        drawn = [np.concatenate([errors[i] for i in rng.integers(len(errors), size=len(errors))]) for _ in range(50)]
        everything = np.concatenate(errors)
        for metric, func in (('rmse', lambda e: np.sqrt(np.mean(e**2))), ('mae', lambda e: np.mean(np.abs(e)))):
            row = table.loc[(metric, name)]
            assert row['mean'] == pytest.approx(func(everything), rel=1e-5)
            assert [row.low, row.high] == pytest.approx(np.quantile([func(e) for e in drawn], [0.025, 0.975]), rel=1e-5)


def test_errors_are_tested_over_users_and_corrected(dls, models):
    table = compare_models(models, dls, ['rmse'], n_boot=5, plot=False).loc['rmse']
    best = table['mean'].idxmin()
    assert best == 'noise 0'
    assert table.difference[best] == 0
    assert np.isnan(table.p[best])
    mean_squared = {
        name: held_out_errors(dls, scorer).groupby('user').error.apply(lambda e: (e**2).mean())
        for name, scorer in models.items()
    }
    p = sorted(wilcoxon(mean_squared[name] - mean_squared[best]).pvalue for name in models if name != best)
    assert sorted(table.p.dropna()) == pytest.approx([min(1, 2 * p[0]), max(2 * p[0], p[1])], rel=1e-6)
    against = compare_models(models, dls, 'rmse', against='noise 2', n_boot=5, plot=False).loc['rmse']
    assert against.difference['noise 2'] == 0
    assert (against.difference.drop('noise 2') < 0).all()


def test_errors_and_ranking_in_one_table(dls, models):
    everything = {**models, 'popular': Popularity().fit(dls)}
    asked = ['rmse', 'ndcg@3', 'coverage@3', 'gini@3', 'diversity@3', 'novelty@3']
    with pytest.warns(UserWarning, match="'popular' do not predict ratings, and have no value of rmse"):
        table = compare_models(everything, dls, asked, relevant=4, n_boot=20)
    assert sorted(table.index.get_level_values('metric').unique()) == sorted(asked)
    assert table.loc[('rmse', 'popular')].isna().all()
    assert table.loc['rmse', 'mean'].idxmin() == 'noise 0'
    assert table.loc['ndcg@3', ['mean', 'low', 'high']].notna().all(axis=None)
    alone = compare_models(models, dls, 'rmse', n_boot=20, plot=False)
    pd.testing.assert_frame_equal(table.loc[['rmse']].drop('popular', level=1), alone, check_names=False)
    labels = [ax.get_xlabel() for ax in plt.gcf().axes]
    assert labels[0] == 'rmse, over rows (lower is better)'
    assert labels[1] == 'ndcg@3, mean over users'
    assert 'gini@3, all users together (lower is better)' in labels
    plt.close('all')
    both = evaluate(models['noise 1'], dls, ['rmse', 'ndcg@3'], relevant=4)
    assert both.loc['all', 'rmse'] == evaluate(models['noise 1'], dls, 'rmse').loc['all', 'rmse']
    assert both.loc['all', 'ndcg@3'] == evaluate(models['noise 1'], dls, 'ndcg@3', relevant=4).loc['all', 'ndcg@3']
    with pytest.raises(ValueError, match=r"'popular' do not predict ratings.*metrics=\['ndcg@10'\]"):
        compare_models(everything, dls, 'rmse')
    with pytest.raises(ValueError, match='by= groups rows for errors'):
        evaluate(models['noise 1'], dls, ['rmse', 'ndcg@3'], relevant=4, by='history')


def test_quarters_of_rows(dls, models):
    scorer = models['noise 2']
    of_rows = held_out_errors(dls, scorer)
    for by, side in (('history', 'user'), ('popularity', 'item')):
        table = evaluate(scorer, dls, by=by)
        assert table.index.name == f'training rows of the {side}'
        counts = dls.catalog.counts[side][of_rows[side]]
        for interval, row in table.iterrows():
            errors = of_rows.error[[count in interval for count in counts]]
            assert row['rows'] == len(errors)
            assert row.rmse == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-5)
        assert table['rows'].sum() == len(of_rows)
    with pytest.raises(ValueError, match="'history' or 'popularity'"):
        evaluate(scorer, dls, by='age')


def test_error_functions_of_ones_own(dls, models):
    def bias(scores, target):
        return (scores - target).mean()

    table = compare_models(models, dls, [bias], n_boot=5, plot=False)
    own = table.loc[('bias', 'noise 1')]
    assert own['mean'] == pytest.approx(held_out_errors(dls, models['noise 1']).error.mean(), abs=1e-5)
    assert np.isnan(own.low)
    assert table.p.notna().sum() == 2


def test_gains_of_errors(dls, models):
    table = compare_models(models, dls, 'rmse', n_boot=5, plot=False)
    ax = plot_gains(table, against='noise 2')[0]
    gains = table.attrs['per_user']['noise 2', 'rmse'] - table.attrs['per_user']['noise 0', 'rmse']
    assert ax.get_title() == f'noise 0\n{(gains > 0).mean():.0%} of users gain, {(gains < 0).mean():.0%} lose'
    assert ax.get_legend().get_texts()[0].get_text() == f'mean {gains.mean():+.3f}'
    best = plot_comparison(table)[0]
    heights = [text.get_text() for text in best.texts]
    assert heights == [f'{mean:.4f}' for mean in table['mean'][::-1]]
    plt.close('all')


def test_a_list_of_models_is_named_by_what_they_are(dls):
    learn = quiet(collab_learner(dls, n_factors=2))
    learn.fit(1, 1e-3)
    table = compare_models([BiasOnly().fit(dls), BiasOnly((1, 1)).fit(dls), learn, GlobalMean().fit(dls)], plot=False)
    assert table.loc['mae'].index.tolist() == ['BiasOnly', 'BiasOnly 2', 'DotBias', 'GlobalMean']
    with pytest.raises(TypeError, match="fitted scorers, and 'DotBias' is of type DotBias"):
        compare_models([learn.model], dls)
    with pytest.raises(ValueError, match='no models'):
        compare_models([], dls)
    with pytest.raises(ValueError, match='BiasOnly is not fitted yet'):
        compare_models([BiasOnly()], dls)


# --- what was never trained


def test_a_random_start_gives_no_answers(dls, tmp_path):
    learn = quiet(collab_learner(dls, n_factors=2, metrics='rmse'))
    for ask in (
        lambda: evaluate(learn),
        lambda: evaluate_users(learn, metrics=hr(5), relevant=4),
        lambda: compare_models({'learn': learn, 'bias': BiasOnly().fit(dls)}),
        lambda: evaluate(Blend([learn, BiasOnly().fit(dls)]), metrics=hr(5), relevant=4),
        lambda: learn.recommend('u1'),
        lambda: learn.recommend_users('i1'),
        lambda: learn.similar_items('i1'),
        lambda: learn.predict('u1', 'i1'),
        lambda: learn.card(),
        lambda: save_recommender(learn, tmp_path / 'saved'),
        lambda: Ensemble([learn, learn]).recommend('u1'),
    ):
        with pytest.raises(ValueError, match=r'was never trained.*fit_one_cycle'):
            ask()
    assert not (tmp_path / 'saved').exists()


def test_a_fit_shows_how_it_goes_on(dls):
    learn = quiet(collab_learner(dls, n_factors=2, metrics='rmse', cbs=RankingCallback('hr@3', relevant=4)))
    assert len(learn.validate()) >= 2  # before training, as in fastai
    learn.lr_find(show_plot=False, num_it=5)
    assert not learn.is_trained
    learn.fit(1, 0.0)  # ranks while the weights are those of the start
    assert np.isfinite(learn.recorder.values[-1][-1])


# --- folds


def test_cross_validation_fits_what_a_builder_makes(ratings):
    set_seed(3)
    table = cross_validate(ratings, collab_learner, n_epoch=2, lr=1e-2, cv=2, n_factors=3, bs=16)
    assert table.index.tolist() == [0, 1, 'mean', 'std']
    assert list(table.columns) == ['rmse', 'mae']

    def fit(dls):
        learn = quiet(collab_learner(dls, n_factors=3))
        learn.fit_one_cycle(2, 1e-2)
        return learn

    set_seed(3)
    pd.testing.assert_frame_equal(cross_validate(ratings, fit, cv=2, bs=16), table)
    assert np.isfinite(cross_validate(ratings, mlp_learner, cv=2, metrics='mae').loc['mean', 'mae'])  # its recipe
    with pytest.raises(ValueError, match='give splitter= or cv='):
        cross_validate(ratings, collab_learner, 3, cv=2)
    with pytest.raises(ValueError, match='cv=1: at least two folds'):
        cross_validate(ratings, collab_learner, cv=1)


def test_cross_validation_of_baselines(ratings):
    made = cross_validate(ratings, BiasOnly, cv=3, damping=(1, 1))
    pd.testing.assert_frame_equal(made, cross_validate(ratings, BiasOnly((1, 1)), cv=3))
    pd.testing.assert_frame_equal(made, cross_validate(ratings, lambda dls: BiasOnly((1, 1)).fit(dls), cv=3))
    pd.testing.assert_frame_equal(made, cross_validate(ratings, lambda dls: BiasOnly((1, 1)), cv=3))
    table = cross_validate(ratings, EASE, cv=2, metrics=['ndcg@3', coverage(3), gini], target='implicit', n_neg=1)
    assert list(table.columns) == ['ndcg@3', 'coverage@3', 'gini@10']


def test_cross_validation_checks_before_it_trains(ratings):
    def fit(dls):
        pytest.fail('trained before the metrics were looked at')

    with pytest.raises(ValueError, match='did you mean'):
        cross_validate(ratings, fit, cv=2, metrics='rsme')
    with pytest.raises(ValueError, match='relevant=4'):
        cross_validate(ratings, fit, cv=2, metrics='ndcg@3')
    with pytest.raises(TypeError, match='give it the rating table'):
        cross_validate(RecDataLoaders.from_df(ratings), svdpp_learner)
    with pytest.raises(ValueError, match='n_epoch=10'):
        cross_validate(ratings, lambda dls: quiet(collab_learner(dls)), cv=2)


def test_labels_by_name(ratings):
    dls = RecDataLoaders.from_df(ratings, target='liked', seed=2, valid_pct=0.4, bs=16)
    learn = quiet(collab_learner(dls, n_factors=2, metrics=['roc_auc_pooled', 'f1_pooled']))
    learn.fit(1, 1e-3)
    assert learn.recorder.metric_names[3:-1] == ['roc_auc_pooled', 'f1_pooled']
    table = compare_models([learn, Popularity().fit(dls)], metrics=['roc_auc_pooled', roc_auc_score(True)], plot=False)
    assert table.index.get_level_values('metric').unique().tolist() == ['roc_auc_pooled']
