"""Networks as such: what they cost, how they are written down, what computes them without torch.

`costs`, `papers` and `latency` are nnKD_profile; `students` and `stock_models` build what is counted. `files` and
`student_export` write networks as ONNX and OpenVINO, `runtimes` computes these.
"""
