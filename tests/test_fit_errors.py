"""What goes wrong in a fit is what is said: nothing that tidies up raises over the error."""

import pytest
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.progress import ProgressCallback

from fastrec.training.builders import collab_learner
from fastrec.training.dataloaders import RecDataLoaders


@pytest.fixture
def learn(dls):
    res = collab_learner(dls, n_factors=4)
    res.remove_cb(ProgressCallback)
    res.logger = lambda *_: None
    return res


class Fails(Callback):
    def __init__(self, event, error):
        self.event = event
        self.error = error

    def __call__(self, event_name):
        if event_name == self.event:
            raise self.error


@pytest.mark.parametrize('event', ['before_fit', 'before_batch', 'after_loss', 'after_epoch', 'after_fit'])
def test_an_error_of_a_callback_is_the_last_word(learn, event):
    with pytest.raises(ZeroDivisionError, match='mine'):
        learn.fit(1, 1e-2, cbs=Fails(event, ZeroDivisionError('mine')))
    assert learn.decay is None
    assert all(table.l2 == 0 for table in learn.model.tables)
    learn.fit(1, 1e-2)
    assert learn.fits[-1]['epochs'] == 1


def test_a_fit_that_is_cancelled_before_it_begins(learn):
    learn.fit(2, 1e-2, cbs=Fails('before_fit', CancelFitException()))
    assert len(learn.fits) == 1
    assert 'train_loss' not in learn.fits[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_device_that_is_not_there(synthetic):
    ratings, items, _ = synthetic
    learn = collab_learner(RecDataLoaders.from_df(ratings, item_df=items, device='cuda'), n_factors=4)
    with pytest.raises((RuntimeError, AssertionError), match=r'(?i)cuda|nvidia'):
        learn.fit(1)


def test_an_optimizer_step_that_fails(learn, monkeypatch):
    learn.create_opt()
    monkeypatch.setattr(learn.opt.opt, 'step', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        learn.fit(1, 1e-2)
    assert learn.decay is None
