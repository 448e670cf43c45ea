"""The one door through which images and masks come in, and go out again.

`formats` reads any file as an `image`: voxels, a checked `geometry`, and what was done to get there; and writes one.
`nifti` looks at headers, `itk` at what ITK makes of them, `pictures` at colours. `readers` are nnU-Net's readers of a
dataset's files, behind this door.
"""
