"""Cells for tests: some of the library, and others invented to be awkward. `ALL` has them as texts by name.

Below them is what tests of graphs share: programs by name, random values for them, and the forward graphs in a row.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from rnngen import reference
from rnngen.compile import forms_of
from rnngen.description import describe, library
from rnngen.ir import Program
from rnngen.source import Source

LIBRARY = {name: source.text for name, source in library().items()}

INVENTED = {
    # Two states with one new value, and a learned scalar.
    "equal_states": """
name   = "equal_states"
states = ["h", "c"]
step   = '''
s  = W_s @ x + U_s @ h + b_s
n  = tanh(W_n @ x + U_n @ h + b_n)
c' = sigmoid(s) * c + (1 - sigmoid(s - beta)) * n
h' = c'
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W_s", "W_n"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U_s", "U_n"] }
bias      = { shape = ["hidden"], blocks = ["b_s", "b_n"] }
beta      = { shape = [], blocks = ["beta"], init = 1.0 }
""",
    # Chang et al. 2019, gated: of matrices that are made of parameters, two for one vector.
    "antisymmetric": """
name      = "antisymmetric"
states    = ["h"]
constants = { eps = 0.3, gamma = 0.1 }
step      = '''
A  = U - U.T - gamma * eye(U)
z  = sigmoid(W_z @ x + A @ h + b_z)
h' = h + eps * z * tanh(W_h @ x + (V - V.T - gamma * eye(V)) @ h + b_h)
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W_z", "W_h"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U", "V"] }
bias      = { shape = ["hidden"], blocks = ["b_z", "b_h"] }
""",
    # Koutnik et al. 2014, where each unit counts the steps to its own next one.
    "clockwork": """
name   = "clockwork"
states = ["h", "t"]
step   = '''
t' = where(t + 1 >= period, 0, t + 1)
h' = where(t == 0, tanh(W @ x + triu(U) @ h + b), h)
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
bias      = { shape = ["hidden"], blocks = ["b"] }
clock     = { shape = ["hidden"], blocks = ["period"], init = 2, trained = false }
""",
    # As the LSTM of Ba et al. 2016, but with a norm of each gate for itself.
    "normed_gates": """
name   = "normed_gates"
states = ["h", "c"]
step   = '''
i  = sigmoid(layer_norm(W_i @ x) * v_i + layer_norm(U_i @ h) * u_i + b_i)
f  = sigmoid(layer_norm(W_f @ x) * v_f + layer_norm(U_f @ h) * u_f + b_f)
g  = tanh(layer_norm(W_g @ x) * v_g + layer_norm(U_g @ h) * u_g + b_g)
o  = sigmoid(layer_norm(W_o @ x) * v_o + layer_norm(U_o @ h) * u_o + b_o)
c' = f * c + i * g
h' = o * tanh(layer_norm(c') * g_c + b_c)
'''

[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W_i", "W_f", "W_g", "W_o"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U_i", "U_f", "U_g", "U_o"] }
gain_ih   = { shape = ["hidden"], blocks = ["v_i", "v_f", "v_g", "v_o"], init = "ones" }
gain_hh   = { shape = ["hidden"], blocks = ["u_i", "u_f", "u_g", "u_o"], init = "ones" }
gain_c    = { shape = ["hidden"], blocks = ["g_c"], init = "ones" }
bias      = { shape = ["hidden"], blocks = ["b_i", "b_f", "b_g", "b_o", "b_c"], init = "zeros" }
""",
    # What is said of all blocks at once: norms of one vector out of several, numbers and sums of it, blocks taken apart
    # by states, by an equation that has a name, and by another one once more.
    "packed": """
name   = "packed"
states = ["h", "c"]
step   = '''
p    = weight_hh @ h
i, f = sigmoid(rms_norm(weight_ih @ x) * gain + scale * p + 0.5 * bias)
q    = softmax(p - mean(p) * (weight_ih @ x)) * dot(p, gain) - bound
bound = max(sum(p) / 8, 0.1)
n    = layer_norm(layer_norm(weight_hh @ c) - layer_norm(p) + bias)
h', g = tanh(layer_norm(q + bias) + n + where(p > bias, p, -0.5))
k, l = q
c'   = f * c + i * g + k * (W_i @ x) + 0.1 * l
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W_i", "W_f"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U_i", "U_f"] }
gain      = { shape = ["hidden"], blocks = ["g_i", "g_f"] }
bias      = { shape = ["hidden"], blocks = ["b_i", "b_f"] }
scale     = { shape = [], blocks = ["s_i", "s_f"] }
""",
    # A decoder after the scan, which also reads the input.
    "decoder": """
name   = "decoder"
states = ["h"]
output = "y"
step   = '''
h' = tanh(W @ x + U @ h + b)
y  = relu(V @ h' + c) + W_y @ x
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W", "W_y"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U", "V"] }
bias      = { shape = ["hidden"], blocks = ["b", "c"] }
""",
    # The output is as wide as the input.
    "predictor": """
name   = "predictor"
states = ["h"]
output = "y"
step   = '''
h' = tanh(W @ x + U @ h + b)
y  = x + V @ h'
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
weight_ho = { shape = ["inputs", "hidden"], blocks = ["V"] }
bias      = { shape = ["hidden"], blocks = ["b"] }
""",
    # No gradient reaches the old value of c.
    "switch": """
name   = "switch"
states = ["h", "c"]
step   = '''
n  = tanh(W @ x + U @ h + b)
h' = where(c > 0.1, n, 0.5 * n - h)
c' = n
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
bias      = { shape = ["hidden"], blocks = ["b"] }
""",
    # Parameters and inputs that in the scan conditions alone use, one of them in the middle of a stack.
    "conditional": """
name   = "conditional"
states = ["h"]
output = "y"
step   = '''
a  = W_c @ x
h' = tanh(where(k * h < C @ tanh(h) + a, A @ h, B @ h - 0.1)) + where(h > t, 0.5, e) + W @ x
y  = h' + k * (C @ a) + t
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_ic = { shape = ["hidden", "inputs"], blocks = ["W_c"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["A", "C", "B"] }
bias      = { shape = ["hidden"], blocks = ["e", "t"] }
scale     = { shape = [], blocks = ["k"], init = 0.7 }
""",
    # Conditions on parameters alone, and on the input before the scan and in it; a scalar beside a product.
    "conditions": """
name   = "conditions"
states = ["h"]
output = "y"
step   = '''
a  = W_a @ x + k
z  = V @ where(a < d, a, -0.5 * a)
h' = tanh(where(a < d, U @ h, z)) + where(e < d, 0.5 * h, z) + W @ x
y  = V_y @ where(h' < 0.2, h', z) + d * e
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W_a", "W"] }
weight_iz = { shape = ["hidden", "hidden"], blocks = ["V"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
weight_ho = { shape = ["hidden", "hidden"], blocks = ["V_y"] }
bias      = { shape = ["hidden"], blocks = ["d", "e"] }
scale     = { shape = [], blocks = ["k"], init = 0.7 }
""",
    # Both streams have the same adjoint.
    "twins": """
name   = "twins"
states = ["h"]
step   = '''
p  = W @ x
q  = V @ (s * x)
h' = tanh(p + q + u * h)
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_iv = { shape = ["hidden", "inputs"], blocks = ["V"] }
scale     = { shape = ["inputs"], blocks = ["s"] }
weight_hh = { shape = ["hidden"], blocks = ["u"] }
""",
    # The same matrix in three products, one of which another matrix of the stack follows.
    "tied": """
name   = "tied"
states = ["h"]
step   = '''
a  = tanh(W @ x + U @ h)
e  = sigmoid(U @ a + V @ a + b)
h' = a * e + U @ (e * h) - V @ h
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U", "V"] }
bias      = { shape = ["hidden"], blocks = ["b"] }
""",
    # Of a stack the scan uses some blocks only, one as a matrix and one before the scan.
    "parts": """
name   = "parts"
states = ["h", "g"]
step   = '''
z  = sigmoid(A @ tanh(W @ x + b_1) + k * h)
g' = z * g + B @ h + r * b_2
h' = tanh(D @ g' - z * (C @ h)) + b_3 * h
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["A", "B", "C", "D"] }
vectors   = { shape = ["hidden"], blocks = ["b_1", "b_2", "b_3"] }
scalars   = { shape = [], blocks = ["k", "r"], init = { k = 0.5, r = -0.25 } }
""",
    # Blocks in products of their own and in a product of the whole stack.
    "overlapping": """
name   = "overlapping"
states = ["h", "c"]
step   = '''
h' = tanh(W @ x + A @ h + B @ h)
c' = tanh(A @ c + B @ h')
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["A", "B"], heads = true }
""",
    # Expressions of parameters.
    "composed": """
name      = "composed"
states    = ["h"]
constants = { gamma = 0.1 }
step      = '''
A  = U - gamma * V
h' = h + 0.3 * tanh((W * M) @ x + A @ h + exp(b) * k)
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W", "M"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U", "V"] }
bias      = { shape = ["hidden"], blocks = ["b"] }
scale     = { shape = [], blocks = ["k"], init = 0.7 }
""",
    # Every primitive, and constants where nothing else stands beside them.
    "zoology": """
name      = "zoology"
states    = ["h", "c"]
constants = { third = 0.3333333333333333 }
step      = '''
p  = W @ x + b
q  = U @ h
a  = sin(p) + cos(q) * log(1.5 + abs(q)) - log1p(exp(-abs(p)))
s  = sqrt(1 + a * a) / (2 + third)
t  = where(p <= q, third, where(p != q, -0.1, 0.2)) * min(a, s) + max(q, 0.1) + min(0.3, p) - 0.2 * erf(q)
g  = silu(t) - softplus(-t) + logsigmoid(c) + hardsigmoid(t * 3)
c' = where(c >= t, 0.1 * c, -t) + where(t < 0, 0.7, 0.3)
h' = tanh(g) / (1 + c' * c')
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
bias      = { shape = ["hidden"], blocks = ["b"] }
""",
    # States that only pass values on.
    "delay": """
name   = "delay"
states = ["h", "a", "e"]
step   = '''
h' = tanh(W @ x + U @ e + b)
a' = h
e' = a
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
bias      = { shape = ["hidden"], blocks = ["b"] }
""",
    # States that need no loop, of every width, and one of them behind another.
    "remembering": """
name   = "remembering"
output = "y"
step   = '''
e' = tanh(W_e @ x + V_e @ q)
q' = p
h' = tanh(W @ x + V @ p + U @ h + n * e + b)
n' = mean(x) + 0.5
p' = x
y  = D @ (h' * e) + V_y @ q
'''
[states]
p = { shape = ["inputs"] }
q = { shape = ["inputs"] }
h = { shape = ["hidden"] }
n = { shape = [] }
e = { shape = ["hidden"] }
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W", "V", "W_e", "V_e", "V_y"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U", "D"] }
bias      = { shape = ["hidden"], blocks = ["b"] }
""",
    # One as wide as the units, so that both directions are one scan.
    "held": """
name   = "held"
states = ["a", "h"]
output = "h'"
step   = '''
a' = sigmoid(W_a @ x)
h' = a * h + (1 - a') * tanh(W @ x + U @ h)
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W_a", "W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
""",
    # A line of two steps of x, with matrices of its own, so that both directions are one scan.
    "windowed": """
name   = "windowed"
states = ["h"]
step   = '''
f  = sigmoid(W_f @ x + V_f @ lag(x) + Q_f @ lag(x, 2) + b_f)
z  = W_z @ x + V_z @ lag(x) + Q_z @ lag(x, 2) + b_z
h' = f * h + (1 - f) * tanh(z + u * h)
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W_f", "W_z"] }
weight_lh = { shape = ["hidden", "inputs"], blocks = ["V_f", "V_z", "Q_f", "Q_z"] }
weight_hh = { shape = ["hidden"], blocks = ["u"] }
bias      = { shape = ["hidden"], blocks = ["b_f", "b_z"] }
""",
    # The output needs no state.
    "bypass": """
name   = "bypass"
states = ["h"]
output = "y"
step   = '''
y  = W @ x + b
h' = tanh(y + U @ h)
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
bias      = { shape = ["hidden"], blocks = ["b"] }
""",
    # The output is the state before the step.
    "lagging": """
name   = "lagging"
states = ["h"]
output = "y"
step   = '''
y  = h
h' = tanh(W @ x + U @ h)
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
""",
    # A decoder of the state before the step.
    "forecast": """
name   = "forecast"
states = ["h"]
output = "y"
step   = '''
h' = tanh(W @ x + U @ h)
y  = V @ h + g * h'
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
weight_ho = { shape = ["hidden", "hidden"], blocks = ["V"] }
gain      = { shape = ["hidden"], blocks = ["g"] }
""",
    # Heads in two stages, and a dense matrix beside them.
    "heads": """
name   = "heads"
states = ["h"]
step   = '''
r  = sigmoid(W_r @ x + R_r @ h)
n  = tanh(W_n @ x + R_n @ (r * h) + D @ h)
h' = r * h + (1 - r) * n
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W_r", "W_n"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["R_r", "R_n"], heads = true }
dense     = { shape = ["hidden", "hidden"], blocks = ["D"] }
""",
    # Names that Python, torch or the templates might claim.
    "names": """
name   = "names"
states = ["h", "saved"]
step   = '''
states = tanh(W @ x + U @ h + reverse)
d_h    = states * saved - d_y
saved' = 0.5 * states + 0.5 * saved
h'     = d_h + time * F
F      = sigmoid(d_h)
'''
[parameters]
weights = { shape = ["hidden", "inputs"], blocks = ["W"] }
outer   = { shape = ["hidden", "hidden"], blocks = ["U"] }
Scan    = { shape = ["hidden"], blocks = ["reverse", "d_y", "time"] }
""",
    # Names that the adjoint might claim.
    "adjoint_names": """
name   = "adjoint_names"
states = ["h", "d_h"]
output = "z"
step   = '''
y      = U @ h
a      = V @ d_h
d_a    = tanh(W @ x + y)
d_y    = sigmoid(a) + b
saved  = d_a * d_y
h'     = saved - 0.5 * h
d_h'   = saved + 0.3 * d_h * b
z      = U @ saved + V @ h
'''
[parameters]
d_W    = { shape = ["hidden", "inputs"], blocks = ["W"] }
d_z    = { shape = ["hidden", "hidden"], blocks = ["U", "V"] }
d_bias = { shape = ["hidden"], blocks = ["b"] }
""",
    # The output does not depend on the state, so the scan has nothing to give but its state.
    "beside": """
name   = "beside"
states = ["h"]
output = "y"
step   = '''
y  = W @ x
h' = 0.5 * h + y
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
""",
    # Linear in each state, in three rounds; one state waits for two others, of which it reads old and new values.
    "cascade": """
name   = "cascade"
states = ["m", "c", "h", "r"]
output = "y"
step   = '''
i  = sigmoid(W_i @ x + b_i)
c' = where(i > 0.4, u * c, k * c - i) + W_c @ x
r' = -0.5 * r + i
h' = (c' - h) * i / (1.5 + i) + tanh(c)
m' = 0.9 * (m - c * h) + sin(h')
y  = tanh(m') + r * h
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W_i", "W_c"] }
gain      = { shape = ["hidden"], blocks = ["b_i", "u"] }
scale     = { shape = [], blocks = ["k"] }
""",
    # One state counts, another is the input of the step before: no stream, and no decay, in a linear step.
    "counts": """
name   = "counts"
states = ["n", "d"]
output = "y"
step   = '''
n' = n - 0.25
d' = W @ x
y  = d * cos(n) + n'
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
""",
    # Two states, each linear in itself, but each reads the other.
    "rotation": """
name   = "rotation"
states = ["h", "c"]
step   = '''
h' = 0.8 * h - 0.6 * c + W @ x
c' = 0.6 * h + 0.8 * c
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
""",
    # No gradient passes through the recurrence.
    "automaton": """
name   = "automaton"
states = ["h"]
output = "y"
step   = '''
h' = where(h < W @ x, 1, 2)
y  = U @ h + h' + W @ x
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
""",
    # Numbers that no half or single precision holds, chosen by a condition and made by functions.
    "figures": """
name   = "figures"
states = ["h"]
constants = { rate = 0.3 }
step   = '''
k  = where(h < W @ x, 0.3, 0.7)
h' = k * h * relu(rate) + sqrt(2) * tanh(U @ h + W @ x) + hardsigmoid(rate)
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
""",
    # Stored values that are neighbouring blocks of one product, and one of them twice.
    "neighbours": """
name   = "neighbours"
states = ["h"]
output = "h'"
step   = '''
a  = U_a @ h
b  = U_b @ h
d  = U_d @ h
h' = 0.5 * a * b + tanh(d) + W @ x
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U_a", "U_b", "U_d"] }
""",
    # The stored values are all blocks of one product.
    "product_of_products": """
name   = "product_of_products"
states = ["h"]
output = "h'"
step   = '''
a  = U_a @ h
b  = U_b @ h
h' = 0.3 * a * b + W @ x
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U_a", "U_b"] }
""",
    # A state whose new value is a parameter.
    "reset": """
name   = "reset"
states = ["c", "h"]
output = "h'"
step   = '''
c' = tanh(b) * 0.5
h' = tanh(W @ x + U @ h + c)
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
bias = { shape = ["hidden"], blocks = ["b"] }
""",
    # A matrix applied to a parameter.
    "constant_drive": """
name   = "constant_drive"
states = ["h"]
output = "h'"
step   = '''
h' = tanh(W @ x + U @ h + U @ p)
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
drive = { shape = ["hidden"], blocks = ["p"] }
""",
    # The forward step has a product, the adjoint has none.
    "one_way": """
name   = "one_way"
states = ["h", "c"]
output = "y"
step   = '''
y  = U @ h'
h' = where(U @ c > 0, W @ x, 0.5 * h)
c' = where(h > c, 1, 0) + 0.5 * c
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
""",
    # Outputs of the scan that are products, or share one.
    "shared_product": """
name   = "shared_product"
states = ["h"]
output = "y"
step   = '''
y  = V @ h' + U @ h
h' = tanh(W @ x + U @ h)
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U", "V"] }
""",
    "product_given": """
name   = "product_given"
states = ["h"]
output = "y"
step   = '''
z  = V @ h
h' = tanh(W @ x + U @ z + b)
y  = C @ z
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U", "V", "C"] }
bias      = { shape = ["hidden"], blocks = ["b"] }
""",
    # Vectors of another width inside the scan, several blocks of one matrix, one of them stored for the adjoint.
    "low_rank": """
name   = "low_rank"
states = ["h", "c"]
sizes  = { rank = 3 }
step   = '''
v  = tanh(V @ h) * g
h' = tanh(W @ x + U_h @ v + b) + 0.5 * c
c' = sigmoid(U_c @ (v + W_v @ x)) * c + U_c @ (V_c @ h) * h
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_iv = { shape = ["rank", "inputs"], blocks = ["W_v"] }
weight_hh = { shape = ["rank", "hidden"], blocks = ["V", "V_c"] }
weight_rh = { shape = ["hidden", "rank"], blocks = ["U_h", "U_c"] }
gain      = { shape = ["rank"], blocks = ["g"], init = 0.7 }
bias      = { shape = ["hidden"], blocks = ["b"] }
""",
    # The LSTM of torch.nn with a projection, written out: a state of a width of its own.
    "projected": """
name   = "projected"
states = { h = { shape = ["narrow"] }, c = { shape = ["hidden"] } }
sizes  = { narrow = 2 }
step   = '''
i  = sigmoid(W_i @ x + U_i @ h + b_i)
f  = sigmoid(W_f @ x + U_f @ h + b_f)
g  = tanh(W_g @ x + U_g @ h + b_g)
o  = sigmoid(W_o @ x + U_o @ h + b_o)
c' = f * c + i * g
h' = R @ (o * tanh(c'))
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W_i", "W_f", "W_g", "W_o"] }
weight_hh = { shape = ["hidden", "narrow"], blocks = ["U_i", "U_f", "U_g", "U_o"] }
weight_ho = { shape = ["narrow", "hidden"], blocks = ["R"] }
bias      = { shape = ["hidden"], blocks = ["b_i", "b_f", "b_g", "b_o"] }
""",
    # States of three widths, one wider than the layer, without a product; sums bring them together.
    "apart": """
name   = "apart"
states = { h = { shape = ["hidden"] }, v = { shape = ["wide"] }, p = { shape = ["narrow"] } }
sizes  = { narrow = 2, wide = 9 }
output = ["h'", "v'"]
step   = '''
h' = tanh(W @ x + u * h) * mean(v)
v' = tanh(V @ x + s * v + mean(p))
p' = 0.5 * p + (P @ x) * sigmoid(mean(h))
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_iv = { shape = ["wide", "inputs"], blocks = ["V"] }
weight_ip = { shape = ["narrow", "inputs"], blocks = ["P"] }
weight_hh = { shape = ["hidden"], blocks = ["u"] }
weight_vv = { shape = ["wide"], blocks = ["s"] }
""",
    # A vector as wide as x inside the scan, sums of it, and two outputs of several widths.
    "foretelling": """
name   = "foretelling"
states = ["h"]
sizes  = { wide = 9 }
output = ["h'", "e", "k"]
step   = '''
e  = x - V @ h
m  = sigmoid(mean(e * e)) + dot(d, D @ h)
h' = tanh(W @ e + U @ h + b) * m
k  = Q @ h'
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hi = { shape = ["inputs", "hidden"], blocks = ["V"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
weight_hw = { shape = ["wide", "hidden"], blocks = ["D", "Q"] }
scale     = { shape = ["wide"], blocks = ["d"] }
bias      = { shape = ["hidden"], blocks = ["b"] }
""",
    # A state's new value is a product, and what the output alone needs begins with it.
    "product_carried": """
name   = "product_carried"
states = ["h", "c"]
output = "y"
step   = '''
h' = U @ c
c' = tanh(W @ x + h)
y  = V @ h' + c'
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U", "V"] }
""",
    # A dense matrix beside a block-diagonal stack of which the scan uses a part.
    "part_of_heads": """
name   = "part_of_heads"
states = ["h"]
step   = '''
v  = W @ x
h' = tanh(v + R_2 @ v + R_1 @ h + U @ h)
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
weight_rh = { shape = ["hidden", "hidden"], blocks = ["R_1", "R_2"], heads = true }
""",
    # A remainder of a remainder.
    "remainders": """
name   = "remainders"
states = ["h"]
step   = '''
a  = (W @ x + b) % 1.5
c  = (a * 2 + 1) % 0.7
h' = 0.5 * h + c + 0.1 * a
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
bias      = { shape = ["hidden"], blocks = ["b"] }
""",
    # Remainders of two widths, with numbers that have a fraction.
    "remainders_apart": """
name   = "remainders_apart"
states = { h = { shape = ["hidden"] }, g = { shape = ["rank"] } }
sizes  = { rank = 3 }
output = "h'"
step   = '''
h' = (0.5 * h + W @ x + b) % 1.5
g' = (0.3 * g + V @ x + c) % 1.2
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_rx = { shape = ["rank", "inputs"], blocks = ["V"] }
bias      = { shape = ["hidden"], blocks = ["b"] }
bias_r    = { shape = ["rank"], blocks = ["c"] }
""",
    # Biases of one product that are scaled alike.
    "scaled_biases": """
name   = "scaled_biases"
states = ["h"]
step   = '''
a  = sigmoid(W_1 @ x + 0.5 * b_2)
h' = a * h + tanh(W_2 @ x + 0.5 * b_3)
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W_1", "W_2"] }
bias      = { shape = ["hidden"], blocks = ["b_2", "b_3"] }
""",
    # A condition in the bias of one product and none in the other's.
    "chosen_biases": """
name   = "chosen_biases"
states = ["h"]
step   = '''
a  = sigmoid(W_1 @ x + where(b_2 > 0, b_2, 0.1 * b_2))
h' = a * h + tanh(W_2 @ x + where(b_3 > k, b_3, k * b_2))
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W_1", "W_2"] }
bias      = { shape = ["hidden"], blocks = ["b_2", "b_3"] }
gain      = { shape = [], blocks = ["k"] }
""",
    # Derived operations in a sum that is put in another order.
    "derived_in_a_sum": """
name   = "derived_in_a_sum"
states = ["h"]
step   = '''
q  = gelu(U @ h) + (1 - b)
p  = silu(V @ h) - (hardswish(h) - W @ x)
h' = tanh(q + p)
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U", "V"] }
bias      = { shape = ["hidden"], blocks = ["b"] }
""",
    # The same term twice in a sum.
    "twice_in_a_sum": """
name   = "twice_in_a_sum"
states = ["h"]
step   = '''
q  = V @ h + V @ h + W @ x
h' = tanh(q + U @ h)
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U", "V"] }
""",
    # An unnamed part of a sum that another equation is.
    "sum_within_a_sum": """
name   = "sum_within_a_sum"
states = ["h", "c"]
step   = '''
q  = W_2 @ x - (W_1 @ x + U @ h)
h' = tanh(q) + c
c' = W_1 @ x + U @ h
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W_1", "W_2"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
""",
    # Waves of a phase, one with a period that is learned. They have kinks and do not jump, whatever the rounding is.
    "phases": """
name   = "phases"
states = ["h", "p"]
step   = '''
p' = p + 0.5 * sigmoid(W @ x)
f  = p' - floor(p')
h' = tanh(U @ h + b * abs(2 * (p' % (1.5 + k)) - (1.5 + k))) + f * (1 - f)
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
bias      = { shape = ["hidden"], blocks = ["b"] }
period    = { shape = [], blocks = ["k"] }
""",
    # Units are summed, and no matrix is applied to a state.
    "normed": """
name   = "normed"
states = ["h"]
step   = '''
v  = layer_norm(W @ x) * g + b
h' = tanh(v + u * rms_norm(h) + mean(h))
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
vectors   = { shape = ["hidden"], blocks = ["g", "b", "u"] }
""",
    # Numbers of every kind: of the input, of a state, as outputs of the scan; with those that are learned.
    "numbers_of_units": """
name   = "numbers_of_units"
states = ["h", "c"]
output = "y"
step   = '''
m  = mean(h)
s  = sigmoid(k * m + mean(x))
p  = softmax(W @ x + c)
c' = 0.5 * c + s * p + j * sum(b * c) + j * p
h' = tanh(U @ h + k * dot(p, h) + max(m, -0.1) * c)
y  = layer_norm(V @ h' + b) * m + mean(h')
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U", "V"] }
bias      = { shape = ["hidden"], blocks = ["b"] }
scales    = { shape = [], blocks = ["k", "j"] }
""",
    # A product of the input is the output; what is made of it elsewhere has a bias.
    "biased_elsewhere": """
name   = "biased_elsewhere"
states = ["h"]
output = "a"
step   = '''
a  = W_1 @ x
h' = tanh(a + b_1 + U @ h) * sigmoid(W_2 @ x + b_2)
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W_1", "W_2"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
bias      = { shape = ["hidden"], blocks = ["b_1", "b_2"] }
""",
}

# Of an input as wide as the states.
AS_WIDE = {
    "intersection": LIBRARY["intersection_rnn"],
    "sru": LIBRARY["sru"],
    # The first version, without peepholes: linear.
    "sru_linear": """
name   = "sru_linear"
states = ["c"]
inputs = { x = { shape = ["hidden"] } }
output = "y"
step   = '''
f  = sigmoid(W_f @ x + b_f)
r  = sigmoid(W_r @ x + b_r)
c' = f * c + (1 - f) * (W @ x)
y  = r * tanh(c') + (1 - r) * x
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W", "W_f", "W_r"] }
bias      = { shape = ["hidden"], blocks = ["b_f", "b_r"] }
""",
}

# The cells that much is asked of, so that no file of the library makes `make test` longer: all others are asked in
# test_library.py and test_kernels_library.py.
SAMPLE = ("gru", "gru_flux", "gru_v3", "indrnn", "lstm", "mingru", "rnn", "rnn_relu")
# What they have not: peepholes, heads, products in a row, scalars, clamps, an output that is no state.
WIDER = (
    *("atr", "block_lstm", "cornn", "fastrnn", "mclstm", "mgu", "minimal_rnn", "multiplicative_lstm", "nas"),
    *("peephole_lstm", "rhn", "sgu", "slstm_flashrnn"),
)
ALL = {name: LIBRARY[name] for name in (*SAMPLE, *WIDER)} | INVENTED


def wrappers_of(text: str) -> tuple[str, ...]:
    """What a text says of itself in a comment: `# with zoneout, layer_norm`."""
    found = re.search("^# with (.+)$", text, re.MULTILINE)
    return tuple(found[1].split(", ")) if found else ()


def save_of(text: str) -> str:
    """The same of what is kept: `# save states`."""
    found = re.search("^# save (.+)$", text, re.MULTILINE)
    return found[1] if found else ""


@cache
def forms(text: str) -> dict[str, Program]:
    """The only cell of a file, or the cell of that name, after each pass."""
    (cell,) = describe(Source("cell.toml", ALL.get(text, text)), wrappers_of(text), save_of(text)).cells
    return dict(forms_of(cell))


def program(text: str) -> Program:
    """The same after all passes."""
    return list(forms(text).values())[-1]


def sizes_of(text: str) -> Mapping[str, int]:
    """The dimensions that it has beside those of every cell."""
    (cell,) = describe(Source("cell.toml", ALL.get(text, text)), wrappers_of(text), save_of(text)).cells
    return cell.sizes


def heads_of(text: str) -> int:
    """2 for a cell that can have heads."""
    return 2 if program(text).cell.heads else 1


def heads_for(text: str, schedule: str) -> int:
    """The same, but dense and block-diagonal matrices together a schedule that takes heads apart takes only as one."""
    found = program(text)
    mixed = found.forward.facts.mixed or found.backward.facts.mixed
    return 1 if schedule in ("resident", "cooperative") and mixed else heads_of(text)


@dataclass
class Values:
    """Random numbers for a cell: x (time, batch, inputs), states (batch, width), weights as a layer stores them."""

    x: Tensor
    states: dict[str, Tensor]
    weights: dict[str, Tensor]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All that have a gradient."""
        named = {"x": self.x, **self.states, **{f"weight {name}": t for name, t in self.weights.items()}}
        return {name: tensor for name, tensor in named.items() if tensor.requires_grad}


def random_values(text: str, time: int = 4, batch: int = 3, inputs: int = 3, hidden: int = 4) -> Values:
    """Float64, of one seed, and all that is trained requiring a gradient."""
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).requires_grad_()

    found = program(text)
    heads = heads_of(text)
    sizes = {"inputs": inputs, "hidden": hidden, **sizes_of(text)}
    weights = {}
    for parameter in found.parameters:
        shape = [sizes[dimension] for dimension in parameter.shape] or [1]
        shape[0] *= len(parameter.blocks)
        if parameter.heads:
            shape = [len(parameter.blocks) * heads, hidden // heads, hidden // heads]
        weights[parameter.name] = drawn(*shape, scale=0.7).requires_grad_(parameter.trained)
    widths = {leaf.name: [sizes[of] for of in leaf.shape] or [1] for leaf in found.cell.leaves("state")}
    states = {state.name: drawn(batch, *widths[state.name]) for state in found.cell.states}
    return Values(drawn(time, batch, inputs), states, weights)


def whole(text: str, values: Values, reverse: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """The output and the last states by the cell as it was described."""
    graph = forms(text)["infer"].cell
    outputs, last = reference.scan(graph, {"x": values.x}, values.states, values.weights, reverse)
    return torch.cat(list(outputs.values()), -1), last


def in_parts(found: Program, values: Values, reverse: bool = False, scan=reference.scan) -> tuple[Tensor, dict]:
    """The same by the graphs that `hoist` makes of it, with another way to run the scan if there is one."""
    once, _ = reference.run(found.once, {}, {}, values.weights)
    parameters = values.weights | once
    if found.before.states:  # step by step, as states are
        own = {state.name: values.states[state.name] for state in found.before.states}
        before, remembered = reference.scan(found.before, {"x": values.x}, own, parameters, reverse)
    else:
        before, remembered = reference.run(found.before, {"x": values.x}, {}, parameters)
    streams = before | {"x": values.x}
    inside = {state.name: values.states[state.name] for state in found.scan.states}
    outputs, last = scan(found.scan, streams, inside, parameters, reverse)
    named = {name: outputs[label] for name, (label, _) in zip(found.results, found.scan.outputs, strict=False)}
    results, _ = reference.run(found.after, streams | named, {}, parameters)
    ends = last | remembered
    return torch.cat(list(results.values()), -1), {state.name: ends[state.name] for state in found.cell.states}
