"""Handwritten digits, read row by row: a generated network beside the same one made of torch.nn.LSTM.

Run it from the repository's root: python -m examples.digits

The digits are the 1797 that come with scikit-learn, 8x8 pixels each (Alpaydin and Kaynak 1998, UCI
repository). Both networks begin with the same weights, see the same batches in the same order and drop the
same units, so their curves must lie on one another; what differs is rounding, and the time that they take.
"""

import argparse
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from tqdm import tqdm

from generated.digits import Digits

SEED = 0
BATCH = 32
COLUMNS = 8


class Twin(nn.Module):
    """The network of digits.toml, written by hand; the names of its weights are the same."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.LSTM(8, 64), nn.Dropout(0.25), nn.Linear(64, 10)])

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        lstm, dropout, dense = self.layers
        y, state = lstm(x)
        return dense(dropout(y)), state


@dataclass
class Run:
    """What is kept of a training: loss and test accuracy after each epoch, and the seconds that each took, without the
    tests. In the first one native code is compiled where it was not before.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def told(self) -> str:
        """Its times in words."""
        return f"{sum(self.seconds):.1f} s, {1000 * statistics.median(self.seconds):.0f} ms an epoch"


@dataclass(frozen=True)
class Data:
    """Images as (time, batch, features): 8 rows, one after another. Labels (batch)."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a generated network to read digits, beside torch.nn.LSTM.")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--picture", type=Path, default=Path("build/digits.png"))
    options = parser.parse_args()

    torch.set_num_threads(1)  # the matrices are small: a second thread would only wait
    data = load()
    torch.manual_seed(SEED)
    ours, twin = Digits(), Twin()
    twin.load_state_dict(ours.state_dict())
    our_run = train(ours, data, options.epochs, "generated LSTM")
    twin_run = train(twin, data, options.epochs, "torch.nn.LSTM ")

    options.picture.parent.mkdir(parents=True, exist_ok=True)
    draw(our_run, twin_run, ours, data).savefig(options.picture, dpi=120)
    print(f"training on the CPU took {our_run.told} (generated), {twin_run.told} (torch.nn)")
    print(f"the curves and some predictions are in {options.picture}")
    print(
        f"test accuracy: generated LSTM {our_run.accuracy[-1]:.1%}, "
        f"torch.nn.LSTM {twin_run.accuracy[-1]:.1%} ({data.test_y.numel()} digits that neither has seen)"
    )


def load() -> Data:
    """Four fifths to learn from, one fifth to be judged by."""
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)
    parts = train_test_split(images, digits.target, test_size=0.2, random_state=SEED, stratify=digits.target)
    train_x, test_x, train_y, test_y = parts
    return Data(train_x.transpose(0, 1), torch.tensor(train_y), test_x.transpose(0, 1), torch.tensor(test_y))


def train(net: nn.Module, data: Data, epochs: int, title: str) -> Run:
    """AdamW on the scores at the last row."""
    torch.manual_seed(SEED + 1)  # the order of the batches, and what is dropped
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    run = Run()
    with tqdm(range(epochs), desc=title, unit="epoch") as progress:
        for _ in progress:
            net.train()
            losses, begun = [], time.perf_counter()
            for chosen in torch.randperm(data.train_y.numel()).split(BATCH):
                scores, _ = net(data.train_x[:, chosen])
                loss = F.cross_entropy(scores[-1], data.train_y[chosen])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                losses.append(loss.item())
            schedule.step()
            run.seconds.append(time.perf_counter() - begun)
            run.loss.append(sum(losses) / len(losses))
            run.accuracy.append((predict(net, data.test_x)[-1].argmax(-1) == data.test_y).float().mean().item())
            progress.set_postfix(loss=f"{run.loss[-1]:.3f}", test=f"{run.accuracy[-1]:.1%}")
    return run


@torch.no_grad()
def predict(net: nn.Module, x: Tensor) -> Tensor:
    """The probability of each digit after each row."""
    net.eval()
    return net(x)[0].softmax(-1)


def draw(ours: Run, twin: Run, net: nn.Module, data: Data) -> Figure:
    """Above, both learning curves; below, test digits and what the network thinks after each row."""
    figure = plt.figure(figsize=(11, 7), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.05))
    loss, accuracy = above.subplots(1, 2)
    epochs = range(1, len(ours.loss) + 1)
    solid = {"label": "generated LSTM", "linewidth": 4, "alpha": 0.35}
    dashed = {"label": "torch.nn.LSTM", "color": "black", "linestyle": "--"}
    for run, style in ((ours, solid), (twin, dashed)):
        loss.plot(epochs, run.loss, **style)
        accuracy.plot(epochs, [100 * share for share in run.accuracy], **style)
    loss.set(title="Cross entropy while training", xlabel="epoch", ylabel="mean loss (nats)", yscale="log")
    accuracy.set(title="Accuracy on the test set", xlabel="epoch", ylabel="digits read correctly (%)")
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
        axes.legend()

    below.suptitle("What the generated network thinks after each row of a digit (the darker, the surer)")
    beliefs = predict(net, data.test_x)
    read_as = beliefs[-1].argmax(-1)
    right = [
        int(((read_as == digit) & (data.test_y == digit)).nonzero()[0])
        for digit in (0, 2, 3, 5, 6, 9)
        if ((read_as == digit) & (data.test_y == digit)).any()
    ]
    wrong = (read_as != data.test_y).nonzero().flatten().tolist()
    shown = (right + wrong)[:COLUMNS]
    images, rows = below.subplots(2, COLUMNS)
    for sample, image, belief in zip(shown, images, rows, strict=False):
        guess, truth = read_as[sample].item(), data.test_y[sample].item()
        image.imshow(data.test_x[:, sample].numpy(), cmap="gray_r")
        if guess == truth:
            image.set_title(f"reads {guess}")
        else:
            image.set_title(f"reads {guess}, is {truth}", color="firebrick")
        image.set_xticks([])
        image.set_yticks([])
        belief.imshow(beliefs[:, sample].numpy(), cmap="Blues", vmin=0, vmax=1)
        belief.set(xticks=range(10), yticks=[])
        belief.tick_params(labelsize=7, length=0)
    rows[0].set(ylabel="after row 1 to 8", xlabel="digit")
    return figure


if __name__ == "__main__":
    main()
