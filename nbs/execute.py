"""Execute notebooks in place and keep their outputs clean: `python nbs/execute.py nbs/*.ipynb`. Run it after a change that shows in them."""

import sys
import tempfile

import nbclient
import nbformat


def keep(output):
    """Drop warnings on stderr and the remains of progress bars; the table that a bar leaves behind stays."""
    if output.output_type == 'stream':
        return output.name != 'stderr'
    html = output.get('data', {}).get('text/html')
    return html is None or '<table' in html


for path in sys.argv[1:]:
    notebook = nbformat.read(path, 4)
    with tempfile.TemporaryDirectory() as folder:  # what a notebook saves does not land in the repository
        nbclient.NotebookClient(
            notebook, timeout=600, kernel_name='python3', resources={'metadata': {'path': folder}}
        ).execute()
    notebook.metadata = {
        'kernelspec': {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'},
        'language_info': {'name': 'python'},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == 'code':
            cell.outputs = [o for o in cell.outputs if keep(o)]
    nbformat.write(notebook, path)
    print(path)
