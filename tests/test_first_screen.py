"""The README's first screen, run on real data as it stands there."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

README = (Path(__file__).parents[1] / 'README.md').read_text()


def test_readme_first_screen(ml100k, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('fastrec.all.movielens', lambda name: ml100k)  # from whichever source the tests have
    code = re.search(r'```python\nfrom fastrec\.all import \*\n(.*?)```', README, re.S).group(1)
    assert "movielens('100k')" in code
    assert 'fit_one_cycle' in code
    assert 'recommend(' in code
    assert 'RecInterpretation' in code
    scope = {}
    exec('from fastrec.all import *\nset_seed(0)\n' + code, scope)
    learn = scope['learn']
    recommended = scope['recommended']
    assert learn.recorder.values[-1][2] < 0.93, 'rmse of the first screen on a random tenth'
    assert list(recommended.columns) == ['user', 'item', 'title', 'score', 'rank']
    assert len(recommended) == 20
    assert 'Empire Strikes Back, The (1980)' in scope['similar'].title.tolist()
    plt.close('all')


def test_design_first_screen(ml100k, monkeypatch, tmp_path):
    """The calls that this library promised, with fastai's own splitter and weight decay as fastai users write it."""
    from fastai.basics import RandomSplitter, set_seed

    from fastrec.all import RecDataLoaders, RecInterpretation, collab_learner, mae, rmse

    monkeypatch.chdir(tmp_path)
    ratings, movies = ml100k
    assert list(ratings.columns) == ['user', 'item', 'rating', 'time']
    assert list(movies.columns) == ['item', 'title', 'year', 'genres']
    dls = RecDataLoaders.from_df(ratings, item_df=movies, splitter=RandomSplitter(0.1, seed=42))
    set_seed(0)
    learn = collab_learner(dls, n_factors=40, y_range=(0.5, 5.5), metrics=[rmse, mae])
    with learn.no_bar(), learn.no_logging():
        learn.lr_find()
        learn.fit_one_cycle(5, 5e-3, wd=0.1)
        assert learn.recorder.values[-1][2] < 0.93
        learn.history(196)
        assert list(learn.recommend([196, 186], k=10).columns) == ['user', 'item', 'title', 'score', 'rank']
        interp = RecInterpretation.from_learner(learn)
    interp.plot_bias()
    interp.plot_pca()
    interp.similar_items('Star Wars (1977)')
    interp.explain(196, 242)
    plt.close('all')


def test_readme_clicks_screen(ml100k, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code = re.search(r'```python\n(clicks .*?)```', README, re.S).group(1)
    scope = {}
    ratings, movies = ml100k
    exec('from fastrec.all import *\nset_seed(0)\n', scope)
    scope.update(ratings=ratings, movies=movies)
    with pytest.warns(UserWarning, match='LeaveLastSplitter'):
        exec(code.replace('fit_one_cycle(20', 'fit_one_cycle(8'), scope)
    learn, clicks = scope['learn'], scope['clicks']
    assert learn.recorder.metric_names[3:5] == ['hr@10', 'ndcg@10']
    floor = scope['evaluate'](scope['Popularity']().fit(clicks)).loc['all', 'ndcg@10']
    assert scope['evaluate'](learn).loc['all', 'ndcg@10'] > 1.3 * floor
    plt.close('all')
