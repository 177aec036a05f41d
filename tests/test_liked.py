"""`target='liked'`: the user's own mean over training rows is the threshold.

Metrics of labelled rows against scikit-learn and cases worked by hand.
"""

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as skm
import torch
from fastai.learner import load_learner
from fastai.losses import BCEWithLogitsLossFlat
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fastrec.evaluation.compare import compare_models
from fastrec.evaluation.evaluate import evaluate, evaluate_users, label_held_out
from fastrec.evaluation.metrics import (
    Labelled,
    accuracy_score,
    f1_score,
    hr,
    ndcg,
    ndcg_score,
    precision_score,
    recall_score,
    rmse,
    roc_auc_score,
)
from fastrec.evaluation.named import as_metrics
from fastrec.models.losses import BCELoss
from fastrec.scorers.baselines import BiasOnly, Popularity
from fastrec.training.builders import collab_learner, neumf_learner, svdpp_learner
from fastrec.training.dataloaders import RecDataLoaders

ALL = [roc_auc_score(), f1_score(), precision_score(), recall_score(), accuracy_score(), ndcg_score()]


@pytest.fixture()
def liked(synthetic):
    ratings, items, _ = synthetic
    return RecDataLoaders.from_df(ratings, item_df=items, target='liked', valid_pct=0.2, seed=3, bs=64)


def table():
    """User a has the training mean 3, b rates everything 4, c is only in valid."""
    return pd.DataFrame(
        dict(user=list('aaaabbbcc'), item=[1, 2, 3, 4, 1, 2, 3, 1, 2], rating=[2, 3, 4, 3, 4, 4, 3.5, 3, 4.0])
    )


def by_hand():
    return RecDataLoaders.from_df(table(), target='liked', splitter=([0, 1, 2, 4, 5], [3, 6], [7, 8]), bs=2)


def test_thresholds_are_means_over_training_rows():
    catalog = by_hand().catalog
    assert catalog.thresholds.tolist() == [3.0, 4.0, 3.4]  # c has no training row: the mean of all of them
    assert catalog.liked(slice(None)).tolist() == [False, True, True, True, True, True, False, False, True]


def test_batches_hold_labels():
    dls = by_hand()
    assert dls.target == 'liked'
    assert dls.valid.one_batch()[2].tolist() == [1.0, 0.0]
    assert dls[2].one_batch()[2].tolist() == [0.0, 1.0]
    assert list(dls.valid.show_batch(show=False).liked) == [1.0, 0.0]
    assert (
        "liked (at or above the user's mean over the training rows): 80.0% of train, 50.0% of valid, 50.0% of test"
        in dls.summary()
    )


def test_held_out_ratings_do_not_move_thresholds():
    df = table()
    df.loc[[3, 6, 7, 8], 'rating'] = [1, 5, 5, 1.0]
    assert RecDataLoaders.from_df(
        df, target='liked', splitter=([0, 1, 2, 4, 5], [3, 6], [7, 8])
    ).catalog.thresholds.tolist() == [3.0, 4.0, 3.4]


def test_test_dl_labels_by_the_kept_thresholds():
    dl = by_hand().test_dl(
        pd.DataFrame(dict(user=['a', 'a', 'b'], item=[4, 1, 3], rating=[3, 2.9, 3.9])), with_labels=True
    )
    assert dl.one_batch()[2].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    'kwargs, text',
    [
        (dict(target='likes'), "choose 'rating', 'liked' or 'implicit'"),
        (dict(target='liked', rating_name=False, time_name=False), 'no rating column'),
        (dict(target='liked', threshold=4), "go with target='implicit'"),
    ],
)
def test_errors_of_loaders(kwargs, text):
    with pytest.raises(ValueError, match=text):
        RecDataLoaders.from_df(table(), **kwargs)


def test_errors_of_learners(liked, dls):
    with pytest.raises(ValueError, match='scores are logits'):
        collab_learner(liked, y_range=(0, 1))
    with pytest.raises(ValueError, match='ask what is liked'):
        collab_learner(liked, metrics=rmse)
    with pytest.raises(ValueError, match="make the loaders with target='liked'"):
        collab_learner(dls, metrics=roc_auc_score())
    with pytest.raises(ValueError, match="target='liked'"):
        evaluate(BiasOnly().fit(dls), dls, roc_auc_score())
    with pytest.raises(ValueError, match="target='implicit'"):
        neumf_learner(liked)


def test_learner_learns_and_shows_columns(liked):
    torch.manual_seed(0)
    learn = collab_learner(liked, n_factors=8, metrics=[roc_auc_score(), roc_auc_score(pooled=True), accuracy_score()])
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(4, 3e-2)
    assert learn.scale == 'logit'
    assert isinstance(learn.loss_func, BCELoss)
    assert learn.recorder.metric_names[3:6] == ['roc_auc', 'roc_auc_pooled', 'accuracy']
    table = evaluate(learn, metrics=[roc_auc_score(), roc_auc_score(pooled=True), accuracy_score()])
    assert list(learn.recorder.values[-1][2:]) == pytest.approx(
        table.loc['all', ['roc_auc', 'roc_auc_pooled', 'accuracy']].tolist()
    )
    assert table.loc['all', 'roc_auc'] > 0.8
    probabilities, labels = learn.get_preds()
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert torch.allclose(
        probabilities, learn.score(*liked.valid.dataset[torch.arange(len(labels))][:2]).sigmoid(), atol=1e-5
    )
    assert table.loc['all', 'roc_auc_pooled'] == pytest.approx(skm.roc_auc_score(labels, probabilities))
    ranked = evaluate(learn, metrics=ndcg(10))  # over the whole catalogue, what is liked is relevant
    assert 0 < ranked.loc['all', 'ndcg@10'] < 1


@pytest.mark.parametrize(
    'loss, options, scale',
    [
        (BCEWithLogitsLossFlat(), {}, 'logit'),
        (nn.BCEWithLogitsLoss(), {}, 'logit'),
        (nn.MSELoss(), dict(y_range=(0, 1)), 'probability'),
        (nn.MSELoss(), {}, 'probability'),
    ],
)
def test_other_losses(liked, loss, options, scale):
    torch.manual_seed(0)
    learn = svdpp_learner(liked, n_factors=8, loss_func=loss, metrics=accuracy_score(), **options)
    start = learn.score(torch.arange(5), torch.arange(5))
    share = liked.catalog.liked(liked.catalog.split.train).mean()
    start = start.sigmoid() if scale == 'logit' else start
    # starts at the share of liked rows
    assert torch.allclose(start, torch.tensor(share, dtype=torch.float32), atol=0.02)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 3e-2)
    assert learn.scale == scale
    assert learn.recorder.values[-1][2] > 0.68


def test_export_keeps_the_thresholds(liked, tmp_path):
    learn = collab_learner(liked, n_factors=2)
    learn.path = tmp_path
    learn.export()
    loaded = load_learner(tmp_path / 'export.pkl')
    assert loaded.dls.target == 'liked'
    assert loaded.scale == 'logit'
    assert (loaded.catalog.thresholds == liked.catalog.thresholds).all()


def test_per_user_metrics_against_scikit_learn(liked):
    scorer = BiasOnly().fit(liked)
    per_user = evaluate_users(scorer, liked, ALL)
    catalog = liked.catalog
    rows = catalog.split.valid
    users = catalog.interactions.users[rows]
    labels = catalog.liked(rows)
    scores = scorer.score(users, catalog.interactions.items[rows]).numpy()
    classes = pd.Series(labels).groupby(users).nunique()
    for code, id_ in enumerate(catalog.vocab['user'].ids[:40]):
        at = users == code
        said = scores[users == code] >= catalog.thresholds[code]
        assert (id_ in per_user.index) == (classes.get(code, 0) == 2)
        if id_ not in per_user.index:
            continue
        want = [
            skm.roc_auc_score(labels[at], scores[at]),
            skm.f1_score(labels[at], said, zero_division=0),
            skm.precision_score(labels[at], said, zero_division=0),
            skm.recall_score(labels[at], said),
            skm.accuracy_score(labels[at], said),
        ]
        assert per_user.loc[id_].tolist()[:5] == pytest.approx(want, abs=1e-9)
        # of ties scikit-learn averages the gains, we take the expected rank
        atol = 1e-9 if len(set(scores[at])) == at.sum() else 0.05
        assert per_user.ndcg[id_] == pytest.approx(skm.ndcg_score([labels[at]], [scores[at]]), abs=atol)
    n = (classes == 2).sum()
    one = (classes == 1).sum()
    assert len(per_user) == n
    assert per_user.attrs['one_class'] == one
    assert evaluate(scorer, liked).loc['all'].tolist() == pytest.approx([n, one, *per_user.mean()])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-2, 2), st.booleans()), min_size=1, max_size=30))
def test_ties_and_empty_users(rows):
    users, margins, labels = map(torch.tensor, zip(*rows))
    t = Labelled(margins.double(), labels, users, 3)
    value = {m.name: m(t) for m in ALL}
    for u in range(3):
        y = labels[users == u].numpy()
        s = margins[users == u].numpy()
        if len(set(y)) < 2:
            assert all(v[u].isnan() for v in value.values())
        else:
            assert value['roc_auc'][u] == pytest.approx(skm.roc_auc_score(y, s))
            assert value['f1'][u] == pytest.approx(skm.f1_score(y, s >= 0, zero_division=0))
            assert value['accuracy'][u] == pytest.approx(skm.accuracy_score(y, s >= 0))
    if len(set(labels.tolist())) == 2:
        assert roc_auc_score(pooled=True)(t).item() == pytest.approx(skm.roc_auc_score(labels, margins))


def test_ndcg_of_ties_by_hand():
    t = Labelled(
        torch.tensor([1.0, 0.0, 0.0]).double(), torch.tensor([False, True, False]), torch.zeros(3, dtype=torch.long), 1
    )
    assert ndcg_score()(t).item() == pytest.approx(1 / np.log2(3.5))  # in places 2 and 3: the expected rank is 2.5


def test_scores_that_only_rank(liked):
    popular = Popularity().fit(liked)
    assert list(evaluate(popular, liked).columns) == ['users', 'one_class', 'roc_auc', 'ndcg']
    with pytest.raises(ValueError, match='only rank'):
        evaluate(popular, liked, f1_score())


def test_users_can_be_chosen_and_models_compared(liked):
    bias = BiasOnly().fit(liked)
    popular = Popularity().fit(liked)
    ids = evaluate_users(bias, liked, roc_auc_score()).index[:7]
    assert list(evaluate_users(bias, liked, roc_auc_score(), users=ids).index) == list(ids)
    table = compare_models(dict(bias=bias, popular=popular), liked, [roc_auc_score(), ndcg(10)], plot=False, n_boot=50)
    assert table.loc[('roc_auc', 'bias'), 'mean'] > 0.6
    assert set(table.index.get_level_values(0)) == {'roc_auc', 'ndcg@10'}


def test_one_class_only_is_an_error():
    dls = RecDataLoaders.from_df(table(), target='liked', splitter=([0, 1, 2, 4, 5], [3, 6]))
    with pytest.raises(ValueError, match='one class only'):
        evaluate(BiasOnly().fit(dls), dls, roc_auc_score())
    codes, labelled = label_held_out(BiasOnly().fit(dls), dls)
    assert codes.tolist() == [0, 1]
    assert labelled.one_class.all()
    assert evaluate(BiasOnly().fit(dls), dls, accuracy_score(pooled=True)).loc['all', 'accuracy_pooled'] in (
        0.0,
        0.5,
        1.0,
    )


def test_a_metric_that_was_not_called_stands_for_its_default():
    assert [m.name for m in as_metrics([hr, ndcg(5), roc_auc_score])] == ['hr@10', 'ndcg@5', 'roc_auc']
    assert [m.name for m in as_metrics(hr)] == ['hr@10']
    assert as_metrics(None) == []
    assert as_metrics([rmse]) == [rmse]
