"""What `make demo` runs: collab on MovieLens 100K, from the rating table to recommendations and figures."""

import argparse
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from fastai.torch_core import set_seed

from fastrec.all import *

EPOCHS = 10
LR = 3e-3


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--path',
        help="folder or zip of MovieLens 100K in GroupLens' layout (without it: see fastrec.data.datasets.movielens)",
    )
    parser.add_argument('--out', default='demo-output', help='folder for the figures')
    return parser.parse_args()


def save_figure(path: Path, ax: Any = None) -> None:
    """Write the figure of `ax` (an axis or an array of them; None: the current figure) and close it."""
    axes: Any = np.ravel(plt.gca() if ax is None else ax)
    figure = axes[0].figure
    figure.savefig(path, dpi=110)
    plt.close(figure)


def print_epoch(row: list) -> None:
    """A line of what fastai logs: epoch, losses and metrics; the header is printed before."""
    if not isinstance(row[0], str):
        print(f'{row[0]:5} ' + ' '.join(f'{o:10.4f}' for o in row[1:5]))


def train(dls: RecDataLoaders, out: Path) -> RecLearner:
    """Look for a learning rate, then train."""
    learn = collab_learner(dls, n_factors=50, y_range=(0.5, 5.5), metrics=[rmse, mae])
    with learn.no_bar(), learn.no_logging():
        suggested = learn.lr_find(show_plot=False)
    print(f'lr_find suggests {suggested.valley:.1e} (valley); training with {LR:.1e}\n')
    learn.recorder.plot_lr_find()
    save_figure(out / 'lr_find.png')
    print('epoch ' + ' '.join(f'{o:>10}' for o in ('train_loss', 'valid_loss', 'rmse', 'mae')))
    learn.logger = print_epoch
    with learn.no_bar():
        learn.fit_one_cycle(EPOCHS, LR)
    learn.recorder.plot_loss()
    save_figure(out / 'losses.png')
    return learn


def compare(learn: RecLearner, dls: RecDataLoaders) -> None:
    """Print the errors beside those of baselines."""
    print('\nErrors on the held-out tenth, all models fitted to the same rows')
    models = {
        'global mean': GlobalMean().fit(dls),
        'damped biases': BiasOnly().fit(dls),
        'collab (50 factors)': learn,
    }
    table = pd.DataFrame({name: evaluate(model).loc['all'] for name, model in models.items()}).T
    table.insert(1, 'mse', table.rmse**2)
    print(table.drop(columns='rows').round(4).to_string())


def recommend_to(learn: RecLearner, user: int) -> None:
    """Print what a user rated highest, and what the model recommends."""
    print(f'\nUser {user} rated highest')
    print(learn.history(user).head(5)[['title', 'rating']].to_string(index=False))
    print('and is recommended')
    table = learn.recommend(user, k=10)
    assert isinstance(table, pd.DataFrame)  # not a path: no file was asked for
    print(table[['rank', 'title', 'score']].round(2).to_string(index=False))


def interpret(learn: RecLearner, out: Path) -> None:
    """Draw what the model has learned."""
    with learn.no_bar():
        interp = RecInterpretation.from_learner(learn)
    save_figure(out / 'biases.png', interp.plot_bias())
    save_figure(out / 'pca.png', interp.plot_pca())
    save_figure(out / 'ratings.png', interp.plot_ratings())
    print('\nNearest to Star Wars (1977): ' + ', '.join(interp.similar_items('Star Wars (1977)', 5).title))


def main() -> None:
    """From the rating table to figures."""
    args = arguments()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    set_seed(42)
    torch.set_num_threads(1)  # the tables are small: a second thread costs more than it brings
    pd.set_option('display.width', 160)
    start = time.time()

    ratings, movies = movielens('100k', args.path)
    dls = RecDataLoaders.from_df(ratings, item_df=movies, valid_pct=0.1, seed=42, path=out)
    print('MovieLens 100K, a random tenth held out (seed 42)\n' + dls.summary() + '\n')
    learn = train(dls, out)
    compare(learn, dls)
    for user in (196, 186):
        recommend_to(learn, user)
    interpret(learn, out)
    seconds = time.time() - start
    print(f'\nFigures (lr_find, losses, biases, pca, ratings) are in {out.resolve()}; {seconds:.0f} s in all')


if __name__ == '__main__':
    main()
