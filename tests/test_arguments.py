"""What stands beside an argument is what `help()` and fastai's `doc()` show."""

import inspect
import pydoc

from fastrec.all import EASE, RecDataLoaders, collab_learner, doc, svdpp_learner
from fastrec.arguments import arguments_of, as_section, comments_of, public_functions

FUNCTIONS = {name: (owner, function) for name, owner, function in public_functions('fastrec')}


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
