"""fastrec: recommenders the fastai way. `from fastrec.all import *` brings everything a notebook needs.

`fastrec.load_recommender(folder)` is what a service needs, without fastai. `import fastrec` alone imports no library:
torch comes with the first use."""

from typing import TYPE_CHECKING

__version__ = '0.1.0'
__all__ = ['__version__', 'load_recommender']

if TYPE_CHECKING:
    from .scorers.artifact import load_recommender
else:  # type checkers would take any name for one of the package if they saw this

    def __getattr__(name: str) -> object:
        """Names that are imported when they are asked for (PEP 562); `AttributeError` for all others."""
        if name == 'load_recommender':
            from .scorers.artifact import load_recommender

            return load_recommender
        raise AttributeError(
            f'module {__name__!r} has no attribute {name!r}: `from fastrec.all import *` brings what notebooks need'
        )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {'TYPE_CHECKING'})
