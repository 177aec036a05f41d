"""Data to start with: real MovieLens tables, and synthetic ratings whose truth is known."""

from __future__ import annotations

import io
import zipfile
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

__all__ = ['movielens', 'synthetic_ratings']

# name -> fastai's `URLs` attribute, or GroupLens' own address where fastai lists none
_MOVIELENS = {
    '100k': 'ML_100k',
    '1m': 'https://files.grouplens.org/datasets/movielens/ml-1m.zip',
    '10m': 'https://files.grouplens.org/datasets/movielens/ml-10m.zip',
    '20m': 'https://files.grouplens.org/datasets/movielens/ml-20m.zip',
    'latest-small': 'https://files.grouplens.org/datasets/movielens/ml-latest-small.zip',
}
_GENRES_100K = [
    'unknown',
    'Action',
    'Adventure',
    'Animation',
    "Children's",
    'Comedy',
    'Crime',
    'Documentary',
    'Drama',
    'Fantasy',
    'Film-Noir',
    'Horror',
    'Musical',
    'Mystery',
    'Romance',
    'Sci-Fi',
    'Thriller',
    'War',
    'Western',
]


def movielens(
    name: str = '100k',  # '100k', '1m', '10m', '20m' or 'latest-small'
    path=None,  # folder or zip in GroupLens' own layout; without it fastai's data folder or download, then (for '100k') the copy in the recbole wheel
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """-> (ratings: user, item, rating, time in seconds since 1970), (movies: item, title, year, genres as 'Action|Comedy', missing if unknown).

    Source: F. M. Harper and J. A. Konstan, 'The MovieLens Datasets', ACM TiiS 5(4), 2015. Its terms allow research use and no redistribution.
    """
    if name not in _MOVIELENS:
        raise ValueError(f'name={name!r}: choose one of {list(_MOVIELENS)}')
    if path is not None:
        return _read_folder(Path(path), name)
    try:
        return _read_folder(_fastai_folder(name), name)
    except Exception as e:
        reason = f'{type(e).__name__}: {e}'
    if name == '100k' and (folder := _recbole_folder()):
        return _read_recbole(folder)
    ways = [
        f"give the folder or zip from grouplens.org/datasets/movielens: movielens({name!r}, path='.../ml-{name}')",
        f'let fastai download it, which needs the network (it failed here: {reason[:200]})',
        *(
            [
                '`pip install --no-deps recbole==1.2.1`, whose wheel carries a copy'
                if name == '100k'
                else "take '100k', for which `pip install --no-deps recbole==1.2.1` brings a copy"
            ]
        ),
    ]
    raise FileNotFoundError(
        f'no MovieLens {name} found. Three ways to get it:\n' + '\n'.join(f'  {i}. {o}' for i, o in enumerate(ways, 1))
    )


def _fastai_folder(name):
    """fastai's cached or downloaded folder."""
    from fastai.data.external import URLs, untar_data

    url = _MOVIELENS[name]
    return untar_data(getattr(URLs, url, url))


def _recbole_folder():
    """The data folder inside an installed recbole, found without importing the package."""
    spec = find_spec('recbole')
    folder = Path(spec.submodule_search_locations[0]) / 'dataset_example' / 'ml-100k' if spec else None
    return folder if folder and (folder / 'ml-100k.inter').exists() else None


def _opener(path):
    """-> function that opens a file of the folder or zip by its bare name, or returns None."""
    if path.is_file() and zipfile.is_zipfile(path):
        names = {Path(o).name: o for o in reversed(zipfile.ZipFile(path).namelist())}
        return lambda name: io.BytesIO(zipfile.ZipFile(path).read(names[name])) if name in names else None
    if path.is_dir():
        folders = [path, *sorted(o for o in path.iterdir() if o.is_dir())]
        return lambda name: next((open(o / name, 'rb') for o in folders if (o / name).exists()), None)
    raise FileNotFoundError(f'{path} is neither a folder nor a zip file')


def _read_folder(path, name):
    """The tables of whichever of GroupLens' layouts lies in `path`, which must be that of `name`."""
    open_ = _opener(path)
    for ratings_file, read, names in (
        ('u.data', _read_100k, ('100k',)),
        ('ratings.dat', _read_dat, ('1m', '10m')),
        ('ratings.csv', _read_csv, ('20m', 'latest-small')),
    ):
        if (f := open_(ratings_file)) is not None:
            if name not in names:
                raise ValueError(
                    f'{path} holds {ratings_file}, the layout of MovieLens {" and ".join(names)}, not of {name!r}'
                )

            def need(name):
                if (g := open_(name)) is None:
                    raise FileNotFoundError(f'{path} has {ratings_file} but no {name}, which holds the titles')
                return g

            with f:
                return read(f, need)
    raise FileNotFoundError(
        f'no MovieLens files in {path}: expected u.data and u.item, ratings.dat and movies.dat, or ratings.csv and movies.csv'
    )


def _ratings(df):
    df.columns = ['user', 'item', 'rating', 'time']
    return df.astype(dict(user='int64', item='int64', rating='float32', time='int64'))


def _movies(items, titles, genres):
    """Tidy table: the year is read from the title, genres that say 'unknown' are missing."""
    titles = pd.Series(titles, dtype=object).str.strip()
    year = titles.str.extract(r'\((\d{4})[^()]*\)\s*(?:\(V\))?$', expand=False)
    genres = pd.Series(genres, dtype=object).replace({'': None, 'unknown': None, '(no genres listed)': None})
    return pd.DataFrame(
        dict(
            item=np.asarray(items, dtype='int64'),
            title=titles.to_numpy(),
            year=pd.to_numeric(year).astype('Int64'),
            genres=genres.to_numpy(),
        )
    )


def _read_100k(f, open_):
    ratings = pd.read_csv(f, sep='\t', header=None)
    with open_('u.item') as g:
        movies = pd.read_csv(g, sep='|', header=None, encoding='latin-1', quoting=3, keep_default_na=False)
    flags = movies.iloc[:, 5:].to_numpy().astype(bool)
    return _ratings(ratings), _movies(
        movies[0], movies[1], ['|'.join(np.array(_GENRES_100K, dtype=object)[row]) for row in flags]
    )


def _read_dat(f, open_):
    ratings = pd.DataFrame(np.loadtxt(io.StringIO(f.read().decode().replace('::', ' ')), ndmin=2))
    with open_('movies.dat') as g:
        raw = g.read()
    try:
        text = raw.decode('utf-8')
    except UnicodeDecodeError:
        text = raw.decode('latin-1')
    movies = pd.DataFrame([o.split('::') for o in text.splitlines() if o])
    return _ratings(ratings), _movies(movies[0].astype('int64'), movies[1], movies[2])


def _read_csv(f, open_):
    ratings = pd.read_csv(f)[['userId', 'movieId', 'rating', 'timestamp']]
    with open_('movies.csv') as g:
        movies = pd.read_csv(g, keep_default_na=False)
    return _ratings(ratings), _movies(movies['movieId'], movies['title'], movies['genres'])


def _read_recbole(folder):
    """recbole's copy of ML-100K; it splits title and year, which are put together again as GroupLens writes them."""
    ratings = pd.read_csv(folder / 'ml-100k.inter', sep='\t')
    movies = pd.read_csv(folder / 'ml-100k.item', sep='\t', dtype=str, keep_default_na=False)
    movies.columns = ['item', 'title', 'year', 'genres']
    titles = movies.title.where(
        ~movies.year.str.fullmatch(r'\d{4}|V'), movies.title + ' (' + movies.year + ')'
    ).replace({'unkonwn': 'unknown'})
    return _ratings(ratings), _movies(movies.item.astype('int64'), titles, movies.genres.str.replace(' ', '|'))


def synthetic_ratings(
    n_users: int = 500,
    n_items: int = 300,
    n_factors: int = 4,
    density: float = 0.1,  # share of user-item pairs that have a rating
    noise: float = 0.3,  # standard deviation of what is not explained
    rating_range: tuple = (1.0, 5.0),  # ratings are clipped to it
    step: float = None,  # ratings are rounded to multiples of it (None: continuous)
    seed: int = 0,
):
    """-> (ratings: user, item, rating, time), (item_df: item, title, year, genres), truth.

    rating = mean + user bias + item bias + p_u . q_i + noise, clipped. Items of one genre share their main factor, popular items have more
    rows (Zipf), time runs from 0 in the order of rows. `truth` holds `mean, user_biases, item_biases, user_factors, item_factors,
    scores` (n_users, n_items; before noise and clipping); row `i` of its arrays belongs to the i-th smallest id: users are
    'u0000'.., items 1000...
    """
    rng = np.random.default_rng(seed)
    lo, hi = rating_range
    spread = (hi - lo) / 4
    genres = np.array(
        ['Action', 'Comedy', 'Drama', 'Horror', 'Romance', 'Sci-Fi', 'War', 'Western'][: max(n_factors, 1)],
        dtype=object,
    )
    genre = rng.integers(len(genres), size=n_items)
    q = rng.normal(0, 0.5, (n_items, n_factors))
    if n_factors:
        q[np.arange(n_items), genre % n_factors] += 1.0
    p = rng.normal(0, 1 / max(n_factors, 1) ** 0.5, (n_users, n_factors))
    truth = SimpleNamespace(
        mean=(lo + hi) / 2,
        user_biases=rng.normal(0, 0.4, n_users) * spread,
        item_biases=rng.normal(0, 0.5, n_items) * spread,
        user_factors=p * spread,
        item_factors=q,
    )
    truth.scores = truth.mean + truth.user_biases[:, None] + truth.item_biases + truth.user_factors @ q.T
    popularity = 1 / (1 + rng.permutation(n_items)) ** 0.7
    n_each = np.clip(rng.poisson(density * n_items, n_users), 2, n_items)
    keys = rng.random((n_users, n_items)) ** (
        1 / popularity
    )  # Efraimidis-Spirakis: the largest keys are a weighted sample without replacement
    users = np.repeat(np.arange(n_users), n_each)
    items = np.concatenate([np.argpartition(-k, n - 1)[:n] for k, n in zip(keys, n_each)])
    order = rng.permutation(len(users))
    users, items = users[order], items[order]
    values = np.clip(truth.scores[users, items] + rng.normal(0, noise, len(users)), lo, hi)
    if step:
        values = np.clip(np.round(values / step) * step, lo, hi)
    user_ids = np.array([f'u{i:0{max(4, len(str(n_users - 1)))}}' for i in range(n_users)], dtype=object)
    ratings = pd.DataFrame(
        dict(user=user_ids[users], item=1000 + items, rating=values.astype(np.float32), time=np.arange(len(users)))
    )
    item_df = pd.DataFrame(
        dict(
            item=1000 + np.arange(n_items),
            title=[f'{genres[g]} {i}' for i, g in enumerate(genre)],
            year=1950 + rng.integers(70, size=n_items),
            genres=genres[genre],
        )
    )
    return ratings, item_df, truth
