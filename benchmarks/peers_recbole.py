"""RecBole's NeuMF on the rows that implicit_speed.py hands over; runs in an environment with recbole 1.2.1.

CPU seconds go to times.json.

    python peers_recbole.py FOLDER REPEATS BATCH_SIZE LAYER [LAYER ...]
"""

import json
import sys
import time
from pathlib import Path

import torch

folder = Path(sys.argv[1])
repeats = int(sys.argv[2])
bs = int(sys.argv[3])
layers = [int(o) for o in sys.argv[4:]]
torch.set_num_threads(1)

import numpy as np

old_names = dict(bool=bool, int=int, float=float, object=object, str=str)
for name, kind in old_names.items():  # recbole 1.2.1 still asks numpy for these
    if name not in np.__dict__:
        setattr(np, name, kind)
import recbole
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

for part, source in (('train', 'train'), ('valid', 'valid'), ('test', 'valid')):
    lines = (folder / f'{source}.csv').read_text().splitlines()[1:]
    (folder / 'ds').mkdir(exist_ok=True)
    pairs = '\n'.join(o.replace(',', '\t') for o in lines)
    (folder / 'ds' / f'ds.{part}.inter').write_text(f'user_id:token\titem_id:token\n{pairs}\n')
config = Config(
    model='NeuMF',
    dataset='ds',
    config_dict=dict(
        data_path=str(folder),
        benchmark_filename=['train', 'valid', 'test'],
        load_col={'inter': ['user_id', 'item_id']},
        device='cpu',
        use_gpu=False,
        gpu_id='',
        state='ERROR',
        mf_embedding_size=64,
        mlp_embedding_size=64,
        mlp_hidden_size=layers,
        dropout_prob=0.0,
        train_neg_sample_args=dict(distribution='uniform', sample_num=1, alpha=1.0, dynamic=False, candidate_num=0),
        train_batch_size=2 * bs,  # a positive and its negative count as two
        eval_batch_size=2**22,
        metrics=['Hit', 'Recall', 'Precision', 'NDCG', 'MRR'],
        topk=10,
        valid_metric='NDCG@10',
        eval_args=dict(group_by='user', order='RO', mode='full', split={'RS': [0.8, 0.1, 0.1]}),
        show_progress=False,
        checkpoint_dir=str(folder),
        save_dataset=False,
        save_dataloaders=False,
    ),
)
init_seed(0, True)
dataset = create_dataset(config)
train, valid, _ = data_preparation(config, dataset)
model = get_model('NeuMF')(config, train.dataset)
trainer = get_trainer(config['MODEL_TYPE'], 'NeuMF')(config, model)
times = dict(epoch=[], evaluate=[])
for i in range(repeats + 1):
    start = time.process_time()
    trainer._train_epoch(train, i, show_progress=False)
    trained = time.process_time()
    trainer._valid_epoch(valid, show_progress=False)
    done = time.process_time()
    if i:  # the first epoch warms up
        times['epoch'].append(trained - start)
        times['evaluate'].append(done - trained)
(folder / 'times.json').write_text(json.dumps({**times, 'version': recbole.__version__, 'torch': torch.__version__}))
