"""The command line: train, recommend in chunks, messages and exit codes, and nothing half-written."""

import io
import json
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pandas as pd
import pytest
import torch
from trained import as_trained

from fastrec.all import (
    RecDataLoaders,
    collab_learner,
    load_recommender,
    recipe_of,
    save_recommender,
    synthetic_ratings,
)
from fastrec.cli import main

pq = pytest.importorskip('pyarrow.parquet')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """ratings.csv, movies.csv, users.csv and a trained recommender in `model`, with history."""
    path = tmp_path_factory.mktemp('cli')
    ratings, items, _ = synthetic_ratings(n_users=60, n_items=40, density=0.3, seed=2)
    ratings['user'] = ratings.user.str.lstrip('u')  # '0007': a text of digits
    ratings.to_csv(path / 'ratings.csv', index=False)
    items.to_csv(path / 'movies.csv', index=False)
    ratings[['user']].drop_duplicates().to_csv(path / 'users.csv', index=False)
    dls = RecDataLoaders.from_df(
        pd.read_csv(path / 'ratings.csv', dtype={'user': str}), item_df=items, valid_pct=0.2, seed=0
    )
    learn = as_trained(collab_learner(dls, n_factors=4))
    save_recommender(learn, path / 'model')
    save_recommender(learn, path / 'with_history', history=True)
    return path


@pytest.fixture()
def run(folder, monkeypatch, capsys):
    """Run a command in the folder; -> (exit code, stdout, stderr)."""
    monkeypatch.chdir(folder)

    def go(*args):
        code = main([str(o) for o in args])
        return (code, *capsys.readouterr())

    return go


def test_recommendations_in_chunks_are_those_of_the_model(folder, run, tmp_path):
    users = list(pd.read_csv(folder / 'users.csv', dtype=str).user)
    want = load_recommender(folder / 'with_history').recommend(users, 5)
    for args in (
        ['with_history', 'users.csv'],
        ['with_history', 'users.csv', '--chunk', 7],
        ['model', 'users.csv', '--chunk', 7, '--seen', folder / 'seen.csv'],
    ):
        train = load_recommender(folder / 'with_history').catalog
        train.interactions.to_df(train.split.train).to_csv(folder / 'seen.csv', index=False)
        code, out, err = run('recommend', *args, '-k', 5, '-o', tmp_path / 'out.parquet')
        assert code == 0, err
        assert out == '', err
        assert '300 rows for 60 users' in err, err
        got = pd.read_parquet(tmp_path / 'out.parquet')
        assert got.cold.sum() == 0
        assert list(got) == ['user', 'item', 'title', 'score', 'rank', 'cold']
        pd.testing.assert_frame_equal(got.drop(columns='cold'), want, check_dtype=False)
        assert pq.ParquetFile(tmp_path / 'out.parquet').num_row_groups == (9 if '--chunk' in args else 1)
    assert [o.name for o in tmp_path.iterdir()] == ['out.parquet']
    assert run('recommend', 'with_history', '-k', 5, '-o', 'all.csv')[0] == 0, 'all users'
    assert (
        pd.read_csv('all.csv', dtype={'user': str}).groupby('user').item.apply(list).to_dict()
        == want.groupby('user').item.apply(list).to_dict()
    )


def test_metadata_is_written_beside_items(folder, run):
    code, _, err = run('recommend', 'with_history', '-k', 2, '--show', 'year', '-o', 'shown.csv')
    assert code == 0, err
    assert list(pd.read_csv('shown.csv')) == ['user', 'item', 'title', 'score', 'rank', 'year', 'cold']
    code, _, err = run('recommend', 'with_history', '--show', 'yaer', '-o', 'shown.csv')
    assert code == 1 and "did you mean 'year'" in err


def test_splits_in_time(folder, run, tmp_path):
    ratings = pd.read_csv('ratings.csv', dtype={'user': str})
    days = pd.date_range('2020-01-01', periods=len(ratings)).astype(str)
    ratings.assign(time=days).to_csv(tmp_path / 'dated.csv', index=False)
    train = ['train', tmp_path / 'dated.csv', '--model', 'biases', '-o', tmp_path / 'out']
    code, out, err = run(*train, '--split-date', days[-50])
    assert code == 0 and 'valid: 50 rows' in out, err
    code, out, err = run(*train, '--split', 'user-time', '--valid-pct', 0.25)
    assert code == 0, err
    n = ratings.groupby('user').size()
    held_out = int((n * 0.25 + 0.5).astype(int).sum())
    assert f'valid: {held_out:,} rows, {len(n)} users' in out
    code, _, err = run(*train, '--split', 'last', '--split-date', days[-50])
    assert code == 1 and 'leave one of them out' in err


def test_other_ways_in_and_out(folder, run, monkeypatch, tmp_path):
    pd.read_csv('users.csv', dtype=str).rename(columns={'user': 'who'}).assign(x=1).to_parquet(tmp_path / 'who.parquet')
    assert (
        run(
            'recommend',
            'with_history',
            tmp_path / 'who.parquet',
            '--user-name',
            'who',
            '-o',
            tmp_path / 'out.csv',
            '--chunk',
            9,
        )[0]
        == 0
    )
    assert len(pd.read_csv(tmp_path / 'out.csv')) == 600
    monkeypatch.setattr(sys, 'stdin', io.StringIO('user\n0003\n0005\n0003\n'))
    code, out, _err = run(
        'recommend', 'model', '-', '--include-seen', '-k', 2, '-o', '-', '--candidates', "title > 'D'", '--chunk', 2
    )
    df = pd.read_csv(io.StringIO(out), dtype={'user': str})
    assert code == 0, 'each user once, and a text stays a text'
    assert df.user.tolist() == ['0003', '0003', '0005', '0005'], 'each user once, and a text stays a text'
    assert (df.title > 'D').all(), 'each user once, and a text stays a text'


def test_the_last_fit_takes_every_row(folder, run, tmp_path):
    code, out, err = run('train', folder / 'ratings.csv', '--valid-pct', 0, '--epochs', 1, '-o', tmp_path / 'all')
    assert code == 0, err
    assert 'No rows are held out' in out, err
    assert 'valid:' not in out, err
    assert load_recommender(tmp_path / 'all').recommend([3], 2, exclude_seen=False).shape[0] == 2
    code, out, err = run('train', folder / 'ratings.csv', '--valid-pct', 0, '--split', 'time', '-o', tmp_path / 'not')
    assert code == 1
    assert '--valid-pct 0 holds nothing out' in err
    assert not (tmp_path / 'not').exists()


def test_what_is_wrong_is_said(folder, run, tmp_path):
    def fails(*args, code=1):
        got, out, err = run(*args)
        assert got == code
        assert out == ''
        assert err.startswith('fastrec: ')
        assert 'Traceback' not in err
        assert not (tmp_path / 'o.parquet').exists()
        assert not list(tmp_path.glob('.o*'))
        return err

    (tmp_path / 'some.csv').write_text('user\n' + ''.join(f'{i:04}\n' for i in range(20)) + 'x1\nx2\n')
    out = ['-o', tmp_path / 'o.parquet']
    err = fails('recommend', 'with_history', tmp_path / 'some.csv', *out, '--chunk', 5)
    assert "'x1', 'x2'" in err
    assert '--unknown skip' in err
    assert '--seen ratings.csv' in fails('recommend', 'model', 'users.csv', *out)
    assert 'one of them' in fails('recommend', 'model', 'users.csv', *out, '--seen', 'ratings.csv', '--include-seen')
    assert 'no recommender in nowhere' in fails('recommend', 'nowhere', 'users.csv', *out)
    assert 'no such file: nobody.csv' in fails('recommend', 'model', 'nobody.csv', '--include-seen', *out)
    assert '.parquet or .csv' in fails('recommend', 'model', 'users.csv', '--include-seen', '-o', 'out.xlsx')
    assert "no column 'id'" in fails('recommend', 'model', 'users.csv', '--include-seen', '--user-name', 'id', *out)
    assert 'cannot read the condition' in fails(
        'recommend', 'model', 'users.csv', '--include-seen', '--candidates', 'yearr > 3', *out
    )
    assert 'at least 1' in fails('recommend', 'model', 'users.csv', '-k', 0, *out)
    assert 'no such file' in fails('train', 'no.csv')
    assert '.csv, .tsv' in fails('train', 'model/recommender.json')
    assert '--model mlp is for' in fails('train', 'ratings.csv', '--model', 'mlp', '--target', 'implicit')
    assert 'closed form' in fails('train', 'ratings.csv', '--model', 'biases', '--epochs', 3)
    assert '--target implicit' in fails('train', 'ratings.csv', '--threshold', 3)
    assert "no column 'stars'" in fails('train', 'ratings.csv', '--rating-name', 'stars')
    code, _, err = run(
        'recommend', 'with_history', tmp_path / 'some.csv', '-o', tmp_path / 'ok.parquet', '--unknown', 'skip'
    )
    assert code == 0
    assert '20 users, 2 unknown ones left out' in err
    for args in (['recommend', 'model'], ['train'], [], ['train', 'ratings.csv', '--model', 'magic']):
        with pytest.raises(SystemExit) as e:
            run(*args)
        assert e.value.code == 2


@pytest.mark.parametrize(
    'args,model',
    [
        ((), 'DotBias'),
        (('--model', 'mlp', '--factors', '4', '--split', 'time'), 'MLP'),
        (('--target', 'implicit', '--threshold', '3'), 'SVDpp'),
        (('--target', 'implicit', '--split', 'last', '--model', 'neumf'), 'NeuMF'),
        (('--model', 'biases'), 'BiasOnly'),
        (('--target', 'implicit', '--model', 'ease', '--history'), 'EASE'),
    ],
)
def test_train(folder, run, args, model, tmp_path):
    closed = model in ('BiasOnly', 'EASE')
    code, out, err = run(
        'train',
        'ratings.csv',
        '--items',
        'movies.csv',
        '-o',
        tmp_path / 'm',
        *([] if closed else ['--epochs', 2]),
        *args,
    )
    assert code == 0, err
    assert ('rmse' if '--target' not in args else 'ndcg@10') in out
    assert f'| {model} |' in out
    assert 'saved in' in err
    assert out.count('\n') > 8
    card = json.loads((tmp_path / 'm' / 'card.json').read_text())
    assert card['model']['name'] == model
    assert closed or card['training'][0]['epochs'] == 2
    loaded = load_recommender(tmp_path / 'm')
    assert loaded.catalog.title_name == 'title'
    assert (loaded.catalog.interactions is not None) == ('--history' in args)
    if model == 'DotBias':
        assert loaded.model.y_range[0] < 1 <= 5 < loaded.model.y_range[1]


@pytest.mark.parametrize('args', [['--model', 'mlp'], ['--model', 'gmf', '--target', 'implicit']])
def test_train_by_the_recipe(folder, run, args, tmp_path):
    code, _, err = run('train', 'ratings.csv', '-o', tmp_path / 'm', *args)
    assert code == 0, err
    fit = json.loads((tmp_path / 'm' / 'card.json').read_text())['training'][0]
    implicit = dict(target='implicit', n_neg=4) if 'implicit' in args else {}
    dls = RecDataLoaders.from_csv('ratings.csv', valid_pct=0.1, seed=42, **implicit)
    recipe = recipe_of(f'{args[1]}_learner', dls)
    assert (fit['epochs'], fit['lr']) == (recipe.n_epoch, recipe.lr)


def test_train_goes_on_after_a_cut(folder, run, tmp_path, monkeypatch):
    import fastrec.all as fr

    run('train', 'ratings.csv', '-o', tmp_path / 'whole', '--epochs', 3)
    steps = []
    epoch = fr.RecLearner._do_epoch

    def cut(self):
        steps.append(self.epoch)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return epoch(self)

    monkeypatch.setattr(fr.RecLearner, '_do_epoch', cut)
    assert run('train', 'ratings.csv', '-o', tmp_path / 'm', '--epochs', 3, '--resume')[0] == 130
    assert (tmp_path / 'm' / 'training.ckpt').exists()
    code, out, _ = run('train', 'ratings.csv', '-o', tmp_path / 'm', '--epochs', 3, '--resume')
    assert code == 0
    assert steps == [0, 1, 2, 2]
    assert 'goes on after epoch 1' in out
    assert not (tmp_path / 'm' / 'training.ckpt').exists()
    a, b = (load_recommender(tmp_path / o).model.state_dict() for o in ('whole', 'm'))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_recommend_starts_without_fastai(folder, tmp_path):
    code = (
        'import sys\nfrom fastrec.cli import main\n'
        "assert not {'torch', 'pandas'} & set(sys.modules), 'help and usage errors come at once'\n"
        f"code = main(['recommend', {str(folder / 'with_history')!r}, {str(folder / 'users.csv')!r}, '-o', "
        f'{str(tmp_path / "out.parquet")!r}])\n'
        "print(code, [m for m in ('fastai', 'fastcore', 'matplotlib', 'sklearn') if m in sys.modules])"
    )
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert res.stdout.strip() == '0 []', res.stdout + res.stderr


def test_the_command_is_installed_by_its_name():
    root = Path(__file__).parents[1]
    assert 'fastrec=fastrec.cli:main' in (root / 'settings.ini').read_text()
    assert 'console_scripts' in (root / 'setup.py').read_text()


# --- what is needed at the end is looked for at the start


@pytest.fixture()
def early(run, monkeypatch):
    """Run a command that has to fail before anything is read or loaded; -> what it says."""

    def fails(*args):
        with monkeypatch.context() as m:
            m.setattr('fastrec.cli._read', _too_late)
            m.setattr('fastrec.scorers.artifact.load_recommender', _too_late)
            code, out, err = run(*args)
        assert code == 1
        assert out == ''
        assert err.startswith('fastrec: ')
        return err

    return fails


def _too_late(*_, **__):
    raise AssertionError('the check comes too late')


def test_train_looks_for_safetensors_first(folder, early, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'safetensors.torch', None)
    assert 'pip install safetensors' in early('train', 'ratings.csv', '-o', tmp_path / 'm')
    assert not (tmp_path / 'm').exists()


def test_train_looks_for_its_files_and_for_pyarrow_first(folder, early, monkeypatch, tmp_path):
    assert 'no such file: no.csv' in early('train', 'ratings.csv', '--items', 'no.csv', '-o', tmp_path / 'm')
    pd.read_csv(folder / 'movies.csv').to_parquet(tmp_path / 'movies.parquet')
    monkeypatch.setattr('fastrec.cli.find_spec', _nothing_is_installed)
    err = early('train', 'ratings.csv', '--items', tmp_path / 'movies.parquet', '-o', tmp_path / 'm')
    assert 'fastrec-learn[parquet]' in err


def _nothing_is_installed(name):
    return None


def test_a_folder_that_cannot_be_written_is_told_first(folder, early, monkeypatch, tmp_path):
    def denied(dir=None, **_):
        raise PermissionError(13, 'Permission denied', str(dir))

    monkeypatch.setattr('fastrec.data.files.tempfile.TemporaryFile', denied)
    err = early('train', 'ratings.csv', '-o', tmp_path / 'deep' / 'm')
    assert f'nothing can be written to the folder {tmp_path}: Permission denied' in err
    err = early('recommend', 'model', 'users.csv', '--include-seen', '-o', tmp_path / 'o.csv')
    assert f'nothing can be written to the folder {tmp_path}: Permission denied' in err
    assert not list(tmp_path.iterdir())


def test_recommend_looks_at_what_it_will_write_and_read_first(folder, early, monkeypatch, tmp_path):
    assert 'there is no folder' in early('recommend', 'model', 'users.csv', '-o', tmp_path / 'no' / 'o.csv')
    (tmp_path / 'o.csv').mkdir()
    assert 'is a folder' in early('recommend', 'model', 'users.csv', '-o', tmp_path / 'o.csv')
    assert 'no such file: no.csv' in early('recommend', 'model', 'users.csv', '--seen', 'no.csv', '-o', '-')
    assert 'ends in .parquet or .csv' in early('recommend', 'model', 'users.csv', '-o', tmp_path / 'o.csv.gz')
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    err = early('recommend', 'model', 'users.csv', '-o', tmp_path / 'o.parquet')
    assert 'fastrec-learn[parquet]' in err
    assert '.csv' in err


@pytest.mark.parametrize(
    'args,n_bytes',
    [
        (('--model', 'collab', '--factors', '4'), 4 * (5 * (60 + 40))),
        (('--model', 'collab', '--factors', '4', '--resume'), 4 * 4 * (5 * (60 + 40))),
        (('--model', 'ease', '--target', 'implicit'), 4 * 40**2),
    ],
)
def test_a_full_disk_is_told_before_training(folder, run, monkeypatch, args, n_bytes, tmp_path):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr('fastrec.training.learner.RecLearner.fit', _too_late)
    monkeypatch.setattr('fastrec.scorers.linear.EASE.fit', _too_late)
    monkeypatch.setattr('fastrec.cli.shutil.disk_usage', lambda path: usage._replace(free=n_bytes // 2))
    code, _, err = run('train', 'ratings.csv', '-o', tmp_path / 'm', *args)
    assert code == 1
    assert 'left on its disk' in err
    assert '-o' in err
    monkeypatch.setattr('fastrec.cli.shutil.disk_usage', lambda path: usage._replace(free=n_bytes * 2))
    with pytest.raises(AssertionError, match='too late'):  # there is room: training would begin
        run('train', 'ratings.csv', '-o', tmp_path / 'm', *args)


def test_safetensors_is_a_requirement_and_the_name_of_the_extra_stays():
    config = ConfigParser(delimiters=['='])
    config.read(Path(__file__).parents[1] / 'settings.ini', encoding='utf-8')
    settings = config['DEFAULT']
    assert 'safetensors' in settings['requirements']
    assert 'safetensors' in settings['extras'].split()
    assert settings['safetensors_requirements'].strip() == ''
