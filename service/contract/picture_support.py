"""Whether a model takes pictures, and what its classes are called.

In: a manifest.  Out: the reason why it does not, or None; labels.
"""

from service.contract.manifest import Manifest


def unsupported_reason(manifest: Manifest) -> str | None:
    """Why a model with this manifest cannot take pictures, as the end of a sentence; None if it can."""
    preprocessing = manifest.preprocessing
    if preprocessing is None:
        return "its manifest has no preprocessing"
    row_shape = preprocessing.row_shape
    tensor = manifest.inputs[0]
    takes_rows = tensor.dtype.startswith("float") or tensor.dtype == "uint8"
    if len(manifest.inputs) != 1 or tensor.row_shape != row_shape or not takes_rows:
        return f"its input is not a float or uint8 tensor of shape {list(row_shape)}"
    if len(manifest.outputs[0].row_shape) != 1 or not manifest.outputs[0].dtype.startswith("float"):
        return "its first output is not a list of logits"
    if manifest.labels is not None and len(manifest.labels) != manifest.outputs[0].row_shape[0]:
        return f"it has {len(manifest.labels)} labels for {manifest.outputs[0].row_shape[0]} logits"
    return None


def labels_of(manifest: Manifest) -> list[str]:
    """A label for each class of the first output: the manifest's, or the class's number from 0."""
    return manifest.labels or [str(index) for index in range(manifest.outputs[0].row_shape[0])]
