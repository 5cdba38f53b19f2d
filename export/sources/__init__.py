"""What can be exported: a checkpoint, `module:factory` or an ONNX file, opened as a `Source`."""
