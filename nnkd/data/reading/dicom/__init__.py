"""DICOM objects as images, and label maps as DICOM-SEG.

`series` finds what a folder holds, `volumes` makes an image of a series and brings label maps back to its slices,
`segmentations` reads and writes DICOM-SEG. Behind `volumes`: `frames` (headers), `pixels` (decoding, slopes, padding),
`stacks` (order and grid), `shears` (tilted series), `uptake` (SUV).
"""
