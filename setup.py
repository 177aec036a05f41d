"""Packaging: everything that can change is in settings.ini."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here / 'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
lines = lambda key: [o.strip() for o in cfg[key].splitlines() if o.strip()]

setup(
    name=cfg['name'],
    version=cfg['version'],
    description=cfg['description'],
    license=cfg['license'],
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    packages=find_packages(include=[cfg['lib_name'], f'{cfg["lib_name"]}.*']),
    python_requires=f'>={cfg["min_python"]}',
    install_requires=lines('requirements'),
    entry_points={'console_scripts': lines('console_scripts')},
    extras_require={o: lines(f'{o}_requirements') for o in cfg['extras'].split()},
)
