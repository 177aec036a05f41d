"""What outsiders' tables and files hold: ids of every width, headers or none, names, marks of missing ratings."""

import datetime
import gzip
import io
import sys
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.transforms import ColSplitter
from hypothesis import given, settings
from hypothesis import strategies as st
from trained import as_trained

from fastrec.all import Catalog, RecDataLoaders, TimeSplitter, collab_learner, load_recommender, save_recommender
from fastrec.cli import main
from fastrec.data.columns import KNOWN_NAMES, find_columns
from fastrec.data.files import FileTable, separator_of
from fastrec.data.interactions import Interactions, Vocab, sentinels

pa = pytest.importorskip('pyarrow')
pq = pytest.importorskip('pyarrow.parquet')

NARROW = [
    'int8',
    'uint8',
    'int16',
    'uint16',
    'int32',
    'uint32',
    'int64',
    'uint64',
    'UInt16',
    'Int32',
    'uint16[pyarrow]',
]
BEYOND = [2**8, 2**16, 2**32, 2**63, 2**64 - 1]  # added to a known id it wraps round to it in a narrow type


def ratings(n_users=12, n_items=10, **columns):
    """A table of 1 to 5 in which users have most items, in the order of users."""
    pairs = [(user, item) for user in range(1, n_users + 1) for item in range(1, n_items + 1) if (user + item) % 4]
    df = pd.DataFrame(pairs, columns=['user', 'item'])
    df['rating'] = (df.user * 7 + df.item * 3) % 5 + 1.0
    return df.assign(**columns)


def text_of(df, **how):
    return df.to_csv(index=False, **how)


def csv_file(df, path, **how):
    path.write_text(text_of(df, **how))
    return path


# --- ids


@pytest.mark.parametrize('dtype', NARROW)
def test_ids_of_any_width_are_int64_and_unknown_ones_unknown(dtype, tmp_path):
    df = ratings().astype(dict(user=dtype, item=dtype))
    df.to_parquet(tmp_path / 'r.parquet', index=False)
    titles = pd.DataFrame(dict(item=[1, 2, *(2 + o for o in BEYOND[:4])], title=list('abcdef')))
    doors = dict(
        table=RecDataLoaders.from_df(df, item_df=titles, seed=0, bs=8),
        parquet=RecDataLoaders.from_parquet(tmp_path / 'r.parquet', item_df=titles, seed=0, bs=8),
        stream=RecDataLoaders.from_parquet(tmp_path / 'r.parquet', stream=True, item_df=titles, seed=0, bs=8),
    )
    for name, dls in doors.items():
        for side, vocab in dls.vocab.items():
            assert vocab.ids.dtype == np.int64, (name, side)
            for unknown in (1 + o for o in BEYOND if 1 + o < 2**64):
                assert vocab.encode([unknown, 1], unknown='mark').tolist() == [-1, 0], (name, unknown)
        assert dls.catalog.titles([0, 1, 2]).tolist() == ['a', 'b', '3'], name
        with pytest.raises(KeyError, match='unknown user id: 65537'):
            dls.test_dl(pd.DataFrame(dict(user=[65537], item=[1])))


def test_a_saved_recommender_knows_the_ids_it_had(tmp_path):
    dls = RecDataLoaders.from_df(ratings().astype(dict(user='uint16', item='uint16')), seed=0, bs=8)
    learn = as_trained(collab_learner(dls, n_factors=2))
    save_recommender(learn, tmp_path / 'r')
    loaded = load_recommender(tmp_path / 'r')
    assert loaded.vocab['user'].ids.dtype == np.int64
    assert loaded.vocab['user'].encode([65537], unknown='mark').tolist() == [-1]


def test_a_vocabulary_that_was_saved_narrow_compares_exactly():
    vocab = Vocab([1, 2], 'user')
    vocab.ids = pd.Index(np.array([1, 2], np.uint16))  # as of an earlier version
    assert vocab.encode([65537, 2], unknown='mark').tolist() == [-1, 1]


def test_extend_takes_wider_ids():
    dls = RecDataLoaders.from_df(ratings().astype(dict(user='int32', item='uint16')), seed=0, bs=8)
    learn = collab_learner(dls, n_factors=2)
    new = pd.DataFrame(dict(user=[3_000_000_000] * 2, item=[1, 65537], rating=[4.0, 5.0]))
    users = learn.extend(new).vocab['user'].ids
    assert users[-1] == 3_000_000_000
    assert users.dtype == np.int64


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6, unique=True),
    st.lists(st.integers(-(2**63), 2**64 - 1), max_size=6),
)
def test_integers_are_looked_up_as_python_would(ids, asked):
    vocab = Vocab(ids)
    want = [ids.index(o) if o in ids else -1 for o in asked]
    assert vocab.encode(asked, unknown='mark').tolist() == want
    assert vocab.encode([*asked, None], unknown='mark').tolist() == [*want, -1]
    if all(o >= 0 for o in asked):
        assert vocab.encode(np.array(asked, np.uint64), unknown='mark').tolist() == want


def test_ids_beyond_int64_are_uint64():
    vocab = Vocab([5, 2**63 + 1])
    assert vocab.ids.dtype == np.uint64
    assert vocab.encode([2**63 + 2, 2**63 + 1, -1, 5], unknown='mark').tolist() == [-1, 1, -1, 0]
    assert Vocab([5]).extended([2**63 + 1]).ids.tolist() == [5, 2**63 + 1]


def test_floats_from_two_to_the_53_are_refused():
    steam = [76561198000000000 + i for i in range(4)]
    df = pd.DataFrame(dict(user=[*steam, None] * 2, item=[1] * 5 + [2] * 5, rating=1.0))
    assert df.user.dtype == np.float64
    refused = r"8 of 10 user ids \(column 'user'\) are floats from 2\^53 .* read the column as Int64 or str"
    with pytest.raises(ValueError, match=refused):
        RecDataLoaders.from_df(df)
    text = text_of(df.assign(user=pd.array([*steam, None] * 2, dtype='Int64')))
    for dtype in ('Int64', 'str'):  # what the message says
        again = pd.read_csv(io.StringIO(text), dtype={'user': dtype}).dropna(subset=['user'])
        assert len(RecDataLoaders.from_df(again, bs=2).vocab['user']) == 4
    for ask in (Vocab, Vocab([1, 2]).encode, Vocab([1, 2]).extended):
        with pytest.raises(ValueError, match='Int64 or str'):
            ask([2.0**53, 1.0])
    assert Vocab([2**53 - 1]).encode([2.0**53 - 1]).tolist() == [0]


def test_integers_with_an_empty_cell_stay_apart_in_csv_and_parquet(tmp_path):
    df = ratings(user=[76561198000000000 + o for o in ratings().user])
    df = df.assign(user=df.user.astype('Int64').where(df.index != 3))
    csv_file(df, tmp_path / 'r.csv')
    df.to_parquet(tmp_path / 'r.parquet', index=False)
    for table in (FileTable(tmp_path / 'r.csv', 'csv'), FileTable(tmp_path / 'r.parquet')):
        assert table.whole().user.nunique() == 12
    with pytest.raises(ValueError, match=r'1 of .* rows have no user id'):
        RecDataLoaders.from_csv(tmp_path / 'r.csv')


# --- headers


def test_a_file_without_a_header(tmp_path):
    df = ratings(time=881250949)
    path = csv_file(df, tmp_path / 'u.data', header=False, sep='\t')
    for read in (
        lambda: RecDataLoaders.from_csv(path),
        lambda: RecDataLoaders.from_csv(path, sep='\t'),
        lambda: RecDataLoaders.from_df(pd.read_csv(path, sep='\t')),
        lambda: RecDataLoaders.from_df(pd.read_csv(path, sep='\t'), splitter=TimeSplitter()),
    ):
        with pytest.raises(ValueError, match=r"no header.*header=None, names=\['user', 'item', 'rating', 'time'\]"):
            read()
    names = ['user', 'item', 'rating', 'time']
    for how in (dict(header=None, names=names), dict(names=names), dict(header=None)):
        inter = RecDataLoaders.from_csv(path, **how).catalog.interactions
        assert inter.to_df().equals(Interactions.from_df(df).to_df()), how
    with pytest.raises(ValueError, match='3 names, and the first row of the file has 4'):
        RecDataLoaders.from_csv(path, names=names[:3])


@pytest.mark.parametrize(
    'columns', [['AX12', 'B003', '5.0', '1382659200'], ['1', '1.1', '4', '5'], ['a', '2020-01-01']]
)
def test_names_that_are_values(columns):
    with pytest.raises(ValueError, match='has the file no header'):
        find_columns(pd.DataFrame(columns=columns), dict.fromkeys(KNOWN_NAMES))


def test_a_name_that_is_an_id_of_its_own_column(tmp_path):
    df = pd.DataFrame(dict(ann=['bob', 'ann', 'ann', 'eve'], apple=['pear', 'kiwi', 'pear', 'apple']))
    with pytest.raises(ValueError, match="'ann' among its user ids: has the file no header"):
        RecDataLoaders.from_df(df, target='implicit', n_neg=None)
    with pytest.raises(ValueError, match='has the file no header'):
        RecDataLoaders.from_csv(csv_file(df, tmp_path / 'c.csv'), target='implicit', n_neg=None)
    named = RecDataLoaders.from_df(df, target='implicit', n_neg=None, user_name='ann', item_name='apple')
    assert len(named.catalog.interactions) == 4


def test_a_header_that_was_taken_for_a_row(tmp_path):
    path = csv_file(ratings()[['user', 'item']], tmp_path / 'c.csv')
    with pytest.raises(ValueError, match=r"holds the names of columns: 'user', 'item'.*header=0"):
        RecDataLoaders.from_csv(path, names=['a', 'b'], target='implicit', n_neg=None)
    dls = RecDataLoaders.from_csv(path, names=['a', 'b'], header=0, target='implicit', n_neg=None)
    assert dls.catalog.names['user'] == 'a'
    assert len(dls.catalog.interactions) == len(ratings())


def test_numbered_columns_go_by_position():
    numbered = ratings().set_axis(range(3), axis=1)
    assert Interactions.from_df(numbered).names == dict(user=0, item=1, rating=2, time=None)
    with pytest.raises(ValueError, match='columns are called 196, 242, 3'):
        Interactions.from_df(ratings().set_axis([196, 242, 3], axis=1))


# --- roles by names


HEADERS = {  # header -> columns of user, item, rating and time
    'item_idx,user_idx,rating': (
        'user_idx', 'item_idx', 'rating', None,
    ),
    'item_id:token,user_id:token,rating:float,timestamp:float': (
        'user_id:token', 'item_id:token', 'rating:float', 'timestamp:float',
    ),
    'ItemNumber,CustomerNumber': (
        'CustomerNumber', 'ItemNumber', None, None,
    ),
    'userId,movieId,rating,timestamp': (
        'userId', 'movieId', 'rating', 'timestamp',
    ),
    'reviewerID,asin,reviewerName,overall,unixReviewTime,reviewTime': (
        'reviewerID', 'asin', 'overall', 'unixReviewTime',
    ),
    'user_id,parent_asin,rating,timestamp,history': (
        'user_id', 'parent_asin', 'rating', 'timestamp',
    ),
    'userID,artistID,weight': (
        'userID', 'artistID', None, None,
    ),
    'User-ID,ISBN,Book-Rating': (
        'User-ID', 'ISBN', 'Book-Rating', None,
    ),
    'app_id,helpful,date,hours,user_id,review_id': (
        'user_id', 'app_id', None, 'date',
    ),
    'user_id,joke_id,rating': (
        'user_id', 'joke_id', 'rating', None,
    ),
    'InvoiceNo,StockCode,Quantity,InvoiceDate,CustomerID': (
        'CustomerID', 'StockCode', None, 'InvoiceDate',
    ),
    'timestamp,visitorid,event,itemid,transactionid': (
        'visitorid', 'itemid', None, 'timestamp',
    ),
    'username,anime_id,my_score': (
        'username', 'anime_id', 'my_score', None,
    ),
    'timestamp,eventType,contentId,personId,sessionId': (
        'personId', 'contentId', None, 'timestamp',
    ),
    'product/productId,product/title,review/userId,review/score,review/time': (
        'review/userId', 'product/productId', 'review/score', 'review/time',
    ),
    'review_id,user_id,business_id,stars,date': (
        'user_id', 'business_id', 'stars', 'date',
    ),
    'Unnamed: 0,a,b,c': (
        'a', 'b', 'c', None,
    ),
}  # fmt: skip


@pytest.mark.parametrize('header', HEADERS)
def test_roles_in_headers_of_the_world(header):
    found = find_columns(pd.DataFrame(columns=header.split(',')), dict.fromkeys(KNOWN_NAMES))
    assert tuple(found.values()) == HEADERS[header]


@pytest.mark.parametrize('header', ['items,users,rating', 'movie_title,viewers,stars', 'i,u,r', 'hotel_reviews,guest'])
def test_a_position_that_the_names_contradict(header):
    with pytest.raises(ValueError, match=r'By position .* tells the items. Pass user_name='):
        find_columns(pd.DataFrame(columns=header.split(',')), dict.fromkeys(KNOWN_NAMES))


@pytest.mark.parametrize(
    'name', ['Book-Title', 'Movie Title', 'Game Name', 'movie_title', 'title', 'name', 'Long Title']
)
def test_titles_by_their_names(name):
    items = pd.DataFrame({'item': range(1, 11), 'Book-Author': 'x', name: list('abcdefghij')})
    assert RecDataLoaders.from_df(ratings(), item_df=items, bs=8).catalog.titles([0, 1]).tolist() == ['a', 'b']


# --- ratings that are none


@pytest.mark.parametrize(('value', 'share', 'scale'), [(-1, 0.19, (1, 10)), (0, 0.58, (1, 10)), (99, 0.4, (-10, 10))])
def test_a_value_apart_is_counted_and_can_be_dropped(value, share, scale):
    rng = np.random.default_rng(0)
    n = 2000
    rated = rng.integers(scale[0], scale[1] + 1, n).astype(float)
    is_mark = rng.random(n) < share
    df = pd.DataFrame(dict(user=np.arange(n) % 40, item=np.arange(n) // 40, rating=np.where(is_mark, value, rated)))
    n_marks = int(is_mark.sum())
    with pytest.warns(UserWarning, match=rf'^{n_marks:,} of 2,000 ratings .* are {value}, .*missing_rating={value}'):
        RecDataLoaders.from_df(df)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        dls = RecDataLoaders.from_df(df, missing_rating=value, splitter=[np.arange(1000), np.arange(1000, 2000)])
        seen = RecDataLoaders.from_df(df, missing_rating=value, target='implicit', n_neg=None, bs=8)
    inter = dls.catalog.interactions
    assert len(inter) == n - n_marks
    assert inter.ratings.tolist() == df.rating[~is_mark].tolist()
    assert len(dls.catalog.split.train) == int((~is_mark[:1000]).sum()), 'positions are those of the table'
    positives = seen.catalog.interactions
    assert len(positives) == n
    assert len(positives.positive()) == n - n_marks


@pytest.mark.parametrize(
    'draw',
    [
        lambda rng, n: rng.integers(1, 6, n),
        lambda rng, n: rng.integers(1, 11, n) / 2,
        lambda rng, n: rng.integers(0, 11, n),
        lambda rng, n: np.clip(np.round(rng.normal(6, 2.5, n)), 0, 10),
        lambda rng, n: np.ceil(rng.lognormal(1, 1.8, n)),
        lambda rng, n: rng.geometric(0.6, n),
        lambda rng, n: rng.integers(-10, 11, n),
        lambda rng, n: rng.uniform(-10, 10, n).round(2),
        lambda rng, n: rng.choice([-1, 0, 1], n),
        lambda rng, n: rng.choice([1, 2, 3, 4, 5], n, p=[0.1, 0.02, 0.05, 0.1, 0.73]),
    ],
)
def test_no_false_alarm(draw):
    rated = draw(np.random.default_rng(0), 5000).astype(np.float32)
    assert sentinels(*np.unique(rated, return_counts=True)) == []


def test_extend_and_labels_leave_out_what_is_no_rating():
    dls = RecDataLoaders.from_df(ratings(), missing_rating=-1, seed=0, bs=8)
    learn = collab_learner(dls, n_factors=2)
    more = pd.DataFrame(dict(user=[99, 99], item=[1, 2], rating=[-1.0, 4.0]))
    assert len(learn.extend(more).dls.catalog.interactions) == len(ratings()) + 1
    with pytest.raises(ValueError, match=r'1 of 2 labels are missing_rating=-1'):
        dls.test_dl(more.assign(user=1), with_labels=True)
    folded = learn.fold_in({1: 5.0, 2: -1.0}).score_items(torch.tensor([0]))
    assert torch.equal(folded, learn.fold_in({1: 5.0}).score_items(torch.tensor([0])))


def test_a_stream_drops_what_is_no_rating(tmp_path):
    df = ratings()
    df.loc[df.item == 10, 'rating'] = -1  # an item that nobody rated
    df.loc[df.index % 3 == 0, 'rating'] = -1
    df.to_parquet(tmp_path / 'r.parquet', index=False, row_group_size=20)
    with pytest.warns(UserWarning, match=r'ratings .* are -1, .*missing_rating=-1'):
        RecDataLoaders.from_parquet(tmp_path / 'r.parquet', stream=True, seed=0, bs=8)
    dls = RecDataLoaders.from_parquet(tmp_path / 'r.parquet', stream=True, missing_rating=-1, seed=0, bs=8)
    memory = RecDataLoaders.from_df(df, missing_rating=-1, seed=0, bs=8)
    assert dls.stream.n == len(memory.catalog.interactions) == int((df.rating != -1).sum())
    assert dls.y_bounds == memory.y_bounds
    assert dls.vocab['item'] == memory.vocab['item']
    assert sum(len(batch[0]) for batch in dls.train) == dls.stream.sizes[0]


# --- advice that can be followed


def test_decimal_commas(tmp_path):
    df = ratings(rating=['4,5', '3,0', '2'] * 30 + ['1,5'] * (len(ratings()) - 90))
    with pytest.raises(ValueError, match=r"comma, as in '4,5'.*decimal=','.*str.replace") as e:
        RecDataLoaders.from_df(df)
    exec(str(e.value).split('`')[1])
    want = Interactions.from_df(df).ratings
    assert want[:3].tolist() == [4.5, 3.0, 2.0]
    path = csv_file(ratings(rating=want).astype(dict(rating=float)), tmp_path / 'r.csv', sep=';', decimal=',')
    assert np.array_equal(RecDataLoaders.from_csv(path, decimal=',').catalog.interactions.ratings, want)


def test_ratings_that_are_partly_words_or_none_at_all():
    df = ratings()
    some = df.assign(rating=df.rating.astype(str).where(df.index > 2, 'good'))
    with pytest.raises(ValueError, match='3 of 90') as e:
        RecDataLoaders.from_df(some)
    scope = dict(df=some, pd=pd)
    for step in str(e.value).split('`')[1::2]:
        exec(step, scope)
    assert len(Interactions.from_df(scope['df'])) == 87
    with pytest.raises(ValueError, match='None of them is a number: is it another column'):
        RecDataLoaders.from_df(df.assign(rating='good'))


@pytest.mark.parametrize('dtype', ['bool', 'boolean', 'bool[pyarrow]', 'object'])
def test_ratings_that_are_true_or_false(dtype):
    df = ratings()
    is_good = df.rating > 3
    assert Interactions.from_df(df.assign(rating=is_good.astype(dtype))).ratings.tolist() == is_good.tolist()


def test_who_has_everything_is_left_out_of_negatives():
    df = ratings()
    everything = pd.DataFrame(dict(user=99, item=range(1, 11), rating=5.0))
    with pytest.warns(UserWarning, match='1 users have all of the 10 items.*10 of 100 rows of train are left out'):
        dls = RecDataLoaders.from_df(pd.concat([df, everything]), target='implicit', n_neg=1, valid_pct=0)
    assert len(dls.train.dataset) == 90
    full = pd.DataFrame([(user, item) for user in range(5) for item in range(6)], columns=['user', 'item'])
    with pytest.raises(ValueError, match='5 users have all of the 6 items: no negatives can be drawn for anybody'):
        RecDataLoaders.from_df(full, target='implicit', n_neg=1, valid_pct=0)


def test_fewer_negatives_as_advised():
    with pytest.raises(ValueError, match=r'n_neg=9 negatives cannot .* Take n_neg=(\d) or less') as e:
        RecDataLoaders.from_df(ratings(), target='implicit', n_neg=9, valid_pct=0)
    n_neg = int(str(e.value).split('Take n_neg=')[1][0])
    assert n_neg >= 1
    RecDataLoaders.from_df(ratings(), target='implicit', n_neg=n_neg, valid_pct=0)


# --- times


def test_times_of_every_kind_are_one(tmp_path):
    df = ratings()
    days = pd.Timestamp('2020-01-01') + pd.to_timedelta(np.arange(len(df)) % 40, unit='D')
    dates = [o.date() for o in days]
    stamps = pd.Series(days).dt.tz_localize('UTC')
    kinds = dict(
        datetimes=pd.Series(days),
        dates=pd.Series(dates, dtype=object),
        date32=pd.Series(dates, dtype=pd.ArrowDtype(pa.date32())),
        zoned=stamps,
        arrow_zoned=stamps.astype(pd.ArrowDtype(pa.timestamp('us', 'UTC'))),
        iso=pd.Series(days.strftime('%Y-%m-%d')),
        iso_zoned=pd.Series(days.strftime('%Y-%m-%dT00:00:00Z')),
    )
    want = days.to_numpy()
    for kind, column in kinds.items():
        table = df.assign(time=column.array)
        times = Interactions.from_df(table, time_name='time').times
        assert (times.astype(want.dtype) == want).all(), kind
        table.to_parquet(tmp_path / 'r.parquet', index=False)
        csv_file(table, tmp_path / 'r.csv')
        for dls in (
            RecDataLoaders.from_parquet(tmp_path / 'r.parquet', splitter=TimeSplitter(0.2)),
            RecDataLoaders.from_csv(tmp_path / 'r.csv', splitter=TimeSplitter(0.2)),
        ):
            assert (dls.catalog.interactions.times.astype(want.dtype) == want).all(), kind


def test_the_way_to_times_can_be_followed():
    df = ratings(time='03/12/2020')
    with pytest.raises(ValueError, match=r"such as '03/12/2020'.*to_datetime") as e:
        Interactions.from_df(df, time_name='time')
    exec(str(e.value).split('`')[1], dict(df=df, pd=pd))
    assert Interactions.from_df(df).times is not None
    df = ratings(time='881250949')
    with pytest.raises(ValueError, match='to_numeric') as e:
        Interactions.from_df(df, time_name='time')
    exec(str(e.value).split('`')[1], dict(df=df, pd=pd))
    assert Interactions.from_df(df).times[0] == 881250949


def test_decimals(tmp_path):
    df = ratings()
    table = pa.table({name: pa.array([Decimal(str(o)) for o in df[name]]) for name in df})
    pq.write_table(table, tmp_path / 'r.parquet')
    want = Interactions.from_df(df).to_df()
    for inter in (
        Interactions.from_df(table.to_pandas()),
        Interactions.from_df(table.to_pandas(types_mapper=pd.ArrowDtype)),
        RecDataLoaders.from_parquet(tmp_path / 'r.parquet').catalog.interactions,
    ):
        assert inter.to_df().equals(want)
    assert RecDataLoaders.from_parquet(tmp_path / 'r.parquet', stream=True, bs=8).vocab['user'].ids.dtype == np.int64


# --- files


def test_open_files(tmp_path):
    path = csv_file(ratings(), tmp_path / 'r.csv')
    want = RecDataLoaders.from_csv(path).catalog.interactions.to_df()
    with open(path) as text, open(path, 'rb') as binary:
        for file in (text, binary, io.StringIO(path.read_text()), io.BytesIO(path.read_bytes())):
            assert RecDataLoaders.from_csv(file).catalog.interactions.to_df().equals(want), file


@pytest.mark.parametrize('sep', [',', '\t', ';', '|', '::'])
@pytest.mark.filterwarnings("ignore:Falling back to the 'python' engine")
def test_the_separator_is_seen(sep, tmp_path):
    text = text_of(ratings()).replace(',', sep)
    assert separator_of(text.splitlines()) == sep
    (tmp_path / 'r.csv').write_text(text)
    with gzip.open(tmp_path / 'r.csv.gz', 'wt') as file:
        file.write(text)
    for name in ('r.csv', 'r.csv.gz'):
        assert len(RecDataLoaders.from_csv(tmp_path / name).catalog.interactions) == 90
    if sep != ',':
        with pytest.raises(ValueError, match='Read it with sep='):
            RecDataLoaders.from_csv(tmp_path / 'r.csv', sep=',')


def test_ids_padded_with_zeros_stay_as_they_are(tmp_path):
    df = ratings()
    path = csv_file(df.assign(user=df.user.astype(str).str.zfill(5)), tmp_path / 'r.csv')
    dls = RecDataLoaders.from_csv(path, bs=8)
    assert dls.vocab['user'].ids[:2].tolist() == ['00001', '00002']
    assert dls.vocab['item'].ids.dtype == np.int64
    encode = dls.vocab['user'].encode
    assert encode(['00002']).tolist() == encode([2]).tolist() == [1], 'a number is the one id that it can be'
    with pytest.raises(KeyError, match='unknown user id'):
        encode([100_001])
    users = pd.DataFrame(dict(user=range(1, 13), age=range(12)))
    assert RecDataLoaders.from_csv(path, user_df=users, bs=8).catalog.user_df.age.tolist() == list(range(12))


def test_texts_and_numbers_are_told_apart():
    df = ratings(user=ratings().user.astype(str))  # '1' ... '12': not padded
    with pytest.raises(KeyError, match=r'convert them with `ids\.astype'):
        Interactions.from_df(df).vocab['user'].encode([1])
    with pytest.raises(ValueError, match='Read both alike'):
        RecDataLoaders.from_df(df, user_df=pd.DataFrame(dict(user=[1, 2], age=[3, 4])), bs=8)


@pytest.mark.parametrize('dtype', [dict(item=str), dict(item='category'), str])
def test_types_of_columns(dtype, tmp_path):
    path = csv_file(ratings(time=881250949), tmp_path / 'r.csv')
    dls = RecDataLoaders.from_csv(path, dtype=dtype, bs=8)
    assert set(map(type, dls.vocab['item'].ids)) == ({int} if dtype == dict(item='category') else {str})
    assert dls.catalog.interactions.ratings[0] == 1 + (7 + 3) % 5
    assert dls.catalog.interactions.times[0] == 881250949


def test_another_encoding_is_named(tmp_path):
    (tmp_path / 'r.csv').write_bytes(text_of(ratings(item='M\u00fcnchen')).encode('latin-1'))
    with pytest.raises(ValueError, match=r"encoding='latin-1'"):
        RecDataLoaders.from_csv(tmp_path / 'r.csv')


def test_folders_of_hive(tmp_path):
    df = ratings()
    pq.write_to_dataset(pa.Table.from_pandas(df, preserve_index=False), tmp_path / 'h', partition_cols=['user'])
    (tmp_path / 'h' / '_temporary').mkdir()
    (tmp_path / 'h' / '_temporary' / 'x.parquet').write_bytes(b'half')
    want = Interactions.from_df(df).to_df()
    for options in ({}, dict(splitter=[np.arange(80), np.arange(80, 90)])):
        got = RecDataLoaders.from_parquet(tmp_path / 'h', **options).catalog.interactions.to_df()
        assert got.sort_values(['user', 'item'], ignore_index=True).equals(want), options
    with pytest.raises(ValueError, match="'user' is in the names of the folders"):
        RecDataLoaders.from_parquet(tmp_path / 'h', stream=True)


def test_files_whose_columns_differ(tmp_path):
    df = ratings()
    first, second = df[df.user < 6], df[df.user >= 6]
    first.to_parquet(tmp_path / 'a.parquet', index=False)
    second.astype(dict(user=str)).to_parquet(tmp_path / 'b.parquet', index=False)
    for options in ({}, dict(stream=True), dict(splitter=[[0, 1], [2]])):
        with pytest.raises(ValueError, match=r"column 'user' is of one type in .*a.parquet \(int64\).*b.parquet"):
            RecDataLoaders.from_parquet(tmp_path, **options)
    second.drop(columns='item').to_parquet(tmp_path / 'b.parquet', index=False)
    for options in ({}, dict(stream=True), dict(splitter=[[0, 1], [2]])):
        with pytest.raises(ValueError, match=r"b\.parquet has no column 'item'"):
            RecDataLoaders.from_parquet(tmp_path, **options)
    second.astype(dict(user='uint8', item='uint64', rating='float32')).to_parquet(tmp_path / 'b.parquet', index=False)
    for options in ({}, dict(stream=True, bs=8), dict(splitter=[np.arange(80), np.arange(80, 90)])):
        vocab = RecDataLoaders.from_parquet(tmp_path, **options).vocab
        assert [vocab[side].ids.tolist() for side in vocab] == [list(range(1, 13)), list(range(1, 11))]


def test_a_stream_without_pyarrow_or_without_its_time_column(tmp_path, monkeypatch):
    ratings().to_parquet(tmp_path / 'r.parquet', index=False)
    with pytest.raises(ValueError, match="no column 'when'"):
        RecDataLoaders.from_parquet(tmp_path / 'r.parquet', stream=True, time_name='when')
    for module in [o for o in sys.modules if o.split('.')[0] == 'pyarrow']:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'fastrec-learn\[parquet\]'"):
        RecDataLoaders.from_parquet(tmp_path / 'r.parquet', stream=True)


# --- tables of other libraries


class ArrowStream:
    """A table that gives Arrow's C stream alone, as those of libraries do that know nothing of pandas."""

    def __init__(self, table):
        self.table = table
        self.columns = table.column_names

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize('as_foreign', [pa.Table.from_pandas, lambda df: ArrowStream(pa.Table.from_pandas(df))])
def test_tables_of_other_libraries(as_foreign):
    items = pd.DataFrame(dict(item=range(1, 11), title=list('abcdefghij')))
    dls = RecDataLoaders.from_df(as_foreign(ratings()), item_df=as_foreign(items), seed=0, bs=8)
    assert dls.catalog.interactions.to_df().equals(Interactions.from_df(ratings()).to_df())
    assert dls.catalog.titles([0]).tolist() == ['a']
    assert len(dls.test_dl(as_foreign(ratings())).dataset) == 90
    learn = collab_learner(dls, n_factors=2)
    new = pd.DataFrame(dict(user=[99], item=[1], rating=[4.0]))
    assert 99 in learn.extend(as_foreign(new)).vocab['user']
    assert len(learn.recommend(1, k=2, seen=as_foreign(ratings()))) == 2


def test_what_is_no_table():
    with pytest.raises(TypeError, match='expected a DataFrame with one row per interaction, got dict'):
        RecDataLoaders.from_df({'user': [1]})

    class DataFrame:
        def collect(self): ...

    with pytest.raises(TypeError, match=r'got .*\.DataFrame\. Compute it first: `.collect\(\)`'):
        RecDataLoaders.from_df(DataFrame())


# --- fastai's splitter by a column


def test_col_splitter(tmp_path):
    df = pd.concat([ratings(), ratings().head(5)], ignore_index=True)
    df['is_valid'] = df.index % 5 == 0
    want = RecDataLoaders.from_df(df, splitter='is_valid', duplicates='last').catalog.split
    for dls in (
        RecDataLoaders.from_df(df, splitter=ColSplitter(), duplicates='last'),
        RecDataLoaders.from_csv(csv_file(df, tmp_path / 'r.csv'), splitter=ColSplitter(), duplicates='last'),
    ):
        assert np.array_equal(dls.catalog.split.valid, want.valid)
        assert np.array_equal(dls.catalog.split.train, want.train)
        assert 'ColSplitter' in dls.split_by


# --- the command line


@pytest.mark.parametrize('suffix', ['.data', '.dat', '.txt', '.csv'])
def test_the_command_line_reads_what_comes(suffix, tmp_path, capsys):
    df = ratings()
    path = csv_file(df.assign(rating=df.rating.astype(str).str.replace('.', ',')), tmp_path / f'r{suffix}', sep=';')
    train = ['train', str(path), '-o', str(tmp_path / 'out'), '--model', 'biases']
    assert main(train) == 1
    assert '--decimal ,' in capsys.readouterr().err
    assert main([*train, '--decimal', ',']) == 0
    assert '90 rows, 12 users, 10 items' in capsys.readouterr().out


def test_the_command_line_without_a_header(tmp_path, capsys):
    path = csv_file(ratings(), tmp_path / 'u.data', header=False, sep='\t')
    train = ['train', str(path), '-o', str(tmp_path / 'out'), '--model', 'biases']
    assert main(train) == 1
    assert '--columns user,item,rating' in capsys.readouterr().err
    assert main([*train, '--columns', 'user,item,rating', '--missing-rating', '1']) == 0
    n = int((ratings().rating != 1).sum())
    assert f'{n} rows, 12 users' in capsys.readouterr().out
    users = tmp_path / 'users.txt'
    users.write_text('1\n2\n')
    recommend = ['recommend', str(tmp_path / 'out'), str(users), '-o', '-', '--include-seen']
    assert main(recommend) == 1
    assert 'Its first user would be lost' in capsys.readouterr().err


def test_metadata_by_ids_of_another_width():
    dls = RecDataLoaders.from_df(ratings().astype(dict(item='uint8')), bs=8)
    catalog = Catalog(dls.catalog.history, pd.DataFrame(dict(item=[258, 2], title=['wrong', 'right'])))
    assert catalog.titles([1]).tolist() == ['right']


def test_dates_are_no_numbers():
    assert isinstance(Interactions.from_df(ratings(date=datetime.date(2020, 1, 1))).times[0], np.datetime64)
