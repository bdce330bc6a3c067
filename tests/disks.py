"""Runs on a disk that fails, at every moment in turn: a sentence, nothing half-written taken for whole, nothing left.

    python tests/disks.py                   every 20th change of a file of the shortest run, on each kind of disk
    python tests/disks.py --every 1         every change
    python tests/disks.py --only fmov,deap  other kinds of run (those of tests/kills.py)
    python tests/disks.py --told a.json     the counts are written to a file

Before each change of a file, in turn, the disk

    full        has no room from now on: files can be removed, none can be made or grows
    read-only   can be read from now on, and not written
    gone        gives an error from now on, whatever is written or removed
    once        refuses this one change, and no other

and, where a file system can be mounted, a disk of its own is as small as it can be and grows by a page of 4 kB after
each run that found no room (`grows`). A run must end in one sentence of emonb's, or well. Where files could still be
removed, nothing may be left. Then the disk has room again, and the same run must end with the numbers, the files and
the lines of its log of one that was never disturbed."""
import argparse
import collections
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import kills

GROWING = {'open', 'os.mkdir', 'os.rename'}
DISKS = dict(full=(errno.ENOSPC, GROWING), once=(errno.ENOSPC, GROWING), gone=(errno.EIO, None))
DISKS['read-only'] = errno.EROFS, None
PAGE = 4


def failing(disk:str, first:int):
    "What such a disk does from the change of that number on."
    code, only = DISKS[disk]
    state = []
    def what(path, count, event):
        if only and event not in only or count < first or disk == 'once' and state: return
        state.append(count)
        raise OSError(code, os.strerror(code), path)
    return what


def said_by(kind, place, box, disturb=lambda: None) -> tuple[str, str]:
    "How a run ends: 'well', 'a sentence', or 'foreign' and the last line of its traceback."
    def job():
        from emonb.core import EmonbError
        disturb()
        try: kills.one_run(kind, place, box)
        except EmonbError as e: return json.dumps(['poor' if '\n' in str(e) else 'a sentence', str(e)])
        except BaseException as e:
            import campaign
            return json.dumps(['foreign', f'{type(e).__name__} in {campaign.innermost(e)}: {str(e)[:200]}'])
        return json.dumps(['well', ''])
    return tuple(json.loads(kills.in_pipe(job) or '["death", ""]'))


def unfinished(place) -> list[str]:
    "What is half-written below a place."
    litter = ('.tmp', '.kept', '.making', '.part', '.damaged')
    return sorted(str(p.relative_to(place)) for p in place.rglob('*')
                  if any(w in p.name for w in litter) or p.parent == place/'tmp')


def disturbed(kind, disk, first, box, whole) -> tuple[str, list[str]]:
    "A run on a disk that fails at a change, and one after it: how the first ended, and what is wrong."
    place = box/'disturbed'
    shutil.rmtree(place, ignore_errors=True)
    for name in ('out', 'cache', 'tmp'): (place/name).mkdir(parents=True)
    ended, said = said_by(kind, place, box, lambda: kills.at_changes(place, failing(disk, first)))
    bad = [] if ended in ('well', 'a sentence') else [f'{ended}: {said}']
    if disk in ('full', 'once') and (left := unfinished(place)): bad.append(f'left at once: {left[0]}')
    return ended, bad + kills.faults(kind, place, box, whole)


def mounted(place, size) -> bool:
    "Whether a disk of so many kB lies at a place now."
    place.mkdir(exist_ok=True)
    call = ['mount', '-t', 'tmpfs', '-o', f'size={size}k', 'tmpfs', str(place)]
    return bool(shutil.which('mount')) and not subprocess.run(call, capture_output=True).returncode


def grows(kind, box, whole, page=PAGE) -> tuple[int, list[str]]:
    "A disk that grows by a page after each run that found no room: how many did, and what is wrong."
    place, runs, bad = box/'grows', 0, []
    if not mounted(place, size := page): return 0, []
    try:
        while runs < 2000:
            ended, said = said_by(kind, place, box)
            if ended == 'well': break
            runs += 1
            if ended != 'a sentence' or 'the disk is full' not in said: bad.append(f'{size} kB: {ended}: {said}')
            if left := unfinished(place): bad.append(f'{size} kB: left {left[0]}')
            size += page
            subprocess.run(['mount', '-o', f'remount,size={size}k', str(place)], check=True)
        subprocess.run(['mount', '-o', f'remount,size={size + 2000}k', str(place)], check=True)
        bad += kills.faults(kind, place, box, whole)
    finally: subprocess.run(['umount', '-l', str(place)], check=True)
    return runs, bad


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--every', type=int, default=20, help='each so many-th change of a file')
    p.add_argument('--first', type=int, default=1, help='begin with this one')
    p.add_argument('--only', default='wrist', help='kinds of run, with commas')
    p.add_argument('--disks', default='full,once,gone,read-only,grows', help='kinds of disk, with commas')
    p.add_argument('--page', type=int, default=PAGE, help='kB by which a disk grows')
    p.add_argument('--told', default='', help='a JSON file for the counts')
    a = p.parse_args()
    counts, faults, kinds, disks = collections.Counter(), [], a.only.split(','), a.disks.split(',')
    with tempfile.TemporaryDirectory(prefix='emonb-disks-') as tmp:
        box = Path(tmp)
        for kind, (whole, _, changes) in kills.prepared(box, kinds).items():
            for disk in disks:
                if disk == 'grows':
                    runs, bad = grows(kind, box, whole, a.page)
                    counts[kind, disk, 'a sentence'] += runs
                    faults += [f'{kind}, {disk}: {b}' for b in bad]
                    continue
                for first in range(a.first, changes + 1, a.every):
                    ended, bad = disturbed(kind, disk, first, box, whole)
                    counts[kind, disk, ended] += 1
                    faults += [f'{kind}, {disk} at change {first}: {b}' for b in bad]
                print(f'{kind}, {disk}: {len(faults)} faults', *faults[-1:], flush=True)
    by = [dict(kind=k, disk=d, ended=e, runs=n) for (k, d, e), n in sorted(counts.items())]
    for line in by: print(*line.values())
    for fault in faults: print('-', fault)
    print(f'{sum(counts.values())} runs on a disk that failed: {len(faults)} faults')
    said = dict(every=a.every, runs=sum(counts.values()), faults=len(faults), by=by)
    if a.told: Path(a.told).write_text(json.dumps(said) + '\n')
    return bool(faults)


if __name__ == '__main__': sys.exit(main())
