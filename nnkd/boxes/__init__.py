"""Segmenting what lies in boxes, without torch.

`cases` and `images` read npz, pictures and volumes; `pictures` and `pixels` make 8 bits of them; `model` is an exported
box model, `propagation` goes through the slices with it, `runs` takes one image after another all the way. `export`,
`int8`, `calibration` and `cache` make such models; only `export` and `model.TeacherBoxModel` load torch, when they are
called.
"""
