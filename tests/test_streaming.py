"""Ratings that stay in their files: the same rows, split, losses and recommendations as in memory.

What needs all rows says so.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from trained import as_trained

from fastrec.all import (
    EASE,
    Callback,
    RecDataLoaders,
    ResumeCallback,
    collab_learner,
    evaluate,
    hr,
    load_learner,
    load_recommender,
    mlp_learner,
    ndcg,
    rmse,
    save_recommender,
    svdpp_learner,
)
from fastrec.training.dataloaders import StreamDataLoaders

pytest.importorskip('pyarrow')


@pytest.fixture(scope='module')
def folder(synthetic, tmp_path_factory):
    """The synthetic ratings in three files of row groups of 500 rows, with a column that says the split."""
    path = tmp_path_factory.mktemp('stream')
    ratings = synthetic[0].sample(frac=1, random_state=0, ignore_index=True)
    ratings['part'] = np.random.default_rng(0).choice(['train', 'valid', 'test'], len(ratings), p=[0.8, 0.1, 0.1])
    for i, rows in enumerate(np.array_split(np.arange(len(ratings)), 3)):
        ratings.iloc[rows].to_parquet(path / f'ratings{i}.parquet', row_group_size=500, index=False)
    return path


@pytest.fixture()
def stream(folder, synthetic):
    return RecDataLoaders.from_parquet(
        folder, stream=True, buffer=1200, valid_pct=0.1, seed=1, item_df=synthetic[1], bs=64
    )


@pytest.fixture()
def memory(stream):
    return stream.of_users(list(stream.vocab['user'].ids))


def learner(dls, **kwargs):
    torch.manual_seed(0)
    return collab_learner(dls, n_factors=4, y_range=(0.5, 5.5), metrics=[rmse], **kwargs)


def pairs(dl):
    users, items, ratings = map(torch.cat, zip(*dl))
    return pd.DataFrame(dict(user=users.numpy(), item=items.numpy(), rating=ratings.numpy()))


def table(df):
    return df.sort_values(['user', 'item'], ignore_index=True)


def test_rows_and_split_are_those_of_the_table(stream, memory, synthetic):
    assert isinstance(stream, StreamDataLoaders)
    assert stream.target == 'rating'
    assert type(memory) is RecDataLoaders
    inter = memory.catalog.interactions
    want = synthetic[0].sort_values(['user', 'item'], ignore_index=True)
    got = inter.to_df().sort_values(['user', 'item'], ignore_index=True)
    assert got.user.tolist() == want.user.tolist()
    assert got.item.tolist() == want.item.tolist()
    assert got.rating.tolist() == want.rating.tolist()
    for i in (0, 1):
        pd.testing.assert_frame_equal(table(pairs(stream[i])), table(pairs(memory[i])))
    assert stream.y_bounds == memory.y_bounds
    assert stream.catalog.mean_rating == pytest.approx(inter.ratings[memory.catalog.split.train].mean(dtype=np.float64))
    rows = memory.catalog.split.train
    for side in ('user', 'item'):
        assert np.array_equal(stream.catalog.counts[side], inter.counts(side, rows))
    share = len(memory.catalog.split.valid) / len(inter)
    assert 0.08 < share < 0.12
    assert '10,8' not in stream.summary()
    assert f'valid: {len(memory.catalog.split.valid):,} rows' in stream.summary()


def test_every_row_once_an_epoch_in_a_new_order(stream):
    a = pairs(stream.train)
    b = pairs(stream.train)
    assert not a.equals(b)
    assert table(a).equals(table(b))
    assert len(a) == len(stream.train.dataset)
    sizes = [len(u) for u, *_ in stream.train]
    assert set(sizes[:-1]) == {64}
    assert len(sizes) == len(stream.train)
    assert sum(sizes) == len(a)
    assert sum(len(u) for u, *_ in stream.train.new(drop_last=True)) == len(a) // 64 * 64
    near = a.merge(pairs(stream.train.new(shuffle=False)).reset_index(), on=['user', 'item'])['index'].diff().abs()
    assert near.median() > 200, 'rows that are beside each other in the file are apart'

    def seeded():
        return stream.train.new(seed=5)

    assert pairs(seeded()).equals(pairs(seeded()))
    state = torch.get_rng_state()
    pairs(seeded())
    assert torch.equal(state, torch.get_rng_state())
    assert pairs(stream.valid).equals(pairs(stream.valid))


def test_losses_predictions_and_recommendations_are_those_in_memory(stream, memory, monkeypatch):
    ours = learner(stream)
    theirs = learner(memory)
    for t in ours.model.tables:
        torch.nn.init.normal_(t.weight, std=0.3)
    theirs.model.load_state_dict(ours.model.state_dict())
    with ours.no_bar(), theirs.no_bar():
        assert list(ours.validate()) == pytest.approx(list(theirs.validate()), abs=1e-5)
        assert ours.loss_func(*ours.get_preds()).item() == pytest.approx(ours.validate()[0], abs=1e-5)
        preds, targets = ours.get_preds(0)
        assert len(preds) == len(stream.train.dataset)
        assert torch.nn.functional.mse_loss(preds, targets).item() == pytest.approx(
            torch.nn.functional.mse_loss(*theirs.get_preds(0)).item(), abs=1e-5
        )
        users = list(stream.vocab['user'].ids)
        want = theirs.recommend(users, 5)
        pd.testing.assert_frame_equal(ours.recommend(users, 5), want, atol=1e-5)
        monkeypatch.setattr('fastrec.data.stream.SEEN_ROWS', 1000)  # some users at a time
        monkeypatch.setattr('fastrec.scorers.recommend.USERS_PER_TABLE', 100)
        pd.testing.assert_frame_equal(ours.recommend(users, 5), want, atol=1e-5)
        pd.testing.assert_frame_equal(
            ours.recommend(users[::-1], 5).sort_values(['user', 'rank'], ignore_index=True), want, atol=1e-5
        )
        some = list(stream.vocab['item'].ids[:4])
        pd.testing.assert_frame_equal(
            ours.recommend(users[:9], 2, candidates=some), theirs.recommend(users[:9], 2, candidates=some), atol=1e-5
        )
    assert ours.predict(users[0], some[0]) == pytest.approx(theirs.predict(users[0], some[0]), abs=1e-5)

    def rank(learn):
        return evaluate(learn, memory, [hr(10), ndcg(10)], relevant=4)

    pd.testing.assert_frame_equal(rank(ours), rank(theirs))


def test_it_trains_as_in_memory_does(stream, memory):
    errors = []
    for dls in (stream, memory):
        learn = learner(dls)
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(5, 2e-2, wd=0.02)
        errors.append(learn.recorder.values[-1][-1])
    assert errors[0] == pytest.approx(errors[1], abs=0.02)
    assert errors[0] < 0.95 * float(np.std(memory.catalog.interactions.ratings))


def test_verbs(stream, tmp_path, capsys):
    learn = learner(stream, path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.lr_find(num_it=20, show_plot=False)
        learn.fit_one_cycle(1, 1e-2)
        learn.save('it')
        learn.load('it')
    stream.show_batch(max_n=3)
    assert 'title' in capsys.readouterr().out
    assert stream.one_batch()[0].shape == (64,)
    assert stream.train.buffer == 1200
    user = stream.vocab['user'].ids[0]
    want = learn.recommend(user, 3, exclude_seen=False)
    learn.export('it.pkl')
    assert 'parquet' not in (tmp_path / 'it.pkl').read_bytes().decode('latin-1'), 'files do not travel'
    pd.testing.assert_frame_equal(load_learner(tmp_path / 'it.pkl').recommend(user, 3, exclude_seen=False), want)
    save_recommender(learn, tmp_path / 'saved')
    pd.testing.assert_frame_equal(
        load_recommender(tmp_path / 'saved').recommend(user, 3, exclude_seen=False), want, atol=1e-5
    )
    with pytest.raises(ValueError, match='seen='):
        load_learner(tmp_path / 'it.pkl').recommend(user)


def test_killed_training_goes_on(folder, tmp_path):
    def make(seed=1):
        return learner(RecDataLoaders.from_parquet(folder, stream=True, buffer=1200, valid_pct=0.1, seed=seed, bs=64))

    def fit(learn, *cbs):
        torch.manual_seed(7)
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(3, 1e-2, cbs=[ResumeCallback(tmp_path / 'run'), *cbs] if cbs else None)
        return learn

    class Kill(Callback):
        order = 95

        def before_epoch(self):
            if self.epoch == 2:
                raise KeyboardInterrupt

    whole = fit(make())
    with pytest.raises(KeyboardInterrupt):
        fit(make(), Kill())
    again = fit(make(), Callback())
    for a, b in zip(whole.model.parameters(), again.model.parameters()):
        assert torch.equal(a, b)
    prints = [make(seed).catalog.history.fingerprint(part) for seed in (1, 2) for part in ('data', 'split')]
    assert prints[0] == prints[2]
    assert prints[1] != prints[3]


def test_split_by_a_column(folder):
    dls = RecDataLoaders.from_parquet(folder, stream=True, splitter='part', bs=64)
    table = pd.concat([pd.read_parquet(p) for p in sorted(folder.iterdir())])
    assert [len(dl.dataset) for dl in dls.loaders] == [int((table.part == o).sum()) for o in ('train', 'valid', 'test')]
    with pytest.raises(ValueError, match="column 'item' says the split"):
        RecDataLoaders.from_parquet(folder, stream=True, splitter='item')
    with pytest.raises(ValueError, match="no column 'nope'"):
        RecDataLoaders.from_parquet(folder, stream=True, splitter='nope')


def test_files_may_be_read_by_several_at_once(stream, monkeypatch):
    monkeypatch.setattr('fastrec.data.stream.OPEN_FILES', 1)
    batches = iter(stream.train.new(bs=16, shuffle=False))
    first = [next(batches), next(batches)]
    assert len(pairs(stream.valid)) == len(stream.valid.dataset)
    assert len(pairs(stream.train)) == len(stream.train.dataset)
    assert table(pairs([*first, *batches])).equals(table(pairs(stream.train)))


@pytest.mark.parametrize('n', [3, 1000])  # few codes, and many
def test_counts_add_up(n):
    from fastrec.data.stream import _add_counts

    codes = np.array([0, 2, 2, 1, 2])
    counts = np.ones(n, np.int64)
    _add_counts(counts, codes)
    assert counts[:3].tolist() == [2, 2, 4]
    assert counts.sum() == n + 5


def test_every_row_for_training(folder):
    dls = RecDataLoaders.from_parquet(folder, stream=True, valid_pct=0, bs=64)
    learn = learner(dls)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, 1e-2)
    assert len(dls.train.dataset) == dls.stream.n
    assert not list(dls.valid)
    assert len(dls.of_users(3).valid.dataset) == 0
    with pytest.raises(ValueError, match='nothing to evaluate on'):
        evaluate(learn, dls.of_users(3))


def test_users_in_order_need_few_row_groups(folder, tmp_path, monkeypatch):
    table = pd.concat([pd.read_parquet(p) for p in sorted(folder.iterdir())]).sort_values('user')
    table.to_parquet(tmp_path / 'sorted.parquet', row_group_size=200, index=False)
    dls = RecDataLoaders.from_parquet(tmp_path / 'sorted.parquet', stream=True, seed=0, bs=64)
    read = []
    stream = dls.stream
    real = type(stream).read

    def noted(self, group):
        read.append(group)
        return real(self, group)

    monkeypatch.setattr(type(stream), 'read', noted)
    user = table.user.iloc[0]
    got = dls.of_users([user] + [table.user.iloc[-1]]).catalog.interactions.to_df()
    some = (o for o in (user, table.user.iloc[-1]))
    assert dls.of_users(some).catalog.interactions.to_df().equals(got)
    assert len(got[got.user == user]) == (table.user == user).sum()
    assert set(read) <= {0, 1, len(stream.groups) - 2, len(stream.groups) - 1}
    assert len(stream.groups) > 20


def test_what_cannot_be_streamed_names_the_way_out(folder, stream, memory):
    file = folder / 'ratings0.parquet'

    def go(**kwargs):
        return RecDataLoaders.from_parquet(file, stream=True, **kwargs)

    for kwargs in (
        dict(target='implicit'),
        dict(target='liked'),
        dict(duplicates='last'),
        dict(splitter=([0], [1])),
        dict(threshold=4),
    ):
        with pytest.raises(ValueError, match='from_parquet without stream=True'):
            go(**kwargs)
    with pytest.raises(ValueError, match='valid_pct=2'):
        go(valid_pct=2)
    with pytest.raises(ValueError, match='buffer=0'):
        go(buffer=0)
    with pytest.raises(ValueError, match="no column 'nope'"):
        go(user_name='nope')
    with pytest.raises(ValueError, match='no rating column'):
        go(rating_name=False)
    learn = as_trained(learner(stream))
    for fails in (
        lambda: evaluate(learn, metrics=hr(10), relevant=4),
        lambda: evaluate(learn),
        lambda: EASE().fit(stream),
        lambda: svdpp_learner(stream),
        lambda: learn.history('u0001'),
        lambda: learn.card(),
        lambda: collab_learner(stream, metrics=[hr(10)]),
        lambda: learn.extend(pd.DataFrame()),
        lambda: learn.recommend_users(memory.vocab['item'].ids[0]),
        lambda: save_recommender(learn, 'nowhere', history=True),
    ):
        with pytest.raises(ValueError, match='of_users'):
            fails()
    with pytest.raises(ValueError, match='shuffle=False'):
        learn.get_preds(dl=stream.train)
    assert len(learn.recommend_users(memory.vocab['item'].ids[0], exclude_seen=False)) == 10
    with pytest.raises(ValueError, match=r'outside y_range'):
        collab_learner(stream, y_range=(2, 3))
    assert mlp_learner(stream, y_range=(0.5, 5.5)).validate()[0] > 0


def test_bad_files_are_named(folder, tmp_path):
    table = pd.read_parquet(folder / 'ratings0.parquet')

    def go():
        return RecDataLoaders.from_parquet(tmp_path, stream=True)

    table.to_parquet(tmp_path / 'a.parquet', row_group_size=500, index=False)
    for bad, message in (
        (
            table.assign(user=table.user.where(table.index != table.index[700])),
            'b.parquet, row group 1: 1 of 500 rows have no user id',
        ),
        (table.assign(rating=np.nan), 'b.parquet, row group 0: .*missing or infinite'),
        (table.assign(item=table.item.astype(str)), "1 and '1' would be two"),
        (table.assign(item=table.item.astype(float) + 0.5), 'of one type'),
        (table.drop(columns='rating'), "b.parquet has no column 'rating'"),
        (table.assign(rating='good'), 'row group 0: ratings .* are not numbers'),
        (table.assign(rating=10**9), r'holds values from .* to 1e\+09, and no rating is larger .* in another column'),
    ):
        bad.to_parquet(tmp_path / 'b.parquet', row_group_size=500, index=False)
        with pytest.raises(ValueError, match=message):
            go()
    table.iloc[:0].to_parquet(tmp_path / 'b.parquet', index=False)
    dls = go()  # an empty file among others is none
    assert dls.stream.n == len(table)
    table.assign(item=table.item + 10**6).to_parquet(tmp_path / 'a.parquet', row_group_size=500, index=False)
    dls.stream._open.clear()
    with pytest.raises(ValueError, match='must stay as they are'):
        dls.one_batch()
