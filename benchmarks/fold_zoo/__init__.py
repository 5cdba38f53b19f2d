"""The fold zoo: how many BatchNorms does each tool really remove, how exactly, and what is it worth?

In: a list of nets (`nets.py`).  Out: `fold_zoo.csv` and `fold_zoo.md` in benchmarks/results.

    python -m benchmarks.fold_zoo --quick           # a dozen nets, a few minutes
    python -m benchmarks.fold_zoo                   # all of them, hours; goes on where it was stopped
    python -m benchmarks.fold_zoo --redo-ours       # only our fold, where export/ has changed since

It needs packages that nothing else of ours needs; torchvision's and timm's own requirements are left out
(torchvision has no build for torch's CPU wheel, so its C++ operators are missing: `build.py` lives with it):

    pip install -c constraints.txt --no-deps timm==1.0.31 torchvision==0.29.2
    pip install -c constraints.txt onnxoptimizer==0.4.2 onnxsim==0.8.1 onnxslim==0.1.98 openvino==2026.4.1

A tool that is not installed is listed as such, and so is a net that cannot be built.
"""
