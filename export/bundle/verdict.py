"""The report's first sentences: what was found, for people who read nothing else.

In: a proof, the account of the fold, what the net knows of itself.  Out: sentences.
"""

from typing import Any

from export.proof.prove import Proof
from service.contract.account import FoldAccount


def verdict(fold: FoldAccount, proof: Proof | str, num_rows: int, num_pictures: int = 0) -> list[str]:
    """Sentences on what became of the BatchNorms, and on how near the answers are, or why that is unknown."""
    if isinstance(proof, str):
        return [f"Unproved: nothing shows that its answers are the unfolded net's. {proof}.", _of_fold(fold)]
    worst, output = max((share, name) for name, share in proof.shares.items())
    pictures = f"Its {num_pictures} golden pictures become the rows that they must become, within 1/255."
    return [
        _of_fold(fold),
        f"Its answers to {num_rows} golden rows are the unfolded net's: the worst difference, of '{output}', "
        f"is {_fraction(worst)} of what is allowed.",
        *([pictures] if num_pictures else []),
    ]


def _of_fold(fold: FoldAccount) -> str:
    if not fold.found:
        return _of_chains(fold) or (
            "The net has no BatchNorm: nothing was folded, and the graph is served as it is."
        )
    gone = f"{fold.folded} of {fold.found} BatchNorms are folded away"
    parts = [gone if fold.found > 1 else f"{'The' if fold.folded else 'No'} BatchNorm is folded away"]
    if fold.reduced:
        parts.append(f"{fold.reduced} became an Add each")
    if fold.declined:
        parts.append(f"{fold.declined} stayed, for the reasons below")
    return ", ".join(parts) + "." + (f" {chains}" if (chains := _of_chains(fold)) else "")


def _of_chains(fold: FoldAccount) -> str:
    """On what is written as Mul and Add; nothing where there is none."""
    found = len(fold.per_channel)
    if not found:
        return ""
    return (
        f"{fold.per_channel_folded} of {found} per-channel Mul/Add, which act as BatchNorms, are folded away."
    )


def _fraction(share: float) -> str:
    if share == 0:
        return "none"
    return f"1/{round(1 / share)}" if share < 2 / 3 else f"{100 * share:.0f} %"


def accuracies(training: dict[str, Any]) -> dict[str, float]:
    """What the source says of its accuracy, by readable names."""
    names = {
        "held_out_accuracy": "right of the held-out rows",
        "train_accuracy": "right of the training rows",
    }
    return {text: training[name] for name, text in names.items() if isinstance(training.get(name), float)}
