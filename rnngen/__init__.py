"""rnngen: a compiler for recurrent networks.

A model travels through these files from left to right, and each imports only from its left:

    source        a text and places in it
    errors        mistakes of the user: a place, a reason, a remedy
    document      TOML read safely, with the place of every key and value
    ops           the operations of the equation language, one row each
    equations     the text of a step, parsed
    description   the TOML model, validated
    ir            values and cells: the one form that every pass reads and writes
    passes/       resolve infer simplify pack hoist differentiate lower save verify
    schedules/    how a scan is laid on a machine: when each way is legal
    emit/         values to lines of Triton or torch; records for the templates
    compile       the whole road on one page
    reference     a cell run by torch as it was written, to judge everything else
    cli           the commands

    runtime/      what a generated module imports; it imports nothing of the above

This file imports nothing, so that a generated module stays light.
"""
