"""Saved recommenders made to do harm, or damaged in a way that checksums do not tell: refused in the words of what is
wrong, before anything computes with them."""

import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_fuzz_artifact import SAVED, Parts, odd_truths
from trained import as_trained

from fastrec.all import (
    EASE,
    IALS,
    BiasOnly,
    Blend,
    ItemKNN,
    RecDataLoaders,
    Scorer,
    collab_learner,
    load_recommender,
    save_recommender,
    synthetic_ratings,
)
from fastrec.data.columns import kind_of

N_USERS, N_ITEMS = 30, 20


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """Folders by name, with all kinds of arrays."""
    folder = tmp_path_factory.mktemp('saved')
    ratings, items, _ = synthetic_ratings(n_users=N_USERS, n_items=N_ITEMS, density=0.4, seed=2)
    idls = RecDataLoaders.from_df(ratings, item_df=items, target='implicit', threshold=3.0, valid_pct=0.2, seed=0)
    dls = RecDataLoaders.from_df(ratings, item_df=items, valid_pct=0.2, seed=0)
    scorers = dict(
        knn=ItemKNN(k=5).fit(idls),
        ease=EASE(20.0).fit(idls),
        biases=BiasOnly().fit(dls),
        collab=as_trained(collab_learner(dls, n_factors=3, y_range=(0.5, 5.5))),
    )
    for name, scorer in scorers.items():
        save_recommender(scorer, folder / name, history=True)
    return folder


def refused(parts, folder, why):
    with pytest.raises(ValueError, match=why):
        load_recommender(parts.write(folder / 'changed'))


def of(name, saved):
    return Parts(saved / name if (saved / name).exists() else SAVED / name)


def state(parts):
    return parts.content['state']


def catalog(parts):
    return state(parts)['catalog']['state']


NUMBERS = [
    # folder, tensor (the end of its name), position, value, what is said
    ('knn', 'weights.indices', 0, 10**6, 'columns of a sparse matrix lie outside 0 to 20'),
    ('knn', 'weights.indices', 0, -1, 'columns of a sparse matrix lie outside'),
    ('knn', 'weights.indptr', 0, 1, 'do not span'),
    ('knn', 'weights.indptr', -1, 10**6, 'do not span'),
    ('knn', 'weights.indptr', 3, 10**6, 'rows of a sparse matrix overlap'),
    ('knn', 'weights.data', 0, np.nan, r'1 of [\d,]+ values of a sparse matrix are NaN'),
    ('ease', 'scorer.weights', 0, np.inf, '1 of 400 values of weights of EASE are NaN or infinite'),
    ('biases', 'user_biases', 2, np.nan, '1 of 30 values of user_biases of BiasOnly'),
    ('biases', 'counts.item', 2, -1, 'counts of items are negative'),
    ('biases', 'interactions.users', 2, N_USERS, 'users of the interactions lie outside 0 to 30'),
    ('biases', 'interactions.items', 2, -1, 'items of the interactions lie outside'),
    ('biases', 'interactions.ratings', 2, np.nan, 'ratings of the interactions are NaN'),
    ('biases', 'split.train', 0, 10**6, 'rows of train lie outside'),
    ('knn', 'interactions.weights', 0, -1.0, 'weights of the interactions are negative'),
    ('collab', 'user_factors.weight', 0, np.nan, '1 of 90 values of user_factors.weight of DotBias'),
    ('biases', 'vocab.item.ids', 0, None, 'item ids repeat'),
    ('collab', 'item_df.rows', 0, 5, 'metadata of items are in another order'),
    ('context', 'context_of.levels.0', 0, None, 'levels of the context repeat'),
    ('gated', 'pathways.title.title.values.indices', 0, 2, 'columns of a sparse matrix lie outside 0 to 2'),
]


@pytest.mark.parametrize(('folder', 'tensor', 'position', 'value', 'why'), NUMBERS)
def test_numbers(saved, tmp_path, folder, tensor, position, value, why):
    parts = of(folder, saved)
    names = [name for name in parts.tensors if name.endswith(tensor)]
    assert names, sorted(parts.tensors)
    for name in names:
        flat = parts.tensors[name].reshape(-1)
        flat[position] = flat[position + 1] if value is None else value
        parts.tensors[name] = flat.reshape(parts.tensors[name].shape)
    refused(parts, tmp_path, why)


def test_what_was_not_changed_loads(saved, tmp_path):
    for name in ('knn', 'ease', 'biases', 'collab', 'context', 'gated'):
        assert isinstance(load_recommender(of(name, saved).write(tmp_path / name)), Scorer)


@pytest.mark.parametrize('y_range', [[5.5, 0.5], [1.0, 1.0], [1.0], [0.0, {'float': 'inf'}], 'ab', 3, [1, None]])
def test_ranges(saved, tmp_path, y_range):
    parts = of('collab', saved)
    state(parts)['model']['config']['y_range'] = {'tuple': y_range} if isinstance(y_range, list) else y_range
    refused(parts, tmp_path, 'y_range')


@pytest.mark.parametrize('n', [N_USERS + 1, N_USERS - 1, -1, 10**9, 10**12, 2**70, '30', None])
def test_sizes_of_models(saved, tmp_path, n):
    parts = of('collab', saved)
    state(parts)['model']['config']['n_users'] = n
    refused(parts, tmp_path, 'a model (of|with)|size mismatch|NoneType')


def test_size_of_a_model_and_its_weights_beside_other_ids(saved, tmp_path):
    parts = of('collab', saved)
    config = state(parts)['model']['config']
    config['n_users'] = N_USERS - 1
    for name, array in parts.tensors.items():
        if '.model.user_' in name:
            parts.tensors[name] = array[:-1]
    refused(parts, tmp_path, 'a model of 29 users and 20 items, with ids of 30 and 20')


def test_shapes_of_baselines(saved, tmp_path):
    parts = of('biases', saved)
    name = next(name for name in parts.tensors if name.endswith('item_biases'))
    parts.tensors[name] = parts.tensors[name][:-1]
    state(parts)['item_biases']['array']['shape'] = [N_ITEMS - 1]
    refused(parts, tmp_path, r'item_biases of BiasOnly have the shape \(19,\) in the place of \(20,\)')


@pytest.mark.parametrize('shape', [[N_ITEMS, 10**12], [10**12, N_ITEMS], [N_ITEMS], 'x', [-1, 20], [N_ITEMS, 3]])
def test_shapes_of_sparse_matrices(saved, tmp_path, shape):
    parts = of('knn', saved)
    state(parts)['weights']['shape'] = shape
    refused(parts, tmp_path, 'sparse matrix')


@pytest.mark.parametrize('dtype', ['|O', 'object', '<f8', '<i2', '<U9', 'i4,i4', '|V8', '|b1', 'nonsense'])
def test_dtypes_of_arrays(saved, tmp_path, dtype):
    parts = of('biases', saved)
    catalog(parts)['counts']['item']['array']['dtype'] = dtype
    refused(parts, tmp_path, 'to be read as|not understood|nonsense|dtype')


def test_texts_that_claim_to_be_endless(saved, tmp_path):
    parts = of('biases', saved)
    state(parts)['more'] = {'array': dict(dtype='<U99999999', shape=[1], values=['a'])}
    refused(parts, tmp_path, 'texts of dtype <U99999999, of which the longest has 1')


def test_truths_that_are_neither(saved, tmp_path):
    parts = of('collab', saved)
    odd_truths(parts, SimpleNamespace(choice=lambda values: values[-1]))
    refused(parts, tmp_path, 'neither true nor false')


CLASSES = {
    'a function': {'object': 'make_split', 'state': {}, 'number': 77},
    'a model as an object': {'object': 'DotBias', 'state': {}, 'number': 77},
    'an object as a model': {'model': 'ImageEncoder', 'config': {}, 'state': {}, 'number': 77},
    'weights from elsewhere': {
        'object': 'ImageEncoder',
        'state': dict(backbone='hf-hub:x/y', size={'tuple': [8, 8]}, bs=1, cache=None),
        'number': 77,
    },
    'a cache of files': {
        'object': 'ImageEncoder',
        'state': dict(backbone='resnet18', size={'tuple': [8, 8]}, bs=1, cache='/tmp'),
        'number': 77,
    },
    'an object that holds itself': {'same': 0},
    'a time zone that is a file': {
        'index': {'array': {'dtype': '<M8[ns]', 'shape': [0], 'tensor': 'none'}, 'tz': 'dateutil//etc/passwd'},
        'name': None,
    },
    'a set of lists': {'set': [[]]},
    'a table of twice the memory': {'index': {'values': [1], 'dtype': 'S999999999'}, 'name': None},
}


@pytest.mark.parametrize('what', CLASSES)
def test_objects(saved, tmp_path, what):
    parts = of('biases', saved)
    state(parts)['more'] = CLASSES[what]
    refused(parts, tmp_path, 'damaged, or was not written by save_recommender|does not know')


@pytest.mark.parametrize('name', ['recommend', 'score', '_item_index', '__class__', 'vocab', 'parts'])
def test_attributes_in_the_place_of_methods(saved, tmp_path, name):
    parts = of('biases', saved)
    state(parts)[name] = 1
    refused(parts, tmp_path, 'is not read from a file|an attribute called')


def test_what_is_worked_out_is_not_read(saved, tmp_path):
    parts = of('knn', saved)
    catalog(parts)['history']['state']['positives'] = 1
    refused(parts, tmp_path, 'positives of History is not read from a file')


@pytest.mark.parametrize(
    'text', ['[' * 10**6 + ']' * 10**6, '{"a":' * 10**6 + '1' + '}' * 10**6, '[' * 900 + ']' * 900]
)
def test_deep_nesting(saved, tmp_path, text):
    parts = of('biases', saved)
    parts.raw['content'] = text.encode()
    refused(parts, tmp_path, 'too deep|no recommender')


def test_deep_nesting_of_the_manifest(saved, tmp_path):
    parts = of('biases', saved)
    parts.raw['manifest'] = '[' * 10**5 + ']' * 10**5
    refused(parts, tmp_path, 'recommender.json is damaged')


@pytest.mark.parametrize('number', ['NaN', 'Infinity', '1e999', '9' * 5000])
def test_numbers_that_json_does_not_have(saved, tmp_path, number):
    parts = of('biases', saved)
    parts.raw['content'] = json.dumps(parts.content).replace('"damping": ', f'"more": {number}, "damping": ').encode()
    refused(parts, tmp_path, 'not a number of JSON|too large|Exceeds the limit')


# --- files


@pytest.mark.parametrize(
    'name',
    [
        'recommender.json',
        '../outside.json',
        '/etc/passwd',
        'content-0123456789ab.safetensors',
        '',
        None,
        3,
        'notes.txt',
    ],
)
def test_manifest_names_files_of_a_save_alone(saved, tmp_path, name):
    parts = of('biases', saved)
    parts.change_manifest = lambda manifest: manifest['files']['content'].update(name=name)
    refused(parts, tmp_path, 'recommender.json is damaged .*is not a name of a file with content')


@pytest.mark.skipif(sys.platform == 'win32', reason='links need rights there')
@pytest.mark.parametrize('file', ['content-*', 'tensors-*', 'recommender.json'])
def test_links_out_of_the_folder_are_refused(saved, tmp_path, file):
    folder = of('biases', saved).write(tmp_path / 'folder')
    path = next(folder.glob(file))
    outside = tmp_path / 'outside'
    path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(ValueError, match=r'is a link to .*outside, out of the folder.*cp -rL'):
        load_recommender(folder)
    assert os.system(f'cp -rL {folder} {tmp_path}/copy') == 0
    load_recommender(tmp_path / 'copy')
    (folder / 'inside').write_bytes(outside.read_bytes())
    path.unlink()
    path.symlink_to(folder / 'inside')
    load_recommender(folder)


def test_a_save_replaces_a_link_and_leaves_what_it_leads_to(saved, tmp_path):
    folder = of('biases', saved).write(tmp_path / 'folder')
    outside = tmp_path / 'outside'
    (folder / 'recommender.json').rename(outside)
    (folder / 'recommender.json').symlink_to(outside)
    before = outside.read_bytes()
    save_recommender(load_recommender(saved / 'biases'), folder)
    assert outside.read_bytes() == before
    assert load_recommender(folder).damping == (5.0, 10.0)


# --- what has diverged is not saved


def test_a_diverged_model_is_not_saved(saved, tmp_path):
    learner = load_recommender(saved / 'collab')
    folder = save_recommender(learner, tmp_path / 'good')
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with torch.no_grad():
        learner.model.item_factors.weight[3, 1] = torch.nan
    with pytest.raises(
        ValueError, match=r'1 of 60 values of item_factors.weight of DotBias are NaN.*diverged.*smaller'
    ):
        save_recommender(learner, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(ValueError, match='diverged'):
        save_recommender(Blend([learner]), tmp_path / 'new')
    assert not (tmp_path / 'new').exists()


def test_a_diverged_baseline_is_not_saved(saved, tmp_path):
    scorer = load_recommender(saved / 'biases')
    scorer.user_biases = scorer.user_biases * np.inf
    with pytest.raises(ValueError, match=r'30 of 30 values of user_biases of BiasOnly are NaN or infinite: .*diverged'):
        save_recommender(scorer, tmp_path / 'new')


def test_numbers_whose_sum_is_infinite_are_finite(saved, tmp_path):
    learner = load_recommender(saved / 'collab')
    with torch.no_grad():
        learner.model.item_factors.weight[:] = 3e38
    assert load_recommender(save_recommender(learner, tmp_path)).model.item_factors.weight.max() > 2e38


# --- version 0.1


def test_narrow_ids_of_older_folders_are_wide(tmp_path):
    """An unknown id must not be taken for one that it equals in 16 bits."""
    parts = Parts(SAVED / 'context')
    name = next(name for name in parts.tensors if name.endswith('vocab.item.ids'))
    index = catalog(parts)['vocab']['item']['state']['ids']
    parts.tensors[name + '2'] = parts.tensors[name].astype('int16')
    index['index']['array'].update(dtype='<u2', tensor=name + '2')
    scorer = load_recommender(parts.write(tmp_path / 'changed'))
    vocab = scorer.vocab['item']
    assert kind_of(vocab.ids) == 'integer'
    assert vocab.encode([vocab.ids[1] + 2**16], unknown='mark').tolist() == [-1]
    assert vocab.encode([vocab.ids[1]]).tolist() == [1]


def test_widths_of_factors(tmp_path):
    ratings, items, _ = synthetic_ratings(n_users=30, n_items=20, density=0.4, seed=2)
    dls = RecDataLoaders.from_df(ratings, item_df=items, target='implicit', valid_pct=0.2, seed=0)
    scorer = IALS(n_factors=4)
    scorer.catalog = dls.catalog
    scorer.user_factors, scorer.item_factors = torch.rand(30, 4), torch.rand(20, 4)
    load_recommender(save_recommender(scorer, tmp_path / 'good'))
    scorer.user_factors = torch.rand(30, 3)
    with pytest.raises(ValueError, match=r'user_factors of IALS have the shape \(30, 3\) in the place of \(30, 4\)'):
        load_recommender(save_recommender(scorer, tmp_path / 'bad'))
