"""What lies on disk before and between trainings, and how it is read.

Begin with `dataset` (a raw dataset) and `predictions` (a prediction folder and its manifest). Images come in through
`reading`; `intensities` and `scan_values` look at their values; `participants`, `groups`, `splits` and `split_record`
are people and folds; `boxes` are what a user gives as prompts; `plans` and `recipes` say how a student is trained.
`dicom_cases` are DICOM series that a command is given, `archives` unpacks. `overlays` draws, `phantoms` makes the
quickstart's cohort.
"""
