"""Two processes (gloo, on the CPU) train one model: equal parameters, equal metrics, each row once between them."""

import json
import os
import subprocess
import sys

import pytest


def test_two_processes(tmp_path):
    pytest.importorskip('accelerate')
    env = {
        **os.environ,
        'WORLD_SIZE': '2',
        'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': str(29600 + os.getpid() % 300),
        'OMP_NUM_THREADS': '1',
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, '-W', 'ignore', __file__, str(tmp_path)],
            env={**env, 'RANK': str(r), 'LOCAL_RANK': str(r)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(2)
    ]
    errors = [p.communicate(timeout=240)[1] for p in ranks]
    assert all(p.returncode == 0 for p in ranks), '\n'.join(e[-2000:] for e in errors)
    a, b = (json.loads((tmp_path / f'{r}.json').read_text()) for r in range(2))
    for kind in ('rating', 'implicit'):
        assert a[kind]['parameters'] == b[kind]['parameters']
        assert a[kind]['values'] == pytest.approx(b[kind]['values'])
        assert a[kind]['values'][1] < a[kind]['first_loss']
    seen = sorted(map(tuple, a['rows'] + b['rows']))
    assert len(set(seen)) == a['n_rows'], 'each row once (one twice where the number is odd)'
    assert len(seen) - a['n_rows'] <= 1, 'each row once (one twice where the number is odd)'


def worker(folder):
    import fastai.distributed as distributed
    import torch
    import torch.distributed as dist
    from fastai.basics import Callback, LongTensor, set_seed

    from fastrec.all import RecDataLoaders, collab_learner, ndcg, rmse, synthetic_ratings

    class Rows(Callback):
        def __init__(self):
            self.rows_seen = []

        def before_batch(self):
            if self.learn.training and self.learn.epoch == 0:
                self.rows_seen += torch.stack(self.xb, 1).tolist()

    dist.init_process_group('gloo')

    def broadcast(self, t, rank):  # fastai's goes through .cuda()
        t = t if isinstance(t, torch.Tensor) else LongTensor(list(t))
        dist.broadcast(t, rank)
        return t.tolist()

    distributed.DistributedDL._broadcast = broadcast
    ratings, _, _ = synthetic_ratings(150, 80, n_factors=3, density=0.25, seed=1)
    res = {}
    for kind in ('rating', 'implicit'):
        dls = RecDataLoaders.from_df(ratings, valid_pct=0.1, seed=3, bs=64, target=kind)
        set_seed(0)
        rows = Rows()
        learn = collab_learner(
            dls,
            n_factors=8,
            y_range=(0.5, 5.5) if kind == 'rating' else None,
            metrics=rmse if kind == 'rating' else ndcg(10),
        )
        with learn.no_bar(), learn.no_logging(), learn.distrib_ctx(sync_bn=False, cpu=True):
            learn.fit_one_cycle(3, 1e-2, cbs=rows if kind == 'rating' else None)
        if kind == 'rating':
            res.update(rows=rows.rows_seen, n_rows=len(dls.train_ds))
        res[kind] = dict(
            parameters=sum(p.double().sum().item() for p in learn.model.parameters()),
            values=list(learn.recorder.values[-1]),
            first_loss=learn.recorder.values[0][1],
        )
    with open(os.path.join(folder, f'{os.environ["RANK"]}.json'), 'w') as f:
        json.dump(res, f)


if __name__ == '__main__':
    worker(sys.argv[1])
