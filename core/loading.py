"""Loading much code at once without the garbage collector."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

SELDOM = 50_000  # new objects between two collections from then on


@contextmanager
def loading() -> Iterator[None]:
    """Inside, nothing is looked through for garbage; afterwards what was loaded never is, and the rest seldom.

    Libraries make some million objects that stay: looking through them again and again while they load costs a fifth of
    that time in a job, a tenth of the console's first paint, and more where a vocabulary is read.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(SELDOM)
        gc.enable()
