"""Figures of docs/gallery: `python nbs/gallery.py`. Run it after `execute.py`.

Those of `RecInterpretation` and of training are drawn here, of one learner of MovieLens 100K; the others are copied out
of the executed notebooks. `--drawn` or `--copied`: only these.
"""

import argparse
import base64
from pathlib import Path

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt
import nbformat
import numpy as np

from fastrec.all import (
    ItemFeatures,
    RecDataLoaders,
    RecInterpretation,
    collab_learner,
    gated_learner,
    movielens,
    set_seed,
)

HERE = Path(__file__).parent
FOLDER = HERE.parent / 'docs' / 'gallery'
DPI = 90
COPIED = {  # name: (notebook, what a cell that draws it contains)
    'lr_find': ('02', 'learn.lr_find()'),
    'matrix': ('02', 'The user-item matrix'),
    'overfitting': ('02', 'L2 of 0.08 per rating'),
    'comparison': ('03', 'comparison = compare_models('),
    'gains': ('05', 'axes[0].hist(gain'),
    'alpha_beta': ('05', "xlabel='beta'"),
    'index': ('06', 'k_means'),
    'trade_offs': ('07', 'MMR over genres'),
    'feedback_loop': ('07', 'def loop('),
}


def figures(notebook: str, text: str) -> list[str]:
    """PNGs (base64) of the cells of a notebook that contain `text`."""
    path = next(HERE.glob(f'{notebook}_*.ipynb'))
    found = []
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type != 'code' or text not in cell.source:
            continue
        for output in cell.outputs:
            data = output.get('data', {})
            if 'image/png' in data:
                found.append(data['image/png'])
    return found


def copy_figures() -> None:
    """Write the last figure that each of the cells draws."""
    for name, (notebook, text) in COPIED.items():
        found = figures(notebook, text)
        if not found:
            raise SystemExit(
                f'no figure in notebook {notebook} from a cell with {text!r}: execute it first, or correct COPIED'
            )
        path = FOLDER / f'{name}.png'
        path.write_bytes(base64.b64decode(found[-1]))
        print(path)


def save(name: str, axes: object) -> None:
    """Write the figure of these axes."""
    path = FOLDER / f'{name}.png'
    np.ravel(axes)[0].figure.savefig(path, dpi=DPI)
    plt.close('all')
    print(path)


def draw_figures() -> None:
    """Train a collaborative and a gated learner, and draw what they have learned."""
    ratings, movies = movielens('100k')
    dls = RecDataLoaders.from_df(ratings, item_df=movies, valid_pct=0.1, seed=42)
    set_seed(0)
    learn = collab_learner(dls, metrics=['rmse', 'mae'])
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(10)
    save('curves', learn.plot_metrics(target={'rmse': 0.9}))
    interp = RecInterpretation.from_learner(learn)
    save('biases', interp.plot_bias())
    save('pca', interp.plot_pca())
    save('tsne', interp.plot_tsne('genres', k=400))
    save('clusters', interp.plot_clusters(6))
    save('explain', interp.plot_explain(42, 'Shawshank Redemption, The (1994)'))
    save('because', interp.plot_because(42, 'Shawshank Redemption, The (1994)'))
    save('errors', interp.plot_errors('popularity'))
    save('ratings', interp.plot_ratings())
    features = ItemFeatures.from_df(movies, multilabel='genres', category='year')
    set_seed(0)
    gated = gated_learner(dls, features)
    with gated.no_bar(), gated.no_logging():
        gated.fit_one_cycle(5)
    save('gates', RecInterpretation.from_learner(gated).plot_gates())


def main() -> None:
    """Draw and copy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--drawn', action='store_true', help='only what is drawn here')
    parser.add_argument('--copied', action='store_true', help='only what is copied out of the notebooks')
    args = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not args.copied:
        draw_figures()
    if not args.drawn:
        copy_figures()


if __name__ == '__main__':
    main()
