"""The durable trail: segments of JSON lines, chained by hash, one set per gateway worker.

Reading order: `line` and `chain` (what a line is, what a sequence of them is), `files` (where they lie), `writer` with
`syncer` and `committer`, `recovery` (what a crash left), `cursor` and `reader` (what is new), `verify` (is it all
there), `retention` with `notes` and `deletion` (what may go, and how).
"""
