"""A recommender that leaves the notebook: every scorer comes back with the same answers, in a process without fastai.

Damaged files are refused."""

import datetime
import importlib
import inspect
import json
import subprocess
import sys
import uuid
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from trained import as_trained

import fastrec.scorers.artifact as artifact
import fastrec.scorers.packing as packing
from fastrec.all import (
    EASE,
    IALS,
    BiasOnly,
    Blend,
    GlobalMean,
    ItemFeatures,
    ItemKNN,
    LeaveLastSplitter,
    Popularity,
    RecDataLoaders,
    collab_learner,
    content_learner,
    correct_and_smooth,
    gated_learner,
    gmf_learner,
    item_graph,
    load_recommender,
    mlp_learner,
    neumf_learner,
    rec_learner,
    save_recommender,
    svdpp_learner,
    synthetic_ratings,
    two_tower_learner,
)
from fastrec.scorers.scorer import Scorer

# a sum over a table read from a file may be taken in another order than over the table it was saved from
close = partial(torch.allclose, rtol=1e-4, atol=1e-5)
close_frames = partial(pd.testing.assert_frame_equal, rtol=1e-4, atol=1e-5)

pytestmark = pytest.mark.filterwarnings('ignore:LeaveLastSplitter')


@pytest.fixture(scope='module')
def table():
    ratings, items, _ = synthetic_ratings(n_users=60, n_items=40, density=0.3, seed=2)
    return ratings, items.assign(
        title=[f'Title {i}' for i in range(len(items))], genres=[['a', 'b'][: i % 3] for i in range(len(items))]
    )


@pytest.fixture(scope='module')
def rated(table):
    return RecDataLoaders.from_df(table[0], item_df=table[1], valid_pct=0.2, seed=0, bs=64)


@pytest.fixture(scope='module')
def chosen(table):
    return RecDataLoaders.from_df(
        table[0].assign(time=np.arange(len(table[0]))),
        item_df=table[1],
        target='implicit',
        threshold=3.0,
        splitter=LeaveLastSplitter(1),
        n_neg=2,
        bs=64,
    )


def trained(learn):
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, 1e-2)
    return learn


def features(dls):
    return ItemFeatures.from_df(dls.item_df, multilabel='genres', numeric='year', text='title')


SCORERS = dict(
    collab=lambda r, i: as_trained(collab_learner(r, n_factors=5, y_range=(0.5, 5.5))),
    svdpp=lambda r, i: as_trained(svdpp_learner(r, n_factors=5)),
    mlp=lambda r, i: as_trained(mlp_learner(r, n_factors=4, layers=[8, 4])),
    gmf=lambda r, i: as_trained(gmf_learner(i, n_factors=4)),
    neumf=lambda r, i: as_trained(neumf_learner(i, n_factors=4, layers=[8, 6, 4])),
    pretrained=lambda r, i: as_trained(neumf_learner(i, n_factors=4, layers=[8, 4], pretrain=1)),
    content=lambda r, i: as_trained(content_learner(r, features(r), n_factors=4, hidden=8)),
    gated=lambda r, i: as_trained(gated_learner(r, features(r), n_factors=4)),
    towers=lambda r, i: as_trained(two_tower_learner(i, item_features=features(i), n_factors=4, layers=[8])),
    corrected=lambda r, i: correct_and_smooth(BiasOnly().fit(r), item_graph(features(r), k=5)),
    mean=lambda r, i: GlobalMean().fit(r),
    biases=lambda r, i: BiasOnly().fit(r),
    popular=lambda r, i: Popularity().fit(i),
    ease=lambda r, i: EASE(20.0).fit(i),
    knn=lambda r, i: ItemKNN(k=5).fit(i),
    ials=lambda r, i: IALS(n_factors=4, n_iter=2).fit(i),
    blend=lambda r, i: Blend([EASE(20.0).fit(i), as_trained(gmf_learner(i, n_factors=4))], weights=[0.3, 0.7]),
)


@pytest.mark.parametrize('name', SCORERS)
def test_every_scorer_comes_back(name, rated, chosen, tmp_path, recwarn):
    scorer = SCORERS[name](rated, chosen)
    users = list(scorer.vocab['user'].ids[:7])
    codes = torch.arange(7)
    for history in (False, True):
        save_recommender(scorer, tmp_path, history=history)
        loaded = load_recommender(tmp_path)
        assert not isinstance(loaded, nn.Module)
        assert loaded.scale == scorer.scale
        assert loaded.vocab == scorer.vocab
        if name in ('ease', 'knn', 'blend', 'corrected') and not history:
            with pytest.raises(ValueError, match='history=True'):
                loaded.score_items(codes)
        else:
            assert close(loaded.score_items(codes), scorer.score_items(codes))
            assert close(loaded.score(codes, codes + 3), scorer.score(codes, codes + 3))
            assert loaded.predict(users[0], scorer.vocab['item'].ids[3]) == pytest.approx(
                scorer.predict(users[0], scorer.vocab['item'].ids[3]), rel=1e-4, abs=1e-5
            )
            close_frames(
                loaded.recommend(users, 4, exclude_seen=False, candidates="title > 'Title 2'"),
                scorer.recommend(users, 4, exclude_seen=False, candidates="title > 'Title 2'"),
            )
            close_frames(
                loaded.recommend_users('Title 3', 4, exclude_seen=False),
                scorer.recommend_users('Title 3', 4, exclude_seen=False),
            )
        if history:
            close_frames(loaded.recommend(users, 4), scorer.recommend(users, 4))
            pd.testing.assert_frame_equal(loaded.history(users[0]), scorer.catalog.history_of(users[0]))
        else:
            assert loaded.catalog.interactions is None
            assert loaded.catalog.split is None
            with pytest.raises(ValueError, match=r'seen=.*exclude_seen=False|history=True'):
                loaded.recommend(users)
        if type(scorer).vectors is not Scorer.vectors:
            close_frames(loaded.similar_items('Title 3', 4), scorer.similar_items('Title 3', 4))
            close_frames(
                loaded.recommend(basket=['Title 3', 'Title 5'], k=4),
                scorer.recommend(basket=['Title 3', 'Title 5'], k=4),
            )
        pd.testing.assert_frame_equal(loaded.catalog.item_df, scorer.catalog.item_df)
    assert any('history=True' in str(w.message) for w in recwarn) == (name in ('ease', 'knn', 'blend', 'corrected'))


def test_seen_can_be_given_as_a_table(rated, tmp_path):
    learn = as_trained(collab_learner(rated, n_factors=5))
    loaded = load_recommender(save_recommender(learn, tmp_path))
    users = list(learn.vocab['user'].ids[:5])
    close_frames(
        loaded.recommend(users, 4, seen=learn.catalog.interactions.to_df(learn.catalog.split.train)),
        learn.recommend(users, 4),
    )
    item = learn.vocab['item'].ids[0]
    close_frames(
        loaded.recommend_users(item, 4, seen=learn.catalog.interactions.to_df(learn.catalog.split.train)),
        learn.recommend_users(item, 4),
    )


def test_no_history_in_the_files_unless_asked(chosen, tmp_path):
    learn = as_trained(svdpp_learner(chosen, n_factors=2))
    size = {
        history: sum(
            o.stat().st_size for o in save_recommender(learn, tmp_path / str(history), history=history).iterdir()
        )
        for history in (False, True)
    }
    inter = learn.catalog.interactions
    assert size[True] - size[False] > 8 * len(inter)
    names = artifact.safetensors_module().load_file(next((tmp_path / 'False').glob('tensors-*'))).keys()
    assert not any('interactions' in o or 'indptr' in o or 'indices' in o or 'history' in o for o in names), names
    assert any(
        'interactions.users' in o
        for o in artifact.safetensors_module().load_file(next((tmp_path / 'True').glob('tensors-*')))
    )


class Encoder:
    """Texts to vectors, as sentence-transformers does."""

    def encode(self, texts):
        return np.array([[len(o), o.count('a'), 1.0] for o in texts])


def test_new_items_join_a_loaded_recommender(table, tmp_path):
    """Features of every kind travel as fitted; an encoder of the user's own does not, but its vectors can be given."""
    ratings, items = table
    items = items.assign(even=items.item % 2 == 0, vector=[[float(i % 3), 1.0] for i in items.item])
    new = items.iloc[:8].assign(item=np.arange(5000, 5008))
    kinds = dict(
        text='title', multilabel='genres', category={'decade': 'genres'}, flag='even', numeric='year', vectors='vector'
    )
    dls = RecDataLoaders.from_df(ratings, item_df=items, valid_pct=0.1, seed=0)
    idls = RecDataLoaders.from_df(
        ratings, item_df=items, valid_pct=0.1, seed=0, target='implicit', threshold=3.5, n_neg=0
    )
    feats = ItemFeatures.from_df(items, min_df=1, **kinds)
    for i, learn in enumerate(
        (
            as_trained(content_learner(dls, feats, n_factors=4, hidden=8)),
            as_trained(gated_learner(dls, feats, n_factors=4)),
            as_trained(two_tower_learner(idls, item_features=feats, n_factors=4, layers=(8,))),
        )
    ):
        loaded = load_recommender(save_recommender(learn, tmp_path / str(i)))
        assert len(loaded.item_features) == 0
        assert loaded.item_features['title'].width == feats['title'].width
        assert loaded.add_items(new) is loaded
        assert loaded.catalog.n_items == learn.dls.n_items + 8
        learn.add_items(new)
        pair = torch.zeros(8, dtype=torch.long), torch.arange(8) + dls.n_items
        assert torch.allclose(loaded.score(*pair), learn.score(*pair), atol=1e-6)
        assert loaded.predict(ratings.user.iloc[0], 5003) == pytest.approx(
            learn.predict(ratings.user.iloc[0], 5003), abs=1e-5
        )
        recs = loaded.recommend(ratings.user.iloc[0], 3, exclude_seen=False, candidates=[5000, 5001, 5002])
        assert set(recs.item) == {5000, 5001, 5002}
        assert 'cold' not in recs
        assert recs.title.notna().all()
    own = ItemFeatures.from_df(items, text='title', text_encoder=Encoder())
    learn = as_trained(content_learner(dls, own, n_factors=4, hidden=8))
    loaded = load_recommender(save_recommender(learn, tmp_path / 'own'))
    with pytest.raises(ValueError, match='went through a Encoder of your own, which a saved recommender does not hold'):
        loaded.add_items(new)
    loaded.add_items(new[['item']], vectors={'title': dict(zip(new['item'], Encoder().encode(list(new.title))))})
    learn.add_items(new)
    assert torch.allclose(loaded.score(*pair), learn.score(*pair), atol=1e-6)
    from sklearn.feature_extraction.text import CountVectorizer

    words = trained(
        content_learner(
            dls, ItemFeatures.from_df(items, text='title', text_encoder=CountVectorizer()), n_factors=4, hidden=8
        )
    )
    with pytest.raises(ValueError, match=r'CountVectorizer of your own.*load_learner keep it'):
        load_recommender(save_recommender(words, tmp_path / 'words')).add_items(new)


def test_loads_without_fastai_and_plots(rated, tmp_path):
    learn = as_trained(collab_learner(rated, n_factors=5))
    save_recommender(Blend([learn, Popularity().fit(rated)]), tmp_path)
    user = learn.vocab['user'].ids[0]
    code = (
        'import sys, json\nfrom fastrec.scorers.artifact import load_recommender\n'
        f'r = load_recommender({str(tmp_path)!r})\n'
        f'df = r.recommend([{user!r}], 3, exclude_seen=False)\n'
        "r.scorers[0].similar_items('Title 3')\n"
        "r.scorers[0].recommend(basket=['Title 3'])\n"
        "r.recommend_users('Title 3', 2, exclude_seen=False)\n"
        "heavy = ('fastai', 'fastcore', 'matplotlib', 'sklearn', 'pickle5')\n"
        'print(json.dumps([df.item.tolist(), [m for m in heavy if m in sys.modules]]))'
    )
    items, modules = json.loads(
        subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True).stdout
    )
    assert modules == []
    assert items == Blend([learn, Popularity().fit(rated)]).recommend([user], 3, exclude_seen=False).item.tolist()


# --- ids and metadata keep their types


@pytest.mark.parametrize(
    'make',
    [
        lambda i: i,
        lambda i: f'ä{i:02}',
        lambda i: np.datetime64('2020-01-01') + i,
        lambda i: datetime.date(2020, 1, 1 + i),
        lambda i: np.uint16(i),
        lambda i: bytes([i]),
        lambda i: i % 2 == 0 if i < 2 else True,
    ],
    ids=['int', 'str', 'datetime64', 'date', 'uint16', 'bytes', 'bool'],
)
def test_ids_keep_their_type(make, tmp_path):
    n = 2 if make(2) is True else 20
    rng = np.random.default_rng(0)
    df = pd.DataFrame(
        [(u, i, 1.0 + (u + i) % 5) for u in range(30) for i in range(n) if rng.random() < 0.5],
        columns=['user', 'item', 'rating'],
    )
    df['item'] = [make(i) for i in df.item]
    if isinstance(make(0), np.uint16):
        df['item'] = df.item.astype('uint16')
    scorer = BiasOnly().fit(RecDataLoaders.from_df(df, valid_pct=0.2, seed=0))
    loaded = load_recommender(save_recommender(scorer, tmp_path))
    want = scorer.vocab['item'].ids
    got = loaded.vocab['item'].ids
    assert got.dtype == want.dtype
    assert got.equals(want)
    assert [type(o) for o in got] == [type(o) for o in want]
    user = scorer.vocab['user'].ids[0]
    close_frames(loaded.recommend([user], 3, exclude_seen=False), scorer.recommend([user], 3, exclude_seen=False))


def test_metadata_keeps_its_types(table, tmp_path):
    ratings, items = table
    n = len(items)
    items = items[['item']].assign(
        title=[f'Title {i} ☃' if i % 7 else None for i in range(n)],
        year=pd.array([1990 + i if i % 5 else None for i in range(n)], dtype='Int64'),
        price=np.where(np.arange(n) % 4, np.arange(n) / 3, np.nan),
        flag=np.arange(n) % 2 == 0,
        kind=pd.Categorical(['x', 'y'] * (n // 2), categories=['y', 'x', 'z'], ordered=True),
        day=pd.Timestamp('2020-02-03') + pd.to_timedelta(np.arange(n), 'D'),
        zoned=(pd.Timestamp('2020-02-03') + pd.to_timedelta(np.arange(n), 'h')).tz_localize('Europe/Paris'),
        tags=[['a', None, 1.5], ('b\ud83d', uuid.UUID(int=7)), {'k': 1, 2: 'v'}, float('inf')] * (n // 4),
        text=pd.array(['a', None] * (n // 2), dtype='string'),
    )
    items['vector'] = [np.arange(3) * i for i in range(n)]
    items['odd'] = [object()] * n
    scorer = Popularity().fit(RecDataLoaders.from_df(ratings, item_df=items, valid_pct=0.2, seed=0))
    with pytest.warns(UserWarning, match="column 'odd' of item_df is left out.*builtins.object"):
        save_recommender(scorer, tmp_path)
    got = load_recommender(tmp_path).catalog.item_df
    want = scorer.catalog.item_df
    assert got.columns.tolist() == [o for o in want.columns if o != 'odd']
    assert all(type(a) is type(b) and np.array_equal(a, b) for a, b in zip(got.vector, want.vector))
    pd.testing.assert_frame_equal(got.drop(columns='vector'), want.drop(columns=['odd', 'vector']))
    assert [type(o) for o in got.tags] == [type(o) for o in want.tags]


def test_what_cannot_be_saved_is_said(table, tmp_path):
    scorer = Popularity().fit(RecDataLoaders.from_df(table[0], valid_pct=0.2, seed=0))
    scorer.catalog.vocab['item'].ids = pd.Index([object() for _ in scorer.vocab['item'].ids])
    with pytest.raises(TypeError, match=r'vocab.item.ids.0 is a builtins.object, which cannot be saved without pickle'):
        save_recommender(scorer, tmp_path / 'new')
    assert not (tmp_path / 'new').exists()
    with pytest.raises(ValueError, match='not fitted yet'):
        save_recommender(Popularity(), tmp_path)
    with pytest.raises(TypeError, match=r'a Scorer.*got str'):
        save_recommender('learn', tmp_path)
    (tmp_path / 'file').write_text('')
    with pytest.raises(NotADirectoryError, match='is a file'):
        save_recommender(BiasOnly(), tmp_path / 'file')


class Own(nn.Module):
    """A model of somebody's own."""

    def __init__(self, n_users, n_items, width=3):
        super().__init__()
        self.u = nn.Embedding(n_users, width)
        self.i = nn.Embedding(n_items, width)
        self.width = width

    def forward(self, users, items):
        return (self.u(users) * self.i(items)).sum(-1)


class OwnWithConfig(Own):
    def config(self):
        return dict(n_users=self.u.num_embeddings, n_items=self.i.num_embeddings, width=self.width)


def test_models_of_ones_own(rated, tmp_path):
    with pytest.raises(TypeError, match=r'Own does not say how.*config\(\).*classes=\[Own\]'):
        save_recommender(as_trained(rec_learner(rated, Own)), tmp_path)
    learn = as_trained(rec_learner(rated, OwnWithConfig))
    save_recommender(learn, tmp_path)
    with pytest.raises(ValueError, match=r'holds a OwnWithConfig.*classes=\[OwnWithConfig\]'):
        load_recommender(tmp_path)
    loaded = load_recommender(tmp_path, classes=[OwnWithConfig])
    assert close(loaded.score_items(torch.arange(3)), learn.score_items(torch.arange(3)))


# --- files


@pytest.fixture()
def saved(rated, tmp_path):
    return save_recommender(BiasOnly().fit(rated), tmp_path / 'rec')


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_other_formats_are_refused(saved):
    change(saved / 'recommender.json', format=2, fastrec='9.1')
    with pytest.raises(
        ValueError,
        match=r'written in format 2 by fastrec 9\.1; this is fastrec .*, which reads format 1\. '
        'Install that version or a newer one',
    ):
        load_recommender(saved)
    change(saved / 'recommender.json', format=0)
    with pytest.raises(ValueError, match='Save it again with this one'):
        load_recommender(saved)


@pytest.mark.parametrize('part', ['content', 'tensors'])
def test_damaged_files_are_refused(saved, part):
    path = next(saved.glob(f'{part}-*'))
    good = path.read_bytes()
    path.write_bytes(good[:-9])
    with pytest.raises(ValueError, match=f'{part}-.*cut short'):
        load_recommender(saved)
    path.write_bytes(good[:40] + bytes([good[40] ^ 1]) + good[41:])
    with pytest.raises(ValueError, match=f'{part}-.*checksum'):
        load_recommender(saved)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f'{part}-.* is missing'):
        load_recommender(saved)


def test_damaged_manifest_and_empty_folder_are_refused(saved, tmp_path):
    text = (saved / 'recommender.json').read_text()
    for bad in (text[:100], '[]', '{"format": "1"}', '{"format": 1, "files": {"content": {}}}'):
        (saved / 'recommender.json').write_text(bad)
        with pytest.raises(ValueError, match=r'recommender.json is damaged'):
            load_recommender(saved)
    with pytest.raises(FileNotFoundError, match=r'no recommender in .*save_recommender'):
        load_recommender(tmp_path / 'nowhere')


def test_saving_again_replaces_and_a_failure_leaves_the_old_one(saved, rated, monkeypatch):
    popular = Popularity().fit(rated)

    def disk_full(*args):
        raise OSError('disk full')

    monkeypatch.setattr(artifact.os, 'replace', disk_full)
    with pytest.raises(OSError, match='disk full'):
        save_recommender(popular, saved)
    assert isinstance(load_recommender(saved), BiasOnly)
    assert len(list(saved.iterdir())) == 3
    monkeypatch.undo()
    (saved / 'notes.txt').write_text('mine')
    save_recommender(popular, saved)
    assert isinstance(load_recommender(saved), Popularity)
    assert len(list(saved.iterdir())) == 4
    assert (saved / 'notes.txt').exists()


def test_missing_package(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, 'safetensors.torch', None)
    with pytest.raises(ImportError, match='pip install safetensors'):
        load_recommender(saved)


def test_nothing_is_pickled():
    for room in (artifact, packing):
        assert 'pickle' not in vars(room)
        assert 'torch.save' not in Path(room.__file__).read_text()


def test_files_may_name_every_scorer_and_model():
    from test_architecture import FASTAI, MODULES

    import fastrec.models

    rooms = [importlib.import_module(f'fastrec.{o}') for o in MODULES if o.partition('.')[0] not in {*FASTAI, 'cli'}]

    def subclasses(things, base):
        return [o for o in things if inspect.isclass(o) and issubclass(o, base) and o is not base]

    scorers = subclasses([getattr(room, name) for room in rooms for name in room.__all__], Scorer)
    models = subclasses(vars(fastrec.models).values(), fastrec.models.RecModel)
    assert len(scorers) > 6
    assert len(models) > 4
    for cls in scorers + models:
        assert packing.find_class(cls.__name__) is cls, f'{cls.__name__}: put its room into packing.ROOMS'
    for cls in models:
        assert cls.config is not fastrec.models.RecModel.config, (
            f'{cls.__name__} has no config(), so it cannot be saved'
        )
