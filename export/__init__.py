"""A checkpoint, a net or an ONNX file in; a proved bundle, its BatchNorms folded away, out."""
