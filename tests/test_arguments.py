"""What stands beside an argument is what `help()` and fastai's `doc()` show."""

import ast
import inspect
import pydoc
import re
from functools import cache
from pathlib import Path

import pytest

from fastrec.all import (
    ALS,
    EASE,
    GMF,
    IALS,
    MLP,
    BCELoss,
    BiasOnly,
    BPRLoss,
    DotBias,
    EmbeddingTable,
    GatedHybrid,
    Hybrid,
    InBatchSoftmaxLoss,
    ItemKNN,
    LabelPropagation,
    NeuMF,
    RecDataLoaders,
    RecLearner,
    SampledSoftmaxLoss,
    SoftmaxLoss,
    SVDpp,
    TimeDependentBias,
    TwoTower,
    UserKNN,
    WARPLoss,
    auc,
    collab_learner,
    correct_and_smooth,
    correct_popularity,
    coverage,
    diversity,
    doc,
    gini,
    hr,
    mmr,
    mrr,
    ndcg,
    novelty,
    popularity_lift,
    serendipity,
    svdpp_learner,
    thompson_sampling,
)
from fastrec.arguments import FASTAI, arguments_of, as_section, comments_of, public_functions
from fastrec.training.batches import InteractionDL
from fastrec.training.recipes import Recipe

FUNCTIONS = {name: (owner, function) for name, owner, function in public_functions('fastrec')}
# first words of docstrings that say what is done, and not yet what is returned
ACTIONS = re.compile(
    r'(Add|Append|Bring|Cast|Check|Compute|Count|Draw|Fill|Find|Fit|Fix|Freeze|Give|Keep|Leave|Learn|Let|Load|Log|Make|'
    r'Mark|Move|Put|Read|Rebuild|Remember|Remove|Replace|Run|Save|Say|Score|Set|Show|Smooth|Sort|Start|Take|Tell|Train|'
    r'Try|Turn|Update|Warn|Write)\b'
)
ARRAY = re.compile(r'(torch\.Tensor|np\.ndarray|csr_matrix)( \| None)?')
# '(n,)', '(B, C)', '(...)', '()'
SHAPE = re.compile(r'\((\w[\w ]*|\.\.\.)?(,[^)]*)?\)|any shape|scalar|of the same shape|broadcast')
MODELS = [DotBias, SVDpp, GMF, MLP, NeuMF, Hybrid, GatedHybrid, TwoTower, TimeDependentBias, EmbeddingTable]
BASELINES = [BiasOnly, ItemKNN, UserKNN, EASE, ALS, IALS, LabelPropagation]
LOSSES = [BCELoss, BPRLoss, WARPLoss, SampledSoftmaxLoss, InBatchSoftmaxLoss, SoftmaxLoss]
METRICS = [hr, ndcg, mrr, auc, coverage, gini, novelty, popularity_lift, diversity, serendipity]
RERANKERS = [mmr, correct_popularity, thompson_sampling, correct_and_smooth]
PAPERS = [*MODELS, *BASELINES, *LOSSES, *METRICS, *RERANKERS]


def by_name(function, owner=None):
    return {argument.name: argument for argument in arguments_of(function, owner)}


# fmt: off
def plain(
    a: int,  # the first
    # a long one,
    # in two lines
    b: str = '#',  # and a third
    c=None,
    *,
    d: float = 0.5,  # with a # in it
) -> int:
    """Return `a`."""
    # not in the signature
    return a


def handing_on(x=1,  # fastai writes it so
               **kwargs,  # of `plain`
               ): return plain(x, **kwargs)
# fmt: on


def one_line(a, b=2):  # not of an argument
    return a, b


class Base:
    def verb(
        self,
        who: str,  # whom to greet
        often: int = 1,  # how many times
    ) -> str:
        return who * often


class Derived(Base):
    def verb(self, who, often=2):
        return super().verb(who, often)


def test_comments_are_read_beside_and_above():
    assert comments_of(plain) == {
        'a': 'the first',
        'b': 'a long one, in two lines and a third',
        'd': 'with a # in it',
    }
    assert comments_of(one_line) == {}
    assert comments_of(len) == {}


def test_types_and_defaults_are_shown():
    assert by_name(plain)['b'] == ('b', 'str', "'#'", 'a long one, in two lines and a third')
    assert by_name(plain)['c'] == ('c', '', 'None', '')
    assert by_name(plain)['a'].default == ''


def test_arguments_that_are_handed_on_are_listed():
    assert list(by_name(handing_on)) == ['x', '**kwargs', 'b', 'c', 'd']  # `a` has no default: it is given
    assert by_name(handing_on)['d'].text == 'with a # in it'


def test_a_method_is_explained_by_the_one_it_overrides():
    arguments = by_name(Derived.verb, Derived)
    assert arguments['who'].text == 'whom to greet'
    assert arguments['often'] == ('often', '', '2', 'how many times')


def test_a_section_is_as_numpy_writes_it():
    assert as_section(arguments_of(plain)).splitlines()[:5] == [
        'Parameters',
        '----------',
        'a : int',
        '    the first',
        "b : str, default '#'",
    ]


def test_help_explains_every_argument_of_a_builder():
    text = pydoc.render_doc(svdpp_learner, renderer=pydoc.plaintext)
    assert 'share of a user' in text
    names = list(inspect.signature(svdpp_learner).parameters)
    assert len(names) > 25
    for name in names:
        assert f'\n    {name} : ' in text, name


def test_fastais_doc_explains_arguments(capsys):
    doc(RecDataLoaders.from_df)
    shown = capsys.readouterr().out
    assert 'valid_pct : float' in shown


def test_a_class_is_explained_by_its_constructor():
    assert '\nl2 : float' in EASE.__doc__
    assert EASE.__doc__.count('Parameters\n') == 1


def test_what_is_inherited_from_fastai_is_explained_too():
    assert 'Default momentum for schedulers' in collab_learner.__doc__


def test_every_public_function_says_what_it_does():
    silent = []
    for name, (owner, function) in FUNCTIONS.items():
        is_constructor = function.__name__ == '__init__'
        text = owner.__doc__ if is_constructor else inspect.getdoc(getattr(owner, function.__name__, function))
        if not text or len(text.partition('\n')[0].split()) < 3:
            silent.append(name)
    assert not silent


def test_fields_of_a_dataclass_are_its_arguments():
    arguments = by_name(Recipe.__init__, Recipe)
    assert arguments['n_epoch'].text.startswith('epochs')


def test_what_fastai_leaves_without_a_comment_is_explained():
    arguments = by_name(InteractionDL.__init__, InteractionDL)
    assert arguments['after_batch'].text == FASTAI['fastai.data.load.DataLoader.__init__']['after_batch']
    assert by_name(RecLearner.fit_one_cycle, RecLearner)['reset_opt'].text == 'start with a new optimizer'


# --- all public names


def prose(function, owner):
    """The docstring without its section of arguments; of a constructor that of its class and of the one it is from."""
    if function.__name__ == '__init__':
        texts = [base.__doc__ or '' for base in owner.__mro__ if base is owner or '__init__' in vars(base)]
    else:
        texts = [inspect.getdoc(getattr(owner, function.__name__, function)) or '']
    return '\n'.join(text.partition('\nParameters\n')[0] for text in texts)


def returns_nothing(function):
    return function.__name__ == '__init__' or inspect.signature(function).return_annotation in ('None', None)


@cache
def definitions(path):
    """{first line: definition} of the functions in a file."""
    nodes = [node for node in ast.walk(ast.parse(Path(path).read_text())) if isinstance(node, ast.FunctionDef)]
    return {min([node.lineno, *(d.lineno for d in node.decorator_list)]): node for node in nodes}


def raised(function):
    """Names of the errors that the body of a function raises itself."""
    code = inspect.unwrap(function).__code__
    if not Path(code.co_filename).exists():
        return set()  # of a dataclass
    calls = [node.exc for node in ast.walk(definitions(code.co_filename)[code.co_firstlineno]) if is_raise(node)]
    names = [call.func if isinstance(call, ast.Call) else call for call in calls]
    return {name.id for name in names if isinstance(name, ast.Name) and name.id.endswith('Error')}


def is_raise(node):
    return isinstance(node, ast.Raise) and node.exc is not None


def test_every_argument_is_explained():
    silent = [
        f'{name}: {argument.name}'
        for name, (owner, function) in FUNCTIONS.items()
        for argument in arguments_of(function, owner)
        if not argument.text
    ]
    assert not silent


def test_every_docstring_says_what_is_returned():
    """It begins with what is returned; one that begins with an action says it besides."""
    silent = []
    for name, (owner, function) in FUNCTIONS.items():
        text = prose(function, owner)
        if ACTIONS.match(text) and not returns_nothing(function) and not re.search(r'\b[Rr]eturn|->', text):
            silent.append(name)
    assert not silent


def test_every_error_that_is_raised_is_named():
    silent = [
        f'{name}: {error}'
        for name, (owner, function) in FUNCTIONS.items()
        for error in sorted(raised(function) - {'NotImplementedError'})
        if error not in prose(function, owner)
    ]
    assert not silent


def test_every_tensor_and_array_has_its_shape():
    shapeless = [
        f'{name}: {argument.name}'
        for name, (owner, function) in FUNCTIONS.items()
        for argument in arguments_of(function, owner)
        if ARRAY.fullmatch(argument.type) and not SHAPE.search(argument.text)
    ]
    assert not shapeless


@pytest.mark.parametrize('what', PAPERS, ids=lambda what: what.__name__)
def test_what_follows_a_paper_names_it(what):
    assert re.search(r'\b(19|20)\d\d\b', prose(what.__init__, what) if isinstance(what, type) else prose(what, None))
