"""myFM's side of ratings.py, run in the peers' own environment.

It fits on train.csv and predicts test.csv, of the folder given.

    PEERS_PYTHON benchmarks/peers_myfm.py FOLDER SEED

Writes FOLDER/predictions.csv (a column per model, rows as in test.csv) and FOLDER/run.json (CPU seconds of each fit,
versions). Both models are Bayesian, ids only, rank 10, 512 Gibbs iterations of which all are kept, with a prior per
group of features, as myFM's examples have them: matrix factorization (one-hot users and items), and 'SVD++ flipped'
(the user's block adds the items rated / sqrt n, the item's block the users who rated it / sqrt n, of training rows).
Predictions are clipped to the range of the training ratings.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from myfm import MyFMRegressor, RelationBlock


def main(folder, seed):
    train = pd.read_csv(folder / 'train.csv')
    test = pd.read_csv(folder / 'test.csv')
    codes = {side: pd.Index(pd.concat([train[side], test[side]]).unique()) for side in ('user', 'item')}
    rows = {}
    for part, df in (('train', train), ('test', test)):
        rows[part] = {side: codes[side].get_indexer(df[side]) for side in codes}
    n = len(codes['user'])
    m = len(codes['item'])
    seen = sp.csr_matrix((np.ones(len(train)), (rows['train']['user'], rows['train']['item'])), shape=(n, m))

    def scaled(a):
        """Each row over the square root of its number of entries."""
        return sp.diags(1 / np.sqrt(np.maximum(np.diff(a.indptr), 1))) @ a

    plain = (sp.identity(n).tocsr(), sp.identity(m).tocsr())
    flipped = (
        sp.hstack([sp.identity(n), scaled(seen)]).tocsr(),
        sp.hstack([sp.identity(m), scaled(seen.T.tocsr())]).tocsr(),
    )
    blocks = {  # name -> (blocks of user and item, sizes of the groups that have a prior each)
        'Bayesian MF': (plain, [n, m]),
        'Bayesian SVD++ flipped': (flipped, [n, m, m, n]),
    }
    predictions = {}
    seconds = {}
    for name, (sides, groups) in blocks.items():
        relations = {}
        for part, of_part in rows.items():
            relations[part] = [RelationBlock(of_part[side], block) for side, block in zip(('user', 'item'), sides)]
        start = time.process_time()
        model = MyFMRegressor(rank=10, random_seed=seed)
        model.fit(
            None, train.rating.to_numpy(), X_rel=relations['train'], n_iter=512, n_kept_samples=512, group_shapes=groups
        )
        seconds[name] = time.process_time() - start
        predictions[name] = np.clip(model.predict(None, relations['test']), train.rating.min(), train.rating.max())
    pd.DataFrame(predictions).to_csv(folder / 'predictions.csv', index=False)
    versions = {'myfm': version('myfm'), 'numpy': np.__version__}
    (folder / 'run.json').write_text(json.dumps(dict(seconds=seconds, versions=versions)))


if __name__ == '__main__':
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), int(sys.argv[2]))
