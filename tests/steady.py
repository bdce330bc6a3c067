"""Does every claim about a trained model hold with other seeds, other kernels and more threads?

One table of the answers.

python tests/steady.py [--jobs N] [--seeds 5] [--full] [--only PATTERN] [--list]

The claims are the tests and chapters that train a model, or draw a set, and then judge what comes out. Each runs in a
process of its own, once for each setting: with torch's plain and its avx2 kernels (`ATEN_CPU_CAPABILITY`) on one thread
and on two, and then with further seeds, under either kernels in turn on one thread, or, with `--full`, under all four;
a claim that needs no torch runs with the seeds alone. Seed 0 is today's, seed k adds 1000·k to every seed of the test
or chapter (`seeds.py`). Everything happens in copies of the checkout that are thrown away, without real recordings. In
the table a dot is a pass, an F a failure, in the place of its seed; what each failure said stands below. The status is
1 if anything failed.

Claims of "99 %" fail by chance for one seed in a hundred. A claim that fails more often needs more samples, or is too
strong."""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
KERNELS, THREADS = ('default', 'avx2'), (2, 1)
LIMIT = 600    # seconds for one claim under one setting

# What trains with torch, the longest first: pytest's argument, and the -k that selects in it.
NETWORKS = [
    ('tests/test_notebooks.py', 'test_notebook and 41_face_net'),
    ('tests/test_notebooks.py', 'test_notebook and 63_afew_va_experiment'),
    ('tests/test_notebooks.py', 'test_notebook and 62_deap_experiment'),
    ('tests/test_notebooks.py', 'test_notebook and 42_deep_fusion'),
    ('tests/test_notebooks.py', 'test_notebook and 40_eeg_transformer'),
    ('tests/test_notebooks.py', 'test_notebook and 34_latent_emotion'),
    ('tests/test_notebooks.py', 'test_notebook and 33_guided_attention'),
    ('tests/test_notebooks.py', 'test_notebook and 35_modality_product'),
    ('tests/test_notebooks.py', 'test_notebook and 38b_flow_nets'),
    ('tests/test_notebooks.py', 'test_notebook and 60a_own_set'),
    ('tests/test_notebooks.py', 'test_notebook and 67_megc2019_experiment'),
    ('tests/test_latent_product.py', 'product or oracle or chance'),
    ('tests/test_notebooks.py', 'test_notebook and 32_psnet'),
    ('tests/test_notebooks.py', 'test_notebook and 31_frame_fusion'),
    ('tests/test_notebooks.py', 'test_notebook and 30_backbones'),
    ('tests/test_notebooks.py', 'test_notebook and 52_train'),
    ('tests/test_afew_va.py', 'training_beats_the_floor'),
    ('tests/test_known_answers.py', 'physiological_network'),
    ('tests/test_known_answers.py', 'guided_attention'),
    ('tests/test_known_answers_deap.py', 'the_network'),
]
# What needs numpy and scikit-learn alone.
DRAWN = [
    ('tests/test_known_answers.py', 'not network and not guided_attention'),
    ('tests/test_known_answers_deap.py', 'not network and not real'),
    ('tests/test_main_job.py', 'annotation_on_a_sheet_alone'),
    ('tests/test_splits_metrics.py', 'noise_stays or clock_floor or audit_finds'),
    ('tests/test_simulate.py', 'the_coder_knows or own_evidence'),
    ('tests/test_notebooks.py', 'test_notebook and 15_feature_twins'),
    ('tests/test_notebooks.py', 'test_notebook and 17_simulate_deap'),
    ('tests/test_notebooks.py', 'test_notebook and 24_apex'),
    ('tests/test_notebooks.py', 'test_notebook and 51_metrics'),
]


@dataclass(frozen=True)
class Setting:
    kernels: str
    threads: int
    seed: int

    def __str__(self): return f'{self.kernels}, {self.threads} thread{"s"*(self.threads > 1)}, seed {self.seed}'


def settings(seeds, full):
    "Today's seed under all kernels and threads, the others under one kind of kernels in turn; or everything crossed."
    for threads in THREADS:
        for k, kernels in enumerate(KERNELS):
            for seed in range(seeds):
                if full or seed == 0 or threads == 1 and seed % len(KERNELS) == k: yield Setting(kernels, threads, seed)


def jobs_of(seeds, only, full=False):
    "Claims with each setting they run under."
    found = [(claim, s) for claim in NETWORKS for s in settings(seeds, full)]
    found += [(claim, Setting(KERNELS[0], 1, seed)) for claim in DRAWN for seed in range(seeds)]
    return [(claim, s) for claim, s in found if re.search(only, ' '.join(claim))]


def copy_checkout(to):
    "The files that git knows or would add, as they are now."
    listed = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT,
                            capture_output=True, check=True).stdout
    for name in listed.decode().split('\0'):
        if not name or not (ROOT/name).is_file(): continue
        (to/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT/name, to/name)


def outcome(case):
    "None for a pass, else what was said."
    for kind in ('failure', 'error', 'skipped'):
        if (node := case.find(kind)) is not None: return f'{kind}: ' + (node.get('message') or node.text or '')
    return None


def run(claim, setting, scratch):
    "name of each test → None or what it said, and the seconds it took."
    checkout, empty = scratch/f'seed{setting.seed}', scratch/'empty'
    report = Path(tempfile.mkdtemp(dir=scratch))/'report.xml'
    env = dict(os.environ, PYTHONPATH=str(checkout), ATEN_CPU_CAPABILITY=setting.kernels,
               EMONB_THREADS=str(setting.threads), EMONB_SEED=str(setting.seed), EMONB_REAL=str(empty))
    path, words = claim
    args = [sys.executable, '-m', 'pytest', path, '-k', words, '-q', '-n0', '-p', 'no:cacheprovider',
            f'--junitxml={report}']
    try: said = subprocess.run(args, cwd=checkout, env=env, capture_output=True, text=True, timeout=LIMIT).stdout
    except subprocess.TimeoutExpired: return {words: (f'not done after {LIMIT} s', LIMIT)}
    if not report.exists(): return {words: (said[-500:], 0.)}
    cases = list(ElementTree.parse(report).iter('testcase'))
    return {c.get('name'): (outcome(c), float(c.get('time'))) for c in cases} or {words: ('no such test', 0.)}


def run_all(todo, jobs, scratch):
    "(test, setting) → (None or what it said, seconds); a line for each as it comes. Two threads take two places."
    got, begun, done = {}, time.monotonic(), 0
    for threads in THREADS:
        some = [job for job in todo if job[1].threads == threads]
        with ThreadPoolExecutor(max(1, jobs//threads)) as pool:
            waiting = {pool.submit(run, claim, s, scratch): (claim, s) for claim, s in some}
            for ready in as_completed(waiting):
                (_, words), setting = waiting[ready]
                tests, done = ready.result(), done + 1
                for name, result in tests.items(): got[name, setting] = result
                bad = sum(said is not None for said, _ in tests.values())
                print(f'{time.monotonic() - begun:5.0f} s  {done}/{len(todo)}  {words} ({setting}): '
                      f'{len(tests) - bad} passed, {bad} not', flush=True)
    return got


def table(got, seeds):
    "Test × kernels and threads; in each cell a letter a seed."
    columns = [(k, t) for t in sorted(THREADS) for k in KERNELS]
    names = list(dict.fromkeys(name for name, _ in got))
    width = max(map(len, names), default=5)
    yield f"{'claim':{width}}  " + '  '.join(f'{k} {t}'.ljust(max(9, seeds)) for k, t in columns) + '  seconds'
    for name in names:
        cells, spent = [], []
        for k, t in columns:
            results = [got.get((name, Setting(k, t, s))) for s in range(seeds)]
            spent += [r[1] for r in results if r]
            cells.append(''.join(' ' if r is None else '.' if r[0] is None else 'F'
                                 for r in results).ljust(max(9, seeds)))
        yield f'{name:{width}}  ' + '  '.join(cells) + f'  {max(spent):.0f}'


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--jobs', type=int, default=len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity')
                        else os.cpu_count(), help='processors to use')
    parser.add_argument('--seeds', type=int, default=5, help='how many seeds, today\'s among them')
    parser.add_argument('--full', action='store_true', help='every seed under all kernels and threads')
    parser.add_argument('--only', default='', help='a regular expression: only claims whose file or words it matches')
    parser.add_argument('--list', action='store_true', help='say what would run, and stop')
    given = parser.parse_args()
    todo = jobs_of(given.seeds, given.only, given.full)
    if given.list or not todo:
        for (path, words), setting in todo: print(f'{path}  {words}  ({setting})')
        return not todo
    with tempfile.TemporaryDirectory(prefix='emonb-steady-') as folder:
        scratch = Path(folder)
        (scratch/'empty').mkdir()
        for seed in range(given.seeds): copy_checkout(scratch/f'seed{seed}')
        got = run_all(todo, given.jobs, scratch)
    print('\n'.join(['', *table(got, given.seeds)]))
    failed = {key: said for key, (said, _) in got.items() if said is not None}
    for (name, setting), said in failed.items():
        print(f'\n{name} ({setting})\n    ' + said.strip()[:600].replace('\n', '\n    '))
    print(f'\n{len(got) - len(failed)} of {len(got)} hold')
    return bool(failed)


if __name__ == '__main__': sys.exit(main())
