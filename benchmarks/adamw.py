"""A map trained with AdamW, as LRT does it, beside the closed form, on the same rows.

The recipe of "The Linear Representation Transferability Hypothesis" (arXiv 2506.00653): `A h + p`
trained with AdamW for four epochs, in float32 with the fused optimizer. Three times:

- `adamw_given`: one training, at the learning rate that the held-out rows themselves like best,
  beside the closed form at a given λ. Nobody chooses anything.
- `adamw_loss`: the same training beside the closed form on a tenth of its rows, which is enough for
  a lower loss: what it costs to get as good.
- `adamw_chosen`: the sweep that finds the learning rate, beside `lrt_dist.fit`, which chooses λ and
  also makes the control, the learning curve and the metrics.

Held-out rows judge all, and ours has to be the better.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.data import layers, moments_of
from benchmarks.harness import Result, alternate, result, versions
from lrt_dist.linear.methods import AFFINE, Choice, solution
from lrt_dist.linear.ridge import Spectrum
from lrt_dist.maps.arrays import fit

NAMES = ("adamw_given", "adamw_loss", "adamw_chosen")
EPOCHS, BATCH = 4, 256
LEARNING_RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


def train(x: torch.Tensor, y: torch.Tensor, rate: float) -> torch.nn.Linear:
    """The map after four epochs."""
    torch.manual_seed(0)
    model = torch.nn.Linear(x.shape[1], y.shape[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, fused=True)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(x)), BATCH):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model


def closed_form(x: torch.Tensor, y: torch.Tensor, ridge: float) -> torch.Tensor:
    """The weight alone, from moments: what one training gives."""
    moments = moments_of({"x": x, "y": y}, [("x", "x"), ("x", "y")])
    spectrum = Spectrum.of(moments, "x", centred=True)
    B = spectrum.project(moments, ("x", "y"))
    return spectrum.V @ solution(AFFINE, spectrum.w, B, Choice(ridge, relative=False))


def measure(wanted: Sequence[str], *, quick: bool) -> list[Result]:
    rows, widths = (1000, {"x": 24, "y": 32}) if quick else (50_000, {"x": 576, "y": 640})
    made = {name: states.float() for name, states in layers(rows + rows // 4, widths).items()}
    x, y = (made[name][:rows] for name in widths)
    held_x, held_y = (made[name][rows:] for name in widths)

    def loss(rate: float) -> float:
        predicted = train(x, y, rate)(held_x).detach()
        return float((predicted - held_y).double().square().mean())

    trained_loss, rate = min((loss(rate), rate) for rate in LEARNING_RATES)
    few = rows // 10
    ridges, own_loss = {}, {}
    for count in (rows, few):
        affine = fit(x[:count], y[:count]).map
        predicted = affine.map_points(held_x)
        ridges[count] = affine.ridge
        own_loss[count] = float((predicted - held_y).square().mean())
        assert own_loss[count] < trained_loss, f"{own_loss[count]:g}, AdamW {trained_loss:g}"
    actions = {
        "adamw_given": {
            "AdamW": lambda: train(x, y, rate),
            "ours": lambda: closed_form(x, y, ridges[rows]),
        },
        "adamw_loss": {
            "AdamW": lambda: train(x, y, rate),
            "ours": lambda: closed_form(x[:few], y[:few], ridges[few]),
        },
        "adamw_chosen": {
            "AdamW": lambda: [train(x, y, each) for each in LEARNING_RATES],
            "ours": lambda: fit(x, y),
        },
    }
    setting = (
        f"{rows} rows, {widths['x']} → {widths['y']}, {EPOCHS} epochs, batches of {BATCH}, "
        f"learning rate {rate:g}, the best of {len(LEARNING_RATES)}; {versions('torch')}"
    )
    return [
        result(
            name,
            [
                {
                    "seconds": time,
                    "ratio": time["AdamW"] / time["ours"],
                    "held_out_loss": {
                        "AdamW": trained_loss,
                        "ours": own_loss[few if name == "adamw_loss" else rows],
                    },
                    "setting": setting,
                }
                for time in alternate(3, actions[name])
            ],
            20,
            higher_is_better=True,
        )
        for name in wanted
    ]
