"""Learning rates and numbers of epochs that suit a builder and what its loaders are made for.

The rate is of one cycle, and depends on the batch size above all. Ten epochs of 90,000 ratings are 14,000 steps of 64
rows and 440 of 2048: with fewer steps each has to go further, and can, since its gradient is less noisy. Between the
two the best rate grows by about 4, from 2.4e-3 to 1e-2 (`collab_learner` on ML-100K), which is the power 0.4 of the
batch size. With negatives that are drawn it grows faster, nearly with the number of rows: from about 6e-3 at 256 to
2.2e-2 at 2048 (`gmf_learner`, `collab_learner`) and from 7e-3 to 4.8e-2 (`neumf_learner`), the power 0.75. These models
have to leave what is popular behind, and with too low a rate a cycle ends before they have.

Around the best rate of ratings errors differ little: half and twice of it cost 0.3 to 1%. For negatives it has to be
met more closely: NDCG@10 is 1 to 20% lower there.

How they were chosen: on validation rows of MovieLens 100K and latest-small, of ratings at 64 and 2048 rows, of clicks
at 256 and 2048, by `benchmarks/learning_rate.py`, which prints how far from the best they are; goals and builders it
has no row for have the rate of a related one. Epochs are where validation errors stop falling on these tables, of
100,000 rows. For much larger and smaller ones they are a start, and the column of validation losses tells: where it
rises before the end (`mlp_learner` and `content_learner` are the first to learn training rows by heart) take fewer,
where it still falls more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from .batches import InBatchDL
from .dataloaders import RecDataLoaders

__all__ = ['Recipe', 'recipe_of']

BATCH = 256  # batch size that the rates of `RECIPES` are for; of a catalogue `USERS`
USERS = 32
POWER = 0.4  # the rate grows with this power of the batch size
POWER_DRAWN = 0.75  # and with this one where negatives are drawn, or are those of the batch


@dataclass(frozen=True)
class Recipe:
    """How to train: `learn.fit_one_cycle(recipe.n_epoch, recipe.lr)`."""

    lr: float  # highest rate of one cycle
    n_epoch: int  # epochs of that cycle


USUAL = dict(
    rating=Recipe(4e-3, 10),
    liked=Recipe(4e-3, 5),
    negatives=Recipe(5.5e-3, 8),
    in_batch=Recipe(5e-3, 5),
    catalogue=Recipe(1e-2, 12),
)
# builder -> goal -> rate at the reference batch size, and epochs
RECIPES: Mapping[str, Mapping[str, Recipe]] = dict(
    rec_learner=USUAL,
    collab_learner=USUAL,
    svdpp_learner={**USUAL, 'rating': Recipe(4e-3, 15), 'catalogue': Recipe(5e-3, 20)},
    mlp_learner={**USUAL, 'rating': Recipe(4e-3, 3), 'liked': Recipe(4e-3, 3), 'negatives': Recipe(1e-2, 5)},
    gmf_learner=USUAL,
    neumf_learner={**USUAL, 'negatives': Recipe(1e-2, 5)},
    two_tower_learner={**USUAL, 'negatives': Recipe(5e-3, 5)},
    content_learner={**USUAL, 'rating': Recipe(5e-3, 5), 'liked': Recipe(1e-2, 3), 'negatives': Recipe(5e-3, 5)},
    gated_learner={**USUAL, 'rating': Recipe(8e-3, 8), 'liked': Recipe(8e-3, 5)},
)


def goal_of(dls: RecDataLoaders) -> str:
    """'rating', 'liked', or of implicit feedback 'catalogue' (`n_neg=None`) or 'negatives' (drawn, or the batch's)."""
    if dls.target in ('rating', 'liked'):
        return dls.target
    return 'catalogue' if dls.objective == 'catalogue' else 'negatives'


def recipe_of(
    builder: Callable | str,  # e.g. `collab_learner`, also as `partial(collab_learner, ...)`, or its name
    dls: RecDataLoaders,  # the loaders that it is given
) -> Recipe:
    """The default learning rate and number of epochs of `builder(dls)`.

    A builder of your own, which has no recipe, gets that of `rec_learner`. The rates of `RECIPES` are for batches of
    256 rows, over the whole catalogue of 32 users, and grow with the power 0.4 of the batch size; with negatives, drawn
    or of the batch, with the power 0.75.
    """
    while isinstance(builder, partial):
        builder = builder.func
    name = (
        builder if isinstance(builder, str) else getattr(builder, '__name__', '')
    )  # an object that is called has none
    goal = 'in_batch' if isinstance(dls.train, InBatchDL) else goal_of(dls)
    recipe = RECIPES.get(name, USUAL)[goal]
    scale = dls.train.bs / (USERS if goal == 'catalogue' else BATCH)
    power = POWER_DRAWN if goal in ('negatives', 'in_batch') else POWER
    return Recipe(float(f'{recipe.lr * scale**power:.2g}'), recipe.n_epoch)
