"What is similar to what: exact nearest neighbours over learned vectors."
from __future__ import annotations

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from .interactions import _some

__all__ = ['similar']


def similar(scorer, query, k:int=10, side:str='item')->pd.DataFrame:
    """The `k` nearest users or items of `query` by cosine of their vectors: the id, title (items), score in [-1, 1], rank, and the query's own id.

    `query` is an id, for items also a title or a part of a title that matches one; a list gives `k` rows each. Rows without
    training data are neither asked nor answered: their vector says nothing about them.
    """
    catalog = scorer.catalog
    if int(k) != k or k < 1: raise ValueError(f'k={k}: ask for at least one {side}')
    codes = catalog.find_all(query, side)
    known = catalog.known(side)
    if not known[codes].all():
        ids = catalog.vocab[side].decode(codes[~known[codes]])
        raise KeyError(f'{side} {_some(ids)} has no training row, so the model has learned nothing about what is similar to it')
    vectors = F.normalize(scorer.vectors(side).float(), dim=1)
    at = torch.from_numpy(codes).to(vectors.device)
    scores = vectors[at] @ vectors.T
    scores[:, torch.from_numpy(~known).to(vectors.device)] = -torch.inf
    scores[torch.arange(len(at)), at] = -torch.inf
    top, found = scores.topk(min(k, len(known)), dim=1)
    top, found = top.cpu().numpy(), found.cpu().numpy()
    b, r = np.nonzero(np.isfinite(top))
    ids = catalog.vocab[side]
    df = pd.DataFrame({f'query_{side}': ids.decode(codes[b]), side: ids.decode(found[b, r]), 'score': top[b, r], 'rank': r + 1})
    if side == 'item' and catalog.title_name is not None: df.insert(2, 'title', catalog.titles(found[b, r]))
    return df
