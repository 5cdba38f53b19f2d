"""A folded graph in int8: ranges, ONNX Runtime's own quantizer, what it costs, and a gate."""
