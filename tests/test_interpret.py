"""Interpretation: the numbers are the model's, the pictures say what they show."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.basics import noop, set_seed
from fastai.callback.all import ProgressCallback

from fastrec.all import RecDataLoaders, collab_learner, mlp_learner
from fastrec.interpretation.interpret import RecInterpretation, place_labels
from fastrec.models.base import from_range


@pytest.fixture(scope='module')
def learn(synthetic):
    ratings, items, _ = synthetic
    dls = RecDataLoaders.from_df(ratings, item_df=items, valid_pct=0.1, seed=3, bs=64)
    set_seed(0)
    learn = collab_learner(dls, n_factors=8, y_range=(0.5, 5.5))
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    learn.fit_one_cycle(5, 1e-2)
    return learn


@pytest.fixture(scope='module')
def interp(learn):
    return RecInterpretation.from_learner(learn)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')


def test_biases(interp, learn):
    top = interp.top_bias(5)
    bottom = interp.bottom_bias(5)
    bias = pd.Series(learn.biases('item').numpy(), index=learn.vocab['item'].ids)
    assert top.item.tolist() == bias.nlargest(5).index.tolist()
    assert bottom.item.tolist() == bias.nsmallest(5).index.tolist()
    assert list(top.columns) == ['item', 'title', 'bias', 'rows']
    assert (top.rows > 0).all()
    assert (interp.top_bias(99, min_rows=40).rows >= 40).all()
    assert list(interp.top_bias(3, 'user').columns) == ['user', 'bias', 'rows']


def test_explain_adds_up_to_the_prediction(interp, learn, synthetic):
    for user, item in zip(synthetic[0].user[:5], synthetic[0].item[:5]):
        df = interp.explain(user, item)
        prediction = learn.predict(user, item)
        assert df.value.sum() == pytest.approx(from_range(prediction, (0.5, 5.5)), abs=1e-5)
        assert df.attrs['prediction'] == pytest.approx(prediction, abs=1e-5)
        assert df.attrs['score'] == pytest.approx(df.value.sum())
        assert list(df.index[:3]) == ['global mean', 'user bias', 'item bias']
        assert df.index[-1] == '3 other factors'
    title = learn.catalog.titles([4])[0]
    assert interp.explain(user, title).equals(interp.explain(user, learn.vocab['item'].ids[4]))


def test_pca_is_of_the_vectors(interp, learn):
    df = interp.pca(2, k=50)
    assert len(df) == 50
    assert df.rows.is_monotonic_decreasing
    assert df[['pc1', 'pc2']].var().is_monotonic_decreasing
    codes = learn.vocab['item'].encode(df.item)
    vectors = learn.vectors('item')[torch.from_numpy(codes)].numpy()
    centred = vectors - vectors.mean(0)
    singular = np.linalg.svd(centred, compute_uv=False)
    assert df.attrs['explained'] == pytest.approx((singular**2 / (singular**2).sum())[:2].tolist(), rel=1e-4)


def test_genres_are_separated_in_the_vectors(interp, learn, synthetic):
    """Items of one planted genre share a factor, so their vectors are nearer to each other than to others."""
    genre = synthetic[1].set_index('item').genres
    near = interp.similar_items(learn.vocab['item'].ids[0], 5)
    share = np.mean([(genre[interp.similar_items(i, 3).item] == genre[i]).mean() for i in learn.vocab['item'].ids])
    assert len(near) == 5
    assert share > 0.75


def test_worst_users_and_top_losses(interp, learn):
    inter = learn.catalog.interactions
    rows = learn.catalog.split.valid
    preds, targ = learn.get_preds()
    df = inter.to_df(rows).assign(square=(preds - targ).numpy() ** 2)
    want = df.groupby('user').square.agg(['mean', 'size']).query('size >= 6')['mean'].nlargest(3) ** 0.5
    got = interp.worst_users(3, min_rows=6)
    assert got.user.tolist() == want.index.tolist()
    assert got.rmse.tolist() == pytest.approx(want.tolist(), rel=1e-4)
    worst = interp.plot_top_losses(4, show=False)
    assert worst.loss.tolist() == pytest.approx(sorted(df.square, reverse=True)[:4], rel=1e-4)
    assert ((worst.rating - worst.prediction) ** 2).tolist() == pytest.approx(worst.loss.tolist(), rel=1e-4)


def test_plots_name_their_axes(interp, synthetic):
    user = synthetic[0].user[0]
    item = synthetic[0].item[0]
    for ax in (
        interp.plot_bias(4),
        interp.plot_pca(20),
        interp.plot_pca(10, side='user'),
        interp.plot_tsne('genres', k=60),
        interp.plot_tsne('year', k=60),
        interp.plot_tsne(None, k=60),
        interp.plot_explain(user, item),
        *interp.plot_ratings(),
    ):
        assert ax.get_title()
        assert ax.get_xlabel()
    with pytest.raises(ValueError, match=r"no column 'colour'.*'genres'"):
        interp.plot_tsne('colour')


def test_bars_of_plot_bias_are_the_biases(interp):
    ax = interp.plot_bias(3)
    want = interp.top_bias(3).bias.tolist() + interp.bottom_bias(3).bias.tolist()[::-1]
    assert [p.get_width() for p in ax.patches] == pytest.approx(want)


def test_labels_never_overlap():
    _fig, ax = plt.subplots(figsize=(6, 5))
    xy = np.random.default_rng(0).normal(size=(2, 80))
    ax.scatter(*xy)
    place_labels(ax, *xy, [f'a label of some length {i}' for i in range(80)])
    boxes = [t.get_window_extent() for t in ax.texts]
    assert 5 < len(boxes) < 80
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    frame = ax.get_window_extent()
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and frame.y0 <= b.y0 and b.y1 <= frame.y1 for b in boxes)


def test_a_model_that_cannot_explain_says_so(learn):
    other = mlp_learner(learn.dls, n_factors=4, layers=(8,), y_range=(0.5, 5.5))
    other.remove_cb(ProgressCallback)
    interp = RecInterpretation.from_learner(other)
    interp.plot_pca(10)
    with pytest.raises(TypeError, match='MLP has no method explain'):
        interp.explain(learn.vocab['user'].ids[0], 1000)


def test_nothing_is_changed(interp, learn):
    before = [p.clone() for p in learn.model.parameters()]
    interp.plot_pca(5)
    interp.explain(learn.vocab['user'].ids[0], 1001)
    interp.worst_users()
    assert all(torch.equal(a, b) for a, b in zip(before, learn.model.parameters()))
