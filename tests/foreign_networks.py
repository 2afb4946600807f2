"""Encoders as others write and name them, for the tests of imports: torchvision's ResNet and timm's ViT, in plain torch."""

import collections
import math

import torch
from torch import nn


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 with the stride in the middle (torchvision's "v1.5")."""

    def __init__(self, before, width, after, stride, bottleneck):
        super().__init__()
        sizes = [(before, width, 1, 1), (width, width, 3, stride), (width, after, 1, 1)]
        if not bottleneck:
            sizes = [(before, after, 3, stride), (after, after, 3, 1)]
        for number, (inside, outside, kernel, step) in enumerate(sizes, 1):
            setattr(self, f"conv{number}", nn.Conv2d(inside, outside, kernel, step, kernel // 2, bias=False))
            setattr(self, f"bn{number}", nn.BatchNorm2d(outside))
        self.count = len(sizes)
        self.downsample = None
        if stride > 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x):
        out = x
        for number in range(1, self.count + 1):
            out = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(out))
            out = out.relu() if number < self.count else out
        return (out + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet(nn.Module):
    """As torchvision names it; 1000 classes on top. small: CIFAR's stem, 3x3 without pooling, with a ReLU or without."""

    def __init__(self, stem, widths, depths, bottleneck, small=False, relu=True):
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False) if small else nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU() if relu else nn.Identity()
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        before = stem
        for number, (width, depth) in enumerate(zip(widths, depths, strict=True), 1):
            after = 4 * width if bottleneck else width
            blocks = []
            for index in range(depth):
                blocks.append(Block(before, width, after, 2 if number > 1 and index == 0 else 1, bottleneck))
                before = after
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.stages = len(depths)
        self.fc = nn.Linear(before, 1000)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for number in range(1, self.stages + 1):
            x = getattr(self, f"layer{number}")(x)
        return x.mean((2, 3))


class Attention(nn.Module):
    def __init__(self, width, heads, bias):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width, bias), nn.Linear(width, width)

    def forward(self, x):
        count, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(count, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(count, tokens, width))


class Scale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.gamma


class Gated(nn.Module):
    """DINOv2's MLP of its largest ViT, by its own names or by timm's."""

    def __init__(self, width, inner, names):
        super().__init__()
        self.names = names
        for name, (before, after) in zip(names, ((width, 2 * inner), (inner, width)), strict=True):
            setattr(self, name, nn.Linear(before, after))

    def forward(self, x):
        gate, up = getattr(self, self.names[0])(x).chunk(2, -1)
        return getattr(self, self.names[1])(nn.functional.silu(gate) * up)


class Layer(nn.Module):
    def __init__(self, width, heads, scaled, bias, gated):
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(width, 1e-6), Attention(width, heads, bias), nn.LayerNorm(width, 1e-6)
        self.mlp = nn.Sequential(collections.OrderedDict(fc1=nn.Linear(width, 4 * width), act=nn.GELU(), fc2=nn.Linear(4 * width, width)))
        if gated:
            self.mlp = Gated(width, (int(width * 4 * 2 / 3) + 7) // 8 * 8, gated)
        self.ls1, self.ls2 = (Scale(width), Scale(width)) if scaled else (nn.Identity(), nn.Identity())

    def forward(self, x):
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class ViT(nn.Module):
    """As timm names it; 10 classes on top.

    gated: the names of the two layers of a gated MLP. class_token: without one, the features are the mean of the tokens. registers: as in
    DINOv2, behind the class token. class_position: whether the class token has a position.
    """

    def __init__(
        self, size=16, patch=4, width=64, layers=4, heads=4, scaled=False, bias=True, gated=None, class_token=True, registers=0,
        class_position=True,
    ):  # fmt: skip
        super().__init__()
        if class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        if registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, registers, width))
        self.class_token, self.registers, self.class_position = class_token, registers, class_token and class_position
        self.pos_embed = nn.Parameter(torch.zeros(1, self.class_position + (size // patch) ** 2, width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.Sequential(*[Layer(width, heads, scaled, bias, gated) for _ in range(layers)])
        self.norm = nn.LayerNorm(width, 1e-6)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2) + self.pos_embed[:, int(self.class_position) :]
        if not self.class_token:
            return self.norm(self.blocks(x)).mean(1)
        front = [self.cls_token + (self.pos_embed[:, :1] if self.class_position else 0)]
        front += [self.register_tokens] if self.registers else []
        x = torch.cat([part.expand(len(x), -1, -1) for part in front] + [x], 1)
        return self.norm(self.blocks(x))[:, 0]


def randomised(network, seed=0):
    """Every parameter and running statistic is away from its usual start, so that each of them matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=generator)
            elif value.is_floating_point():
                fan = value[0].numel() if value.ndim > 1 and value.shape[0] > 1 else 100
                value.normal_(std=min(1.5 / math.sqrt(fan), 0.3), generator=generator)
                if value.ndim == 1 and name.endswith(("weight", "gamma")):
                    value.add_(0.4 if "bn" in name else 1)  # less, or what deep residual networks add up would grow without end
            else:
                value.fill_(7)
    return network.eval()


def res6(seed=0):
    return randomised(ResNet(32, (32, 64), (1, 1), bottleneck=False), seed)


def vit(seed=0, **arguments):
    return randomised(ViT(**arguments), seed)


def pixels(size, count=2):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))
