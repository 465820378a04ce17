"""Fast products of int8 codes on CPU: C for the processor's own instructions, compiled once on the machine that runs it.

build.py makes and loads the library; weights.py lays weights out for it; the rest calls it. The arithmetic is that of
modules/ and integers/, which computes the same with torch where there is no library: see `state`.
"""

from asrcompress.kernels.build import library, state

__all__ = ["library", "state"]
