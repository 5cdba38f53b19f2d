"""int8: ours with and without data, beside ONNX Runtime's defaults, NNCF and OpenVINO, on the same rows.

In: nets (`nets.py`).  Out: a table on stdout, for `benchmarks/results/int8.md`.

    python -m benchmarks.int8 --only resnet20,resnet18              # nets that are drawn: no files needed
    python -m training --data fashion-mnist --net mobilenet --out trained/mobilenet --epochs 2
    python -m benchmarks.int8 --trained trained --peers PYTHON      # every trained/NAME/checkpoint.pt too

`--pictures FOLDER` are rows for nets that take pictures and bring none; `--files a.onnx,b.onnx` adds files.
`--peers` is the interpreter of an environment with nncf, openvino, onnx and onnxruntime: they are not
installed beside foldserve. What is missing is skipped, which stderr says.
"""
