"""Why a score is what it is: shares that are known, sums that add up, what is taken out and moves the score."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from fastrec.all import (
    ALS,
    EASE,
    BiasOnly,
    Blend,
    Ensemble,
    GlobalMean,
    ItemFeatures,
    ItemKNN,
    Popularity,
    ProgressCallback,
    RecDataLoaders,
    RecInterpretation,
    Reranked,
    Scorer,
    UserKNN,
    because_fidelity,
    collab_learner,
    content_learner,
    correct_and_smooth,
    gated_learner,
    item_graph,
    load_recommender,
    mlp_learner,
    save_recommender,
    svdpp_learner,
    synthetic_ratings,
)
from fastrec.scorers.because import OF_OTHERS
from fastrec.scorers.carried import on_scale, own_rows


def trained(learn, n_epoch=3, lr=1e-2):
    learn.remove_cb(ProgressCallback)
    with learn.no_logging():
        learn.fit_one_cycle(n_epoch, lr)
    return learn


@pytest.fixture(scope='module')
def rated():
    """Rating loaders of a small table with known factors."""
    ratings, items, _ = synthetic_ratings(
        n_users=200, n_items=80, n_factors=3, density=0.3, noise=0.2, step=0.5, seed=1
    )
    return RecDataLoaders.from_df(ratings, item_df=items, valid_pct=0.1, seed=3, bs=256)


@pytest.fixture(scope='module')
def chosen(rated):
    """The same as choices, over the whole catalogue."""
    table = rated.catalog.interactions.to_df(np.arange(len(rated.catalog.interactions)))
    return RecDataLoaders.from_df(
        table, item_df=rated.catalog.item_df, target='implicit', n_neg=None, valid_pct=0.1, seed=3, bs=64
    )


@pytest.fixture(scope='module')
def learn(rated):
    torch.manual_seed(0)
    return trained(collab_learner(rated, n_factors=4, y_range=False))


def user_and_item(scorer, user=5):
    """An id of a user, and of the item that is recommended first."""
    id_ = scorer.vocab['user'].ids[user]
    return id_, scorer.recommend(id_, k=1).iloc[0, 1]


def by_code(scorer, df):
    """Contributions in the order of codes."""
    return df['contribution'].to_numpy()[np.argsort(scorer.vocab['item'].encode(df.iloc[:, 0]))]


# --- sums over what the user has


def test_ease_is_told_by_its_weights(chosen):
    ease = EASE(l2=20).fit(chosen)
    user, item = user_and_item(ease)
    df = ease.because(user, item)
    mine = chosen.catalog.history.positives[[5]].indices
    expected = ease.weights[np.sort(mine), ease.catalog.find(item)]
    assert np.allclose(by_code(ease, df), expected, atol=1e-6)
    assert df.attrs['method'] == 'exact'
    assert df.attrs['base'] == pytest.approx(0, abs=1e-4)
    assert df['contribution'].is_monotonic_decreasing
    assert df['share'][df['share'] > 0].sum() == pytest.approx(1)


@pytest.mark.parametrize('make', [ItemKNN, lambda: ItemKNN(target='rating')])
def test_neighbors_add_up(make, rated, chosen):
    knn = make()
    knn.fit(rated if knn.config().get('target') == 'rating' else chosen)
    user, item = user_and_item(knn)
    df = knn.because(user, item)
    score = knn.score(torch.tensor([5]), torch.tensor([knn.catalog.find(item)])).item()
    assert df.attrs['base'] + df['contribution'].sum() == pytest.approx(score, abs=1e-4)
    assert df.attrs['method'] == 'exact'


def test_a_bias_is_what_each_rating_adds_to_it(rated):
    biases = BiasOnly(damping=(5, 10)).fit(rated)
    user, item = user_and_item(biases)
    df = biases.because(user, item)
    own = own_rows(rated.catalog, 5)
    expected = (own.values - biases.mean - biases.item_biases[own.items]) / (5 + len(own.items))
    assert np.allclose(by_code(biases, df), expected[np.argsort(own.items)], atol=1e-6)
    assert df['contribution'].sum() == pytest.approx(biases.user_biases[5], abs=1e-6)
    assert df.attrs['base'] == pytest.approx(biases.mean + biases.item_biases[biases.catalog.find(item)], abs=1e-4)


def test_row_weights_count_in_a_bias(rated):
    table = rated.catalog.interactions.to_df(np.arange(len(rated.catalog.interactions)))
    table['w'] = np.random.default_rng(0).uniform(0.5, 2, len(table)).astype(np.float32)
    biases = BiasOnly().fit(RecDataLoaders.from_df(table, weight_name='w', valid_pct=0.1, seed=3))
    df = biases.because(biases.vocab['user'].ids[5], biases.vocab['item'].ids[0])
    assert df['contribution'].sum() == pytest.approx(biases.user_biases[5], abs=1e-6)


@pytest.mark.parametrize('scorer', [GlobalMean, Popularity])
def test_what_is_the_same_for_all_is_nobodys(scorer, rated):
    scorer = scorer().fit(rated)
    df = scorer.because(scorer.vocab['user'].ids[5], scorer.vocab['item'].ids[0])
    assert (df['contribution'] == 0).all() and (df['share'] == 0).all()
    assert df.attrs['method'] == 'none' and df.attrs['base'] == df.attrs['score']
    assert scorer.recommend(scorer.vocab['user'].ids[5], k=1, explain=True)['because'][0] == OF_OTHERS


def test_sums_of_svdpp_are_the_terms_of_its_sum(rated):
    torch.manual_seed(0)
    learn = trained(svdpp_learner(rated, n_factors=4, y_range=False), 1)
    model = learn.model.eval()
    user, item = user_and_item(learn)
    df = learn.because(user, item, by='sums')
    with torch.no_grad():
        q = model.vectors('item')[learn.catalog.find(item)]
        expected = ((model.vectors('user')[5] - model.user_factors.weight[5]) @ q).item()
    assert df['contribution'].sum() == pytest.approx(expected, abs=1e-4)
    assert df.attrs['method'] == 'exact'
    assert learn.because(user, item).attrs['method'] == 'influence'
    ranged = trained(svdpp_learner(rated, n_factors=4, y_range=(0, 6)), 1)
    df = ranged.because(user, item, by='sums')
    assert df.attrs['base'] + df['contribution'].sum() == pytest.approx(ranged.predict(user, item), abs=1e-4)


# --- what each rating does to the user's row


def test_influence_adds_up_to_the_ridge_regression(learn):
    user, item = user_and_item(learn)
    df = learn.because(user, item)
    own = own_rows(learn.catalog, 5)
    ratings = dict(zip(learn.vocab['item'].decode(own.items), own.values))
    folded, nobody = learn.fold_in(ratings), learn.fold_in(ratings, noise=1e12)
    assert df['contribution'].sum() == pytest.approx(folded.predict(item) - nobody.predict(item), abs=1e-3)
    assert df.attrs['base'] + df['contribution'].sum() == pytest.approx(learn.predict(user, item), abs=1e-4)
    assert df.attrs['method'] == 'influence' and len(df) == len(own.items)
    same = folded.because(item)
    assert np.allclose(by_code(learn, same), by_code(learn, df), atol=1e-3)


def without_each(scorer, user, item):
    """How far the score of a user (a code), folded in, falls without each item: in the order of codes."""
    own = own_rows(scorer.catalog, user)
    ids = scorer.vocab['item'].decode(own.items)
    values = own.values if own.is_rated else np.ones(len(ids))

    def score(keep):
        given = dict(zip(ids[keep], values[keep])) if own.is_rated else list(ids[keep])
        folded = scorer.fold_in(given)
        return folded.score(torch.tensor([0]), torch.tensor([scorer.catalog.find(item)])).item()

    places = np.arange(len(ids))
    whole = score(places)
    return np.array([whole - score(places != o) for o in places])[np.argsort(own.items)]


@pytest.mark.parametrize('kind', ['dot', 'range', 'mlp', 'liked', 'softmax', 'cross-entropy'])
def test_influence_is_what_taking_out_does(kind, learn, rated, chosen):
    torch.manual_seed(0)
    if kind == 'dot':
        scorer = learn
    elif kind == 'range':
        scorer = trained(collab_learner(rated, n_factors=4, y_range=(0, 6)))
    elif kind == 'mlp':
        scorer = trained(mlp_learner(rated, n_factors=4, layers=(8,)))
    elif kind == 'liked':
        table = rated.catalog.interactions.to_df(np.arange(len(rated.catalog.interactions)))
        scorer = trained(
            collab_learner(RecDataLoaders.from_df(table, target='liked', valid_pct=0.1, seed=3), n_factors=4)
        )
    elif kind == 'softmax':
        scorer = trained(svdpp_learner(chosen, n_factors=4))
        assert scorer.scale == 'rank'
    else:
        table = rated.catalog.interactions.to_df(np.arange(len(rated.catalog.interactions)))
        dls = RecDataLoaders.from_df(table, target='implicit', n_neg=2, valid_pct=0.1, seed=3)
        scorer = trained(collab_learner(dls, n_factors=4))
        assert scorer.scale == 'logit'
    user, item = user_and_item(scorer)
    told = by_code(scorer, scorer.because(user, item))
    found = without_each(scorer, 5, item)
    assert np.corrcoef(told, found)[0, 1] > 0.8


def test_contributions_behind_a_range_add_up():
    parts = np.array([[0.5, 0.0], [-0.2, 0.0], [0.9, 0.0]])
    scores = np.array([1.5, 0.3])
    moved = on_scale(parts, scores, (1, 5))
    at = 1 + 4 / (1 + np.exp(-scores))
    before = 1 + 4 / (1 + np.exp(-(scores - parts.sum(0))))
    assert np.allclose(moved.sum(0), at - before)
    assert moved[0, 0] / moved[2, 0] == pytest.approx(0.5 / 0.9)
    assert on_scale(parts, scores, None) is parts


def test_a_situation_is_part_of_the_base(rated):
    table = rated.catalog.interactions.to_df(np.arange(len(rated.catalog.interactions)))
    table['device'] = np.where(np.arange(len(table)) % 3, 'phone', 'tv')
    torch.manual_seed(0)
    learn = trained(collab_learner(RecDataLoaders.from_df(table, context=['device'], seed=1), n_factors=4), 1)
    user, item = user_and_item(learn)
    on_tv = learn.in_context(dict(device='tv'))
    df, plain = on_tv.because(user, item), learn.because(user, item)
    assert df.attrs['score'] == pytest.approx(on_tv.predict(user, item)) != plain.attrs['score']
    assert np.allclose(df['contribution'], plain['contribution'])


# --- by taking out


class Mean(Scorer):
    """The mean rating of a user plus that of the item: a scorer of somebody else."""

    reads_history = True

    def __init__(self, dls):
        self.catalog = dls.catalog

    def score(self, users, items):
        seen = self.catalog.history.seen
        means = np.array([seen[[u]].data.mean() for u in np.asarray(users)])
        return torch.from_numpy(means).float() + items / 100

    def score_items(self, users):
        items = torch.arange(self.catalog.n_items)
        return torch.stack([self.score(torch.full_like(items, int(u)), items) for u in users])


def test_any_scorer_of_histories_is_told_by_taking_out(rated):
    scorer = Mean(rated)
    df = scorer.because(scorer.vocab['user'].ids[5], scorer.vocab['item'].ids[0])
    own = own_rows(rated.catalog, 5)
    r = own.values[np.argsort(own.items)].astype(float)
    expected = r.mean() - (r.sum() - r) / (len(r) - 1)
    assert np.allclose(by_code(scorer, df), expected, atol=1e-5)
    assert df.attrs['method'] == 'deletion'
    with pytest.raises(TypeError, match='does not sum'):
        scorer.because(scorer.vocab['user'].ids[5], scorer.vocab['item'].ids[0], by='sums')


def test_neighbors_and_least_squares_are_told_by_taking_out(rated, chosen):
    for scorer in (UserKNN().fit(chosen), UserKNN(target='rating').fit(rated), ALS(n_factors=4).fit(rated)):
        user, item = user_and_item(scorer)
        told = by_code(scorer, scorer.because(user, item))
        assert np.allclose(told, without_each(scorer, 5, item), atol=1e-4)


def test_labels_on_a_graph_are_taken_out(learn):
    refined = correct_and_smooth(learn, item_graph(learn, k=5))
    user, item = user_and_item(refined)
    df = refined.because(user, item)
    score = refined.score(torch.tensor([5]), torch.tensor([refined.catalog.find(item)])).item()
    assert df.attrs['score'] == pytest.approx(score, abs=1e-5)
    assert df.attrs['method'] == 'deletion' and df['contribution'].abs().sum() > 0


# --- scorers of scorers


def test_blends_and_ensembles_add_up_their_parts(learn, rated, chosen):
    ease, knn = EASE(l2=20).fit(chosen), ItemKNN().fit(chosen)
    user, item = user_and_item(ease)
    code = ease.catalog.find(item)
    blend = Blend([ease, knn], [0.7, 0.3])
    stds = [scorer.score_items(torch.tensor([5]))[0].std().item() for scorer in (ease, knn)]
    expected = sum(
        weight / std * by_code(ease, scorer.because(user, item))
        for weight, std, scorer in zip([0.7, 0.3], stds, (ease, knn))
    )
    df = blend.because(user, item)
    assert np.allclose(by_code(ease, df), expected, atol=1e-5)
    assert df.attrs['score'] == pytest.approx(blend.score(torch.tensor([5]), torch.tensor([code])).item(), abs=1e-5)
    other = BiasOnly().fit(rated)
    df = Ensemble([learn, other]).because(user, item)
    both = [by_code(learn, scorer.because(user, item)) for scorer in (learn, other)]
    assert np.allclose(by_code(learn, df), np.mean(both, 0), atol=1e-5)
    assert df.attrs['method'] == 'influence and exact'
    reranked = Reranked(ease, lambda recs: recs)
    assert np.allclose(reranked.because(user, item)['contribution'], ease.because(user, item)['contribution'])
    assert reranked.recommend(user, k=1, explain=True)['because'][0].startswith('because you chose ')


# --- who has what


def test_loaded_recommenders_want_the_history(learn, chosen, tmp_path):
    user, item = user_and_item(learn)
    expected = by_code(learn, learn.because(user, item))
    save_recommender(learn, tmp_path / 'with', history=True)
    assert np.allclose(by_code(learn, load_recommender(tmp_path / 'with').because(user, item)), expected, atol=1e-3)
    save_recommender(learn, tmp_path / 'without')
    loaded = load_recommender(tmp_path / 'without')
    with pytest.raises(ValueError, match=r'history='):
        loaded.because(user, item)
    own = own_rows(learn.catalog, 5)
    given = dict(zip(learn.vocab['item'].decode(own.items), own.values))
    told = by_code(learn, loaded.because(user, item, history=given))
    assert np.corrcoef(told, expected)[0, 1] > 0.99  # the noise is worked out without training rows
    ease = EASE(l2=20).fit(chosen)
    save_recommender(ease, tmp_path / 'ease')
    mine = list(ease.vocab['item'].decode(own_rows(ease.catalog, 5).items))
    told = load_recommender(tmp_path / 'ease').because(user, item, history=mine)
    assert np.allclose(by_code(ease, told), by_code(ease, ease.because(user, item)), atol=1e-6)
    two = pd.DataFrame(dict(user=[1, 2], item=mine[:2], rating=[3.0, 4.0]))
    with pytest.raises(ValueError, match='2 users'):
        loaded.because(user, item, history=two)


def test_what_is_unknown_is_named(learn, rated):
    user, item = user_and_item(learn)
    with pytest.raises(KeyError, match='nobody'):
        learn.because('nobody', item)
    with pytest.raises(KeyError, match='no such film'):
        learn.because(user, 'no such film')
    with pytest.raises(ValueError, match="by='words'"):
        learn.because(user, item, by='words')
    with pytest.raises(ValueError, match='k=0'):
        learn.because(user, item, k=0)
    with pytest.raises(TypeError, match='reads no features'):
        learn.because(user, item, by='features')
    with pytest.raises(TypeError, match='does not sum'):
        learn.because(user, item, by='sums')
    with pytest.raises(ValueError, match='was never trained'):
        collab_learner(rated).because(user, item)


def test_tables_have_the_names_of_the_ratings():
    rng = np.random.default_rng(0)
    pairs = pd.DataFrame(
        dict(reader=np.repeat(np.arange(30), 8), book=np.concatenate([rng.permutation(20)[:8] for _ in range(30)]))
    )
    pairs['stars'] = rng.integers(1, 6, len(pairs)).astype(float)
    books = pd.DataFrame(dict(book=np.arange(20), title=[f'Book {i}' for i in range(20)]))
    dls = RecDataLoaders.from_df(
        pairs, user_name='reader', item_name='book', rating_name='stars', item_df=books, valid_pct=0.1, seed=0
    )
    df = BiasOnly().fit(dls).because(3, 'Book 7', k=2)
    assert list(df.columns) == ['book', 'title', 'stars', 'share', 'contribution'] and len(df) == 2
    assert df.attrs['user'] == 3 and df.attrs['item'] == 7 and df.attrs['title'] == 'Book 7'


# --- in a sentence, in a picture


def test_recommendations_say_why(learn):
    users = learn.vocab['user'].ids[:3].tolist()
    recs = learn.recommend(users, k=2, explain=True)
    assert list(recs.columns) == [*learn.recommend(users, k=2).columns, 'because']
    row = recs.iloc[0]
    df = learn.because(row['user'], row['item'])
    speaking = df[df['contribution'] > 0]
    liked = speaking[speaking['rating'] >= df['rating'].mean()]
    first = (liked if len(liked) else speaking).sort_values('contribution', ascending=False).iloc[0]
    assert row['because'].startswith(f'because you rated {first["title"]} {first["rating"]:g}')
    with pytest.raises(ValueError, match='leave out to='):
        learn.recommend(users, explain=True, to='recs.csv')
    with pytest.raises(ValueError, match='fold_in'):
        learn.recommend(basket=[1000], explain=True)


def test_bars_add_up(learn):
    user, item = user_and_item(learn)
    df = learn.because(user, item)
    ax = RecInterpretation.from_learner(learn).plot_because(user, item, k=4)
    widths = [bar.get_width() for bar in ax.patches]
    assert len(widths) == 5
    assert sum(widths) == pytest.approx(df['contribution'].sum(), abs=1e-6)
    assert ax.get_yticklabels()[-1].get_text() == f'{len(df) - 4} others together'
    plt.close('all')


# --- an item's features


def test_features_are_told_one_by_one(rated):
    items = rated.catalog.item_df.copy()
    rng = np.random.default_rng(0)
    items['genres'] = ['|'.join(rng.choice(['a', 'b', 'c', 'd'], 2, replace=False)) for _ in range(len(items))]
    features = ItemFeatures.from_df(items, multilabel='genres')
    torch.manual_seed(0)
    learn = trained(content_learner(rated, features, n_factors=4, hidden=0), 2)
    user, item = user_and_item(learn)
    df = learn.because(user, item, by='features')
    shown = set(items.loc[learn.catalog.find(item), 'genres'].split('|'))
    assert set(df['value']) == shown and set(df['feature']) == {'genres'}
    model = learn.model.eval()
    layer = model.item_net.first
    with torch.no_grad():
        p, _ = model.users_of(torch.tensor([5]))
        names = features['genres'].names
        code = learn.catalog.find(item)
        whole = torch.tensor(learn.predict(user, item))
        low, high = model.y_range
        before = torch.logit((whole - low) / (high - low))
        for _, row in df.iterrows():
            column = names.index(row['value'])
            added = layer._csr()[code, column] * layer.weight[column]
            left = before - (p[0] @ added[:-1] + added[-1])
            expected = (whole - model.in_range(left)).item()
            assert row['contribution'] == pytest.approx(expected, abs=1e-4)
    gated = trained(gated_learner(rated, features, n_factors=4), 1)
    df = gated.because(user, item, by='features')
    assert set(df['feature']) == {'id', 'genres'}
    assert gated.because(user, item).attrs['method'] == 'influence'
    assert learn.predict(user, item) == pytest.approx(whole.item())  # nothing has changed


def test_features_of_svdpp(rated):
    items = rated.catalog.item_df.copy()
    items['genres'] = [('a', 'b', 'c')[i % 3] for i in range(len(items))]
    features = ItemFeatures.from_df(items, multilabel='genres')
    torch.manual_seed(0)
    learn = trained(svdpp_learner(rated, n_factors=4, item_features=features, y_range=(0, 6)), 1)
    user, item = user_and_item(learn)
    (told,) = learn.because(user, item, by='features')['contribution']
    score = learn.predict(user, item)
    with torch.no_grad():
        learn.model.item_features.weight[:-1] = 0
    assert told == pytest.approx(score - learn.predict(user, item), abs=1e-4)


# --- do they say what matters?


def test_fidelity_is_measured(learn, chosen):
    res = because_fidelity(learn, n_users=30)
    assert res['ratio'] == pytest.approx(res['named'] / res['random']) and res['ratio'] > 2
    assert res['users'] == 30 and res['method'] == 'influence'
    assert because_fidelity(EASE(l2=20).fit(chosen), n_users=30)['ratio'] > 2
    with pytest.raises(TypeError, match='fold_in'):
        because_fidelity(GlobalMean().fit(learn.dls), n_users=3)


def test_who_has_no_training_rows_is_told_so():
    table = pd.DataFrame(dict(user=[1, 1, 1, 2, 2, 3], item=[1, 2, 3, 1, 2, 3], rating=[5.0, 4, 3, 2, 1, 4]))
    table['time'] = np.arange(6)
    dls = RecDataLoaders.from_df(table, splitter=[[0, 1, 2, 3, 4], [5]])
    with pytest.raises(ValueError, match='user 3 has no training rows'):
        BiasOnly().fit(dls).because(3, 1)


def test_ids_do_not_reach_the_models_own_explain(learn):
    """fastai hands on to the model what a learner does not have, and the model's method takes codes."""
    user, item = user_and_item(learn)
    with pytest.raises(TypeError, match=r'learn\.because\(.*RecInterpretation'):
        learn.explain(user, item)
