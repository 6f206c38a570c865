"""rnngen: a compiler for recurrent networks.

A model travels through these files from left to right, and each imports only from its left:

    source        a text and places in it
    errors        mistakes of the user: a place, a reason, a remedy
    library       the cells that come with rnngen, as texts
    document      TOML read safely, with the place of every key and value
    ops           the operations of the equation language, one row each
    idioms        what people write who come from elsewhere, and the remedy
    ir            values and cells: the one form that every pass reads and writes
    across        the operations that look across units, one row each
    matrices      the operations that make matrices, one row each
    equations     the text of a step, parsed
    build         a graph made value by value, each in its simplest form
    wrappers/     steps around a step, each in a file of its name
    cell          a described cell, and whether each name in it means something
    lag           what a value was some steps earlier, as states
    chain         a scan's step as stages, with what looks across units between them
    description/  the TOML model, validated: a cell, or a stack of layers
    passes/       resolve infer unpack wrap simplify pack hoist unfold differentiate expand mask save supply
                  again lower cut verify
    emit/         values to lines of Triton or torch; records for the templates
    audit         the last look at a generated text
    compile       the whole road on one page
    explain/      which schedule runs a cell, why, what it takes, and what would change that
    catalogue     the library as a person looks through it
    reference     a cell run by torch as it was written, to judge everything else
    write         a file, whole or not at all
    verify        kernels against the reference
    doctor        what is installed, and what will run where
    cli/          the commands, each in a file of its name

    runtime/      what a generated module imports, schedules and their cost among it; it imports nothing of the above

This file imports nothing, so that a generated module stays light.
"""

VERSION = "0.1.0"
