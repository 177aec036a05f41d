"""Metadata to blocks: known answers, missing is never a value, sparse stays sparse.

New rows go by the fitted transforms; messages.
"""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.sparse import issparse

from fastrec.data.features import ItemFeatures, UserFeatures
from fastrec.data.images import ImageEncoder
from fastrec.data.interactions import Vocab
from fastrec.models.blocks import FeatureLinear, unique_rows
from fastrec.progress import show_progress


@pytest.fixture()
def table():
    return pd.DataFrame(
        dict(
            item=[10, 20, 30, 40],
            plot=['a cat and a dog', 'the dog barks', None, 'cat'],
            genres=['Drama|War', 'War', '', 'Drama'],
            tags=[['x', 'y'], ['y'], None, []],
            language=['en', 'en', None, 'fr'],
            color=[True, False, None, True],
            year=[1990, 2000, None, 2010],
            views=[0, 10, 10**6, 20],
        )
    )


def make(table, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return ItemFeatures.from_df(table, **{**dict(min_df=1), **kwargs})


def test_multilabel_of_texts_and_lists(table):
    f = make(table, multilabel=['genres', 'tags'])
    assert f['genres'].names == ['Drama', 'War']
    assert f['genres'].values.toarray().tolist() == [[1, 1], [0, 1], [0, 0], [1, 0]]
    assert f['genres'].present.tolist() == [True, True, False, True]
    assert f['tags'].present.tolist() == [True, True, False, False]
    assert issparse(f['genres'].values)
    assert f['genres'].values.dtype == np.float32


def test_separator_is_found_or_given(table):
    table['people'] = ['Smith, J|Doe, J', 'Doe, J', None, 'Smith, J']
    assert make(table, multilabel='people')['people'].names == ['Doe, J', 'Smith, J']
    assert make(table, multilabel='people', sep=',')['people'].names == ['Doe', 'J', 'J|Doe', 'Smith']
    assert make(table.assign(people=['A, B', 'A', 'B', 'A, C']), multilabel='people')['people'].names == ['A', 'B', 'C']


def test_tfidf_is_scikit_learns(table):
    from sklearn.feature_extraction.text import TfidfVectorizer

    f = make(table, text='plot')
    expected = TfidfVectorizer(sublinear_tf=True, stop_words='english').fit_transform(
        ['a cat and a dog', 'the dog barks', 'cat']
    )
    assert np.allclose(f['plot'].values[[0, 1, 3]].toarray(), expected.toarray(), atol=1e-6)
    assert f['plot'].present.tolist() == [True, True, False, True]
    assert np.allclose(f['plot'].values[[0, 1, 3]].power(2).sum(1), 1)


def test_text_from_an_encoder(table):
    def lengths(texts):
        return np.array([[len(t), t.count('c')] for t in texts])

    class Sentence:
        def encode(self, texts):
            return torch.tensor(lengths(texts))

    for encoder in (lengths, Sentence()):
        b = make(table, text='plot', text_encoder=encoder)['plot']
        assert not b.sparse
        assert b.values.shape == (4, 2)
        assert not b.values[2].any()
        assert not b.present[2]
        assert np.allclose(b.values[b.present].mean(0), 0, atol=1e-6)
        assert np.isclose((b.values[b.present] ** 2).sum(1).mean(), 1)
    with pytest.raises(ValueError, match=r'shape \(2,\) for 3 texts'):
        make(table, text='plot', text_encoder=lambda t: np.zeros(2))


def test_scikit_learn_transformer_is_fitted_for_each_block(table):
    from sklearn.feature_extraction.text import CountVectorizer

    table['title'] = ['one', 'two', 'three', 'four']
    f = make(table, text=['plot', 'title'], text_encoder=CountVectorizer())
    assert f['title'].names == ['four', 'one', 'three', 'two']
    assert 'cat' in f['plot'].names


def test_numbers_flags_categories(table):
    f = make(table, numeric=['year', 'views'], flag='color', category='language')
    z = np.array([-1, 0, 1]) / np.std([-1, 0, 1])
    assert np.allclose(f['year'].values[[0, 1, 3], 0], z)
    assert f['year'].present.tolist() == [True, True, False, True]
    logs = np.log1p([0, 10, 10**6, 20])
    # a count with a long tail; the year is none
    assert np.allclose(f['views'].values[:, 0], (logs - logs.mean()) / logs.std(), atol=1e-6)
    assert np.allclose(make(table, numeric='views', log1p=False)['views'].values[2, 0], 3**0.5, atol=1e-3)
    assert f['color'].values[:, 0].tolist() == [1, 0, 0, 1]
    assert f['color'].present.tolist() == [True, True, False, True]
    assert f['language'].names == ['en', 'fr']
    assert f['language'].values.toarray().tolist() == [[1, 0], [1, 0], [0, 0], [0, 1]]


def test_columns_that_make_one_block(table):
    f = make(table, numeric={'numbers': ['year', 'views']}, text={'words': ['plot', 'genres']})
    b = f['numbers']
    assert b.values.shape == (4, 4)
    assert b.present.all()
    assert b.values[:, 2].tolist() == [0, 0, 1, 0]
    assert b.values[2, 0] == 0
    assert 'war' in f['words'].names
    assert 'dog' in f['words'].names


def test_vectors_from_every_kind_of_source(table):
    x = {10: [1.0, 2.0], 30: [3.0, 0.0], 99: [7.0, 7.0]}
    frame = pd.DataFrame(x).T
    table['v'] = [x.get(i) for i in table.item]
    blocks = [
        make(table, vectors=x)['vectors'],
        make(table, vectors=frame)['vectors'],
        make(table, vectors=(list(x), np.array(list(x.values()))))['vectors'],
        make(table, vectors='v')['v'],
        make(table, vectors={'clip': x})['clip'],
    ]
    for b in blocks:
        assert b.present.tolist() == [True, False, True, False]
        assert np.array_equal(b.values, blocks[0].values)
    assert np.allclose(blocks[0].values[0], -blocks[0].values[2])
    assert np.isclose((blocks[0].values[0] ** 2).sum(), 1)
    with pytest.raises(ValueError, match='differ in length'):
        make(table, vectors={10: [1.0], 20: [1.0, 2.0]})
    with pytest.raises(ValueError, match='no id of the table has a vector'):
        make(table, vectors={77: [1.0]})


def test_missing_is_counted_and_warned_of(table):
    with pytest.warns(
        UserWarning, match='items of 4 without a value, by block: plot 1, genres 1, year 1. They are marked as missing'
    ):
        ItemFeatures.from_df(table, text='plot', multilabel='genres', numeric='year', min_df=1)
    f = make(table, multilabel='genres', numeric='year')
    with pytest.warns(UserWarning, match='1 of 3 items have no row in the features'):
        a = f.align(Vocab([20, 30, 50]))
    assert a['genres'].present.tolist() == [True, False, False]
    assert a['year'].present.tolist() == [True, False, False]
    assert a['genres'].values.toarray().tolist() == [[0, 1], [0, 0], [0, 0]]
    assert np.isclose(a['year'].values[0, 0], 0)
    assert a.summary().loc['genres', ['present', 'missing']].tolist() == [1, 2]
    with pytest.raises(ValueError, match="ids there look like 'a', in the features like 10"):
        f.align(['a'])


def test_new_rows_by_the_fitted_transforms(table):
    f = make(table, text='plot', multilabel='genres', numeric='year', vectors={10: [1.0, 2.0], 30: [3.0, 0.0]})
    new = table.iloc[[1, 0]].assign(item=[7, 8])
    with pytest.warns(UserWarning, match="not in the table: 'vectors'"):
        g = f.transform(new)
    for name in ('plot', 'genres', 'year'):
        assert np.array_equal(
            *(np.asarray(b.todense() if issparse(b) else b) for b in (g[name].values, f[name].rows([1, 0]).values))
        )
    assert g.ids.tolist() == [7, 8]
    assert not g['vectors'].present.any()
    g = f.transform(new, vectors={7: [1.0, 2.0]})
    assert np.array_equal(g['vectors'].values[0], f['vectors'].values[0])
    assert g['vectors'].present.tolist() == [True, False]
    with pytest.warns(UserWarning, match='plot 1, genres 1, year 1'):
        g = f.transform(
            pd.DataFrame(dict(item=[9], plot=['zebra'], genres=['Polka'], year=[np.nan])), vectors={9: [0.0, 0.0]}
        )
    assert not g['plot'].present.any()
    assert not g['genres'].present.any()
    with pytest.raises(ValueError, match='the table has none of the columns'):
        f.transform(pd.DataFrame(dict(item=[1], foo=[2])))
    with pytest.raises(ValueError, match='vectors of length 3, those fitted have length 2'):
        f.transform(new, vectors={7: [1.0, 2.0, 3.0]})
    g = pickle.loads(pickle.dumps(f.without_rows()))
    assert len(g) == 0
    assert np.array_equal(
        g.transform(new, vectors={7: [1.0, 2.0]})['plot'].values.toarray(), f['plot'].rows([1, 0]).values.toarray()
    )


def test_matrix_and_selection(table):
    f = make(table, multilabel='genres', numeric='year')
    m = f.matrix()
    assert issparse(m)
    assert f.column_names() == ['genres=Drama', 'genres=War', 'year']
    assert np.allclose(m[0, :2].toarray(), 2**-0.5)
    assert np.isclose(m[1, 1], 1)
    assert f.matrix(unit=False)[0, 0] == 1
    assert f[['year']].names == ['year']
    assert 'genres' in f
    assert list(f) == ['genres', 'year']
    with pytest.raises(KeyError, match="no block 'nope': there are 'genres', 'year'"):
        f['nope']


def test_users_and_ids(table):
    users = pd.DataFrame(dict(age=[20.0, 30.0], gender=['M', 'F']), index=pd.Index(['a', 'b'], name='user'))
    f = UserFeatures.from_df(users, numeric='age', category='gender', min_df=1)
    assert f.ids.tolist() == ['a', 'b']
    assert repr(f) == 'UserFeatures(2 users: gender 2, age 1)'
    f = UserFeatures.from_df(users.reset_index().rename(columns={'user': 'who'}), numeric='age', id_name='who')
    assert f.ids.tolist() == ['a', 'b']


@pytest.mark.parametrize(
    'change, kwargs, message',
    [
        ({}, {}, 'which columns tell something about a item'),
        ({}, dict(text='nope'), r"no column 'nope' \(text=\)"),
        ({}, dict(text='plot', category='plot'), "two blocks are called 'plot'"),
        ({}, dict(numeric='plot'), "numeric block 'plot': .*which are not numbers"),
        ({}, dict(flag='year'), 'a flag is true or false'),
        ({}, dict(multilabel='year'), 'For single values take category='),
        ({}, dict(text='plot', min_df=4), 'no word is left: each has to occur in min_df=4 of the 3 texts'),
        ({}, dict(multilabel='genres', min_df=4), 'no label is left'),
        (dict(item=[1, 1, 2, 3]), dict(numeric='year'), 'several rows for the same item: 1'),
        (dict(item=[1, None, 2, 3]), dict(numeric='year'), '1 rows of the table have no item id'),
        (dict(year=[None] * 4), dict(numeric='year'), 'no value at all'),
    ],
)
def test_messages(table, change, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(table.assign(**change), **kwargs)


def test_near_targets_are_warned_of(table):
    with pytest.warns(UserWarning, match="'imdbRating' look.* like an outcome"):
        ItemFeatures.from_df(table.assign(imdbRating=[1.0, 2.0, 3.0, 4.0]), numeric='imdbRating')


# --- images


@pytest.fixture()
def pictures(tmp_path):
    paths = []
    for i, color in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255), (250, 5, 5)]):
        path = tmp_path / f'{i}.png'
        Image.new('RGB', (20, 30), color).save(path)
        paths.append(str(path))
    return paths


class MeanColour(torch.nn.Module):
    """A backbone whose answer is known; counts what it is shown."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.shown = 0

    def forward(self, x):
        self.shown += len(x)
        return x * self.scale


def test_images_known_answer_and_cache(tmp_path, pictures):
    backbone = MeanColour()
    encoder = ImageEncoder(backbone, size=8, cache=tmp_path / 'cache')
    x = encoder(pictures)
    red = (np.array([1, 0, 0]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert x.shape == (4, 3)
    assert x.dtype == np.float32
    assert np.allclose(x[0], red, atol=1e-4)
    assert backbone.shown == 4
    assert np.array_equal(encoder(pictures[::-1]), x[::-1])
    assert backbone.shown == 4
    Image.new('RGB', (20, 30), (0, 255, 0)).save(pictures[0])
    assert np.allclose(encoder(pictures)[0], x[1])
    assert backbone.shown == 5
    with torch.no_grad():
        backbone.scale *= 2
    assert np.allclose(encoder(pictures)[1], 2 * x[1])
    assert backbone.shown == 9
    (tmp_path / 'bad.png').write_text('not an image')
    with pytest.raises(ValueError, match=r'bad.png is not an image'):
        encoder([tmp_path / 'bad.png'])


@pytest.mark.parametrize('quiet', [None, 'switch', 'argument'])
def test_images_show_a_bar_unless_asked_not_to(quiet, pictures, capfd, monkeypatch):
    monkeypatch.setattr('fastrec.progress.DELAY', -1.0)
    encoder = ImageEncoder(MeanColour(), size=8, cache=None, bs=2, progress=quiet != 'argument')
    with show_progress(quiet != 'switch'):
        encoder(pictures)
    text = capfd.readouterr().err
    assert ('encoding' in text and '2.00/4.00' in text) if quiet is None else text == ''


def test_untrained_backbone_of_fastai(tmp_path, pictures):
    state = torch.get_rng_state()
    a = ImageEncoder('squeezenet1_1', pretrained=False, size=64, cache=None, progress=False)(pictures)
    assert torch.equal(state, torch.get_rng_state())
    b = ImageEncoder('squeezenet1_1', pretrained=False, size=64, cache=None, progress=False)(pictures)
    assert a.shape == (4, 512)
    assert np.array_equal(a, b)
    assert np.linalg.norm(a[0] - a[3]) < 0.5 * np.linalg.norm(a[0] - a[1])  # two reds are near
    with pytest.raises((ImportError, RuntimeError), match='nothing_like_this'):
        ImageEncoder('nothing_like_this', pretrained=False)(pictures)


def test_image_blocks(tmp_path, pictures, table):
    table['poster'] = [*pictures[:2], None, str(tmp_path / 'gone.png')]
    f = make(table, images='poster', image_encoder=ImageEncoder(MeanColour(), size=8, cache=None, progress=False))
    assert f['poster'].present.tolist() == [True, True, False, False]
    assert f['poster'].width == 3
    assert f['poster'].kind == 'images'
    g = f.transform(pd.DataFrame(dict(item=[1], poster=[pictures[0]])))
    assert np.array_equal(g['poster'].values[0], f['poster'].values[0])


# --- the first layer


def test_feature_linear_is_the_dense_product(table):
    f = make(table, text='plot', multilabel='genres', numeric='year', vectors={10: [1.0, 2.0], 30: [3.0, 0.0]})
    layer = FeatureLinear(f.blocks, 5)
    sparse = np.hstack([f['plot'].unit().toarray(), f['genres'].unit().toarray()])
    absent = ~np.column_stack([b.present for b in f.blocks.values()])
    with torch.no_grad():
        layer.weight[-4:] = torch.randn(4, 5)
    x = (
        torch.from_numpy(np.hstack([sparse, absent]).astype(np.float32)) @ layer.weight
        + torch.from_numpy(np.hstack([f['year'].unit(), f['vectors'].unit()])) @ layer.dense_weight
    )
    assert torch.allclose(layer(), x, atol=1e-5)
    codes = torch.tensor([3, 0, 0, 2])
    assert torch.allclose(layer(codes), x[codes], atol=1e-5)
    assert torch.allclose(unique_rows(layer, codes.view(2, 2)), x[codes].view(2, 2, 5), atol=1e-5)
    assert set(layer.state_dict()) == {'weight', 'dense_weight'}


def test_untrained_columns_add_nothing_and_rows_are_added(table):
    f = make(table, multilabel='genres', category='language', numeric='year')
    layer = FeatureLinear(f.blocks, 3, known=torch.tensor([True, True, True, False]))  # nobody known has 'fr'
    fr = f['genres'].width + f['language'].names.index('fr')
    assert not layer.weight[fr].any()
    assert layer.weight[:fr].any(1).all()
    layer(torch.tensor([0, 1, 2])).sum().backward()
    assert not layer.weight.grad[fr].any()
    assert layer.weight.grad[fr - 1].any()
    before = layer()
    alone = layer(torch.tensor([1, 0]))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        layer.add_rows(f.transform(table.iloc[[1, 0]].assign(item=[7, 8])).blocks)
    assert len(layer) == 6
    assert torch.equal(layer()[:4], before)
    assert torch.allclose(layer(torch.tensor([4, 5])), alone, atol=1e-5)
    with pytest.raises(ValueError, match='the model reads the blocks'):
        layer.add_rows(f[['year']].blocks)


def test_the_absence_of_what_no_known_row_lacks_is_the_average(table):
    f = make(table, multilabel='genres', numeric='year', vectors={10: [1.0, 2.0], 30: [3.0, 0.0]})
    present = np.column_stack([b.present for b in f.blocks.values()])
    known = torch.tensor([True, True, False, False])
    assert present[:2].all(0).tolist() == [True, True, False], 'of the first two rows one has no vector'
    layer = FeatureLinear(f.blocks, 3, known)
    with torch.no_grad():
        layer.weight[-1] = 7.0  # what was learned of rows without vectors
        alone = {name: FeatureLinear({name: f[name]}, 3) for name in f.names}
        of_genres = layer.weight[: f['genres'].width]
        alone['genres'].weight[: f['genres'].width] = of_genres
        alone['year'].dense_weight.copy_(layer.dense_weight[:1])
    assert not layer.weight[-3:-1].any()
    layer.eval()
    for at, name in ((-3, 'genres'), (-2, 'year')):
        assert torch.allclose(layer.weight[at], alone[name]()[:2].mean(0), atol=1e-6)
    assert (layer.weight[-1] == 7.0).all()
    nothing = {name: block.rows(np.array([-1])) for name, block in f.blocks.items()}
    layer.add_rows(nothing)
    assert torch.allclose(layer(torch.tensor([4]))[0], layer.weight[-3:].sum(0), atol=1e-6)
    with torch.no_grad():
        layer.train().weight[:-3] *= 2.0
    assert torch.allclose(layer.eval().weight[-3], 2 * alone['genres']()[:2].mean(0), atol=1e-6)
    loaded = FeatureLinear(f.blocks, 3)  # all rows count as known here
    loaded.load_state_dict(layer.state_dict())
    assert torch.equal(loaded.eval().weight, layer.weight)
    nobody = FeatureLinear(f.blocks, 3, torch.zeros(4, dtype=torch.bool)).eval()
    assert not nobody.weight[-3:].any()


def test_sparse_gradients_are_the_dense_ones(table):
    f = make(table, text='plot', multilabel='genres', numeric='year')
    layer = FeatureLinear(f.blocks, 5)
    codes = torch.tensor([3, 0, 0, 2])
    grads = []
    for layer.sparse in (False, True):
        layer.zero_grad()
        layer(codes).square().sum().backward()
        grads.append(layer.weight.grad)
    assert grads[1].is_sparse
    assert not grads[0].is_sparse
    assert torch.allclose(grads[1].to_dense(), grads[0], atol=1e-6)


def test_a_large_first_layer_is_stepped_by_columns(table):
    from fastai.basics import noop

    from fastrec.all import FusedAdam, LazyAdam, RecDataLoaders, content_learner, synthetic_ratings

    Lazy = type('Lazy', (LazyAdam,), dict(large=1))
    ratings, items, _ = synthetic_ratings(n_users=40, n_items=30, seed=0)
    dls = RecDataLoaders.from_df(ratings, item_df=items, bs=32, seed=0)
    losses = []
    for opt_func in (FusedAdam, Lazy):
        torch.manual_seed(0)
        learn = content_learner(
            dls, make(items, text='title', multilabel='genres'), hidden=8, n_factors=4, opt_func=opt_func, wd=0.0
        )
        learn.logger = noop
        with learn.no_bar():
            learn.fit(2, 1e-2)
        losses.append(learn.validate()[0])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
