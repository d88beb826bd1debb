"""ResNet-18 to ResNet-152 in their ImageNet form, with torchvision's names of parameters, on torch alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

# depth -> blocks of each stage, and whether they are bottlenecks; He, Zhang, Ren, Sun 2015 (arXiv 1512.03385), table 1
DEPTHS: dict[int, tuple[tuple[int, int, int, int], bool]] = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or 1x1, 3x3 (with the stride) and 1x1 to four times the width.

    Args:
        inputs: channels of the input.
        width: channels of the convolutions; a bottleneck's output has four times as many.
        stride: of the block.
        bottleneck: whether the block is the second kind.
    """

    def __init__(self, inputs: int, width: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        self.outputs = width * 4 if bottleneck else width
        shapes = (
            [(inputs, width, 1, 1), (width, width, 3, stride), (width, self.outputs, 1, 1)]
            if bottleneck
            else [(inputs, width, 3, stride), (width, width, 3, 1)]
        )
        self.depth = len(shapes)
        for i, (a, b, size, step) in enumerate(shapes, start=1):
            self.add_module(f"conv{i}", nn.Conv2d(a, b, size, step, padding=size // 2, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(b))
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != self.outputs:
            shortcut = nn.Conv2d(inputs, self.outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(self.outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, outputs, h / stride, w / stride) of an input (batch, inputs, h, w)."""
        way = x if self.downsample is None else self.downsample(x)
        for i in range(1, self.depth + 1):
            x = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x))
            if i < self.depth:
                x = self.relu(x)
        result: Tensor = self.relu(x + way)
        return result


class ResNet(nn.Module):
    """ResNet of a depth in `DEPTHS` for images (batch, 3, h, w), usually 224 x 224.

    Args:
        depth: 18, 34, 50, 101 or 152.
        classes: number of classes, 1000 in ImageNet.
    """

    def __init__(self, depth: int, classes: int = 1000) -> None:
        super().__init__()
        blocks, bottleneck = DEPTHS[depth]
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        width = 64
        for stage, count in enumerate(blocks):
            layers = []
            for i in range(count):
                block = Block(width, 64 * 2**stage, 2 if stage and not i else 1, bottleneck=bottleneck)
                width = block.outputs
                layers.append(block)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, 3, h, w)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits
