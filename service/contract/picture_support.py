"""Whether a model takes pictures, and what its classes are called.

In: a manifest.  Out: the reason why it does not, or None; labels.
"""

from typing import Any

from service.contract.manifest import Manifest


def unsupported_reason(manifest: Manifest) -> str | None:
    """Why a model with this manifest cannot take pictures, as the end of a sentence; None if it can."""
    preprocessing = manifest.preprocessing
    if preprocessing is None:
        return "its manifest has no preprocessing"
    row_shape = preprocessing.row_shape
    tensor = manifest.inputs[0]
    takes_rows = tensor.dtype.startswith("float") or tensor.dtype == "uint8"
    if len(manifest.inputs) != 1 or tensor.sizes_of(row_shape) is None or not takes_rows:
        return f"its input is not a float or uint8 tensor of shape {list(row_shape)}"
    output = manifest.outputs[0]
    if task_of(manifest) in ("classification", "multi-label"):
        if len(output.row_shape) != 1 or not output.dtype.startswith("float"):
            return "its first output is not a list of logits"
        if manifest.labels is not None and len(manifest.labels) != output.row_shape[0]:
            return f"it has {len(manifest.labels)} labels for {output.row_shape[0]} logits"
    return None


def task_of(manifest: Manifest) -> str:
    """What the first output is: as declared, else classes if its row is a list, else a map."""
    if manifest.postprocessing is not None:
        return manifest.postprocessing.task
    return "classification" if len(manifest.outputs[0].row_shape) == 1 else "spatial"


def activation_of(manifest: Manifest, *, ends_in_softmax: bool) -> str:
    """What the first output still needs; `ends_in_softmax` tells it where no manifest did."""
    if manifest.postprocessing is not None:
        return manifest.postprocessing.activation
    return "none" if ends_in_softmax or task_of(manifest) != "classification" else "softmax"


def picture_facts(manifest: Manifest) -> dict[str, Any]:
    """What clients and people may want to know: sizes, labels, preprocessing, ranges, accuracy …"""
    training = manifest.provenance.training
    return {
        **({} if manifest.sizes is None else {"sizes": _ranges(manifest)}),
        "labels": manifest.labels,
        "preprocessing": None
        if manifest.preprocessing is None
        else manifest.preprocessing.complete().model_dump(mode="json"),
        "postprocessing": None
        if manifest.postprocessing is None
        else manifest.postprocessing.model_dump(mode="json"),
        "ranges": {
            spec.name: {"minimum": spec.minimum, "maximum": spec.maximum, "layout": spec.layout}
            for spec in manifest.inputs
        },
        "golden_pictures": None
        if manifest.golden_pictures is None
        else manifest.golden_pictures.model_dump(mode="json"),
        "accuracy": {name: value for name, value in training.items() if "accuracy" in name},
    }


def _ranges(manifest: Manifest) -> dict[str, Any]:
    return {name: held.model_dump() for name, held in manifest.input_sizes.items()}


def labels_of(manifest: Manifest) -> list[str]:
    """A label for each class of the first output: the manifest's, or the class's number from 0."""
    return manifest.labels or [str(index) for index in range(manifest.outputs[0].row_shape[0])]
