"""Surprise's side of accuracy.py, run in the peers' own environment.

It fits on train.csv and predicts test.csv, of the folder given.

    PEERS_PYTHON benchmarks/peers_surprise.py FOLDER SEED

Writes FOLDER/predictions.csv (a column per model, rows as in test.csv) and FOLDER/run.json (CPU seconds of each fit,
versions). Models have Surprise's defaults; SVD++ keeps its ratings in a cache, which changes its speed only.
Predictions are clipped to 1..5, Surprise's default.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import surprise
from surprise import SVD, Dataset, KNNBaseline, Reader, SVDpp


def main(folder, seed):
    train = pd.read_csv(folder / 'train.csv')
    test = pd.read_csv(folder / 'test.csv')
    reader = Reader(rating_scale=(1, 5))
    trainset = Dataset.load_from_df(train[['user', 'item', 'rating']], reader).build_full_trainset()
    models = {
        'SVD': SVD(random_state=seed),
        'SVD++': SVDpp(random_state=seed, cache_ratings=True),
        'KNNBaseline (item, pearson_baseline)': KNNBaseline(
            sim_options=dict(name='pearson_baseline', user_based=False), verbose=False
        ),
    }
    predictions = {}
    seconds = {}
    for name, model in models.items():
        start = time.process_time()
        model.fit(trainset)
        seconds[name] = time.process_time() - start
        predictions[name] = [model.predict(u, i).est for u, i in zip(test.user, test.item)]
    pd.DataFrame(predictions).to_csv(folder / 'predictions.csv', index=False)
    versions = {'scikit-surprise': surprise.__version__, 'numpy': np.__version__, 'pandas': pd.__version__}
    (folder / 'run.json').write_text(json.dumps(dict(seconds=seconds, versions=versions)))


if __name__ == '__main__':
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), int(sys.argv[2]))
