"""Next year's sunspots, foretold by a cell that no library has: it is defined in sunspots.toml beside this file.

Run it from the repository's root: python -m examples.sunspots

The network reads the years one by one and says what the next brings. It learns from 1700 to 1880; the years to 1920
choose the moment to stop; those from 1921 on judge it, beside two old hands: "next year will be like this year", and a
linear regression on the nine years before.
"""

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from generated.sunspots import Sunspots

SEED = 0
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
    learned, chosen = (int(np.searchsorted(years, year, side="right")) for year in (1880, 1920))
    series = flatten(spots)
    torch.manual_seed(SEED)
    net = Sunspots()
    print(net)
    train(net, torch.tensor(series, dtype=torch.float32), learned, chosen, options.epochs)

    ours = restore(foretell(net, torch.tensor(series, dtype=torch.float32)).numpy())
    linear = restore(regression(series, chosen))
    scores = [root_mean_square(guess[chosen - 1 :] - spots[chosen:]) for guess in (ours, linear, spots[:-1])]
    print(
        f"test error, root mean square of the years {years[chosen]:.0f} to {years[-1]:.0f}: carousel {scores[0]:.1f}, "
        f"linear regression {scores[1]:.1f}, same as last year {scores[2]:.1f} sunspots"
    )


def flatten(spots: np.ndarray) -> np.ndarray:
    """Counts to a scale about 0 on which high years do not scatter more than low ones."""
    return np.sqrt(spots) / 7 - 0.9


def restore(series: np.ndarray) -> np.ndarray:
    return (7 * np.clip(series + 0.9, 0, None)) ** 2


def root_mean_square(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2)))


def train(net: nn.Module, series: Tensor, learned: int, chosen: int, epochs: int) -> None:
    """AdamW on windows of the years before `learned`; what is best on the years up to `chosen` is kept."""
    random = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.1)
    best, kept = float("inf"), net.state_dict()
    with tqdm(range(epochs), desc="carousel", unit="epoch") as progress:
        for _ in progress:
            for _ in range(10):
                starts = torch.randint(0, learned - WINDOW, (BATCH,), generator=random)
                windows = torch.stack([series[start : start + WINDOW + 1] for start in starts], dim=1).unsqueeze(-1)
                y, _ = net(windows[:-1])
                loss = nn.functional.mse_loss(y, windows[1:])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
            error = nn.functional.mse_loss(foretell(net, series[:chosen])[learned - 1 :], series[learned:chosen]).item()
            if error < best:
                best, kept = error, copy.deepcopy(net.state_dict())
            progress.set_postfix(loss=f"{loss.item():.4f}", held_out=f"{error:.4f}")
    net.load_state_dict(kept)


@torch.no_grad()
def foretell(net: nn.Module, series: Tensor) -> Tensor:
    """For each year but the first, what the years before it make the network expect."""
    y, _ = net(series[:-1].unsqueeze(-1))
    return y.squeeze(-1)


def regression(series: np.ndarray, chosen: int) -> np.ndarray:
    """The same by least squares on the years before `chosen`; for the first years, which lack nine before, 0."""
    lagged = np.lib.stride_tricks.sliding_window_view(series, LAGS)[:-1]
    lagged = np.column_stack([lagged, np.ones(len(lagged))])
    weights, *_ = np.linalg.lstsq(lagged[: chosen - LAGS], series[LAGS:chosen], rcond=None)
    return np.concatenate([np.zeros(LAGS - 1), lagged @ weights])


if __name__ == "__main__":
    main()
