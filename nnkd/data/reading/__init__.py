"""The one door through which images and masks come in, and go out again.

`readers` are nnU-Net's readers of a dataset's files, `nifti` looks at headers, `geometry` says where voxels lie.
"""
