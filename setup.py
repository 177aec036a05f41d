"""Packaging: everything that can change is in settings.ini."""

import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here / 'settings.ini', encoding='utf-8')
settings = config['DEFAULT']
repo_url, branch = settings['repo_url'], settings['branch']


def lines(key: str) -> list[str]:
    """The lines of a setting that are not blank."""
    return [line.strip() for line in settings[key].splitlines() if line.strip()]


def absolute(readme: str) -> str:
    """README.md with its links and pictures made absolute: on the page of a package index, relative ones are dead."""
    relative = r'\]\((?![a-z]+:|#)'  # what follows `](` and is neither an address nor an anchor
    readme = re.sub(rf'(!\[[^]]*){relative}', rf'\1]({repo_url}/raw/{branch}/', readme)
    return re.sub(relative, f']({repo_url}/blob/{branch}/', readme)


setup(
    name=settings['name'],
    version=settings['version'],
    description=settings['description'],
    author=settings['author'],
    license_expression=settings['license'],
    keywords=settings['keywords'],
    classifiers=lines('classifiers'),
    url=repo_url,
    project_urls={
        'Documentation': f'{repo_url}/blob/{branch}/docs/index.md',
        'Changelog': f'{repo_url}/blob/{branch}/CHANGELOG.md',
        'Issues': f'{repo_url}/issues',
        'Source': repo_url,
    },
    long_description=absolute((here / 'README.md').read_text(encoding='utf-8')),
    long_description_content_type='text/markdown',
    packages=find_packages(include=[settings['lib_name'], f'{settings["lib_name"]}.*']),
    package_data={settings['lib_name']: ['py.typed']},
    python_requires=f'>={settings["min_python"]}',
    install_requires=lines('requirements'),
    entry_points={'console_scripts': lines('console_scripts')},
    extras_require={extra: lines(f'{extra}_requirements') for extra in settings['extras'].split()},
)
