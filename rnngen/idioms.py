"""What people write who come from elsewhere, and what is written here: remedies, as data.

They come from torch, NumPy, JAX, Keras, Flux.jl, Matlab and LaTeX, and from papers in Unicode. Names are looked up
in lower case. A remedy is the text of a hint, unless its table says otherwise.
"""

# ---- Functions ----

# Of ours, by the names that they have elsewhere.
RENAMED = {
    **dict.fromkeys("expit logistic sig sigm sigma sigmoid_fast".split(), "sigmoid"),
    **dict.fromkeys("tanh_fast th".split(), "tanh"),
    **dict.fromkeys("hard_tanh htanh".split(), "hardtanh"),
    **dict.fromkeys("hard_swish hard_silu".split(), "hardswish"),
    **dict.fromkeys("leakyrelu lrelu".split(), "leaky_relu"),
    **dict.fromkeys("rectify rectifier".split(), "relu"),
    "swish": "silu",
    "celu": "elu",
    "gelu_erf": "gelu",
    "log_sigmoid": "logsigmoid",
    **dict.fromkeys("absolute fabs".split(), "abs"),
    **dict.fromkeys("maximum fmax".split(), "max"),
    **dict.fromkeys("minimum fmin".split(), "min"),
    **dict.fromkeys("ifelse if_else if_then_else iif select cond ternary piecewise".split(), "where"),
    "ln": "log",
    **dict.fromkeys("reduce_sum total nansum".split(), "sum"),
    **dict.fromkeys("reduce_mean average avg nanmean".split(), "mean"),
    **dict.fromkeys("inner inner_product vdot vecdot".split(), "dot"),
    **dict.fromkeys("layernorm layer_normalization layernormalization".split(), "layer_norm"),
    **dict.fromkeys("rmsnorm rms_normalization".split(), "rms_norm"),
    "softargmax": "softmax",
}

# What others have a function for, written out; a, b and c are its arguments.
WRITTEN_OUT = {
    **dict.fromkeys("square sqr".split(), "a * a"),
    "cube": "a * a * a",
    "reciprocal": "1 / a",
    "rsqrt": "1 / sqrt(a)",
    "expm1": "exp(a) - 1",
    "exp2": "exp(0.6931471805599453 * a)",
    "log2": "log(a) / 0.6931471805599453",
    "log10": "log(a) / 2.302585092994046",
    "logit": "log(a / (1 - a))",
    "tan": "sin(a) / cos(a)",
    "sinh": "(exp(a) - exp(-a)) / 2",
    "cosh": "(exp(a) + exp(-a)) / 2",
    "asinh": "log(a + sqrt(a * a + 1))",
    "acosh": "log(a + sqrt(a * a - 1))",
    "atanh": "0.5 * log((1 + a) / (1 - a))",
    "hypot": "sqrt(a * a + b * b)",
    **dict.fromkeys("sign sgn".split(), "where(a > 0, 1, where(a < 0, -1, 0))"),
    **dict.fromkeys("heaviside step unit_step".split(), "where(a > 0, 1, 0)"),
    **dict.fromkeys("clamp clip clip_by_value".split(), "min(max(a, b), c)"),
    "logaddexp": "max(a, b) + log1p(exp(-abs(a - b)))",
    **dict.fromkeys("lerp mix blend".split(), "a + c * (b - a)"),
    "prelu": "max(a, 0) + b * min(a, 0)",
    "threshold": "where(a > b, a, c)",
    "hardshrink": "where(abs(a) > 0.5, a, 0)",
    "softshrink": "max(a - 0.5, 0) + min(a + 0.5, 0)",
    "gelu_tanh": "0.5 * a * (1 + tanh(0.7978845608028654 * (a + 0.044715 * a * a * a)))",
    "quick_gelu": "a * sigmoid(1.702 * a)",
    "gaussian": "exp(-a * a)",
    **dict.fromkeys("add plus".split(), "a + b"),
    **dict.fromkeys("sub subtract minus".split(), "a - b"),
    **dict.fromkeys("mul multiply hadamard times".split(), "a * b"),
    **dict.fromkeys("div divide true_divide".split(), "a / b"),
    **dict.fromkeys("mod remainder".split(), "a % b"),
    **dict.fromkeys("floor_divide floordiv".split(), "floor(a / b)"),
    **dict.fromkeys("ceil ceiling".split(), "-floor(-a)"),
    **dict.fromkeys("trunc fix int".split(), "where(a > 0, floor(a), -floor(-a))"),
    "frac": "a - where(a > 0, floor(a), -floor(-a))",
    **dict.fromkeys("fmod rem".split(), "a - b * where(a / b > 0, floor(a / b), -floor(-a / b))"),
    **dict.fromkeys("neg negative".split(), "-a"),
    **dict.fromkeys("matmul mm mv".split(), "a @ b"),
    **dict.fromkeys("norm vector_norm l2_norm".split(), "sqrt(sum(a * a) + 1e-12)"),
    "l1_norm": "sum(abs(a))",
    **dict.fromkeys("normalize normalise l2_normalize".split(), "a / sqrt(sum(a * a) + 1e-12)"),
    "rms": "sqrt(mean(a * a) + 1e-12)",
    "softmin": "softmax(-a)",
    "logsumexp": "log(sum(exp(a)))",
    **dict.fromkeys("log_softmax logsoftmax".split(), "a - log(sum(exp(a)))"),
    "cosine_similarity": "dot(a, b) / sqrt(dot(a, a) * dot(b, b) + 1e-12)",
    **dict.fromkeys("greater gt".split(), "a > b"),
    **dict.fromkeys("less lt".split(), "a < b"),
    **dict.fromkeys("greater_equal ge".split(), "a >= b"),
    **dict.fromkeys("less_equal le".split(), "a <= b"),
    **dict.fromkeys("equal eq".split(), "a == b"),
    **dict.fromkeys("not_equal ne".split(), "a != b"),
}

_POWER = "write the product out in brackets, as in (a * a), or use sqrt, or exp and log."
_REDUCTION = "what looks across units is a product with a matrix, sum, mean, dot, layer_norm, rms_norm or softmax."
_VARIANCE = "with d = a - mean(a), the variance over units is mean(d * d), and the deviation sqrt(mean(d * d))."
_ROUNDING = "floor(a + 0.5) rounds to a whole number, a half upwards; its gradient is zero."
COMPLEX = "the language has no complex numbers: keep the real and the imaginary part in two states."


def _wrapped(wrapper: str) -> str:
    return f'a wrapper does that, around the step: with = ["{wrapper}"] in a layer, or --with {wrapper}.'


_RANDOM = (
    "a step has no random numbers: the key dropout of a layer works between layers, and the wrappers zoneout, "
    "recurrent_dropout and drop_connect within one."
)
_REPARAMETRIZED = "the weights of a layer take it in Python, from torch.nn.utils.parametrizations."
JOINED = "there is no concatenation: give each part a matrix of its own, as in W @ x + U @ h."
TRANSPOSE = "the transpose of a matrix is written behind it, as in U.T."
IDENTITY = "the identity matrix as large as U is eye(U)."
_NO_POWER = "a matrix has no inverse and no power yet; the product of two is P @ Q, and 1 / v is element by element."
_OVER_TIME = "what is gathered over time is a state, as in s' = s + x_in, x_in being an equation."
_EARLIER = "what a value v was one step earlier is lag(v), and d steps earlier lag(v, d)."
_PART_OF = "an operation takes all units of a vector; blocks with names of their own take the place of its parts."
_APART = "names on the left side take blocks apart, as in i, f, g, o = weight_ih @ x."
_CUT = "no gradient can be stopped yet; a number that is not learned is a constant."
_INVERSE = "the language has no inverse of a trigonometric function yet."
_SPIKE = "there is no surrogate gradient yet: where(v > 0, 1, 0) is a spike, through which no gradient flows back."
_HARD_SIGMOID = (
    "hardsigmoid is torch's, min(max(a / 6 + 0.5, 0), 1); that of Keras 2 is written out: "
    "min(max(0.2 * a + 0.5, 0), 1)."
)
_NUMBER = "write the number itself: it goes with every shape."
_LAYER_AROUND = "a step has no layers in it: write the product, as in W @ x + b, its matrix being a block."

# What is not in the language, and what can be done instead, if anything.
ABSENT = {
    **dict.fromkeys(
        "sparsemax entmax gumbel_softmax batch_norm batchnorm group_norm groupnorm instance_norm prod argmax argmin "
        "amax amin any all median trace det".split(),
        _REDUCTION,
    ),
    **dict.fromkeys("var variance std stddev".split(), _VARIANCE),
    **dict.fromkeys("round rint quantize".split(), _ROUNDING),
    **dict.fromkeys("real imag conj complex angle cis polar phase view_as_real modrelu".split(), COMPLEX),
    **dict.fromkeys("rand randn random normal bernoulli uniform noise dropout rrelu multinomial".split(), _RANDOM),
    **dict.fromkeys("cat concat concatenate stack hstack vstack hcat vcat append".split(), JOINED),
    **dict.fromkeys("t mt transpose permute adjoint ctranspose swapaxes".split(), TRANSPOSE),
    **dict.fromkeys("cumsum cumprod cummax scan ema integrate".split(), _OVER_TIME),
    **dict.fromkeys("shift delay roll prev previous last".split(), _EARLIER),
    "next": "no later step can be reached; a layer with reverse runs from the last step to the first.",
    **dict.fromkeys("chunk split tensor_split unbind unpack unsafe_chunk array_split".split(), _APART),
    **dict.fromkeys(
        "view reshape flatten squeeze unsqueeze expand repeat index gather narrow slice tile flip".split(), _PART_OF
    ),
    **dict.fromkeys("detach stop_gradient stopgrad no_grad stop_grad".split(), _CUT),
    **dict.fromkeys("asin acos atan arcsin arccos arctan atan2 arctan2".split(), _INVERSE),
    **dict.fromkeys("zeros ones zeros_like ones_like full full_like tensor array".split(), _NUMBER),
    **dict.fromkeys("linear dense fc affine bilinear embedding conv conv1d conv2d rnn lstm gru".split(), _LAYER_AROUND),
    **dict.fromkeys(
        "einsum bmm baddbmm addmm tensordot kron".split(), "a product is written M @ v, a matrix on its left."
    ),
    "zoneout": _wrapped("zoneout"),
    **dict.fromkeys(
        "recurrent_dropout variational_dropout locked_dropout lock_dropout lockdrop".split(),
        _wrapped("recurrent_dropout"),
    ),
    **dict.fromkeys("drop_connect dropconnect weight_dropout weight_drop weightdrop".split(), _wrapped("drop_connect")),
    **dict.fromkeys("grad_clip clip_grad clip_gradient gradient_clip gradient_clipping".split(), _wrapped("clip")),
    **dict.fromkeys("weight_norm spectral_norm weight_normalization".split(), _REPARAMETRIZED),
    "outer": "a matrix is made of parameters alone; no value of a step is one yet.",
    **dict.fromkeys("eye_like identity_matrix".split(), IDENTITY),
    **dict.fromkeys("diag_embed diagflat diagm".split(), "the diagonal matrix of a vector v is diag(v)."),
    **dict.fromkeys("inv inverse pinv matrix_power matrix_exp expm cholesky qr svd eig eigh solve".split(), _NO_POWER),
    "glu": "write (a * sigmoid(b)), a and b being products with matrices of their own.",
    "maxout": "write max(a, b), a and b being products with matrices of their own.",
    **dict.fromkeys("pow power".split(), _POWER),
    **dict.fromkeys("spike fire surrogate atan_surrogate".split(), _SPIKE),
    **dict.fromkeys("hard_sigmoid hard_sigm hardsigm".split(), _HARD_SIGMOID),
    "erfinv": "the language has no inverse of erf yet.",
    "float": "write where(a > b, 1, 0) to have numbers of a comparison.",
}

DERIVATIVE = "derivatives are not written: every equation is differentiated."

# Of functions that torch gives more arguments than there are here, what the others would choose.
ARGUMENTS = {
    "gelu": f"gelu is the one by erf; the one by tanh is ({WRITTEN_OUT['gelu_tanh']}).",
    "leaky_relu": "its slope is 0.01; with another, k, it is (max(a, 0) + k * min(a, 0)).",
    "elu": "its alpha is 1; with another, k, it is (max(a, 0) + k * (exp(min(a, 0)) - 1)).",
    "softplus": "its beta is 1; with another, k, it is (softplus(k * a) / k).",
    "hardtanh": "its limits are -1 and 1; with others, it is min(max(a, low), high).",
    "log": "it is the natural logarithm; that to the base k is (log(a) / log(k)).",
    **{name: f"nest them: {name}({name}(a, b), c)" for name in ("max", "min")},
    **dict.fromkeys(("sum", "mean", "softmax"), "it is over all units of a vector, and takes no dimension."),
    "layer_norm": "its eps is 1e-05; a gain and a bias are blocks: layer_norm(a) * g + b.",
    "rms_norm": "its eps is 2**-23; a gain is a block: rms_norm(a) * g.",
}

# Of functions that have fewer arguments elsewhere.
FEWER = dict.fromkeys(
    ("max", "min"), "it compares two values unit by unit; over units there are sum, mean and softmax."
)

# Of functions that are written out for vectors, what a matrix has instead; a block with a capital is taken for one.
OF_A_MATRIX = dict.fromkeys(
    "norm l1_norm l2_norm normalize normalise".split(), f"a norm is of a vector; {_REPARAMETRIZED}"
)

# ---- Names ----

# What a word means that stands in a name beside that of a state: of the new value "'", of the old one "".
MOMENTS = {
    **dict.fromkeys("t new next now cur current out tp1 t_plus_1 tplus1".split(), "'"),
    **dict.fromkeys("prev previous old last tm1 t_1 t_minus_1 tminus1 t1 before past".split(), ""),
}

NUMBERS = {
    "pi": "write 3.141592653589793, or make it a constant of the cell.",
    "inf": "a number must be finite.",
    "infinity": "a number must be finite.",
    "nan": "a number must be finite.",
    "true": "write 1.",
    "false": "write 0.",
    "none": "every name of an equation has a value.",
}

# The identity matrix where it has no brackets behind it, and what others put into them.
IDENTITIES = {
    **dict.fromkeys("I Id eye Eye identity Identity I_n".split(), IDENTITY),
    **dict.fromkeys("hidden inputs hidden_size input_size".split(), f"no width has a name in an equation; {IDENTITY}"),
}

# Names of packages, which stand before a function and a point.
PACKAGES = frozenset(
    "torch np numpy nn f functional jnp jax tf keras k math flux nnlib ops ivy mx scipy special".split()
)

# ---- Signs and words ----

_DOT = "write @ behind a matrix, and * between vectors."
_ELEMENTWISE = "write *: the elementwise product."
_SIGMA = "write sigmoid for the function; a name could be sigma."
_CONDITION = "use where(condition, a, b)."
NESTED = "nest the conditions: where(a > 0, where(b > 0, 1, 0), 0)"
ELEMENT = "no element can be reached; a block of a parameter has a name of its own."
TARGETS = "names of blocks stand alone, with a comma between two: i, f = expression."
EACH = "write an equation for each; several names on the left take the blocks of one value apart."
STEPS = "h is the state of the step before and h' the new one; what a value v was a step earlier is lag(v)."


def at_a_step(name: str, steps: int) -> str:
    """The hint for a value with a step in brackets, `steps` before this one."""
    if not steps:
        return f"every name means its value at this step: write {name}, or {name}' for the new value of a state."
    call, less = (f"lag({name}{f', {n}' * (n > 1)})" if n else name for n in (steps, steps - 1))
    return f"write {less} if {name} is a state, which is its value at the step before; else {call}."


SIGNS = {
    "**": _POWER,
    "^": _POWER,
    **dict.fromkeys(("if", "else", "?"), _CONDITION),
    **dict.fromkeys(("and", "or", "&", "|"), NESTED),
    **dict.fromkeys(
        ("not", "!", "~"), "turn the comparison round, or change places of where's second and third argument."
    ),
    "=": "write one equation a line; == compares, and an argument has no name.",
    **dict.fromkeys((":=", "->", "<-"), "an equation is name = expression."),
    "[": STEPS,
    "]": STEPS,
    **dict.fromkeys("{}", "group with round brackets."),
    "//": "write floor(a / b).",
    **dict.fromkeys(("<<", ">>"), "a comparison has one sign, < or >."),
    ";": "write one equation a line, with nothing at its end.",
    ":": "there are no slices: every operation takes all units of a vector.",
    "\\": "write the name alone, without LaTeX's backslash.",
    "$": "write the equation alone, without LaTeX's dollar signs.",
    "`": "the new value of a state has a straight prime, as in h'.",
    "'": "a prime stands right behind a name, as in h'; texts there are none.",
    '"': "there are no texts in an equation.",
    "lambda": "this word is Python's; call it lam.",
    **dict.fromkeys(("for", "while", "return", "def", "import"), "a step has no statements: write name = expression."),
    "None": "every name of an equation has a value.",
    "True": "write 1.",
    "False": "write 0.",
}

# Commands of LaTeX, which stand behind a backslash.
LATEX = {
    **dict.fromkeys("odot circ otimes".split(), _ELEMENTWISE),
    **dict.fromkeys("cdot times".split(), _DOT),
    "sigma": _SIGMA,
    "frac": "write ((a) / (b)), a and b being what stands in its brackets.",
    **dict.fromkeys("left right bigl bigr".split(), "take it out: round brackets are enough."),
    **dict.fromkeys("mathbf mathrm bm boldsymbol text operatorname".split(), "write the name alone, without its font."),
}

# ---- Characters ----


def _instead(written: str) -> str:
    return f"write {written} instead."


PRIMES = "\u2032\u2019\u2018\u02b9\u02bc\u00b4\u201b\uff07\u2035\u02c8"
CHARACTERS = {
    **dict.fromkeys(PRIMES, _instead("' (a straight prime)")),
    **dict.fromkeys("\u2033\u2034", "a name has at most one prime: h' is the new value of h."),
    **dict.fromkeys("\u201c\u201d", SIGNS['"']),
    **dict.fromkeys("\u2212\u2013\u2014\u2010\u2011\u2012\u2015\ufe63\uff0d", _instead("- (a hyphen)")),
    **dict.fromkeys("\u00b7\u22c5\u2219\u2022\u00d7\u2217\u2218\u25e6", _DOT),
    **dict.fromkeys("\u2299\u2297\u2a00\u229b", _ELEMENTWISE),
    **dict.fromkeys("\u00f7\u2215\u2044\u2298", _instead("/")),
    **dict.fromkeys("\u2295", _instead("+")),
    **dict.fromkeys("\u2296", _instead("-")),
    **dict.fromkeys("\u2264\u2a7d", _instead("<=")),
    **dict.fromkeys("\u2265\u2a7e", _instead(">=")),
    "\u2260": _instead("!="),
    **dict.fromkeys("\u2190\u2254\u225c\u21d0", _instead("=")),
    **dict.fromkeys("\u2227\u2228", NESTED),
    "\u00ac": SIGNS["not"],
    **dict.fromkeys("\u03c3\u03c2", _SIGMA),
    **dict.fromkeys("\u03c6\u03d5\u03c8", "write the function that it stands for, as tanh; a name could be phi."),
    "\u03c0": NUMBERS["pi"],
    "\u03bb": "write lam: lambda is a word of Python's.",
    "\u00b5": "write mu instead.",
    "\u221e": NUMBERS["inf"],
    "\u00b2": "write the product out in brackets, as in (a * a).",
    "\u00b3": "write the product out in brackets, as in (a * a * a).",
    "\u221a": "write sqrt(...).",
    "\u2211": _instead("sum(...)"),
    **dict.fromkeys("\u220f\u222b", _REDUCTION),
    **dict.fromkeys("\u1d40\u22a4", TRANSPOSE),
    **dict.fromkeys("\u209c\u208a\u208b\u1d57\u207a\u207b", STEPS),
    **dict.fromkeys("\u2016\u2225", "write sqrt(sum(a * a)) for the norm of a."),
    **dict.fromkeys("\u2207\u2202", DERIVATIVE),
    "\u2208": "shapes stand in the table of a parameter, not in an equation.",
    "\u00bd": _instead("0.5"),
    "\u00bc": _instead("0.25"),
}

# ---- Layers ----

_DENSE = "a layer that is linear at each step is called dense: dense = 1"
_ACTIVATION = "an activation belongs to a cell; behind the layers, it stands in PyTorch."
_IN_FRONT = "it stands in PyTorch, in front of the module or behind it."

LAYER_KINDS = {
    **dict.fromkeys("linear fc fully_connected affine output head projection readout".split(), _DENSE),
    **dict.fromkeys("activation relu tanh sigmoid softmax gelu".split(), _ACTIVATION),
    **dict.fromkeys(
        "embedding conv conv1d conv2d batch_norm batchnorm layer_norm layernorm attention transformer flatten pooling "
        "norm normalization input".split(),
        f"a file has no layer of this kind; {_IN_FRONT}",
    ),
}

# Keys of a model, by what torch and Keras call them.
MODEL_KEYS = dict.fromkeys("input_size input_dim in_features input_shape features".split(), "did you mean 'inputs'?")

AS_WIDE = 'where x is as wide as the states, write: inputs = { x = { shape = ["hidden"] } }'

# Keys of a cell, by what they are called elsewhere or are taken for.
CELL_KEYS = {
    **dict.fromkeys("equations equation update updates forward steps call".split(), "did you mean 'step'?"),
    **dict.fromkeys("weights params param variables".split(), "did you mean 'parameters'?"),
    **dict.fromkeys("outputs returns".split(), "did you mean 'output'?"),
    **dict.fromkeys("hyperparameters".split(), "did you mean 'constants'?"),
    **dict.fromkeys("description doc docstring".split(), "did you mean 'about'?"),
    **dict.fromkeys("reference citation source author authors doi arxiv".split(), "did you mean 'paper'?"),
    **dict.fromkeys("notes comment remark".split(), "did you mean 'note'?"),
    **dict.fromkeys("x input".split(), AS_WIDE),
    "cells": "a cell has none; a file with cells is a model, and has the keys name, inputs and layers.",
}

# Keys of a parameter, by what torch and Keras call them.
PARAMETER_KEYS = {
    **dict.fromkeys("requires_grad trainable learnable learned train".split(), "did you mean 'trained'?"),
    **dict.fromkeys("buffer frozen fixed untrained".split(), "what is not trained has the key trained = false."),
}

# Keys of a layer of a recurrent cell, by what torch, Keras and Flux call them.
LAYER_KEYS = {
    "layers": "did you mean 'num_layers'?",
    **dict.fromkeys("hidden_size units size hidden_dim hidden_units width".split(), "did you mean 'hidden'?"),
    **dict.fromkeys(
        "input_size input_dim inputs in_features".split(), "leave it out: a layer takes what the one before it gives."
    ),
    "nonlinearity": 'where the cell has named activations, write activations, as in { act = "relu" }.',
    "use_bias": "did you mean 'bias'?",
    "go_backwards": "did you mean 'reverse'?",
    "return_sequences": "without it the output is that of all steps; last_only = true keeps the last alone.",
    **dict.fromkeys(
        "chunk chunks chunk_size warm_up warmup".split(), 'it stands in the schedule: schedule = "chunked 512 128".'
    ),
    **dict.fromkeys(
        "checkpoint checkpointing remat every".split(), 'what is kept is chosen by save: save = "every 256".'
    ),
}
