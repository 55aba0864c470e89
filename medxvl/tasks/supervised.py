"""Gauges of difficulty: what the labels themselves teach, on the pixels alone and through the same vision encoder.

Neither is zero-shot. A linear classifier on 32 x 32 pixels says how far brightness at fixed places goes; the encoder trained
on the labels says what could be reached.
"""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from medxvl import vision

STUDIES = 2000  # the gauge is defined on this many training studies


def linear_gauge(train_images, train_labels, images) -> np.ndarray:
    """Logistic regression on 32 x 32 pixels, one a finding; scores (n, F) of `images` (n, S, S) uint8.

    Learns from the first 2,000 training studies; labels (m, F) with NaN left out.
    """
    x, given = (_small(i) for i in (train_images[:STUDIES], images))
    scores = np.zeros((len(given), train_labels.shape[1]))
    for k, y in enumerate(train_labels[:STUDIES].T):
        known = ~np.isnan(y)
        if len(np.unique(y[known])) == 2:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=300))
            scores[:, k] = model.fit(x[known], y[known]).decision_function(given)
    return scores


def _small(images) -> np.ndarray:
    x = torch.as_tensor(images)[:, None].float()
    return F.interpolate(x, size=(32, 32), mode="area").flatten(1).numpy()


def upper_bound(preset, train_images, train_labels, images, device, progress) -> np.ndarray:
    """The vision encoder of `preset` from random weights, trained on the labels; scores (n, F) of `images`.

    Images (., S, S) uint8, labels (m, F) with NaN left out of the loss. `preset.supervised_epochs` passes, the last weights
    are used: nothing is chosen on the test split.
    """
    torch.manual_seed(preset.seed)
    generator = torch.Generator().manual_seed(preset.seed)
    encoder = vision.build(preset).to(device)
    head = nn.Linear(preset.vision_width, train_labels.shape[1]).to(device)
    parameters = [*encoder.parameters(), *head.parameters()]
    batch = min(preset.contrast_batch, len(train_images))
    steps = preset.supervised_epochs * (len(train_images) // batch)
    optimizer = torch.optim.AdamW(parameters, lr=preset.contrast_rate, weight_decay=preset.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, preset.contrast_rate, total_steps=max(2, steps))
    pixels, targets = torch.as_tensor(train_images), torch.as_tensor(train_labels, dtype=torch.float32)
    bar = progress(steps, "supervised upper bound")
    for _ in range(preset.supervised_epochs):
        encoder.train()
        order = torch.randperm(len(pixels), generator=generator)
        for picked in order[: len(order) // batch * batch].split(batch):
            logits = head(
                encoder.forward_features(vision.augmented_view(pixels[picked], preset, generator).to(device))[:, 0]
            )
            y = targets[picked].to(device)
            known = ~torch.isnan(y)
            loss = F.binary_cross_entropy_with_logits(logits[known], y[known])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update(1)
    bar.close()
    encoder.eval()
    with torch.no_grad():
        parts = torch.as_tensor(images).split(256)
        return torch.cat(
            [head(encoder.forward_features(vision.plain_view(p, preset).to(device))[:, 0]).cpu() for p in parts]
        ).numpy()
