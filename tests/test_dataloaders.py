"""The loader's contract with fastai, and what only this loader promises."""

import io
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.basics import DataLoaders, RandomSplitter
from fastai.data.core import TfmdDL
from fasttransform import Pipeline

from fastrec.data.splits import LeaveLastSplitter
from fastrec.training.batches import InteractionDL, auto_batch_size
from fastrec.training.dataloaders import RecDataLoaders


def rows(dl):
    return torch.cat([torch.stack([b[0].float(), b[1].float(), b[2]], 1) for b in dl])


def as_set(t):
    return sorted(map(tuple, t.tolist()))


def test_types(dls):
    assert isinstance(dls, DataLoaders)
    assert isinstance(dls.train, TfmdDL)
    users, items, target = dls.one_batch()
    assert users.dtype == items.dtype == torch.int64
    assert target.dtype == torch.float32
    assert users.shape == items.shape == target.shape == (64,)
    assert dls.n_inp == dls.train.n_inp == dls.valid.n_inp == 2


@pytest.mark.parametrize(
    ('objective', 'options'),
    [
        ('pairs', {}),
        ('pairs', dict(target='liked')),
        ('negatives', dict(target='implicit')),
        ('in_batch', dict(target='implicit', n_neg=0)),
        ('catalogue', dict(target='implicit', n_neg=None)),
    ],
)
def test_loaders_say_what_a_batch_is_for(synthetic, objective, options):
    ratings = synthetic[0].assign(device='tv')
    dls = RecDataLoaders.from_df(ratings, **options)
    assert dls.objective == objective
    assert dls.new_empty().objective == objective
    assert not dls.has_context
    if objective == 'pairs':
        assert RecDataLoaders.from_df(ratings, context='device', **options).has_context


def test_every_row_once_an_epoch_in_a_new_order(dls):
    a = rows(dls.train)
    b = rows(dls.train)
    assert len(a) == len(dls.train_ds)
    assert as_set(a) == as_set(b)
    assert not torch.equal(a, b)
    inter = dls.catalog.interactions
    split = dls.catalog.split
    truth = np.column_stack([inter.users[split.train], inter.items[split.train], inter.ratings[split.train]])
    assert as_set(a) == as_set(torch.from_numpy(truth).float())


def test_valid_keeps_the_order_of_the_table(dls):
    inter = dls.catalog.interactions
    split = dls.catalog.split
    got = rows(dls.valid)
    assert torch.equal(got[:, 0], torch.from_numpy(inter.users[split.valid]).float())
    assert torch.equal(got[:, 2], torch.from_numpy(inter.ratings[split.valid]))


def test_chunks_do_not_change_batches(dls, monkeypatch):
    whole = rows(dls.train.new(shuffle=False))
    monkeypatch.setattr('fastrec.training.batches.GATHERED_ROWS', 100)
    assert torch.equal(rows(dls.train.new(shuffle=False)), whole)


def test_drop_last(dls):
    dl = dls.train.new(drop_last=True)
    sizes = [len(b[0]) for b in dl]
    assert set(sizes) == {64}
    assert len(sizes) == len(dl) == len(dls.train_ds) // 64


def test_seed_makes_a_local_order(dls):
    torch.manual_seed(0)
    a = rows(dls.train.new(seed=5))
    state = torch.get_rng_state()
    b = rows(dls.train.new(seed=5))
    assert torch.equal(a, b)
    assert torch.equal(state, torch.get_rng_state())
    dl = dls.train.new(seed=5)
    assert not torch.equal(rows(dl), rows(dl)), 'the order must change from epoch to epoch'


def test_new_keeps_state_and_replaces_arguments(dls):
    dl = dls.train.new(seed=9).new(bs=10)
    assert (dl.seed, dl.bs, dl.shuffle) == (9, 10, True)


def test_create_batches_takes_any_iterable(dls):
    a = list(dls.valid.create_batches(range(10)))
    b = list(dls.valid.create_batches(torch.arange(10)))
    assert all(torch.equal(x, y) for p, q in zip(a, b) for x, y in zip(p, q))


def test_after_batch_transforms_run(dls):
    dls.train.after_batch = Pipeline([lambda o: o * 0])  # fastai maps it over the tuple
    assert all(o.abs().sum() == 0 for o in dls.one_batch())


def test_new_empty_holds_no_rows_and_no_history(dls):
    full = pickle.dumps(dls.train_ds.columns)
    empty = dls.new_empty()
    assert len(empty.train_ds) == len(empty.valid_ds) == 0
    assert empty.catalog.interactions is None
    assert empty.catalog.split is None
    assert len(pickle.dumps([list(dl.dataset.columns) for dl in empty.loaders])) < len(full) / 10
    assert empty.vocab['user'] == dls.vocab['user']


def test_workers_are_refused(dls):
    with pytest.raises(ValueError, match='leave it at 0'):
        InteractionDL(dls.train_ds, num_workers=2)
    with pytest.raises(ValueError, match='at least 1'):
        InteractionDL(dls.train_ds, bs=0)


def test_show_batch_has_ids_and_titles(dls, capsys):
    df = dls.show_batch(show=False, max_n=4)
    assert list(df.columns) == ['user', 'item', 'title', 'rating']
    assert len(df) == 4
    assert df.user.str.startswith('u').all()
    assert (df.item >= 1000).all()
    b = dls.one_batch()
    shown = dls.show_batch(b, show=False)
    titles = dls.item_df.title.to_numpy()[b[1][:9]]
    assert (shown.title == titles).all()
    dls.show_batch()
    assert 'title' in capsys.readouterr().out


def test_fastai_splitter_column_and_arrays(synthetic):
    ratings, _items, _ = synthetic
    a = RecDataLoaders.from_df(ratings, splitter=RandomSplitter(0.3, seed=1), bs=64)
    assert len(a.valid_ds) == int(0.3 * len(ratings))
    marked = ratings.assign(part=np.where(np.arange(len(ratings)) % 5 == 0, 'valid', 'train'))
    assert len(RecDataLoaders.from_df(marked, splitter='part', bs=64).valid_ds) == (marked.part == 'valid').sum()
    idx = np.arange(len(ratings))
    three = RecDataLoaders.from_df(ratings, splitter=(idx[20:], idx[:10], idx[10:20]), bs=64)
    assert [len(dl.dataset) for dl in three.loaders] == [len(ratings) - 20, 10, 10]
    assert len(RecDataLoaders.from_df(ratings, splitter=LeaveLastSplitter(1), bs=64).valid_ds) == ratings.user.nunique()


def test_parts_share_their_columns(dls):
    assert dls.train_ds.columns is dls.valid_ds.columns


def test_csv_and_parquet(synthetic, tmp_path):
    pytest.importorskip('pyarrow')
    ratings, _, _ = synthetic
    ratings.to_csv(tmp_path / 'r.csv', index=False)
    ratings.to_parquet(tmp_path / 'r.parquet')
    kw = dict(valid_pct=0.1, seed=0, bs=64)
    want = rows(RecDataLoaders.from_df(ratings, **kw).valid)
    assert torch.allclose(rows(RecDataLoaders.from_csv(tmp_path / 'r.csv', **kw).valid), want)
    assert torch.equal(rows(RecDataLoaders.from_parquet(tmp_path / 'r.parquet', **kw).valid), want)


def test_test_dl(dls, synthetic):
    ratings = synthetic[0].head(7)
    dl = dls.test_dl(ratings)
    ((users, items),) = list(dl)
    assert (dls.vocab['user'].decode(users) == ratings.user).all()
    assert (dls.vocab['item'].decode(items) == ratings.item).all()
    labelled = list(dls.test_dl(ratings, with_labels=True))
    assert torch.equal(labelled[0][2], torch.tensor(ratings.rating.to_numpy()))
    pairs = list(zip(ratings.user, ratings.item))
    of_pairs = list(dls.test_dl(pairs))
    assert torch.equal(of_pairs[0][1], items)
    with pytest.raises(ValueError, match='which column holds the ratings'):
        dls.test_dl(ratings[['user', 'item']], with_labels=True)
    with pytest.raises(ValueError, match=r'list of .user, item. pairs'):
        dls.test_dl(('u0001', 1000))
    with pytest.raises(ValueError, match='no labels'):
        dls.test_dl(pairs, with_labels=True)
    with pytest.raises(KeyError, match='nobody'):
        dls.test_dl([('nobody', 1000)])


def test_test_dl_with_category_dtype_gives_the_right_rows(dls, synthetic):
    ratings = synthetic[0].tail(5)
    df = ratings.assign(user=ratings.user.astype('category'), item=ratings.item.astype('category'))
    batches = list(dls.test_dl(df))
    users, items = batches[0]
    assert (dls.vocab['user'].decode(users) == ratings.user).all()
    assert (dls.vocab['item'].decode(items) == ratings.item).all()


def test_batch_size(synthetic):
    ratings, _, _ = synthetic
    assert auto_batch_size(90_000) == 256
    assert auto_batch_size(10) == 16
    assert auto_batch_size(20_000_000) == 8192
    with pytest.warns(UserWarning, match='steps an epoch.*Try bs='):
        RecDataLoaders.from_df(ratings, bs=4096)


def test_no_ratings():
    df = pd.DataFrame(dict(user=[1, 1, 2], item=[1, 2, 1]))
    with pytest.raises(ValueError, match='rating_name='):
        RecDataLoaders.from_df(df)


def test_summary_counts(dls):
    text = dls.summary()
    inter = dls.catalog.interactions
    split = dls.catalog.split
    assert f'{len(inter):,} rows, {inter.n_users:,} users, {inter.n_items:,} items' in text
    assert f'valid: {len(split.valid):,} rows' in text


# --- large tables, files


def test_columns_from_files_give_the_loaders_of_the_table(synthetic, tmp_path):
    ratings, _, _ = synthetic
    ratings = ratings.assign(time=np.arange(len(ratings)) + 10**9)
    ratings.to_parquet(tmp_path / 'r.parquet', row_group_size=1000)
    ratings.to_csv(tmp_path / 'r.csv', index=False)
    want = RecDataLoaders.from_df(ratings, seed=0)
    for dls in (
        RecDataLoaders.from_parquet(tmp_path / 'r.parquet', seed=0),
        RecDataLoaders.from_csv(tmp_path / 'r.csv', seed=0),
    ):
        a = dls.catalog.interactions
        b = want.catalog.interactions
        for name in ('users', 'items', 'ratings', 'times'):
            assert np.array_equal(getattr(a, name), getattr(b, name))
        assert dls.vocab == want.vocab
        assert np.array_equal(dls.catalog.split.valid, want.catalog.split.valid)
    assert list(ratings.columns) == ['user', 'item', 'rating', 'time'], 'the table given is left alone'


@pytest.mark.parametrize('n', [None, 1])  # rows known or not
def test_rows_that_come_in_parts(n, monkeypatch):
    from fastrec.data.files import GrowingArray

    monkeypatch.setattr('fastrec.data.files.BLOCK_ROWS', 7)
    rng = np.random.default_rng(0)
    for lengths, kinds in (
        ([3, 4, 9, 20, 1], [np.int32] * 5),
        ([3, 9], [np.int32, np.int64]),
        ([8], [np.float32]),
        ([2, 5], [np.int32] * 2),
        ([], []),
    ):
        parts = [rng.integers(0, 9, m).astype(kind) for m, kind in zip(lengths, kinds)]
        rows = GrowingArray(n and sum(lengths))
        for o in parts:
            rows.add(o)
        got = rows.joined()
        if not parts:
            assert got is None
        else:
            assert np.array_equal(got, np.concatenate(parts))
            assert got.dtype == np.result_type(*parts)


def _same(dls, want):
    a = dls.catalog.interactions
    b = want.catalog.interactions
    for name in ('users', 'items', 'ratings', 'times'):
        x = getattr(a, name)
        y = getattr(b, name)
        assert (x is None) == (y is None), name
        assert x is None or (np.array_equal(x, y) and x.dtype == y.dtype), name
    assert dls.vocab == want.vocab
    assert np.array_equal(dls.catalog.split.valid, want.catalog.split.valid)
    assert dls.catalog.names == want.catalog.names


@pytest.mark.parametrize(
    'change',
    [
        dict(user=lambda d: d.user.str.slice(1).astype(int)),
        dict(item=lambda d: d.item.astype('int16')),
        dict(item=lambda d: d.item.astype(float)),
        dict(user=lambda d: d.user.astype('category')),
        dict(time=lambda d: pd.to_datetime(d.time, unit='s')),
        dict(time=lambda d: -d.time),
        dict(rating=lambda d: d.rating.astype('float64')),
        dict(time=lambda d: d.time.where(d.index > 5)),
    ],
    ids=['whole numbers', 'int16', 'floats', 'categories', 'datetimes', 'before 1970', 'float64', 'missing times'],
)
def test_files_read_in_parts_give_what_the_table_gives(change, synthetic, tmp_path, monkeypatch):
    monkeypatch.setattr('fastrec.data.files.BATCH_ROWS', 700)
    ratings = synthetic[0].assign(time=np.arange(len(synthetic[0])) + 10**9).assign(**change)
    ratings.to_parquet(tmp_path / 'r.parquet', row_group_size=1000)
    for at, part in enumerate(np.array_split(np.arange(len(ratings)), 3)):
        ratings.iloc[part].to_parquet(tmp_path / f'part{at}.parquet')
    want = RecDataLoaders.from_df(pd.read_parquet(tmp_path / 'r.parquet'), seed=0)
    _same(RecDataLoaders.from_parquet(tmp_path / 'r.parquet', seed=0), want)
    _same(RecDataLoaders.from_parquet([tmp_path / f'part{at}.parquet' for at in range(3)], seed=0), want)
    (tmp_path / 'r.parquet').unlink()
    _same(RecDataLoaders.from_parquet(tmp_path, seed=0), want)  # a folder


def test_what_a_file_holds_that_cannot_be_converted_in_parts_is_said_as_of_a_table(synthetic, tmp_path):
    ratings = synthetic[0]
    path = tmp_path / 'r.parquet'
    for bad, message in (
        (ratings.assign(user=ratings.user.where(ratings.index > 3)), 'have no user id'),
        (ratings.assign(rating=10**9), 'timestamp'),
        (ratings.assign(item=1), 'single item'),
        (ratings.assign(item=ratings.item + 0.5), 'fractions'),
        (pd.concat([ratings, ratings.head(2)]), 'repeat a user-item pair'),
        (ratings.iloc[:0], 'empty'),
        (ratings.assign(rating='good'), 'not numbers'),
    ):
        bad.to_parquet(path)
        with pytest.raises(ValueError, match=message):
            RecDataLoaders.from_parquet(path)
        bad.to_csv(tmp_path / 'r.csv', index=False)
        if 'fractions' not in message:
            with pytest.raises(ValueError, match=message):
                RecDataLoaders.from_csv(tmp_path / 'r.csv')
    with pytest.raises(FileNotFoundError, match=r'no .parquet file'):
        RecDataLoaders.from_parquet([tmp_path / 'nothing'] if (tmp_path / 'nothing').mkdir() is None else None)
    with pytest.raises(ValueError, match="no column 'nope'"):
        RecDataLoaders.from_parquet(path, rating_name='nope')
    again = pd.concat([ratings, ratings.head(50).assign(rating=1.0, time=10**6)], ignore_index=True)
    again.to_parquet(path)
    _same(
        RecDataLoaders.from_parquet(path, duplicates='last', seed=0),
        RecDataLoaders.from_df(again, duplicates='last', seed=0),
    )
    halves = np.arange(0, 500), np.arange(500, len(again))
    _same(
        RecDataLoaders.from_parquet(path, duplicates='last', splitter=halves),
        RecDataLoaders.from_df(again, duplicates='last', splitter=halves),
    )
    again.assign(held=np.arange(len(again)) % 5 == 0).to_parquet(path)
    _same(
        RecDataLoaders.from_parquet(path, duplicates='first', splitter='held'),
        RecDataLoaders.from_df(pd.read_parquet(path), duplicates='first', splitter='held'),
    )


def test_csv_by_address_from_memory_and_compressed(synthetic, tmp_path):
    ratings = synthetic[0]
    ratings.to_csv(tmp_path / 'r.csv', index=False)
    ratings.to_csv(tmp_path / 'r.csv.gz', index=False)
    want = RecDataLoaders.from_df(ratings, seed=0)
    for csv in (
        f'file://{tmp_path}/r.csv',
        io.BytesIO((tmp_path / 'r.csv').read_bytes()),
        tmp_path / 'r.csv.gz',
        str(tmp_path / 'r.csv'),
    ):
        _same(RecDataLoaders.from_csv(csv, seed=0), want)


def test_csv_that_arrow_refuses_is_read_by_pandas(tmp_path):
    (tmp_path / 'r.csv').write_text('user::item::rating\n1::a::3\n2::b::4\n1::b::5\n2::a::1\n3::a::2\n')
    with pytest.warns(Warning):
        assert len(RecDataLoaders.from_csv(tmp_path / 'r.csv', sep='::', bs=2).catalog.interactions) == 5
    (tmp_path / 'r2.csv').write_text('user;item;rating\n1;a;3\n2;b;4\n1;b;5\n2;a;1\n3;a;2\n', encoding='latin-1')
    assert len(RecDataLoaders.from_csv(tmp_path / 'r2.csv', sep=';', encoding='latin-1').catalog.interactions) == 5


@pytest.mark.parametrize('large', [False, True])
def test_large_tables_go_through_in_chunks(synthetic, monkeypatch, large):
    ratings, _, _ = synthetic
    want = RecDataLoaders.from_df(ratings, seed=0)
    if large:
        for room in ('data.columns', 'data.interactions', 'data.history'):
            monkeypatch.setattr(f'fastrec.{room}.CHUNK_ROWS', 500)
        for room in ('data.splits', 'training.batches', 'training.dataloaders'):
            monkeypatch.setattr(f'fastrec.{room}.LARGE', 10)
    dls = RecDataLoaders.from_df(ratings, seed=0)
    assert dls.catalog.split.train.dtype == (np.int32 if large else np.int64)
    assert np.array_equal(dls.catalog.split.train, want.catalog.split.train)
    assert np.array_equal(dls.catalog.counts['user'], want.catalog.counts['user'])
    assert dls.catalog.mean_rating == pytest.approx(want.catalog.mean_rating, abs=1e-9)
    assert dls.one_batch()[0].dtype == torch.int64
    with pytest.raises(ValueError, match='repeat a user-item pair'):
        RecDataLoaders.from_df(pd.concat([ratings, ratings.head(1)]))


@pytest.mark.parametrize(
    'values',
    [
        np.array([5, 3, 5, -7]),
        np.array([2**40, 1, 2**40]),
        np.array([3, 1], dtype=np.uint8),
        np.array([100, -100, 0], dtype=np.int8),
        np.array([1.0, 2.0]),
    ],
)
def test_codes_by_a_table_over_the_range_are_those_of_factorize(values):
    from fastrec.data.columns import dense_codes

    found = dense_codes(values)
    if values.dtype.kind == 'f' or values.max() == 2**40:
        assert found is None
    else:
        codes, ids = pd.factorize(values, sort=True)
        assert np.array_equal(found[0], ids)
        assert np.array_equal(found[1], codes)
        assert found[0].dtype == values.dtype


def test_remade_loaders_have_the_same_rows_and_another_kind_of_batch(synthetic, dls):
    other = dls.remade(bs=16)
    assert other.catalog is dls.catalog
    assert other.train.bs == 16
    assert as_set(rows(other.valid)) == as_set(rows(dls.valid))
    with pytest.raises(ValueError, match='negatives are for implicit feedback'):
        dls.remade(n_neg=4)

    clicks = RecDataLoaders.from_df(synthetic[0], target='implicit', n_neg=3, alpha=0.5, bs=32, seed=0)
    kinds = [clicks.remade(n_neg=n) for n in (None, 0, 4)]
    assert [o.objective for o in kinds] == ['catalogue', 'in_batch', 'negatives']
    assert all(o.catalog is clicks.catalog and o.split_by == clicks.split_by for o in kinds)
    assert [o.train.bs for o in kinds[1:]] == [32, 32]
    same = clicks.remade()
    assert (same.train.n_neg, same.train.sampler.alpha, same.train.bs) == (3, 0.5, 32)
    back = kinds[0].remade(n_neg=4)
    assert back.train.bs == auto_batch_size(len(back.train.dataset))
