"""What of an item's own features a score comes from: which words, genres, pictures.

`scorer` is here whatever keeps the contract of `Scorer`, which stands above this room and calls it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd
import torch
from scipy.sparse import csr_matrix
from torch import nn

from ..models.blocks import FeatureLinear
from ..models.gated import GatedHybrid
from ..models.svdpp import SVDpp
from .carried import in_order, shares
from .recommend import require_numbers

__all__: list[str] = []


class Part(NamedTuple):
    """One thing that an item's features say."""

    block: str  # name of the block
    value: str  # word, genre, ...; '' of a block that goes in as a whole
    added: torch.Tensor  # (n_out,): what it adds to the first layer


def feature_parts(scorer: Any, user: int, item: int, k: int | None) -> pd.DataFrame:
    """The table of `because(by='features')` for codes of a user and an item; `TypeError` where no features are read."""
    if scorer.model is None or not scorer.rec_model.feature_layers('item'):
        name = type(scorer.model or scorer).__name__
        raise TypeError(
            f"{name} reads no features of items: because(user, item) tells it by the user's items. "
            'content_learner and gated_learner read features'
        )
    with scorer.inference() as device:
        model = scorer.rec_model
        rows: list[tuple[str, str, float]] = []
        score = _score(model, user, item, device)
        if isinstance(model, GatedHybrid):
            rows.append(('id', '', _of_id(model, user, item, device)))
        for layer in model.feature_layers('item'):
            for part in _parts(scorer, layer, item):
                rows.append((part.block, part.value, score - _score_without(model, layer, part, user, item, device)))
    require_numbers(torch.tensor([score, *(o[2] for o in rows)]))
    res = pd.DataFrame(rows, columns=['feature', 'value', 'contribution'])
    parts = res['contribution'].to_numpy()
    res.insert(2, 'share', shares(parts))
    res = res.iloc[in_order(parts)[:k]].reset_index(drop=True)
    res.attrs.update(score=score, base=score - float(parts.sum()), method='deletion')
    return res


def _score(model: Any, user: int, item: int, device: torch.device) -> float:
    """The score of a pair of codes."""
    return model(*(torch.tensor([code], device=device) for code in (user, item))).item()


def _parts(scorer: Any, layer: FeatureLinear, item: int) -> Iterator[Part]:
    """What the features of an item (a code) add to the first layer, one by one."""
    named = {} if scorer.item_features is None else scorer.item_features.blocks
    for (name, (_, _, sparse), columns), block in zip(
        zip(layer.names, layer.kinds, layer.columns()), layer.blocks().values()
    ):
        if not block.present[item]:
            continue
        if not sparse:
            assert layer.dense_weight is not None  # the block has columns there
            yield Part(name, '', layer.dense[item, columns] @ layer.dense_weight[columns])
            continue
        assert layer.weight is not None
        row = csr_matrix(block.values[item])
        names = named[name].names if name in named else None
        for column, value in zip(row.indices, row.data):
            shown = str(names[column]) if names else f'column {column}'
            yield Part(name, shown, float(value) * layer.weight[columns][column])


def _score_without(model: Any, layer: FeatureLinear, part: Part, user: int, item: int, device: torch.device) -> float:
    """The score of a pair without one part of the item's features."""
    if isinstance(model, SVDpp):  # linear in the features, and its vectors are kept between calls
        x = (model.vectors('user')[user] * part.added[:-1]).sum() + part.added[-1]
        score = torch.tensor(_score(model, user, item, device), dtype=torch.float64)
        if model.y_range is None:
            return float(score - x)
        low, high = model.y_range
        return float(model.in_range(torch.logit((score - low) / (high - low)) - x))

    def without(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        """The output of the layer, at the rows of the item without what the part adds."""
        if args and args[0] is not None:
            return output - (args[0] == item)[..., None] * part.added
        output = output.clone()
        output[item] -= part.added
        return output

    handle = layer.register_forward_hook(without)  # of the view that this thread scores through
    try:
        return _score(model, user, item, device)
    finally:
        handle.remove()


def _of_id(model: GatedHybrid, user: int, item: int, device: torch.device) -> float:
    """What the id's pathway, that is the item's ratings, brings: on the scale of the scores."""
    users, items = (torch.tensor([code], device=device) for code in (user, item))
    of_id = model.contributions(users, items)[0, 0, 0]
    score = model(users, items)[0].double()
    if model.y_range is None:
        return of_id.item()
    low, high = model.y_range
    before = torch.logit((score - low) / (high - low))
    return float(score - model.in_range(before - of_id))
