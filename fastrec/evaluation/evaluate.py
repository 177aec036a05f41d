"""Honest evaluation: errors and ranks on held-out rows, warm and cold apart, over folds, and models side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix

from ..data.catalog import check_leakage, cold_groups
from ..data.columns import first_few
from ..data.sampling import NegativeSampler
from ..evaluation import metrics as _metrics
from ..progress import Progress
from ..scorers.recommend import mask_seen, ranker_for, seen_matrix, top_k, users_at_a_time
from .metrics import Labelled, LabelMetric, ListMetric, RankingMetric, Ranks, TopK, as_metrics

__all__ = ['evaluate', 'evaluate_users', 'label_held_out', 'rank_held_out']

GRAM_LIMIT = 2**14  # items up to which how alike they are is worked out from who has them


def _held_out(catalog, split):
    inter = catalog.require_history().interactions
    rows = getattr(catalog.split, split, None)
    if rows is None:
        raise ValueError(
            f'there is no {split!r} part: the split has {[o for o in catalog.split._fields if getattr(catalog.split, o) is not None]}'
        )
    if not len(rows):
        raise ValueError(
            'no rows are held out (valid_pct=0), so there is nothing to evaluate on: choose settings on loaders that hold some out, then train on all'
        )
    return inter, rows


def evaluate(
    scorer,  # a fitted learner, baseline, or any other `Scorer`
    dls=None,  # `RecDataLoaders` whose held-out rows are scored; by default the scorer's own
    metrics=None,  # `[rmse, mae]` for ratings, ranking metrics such as `[hr(10), ndcg(10)]`, for `target='liked'` `[roc_auc_score(), f1_score()]`; by default by what the loaders are made for
    k=None,  # cut-offs for all ranking metrics, in place of their own, e.g. `[5, 10, 20, 50]`
    split: str = 'valid',  # 'valid' or 'test' (or 'train' for errors)
    by: str = None,  # ranking by group of users: 'history' (how many training rows they have) or 'popularity' (of their held-out items), in quarters
    **kwargs,  # of `evaluate_users`: relevant, n_candidates, candidates, users, vectors, seed
) -> pd.DataFrame:
    """Means over held-out rows (errors) or over users (ranking, labels): a row each for all, and, if some are without training rows, for those who have them ('warm'), those of whom the model knows but features ('features'), and the rest ('cold').

    Columns: how many rows or users, and one per metric. Users whose held-out rows are all liked, or none, have no value of a label metric; `one_class`
    counts them.
    """
    catalog = (dls or scorer).catalog
    metrics = as_metrics(_default_metrics(catalog, scorer) if metrics is None else metrics)
    if any(isinstance(m, (RankingMetric, LabelMetric)) for m in metrics):
        per_user = evaluate_users(scorer, dls, metrics, k, split, **kwargs)
        if by is not None:
            return _by_group(per_user, catalog, by, split)
        groups = cold_groups(scorer, catalog, catalog.vocab['user'].encode(per_user.index))
        res = pd.DataFrame(
            [dict(users=int(m.sum()), **per_user[m].mean()) for m in groups.values()], index=list(groups)
        )
        for name, value in per_user.attrs['overall'].items():
            res[name] = pd.Series({'all': value})
        if 'one_class' in per_user.attrs:
            res.insert(1, 'one_class', pd.Series({'all': per_user.attrs['one_class']}))
        return res
    if by is not None:
        raise ValueError(
            'by= groups users, which ranking metrics are means over; errors are told apart as warm and cold'
        )
    inter, rows = _held_out(catalog, split)
    if split != 'train':
        check_leakage(scorer, catalog, rows)
    if scorer.scale != 'rating':
        raise ValueError(
            f'{type(scorer).__name__} scores on the scale {scorer.scale!r}, not as ratings: its errors would mean nothing. Rank with it: metrics=[hr(10), ndcg(10)]'
        )
    users, items = inter.users[rows].astype(np.int64), inter.items[rows].astype(np.int64)
    scores = scorer.score_rows(inter, rows).cpu()
    target = torch.from_numpy(inter.ratings[rows])
    groups = cold_groups(scorer, catalog, users, items)
    return pd.DataFrame(
        [
            dict(rows=int(m.sum()), **{f.__name__: f(scores[m], target[m]).item() for f in metrics})
            for m in groups.values()
        ],
        index=list(groups),
    )


def _default_metrics(catalog, scorer):
    if (
        catalog.require_history().interactions.weights is None
        and catalog.thresholds is None
        and scorer.scale == 'rating'
    ):
        return [_metrics.rmse, _metrics.mae]
    if catalog.thresholds is not None:
        decide = (
            [_metrics.f1_score(), _metrics.precision_score(), _metrics.recall_score(), _metrics.accuracy_score()]
            if scorer.scale != 'rank'
            else []
        )
        return [_metrics.roc_auc_score(), *decide, _metrics.ndcg_score()]
    return [_metrics.hr(10), _metrics.ndcg(10)]


def evaluate_users(
    scorer,
    dls=None,
    metrics=None,
    k=None,
    split: str = 'valid',
    relevant: float = None,  # explicit ratings: held-out ratings from it on are relevant
    n_candidates: int = None,  # rank the held-out items among so many unseen ones drawn at random, in place of the whole catalogue
    candidates=None,  # table (user, item): rank the held-out items among these only
    users=None,  # user ids, or how many to draw at random (by `seed`); by default all with a held-out item
    vectors=None,  # tensor (n_items, d) in code order that says how alike items are, for diversity and serendipity; by default who has them in training
    seed: int = 0,
) -> pd.DataFrame:
    """Metrics per user, of ranking or of labels, indexed by user id; the first arguments are those of `evaluate`. A sampled protocol is named in the columns: 'hr@10 (1+99 sampled)'.

    Metrics of all lists or rows together (coverage, gini, pooled ones) are in `.attrs['overall']`; `.attrs['one_class']` counts the users left out of label metrics, since all
    their held-out rows are liked, or none.
    """
    if metrics is None:
        metrics = (
            _default_metrics((dls or scorer).catalog, scorer)
            if (dls or scorer).catalog.thresholds is not None
            else [_metrics.hr(10), _metrics.ndcg(10)]
        )
    metrics = as_metrics(metrics)
    if labels := [m for m in metrics if isinstance(m, LabelMetric)]:
        return _label_users(
            scorer,
            dls,
            labels,
            [m for m in metrics if m not in labels],
            split,
            users,
            seed,
            k=k,
            relevant=relevant,
            n_candidates=n_candidates,
            candidates=candidates,
            vectors=vectors,
        )
    if others := [m for m in metrics if not isinstance(m, RankingMetric)]:
        raise TypeError(f'errors and ranking metrics are evaluated apart; no ranking metric: {first_few(others)}')
    if k is not None:
        metrics = list(dict.fromkeys(m.at(o) for m in metrics for o in ([k] if np.isscalar(k) else k)))
    lists, ranked = (
        [m for m in metrics if isinstance(m, ListMetric)],
        [m for m in metrics if not isinstance(m, ListMetric)],
    )
    if lists and (n_candidates is not None or candidates is not None):
        raise ValueError(
            f'{first_few(lists)} look at recommendations from the whole catalogue: leave out n_candidates and candidates'
        )
    codes, ranks, top = rank_held_out(
        scorer,
        dls,
        split,
        relevant,
        n_candidates,
        candidates,
        users,
        seed,
        k=max([m.k for m in lists], default=0),
        cut=max(np.inf if m.k is None else int(m.k) for m in ranked) if ranked else 1,
    )
    label = (
        ''
        if n_candidates is None and candidates is None
        else f' (1+{n_candidates} sampled)'
        if n_candidates is not None
        else ' (given candidates)'
    )
    catalog = (dls or scorer).catalog
    res = pd.DataFrame(
        {m.name + label: m(ranks).numpy() for m in ranked},
        index=pd.Index(catalog.vocab['user'].decode(codes), name='user'),
    )
    res.attrs['overall'] = {}
    for m in lists:
        value = m(_top_k(catalog, codes, top[:, : m.k], split, relevant, vectors))
        if m.overall:
            res.attrs['overall'][m.name] = value.item()
        else:
            res[m.name] = value.numpy()
    return res


def _label_users(scorer, dls, metrics, others, split, users, seed, **kwargs):
    """`evaluate_users` of label metrics, beside ranking metrics `others`."""
    codes, labelled = label_held_out(scorer, dls, split, users, seed)
    catalog = (dls or scorer).catalog
    own, pooled = [m for m in metrics if not m.pooled], [m for m in metrics if m.pooled]
    res = pd.DataFrame(
        {m.name: m(labelled).numpy() for m in own}, index=pd.Index(catalog.vocab['user'].decode(codes), name='user')
    )
    two = ~labelled.one_class.numpy()
    attrs = dict(overall={m.name: m(labelled).item() for m in pooled}, one_class=int((~two).sum()))
    if own:
        res = res[two]
    if own and not two.any():
        raise ValueError(
            f'all of the {len(codes):,} users have held-out rows of one class only (all liked, or none): there is nothing to tell apart. Hold out more rows, or use pooled metrics'
        )
    if others:
        ranked = evaluate_users(scorer, dls, others, split=split, users=users, seed=seed, **kwargs)
        attrs['overall'].update(ranked.attrs['overall'])
        res = pd.concat([res, ranked], axis=1).sort_index()
        res.index.name = 'user'
    res.attrs = attrs
    return res


def label_held_out(scorer, dls=None, split='valid', users=None, seed=0):
    """-> codes of users with held-out rows (n,), and the `Labelled` of those rows; arguments as in `evaluate_users`. The labels are those of loaders made with `target='liked'`."""
    catalog = (dls or scorer).catalog
    inter, rows = _held_out(catalog, split)
    if catalog.thresholds is None:
        raise ValueError(
            "these metrics ask whether users like what was held out: make the loaders with RecDataLoaders.from_df(..., target='liked')"
        )
    if split != 'train':
        check_leakage(scorer, catalog, rows)
    codes = _chosen(catalog, inter, rows, users, seed)
    if users is not None:
        rows = rows[np.isin(inter.users[rows], codes)]
    pairs = [torch.from_numpy(o[rows].astype(np.int64)) for o in (inter.users, inter.items)]
    scores = scorer.score_rows(inter, rows).float().cpu()
    if torch.isnan(scores).any():
        raise ValueError(f'{type(scorer).__name__} gave scores that are not numbers: did training diverge?')
    return codes, labelled(scorer, catalog, pairs[0], scores, torch.from_numpy(catalog.liked(rows)))


def labelled(scorer, catalog, users, scores, labels):
    """`Labelled` of scores (n,) and labels (n,) of pairs whose users have the codes (n,): what a score says of 'liked' depends on the scorer's scale."""
    cut = {'probability': 0.5, 'rating': torch.from_numpy(catalog.thresholds)[users]}.get(scorer.scale, 0.0)
    at = torch.unique(users, return_inverse=True)[1]
    return Labelled(
        scores.double() - cut, labels.bool(), at, int(at.max()) + 1 if len(at) else 0, scorer.scale != 'rank'
    )


def _top_k(catalog, codes, items, split, relevant, vectors):
    """What `ListMetric`s look at, for the lists `items` (len(codes), k)."""
    inter, rows = _held_out(catalog, split)
    rows, owned = _relevant(catalog, rows, relevant), catalog.require_history().positives
    pairs = np.sort(inter.users[rows].astype(np.int64) * catalog.n_items + inter.items[rows])
    keys = codes[:, None] * catalog.n_items + items.numpy()
    hit = (items.numpy() >= 0) & (pairs[np.searchsorted(pairs, keys).clip(max=len(pairs) - 1)] == keys)
    counts = torch.from_numpy(catalog.counts['item'].astype(np.float32))
    n = np.maximum(np.diff(owned.indptr)[codes], 1)
    pattern = csr_matrix((np.ones(owned.nnz, np.float32), owned.indices, owned.indptr), shape=owned.shape)
    seen = (pattern[codes] @ counts.numpy()) / n
    cosines, near = _cosines(catalog, pattern, pattern[codes], n, items, vectors)
    return TopK(
        items,
        torch.from_numpy(hit),
        counts,
        torch.from_numpy(seen).double(),
        cosines,
        near,
        int(catalog.known('user').sum()),
    )


def _cosines(catalog, pattern, owned, n, items, vectors):
    """-> cosines (n_users, k, k) between the items of each list, and their mean cosine (n_users, k) with the n items that the user has (`owned`)."""
    at = items.clamp(min=0)
    if (
        vectors is None
    ):  # who has the items: by the Gram matrix of the columns, since the columns themselves are as long as there are users
        if catalog.n_items > GRAM_LIMIT:
            raise ValueError(
                f'diversity and serendipity of {catalog.n_items:,} items need vectors= to say how alike items are (such as learn.vectors()): the table of who has both would not fit'
            )
        norms = np.sqrt(np.maximum(catalog.counts['item'], 1))
        gram = torch.from_numpy(((pattern.T @ pattern).toarray() / np.outer(norms, norms)).astype(np.float32))
        near = torch.stack([torch.from_numpy(np.asarray(row @ gram.numpy()).ravel())[i] for row, i in zip(owned, at)])
        cosines = gram[at[:, :, None], at[:, None]]
    else:
        v = torch.nn.functional.normalize(torch.as_tensor(vectors).detach().float().cpu(), dim=1)
        near = (v[at] * torch.from_numpy(np.asarray(owned @ v.numpy()))[:, None]).sum(2)
        cosines = v[at] @ v[at].transpose(1, 2)
    return cosines.double(), near.double() / torch.from_numpy(n)[:, None]


def _by_group(per_user, catalog, by, split):
    """Means of quarters of the users."""
    codes = catalog.vocab['user'].encode(per_user.index)
    inter, rows = _held_out(catalog, split)
    if by == 'history':
        values = catalog.counts['user'][codes]
    elif by == 'popularity':
        popularity = np.bincount(
            inter.users[rows], catalog.counts['item'][inter.items[rows]], catalog.n_users
        ) / np.maximum(inter.counts('user', rows), 1)
        values = popularity[codes]
    else:
        raise ValueError(f"by={by!r}: 'history' or 'popularity'")
    groups = pd.qcut(values, 4, duplicates='drop', precision=0)
    res = per_user.groupby(np.asarray(groups), observed=True).mean()
    res.insert(0, 'users', per_user.groupby(np.asarray(groups), observed=True).size())
    res.index.name = 'training rows of the user' if by == 'history' else 'training rows of the held-out items'
    return res


def rank_held_out(
    scorer,
    dls=None,
    split='valid',
    relevant=None,
    n_candidates=None,
    candidates=None,
    users=None,
    seed=0,
    k=0,
    cut=np.inf,
):
    """-> codes of users with held-out items (n,), `Ranks` of those items, and the first `k` recommendations (n, k), -1 where there are fewer; arguments as in `evaluate_users`.

    Candidates are all items but those of the training rows (split='test': nor of the valid rows). Users go through in chunks of a fixed memory budget. Ranks beyond `cut` may be
    inf, which spares counting them out.
    """
    catalog = (dls or scorer).catalog
    inter, rows = _held_out(catalog, split)
    if split == 'train':
        raise ValueError("training rows are masked when ranking: choose split='valid' or 'test'")
    rows = _relevant(catalog, rows, relevant)
    check_leakage(scorer, catalog, rows)
    wanted = _chosen(catalog, inter, rows, users, seed)
    masked = (
        catalog.require_history().seen
        if split == 'valid'
        else catalog.history.matrix(np.concatenate([catalog.split.train, catalog.split.valid]))
    )
    held = csr_matrix((np.ones(len(rows), np.int8), (inter.users[rows], inter.items[rows])), shape=masked.shape)
    given = None if candidates is None else seen_matrix(catalog, candidates, unknown='raise')
    if n_candidates is not None:
        if given is not None:
            raise ValueError('give n_candidates or candidates, not both')
        everything = masked + held  # what is seen or held out is no negative
        sampler, generator = NegativeSampler(everything), torch.Generator().manual_seed(seed)
        if (left := sampler.left()[wanted]).min() < n_candidates:
            raise ValueError(
                f'n_candidates={n_candidates}: {int((left < n_candidates).sum()):,} users have fewer unseen items (the fewest: {left.min()}). Take less, or the whole catalogue'
            )
    whole = n_candidates is None and given is None
    rank = ranker_for(scorer, len(wanted)) if whole else None
    parts, tops, step = [], [], users_at_a_time(rank, catalog.n_items)
    first = max(
        k, cut if cut < catalog.n_items else 1
    )  # of each list: to tell whether an item is among them, and to find scores that are not numbers
    with scorer.inference(), Progress(len(wanted), 'evaluating', 'users', scorer.shows_progress) as progress:
        for at in range(0, len(wanted), step):
            codes = wanted[at : at + step]
            scores = (rank or scorer.score_items)(torch.from_numpy(codes)).float()
            b, i = _pairs(held[codes], scores.device)
            if whole:
                mask = masked[codes]
                mask_seen(scores, mask)
                n = torch.from_numpy(catalog.n_items - np.diff(mask.indptr).astype(np.int64))
            else:
                keep = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
                keep[b, i] = True
                if given is None:
                    keep.scatter_(
                        1, sampler.sample(torch.from_numpy(codes), n_candidates, generator).to(scores.device), True
                    )
                else:
                    keep[_pairs(given[codes], scores.device)] = True
                scores, n = torch.where(keep, scores, -torch.inf), None
            values, items = top_k(scores, first)
            if torch.isnan(values).any():
                raise ValueError(
                    f'{type(scorer).__name__} gave scores that are not numbers: did training diverge?'
                )  # they come out on top
            parts.append(Ranks.of(scores, b, i, values[:, cut - 1] if cut <= values.shape[1] else None, n))
            if k:
                tops.append(torch.where(torch.isfinite(values), items, -1)[:, :k].cpu())
            progress.update(len(codes))
    shift = np.cumsum([0] + [len(p.n_candidates) for p in parts])
    cat = lambda values: torch.cat(list(values))
    return (
        wanted,
        Ranks(
            cat(p.ranks for p in parts),
            cat(p.users + int(s) for p, s in zip(parts, shift)),
            cat(p.n_candidates for p in parts),
        ),
        torch.cat(tops) if k else None,
    )


def _pairs(matrix, device):
    """(row, column) of the stored entries of a CSR matrix, int64."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    return torch.from_numpy(rows).to(device), torch.from_numpy(matrix.indices.astype(np.int64)).to(device)


def _relevant(catalog, rows, relevant):
    inter = catalog.interactions
    if relevant is None and catalog.thresholds is not None:
        res = rows[catalog.liked(rows)]
    elif inter.weights is not None:
        if relevant is not None:
            raise ValueError(
                'relevant= is for explicit ratings; of implicit feedback the positives are relevant (threshold= when the loaders are made)'
            )
        res = inter.positive(rows)
    elif relevant is None:
        raise ValueError(
            f'ranking on explicit ratings: say which held-out ratings are relevant, e.g. relevant={inter.ratings.max() - 1:g}, in the training table cbs=RankingCallback([ndcg(10)], relevant={inter.ratings.max() - 1:g}) (they run from {inter.ratings.min():g} to {inter.ratings.max():g})'
        )
    else:
        res = rows[inter.ratings[rows] >= relevant]
    if not len(res):
        raise ValueError(
            f'none of the {len(rows):,} held-out rows is relevant'
            + (f': no rating reaches {relevant:g}' if relevant is not None else '')
        )
    return res


def _chosen(catalog, inter, rows, users, seed):
    """Codes of the users to evaluate, ascending."""
    with_items = np.unique(inter.users[rows]).astype(np.int64)
    if users is None:
        return with_items
    if np.isscalar(users) and not isinstance(users, str):
        return np.sort(np.random.default_rng(seed).choice(with_items, min(int(users), len(with_items)), replace=False))
    codes = np.unique(catalog.vocab['user'].encode(users))
    if len(bad := np.setdiff1d(codes, with_items)):
        raise ValueError(
            f'{len(bad):,} of the users have no held-out item to rank: {first_few(catalog.vocab["user"].decode(bad))}'
        )
    return codes
