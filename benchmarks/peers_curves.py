"""The peers' side of time_to_accuracy.py, run in their own environments.

It trains one of them on the rows of a folder and says after how many CPU seconds it was how good.

    PEERS_PYTHON benchmarks/peers_curves.py FOLDER PEER SEED SETTING...    # SETTING: a JSON object for each run

FOLDER holds train.csv and held.csv (user, item, rating; user and item are codes without gaps, all of which train has).
Writes FOLDER/curve.json: a list of runs with their points, and versions. Time counts from the tables in memory to the
model, imports apart, and stops for the looks at held-out rows; what cannot be looked at on the way is trained anew for
each number of epochs.
"""

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from curves import Curve, Errors, Ranking


def surprise(data, seed, model, epochs, **options):
    import surprise as s

    reader = s.Reader(rating_scale=data.errors.range)
    for n in epochs or [None]:
        curve = Curve(data.errors)
        table = data.train[['user', 'item', 'rating']]
        trainset = s.Dataset.load_from_df(table, reader).build_full_trainset()
        if model == 'KNNBaseline':
            algo = s.KNNBaseline(sim_options=dict(name='pearson_baseline', user_based=False), verbose=False)
        else:
            algo = getattr(s, model)(n_epochs=n, random_state=seed, **options)
        algo.fit(trainset)
        yield curve.look([algo.predict(u, i).est for u, i in zip(data.held.user, data.held.item)])


def cornac_mf(data, seed, epochs, **options):
    import cornac

    for n in epochs:
        curve = Curve(data.errors)
        rows = cornac.data.Dataset.build(list(zip(data.train.user, data.train.item, data.train.rating)), seed=seed)
        model = cornac.models.MF(max_iter=n, num_threads=1, seed=seed, **options).fit(rows)
        yield curve.look(
            [
                model.rate(rows.uid_map[u], rows.iid_map[i], clipping=False)
                for u, i in zip(data.held.user, data.held.item)
            ]
        )


def myfm(data, seed, model, epochs, rank=10):
    from myfm import MyFMRegressor, RelationBlock

    n, m = data.shape

    def scaled(a):
        """Each row over the square root of its number of entries."""
        return sp.diags(1 / np.sqrt(np.maximum(np.diff(a.indptr), 1))) @ a

    def blocks(df, sides):
        return [RelationBlock(df[side].to_numpy(), block) for side, block in zip(('user', 'item'), sides)]

    for iterations in epochs:
        curve = Curve(data.errors)
        sides = [sp.identity(n).tocsr(), sp.identity(m).tocsr()]
        groups = [n, m]
        if model == 'SVD++ flipped':
            seen = sp.csr_matrix((np.ones(len(data.train)), (data.train.user, data.train.item)), shape=(n, m))
            sides = [
                sp.hstack([sides[0], scaled(seen)]).tocsr(),
                sp.hstack([sides[1], scaled(seen.T.tocsr())]).tocsr(),
            ]
            groups = [n, m, m, n]
        fm = MyFMRegressor(rank=rank, random_seed=seed)
        fm.fit(
            None,
            data.train.rating.to_numpy(),
            X_rel=blocks(data.train, sides),
            n_iter=iterations,
            n_kept_samples=max(1, iterations * 4 // 5),
            group_shapes=groups,
        )
        yield curve.look(fm.predict(None, blocks(data.held, sides)))


def implicit(data, seed, model, epochs, **options):
    from implicit.cpu.als import AlternatingLeastSquares
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    curve = Curve(data.ranking)
    rows = sp.csr_matrix((np.ones(len(data.train), np.float32), (data.train.user, data.train.item)), shape=data.shape)
    algo = dict(ALS=AlternatingLeastSquares, BPR=BayesianPersonalizedRanking)[model](
        iterations=max(epochs), num_threads=1, random_state=seed, **options
    )

    def look(i, *_):
        if i + 1 in epochs:
            curve.look(lambda users: algo.user_factors[users] @ algo.item_factors.T)

    algo.fit(rows, show_progress=False, callback=look)
    yield curve


def cornac_rank(data, seed, model, epochs=None, **options):
    import cornac

    def ease_scores(algo, u, i):
        return lambda users: np.stack([np.asarray(algo.score(u[o])).ravel() for o in users])[:, i]

    def factor_scores(algo, u, i):
        return lambda users: (algo.u_factors[u[users]] @ algo.i_factors[i].T) + algo.i_biases[i]

    for n in epochs or [None]:
        curve = Curve(data.ranking)
        triples = list(zip(data.train.user, data.train.item, np.ones(len(data.train))))
        rows = cornac.data.Dataset.build(triples, seed=seed)
        if model == 'EASE':
            algo = cornac.models.EASE(**options)
        else:
            algo = getattr(cornac.models, model)(max_iter=n, num_threads=1, seed=seed, **options)
        algo.fit(rows)
        # cornac's places of our codes
        u = np.array([rows.uid_map[o] for o in range(data.shape[0])])
        i = np.array([rows.iid_map[o] for o in range(data.shape[1])])
        yield curve.look((ease_scores if model == 'EASE' else factor_scores)(algo, u, i))


def lightfm(data, seed, epochs, **options):
    from lightfm import LightFM

    curve = Curve(data.ranking)
    rows = sp.coo_matrix((np.ones(len(data.train), np.float32), (data.train.user, data.train.item)), shape=data.shape)
    model = LightFM(random_state=seed, **options)
    done = 0
    for n in epochs:
        model.fit_partial(rows, epochs=n - done, num_threads=1)
        done = n
        curve.look(lambda users: model.user_embeddings[users] @ model.item_embeddings.T + model.item_biases)
    yield curve


def recbole(data, seed, model, epochs, **options):
    import torch

    torch.set_num_threads(1)
    old_names = dict(bool=bool, int=int, float=float, object=object, str=str)
    for name, kind in old_names.items():  # recbole 1.2.1 still asks numpy for these
        if name not in np.__dict__:
            setattr(np, name, kind)
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    (data.folder / 'ds').mkdir(exist_ok=True)
    for part, df in (('train', data.train), ('valid', data.held), ('test', data.held)):
        pairs = df[['user', 'item']].set_axis(['user_id:token', 'item_id:token'], axis=1)
        pairs.to_csv(data.folder / 'ds' / f'ds.{part}.inter', sep='\t', index=False)
    curve = Curve(data.ranking)
    config = Config(
        model=model,
        dataset='ds',
        config_dict=dict(
            data_path=str(data.folder),
            benchmark_filename=['train', 'valid', 'test'],
            load_col={'inter': ['user_id', 'item_id']},
            device='cpu',
            use_gpu=False,
            gpu_id='',
            state='ERROR',
            seed=seed,
            eval_args=dict(group_by='user', order='RO', mode='full', split={'RS': [0.8, 0.1, 0.1]}),
            show_progress=False,
            checkpoint_dir=str(data.folder),
            save_dataset=False,
            save_dataloaders=False,
            **options,
        ),
    )
    init_seed(seed, True)
    dataset = create_dataset(config)
    train, *_ = data_preparation(config, dataset)
    net = get_model(model)(config, train.dataset)
    trainer = get_trainer(config['MODEL_TYPE'], model)(config, net)
    # recbole's places of our codes
    u = torch.as_tensor(dataset.token2id('user_id', np.arange(data.shape[0]).astype(str)))
    i = torch.as_tensor(dataset.token2id('item_id', np.arange(data.shape[1]).astype(str)))

    @torch.no_grad()
    def score(users):
        net.eval()
        if model == 'BPR':
            s = net.user_embedding.weight[u[users]] @ net.item_embedding.weight[i].T
        else:
            s = torch.stack([net.forward(u[o].expand(len(i)), i) for o in users])
        net.train()
        return s.numpy()

    for n in range(max(epochs)):
        trainer._train_epoch(train, n, show_progress=False)
        if n + 1 in epochs:
            curve.look(score)
    yield curve


class Data:
    """The rows of a folder, and the measure that goes with them."""

    def __init__(self, folder):
        self.folder = folder
        self.train = pd.read_csv(folder / 'train.csv')
        self.held = pd.read_csv(folder / 'held.csv')
        self.shape = self.train.user.max() + 1, self.train.item.max() + 1
        if 'rating' in self.train:
            self.errors = Errors(self.train, self.held)
        else:
            self.ranking = Ranking(self.train, self.held, *self.shape)


PACKAGES = dict(
    surprise='scikit-surprise',
    cornac_mf='cornac',
    cornac_rank='cornac',
    myfm='myfm',
    implicit='implicit',
    lightfm='lightfm',
    recbole='recbole',
)

if __name__ == '__main__':
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    os.chdir(sys.argv[1])  # some write where they are
    data = Data(Path(sys.argv[1]))
    peer = sys.argv[2]
    seed = int(sys.argv[3])
    settings = [json.loads(o) for o in sys.argv[4:]]
    train = globals()[peer]
    first = dict(settings[0])
    if first.get('epochs'):
        first['epochs'] = [1]
    next(train(data, seed, **first))  # what is imported and made ready at the first fit is nobody's time
    runs = []
    for setting in settings:
        runs.append([point for curve in train(data, seed, **setting) for point in curve.points])
    used = f'{PACKAGES[peer]} {version(PACKAGES[peer])}'
    (data.folder / 'curve.json').write_text(json.dumps(dict(runs=runs, version=used)))
