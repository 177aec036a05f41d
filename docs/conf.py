"""How Sphinx builds the site: `make docs`, from this repository alone and without a network."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / '_ext'))
sys.path.insert(0, str(HERE.parent))

import fastrec

project = 'fastrec'
author = 'the fastrec developers'
copyright = '2026, the fastrec developers'
release = version = fastrec.__version__

extensions = [
    'sphinx.ext.autodoc',
    'sphinx.ext.viewcode',
    'myst_nb',
    'sphinx_design',
    'sphinx_copybutton',
    'pages',  # what is made of the repository: tutorials, reference, results, the gallery's code, llms.txt
]
exclude_patterns = ['_ext', '_static', 'build', '**.ipynb_checkpoints']
source_suffix = {'.md': 'myst-nb', '.ipynb': 'myst-nb'}

# --- docstrings (`_ext/docstrings.py`): types and defaults stand beside each argument, not in the signature too

default_role = 'code'
autodoc_member_order = 'bysource'
autodoc_typehints = 'none'
python_maximum_signature_line_length = 88

# --- pages

suppress_warnings = ['myst.header']  # results/*.md of benchmarks begin at different levels
nb_execution_mode = 'off'  # notebooks are shown as they were run; tests run them
myst_enable_extensions = ['colon_fence', 'deflist', 'dollarmath', 'attrs_inline', 'attrs_block']
myst_heading_anchors = 4
myst_url_schemes = ('http', 'https', 'mailto')
html_math_renderer = 'mathml'  # formulas as browsers draw them: no network is asked
copybutton_prompt_text = r'>>> |\.\.\. |\$ '
copybutton_prompt_is_regexp = True

# --- looks

html_theme = 'pydata_sphinx_theme'
html_title = 'fastrec'
html_static_path = ['_static']
html_css_files = ['fastrec.css']
html_show_sourcelink = False
html_theme_options = {
    'navbar_align': 'left',
    'show_toc_level': 2,
    'navigation_with_keys': False,
    'header_links_before_dropdown': 6,
    'secondary_sidebar_items': ['page-toc'],
    'navbar_end': ['theme-switcher'],
    'footer_start': ['copyright'],
    'footer_end': [],
    'show_prev_next': True,
}
html_sidebars = {
    page: [] for page in ('index', 'which-model', 'glossary', 'faq', 'diagnostics', 'gallery', 'changelog')
}
pygments_style = 'default'
