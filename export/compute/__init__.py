"""What a graph computes: in float32 by ONNX Runtime, in float64 by ONNX's reference implementation."""
