"""Compiles what a Pyro program does to tensors, whatever the program.

Pyro's handlers are plain Python; what they do to tensors does not depend on the tensors' values in a
program of static structure. So the program is run once at the level of PyTorch's dispatcher, which
records tensor operations alone, gradients included (``trace``), and the record is compiled by inductor, and
on a GPU replayed as a CUDA graph (``replay``). Some operations are recorded in another form (``cpu``,
``selections``), and each product is left to the faster library (``products``). What else the program depends
on is watched (``watch``), described (``describe``) or computed anew (``guards``), and what was compiled is
held against the eager program (``steps``). All private API is in ``private``.
"""

from pyro_vae.engine.steps import Steps
from pyro_vae.engine.trace import CompilationError, Compiled

__all__ = ["CompilationError", "Compiled", "Steps"]
