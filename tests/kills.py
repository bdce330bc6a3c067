"""Runs that are killed at random moments and started again: the same numbers, nothing trained twice, nothing left.

    python tests/kills.py               20 kills of runs in one process
    python tests/kills.py -n 100 -s 7   more, at other moments
    python tests/kills.py -w 2          runs whose folds are trained by two workers (each start takes longer)

Each run is the whole way of a set: its files are read, prepared, kept in a cache, trained fold by fold and told. It is
killed by SIGKILL (perhaps several times) and then left in peace. What it ends with is held against a run that was never
disturbed."""
import argparse
import contextlib
import io
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import campaign


def one_run(place:Path, given:dict):
    "The run in this process, everything that it writes below `place`."
    for name in ('out', 'cache', 'tmp'): (place/name).mkdir(parents=True, exist_ok=True)
    os.environ.update(EMONB_CACHE=str(place/'cache'), TMPDIR=str(place/'tmp'))
    tempfile.tempdir = str(place/'tmp')
    from emonb.experiments.by_name import run
    with contextlib.redirect_stdout(io.StringIO()): return run(dict(given, out=str(place/'out'))).main.predictions


def in_group(job) -> int:
    "Start a job in a fork with a process group of its own; the fork's number."
    child = os.fork()
    if child: return child
    os.setsid()
    with contextlib.suppress(BaseException):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        job()
        os._exit(0)
    os._exit(1)


def alone(child, wait=20.) -> bool:
    "Whether nobody of a group is left, after some seconds in which workers may see that their parent is gone."
    end = time.monotonic() + wait
    while time.monotonic() < end:
        try: os.killpg(child, 0)
        except ProcessLookupError: return True
        time.sleep(.05)
    return False


def faults(place:Path, whole, given) -> list[str]:
    "What is not as it is after a run that was never disturbed."
    done = place/'predictions.pickle'
    child = in_group(lambda: one_run(place, given).to_pickle(done))
    if os.waitpid(child, 0)[1]: return ['the run does not end well']
    import pandas as pd
    found, out = pd.read_pickle(done), []
    if not found.equals(whole): out.append('other numbers')
    lines = [line.split(' ', 1)[1].split(':')[0] for line in (place/'out'/'run.log').read_text().splitlines()]
    rows = len([*(place/'out'/'rows').glob('*.json')])
    if len(set(lines)) != len(lines) or rows != whole.groupby(['fold', 'seed']).ngroups:    # a kill may cost a line
        out.append(f'{len(lines)} lines, {rows} rows')
    litter = ('.tmp', '.damaged', '.holder', '.kept')
    left = [p.relative_to(place) for p in place.rglob('*') if any(word in p.name for word in litter)]
    left += [p.relative_to(place) for p in (place/'tmp').iterdir()]
    if left: out.append(f'left: {", ".join(map(str, left[:3]))}')
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('-n', type=int, default=20, help='kills')
    p.add_argument('-s', '--seed', type=int, default=0)
    p.add_argument('-w', '--workers', type=int, default=1)
    a = p.parse_args()
    rng = random.Random(a.seed)
    with tempfile.TemporaryDirectory(prefix='emonb-kills-') as tmp:
        box = Path(tmp)
        campaign.wrist_files(box)
        given = dict(dataset='stress_predict', model='features', root=str(box/'wrist'), protocol='loso',
                     workers=a.workers, options='')
        import torch
        torch.set_num_threads(1)
        whole = one_run(box/'whole', given)              # and everything is imported now
        done = box/'again.pickle'
        start = time.monotonic()
        child = in_group(lambda: one_run(box/'again', given).to_pickle(done))
        os.waitpid(child, 0)
        lasts, kills, bad, k = time.monotonic() - start, 0, [], 0
        print(f'a run takes {lasts:.1f} s')
        while kills < a.n:
            place, k = box/f'run{k}', k + 1
            for _ in range(rng.choice((1, 1, 2, 3))):
                child = in_group(lambda: one_run(place, given))
                time.sleep(rng.uniform(0, lasts))
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                kills += 1
                if not alone(child): bad.append(f'run {k}: a worker goes on')
            bad += [f'run {k}: {fault}' for fault in faults(place, whole, given)]
    print(f'{kills} kills of {k} runs: {len(bad)} faults')
    for fault in bad: print('-', fault)
    return bool(bad)


if __name__ == '__main__': sys.exit(main())
