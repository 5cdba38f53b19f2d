"""A CNN's operators for ONNX's reference implementation, in NumPy: right at every opset, and fast."""

from onnx.reference.op_run import OpRun

from export.compute.operators.activation import Sigmoid
from export.compute.operators.conv import Conv, ConvTranspose
from export.compute.operators.deform import DeformConv
from export.compute.operators.grid import GridSample
from export.compute.operators.loop import Loop
from export.compute.operators.norm import LRN, BatchNormalization, LpNormalization
from export.compute.operators.pool import AveragePool, GlobalMaxPool, MaxPool
from export.compute.operators.recurrent import GRU, LSTM, RNN
from export.compute.operators.softmax import Hardmax, LogSoftmax, Softmax

OPERATORS: list[type[OpRun]] = [
    *(AveragePool, BatchNormalization, Conv, ConvTranspose, DeformConv, GlobalMaxPool, LRN, Loop, MaxPool),
    *(GridSample, GRU, Hardmax, LogSoftmax, LpNormalization, LSTM, RNN, Sigmoid, Softmax),
]
