"""Runs that are killed at random moments and started again: the same numbers, nothing trained twice, nothing left.

    python tests/kills.py                   20 kills, each kind of run in turn
    python tests/kills.py -n 100 -s 7       more, at other moments
    python tests/kills.py --only fmov,kept  only these kinds
    python tests/kills.py --told a.json     the counts are written to a file

Each run is the whole way of a set: files are read or a twin is written, prepared, kept in a cache, trained fold by
fold, and told. It is killed by SIGKILL, half of the times after so many seconds, half at the very moment at which it
opens, renames or removes a file (perhaps several times), and then left in peace. What it ends with is held against a
run that was never disturbed: the same numbers, the same files, no line twice in its log, no process."""
import argparse
import collections
import contextlib
import io
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

import campaign

CHANGES = {'open', 'os.mkdir', 'os.rename', 'os.remove', 'os.rmdir', 'os.truncate'}


# kinds of runs: place → predictions ---------------------------------------------------------------------------------

def on_wrist(place, box, **given):
    "Notebook 90 on two people's wrist recordings: hand features, two folds."
    return by_name(place, dict(dataset='stress_predict', root=str(box/'wrist'), protocol='loso', **given))

def by_name(place, given):
    from emonb.experiments.by_name import run
    return run(dict(given, out=str(place/'out'), options=given.get('options', '')))

def wrist(place, box): return on_wrist(place, box, model='features', workers=1)

def workers(place, box):
    "The same, its folds in two processes."
    return on_wrist(place, box, model='features', workers=2)

def kept(place, box):
    "The same with a network that is kept, and its card."
    return on_wrist(place, box, model='psnet', epochs=1, seeds='0', keep=True, workers=1)

def fmov(place, box):
    "Notebook 90: a twin of FMOV is written, then read and judged."
    from emonb.data.fmov import FmovTwin, write_tree
    from emonb.data.twins import twin_root
    root = twin_root('fmov', FmovTwin(people=3, gap=8.2), write_tree, place/'twins')
    return by_name(place, dict(dataset='fmov', model='features', root=str(root), protocol='loso', workers=1))

def megc2019(place, box):
    "Notebook 90: a twin of MEGC 2019 is written, then read and judged."
    from emonb.data.megc2019 import FlowTwin, simulated_megc_root
    root = simulated_megc_root(FlowTwin(people=2, clips=3), place/'twins')
    return by_name(place, dict(dataset='megc2019', model='svm', root=str(root), protocol='loso', workers=1))

def casme3(place, box):
    "Notebook 90: a twin of CAS(ME)³ is written, faces found, signals cleaned, both judged by hand features."
    from emonb.data.simulate import Casme3Twin, write_casme3
    from emonb.data.twins import twin_root
    small = Casme3Twin(subjects=3, clips=16, size=(200, 150), quirks=())
    root = twin_root('casme3', small, write_casme3, place/'twins')
    return by_name(place, dict(dataset='casme3', model='features', root=str(root), protocol='loso', workers=1))

def deap(place, box):
    "Notebook 91: a twin of DEAP is written, prepared, and a network trained on its signals."
    from emonb.data.simulate_deap import DeapTwin, simulated_deap_root
    from emonb.experiments.deap import DEAP
    from emonb.study.experiment import run
    root = simulated_deap_root(DeapTwin(subjects=(1, 2), trials=4, seconds=4, files=('dat',)), place/'twins')
    return run(DEAP, dict(epochs=1, folds=2, preset='demo', workers=1, modalities='peripheral', target='valence',
                          protocol='subjects', root=str(root), out=str(place/'out')))

KINDS = {f.__name__: f for f in (wrist, workers, kept, fmov, megc2019, casme3, deap)}


# one run, in a fork -------------------------------------------------------------------------------------------------

def one_run(kind, place:Path, box:Path):
    "The run in this process, everything that it writes below `place`; its predictions."
    import pandas as pd
    for name in ('out', 'cache', 'tmp'): (place/name).mkdir(parents=True, exist_ok=True)
    os.environ.update(EMONB_CACHE=str(place/'cache'), TMPDIR=str(place/'tmp'))
    tempfile.tempdir = str(place/'tmp')
    with contextlib.redirect_stdout(io.StringIO()): result = KINDS[kind](place, box)
    return pd.concat([b.predictions for b in result.blocks], ignore_index=True)


def in_group(job) -> int:
    "Start a job in a fork with a process group of its own; the fork's number. What it says is not heard."
    child = os.fork()
    if child: return child
    os.setsid()
    with contextlib.suppress(BaseException):
        for stream in (1, 2): os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        job()
        os._exit(0)
    os._exit(1)


def changed_by(event, given) -> str|None:
    "The path that an event of the interpreter is about to change, or None."
    if event not in CHANGES or not isinstance(given[0], (str, os.PathLike)): return None
    path = os.path.abspath(given[0])
    if event == 'open': return path if given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else None
    return path if os.path.lexists(path) != (event == 'os.mkdir') else None      # else nothing is changed


def at_changes(place:Path, what):
    "From now on, `what(path, count, event)` before each change of a file below `place`. It cannot be taken back."
    count = [0]
    def hook(event, given):
        path = changed_by(event, given)
        if path is None or not path.startswith(f'{place}/'): return
        count[0] += 1
        what(path, count[0], event)
    sys.addaudithook(hook)
    return count


def killed_at(change:int):
    def what(path, count, event):
        if count == change: os.kill(os.getpid(), signal.SIGKILL)
    return what


# what is found ------------------------------------------------------------------------------------------------------

def alone(child, wait=20.) -> bool:
    "Whether nobody of a group is left, after some seconds in which workers may see that their parent is gone."
    end = time.monotonic() + wait
    while time.monotonic() < end:
        try: os.killpg(child, 0)
        except ProcessLookupError: return True
        time.sleep(.05)
    return False


def files(place:Path) -> collections.Counter:
    "Every file and folder that a run leaves, but for locks; keys are left out of their names."
    there = (str(p.relative_to(place)) for p in place.rglob('*') if 'lock' not in p.name and p.name != 'whole.pickle')
    return collections.Counter(re.sub('[0-9a-f]{8,}', '…', name) for name in there)


def told_folds(place) -> list[str]:
    return [line.split(' ', 1)[1].split(':')[0] for line in (place/'out'/'run.log').read_text().splitlines()]


def in_peace(kind, place:Path, box:Path):
    "A run that nobody disturbs: its predictions, or None where it does not end well."
    import pandas as pd
    done = place/'whole.pickle'
    child = in_group(lambda: one_run(kind, place, box).to_pickle(done))
    return None if os.waitpid(child, 0)[1] else pd.read_pickle(done)


def faults(kind, place:Path, box:Path, whole) -> list[str]:
    "What is not as it is after a run that was never disturbed."
    found, out = in_peace(kind, place, box), []
    if found is None: return ['the run does not end well']
    if not found.equals(whole): out.append('other numbers')
    lines = told_folds(place)
    if twice := [line for line, n in collections.Counter(lines).items() if n > 1]: out.append(f'twice: {twice[0]}')
    here, there = files(place), files(box/f'whole-{kind}')
    if more := sorted(here - there): out.append(f'left: {", ".join(more[:3])}')
    if lost := sorted(there - here): out.append(f'lost: {", ".join(lost[:3])}')
    return out


def prepared(box, kinds) -> dict:
    "Kind → (predictions of a run that nobody disturbs, s it takes, changes of files it makes)."
    import torch

    import emonb.experiments.by_name  # noqa: F401
    import emonb.experiments.deap  # noqa: F401
    torch.set_num_threads(1)
    campaign.wrist_files(box)
    out = {}
    for kind in kinds:
        needs = json.loads(in_pipe(lambda kind=kind: newly_imported(kind, box)))
        for name in needs:
            with contextlib.suppress(ImportError): __import__(name)
        start = time.monotonic()
        whole = in_peace(kind, box/f'whole-{kind}', box)
        if whole is None: raise SystemExit(f'{kind}: a run that nobody disturbs does not end well')
        lasts = time.monotonic() - start
        out[kind] = whole, lasts, int(in_pipe(lambda kind=kind: counted_run(kind, box/f'count-{kind}', box)))
        print(f'{kind}: {lasts:.1f} s, {out[kind][2]} changes of files, {len(whole)} predictions', flush=True)
    return out


def newly_imported(kind, box) -> str:
    before = set(sys.modules)
    one_run(kind, box/f'first-{kind}', box)
    return json.dumps(sorted(set(sys.modules) - before))


def counted_run(kind, place, box) -> str:
    count = at_changes(place, lambda *_: None)
    one_run(kind, place, box)
    return str(count[0])


def in_pipe(job) -> str:
    "What a job says, done in a fork."
    mine, theirs = os.pipe()
    child = in_group(lambda: os.write(theirs, job().encode()))
    os.close(theirs)
    with os.fdopen(mine, 'rb') as pipe: said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


def killed_run(kind, place, box, rng, lasts, changes) -> tuple[str, int]:
    "Start a run and end it: how the moment was chosen, and its group."
    if rng.random() < .5:
        change = rng.randrange(1, changes + 1)
        def job():
            at_changes(place, killed_at(change))
            one_run(kind, place, box)
        child = in_group(job)
        os.waitpid(child, 0)
        return 'at a change of a file', child
    child = in_group(lambda: one_run(kind, place, box))
    time.sleep(rng.uniform(0, lasts))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 'at a moment', child


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('-n', type=int, default=20, help='kills')
    p.add_argument('-s', '--seed', type=int, default=0)
    p.add_argument('--only', default=','.join(KINDS), help='kinds of run, with commas')
    p.add_argument('--told', default='', help='a JSON file for the counts')
    a = p.parse_args()
    rng, kinds, kills, bad, k = random.Random(a.seed), a.only.split(','), collections.Counter(), [], 0
    with tempfile.TemporaryDirectory(prefix='emonb-kills-') as tmp:
        box = Path(tmp)
        known = prepared(box, kinds)
        while sum(kills.values()) < a.n:
            kind, place, k = kinds[k % len(kinds)], box/f'run{k}', k + 1
            whole, lasts, changes = known[kind]
            for _ in range(rng.choice((1, 1, 2, 3))):
                how, child = killed_run(kind, place, box, rng, lasts, changes)
                kills[kind, how] += 1
                if not alone(child): bad.append(f'run {k}, {kind}: a worker goes on')
            bad += [f'run {k}, {kind}: {fault}' for fault in faults(kind, place, box, whole)]
            print(f'{sum(kills.values())} kills, {len(bad)} faults', *bad[-1:], flush=True)
    print(f'{sum(kills.values())} kills of {k} runs: {len(bad)} faults')
    for fault in bad: print('-', fault)
    if a.told:
        by = [dict(kind=kind, moment=how, kills=n) for (kind, how), n in sorted(kills.items())]
        said = dict(seed=a.seed, kills=sum(kills.values()), runs=k, faults=len(bad), by=by)
        Path(a.told).write_text(json.dumps(said) + '\n')
    return bool(bad)


if __name__ == '__main__': sys.exit(main())
