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

if __name__ == '__main__':
    out = HERE.parent / 'docs' / 'gallery'
    out.mkdir(parents=True, exist_ok=True)
    for name, (notebook, text) in FIGURES.items():
        cells = nbformat.read(next(HERE.glob(f'{notebook}_*.ipynb')), 4).cells
        images = [
            o.data['image/png']
            for c in cells
            if c.cell_type == 'code' and text in c.source
            for o in c.outputs
            if 'image/png' in o.get('data', {})
        ]
        if not images:
            raise SystemExit(
                f'no figure in notebook {notebook} from a cell with {text!r}: execute it first, or correct FIGURES'
            )
        (out / f'{name}.png').write_bytes(base64.b64decode(images[-1]))
        print(out / f'{name}.png')
