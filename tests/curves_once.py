"""Curves drawn once for all runs that logged the same: they take 0.7 CPU seconds, and `write_card` always draws them."""

from sslzoo.files import atomic_write
from sslzoo.hub.curves import draw_curves
from sslzoo.hub.pictures import CURVES
from sslzoo.run import Run

_drawn: dict[tuple, bytes] = {}


def draw_curves_once(run: Run):
    """As `draw_curves`, whose pictures and errors depend on nothing else."""
    logged = (run.folder / "metrics.jsonl").read_bytes(), repr(run.recipe.reference)
    if logged not in _drawn:
        _drawn[logged] = draw_curves(run).read_bytes()
    with atomic_write(run.folder / CURVES) as temporary:
        temporary.write_bytes(_drawn[logged])
    return run.folder / CURVES
