"""Split attention as different code bases write it: one module each, the same numbers."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from nestforge.networks.resnest import SplitAttention  # noqa: E402


class _Attention(SplitAttention):
    def attend(self, gap: Tensor, batch: int) -> Tensor:
        """Map (B, C, 1, 1) to (B, R*C, 1, 1), by view, transpose and softmax over R."""
        z = self.fc2(functional.relu(self.bn1(self.fc1(gap))))
        if self.radix == 1:
            return torch.sigmoid(z).view(batch, -1, 1, 1)
        z = z.view(batch, self.cardinality, self.radix, -1).transpose(1, 2)
        return functional.softmax(z, dim=1).reshape(batch, -1).view(batch, -1, 1, 1)


class SplitForm(_Attention):
    """Channels split, parts added by Python's sum: the way of the authors' code."""

    def forward(self, x: Tensor) -> Tensor:
        u = functional.relu(self.bn0(self.conv(x)))
        batch, width = u.shape[:2]
        if self.radix == 1:
            return (self.attend(functional.adaptive_avg_pool2d(u, 1), batch) * u).contiguous()
        parts = torch.split(u, width // self.radix, dim=1)
        attention = self.attend(functional.adaptive_avg_pool2d(sum(parts), 1), batch)
        weights = torch.split(attention, width // self.radix, dim=1)
        return sum(weight * part for weight, part in zip(weights, parts, strict=True)).contiguous()


class ReshapeForm(_Attention):
    """A fifth dimension from sizes asked of the tensor: the way of timm."""

    def forward(self, x: Tensor) -> Tensor:
        u = functional.relu(self.bn0(self.conv(x)))
        batch, width, height, columns = u.shape
        if self.radix == 1:
            return self.attend(u.mean((2, 3), keepdim=True), batch) * u
        u = u.reshape((batch, self.radix, width // self.radix, height, columns))
        attention = self.attend(u.sum(dim=1).mean((2, 3), keepdim=True), batch)
        return (u * attention.reshape((batch, self.radix, width // self.radix, 1, 1))).sum(dim=1)


FORMS = {"view": SplitAttention, "split": SplitForm, "reshape": ReshapeForm}


class Net(nn.Module):
    """A convolution, split attention, a convolution: what the passes need to see."""

    def __init__(self, form: str, radix: int, cardinality: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 16, 1)
        self.attention = FORMS[form](16, 32, radix=radix, cardinality=cardinality, stride=1)
        self.last = nn.Conv2d(16, 8, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.attention(functional.relu(self.first(images))))
