"""Asking teachers, case by case, here or elsewhere, and what teachers derive from.

`jobs` is what is asked for, `runs` asks one teacher for all cases: `prompts` and `box_sources` are what it is told,
`answers` makes one label map of what it says, `claims` keeps two processes off one case, `sharing` and `ray_cluster`
spread the work, `dry_run` and `previews` look ahead. Bases for plugins: `slice_teacher` with `embeddings`, `external`,
`foreign`.
"""
