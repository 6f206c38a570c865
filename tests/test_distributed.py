"""Training by two processes gives the parameters of training by one: DDP, and FSDP with every parameter in two halves.

The processes are this file, run as a script: `test_distributed.py way rank folder module`.
"""

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

WORLD = 2
STEPS = 4
T, B, I = 5, 6, 3
LIMIT = 240  # seconds; importing torch four times at once takes a while on a busy machine


NET = """
name   = "net"
inputs = 3
[[layers]]
cell   = "lstm"
hidden = 4
num_layers    = 2
bidirectional = true
[[layers]]
cell   = "gru"
hidden = 5
initial_state = "learned"
[[layers]]
dense  = 2
"""


class Model(nn.Module):
    """A generated network and what its layers end with."""

    def __init__(self, net: type):
        super().__init__()
        self.net = net(dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        y, ((h, _), _) = self.net(x)
        return y + h.mean((0, 2))[:, None]  # nothing here mixes the elements of a batch


def new_model(net: type) -> Model:
    torch.manual_seed(0)
    return Model(net)


def train(model: nn.Module, part: slice = slice(None)) -> None:
    """Some steps on a part of each batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        x = torch.randn(T, B, I, dtype=torch.float64, generator=generator)
        target = torch.randn(T, B, 2, dtype=torch.float64, generator=generator)
        optimizer.zero_grad()
        loss = (model(x[:, part]) - target[:, part]).square().mean()
        loss.backward()
        optimizer.step()


def run(way: str, rank: int, folder: Path, module: str) -> None:
    """What one process does: train on its part, and the first one saves the whole parameters."""
    import torch.distributed as dist

    sys.path.insert(0, str(folder))
    store = dist.FileStore(str(folder / f"{way}.store"), WORLD)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD, timeout=timedelta(seconds=LIMIT))
    try:
        model = new_model(import_module(module).Net)
        part = slice(rank * B // WORLD, (rank + 1) * B // WORLD)
        if way == "ddp":
            train(nn.parallel.DistributedDataParallel(model), part)
            found = model.state_dict()
        else:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh("cpu", (WORLD,))
            for layer in model.net.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
            for parameter in model.parameters():
                assert parameter.to_local().numel() < parameter.numel() or len(parameter) == 1
            train(model, part)
            found = {key: value.full_tensor() for key, value in model.state_dict().items()}
        if rank == 0:
            torch.save(found, folder / f"{way}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


def wait_for(processes: list[subprocess.Popen]) -> None:
    """Until all have ended, or one has failed, for which the others would wait, or the time is up."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        codes = [process.poll() for process in processes]
        if all(code is not None for code in codes) or any(codes):
            return
        time.sleep(0.05)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_processes(way, module_of, tmp_path):
    net = module_of(NET)
    model = new_model(net.Net)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    train(model)

    generated = Path(net.__file__)
    (tmp_path / generated.name).write_text(generated.read_text())
    root = Path(__file__).parent.parent
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        processes = []
        logs = [tmp_path / f"{rank}.log" for rank in range(WORLD)]
        for rank, log in enumerate(logs):
            command = [sys.executable, __file__, way, str(rank), str(tmp_path), generated.stem]
            output = stack.enter_context(log.open("w"))
            process = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT)
            stack.callback(process.wait)
            stack.callback(process.kill)  # does nothing to one that has ended
            processes.append(process)
        wait_for(processes)
    codes = [process.returncode for process in processes]
    assert codes == [0] * WORLD, "\n".join(log.read_text() for log in logs)

    found = torch.load(tmp_path / f"{way}.pt", weights_only=True)
    assert found.keys() == before.keys()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-9)
        assert not torch.allclose(value, before[key], rtol=1e-3), key


if __name__ == "__main__":
    way, rank, folder, module = sys.argv[1:]
    run(way, int(rank), Path(folder), module)
    # Its work is done and saved. Gloo's threads may still hold tensors, and the interpreter that ends under them aborts
    # the process, once in some fifteen runs: pytorch#179291.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
