"""What `make demo` runs: collab on MovieLens 100K, from the rating table to recommendations and figures."""

import argparse
import time
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

from fastrec.all import *

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument(
    '--path',
    help="folder or zip of MovieLens 100K in GroupLens' layout (without it: see fastrec.data.datasets.movielens)",
)
parser.add_argument('--out', default='demo-output', help='folder for the figures')
args = parser.parse_args()
out = Path(args.out)
out.mkdir(parents=True, exist_ok=True)
set_seed(42)
torch.set_num_threads(1)  # the tables are small: a second thread costs more than it brings
pd.set_option('display.width', 160)
start = time.time()

ratings, movies = movielens('100k', args.path)
dls = RecDataLoaders.from_df(ratings, item_df=movies, valid_pct=0.1, seed=42, path=out)
print('MovieLens 100K, a random tenth held out (seed 42)\n' + dls.summary() + '\n')

learn = collab_learner(dls, n_factors=50, y_range=(0.5, 5.5), metrics=[rmse, mae])
with learn.no_bar(), learn.no_logging():
    suggested = learn.lr_find(show_plot=False)
print(f'lr_find suggests {suggested.valley:.1e} (valley); training with 3e-3\n')


def save(name, ax=None):
    figure = plt.gcf() if ax is None else np.ravel(ax)[0].figure
    figure.savefig(out / f'{name}.png', dpi=110)
    plt.close(figure)


learn.recorder.plot_lr_find()
save('lr_find')
print('epoch ' + ' '.join(f'{o:>10}' for o in ('train_loss', 'valid_loss', 'rmse', 'mae')))
learn.logger = lambda log: (
    None if isinstance(log[0], str) else print(f'{log[0]:5} ' + ' '.join(f'{o:10.4f}' for o in log[1:5]))
)
with learn.no_bar():
    learn.fit_one_cycle(10, 3e-3)
learn.recorder.plot_loss()
save('losses')

print('\nErrors on the held-out tenth, all models fitted to the same rows')
table = pd.DataFrame(
    {
        name: evaluate(o).loc['all']
        for name, o in {
            'global mean': GlobalMean().fit(dls),
            'damped biases': BiasOnly().fit(dls),
            'collab (50 factors)': learn,
        }.items()
    }
).T
table.insert(1, 'mse', table.rmse**2)
print(table.drop(columns='rows').round(4).to_string())

for user in (196, 186):
    print(f'\nUser {user} rated highest')
    print(learn.history(user).head(5)[['title', 'rating']].to_string(index=False))
    print('and is recommended')
    print(learn.recommend(user, k=10)[['rank', 'title', 'score']].round(2).to_string(index=False))

with learn.no_bar():
    interp = RecInterpretation.from_learner(learn)
save('biases', interp.plot_bias())
save('pca', interp.plot_pca())
save('ratings', interp.plot_ratings())
print('\nNearest to Star Wars (1977): ' + ', '.join(interp.similar_items('Star Wars (1977)', 5).title))
print(f'\nFigures (lr_find, losses, biases, pca, ratings) are in {out.resolve()}; {time.time() - start:.0f} s in all')
