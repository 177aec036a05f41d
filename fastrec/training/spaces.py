"""What a search over a builder's arguments goes through where it is not told: a space for each builder and goal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .dataloaders import RecDataLoaders
from .recipes import goal_of, recipe_of

__all__: list[str] = []

WITHOUT_DECAY = [0.0, 1e-4, 1e-3, 1e-2]  # weight decays where the default one is 0
DECAY_FACTOR = 5.0  # others lie within this factor of the default one, on both sides
RATE_FACTOR = 3.0  # rates within this factor of the recipe's

Arguments = Mapping[str, tuple[Any, Any]]
FACTORS_50: Arguments = dict(n_factors=(50, [20, 50, 100]))
FACTORS_64: Arguments = dict(n_factors=(64, [32, 64, 128]))
FACTORS_32: Arguments = dict(n_factors=(32, [16, 32, 64]))
OF_MLP: Arguments = dict(n_factors=(16, [8, 16, 32]))
# builder -> goal, or 'all' -> argument -> the builder's own value, and what to choose from, as in `tune_learner`
ARGUMENTS: Mapping[str, Mapping[str, Arguments]] = dict(
    collab_learner=dict(all=FACTORS_50),
    svdpp_learner=dict(
        rating={**FACTORS_50, 'leave_one_out': (True, [True, False])},
        liked={**FACTORS_50, 'dropout': (0.0, (0.0, 0.6))},
        all={'n_factors': (50, [50, 100, 200]), 'dropout': (0.4, (0.0, 0.8))},
    ),
    mlp_learner=dict(
        negatives={**OF_MLP, 'dropout': (0.0, (0.0, 0.6))},
        all={**OF_MLP, 'dropout': (0.5, (0.0, 0.7))},
    ),
    gmf_learner=dict(all=FACTORS_32),
    neumf_learner=dict(all={**FACTORS_32, 'dropout': (0.0, (0.0, 0.5))}),
    two_tower_learner=dict(
        all={**FACTORS_64, 'temperature': (0.1, (0.03, 0.3, 'log')), 'id_dropout': (0.1, (0.0, 0.5))}
    ),
    content_learner=dict(all={**FACTORS_64, 'hidden': (256, [0, 128, 256]), 'dropout': (0.2, (0.0, 0.6))}),
    gated_learner=dict(
        all={
            **FACTORS_50,
            'dropout': (0.2, (0.0, 0.6)),
            'id_dropout': (0.2, (0.0, 0.5)),
            'shrinkage': (8.0, (2.0, 32.0, 'log')),
        }
    ),
)


def default_space(
    builder: Callable,  # e.g. `svdpp_learner`, also as `partial(svdpp_learner, ...)`
    dls: RecDataLoaders,  # the loaders that it is given
    arguments: Mapping[str, Any],  # of the builder, which are not searched
    of_fit: Mapping[str, Any],  # epochs and rate that are not searched
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What to choose from by argument, as `tune_learner` takes it, and the defaults, which are the first trial.

    Rates and epochs around those of the recipe (`recipe_of`); of the builders of the library also the weight decay,
    around its default, and what else matters most. Of a builder of your own, rates and epochs alone.
    """
    fixed = {**arguments, **of_fit}
    named = builder
    while isinstance(named, partial):
        fixed = {**named.keywords, **fixed}
        named = named.func
    recipe = recipe_of(builder, dls)
    both: dict[str, tuple[Any, Any]] = {}
    of_builder = ARGUMENTS.get(getattr(named, '__name__', ''))  # an object that is called has no name
    if of_builder is not None:
        both.update(of_builder.get(goal_of(dls), of_builder['all']))
        if 'wd' not in fixed:
            wd = float(builder(dls, **arguments).wd)
            both['wd'] = (wd, (wd / DECAY_FACTOR, wd * DECAY_FACTOR, 'log')) if wd else (0.0, WITHOUT_DECAY)
    both['lr'] = (recipe.lr, (recipe.lr / RATE_FACTOR, recipe.lr * RATE_FACTOR, 'log'))
    n = recipe.n_epoch
    both['n_epoch'] = (n, sorted({max(1, n // 2), n, 2 * n}))
    searched = {name: o for name, o in both.items() if name not in fixed}
    return {name: choice for name, (_, choice) in searched.items()}, {name: own for name, (own, _) in searched.items()}
