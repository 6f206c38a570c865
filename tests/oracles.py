"""What judges each cell of the library: one step by other people's code, and where none can be installed, the equations
written down a second time.

An oracle is one step: from the weights by name, x (batch, inputs), the states (batch, hidden) and what else comes in to
the output and the new states. Nothing of rnngen is in it. `ORACLES` has a line for each cell.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import linear

Weights = dict[str, Tensor]  # parameters and their blocks; a block-diagonal matrix has its zeros
States = tuple[Tensor, ...]


@dataclass(frozen=True)
class Oracle:
    """whose: the library whose code a step is, or what its equations were taken from."""

    whose: str
    step: Callable[..., tuple[Tensor, States]]


def torch_nn(function: Callable) -> Oracle:
    """A cell of torch.nn. Where we have no recurrent bias, or only that of the last gates, the others are zeros."""

    def step(weights: Weights, x: Tensor, states: States) -> tuple[Tensor, States]:
        bias = weights["bias_ih"] if "bias_ih" in weights else weights["bias"]
        own = weights.get("bias_hh", bias[:0])
        recurrent = torch.cat((bias.new_zeros(len(bias) - len(own)), own))
        state = states if len(states) > 1 else states[0]
        new = function(x, state, weights["weight_ih"], weights["weight_hh"], bias, recurrent)
        new = new if isinstance(new, tuple) else (new,)
        return new[0], new

    return Oracle("torch.nn", step)


def torchrecurrent(
    name: str, renamed: Callable[[Weights], Weights] = dict, twice: bool = False, line: bool = False, **options
) -> Oracle:
    """A cell of torchrecurrent 0.2.5.

    Its parameters are ours of the same name; `bias_ih` may be our `bias`. A bias that we do not have, because it is the
    second of one sum, and rows of one that stand behind ours, are zeros. renamed: what has another name there. twice:
    it has our state two times. line: it is given the first of our states and the last, each of which is what the one
    before it was.
    """

    @cache
    def cell_of(inputs: int, hidden: int) -> nn.Module:
        other = pytest.importorskip("torchrecurrent", reason="torchrecurrent, of the extra test, is not installed")
        return getattr(other, f"{name}Cell")(inputs, hidden, **options).double()

    def step(weights: Weights, x: Tensor, states: States) -> tuple[Tensor, States]:
        cell = cell_of(x.shape[-1], states[0].shape[-1])
        known = {"bias_ih": weights["bias"]} if "bias" in weights else {}
        known |= weights | renamed(weights)
        theirs = {}
        for key, parameter in cell.named_parameters():
            own = known.get(key, parameter.new_zeros(0)) if key.startswith("bias") else known[key]
            theirs[key] = (
                F.pad(own, (0, len(parameter) - len(own))) if key.startswith("bias") else own.view_as(parameter)
            )
        if line:
            y = functional_call(cell, theirs, (x, states[0], states[-1]))
            return y, (y, *states[:-1])
        given = states * 2 if twice else states
        answer = functional_call(cell, theirs, (x, given if len(given) > 1 else given[0]))
        if isinstance(answer, Tensor):
            return answer, (answer,)
        y, last = answer
        return y, last if isinstance(last, tuple) else answer[-len(states) :]

    return Oracle(f"torchrecurrent {name}", step)


def equations(function: Callable, source: str) -> Oracle:
    """A function of this file, which takes the weights as attributes; source: where its equations stand."""

    def step(weights: Weights, x: Tensor, states: States, **inputs: Tensor) -> tuple[Tensor, States]:
        return function(SimpleNamespace(**weights), x, *states, **inputs)

    return Oracle(f"equations of {source}", step)


def opposite_update_gate(w: Weights) -> Weights:
    """Of gru_v3 for MUT2, whose update gate says the opposite: 1 - sigmoid(a) is sigmoid(-a)."""
    stacks = {"weight_ih": "W", "weight_hh": "U", "bias_ih": "b"}
    return {key: torch.cat((-w[f"{name}_z"], w[f"{name}_r"], w[f"{name}_n"])) for key, name in stacks.items()}


class HardSigmoid(nn.Module):
    """As torch has it, but with its derivative in double precision: torch's own is 1 / 6 in single."""

    def forward(self, a: Tensor) -> Tensor:
        return torch.clamp(a / 6 + 0.5, 0, 1)


# Steps written from the papers.


def lstmp(p, x, r, c):
    pre = linear(x, p.weight_ih, p.bias) + linear(r, p.weight_hh)
    ins, forgets, cells, outs = pre.chunk(4, -1)
    peep_i, peep_f, peep_o = p.weight_ph.chunk(3)
    c = torch.addcmul(
        torch.sigmoid(torch.addcmul(forgets, peep_f, c)) * c,
        torch.sigmoid(torch.addcmul(ins, peep_i, c)),
        torch.tanh(cells),
    )
    r = linear(torch.sigmoid(torch.addcmul(outs, peep_o, c)) * torch.tanh(c), p.weight_hp)
    return r, (r, c)


def rotation_mingru(p, x, first, second):
    """By the 2 x 2 matrix of each pair of units."""
    angle, mirror, gate_p, gate_q, own_p, own_q = linear(x, p.weight_ih, p.bias).chunk(6, -1)
    rotation = torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos()), -1).unflatten(-1, (2, 2))
    mirrored = torch.stack((torch.ones_like(mirror), torch.tanh(mirror)), -1)
    pair = torch.stack((first, second), -1) * mirrored
    own = torch.stack((gate_p.sigmoid() * own_p, gate_q.sigmoid() * own_q), -1)
    first, second = ((rotation @ pair[..., None])[..., 0] + own).unbind(-1)
    return torch.cat((first, second), -1), (first, second)


def original_lstm(p, x, h, c):
    net = linear(x, p.weight_ih, p.bias) + linear(h, p.weight_hh)
    net_in, net_c, net_out = net.chunk(3, -1)
    c = c + (4 / (1 + torch.exp(-net_c)) - 2) / (1 + torch.exp(-net_in))
    h = (2 / (1 + torch.exp(-c)) - 1) / (1 + torch.exp(-net_out))
    return h, (h, c)


def fs_lstm(p, x, h, c, s, d):
    """By the LSTM of torch.nn for each of the three."""
    none = torch.zeros_like(p.bias_ih)
    h, c = torch.lstm_cell(x, (h, c), p.weight_ih, p.weight_hh, p.bias_ih, none)
    s, d = torch.lstm_cell(h, (s, d), p.weight_fs, p.weight_ss, p.bias_fs, none)
    h, c = torch.lstm_cell(s, (h, c), p.weight_sf, p.weight_ff, p.bias_sf, none)
    return h, (h, c, s, d)


def lem(p, x, y, z):
    one, two, three, four = linear(x, p.weight_ih, p.bias).chunk(4, -1)
    first, second, third = linear(y, p.weight_hh).chunk(3, -1)
    step, other = torch.sigmoid(two + second), torch.sigmoid(one + first)
    z = torch.lerp(z, torch.tanh(three + third), step)
    y = torch.lerp(y, torch.tanh(four + linear(z, p.weight_ch)), other)
    return y, (y, z)


def scrn(p, x, h, s):
    s = 0.05 * linear(x, p.B) + 0.95 * s
    h = torch.sigmoid(linear(s, p.P) + linear(x, p.A) + linear(h, p.R))
    return linear(h, p.U) + linear(s, p.V), (h, s)


def mrnn(p, x, h):
    """The recurrent matrix of this input, made."""
    matrix = p.U @ torch.diag_embed(linear(x, p.W_m)) @ p.U_m
    h = torch.tanh((matrix @ h[..., None])[..., 0] + linear(x, p.W, p.bias))
    return h, (h,)


def mi_rnn(p, x, h):
    of_x, of_h = linear(x, p.W), linear(h, p.U)
    h = torch.tanh(p.alpha * of_x * of_h + p.beta_1 * of_h + p.beta_2 * of_x + p.bias)
    return h, (h,)


def rhn(p, x, h):
    of_x = linear(x, p.weight_ih)
    for depth, matrices in enumerate((p.weight_hh, p.weight_2, p.weight_3)):
        biases = torch.cat((p.bias_h.chunk(3)[depth], p.bias_t.chunk(3)[depth]))
        candidate, transform = (linear(h, matrices, biases) + (of_x if depth == 0 else 0)).chunk(2, -1)
        h = torch.lerp(h, torch.tanh(candidate), torch.sigmoid(transform))
    return h, (h,)


def slstm_gates(p, x, h):
    return (linear(x, p.weight_ih, p.bias) + linear(h, p.weight_hh)).chunk(4, -1)


def slstm(p, x, h, c, n, m):
    """Without the stabiliser, which changes nothing but the scale of c and n."""
    i, f, z, o = slstm_gates(p, x, h)
    c = torch.sigmoid(f) * (c * m.exp()) + i.exp() * torch.tanh(z)
    n = torch.sigmoid(f) * (n * m.exp()) + i.exp()
    m = torch.maximum(F.logsigmoid(f) + m, i)
    h = torch.sigmoid(o) * c / n
    return h, (h, c / m.exp(), n / m.exp(), m)


def slstm_flashrnn(p, x, h, c, n, m):
    i, f, z, o = slstm_gates(p, x, h)
    f = F.logsigmoid(f) + m
    m = torch.where(n == 0, i, torch.maximum(f, i))
    i, f = torch.exp(i - m), torch.exp(f - m)
    c, n = f * c + i * torch.tanh(z), torch.clamp(f * n + i, min=1)
    h = torch.sigmoid(o) * c / n
    return h, (h, c, n, m)


def slstm_xlstm(p, x, h, c, n, m):
    i, f, z, o = slstm_gates(p, x, h)
    f = F.logsigmoid(f) + m
    m = torch.where(n == 0, i, torch.maximum(f, i))
    i, f = torch.clamp(torch.exp(i - m), max=1), torch.clamp(torch.exp(f - m), max=1)
    c, n = f * c + i * torch.tanh(z), f * n + i
    h = torch.sigmoid(o) * c / n
    return h, (h, c, n, m)


def mingru(p, x, h):
    z, n = linear(x, p.weight_ih, p.bias).chunk(2, -1)
    h = torch.lerp(h, n, torch.sigmoid(z))
    return h, (h,)


def mingru_log(p, x, h):
    z, k = linear(x, p.weight_ih, p.bias).chunk(2, -1)
    h = torch.lerp(h, torch.where(k < 0, torch.sigmoid(k), k + 0.5), torch.sigmoid(z))
    return h, (h,)


def minlstm(p, x, h):
    *gates, n = linear(x, p.weight_ih, p.bias).chunk(3, -1)
    f, i = torch.softmax(F.logsigmoid(torch.stack(gates)), 0)  # in proportion to their sigmoids
    h = f * h + i * n
    return h, (h,)


def signed_mingru(p, x, h):
    z, a, n = linear(x, p.weight_ih, p.bias).chunk(3, -1)
    h = torch.tanh(a) * h + torch.sigmoid(z) * n
    return h, (h,)


def rg_lru(p, x, h):
    x = linear(x, p.weight_ih)
    r, i = torch.sigmoid(linear(x, p.weight_uh, p.bias)).chunk(2, -1)
    log_a = -8 * r * F.softplus(-p.decay)
    h = log_a.exp() * h + torch.sqrt(-torch.expm1(2 * log_a)) * i * x
    return h, (h,)


def hgrn_fla(p, x, h):
    f, i = linear(x, p.weight_ih).chunk(2, -1)
    forgotten = (1 - p.bound) * torch.sigmoid(-f)
    h = torch.lerp(h, F.silu(i), forgotten)
    return h, (h,)


def wkv4(p, x, a, b, m):
    """The quotient of the paper without the stabiliser, which changes nothing but the scale of a and b."""
    k, v = linear(x, p.weight_ih).chunk(2, -1)
    a, b = a * m.exp(), b * m.exp()
    y = (a + torch.exp(p.bonus + k) * v) / (b + torch.exp(p.bonus + k))
    a, b = (torch.exp(-p.decay.exp()) * old + k.exp() * new for old, new in ((a, v), (b, 1)))
    m = torch.maximum(m - p.decay.exp(), k)
    return y, (a / m.exp(), b / m.exp(), m)


def rwkv4(p, x, a, b, m, old):
    """The token shift as torch's lerp, and wkv4 of what is mixed."""
    r, k, v = (linear(torch.lerp(old, x, mix), m) for mix, m in zip(p.mix.chunk(3), p.weight_ih.chunk(3), strict=True))
    core = SimpleNamespace(weight_ih=torch.eye(2 * k.shape[-1], dtype=k.dtype), decay=p.decay, bonus=p.bonus)
    y, states = wkv4(core, torch.cat((k, v), -1), a, b, m)
    return linear(torch.sigmoid(r) * y, p.weight_ho), (*states, x)


def qrnn(p, x, c, old):
    """The convolution as torch has it, over two steps."""
    window = torch.stack((old, x), -1)
    z, *gates = F.conv1d(window, torch.stack((p.weight_lh, p.weight_ih), -1), p.bias)[..., 0].chunk(4, -1)
    i, f, o = map(torch.sigmoid, gates)
    c = f * c + i * torch.tanh(z)
    return o * c, (c, x)


def narx(p, x, h, one, two):
    new = torch.tanh(linear(torch.cat((x, h, one, two), -1), torch.cat((p.W, p.U_1, p.U_2, p.U_3), 1), p.bias))
    return new, (new, h, one)


def sru(p, x, c):
    """The highway with its x scaled so that the output keeps the variance of x."""
    new, forget, reset = linear(x, p.weight_ih).chunk(3, -1)
    forget = torch.sigmoid(forget + p.v_f * c + p.b_f)
    reset = torch.sigmoid(reset + p.v_r * c + p.b_r)
    c = torch.lerp(new, c, forget)
    return torch.lerp(x * 3**0.5, c, reset), (c,)


def mut1(p, x, h):
    z = torch.sigmoid(linear(x, p.W_z, p.b_z))
    r = torch.sigmoid(linear(x, p.W_r, p.b_r) + linear(h, p.U_r))
    h = torch.lerp(h, torch.tanh(linear(r * h, p.U_n, p.b_n) + torch.tanh(x)), z)
    return h, (h,)


def mut2(p, x, h):
    z = torch.sigmoid(linear(x, p.W_z, p.b_z) + linear(h, p.U_z))
    r = torch.sigmoid(x + linear(h, p.U_r, p.b_r))
    h = torch.lerp(h, torch.tanh(linear(r * h, p.U_n, p.b_n) + linear(x, p.W_n)), z)
    return h, (h,)


def normed(a, gain):
    return F.layer_norm(a, gain.shape, gain)


def layer_norm_lstm(p, x, h, c):
    """One norm over the gates of x, one over those of h."""
    both = normed(linear(x, p.weight_ih), p.gain_ih) + normed(linear(h, p.weight_hh), p.gain_hh)
    i, f, g, o = (both + p.bias).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(normed(c, p.gain_c) + p.bias_c)
    return h, (h, c)


def layer_norm_gru(p, x, h):
    """One norm over the two gates of x, one over those of h, and one of each candidate."""
    of_x = normed(linear(x, torch.cat((p.W_z, p.W_r))), torch.cat((p.v_z, p.v_r)))
    of_h = normed(linear(h, torch.cat((p.U_z, p.U_r))), torch.cat((p.u_z, p.u_r)))
    z, r = torch.sigmoid(of_x + of_h + torch.cat((p.b_z, p.b_r))).chunk(2, -1)
    n = torch.tanh(normed(linear(x, p.W_n), p.v_n) + p.b_n + r * (normed(linear(h, p.U_n), p.u_n) + p.bias_hn))
    h = torch.lerp(h, n, z)
    return h, (h,)


def layer_norm_gru_haste(p, x, h):
    of_x = normed(linear(x, p.weight_ih), p.gain_ih) + p.bias_ih
    of_h = normed(linear(h, p.weight_hh), p.gain_hh)
    (z, r, n), (h_z, h_r, h_n) = of_x.chunk(3, -1), of_h.chunk(3, -1)
    n = torch.tanh(n + torch.sigmoid(r + h_r) * (h_n + p.bias_hh))
    h = torch.lerp(n, h, torch.sigmoid(z + h_z))
    return h, (h,)


def layer_norm_indrnn(p, x, h):
    h = torch.tanh(normed(linear(x, p.weight_ih), p.gain) + p.bias + p.weight_hh * h)
    return h, (h,)


def dreamer_gru(p, x, h):
    """The hidden layer of what is put side by side: the state, and a layer of each."""

    def layer(a, matrix, bias, gain):
        return F.silu(F.rms_norm(linear(a, matrix, bias), gain.shape, gain, 1e-4))

    features = torch.cat((h, layer(x, p.W, p.b_x, p.g_x), layer(h, p.U, p.b_h, p.g_h)), -1)
    y = layer(features, torch.cat((p.R, p.V_x, p.V_h), 1), p.b, p.g)
    reset, new, update = linear(y, torch.cat((p.R_r, p.R_n, p.R_z)), torch.cat((p.b_r, p.b_n, p.b_z))).chunk(3, -1)
    h = torch.lerp(h, torch.tanh(torch.sigmoid(reset) * new), torch.sigmoid(update - 1))
    return h, (h,)


def cfc(p, x, h, tau):
    first, *biases = p.bias.chunk(5)
    k = linear(torch.cat((x, h), -1), torch.cat((p.W, p.U), 1), first)
    k = 1.7159 * torch.tanh(0.666 * k)
    one, other, a, c = linear(k, p.weight_kh, torch.cat(biases)).chunk(4, -1)
    h = torch.lerp(torch.tanh(one), torch.tanh(other), torch.sigmoid(a * tau[:, None] + c))
    return h, (h,)


def phased_lstm(p, x, h, c, t):
    """Where a unit is open, by the three pieces of its wave."""
    i, f, g, o = (linear(x, p.weight_ih, p.bias) + linear(h, p.weight_hh)).chunk(4, -1)
    new_c = torch.sigmoid(f + p.p_f * c) * c + torch.sigmoid(i + p.p_i * c) * torch.tanh(g)
    new_h = torch.sigmoid(o + p.p_o * new_c) * torch.tanh(new_c)
    phase = torch.remainder(t[:, None] - p.shift, p.period) / p.period
    rises, falls = phase < 0.5 * p.on, (phase >= 0.5 * p.on) & (phase < p.on)
    k = 0.001 * phase * ~(rises | falls) + 2 * phase / p.on * rises + (2 - 2 * phase / p.on) * falls
    c, h = torch.lerp(c, new_c, k), torch.lerp(h, new_h, k)
    return h, (h, c)


def clockwork_rnn(p, x, h, k):
    """Unit by unit: the matrix has no way to one from a faster one."""
    heard = torch.stack([row * (p.period >= own) for row, own in zip(p.U, p.period, strict=True)])
    h = torch.where(k == 0, torch.tanh(linear(x, p.W, p.b) + linear(h, heard)), h)
    return h, (h, (k + 1) * (k + 1 < p.period))


ORACLES = {
    "antisymmetric_rnn": torchrecurrent("AntisymmetricRNN", epsilon=0.01, gamma=0.01),
    "atr": torchrecurrent("ATR"),
    "block_gru": torch_nn(torch.gru_cell),
    "block_lstm": torch_nn(torch.lstm_cell),
    "brc": torchrecurrent("BR"),
    "cfc": equations(cfc, "ncps"),
    "cfn": torchrecurrent("CFN"),
    "clockwork_rnn": equations(clockwork_rnn, "the paper"),
    "cornn": torchrecurrent("coRNN", dt=0.042, gamma=2.7, epsilon=4.7),
    "dreamer_gru": equations(dreamer_gru, "the authors' code, by torch's rms_norm"),
    "dsgu": torchrecurrent("DSGU", gate_nonlinearity=HardSigmoid()),
    "fastgrnn": torchrecurrent("FastGRNN", nonlinearity="sigmoid"),
    "fastrnn": torchrecurrent("FastRNN"),
    "fs_lstm": equations(fs_lstm, "the paper, each LSTM by torch.nn"),
    "gated_antisymmetric_rnn": torchrecurrent("GatedAntisymmetricRNN", epsilon=0.01, gamma=0.01),
    "gru": torch_nn(torch.gru_cell),
    "gru_flux": torch_nn(torch.gru_cell),
    "gru_v3": torchrecurrent("MUT2", opposite_update_gate),
    "hgrn_fla": equations(hgrn_fla, "flash-linear-attention"),
    "indrnn": torchrecurrent("IndRNN", lambda w: {"vector_u": w["weight_hh"]}),
    "intersection_rnn": torchrecurrent("IntersectionRNN"),
    "irnn": torch_nn(torch.rnn_relu_cell),
    "janet": torchrecurrent("JANET", lambda w: {"beta": torch.tensor(1.0)}, twice=True),
    "janet_torchrecurrent": torchrecurrent("JANET", twice=True),
    "layer_norm_gru": equations(layer_norm_gru, "the paper, by torch's layer_norm"),
    "layer_norm_gru_haste": equations(layer_norm_gru_haste, "Haste, by torch's layer_norm"),
    "layer_norm_indrnn": equations(layer_norm_indrnn, "Haste, by torch's layer_norm"),
    "layer_norm_lstm": equations(layer_norm_lstm, "the paper, by torch's layer_norm"),
    "lem": equations(lem, "the paper; torchrecurrent's LEM reads the old z"),
    "lem_torchrecurrent": torchrecurrent("LEM"),
    "lightru": torchrecurrent("LightRU"),
    "ligru": torchrecurrent("LiGRU"),
    "lstm": torch_nn(torch.lstm_cell),
    "lstmp": equations(lstmp, "the paper"),
    "mclstm": torchrecurrent("MCLSTM"),
    "mgu": torchrecurrent("MGU"),
    "mi_rnn": equations(mi_rnn, "the paper"),
    "mingru": equations(mingru, "the paper"),
    "mingru_log": equations(mingru_log, "the paper"),
    "minimal_rnn": torchrecurrent("MinimalRNN"),
    "minlstm": equations(minlstm, "the paper"),
    "miru1": torchrecurrent("MiRU1"),
    "miru2": torchrecurrent("MiRU2"),
    "mrnn": equations(mrnn, "the paper"),
    "multiplicative_lstm": torchrecurrent("MultiplicativeLSTM"),
    "mut1": equations(mut1, "the paper"),
    "mut1_torchrecurrent": torchrecurrent("MUT1", lambda w: {"bias_hh": F.pad(w["bias_hh"], (len(w["bias_hh"]), 0))}),
    "mut2": equations(mut2, "the paper"),
    "mut2_torchrecurrent": torchrecurrent("MUT2"),
    "mut3": torchrecurrent("MUT3"),
    "narx": equations(narx, "the paper"),
    "nas": torchrecurrent("NAS"),
    "nbrc": torchrecurrent("NBR"),
    "original_lstm": equations(original_lstm, "the paper, appendix A"),
    "original_lstm_torchrecurrent": torchrecurrent("OriginalLSTM"),
    "peephole_lstm": torchrecurrent("PeepholeLSTM"),
    "phased_lstm": equations(phased_lstm, "the paper"),
    "qrnn": equations(qrnn, "the paper, by torch's convolution"),
    "ran": torchrecurrent("RAN"),
    "residual_lstm": torchrecurrent("ResLSTM"),
    "rg_lru": equations(rg_lru, "the paper"),
    "rhn": equations(rhn, "the paper"),
    "rnn": torch_nn(torch.rnn_tanh_cell),
    "rnn_relu": torch_nn(torch.rnn_relu_cell),
    "rotation_mingru": equations(rotation_mingru, "mingru-scans"),
    "rwkv4": equations(rwkv4, "the paper, without a stabiliser"),
    "scrn": equations(scrn, "the paper; torchrecurrent's SCRN feeds its output back"),
    "scrn_torchrecurrent": torchrecurrent("SCRN"),
    "sgrn": torchrecurrent("SGRN"),
    "sgu": torchrecurrent("SGU", gate_nonlinearity=HardSigmoid()),
    "signed_mingru": equations(signed_mingru, "mingru-scans"),
    "slstm": equations(slstm, "the paper, before its stabiliser"),
    "slstm_flashrnn": equations(slstm_flashrnn, "FlashRNN"),
    "slstm_xlstm": equations(slstm_xlstm, "xlstm"),
    "sru": equations(sru, "the paper"),
    "star": torchrecurrent("STAR"),
    "tau_gru": torchrecurrent("tauGRU", line=True),
    "tgru": torchrecurrent("TGRU"),
    "tlstm": torchrecurrent("TLSTM"),
    "trnn": torchrecurrent("TRNN"),
    "ugrnn": torchrecurrent("UGRNN"),
    "unicornn": torchrecurrent("UnICORNN", dt=0.19, alpha=30.65),
    "wkv4": equations(wkv4, "the paper, without a stabiliser"),
    "wmc_lstm": torchrecurrent("WMCLSTM"),
}
