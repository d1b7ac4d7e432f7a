"""Which arguments of a program hold the rows of its data, read off its plates."""

from __future__ import annotations

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.target import Target


def row_arguments(target: Target, engine: str, does: str) -> tuple[str, ...]:
    """Arguments whose leading axis are the rows of the one plate that holds all observations.

    Args:
        does: what the engine does with rows, for the error.

    Raises:
        UnsupportedError: there is no such plate, or more than one.
    """
    target.require_full_data(engine)
    factors = [n for n, s in target.sites.items() if s.kind == "factor"]
    names = [*target.observed, *target.discrete] or factors
    plates = [{(p.name, p.size) for p in target.sites[n].plates} for n in names]
    common = set.intersection(*plates) if plates else set()
    held = {p: [n for n, x in target.bound.seen.items() if x.ndim and len(x) == p[1]] for p in common}
    found = [tuple(arguments) for arguments in held.values() if arguments]
    if len(found) != 1:
        raise UnsupportedError(
            f"{engine} {does}, and {target.program.name} has {len(found)} plates that hold all observations and are as "
            "long as the data: declare the rows by one pg.plate('row', len(x)), or use engine='em', or 'svi'"
        )
    return found[0]
