"""A network that is trained on sequences of 100,000 steps, on a laptop, in a minute; it is described in long.toml.

Run it from the repository's root: python -m examples.long

It hears noise that is calm or loud, and changes from one to the other at some step in a thousand. At every step it
says which it is now. One sequence makes one step of the optimizer; time runs in chunks, which the layer makes agree,
and of a sequence it keeps its state every 20,000 steps. On a sequence that it has not seen it stands beside a running
mean of the squares, and beside Bayes' rule for who knows how the noise is made, which nothing can beat.
"""

import argparse
import resource
import sys
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from generated.long import Long

LOUD = 1.5  # the standard deviation; of calm noise it is 1
CHANGES = 1e-3  # the probability that it changes at a step


def main() -> None:
    parser = argparse.ArgumentParser(description="Train on sequences of 100,000 steps.")
    parser.add_argument("--updates", type=int, default=120, help="of the weights, each by one sequence")
    parser.add_argument("--steps", type=int, default=100_000, help="of a sequence")
    options = parser.parse_args()

    torch.set_num_threads(1)  # the matrices are small: a second thread would only wait
    torch.manual_seed(0)
    net = Long()
    print(net)
    begun = time.monotonic()
    train(net, options.steps, options.updates)
    seconds = time.monotonic() - begun
    x, loud = noise(options.steps)
    with torch.no_grad():
        told, _ = net(x)
    ours, mean, best = (right(guess, loud) for guess in (told > 0, running_mean(x), bayes(x)))
    print(
        f"right on {options.steps:,} steps that it has not heard: {ours:.1f} %, a running mean {mean:.1f} %, "
        f"Bayes' rule {best:.1f} %; trained in {seconds:.0f} s and at most {peak_mb():.0f} MB"
    )
    print(net.layers[0].report()[0])


def noise(steps: int) -> tuple[Tensor, Tensor]:
    """What is heard, (steps, 1), and at which steps it is loud, (steps, 1)."""
    loud = torch.rand(steps, 1).lt(CHANGES).cumsum(0) % 2 == 1
    return torch.randn(steps, 1) * torch.where(loud, LOUD, 1.0), loud


def train(net: nn.Module, steps: int, updates: int) -> None:
    """Adam, one sequence after another."""
    optimizer = torch.optim.Adam(net.parameters(), 2e-2)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    with tqdm(range(updates), desc=f"{steps:,} steps each", unit="update") as progress:
        for _ in progress:
            x, loud = noise(steps)
            told, _ = net(x)
            loss = F.binary_cross_entropy_with_logits(told, loud.float())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            slower.step()
            progress.set_postfix(loss=f"{loss.item():.3f}")


def right(guess: Tensor, loud: Tensor) -> float:
    """Of a hundred steps."""
    return 100 * float((guess == loud).float().mean())


def running_mean(x: Tensor) -> Tensor:
    """Whether the mean of the last squares, each counting 0.98 of the next one, is nearer to loud noise's."""
    found, mean = [], 1.0
    for square in x.square().flatten().tolist():
        mean += 0.02 * (square - mean)
        found.append(mean > (1 + LOUD**2) / 2)
    return torch.tensor(found)[:, None]


def bayes(x: Tensor) -> Tensor:
    """Whether it is more probably loud, by all that was heard."""
    evidence = (x.square() * (1 - LOUD**-2) / 2).exp() / LOUD  # how much more probable of loud noise than of calm
    found, odds = [], 1e-9
    for ratio in evidence.flatten().tolist():
        loud = odds / (1 + odds)
        loud = loud * (1 - CHANGES) + (1 - loud) * CHANGES
        odds = ratio * loud / (1 - loud)
        found.append(odds > 1)
    return torch.tensor(found)[:, None]


def peak_mb() -> float:
    """The most memory that this process had, in MB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes, on a Mac bytes
    return most / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    main()
