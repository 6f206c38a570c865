"""The comparison with cuDNN, on the CPU and with what it asks of a GPU answered: it is fair, and it loses nothing."""

import json
import os

import pytest
import torch
from pretended_gpu import CARDS, pretended
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from benchmarks import against_cudnn
from benchmarks.against_cudnn import ARITHMETIC, Size, Wrong, compared, judged, main, products_in, rows, sensors, timed
from generated.gru import GRU
from generated.lstm import LSTM

CPU = torch.device("cpu")
SMALL = ["--device", "cpu", "--hidden", "8", "--time", "6", "--pairs", "2"]


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_say_what_was_measured_and_where(tmp_path, capsys):
    out = tmp_path / "deeper" / "rows.jsonl"
    assert main([*SMALL, "--batch", "3", "--dtype", "float32", "tf32", "bfloat16", "--out", str(out)]) == 0
    found = read(out)
    assert [(row["cell"], row["arithmetic"], row["direction"]) for row in found] == [
        (cell, arithmetic, direction)
        for arithmetic in ("float32", "tf32", "bfloat16")
        for cell in ("lstm", "gru")
        for direction in ("forward", "forward and backward")
    ]
    for row in found:
        assert {"device", "driver", "sm_clock_mhz", "power_w", "temperature_c", "torch", "cuda"} <= row.keys()
        assert {"cudnn", "triton", "python", "commit", "when"} <= row.keys()
        assert (row["time"], row["batch"], row["hidden"], row["pairs"]) == (6, 3, 8, 2)
        assert row["products"] == ("tf32" if row["arithmetic"] == "tf32" else "ieee")
        assert row["training"] == (row["direction"] != "forward")
        assert len(row["ours_ms"]) == len(row["cudnn_ms"]) == len(row["ratio"]) == 3
        assert {"y", "x", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"} == row["errors"].keys()
        for side in ("ours", "cudnn"):
            assert 0 < row[f"{side}_error"] == max(pair[side] for pair in row["errors"].values()) < 3e-2
    assert len(capsys.readouterr().out.splitlines()) == len(found) + 1
    main([*SMALL, "--batch", "3", "--cell", "gru", "--out", str(out)])
    assert len(read(out)) == len(found) + 2  # appended, not written anew


def test_forward_rows_are_of_inference_on_both_sides(monkeypatch):
    seen = {}

    def noted(functions, pairs, milliseconds):
        for name, function in functions.items():
            calls = seen.setdefault(name, [])
            hook = register_module_forward_hook(
                lambda layer, args, result, calls=calls: calls.append(
                    (type(layer), layer.training, result[0].requires_grad)
                )
            )
            try:
                function()
            finally:
                hook.remove()
        return {name: [1.0, 1.0] for name in functions}

    monkeypatch.setattr(against_cudnn, "timed", noted)
    assert len(list(rows(Size("lstm", "float32", 3, 2, 4), 2, CPU))) == 2
    assert seen == {
        side: [(layer, False, False), (layer, True, True)] for side, layer in (("ours", LSTM), ("cudnn", nn.LSTM))
    }


@pytest.mark.parametrize("name", ARITHMETIC)
def test_both_sides_have_the_same_arithmetic(name, monkeypatch):
    seen = set()

    def noted(functions, pairs, milliseconds):
        seen.add((torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.rnn.fp32_precision))
        return {side: [1.0, 1.0] for side in functions}

    before = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.rnn.fp32_precision
    monkeypatch.setattr(against_cudnn, "timed", noted)
    (row, _) = rows(Size("lstm", name, 3, 2, 4), 2, CPU)
    assert seen == {(row["products"],) * 2}
    assert (torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.rnn.fp32_precision) == before


def test_our_kernels_take_the_arithmetic_that_is_said():
    with pretended(CARDS["A100"]) as gpu:
        layer, x = LSTM(4, 16, device="cuda"), torch.randn(2, 3, 4, device="cuda")
        for precision in ("ieee", "tf32"):
            with products_in(precision), torch.no_grad():
                layer(x)
    assert [one.constants["PRECISION"] for one in gpu.launches] == ["ieee", "tf32"]


def test_a_size_that_fails_is_a_row_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    whole = against_cudnn.rows

    def failing(size, pairs, device):
        if size.batch == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 TiB")
        yield from whole(size, pairs, device)

    monkeypatch.setattr(against_cudnn, "rows", failing)
    out = tmp_path / "rows.jsonl"
    assert main([*SMALL, "--cell", "lstm", "--batch", "2", "3", "4", "--out", str(out)]) == 1
    found = read(out)
    assert [row["batch"] for row in found] == [2, 2, 3, 4, 4]
    assert found[2]["failure"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 TiB"
    assert {"device", "torch", "commit", "driver"} <= found[2].keys()
    assert "FAILED, OutOfMemoryError" in capsys.readouterr().out


def test_rows_are_kept_when_the_run_is_cut_short(tmp_path, monkeypatch):
    whole = against_cudnn.rows

    def interrupted(size, pairs, device):
        if size.batch == 3:
            raise KeyboardInterrupt
        yield from whole(size, pairs, device)

    monkeypatch.setattr(against_cudnn, "rows", interrupted)
    out = tmp_path / "rows.jsonl"
    with pytest.raises(KeyboardInterrupt):
        main([*SMALL, "--cell", "lstm", "--batch", "2", "3", "--out", str(out)])
    assert len(read(out)) == 2


def test_the_judge_sees_either_side_go_wrong():
    ours, theirs = GRU(4, 4), nn.GRU(4, 4)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 40, 4)
    good = judged(ours, theirs, x, 1e-4)
    assert all(error < 1e-5 for pair in good.values() for error in pair.values())
    ours.register_forward_hook(lambda module, args, result: (result[0] * 1.01, result[1]))
    with pytest.raises(Wrong, match=r"y 1\.0e-02 \(cuDNN"):
        judged(ours, theirs, x, 1e-4)
    theirs.register_forward_hook(lambda module, args, result: (result[0] * 1.01, result[1]))
    (row,) = (pair for name, pair in judged(ours, theirs, x, 1e-4).items() if name == "y")
    assert row["cudnn"] == pytest.approx(0.01, rel=1e-3)  # said, and no fault of ours


def test_whoever_comes_first_alternates():
    order = []
    times = timed({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 4, lambda f: f() or 1.0)
    assert "".join(order) in ("baabbaabbaabba", "abbaabbaabbaab")
    assert times == {"a": [1.0] * 4, "b": [1.0] * 4}


def test_the_sensors_of_the_card_are_read_where_nvidia_smi_is(tmp_path, monkeypatch):
    script = tmp_path / "nvidia-smi"
    script.write_text('#!/bin/sh\necho "$@" >> "$0.asked"\necho "580.95.05, 1755, 1980, 2619, 312.45, 700.00, 41"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pretended(CARDS["H100"]):
        found = sensors(torch.device("cuda", 0))
    assert found["driver"] == "580.95.05"
    assert (found["sm_clock_mhz"], found["power_w"], found["temperature_c"]) == ("1755", "312.45", "41")
    assert "-i GPU-01234567-89ab-cdef-0123-456789abcdef" in (tmp_path / "nvidia-smi.asked").read_text()
    script.write_text("#!/bin/sh\nexit 9\n")
    with pretended(CARDS["H100"]):
        assert set(sensors(torch.device("cuda", 0)).values()) == {None}


def test_without_a_gpu_it_says_so(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert main([]) == 0
    assert "no GPU here" in capsys.readouterr().out


def test_compared_gives_every_size_its_turn():
    sizes = [
        Size("lstm", "float32", 2, 1, 4),
        Size("no such cell", "float32", 2, 1, 4),
        Size("gru", "float32", 2, 1, 4),
    ]
    found = list(compared(sizes, 2, CPU))
    assert ["failure" in row for row in found] == [False, False, True, False, False]
    assert found[2]["failure"] == "KeyError: 'no such cell'"
