"""DICOM objects as images, and label maps as DICOM-SEG.

`series` finds what a folder holds, from one file's header after another (`objects`), `volumes` makes an image of a
series and brings label maps back to its slices (`frames` and `pixels` of its files; `stacks` and `shears` are its
geometry, `uptake` is PET's). `segmentation_writer` writes DICOM-SEG with the meanings of `codes`, `segmentations` reads
it, `planes` says where its frames lie. `sources` is the private file of what a case was made of.
"""
