"""Trains the two bundled models on scikit-learn's handwritten digits and writes them with their data and cards.

    pip install -e '.[train]'
    python tools/train_models.py            # writes models/, about ten minutes on four cores

The digits (8x8, 16 grey levels; UCI, CC BY 4.0) ship inside scikit-learn. They are enlarged to 32x32 by bilinear
interpolation, copied to three channels, scaled to [-1, 1] and split into 1,297 training and 500 test images by a fixed
seed. Training is seeded and deterministic on one machine.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

SEED = 0
TEST, CALIBRATION = 500, 256
FOLDER = Path(__file__).resolve().parent.parent / "models"


class Residual(nn.Module):
    """Two 3x3 convolutions beside an identity, or a 1x1 projection where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.project: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.project = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, H, W) to (N, after, H / stride, W / stride)."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.project(x))


class Inverted(nn.Module):
    """MobileNetV2's block: widen by 1x1, filter each channel by 3x3, narrow by 1x1, add the input."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.widen, self.bn1 = nn.Conv2d(width, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.narrow, self.bn3 = nn.Conv2d(hidden, width, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) to the same."""
        y = nn.functional.relu6(self.bn1(self.widen(x)))
        y = nn.functional.relu6(self.bn2(self.depthwise(y)))
        return x + self.bn3(self.narrow(y))


class DigitsCnn(nn.Module):
    """A residual network with projection shortcuts, identity blocks and depthwise blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32)
        self.stage1 = nn.Sequential(Residual(32, 32, 1), Residual(32, 32, 1))
        self.stage2 = nn.Sequential(Residual(32, 64, 2), Residual(64, 64, 1), Inverted(64, 128))
        self.stage3 = nn.Sequential(Residual(64, 128, 2), Inverted(128, 256), Inverted(128, 256))
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) to (N, 10) logits."""
        x = torch.relu(self.bn(self.stem(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    """Multi-head self-attention with packed query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) to the same."""
        n, t, width = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q * self.scale @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(n, t, width))


class Encoder(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) to the same."""
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))


class DigitsVit(nn.Module):
    """A vision transformer on 4x4 patches with a class token."""

    def __init__(self, width: int = 96, heads: int = 6, depth: int = 5) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.pos = nn.Parameter(torch.randn(1, 65, width) * 0.02)
        self.layers = nn.Sequential(*(Encoder(width, heads, 3 * width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) to (N, 10) logits."""
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        return self.head(self.norm(self.layers(x))[:, 0])


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels; images are (N, 3, 32, 32) in [-1, 1]."""
    data = load_digits()
    small = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    large = nn.functional.interpolate(small, (32, 32), mode="bilinear", align_corners=False)
    images, labels = large.expand(-1, 3, -1, -1).contiguous(), torch.tensor(data.target)
    train, test = train_test_split(np.arange(len(labels)), test_size=TEST, random_state=SEED, stratify=data.target)
    return images[train], labels[train], images[test], labels[test]


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to 3 pixels: the only augmentation."""
    padded = nn.functional.pad(images, (3, 3, 3, 3), value=-1.0)
    moves = torch.randint(0, 7, (len(images), 2), generator=generator).tolist()
    return torch.stack([image[:, y : y + 32, x : x + 32] for image, (y, x) in zip(padded, moves, strict=True)])


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, rate: float) -> None:
    """AdamW with a one-cycle schedule and label smoothing."""
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05)
    steps = (len(images) + 63) // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs * steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for batch in torch.randperm(len(images), generator=generator).split(64):
            loss = loss_of(model(shifted(images[batch], generator)), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(batch)
        print(f"  epoch {epoch + 1}/{epochs}: loss {total / len(images):.4f}", flush=True)
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is the label's."""
    return float((model(images).argmax(1) == labels).float().mean())


def export(model: nn.Module, path: Path) -> int:
    """Write the model with a free batch dimension; returns the file's bytes."""
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 3, 32, 32),),
        dynamo=True,
        input_names=["input"],
        output_names=["logits"],
        dynamic_shapes=({0: batch},),
        opset_version=18,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del proto.metadata_props[:], proto.graph.metadata_props[:], proto.graph.value_info[:]
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())
    return path.stat().st_size


def card(name: str, text: str, model: nn.Module, score: float, size: int, how: str) -> str:
    """The model's card."""
    count = sum(p.numel() for p in model.parameters())
    return (
        f"# {name}\n\n{text}\n\n"
        f"| | |\n|---|---|\n| input | `input`, float32, N x 3 x 32 x 32 in [-1, 1], N free |\n"
        f"| output | `logits`, float32, N x 10 |\n| parameters | {count:,} |\n| file | {size:,} bytes |\n"
        f"| accuracy | {100 * score:.1f} % of {TEST} test images |\n| data | scikit-learn's handwritten digits "
        f"(UCI, CC BY 4.0), enlarged from 8x8 to 32x32 |\n| made by | `python tools/train_models.py`, {how} |\n\n"
        f"`digits_calibration.npz` holds {CALIBRATION} training images without labels (`input`), `digits_test.npz` the "
        "test images and their labels\n(`input`, `labels`); both belong to either model and never overlap.\n"
    )


def main() -> None:
    """Train, check, export and describe both models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write")
    folder: Path = parser.parse_args().folder
    folder.mkdir(exist_ok=True)
    images, labels, test_images, test_labels = digits()
    np.savez_compressed(folder / "digits_calibration.npz", input=images[:CALIBRATION].numpy())
    np.savez_compressed(folder / "digits_test.npz", input=test_images.numpy(), labels=test_labels.numpy())
    recipes = [
        ("digits_cnn", DigitsCnn, 30, 2e-3, 0.98, "A residual CNN with projection shortcuts and depthwise blocks."),
        ("digits_vit", DigitsVit, 60, 1e-3, 0.95, "A pre-norm vision transformer with packed query, key and value."),
    ]
    for name, make, epochs, rate, least, text in recipes:
        torch.manual_seed(SEED)
        started = time.time()
        model = make()
        print(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters")
        train(model, images, labels, epochs, rate)
        score = accuracy(model, test_images, test_labels)
        print(f"{name}: {100 * score:.1f} % in {time.time() - started:.0f} s")
        if score < least:
            raise SystemExit(f"{name} reached only {100 * score:.1f} %, {100 * least:.0f} % was asked")
        size = export(model, folder / f"{name}.onnx")
        how = f"{epochs} epochs of AdamW, seed {SEED}"
        (folder / f"{name}.md").write_text(card(name, text, model, score, size, how))


if __name__ == "__main__":
    main()
