"""The one door through which images and masks come in, and go out again.

`formats` reads any file as an `image`: voxels, a checked `geometry`, and what was done to get there; and writes one.
`memory` refuses what does not fit. `nifti` looks at headers, `itk` at what ITK makes of them; `pictures` and `tifs`
read pictures by what `colours` mean. `readers` are nnU-Net's readers of a dataset's files, behind this door;
`raw_pictures` knows which of these they would get wrong. `npz` reads arrays, `scan_values` tells values that no scan
has; `dicom` is a room of its own.
"""
