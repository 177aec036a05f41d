"""movielens() from each of GroupLens' layouts and sources, and synthetic_ratings() against its own truth.

The files here are invented.
"""

import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fastrec.data import datasets
from fastrec.data.datasets import movielens, synthetic_ratings

RATINGS = [(7, 3, 4.0, 100), (7, 1, 5.0, 101), (2, 3, 1.0, 90)]
FLAGS = dict(Action=1, Comedy=5, Western=18)


def u_item(item, title, *genres):
    on = [FLAGS.get(g, 0) for g in genres]
    return '|'.join([str(item), title, '01-Jan-1995', '', 'http://x', *('01'[i in on] for i in range(19))])


DAT = '3::Café Noir (1995)::Action|Comedy\n1::Plain: A Tale (1971)::Western\n9::No Year::(no genres listed)\n'
# name -> {file: bytes}: 100k (latin-1, genre flags), 1m ('::', latin-1), 10m ('::', utf-8, half stars) and latest-small
# (csv, utf-8)
LAYOUTS = {
    '100k': {
        'u.data': '\n'.join(f'{u}\t{i}\t{r:.0f}\t{t}' for u, i, r, t in RATINGS).encode(),
        'u.item': '\n'.join(
            [
                u_item(3, 'Café Noir (1995)', 'Action', 'Comedy'),
                u_item(1, 'Plain Tale (1971) (V)', 'Western'),
                u_item(9, 'unknown', 'unknown'),
            ]
        ).encode('latin-1'),
    },
    '1m': {
        'ratings.dat': '\n'.join(f'{u}::{i}::{r:.0f}::{t}' for u, i, r, t in RATINGS).encode(),
        'movies.dat': DAT.encode('latin-1'),
    },
    '10m': {
        'ratings.dat': '\n'.join(f'{u}::{i}::{r:g}::{t}' for u, i, r, t in RATINGS)
        .replace('::4::', '::3.5::')
        .encode(),
        'movies.dat': DAT.encode(),
    },
    'latest-small': {
        'ratings.csv': '\n'.join(['userId,movieId,rating,timestamp', *(f'{u},{i},{r},{t}' for u, i, r, t in RATINGS)])
        .replace('4.0', '3.5')
        .encode(),
        'movies.csv': (
            'movieId,title,genres\n3,"Noir, Café (1995)",Action|Comedy\n1,"""Plain"" Tale (1971) ",Western\n'
            '9,No Year,(no genres listed)\n'
        ).encode(),
        'tags.csv': b'userId,movieId,tag,timestamp\n',
    },
}
TITLES = {
    '100k': ['Café Noir (1995)', 'Plain Tale (1971) (V)', 'unknown'],
    '1m': ['Café Noir (1995)', 'Plain: A Tale (1971)', 'No Year'],
    '10m': ['Café Noir (1995)', 'Plain: A Tale (1971)', 'No Year'],
    'latest-small': ['Noir, Café (1995)', '"Plain" Tale (1971)', 'No Year'],
}


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_zip(path, files, inner):
    with zipfile.ZipFile(path, 'w') as z:
        z.writestr('README.txt', 'hello')
        for name, content in files.items():
            z.writestr(f'{inner}{name}', content)
    return path


def fake_recbole(monkeypatch, folder, rating='2'):
    """An installed recbole whose code must not run."""
    data = folder / 'recbole' / 'dataset_example' / 'ml-100k'
    write(
        data,
        {
            'ml-100k.inter': (
                f'user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t3\t{rating}\t100\n2\t1\t5\t90\n'
            ).encode(),
            'ml-100k.item': (
                'item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n'
                '3\tCafé Noir\t1995\tAction Comedy\n'
                "1\tPlain Tale (1971)\tV\tAnimation Children's\n267\tunkonwn\tunkonwn\tunknown\n"
            ).encode(),
        },
    )
    (folder / 'recbole' / '__init__.py').write_text("raise AssertionError('recbole was imported')")
    monkeypatch.syspath_prepend(folder)


def no_fastai(monkeypatch):
    def fail(name):
        raise OSError('no network here')

    monkeypatch.setattr(datasets, '_fastai_folder', fail)


@pytest.mark.parametrize('kind', ['folder', 'folder above', 'zip', 'flat zip', 'text path'])
@pytest.mark.parametrize('name', list(LAYOUTS))
def test_every_layout_from_folder_and_zip(tmp_path, name, kind):
    files = LAYOUTS[name]
    inner = f'ml-{name}'
    if kind == 'zip':
        path = write_zip(tmp_path / 'a.zip', files, inner + '/')
    elif kind == 'flat zip':
        path = write_zip(tmp_path / 'a.zip', files, '')
    else:
        path = write(tmp_path / inner, files)
        if kind == 'folder above':
            path = tmp_path
        if kind == 'text path':
            path = str(path)
    ratings, movies = movielens(name, path=path)
    half = 0.5 if name in ('10m', 'latest-small') else 0
    assert ratings.columns.tolist() == ['user', 'item', 'rating', 'time']
    assert ratings.dtypes.astype(str).tolist() == ['int64', 'int64', 'float32', 'int64']
    assert list(ratings.itertuples(index=False, name=None)) == [
        (7, 3, 4.0 - half, 100),
        (7, 1, 5.0, 101),
        (2, 3, 1.0, 90),
    ]
    assert movies.columns.tolist() == ['item', 'title', 'year', 'genres']
    assert movies.item.tolist() == [3, 1, 9]
    assert movies.item.dtype == np.int64
    assert movies.title.tolist() == TITLES[name]
    assert movies.year.astype(object).tolist()[:2] == [1995, 1971]
    assert pd.isna(movies.year[2])
    assert movies.genres.tolist()[:2] == ['Action|Comedy', 'Western']
    assert pd.isna(movies.genres[2])


@pytest.mark.parametrize(
    'title, year',
    [
        ('Two Numbers 2001 (1968)', 1968),
        ('Span (2006–2007)', 2006),
        ('Odd (a.k.a. Other) (1950)', 1950),
        ('(500) Days (2009)', 2009),
        ('Blade 2049', None),
        ('1984', None),
    ],
)
def test_the_year_in_a_title(tmp_path, title, year):
    files = {
        **LAYOUTS['latest-small'],
        'movies.csv': f'movieId,title,genres\n1,{title},Drama\n3,B (2000),Drama\n'.encode(),
    }
    _, movies = movielens('latest-small', path=write(tmp_path, files))
    assert (movies.year[0] == year) if year else pd.isna(movies.year[0])


def test_titles_that_look_like_missing_values_or_have_quotes(tmp_path):
    csv = {**LAYOUTS['latest-small'], 'movies.csv': b'movieId,title,genres\n1,None,Drama\n2,NA,Drama\n'}
    assert movielens('latest-small', path=write(tmp_path / 'csv', csv))[1].title.tolist() == ['None', 'NA']
    lines = [u_item(1, '"Quoted" Tale (1990)', 'Action'), u_item(2, 'A 6" Hero (1991)', 'Comedy')]
    flags = {**LAYOUTS['100k'], 'u.item': '\n'.join(lines).encode()}
    assert movielens('100k', path=write(tmp_path / 'flags', flags))[1].title.tolist() == [
        '"Quoted" Tale (1990)',
        'A 6" Hero (1991)',
    ]


def test_a_path_without_movielens_files(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r'no MovieLens files in .*expected u.data and u.item, ratings.dat and movies.dat, or '
        r'ratings.csv and movies.csv',
    ):
        movielens(path=tmp_path)
    with pytest.raises(FileNotFoundError, match='nowhere is neither a folder nor a zip file'):
        movielens(path=tmp_path / 'nowhere')


@pytest.mark.parametrize(
    'name, movies_file', [('100k', 'u.item'), ('1m', 'movies.dat'), ('latest-small', 'movies.csv')]
)
def test_a_path_without_the_movies(tmp_path, name, movies_file):
    files = {k: v for k, v in LAYOUTS[name].items() if k != movies_file}
    with pytest.raises(FileNotFoundError, match=movies_file):
        movielens(name, path=write(tmp_path, files))


def test_a_given_path_comes_first(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, '_fastai_folder', asked.append)
    fake_recbole(monkeypatch, tmp_path / 'site')
    assert len(movielens(path=write(tmp_path / 'given', LAYOUTS['100k']))[0]) == 3
    with pytest.raises(FileNotFoundError):
        movielens(path=tmp_path / 'nothing')  # and no other source stands in for it
    assert not asked


@pytest.mark.parametrize('name', ['100k', '1m', 'latest-small'])
def test_fastai_comes_second(tmp_path, monkeypatch, name):
    asked = []
    folder = write(tmp_path / 'cache' / f'ml-{name}', LAYOUTS[name])

    def untar_data(url):
        asked.append(url)
        return folder

    monkeypatch.setattr('fastai.data.external.untar_data', untar_data)
    fake_recbole(monkeypatch, tmp_path / 'site')
    ratings, movies = movielens(name)
    assert len(ratings) == 3
    assert movies.title.tolist() == TITLES[name]
    assert len(asked) == 1
    assert asked[0].startswith('https://')
    assert f'ml-{name}.' in asked[0]


def test_recbole_comes_third(tmp_path, monkeypatch):
    no_fastai(monkeypatch)
    fake_recbole(monkeypatch, tmp_path, rating='2')
    ratings, movies = movielens()
    assert ratings.dtypes.astype(str).to_dict() == dict(user='int64', item='int64', rating='float32', time='int64')
    assert list(ratings.itertuples(index=False, name=None)) == [(7, 3, 2.0, 100), (2, 1, 5.0, 90)]
    assert movies.item.tolist() == [3, 1, 267]
    assert movies.title.tolist() == ['Café Noir (1995)', 'Plain Tale (1971) (V)', 'unknown']
    assert movies.year.astype(object).tolist()[:2] == [1995, 1971]
    assert pd.isna(movies.year[2])
    assert movies.genres.tolist()[:2] == ['Action|Comedy', "Animation|Children's"]
    assert pd.isna(movies.genres[2])


def test_recbole_steps_in_where_fastai_downloaded_something_else(tmp_path, monkeypatch):
    monkeypatch.setattr(
        'fastai.data.external.untar_data', lambda url: write(tmp_path / 'cache', {'index.html': b'sign in'})
    )
    fake_recbole(monkeypatch, tmp_path / 'site')
    assert len(movielens()[0]) == 2


def test_recbole_has_no_other_size(tmp_path, monkeypatch):
    no_fastai(monkeypatch)
    fake_recbole(monkeypatch, tmp_path)
    with pytest.raises(FileNotFoundError, match='no MovieLens 1m found'):
        movielens('1m')


def test_no_source_names_the_three_ways(monkeypatch):
    no_fastai(monkeypatch)
    monkeypatch.setattr(datasets, '_recbole_folder', lambda: None)
    with pytest.raises(FileNotFoundError) as exc:
        movielens()
    first, *ways = str(exc.value).splitlines()
    assert first.startswith('no MovieLens 100k found. Three ways to get it')
    assert len(ways) == 3
    assert "movielens('100k', path=" in ways[0]
    assert 'grouplens.org' in ways[0]
    assert 'fastai download' in ways[1]
    assert 'OSError: no network here' in ways[1]
    assert 'pip install --no-deps recbole==1.2.1' in ways[2]


def test_recbole_without_its_data_is_no_source(tmp_path, monkeypatch):
    no_fastai(monkeypatch)
    (tmp_path / 'recbole').mkdir()
    (tmp_path / 'recbole' / '__init__.py').write_text('')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FileNotFoundError, match='no MovieLens 100k found'):
        movielens()


def test_an_unknown_name():
    with pytest.raises(ValueError, match=r"name='25m': choose one of \['100k', '1m', '10m', '20m', 'latest-small'\]"):
        movielens('25m')


# --- the real tables, where they are


def real(folder):
    """Folder of real data: in $FASTREC_DATA, else in ../shared/data beside the repository."""
    root = Path(os.environ.get('FASTREC_DATA') or Path(__file__).resolve().parents[2] / 'shared' / 'data')
    if not (root / folder).is_dir():
        pytest.skip(f'no real data: {root / folder} is not there; name a folder that holds {folder} in FASTREC_DATA')
    return root / folder


def test_real_100k():
    ratings, movies = movielens('100k', path=real('ml-100k'))
    assert (len(ratings), ratings.user.nunique(), ratings.item.nunique(), len(movies)) == (100_000, 943, 1682, 1682)
    assert set(ratings.rating) == {1, 2, 3, 4, 5}
    assert not ratings.duplicated(['user', 'item']).any()
    assert movies.item.is_unique
    assert set(ratings.item) <= set(movies.item)
    assert movies.year.isna().sum() == 1
    assert movies.set_index('item').loc[50].tolist() == [
        'Star Wars (1977)',
        1977,
        'Action|Adventure|Romance|Sci-Fi|War',
    ]


def test_real_latest_small():
    ratings, movies = movielens('latest-small', path=real('ml-latest-small'))
    assert (len(ratings), ratings.user.nunique(), ratings.item.nunique(), len(movies)) == (100_836, 610, 9724, 9742)
    assert (ratings.rating.min(), ratings.rating.max()) == (0.5, 5.0)
    assert set(ratings.item) <= set(movies.item)


def recbole_tables(monkeypatch):
    if datasets._recbole_folder() is None:
        pytest.skip(
            'recbole is not installed: `pip install --no-deps recbole==1.2.1` brings its copy of MovieLens 100K'
        )
    no_fastai(monkeypatch)
    return movielens('100k')


def test_the_copy_in_recbole_is_movielens(monkeypatch):
    ratings, movies = recbole_tables(monkeypatch)
    assert (len(ratings), ratings.user.nunique(), ratings.item.nunique(), len(movies)) == (100_000, 943, 1682, 1682)
    assert ratings.rating.mean() == pytest.approx(3.52986, abs=1e-5)


def test_the_copy_in_recbole_equals_grouplens(monkeypatch):
    expect = movielens('100k', path=real('ml-100k'))
    for mine, theirs, by in zip(recbole_tables(monkeypatch), expect, (['user', 'item'], ['item'])):
        pd.testing.assert_frame_equal(
            mine.sort_values(by, ignore_index=True), theirs.sort_values(by, ignore_index=True)
        )


# --- synthetic_ratings


def test_synthetic_tables():
    ratings, items, truth = synthetic_ratings(60, 40, n_factors=3, density=0.2, seed=1)
    assert ratings.columns.tolist() == ['user', 'item', 'rating', 'time']
    assert items.columns.tolist() == ['item', 'title', 'year', 'genres']
    assert len(items) == 40
    assert items.item.is_unique
    assert items.title.is_unique
    assert ratings.user.nunique() == 60
    assert set(ratings.item) <= set(items.item)
    assert ratings.time.tolist() == list(range(len(ratings)))
    assert ratings.rating.dtype == np.float32
    assert not ratings.duplicated(['user', 'item']).any()
    assert ratings.rating.between(1, 5).all()
    assert truth.scores.shape == (60, 40)
    assert truth.user_factors.shape == (60, 3)
    assert truth.item_factors.shape == (40, 3)
    assert truth.user_biases.shape == (60,)
    assert truth.item_biases.shape == (40,)
    assert abs(len(ratings) / (60 * 40) - 0.2) < 0.03


def at(ratings, values):
    """`values` (n_users, n_items) of the rows: row i belongs to the i-th smallest id."""
    users = sorted(set(ratings.user))
    items = sorted(set(ratings.item))
    assert (len(users), len(items)) == values.shape  # so that the i-th id of the table is the i-th of all
    return values[ratings.user.map(users.index), ratings.item.map(items.index)]


def test_the_truth_explains_the_ratings():
    ratings, _, truth = synthetic_ratings(80, 30, density=0.4, noise=0.0, rating_range=(-10.0, 10.0), seed=2)
    np.testing.assert_allclose(ratings.rating, np.clip(at(ratings, truth.scores), -10, 10), rtol=1e-5, atol=1e-5)
    dots = np.einsum('uf,if->ui', truth.user_factors, truth.item_factors)
    np.testing.assert_allclose(truth.mean + truth.user_biases[:, None] + truth.item_biases[None] + dots, truth.scores)
    assert truth.mean == 0


def test_ratings_are_clipped_and_noisy_as_asked():
    ratings, _, truth = synthetic_ratings(200, 60, density=0.4, noise=0.3, seed=3)
    scores = at(ratings, truth.scores)
    inside = (ratings.rating > 1) & (ratings.rating < 5) & (scores > 2) & (scores < 4)
    assert (ratings.rating - scores)[inside].std() == pytest.approx(0.3, rel=0.1)
    noiseless, _, truth = synthetic_ratings(200, 60, density=0.4, noise=0.0, seed=3)
    np.testing.assert_allclose(noiseless.rating, np.clip(at(noiseless, truth.scores), 1, 5), rtol=1e-6)
    assert (noiseless.rating == 1).any()
    assert (noiseless.rating == 5).any()


@pytest.mark.parametrize(
    'step, rating_range, values', [(1.0, (1.0, 5.0), {1, 2, 3, 4, 5}), (0.5, (0.5, 3.0), {0.5, 1, 1.5, 2, 2.5, 3})]
)
def test_step_rounds(step, rating_range, values):
    ratings, _, truth = synthetic_ratings(200, 50, density=0.3, noise=0.0, step=step, rating_range=rating_range, seed=4)
    assert set(ratings.rating) == values
    assert np.abs(ratings.rating - np.clip(at(ratings, truth.scores), *rating_range)).max() <= step / 2 + 1e-6


def test_the_seed_decides():
    a, b, c = (synthetic_ratings(30, 20, density=0.3, seed=s) for s in (5, 5, 6))
    for i in (0, 1):
        pd.testing.assert_frame_equal(a[i], b[i])
    np.testing.assert_array_equal(a[2].scores, b[2].scores)
    assert not a[0].equals(c[0])
    assert not np.array_equal(a[2].scores, c[2].scores)


def test_global_random_state_is_left_alone():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    synthetic_ratings(20, 10)
    assert (np.random.get_state()[1] == before).all()


def test_no_factors_and_all_pairs():
    ratings, _, truth = synthetic_ratings(20, 10, n_factors=0, density=1.0, seed=0)
    assert truth.user_factors.shape == (20, 0)
    assert len(ratings) > 150
    np.testing.assert_allclose(truth.scores, truth.mean + truth.user_biases[:, None] + truth.item_biases)


def test_some_items_are_popular():
    counts = synthetic_ratings(400, 100, density=0.1, seed=0)[0].item.value_counts()
    assert counts.iloc[:10].mean() > 4 * counts.iloc[-50:].mean()


def test_items_of_a_genre_share_their_main_factor():
    _, items, truth = synthetic_ratings(10, 400, n_factors=4, seed=0)
    main = [np.array(truth.item_factors[items.genres == g]).mean(0) for g in items.genres.unique()]
    assert sorted(int(m.argmax()) for m in main) == [0, 1, 2, 3]
    for m in main:
        assert m.max() == pytest.approx(1, abs=0.2)
        assert np.sort(np.abs(m))[-2] < 0.2
