"""Arithmetic of level integer-only: tensors that carry a static grid, and what may be done with them.

In reading order: grid.py (codes and the numbers they stand for), rescale.py (multiplier and shift),
sites.py (where a model's grids belong), tensor.py (activations that dispatch torch's functions),
functions.py, arithmetic.py, lookup.py, norm.py, softmax.py, pooling.py (what is done instead), lengths.py (exact bookkeeping).
No weights and no files here; modules/ and artifact.py have those.
"""
