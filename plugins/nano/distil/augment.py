"""What befalls a view before the student sees it: it must describe the view as if nothing had.

The teacher described the clean view. Its place is kept to within a few per cent; light, colour and
sharpness are not.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_GREY = (0.299, 0.587, 0.114)


def shifted(places: Tensor, random: torch.Generator) -> Tensor:
    """The same crops give or take 5 % in size and place: (n, 4) to (n, 4)."""
    n = len(places)
    half = (places[:, :2] * (0.95 + 0.1 * torch.rand(n, 2, generator=random))).clamp(max=1)
    centre = places[:, 2:] + 0.05 * (2 * torch.rand(n, 2, generator=random) - 1)
    return torch.cat([half, centre], dim=1)


def spoil(x: Tensor, random: torch.Generator) -> Tensor:
    """Contrast, brightness and saturation of every view; some turn grey, soft, sharp, or lose a patch.

    x: (n, 3, side, side), normalised.
    """
    n = len(x)

    def uniform(low: float, high: float) -> Tensor:
        return (torch.rand(n, generator=random) * (high - low) + low).view(n, 1, 1, 1)

    grey = (x * torch.tensor(_GREY).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    saturation = uniform(0.6, 1.4) * (uniform(0, 1) > 0.1)
    x = grey + (x - grey) * saturation
    tint = 1 + 0.08 * (2 * torch.rand(n, 3, 1, 1, generator=random) - 1)
    x = x * uniform(0.7, 1.3) * tint + uniform(-0.3, 0.3)
    # One soft copy serves both ways: towards it a view softens, away from it it sharpens.
    soft = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
    x = x + (soft - x) * torch.where(uniform(0, 1) < 0.4, uniform(-1.0, 0.8), torch.zeros(n, 1, 1, 1))
    return torch.where(_patches(n, x.shape[-1], random) & (uniform(0, 1) < 0.2), torch.zeros_like(x), x)


def _patches(n: int, side: int, random: torch.Generator) -> Tensor:
    """(n, 1, side, side): true inside one rectangle each, 15 to 40 % of the side."""
    along = torch.arange(side).float().div(side).view(1, side)
    size = 0.15 + 0.25 * torch.rand(2, n, 1, generator=random)
    start = torch.rand(2, n, 1, generator=random) * (1 - size)
    rows, columns = ((along >= start[axis]) & (along < start[axis] + size[axis]) for axis in (0, 1))
    return (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)
