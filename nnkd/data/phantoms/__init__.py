"""Made-up people and scans of their bodies, for the quickstart and for tests: no person's data.

`cohort` draws people and writes a raw dataset of them; `_body` paints one body's organs.
Nothing here is medical.
"""
