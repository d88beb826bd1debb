"""The paper's networks in their CIFAR form (VGG19, ResNet-18, DenseNet-121), and small ones of the same three kinds.

The names of parameters and the forms are those of https://github.com/kuangliu/pytorch-cifar, as in the authors' code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from rna_watch.reproduce.resnets import ResNet as ImageNetResNet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

_POOL = 0


class Vgg(nn.Module):
    """Convolutions of 3 x 3 with batch norm, halved in size by maxima, and one linear layer.

    Args:
        plan: channels of each convolution; 0 stands for a maximum over 2 x 2.
        channels: of the images.
        classes: number of classes.

    Source: Simonyan, Zisserman 2014 (arXiv 1409.1556), table 1, with batch norm and without the hidden linear layers.
    """

    def __init__(self, plan: Sequence[int], channels: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = channels
        for outputs in plan:
            if outputs == _POOL:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(width, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            width = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, channels, H, W)."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class ResidualBlock(nn.Module):
    """Two convolutions of 3 x 3 and a shortcut.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        stride: of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, outputs, H / stride, W / stride) of an input (B, inputs, H, W)."""
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(inner + self.shortcut(x))


class ResNet(nn.Module):
    """A ResNet for small images: no early pooling.

    Args:
        blocks: number of blocks of each stage; every stage but the first halves the size and doubles the width.
        width: channels of the first stage.
        channels: of the images.
        classes: number of classes.

    Source: He, Zhang, Ren, Sun 2015 (arXiv 1512.03385).
    """

    def __init__(self, blocks: Sequence[int], width: int, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages = len(blocks)
        inputs = width
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            strides = [2 if stage else 1, *[1] * (count - 1)]
            layers = []
            for stride in strides:
                layers.append(ResidualBlock(inputs, outputs, stride))
                inputs = outputs
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, channels, H, W)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


class DenseLayer(nn.Module):
    """Batch norm, 1 x 1 to four times the growth, batch norm, 3 x 3 to the growth; concatenated with the input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, growth + inputs, H, W) of an input (B, inputs, H, W)."""
        inner = self.conv1(functional.relu(self.bn1(x)))
        return torch.cat([self.conv2(functional.relu(self.bn2(inner))), x], 1)


class Transition(nn.Module):
    """A layer that halves the channels and the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, outputs, H / 2, W / 2) of an input (B, inputs, H, W)."""
        return functional.avg_pool2d(self.conv(functional.relu(self.bn(x))), 2)


class DenseNet(nn.Module):
    """A DenseNet for small images, with bottlenecks and a compression of one half.

    Args:
        blocks: number of dense layers of each block.
        growth: channels that each layer adds.
        channels: of the images.
        classes: number of classes.

    Source: Huang, Liu, van der Maaten, Weinberger 2016 (arXiv 1608.06993).
    """

    def __init__(self, blocks: Sequence[int], growth: int, channels: int, classes: int) -> None:
        super().__init__()
        width = 2 * growth
        self.blocks = len(blocks)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        for number, count in enumerate(blocks, start=1):
            self.add_module(
                f"dense{number}", nn.Sequential(*(DenseLayer(width + i * growth, growth) for i in range(count)))
            )
            width += count * growth
            if number < self.blocks:
                self.add_module(f"trans{number}", Transition(width, width // 2))
                width //= 2
        self.bn = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, channels, H, W)."""
        x = self.conv1(x)
        for number in range(1, self.blocks + 1):
            x = self.get_submodule(f"dense{number}")(x)
            if number < self.blocks:
                x = self.get_submodule(f"trans{number}")(x)
        logits: Tensor = self.linear(functional.relu(self.bn(x)).mean((2, 3)))
        return logits


_VGG19 = (64, 64, _POOL, 128, 128, _POOL, *[256] * 4, _POOL, *[512] * 4, _POOL, *[512] * 4, _POOL)
# name -> (channels, classes) -> network; the number in a name is the number of layers
ARCHITECTURES: dict[str, Callable[[int, int], nn.Module]] = {
    "vgg19": lambda channels, classes: Vgg(_VGG19, channels, classes),
    "resnet18": lambda channels, classes: ResNet((2, 2, 2, 2), 64, channels, classes),
    "densenet121": lambda channels, classes: DenseNet((6, 12, 24, 16), 32, channels, classes),
    "vgg4": lambda channels, classes: Vgg((16, _POOL, 32, _POOL, 64), channels, classes),
    "vgg6": lambda channels, classes: Vgg((16, _POOL, 32, 32, _POOL, 64, 64), channels, classes),
    "resnet8": lambda channels, classes: ResNet((1, 1, 1), 16, channels, classes),
    "resnet8-narrow": lambda channels, classes: ResNet((1, 1, 1), 8, channels, classes),
    "resnet14": lambda channels, classes: ResNet((2, 2, 2), 16, channels, classes),
    "densenet18": lambda channels, classes: DenseNet((2, 2, 3), 12, channels, classes),
    "imagenet-resnet18": lambda _, classes: ImageNetResNet(18, classes),
    "imagenet-resnet50": lambda _, classes: ImageNetResNet(50, classes),
    "imagenet-resnet152": lambda _, classes: ImageNetResNet(152, classes),
}


def build(name: str, channels: int, classes: int) -> nn.Module:
    """A network with weights of torch's own initialization, channels last in memory.

    Args:
        name: a key of `ARCHITECTURES`.
        channels: of the images.
        classes: number of classes.
    """
    return ARCHITECTURES[name](channels, classes).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
