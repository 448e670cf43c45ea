"""Weights files: what is in them, where they are kept, what their licences bind.

`checkpoints` reads a trained model of nnU-Net or nnkd without running what a pickle may hold, `published` what others
publish; both load by `torch_files` and `numpy_state`. `store` and `downloads` keep files by name and hash; `pretrained`
is -pretrained_weights; `licences` is what a student inherits. `architectures` says what plans may name, `pickles` reads
nnU-Net's without running them.
"""
