"Packaging of emonb: every setting lives in settings.ini."
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

root = Path(__file__).resolve().parent
ini = ConfigParser(delimiters=['='])
ini.read(root/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
lib = cfg['lib_path']
stages = {'1': '1 - Planning', '2': '2 - Pre-Alpha', '3': '3 - Alpha', '4': '4 - Beta', '5': '5 - Production/Stable'}


class WithNotebooks(build_py):
    "The run notebooks go into the wheel beside the modules; an editable installation finds them in nbs/."
    def run(self):
        super().run()
        if self.editable_mode: return
        into = Path(self.build_lib)/lib/'notebooks'
        into.mkdir(parents=True, exist_ok=True)
        for path in (root/cfg['nbs_path']).glob('[89][0-9]*_*.ipynb'): shutil.copy(path, into)


setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    author=cfg['author'], author_email=cfg['author_email'], license='Apache-2.0', url=cfg['git_url'],
    keywords=cfg['keywords'].split(), python_requires='>=' + cfg['min_python'],
    classifiers=[f"Development Status :: {stages[cfg['status']]}", f"Intended Audience :: {cfg['audience']}",
                 f"Natural Language :: {cfg['language']}", 'Programming Language :: Python :: 3'],
    packages=find_packages(include=[lib, lib + '.*']), include_package_data=True,
    install_requires=cfg['requirements'].split(),
    extras_require={'notebooks': cfg['notebook_requirements'].split(),
                    'riemann': cfg['riemann_requirements'].split(),
                    'dev': [r for k in ('notebook', 'dev', 'riemann') for r in cfg[f'{k}_requirements'].split()],
                    'docs': cfg['docs_requirements'].split()},
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': [f'{lib}={lib}._modidx:d']},
    cmdclass={'build_py': WithNotebooks},
    long_description=(root/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    zip_safe=False,
)
