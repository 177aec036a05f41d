"""Data to start with: real MovieLens tables, and synthetic ratings whose truth is known."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import numpy as np
import pandas as pd

from ..keywords import check_arguments

__all__ = ['movielens', 'synthetic_ratings']

# name -> fastai's `URLs` attribute, or GroupLens' own address where fastai lists none
_MOVIELENS = {
    '100k': 'ML_100k',
    '1m': 'https://files.grouplens.org/datasets/movielens/ml-1m.zip',
    '10m': 'https://files.grouplens.org/datasets/movielens/ml-10m.zip',
    '20m': 'https://files.grouplens.org/datasets/movielens/ml-20m.zip',
    'latest-small': 'https://files.grouplens.org/datasets/movielens/ml-latest-small.zip',
}
# the 19 flags of u.item, in their order
_GENRES_100K = (
    'unknown', 'Action', 'Adventure', 'Animation', "Children's", 'Comedy', 'Crime', 'Documentary', 'Drama', 'Fantasy',
    'Film-Noir', 'Horror', 'Musical', 'Mystery', 'Romance', 'Sci-Fi', 'Thriller', 'War', 'Western',
)  # fmt: skip
_SYNTHETIC_GENRES = ('Action', 'Comedy', 'Drama', 'Horror', 'Romance', 'Sci-Fi', 'War', 'Western')

Tables = tuple[pd.DataFrame, pd.DataFrame]  # ratings and movies, as `movielens` returns them


@check_arguments
def movielens(
    name: str = '100k',  # '100k', '1m', '10m', '20m' or 'latest-small'
    path: str | Path | None = None,  # folder or zip in GroupLens' layout; None: looked for, see below
) -> Tables:
    """-> ratings (user, item, rating, time in seconds since 1970) and movies (item, title, year, genres).

    Genres are 'Action|Comedy', missing if unknown. Without `path` they come from fastai's data folder or its download,
    then (for '100k') from the copy in the recbole wheel. `FileNotFoundError` with the ways to get the data where there
    is none.

    Source: F. M. Harper and J. A. Konstan, 'The MovieLens Datasets', ACM TiiS 5(4), 2015. Its terms allow research use
    and no redistribution. `ValueError` for another name.
    """
    if name not in _MOVIELENS:
        raise ValueError(f'name={name!r}: choose one of {list(_MOVIELENS)}')
    if path is not None:
        return _read_folder(Path(path), name)
    try:
        return _read_folder(_fastai_folder(name), name)
    except Exception as e:  # of the network, the disk or the files: whatever it is, there may be another source
        reason = f'{type(e).__name__}: {e}'
    if name == '100k' and (folder := _recbole_folder()):
        return _read_recbole(folder)
    if name == '100k':
        from_recbole = '`pip install --no-deps recbole==1.2.1`, whose wheel carries a copy'
    else:
        from_recbole = "take '100k', for which `pip install --no-deps recbole==1.2.1` brings a copy"
    raise FileNotFoundError(
        f'no MovieLens {name} found. Three ways to get it:\n'
        f'  1. give the folder or zip from grouplens.org/datasets/movielens: '
        f"movielens({name!r}, path='.../ml-{name}')\n"
        f'  2. let fastai download it, which needs the network (it failed here: {reason[:200]})\n'
        f'  3. {from_recbole}'
    )


# --- where the files are


def _fastai_folder(name: str) -> Path:
    """fastai's cached or downloaded folder."""
    from fastai.data.external import URLs, untar_data

    url = _MOVIELENS[name]
    return untar_data(getattr(URLs, url, url))


def _recbole_folder() -> Path | None:
    """The data folder inside an installed recbole, found without importing the package."""
    spec = find_spec('recbole')
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / 'dataset_example' / 'ml-100k'
    return folder if (folder / 'ml-100k.inter').exists() else None


class _Source:
    """A folder or a zip file whose files are found by their bare names, also one folder down (in a zip: anywhere)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folders: list[Path] = []
        self.members: dict[str, str] = {}  # bare name -> name in the zip
        if path.is_file() and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as z:
                self.members = {Path(o).name: o for o in reversed(z.namelist())}
        elif path.is_dir():
            self.folders = [path, *sorted(o for o in path.iterdir() if o.is_dir())]
        else:
            raise FileNotFoundError(f'{path} is neither a folder nor a zip file')

    def __contains__(self, name: str) -> bool:
        return name in self.members or any((o / name).exists() for o in self.folders)

    def open(self, name: str) -> IO[bytes]:
        """The file `name`, which has to be there, for reading."""
        if name in self.members:
            with zipfile.ZipFile(self.path) as z:
                return io.BytesIO(z.read(self.members[name]))
        path = next(o / name for o in self.folders if (o / name).exists())
        return open(path, 'rb')


# --- GroupLens' layouts


def _read_folder(path: Path, name: str) -> Tables:
    """The tables of whichever of GroupLens' layouts lies in `path`, which must be that of `name`."""
    source = _Source(path)
    for ratings_file, movies_file, read, names in (
        ('u.data', 'u.item', _read_100k, ('100k',)),
        ('ratings.dat', 'movies.dat', _read_dat, ('1m', '10m')),
        ('ratings.csv', 'movies.csv', _read_csv, ('20m', 'latest-small')),
    ):
        if ratings_file not in source:
            continue
        if name not in names:
            raise ValueError(
                f'{path} holds {ratings_file}, the layout of MovieLens {" and ".join(names)}, not of {name!r}'
            )
        if movies_file not in source:
            raise FileNotFoundError(f'{path} has {ratings_file} but no {movies_file}, which holds the titles')
        with source.open(ratings_file) as ratings, source.open(movies_file) as movies:
            return read(ratings, movies)
    raise FileNotFoundError(
        f'no MovieLens files in {path}: '
        'expected u.data and u.item, ratings.dat and movies.dat, or ratings.csv and movies.csv'
    )


def _ratings(df: pd.DataFrame) -> pd.DataFrame:
    """The four columns of `df` under their names here."""
    df.columns = ['user', 'item', 'rating', 'time']
    return df.astype(dict(user='int64', item='int64', rating='float32', time='int64'))


def _movies(items: Sequence | pd.Series, titles: Sequence | pd.Series, genres: Sequence | pd.Series) -> pd.DataFrame:
    """Tidy table: the year is read from the title, genres that say 'unknown' are missing."""
    title = pd.Series(titles, dtype=object).str.strip()
    year = title.str.extract(r'\((\d{4})[^()]*\)\s*(?:\(V\))?$', expand=False)  # '(V)': released on video
    labels = pd.Series(genres, dtype=object).replace({'': None, 'unknown': None, '(no genres listed)': None})
    return pd.DataFrame(
        dict(
            item=np.asarray(items, dtype='int64'),
            title=title.to_numpy(),
            year=pd.to_numeric(year).astype('Int64'),
            genres=labels.to_numpy(),
        )
    )


def _read_100k(ratings_file: IO[bytes], movies_file: IO[bytes]) -> Tables:
    ratings = pd.read_csv(ratings_file, sep='\t', header=None)
    movies = pd.read_csv(movies_file, sep='|', header=None, encoding='latin-1', quoting=3, keep_default_na=False)
    flags = movies.iloc[:, 5:].to_numpy().astype(bool)
    names = np.array(_GENRES_100K, dtype=object)
    genres = ['|'.join(names[row]) for row in flags]
    return _ratings(ratings), _movies(movies[0], movies[1], genres)


def _read_dat(ratings_file: IO[bytes], movies_file: IO[bytes]) -> Tables:
    ratings = pd.DataFrame(np.loadtxt(io.StringIO(ratings_file.read().decode().replace('::', ' ')), ndmin=2))
    raw = movies_file.read()
    try:
        text = raw.decode('utf-8')  # 10M
    except UnicodeDecodeError:
        text = raw.decode('latin-1')  # 1M
    movies = pd.DataFrame([o.split('::') for o in text.splitlines() if o])
    return _ratings(ratings), _movies(movies[0].astype('int64'), movies[1], movies[2])


def _read_csv(ratings_file: IO[bytes], movies_file: IO[bytes]) -> Tables:
    ratings = pd.read_csv(ratings_file)[['userId', 'movieId', 'rating', 'timestamp']]
    movies = pd.read_csv(movies_file, keep_default_na=False)
    return _ratings(ratings), _movies(movies['movieId'], movies['title'], movies['genres'])


def _read_recbole(folder: Path) -> Tables:
    """recbole's copy of ML-100K; it splits title and year, which are put together again as GroupLens writes them."""
    ratings = pd.read_csv(folder / 'ml-100k.inter', sep='\t')
    movies = pd.read_csv(folder / 'ml-100k.item', sep='\t', dtype=str, keep_default_na=False)
    movies.columns = ['item', 'title', 'year', 'genres']
    no_year = ~movies.year.str.fullmatch(r'\d{4}|V')
    titles = movies.title.where(no_year, movies.title + ' (' + movies.year + ')')
    titles = titles.replace({'unkonwn': 'unknown'})  # their spelling
    return _ratings(ratings), _movies(movies.item.astype('int64'), titles, movies.genres.str.replace(' ', '|'))


# --- synthetic ratings


@check_arguments
def synthetic_ratings(
    n_users: int = 500,  # how many users
    n_items: int = 300,  # how many items
    n_factors: int = 4,  # length of the true vectors
    density: float = 0.1,  # share of user-item pairs that have a rating
    noise: float = 0.3,  # standard deviation of what is not explained
    rating_range: tuple[float, float] = (1.0, 5.0),  # ratings are clipped to it
    step: float | None = None,  # ratings are rounded to multiples of it (None: continuous)
    seed: int = 0,  # of all that is drawn; the same seed gives the same tables
) -> tuple[pd.DataFrame, pd.DataFrame, SimpleNamespace]:
    """-> (ratings: user, item, rating, time), (item_df: item, title, year, genres), truth.

    rating = mean + user bias + item bias + p_u . q_i + noise, clipped. Items of one genre share their main factor,
    popular items have more rows (Zipf), time runs from 0 in the order of rows. `truth` holds `mean, user_biases,
    item_biases, user_factors, item_factors, scores` (n_users, n_items; before noise and clipping); row `i` of its
    arrays belongs to the i-th smallest id: users are 'u0000'.., items 1000... `ValueError` for sizes and a density that
    no table has.
    """
    if not 0 < density <= 1:
        raise ValueError(f'density={density:g}: a share above 0, up to 1')
    if n_users < 1 or n_items < 2:
        raise ValueError(f'n_users={n_users}, n_items={n_items}: a user and two items at least')
    rng = np.random.default_rng(seed)
    low, high = rating_range
    genres = np.array(_SYNTHETIC_GENRES[: max(n_factors, 1)], dtype=object)
    genre = rng.integers(len(genres), size=n_items)  # the number of each item's
    truth = _truth(rng, n_users, genre, n_factors, low, high)
    users, items = _rated_pairs(rng, n_users, n_items, density)
    values = np.clip(truth.scores[users, items] + rng.normal(0, noise, len(users)), low, high)
    if step:
        values = np.clip(np.round(values / step) * step, low, high)
    n_digits = max(4, len(str(n_users - 1)))
    user_ids = np.array([f'u{i:0{n_digits}}' for i in range(n_users)], dtype=object)
    ratings = pd.DataFrame(
        dict(
            user=user_ids[users],
            item=1000 + items,
            rating=values.astype(np.float32),
            time=np.arange(len(users)),
        )
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


def _truth(
    rng: np.random.Generator, n_users: int, genre: np.ndarray, n_factors: int, low: float, high: float
) -> SimpleNamespace:
    """Biases, factors and the scores that they make; items of one genre have a factor in common."""
    n_items = len(genre)
    spread = (high - low) / 4  # of users' tastes, so that most scores lie within the range
    item_factors = rng.normal(0, 0.5, (n_items, n_factors))
    if n_factors:
        item_factors[np.arange(n_items), genre % n_factors] += 1.0
    user_factors = rng.normal(0, 1 / max(n_factors, 1) ** 0.5, (n_users, n_factors))
    truth = SimpleNamespace(
        mean=(low + high) / 2,
        user_biases=rng.normal(0, 0.4, n_users) * spread,
        item_biases=rng.normal(0, 0.5, n_items) * spread,
        user_factors=user_factors * spread,
        item_factors=item_factors,
    )
    products = truth.user_factors @ item_factors.T
    truth.scores = truth.mean + truth.user_biases[:, None] + truth.item_biases + products
    return truth


def _rated_pairs(rng: np.random.Generator, n_users: int, n_items: int, density: float) -> tuple[np.ndarray, np.ndarray]:
    """Users and items (n,) of distinct pairs in random order: two items a user at least, popular ones more often."""
    popularity = 1 / (1 + rng.permutation(n_items)) ** 0.7
    n_each = np.clip(rng.poisson(density * n_items, n_users), 2, n_items)
    # Efraimidis-Spirakis: the items of the largest keys are a weighted sample without replacement
    keys = rng.random((n_users, n_items)) ** (1 / popularity)
    users: np.ndarray = np.repeat(np.arange(n_users), n_each)
    items = np.concatenate([np.argpartition(-k, n - 1)[:n] for k, n in zip(keys, n_each)])
    order = rng.permutation(len(users))
    return users[order], items[order]
