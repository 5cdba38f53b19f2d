"""The fold zoo: how many BatchNorms does each tool really remove, how exactly, and what does it gain?

In: a list of nets (`nets.py`).  Out: `fold_zoo.csv` and `fold_zoo.md` in benchmarks/results.

    python -m benchmarks.fold_zoo --quick           # a dozen nets, a few minutes
    python -m benchmarks.fold_zoo                   # all of them; takes hours, resumes where it was stopped
    python -m benchmarks.fold_zoo --redo-ours       # only our fold, where its code has changed since then

It needs packages that nothing else here needs. torchvision and timm are installed without their requirements
(torchvision has no build for torch's CPU wheel, so its C++ operators are missing; `build.py` handles that):

    pip install -c constraints.txt --no-deps timm==1.0.31 torchvision==0.29.2
    pip install -c constraints.txt onnxoptimizer==0.4.2 onnxsim==0.8.1 onnxslim==0.1.98 openvino==2026.4.1

Tools that are not installed and nets that cannot be built are listed as such.
"""
