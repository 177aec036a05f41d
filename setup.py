"""Packaging: everything that can change is in settings.ini."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here / 'settings.ini', encoding='utf-8')
settings = config['DEFAULT']


def lines(key: str) -> list[str]:
    """The lines of a setting that are not blank."""
    return [line.strip() for line in settings[key].splitlines() if line.strip()]


setup(
    name=settings['name'],
    version=settings['version'],
    description=settings['description'],
    license=settings['license'],
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    packages=find_packages(include=[settings['lib_name'], f'{settings["lib_name"]}.*']),
    python_requires=f'>={settings["min_python"]}',
    install_requires=lines('requirements'),
    entry_points={'console_scripts': lines('console_scripts')},
    extras_require={extra: lines(f'{extra}_requirements') for extra in settings['extras'].split()},
)
