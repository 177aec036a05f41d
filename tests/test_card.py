"""The record of a run says what was done, in numbers that other functions confirm."""

import json

import numpy as np
import pytest
import torch
from fastai.basics import RandomSplitter, noop

from fastrec.all import (
    Card,
    KFoldSplitter,
    LeaveLastSplitter,
    ModelScorer,
    Popularity,
    RecDataLoaders,
    RecModel,
    TimeSplitter,
    collab_learner,
    evaluate,
    hr,
    model_card,
    rec_learner,
    rmse,
    set_seed,
    synthetic_ratings,
)
from fastrec.data.splits import describe_splitter

pytestmark = pytest.mark.filterwarnings('ignore:LeaveLastSplitter')


@pytest.fixture(scope='module')
def table():
    return synthetic_ratings(n_users=60, n_items=40, density=0.3, seed=2)


def test_the_card_of_a_rating_model(table, tmp_path):
    ratings, items, _ = table
    dls = RecDataLoaders.from_df(ratings, item_df=items, splitter=RandomSplitter(0.2, seed=3), bs=64, path=tmp_path)
    set_seed(11)
    learn = collab_learner(dls, n_factors=5, y_range=(0, 6), metrics=rmse)
    with learn.no_bar(), learn.no_logging():
        learn.lr_find(show_plot=False, num_it=5)
        learn.fit_one_cycle(2, 1e-2, wd=0.03)
        learn.fit(1, 1e-3)
    card = learn.card()
    assert card['model']['name'] == 'DotBias'
    assert card['model']['config']['n_factors'] == 5
    assert card['model']['parameters'] == sum(p.numel() for p in learn.model.parameters())
    assert [(o['epochs'], o['lr'], o['wd'], o['bs']) for o in card['training']] == [
        (2, pytest.approx(1e-2), 0.03, 64),
        (1, 1e-3, learn.wd, 64),
    ], 'lr_find is not a training'
    assert card['training'][1]['rmse'] == pytest.approx(float(learn.recorder.values[-1][2]))
    assert card['split']['made_by'] == 'RandomSplitter(seed=3, valid_pct=0.2)'
    assert card['split']['valid'] == len(dls.valid.dataset)
    assert card['seeds']['torch'] == 11
    assert card['versions']['torch'] == torch.__version__
    assert 'fastai' in card['versions']
    got = {o['model']: o['rmse'] for o in card['metrics']['rows'] if o['users or rows'] == 'all'}
    assert list(got) == ['DotBias', 'GlobalMean', 'BiasOnly']
    assert got['DotBias'] == pytest.approx(evaluate(learn).rmse['all'])
    assert json.loads(card.to_json()) == card
    text = card.to_markdown()
    assert text == str(card) == card._repr_markdown_()
    assert f'| DotBias | all | {len(dls.valid.dataset)} | {got["DotBias"]:.4f} |' in text
    assert card['data']['fingerprint'] in text
    card.save(tmp_path / 'record')
    assert (tmp_path / 'record' / 'card.md').read_text() == text
    assert json.loads((tmp_path / 'record' / 'card.json').read_text()) == card
    assert Card(card).save(tmp_path / 'x' / 'mine.md').exists()


def test_the_card_of_a_ranker_and_other_parts(table):
    ratings, _items, _ = table
    dls = RecDataLoaders.from_df(
        ratings.assign(time=np.arange(len(ratings))),
        target='implicit',
        threshold=3.0,
        splitter=LeaveLastSplitter(1, n_test=1),
        n_neg=None,
        bs=16,
    )
    learn = rec_learner(dls, collab_learner(dls, n_factors=3).model)  # which may be trained, who knows where
    card = learn.card(split='test', metrics=hr(5), baselines={'pop': Popularity().fit(dls)})
    assert [o['model'] for o in card['metrics']['rows']] == ['DotBias', 'pop']
    assert 'hr@5' in card['metrics']['rows'][0]
    assert card['metrics']['split'] == 'test'
    assert card['training'] == []
    assert card['data']['positives'] == dict(threshold=3.0, weighted=False, missing_rating=None)
    assert card['split']['made_by'] == 'LeaveLastSplitter(n=1, n_test=1, seed=0)'
    assert 'Not trained' in str(card)
    assert {o['model'] for o in learn.card()['metrics']['rows']} == {'DotBias', 'Popularity', 'ItemKNN', 'EASE'}
    with pytest.raises(ValueError, match="no 'test' part"):
        collab_learner(RecDataLoaders.from_df(ratings, valid_pct=0.2), n_factors=3).card(split='test')


def test_fingerprints_change_with_the_data_alone(table):
    ratings, items, _ = table

    def make(df=ratings, seed=0, **kw):
        return RecDataLoaders.from_df(df, valid_pct=0.2, seed=seed, **kw).catalog

    first = make()
    assert make(item_df=items).history.fingerprint() == first.history.fingerprint()
    assert make().history.fingerprint('split') == first.history.fingerprint('split')
    other = ratings.copy()
    other.loc[3, 'rating'] += 0.5
    assert make(other).history.fingerprint() != first.history.fingerprint()
    assert make(other).history.fingerprint('split') == first.history.fingerprint('split')
    assert (
        make(ratings.assign(item=ratings.item.replace({ratings.item[0]: 99_999}))).history.fingerprint()
        != first.history.fingerprint()
    )
    assert make(seed=1).history.fingerprint() == first.history.fingerprint()
    assert make(seed=1).history.fingerprint('split') != first.history.fingerprint('split')
    with pytest.raises(ValueError, match="'data' or 'split'"):
        first.history.fingerprint('rows')


def test_splitters_are_described():
    assert describe_splitter(TimeSplitter(0.2, 0.1)) == 'TimeSplitter(valid_pct=0.2, test_pct=0.1, by=None, seed=0)'
    assert describe_splitter(KFoldSplitter(5, 1, 2)) == 'KFoldSplitter(n_folds=5, seed=1, fold=2)'
    assert describe_splitter('part') == "column 'part'"
    assert describe_splitter(([0], [1])) == 'given index arrays'
    assert describe_splitter(noop) == 'noop()'


def test_a_model_without_parameters_has_a_card(table):
    dls = RecDataLoaders.from_df(table[0], valid_pct=0.2, seed=0, bs=16)
    scorer = ModelScorer(Rising(dls.n_users, dls.n_items), dls.catalog)
    card = model_card(scorer, dls)
    assert card['model']['parameters'] == 0
    assert card['versions']['device'] == 'cpu'
    item = dls.vocab['item'].ids[5]
    assert scorer.predict(dls.vocab['user'].ids[0], item) == 5.0


class Rising(RecModel):
    """The score of an item is its code, which is nothing to learn."""

    def __init__(self, n_users, n_items):
        super().__init__()
        self.n_items = n_items

    def forward(self, users, items):
        return items.float()

    def config(self):
        return {}
