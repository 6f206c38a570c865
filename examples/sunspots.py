"""Next year's sunspots, foretold by a cell that no library has; it is defined in sunspots.toml, beside this.

Run it from the repository's root: python -m examples.sunspots

The network reads the years one by one and says how the next will differ. It learns from the years to 1920;
those from 1921 on judge it, beside two old hands: "next year will be like this year", and a linear regression
on the nine years before, which is hard to beat on a series as short as this.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from generated.sunspots import Sunspots

SEED = 0
LAST_YEAR_LEARNED = 1920
WINDOW = 66  # years that are read at once in training: six turns of the Sun's cycle
BATCH = 16
LAGS = 9
TABLE = Path(__file__).with_name("sunspots.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a cell of one's own to foretell the sunspots.")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()

    torch.set_num_threads(1)  # the matrices are small: a second thread would only wait
    years, spots = np.loadtxt(TABLE, delimiter=",", skiprows=2, unpack=True)
    learned = int(np.searchsorted(years, LAST_YEAR_LEARNED, side="right"))
    series = flatten(spots)
    torch.manual_seed(SEED)
    net = Sunspots()
    print(net)
    known = torch.tensor(series, dtype=torch.float32)
    train(net, known[:learned], options.epochs)

    ours = restore(foretell(net, known).numpy())
    linear = restore(regression(series, learned))
    ours, linear, same = (
        root_mean_square(guess[learned - 1 :] - spots[learned:]) for guess in (ours, linear, spots[:-1])
    )
    print(
        f"test error, root mean square of the years {years[learned]:.0f} to {years[-1]:.0f}: "
        f"carousel {ours:.1f}, linear regression {linear:.1f}, same as last year {same:.1f} sunspots"
    )


def flatten(spots: np.ndarray) -> np.ndarray:
    """Counts to a scale about 0 on which high years do not scatter more than low ones."""
    return np.sqrt(spots) / 7 - 0.9


def restore(series: np.ndarray) -> np.ndarray:
    return (7 * np.clip(series + 0.9, 0, None)) ** 2


def root_mean_square(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2)))


def train(net: nn.Module, series: Tensor, epochs: int) -> None:
    """AdamW on random windows; the weights decay strongly, for there are few years to learn from."""
    random = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    with tqdm(range(epochs), desc="carousel", unit="epoch") as progress:
        for _ in progress:
            for _ in range(10):
                starts = torch.randint(0, len(series) - WINDOW, (BATCH,), generator=random)
                windows = torch.stack([series[start : start + WINDOW + 1] for start in starts], dim=1).unsqueeze(-1)
                change, _ = net(windows[:-1])
                loss = nn.functional.mse_loss(windows[:-1] + change, windows[1:])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
            schedule.step()
            progress.set_postfix(loss=f"{loss.item():.4f}")


@torch.no_grad()
def foretell(net: nn.Module, series: Tensor) -> Tensor:
    """For each year but the first, what the years before it make the network expect."""
    change, _ = net(series[:-1].unsqueeze(-1))
    return series[:-1] + change.squeeze(-1)


def regression(series: np.ndarray, learned: int) -> np.ndarray:
    """The same by least squares on the years before `learned`; 0 where there are not nine years before."""
    lagged = np.lib.stride_tricks.sliding_window_view(series, LAGS)[:-1]
    lagged = np.column_stack([lagged, np.ones(len(lagged))])
    weights, *_ = np.linalg.lstsq(lagged[: learned - LAGS], series[LAGS:learned], rcond=None)
    return np.concatenate([np.zeros(LAGS - 1), lagged @ weights])


if __name__ == "__main__":
    main()
