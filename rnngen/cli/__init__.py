"""The commands, each in a file of its name. Only this folder prints and exits. Each of these files imports only from
those above it:

    answers     what ends a command, and its exit code
    output      standard output that takes no more
    names       names on the command line, and their completion
    reading     MODEL, read
    outcome     what became of each MODEL that was to be compiled
    cells       the library
    compile     a module for each MODEL
    doctor      what is installed, and what will run where
    explain     which schedule runs a cell, why, and what it takes
    schema      what an editor has to know of model files
    show        a cell as a pass leaves it
    verify      kernels beside the reference
    group       the command `rnngen` itself, which imports one of these when it is wanted

Exit codes: 0 done; 1 the model was rejected, `--check` found stale output, `verify` found an error too large,
or the disk is full; 2 usage, unreadable input, a place that cannot be written to; 3 a fault of ours;
130 interrupted; 141 the reader of the output has gone.

Imports of the compiler stand in the functions that need them: `rnngen --help` needs none, and torch is for `verify`
and `doctor` only.
"""

from rnngen.cli.group import main

__all__ = ["main"]
