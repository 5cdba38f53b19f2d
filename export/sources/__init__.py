"""Where a bundle starts: a checkpoint, a PyTorch net or an ONNX file, opened as one kind of thing."""
