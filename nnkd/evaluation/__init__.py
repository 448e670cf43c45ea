"""Label maps against references.

`inputs` finds them, `comparisons` reads both, `metrics` and `surfaces` measure, `intervals` says how sure that is,
`scores` joins cases to tables. `part` is what may stand beside them: `ranking`, `raters`, `uncertainty` and `groups`
are parts. `summary` and `report` write everything down, `cells` prints numbers, `plots` draws.
"""
