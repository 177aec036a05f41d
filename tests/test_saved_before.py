"""Folders that version 0.1 saved load, and answer as they did: tests/saved has seven, with what they predicted.

Their classes have the names that they had then; what was renamed since must still be found by its old name."""

import json
import math
from pathlib import Path

import pytest

from fastrec.scorers.artifact import load_recommender, save_recommender

SAVED = Path(__file__).parent / 'saved'
FOLDERS = sorted(path.name for path in SAVED.iterdir())


@pytest.fixture(params=FOLDERS)
def folder(request):
    return SAVED / request.param


@pytest.fixture()
def expected(folder):
    return json.loads((folder / 'expected.json').read_text())


def saved_with_history(folder):
    return json.loads((folder / 'recommender.json').read_text())['history']


def test_there_is_one_of_each_kind():
    assert FOLDERS == ['blend', 'collab', 'content', 'context', 'gated', 'liked', 'svdpp']


def test_predictions_are_what_they_were(folder, expected):
    scorer = load_recommender(folder)
    n_compared = 0
    for user, predictions in zip(expected['users'], expected['predictions']):
        for item, prediction in zip(expected['items'], predictions):
            if prediction is not None:
                assert math.isclose(scorer.predict(user, item), prediction, abs_tol=1e-5), (user, item)
                n_compared += 1
    assert n_compared


def test_recommends(folder, expected):
    scorer = load_recommender(folder)
    users = expected['users']
    df = scorer.recommend(users, k=4, exclude_seen=saved_with_history(folder))
    assert df.user.drop_duplicates().tolist() == users and (df.groupby('user').size() == 4).all()
    assert df.title.notna().all() and df.score.notna().all()
    assert (df.groupby('user').score.diff().dropna() <= 0).all()


def test_history_travels_where_it_was_saved(folder, expected):
    scorer = load_recommender(folder)
    users = expected['users']
    if not saved_with_history(folder):
        with pytest.raises(ValueError, match='did not travel'):
            scorer.history(users[0])
        with pytest.raises(ValueError, match='exclude_seen=False'):
            scorer.recommend(users)
        return
    for user in users:
        history = scorer.history(user)
        seen = set(history.item[history.part == 'train'])
        assert seen
        everything = scorer.recommend(user, k=scorer.catalog.n_items)
        assert len(everything) and not set(everything.item) & seen
        assert seen & set(scorer.recommend(user, k=scorer.catalog.n_items, exclude_seen=False).item)


def test_can_be_saved_again(folder, expected, tmp_path):
    scorer = load_recommender(folder)
    again = load_recommender(save_recommender(scorer, tmp_path, history=saved_with_history(folder)))
    user, item = expected['users'][0], expected['items'][0]
    assert again.predict(user, item) == pytest.approx(scorer.predict(user, item), abs=1e-6)
