"""What a newcomer writes wrong is an error at once, by the name that was written, with the way out; what things are is
seen in their `repr`."""

import warnings

import numpy as np
import pandas as pd
import pytest
from torch import nn
from trained import as_trained

from fastrec.all import (
    ALS,
    EASE,
    IALS,
    BiasOnly,
    Blend,
    Ensemble,
    ItemFeatures,
    ItemKNN,
    KFoldSplitter,
    LeaveLastSplitter,
    Popularity,
    RecDataLoaders,
    RecInterpretation,
    RecLearner,
    Reranked,
    TimeSplitter,
    UserKNN,
    because_fidelity,
    collab_learner,
    compare_models,
    cross_validate,
    ensemble_learner,
    evaluate,
    evaluate_users,
    gated_learner,
    hr,
    load_recommender,
    mlp_learner,
    neumf_learner,
    plot_gains,
    quick_compare,
    rec_learner,
    recommend,
    save_recommender,
    svdpp_learner,
    synthetic_ratings,
    tune_learner,
)
from fastrec.cli import main
from fastrec.flags import in_flags
from fastrec.keywords import check_arguments, nearest_names


@pytest.fixture(scope='module')
def ratings():
    rng = np.random.default_rng(0)
    users, items, stars = rng.integers(0, 30, 500), rng.integers(0, 20, 500), rng.integers(1, 6, 500)
    rows = pd.DataFrame(dict(userId=users, movieId=items, rating=stars / 1.0)).drop_duplicates(['userId', 'movieId'])
    return rows.assign(timestamp=np.arange(len(rows)))


@pytest.fixture(scope='module')
def movies():
    return pd.DataFrame(dict(movieId=range(20), title=[f'Film {i}' for i in range(20)], genres='Drama'))


@pytest.fixture(scope='module')
def dls(ratings, movies):
    return RecDataLoaders.from_df(ratings, item_df=movies, seed=0)


@pytest.fixture(scope='module')
def clicks(ratings, movies):
    return RecDataLoaders.from_df(ratings, item_df=movies, seed=0, target='implicit')


@pytest.fixture(scope='module')
def learn(dls):
    return as_trained(collab_learner(dls, n_factors=3))


@pytest.fixture(scope='module')
def ease(clicks):
    return EASE().fit(clicks)


# --- arguments that are not there

MISSPELLED = {
    'builder': (
        lambda o: collab_learner(o.dls, nfactors=20),
        "collab_learner has no .* 'nfactors': did you mean n_fac",
    ),
    'other word': (
        lambda o: svdpp_learner(o.dls, latent_dim=20),
        "svdpp_learner .*'latent_dim': did you mean n_factors",
    ),
    "fastai's": (lambda o: collab_learner(o.dls, use_nn=True), 'mlp_learner'),
    'loss': (lambda o: collab_learner(o.dls, loss=1), 'loss_func='),
    'features': (lambda o: gated_learner(o.dls, None, n_factor=1), 'gated_learner .*n_factors'),
    'members': (lambda o: ensemble_learner(o.dls, nfactors=3), "svdpp_learner has no argument 'nfactors'"),
    'loaders': (lambda o: RecDataLoaders.from_df(o.ratings, batch_size=64), 'from_df .*did you mean bs'),
    'columns': (lambda o: RecDataLoaders.from_df(o.ratings, user_col='u'), 'did you mean user_name'),
    'file': (lambda o: RecDataLoaders.from_csv('x.csv', header_=0), 'from_csv .*did you mean header'),
    'baseline': (lambda o: ALS(factors=3), "ALS .*'factors': did you mean n_factors"),
    'baseline, all': (lambda o: EASE(reg=3), "EASE has no argument 'reg': it takes l2, budget"),
    'splitter': (lambda o: TimeSplitter(test_size=0.1), 'TimeSplitter .*did you mean valid_pct'),
    'metric': (lambda o: hr(topk=5), 'hr .*did you mean k'),
    'recommend': (lambda o: o.learn.recommend(1, top_k=5), 'recommend .*did you mean k'),
    'function': (lambda o: recommend(o.learn, 1, n=5), 'recommend .*did you mean k'),
    'similar': (lambda o: o.learn.similar_items(1, n=3), 'similar_items .*did you mean k'),
    'evaluate': (lambda o: evaluate(o.learn, metric='rmse'), 'evaluate .*did you mean metrics'),
    'users': (lambda o: evaluate_users(o.learn, metric='rmse'), 'evaluate_users .*did you mean metrics'),
    'compare': (lambda o: compare_models([o.learn], n_bots=5), 'compare_models .*did you mean n_boot'),
    'quick': (lambda o: quick_compare(o.dls, budgett='5min'), 'quick_compare .*did you mean budget'),
    'tune': (lambda o: tune_learner(o.dls, svdpp_learner, nfactors=5), 'svdpp_learner .*did you mean n_factors'),
    'space': (lambda o: tune_learner(o.dls, svdpp_learner, {'nfactors': [3, 4]}), 'svdpp_learner .*did you mean n_fac'),
    'folds': (
        lambda o: cross_validate(o.ratings, collab_learner, nfactors=3),
        'collab_learner .*did you mean n_factors',
    ),
    'card': (lambda o: o.learn.card(metric='rmse'), 'did you mean metrics'),
    'fit': (lambda o: o.learn.fit_one_cycle(1, lr=1e-3), 'fit_one_cycle .*did you mean lr_max'),
    'epochs': (lambda o: o.learn.fit_one_cycle(epochs=1), 'did you mean n_epoch'),
    'item features': (lambda o: ItemFeatures.from_df(o.movies, multi_label='genres'), 'did you mean multilabel'),
    'figures': (lambda o: RecInterpretation.from_learner(o.learn).top_bias(n=3), 'top_bias .*did you mean k'),
}

# --- things in the wrong place

MISPLACED = {
    'table to builder': (lambda o: collab_learner(o.ratings), TypeError, r'RecDataLoaders\.from_df\(ratings\)'),
    'path to builder': (lambda o: collab_learner('ratings.csv'), TypeError, 'got str'),
    'table to fit': (lambda o: EASE().fit(o.ratings), TypeError, r'EASE\.fit takes RecDataLoaders, got DataFrame'),
    'not fitted to fit': (lambda o: Popularity().fit(EASE()), TypeError, 'got EASE'),
    'class to fit': (lambda o: ItemKNN().fit(RecDataLoaders), TypeError, 'got the class RecDataLoaders'),
    'list to fit': (lambda o: UserKNN().fit([o.dls]), TypeError, 'UserKNN.fit .*got list'),
    'table to fit ALS': (lambda o: ALS().fit(o.ratings), TypeError, 'ALS.fit'),
    'table to fit IALS': (lambda o: IALS().fit(o.ratings), TypeError, 'IALS.fit'),
    'table to evaluate': (lambda o: evaluate(o.ratings), TypeError, 'evaluate takes a trained learner.*got DataFrame'),
    'loaders to evaluate': (lambda o: evaluate(o.dls), TypeError, 'got RecDataLoaders'),
    'list to evaluate': (lambda o: evaluate([o.learn]), TypeError, 'of several there is compare_models'),
    'class to evaluate': (lambda o: evaluate(EASE), TypeError, r'the class EASE: EASE\(\)\.fit\(dls\)'),
    'builder to evaluate': (lambda o: evaluate(collab_learner), TypeError, 'the function collab_learner'),
    'table as loaders': (lambda o: evaluate(o.learn, o.ratings), TypeError, 'takes RecDataLoaders, got DataFrame'),
    'users of a table': (lambda o: evaluate_users(o.ratings), TypeError, 'got DataFrame'),
    'fidelity': (lambda o: because_fidelity(o.ratings), TypeError, 'got DataFrame'),
    'table to compare': (lambda o: compare_models(o.ratings), TypeError, 'fitted scorers by name, got DataFrame'),
    'text to compare': (lambda o: compare_models('learn'), TypeError, 'got str'),
    'table beside': (lambda o: compare_models([o.learn], o.movies), TypeError, 'takes RecDataLoaders, got DataFrame'),
    'recommend table': (lambda o: recommend(o.ratings, 1), TypeError, 'got DataFrame'),
    'users as table': (lambda o: o.learn.recommend(o.ratings), TypeError, r"table\['userId'\]\.unique\(\)"),
    'users as dict': (lambda o: o.learn.recommend({1: 5}), TypeError, 'fold_in'),
    'predict table': (lambda o: o.learn.predict(o.ratings), TypeError, r'got DataFrame.*test_dl\(table\)'),
    'get_preds': (lambda o: o.learn.get_preds(o.ratings), TypeError, 'test_dl'),
    'get_preds, dl': (lambda o: o.learn.get_preds(dl=o.ratings), TypeError, 'test_dl'),
    'path to from_df': (lambda o: RecDataLoaders.from_df('ratings.csv'), TypeError, 'from_csv'),
    'array to from_df': (lambda o: RecDataLoaders.from_df(np.ones((4, 3))), TypeError, 'Columns need names'),
    'loaders to from_df': (lambda o: RecDataLoaders.from_df(o.dls), TypeError, 'one row per interaction'),
    'items by position': (lambda o: RecDataLoaders.from_df(o.ratings, o.movies), TypeError, 'valid_pct.*item_df='),
    'table to from_csv': (lambda o: RecDataLoaders.from_csv(o.ratings), TypeError, 'from_df'),
    'table to loaders': (lambda o: RecDataLoaders(o.ratings), TypeError, 'from_df'),
    'loaders to loaders': (lambda o: RecDataLoaders(o.dls), TypeError, 'got RecDataLoaders'),
    'nothing to loaders': (lambda o: RecDataLoaders(), TypeError, 'got nothing'),
    'splitter a number': (lambda o: RecDataLoaders.from_df(o.ratings, splitter=0.2), TypeError, 'valid_pct='),
    'splitter a class': (lambda o: RecDataLoaders.from_df(o.ratings, splitter=TimeSplitter), TypeError, 'make one'),
    'model a text': (lambda o: rec_learner(o.dls, 'DotBias'), TypeError, "got 'DotBias'"),
    'model a baseline': (lambda o: rec_learner(o.dls, EASE), TypeError, r'EASE\(\)\.fit\(dls\)'),
    'model loaders': (lambda o: rec_learner(o.dls, o.dls), TypeError, 'got RecDataLoaders'),
    'tune, turned round': (lambda o: tune_learner(svdpp_learner, o.dls), TypeError, 'RecDataLoaders, got function'),
    'tune a learner': (lambda o: tune_learner(o.dls, o.learn), TypeError, 'takes a builder.*got RecLearner'),
    'folds, turned round': (lambda o: cross_validate(collab_learner, o.ratings), TypeError, 'DataFrame'),
    'folds of a learner': (lambda o: cross_validate(o.ratings, o.learn), TypeError, 'got RecLearner'),
    'folds by name': (lambda o: cross_validate(o.ratings, 'collab'), TypeError, "got 'collab'"),
    'folds as text': (lambda o: cross_validate(o.ratings, EASE, cv='5'), TypeError, "cv='5'"),
    'blend of one': (lambda o: Blend(o.learn), TypeError, 'in a list'),
    'blend of a text': (lambda o: Blend([o.learn, 'x']), TypeError, 'got str'),
    'weights': (lambda o: Blend([o.learn, o.ease], ['a', 'b']), TypeError, 'a number for each'),
    'ensemble of loaders': (lambda o: Ensemble([o.dls]), TypeError, 'got RecDataLoaders'),
    'vectors': (lambda o: o.learn.load_vectors('model.pth'), TypeError, 'got str'),
    'load': (lambda o: load_recommender(o.learn), TypeError, 'the folder'),
    'save': (lambda o: save_recommender(o.dls, 'x'), TypeError, 'got RecDataLoaders'),
    'gains': (lambda o: plot_gains(o.learn), TypeError, 'compare_models'),
    'card': (lambda o: o.learn.card([o.ease]), TypeError, 'by name'),
    'target': (lambda o: o.learn.plot_metrics(target=0.4), (TypeError, ValueError), 'target=|no training table'),
    'damping': (lambda o: BiasOnly(5), TypeError, 'two numbers'),
}

# --- values of another kind

WRONG_VALUES = {
    'factors': (
        lambda o: collab_learner(o.dls, n_factors='20'),
        TypeError,
        "n_factors='20' is text: write n_factors=20",
    ),
    'fraction': (lambda o: collab_learner(o.dls, n_factors=20.5), ValueError, 'n_factors=20.5: a whole number'),
    'no factors': (lambda o: collab_learner(o.dls, n_factors=0), ValueError, 'n_factors=0'),
    'fewer': (lambda o: collab_learner(o.dls, n_factors=-3), ValueError, 'n_factors=-3'),
    'decay': (lambda o: collab_learner(o.dls, wd='much'), TypeError, "wd='much' is text: a number"),
    'rate': (lambda o: collab_learner(o.dls, lr='1e-3'), TypeError, "lr='1e-3'"),
    'layers': (lambda o: mlp_learner(o.dls, layers=64), TypeError, r'layers=\[64, 32\]'),
    'layers, text': (lambda o: mlp_learner(o.dls, layers='64'), TypeError, 'layers='),
    'dropout': (lambda o: mlp_learner(o.dls, dropout=50), ValueError, 'dropout=50: a share'),
    'pathway': (lambda o: neumf_learner(o.clicks, gmf_dim=0), ValueError, 'gmf_dim=0'),
    'batch': (lambda o: RecDataLoaders.from_df(o.ratings, bs='64'), TypeError, "bs='64' is text: write bs=64"),
    'batch, fraction': (lambda o: RecDataLoaders.from_df(o.ratings, bs=64.5), ValueError, 'bs=64.5'),
    'factors, float': (lambda o: collab_learner(o.dls, n_factors=20.0), ValueError, 'n_factors=20.0'),
    'percent': (lambda o: RecDataLoaders.from_df(o.ratings, valid_pct=20), ValueError, 'valid_pct=20: a share'),
    'percent, text': (lambda o: RecDataLoaders.from_df(o.ratings, valid_pct='20%'), TypeError, "valid_pct='20%'"),
    'seed': (lambda o: RecDataLoaders.from_df(o.ratings, seed='a'), TypeError, "seed='a'"),
    'seed below 0': (lambda o: RecDataLoaders.from_df(o.ratings, seed=-1), ValueError, 'seed=-1'),
    'switch': (lambda o: RecDataLoaders.from_df(o.ratings, shuffle_train='no'), TypeError, 'True or False'),
    'threshold': (lambda o: RecDataLoaders.from_df(o.ratings, target='implicit', threshold='4'), TypeError, 'thresh'),
    'negatives': (
        lambda o: RecDataLoaders.from_df(o.ratings, target='implicit', n_neg='4'),
        TypeError,
        'write n_neg=4',
    ),
    'remade': (lambda o: o.dls.remade(bs='5'), TypeError, 'write bs=5'),
    'k': (lambda o: o.learn.recommend(1, k='5'), TypeError, "k='5' is text: write k=5"),
    'seen': (lambda o: o.learn.recommend(1, exclude_seen='False'), TypeError, 'True or False'),
    'cut-off': (lambda o: hr('10'), TypeError, 'write k=10'),
    'cut-off of all': (lambda o: evaluate(o.ease, k='5'), ValueError, "'5'.*whole number"),
    'candidates': (lambda o: evaluate(o.ease, n_candidates='99'), TypeError, 'write n_candidates=99'),
    'relevant': (lambda o: evaluate(o.learn, relevant='4'), TypeError, 'write relevant=4'),
    'neighbors': (lambda o: ItemKNN(k='5'), TypeError, 'write k=5'),
    'ridge': (lambda o: EASE('200'), TypeError, 'write l2=200'),
    'epochs': (lambda o: o.learn.fit_one_cycle('5'), TypeError, 'write n_epoch=5'),
    'epochs below 0': (lambda o: o.learn.fit_one_cycle(-1), ValueError, 'n_epoch=-1'),
    'rate of a fit': (lambda o: o.learn.fit_one_cycle(1, '1e-3'), TypeError, 'lr_max'),
    'rate below 0': (lambda o: o.learn.fit(1, -1.0), ValueError, 'lr=-1'),
    'rate not called': (lambda o: o.learn.fit_one_cycle(1, o.learn.lr_find), TypeError, 'lr_max takes a number'),
    'members': (lambda o: ensemble_learner(o.dls, n_members='2'), TypeError, 'write n_members=2'),
    'trials': (lambda o: tune_learner(o.dls, svdpp_learner, n_trials='5'), TypeError, 'write n_trials=5'),
    'rows': (lambda o: LeaveLastSplitter('2'), TypeError, 'write n=2'),
    'folds': (lambda o: KFoldSplitter('5'), TypeError, 'write n_folds=5'),
    'metrics': (lambda o: collab_learner(o.dls, metrics=[hr(10)]), ValueError, 'relevant=4'),
    'metric name': (lambda o: collab_learner(o.dls, metrics='rmes'), ValueError, "did you mean 'rmse'"),
    'loss': (lambda o: collab_learner(o.dls, loss_func='mse'), TypeError, "got 'mse'"),
    'loss class': (lambda o: collab_learner(o.dls, loss_func=nn.MSELoss), TypeError, 'the class MSELoss'),
    'optimizer': (lambda o: collab_learner(o.dls, opt_func='adam'), TypeError, "got 'adam'"),
    'callbacks': (lambda o: collab_learner(o.dls, cbs='early'), TypeError, "cbs='early'"),
    'rows split': (lambda o: collab_learner(o.dls, splitter=TimeSplitter()), TypeError, 'splits rows'),
    'level': (lambda o: compare_models([o.learn], level=95), ValueError, 'level=95'),
    'samples': (lambda o: compare_models([o.learn], n_boot=0), ValueError, 'n_boot=0'),
    'density': (lambda o: synthetic_ratings(density=5), ValueError, 'density=5'),
    'no users': (lambda o: synthetic_ratings(n_users=0), ValueError, 'n_users=0'),
    'worst': (lambda o: RecInterpretation.from_learner(o.learn).worst_users('5'), TypeError, 'write k=5'),
}


class Things:
    def __init__(self, **things):
        vars(self).update(things)


@pytest.fixture(scope='module')
def o(ratings, movies, dls, clicks, learn, ease):
    return Things(ratings=ratings, movies=movies, dls=dls, clicks=clicks, learn=learn, ease=ease)


@pytest.mark.parametrize('call, message', MISSPELLED.values(), ids=MISSPELLED)
def test_an_argument_that_is_not_there(o, call, message):
    with pytest.raises(TypeError, match=message):
        call(o)


@pytest.mark.parametrize('call, error, message', MISPLACED.values(), ids=MISPLACED)
def test_things_in_the_wrong_place(o, call, error, message):
    with pytest.raises(error, match=message):
        call(o)


@pytest.mark.parametrize('call, error, message', WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_values_of_another_kind(o, call, error, message):
    with pytest.raises(error, match=message):
        call(o)


# --- the mechanism


def test_numbers_of_all_libraries_are_numbers():
    import torch

    @check_arguments
    def f(k: 'int', share: 'float | None' = None, flag: 'bool' = False):
        return k, share, flag

    assert f(3, 0.5, True) == (3, 0.5, True)
    assert f(np.int64(3), np.float32(0.5), np.bool_(True)) == (3, 0.5, True)
    assert f(torch.tensor(3), torch.tensor(0.5))[1] == 0.5
    assert f(k=3, share=None) == (3, None, False)
    for wrong in (dict(k=[3]), dict(k=3, share={}), dict(k=pd.DataFrame()), dict(k=3, flag='yes')):
        with pytest.raises(TypeError, match=r'^f: '):
            f(**wrong)


def test_a_decorated_function_is_called_and_documented_as_before():
    assert collab_learner.__name__ == 'collab_learner'
    with pytest.raises(TypeError, match='missing 1 required positional argument'):
        collab_learner()

    @check_arguments
    def g(x, **kwargs):
        """Text."""
        return kwargs

    assert g(1, anything=2) == dict(anything=2)
    assert g.__doc__ == 'Text.'


def test_names_that_are_near():
    names = ['n_factors', 'n_iter', 'seed', 'k']
    assert nearest_names('N_Factor', names) == ['n_factors']
    assert nearest_names('random_state', names) == ['seed']
    assert nearest_names('zebra', names) == []


def test_numbers_are_not_looked_at_where_errors_would_hide(learn):
    # what a function raises itself comes through, from its own line
    with pytest.raises(KeyError, match='unknown user id') as caught:
        learn.recommend(10**6)
    assert any(entry.name == 'encode' for entry in caught.traceback)


# --- warnings


def test_warnings_of_decorated_functions_point_at_the_line_of_the_user(ratings):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        RecDataLoaders.from_df(ratings, bs=256)
        LeaveLastSplitter()(RecDataLoaders.from_df(ratings).catalog.interactions)
    assert len(caught) >= 2
    assert {o.filename for o in caught} == {__file__}


# --- the command line

SAID = {
    "with rating_name=, or rank with target='implicit'": 'with --rating-name, or rank with --target implicit',
    'no rating reaches threshold=9: they': 'no rating reaches --threshold 9: they',
    "no column 'x' (user_name) in the table": "no column 'x' (--user-name) in the table",
    "names=['a', 'b']: 2 names": '--columns a,b: 2 names',
    "rank with RecDataLoaders.from_df(..., target='implicit')": 'rank with --target implicit',
    'collab_learner: n_factors=0: the length': '--factors 0: the length',
    'TimeSplitter needs times: pass time_name= when the interactions are made': '--split time needs times: pass '
    '--time-name',
    "duplicates='last', 'first' or 'mean'": "--duplicates last, 'first' or 'mean'",
    'a plain sentence, seed and all': 'a plain sentence, seed and all',
}


@pytest.mark.parametrize('said, typed', SAID.items())
def test_arguments_in_messages_become_flags(said, typed):
    assert in_flags(said) == typed


@pytest.fixture(scope='module')
def files(tmp_path_factory, ratings):
    folder = tmp_path_factory.mktemp('cli')
    ratings.to_csv(folder / 'r.csv', index=False)
    ratings.assign(rating=3).to_csv(folder / 'same.csv', index=False)
    ratings.assign(rating='good').to_csv(folder / 'words.csv', index=False)
    ratings.drop(columns='timestamp').to_csv(folder / 'notime.csv', index=False)
    ratings[['userId', 'movieId']].to_csv(folder / 'pairs.csv', index=False)
    ratings.to_csv(folder / 'headless.csv', index=False, header=False)
    pd.concat([ratings, ratings[:3]]).to_csv(folder / 'twice.csv', index=False)
    (folder / 'empty.csv').write_text('')
    return folder


COMMANDS = {
    'train r.csv --rating-name stars': '--rating-name',
    'train pairs.csv': '--target implicit',
    'train same.csv': '--target implicit',
    'train words.csv': 'Pass --rating-name',
    'train twice.csv': '--duplicates last',
    'train headless.csv': '--columns user,item',
    'train headless.csv --columns a,b': '--columns a,b',
    'train notime.csv --split time': '--time-name',
    'train empty.csv': 'empty.csv is empty',
    'train r.csv --target implicit --threshold 9': '--threshold 9',
    'train r.csv --valid-pct 20': '--valid-pct 20',
    'train r.csv --seed -1': '--seed -1',
    'train r.csv --factors 0': '--factors 0',
    'train r.csv --lr -1': '--lr -1',
    'train r.csv --lr 0': '--lr 0',
    'train r.csv --wd -1': '--wd -1',
    'train r.csv --decimal x': '--decimal x',
    'train r.csv --encoding nonsense': '--encoding nonsense',
    'recommend nowhere -o out.csv': 'fastrec train',
}


@pytest.mark.parametrize('command, flag', COMMANDS.items())
def test_commands_say_flags(files, monkeypatch, capsys, command, flag):
    monkeypatch.chdir(files)
    assert main(command.split()) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert flag in said
    for argument in (
        'rating_name',
        'user_name',
        'time_name',
        'valid_pct',
        'n_factors',
        'target=',
        'RecDataLoaders',
        'df[',
    ):
        assert argument not in said


def test_users_of_a_file_whose_column_was_guessed_are_told(files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    assert main(['train', 'r.csv', '--model', 'biases', '-o', 'model', '--history']) == 0
    pd.DataFrame(dict(x=[1, 2], y=[3, 4])).to_csv('guess.csv', index=False)
    assert main(['recommend', 'model', 'guess.csv', '-o', 'out.csv']) == 0
    assert "column 'x' (--user-name" in capsys.readouterr().err


# --- what things are


def test_reprs(o, dls, clicks, learn, ease, tmp_path):
    assert repr(dls).startswith('RecDataLoaders(rating, train ')
    assert dls.summary().splitlines()[0] in dls._repr_html_()
    assert 'RecDataLoaders' in dls.new_empty()._repr_html_()
    assert repr(EASE(l2=3)) == 'EASE(l2=3), not fitted'
    assert repr(ease) == 'EASE(l2=500.0)'
    assert repr(TimeSplitter(0.1)) == 'TimeSplitter(valid_pct=0.1, test_pct=0.0, by=None, seed=0)'
    assert repr(TimeSplitter('1998-03-01')).startswith("TimeSplitter(valid_pct='1998-03-01'")
    assert repr(LeaveLastSplitter(2)) == 'LeaveLastSplitter(n=2, n_test=0, seed=0)'
    assert repr(KFoldSplitter(4)[1]) == 'KFoldSplitter(n_folds=4, seed=0, fold=1)'
    assert repr(Blend([BiasOnly().fit(dls), learn], [1, 0.5])).startswith('Blend(1 BiasOnly + 0.5 DotBias, ')
    assert repr(Ensemble([learn, learn])).startswith("Ensemble(2 x 'DotBias', rating, ")
    assert repr(Reranked(ease, lambda recs: recs, n=7)) == 'Reranked(EASE(l2=500.0), <lambda>, n=7)'
    assert repr(RecInterpretation.from_learner(learn)).startswith('RecInterpretation(DotBias, valid rows, ')
    save_recommender(learn, tmp_path / 'saved')
    loaded = load_recommender(tmp_path / 'saved')
    assert repr(loaded).startswith('ModelScorer(DotBias, rating, ')
    assert isinstance(learn, RecLearner) and repr(learn).startswith('RecLearner(DotBias, rating, ')


@pytest.mark.parametrize('make', [EASE, ItemKNN, UserKNN, ALS, IALS, BiasOnly, Popularity])
def test_a_baseline_is_made_again_from_its_config(make):
    scorer = make()
    again = make(**scorer.config())
    assert again.config() == scorer.config()
    assert repr(scorer).endswith(', not fitted')
