"""Speed of the implicit path on one thread: drawing negatives, ranking a whole catalogue, an epoch of NeuMF.

RecBole stands beside them where its environment is given.

    python benchmarks/implicit_speed.py [--recbole-python .venv-recbole/bin/python] [--out FILE.md]

The table has ML-1M's shape (6,040 users x 3,706 items, 1,000,000 rows) and is generated, so it runs anywhere. CPU
seconds; sides take turns, medians of their ratios.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import about, emit, quiet, table
from fastai.torch_core import set_seed

from fastrec.all import (
    NegativeSampler,
    Ranks,
    RecDataLoaders,
    collab_learner,
    evaluate_users,
    hr,
    mrr,
    ndcg,
    neumf_learner,
    precision,
    rec_learner,
    recall,
)
from fastrec.scorers.recommend import mask_seen

N_USERS = 6040
N_ITEMS = 3706
N_ROWS = 1_000_000
METRICS = [hr(10), recall(10), precision(10), ndcg(10), mrr(10)]
LAYERS = [128, 64, 32]
BS = 4096


def generated():
    """Distinct pairs; popular items and active users have more rows."""
    rng = np.random.default_rng(0)
    p = 1 / (1 + np.arange(N_USERS)) ** 0.5
    q = 1 / (1 + np.arange(N_ITEMS)) ** 0.5
    users = rng.choice(N_USERS, 3 * N_ROWS, p=p / p.sum())
    items = rng.choice(N_ITEMS, 3 * N_ROWS, p=q / q.sum())
    keys = rng.permutation(np.unique(users * N_ITEMS + items))[:N_ROWS]
    return pd.DataFrame(dict(user=keys // N_ITEMS, item=keys % N_ITEMS))


def seconds(f):
    start = time.process_time()
    f()
    return time.process_time() - start


def turns(sides, repeats):
    """name -> CPU seconds of each turn, after one that does not count."""
    times = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name, f in sides.items():
            times[name].append(seconds(f))
    return {name: np.array(t[1:]) for name, t in times.items()}


def sampling(dls, repeats=5, n=2**18, n_slow=2**13):
    """Table: a vectorised draw of 4 negatives for n rows beside a set-based sampler.

    The latter goes row by row, as public NCF code does.
    """
    seen = dls.catalog.require_history().seen
    rng = np.random.default_rng(0)
    users = torch.from_numpy(rng.integers(0, N_USERS, n))
    sets = [set(seen.indices[seen.indptr[u] : seen.indptr[u + 1]]) for u in range(N_USERS)]
    uniform = NegativeSampler(seen)
    popular = NegativeSampler(seen, alpha=0.75)

    def row_by_row():
        for u in users[:n_slow].tolist():
            for _ in range(4):
                while int(np.random.randint(N_ITEMS)) in sets[u]:
                    pass

    t = turns(
        {
            'uniform': lambda: uniform.sample(users, 4),
            'popularity^0.75': lambda: popular.sample(users, 4),
            'row by row': row_by_row,
        },
        repeats,
    )
    slow = t['row by row'] / n_slow
    rows = []
    for name in ('uniform', 'popularity^0.75'):
        fast = t[name] / n
        rows.append([name, f'{4 / np.median(fast) / 1e6:.1f} M', f'{np.median(slow / fast):.0f}'])
    rows.append(['row by row (uniform)', f'{4 / np.median(slow) / 1e6:.2f} M', '1'])
    return table(['sampler', 'negatives/s', 'times a row-by-row sampler'], rows)


def ranking(dls, learn, repeats):
    """`evaluate_users` against a loop over users that scores, masks and ranks one at a time with vectorised scores."""
    inter = dls.catalog.interactions
    split = dls.catalog.split
    seen = dls.catalog.require_history().seen
    held = {}
    for u, i in zip(inter.users[split.valid], inter.items[split.valid]):
        held.setdefault(int(u), []).append(int(i))

    def user_by_user():
        values = []
        for u, items in sorted(held.items()):
            scores = learn.score_items(torch.tensor([u]))
            mask_seen(scores, seen[u])
            ranks = Ranks.of(scores, torch.zeros(len(items), dtype=torch.long), torch.tensor(sorted(items)))
            values.append([m(ranks).item() for m in METRICS])
        return np.array(values)

    def whole():
        return evaluate_users(learn, dls, METRICS)

    assert np.allclose(whole().to_numpy(), user_by_user(), atol=1e-6), 'both have to give the same figures'
    return turns({'all': whole, 'user by user': user_by_user}, repeats)


def recbole(python, df, split, repeats):
    """CPU seconds of RecBole's NeuMF on the same rows, batch size and dimensions.

    Of training epochs and of its full-sort evaluation.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in zip(('train', 'valid'), split):
            df.iloc[rows].to_csv(f'{folder}/{name}.csv', index=False)
        script = Path(__file__).with_name('peers_recbole.py')
        subprocess.run([python, script, folder, str(repeats), str(BS), *map(str, LAYERS)], check=True)
        return json.loads((Path(folder) / 'times.json').read_text())


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--recbole-python', help='python of an environment with recbole 1.2.1')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--out', help='Markdown file to write')
    args = parser.parse_args()
    torch.set_num_threads(1)
    set_seed(0)
    df = generated()
    held = df.groupby('user').head(1).index.to_numpy()  # rows are in random order
    split = np.setdiff1d(np.arange(len(df)), held), held
    dls = RecDataLoaders.from_df(df, target='implicit', splitter=split, n_neg=1, bs=BS)
    # models that are given count as trained: only the time matters here
    dot = rec_learner(dls, collab_learner(dls, n_factors=64).model)
    neumf = rec_learner(dls, neumf_learner(dls, n_factors=64, layers=LAYERS).model)

    def epoch():
        with quiet(neumf):
            neumf.fit(1, 1e-3)

    ours = {name: ranking(dls, learn, args.repeats) for name, learn in (('dot product', dot), ('NeuMF', neumf))}
    epochs = turns({'epoch': epoch}, args.repeats)['epoch']
    theirs = recbole(args.recbole_python, df, split, args.repeats) if args.recbole_python else None
    rows = []
    for name, t in ours.items():
        seconds_of_all = np.median(t['all'])
        to_peer = '-'
        if theirs and name == 'NeuMF':
            to_peer = f'{np.median(theirs["evaluate"]) / seconds_of_all:.2f}'
        to_loop = f'{np.median(t["user by user"] / t["all"]):.2f}'
        rows.append([name, f'{seconds_of_all:.2f}', to_loop, to_peer])
    peer = 'RecBole left out: no --recbole-python'
    ratio = '-'
    if theirs:
        peer = f'RecBole {theirs["version"]}, torch {theirs["torch"]}'
        ratio = f'{np.median(theirs["epoch"]) / np.median(epochs):.2f}'
    epoch_row = ['fastrec', f'{np.median(epochs):.1f}', ratio]
    columns = ['model', 'CPU s', 'times faster than user by user', 'times faster than RecBole, full sort']
    emit(
        f"""# Speed of the implicit path

{about()}; {peer}.

{N_USERS:,} users x {N_ITEMS:,} items, {N_ROWS:,} rows, one held out per user.

## Negatives, 4 per row

{sampling(dls)}

## Ranking the whole catalogue for all users, 5 metrics

{table(columns, rows)}

## An epoch of NeuMF (64 factors, {LAYERS}, batch size {BS}, 1 negative), with its validation pass

{table(['', 'CPU s', 'RecBole / fastrec'], [epoch_row])}""",
        args.out,
    )
