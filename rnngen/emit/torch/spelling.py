"""How torch writes the operations."""

from rnngen.emit.statements import Spelling

_CALLS = {
    "sigmoid": "torch.sigmoid({0})",
    "tanh": "torch.tanh({0})",
    "exp": "torch.exp({0})",
    "log": "torch.log({0})",
    "log1p": "torch.log1p({0})",
    "sqrt": "torch.sqrt({0})",
    "sin": "torch.sin({0})",
    "cos": "torch.cos({0})",
    "erf": "torch.erf({0})",
    "floor": "torch.floor({0})",
    "mod": "torch.remainder({0}, {1})",
    "abs": "torch.abs({0})",
    "max": "torch.maximum({0}, {1})",
    "min": "torch.minimum({0}, {1})",
    "where": "torch.where({0}, {1}, {2})",
    "kept": "{1} if {0} is None else torch.where({0}, {1}, {2})",
    "or_zero": "{1} if {0} is None else torch.where({0}, {1}, 0)",
    "expand": "{0}.expand_as({1})",
    "sum": "torch.sum({0}, -1, keepdim=True)",
    "mean": "torch.mean({0}, -1, keepdim=True)",
    "largest": "torch.amax({0}, -1, keepdim=True)",
    "matmul": "product({0}, {1})",
    "linear": "product({0}, {1}, {2})",
    "sigmoid_backward": "torch.ops.aten.sigmoid_backward({0}, {1})",
    "tanh_backward": "torch.ops.aten.tanh_backward({0}, {1})",
    "matmul_t": "product_transposed({0}, {1}, {of})",
    "outer": "outer({0}, {1}, {2})",
    "total": "{0}.sum(0)",
    "total_number": "{0}.sum().reshape(1)",
    "transpose": "torch.transpose({0}, -2, -1)",
    "compose": "torch.matmul({0}, {1})",
    "tril": "torch.tril({0})",
    "triu": "torch.triu({0})",
    "diag": "torch.diag_embed({0})",
    "eye": "torch.triu(torch.tril(torch.ones_like({0})))",
    "slice": "blocks({0}, {of}, {at[0]}, {at[1]})",
    "stack": "torch.cat(({*}), dim=-1)",
    "delayed": "delayed({0}, states, {at}, valid, **options)",
    "join": "torch.cat([{*}])",
}
# The reference keeps derived operations, in torch's own functions: another definition than the one in `ops`.
_DERIVED = {
    "relu": "torch.relu({0})",
    "softplus": "F.softplus({0}, threshold=50)",  # torch's own 20 is off by 2e-9 there
    "silu": "F.silu({0})",
    "hardsigmoid": "(F.relu6({0} + 3) / 6)",  # F.hardsigmoid rounds the 1 / 6 of its derivative to float32
    "identity": "{0}",
    "leaky_relu": "F.leaky_relu({0})",
    "relu6": "F.relu6({0})",
    "hardtanh": "F.hardtanh({0})",
    "elu": "F.elu({0})",
    "selu": "F.selu({0})",
    "gelu": "F.gelu({0})",
    "softsign": "F.softsign({0})",
    "tanhshrink": "F.tanhshrink({0})",
    "hardswish": "F.hardswish({0})",
    "mish": "F.mish({0})",
    "logsigmoid": "F.logsigmoid({0})",
    "dot": "torch.sum(torch.mul({0}, {1}), -1, keepdim=True)",
    "layer_norm": "F.layer_norm({0}, {0}.shape[-1:])",
    "rms_norm": "F.rms_norm({0}, {0}.shape[-1:], eps=1.1920928955078125e-07)",
    "softmax": "torch.softmax({0}, -1)",
}
SPELLING = Spelling(
    target="torch",
    calls=_CALLS | _DERIVED,
    with_number={"max": "torch.clamp({0}, min={1})", "min": "torch.clamp({0}, max={1})"},
    with_fraction={},
    filled="torch.full_like({0}, {1})",
    reserved=frozenset(
        {"F", "nn", "tl", "torch", "triton", "product", "product_transposed", "outer", "blocks", "total", "clip_gradient"}
    ),
)
