"""Execute notebooks in place and keep their outputs clean: `python nbs/execute.py nbs/*.ipynb`.

Run it after a change that shows in them."""

import sys
import tempfile

import nbclient
import nbformat

METADATA = {
    'kernelspec': {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'},
    'language_info': {'name': 'python'},
}


def is_kept(output: nbformat.NotebookNode) -> bool:
    """Not warnings on stderr and the remains of progress bars; the table that a bar leaves behind is."""
    if output.output_type == 'stream':
        return output.name != 'stderr'
    html = output.get('data', {}).get('text/html')
    return html is None or '<table' in html


def execute(path: str) -> None:
    """Run one notebook and write it back, without what differs from run to run."""
    notebook = nbformat.read(path, 4)
    with tempfile.TemporaryDirectory() as folder:  # what a notebook saves does not land in the repository
        resources = {'metadata': {'path': folder}}
        nbclient.NotebookClient(notebook, timeout=600, kernel_name='python3', resources=resources).execute()
    notebook.metadata = METADATA
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == 'code':
            cell.outputs = [o for o in cell.outputs if is_kept(o)]
    nbformat.write(notebook, path)


if __name__ == '__main__':
    for name in sys.argv[1:]:
        execute(name)
        print(name)
