"""How Triton writes the operations, and the names that a kernel has for its own."""

from rnngen.emit.statements import Spelling

SPELLING = Spelling(
    target="triton",
    calls={
        "sigmoid": "sigmoid({0})",
        "tanh": "tanh({0})",
        "exp": "tl.exp({0})",
        "log": "tl.log({0})",
        "log1p": "log1p({0})",
        "sqrt": "tl.sqrt({0})",
        "sin": "tl.sin({0})",
        "cos": "tl.cos({0})",
        "erf": "tl.erf({0})",
        "floor": "tl.floor({0})",
        "mod": "remainder({0}, {1})",
        "abs": "tl.abs({0})",
        "max": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
        "min": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
        "where": "tl.where({0}, {1}, {2})",
        "kept": "kept({0}, {1}, {2})",
        "or_zero": "or_zero({0}, {1})",
        "expand": "expand({0}, {1})",
    },
    with_number={},
    with_fraction={  # Triton 3.6 would round the number to float32, in float64 too
        "max": "tl.maximum({0}, tl.full([], {1}, ACC), propagate_nan=tl.PropagateNan.ALL)",
        "min": "tl.minimum({0}, tl.full([], {1}, ACC), propagate_nan=tl.PropagateNan.ALL)",
        "mod": "remainder({0}, tl.full([], {1}, ACC))",
    },
    filled="tl.zeros_like({0}) + {1}",
    reserved=frozenset(
        "F nn tl torch triton sigmoid tanh log1p remainder kept or_zero begun cut expand step_at step_before boundary "
        "counted counted_of load_row load_tiles store_tiles load_units store_units units_of load_scalars load_vectors "
        "load_matrices load_transposed multiply multiply_transposed load_numbers store_numbers fill_numbers sum_tiles "
        "largest_tiles sum_units largest_units load_chunk load_flags store_chunk widened old_values summed row_at "
        "stretch_of chunks_of no_step with_step of_rows with_chunk store_map before_stretch of_stretch ROUND ONWARD "
        "stop chunks batch_part "
        "arrive await_others member step_after load_ahead tiles_of send_tile send_sums send_numbers store_slice "
        "load_rows load_columns receive_tiles multiply_rows receive_sums add_sums receive_numbers first_tiles "
        "fill_tiles first_units fill_units first_chunks fill_chunks T B H I D HEADS BD BB BLOCK CHUNK KU KT SLICES "
        "PARTS FEW APART OWN VALUES SUMS NUMBERS GROUP MP STAGES UNROLL BACKWARDS BOTH SAVE KEEP WIDE HELD LATE "
        "PRECISION ACC head batch one left left_late one_late row row_0 row_late row_ahead left_own left_one "
        "left_ahead place part start at group counter turn values sums numbers count begin end time unit first inside "
        "second "
        # What the launcher of the stepwise schedule has.
        "scan choice stage step zip last state blocks product_into product_transposed_into "
        # Triton's interpreter puts names of its own among a kernel's globals.
        "np numpy math ast types partial wraps".split()
    ),
)
