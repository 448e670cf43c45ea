"""The second pass of each step, over an auxiliary dataset.

`trainer` is what nnUNetTrainerKD inherits for it; `turns` asks the scheduler and goes on after a stop; `loader` makes
batches of all auxiliaries, `gradients` compares them with the target's, `checks` refuses early.
"""
