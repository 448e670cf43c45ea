"""Label maps against references.

`comparisons` reads both, `metrics` and `surfaces` measure, `intervals` says how sure that is, `scores` joins cases to
tables. `ranking`, `raters` and `uncertainty` are parts of an evaluation that have a section of their own, as `groups`
is; `summary` and `report` write everything down, `plots` draws.
"""
