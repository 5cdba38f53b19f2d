"""The 33 conformance vectors of the Open Inference Protocol v2, asked of any server; see README.md."""
