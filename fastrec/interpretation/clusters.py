"""Clusters of users or items by their vectors, and what marks each of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from ..data.catalog import Catalog
from ..scorers.baselines import training_rows

__all__: list[str] = []

DAMPING = 10  # members of whom is supposed that they are as all others are
LEAST_LIFT = 1.2  # from which on a value of metadata marks a cluster
MOST_VALUES = 50  # of a column that is looked at
QUARTERS_FROM = 8  # from so many different numbers on a column is divided into quarters


@dataclass
class Clusters:
    """Which cluster (from 0, the largest first) each of `codes` is in."""

    codes: np.ndarray  # int (n,)
    of: np.ndarray  # int (n,)
    sizes: np.ndarray  # int (k,)


def cluster(
    codes: np.ndarray,  # int (n,)
    vectors: np.ndarray,  # (n, d)
    k: int,  # how many
    seed: int,  # of the starts
) -> Clusters:
    """k-means on vectors of length 1, so that near is what `similar_users` and `similar_items` call near."""
    from sklearn.cluster import KMeans

    if not 2 <= k <= len(codes):
        raise ValueError(f'k={k} clusters of {len(codes):,}: from 2 to as many as there are')
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1)
    found = KMeans(n_clusters=k, n_init=10, random_state=seed).fit_predict(unit)
    sizes = np.bincount(found, minlength=k)
    by_size = np.argsort(-sizes, kind='stable')
    return Clusters(codes, np.argsort(by_size)[found], sizes[by_size])


def lifts(
    has: csr_matrix,  # (n, m): 1 where a member has a value
    clusters: Clusters,
) -> np.ndarray:
    """How much more often members of a cluster have a value than all: (k, m).

    (n_in + 10) / (n_expected + 10), where n_in is how many of the cluster have it and n_expected how many would if they
    were as all are; the 10 keep what few have from standing first.
    """
    k = len(clusters.sizes)
    n = len(clusters.of)
    members = csr_matrix((np.ones(n, np.float32), (clusters.of, np.arange(n))), shape=(k, n))
    n_in = np.asarray((members @ has).todense(), dtype=np.float64)
    expected = clusters.sizes[:, None] * (n_in.sum(0) / n)
    return (n_in + DAMPING) / (expected + DAMPING)


def liked_items(catalog: Catalog) -> csr_matrix:
    """1 where a user likes an item: (n_users, n_items).

    Positives of implicit feedback; of ratings those from the user's own mean on.
    """
    inter, rows = training_rows(catalog)
    if inter.weights is not None:
        kept = inter.positive(rows)
    elif catalog.thresholds is not None:
        kept = rows[catalog.liked(rows)]
    else:
        means = catalog.require_history().user_means()
        kept = rows[inter.ratings[rows] >= means[inter.users[rows]]]
    pairs = (inter.users[kept], inter.items[kept])
    res = csr_matrix((np.ones(len(kept), np.float32), pairs), shape=(catalog.n_users, catalog.n_items))
    res.data[:] = 1  # of pairs that come twice
    return res


def values_of(metadata: pd.DataFrame, codes: np.ndarray, left_out: set) -> tuple[csr_matrix, list[str]]:
    """-> who of `codes` has which value of metadata (n, m), and the values in words: 'genres Comedy'.

    Lists such as 'Action|Comedy' count by each entry, numbers by quarters; columns of more than 50 values, and those in
    `left_out`, are not looked at.
    """
    parts = []
    names: list[str] = []
    for column in metadata.columns:
        if column in left_out:
            continue
        values = _in_words(metadata[column].iloc[codes])
        table = values.str.get_dummies('|')
        if not 2 <= table.shape[1] <= MOST_VALUES:
            continue
        parts.append(table.to_numpy(dtype=np.float32))
        names += [f'{column} {value}' for value in table.columns]
    matrix = np.concatenate(parts, axis=1) if parts else np.zeros((len(codes), 0), np.float32)
    return csr_matrix(matrix), names


def _in_words(values: pd.Series) -> pd.Series:
    """A column as texts, numbers of many values as the range of their quarter; '' where there is none."""
    if pd.api.types.is_numeric_dtype(values.dtype) and values.nunique() >= QUARTERS_FROM:
        quarters = pd.qcut(values.astype(float), 4, duplicates='drop')
        ranges = values.astype(float).groupby(quarters, observed=True).agg(['min', 'max'])
        words = {interval: f'{row["min"]:g}–{row["max"]:g}' for interval, row in ranges.iterrows()}
        return quarters.astype(object).map(words).fillna('').astype(str)
    return values.astype(object).where(values.notna(), '').astype(str)


def marked(names: np.ndarray, lift: np.ndarray, n: int, least: float) -> str:
    """The `n` names of the largest lifts (m,), from `least` on, with the lifts: 'Alien (1979) ×2.1; ...'."""
    order = np.argsort(-lift, kind='stable')[:n]
    return '; '.join(f'{names[i]} ×{lift[i]:.1f}' for i in order if lift[i] >= least)
