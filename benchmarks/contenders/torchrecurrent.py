"""torchrecurrent's layers, loops over a cell in Python: the same cells, with our weights."""

from __future__ import annotations

from benchmarks.contenders.run import TorchRun, first, installed, package
from benchmarks.problem import Absent, Problem

# Its names for our cells, where its weights are ours under ours or under these names, and its constants.
CELLS = {
    "antisymmetric_rnn": ("AntisymmetricRNN", {"epsilon": 0.01, "gamma": 0.01}),
    "atr": ("ATR", {}),
    "brc": ("BR", {}),
    "cfn": ("CFN", {}),
    "cornn": ("coRNN", {"dt": 0.042, "gamma": 2.7, "epsilon": 4.7}),
    "dsgu": ("DSGU", {}),
    "fastgrnn": ("FastGRNN", {"nonlinearity": "sigmoid"}),
    "fastrnn": ("FastRNN", {}),
    "gated_antisymmetric_rnn": ("GatedAntisymmetricRNN", {"epsilon": 0.01, "gamma": 0.01}),
    "indrnn": ("IndRNN", {}),
    "intersection_rnn": ("IntersectionRNN", {}),
    "janet_torchrecurrent": ("JANET", {}),
    "lem_torchrecurrent": ("LEM", {}),
    "lightru": ("LightRU", {}),
    "ligru": ("LiGRU", {}),
    "mclstm": ("MCLSTM", {}),
    "mgu": ("MGU", {}),
    "minimal_rnn": ("MinimalRNN", {}),
    "miru1": ("MiRU1", {}),
    "miru2": ("MiRU2", {}),
    "multiplicative_lstm": ("MultiplicativeLSTM", {}),
    "mut2_torchrecurrent": ("MUT2", {}),
    "mut3": ("MUT3", {}),
    "nas": ("NAS", {}),
    "nbrc": ("NBR", {}),
    "original_lstm_torchrecurrent": ("OriginalLSTM", {}),
    "peephole_lstm": ("PeepholeLSTM", {}),
    "ran": ("RAN", {}),
    "residual_lstm": ("ResLSTM", {}),
    "sgrn": ("SGRN", {}),
    "sgu": ("SGU", {}),
    "scrn_torchrecurrent": ("SCRN", {}),
    "star": ("STAR", {}),
    "tau_gru": ("tauGRU", {}),
    "tgru": ("TGRU", {}),
    "tlstm": ("TLSTM", {}),
    "trnn": ("TRNN", {}),
    "ugrnn": ("UGRNN", {}),
    "unicornn": ("UnICORNN", {"dt": 0.19, "alpha": 30.65}),
    "wmc_lstm": ("WMCLSTM", {}),
}
OURS = {"bias_ih": "bias", "vector_u": "weight_hh"}


def build(problem: Problem) -> TorchRun:
    import torch

    case = problem.case
    if case.cell not in CELLS:
        raise Absent(f"torchrecurrent has no {case.cell}, or has its weights in another form")
    name, constants = CELLS[case.cell]
    layer = getattr(package("torchrecurrent"), name)(case.hidden, case.hidden, **constants)
    layer.to(case.device, problem.dtype)
    whole: set[str] = set()  # of its parameters those that are one of ours, and not with zeros behind
    if not problem.alone:
        with torch.no_grad():
            for theirs, parameter in layer.named_parameters():
                own = problem.weights.get(_ours(theirs, problem))
                if own is None and "bias" not in theirs:
                    raise Absent(f"torchrecurrent's {name} has a {theirs} that is not among our weights")
                own = parameter.new_zeros(0) if own is None else own.reshape(-1)
                if own.numel() == parameter.numel():
                    whole.add(theirs)
                parameter.zero_().view(-1)[: own.numel()] = own  # a bias that we do not have is zero
    return TorchRun(
        problem,
        layer,
        lambda x: first(layer(x)),
        lambda theirs: _ours(theirs, problem) if theirs in whole else "",
        installed("torchrecurrent"),
    )


def _ours(theirs: str, problem: Problem) -> str:
    """Our name for one of its parameters."""
    name = theirs.rpartition(".")[2]
    known = problem.weights if not problem.alone else {}
    return f"{name}_l0" if f"{name}_l0" in known else f"{OURS.get(name, name)}_l0"
