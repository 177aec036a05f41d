"""The training table as curves: the numbers are the table's, the target is where it was asked for."""

import re

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from fastai.callback.all import ProgressCallback

from fastrec.all import RankingCallback, RecDataLoaders, collab_learner, ndcg, rmse
from fastrec.training.curves import plot_curves


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')


@pytest.fixture(scope='module')
def learn(synthetic):
    ratings, *_ = synthetic
    dls = RecDataLoaders.from_df(ratings, valid_pct=0.1, seed=3, bs=256)
    ranks = RankingCallback([ndcg(10)], every=2, relevant=4)
    learn = collab_learner(dls, n_factors=8, metrics=[rmse], cbs=ranks)
    learn.remove_cb(ProgressCallback)
    return learn


def test_curves_are_the_table(learn):
    with pytest.raises(ValueError, match=r'no training table yet: learn.fit_one_cycle\(5\)'):
        learn.plot_metrics()
    with learn.no_logging():
        learn.fit_one_cycle(5, 1e-2)
    losses, errors, ranks = learn.plot_metrics(target={'ndcg@10': 0.99, 'rmse': 9.0})
    rows = [[float(o) for o in row] for row in learn.recorder.values]
    for line, column in zip(losses.lines, (0, 1)):
        assert list(line.get_ydata()) == pytest.approx([row[column] for row in rows])
    assert list(errors.lines[0].get_ydata()) == pytest.approx([row[2] for row in rows])
    assert list(errors.lines[0].get_xdata()) == [1, 2, 3, 4, 5]
    assert list(ranks.lines[0].get_xdata()) == [2, 4, 5]  # every second epoch, and the last
    assert list(ranks.lines[-1].get_ydata()) == [0.99, 0.99]
    best = max(row[3] for row in rows if row[3] == row[3])
    assert f'target 0.99 missed by {0.99 - best:.4f}' in ranks.get_title()
    assert 'target 9 reached in epoch 1' in errors.get_title()
    lowest = min(row[2] for row in rows)
    assert re.search(rf'rmse: best {lowest:.4f} in epoch \d', errors.get_title())
    assert len(learn.plot_metrics(metrics='rmse')) == 2


def test_what_is_not_there_is_said(learn):
    table = pd.DataFrame(dict(train_loss=[1.0], valid_loss=[2.0], rmse=[1.5]), index=pd.RangeIndex(1, 2, name='epoch'))
    with pytest.raises(ValueError, match=r"no column 'ndcg@10': it has .*'rmse'.*metrics="):
        plot_curves(table, {'ndcg@10': 0.4}, None, None)
    with pytest.raises(ValueError, match='1 axes for the losses and 1 metrics'):
        plot_curves(table, {}, None, plt.subplots()[1])
    losses, errors = plot_curves(table, {'valid_loss': 1.5}, None, None)
    assert losses.lines[-1].get_ydata()[0] == 1.5
    assert errors.get_title().startswith('rmse: best 1.5000')
