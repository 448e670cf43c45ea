"""Networks as such: what they cost, how they are written down, what computes them without torch.

`costs`, `papers` and `latency` count and time for nnKD_profile, `profiles` and `profile_lines` are its rows and its
table; `students` and `stock_models` build what is counted. `files` and `student_export` write networks as ONNX and
OpenVINO, `runtimes` computes these.
"""
