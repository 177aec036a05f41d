"""Bars: nothing before two seconds, nothing when asked, gone at the end."""

import pytest
from trained import as_trained

import fastrec.progress
from fastrec.evaluation.evaluate import evaluate
from fastrec.evaluation.metrics import hr
from fastrec.progress import Progress, show_progress
from fastrec.training.builders import collab_learner


@pytest.fixture(autouse=True)
def shown():
    with show_progress(True):
        yield


@pytest.fixture()
def at_once(monkeypatch):
    monkeypatch.setattr(fastrec.progress, 'DELAY', -1.0)


def test_nothing_before_its_time(capfd, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(fastrec.progress.time, 'monotonic', lambda: now[0])
    with Progress(10, 'counting', 'sheep') as p:
        p.update(3)
        assert p.bar is None
        assert capfd.readouterr().err == ''
        now[0] = 2.1
        p.update(2)
        text = capfd.readouterr().err
        assert 'counting' in text
        assert '50%' in text
        assert '5.00/10.0' in text
        p.update(5)
        assert p.bar.n == 10
    assert p.bar.disable or capfd.readouterr().err.endswith('\r')  # it leaves no line


@pytest.mark.parametrize('quiet', ['switch', 'context', 'argument'])
def test_silent_when_asked(quiet, at_once, capfd):
    if quiet == 'switch':
        show_progress(False)

    def run(on=True):
        with Progress(2, 'counting', on=on) as p:
            p.update()

    if quiet == 'context':
        with show_progress(False):
            run()
        assert capfd.readouterr().err == ''
        run()
        assert 'counting' in capfd.readouterr().err  # back on
    else:
        run(on=quiet != 'argument')
        assert capfd.readouterr().err == ''


def test_what_is_done_at_once_needs_no_bar(at_once, capfd):
    with Progress(5, 'counting') as p:
        p.update(5)
    assert capfd.readouterr().err == ''


def test_long_steps_and_iterations(synthetic, capfd, monkeypatch):
    from fastrec.all import EASE, IALS
    from fastrec.training.dataloaders import RecDataLoaders

    dls = RecDataLoaders.from_df(synthetic[0], target='implicit', threshold=4, valid_pct=0.1, seed=0)
    EASE().fit(dls)
    assert capfd.readouterr().err == ''
    monkeypatch.setattr('fastrec.scorers.linear.LONG', 100)
    EASE().fit(dls)
    assert 'inverse of 120 x 120' in capfd.readouterr().err
    pytest.importorskip('implicit')
    monkeypatch.setattr(fastrec.progress, 'DELAY', -1.0)
    IALS(4, n_iter=3).fit(dls)
    text = capfd.readouterr().err
    assert 'iALS' in text
    assert '1.00/3.00' in text


def test_recommending_and_evaluating_show_it_and_no_bar_silences_them(dls, at_once, capfd, monkeypatch):
    learn = as_trained(collab_learner(dls, n_factors=4))
    users = dls.vocab['user'].ids
    monkeypatch.setattr('fastrec.scorers.recommend.CACHE_BYTES', 2**14)
    learn.recommend(users)
    assert 'recommending' in capfd.readouterr().err
    evaluate(learn, dls, hr(10), relevant=4)
    assert 'evaluating' in capfd.readouterr().err
    with learn.no_bar():
        learn.recommend(users)
        evaluate(learn, dls, hr(10), relevant=4)
    assert capfd.readouterr().err == ''
