"""What a plugin is: what its classes must be, how it is found, how its options are read, how it is checked.

Plugin authors read `teachers`, `aggregators`, `samplers`, `schedulers` and `students`, one interface each, then
`networks` (what is counted and exported) and `options` (what --set means). `hooks` and `registry` find what is
installed; `validation` is `nnKD_plugins validate`. Nothing here imports torch or nnunetv2.
"""
