"""Other random numbers than today's, for every test and every chapter, without a change in any of them.

With `EMONB_SEED=k` in its environment pytest adds 1000·k to each whole seed that is given to numpy or torch, in its own
process and in the kernels of the notebooks. A claim about chance that holds only for the seed it was written with fails
then; `steady.py` looks for such claims."""
import random
from pathlib import Path

STARTUP = 'import sys\nsys.path.append({folder!r})\nimport seeds\nseeds.shift({k})\nsys.path.pop()\n'


def shift(k):
    "From now on a whole seed s means s + 1000·k in this process."
    import numpy as np
    import torch

    def moved(seed):
        if isinstance(seed, (list, tuple)): return [*seed, k]
        return seed + 1000*k if isinstance(seed, (int, np.integer)) else seed

    def wrapped(f):
        def seeded(seed=None, *args, **kwargs): return f(moved(seed), *args, **kwargs)
        return seeded

    class Generator(torch.Generator):
        def manual_seed(self, seed): return super().manual_seed(moved(seed))

    random.seed = wrapped(random.seed)
    np.random.seed, np.random.default_rng = wrapped(np.random.seed), wrapped(np.random.default_rng)
    torch.manual_seed, torch.Generator = wrapped(torch.manual_seed), Generator


def shift_kernels(k, ipython):
    "The same in every kernel whose IPYTHONDIR is the folder `ipython`."
    startup = Path(ipython)/'profile_default'/'startup'
    startup.mkdir(parents=True, exist_ok=True)
    (startup/'seeds.py').write_text(STARTUP.format(folder=str(Path(__file__).parent), k=k), encoding='utf-8')
