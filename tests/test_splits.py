"""Splitters against naive references, every way to say a split, and its summary."""

import itertools

import numpy as np
import pandas as pd
import pytest
from fastai.data.transforms import IndexSplitter, RandomSplitter
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, KFold, RepeatedKFold, ShuffleSplit, StratifiedKFold

from fastrec.data.interactions import Interactions
from fastrec.data.splits import (
    FoldMaker,
    KFoldSplitter,
    LeaveLastSplitter,
    Split,
    TimeSplitter,
    describe_splitter,
    folds_of,
    make_split,
    split_summary,
)

quick = settings(max_examples=80, deadline=None)


def inter_of(users, times=None):
    """Interactions of `users`, each row with an item of its own."""
    n = len(users)
    df = pd.DataFrame(dict(user=users, item=range(n), rating=np.arange(n) % 5 + 1.0))
    return Interactions.from_df(df if times is None else df.assign(time=times))


def lists(split):
    return [None if o is None else o.tolist() for o in split]


def assert_partition(split, n):
    """Parts are apart, complete, sorted int64."""
    parts = [o for o in split if o is not None]
    assert sorted(np.concatenate(parts)) == list(range(n))
    for o in parts:
        assert o.dtype == np.int64
        assert (np.diff(o) > 0).all()


@st.composite
def timed(draw, max_time=8):
    """(users, times) with ties, at least two users."""
    n = draw(st.integers(4, 30))
    users = draw(st.lists(st.integers(0, 5), min_size=n, max_size=n).filter(lambda o: len(set(o)) > 1))
    return users, draw(st.lists(st.integers(0, max_time), min_size=n, max_size=n))


# --- TimeSplitter


def cut_slowly(times, n_after):
    """The latest rows, at most `n_after`, that do not tear rows of one time apart."""
    latest = sorted(range(len(times)), key=lambda i: -times[i])
    while n_after and n_after < len(times) and times[latest[n_after - 1]] == times[latest[n_after]]:
        n_after -= 1
    return set(latest[:n_after])


@quick
@given(timed(), st.sampled_from([0.1, 0.2, 0.25, 0.5]), st.sampled_from([0.0, 0.1, 0.25]))
def test_time_splitter_against_a_slow_one(data, valid_pct, test_pct):
    users, times = data
    n = len(users)
    split = TimeSplitter(valid_pct, test_pct)(inter_of(users, times))
    after = cut_slowly(times, n - round(n * (1 - (valid_pct + test_pct))))
    test = cut_slowly(times, n - round(n * (1 - test_pct))) if test_pct else set()
    assert_partition(split, n)
    assert set(split.valid) == after - test
    assert set(split.train) == set(range(n)) - after
    assert (split.test is None) if not test_pct else (set(split.test) == test)


@quick
@given(timed(), st.sampled_from([0.1, 0.3]), st.sampled_from([0.0, 0.2]))
def test_every_later_part_is_later(data, valid_pct, test_pct):
    users, times = data
    split = TimeSplitter(valid_pct, test_pct)(inter_of(users, times))
    times = np.array(times)
    parts = [times[o] for o in split if o is not None and len(o)]
    for a, b in itertools.pairwise(parts):
        assert a.max() < b.min()


def test_time_splitter_shares():
    split = TimeSplitter(0.2, 0.1)(inter_of([0, 1] * 10, np.arange(20)[::-1]))
    assert [len(o) for o in split] == [14, 4, 2]
    assert split.test.tolist() == [0, 1]
    assert split.valid.tolist() == [2, 3, 4, 5]


def test_time_splitter_on_datetimes():
    times = pd.to_datetime(['2021-01-01', '2020-01-01', '2020-06-01', '2022-01-01'])
    assert lists(TimeSplitter(0.5)(inter_of([0, 1, 0, 1], times))) == [[1, 2], [0, 3], None]


def test_time_splitter_does_not_depend_on_the_order_of_rows():
    users = np.arange(30) % 4
    times = np.random.default_rng(0).permutation(30)
    order = np.random.default_rng(1).permutation(30)
    a = TimeSplitter(0.2)(inter_of(users, times))
    b = TimeSplitter(0.2)(inter_of(users[order], times[order]))
    assert set(a.valid) == set(order[b.valid])


def user_shares_slowly(users, times, share):
    """How many rows of each user are held out, and that none of them is older than one that stays."""
    return {u: min(int(users.count(u) * share + 0.5), users.count(u) - 1) for u in set(users)}


@quick
@given(timed(), st.sampled_from([0.1, 0.2, 0.5]), st.sampled_from([0.0, 0.25]))
def test_the_last_share_of_each_user(data, valid_pct, test_pct):
    users, times = data
    splitter = TimeSplitter(valid_pct, test_pct, by='user')
    split = splitter(inter_of(users, times))
    assert_partition(split, len(users))
    parts = [list(part) for part in split if part is not None]
    held_out = [row for part in parts[1:] for row in part]
    for user, n in user_shares_slowly(users, times, valid_pct + test_pct).items():
        assert sum(users[row] == user for row in held_out) == n
        for earlier, later in itertools.pairwise(parts):
            of_earlier, of_later = ([times[row] for row in part if users[row] == user] for part in (earlier, later))
            if of_earlier and of_later:
                assert max(of_earlier) <= min(of_later)
    assert (split.test is None) == (test_pct == 0)
    again = TimeSplitter(valid_pct, test_pct, by='user')(inter_of(users, times))
    assert lists(again) == lists(split)


def test_shares_of_users_by_hand():
    users = [0] * 10 + [1] * 3 + [2] * 2 + [3]
    split = TimeSplitter(0.2, by='user')(inter_of(users, np.arange(16)))
    assert split.valid.tolist() == [8, 9, 12]  # 2 of 10, 1 of 3 (0.6), none of 2 (0.4) and of 1
    with pytest.warns(UserWarning, match="each user's own last rows"):
        splitter = TimeSplitter(0.5, by='user', seed=1)
        splitter(inter_of([0] * 4 + [1] * 4, [1, 1, 1, 1, 1, 1, 2, 2]))
    assert splitter.n_ties == 1
    assert describe_splitter(splitter) == "TimeSplitter(valid_pct=0.5, test_pct=0.0, by='user', seed=1)"


@pytest.mark.parametrize('unit', ['datetime', 's', 'ms', 'us', 'ns', 'zone'])
def test_dates(unit):
    days = pd.Series(pd.date_range('1998-02-26', periods=6))  # to 3 March
    times = {'datetime': days, 'zone': days.dt.tz_localize('UTC')}.get(unit)
    if times is None:
        times = (days - pd.Timestamp(0)) // pd.Timedelta(1, unit)
    inter = Interactions.from_df(
        pd.DataFrame(dict(user=[0, 1] * 3, item=range(6), rating=[1, 2, 3] * 2, time=times)), time_name='time'
    )
    assert lists(TimeSplitter('1998-03-01')(inter)) == [[0, 1, 2], [3, 4, 5], None]
    assert lists(TimeSplitter(days[2], days[5])(inter)) == [[0, 1], [2, 3, 4], [5]]
    assert lists(TimeSplitter(days[2].date())(inter)) == [[0, 1], [2, 3, 4, 5], None]
    assert lists(TimeSplitter('1998-03-01T01:00+01:00')(inter)) == [[0, 1, 2], [3, 4, 5], None]
    with pytest.raises(ValueError, match=r'cuts nothing off: the times run from 1998-02-26 .* to 1998-03-03'):
        TimeSplitter('2005')(inter)
    assert describe_splitter(TimeSplitter('1998-03-01')) == (
        "TimeSplitter(valid_pct='1998-03-01', test_pct=0.0, by=None, seed=0)"
    )


@pytest.mark.parametrize(
    ('args', 'why'),
    [
        (('soon',), 'not a date'),
        (('1998-03-01', 0.1), 'two shares, or two dates'),
        ((0.1, '1998-03-01'), 'two shares, or two dates'),
        (('1998-03-01', '1998-02-01'), 'has to be after'),
        (('1998-03-01', 0.0, 'user'), "by='user' goes with shares"),
        ((0.2, 0.0, 'item'), "by='item': 'user'"),
    ],
)
def test_what_is_not_a_split_in_time(args, why):
    with pytest.raises(ValueError, match=why):
        TimeSplitter(*args)


def test_rows_of_one_time_only_cannot_be_cut():
    with pytest.raises(ValueError, match='the valid part of the split is empty'):
        make_split(inter_of([0, 1, 0, 1], [3] * 4), TimeSplitter(0.5))


@pytest.mark.parametrize('splitter', [TimeSplitter(), LeaveLastSplitter()])
def test_splitting_by_time_needs_times(splitter):
    with pytest.raises(ValueError, match=f'{type(splitter).__name__} needs times: pass time_name='):
        splitter(inter_of([0, 1]))


@pytest.mark.parametrize('valid_pct, test_pct', [(0, 0), (1, 0), (0.5, 0.5), (0.2, -0.1)])
def test_impossible_shares(valid_pct, test_pct):
    with pytest.raises(ValueError, match='shares above 0 that leave something to train on'):
        TimeSplitter(valid_pct, test_pct)


# --- LeaveLastSplitter


@quick
@given(timed(), st.integers(1, 3), st.integers(0, 2), st.integers(0, 3))
def test_leave_last_against_a_slow_one(data, n, n_test, seed):
    users = np.array(data[0])
    times = np.array(data[1])
    splitter = LeaveLastSplitter(n, n_test, seed)
    split = splitter(inter_of(users, times))
    assert_partition(split, len(users))
    assert (split.test is None) == (n_test == 0)
    part = np.zeros(len(users), int)
    part[split.valid] = 1
    if n_test:
        part[split.test] = 2
    ties = 0
    for u in set(users):
        mine = users == u
        count = mine.sum()
        test = min(n_test, count - 1)
        valid = min(n + n_test, count - 1) - test
        assert np.bincount(part[mine], minlength=3).tolist() == [count - valid - test, valid, test]
        t = times[mine]
        p = part[mine]
        for a in (0, 1):
            if (p > a).any() and (p == a).any():
                assert t[p == a].max() <= t[p > a].min()
        ties += any(t[i] == t[j] and p[i] != p[j] for i in range(count) for j in range(i))
    assert splitter.n_ties == ties


def test_the_last_rows_are_left_out():
    users = [0, 0, 0, 0, 1, 1, 1]
    times = [4, 1, 3, 2, 9, 7, 8]
    assert lists(LeaveLastSplitter(1)(inter_of(users, times))) == [[1, 2, 3, 5, 6], [0, 4], None]
    assert lists(LeaveLastSplitter(1, n_test=1)(inter_of(users, times))) == [[1, 3, 5], [2, 6], [0, 4]]


def test_a_user_with_one_row_stays_in_train():
    split = LeaveLastSplitter(1, n_test=1)(inter_of([0, 1, 1, 2, 2, 2], [5, 1, 2, 1, 2, 3]))
    assert lists(split) == [[0, 1, 3], [4], [2, 5]]


def test_ties_are_broken_by_the_seed_and_counted():
    users = np.repeat(np.arange(40), 5)
    times = np.tile([1, 2, 2, 2, 2], 40)
    inter = inter_of(users, times)
    a = LeaveLastSplitter(1, seed=3)
    b = LeaveLastSplitter(1, seed=3)
    other = LeaveLastSplitter(1, seed=4)
    valid = a(inter).valid
    assert valid.tolist() == b(inter).valid.tolist() != other(inter).valid.tolist()
    assert a.n_ties == 40
    assert set(valid % 5) == {1, 2, 3, 4}  # not always the first or the last of those that tie


def test_no_ties_are_counted_where_the_boundary_has_none():
    splitter = LeaveLastSplitter(1)
    splitter(inter_of([0, 0, 0, 1, 1], [1, 1, 2, 1, 2]))
    assert splitter.n_ties == 0
    splitter(inter_of([0, 0, 0, 1, 1], [1, 2, 2, 1, 2]))
    assert splitter.n_ties == 1
    splitter(inter_of([0, 0, 0, 1, 1], [1, 1, 2, 1, 2]))
    assert splitter.n_ties == 0


@pytest.mark.parametrize('n, n_test', [(0, 0), (1, -1)])
def test_leaving_nothing_out(n, n_test):
    with pytest.raises(ValueError, match='hold out at least one row per user'):
        LeaveLastSplitter(n, n_test)


# --- KFoldSplitter


@quick
@given(st.integers(2, 7), st.integers(7, 40), st.integers(0, 5))
def test_folds_partition_the_rows(n_folds, n, seed):
    inter = inter_of(np.arange(n) % 3)
    folds = [fold(inter) for fold in KFoldSplitter(n_folds, seed)]
    assert len(folds) == n_folds == len(KFoldSplitter(n_folds))
    for fold in folds:
        assert_partition(fold, n)
    assert sorted(np.concatenate([o.valid for o in folds])) == list(range(n))
    sizes = [len(o.valid) for o in folds]
    assert max(sizes) - min(sizes) <= 1


def test_folds_depend_on_the_seed_and_are_random():
    inter = inter_of(np.arange(100) % 3)

    def valid(**k):
        return KFoldSplitter(5, **k)[1](inter).valid.tolist()

    assert valid(seed=1) == valid(seed=1) != valid(seed=2)
    assert valid() not in [list(range(i, i + 20)) for i in range(0, 100, 20)]


def test_a_splitter_of_folds_is_its_first_fold():
    inter = inter_of([0, 1] * 5)
    assert lists(KFoldSplitter(5)(inter)) == lists(KFoldSplitter(5)[0](inter)) != lists(KFoldSplitter(5)[1](inter))


def test_impossible_folds():
    with pytest.raises(ValueError, match='n_folds=1, fold=0: at least two folds'):
        KFoldSplitter(1)
    with pytest.raises(ValueError, match=r'n_folds=3, fold=3: .*0 <= fold < n_folds'):
        KFoldSplitter(3, fold=3)
    with pytest.raises(IndexError):
        KFoldSplitter(3)[3]
    with pytest.raises(ValueError, match='4 rows cannot be split into 5 folds'):
        KFoldSplitter(5)(inter_of([0, 1] * 2))


# --- make_split

TEN = pd.DataFrame(dict(user=[0, 1] * 5, item=range(10), rating=[1.0, 2.0, 3.0, 4.0, 5.0] * 2))
# rows 0, 2 and 3 are one pair; 1 and 5 another: 'last' keeps 1->5 and 0->3, so positions in the table are
# [3, 4, 5, 6, 7]
REPEATED = pd.DataFrame(
    dict(user=[0, 1, 0, 0, 1, 1, 0, 1], item=[0, 0, 0, 0, 1, 0, 2, 2], rating=[1.0, 2, 3, 4, 5, 4, 3, 2])
)


@quick
@given(st.integers(5, 60), st.floats(0.1, 0.9), st.integers(0, 100))
def test_fastai_random_splitter(n, valid_pct, seed):
    assume(1 <= int(valid_pct * n) < n)
    inter = inter_of(np.arange(n) % 3)
    split = make_split(inter, RandomSplitter(valid_pct, seed=seed))
    assert sorted(np.concatenate(split[:2])) == list(range(n))
    assert split.test is None
    assert len(split.valid) == int(valid_pct * n)
    assert split.train.dtype == split.valid.dtype == np.int64
    assert split.valid.tolist() == list(RandomSplitter(valid_pct, seed=seed)(range(n))[1])


def test_fastai_index_splitter():
    split = make_split(Interactions.from_df(TEN), IndexSplitter([2, 7]))
    assert lists(split) == [[0, 1, 3, 4, 5, 6, 8, 9], [2, 7], None]


def test_our_splitters_through_make_split():
    inter = Interactions.from_df(TEN.assign(time=range(10)))
    assert lists(make_split(inter, TimeSplitter(0.2, 0.1))) == [[0, 1, 2, 3, 4, 5, 6], [7, 8], [9]]
    assert lists(make_split(inter, LeaveLastSplitter(1))) == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9], None]
    assert isinstance(make_split(inter, KFoldSplitter(5)), Split)


@pytest.mark.parametrize('dtype', [bool, 'boolean'])
def test_a_column_of_booleans(dtype):
    df = TEN.assign(held=pd.Series([0, 0, 1, 0, 0, 0, 0, 1, 0, 0]).astype(dtype))
    df.index = range(50, 40, -1)
    assert lists(make_split(Interactions.from_df(df), 'held', df)) == [[0, 1, 3, 4, 5, 6, 8, 9], [2, 7], None]


@pytest.mark.parametrize('dtype', [object, 'category', 'string'])
def test_a_column_of_words(dtype):
    words = pd.Series(['train', 'valid', 'test', 'train', 'train'] * 2).astype(dtype)
    df = TEN.assign(part=words)
    assert lists(make_split(Interactions.from_df(df), 'part', df)) == [[0, 3, 4, 5, 8, 9], [1, 6], [2, 7]]
    df = df.assign(part=words.astype(object).replace('test', 'train'))
    assert lists(make_split(Interactions.from_df(df), 'part', df)) == [[0, 2, 3, 4, 5, 7, 8, 9], [1, 6], None]


@pytest.mark.parametrize(
    'as_',
    [list, np.array, pd.Index, pd.Series, lambda o: np.array(o, dtype=np.int32)],
    ids=['list', 'array', 'Index', 'Series', 'int32'],
)
def test_index_arrays(as_):
    inter = Interactions.from_df(TEN)
    assert lists(make_split(inter, (as_([5, 1]), as_([3])))) == [[5, 1], [3], None]
    assert lists(make_split(inter, [as_([0, 1]), as_([3]), as_([7, 8])])) == [[0, 1], [3], [7, 8]]
    assert lists(make_split(inter, (as_([0, 1]), as_([3]), None))) == [[0, 1], [3], None]


def test_index_arrays_speak_of_the_table_after_repeated_pairs_were_merged():
    inter = Interactions.from_df(REPEATED, duplicates='last')
    assert inter.rows.tolist() == [3, 4, 5, 6, 7]
    split = make_split(inter, ([0, 2, 3, 4, 1], [5, 6], [7]), REPEATED)
    assert lists(split) == [[0, 1], [2, 3], [4]]
    assert lists(make_split(inter, ([0, 2, 3, 4, 1], [5, 6], [7]))) == lists(split)  # the table itself is not needed


@quick
@given(st.data())
def test_index_arrays_after_merging_against_a_slow_one(data):
    n = data.draw(st.integers(6, 20))
    codes = st.lists(st.integers(0, 2), min_size=n, max_size=n)
    df = pd.DataFrame(dict(user=data.draw(codes), item=data.draw(codes), rating=np.arange(n, dtype=float)))
    assume(df.user.nunique() > 1 and df.item.nunique() > 1)
    part = np.array(data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    last = ~df.duplicated(['user', 'item'], keep='last').to_numpy()
    assume(set(part[last]) == {0, 1})
    inter = Interactions.from_df(df, duplicates='last')
    split = make_split(inter, (np.flatnonzero(part == 0), np.flatnonzero(part == 1)), df)
    for p in (0, 1):
        assert sorted(inter.ratings[split[p]]) == [r for r, q, keep in zip(df.rating, part, last) if keep and q == p]


def test_a_column_after_repeated_pairs_were_merged():
    df = REPEATED.assign(held=[True, True, True, False, False, True, False, True])
    inter = Interactions.from_df(df, duplicates='last')
    assert lists(make_split(inter, 'held', df)) == [[0, 1, 3], [2, 4], None]


INTERS = pytest.mark.parametrize(
    'inter',
    [Interactions.from_df(TEN), Interactions.from_df(pd.concat([TEN, TEN[:1]]), duplicates='first')],
    ids=['plain', 'merged'],
)


@INTERS
@pytest.mark.parametrize('valid', [[3, 50], [-1, 3]])
def test_index_arrays_out_of_range(inter, valid):
    with pytest.raises(ValueError, match='the valid part of the split points outside'):
        make_split(inter, ([0, 1], valid))


@INTERS
def test_index_arrays_that_overlap(inter):
    with pytest.raises(ValueError, match=r'2 rows are in more than one part of the split.*each row may be used once'):
        make_split(inter, ([0, 1, 2], [2, 1, 3]))
    with pytest.raises(ValueError, match='1 rows are in more than one part of the split'):
        make_split(inter, ([0, 1], [2], [0]))
    with pytest.raises(ValueError, match=r'1 rows are in more than one part .*twice in one'):
        make_split(inter, ([0, 1, 1], [2]))


@INTERS
@pytest.mark.parametrize('name, arrays', [('train', ([], [1])), ('valid', ([1], [])), ('test', ([1], [2], []))])
def test_an_empty_part(inter, name, arrays):
    with pytest.raises(ValueError, match=f'the {name} part of the split is empty'):
        make_split(inter, arrays)


def test_a_number_of_arrays_that_is_no_split():
    with pytest.raises(ValueError, match=r'two or three index arrays \(train, valid\[, test\]\), got 1'):
        make_split(Interactions.from_df(TEN), ([1, 2],))
    with pytest.raises(ValueError, match=r'two or three index arrays .* got 4'):
        make_split(Interactions.from_df(TEN), ([1], [2], [3], [4]))


def test_a_column_that_is_not_there():
    with pytest.raises(ValueError, match="no column 'held' to split by"):
        make_split(Interactions.from_df(TEN), 'held', TEN)
    with pytest.raises(ValueError, match="no column 'rating' to split by"):
        make_split(Interactions.from_df(TEN), 'rating')


def test_a_column_of_other_words():
    df = TEN.assign(part=['training', 'valid', 'dev', 'train', 'train'] * 2)
    with pytest.raises(
        ValueError,
        match=r"column 'part' that says the split holds \['dev', 'training'\]: use booleans \(True for "
        r"valid\) or the words 'train', 'valid', 'test'",
    ):
        make_split(Interactions.from_df(df), 'part', df)


def test_a_column_of_zeros_and_ones_is_refused():
    df = TEN.assign(part=[0, 1] * 5)
    with pytest.raises(ValueError, match=r"holds \['0', '1'\]: use booleans"):
        make_split(Interactions.from_df(df), 'part', df)


def test_a_column_with_missing_values():
    df = TEN.assign(part=['train', 'valid', None, 'train', 'train'] * 2)
    with pytest.raises(ValueError, match="column 'part' that says the split has missing values"):
        make_split(Interactions.from_df(df), 'part', df)


def test_a_column_without_a_part():
    df = TEN.assign(part=['train'] * 10)
    with pytest.raises(ValueError, match='the valid part of the split is empty'):
        make_split(Interactions.from_df(df), 'part', df)


# --- split_summary


def test_summary_worked_by_hand():
    # users a: 4 rows, b: 3, c: 1; items 1: 3 rows, 2: 2, 3: 2, 4: 1
    df = pd.DataFrame(
        [
            ('a', 1, 1.0),
            ('a', 2, 2.0),
            ('a', 3, 3.0),
            ('b', 1, 4.0),
            ('b', 2, 5.0),
            ('a', 4, 3.0),
            ('c', 1, 3.0),
            ('b', 3, 3.0),
        ],
        columns=['user', 'item', 'rating'],
    )
    # train: a has 3 rows, b 1, c none; items 1: 2 rows, 2: 1, 3: 1, 4: none
    # valid: (b, 2) warm, (a, 4) cold item, (c, 1) cold user; test: (b, 3) warm
    inter = Interactions.from_df(df)
    text = split_summary(inter, make_split(inter, ([0, 1, 2, 3], [4, 5, 6], [7])))
    assert text.splitlines() == [
        '8 rows, 3 users, 4 items, density 66.667%, ratings 1 to 5 (mean 3.00)',
        'training rows per user: min 1, quartiles 2 / 2 / 2, max 3; without any: 1',
        'training rows per item: min 1, quartiles 1 / 1 / 2, max 2; without any: 1',
        'train: 4 rows, 2 users, 3 items',
        'valid: 3 rows, 3 users, 3 items; cold (no training row): 1 users, 1 items, in 2 rows (66.7%)',
        'test: 1 rows, 1 users, 1 items; cold (no training row): 0 users, 0 items, in 0 rows (0.0%)',
    ]


def test_summary_without_ratings_and_test():
    inter = Interactions.from_df(TEN[['user', 'item']])
    lines = split_summary(inter, make_split(inter, (range(8), [8, 9]))).splitlines()
    assert lines[0] == '10 rows, 2 users, 10 items, density 50.000%'
    assert [o.split(':')[0] for o in lines[1:]] == [
        'training rows per user',
        'training rows per item',
        'train',
        'valid',
    ]
    assert lines[-1].endswith('cold (no training row): 0 users, 2 items, in 2 rows (100.0%)')


def test_a_row_cold_on_both_sides_counts_once():
    inter = Interactions.from_df(pd.DataFrame(dict(user=[1, 1, 2, 3], item=[1, 2, 1, 3])))
    assert split_summary(inter, make_split(inter, ([0, 1, 2], [3]))).endswith('1 users, 1 items, in 1 rows (100.0%)')


def test_boolean_masks_are_index_arrays():
    inter = Interactions.from_df(pd.DataFrame(dict(user=[1, 1, 2, 2], item=[1, 2, 1, 2], rating=[1.0, 2.0, 3.0, 4.0])))
    valid = np.array([False, True, False, True])
    split = make_split(inter, (~valid, valid))
    assert split.train.tolist() == [0, 2]
    assert split.valid.tolist() == [1, 3]


def test_a_split_is_not_mapped_twice_when_repeated_pairs_were_merged():
    """Positions of merged rows are not positions in the table: read as those, rows got lost and changed parts."""
    from fastrec.all import RecDataLoaders

    df = pd.DataFrame(
        [
            ('a', 1, 1),
            ('a', 1, 2),
            ('a', 2, 3),
            ('a', 3, 4),
            ('b', 1, 1),
            ('b', 2, 2),
            ('b', 2, 5),
            ('b', 4, 3),
            ('c', 3, 1),
            ('c', 4, 2),
        ],
        columns=['user', 'item', 'time'],
    )
    dls = RecDataLoaders.from_df(df, target='implicit', splitter=LeaveLastSplitter(1), n_neg=1)
    inter = dls.catalog.interactions
    split = dls.catalog.split
    held = inter.to_df(split.valid)
    assert sorted(zip(held.user, held.item)) == [('a', 3), ('b', 2), ('c', 4)]
    assert len(split.train) + len(split.valid) == len(inter) == 8
    again = RecDataLoaders.from_interactions(inter, split, n_neg=1)
    assert [o.tolist() for o in again.catalog.split[:2]] == [o.tolist() for o in split[:2]]


# --- scikit-learn


def test_a_maker_of_folds_is_no_split():
    inter = inter_of(range(12))
    maker = KFold(3)
    with pytest.raises(TypeError, match=r'several folds.*cross_validate\(df, fit, KFold.*splitter=next\(KFold') as e:
        make_split(inter, maker)
    assert 'n_splits=3' in str(e.value)
    first = make_split(inter, next(maker.split(np.zeros(len(inter)))))  # what the message says
    assert lists(first) == lists([*next(maker.split(np.zeros(len(inter)))), None])


def test_folds_of_scikit_learn_are_its_arrays():
    rows = np.zeros((20, 1))
    for maker in (KFold(4), KFold(3, shuffle=True, random_state=1), ShuffleSplit(2, random_state=0), RepeatedKFold()):
        if maker.get_n_splits() > 4:  # random at each call
            assert len(folds_of(maker, 20)) == 50
            continue
        assert [lists(o) for o in folds_of(maker, 20)] == [lists(o) for o in maker.split(rows)]
    assert not isinstance('text', FoldMaker)  # texts have a split, too
    assert not isinstance(KFoldSplitter(5), FoldMaker)


@pytest.mark.parametrize('maker', [GroupKFold(2), StratifiedKFold(2)])
def test_folds_that_need_groups_or_classes_are_made_outside(maker):
    with pytest.raises(ValueError, match=f"Make them yourself.*{type(maker).__name__}.*groups=df\\['user'\\]"):
        folds_of(maker, 20)
