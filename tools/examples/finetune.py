"""Fine-tunes a cut model in a loop of one's own, which `onnx-mdp finetune` is a longer form of.

    python tools/examples/finetune.py pruned.onnx model.onnx images.npy tuned.onnx

Needs PyTorch: pip install 'onnx-mdp[torch]'. `images.npy` holds inputs of the model, samples along the first axis.
"""

import sys

import numpy as np
import onnx
import torch
from torch.nn.functional import kl_div, log_softmax

from onnx_mdp.torch import to_module, write_back


def main(pruned: str, dense: str, images: str, tuned: str, epochs: int = 10, batch: int = 32) -> None:
    """Train the pruned model's logits towards the dense model's, and write it with its new weights."""
    torch.manual_seed(0)
    model = onnx.load(pruned)
    student, teacher = to_module(model), to_module(onnx.load(dense))
    inputs = torch.from_numpy(np.load(images))
    steps = epochs * (len(inputs) // batch)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=steps)
    student.train()
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(inputs)).split(batch)[: len(inputs) // batch]:
            with torch.no_grad():
                (target,) = teacher(inputs[chosen]).values()
            (found,) = student(inputs[chosen]).values()
            loss = kl_div(log_softmax(found, 1), log_softmax(target, 1), log_target=True, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: KL {total * batch / len(inputs):.3g}")
    onnx.save(write_back(model, student.eval()), tuned)


if __name__ == "__main__":
    main(*sys.argv[1:])
