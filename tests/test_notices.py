"""Warnings point at the line of whoever called, through however many functions of the library they come."""

import ast
import inspect
import threading
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from trained import as_trained

import fastrec
from fastrec.all import (
    EASE,
    Blend,
    ItemFeatures,
    LeaveLastSplitter,
    Popularity,
    RecDataLoaders,
    collab_learner,
    save_recommender,
    synthetic_ratings,
)
from fastrec.notices import warn_user

ROOT = Path(fastrec.__file__).parent
OPTIONS = dict(valid_pct=0.2, seed=0, bs=16)


@pytest.fixture(scope='module')
def table():
    """(ratings, items): 60 users, 40 items."""
    ratings, items, _ = synthetic_ratings(n_users=60, n_items=40, n_factors=2, density=0.4, seed=1)
    return ratings, items


@pytest.fixture(scope='module')
def learn(table):
    learn = collab_learner(RecDataLoaders.from_df(table[0], **OPTIONS), n_factors=2)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    return learn


@pytest.fixture(scope='module')
def unseen(table):
    """(learner, user): the user has rows in the table, but none of them in the training part."""
    user = table[0].user.iloc[0]
    rows = np.flatnonzero(table[0].user == user)
    split = np.setdiff1d(np.arange(len(table[0])), rows), rows
    dls = RecDataLoaders.from_df(table[0], splitter=lambda inter: split, bs=16)
    return as_trained(collab_learner(dls, n_factors=2)), user


def lines_of(call):
    """(file, line, text) of each warning of `call`, and the lines that `call` itself stands on."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        call()
    source, first = inspect.getsourcelines(call)
    return [(o.filename, o.lineno, str(o.message)) for o in caught], range(first, first + len(source))


def assert_points_at(call, text):
    """The warning with that text is at a line of `call`, and nowhere else."""
    told, lines = lines_of(call)
    told = [o for o in told if text in o[2]]
    assert told, f'no warning with {text!r}'
    for file, line, _ in told:
        assert Path(file) == Path(__file__)
        assert line in lines


def test_loaders_from_a_table(table):
    ratings, items = table

    def missing_metadata():
        RecDataLoaders.from_df(ratings, item_df=items.iloc[:-3], **OPTIONS)

    def few_steps():
        RecDataLoaders.from_df(ratings, valid_pct=0.2, seed=0, bs=4096)

    def later_rows():
        dated = ratings.assign(time=range(len(ratings)))
        RecDataLoaders.from_df(dated, splitter=LeaveLastSplitter(1), bs=16)

    def tail():
        counts = pd.DataFrame(dict(user=range(200), item=np.arange(200) % 40, rating=[10_000.0] + [1.0] * 199))
        RecDataLoaders.from_df(counts, target='implicit', weighted=True, **OPTIONS)

    assert_points_at(missing_metadata, 'have no row in item_df')
    assert_points_at(few_steps, 'steps an epoch')
    assert_points_at(later_rows, 'what others did later')
    assert_points_at(tail, 'of the weight')


def test_loaders_from_files(table, tmp_path):
    ratings, items = table
    ratings.to_csv(tmp_path / 'ratings.csv', index=False)
    pytest.importorskip('pyarrow')
    ratings.to_parquet(tmp_path / 'ratings.parquet')

    def csv():
        RecDataLoaders.from_csv(tmp_path / 'ratings.csv', item_df=items.iloc[:-3], **OPTIONS)

    def parquet():
        RecDataLoaders.from_parquet(tmp_path / 'ratings.parquet', item_df=items.iloc[:-3], **OPTIONS)

    def stream():
        RecDataLoaders.from_parquet(tmp_path / 'ratings.parquet', item_df=items.iloc[:-3], stream=True)

    for call in (csv, parquet, stream):
        assert_points_at(call, 'have no row in item_df')


def test_features(table):
    _, items = table

    def gaps():
        holes = items.assign(year=items.year.where(items.index > 2))
        ItemFeatures.from_df(holes, numeric='year')

    def unknown_ids():
        ItemFeatures.from_df(items, numeric='year').align([*items.item[:2], 'nobody'])

    def outcome():
        ItemFeatures.from_df(items.assign(imdbRating=range(len(items))), numeric='imdbRating')

    assert_points_at(gaps, 'without a value')
    assert_points_at(unknown_ids, 'have no row in the features')
    assert_points_at(outcome, 'like an outcome')


def test_verbs_of_learners(table, unseen):
    cold, user = unseen
    item = table[0].item.iloc[0]

    def predict():
        cold.predict(user, item)

    def test_dl():
        cold.dls.test_dl(pd.DataFrame(dict(user=[user], item=[item])))

    assert_points_at(predict, 'has no training row')
    assert_points_at(test_dl, 'without training rows')


def test_extending_and_loading_vectors(table, learn):
    held_out = table[0].iloc[learn.dls.catalog.split.valid[:1]]
    known = table[0].iloc[:1].assign(item=table[0].item[table[0].user != table[0].user.iloc[0]].iloc[0])
    few = table[0][table[0].item.isin(table[0].item.unique()[:10])]
    other = collab_learner(RecDataLoaders.from_df(few, **OPTIONS), n_factors=2)

    def extend():
        learn.extend(pd.concat([held_out, known.assign(user='somebody')]))

    def load_vectors():
        learn.load_vectors(other)

    assert_points_at(extend, 'held out')
    assert_points_at(load_vectors, 'have a vector in the other model')


def test_saving(table, tmp_path):
    dls = RecDataLoaders.from_df(table[0], target='implicit', n_neg=None, valid_pct=0.2, seed=0)
    ease = EASE().fit(dls)
    blend = Blend({'ease': ease, 'popularity': Popularity().fit(dls)}, dict(ease=1.0, popularity=0.5))

    def save():
        save_recommender(blend, tmp_path / 'blend')

    assert_points_at(save, 'does not travel')


def test_diverged_training_points_at_the_fit(table):
    learn = collab_learner(RecDataLoaders.from_df(table[0], **OPTIONS), n_factors=2)

    def fit():
        with learn.no_bar(), learn.no_logging():
            learn.fit(1, 1e30)

    assert_points_at(fit, 'not a number')


def test_through_pandas_and_in_threads():
    ours = dict(warn_user=warn_user, __name__='fastrec.somewhere')
    exec('def notice(df): warn_user("said once")', ours)

    def through_pandas():
        pd.DataFrame(dict(a=[1])).pipe(ours['notice'])

    assert_points_at(through_pandas, 'said once')

    def in_a_thread():
        thread = threading.Thread(target=warn_user, args=('from a thread',))
        thread.start()
        thread.join()

    told, _ = lines_of(in_a_thread)
    assert [text for _, _, text in told] == ['from a thread']


def test_the_same_text_at_the_same_line_is_shown_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('default')
        for _ in range(3):
            warn_user('again and again')
        warn_user('again and again')
    assert len(caught) == 2


def test_no_level_is_counted_by_hand():
    for path in ROOT.rglob('*.py'):
        if path == ROOT / 'notices.py':
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, 'id', '')
                assert name not in ('warn', 'warn_explicit'), f'{path.relative_to(ROOT)}, line {node.lineno}: warn_user'
