"""A temperature folded into the last layer: the checkpoint's answers with a confidence that can be believed.

In: a checkpoint and T.  Out: a checkpoint whose logits are those divided by T; proved on its held-out rows.
"""

from dataclasses import replace

import torch

from training.data import normalize
from training.evaluation.answering import EvaluationError
from training.nets.weights import find_head
from training.runs.checkpoint import Checkpoint

# Float32 sums in another order: a few ulp of the largest logit.
TOLERANCE = 1e-4


def with_temperature(checkpoint: Checkpoint, temperature: float) -> Checkpoint:
    """Weight and bias of the head divided by T.

    Raises EvaluationError where that is not all that decides the logits' size, as with a BatchNorm after it.
    """
    before = checkpoint.build_net()
    head = find_head(before)
    scaled = {
        name: value / temperature if name in (f"{head}.weight", f"{head}.bias") else value
        for name, value in checkpoint.state_dict.items()
    }
    after = replace(checkpoint, state_dict=scaled, resume=None)
    rows = normalize(checkpoint.held_out_pixels, checkpoint.data)
    with torch.no_grad():
        expected, found = before(rows) / temperature, after.build_net()(rows)
    if (found - expected).abs().max() > TOLERANCE * max(1.0, expected.abs().max().item()):
        raise EvaluationError(
            f"the net's last layer {head} does not alone scale its logits, so it cannot take a temperature"
        )
    return after
