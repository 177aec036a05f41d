"""What to begin with: the models that suit the loaders, side by side on held-out rows, within a budget of time."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from ..data.columns import first_few
from ..data.features import Features, ItemFeatures, UserFeatures
from ..evaluation.compare import compare_models, plot_comparison
from ..evaluation.evaluate import evaluate, evaluate_users
from ..evaluation.metrics import RankingMetric, hr, lower_is_better, mae, ndcg, ndcg_score, rmse, roc_auc_score
from ..evaluation.named import as_metrics, metric_name
from ..keywords import check_arguments, require_known
from ..progress import Progress, show_progress
from ..scorers.blend import Blend, Ensemble
from ..scorers.scorer import Scorer
from .candidates import Candidate, candidates_for
from .checks import check_held_out, check_loaders
from .clock import Clock, InTime, OutOfTimeError, seconds_of
from .dataloaders import RecDataLoaders
from .learner import RecLearner
from .recipes import Recipe

__all__ = ['QuickComparison', 'quick_compare']

SOME_USERS = 256  # whose lists are timed before those of all are made
SHARES = (0.5, 0.7, 0.3)  # of the best one in a blend with the best of another kind


@check_arguments
def quick_compare(
    dls: RecDataLoaders,  # what they are made for, ratings, likes or clicks, says which models are tried
    budget: str | float | None = '5min',  # time for all of it: '90s', '5min', '1h', seconds; None: as long as it takes
    # by default rmse and mae of ratings, roc_auc and ndcg of likes, ndcg@10 and hr@10 of clicks; the first one decides
    metrics: Any = None,
    item_features: ItemFeatures | None = None,  # what is known of items: models that read it are tried, too
    user_features: UserFeatures | None = None,  # the same of users
    # names of those to try, or a `Candidate` of your own, or both; None: all that suit
    candidates: Iterable[str | Candidate] | None = None,
    seed: int = 0,  # of the training of each, and of the bootstrap samples
    plot: bool = False,  # draw the bars with intervals, too
    **kwargs,  # of `compare_models`: relevant, n_candidates, users, n_boot, level, ...
) -> QuickComparison:
    """The models that suit the loaders, each trained by its default recipe and judged on the valid rows.

    `found = quick_compare(dls)` shows a table, best first; `found.best` is fitted, `print(found.code)` are the lines
    that make it, `found.test()` is the table on test rows, which are looked at nowhere else.

    Baselines go first, then what costs more. Learners that need other loaders get them of the same rows and split
    (`dls.remade`). What would take longer than what is left of the budget is not run, or ended once that is seen; what
    would take more memory than there is, or cannot be made of these data, is left out; the column `note` says which and
    why. At last the best one and the best one of another kind are put together. All is seeded: two runs with enough
    time find the same.

    `ValueError` where no rows are held out to choose on, and where nothing could be fitted.
    """
    check_loaders(dls)
    require_known(kwargs, compare_models, 'quick_compare', beside=evaluate_users)
    check_held_out(dls)
    seconds = seconds_of(budget)
    features = _features(item_features, user_features)
    tried = _asked_for(dls, candidates, tuple(features))
    chosen = _metrics_for(dls, metrics)
    run = _Run(dls, features, chosen, seed, kwargs, Clock(seconds))
    with Progress(len(tried) + 1, 'comparing', 'models', at_once=True) as bar, show_progress(False):
        for candidate in tried:
            run.add(candidate)
            bar.update()
        if not run.entries:
            reasons = '; '.join(f'{name}: {note}' for name, note in run.notes.items())
            raise ValueError(f'none of {len(tried)} models could be fitted. {reasons}')
        run.add_blend()
        bar.update()
    result = run.result()
    if plot:
        result.plot()
    return result


# --- what comes out


@dataclass(frozen=True)
class _Entry:
    """A fitted model of the comparison."""

    name: str
    scorer: Scorer
    value: float  # of the metric that decides
    seconds: float  # of fitting it
    code: str  # lines that make it, as the variable `learn`
    kind: str  # what made it


class QuickComparison:
    """What `quick_compare` found.

    `table`: a row per model, best first, with the metric that decides, its interval and p against the best one
    (`compare_models`), the other metrics, seconds, the lines that make it (`code`), and a `note` for those that did not
    run. `best` is the fitted winner, `scorers` all of them by name, `comparison` the whole table of `compare_models`.
    """

    def __init__(
        self,
        table: pd.DataFrame,  # a row per model, best first
        comparison: pd.DataFrame,  # of `compare_models` on the valid rows
        scorers: dict[str, Scorer],  # name -> fitted model
        dls: RecDataLoaders,  # loaders that were compared on
        metrics: list,  # the first one decides
        options: dict[str, Any],  # of `compare_models`
    ) -> None:
        self.table = table
        self.comparison = comparison
        self.scorers = scorers
        self.dls = dls
        self.metrics = metrics
        self.options = options

    @property
    def name(self) -> str:
        """What the best one is called."""
        return str(self.table.index[0])

    @property
    def best(self) -> Scorer:
        """The best one on the valid rows, fitted."""
        return self.scorers[self.name]

    @property
    def code(self) -> str:
        """The lines that make the best one, given `dls` and what features it reads."""
        return str(self.table['code'].iloc[0])

    def test(self) -> pd.DataFrame:
        """`compare_models` of all on the test rows, which took no part in the choice: look once, at the end.

        `ValueError` where the loaders have none.
        """
        if len(self.dls.loaders) < 3:
            raise ValueError(
                'these loaders have no test rows: make them with a splitter that holds some out beside the valid ones, '
                'e.g. LeaveLastSplitter(1, n_test=1) or TimeSplitter(.1, test_pct=.1)'
            )
        return compare_models(self.scorers, self.dls, self.metrics, split='test', plot=False, **self.options)

    def plot(
        self,
        axes: Any = None,  # a list of axes to draw on, one per metric; None: a figure of its own
    ) -> Any:
        """Bars with intervals of all that were fitted, a panel per metric; returns the axes."""
        return plot_comparison(self.comparison, axes)

    def _shown(self) -> pd.DataFrame:
        """The table without what is too long for a column; without notes where there are none."""
        shown = self.table.drop(columns='code')
        return shown if shown['note'].any() else shown.drop(columns='note')

    def __repr__(self) -> str:
        table = self._shown().to_string(
            float_format='{:.4f}'.format, na_rep='', formatters=dict(seconds='{:.1f}'.format)
        )
        return f'{table}\n\n{self.name}:\n{self.code}'

    def _repr_html_(self) -> str:
        formats = dict.fromkeys(self._shown().select_dtypes('number'), '{:.4f}')
        table = self._shown().style.format({**formats, 'seconds': '{:.1f}'}, na_rep='').to_html()
        return f'{table}<pre>{self.code}</pre>'


# --- the run


class _Run:
    """Fits candidates one after the other, and keeps what came of them."""

    def __init__(
        self,
        dls: RecDataLoaders,
        features: dict[str, Features],  # by side
        metrics: list,  # the first one decides
        seed: int,
        options: dict[str, Any],  # of `compare_models`
        clock: Clock,
    ) -> None:
        self.dls = dls
        self.features = features
        self.metrics = metrics
        self.seed = seed
        self.options = options
        self.clock = clock
        self.entries: dict[str, _Entry] = {}
        self.notes: dict[str, str] = {}  # of those that did not run
        history = dls.catalog.require_history()
        assert history.interactions is not None and history.split is not None  # `check_held_out` has seen to it
        self.n_users = int((history.interactions.counts('user', history.split.valid) > 0).sum())  # who are judged on

    def add(self, candidate: Candidate) -> None:
        """Fit and judge it; where that does not work, note why."""
        try:
            start = time.monotonic()
            scorer, code = self._fitted(candidate)
            self._keep(candidate.name, scorer, time.monotonic() - start, code, candidate.maker)
        except OutOfTimeError as e:
            self.notes[candidate.name] = str(e)
        except (MemoryError, ImportError, ValueError) as e:  # each says what is wrong with these data or this machine
            self.notes[candidate.name] = f'left out: {e}'

    def _fitted(self, candidate: Candidate) -> tuple[Scorer, str]:
        """The trained scorer and its code; `OutOfTimeError` where that would take longer than what is left."""
        left = self.clock.left()
        needed = 0.0 if candidate.guess is None else candidate.guess(self.dls)
        if needed > left or left <= 0:
            raise OutOfTimeError(needed, left)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            scorer = candidate.made(self.dls, self.features)
            recipe = None
            if isinstance(scorer, RecLearner) and not scorer.fits:
                recipe = candidate.recipe_for(scorer)
                self._train(scorer, recipe)
        return scorer, candidate.code(self.dls, self.features, recipe, self.seed)

    def _train(self, learn: RecLearner, recipe: Recipe) -> None:
        in_time = InTime(self.clock)
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(recipe.n_epoch, recipe.lr, cbs=in_time)
        if in_time.needed is not None:
            raise OutOfTimeError(in_time.needed, in_time.left)

    def _keep(self, name: str, scorer: Scorer, seconds: float, code: str, kind: str) -> None:
        """Judge a fitted scorer by the metric that decides, and keep it; `OutOfTimeError` where that takes too long."""
        self._check_judging(scorer)
        start = time.monotonic()
        value = self._value(scorer)
        self.clock.reserved += time.monotonic() - start  # it is evaluated again beside the others
        self.entries[name] = _Entry(name, scorer, value, seconds, code, kind)

    def _check_judging(self, scorer: Scorer) -> None:
        """`OutOfTimeError` where ranking for all users takes longer than what is left, told by some of them."""
        ranks_all = isinstance(self.metrics[0], RankingMetric) and 'users' not in self.options
        if self.clock.seconds is None or not ranks_all or self.n_users < 4 * SOME_USERS:
            return
        start = time.monotonic()
        self._value(scorer, users=SOME_USERS)
        needed = 2 * (time.monotonic() - start) * self.n_users / SOME_USERS  # now, and beside the others at the end
        left = self.clock.left()
        if needed > left:
            raise OutOfTimeError(needed, left)

    def _value(self, scorer: Scorer, **options) -> float:
        """The metric that decides, on the valid rows."""
        of_evaluation = {key: o for key, o in self.options.items() if key not in ('n_boot', 'level', 'against')}
        return float(evaluate(scorer, self.dls, self.metrics[:1], **of_evaluation, **options).loc['all'].iloc[-1])

    def in_order(self) -> list[_Entry]:
        """Those that were fitted, best first."""
        sign = 1 if self._less_is_better() else -1
        return sorted(self.entries.values(), key=lambda entry: sign * entry.value)

    def _less_is_better(self) -> bool:
        return lower_is_better(metric_name(self.metrics[0]))

    def add_blend(self) -> None:
        """The best one together with the best one of another kind, with the share of the best that does best."""
        best, *others = self.in_order()
        other = next((entry for entry in others if entry.kind != best.kind), None)
        cost = self.clock.reserved / max(1, len(self.entries))
        if other is None:
            return
        name = f'{best.name} + {other.name}'
        if self.clock.left() < 4 * cost * (len(SHARES) + 1):
            self.notes[name] = str(OutOfTimeError(4 * cost * (len(SHARES) + 1), self.clock.left()))
            return
        start = time.monotonic()
        tried: list[tuple[Scorer, str]] = []
        scorers = [best.scorer, other.scorer]
        if best.scorer.scale == other.scorer.scale != 'rank':
            tried.append((Ensemble(scorers), 'learn = Ensemble([first, second])'))
        elif self.dls.target != 'rating':
            for share in SHARES:
                weights = [share, round(1 - share, 2)]
                tried.append((Blend(scorers, weights), f'learn = Blend([first, second], {weights})'))
        if not tried:
            return
        values = [self._value(scorer) for scorer, _ in tried]
        at = min(range(len(tried)), key=lambda i: values[i] if self._less_is_better() else -values[i])
        scorer, line = tried[at]
        parts = [re.sub(r'\blearn\b', var, entry.code) for var, entry in (('first', best), ('second', other))]
        code = '\n'.join([*parts, line])
        seconds = best.seconds + other.seconds + time.monotonic() - start
        self.entries[name] = _Entry(name, scorer, values[at], seconds, code, 'blend')

    def result(self) -> QuickComparison:
        """The table of all, and what else there is."""
        order = self.in_order()
        scorers = {entry.name: entry.scorer for entry in order}
        compared = compare_models(scorers, self.dls, self.metrics, seed=self.seed, plot=False, **self.options)
        first, *more = compared.index.get_level_values('metric').unique()
        table = compared.xs(first)[['mean', 'low', 'high', 'p']].rename(columns={'mean': first})
        for metric in more:
            table[metric] = compared.xs(metric)['mean']
        table['seconds'] = [entry.seconds for entry in order]
        table['code'] = [entry.code for entry in order]
        table['note'] = ''
        table = table.sort_values(first, ascending=self._less_is_better(), kind='stable')
        for name, note in self.notes.items():
            table.loc[name, ['code', 'note']] = ['', note]
        return QuickComparison(table, compared, scorers, self.dls, self.metrics, self.options)


# --- what is asked for


def _features(item_features: Any, user_features: Any) -> dict[str, Features]:
    """Features by side; `TypeError` for what are none."""
    res: dict[str, Features] = {}
    for side, features, cls in (('item', item_features, ItemFeatures), ('user', user_features, UserFeatures)):
        if features is None:
            continue
        if not isinstance(features, cls):
            raise TypeError(
                f'{side}_features={type(features).__name__}: make them from the metadata table, '
                f'{cls.__name__}.from_df(df, ...)'
            )
        res[side] = features
    return res


def _asked_for(
    dls: RecDataLoaders, candidates: Iterable[str | Candidate] | None, sides: tuple[str, ...]
) -> list[Candidate]:
    """The candidates to try; `ValueError` for names that there are not, or that do not suit."""
    suiting = {candidate.name: candidate for candidate in candidates_for(dls) if candidate.suits(dls, sides)}
    if candidates is None:
        return list(suiting.values())
    res = []
    for asked in [candidates] if isinstance(candidates, (str, Candidate)) else candidates:
        if isinstance(asked, str) and asked not in suiting:
            raise ValueError(
                f'candidates={asked!r}: for these loaders and features there are {first_few(suiting, 20)}; '
                'a model of your own is Candidate(name, builder)'
            )
        res.append(suiting[asked] if isinstance(asked, str) else asked)
    if not res:
        raise ValueError('candidates=[] leaves nothing to compare')
    return res


def _metrics_for(dls: RecDataLoaders, metrics: Any) -> list:
    """The metrics that were asked for, or those that suit what the loaders are made for."""
    if metrics is not None:
        return as_metrics(metrics)
    if dls.target == 'rating':
        return [rmse, mae]
    return [roc_auc_score(), ndcg_score()] if dls.target == 'liked' else [ndcg(10), hr(10)]
