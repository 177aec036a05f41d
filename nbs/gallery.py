"""Copy figures out of the executed notebooks into docs/gallery: `python nbs/gallery.py`. Run it after `execute.py`."""

import base64
from pathlib import Path

import nbformat

HERE = Path(__file__).parent
FIGURES = {  # name: (notebook, what a cell that draws it contains)
    'biases': ('01', 'interp.plot_bias()'),
    'explain': ('01', 'interp.plot_explain('),
    'lr_find': ('02', 'learn.lr_find()'),
    'matrix': ('02', 'The user-item matrix'),
    'overfitting': ('02', 'L2 of 0.08 per rating'),
    'tsne': ('02', "interp.plot_tsne('genres'"),
    'comparison': ('03', 'comparison = compare_models('),
    'gates': ('04', 'interp.plot_gates()'),
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


def main() -> None:
    """Write the last figure that each of the cells draws."""
    folder = HERE.parent / 'docs' / 'gallery'
    folder.mkdir(parents=True, exist_ok=True)
    for name, (notebook, text) in FIGURES.items():
        found = figures(notebook, text)
        if not found:
            raise SystemExit(
                f'no figure in notebook {notebook} from a cell with {text!r}: execute it first, or correct FIGURES'
            )
        path = folder / f'{name}.png'
        path.write_bytes(base64.b64decode(found[-1]))
        print(path)


if __name__ == '__main__':
    main()
